"""The worker's hands: pulls for exactly the free slots, serves the tiers by weight, keeps leases, stops without losing.

Why not StreamingPull or push: docs/cursed-knowledge.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final, cast

from shared.decisions.fairness import TIER_WEIGHTS
from shared.errors import ConfigurationError, RuumError
from shared.model import Tier
from shared.ports import Clock, Delivery, Queue
from shared.settings import WorkerLimits
from shared.telemetry import LogEvent, tell
from shared.topology import topic_of
from shared.worker.disposition import Action, Disposition
from shared.worker.slots import Slots

log = logging.getLogger(__name__)

# A pull waits this long for a first message. Its slots are reserved meanwhile, so a wrong guess costs no longer.
PULL_SECONDS: Final = 2.0
# Beside busy tiers an idle one is asked shortly, and not all the time: its slot is wanted elsewhere.
PROBE_SECONDS: Final = 0.5
PROBE_EVERY_SECONDS: Final = 5.0
# Pub/Sub does not answer a short pull of an empty subscription at all (googleapis/python-pubsub, issues 9 and 343), and
# one of a full subscription sometimes too late, or with an empty list. So one pull that brings nothing shows nothing.
# Twelve in a row take 24 s while nothing else is waiting, and a minute beside busy tiers.
PULLS_IN_VAIN: Final = 12
# What is known to last longer, a spent day, is tried again now and then all the same: operators may have bought more.
MAX_HALT_SECONDS: Final = 600.0
# After a pull that failed (the queue did not answer) the tier is left alone for this long.
PULL_FAILED_SECONDS: Final = 5.0
# At the end, after the grace: what is cancelled releases its claim, then all deliveries go back at once.
RELEASE_SECONDS: Final = 1.5
GIVE_BACK_SECONDS: Final = 0.5


class TierSchedule:
    """How many messages to ask each tier for, with a memory of what each has had.

    Tiers with work waiting share the free slots by weight over time. A tier whose last pull found nothing is asked for
    one message only, and while others are busy only every few seconds and shortly: an idle tier costs next to nothing,
    and work that comes to it is soon noticed.
    """

    def __init__(self) -> None:
        self._served = dict.fromkeys(Tier, 0.0)  # work had, by weight: the busy tier with the least is next
        self._empty_since = dict.fromkeys(Tier, -PROBE_EVERY_SECONDS)
        self._empty = dict.fromkeys(Tier, True)
        self._in_vain = dict.fromkeys(Tier, 0)  # pulls in a row that brought nothing

    def allot(self, free: int, asked: Collection[Tier], now: float) -> dict[Tier, int]:
        """Messages to ask for, by tier: at most `free` in all. `asked` are the tiers that are being asked already."""
        busy = [tier for tier in Tier if tier not in asked and not self._empty[tier]]
        others_busy = any(not empty for empty in self._empty.values())
        idle = [
            tier
            for tier in Tier
            if tier not in asked
            and self._empty[tier]
            and (not others_busy or now - self._empty_since[tier] >= PROBE_EVERY_SECONDS)
        ]
        idle.sort(key=lambda tier: self._empty_since[tier])  # with few slots each has its turn
        asks = dict.fromkeys(idle[:free], 1)
        served = dict(self._served)
        for _ in range(free - len(asks) if busy else 0):
            tier = min(busy, key=lambda tier: (served[tier], -TIER_WEIGHTS[tier]))
            served[tier] += 1 / TIER_WEIGHTS[tier]
            asks[tier] = asks.get(tier, 0) + 1
        return asks

    def wait_seconds(self, tier: Tier) -> float:
        """How long a pull of the tier waits for a first message."""
        others_busy = any(not empty for other, empty in self._empty.items() if other is not tier)
        return PROBE_SECONDS if self._empty[tier] and others_busy else PULL_SECONDS

    def pulled(self, tier: Tier, count: int, now: float) -> None:
        """Note what a pull brought. A tier that was idle joins where the busy ones are: nothing is paid back to it."""
        if count == 0:
            self._empty[tier], self._empty_since[tier] = True, now
            return
        if self._empty[tier]:
            busy = [self._served[other] for other in Tier if not self._empty[other]]
            self._served[tier] = max(self._served[tier], min(busy, default=0.0))
        self._empty[tier] = False
        self._served[tier] += count / TIER_WEIGHTS[tier]

    def shows_empty(self, tier: Tier, count: int) -> bool:
        """Note what an answered pull brought, or one that ran out of time; return whether the tier seems empty now.

        After `PULLS_IN_VAIN` in a row it does, once: the next look begins anew.
        """
        self._in_vain[tier] = 0 if count else self._in_vain[tier] + 1
        if self._in_vain[tier] < PULLS_IN_VAIN:
            return False
        self._in_vain[tier] = 0
        return True

    def next_probe_seconds(self, asked: Collection[Tier], now: float) -> float | None:
        """Until an idle tier may be asked again beside busy ones; None when none of them waits to be."""
        waits = [self._empty_since[tier] + PROBE_EVERY_SECONDS - now for tier in Tier
                 if self._empty[tier] and tier not in asked]  # fmt: skip
        return max(0.05, min(waits)) if waits else None


class Subscriber:
    """Runs `handle` for every task, at most `limits.in_flight` at once."""

    def __init__(
        self,
        queue: Queue,
        handle: Callable[[Delivery], Awaitable[Disposition]],
        clock: Clock,
        limits: WorkerLimits,
        on_halt: Callable[[str], None] = lambda reason: None,
        on_empty: Callable[[Tier], None] = lambda tier: None,
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._clock = clock
        self._limits = limits
        self._on_halt = on_halt
        self._on_empty = on_empty
        self._pulls: dict[asyncio.Task[list[Delivery] | None], tuple[Tier, int]] = {}
        self._schedule = TierSchedule()
        self._slots = Slots(limits.in_flight)
        self._jobs: dict[asyncio.Task[None], tuple[str, str]] = {}  # to (subscription, ack id)
        self._parked: dict[asyncio.Task[None], str] = {}  # jobs that wait without a slot, to their subscription
        self._kept: dict[str, set[str]] = {topic_of(tier): set() for tier in Tier}  # leases to be kept alive
        self._halted_until = 0.0
        self._fault = ""  # of our configuration, for which it halted last
        self._halting = set[asyncio.Task[None]]()  # jobs that wait for a halt to end
        self._trial = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """Images being staged now."""
        return len(self._jobs) - len(self._parked)

    @property
    def waiting(self) -> int:
        """Images that wait for their photo's host, or for a worker that has lived long enough to try them alone."""
        return len(self._parked)

    @property
    def halted(self) -> str:
        """The fault of our configuration for which nothing is pulled at present; empty while it works."""
        return self._fault if self._halting or self._clock.monotonic() < self._halted_until else ""

    async def run(self, stop: asyncio.Event, grace_seconds: float) -> None:
        """Work until `stop` is set; then finish what can be finished in `grace_seconds` and release the rest."""
        keeper = asyncio.create_task(self._keep_leases())
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._start_pulls()
                self._wake.clear()
                woken = asyncio.create_task(self._wake.wait())
                now = self._clock.monotonic()
                pause = self._halted_until - now if self._halted_until > now else self._probe_pause(now)
                waited = {stopped, woken, *self._pulls}
                await asyncio.wait(waited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                self._take_pulled()
        finally:
            stopped.cancel()
            await self._wind_up(grace_seconds)
            keeper.cancel()

    def _start_pulls(self) -> None:
        if self._halting or self._clock.monotonic() < self._halted_until:
            return
        asked = {tier for tier, _ in self._pulls.values()}
        for tier, ask in self._schedule.allot(self._room, asked, self._clock.monotonic()).items():
            self._slots.take(ask)
            pull = asyncio.create_task(self._pull(tier, ask))
            self._pulls[pull] = (tier, ask)

    @property
    def _room(self) -> int:
        """How many messages may be asked for."""
        return self._slots.free if len(self._parked) < self._limits.max_waiting else 0

    def _probe_pause(self, now: float) -> float | None:
        """Until an idle tier may be asked; None while no slot is free, or halted: then only a job changes anything."""
        if self._halting:
            return None
        asked = {tier for tier, _ in self._pulls.values()}
        return self._schedule.next_probe_seconds(asked, now) if self._room > 0 else None

    async def _pull(self, tier: Tier, max_messages: int) -> list[Delivery] | None:
        """What came; None when the queue could not be asked, which says nothing of what waits in it."""
        try:
            return await self._queue.pull(topic_of(tier), max_messages, self._schedule.wait_seconds(tier))
        except ConfigurationError as error:
            self._halt(Disposition(Action.HALT, reason=f"pull of {topic_of(tier)}: {error}"))
        except RuumError as error:
            log.warning("pull of %s failed: %s", tier.value, error)
        await self._clock.sleep(PULL_FAILED_SECONDS)
        return None

    def _take_pulled(self) -> None:
        for pull in [pull for pull in self._pulls if pull.done()]:
            tier, ask = self._pulls.pop(pull)
            deliveries = pull.result()
            self._slots.leave(ask - len(deliveries or ()))
            self._schedule.pulled(tier, len(deliveries or ()), self._clock.monotonic())
            empty = deliveries is not None and self._schedule.shows_empty(tier, len(deliveries))
            # What waits here without a slot is not forgotten: reconcile must not publish it again.
            if empty and topic_of(tier) not in self._parked.values():
                self._on_empty(tier)
            for delivery in deliveries or ():
                subscription = topic_of(tier)
                self._kept[subscription].add(delivery.ack_id)
                job = asyncio.create_task(self._job(subscription, delivery))
                self._jobs[job] = (subscription, delivery.ack_id)
                job.add_done_callback(self._job_done)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        subscription, ack_id = self._jobs.pop(job)
        self._slots.leave()
        self._kept[subscription].discard(ack_id)
        self._wake.set()
        if not job.cancelled() and job.exception() is not None:
            # The delivery's lease runs out and it comes again: nothing is lost, but it should not have happened.
            log.error("a delivery could not be answered", exc_info=job.exception())

    async def _job(self, subscription: str, delivery: Delivery) -> None:
        disposition = await self._handle(delivery)
        while disposition.action in (Action.HALT, Action.WAIT) and not self._stopping:
            if disposition.action is Action.HALT:
                disposition = await self._after_halt(disposition, delivery)
            else:
                disposition = await self._after_wait(disposition, subscription, delivery)
        if disposition.action is Action.HALT:
            self._halt(disposition)  # said even now, for the next worker will meet it as well
        self._kept[subscription].discard(delivery.ack_id)
        ids = [delivery.ack_id]
        if disposition.action is Action.ACK:
            await self._queue.ack(subscription, ids)
        elif disposition.action is not Action.LET_GO:  # or it would have to wait, and this worker stops
            await self._queue.nack(subscription, ids)
        elif disposition.seconds:
            await self._queue.extend(subscription, ids, disposition.seconds)

    async def _after_halt(self, halt: Disposition, delivery: Delivery) -> Disposition:
        """Handle the delivery again once the halt is over; its lease is kept, for a wait must not spend deliveries.

        One delivery tries for all: a fault that lasts is met once a pause, not once a pause and image.
        """
        self._halt(halt)
        job = cast("asyncio.Task[None]", asyncio.current_task())
        self._halting.add(job)
        try:
            async with self._trial:
                while (left := self._halted_until - self._clock.monotonic()) > 0:
                    await self._clock.sleep(left)
                    disposition = await self._handle(delivery)
                    if disposition.action is not Action.HALT:
                        self._halted_until = 0.0
                        return disposition
                    self._halt(disposition)
        finally:
            self._halting.discard(job)
            self._wake.set()
        return await self._handle(delivery)

    async def _after_wait(self, disposition: Disposition, subscription: str, delivery: Delivery) -> Disposition:
        """Handle the delivery again when what it waits for has come. It holds no slot meanwhile; its lease is kept."""
        job = cast("asyncio.Task[None]", asyncio.current_task())
        self._parked[job] = subscription
        self._wake.set()
        try:
            async with self._slots.outside():
                if disposition.wait is not None:
                    await disposition.wait()
        finally:
            del self._parked[job]
        return disposition if self._stopping else await self._handle(delivery)

    def _halt(self, disposition: Disposition) -> None:
        """Our own fault, or a spent day: stop pulling for a while. Said once per pause, not once per image."""
        now = self._clock.monotonic()
        if now >= self._halted_until:
            if disposition.fault:
                tell(log, LogEvent.CONFIGURATION_FAULT, level=logging.ERROR, reason=disposition.reason)
            else:
                log.warning("pulling stops: %s", disposition.reason)
            self._on_halt(disposition.reason)
        self._fault = disposition.reason if disposition.fault else ""
        seconds = max(self._limits.halt_seconds, min(disposition.seconds, MAX_HALT_SECONDS))
        self._halted_until = max(self._halted_until, now + seconds)

    async def _keep_leases(self) -> None:
        """Extend every lease in hand at a quarter of its time, so that two failed rounds do no harm."""
        while True:
            await self._clock.sleep(self._limits.lease_seconds / 4)
            for subscription, ack_ids in self._kept.items():
                if ack_ids:
                    try:
                        await self._queue.extend(subscription, sorted(ack_ids), self._limits.lease_seconds)
                    except RuumError as error:
                        log.warning("leases of %s not extended: %s", subscription, error)

    async def _wind_up(self, grace_seconds: float) -> None:
        """Everything within the grace: pulls under way are given back, jobs finish or are cancelled and given back."""
        self._stopping = True
        deadline = self._clock.monotonic() + grace_seconds
        if self._pulls:
            done, hanging = await asyncio.wait(self._pulls, timeout=min(PULL_SECONDS + 1, grace_seconds))
            for pull in hanging:
                pull.cancel()
            for pull in done:
                await self._give_back(topic_of(self._pulls[pull][0]), [d.ack_id for d in pull.result() or ()])
            self._pulls.clear()
        left = {job: self._jobs[job] for job in (*self._halting, *self._parked)}  # nothing of theirs can be finished
        working = [job for job in self._jobs if job not in left]
        if working:
            await asyncio.wait(working, timeout=max(0.0, deadline - self._clock.monotonic()))
        left |= self._jobs
        for job in left:
            job.cancel()
        if left:  # they release their claims; a database that hangs must not hold up the end: leases run out
            await asyncio.wait(left, timeout=RELEASE_SECONDS)
        back: dict[str, list[str]] = {}
        for job, (subscription, ack_id) in left.items():
            if not job.done() or job.cancelled():  # one that ended otherwise has answered its delivery itself
                back.setdefault(subscription, []).append(ack_id)
        await asyncio.gather(*(self._give_back(subscription, ids) for subscription, ids in back.items()))

    async def _give_back(self, subscription: str, ack_ids: list[str]) -> None:
        try:
            if ack_ids:
                async with asyncio.timeout(GIVE_BACK_SECONDS):
                    await self._queue.nack(subscription, ack_ids)
        except (RuumError, TimeoutError) as error:
            log.warning("deliveries of %s not given back, their leases will end: %s", subscription, error)


async def consume(
    queue: Queue,
    subscription: str,
    handle: Callable[[Delivery], Awaitable[None]],
    *,
    max_messages: int,
    clock: Clock,
) -> None:
    """Feed a subscription's messages to a handler until cancelled: returning acks, raising nacks, as for a function.

    Stands in for Eventarc on the embedded backend. Up to `most` messages are handled one after another and acked
    together.
    """
    while True:
        try:
            deliveries = await queue.pull(subscription, max_messages, PULL_SECONDS)
            done = [delivery.ack_id for delivery in deliveries if await _handled(handle, delivery, subscription)]
            again = [delivery.ack_id for delivery in deliveries if delivery.ack_id not in done]
            if done:
                await queue.ack(subscription, done)
            if again:
                await queue.nack(subscription, again)
        except RuumError as error:  # the queue is away: what was not answered comes again
            log.warning("consuming %s: %s", subscription, error)
            await clock.sleep(PULL_FAILED_SECONDS)


async def _handled(handle: Callable[[Delivery], Awaitable[None]], delivery: Delivery, subscription: str) -> bool:
    try:
        await handle(delivery)
    except RuumError:
        return False
    except Exception:
        log.exception("bug while handling a message of %s", subscription)
        return False
    return True
