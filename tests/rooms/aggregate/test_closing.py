"""AGGREGATE closes: one completion per round, whoever is killed on the way."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from shared import errors
from shared.messages import ImageChanged
from shared.model import BatchState, Counts, ImageState
from tests.harness.faults import Fuse, Killed, fused, unreachable
from tests.harness.world import World, virtual
from tests.rooms.aggregate.parts import (
    CANCELLED,
    COMPLETED,
    FAILED,
    QUEUED,
    STATUS,
    completions,
    pending,
    settle,
    status,
)


@virtual
async def test_closing_after_the_last(world: World) -> None:
    await world.batch(3)
    await settle(world, 0)
    await settle(world, 1, FAILED)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    assert (await world.the_batch()).state is BatchState.PROCESSING
    await world.clock.sleep(100)
    await settle(world, 2)
    for change in await pending(world):
        assert await completions(world) == [], "never before the last image has settled"
        await world.rooms.aggregate.handle(change)
    batch = await world.the_batch()
    assert (batch.state, batch.outcome, batch.announced_round) == (BatchState.CLOSED, "completed_with_failures", 1)
    (event,) = await completions(world)
    assert (event["ce-id"], event["client"], event["ce-subject"]) == ("acme.b1/1", "acme", "acme.b1")
    data = event["data"]
    assert data["counts"] == {"queued": 0, "processing": 0, "completed": 2, "failed": 1, "cancelled": 0}
    assert (data["total"], data["round"], data["successRate"], data["durationSeconds"]) == (3, 1, 0.6667, 100.0)
    objects = await world.kept("results", "results/acme/b1/round-1/")
    assert {name.rpartition("/")[2] for name in objects} == {
        "results.jsonl",
        "results.csv",
        "failed.csv",
        "report.html",
    }
    for name, told in data["reports"].items():
        content = objects[f"results/acme/b1/round-1/{name}"][1]
        assert (told["sha256"], told["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert told["uri"] == f"memory://results/results/acme/b1/round-1/{name}"
    final = await status(world)
    assert (final["state"], final["completed"], final["failed"], final["progress"]) == (
        "completed_with_failures", 2, 1, 1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ((COMPLETED, COMPLETED), "completed"),
        ((COMPLETED, FAILED), "completed_with_failures"),
        ((FAILED, FAILED), "completed_with_failures"),
        ((COMPLETED, CANCELLED), "cancelled"),
        ((FAILED, CANCELLED), "cancelled"),
    ],
)
@virtual
async def test_outcomes(world: World, states: tuple[ImageState, ...], outcome: str) -> None:
    await world.batch(2)
    for index, state in enumerate(states):
        await settle(world, index, state)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    (event,) = await completions(world)
    assert event["data"]["outcome"] == outcome == (await world.the_batch()).outcome


@virtual
async def test_repeated_events_after_the_close_change_nothing(world: World) -> None:
    await world.batch(2)
    for index in range(2):
        await settle(world, index)
    changes = await pending(world)
    for change in changes:
        await world.rooms.aggregate.handle(change)
    batch, objects = await world.the_batch(), await world.kept("results")
    await world.events()
    await world.clock.sleep(60)
    for change in changes * 2:
        await world.rooms.aggregate.handle(change)
    assert await world.the_batch() == batch
    assert await world.kept("results") == objects
    assert await world.events() == []


async def settled_world(clock: Any, total: int = 2) -> tuple[World, list[ImageChanged]]:
    """A batch whose images are all settled, and the changes that tell so."""
    world = World(clock)
    await world.batch(total)
    for index in range(total):
        await settle(world, index, COMPLETED if index else FAILED)
    return world, await pending(world)


async def calls_of_a_closing(clock: Any) -> int:
    world, changes = await settled_world(clock)
    fuse = Fuse()
    rooms = world.rooms_on(fused(world.parts, fuse))
    for change in changes:
        await rooms.aggregate.handle(change)
    return len(fuse.calls)


async def check_closed(world: World, at: Any) -> None:
    """The state that every interrupted closing ends in."""
    batch = await world.the_batch()
    assert batch.state is BatchState.CLOSED, at
    assert batch.announced_round == 1, at
    assert await world.store.counts("acme.b1") == Counts(completed=1, failed=1)
    events = await completions(world)
    assert {event["ce-id"] for event in events} == {"acme.b1/1"}, at
    assert all(event == events[0] for event in events), "the same id must carry the same words"
    objects = await world.kept("results", "results/acme/b1/round-1/")
    for name, told in events[0]["data"]["reports"].items():
        content = objects[f"results/acme/b1/round-1/{name}"][1]
        assert told["sha256"] == hashlib.sha256(content).hexdigest(), at


@pytest.mark.parametrize("error", [Killed, unreachable], ids=["killed", "unreachable"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_interrupted_at_every_place(world: World, after: bool, error: Any) -> None:
    """The event comes again, later ones come too: closed, announced under one id, the reports as announced."""
    count = await calls_of_a_closing(world.clock)
    assert count >= 15
    for at in range(1, count + 1):
        world, changes = await settled_world(world.clock)
        fuse = Fuse(at, after=after, error=error)
        rooms = world.rooms_on(fused(world.parts, fuse))
        try:
            for change in changes:
                await rooms.aggregate.handle(change)
        except type(error()):
            pass
        assert fuse.blown
        await world.clock.sleep(31)  # longer than a closer's lease
        for change in changes:
            await world.rooms.aggregate.handle(change)
        await check_closed(world, fuse.calls[-1])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_an_interrupted_closing_ends_with_the_final_status(world: World, after: bool) -> None:
    """status.json is what a CRM polls: a closed batch must read closed there, whenever its closer was killed."""
    count = await calls_of_a_closing(world.clock)
    wrong = []
    for at in range(1, count + 1):
        world, changes = await settled_world(world.clock)
        fuse = Fuse(at, after=after)
        rooms = world.rooms_on(fused(world.parts, fuse))
        try:
            for change in changes:
                await rooms.aggregate.handle(change)
        except Killed:
            pass
        await world.clock.sleep(31)
        for change in changes:
            await world.rooms.aggregate.handle(change)
        assert (await world.the_batch()).state is BatchState.CLOSED
        got = await world.objects.get("results", STATUS)
        state = json.loads(got[1])["state"] if got else "no status.json"
        if state != "completed_with_failures":
            wrong.append(f"killed at call {at} ({fuse.calls[at - 1]}): {state}")
    assert wrong == []


@virtual
async def test_a_closers_lease_keeps_the_second_out(world: World) -> None:
    world, changes = await settled_world(world.clock)
    rooms = world.rooms_on(fused(world.parts, Fuse(2, on="put")))  # the first is status.json, the second a report
    with pytest.raises(Killed):
        for change in changes:
            await rooms.aggregate.handle(change)
    before = await world.the_batch()
    assert before.state is BatchState.CLOSING
    await world.clock.sleep(29)
    with pytest.raises(errors.StillClosing):  # brought again, in case that the other one is dead
        await world.rooms.closer.check("acme.b1")
    assert await world.the_batch() == before
    await world.clock.sleep(1)
    await world.rooms.closer.check("acme.b1")
    assert (await world.the_batch()).state is BatchState.CLOSED


@virtual
async def test_a_closing_that_storage_interrupted_goes_on_when_the_event_comes_again(world: World) -> None:
    """Raising means: bring it again, after 1 s here and 10 s in the cloud. The lease of the closer that failed is its own."""
    world, changes = await settled_world(world.clock)
    puts = Fuse(2, on="put", error=unreachable)  # the first is status.json
    rooms = world.rooms_on(fused(world.parts, puts))
    left = list(changes)
    for _ in range(20):
        again = []
        for change in left:
            try:
                await rooms.aggregate.handle(change)
            except Exception:  # noqa: BLE001 - whatever it is, the event comes again
                again.append(change)
        left = again
        await world.clock.sleep(10)
    assert puts.blown
    assert (await world.the_batch()).state is BatchState.CLOSED, (
        "every event was acked, and nobody carries the closing on"
    )


@virtual
async def test_a_report_that_does_not_agree_with_the_tallies_is_never_announced(world: World) -> None:
    """A requeue between the sum and the reading of the images: better loud than a wrong bill."""
    world, changes = await settled_world(world.clock)
    for change in changes[:-1]:
        await world.rooms.aggregate.handle(change)
    await world.change_image(0, state=QUEUED, round=2)  # not folded
    with pytest.raises(RuntimeError):
        await world.rooms.aggregate.handle(changes[-1])
    assert await completions(world) == []
    assert (await world.the_batch()).state is BatchState.CLOSING


@virtual
async def test_a_batch_that_moved_between_read_and_sum_is_not_closed(world: World) -> None:
    world, changes = await settled_world(world.clock)
    parts = fused(world.parts, Fuse())
    summed = parts.store.open_images

    async def disturbed(batch: str) -> tuple[int, int]:
        result: tuple[int, int] = await summed(batch)
        await world.change_batch(control_epoch=1)
        return result

    parts.store.open_images = disturbed
    rooms = world.rooms_on(parts)
    raised = 0
    for change in changes:
        try:
            await rooms.aggregate.handle(change)
        except errors.StillClosing:
            raised += 1
    assert (await world.the_batch()).state is BatchState.PROCESSING
    assert await completions(world) == []
    assert raised, "the event must come again: nobody else may be left to close the batch"


@virtual
async def test_a_missing_shard_keeps_a_batch_open(world: World) -> None:
    """The COUNT is as important as the SUM: a shard not created yet has nothing open either."""
    batch = await world.batch(2)
    await world.change_batch(shards=3)
    for index in range(2):
        await settle(world, index)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    assert (await world.the_batch()).state is BatchState.PROCESSING
    assert batch.shards == 2
