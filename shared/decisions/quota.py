"""A vendor model's quota as one shared document, and every decision about it: pure, with the time as an argument.

    limit         rolling minute, concurrent slots, or both
    slow mode     a 429 halves the rate once per epoch; it recovers step by step
    breaker       consecutive 5xx and time-outs open the circuit; exactly one probe in the fleet closes it
    tiers         express before normal before economy by weight (start-time fair queueing)

Times are the server's, in seconds since the epoch. One decision reserves several calls, a few seconds ahead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from shared.decisions.fairness import finish_of, next_tier, start_of
from shared.model import Document, Record, Tier
from shared.settings import Limit

WINDOW_SECONDS: Final = 60.0
# A grant may reach the vendor later than it was given, so that two arrive closer together than they were started: with
# one second no rolling minute exceeded 60 in the model; GCRA with burst 6 costs 10 %, with burst 1 it reached 61.
MARGIN_SECONDS: Final = 1.0
HORIZON_SECONDS: Final = 5.0  # a worker that dies loses at most five seconds of the fleet's quota
MAX_LEAD_SECONDS: Final = 2.0  # starts are in order: everybody's next one is after that of a worker with slow replies
WAITER_SECONDS: Final = 10.0  # a worker that asks no more waits no more; waiters ask every few seconds
# Above this many a minute single times are counted in whole seconds: 61 entries instead of thousands.
MAX_SINGLE_GRANTS: Final = 600
# A document takes a few commits a second. Above this many workers each asks less often, and is given more each time, so
# that all of them together write twice a second. Few workers ask as soon as they have something to ask for.
FREE_WORKERS: Final = 4
WRITE_SECONDS: Final = 0.5
ASKED_SECONDS: Final = 30.0  # who has not asked for so long asks no more
ASKED_AGAIN_SECONDS: Final = 5.0  # and no sooner is it noted anew
SLOT_SECONDS: Final = 180.0  # a slot's lease: above the longest call's deadline, so that only a dead worker's runs out
LEFT_SECONDS: Final = 1.0  # after leaving turns to other workers, or finding no slot, ask again
LATE_RESET_SECONDS: Final = 900.0  # nobody spends a day's quota in its first quarter of an hour
LATE_RESET_PAUSE_SECONDS: Final = 120.0  # then it is asked again: one refused call each time
RESET_ZONE: Final = ZoneInfo("America/Los_Angeles")

SLOWEST: Final = 1 / 64  # of the limit: slow mode never stops altogether
# Without a 429 the rate rises a step. A vendor that halves its limit for ten minutes of a thousand images costs 0.2 %
# beyond what it withholds, 1.7 % at worst of 18 runs at six moments; steps of 15 s by a quarter cost up to 4.4 %.
RECOVERY_SECONDS: Final = 10.0
RECOVERY_FACTOR: Final = 1.4  # back from half to full in three steps: half a minute
DEFAULT_PAUSE_SECONDS: Final = 10.0  # after a 429 that names none (Vertex)
RETRY_AFTER_MARGIN_SECONDS: Final = 1.0  # vendors truncate: "7s" may be 7.9 s

FAILURES_TO_OPEN: Final = 5  # consecutive, fleet-wide: one is chance, five in a row at 1 % each are not
FIRST_OPEN_SECONDS: Final = 30.0
MAX_OPEN_SECONDS: Final = 300.0
PROBE_SECONDS: Final = 150.0  # above the longest call's deadline (120 s): a probe whose worker died is given anew


class Circuit(StrEnum):
    """Closed: calls go through. Open: none does. Half open: exactly one, the probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Slot(Document, frozen=True, kw_only=True):
    """A concurrent call's right, until it is given back or runs out."""

    id: str
    until: float


class Waiter(Document, frozen=True, kw_only=True):
    """How many calls of a tier a worker waits for."""

    count: int
    until: float


class Ledger(Record, frozen=True, kw_only=True):
    """The state of one vendor model's quota.

    `grants` are (start, calls) pairs in order of start. `asked` is when each worker last asked. `served` are the fair
    queue's finishing times by tier. `limit` is set by operators and goes before the settings' own.
    """

    id: str
    grants: tuple[tuple[float, int], ...] = ()
    slots: tuple[Slot, ...] = ()
    waiters: dict[str, Waiter] = {}  # noqa: RUF012 - msgspec copies an empty default
    asked: dict[str, float] = {}  # noqa: RUF012
    served: dict[str, float] = {}  # noqa: RUF012
    virtual: float = 0.0
    epoch: int = 0
    rate: float = 1.0  # share of the limit in use: below 1 is slow mode
    rate_changed_at: float = 0.0
    not_before: float = 0.0
    day_spent_until: float = 0.0
    circuit: Circuit = Circuit.CLOSED
    failures: int = 0
    answered_at: float = 0.0  # when the vendor last answered, as far as workers have told
    open_until: float = 0.0
    closed_at: float = 0.0
    opened_times: int = 0
    probe: str | None = None
    probe_until: float = 0.0
    limit: Limit | None = None


L = TypeVar("L", bound=Ledger)


class Grant(msgspec.Struct, frozen=True):
    """The right to one call: from `start` on, in `epoch`; its slot (concurrent limits) and whether it is the probe.

    `begin_by` is on the asking worker's monotonic clock: a call that begins later may reach the vendor so late that it
    counts in the next window, with calls that were granted for that one. It is then given back, and asked for again.
    """

    id: str
    tier: Tier
    start: float
    epoch: int
    slot: bool = False
    probe: bool = False
    begin_by: float = math.inf


class QuotaRequest(msgspec.Struct, frozen=True):
    """What a worker wants: calls by tier, each with an id; and what it gives back, and heard, since it last asked.

    `answered_seconds_ago` is the age of the last answer, if `succeeded`: a worker may tell of it long afterwards.
    `lead_seconds`: how long the reply will take to reach the worker. Rights that begin before it does would be lost.
    """

    worker: str
    wanted: Mapping[Tier, tuple[str, ...]]
    done_slots: frozenset[str] = frozenset()
    succeeded: bool = False
    answered_seconds_ago: float = 0.0
    probe_succeeded: str | None = None
    probe_unused: str | None = None
    lead_seconds: float = 0.0


class Reserved(msgspec.Struct, frozen=True):
    """The grants given, and when to ask again for the rest (infinity when nothing is left to ask for).

    `day_spent`: nothing will start until the vendor's day is over. `spacing_seconds`: how long this worker is to leave
    the ledger alone now, for the sake of the others; 0 where there are few.
    """

    grants: tuple[Grant, ...]
    ask_again_at: float
    day_spent: bool = False
    spacing_seconds: float = 0.0


# --- reserving


def reserve(ledger: L, request: QuotaRequest, limit: Limit, now: float) -> tuple[L, Reserved]:
    """Give what may start within the horizon to those whose turn it is, and note who waits for the rest.

    The turns are dealt out to all waiting tiers of the fleet; this worker takes those that fall to tiers it waits in,
    the others stay for the workers they fall to.
    """
    ledger = _asked(ledger, request.worker, now)
    after, reserved = _reserve(ledger, request, ledger.limit or limit, now)
    return after, msgspec.structs.replace(reserved, spacing_seconds=spacing_seconds(after))


def spacing_seconds(ledger: Ledger) -> float:
    """How long a worker is to wait between two asks, for two writes a second of all together."""
    workers = len(ledger.asked)
    return workers * WRITE_SECONDS if workers > FREE_WORKERS else 0.0


def _asked(ledger: L, worker: str, now: float) -> L:
    """Note that the worker asks, and forget those who have stopped."""
    if now - ledger.asked.get(worker, -math.inf) < ASKED_AGAIN_SECONDS:
        return ledger
    asked = {name: at for name, at in ledger.asked.items() if now - at < ASKED_SECONDS}
    return msgspec.structs.replace(ledger, asked=asked | {worker: now})


def _reserve(ledger: L, request: QuotaRequest, limit: Limit, now: float) -> tuple[L, Reserved]:
    ledger = recovered(heard(ledger, request, now), now)
    queues = {tier: list(ids) for tier, ids in request.wanted.items() if ids}
    blocked_until = _blocked_until(ledger, now)
    if ledger.day_spent_until > now:
        return _noted(ledger, request.worker, {}, now), Reserved((), ledger.day_spent_until, day_spent=True)
    if blocked_until is not None:
        ledger, grants = _probe(ledger, queues, limit, now)
        again = blocked_until if not grants else now + PROBE_SECONDS
        return _noted(ledger, request.worker, queues, now), Reserved(
            grants, again if any(queues.values()) else math.inf
        )
    window = _Window(ledger, limit, now, min(request.lead_seconds, MAX_LEAD_SECONDS))
    elsewhere = _waiting_elsewhere(ledger, request.worker, now)
    wanted = sum(len(ids) for ids in queues.values()) + sum(elsewhere.values())
    ledger, mine, left_to_others = _turns(ledger, queues, elsewhere, window.count(wanted))
    given: list[Grant] = []
    for tier in mine:
        slot = limit.concurrent is not None
        given.append(Grant(queues[tier].pop(0), tier, window.take(), ledger.epoch, slot=slot))
    slots = tuple(Slot(id=g.id, until=g.start + SLOT_SECONDS) for g in given if g.slot)
    ledger = msgspec.structs.replace(ledger, grants=window.grants, slots=ledger.slots + slots)
    again = min(now + LEFT_SECONDS if left_to_others else math.inf, window.opens_at())
    return _noted(ledger, request.worker, queues, now), Reserved(
        tuple(given), again if any(queues.values()) else math.inf
    )


class _Window:
    """What the limit lets start within the horizon. Starts are handed out in order."""

    def __init__(self, ledger: Ledger, limit: Limit, now: float, lead_seconds: float = 0.0) -> None:
        self._now = now
        self._limit = limit
        self._per_window = calls_per_window(limit, ledger.rate) if limit.per_minute else None
        oldest = now - WINDOW_SECONDS - MARGIN_SECONDS
        self._grants = [grant for grant in ledger.grants if grant[0] > oldest]
        slots = slots_now(limit, ledger.rate)
        self._free_slots = None if slots is None else max(0, slots - len(ledger.slots))
        self._not_before = max(now + lead_seconds, ledger.not_before)

    def _next(self, grants: list[tuple[float, int]]) -> float:
        """When the next call may start: when the grant one window's worth of calls earlier has left the window."""
        start = self._not_before
        if self._per_window is None:
            return start
        calls = 0
        for granted, count in reversed(grants):
            calls += count
            if calls >= self._per_window:
                start = max(start, granted + WINDOW_SECONDS + MARGIN_SECONDS)
                break
        if grants:
            start = max(start, grants[-1][0])  # in order, so that the bound holds for every window
        return math.ceil(start) if (self._limit.per_minute or 0) > MAX_SINGLE_GRANTS else start

    def _add(self, grants: list[tuple[float, int]], start: float) -> None:
        if grants and grants[-1][0] == start:
            grants[-1] = (start, grants[-1][1] + 1)
        else:
            grants.append((start, 1))

    def next_start(self) -> float:
        """When the next call may start."""
        return self._next(self._grants)

    def count(self, wanted: int) -> int:
        """How many of the calls wanted may start within the horizon."""
        most = wanted if self._free_slots is None else min(wanted, self._free_slots)
        trial, found = list(self._grants), 0
        while found < most:
            start = self._next(trial)
            if start > self._now + HORIZON_SECONDS:
                break
            self._add(trial, start)
            found += 1
        return found

    def take(self) -> float:
        """The next start."""
        start = self.next_start()
        self._add(self._grants, start)
        if self._free_slots is not None:
            self._free_slots -= 1
        return start

    @property
    def grants(self) -> tuple[tuple[float, int], ...]:
        return tuple(self._grants)

    def opens_at(self) -> float:
        """When the next call may start."""
        if self._free_slots is not None and self._free_slots <= 0:
            return self._now + LEFT_SECONDS
        return max(self._now + 0.05, self.next_start() - HORIZON_SECONDS)


def calls_per_window(limit: Limit, rate: float) -> int:
    """How many calls may start in one window now."""
    return max(1, math.floor((limit.per_minute or 0) * rate))


def slots_now(limit: Limit, rate: float) -> int | None:
    """How many calls there may be at once now: slow mode halves these too."""
    return None if limit.concurrent is None else max(1, math.floor(limit.concurrent * rate))


def _turns(
    ledger: L, queues: Mapping[Tier, list[str]], elsewhere: Mapping[Tier, int], number: int
) -> tuple[L, list[Tier], bool]:
    """Deal `number` turns to the waiting tiers by weight: (ledger, this worker's turns, whether some are others')."""
    mine = {tier: len(ids) for tier, ids in queues.items()}
    others = dict(elsewhere)
    served, virtual = dict(ledger.served), ledger.virtual
    turns: list[Tier] = []
    left_at: float | None = None
    for _ in range(number):
        waiting = [tier for tier in Tier if mine.get(tier, 0) + others.get(tier, 0) > 0]
        if not waiting or not any(mine.values()):
            break
        tier = next_tier(waiting, served, virtual)
        start = start_of(tier, served, virtual)
        served[tier.value] = finish_of(tier, start)
        if mine.get(tier, 0):
            mine[tier] -= 1
            virtual = start
            turns.append(tier)
        else:
            others[tier] -= 1
            left_at = start if left_at is None else left_at
    if left_at is not None:  # turns that were left are counted when their workers take them, from where they were left
        virtual = min(virtual, left_at)
        counted = {tier.value: ledger.served.get(tier.value, 0.0) for tier in Tier}
        for tier in turns:
            counted[tier.value] = finish_of(tier, start_of(tier, counted, ledger.virtual))
        served = counted
    return msgspec.structs.replace(ledger, served=served, virtual=virtual), turns, left_at is not None


def _waiting_elsewhere(ledger: Ledger, worker: str, now: float) -> dict[Tier, int]:
    """Calls other workers wait for, by tier."""
    found: dict[Tier, int] = {}
    for key, waiter in ledger.waiters.items():
        name, _, tier = key.rpartition(" ")
        if name != worker and waiter.until > now:
            found[Tier(tier)] = found.get(Tier(tier), 0) + waiter.count
    return found


def _noted(ledger: L, worker: str, queues: Mapping[Tier, list[str]], now: float) -> L:
    """Who waits now: this worker's entries renewed, expired ones dropped."""
    waiters = {key: w for key, w in ledger.waiters.items() if w.until > now and key.rpartition(" ")[0] != worker}
    for tier, ids in queues.items():
        if ids:
            until = now + max(WAITER_SECONDS, 2 * spacing_seconds(ledger))
            waiters[f"{worker} {tier.value}"] = Waiter(count=len(ids), until=until)
    return msgspec.structs.replace(ledger, waiters=waiters)


def _blocked_until(ledger: Ledger, now: float) -> float | None:
    """When to ask again while nothing but a probe may start; None when calls may."""
    if ledger.circuit is Circuit.CLOSED:
        return None
    waits_for = ledger.open_until if ledger.circuit is Circuit.OPEN else ledger.probe_until
    return max(now + LEFT_SECONDS, min(waits_for, now + WAITER_SECONDS / 2))


def _probe(ledger: L, queues: Mapping[Tier, list[str]], limit: Limit, now: float) -> tuple[L, tuple[Grant, ...]]:
    """The one probe of an open circuit whose pause is over, or of a half-open one whose probe is lost.

    It keeps to the rolling minute as every call does. Slots it needs none: those of the calls that failed are free.
    """
    due = ledger.open_until if ledger.circuit is Circuit.OPEN else ledger.probe_until
    tier = next((tier for tier in Tier if queues.get(tier)), None)
    window = _Window(ledger, limit, now)
    if now < due or tier is None or window.next_start() > now + HORIZON_SECONDS:
        return ledger, ()
    grant = Grant(queues[tier].pop(0), tier, window.take(), ledger.epoch, probe=True)
    probing = msgspec.structs.replace(
        ledger,
        circuit=Circuit.HALF_OPEN,
        probe=grant.id,
        probe_until=grant.start + PROBE_SECONDS,
        grants=window.grants,
    )
    return probing, (grant,)


# --- outcomes


def heard(ledger: L, request: QuotaRequest, now: float) -> L:
    """Apply what rides on a reservation: slots given back, successes, what became of a probe.

    A probe that was not made, or broken off, has shown nothing: the circuit stays open, and the next probe is due.
    """
    slots = tuple(slot for slot in ledger.slots if slot.until > now and slot.id not in request.done_slots)
    changes: dict[str, object] = {"slots": slots}
    if request.probe_succeeded is not None and request.probe_succeeded == ledger.probe:
        changes |= _closed(now)
    elif request.probe_unused is not None and request.probe_unused == ledger.probe:
        changes |= {"circuit": Circuit.OPEN, "open_until": now, "probe": None}
    elif request.succeeded and ledger.circuit is Circuit.CLOSED:
        changes |= {"failures": 0, "answered_at": max(ledger.answered_at, now - request.answered_seconds_ago)}
    return msgspec.structs.replace(ledger, **changes)


def recovered(ledger: L, now: float) -> L:
    """The ledger as it stands now: a step back to the full rate for every quiet while; a spent day that is over."""
    if 0.0 < ledger.day_spent_until <= now:
        ledger = msgspec.structs.replace(ledger, day_spent_until=0.0)
    rate, changed = ledger.rate, ledger.rate_changed_at
    while rate < 1.0 and now >= changed + RECOVERY_SECONDS:
        rate, changed = min(1.0, rate * RECOVERY_FACTOR), changed + RECOVERY_SECONDS
    return ledger if rate == ledger.rate else msgspec.structs.replace(ledger, rate=rate, rate_changed_at=changed)


def throttled(ledger: L, grant: Grant, retry_after_seconds: float | None, now: float) -> L:
    """A 429: the rate is halved once per epoch, however many calls of it were refused; the pause is honoured."""
    pause = DEFAULT_PAUSE_SECONDS if retry_after_seconds is None else retry_after_seconds + RETRY_AFTER_MARGIN_SECONDS
    changes: dict[str, object] = {"not_before": max(ledger.not_before, now + pause)}
    if grant.epoch == ledger.epoch:
        rate = max(SLOWEST, recovered(ledger, now).rate / 2)
        changes |= {"rate": rate, "rate_changed_at": now + pause, "epoch": ledger.epoch + 1}
    if grant.probe and grant.id == ledger.probe:  # the vendor answers again, if only to refuse
        changes |= _closed(now)
    return msgspec.structs.replace(_without_slot(ledger, grant), **changes)


def failed(ledger: L, grant: Grant, now: float, *, answered_seconds_ago: float | None = None) -> L:
    """A 5xx or a time-out: enough in a row open the circuit; a failing probe opens it again, for longer.

    `answered_seconds_ago`: the age of the last answer that this worker has had since its last failure and not told;
    None: there was none. What `is_of_outage` tells nothing new.
    """
    ledger = _without_slot(ledger, grant)
    if grant.probe:
        return _opened(ledger, now) if grant.id == ledger.probe else ledger
    if is_of_outage(ledger, grant):
        return ledger
    failures, answered_at = ledger.failures + 1, ledger.answered_at
    if answered_seconds_ago is not None:
        failures, answered_at = 1, max(answered_at, now - answered_seconds_ago)
    ledger = msgspec.structs.replace(ledger, failures=failures, answered_at=answered_at)
    return _opened(ledger, now) if failures >= FAILURES_TO_OPEN else ledger


def _closed(now: float) -> dict[str, object]:
    return {"circuit": Circuit.CLOSED, "closed_at": now, "failures": 0, "opened_times": 0, "probe": None}


def is_of_outage(ledger: Ledger, grant: Grant) -> bool:
    """Whether a failed call belongs to an outage that is known, be it over: the call waits and is made again."""
    return ledger.circuit is not Circuit.CLOSED or grant.start < ledger.closed_at


def may_be_outage(ledger: Ledger, failed_at: float) -> bool:
    """Whether nothing shows that the vendor works since a call failed: then too few calls are made to open the circuit.

    One image alone would else spend its attempts within a minute, in an outage that fifty images survive.
    """
    return ledger.answered_at <= failed_at


def _opened(ledger: L, now: float) -> L:
    pause = min(MAX_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0**ledger.opened_times)
    return msgspec.structs.replace(
        ledger,
        circuit=Circuit.OPEN,
        open_until=now + pause,
        opened_times=ledger.opened_times + 1,
        probe=None,
    )


def day_spent(ledger: L, grant: Grant, now: float) -> L:
    """The daily quota is used up: nothing starts until it resets, at midnight Pacific time as the vendor documents.

    A refusal that is noted just after a midnight is the day before's, or the vendor's reset is late: not a day's wait.
    """
    fresh = next_reset(now) != next_reset(now - LATE_RESET_SECONDS)
    until = now + LATE_RESET_PAUSE_SECONDS if fresh else next_reset(now)
    return msgspec.structs.replace(_without_slot(ledger, grant), day_spent_until=until)


def next_reset(now: float) -> float:
    """The next midnight in California after `now`."""
    local = datetime.fromtimestamp(now, RESET_ZONE)
    return (local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)).timestamp()


def _without_slot(ledger: L, grant: Grant) -> L:
    return msgspec.structs.replace(ledger, slots=tuple(slot for slot in ledger.slots if slot.id != grant.id))


def set_limit(ledger: Ledger, limit: Limit | None) -> Ledger:
    """Operators' own limit; None: the settings' again."""
    return msgspec.structs.replace(ledger, limit=limit)


def used(ledger: Ledger, now: float) -> int:
    """Calls started within the last window."""
    return sum(count for start, count in ledger.grants if now - WINDOW_SECONDS < start <= now)
