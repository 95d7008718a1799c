"""How long and how dear: the tiers' sharing against two oracles, capacity against the ledger, speed and progress told."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared import decisions
from shared.decisions import forecast
from shared.decisions.forecast import Capacity, Pace
from shared.decisions.money import price_usd
from shared.decisions.quota import Circuit, Grant, Ledger, QuotaRequest
from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Call, Control, Counts, ImageState, ManifestRef, Tier
from shared.results.status import known_speed, status_of, write_status
from shared.settings import (
    FleetRules,
    Gemini,
    Limit,
    Price,
    Settings,
    StagingRules,
    TierFactors,
    Typical,
    WorkerLimits,
)
from tests.parts import IMAGE, SETTINGS, TEXT, World, virtual

EXPRESS, NORMAL, ECONOMY = Tier
WEIGHTS = {EXPRESS: 6, NORMAL: 3, ECONOMY: 1}  # the promise, not the product's own table
NOW = 1_772_442_000.0
STATUS = "results/acme/b1/status.json"

work = st.fixed_dictionaries({tier: st.integers(0, 40) for tier in Tier})
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


def closed_form(left: dict[Tier, float], of: Tier, rate: float) -> float:
    """When `of` is through, every tier has had the same for its weight, or all it wanted."""
    turns = left[of] / WEIGHTS[of]
    return sum(min(left[tier], turns * WEIGHTS[tier]) for tier in Tier) / rate if left[of] else 0.0


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


# --- cost and price


def test_a_typical_image_by_hand() -> None:
    settings = Settings(
        prices={TEXT: Price(input_usd=1.0, output_usd=2.0), IMAGE: Price(input_usd=3.0, output_usd=40.0)},
        gemini=Gemini(text_model=TEXT, image_model=IMAGE),
        typical=Typical(text_input_tokens=1000, text_output_tokens=100, image_input_tokens=10, image_output_tokens=1000,
                        generations=2.0),
    )  # fmt: skip
    assert forecast.cost_per_image_usd(settings) == pytest.approx(0.0012 + 2 * 0.04003)
    preview = msgspec.structs.replace(settings, staging=StagingRules(model="preview"))
    assert forecast.cost_per_image_usd(preview) == 0.0


@pytest.mark.parametrize(("tier", "price"), [(EXPRESS, 3.0), (NORMAL, 2.0), (ECONOMY, 1.4)])
def test_tiers_change_the_price(tier: Tier, price: float) -> None:
    """Express half as much again, economy 30 % less."""
    assert price_usd(TierFactors(), tier, 2.0) == price


def test_factors_are_settings() -> None:
    settings = Settings(tiers=TierFactors(express_factor=3.0, normal_factor=1.1, economy_factor=0.0))
    assert [price_usd(settings.tiers, tier, 1.0) for tier in Tier] == [3.0, 1.1, 0.0]


def test_measured_cost_is_weighted_by_images() -> None:
    assert forecast.measured_cost_usd([(10.0, 100), (1.0, 1)]) == pytest.approx(11 / 101)
    assert forecast.measured_cost_usd([]) is None
    assert forecast.measured_cost_usd([(0.0, 50), (3.0, 0)]) is None  # the preview's; nothing completed
    assert forecast.measured_cost_usd(iter([(0.0, 50), (2.0, 4)])) == 0.5


# --- estimate


def estimated(settings: Settings | None = None, **changes: Any) -> forecast.Estimate:
    given_ = {
        "tier": NORMAL, "images": 100, "repeated": 0, "already_staged": 0, "backlog": {},
        "capacity": Capacity(1.0, IMAGE), "measured_cost_usd": 0.06,
    }  # fmt: skip
    return forecast.estimate(settings or Settings(), **{**given_, **changes})


def test_an_estimate_by_hand() -> None:
    found = estimated(repeated=30, already_staged=10, backlog={NORMAL: 60, EXPRESS: 60})
    assert (found.to_buy, found.cached_share, found.cost_measured) == (60, 0.4, True)
    assert found.cost_usd == 3.6
    assert {name: tier.price_usd for name, tier in found.tiers.items()} == {
        "express": 5.4, "normal": 3.6, "economy": 2.52,
    }  # fmt: skip
    # Beside 60 express and 60 normal ones: as express 60 normal get a third of the way; 50 s for the last image itself.
    assert found.tiers["express"].seconds == pytest.approx(120 + 60 + 50)
    assert found.tiers["normal"].seconds == pytest.approx(180 + 50)
    assert found.tiers["economy"].seconds == pytest.approx(180 + 50)
    assert found.backlog == {"express": 60, "normal": 60, "economy": 0}
    assert (found.tier, found.images_per_minute, found.limited_by) == ("normal", 60.0, IMAGE)


def test_an_estimate_is_a_json_document_as_its_readers_expect() -> None:
    found = json.loads(msgspec.json.encode(estimated()))
    assert {"toBuy", "alreadyStaged", "cachedShare", "costPerImageUsd", "costUsd", "imagesPerMinute"} <= set(found)
    assert set(found["tiers"]["express"]) == {"priceUsd", "seconds"}


@hypothesis_settings(deadline=None)
@given(
    st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1), work, st.floats(0.01, 100),
    st.floats(0, 1e5), st.sampled_from(list(Tier)),
)  # fmt: skip
def test_an_estimate_adds_up(
    images: int, part: float, rest: float, backlog: dict[Tier, int], rate: float, blocked: float, tier: Tier
) -> None:
    repeated = int(images * part)
    staged = int((images - repeated) * rest)
    capacity = Capacity(rate, IMAGE, blocked)
    found = estimated(
        images=images, repeated=repeated, already_staged=staged, backlog=backlog, capacity=capacity, tier=tier
    )
    assert found.to_buy + found.repeated + found.already_staged == found.images == images
    assert 0 <= found.cached_share <= 1
    assert found.cost_usd == pytest.approx(0.06 * found.to_buy, abs=1e-6)
    express, normal, economy = (found.tiers[name] for name in ("express", "normal", "economy"))
    assert express.price_usd >= normal.price_usd >= economy.price_usd
    if not any(backlog.values()):  # a weightier tier may be the longer queue
        assert express.seconds == normal.seconds == economy.seconds
    if found.to_buy:
        own = {t: float(backlog[t] + (found.to_buy if t is tier else 0)) for t in Tier}
        expected = blocked + closed_form(own, tier, rate) + 50
        assert found.tiers[tier.value].seconds == pytest.approx(expected, rel=1e-6, abs=0.06)


def test_what_the_cache_gives_whole_waits_for_no_vendor() -> None:
    """ "What the cache gives takes no call": a spent day or an open circuit does not hold it up."""
    found = estimated(already_staged=100, capacity=Capacity(1.0, IMAGE, 8 * 3600.0))
    assert (found.to_buy, found.cost_usd, found.cached_share) == (0, 0.0, 1.0)
    assert [tier.seconds for tier in found.tiers.values()] == [0.0, 0.0, 0.0]
    some = estimated(already_staged=99, capacity=Capacity(1.0, IMAGE, 8 * 3600.0))  # one is bought: it waits
    assert [tier.seconds for tier in some.tiers.values()] == [8 * 3600 + 1 + 50.0] * 3


def test_without_a_quota_the_slots_bound_the_speed() -> None:
    """The preview, or a vendor without limit: 10,000 images of 50 s each are not done in 50 s by one worker of 50 slots."""
    settings = Settings(staging=StagingRules(model="preview"))
    capacity = forecast.capacity(settings, {}, forecast.calls_by_model(settings), NOW)
    few, many = (
        estimated(settings, images=images, capacity=capacity, measured_cost_usd=None) for images in (50, 10_000)
    )
    assert (few.tiers["normal"].seconds, many.tiers["normal"].seconds) == (100.0, 10_050.0)
    assert (many.images_per_minute, many.limited_by) == (60.0, "50 images in flight")


def test_the_preview_costs_nothing_whatever_others_measured() -> None:
    found = estimated(Settings(staging=StagingRules(model="preview")), measured_cost_usd=0.06)
    assert found.cost_usd == 0.0


# --- measured speed


PACES = st.builds(Pace, st.floats(0, 1e4), st.floats(0.001, 120.0))


@given(PACES, st.integers(0, 1000), st.floats(0.001, 1e5))
def test_speed_lies_between_what_was_known_and_what_is_new(known: Pace, settled: int, seconds: float) -> None:
    found = forecast.pace_now(known, settled, seconds).images_per_second
    latest, before = settled / seconds, known.images_per_second
    assert found is not None
    assert before is not None
    low, high = sorted((latest, before))
    assert low - 1e-9 * (1 + high) <= found <= high + 1e-9 * (1 + high)


@given(st.one_of(st.just(Pace()), PACES), st.floats(0.1, 1e3), st.integers(1, 5))
def test_speed_does_not_depend_on_how_often_it_is_refreshed(known: Pace, span: float, parts: int) -> None:
    """Refreshed once or in parts at one and the same pace, it forgets as much."""
    settled = 6  # images in each part
    once = forecast.pace_now(known, settled * parts, span * parts)
    stepwise = known
    for _ in range(parts):
        stepwise = forecast.pace_now(stepwise, settled, span)
    assert math.isclose(once.images, stepwise.images, rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(once.seconds, stepwise.seconds, rel_tol=1e-6, abs_tol=1e-9)


@given(st.floats(0.01, 100), st.lists(st.floats(0.1, 60), min_size=1, max_size=20))
def test_a_steady_speed_is_right_from_the_first_measurement_on(speed: float, spans: list[float]) -> None:
    pace = Pace()
    for span in spans:
        pace = forecast.pace_now(pace, round(speed * span * 1000), span)
        assert pace.images_per_second == pytest.approx(speed * 1000, rel=1 / (speed * span * 1000) + 0.01, abs=10)


def test_speed_forgets_within_two_minutes() -> None:
    full = Pace(120.0, 120.0)
    assert forecast.pace_now(full, 0, 120.0).images_per_second == pytest.approx(1 / math.e)
    assert forecast.pace_now(Pace(), 6, 12.0).images_per_second == pytest.approx(0.5)
    assert forecast.pace_now(full, 9, 0.0) == Pace(129.0, 120.0)
    assert forecast.pace_now(full, 9, -3.0) == Pace(129.0, 120.0)  # a clock that was set back
    assert forecast.pace_now(full, -9, 0.0) == full
    assert forecast.pace_now(Pace(), 9, 0.0).images_per_second is None
    assert forecast.pace_now(full, -9, 1e6).images_per_second == pytest.approx(0.0)  # requeued: no negative speed


# --- ETA


@pytest.mark.parametrize(
    ("left", "speed", "capacity", "eta"),
    [
        (0, None, None, 0.0),
        (0, 0.0, Capacity(1.0, "m", 99.0), 0.0),
        (100, 0.5, None, 200.0),
        (100, 0.5, Capacity(10.0, "m"), 200.0),  # measured is slower than allowed
        (100, 5.0, Capacity(0.5, "m"), 200.0),  # never faster than the quota
        (100, 0.5, Capacity(10.0, "m", 60.0), 260.0),
        (100, None, Capacity(10.0, "m"), None),  # before the first image, whatever the quota allows
        (100, 0.0, Capacity(1.0, "m"), None),
        (100, 0.0, Capacity(1.0, "m", 60.0), None),
        (100, None, None, None),
        (100, 0.5, Capacity(1.0, "m", 30.0, outage=True), None),  # the next test call is in 30 s; it may fail
        (0, 0.5, Capacity(1.0, "m", 30.0, outage=True), 0.0),
    ],
)  # fmt: skip
def test_eta(left: int, speed: float | None, capacity: Capacity | None, eta: float | None) -> None:
    assert forecast.eta_seconds(left, speed, capacity) == eta


def a_batch(**changes: Any) -> Batch:
    batch = Batch(
        id="acme.b1", client="acme", client_name="Acme", tier=NORMAL, total=100, shards=8, state=BatchState.PROCESSING,
        manifest=ManifestRef(uri="memory://m", generation=1, sha256="0", base=""), created_at=NOW,
    )  # fmt: skip
    return msgspec.structs.replace(batch, **changes)


def test_status_tells_speed_and_eta() -> None:
    found = status_of(a_batch(), Counts(queued=50, completed=50), NOW, 0.5, Capacity(1.0, "m", 10.0))
    assert (found["imagesPerMinute"], found["etaSeconds"], found["progress"]) == (30.0, 110.0, 0.5)


@pytest.mark.parametrize(
    "changes",
    [{"control": Control.PAUSED}, {"control": Control.CANCELLING}, {"state": BatchState.INGESTING},
     {"state": BatchState.CLOSING}, {"state": BatchState.CLOSED}, {"state": BatchState.REOPENING}],
)  # fmt: skip
def test_what_does_not_move_has_no_eta(changes: dict[str, Any]) -> None:
    found = status_of(a_batch(**changes), Counts(queued=50, completed=50), NOW, 0.5, Capacity(1.0, "m"))
    assert (found["imagesPerMinute"], found["etaSeconds"]) == (None, None)


# --- the speed in status.json


async def shown(world: World) -> dict[str, Any]:
    got = await world.objects.get("results", STATUS)
    assert got is not None
    found: dict[str, Any] = json.loads(got[1])
    return found


async def refresh(world: World, batch: Batch, settled: int, capacity: Capacity | None = None) -> dict[str, Any]:
    counts = Counts(queued=batch.total - settled, completed=settled)
    await write_status(world.objects, "results", batch, counts, world.clock.now(), capacity)
    return await shown(world)


@virtual
async def test_the_speed_goes_on_from_one_refresh_to_the_next(world: World) -> None:
    batch = a_batch(total=1000, created_at=world.clock.now())
    await world.clock.sleep(10)
    assert (await refresh(world, batch, 20))["imagesPerMinute"] is None, "the first ones took as long as one takes"
    await world.clock.sleep(10)
    assert (await refresh(world, batch, 40))["imagesPerMinute"] == 120.0
    for settled in range(60, 900, 20):
        await world.clock.sleep(10)
        assert (await refresh(world, batch, settled))["imagesPerMinute"] == 120.0
    await world.clock.sleep(120)  # nothing settles
    found = await refresh(world, batch, 880)
    assert found["imagesPerMinute"] == pytest.approx(120 / math.e, rel=0.05)
    stored = await world.objects.stat("results", STATUS)
    speed = known_speed(stored)
    assert speed == pytest.approx(2 / math.e, rel=0.05)
    assert speed is not None
    assert found["etaSeconds"] == pytest.approx(120 / speed, abs=0.1)
    assert known_speed(None) is None


@virtual
async def test_a_young_batch_is_told_when_it_will_be_done(world: World) -> None:
    """A thousand images at a steady one a second, the first after 50 s: told within a few percent, from the second on."""
    began = world.clock.now()
    batch = a_batch(total=1000, created_at=began)
    for settled in range(1, 1000, 3):
        await world.clock.sleep(50 if settled == 1 else 3)
        told = (await refresh(world, batch, settled, Capacity(1.0, IMAGE)))["etaSeconds"]
        truth = began + 50 + 999 - world.clock.now()
        assert told is None if settled == 1 else told == pytest.approx(truth, rel=0.02, abs=1.0)


@virtual
async def test_repeated_refreshes_of_one_moment_change_no_speed(world: World) -> None:
    batch = a_batch(created_at=world.clock.now())
    await refresh(world, batch, 10)
    await world.clock.sleep(10)
    first = await refresh(world, batch, 30)
    for _ in range(5):
        assert (await refresh(world, batch, 30))["imagesPerMinute"] == first["imagesPerMinute"] == 120.0


@virtual
async def test_old_news_change_no_speed(world: World) -> None:
    batch = a_batch(created_at=world.clock.now())
    await refresh(world, batch, 1)
    await world.clock.sleep(10)
    await refresh(world, batch, 21)
    await world.clock.sleep(10)
    late = await refresh(world, batch, 5)  # another process, with what it knew a while ago
    assert (late["completed"], late["imagesPerMinute"]) == (21, 120.0)


@virtual
async def test_a_new_round_measures_anew(world: World) -> None:
    batch = a_batch(created_at=world.clock.now())
    await world.clock.sleep(10)
    await refresh(world, batch, 90)
    await world.clock.sleep(86_400)
    again = msgspec.structs.replace(batch, round=2)
    assert (await refresh(world, again, 90))["imagesPerMinute"] is None  # not those of the round before
    await world.clock.sleep(10)
    assert (await refresh(world, again, 95))["imagesPerMinute"] == 30.0


@virtual
async def test_status_json_and_the_command_line_tell_one_eta(world: World) -> None:
    """Both at the same moment, about the same batch, before its first image is through."""
    batch = a_batch(created_at=world.clock.now())
    capacity = Capacity(1.0, IMAGE)
    await world.clock.sleep(10)
    in_file = await refresh(world, batch, 0, capacity)
    speed = known_speed(await world.objects.stat("results", STATUS))
    on_terminal = status_of(batch, Counts(queued=100), world.clock.now(), speed, capacity)
    assert in_file["etaSeconds"] is None  # "null when nothing is moving: before the first image"
    assert on_terminal["etaSeconds"] == in_file["etaSeconds"]


# --- through AGGREGATE

QUOTA = msgspec.structs.replace(
    SETTINGS, limits={IMAGE: Limit(per_minute=6)}, gemini=Gemini(text_model=TEXT, image_model=IMAGE)
)


async def settle(world: World, index: int, state: ImageState = ImageState.COMPLETED) -> None:
    await world.change_image(index, state=ImageState.PROCESSING)
    await world.change_image(index, state=state, settled_at=world.clock.now())
    for delivery in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))


@virtual
async def test_status_is_never_faster_than_the_quota(world: World) -> None:
    world = World(world.clock, QUOTA)
    await world.batch(20)
    for index in range(8):
        await world.clock.sleep(1)
        await settle(world, index)
    found = await shown(world)
    assert found["imagesPerMinute"] > 6
    left = found["queued"] + found["processing"]
    assert found["etaSeconds"] == pytest.approx(left * 10)


async def progress_of(world: World) -> list[dict[str, Any]]:
    return [event for event in await world.events() if event["ce-type"] == "ruum.batch.progress"]


@virtual
async def test_each_tenth_is_told_once(world: World) -> None:
    world = World(world.clock, QUOTA)
    await world.batch(20)
    for index in range(20):
        await world.clock.sleep(10)
        await settle(world, index)
    told = await progress_of(world)
    assert [event["ce-id"] for event in told] == [f"acme.b1/1/progress/{tenth}" for tenth in range(1, 10)]
    fifth = told[4]
    assert (fifth["ce-subject"], fifth["client"]) == ("acme.b1", "acme")
    assert (fifth["data"]["progress"], fifth["data"]["completed"]) == (0.5, 10)
    assert fifth["data"]["etaSeconds"] == pytest.approx(
        100, abs=3
    )  # ten left, one in ten seconds, measured and allowed


@virtual
async def test_other_processes_repeat_no_tenth(world: World) -> None:
    await world.batch(10)
    for index in range(9):
        await world.clock.sleep(5)
        world.rooms = world.rooms_on(world.parts)  # a process of its own for every change
        await settle(world, index)
    ids = [event["ce-id"] for event in await progress_of(world)]
    # The ninth image's claim shows eight; its own end comes within the pause between two looks.
    assert ids == [f"acme.b1/1/progress/{tenth}" for tenth in range(1, 9)]


@virtual
async def test_a_batch_of_three_tells_one_tenth_an_image(world: World) -> None:
    """One of three is past the third, two are past the sixth; the last comes before the batch's completion."""
    await world.batch(3)
    for index in range(3):
        await world.clock.sleep(10)
        await settle(world, index)
    told = [(event["ce-id"], event["data"]["completed"]) for event in await progress_of(world)]
    assert told == [(f"acme.b1/1/progress/{tenth}", done) for tenth, done in ((3, 1), (6, 2), (9, 3))]


@virtual
async def test_a_pause_is_no_slow_speed(world: World) -> None:
    """Resumed after an hour's pause, 20 images at one a second are not told to take days."""
    world = World(world.clock, msgspec.structs.replace(QUOTA, limits={}))
    await world.batch(40)
    for index in range(20):
        await world.clock.sleep(1)
        await settle(world, index)
    await world.rooms.operator.pause("acme.b1", "lunch")
    await world.clock.sleep(3600)
    await world.rooms.operator.resume("acme.b1")
    await world.clock.sleep(1)
    await settle(world, 20)
    await world.clock.sleep(3)
    await settle(world, 21)
    found = await shown(world)
    assert (found["control"], found["completed"]) == ("run", 21)
    assert found["etaSeconds"] is None or found["etaSeconds"] < 600  # truly about 20 s


# --- the price in batch.completed


@pytest.mark.parametrize(("tier", "price"), [(EXPRESS, 0.3024), (NORMAL, 0.2016), (ECONOMY, 0.14112)])
@virtual
async def test_completed_tells_cost_and_price(world: World, tier: Tier, price: float) -> None:
    await world.batch(2, tier=tier)
    for index in range(2):
        call = Call(step="generate", model="m", cost_micro_usd=50_400)
        await world.change_image(index, calls=(call, call))
        await settle(world, index, ImageState.FAILED if index else ImageState.COMPLETED)  # a failed one's calls count
    (event,) = [event for event in await world.events() if event["ce-type"] == "ruum.batch.completed"]
    assert (event["data"]["costUsd"], event["data"]["priceUsd"]) == (0.2016, price)
    completion = (await world.the_batch()).completion
    assert completion is not None
    assert (completion.cost_usd, completion.price_usd) == (0.2016, price)


@virtual
async def test_factors_of_the_settings_reach_the_completion(world: World) -> None:
    world = World(world.clock, msgspec.structs.replace(SETTINGS, tiers=TierFactors(normal_factor=2.0)))
    await world.batch(1)
    await world.change_image(0, calls=(Call(step="generate", model="m", cost_micro_usd=1),))
    await settle(world, 0)
    (event,) = [event for event in await world.events() if event["ce-type"] == "ruum.batch.completed"]
    assert (event["data"]["costUsd"], event["data"]["priceUsd"]) == (0.000001, 0.000002)


@pytest.mark.parametrize(("measured", "kept"), [(0.0, 1.0), (0.4, 0.4), (1.0, 1.0), (3.0, 1.0)])
def test_no_speed_makes_more_of_a_quota(measured: float, kept: float) -> None:
    known = Capacity(images_per_second=1.0, limited_by="the quota")
    found = forecast.at_most(measured, known)
    assert found.images_per_second == kept
    assert found.limited_by == ("the speed measured now" if kept < 1.0 else "the quota")
