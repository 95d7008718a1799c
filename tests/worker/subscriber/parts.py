"""A subscriber at work on virtual time, with a handler that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from shared.model import Tier
from shared.ports import Delivery, Message
from shared.settings import WorkerLimits
from shared.topology import topic_of
from shared.worker.disposition import ACK, Disposition
from shared.worker.subscriber import Subscriber
from tests.harness.world import World

LIMITS = WorkerLimits(in_flight=10)
LEASE = LIMITS.lease_seconds
NORMAL = topic_of(Tier.NORMAL)
Handler = Callable[[Delivery], Awaitable[Disposition]]


class Crew:
    """A subscriber at work, and what was seen of it."""

    def __init__(
        self, world: World, handle: Handler, limits: WorkerLimits = LIMITS, queue: Any = None, grace: float = 5.0
    ) -> None:
        self.world = world
        self.stop = asyncio.Event()
        self.reports: list[str] = []
        self.begun: list[tuple[float, Tier]] = []
        self.inside = 0
        self.max_inside = 0
        self.max_in_hand = 0
        self._handle = handle
        self.subscriber = Subscriber(queue or world.queue, self._watched, world.clock, limits, self.reports.append)
        self.running = asyncio.create_task(self.subscriber.run(self.stop, grace))

    async def _watched(self, delivery: Delivery) -> Disposition:
        self.inside += 1
        self.max_inside = max(self.max_inside, self.inside)
        self.max_in_hand = max(self.max_in_hand, self.subscriber.in_hand)
        self.begun.append((self.world.clock.monotonic(), Tier(delivery.data.decode().partition(" ")[0])))
        try:
            return await self._handle(delivery)
        finally:
            self.inside -= 1

    async def end(self) -> float:
        """Stop it; how long that took."""
        started = self.world.clock.monotonic()
        self.stop.set()
        await self.running
        return self.world.clock.monotonic() - started


async def fill(world: World, tier: Tier = Tier.NORMAL, count: int = 1) -> None:
    messages = [Message(f"{tier.value} {number}".encode()) for number in range(count)]
    await world.queue.publish(topic_of(tier), messages)


def takes(world: World, seconds: float, jitter: float = 0.0, answer: Disposition = ACK) -> Handler:
    """A handler that works so long."""

    async def handle(delivery: Delivery) -> Disposition:
        await world.clock.sleep(seconds + world.clock.random.uniform(0, jitter))
        return answer

    return handle


async def waiting(world: World, tier: Tier = Tier.NORMAL) -> int:
    return await world.queue.waiting(topic_of(tier))
