"""How the tiers share, against two oracles, and what the ledger leaves for them."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared import decisions
from shared.decisions import forecast
from shared.decisions.forecast import Capacity
from shared.decisions.quota import Circuit, Grant, Ledger, QuotaRequest
from shared.model import Tier
from shared.settings import FleetRules, Gemini, Limit, Settings, StagingRules, Typical, WorkerLimits
from tests.decisions.forecast.parts import ECONOMY, EXPRESS, NORMAL, NOW, WEIGHTS, closed_form, work
from tests.harness.fakes import IMAGE, TEXT

large_work = st.fixed_dictionaries({tier: st.floats(0, 1e5, allow_subnormal=False) for tier in Tier})
rates = st.floats(1e-3, 1e3)


def brute_force(left: dict[Tier, int], of: Tier, rate: float, grains: int = 40) -> float:
    """Serve grain by grain whoever has had least for its weight; the time of the last grain of `of`."""
    todo = {tier: images * grains for tier, images in left.items()}
    had = dict.fromkeys(Tier, 0)
    turns = 0
    while todo[of]:
        tier = min((t for t in Tier if todo[t]), key=lambda t: (had[t] + 1) / WEIGHTS[t])
        todo[tier] -= 1
        had[tier] += 1
        turns += 1
    return turns / grains / rate


# --- sharing


@hypothesis_settings(max_examples=60, deadline=None)
@given(work, st.sampled_from(list(Tier)), rates)
def test_sharing_is_as_the_brute_force_has_it(left: dict[Tier, int], of: Tier, rate: float) -> None:
    found = forecast.finish_seconds({tier: float(images) for tier, images in left.items()}, of, rate)
    grain = 1 / 40 / rate
    assert abs(found - brute_force(left, of, rate)) <= 12 * grain  # a turn of each weight, and rounding


@given(large_work, st.sampled_from(list(Tier)), rates)
def test_sharing_is_as_the_closed_form_has_it(left: dict[Tier, float], of: Tier, rate: float) -> None:
    found = forecast.finish_seconds(left, of, rate)
    assert math.isclose(found, closed_form(left, of, rate), rel_tol=1e-6, abs_tol=1e-6 / rate)


@given(large_work, rates)
def test_nothing_is_wasted(left: dict[Tier, float], rate: float) -> None:
    """All the work at the full rate is when the last tier ends."""
    last = max(forecast.finish_seconds(left, tier, rate) for tier in Tier)
    assert math.isclose(last, sum(left.values()) / rate, rel_tol=1e-6, abs_tol=1e-6 / rate)


@given(large_work, st.sampled_from(list(Tier)), st.sampled_from(list(Tier)), st.floats(0, 1e5), rates)
def test_more_backlog_never_makes_it_earlier(
    left: dict[Tier, float], of: Tier, where: Tier, more: float, rate: float
) -> None:
    before = forecast.finish_seconds(left, of, rate)
    after = forecast.finish_seconds({**left, where: left[where] + more}, of, rate)
    assert after >= before * (1 - 1e-9) - 1e-6 / rate


@given(large_work, st.sampled_from(list(Tier)), rates, st.floats(1, 100))
def test_time_is_in_proportion_to_the_rate(left: dict[Tier, float], of: Tier, rate: float, factor: float) -> None:
    slow, fast = (forecast.finish_seconds(left, of, r) for r in (rate, rate * factor))
    assert math.isclose(slow, fast * factor, rel_tol=1e-9, abs_tol=1e-9)


@given(st.floats(1, 1e5), rates)
def test_a_weightier_tier_is_never_later_with_equal_work(images: float, rate: float) -> None:
    express, normal, economy = (forecast.finish_seconds(dict.fromkeys(Tier, images), tier, rate) for tier in Tier)
    assert express < normal < economy
    assert math.isclose(express, images * 10 / 6 / rate, rel_tol=1e-9)


def test_sharing_by_hand() -> None:
    left = {EXPRESS: 60.0, NORMAL: 60.0, ECONOMY: 60.0}
    assert forecast.finish_seconds(left, EXPRESS, 1.0) == pytest.approx(100)  # 60 : 30 : 10
    assert forecast.finish_seconds(left, NORMAL, 1.0) == pytest.approx(140)  # 30 left at three quarters
    assert forecast.finish_seconds(left, ECONOMY, 1.0) == pytest.approx(180)
    assert forecast.finish_seconds({ECONOMY: 60.0}, ECONOMY, 1.0) == pytest.approx(60)  # alone: all of it
    assert forecast.finish_seconds({EXPRESS: 60.0}, ECONOMY, 1.0) == 0.0
    assert forecast.finish_seconds({}, ECONOMY, 1.0) == 0.0
    assert forecast.finish_seconds(left, ECONOMY, math.inf) == 0.0


# --- capacity

MODELS = {TEXT: 2, IMAGE: 1}


def limited(**limits: Limit) -> Settings:
    named = {TEXT: limits.get("text"), IMAGE: limits.get("image")}
    return Settings(
        limits={model: limit for model, limit in named.items() if limit},
        gemini=Gemini(text_model=TEXT, image_model=IMAGE),
        typical=Typical(call_seconds=30.0, image_seconds=50.0),
    )


@pytest.mark.parametrize(
    ("text", "image", "per_second", "bound"),
    [
        (Limit(per_minute=120), Limit(per_minute=30), 0.5, IMAGE),
        (Limit(per_minute=60), Limit(per_minute=60), 0.5, TEXT),  # two calls an image
        (Limit(per_minute=600), Limit(concurrent=5), 5 / 30, IMAGE),
        (Limit(concurrent=6), Limit(per_minute=600), 0.1, TEXT),
        (Limit(per_minute=600), Limit(per_minute=60, concurrent=3), 0.1, IMAGE),  # both: the lower
        (None, Limit(per_minute=30), 0.5, IMAGE),
    ],
)
def test_the_busiest_model_bounds_the_fleet(text: Limit | None, image: Limit, per_second: float, bound: str) -> None:
    settings = limited(image=image, **({"text": text} if text else {}))
    found = forecast.capacity(settings, {}, MODELS, NOW)
    assert (found.images_per_second, found.limited_by) == (pytest.approx(per_second), bound)
    assert found.blocked_seconds == 0


@pytest.mark.parametrize(
    ("fleet", "in_flight", "image_seconds", "per_second", "bound"),
    [
        (FleetRules(), 50, 50.0, 1.0, "50 images in flight"),  # somebody else's worker: one
        (FleetRules(max_instances=3), 50, 50.0, 1.0, "50 images in flight"),  # no pool: nobody starts the others
        (FleetRules(pool="p"), 50, 50.0, 4.0, "200 images in flight"),
        (FleetRules(pool="p", max_instances=3), 10, 20.0, 1.5, "30 images in flight"),
        (FleetRules(pool="p", max_instances=100), 50, 50.0, 10.0, IMAGE),  # more slots than quota
    ],
)
def test_slots_bound_the_fleet(
    fleet: FleetRules, in_flight: int, image_seconds: float, per_second: float, bound: str
) -> None:
    settings = msgspec.structs.replace(
        limited(image=Limit(per_minute=600), text=Limit(per_minute=6000)),
        fleet=fleet, worker=WorkerLimits(in_flight=in_flight), typical=Typical(image_seconds=image_seconds),
    )  # fmt: skip
    found = forecast.capacity(settings, {}, MODELS, NOW)
    assert (found.images_per_second, found.limited_by) == (pytest.approx(per_second), bound)
    without_quota = forecast.capacity(settings, {}, {}, NOW)
    slots = in_flight * (fleet.max_instances if fleet.pool else 1)
    assert without_quota == Capacity(slots / image_seconds, f"{slots} images in flight")


def test_a_model_for_all_three_calls_is_counted_three_times() -> None:
    settings = Settings(gemini=Gemini(text_model=IMAGE, image_model=IMAGE), limits={IMAGE: Limit(per_minute=60)})
    assert forecast.calls_by_model(settings) == {IMAGE: 3}
    found = forecast.capacity(settings, {}, forecast.calls_by_model(settings), NOW)
    assert found.images_per_second == pytest.approx(1 / 3)


def test_operators_limit_goes_before_the_settings() -> None:
    ledger = Ledger(id=IMAGE, limit=Limit(per_minute=6))
    found = forecast.capacity(limited(image=Limit(per_minute=60)), {IMAGE: ledger}, MODELS, NOW)
    assert found.images_per_second == pytest.approx(0.1)


def test_slow_mode_slows_the_forecast() -> None:
    ledger = Ledger(id=IMAGE, rate=0.25, rate_changed_at=NOW)
    found = forecast.capacity(limited(image=Limit(per_minute=60)), {IMAGE: ledger}, MODELS, NOW)
    assert found.images_per_second == pytest.approx(0.25)


def test_slow_mode_of_yesterday_slows_nothing_today() -> None:
    """The ledger recovers when somebody asks; until then the document says what was, not what will be granted."""
    limit = Limit(per_minute=60)
    ledger = Ledger(id=IMAGE, rate=0.25, rate_changed_at=NOW - 86_400)
    asked = QuotaRequest(worker="w", wanted={NORMAL: ("a",)})
    assert decisions.quota.reserve(ledger, asked, limit, NOW)[0].rate == 1.0  # what the first reservation will find
    found = forecast.capacity(limited(image=limit), {IMAGE: ledger}, MODELS, NOW)
    assert found.images_per_second == pytest.approx(1.0)


def test_slow_mode_halves_concurrent_slots_too() -> None:
    """The forecast counts on as many as are given."""
    limit = Limit(concurrent=10)
    ledger = Ledger(id=IMAGE, rate=0.5, rate_changed_at=NOW)
    asked = QuotaRequest(worker="w", wanted={NORMAL: tuple(map(str, range(50)))})
    given_at_once = len(decisions.quota.reserve(ledger, asked, limit, NOW)[1].grants)
    found = forecast.capacity(limited(image=limit), {IMAGE: ledger}, MODELS, NOW)
    assert given_at_once == 5
    assert found.images_per_second == pytest.approx(given_at_once / 30)


@pytest.mark.parametrize(
    ("ledger", "blocked"),
    [
        (Ledger(id=IMAGE, circuit=Circuit.OPEN, open_until=NOW + 30), 30.0),
        (Ledger(id=IMAGE, circuit=Circuit.OPEN, open_until=NOW - 30), 0.0),
        (Ledger(id=IMAGE, circuit=Circuit.CLOSED, open_until=NOW + 30), 0.0),  # closed by its probe before its time
        (Ledger(id=IMAGE, day_spent_until=NOW + 3600), 3600.0),
        (Ledger(id=IMAGE, day_spent_until=NOW - 1), 0.0),
        (Ledger(id=IMAGE, day_spent_until=NOW + 100, circuit=Circuit.OPEN, open_until=NOW + 300), 300.0),
    ],
)
def test_what_stands_still_is_told(ledger: Ledger, blocked: float) -> None:
    settings = limited(image=Limit(per_minute=60), text=Limit(per_minute=120))
    found = forecast.capacity(settings, {IMAGE: ledger, TEXT: Ledger(id=TEXT)}, MODELS, NOW)
    assert found.blocked_seconds == pytest.approx(blocked)


def test_the_vendors_own_pause_stands_still_too() -> None:
    """After a 429 with RetryInfo of two minutes nothing starts for as long."""
    grant = Grant(id="g", tier=NORMAL, start=NOW, epoch=0)
    ledger = decisions.quota.throttled(Ledger(id=IMAGE), grant, 120.0, NOW)
    asked = QuotaRequest(worker="w", wanted={NORMAL: ("a",)})
    assert decisions.quota.reserve(ledger, asked, Limit(per_minute=60), NOW)[1].grants == ()
    found = forecast.capacity(limited(image=Limit(per_minute=60)), {IMAGE: ledger}, MODELS, NOW)
    assert found.blocked_seconds == pytest.approx(121.0)


def test_the_preview_has_no_quota() -> None:
    settings = Settings(staging=StagingRules(model="preview"))
    assert forecast.calls_by_model(settings) == {}
    assert forecast.capacity(settings, {}, {}, NOW) == Capacity(1.0, "50 images in flight", 0.0)
