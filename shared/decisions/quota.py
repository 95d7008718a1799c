"""A vendor model's quota as one shared document, and every decision about it.

    limit         calls per rolling minute, concurrent calls, or both
    slow mode     a 429 halves the rate once per epoch; the rate recovers step by step
    breaker       consecutive 5xx and time-outs open the circuit; exactly one probe in the fleet closes it
    tiers         express before normal before economy, by weight (start-time fair queueing)

The functions are pure and take the time as an argument. Times are the server's, in seconds since the epoch. One
decision reserves several calls up to `HORIZON_SECONDS` ahead, because a shared document allows only a few writes a
second.
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
# Calls travel to the vendor at different speeds, so two may arrive closer together than they were started. In the
# simulation no rolling minute exceeded 60 calls with a margin of one second. The alternative, GCRA, costs 10 % of the
# quota with burst 6, and reached 61 calls with burst 1.
MARGIN_SECONDS: Final = 1.0
HORIZON_SECONDS: Final = 5.0  # a worker that dies loses at most five seconds of the fleet's quota
# Starts are handed out in order, so a late start for a worker with slow replies delays the whole fleet. Hence a cap.
MAX_LEAD_SECONDS: Final = 2.0
WAITER_SECONDS: Final = 10.0  # a waiting worker asks every few seconds; one silent for this long no longer waits
# Above this limit (calls a minute) grants are counted per whole second: 61 entries instead of thousands.
MAX_SINGLE_GRANTS: Final = 600
# Firestore sustains only a few writes a second on one document. Above this many workers, each asks less often and gets
# more each time, so that the fleet writes twice a second. A smaller fleet asks whenever it needs calls.
FREE_WORKERS: Final = 4
WRITE_SECONDS: Final = 0.5
ASKED_SECONDS: Final = 30.0  # a worker that has not asked for this long is no longer counted
ASKED_AGAIN_SECONDS: Final = 5.0  # minimum age of a worker's entry before it is renewed: not every ask is a write
SLOT_SECONDS: Final = 180.0  # a slot's lease: above the longest call's deadline, so that only a dead worker's runs out
LEFT_SECONDS: Final = 1.0  # when to ask again after leaving turns to other workers, or finding no free slot
LATE_RESET_SECONDS: Final = 900.0  # nobody spends a day's quota in the day's first quarter of an hour
LATE_RESET_PAUSE_SECONDS: Final = 120.0  # how often to try again until a late reset; each try costs one refused call
RESET_ZONE: Final = ZoneInfo("America/Los_Angeles")

SLOWEST: Final = 1 / 64  # lowest share of the limit: slow mode never stops completely, or it could not recover
# The rate rises one step after this long without a 429. Measured with a vendor that halves its limit for ten minutes of
# a thousand images, in 18 runs at six moments: recovery costs 0.2 % on top of what the vendor withholds, at worst 1.7
# %. Steps of 15 s by a quarter cost up to 4.4 %.
RECOVERY_SECONDS: Final = 10.0
RECOVERY_FACTOR: Final = 1.4  # back from half to full in three steps: half a minute
DEFAULT_PAUSE_SECONDS: Final = 10.0  # after a 429 without a Retry-After, as Vertex sends it
RETRY_AFTER_MARGIN_SECONDS: Final = 1.0  # vendors truncate: "7s" may be 7.9 s

FAILURES_TO_OPEN: Final = 5  # consecutive, fleet-wide: at an error rate of 1 %, five in a row are no coincidence
FIRST_OPEN_SECONDS: Final = 30.0
MAX_OPEN_SECONDS: Final = 300.0
PROBE_SECONDS: Final = 150.0  # above the longest call's deadline (120 s): then its worker is dead and another may probe


class Circuit(StrEnum):
    """State of the circuit breaker. Closed: calls pass. Open: none passes. Half open: exactly one passes, the probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Slot(Document, frozen=True, kw_only=True):
    """The right to one concurrent call, until it is given back or its lease runs out at `until`."""

    id: str
    until: float


class Waiter(Document, frozen=True, kw_only=True):
    """How many calls of one tier a worker waits for. The entry expires at `until`."""

    count: int
    until: float


class Ledger(Record, frozen=True, kw_only=True):
    """The state of one vendor model's quota, shared by the fleet.

    `grants` are (start, calls) pairs in order of start. `asked` says when each worker last asked. `served` and
    `virtual` belong to the fair queue: when each tier's last turn ended, and the current virtual time. `epoch` rises
    with every 429 that lowers the rate. `limit` is set by operators and overrides the settings' limit.
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
    answered_at: float = 0.0  # when the vendor last answered, as far as workers have reported
    open_until: float = 0.0
    closed_at: float = 0.0
    opened_times: int = 0
    probe: str | None = None
    probe_until: float = 0.0
    limit: Limit | None = None


L = TypeVar("L", bound=Ledger)


class Grant(msgspec.Struct, frozen=True):
    """The right to one call, from `start` on.

    `epoch` is the ledger's when it was granted. `slot` says that it holds one of the concurrent slots, `probe` that it
    is the circuit's probe.

    `begin_by` is on the asking worker's monotonic clock. A call that begins later may reach the vendor so late that it
    counts in the next window, together with the calls granted for that one. The worker then gives it back and asks
    again.
    """

    id: str
    tier: Tier
    start: float
    epoch: int
    slot: bool = False
    probe: bool = False
    begin_by: float = math.inf


class QuotaRequest(msgspec.Struct, frozen=True):
    """What a worker asks for, and what it reports since it last asked.

    `wanted` are ids of calls by tier. `answered_seconds_ago` is the age of the last answer if `succeeded`, which may be
    reported long afterwards. `lead_seconds` is how long the reply will take to reach the worker: a call that was to
    start before that would be lost.
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
    """The grants, and when to ask again for the rest (infinity when nothing is left to ask for).

    `day_spent`: nothing will start before the vendor's daily quota resets. `spacing_seconds`: how long this worker must
    leave the ledger alone for the sake of the others; 0 in a small fleet.
    """

    grants: tuple[Grant, ...]
    ask_again_at: float
    day_spent: bool = False
    spacing_seconds: float = 0.0


# --- reserving


def reserve(ledger: L, request: QuotaRequest, limit: Limit, now: float) -> tuple[L, Reserved]:
    """Grant the calls that may start within the horizon, and record who waits for the rest.

    The turns are dealt to all waiting tiers of the fleet. This worker takes those of the tiers that it waits in. It
    leaves the others for the workers that wait in them. `limit` is the settings'; an operator's own limit goes first.
    """
    ledger = _asked(ledger, request.worker, now)
    after, reserved = _reserve(ledger, request, ledger.limit or limit, now)
    return after, msgspec.structs.replace(reserved, spacing_seconds=spacing_seconds(after))


def spacing_seconds(ledger: Ledger) -> float:
    """Return how long a worker must wait between two asks, so that the fleet together writes twice a second."""
    workers = len(ledger.asked)
    return workers * WRITE_SECONDS if workers > FREE_WORKERS else 0.0


def _asked(ledger: L, worker: str, now: float) -> L:
    """Record that the worker asks, and drop workers that have stopped asking."""
    if now - ledger.asked.get(worker, -math.inf) < ASKED_AGAIN_SECONDS:
        return ledger
    asked = {name: at for name, at in ledger.asked.items() if now - at < ASKED_SECONDS}
    return msgspec.structs.replace(ledger, asked=asked | {worker: now})


def _reserve(ledger: L, request: QuotaRequest, limit: Limit, now: float) -> tuple[L, Reserved]:
    """Apply what the worker reports, then grant what may start: nothing, one probe, or a share of the window."""
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
    """The calls that the limit lets start within the horizon. Starts are handed out in order."""

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
        """Return when the next call may start after `grants`.

        A window may hold n calls. The next call therefore waits until the n-th call before it has left the window.
        """
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
            start = max(start, grants[-1][0])  # keeps starts in order, so that the limit holds in every window
        return math.ceil(start) if (self._limit.per_minute or 0) > MAX_SINGLE_GRANTS else start

    def _add(self, grants: list[tuple[float, int]], start: float) -> None:
        """Count one more call at `start`."""
        if grants and grants[-1][0] == start:
            grants[-1] = (start, grants[-1][1] + 1)
        else:
            grants.append((start, 1))

    def next_start(self) -> float:
        """Return when the next call may start."""
        return self._next(self._grants)

    def count(self, wanted: int) -> int:
        """Return how many of the `wanted` calls may start within the horizon."""
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
        """Take the next call and return its start."""
        start = self.next_start()
        self._add(self._grants, start)
        if self._free_slots is not None:
            self._free_slots -= 1
        return start

    @property
    def grants(self) -> tuple[tuple[float, int], ...]:
        return tuple(self._grants)

    def opens_at(self) -> float:
        """Return when it is worth asking again.

        That is when the next call's start comes within the horizon, or when a slot may have become free.
        """
        if self._free_slots is not None and self._free_slots <= 0:
            return self._now + LEFT_SECONDS
        return max(self._now + 0.05, self.next_start() - HORIZON_SECONDS)


def calls_per_window(limit: Limit, rate: float) -> int:
    """Return how many calls may start in one window at the current rate, at least one."""
    return max(1, math.floor((limit.per_minute or 0) * rate))


def slots_now(limit: Limit, rate: float) -> int | None:
    """Return how many calls may run at once at the current rate; None without such a limit.

    Slow mode lowers this number too.
    """
    return None if limit.concurrent is None else max(1, math.floor(limit.concurrent * rate))


def _turns(
    ledger: L, queues: Mapping[Tier, list[str]], elsewhere: Mapping[Tier, int], number: int
) -> tuple[L, list[Tier], bool]:
    """Deal `number` turns to the waiting tiers by weight.

    Returns the ledger, the tiers of this worker's turns, and whether other workers were left some. Turns left to others
    are not charged here: each worker is charged for the turns that it takes itself, or a tier would pay for them twice.
    """
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
    if left_at is not None:  # turns left to other workers are charged when those workers take them
        virtual = min(virtual, left_at)
        counted = {tier.value: ledger.served.get(tier.value, 0.0) for tier in Tier}
        for tier in turns:
            counted[tier.value] = finish_of(tier, start_of(tier, counted, ledger.virtual))
        served = counted
    return msgspec.structs.replace(ledger, served=served, virtual=virtual), turns, left_at is not None


def _waiting_elsewhere(ledger: Ledger, worker: str, now: float) -> dict[Tier, int]:
    """Return how many calls other workers wait for, by tier."""
    found: dict[Tier, int] = {}
    for key, waiter in ledger.waiters.items():
        name, _, tier = key.rpartition(" ")
        if name != worker and waiter.until > now:
            found[Tier(tier)] = found.get(Tier(tier), 0) + waiter.count
    return found


def _noted(ledger: L, worker: str, queues: Mapping[Tier, list[str]], now: float) -> L:
    """Renew this worker's entries among the waiting, and drop expired ones."""
    waiters = {key: w for key, w in ledger.waiters.items() if w.until > now and key.rpartition(" ")[0] != worker}
    for tier, ids in queues.items():
        if ids:
            until = now + max(WAITER_SECONDS, 2 * spacing_seconds(ledger))
            waiters[f"{worker} {tier.value}"] = Waiter(count=len(ids), until=until)
    return msgspec.structs.replace(ledger, waiters=waiters)


def _blocked_until(ledger: Ledger, now: float) -> float | None:
    """Return when to ask again while only a probe may start; None when calls may start."""
    if ledger.circuit is Circuit.CLOSED:
        return None
    waits_for = ledger.open_until if ledger.circuit is Circuit.OPEN else ledger.probe_until
    return max(now + LEFT_SECONDS, min(waits_for, now + WAITER_SECONDS / 2))


def _probe(ledger: L, queues: Mapping[Tier, list[str]], limit: Limit, now: float) -> tuple[L, tuple[Grant, ...]]:
    """Grant the probe if one is due: the circuit's pause is over, or the last probe's worker died.

    A probe respects the rolling minute like every call. It needs no slot, because the calls that failed have freed
    theirs.
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
    """Apply what a worker reports with its reservation: slots given back, successes, the outcome of a probe.

    A probe that was not made, or was cancelled, has shown nothing. The circuit stays open and the next probe is due at
    once.
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
    """Return the ledger as of `now`.

    The rate rises one step for each quiet interval, and a daily quota that has reset is available again.
    """
    if 0.0 < ledger.day_spent_until <= now:
        ledger = msgspec.structs.replace(ledger, day_spent_until=0.0)
    rate, changed = ledger.rate, ledger.rate_changed_at
    while rate < 1.0 and now >= changed + RECOVERY_SECONDS:
        rate, changed = min(1.0, rate * RECOVERY_FACTOR), changed + RECOVERY_SECONDS
    return ledger if rate == ledger.rate else msgspec.structs.replace(ledger, rate=rate, rate_changed_at=changed)


def throttled(ledger: L, grant: Grant, retry_after_seconds: float | None, now: float) -> L:
    """Apply a 429: halve the rate once per epoch, and honour the vendor's pause.

    Many calls of one epoch may be refused together. They are one signal, so only the first of them lowers the rate.
    """
    pause = DEFAULT_PAUSE_SECONDS if retry_after_seconds is None else retry_after_seconds + RETRY_AFTER_MARGIN_SECONDS
    changes: dict[str, object] = {"not_before": max(ledger.not_before, now + pause)}
    if grant.epoch == ledger.epoch:
        rate = max(SLOWEST, recovered(ledger, now).rate / 2)
        changes |= {"rate": rate, "rate_changed_at": now + pause, "epoch": ledger.epoch + 1}
    if grant.probe and grant.id == ledger.probe:  # a refusal too shows that the vendor answers again
        changes |= _closed(now)
    return msgspec.structs.replace(_without_slot(ledger, grant), **changes)


def failed(ledger: L, grant: Grant, now: float, *, answered_seconds_ago: float | None = None) -> L:
    """Apply a 5xx or time-out: enough in a row open the circuit, and a failed probe opens it again for longer.

    `answered_seconds_ago` is the age of the last answer that this worker has had since its last failure and not yet
    reported; None if there was none. An answer ends the row of failures. A call that belongs to a known outage
    (`is_of_outage`) is not counted, as it shows nothing new.
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
    """Return the fields of a closed circuit."""
    return {"circuit": Circuit.CLOSED, "closed_at": now, "failures": 0, "opened_times": 0, "probe": None}


def is_of_outage(ledger: Ledger, grant: Grant) -> bool:
    """Return whether a failed call belongs to a known outage, even one that has ended. It waits and is retried."""
    return ledger.circuit is not Circuit.CLOSED or grant.start < ledger.closed_at


def may_be_outage(ledger: Ledger, failed_at: float) -> bool:
    """Return whether nothing shows that the vendor works since a call failed at `failed_at`.

    The vendor may be down while too few calls are made to open the circuit. Without this check a single image would
    spend all its attempts within a minute of an outage that fifty images survive.
    """
    return ledger.answered_at <= failed_at


def _opened(ledger: L, now: float) -> L:
    """Open the circuit, for twice as long as last time, at most `MAX_OPEN_SECONDS`."""
    pause = min(MAX_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0**ledger.opened_times)
    return msgspec.structs.replace(
        ledger,
        circuit=Circuit.OPEN,
        open_until=now + pause,
        opened_times=ledger.opened_times + 1,
        probe=None,
    )


def day_spent(ledger: L, grant: Grant, now: float) -> L:
    """Record that the daily quota is used up: nothing starts until it resets.

    Google documents the reset at midnight Pacific time. A refusal recorded just after midnight belongs to the day
    before, or the vendor's reset is late. Waiting a whole day would be wrong in both cases, so the next try comes after
    `LATE_RESET_PAUSE_SECONDS`.
    """
    fresh = next_reset(now) != next_reset(now - LATE_RESET_SECONDS)
    until = now + LATE_RESET_PAUSE_SECONDS if fresh else next_reset(now)
    return msgspec.structs.replace(_without_slot(ledger, grant), day_spent_until=until)


def next_reset(now: float) -> float:
    """Return the next midnight in California after `now`, in seconds since the epoch."""
    local = datetime.fromtimestamp(now, RESET_ZONE)
    return (local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)).timestamp()


def _without_slot(ledger: L, grant: Grant) -> L:
    """Return the ledger without the grant's slot: its call is over."""
    return msgspec.structs.replace(ledger, slots=tuple(slot for slot in ledger.slots if slot.id != grant.id))


def set_limit(ledger: Ledger, limit: Limit | None) -> Ledger:
    """Set an operator's own limit; None returns to the settings' limit."""
    return msgspec.structs.replace(ledger, limit=limit)


def used(ledger: Ledger, now: float) -> int:
    """Return the number of calls that started within the last window."""
    return sum(count for start, count in ledger.grants if now - WINDOW_SECONDS < start <= now)
