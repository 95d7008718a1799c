"""The Queue on Pub/Sub, with unary calls only.

StreamingPull hands out everything it can get, whatever flow control is set, and nacks what it holds when it closes.
Unary pull asks for exactly the free slots (docs/cursed-knowledge.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from google.api_core import exceptions
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient
from google.pubsub_v1.types import PubsubMessage

from shared.adapters.google.errors import CALL_SECONDS, retried
from shared.ports import Clock, Delivery, Message

T = TypeVar("T")

PUBLISH_MESSAGES: Final = 1000  # in one call: Pub/Sub's limit
PUBLISH_BYTES: Final = 8_000_000  # in one call: below Pub/Sub's 10 MB with room for attributes
PUBLISH_AT_ONCE: Final = 4  # calls in progress: flow control for a large ingest
ACK_IDS: Final = 1000  # in one call: their 200 bytes each stay below the 512 KB limit
MAX_LEASE_SECONDS: Final = 600
# A pull shorter than this would end before an empty subscription's first answer comes back.
SHORTEST_PULL_SECONDS: Final = 0.5


class PubSubQueue:
    """The `shared.ports.Queue` on Pub/Sub.

    Topics and subscriptions are those of `project` whose names begin with `prefix`.
    """

    def __init__(
        self,
        publisher: PublisherAsyncClient,
        subscriber: SubscriberAsyncClient,
        project: str,
        clock: Clock,
        prefix: str = "",
    ) -> None:
        self._publisher = publisher
        self._subscriber = subscriber
        self._project = project
        self._prefix = prefix
        self._clock = clock
        self._publishing = asyncio.Semaphore(PUBLISH_AT_ONCE)

    def _topic(self, name: str) -> str:
        return f"projects/{self._project}/topics/{self._prefix}{name}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self._project}/subscriptions/{self._prefix}{name}"

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        await asyncio.gather(*(self._publish(topic, chunk) for chunk in chunks(messages)))

    async def _publish(self, topic: str, chunk: list[Message]) -> None:
        wire = [PubsubMessage(data=message.data, attributes=dict(message.attributes)) for message in chunk]
        path = self._topic(topic)
        async with self._publishing:
            await retried(
                f"publish to {topic}",
                lambda: self._publisher.publish(topic=path, messages=wire, retry=None, timeout=CALL_SECONDS),
                self._clock,
            )

    async def pull(self, subscription: str, max_messages: int, wait_seconds: float) -> list[Delivery]:
        path, wait = self._subscription(subscription), max(wait_seconds, SHORTEST_PULL_SECONDS)

        async def call() -> list[Delivery]:
            try:
                answer = await self._subscriber.pull(
                    subscription=path, max_messages=max_messages, retry=None, timeout=wait
                )
            except exceptions.DeadlineExceeded:
                return []  # an empty subscription, or a slow answer: the call blocks until our own deadline
            return [
                Delivery(
                    ack_id=received.ack_id,
                    message_id=received.message.message_id,
                    data=received.message.data,
                    attributes=dict(received.message.attributes),
                    attempt=received.delivery_attempt or 1,
                    published_at=received.message.publish_time.timestamp(),  # type: ignore[attr-defined]  # a datetime
                )
                for received in answer.received_messages
            ]

        return await retried(f"pull {subscription}", call, self._clock)

    async def extend(self, subscription: str, ack_ids: Sequence[str], seconds: float) -> None:
        path, whole = self._subscription(subscription), min(MAX_LEASE_SECONDS, round(seconds))
        for ids in sliced(ack_ids, ACK_IDS):
            call = partial(
                self._subscriber.modify_ack_deadline,
                subscription=path,
                ack_ids=ids,
                ack_deadline_seconds=whole,
                retry=None,
                timeout=CALL_SECONDS,
            )
            await retried(f"extend {subscription}", call, self._clock)

    async def ack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        path = self._subscription(subscription)
        for ids in sliced(ack_ids, ACK_IDS):
            call = partial(
                self._subscriber.acknowledge, subscription=path, ack_ids=ids, retry=None, timeout=CALL_SECONDS
            )
            await retried(f"ack {subscription}", call, self._clock)

    async def nack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        await self.extend(subscription, ack_ids, 0)


def sliced(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield `items` in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def chunks(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the messages in lists that fit into one publish call."""
    chunk: list[Message] = []
    size = 0
    for message in messages:
        weight = len(message.data) + sum(len(name) + len(value) for name, value in message.attributes.items())
        if chunk and (len(chunk) >= PUBLISH_MESSAGES or size + weight > PUBLISH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += weight
    if chunk:
        yield chunk
