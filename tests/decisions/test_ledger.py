"""The quota's rules, driven as a fleet of workers drives them: no rolling minute above the limit, whatever comes when."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.decisions.fairness import TIER_WEIGHTS
from shared.decisions.quota import Circuit, Grant, Ledger, QuotaRequest, Reserved
from shared.errors import BadSetting
from shared.messages import decode, encode
from shared.model import Tier
from shared.settings import LIMITS, Limit, from_environment

NOW = 1_772_442_000.0  # 2026-03-02 09:00:00 UTC
PER_MINUTE = Limit(per_minute=60)
SLOTS = Limit(concurrent=5)
WINDOW = decisions.quota.WINDOW_SECONDS + decisions.quota.MARGIN_SECONDS


class Fleet:
    """Workers that ask one ledger, and everything they were given."""

    def __init__(self, limit: Limit = PER_MINUTE, ledger: Ledger | None = None) -> None:
        self.limit = limit
        self.ledger = ledger or Ledger(id="m")
        self.given: list[Grant] = []
        self._ids = itertools.count()

    def wanted(self, wants: Mapping[Tier, int]) -> dict[Tier, tuple[str, ...]]:
        return {tier: tuple(f"c{next(self._ids)}" for _ in range(count)) for tier, count in wants.items()}

    def ask(self, worker: str, wants: Mapping[Tier, int] | int, now: float, **heard: object) -> Reserved:
        """One reservation; a number means calls of the normal tier."""
        wants = {Tier.NORMAL: wants} if isinstance(wants, int) else wants
        ask = QuotaRequest(worker=worker, wanted=self.wanted(wants), **heard)
        self.ledger, reserved = decisions.quota.reserve(self.ledger, ask, self.limit, now)
        self.given += reserved.grants
        assert len({grant.id for grant in self.given}) == len(self.given), "a right is given once"
        return reserved

    def one(self, now: float, worker: str = "a") -> Grant:
        """The one call that is asked for, given."""
        (grant,) = self.ask(worker, 1, now).grants
        return grant

    def throttled(self, grant: Grant, seconds: float | None, now: float) -> None:
        self.ledger = decisions.quota.throttled(self.ledger, grant, seconds, now)

    def failed(self, grant: Grant, now: float) -> None:
        self.ledger = decisions.quota.failed(self.ledger, grant, now)

    def opened(self, now: float = NOW) -> Fleet:
        """The circuit opened by failures in a row."""
        for grant in self.ask("a", decisions.quota.FAILURES_TO_OPEN, now).grants:
            self.failed(grant, now)
        assert self.ledger.circuit is Circuit.OPEN
        return self

    def probe(self, worker: str = "a") -> Grant:
        """The probe that is due once the circuit's pause is over."""
        grant = self.one(self.ledger.open_until, worker)
        assert grant.probe
        return grant


def max_in_a_minute(starts: Iterable[float]) -> int:
    """The most calls that any rolling minute saw; both ends count, which is stricter than a vendor."""
    ordered, most, first = sorted(starts), 0, 0
    for last, start in enumerate(ordered):
        while start - ordered[first] > decisions.quota.WINDOW_SECONDS:
            first += 1
        most = max(most, last - first + 1)
    return most


# --- the rolling minute

MOMENTS = st.floats(min_value=0.0, max_value=30.0, allow_nan=False)
WANTS = st.dictionaries(st.sampled_from(Tier), st.integers(0, 90), max_size=3)
STEPS = st.lists(st.tuples(MOMENTS, st.sampled_from("abc"), WANTS), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.sampled_from([1, 2, 7, 60, 100, 600, 601, 1200]))
def test_no_rolling_minute_is_above_the_limit(steps: list[tuple[float, str, dict[Tier, int]]], most: int) -> None:
    fleet, now = Fleet(Limit(per_minute=most)), NOW
    for pause, worker, wants in steps:
        now += pause
        before = [grant.start for grant in fleet.given]
        reserved = fleet.ask(worker, wants, now)
        for grant in reserved.grants:
            assert now <= grant.start <= now + decisions.quota.HORIZON_SECONDS + 1, "at most five seconds ahead"
            assert grant.start >= max(before, default=0.0), "in order"
        assert reserved.ask_again_at > now
        short = sum(wants.values()) > len(reserved.grants)
        assert short == (reserved.ask_again_at < float("inf")), "asked again exactly as long as something is wanted"
        assert len(fleet.ledger.grants) <= min(2 * most, 640), "a small document"
    assert max_in_a_minute(grant.start for grant in fleet.given) <= most
    assert len(encode(fleet.ledger)) < 20_000


@pytest.mark.parametrize("most", [1, 60, 600, 1200])
def test_a_limit_that_is_asked_all_the_time_is_used_up(most: int) -> None:
    """Per 61 seconds exactly the limit: the second is the margin, nothing else is wasted."""
    fleet, now, minutes = Fleet(Limit(per_minute=most)), NOW, 10
    while now < NOW + minutes * WINDOW - decisions.quota.HORIZON_SECONDS - 1:
        now = max(now + 0.5, min(fleet.ask("a", most, now).ask_again_at, now + 5.0))
    in_time = [grant for grant in fleet.given if grant.start < NOW + minutes * WINDOW - 2 * minutes]
    assert len(in_time) == most * minutes


def test_an_idle_ledger_gives_the_whole_minute_at_once() -> None:
    reserved = Fleet().ask("a", 61, NOW)
    assert [grant.start for grant in reserved.grants] == [NOW] * 60
    assert reserved.ask_again_at == NOW + WINDOW - decisions.quota.HORIZON_SECONDS


def test_what_was_given_ahead_is_not_given_twice() -> None:
    fleet = Fleet(Limit(per_minute=2))
    fleet.ask("a", 2, NOW)
    (ahead,) = fleet.ask("a", 1, NOW + WINDOW - 3).grants
    assert ahead.start == NOW + WINDOW
    (other,) = fleet.ask("b", 1, NOW + WINDOW - 3).grants
    assert other.start == NOW + WINDOW
    assert fleet.ask("c", 1, NOW + WINDOW - 3).grants == ()


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 40), st.integers(1, 40), st.floats(0, 200))
def test_a_limit_that_changes_while_running_holds_from_then_on(
    steps: list[tuple[float, str, dict[Tier, int]]], first: int, then: int, at: float
) -> None:
    fleet, now = Fleet(Limit(per_minute=first)), NOW
    changed: float | None = None
    for pause, worker, wants in steps:
        now += pause
        if changed is None and now - NOW > at:
            fleet.ledger = decisions.quota.set_limit(fleet.ledger, Limit(per_minute=then))
            changed = now
        fleet.ask(worker, wants, now)
    starts = [grant.start for grant in fleet.given]
    assert max_in_a_minute(starts) <= max(first, then)
    if changed is not None:
        later = [start for start in starts if start > changed + decisions.quota.HORIZON_SECONDS]
        assert max_in_a_minute(later) <= then


def test_a_limit_of_operators_goes_before_the_settings_and_back() -> None:
    fleet = Fleet()
    fleet.ledger = decisions.quota.set_limit(fleet.ledger, Limit(per_minute=3))
    assert len(fleet.ask("a", 60, NOW).grants) == 3
    fleet.ledger = decisions.quota.set_limit(fleet.ledger, None)
    assert len(fleet.ask("a", 60, NOW).grants) == 57


def test_the_vendors_limits_of_the_design_are_in_the_settings() -> None:
    assert LIMITS["gemini-nano-banana-2.1"] == Limit(per_minute=60)
    assert LIMITS["runway"] == Limit(concurrent=10)
    assert LIMITS["pixverse"] == Limit(concurrent=5)
    assert LIMITS["shotstack"] == Limit(per_minute=100)


def test_use_is_counted_by_the_last_minute() -> None:
    fleet = Fleet()
    fleet.ask("a", 10, NOW)
    fleet.ask("a", 5, NOW + 30)
    assert [decisions.quota.used(fleet.ledger, NOW + at) for at in (0, 30, 59.9, 60, 90)] == [10, 15, 15, 5, 0]


def test_the_ledger_survives_its_journey_through_a_store() -> None:
    fleet = Fleet(Limit(per_minute=60, concurrent=5)).opened()
    fleet.probe()
    fleet.ask("b", {Tier.EXPRESS: 3}, NOW + 31)
    assert decode(Ledger, encode(fleet.ledger)) == fleet.ledger


# --- slots


def test_slow_mode_halves_slots_too() -> None:
    fleet = Fleet(Limit(concurrent=10))
    for grant in fleet.ask("a", 10, NOW).grants:
        fleet.throttled(grant, 0.0, NOW)
    assert len(fleet.ask("a", 50, fleet.ledger.not_before).grants) == 5
    assert [decisions.quota.slots_now(Limit(concurrent=3), rate) for rate in (1.0, 0.5, 1 / 64)] == [3, 1, 1]
    assert decisions.quota.slots_now(PER_MINUTE, 0.5) is None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(MOMENTS, st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_no_more_calls_at_once_than_there_are_slots(steps: list[tuple[float, str, int, int]]) -> None:
    fleet, now = Fleet(SLOTS), NOW
    held: dict[str, float] = {}  # by call, until its lease ends
    for pause, worker, wants, ended in steps:
        now += pause
        done = frozenset(list(held)[:ended])
        held = {call: until for call, until in held.items() if call not in done and until > now}
        grants = fleet.ask(worker, wants, now, done_slots=done).grants
        assert len(grants) == min(wants, 5 - len(held)), "no more than are free, and no fewer when nobody else waits"
        held |= {grant.id: grant.start + decisions.quota.SLOT_SECONDS for grant in grants}
        assert all(grant.slot for grant in grants)
        assert len(held) <= 5
        fleet.ledger = decisions.quota._noted(fleet.ledger, worker, {}, now)  # it waits no more


def test_a_dead_workers_slots_come_free_when_their_leases_end() -> None:
    fleet = Fleet(SLOTS)
    assert len(fleet.ask("dead", 9, NOW).grants) == 5
    assert fleet.ask("b", 1, NOW + decisions.quota.SLOT_SECONDS - 1).grants == ()
    assert len(fleet.ask("b", 9, NOW + decisions.quota.SLOT_SECONDS + 1).grants) == 5


def test_a_slots_lease_is_longer_than_the_longest_call() -> None:
    for name in ("TEXT", "IMAGE"):
        with pytest.raises(BadSetting, match="140"):
            from_environment({f"RUUM_GEMINI_{name}_SECONDS": "141"})
        longest = from_environment({f"RUUM_GEMINI_{name}_SECONDS": "140"}).gemini
        most = max(longest.text_seconds, longest.image_seconds)
        assert most == 140
        assert most + decisions.quota.HORIZON_SECONDS < decisions.quota.SLOT_SECONDS
        assert most + decisions.quota.HORIZON_SECONDS < decisions.quota.PROBE_SECONDS


@pytest.mark.parametrize("outcome", ["throttled", "failed", "day_spent"])
def test_every_outcome_gives_its_slot_back(outcome: str) -> None:
    fleet = Fleet(SLOTS)
    grants = fleet.ask("a", 5, NOW).grants
    match outcome:
        case "throttled":
            fleet.throttled(grants[0], 1.0, NOW)
        case "failed":
            fleet.failed(grants[0], NOW)
        case _:
            fleet.ledger = decisions.quota.day_spent(fleet.ledger, grants[0], NOW)
    assert {slot.id for slot in fleet.ledger.slots} == {grant.id for grant in grants[1:]}


def test_both_limits_hold_together() -> None:
    fleet = Fleet(Limit(per_minute=8, concurrent=5))
    first = fleet.ask("a", 9, NOW).grants
    assert len(first) == 5
    again = fleet.ask("a", 9, NOW + 1, done_slots=frozenset(grant.id for grant in first)).grants
    assert len(again) == 3, "slots are free, the minute is not"


# --- tiers


def shares(fleet: Fleet, workers: Mapping[str, Mapping[Tier, int]], minutes: int = 20) -> Counter[Tier]:
    """What each tier got while all of them always wait for more; the first minute goes to whoever comes first."""
    now = NOW
    while now < NOW + WINDOW * (minutes + 1) - decisions.quota.HORIZON_SECONDS:
        for worker, wants in workers.items():
            fleet.ask(worker, wants, now)
        now += 1.0
    return Counter(grant.tier for grant in fleet.given if grant.start >= NOW + WINDOW)


@pytest.mark.parametrize(
    "workers",
    [
        {"a": dict.fromkeys(Tier, 50)},
        {"a": {Tier.EXPRESS: 50}, "b": {Tier.NORMAL: 50}, "c": {Tier.ECONOMY: 50}},
        {"a": {Tier.ECONOMY: 50}, "b": {Tier.NORMAL: 50, Tier.EXPRESS: 50}, "c": {Tier.ECONOMY: 50}},
    ],
    ids=["one worker", "a worker each", "mixed"],
)
def test_tiers_that_all_wait_share_by_weight_across_the_fleet(workers: dict[str, dict[Tier, int]]) -> None:
    fleet = Fleet()
    got = shares(fleet, workers)
    total, weight = sum(got.values()), sum(TIER_WEIGHTS.values())
    assert total == 60 * 20, "nothing is wasted by sharing"
    for tier in Tier:
        assert got[tier] == pytest.approx(total * TIER_WEIGHTS[tier] / weight, rel=0.05, abs=6), got


@pytest.mark.parametrize("tier", Tier)
def test_a_tier_that_waits_alone_gets_all_of_it(tier: Tier) -> None:
    assert len(Fleet().ask("a", {tier: 60}, NOW).grants) == 60


def test_a_tier_that_was_idle_is_paid_nothing_back() -> None:
    fleet = Fleet()
    shares(fleet, {"a": {Tier.NORMAL: 50}}, minutes=10)
    fleet.given.clear()
    now = NOW + 11 * WINDOW
    while now < NOW + 21 * WINDOW:
        fleet.ask("a", {Tier.NORMAL: 50, Tier.EXPRESS: 50}, now)
        now += 1.0
    got = Counter(grant.tier for grant in fleet.given)
    assert got[Tier.NORMAL] == pytest.approx(sum(got.values()) / 3, rel=0.05), "6 to 3 from the first minute on"


def test_turns_of_a_worker_that_asks_no_more_are_nobodys() -> None:
    fleet = Fleet(Limit(per_minute=10))
    fleet.ask("a", 10, NOW)
    fleet.ask("dead", {Tier.EXPRESS: 50}, NOW + 1)
    later = NOW + WINDOW - decisions.quota.HORIZON_SECONDS
    assert later > NOW + 1 + decisions.quota.WAITER_SECONDS
    assert len(fleet.ask("b", {Tier.ECONOMY: 10}, later).grants) == 10


def test_turns_left_to_another_worker_are_asked_about_soon() -> None:
    fleet = Fleet(Limit(per_minute=10))
    fleet.ask("a", 10, NOW)
    at = NOW + WINDOW - decisions.quota.HORIZON_SECONDS
    fleet.ask("b", {Tier.EXPRESS: 50}, at - 1)
    mine = fleet.ask("c", {Tier.ECONOMY: 10}, at)
    assert len(mine.grants) < 3
    assert mine.ask_again_at <= at + decisions.quota.LEFT_SECONDS


# --- slow mode


def test_a_429_halves_the_rate_and_its_pause_is_honoured() -> None:
    fleet = Fleet()
    fleet.throttled(fleet.one(NOW), 7.0, NOW + 1)
    assert fleet.ledger.rate == 0.5
    assert fleet.ask("a", 40, NOW + 2).grants == ()
    over = NOW + 1 + 7 + decisions.quota.RETRY_AFTER_MARGIN_SECONDS
    later = fleet.ask("a", 40, over).grants
    assert [grant.start for grant in later] == [over] * 29, "thirty a minute, one of which is used"


def test_a_429_without_a_wish_pauses_for_the_default() -> None:
    fleet = Fleet()
    fleet.throttled(fleet.one(NOW), None, NOW)
    assert fleet.ledger.not_before == NOW + decisions.quota.DEFAULT_PAUSE_SECONDS


def test_a_hundred_429s_of_one_moment_count_once() -> None:
    fleet = Fleet(Limit(per_minute=600))
    for grant in fleet.ask("a", 100, NOW).grants:
        fleet.throttled(grant, 1.0, NOW + 1)
    assert (fleet.ledger.rate, fleet.ledger.epoch) == (0.5, 1)


def test_a_late_429_of_an_earlier_epoch_only_prolongs_the_pause() -> None:
    fleet = Fleet()
    early, late = fleet.ask("a", 2, NOW).grants
    fleet.throttled(early, 1.0, NOW + 1)
    fleet.throttled(late, 30.0, NOW + 2)
    assert (fleet.ledger.rate, fleet.ledger.epoch) == (0.5, 1)
    assert fleet.ledger.not_before == NOW + 2 + 31


def test_slow_mode_ends_step_by_step() -> None:
    fleet = Fleet()
    fleet.throttled(fleet.one(NOW), 0.0, NOW)
    since = fleet.ledger.rate_changed_at
    steps = [
        decisions.quota.recovered(fleet.ledger, since + decisions.quota.RECOVERY_SECONDS * n + 0.001).rate
        for n in range(6)
    ]
    assert steps == pytest.approx([0.5, 0.7, 0.98, 1.0, 1.0, 1.0])


def test_slow_mode_has_a_floor_and_still_lets_one_call_through() -> None:
    fleet, now = Fleet(), NOW
    for _ in range(12):
        fleet.throttled(fleet.one(now), 0.0, now)
        now = fleet.ledger.not_before
        fleet.ledger = msgspec.structs.replace(fleet.ledger, grants=())
    assert fleet.ledger.rate == decisions.quota.SLOWEST
    assert decisions.quota.calls_per_window(PER_MINUTE, fleet.ledger.rate) == 1


# --- the breaker


@pytest.mark.parametrize(
    ("outcomes", "circuit"),
    [
        ("fffff", Circuit.OPEN),
        ("ffff", Circuit.CLOSED),
        ("ffffsffff", Circuit.CLOSED),
        ("ffffsfffff", Circuit.OPEN),
        ("ttttttt", Circuit.CLOSED),
        ("fftfftf", Circuit.OPEN),  # a refusal is no failure, and no success either
        ("ffuuuff", Circuit.CLOSED),
        ("ffuffuf", Circuit.OPEN),
    ],
)
def test_failures_in_a_row_open_the_circuit_and_nothing_else_does(outcomes: str, circuit: Circuit) -> None:
    """f: 5xx or time-out. s: answered. t: a 429. u: never called."""
    fleet, now = Fleet(Limit(per_minute=600)), NOW
    for outcome in outcomes:
        now = max(now + 1, fleet.ledger.not_before)
        assert fleet.ledger.circuit is Circuit.CLOSED
        grant = fleet.one(now)
        match outcome:
            case "f":
                fleet.failed(grant, now)
            case "s":
                fleet.ask("a", 0, now, succeeded=True)
            case "t":
                fleet.throttled(grant, 0.0, now)
            case "u":
                fleet.ask("a", 0, now, probe_unused=grant.id)
    assert fleet.ledger.circuit is circuit


def test_an_open_circuit_lets_nothing_through_until_its_pause_is_over() -> None:
    fleet = Fleet().opened()
    for at in (0.0, 1.0, decisions.quota.FIRST_OPEN_SECONDS - 0.01):
        reserved = fleet.ask("a", 9, NOW + at)
        assert reserved.grants == ()
        assert NOW + at < reserved.ask_again_at < NOW + at + decisions.quota.WAITER_SECONDS, (
            "a waiter must not be forgotten"
        )


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from("abcd"), st.integers(0, 5)), min_size=1, max_size=60))
def test_exactly_one_probe_in_the_fleet(asks: list[tuple[float, str, int]]) -> None:
    """As long as nothing is known of it, the only second probe is the one after the first must be lost."""
    fleet, now, probed_at = Fleet().opened(), NOW, []
    for pause, worker, wants in asks:
        now += pause
        grants = fleet.ask(worker, wants, now).grants
        assert len(grants) <= 1
        probed_at += [grant.start for grant in grants if grant.probe]
        assert all(grant.probe for grant in grants)
    assert all(start >= NOW + decisions.quota.FIRST_OPEN_SECONDS for start in probed_at)
    assert all(later - earlier >= decisions.quota.PROBE_SECONDS for earlier, later in itertools.pairwise(probed_at))


def test_a_probe_that_succeeds_closes_the_circuit_for_all() -> None:
    fleet = Fleet().opened()
    probe = fleet.probe()
    now = fleet.ledger.open_until + 1
    fleet.ask("a", 0, now, succeeded=True, probe_succeeded=probe.id)
    assert (fleet.ledger.circuit, fleet.ledger.failures, fleet.ledger.opened_times) == (Circuit.CLOSED, 0, 0)
    assert len(fleet.ask("b", 9, now).grants) == 9


def test_a_probe_that_fails_opens_it_again_for_longer() -> None:
    fleet, pauses = Fleet().opened(), [decisions.quota.FIRST_OPEN_SECONDS]
    for _ in range(6):
        probe, at = fleet.probe(), fleet.ledger.open_until
        fleet.failed(probe, at)
        pauses.append(fleet.ledger.open_until - at)
    assert pauses == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0]


def test_a_probe_that_is_refused_has_found_a_vendor_that_answers() -> None:
    fleet = Fleet().opened()
    probe = fleet.probe()
    fleet.throttled(probe, 5.0, fleet.ledger.open_until)
    assert fleet.ledger.circuit is Circuit.CLOSED
    assert fleet.ledger.rate == 0.5


@given(st.integers(1, 120), st.floats(0, 60), st.integers(1, 5))
def test_the_probe_keeps_to_the_rolling_minute(calls: int, later: float, probes: int) -> None:
    fleet = Fleet()
    for grant in fleet.ask("a", calls, NOW).grants:
        fleet.failed(grant, NOW + 1)
    now = NOW + later
    for _ in range(200 * probes):
        now += 1.0
        for grant in fleet.ask("a", 1, now).grants:
            assert now <= grant.start <= now + decisions.quota.HORIZON_SECONDS
            fleet.failed(grant, grant.start + 0.1)
    assert fleet.ledger.opened_times > 1 or calls < decisions.quota.FAILURES_TO_OPEN
    assert max_in_a_minute(grant.start for grant in fleet.given) <= 60


def test_a_success_that_is_no_probes_closes_nothing() -> None:
    """A slow call that began before the outage may still be answered."""
    fleet = Fleet().opened()
    fleet.ask("a", 0, NOW + 1, succeeded=True)
    assert fleet.ledger.circuit is Circuit.OPEN
    fleet.probe()
    fleet.ask("b", 0, NOW + 31, succeeded=True, probe_succeeded="another")
    assert fleet.ledger.circuit is Circuit.HALF_OPEN


def test_a_probe_that_was_not_made_closes_nothing_and_the_next_is_due_at_once() -> None:
    """Its batch was paused meanwhile, or its worker stops: of the vendor that says nothing."""
    fleet = Fleet().opened()
    probe, now = fleet.probe(), fleet.ledger.open_until + 1
    fleet.ask("a", 0, now, probe_unused=probe.id)
    assert fleet.ledger.circuit is Circuit.OPEN
    assert fleet.ledger.opened_times == 1, "nor was it a failure"
    again = fleet.ask("b", 3, now).grants
    assert [grant.probe for grant in again] == [True]
    fleet.ask("a", 0, now, probe_unused=probe.id)  # told twice, of a probe long given to another
    assert fleet.ledger.circuit is Circuit.HALF_OPEN
    assert fleet.ledger.probe == again[0].id


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_a_probe_given_up_for_lost_has_no_say(outcome: str) -> None:
    fleet = Fleet().opened()
    lost, now = fleet.probe(), fleet.ledger.open_until + decisions.quota.PROBE_SECONDS
    fresh = fleet.one(now, "b")
    assert fresh.probe
    if outcome == "succeeded":
        fleet.ask("a", 0, now, succeeded=True, probe_succeeded=lost.id)
    else:
        fleet.failed(lost, now)
    assert (fleet.ledger.circuit, fleet.ledger.probe) == (Circuit.HALF_OPEN, fresh.id)


def test_failures_of_calls_from_before_the_outage_was_over_count_no_more() -> None:
    fleet = Fleet()
    grants = fleet.ask("a", 40, NOW).grants
    for grant in grants[:5]:
        fleet.failed(grant, NOW + 2)
    probe = fleet.probe()
    over = fleet.ledger.open_until + 30
    fleet.ask("a", 0, over, succeeded=True, probe_succeeded=probe.id)
    for grant in grants[5:]:
        assert decisions.quota.is_of_outage(fleet.ledger, grant)
        fleet.failed(grant, over + 60)
    assert (fleet.ledger.circuit, fleet.ledger.failures) == (Circuit.CLOSED, 0)
    assert not decisions.quota.is_of_outage(fleet.ledger, fleet.one(over + 61))


def test_failures_of_calls_under_way_do_not_prolong_an_open_circuit() -> None:
    fleet = Fleet()
    grants = fleet.ask("a", 40, NOW).grants
    for number, grant in enumerate(grants):
        fleet.failed(grant, NOW + number)
    assert fleet.ledger.opened_times == 1
    assert fleet.ledger.open_until == NOW + decisions.quota.FAILURES_TO_OPEN - 1 + decisions.quota.FIRST_OPEN_SECONDS


# --- the vendor's day


def test_a_spent_day_waits_for_midnight_in_california() -> None:
    fleet = Fleet()
    fleet.ledger = decisions.quota.day_spent(fleet.ledger, fleet.one(NOW), NOW)
    midnight = datetime(2026, 3, 3, 8, 0, tzinfo=UTC).timestamp()
    reserved = fleet.ask("a", 5, NOW + 10)
    assert reserved.day_spent
    assert (reserved.grants, reserved.ask_again_at) == ((), midnight)
    assert len(fleet.ask("a", 5, midnight).grants) == 5


@pytest.mark.parametrize(
    ("now", "reset"),
    [
        ("2026-03-08T09:30:00+00:00", "2026-03-09T07:00:00+00:00"),  # the day summer time begins: 23 hours
        ("2026-11-01T08:30:00+00:00", "2026-11-02T08:00:00+00:00"),  # the day it ends: 25 hours
        ("2026-12-31T23:00:00+00:00", "2027-01-01T08:00:00+00:00"),
    ],
)
def test_the_reset_keeps_to_californias_clocks(now: str, reset: str) -> None:
    found = decisions.quota.next_reset(datetime.fromisoformat(now).timestamp())
    assert datetime.fromtimestamp(found, UTC).isoformat() == reset


# --- a failure that no answer has followed


@pytest.mark.parametrize(
    ("answered", "told", "outage"),
    [
        (None, None, True),
        (-50.0, -50.0, True),
        (-5.0, 4.0, True),
        (0.0, 4.0, True),
        (0.5, 4.0, False),
        (4.0, 4.0, False),
    ],
    ids=["never", "long before", "before, told after", "in the same moment", "after", "just told"],
)
def test_only_an_answer_after_a_failure_shows_that_the_vendor_works(
    answered: float | None, told: float | None, outage: bool
) -> None:
    """Workers tell of answers with later reservations: what counts is when the vendor gave them."""
    fleet = Fleet()
    failing = fleet.one(NOW - 100)
    if answered is not None and told is not None and told < 0:
        fleet.ask("b", 0, NOW + told, succeeded=True, answered_seconds_ago=told - answered)
    fleet.failed(failing, NOW)
    if answered is not None and told is not None and told > 0:
        fleet.ask("b", 0, NOW + told, succeeded=True, answered_seconds_ago=told - answered)
    assert decisions.quota.may_be_outage(fleet.ledger, NOW) is outage


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 120), st.booleans()), max_size=20))
def test_the_last_answer_is_the_latest_that_was_told(told: list[tuple[float, float, bool]]) -> None:
    """Whoever tells of it, in whatever order, beside a reservation or a failure of its own."""
    ledger, now, latest = Ledger(id="m"), NOW, 0.0
    grant = Grant(id="g", tier=Tier.NORMAL, start=NOW, epoch=0)
    for after, age, fails in told:
        now += after
        latest = max(latest, now - age)
        if fails:
            ledger = decisions.quota.failed(ledger, grant, now, answered_seconds_ago=age)
            assert ledger.failures == 1, "those before the answer are forgotten"
        else:
            ledger = decisions.quota.heard(
                ledger, QuotaRequest(worker="w", wanted={}, succeeded=True, answered_seconds_ago=age), now
            )
    assert ledger.answered_at == latest
    assert decisions.quota.may_be_outage(ledger, latest) and not decisions.quota.may_be_outage(ledger, latest - 1.0)
    assert decisions.quota.failed(ledger, grant, now).answered_at == latest, "a failure alone tells of no answer"
