"""Workers are woken by work: ingest, replay and resume with a fleet to size."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from shared.assembly import wiring
from shared.decisions.quota import Ledger
from shared.errors import ConfigurationError, RuumError
from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Control, ImageState, Lease, ReplayPlan
from shared.settings import Limit
from shared.topology import topic_of
from tests.harness.fakes import IMAGE
from tests.harness.faults import Fuse, unreachable
from tests.harness.world import World, virtual
from tests.lifecycle.wake.parts import NAME, Fleet, ingest, reconciled, rooms, woken


async def settle_all(world: World, on: wiring.Rooms, state: ImageState, batch: str = "acme.b1") -> None:
    """Every image of the batch to this state, and AGGREGATE told of it."""
    async for image in world.store.images(batch):
        await world.change_image(image.index, batch, state=ImageState.PROCESSING)
        await world.change_image(image.index, batch, state=state, settled_at=world.clock.now())
    for delivery in await world.changes():
        await on.aggregate.handle(decode(ImageChanged, delivery.data))


# --- ingest


@virtual
async def test_a_manifest_wakes_the_workers(world: World) -> None:
    world = woken(world)
    fleet = Fleet()
    seen: list[tuple[BatchState, int]] = []

    async def look() -> None:
        batch = await world.the_batch()
        seen.append((batch.state, await world.queue.waiting(topic_of(batch.tier))))

    fleet.seen_at_scale = look
    await ingest(world, rooms(world, fleet), 3)
    assert fleet.scaled == [2]
    assert seen == [(BatchState.PROCESSING, 3)], "woken when there is something to do, not before"


@pytest.mark.parametrize(("images", "instances"), [(1, 1), (2, 1), (3, 2), (8, 4), (9, 4), (600, 4)])
@virtual
async def test_as_many_as_the_backlog_can_use(world: World, images: int, instances: int) -> None:
    fleet = Fleet()
    world = woken(world)
    await ingest(world, rooms(world, fleet), images)
    assert fleet.scaled == [instances]


@virtual
async def test_the_backlog_is_that_of_all_batches(world: World) -> None:
    world, fleet = woken(world), Fleet(1)
    await world.batch(2, "older")
    await ingest(world, rooms(world, fleet), 3)
    assert fleet.scaled == [3]


@pytest.mark.parametrize("ledger", [{"limit": Limit(per_minute=2)}, {"rate": 1 / 150, "rate_changed_at": 9e9}])
@virtual
async def test_no_more_than_the_quota_can_use(world: World, ledger: dict[str, Any]) -> None:
    """Two calls a minute, by an operator's word or in slow mode, keep fewer than two images in flight."""
    world, fleet = woken(world), Fleet()
    await world.store.change_record(Ledger, IMAGE, lambda known, _: Ledger(id=IMAGE, **ledger), "t")
    await ingest(world, rooms(world, fleet), 9)
    assert fleet.scaled == [1]


@pytest.mark.parametrize("there", [2, 3, 100])
@virtual
async def test_waking_never_stops_a_worker(world: World, there: int) -> None:
    world, fleet = woken(world), Fleet(there)
    await ingest(world, rooms(world, fleet), 3)
    assert (fleet.asked, fleet.scaled, fleet.count) == (1, [], there)


@virtual
async def test_what_opens_no_batch_wakes_nobody(world: World) -> None:
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    rejected = await ingest(world, on, 3, designStyle="nonsense")
    assert rejected.state is BatchState.REJECTED
    assert await on.ingest.handle("intake", "photos/acme/1.jpg") is None
    assert await on.ingest.handle("intake", NAME.format("deleted")) is None
    assert (fleet.asked, fleet.scaled) == (0, [])


@virtual
async def test_the_same_manifest_again_changes_nothing(world: World) -> None:
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    await ingest(world, on, 3)
    await ingest(world, on, 3)
    assert fleet.scaled == [2]


@virtual
async def test_without_a_fleet_all_is_as_it_was(world: World) -> None:
    world = woken(world)
    on = rooms(world, None)
    assert (await ingest(world, on, 3)).state is BatchState.PROCESSING
    assert (await reconciled(on)).instances is None


# --- replay and resume


@virtual
async def test_a_replay_wakes_the_workers(world: World) -> None:
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    await ingest(world, on, 3)
    await settle_all(world, on, ImageState.FAILED)
    assert (await world.the_batch()).state is BatchState.CLOSED
    assert (await reconciled(on)).instances == 0
    fleet.scaled.clear()
    seen: list[BatchState] = []

    async def look() -> None:
        seen.append((await world.the_batch()).state)

    fleet.seen_at_scale = look
    assert await on.replay.run("acme.b1") == 3
    assert (fleet.scaled, seen) == ([2], [BatchState.REOPENING]), "with its first images: a slow one takes hours"


@virtual
async def test_a_replay_of_nothing_wakes_nobody(world: World) -> None:
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    await ingest(world, on, 1)
    await settle_all(world, on, ImageState.COMPLETED)
    await reconciled(on)
    fleet.scaled.clear()
    assert await on.replay.run("acme.b1") == 0
    assert fleet.scaled == []


@virtual
async def test_a_pause_sends_home_and_resume_wakes(world: World) -> None:
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    await ingest(world, on, 3)
    await on.operator.pause("acme.b1")
    assert fleet.scaled == [2], "what is in hand is not killed by a pause"
    assert (await reconciled(on)).instances == 0
    await on.operator.resume("acme.b1")
    assert fleet.scaled == [2, 0, 2]
    await on.operator.resume("acme.b1")
    assert fleet.scaled == [2, 0, 2]


@virtual
async def test_an_interrupted_replay_that_reconcile_carries_on_has_its_workers(world: World) -> None:
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    await ingest(world, on, 3)
    await settle_all(world, on, ImageState.FAILED)
    await reconciled(on)
    fleet.scaled.clear()
    lease = Lease(holder="dead", until=world.clock.now() - 1)
    await world.change_batch(state=BatchState.REOPENING, round=2, replay=ReplayPlan(number=1, lease=lease))
    report = await reconciled(on)
    assert (report.replays, report.instances, fleet.scaled) == (1, 2, [2])


# --- a wake-up that fails is only late

ERRORS = [unreachable(), ConfigurationError("the pool is gone")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["instances", "scale"])
@virtual
async def test_a_fleet_that_is_away_keeps_no_manifest_out(
    world: World, method: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world, fleet = woken(world), Fleet()
    fleet.error = (method, error)
    on = rooms(world, fleet)
    assert (await ingest(world, on, 3)).state is BatchState.PROCESSING
    assert await world.queue.waiting("stage-image-normal") == 3
    fault = isinstance(error, ConfigurationError)  # operators hear of it: the schedule would not be allowed to either
    (said,) = [record for record in caplog.records if "not woken" in str({**vars(record), "said": record.getMessage()})]
    assert said.levelno == (logging.ERROR if fault else logging.WARNING)
    assert getattr(said, "fields", {}).get("event") == ("configuration_fault" if fault else None)
    fleet.error = None
    assert ((await reconciled(on)).instances, fleet.scaled) == (2, [2]), "the schedule repairs it"


@pytest.mark.parametrize("method", ["batches", "counts", "record"])
@virtual
async def test_a_store_that_is_away_for_the_count_keeps_no_manifest_out(world: World, method: str) -> None:
    world, fleet = woken(world), Fleet()
    await world.batch(1, "older")
    fuse = Fuse(1, error=unreachable, on=method)
    on = rooms(world, fleet, store=fuse.wrap(world.store))
    assert (await ingest(world, on, 3)).state is BatchState.PROCESSING
    assert fuse.blown
    assert fleet.scaled == []


@pytest.mark.parametrize("what", ["replay", "resume"])
@virtual
async def test_a_fleet_that_is_away_undoes_no_command(world: World, what: str) -> None:
    world, fleet = woken(world), Fleet()
    fleet.error = ("scale", unreachable())
    on = rooms(world, fleet)
    await ingest(world, on, 3)
    if what == "resume":
        await on.operator.pause("acme.b1")
        assert isinstance(await on.operator.resume("acme.b1"), Batch)
    else:
        await settle_all(world, on, ImageState.FAILED)
        assert await on.replay.run("acme.b1") == 3
    assert ((await world.the_batch()).state, (await world.the_batch()).control) == (
        BatchState.PROCESSING, Control.RUN,
    )  # fmt: skip


@virtual
async def test_reconcile_says_when_it_could_not_set_the_number(world: World) -> None:
    """Its door answers 500 and the schedule comes again: nobody else sends the workers home."""
    world, fleet = woken(world), Fleet(3)
    fleet.error = ("scale", unreachable())
    await world.batch(1)
    await world.change_image(state=ImageState.COMPLETED, settled_at=1.0)
    on = rooms(world, fleet)
    with pytest.raises(RuumError):
        await reconciled(on)
    assert (await world.the_batch()).state is BatchState.CLOSED, "what else was to do is done"
    fleet.error = None
    assert ((await reconciled(on)).instances, fleet.scaled) == (0, [0])


# --- said in the log


@virtual
async def test_each_change_of_the_number_is_a_line(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world, fleet = woken(world), Fleet()
    on = rooms(world, fleet)
    await ingest(world, on, 3)
    await on.operator.pause("acme.b1")
    await reconciled(on)
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert [line["instances"] for line in lines if line.get("event") == "scaled"] == fleet.scaled == [2, 0]
    (done,) = [line["report"] for line in lines if line.get("event") == "reconciled"]
    assert done["instances"] == 0
