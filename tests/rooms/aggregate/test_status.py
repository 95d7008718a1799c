"""AGGREGATE's status.json: never older than what was told before, and not too often."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import msgspec
import pytest

from shared.model import BatchState, Counts
from shared.results.status import write_status
from tests.harness.faults import Fuse, fused
from tests.harness.world import World, virtual
from tests.rooms.aggregate.parts import PROCESSING, QUEUED, STATUS, pending, settle, status


@virtual
async def test_progress_is_shown_at_most_every_few_seconds(world: World) -> None:
    await world.batch(10)
    writes = []
    for index in range(10):
        await settle(world, index)
        for change in await pending(world):
            await world.rooms.aggregate.handle(change)
        writes.append((await status(world))["completed"])
        await world.clock.sleep(1)
    # The first change after the pause shows what was counted until then; the last closes the batch, which is shown at once.
    assert writes == [0, 0, 0, 3, 3, 3, 6, 6, 6, 10]


@virtual
async def test_one_event_tells_the_latest_tenth_however_many_were_passed(world: World) -> None:
    await world.batch(20)
    looks: list[list[str]] = []
    for index in range(20):
        await settle(world, index)
        if index in (4, 5, 16, 19):  # nobody looked meanwhile
            for change in await pending(world):
                await world.rooms.aggregate.handle(change)
            await world.rooms.closer.show_progress("acme.b1")
            events = await world.events()
            looks.append([event["ce-id"] for event in events if event["ce-type"] == "ruum.batch.progress"])
            await world.clock.sleep(10)
    # Five of 20 are past the second tenth, six past the third, 17 past the eighth; the whole is told by batch.completed.
    assert looks == [[f"acme.b1/1/progress/{tenth}"] for tenth in (2, 3, 8, 9)]


@virtual
async def test_many_processes_write_the_status_once_a_second_at_most(world: World) -> None:
    """Cloud Storage answers 429 above one write a second to one name; each process keeps its own pace only."""
    await world.batch(60)
    processes = [world.rooms_on(world.parts) for _ in range(10)]
    put, at = world.objects.put, list[float]()

    async def noted(bucket: str, name: str, *args: Any, **options: Any) -> Any:
        if name == STATUS:
            at.append(world.clock.monotonic())
        return await put(bucket, name, *args, **options)

    world.objects.put = noted  # type: ignore[method-assign]
    for index in range(60):
        await settle(world, index)
        for change in await pending(world):
            await processes[index % 10].aggregate.handle(change)
        await world.clock.sleep(0.3)
    assert min(later - earlier for earlier, later in itertools.pairwise(at[:-1])) >= 1.0, (
        "but for the last, which closes"
    )
    assert len(at) > 12, "and it is not left behind"
    assert (await status(world))["completed"] == 60


@virtual
async def test_a_pause_is_shown_at_once(world: World) -> None:
    """No image's end may come after it that would show it."""
    await world.batch(4)
    await settle(world, 0)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    await world.rooms.operator.pause("acme.b1", "by hand")
    assert (await status(world))["control"] == "paused"
    await world.rooms.operator.resume("acme.b1")
    assert (await status(world))["control"] == "run"


@virtual
async def test_status_says_what_a_crm_needs(world: World) -> None:
    await world.batch(4)
    await settle(world, 0)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    await world.rooms.closer.show_progress("acme.b1", at_once=True)
    await world.clock.sleep(5)
    await settle(world, 1)
    await world.change_image(2, state=PROCESSING)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    await world.rooms.closer.show_progress("acme.b1", at_once=True)
    assert await status(world) == {
        "batchId": "acme.b1", "client": "acme", "state": "processing", "control": "run", "round": 1, "total": 4,
        "queued": 1, "processing": 1, "completed": 2, "failed": 0, "cancelled": 0, "progress": 0.5,
        # one image in five seconds, two to go
        "imagesPerMinute": pytest.approx(12.0, rel=0.05), "etaSeconds": pytest.approx(10.0, rel=0.05),
        "pausedReason": None,
        "updatedAt": "2026-03-02T09:00:05.000Z",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
@virtual
async def test_status_never_goes_back(world: World, seed: int) -> None:
    """Several processes write it, each with what it knew a while ago; seen from outside it only goes on."""
    chance = random.Random(seed)
    batch = await world.batch(20)
    closed = msgspec.structs.replace(batch, state=BatchState.CLOSED)
    later = msgspec.structs.replace(batch, round=2)
    news = [(batch, Counts(queued=20 - done, completed=done)) for done in range(21)]
    news += [(closed, Counts(completed=20)), (later, Counts(queued=3, completed=17)), (later, Counts(completed=20))]
    writes = [*news, *news]
    chance.shuffle(writes)
    order: list[tuple[int, bool, int]] = []
    for known, counts in writes:
        await write_status(world.objects, "results", known, counts, world.clock.now())
        got = await world.objects.get("results", STATUS)
        assert got is not None
        shown = json.loads(got[1])
        rank = (shown["round"], shown["state"] == "closed", shown["completed"])
        assert not order or rank >= order[-1]
        order.append(rank)
    assert order[-1] == max(order) == (2, False, 20)


@virtual
async def test_the_final_status_is_written_whoever_else_writes(world: World) -> None:
    """The closer's word is the last one; nobody repeats it, so it may not be given up for a crowd of older news."""
    batch = await world.batch(2)
    closed = msgspec.structs.replace(batch, state=BatchState.CLOSED)
    stat = world.objects.stat
    others = iter(range(5))

    async def crowded(bucket: str, name: str) -> Any:
        found = await stat(bucket, name)
        if next(others, None) is not None:  # another process writes between our look and our write
            await world.objects.put(
                bucket, name, b'{"state": "processing"}', content_type="application/json",
                metadata={"order": "[1, false, 1]"},
            )  # fmt: skip
        return found

    world.objects.stat = crowded  # type: ignore[method-assign]
    await write_status(world.objects, "results", closed, Counts(completed=2), world.clock.now())
    world.objects.stat = stat  # type: ignore[method-assign]
    assert (await status(world))["state"] == "closed"


@virtual
async def test_late_events_do_not_reopen_the_status(world: World) -> None:
    await world.batch(2)
    await settle(world, 0)
    await settle(world, 1)
    changes = await pending(world)
    for change in changes:
        await world.rooms.aggregate.handle(change)
    final = await status(world)
    await world.clock.sleep(60)
    other = world.rooms_on(world.parts)
    for change in changes:
        await other.aggregate.handle(change)
    assert await status(world) == final


@virtual
async def test_two_aggregators_with_a_late_reader(world: World) -> None:
    """One reads batch and counts, then sleeps while another closes the batch; its old news may not be the last."""
    await world.batch(2)
    await settle(world, 0)
    slow_parts = fused(world.parts, Fuse())
    counts = slow_parts.store.counts

    async def slowly(batch: str) -> Counts:
        found: Counts = await counts(batch)
        if (await world.image(1)).state is QUEUED:
            await settle(world, 1)
            for change in await pending(world):
                await world.rooms.aggregate.handle(change)
        return found

    slow_parts.store.counts = slowly
    slow = world.rooms_on(slow_parts)
    changes = await pending(world)
    await world.rooms.aggregate.handle(changes[0])
    await slow.aggregate.handle(changes[1])
    assert (await world.the_batch()).state is BatchState.CLOSED
    assert (await status(world))["state"] == "completed"
