"""A replay is killed, slowed, cancelled, repeated: nothing is bought twice, nothing is stuck, nothing is blind."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from shared.errors import Busy, ErrorCode, ImageRejected
from shared.lifecycle.replay import LEASE_SECONDS
from shared.messages import ImageChanged, decode
from shared.model import BatchState, Control, FailureThreshold, ImageState
from shared.worker.disposition import Action
from tests.harness.fakes import BAD
from tests.harness.faults import Fuse, fused
from tests.harness.world import World, ticks, virtual

FAILED, COMPLETED = ImageState.FAILED, ImageState.COMPLETED
BROKEN = ImageRejected(ErrorCode.SOURCE_NOT_FOUND, "gone")


async def aggregated(world: World) -> None:
    for change in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, change.data))


async def worked(world: World) -> None:
    """Every task that waits is staged, until none is left; AGGREGATE hears of it."""
    hand = await world.worker()
    while tasks := await world.tasks():
        for task in tasks:
            image = await world.image(task.index, task.batch)
            if image.state is ImageState.QUEUED:
                done = await hand.handle(await world.task(task.index, epoch=task.epoch))
                assert done.action is Action.ACK
    await aggregated(world)
    hand.fall_silent()


async def failed_batch(world: World, total: int, error: Any = BROKEN, step: str = "fetch", **changes: Any) -> None:
    """A closed batch all of whose images failed."""
    await world.batch(total, **changes)
    world.fakes.will(step, *[error] * (total * (3 if step == "verify" else 1)))
    hand = await world.worker()
    for index in range(total):
        await hand.handle(await world.task(index))
    await aggregated(world)
    hand.fall_silent()
    assert (await world.the_batch()).state is BatchState.CLOSED
    await world.events()


async def states(world: World) -> list[ImageState]:
    total = (await world.the_batch()).total
    return [(await world.image(index)).state for index in range(total)]


@virtual
async def test_only_the_failing_step_runs_again(world: World) -> None:
    await failed_batch(world, 2)
    assert await world.rooms.replay.run("acme.b1") == 2
    await worked(world)
    batch = await world.the_batch()
    assert (batch.state, batch.round, await states(world)) == (BatchState.CLOSED, 2, [COMPLETED] * 2)
    assert [event["ce-id"] for event in await world.events() if event["ce-type"] == "ruum.batch.completed"] == [
        "acme.b1/2"
    ]


@pytest.mark.parametrize("after", [False, True])
@virtual
async def test_killed_at_any_step_it_buys_nothing_twice(world: World, after: bool) -> None:
    """What it had requeued runs and fails again before it is carried on: that is not requeued by it once more."""
    at, done = 0, False
    while not done:
        at += 1
        inner = World(world.clock)
        await failed_batch(inner, 3, BAD, "verify")
        bought = inner.fakes.bought.count("generate")
        assert bought == 9
        inner.fakes.will("verify", *[BAD] * 100)
        fuse = Fuse(at, after=after)
        rooms = inner.rooms_on(fused(inner.parts, fuse))
        done = not await fuse.kills(rooms.replay.run("acme.b1"))
        await worked(inner)
        for _ in range(3):
            await inner.clock.sleep(LEASE_SECONDS + 1)
            await inner.rooms.reconcile.run()
            await worked(inner)
        batch = await inner.the_batch()
        assert batch.state is BatchState.CLOSED, at
        again = inner.fakes.bought.count("generate") - bought
        rounds = [(await inner.image(index)).round for index in range(3)]
        assert rounds in ([1, 1, 1], [2, 2, 2]), (at, rounds)
        assert again == (9 if rounds[0] == 2 else 0), (at, again)
    assert at > 10


@virtual
async def test_a_closed_batch_that_was_paused_runs_again(world: World) -> None:
    """It closed while paused, for its last images were in hand: nobody can resume it any more."""
    await failed_batch(world, 3)
    await world.change_batch(control=Control.PAUSED, paused_reason="3 of 3 images failed", control_epoch=4)
    assert await world.rooms.replay.run("acme.b1") == 3
    batch = await world.the_batch()
    assert (batch.control, batch.paused_reason, batch.control_epoch, batch.epoch_published) == (Control.RUN, None, 5, 5)
    await worked(world)
    assert await states(world) == [COMPLETED] * 3


@virtual
async def test_a_paused_batch_says_that_it_must_be_resumed(world: World) -> None:
    await world.batch(2)
    await world.change_image(0, state=FAILED, settled_at=world.clock.now())
    await world.rooms.operator.pause("acme.b1")
    with pytest.raises(Busy, match="resume it first"):
        await world.rooms.replay.run("acme.b1")
    assert (await world.image(0)).state is FAILED


@pytest.mark.parametrize(("rate", "at_once"), [(0.5, 1), (2.0, 2), (30.0, 30)])
@virtual
async def test_the_rate_is_kept_from_the_first_image_on(world: World, rate: float, at_once: int) -> None:
    await failed_batch(world, 40)
    seen: list[tuple[float, int]] = []
    began = world.clock.monotonic()
    done = await world.rooms.replay.run(
        "acme.b1", images_per_second=rate, progress=lambda count: seen.append((world.clock.monotonic() - began, count))
    )
    assert done == 40
    for seconds, count in seen:
        assert count <= rate * seconds + at_once, (seconds, count)
    assert world.clock.monotonic() - began <= 40 / rate, "and no pause after the last"


@virtual
async def test_stopped_in_the_middle_of_a_slow_one_the_rest_stays_failed(world: World) -> None:
    await failed_batch(world, 30)
    stop = asyncio.Event()
    running = asyncio.create_task(world.rooms.replay.run("acme.b1", images_per_second=1.0, stop=stop))
    await world.clock.sleep(9.5)
    stop.set()
    assert 9 <= await running <= 11
    assert (await world.the_batch()).state is BatchState.PROCESSING
    assert (await states(world)).count(FAILED) in (19, 20, 21)


@virtual
async def test_cancelled_in_the_middle_of_a_slow_one_the_rest_stays_failed(world: World) -> None:
    """A cancel keeps what is done, and a failure with its error is done."""
    await failed_batch(world, 30)
    running = asyncio.create_task(world.rooms.replay.run("acme.b1", images_per_second=1.0))
    await world.clock.sleep(9.5)
    await world.rooms.operator.cancel("acme.b1")
    began = world.clock.monotonic()
    await running
    assert world.clock.monotonic() - began < 3
    await world.rooms.reconcile.run()
    found = await states(world)
    assert set(found) == {FAILED, ImageState.CANCELLED}
    assert found.count(FAILED) >= 19
    for index, state in enumerate(found):
        assert (state is FAILED) == ((await world.image(index)).error is not None)
    await aggregated(world)
    batch = await world.the_batch()
    assert (batch.state, batch.outcome) == (BatchState.CLOSED, "cancelled")


@virtual
async def test_a_replay_of_what_fails_again_is_paused_again(world: World) -> None:
    """The threshold counts from the replay on: it is not blind for what failed before, nor for what fails now."""
    await failed_batch(world, 60, threshold=FailureThreshold(percent=50.0, minimum_sample=20))
    assert (await world.the_batch()).control is Control.RUN, "nothing is shown of a batch that is over in no time"
    assert await world.rooms.replay.run("acme.b1", images_per_second=10.0) == 60
    await aggregated(world)
    assert (await world.the_batch()).control is Control.RUN, "it was requeued, and nothing of it has failed anew"
    world.fakes.will("fetch", *[BROKEN] * 60)
    hand = await world.worker()
    done = 0
    for index in range(60):
        if (await hand.handle(await world.task(index))).action is Action.ACK:
            done += (await world.image(index)).state is FAILED
        await aggregated(world)
        await world.clock.sleep(4)
        if (await world.the_batch()).control is Control.PAUSED:
            break
    assert 20 <= done <= 22
    assert (await world.the_batch()).paused_reason in ("20 of 20 images failed", f"{done} of {done} images failed")


@virtual
async def test_used_progress_ids_are_not_used_again_in_the_same_round(world: World) -> None:
    await world.batch(10)
    for index in range(8):
        await world.change_image(index, state=FAILED, settled_at=world.clock.now())
    await aggregated(world)
    await world.rooms.closer.show_progress("acme.b1")
    first = [event["ce-id"] for event in await world.events()]
    assert "acme.b1/1/progress/8" in first
    await world.rooms.replay.run("acme.b1")
    await worked(world)
    later = [event["ce-id"] for event in await world.events()]
    assert set(first) & set(later) == set()
    assert "acme.b1/1/progress/9" in later


@virtual
async def test_two_at_once(world: World) -> None:
    await failed_batch(world, 5)
    results = await asyncio.gather(
        world.rooms.replay.run("acme.b1"), world.rooms.replay.run("acme.b1"), return_exceptions=True
    )
    assert sorted(str(type(result).__name__) for result in results) in (["Busy", "int"], ["int", "int"])
    assert sum(result for result in results if isinstance(result, int)) == 5
    await ticks()
    await worked(world)
    assert await states(world) == [COMPLETED] * 5


def test_the_plans_number_is_part_of_it() -> None:
    from shared.model import Lease, ReplayPlan

    plan = ReplayPlan(lease=Lease(holder="x", until=1.0), number=3)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=ReplayPlan) == plan


# --- documents that expire

LAST = 30 * 86_400.0
KEPT = LAST + 7200.0  # a short time, so that the worlds need not live for a year


@pytest.mark.parametrize(
    ("left", "begins"), [(LAST + 1.0, True), (LAST, True), (LAST - 1.0, False), (LAST - 3600.0, False)]
)
@virtual
async def test_no_replay_begins_shortly_before_its_documents_are_deleted(
    world: World, left: float, begins: bool
) -> None:
    """An image that is deleted while it waits in the queue is lost."""
    await failed_batch(world, 2)
    made = (await world.the_batch()).created_at
    await world.clock.sleep(made + KEPT - left - world.clock.now())
    replay = world.rooms_on(world.parts, kept_seconds=KEPT).replay
    if begins:
        assert await replay.run("acme.b1") == 2
        return
    before = await world.the_batch()
    with pytest.raises(Busy, match="its documents are deleted within 30 days; submit the failed photos as a new batch"):
        await replay.run("acme.b1")
    assert await world.the_batch() == before
    assert await states(world) == [FAILED, FAILED]
    assert await world.rooms.replay.run("acme.b1") == 2, "where documents are kept for ever there is no such day"


@virtual
async def test_a_replay_that_began_in_time_is_carried_on(world: World) -> None:
    """Killed on its last day, and taken up by reconcile after it: left as it is, its batch would never close."""
    await failed_batch(world, 3)
    made = (await world.the_batch()).created_at
    await world.clock.sleep(made + KEPT - LAST - world.clock.now() - 1.0)
    killed = Fuse(2, on="change_image")
    rooms = world.rooms_on(fused(world.parts, killed), kept_seconds=KEPT)
    assert await killed.kills(rooms.replay.run("acme.b1"))
    await world.clock.sleep(LEASE_SECONDS + 1.0)
    report = await world.rooms_on(world.parts, kept_seconds=KEPT).reconcile.run()
    assert report.replays == 1
    assert (await world.the_batch()).state is BatchState.PROCESSING
    assert await states(world) == [ImageState.QUEUED] * 3
