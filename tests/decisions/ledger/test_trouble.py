"""The quota's rules in trouble: slow mode, the breaker, the vendor's day."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.decisions.quota import Circuit, Grant, Ledger, QuotaRequest
from shared.model import Tier
from shared.settings import Limit
from tests.decisions.ledger.parts import NOW, PER_MINUTE, Fleet, max_in_a_minute

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
