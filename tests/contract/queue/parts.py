"""Short words for what the queue's suite does with messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.ports import Delivery, Message
from shared.topology import EVENTS_SUBSCRIPTION, EVENTS_TOPIC
from tests.contract.backends import Backend, take

TASKS: Final = "stage-image-normal"  # topic and subscription; dead-letters
KEPT, KEPT_TOPIC = EVENTS_SUBSCRIPTION, EVENTS_TOPIC  # a subscription that never gives up


def numbered(count: int, start: int = 0) -> list[Message]:
    return [Message(b'{"n":%d}' % number, {"n": str(number)}) for number in range(start, start + count)]


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return sorted(delivery.data for delivery in deliveries)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.ack_id for delivery in deliveries]


async def one(backend: Backend, subscription: str = TASKS, within_seconds: float = 10.0) -> Delivery:
    (delivery,) = await take(backend, subscription, 1, within_seconds)
    return delivery


async def nothing(backend: Backend, subscription: str, seconds: float) -> None:
    assert await backend.queue.pull(subscription, 10, seconds) == []


def return_seconds(backend: Backend, subscription: str) -> float:
    """A lease that has ended comes again within this time: at once, or after a first backoff as Pub/Sub does."""
    return backend.policy(subscription).retry_minimum_seconds * 1.5 + 5
