"""What nobody holds and no message stands for is published again; what somebody holds is not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.lifecycle.replay import fold_image
from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Claim, Control, Image, ImageState, Tier, TierEmpty, Worker
from tests import builders
from tests.harness.faults import Fuse, Fused, fused, unreachable
from tests.harness.world import World, virtual

UNTOUCHED, CAP = 900.0, 1800.0


async def seen_empty(world: World) -> None:
    """The tier was found empty twice, after everything."""
    now = world.clock.now()
    seen = TierEmpty(tier=Tier.NORMAL, seen_at=(now - 60, now))
    await world.store.change_record(TierEmpty, Tier.NORMAL.value, lambda _, __: seen, world.clock.token())


async def held(world: World, **heartbeat: object) -> None:
    """An image in processing, its worker alive, its message gone."""
    await world.batch(1)
    await world.change_image(0, state=ImageState.PROCESSING, claim=Claim(worker="w", at=world.clock.now()), fence=1)
    await world.clock.sleep(CAP + 120)
    await world.store.beat(Worker(id="w", at=world.clock.now(), **heartbeat))  # type: ignore[arg-type]
    await seen_empty(world)


@virtual
async def test_an_image_left_in_processing_without_a_message_is_published_again(world: World) -> None:
    """Simulation, seed 8285: claimed from an old delivery while a newer one was acked for a pause; the release failed."""
    await held(world)
    assert (await world.rooms.reconcile.run()).published == 1


@virtual
async def test_an_image_that_waits_for_quota_in_a_living_hand_is_left_alone(world: World) -> None:
    await held(world, waited_seconds={"acme.b1/0": CAP})
    assert (await world.rooms.reconcile.run()).published == 0


@virtual
async def test_a_dead_hand_s_image_comes_again_by_itself_before_that(world: World) -> None:
    """Its message's lease runs out; only what has not moved for a quarter of an hour is reconcile's."""
    await world.batch(1)
    await world.change_image(0, state=ImageState.PROCESSING, claim=Claim(worker="w", at=world.clock.now()), fence=1)
    await world.clock.sleep(UNTOUCHED - 60)
    await seen_empty(world)
    assert (await world.rooms.reconcile.run()).published == 0


@pytest.mark.parametrize(
    ("operation", "kind", "control"),
    [("pause", "ruum.batch.paused", Control.PAUSED), ("cancel", "ruum.batch.cancelled", Control.CANCELLING)],
)
@virtual
async def test_a_pause_or_cancel_that_was_killed_is_told_all_the_same(
    world: World, operation: str, kind: str, control: Control
) -> None:
    """Killed at every place of it: customers hear of it, under one id, and before the batch's completion."""
    for at in range(1, 30):
        for after in (False, True):
            name = f"{operation}-{at}-{after}".lower()
            await world.batch(1, name)
            fuse = Fuse(at, after=after)
            rooms = world.rooms_on(fused(world.parts, fuse))
            killed = await fuse.kills(getattr(rooms.operator, operation)(f"acme.{name}"))
            began = (await world.the_batch(f"acme.{name}")).control is control
            await world.clock.sleep(60)
            await world.rooms.reconcile.run()
            await world.clock.sleep(60)
            await world.rooms.reconcile.run()
            told = [event for event in await world.events() if event["data"]["batchId"] == f"acme.{name}"]
            ids = [event["ce-id"] for event in told if event["ce-type"] == kind]
            assert (len(set(ids)), len(ids) <= 2) == (int(began), True), (at, after, ids)
            if operation == "cancel" and began:
                assert (await world.the_batch(f"acme.{name}")).state is BatchState.CLOSED
                kinds = list(dict.fromkeys(event["ce-type"] for event in told))
                assert kinds == [kind, "ruum.batch.progress", "ruum.batch.completed"]
            if not killed:
                return
    raise AssertionError("more calls than this test knows of")


@virtual
async def test_what_a_cancelled_batch_s_workers_close_is_told_in_order(world: World) -> None:
    """The operator was killed before it could tell, and the last image settled itself."""
    await world.batch(1)
    await world.change_batch(control=Control.CANCELLING)
    hand = await world.worker()
    await hand.handle(await world.task())
    await world.rooms.reconcile.run()
    kinds = [event["ce-type"] for event in await world.events() if event["ce-type"] != "ruum.batch.progress"]
    assert kinds == ["ruum.batch.cancelled", "ruum.batch.completed"]


@virtual
async def test_one_broken_batch_does_not_keep_the_others_waiting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even by a bug of ours: it is logged, and the next batch is looked after."""
    for name in ("a", "b", "c"):
        await world.batch(1, name)
        await world.change_image(0, f"acme.{name}", state=ImageState.FAILED, settled_at=world.clock.now())

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def batches(self, *, open_only: bool = False) -> list[Batch]:
            return sorted(await world.store.batches(open_only=open_only), key=lambda batch: batch.id)

        async def open_images(self, batch: str) -> tuple[int, int]:
            if batch == "acme.b":
                raise RuntimeError("what cannot be")
            return await world.store.open_images(batch)

    rooms = world.rooms_on(Fused(Store(), world.queue, world.objects))
    with caplog.at_level(logging.ERROR):
        report = await rooms.reconcile.run()
    assert (report.batches, report.closed, report.folded) == (3, 2, 3)
    assert "acme.b" in caplog.text
    assert (await world.the_batch("acme.c")).state is BatchState.CLOSED


@virtual
async def test_whoever_closes_a_batch_tells_first_that_it_was_cancelled(world: World) -> None:
    """No reconcile comes in between: AGGREGATE closes it with its last image, and after that nobody looks at it again."""
    await world.batch(1)
    await world.change_batch(control=Control.CANCELLING)  # and killed before it could tell
    hand = await world.worker()
    await hand.handle(await world.task())
    for change in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, change.data))
    assert (await world.the_batch()).state is BatchState.CLOSED
    kinds = [event["ce-type"] for event in await world.events() if event["ce-type"] != "ruum.batch.progress"]
    assert kinds == ["ruum.batch.cancelled", "ruum.batch.completed"]


# --- what a run reads


class Counting:
    """The store, with every image that it gives counted, and every other call by name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.read: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._world.store, name)

        async def iterate(*args: Any, **options: Any) -> AsyncIterator[Image]:
            async for image in method(*args, **options):
                self.read["image"] += 1
                yield image

        def call(*args: Any, **options: Any) -> Any:
            self.read[name] += 1
            return method(*args, **options)

        return iterate if name in ("images", "moved_images") else call


async def settled_and_counted(world: World, total: int, idle: int) -> None:
    """A batch of which all but the last `idle` images are settled and counted."""
    await world.batch(total + idle)
    for index in range(total):
        await fold_image(world.store, await world.change_image(index, state=ImageState.COMPLETED), world.clock)
    await world.changes()


async def reads_of_a_run(world: World, total: int, idle: int) -> Counter[str]:
    """What a run reads half an hour after the batch's images last moved, of which one has moved since."""
    await settled_and_counted(world, total, idle)
    await seen_empty(world)  # of what has not moved since, nothing: it is no older
    await world.rooms.reconcile.run()
    await world.clock.sleep(1800)
    await world.rooms.reconcile.run()  # published what nobody had moved
    await world.clock.sleep(600)
    await world.change_image(total, state=ImageState.PROCESSING)
    store = Counting(world)
    report = await world.rooms_on(Fused(store, world.queue, world.objects)).reconcile.run()
    assert (report.batches, report.folded, report.published) == (1, 1, 0)
    return store.read


@pytest.mark.slow
@pytest.mark.parametrize("idle", [1, 300])
@virtual
async def test_a_run_reads_what_moved_and_not_what_there_is(world: World, idle: int) -> None:
    """Ten thousand settled images cost a run as much as twenty do, and images that wait cost nothing."""
    small = await reads_of_a_run(World(world.clock), 20, 1)
    large = await reads_of_a_run(World(world.clock), 10_000, idle)
    assert large == small
    assert large["image"] == 1


@virtual
async def test_what_waits_beside_a_healthy_queue_is_not_read(world: World) -> None:
    """Its tier was seen empty before the batch was dropped, and not since."""
    await seen_empty(world)
    await world.clock.sleep(60)
    await world.batch(700)
    await world.clock.sleep(1500)
    store = Counting(world)
    rooms = world.rooms_on(Fused(store, world.queue, world.objects))
    await rooms.reconcile.run()  # the first run reads what was created since: everything, once
    for _ in range(3):
        await world.clock.sleep(600)
        store.read.clear()
        await rooms.reconcile.run()
        assert store.read["image"] == 0


# --- what is lost is found


@virtual
async def test_a_lost_event_is_made_up_for_whenever_a_run_looks(world: World) -> None:
    """Eventarc gives an event up after a day: each of ten images moves at another time, and none is told of."""
    await world.batch(10)
    reconcile, folded = world.rooms.reconcile, 0
    for index in range(10):
        await world.clock.sleep(170)
        await world.change_image(index, state=ImageState.COMPLETED, settled_at=world.clock.now())
        if index % 3 == 2:
            folded += (await reconcile.run()).folded
    folded += (await reconcile.run()).folded
    assert folded == 10
    assert (await world.the_batch()).state is BatchState.CLOSED


@pytest.mark.parametrize("late", [-30.0, 30.0, 300.0, 550.0])
@virtual
async def test_a_worker_whose_clock_is_off_hides_nothing(world: World, late: float) -> None:
    """What it writes after a run bears a time from before that run."""
    await world.batch(1)
    await world.clock.sleep(1200)
    assert (await world.rooms.reconcile.run()).folded == 0
    await world.change_image(0, state=ImageState.COMPLETED, moved_at=world.clock.now() - late)
    await world.clock.sleep(600)
    assert (await world.rooms.reconcile.run()).closed == 1


@virtual
async def test_a_run_that_could_not_count_is_made_up_for_by_the_next(world: World) -> None:
    """It notes how far it came only when it has counted."""
    await world.batch(2)
    await world.change_image(0, state=ImageState.COMPLETED)
    broken = Fuse(1, on="change_tally", error=unreachable)
    report = await world.rooms_on(fused(world.parts, broken)).reconcile.run()
    assert (report.batches, report.folded) == (1, 0)
    await world.clock.sleep(3000)
    assert (await world.rooms.reconcile.run()).folded == 1


# As an image was written before `moved_at` existed: the default itself, which is left out of what is stored.
UNMARKED = {"moved_at": builders.an_image().moved_at}


@virtual
async def test_images_written_before_moved_at_existed_are_found_when_their_batch_stalls(world: World) -> None:
    """One settled whose event was lost, one queued whose message was: after an hour without a move both are found."""
    await world.batch(2)
    await world.change_image(0, state=ImageState.COMPLETED, **UNMARKED)
    await world.change_image(1, **UNMARKED)
    await world.tasks()
    await world.clock.sleep(1800)
    await seen_empty(world)
    report = await world.rooms.reconcile.run()
    assert (report.folded, report.published, report.stalled) == (0, 0, 0)
    await world.clock.sleep(1800)
    report = await world.rooms.reconcile.run()
    assert (report.folded, report.published, report.stalled) == (1, 1, 1)
    assert [task.index for task in await world.tasks()] == [1]


@virtual
async def test_a_stalled_batch_is_read_as_a_whole_once_an_hour(world: World) -> None:
    await settled_and_counted(world, 40, 5)
    store = Counting(world)
    rooms = world.rooms_on(Fused(store, world.queue, world.objects))
    await rooms.reconcile.run()
    reads: list[int] = []
    for _ in range(18):
        await world.clock.sleep(601)
        store.read.clear()
        assert (await rooms.reconcile.run()).stalled == (len(reads) >= 5)
        reads.append(store.read["image"])
    assert {number: read for number, read in enumerate(reads) if read} == {0: 45, 5: 45, 11: 45, 17: 45}, (
        "once more for the ten minutes after it was made, then each hour"
    )


@virtual
async def test_a_batch_that_moved_before_it_was_noted_is_not_called_stalled(world: World) -> None:
    """The first run after this was introduced knows no move of an old batch until it has read all of it."""
    await world.batch(2)
    await world.clock.sleep(7200)
    await world.change_image(0, state=ImageState.COMPLETED, settled_at=world.clock.now(), **UNMARKED)
    report = await world.rooms.reconcile.run()
    assert (report.folded, report.stalled) == (1, 0)


@virtual
async def test_published_again_once_until_the_tier_is_seen_empty_anew(world: World) -> None:
    """The two looks from before it was filled again say nothing of what waits in it now."""
    await world.batch(3)
    await world.tasks()
    await world.clock.sleep(UNTOUCHED)
    await seen_empty(world)
    assert (await world.rooms.reconcile.run()).published == 3
    for _ in range(12):
        await world.clock.sleep(600)
        assert (await world.rooms.reconcile.run()).published == 0
    await world.tasks()
    await seen_empty(world)
    assert (await world.rooms.reconcile.run()).published == 3


@virtual
async def test_orphans_are_looked_for_once_a_day(world: World) -> None:
    """Each look reads the images of all that is kept for a replay."""
    await world.objects.put("work", "work/acme.gone/0/1.1", b"x", content_type="x/y")
    day = 86_400.0
    assert (await world.rooms.reconcile.run()).work_objects == 0, "it is new"
    await world.clock.sleep(day - 60)
    assert (await world.rooms.reconcile.run()).work_objects == 0, "looked for a day ago, not quite"
    await world.clock.sleep(120)
    assert (await world.rooms.reconcile.run()).work_objects == 1
