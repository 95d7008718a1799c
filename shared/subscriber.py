"""The worker's hands: pulls for exactly the free slots, serves the tiers by weight, keeps leases, stops without losing.

Why not StreamingPull or push: docs/cursed-knowledge.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from shared.errors import RuumError
from shared.model import Tier
from shared.ports import Clock, Delivery, Queue
from shared.settings import WorkerLimits
from shared.stage_image import Action, Disposition
from shared.topology import topic_of

log = logging.getLogger(__name__)

# When all tiers have work waiting, express gets 6 slots for 3 of normal and 1 of economy.
TIER_WEIGHTS: Final[Mapping[Tier, int]] = {Tier.EXPRESS: 6, Tier.NORMAL: 3, Tier.ECONOMY: 1}
# A pull waits this long for a first message. Its slots are reserved meanwhile, so a wrong guess costs no longer.
PULL_SECONDS: Final = 2.0
# After a pull that failed (the queue did not answer) the tier is left alone for this long.
PULL_FAILED_SECONDS: Final = 5.0


def allot(free: int, empty: Mapping[Tier, bool], weights: Mapping[Tier, int] = TIER_WEIGHTS) -> dict[Tier, int]:
    """How many messages to ask each tier for: `free` slots, shared among the tiers not being asked already.

    `empty` names those tiers, and whether the last pull of each found nothing. A tier that was empty is asked for one
    message only, so that an idle tier reserves no more than one slot; the rest goes by weight. Tiers are served in
    order of weight; one that gets nothing is left out.
    """
    order = sorted(empty, key=lambda tier: (empty[tier], -weights[tier]))
    asks: dict[Tier, int] = {}
    left = free
    busy_weight = sum(weights[tier] for tier in order if not empty[tier])
    for place, tier in enumerate(order):
        if left <= 0:
            break
        if empty[tier]:
            ask = 1
        else:
            kept_back = min(left - 1, len(order) - place - 1)  # one slot for each tier that comes after
            ask = max(1, min(left - kept_back, (left - kept_back) * weights[tier] // busy_weight))
            busy_weight -= weights[tier]
            if busy_weight == 0:
                ask = left - kept_back
        asks[tier] = ask
        left -= ask
    return asks


class Subscriber:
    """Runs `handle` for every task, at most `limits.in_flight` at once."""

    def __init__(
        self,
        queue: Queue,
        handle: Callable[[Delivery], Awaitable[Disposition]],
        clock: Clock,
        limits: WorkerLimits,
        on_halt: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._clock = clock
        self._limits = limits
        self._on_halt = on_halt
        self._pulls: dict[asyncio.Task[list[Delivery]], tuple[Tier, int]] = {}
        self._empty = dict.fromkeys(Tier, True)
        self._jobs: dict[asyncio.Task[None], tuple[str, str]] = {}  # to (subscription, ack id)
        self._kept: dict[str, set[str]] = {topic_of(tier): set() for tier in Tier}  # leases to be kept alive
        self._halted_until = 0.0
        self._wake = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """Images being staged now."""
        return len(self._jobs)

    async def run(self, stop: asyncio.Event, grace_seconds: float) -> None:
        """Work until `stop` is set; then finish what can be finished in `grace_seconds` and release the rest."""
        keeper = asyncio.create_task(self._keep_leases())
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._start_pulls()
                self._wake.clear()
                woken = asyncio.create_task(self._wake.wait())
                pause = max(0.0, self._halted_until - self._clock.monotonic())
                waited = {stopped, woken, *self._pulls}
                await asyncio.wait(waited, timeout=pause or None, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                self._take_pulled()
        finally:
            stopped.cancel()
            await self._wind_up(grace_seconds)
            keeper.cancel()

    def _start_pulls(self) -> None:
        if self._clock.monotonic() < self._halted_until:
            return
        asked = {tier for tier, _ in self._pulls.values()}
        free = self._limits.in_flight - len(self._jobs) - sum(ask for _, ask in self._pulls.values())
        for tier, ask in allot(free, {tier: self._empty[tier] for tier in Tier if tier not in asked}).items():
            pull = asyncio.create_task(self._pull(tier, ask))
            self._pulls[pull] = (tier, ask)

    async def _pull(self, tier: Tier, most: int) -> list[Delivery]:
        try:
            return await self._queue.pull(topic_of(tier), most, PULL_SECONDS)
        except RuumError as error:
            log.warning("pull of %s failed: %s", tier.value, error)
            await self._clock.sleep(PULL_FAILED_SECONDS)
            return []

    def _take_pulled(self) -> None:
        for pull in [pull for pull in self._pulls if pull.done()]:
            tier, _ = self._pulls.pop(pull)
            deliveries = pull.result()
            self._empty[tier] = not deliveries
            for delivery in deliveries:
                subscription = topic_of(tier)
                self._kept[subscription].add(delivery.ack_id)
                job = asyncio.create_task(self._job(subscription, delivery))
                self._jobs[job] = (subscription, delivery.ack_id)
                job.add_done_callback(self._job_done)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        subscription, ack_id = self._jobs.pop(job)
        self._kept[subscription].discard(ack_id)
        self._wake.set()
        if not job.cancelled() and job.exception() is not None:
            # The delivery's lease runs out and it comes again: nothing is lost, but it should not have happened.
            log.error("a delivery could not be answered", exc_info=job.exception())

    async def _job(self, subscription: str, delivery: Delivery) -> None:
        disposition = await self._handle(delivery)
        self._kept[subscription].discard(delivery.ack_id)
        ids = [delivery.ack_id]
        if disposition.action is Action.ACK:
            await self._queue.ack(subscription, ids)
        elif disposition.action is Action.NACK:
            await self._queue.nack(subscription, ids)
        elif disposition.action is Action.HALT:
            self._halt(disposition.reason)
        elif disposition.seconds:
            await self._queue.extend(subscription, ids, disposition.seconds)

    def _halt(self, reason: str) -> None:
        """Our own fault: stop pulling for a while. Said once per pause, not once per image."""
        now = self._clock.monotonic()
        if now >= self._halted_until:
            log.error("configuration fault, pulling stops for %s s: %s", self._limits.halt_seconds, reason)
            self._on_halt(reason)
        self._halted_until = now + self._limits.halt_seconds

    async def _keep_leases(self) -> None:
        """Extend every lease in hand at a third of its time, so that two failed rounds do no harm."""
        while True:
            await self._clock.sleep(self._limits.lease_seconds / 3)
            for subscription, ack_ids in self._kept.items():
                if ack_ids:
                    try:
                        await self._queue.extend(subscription, sorted(ack_ids), self._limits.lease_seconds)
                    except RuumError as error:
                        log.warning("leases of %s not extended: %s", subscription, error)

    async def _wind_up(self, grace_seconds: float) -> None:
        """Pulls under way are given back; jobs get the grace, then are cancelled and their deliveries given back."""
        if self._pulls:
            await asyncio.wait(self._pulls)
            for pull, (tier, _) in self._pulls.items():
                ids = [delivery.ack_id for delivery in pull.result()]
                if ids:
                    await self._queue.nack(topic_of(tier), ids)
            self._pulls.clear()
        if self._jobs:
            await asyncio.wait(list(self._jobs), timeout=grace_seconds)
        left = dict(self._jobs)
        for job in left:
            job.cancel()
        if left:
            await asyncio.wait(left)
            for subscription, ack_id in left.values():
                await self._queue.nack(subscription, [ack_id])


async def consume(
    queue: Queue,
    subscription: str,
    handle: Callable[[Delivery], Awaitable[None]],
    *,
    most: int,
) -> None:
    """Feed a subscription's messages to a handler until cancelled: returning acks, raising nacks, as for a function.

    Stands in for Eventarc on the embedded backend. Up to `most` messages are handled one after another and acked
    together.
    """
    while True:
        deliveries = await queue.pull(subscription, most, PULL_SECONDS)
        done: list[str] = []
        again: list[str] = []
        for delivery in deliveries:
            try:
                await handle(delivery)
            except Exception as error:
                if not isinstance(error, RuumError):
                    log.exception("bug while handling a message of %s", subscription)
                again.append(delivery.ack_id)
            else:
                done.append(delivery.ack_id)
        if done:
            await queue.ack(subscription, done)
        if again:
            await queue.nack(subscription, again)
