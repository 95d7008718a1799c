"""Speed and progress as they are measured and told: in status.json, through AGGREGATE, in batch.completed."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decisions import forecast
from shared.decisions.forecast import Capacity, Pace
from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Call, Control, Counts, ImageState, Tier
from shared.results.status import known_speed, status_of, write_status
from shared.settings import Gemini, Limit, TierFactors
from tests import builders
from tests.decisions.forecast.parts import ECONOMY, EXPRESS, NORMAL, NOW
from tests.harness.fakes import IMAGE, TEXT
from tests.harness.world import SETTINGS, World, virtual

STATUS = "results/acme/b1/status.json"


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
    known = {"id": "acme.b1", "total": 100, "state": BatchState.PROCESSING, "created_at": NOW}
    return builders.a_batch(**known | changes)


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
