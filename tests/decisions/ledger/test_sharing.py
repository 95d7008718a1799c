"""The quota's rules while all is well: no rolling minute above the limit, slots, the tiers' shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.decisions.fairness import TIER_WEIGHTS
from shared.decisions.quota import Ledger
from shared.errors import BadSetting
from shared.messages import decode, encode
from shared.model import Tier
from shared.settings import LIMITS, Limit, from_environment
from tests.decisions.ledger.parts import NOW, PER_MINUTE, Fleet, max_in_a_minute

SLOTS = Limit(concurrent=5)
WINDOW = decisions.quota.WINDOW_SECONDS + decisions.quota.MARGIN_SECONDS


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
