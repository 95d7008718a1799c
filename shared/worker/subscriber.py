"""Pulls tasks for a worker's free slots, and stops without losing work.

It serves the tiers by weight and keeps the leases of its messages alive. Why not StreamingPull or push:
docs/cursed-knowledge.md.
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

# A pull waits this long for a first message. Its slots are reserved meanwhile, so asking the wrong tier wastes them for
# no longer than this.
PULL_SECONDS: Final = 2.0
# Beside busy tiers an idle tier is asked briefly and only now and then: a busy tier could use the slot.
PROBE_SECONDS: Final = 0.5
PROBE_EVERY_SECONDS: Final = 5.0
# Pub/Sub does not answer a short pull of an empty subscription at all (googleapis/python-pubsub, issues 9 and 343). It
# answers one of a full subscription sometimes too late, or with an empty list. One pull without messages therefore
# proves nothing. Twelve in a row take 24 s while nothing else is waiting, and a minute beside busy tiers.
PULLS_IN_VAIN: Final = 12
# A spent daily quota lasts longer than this, but is retried all the same: operators may have bought more meanwhile.
MAX_HALT_SECONDS: Final = 600.0
# After a pull that failed (the queue did not answer) the tier is left alone for this long.
PULL_FAILED_SECONDS: Final = 5.0
# After the grace period, cancelled jobs have this long to release their claims. Then all deliveries are nacked
# together.
RELEASE_SECONDS: Final = 1.5
GIVE_BACK_SECONDS: Final = 0.5


class TierSchedule:
    """How many messages to ask each tier for, with a memory of what each has had.

    Tiers with work waiting share the free slots by weight over time. A tier whose last pull was empty is asked for one
    message only; while others are busy, only every few seconds and briefly. An idle tier therefore costs almost
    nothing, and its new work is still noticed soon.
    """

    def __init__(self) -> None:
        self._served = dict.fromkeys(Tier, 0.0)  # messages over weight: the busy tier with the lowest value is next
        self._empty_since = dict.fromkeys(Tier, -PROBE_EVERY_SECONDS)
        self._empty = dict.fromkeys(Tier, True)
        self._in_vain = dict.fromkeys(Tier, 0)  # empty pulls in a row

    def allot(self, free: int, asked: Collection[Tier], now: float) -> dict[Tier, int]:
        """Return how many messages to ask for, by tier, at most `free` in all.

        `asked` are tiers with a pull in progress; they are left out.
        """
        busy = [tier for tier in Tier if tier not in asked and not self._empty[tier]]
        others_busy = any(not empty for empty in self._empty.values())
        idle = [
            tier
            for tier in Tier
            if tier not in asked
            and self._empty[tier]
            and (not others_busy or now - self._empty_since[tier] >= PROBE_EVERY_SECONDS)
        ]
        idle.sort(key=lambda tier: self._empty_since[tier])  # so that each has its turn when there are few slots
        asks = dict.fromkeys(idle[:free], 1)
        served = dict(self._served)
        for _ in range(free - len(asks) if busy else 0):
            tier = min(busy, key=lambda tier: (served[tier], -TIER_WEIGHTS[tier]))
            served[tier] += 1 / TIER_WEIGHTS[tier]
            asks[tier] = asks.get(tier, 0) + 1
        return asks

    def wait_seconds(self, tier: Tier) -> float:
        """Return how long a pull of the tier waits for a first message."""
        others_busy = any(not empty for other, empty in self._empty.items() if other is not tier)
        return PROBE_SECONDS if self._empty[tier] and others_busy else PULL_SECONDS

    def pulled(self, tier: Tier, count: int, now: float) -> None:
        """Record how many messages a pull returned.

        A tier that was idle joins at the level of the busy ones: it is not compensated for the time it had no work.
        """
        if count == 0:
            self._empty[tier], self._empty_since[tier] = True, now
            return
        if self._empty[tier]:
            busy = [self._served[other] for other in Tier if not self._empty[other]]
            self._served[tier] = max(self._served[tier], min(busy, default=0.0))
        self._empty[tier] = False
        self._served[tier] += count / TIER_WEIGHTS[tier]

    def shows_empty(self, tier: Tier, count: int) -> bool:
        """Record a pull that was answered or ran out of time; return whether the tier now counts as empty.

        True after `PULLS_IN_VAIN` empty pulls in a row; then the count starts again.
        """
        self._in_vain[tier] = 0 if count else self._in_vain[tier] + 1
        if self._in_vain[tier] < PULLS_IN_VAIN:
            return False
        self._in_vain[tier] = 0
        return True

    def next_probe_seconds(self, asked: Collection[Tier], now: float) -> float | None:
        """Return the seconds until an idle tier may be asked beside busy ones; None when no tier waits for that."""
        waits = [self._empty_since[tier] + PROBE_EVERY_SECONDS - now for tier in Tier
                 if self._empty[tier] and tier not in asked]  # fmt: skip
        return max(0.05, min(waits)) if waits else None


class Subscriber:
    """Runs `handle` for every task, at most `limits.in_flight` at once. A worker has one."""

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
        self._kept: dict[str, set[str]] = {topic_of(tier): set() for tier in Tier}  # ack ids of leases to keep alive
        self._halted_until = 0.0
        self._fault = ""  # the fault in our configuration that caused the last halt
        self._halting = set[asyncio.Task[None]]()  # jobs that wait for a halt to end
        self._trial = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """Number of images being staged now."""
        return len(self._jobs) - len(self._parked)

    @property
    def waiting(self) -> int:
        """Number of images that wait without a slot.

        They wait for their photo's host, or for this worker to be old enough to try a suspect alone.
        """
        return len(self._parked)

    @property
    def halted(self) -> str:
        """The fault in our configuration for which nothing is pulled at present; empty while it works."""
        return self._fault if self._halting or self._clock.monotonic() < self._halted_until else ""

    async def run(self, stop: asyncio.Event, grace_seconds: float) -> None:
        """Work until `stop` is set, then finish what it can within `grace_seconds` and release the rest."""
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
        """Start a pull for each tier that the schedule allots slots to; none during a halt."""
        if self._halting or self._clock.monotonic() < self._halted_until:
            return
        asked = {tier for tier, _ in self._pulls.values()}
        for tier, ask in self._schedule.allot(self._room, asked, self._clock.monotonic()).items():
            self._slots.take(ask)
            pull = asyncio.create_task(self._pull(tier, ask))
            self._pulls[pull] = (tier, ask)

    @property
    def _room(self) -> int:
        """How many messages may be asked for; none once `max_waiting` jobs wait without a slot."""
        return self._slots.free if len(self._parked) < self._limits.max_waiting else 0

    def _probe_pause(self, now: float) -> float | None:
        """Return the seconds until an idle tier may be asked.

        None while no slot is free or pulling is halted: then only a finished job changes anything.
        """
        if self._halting:
            return None
        asked = {tier for tier, _ in self._pulls.values()}
        return self._schedule.next_probe_seconds(asked, now) if self._room > 0 else None

    async def _pull(self, tier: Tier, max_messages: int) -> list[Delivery] | None:
        """Return the messages; None when the queue could not be asked, which says nothing about its content."""
        try:
            return await self._queue.pull(topic_of(tier), max_messages, self._schedule.wait_seconds(tier))
        except ConfigurationError as error:
            self._halt(Disposition(Action.HALT, reason=f"pull of {topic_of(tier)}: {error}"))
        except RuumError as error:
            log.warning("pull of %s failed: %s", tier.value, error)
        await self._clock.sleep(PULL_FAILED_SECONDS)
        return None

    def _take_pulled(self) -> None:
        """Start a job for each message that the finished pulls returned."""
        for pull in [pull for pull in self._pulls if pull.done()]:
            tier, ask = self._pulls.pop(pull)
            deliveries = pull.result()
            self._slots.leave(ask - len(deliveries or ()))
            self._schedule.pulled(tier, len(deliveries or ()), self._clock.monotonic())
            empty = deliveries is not None and self._schedule.shows_empty(tier, len(deliveries))
            # Jobs that wait here without a slot are not forgotten: reconcile must not republish their images.
            if empty and topic_of(tier) not in self._parked.values():
                self._on_empty(tier)
            for delivery in deliveries or ():
                subscription = topic_of(tier)
                self._kept[subscription].add(delivery.ack_id)
                job = asyncio.create_task(self._job(subscription, delivery))
                self._jobs[job] = (subscription, delivery.ack_id)
                job.add_done_callback(self._job_done)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        """Free the job's slot and stop keeping its lease."""
        subscription, ack_id = self._jobs.pop(job)
        self._slots.leave()
        self._kept[subscription].discard(ack_id)
        self._wake.set()
        if not job.cancelled() and job.exception() is not None:
            # The delivery's lease runs out and it is redelivered. Nothing is lost, but this should not happen.
            log.error("a delivery could not be answered", exc_info=job.exception())

    async def _job(self, subscription: str, delivery: Delivery) -> None:
        """Handle one delivery, through halts and waits, until it can be answered."""
        disposition = await self._handle(delivery)
        while disposition.action in (Action.HALT, Action.WAIT) and not self._stopping:
            if disposition.action is Action.HALT:
                disposition = await self._after_halt(disposition, delivery)
            else:
                disposition = await self._after_wait(disposition, subscription, delivery)
        if disposition.action is Action.HALT:
            self._halt(disposition)  # report it even while stopping: the next worker will meet the same fault
        self._kept[subscription].discard(delivery.ack_id)
        ids = [delivery.ack_id]
        if disposition.action is Action.ACK:
            await self._queue.ack(subscription, ids)
        elif disposition.action is not Action.LET_GO:  # a NACK; or a WAIT or HALT while this worker stops
            await self._queue.nack(subscription, ids)
        elif disposition.seconds:
            await self._queue.extend(subscription, ids, disposition.seconds)

    async def _after_halt(self, halt: Disposition, delivery: Delivery) -> Disposition:
        """Handle the delivery again once the halt is over, keeping its lease: a wait must not spend deliveries.

        One delivery tries on behalf of all. A fault that lasts is then met once a pause, not once for each waiting
        image.
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
        """Handle the delivery again when its wait is over. It holds no slot meanwhile, but keeps its lease."""
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
        """Stop pulling for a while: our configuration is at fault, or the daily quota is spent.

        Logged once per pause, not once per image.
        """
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
        """Extend every held lease after a quarter of its duration, so that two failed rounds do no harm."""
        while True:
            await self._clock.sleep(self._limits.lease_seconds / 4)
            for subscription, ack_ids in self._kept.items():
                if ack_ids:
                    try:
                        await self._queue.extend(subscription, sorted(ack_ids), self._limits.lease_seconds)
                    except RuumError as error:
                        log.warning("leases of %s not extended: %s", subscription, error)

    async def _wind_up(self, grace_seconds: float) -> None:
        """Stop within the grace period.

        Messages from pulls in progress are given back. Jobs may finish until the deadline; the rest are cancelled and
        given back.
        """
        self._stopping = True
        deadline = self._clock.monotonic() + grace_seconds
        if self._pulls:
            done, hanging = await asyncio.wait(self._pulls, timeout=min(PULL_SECONDS + 1, grace_seconds))
            for pull in hanging:
                pull.cancel()
            for pull in done:
                await self._give_back(topic_of(self._pulls[pull][0]), [d.ack_id for d in pull.result() or ()])
            self._pulls.clear()
        left = {job: self._jobs[job] for job in (*self._halting, *self._parked)}  # they only wait and cannot finish
        working = [job for job in self._jobs if job not in left]
        if working:
            await asyncio.wait(working, timeout=max(0.0, deadline - self._clock.monotonic()))
        left |= self._jobs
        for job in left:
            job.cancel()
        # They release their claims. A hanging database must not delay the end: leases run out by themselves.
        if left:
            await asyncio.wait(left, timeout=RELEASE_SECONDS)
        back: dict[str, list[str]] = {}
        for job, (subscription, ack_id) in left.items():
            if not job.done() or job.cancelled():  # a job that finished has answered its delivery itself
                back.setdefault(subscription, []).append(ack_id)
        await asyncio.gather(*(self._give_back(subscription, ids) for subscription, ids in back.items()))

    async def _give_back(self, subscription: str, ack_ids: list[str]) -> None:
        """Nack deliveries.

        If that fails or takes too long, their leases run out and they are redelivered all the same.
        """
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
    """Feed a subscription's messages to a handler until cancelled. Returning acks a message, raising nacks it.

    Stands in for Eventarc on the embedded backend. Up to `max_messages` are handled one after another and acked
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
        except RuumError as error:  # the queue does not answer: unanswered messages are redelivered
            log.warning("consuming %s: %s", subscription, error)
            await clock.sleep(PULL_FAILED_SECONDS)


async def _handled(handle: Callable[[Delivery], Awaitable[None]], delivery: Delivery, subscription: str) -> bool:
    """Return whether the handler accepted the message. A bug in it is logged, and must not stop the loop."""
    try:
        await handle(delivery)
    except RuumError:
        return False
    except Exception:
        log.exception("bug while handling a message of %s", subscription)
        return False
    return True
