"""AGGREGATE and the closing: exact counts whatever comes twice, late or out of order; one completion per round."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from typing import Any

import msgspec
import pytest

from shared import decisions, errors
from shared.messages import ImageChanged, changed, decode
from shared.model import Batch, BatchState, Call, Claim, Counts, Failure, Image, ImageState, Output
from shared.results.status import write_status
from tests.parts import Fuse, Killed, World, fused, unreachable, virtual

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
STATUS = "results/acme/b1/status.json"


async def pending(world: World) -> list[ImageChanged]:
    """The changes since the last look."""
    return [decode(ImageChanged, delivery.data) for delivery in await world.changes()]


async def status(world: World) -> dict[str, Any]:
    got = await world.objects.get("results", STATUS)
    assert got is not None
    found: dict[str, Any] = json.loads(got[1])
    return found


async def settle(world: World, index: int, state: ImageState = COMPLETED) -> None:
    """An image's life in two writes: claimed, settled."""
    claim = Claim(worker="w", at=world.clock.now())
    await world.change_image(index, state=PROCESSING, claim=claim, fence=1)
    output = Output(
        picture=f"results/acme/b1/images/{index}.jpg", thumbnail="t", before="b", sha256="0", width=4, height=3
    )
    more: dict[str, Any] = {
        COMPLETED: {"output": output},
        FAILED: {"error": Failure(code="internal", message="x")},
    }.get(state, {})
    await world.change_image(index, state=state, claim=None, settled_at=world.clock.now(), **more)


async def completions(world: World) -> list[dict[str, Any]]:
    return [event for event in await world.events() if event["ce-type"] == "ruum.batch.completed"]


# --- counting


@virtual
async def test_a_change_is_counted(world: World) -> None:
    await world.batch(3)
    await world.change_image(1, state=PROCESSING)
    (change,) = await pending(world)
    await world.rooms.aggregate.handle(change)
    assert await world.store.counts("acme.b1") == Counts(queued=2, processing=1)
    assert await world.store.open_images("acme.b1") == (3, 3)


@pytest.mark.parametrize("seed", range(20))
@virtual
async def test_disorder_and_duplicates_count_once(world: World, seed: int) -> None:
    """Every image's changes three times over, in any order: the counts are those of the images."""
    chance = random.Random(seed)
    total = 12
    await world.batch(total)
    for index in range(total):
        for _ in range(chance.randrange(3)):  # attempts that came to nothing
            await world.change_image(index, state=PROCESSING)
            await world.change_image(index, state=QUEUED)
        await settle(world, index, chance.choice([COMPLETED, FAILED, CANCELLED]))
    changes = await pending(world) * 3
    chance.shuffle(changes)
    for change in changes:
        await world.rooms.aggregate.handle(change)
    states = [image.state async for image in world.store.images("acme.b1")]
    expected = Counts(**{state.value: states.count(state) for state in ImageState})
    assert await world.store.counts("acme.b1") == expected
    assert expected.settled == total
    batch = await world.the_batch()
    assert batch.state is BatchState.CLOSED
    assert [event["ce-id"] for event in await completions(world)] == ["acme.b1/1"]
    final = await status(world)
    assert (final["state"], final["progress"]) == (batch.outcome, 1.0)
    assert {state: final[state] for state in msgspec.to_builtins(expected)} == {
        state: count for state, count in msgspec.to_builtins(expected).items()
    }


@virtual
async def test_every_order_of_three_changes(world: World) -> None:
    """One image of a batch of two: claimed, released, claimed. Whatever comes last, the newest revision stands."""
    for order in itertools.permutations(range(3)):
        world = World(world.clock)
        await world.batch(2)
        for state in (PROCESSING, QUEUED, PROCESSING):
            await world.change_image(0, state=state)
        changes = await pending(world)
        for place in order:
            await world.rooms.aggregate.handle(changes[place])
        assert await world.store.counts("acme.b1") == Counts(queued=1, processing=1), order


@virtual
async def test_a_change_that_keeps_the_state_costs_nothing(world: World) -> None:
    await world.batch(1)
    image = await world.image()
    fuse = Fuse()
    rooms = world.rooms_on(fused(world.parts, fuse))
    kept = changed(image, msgspec.structs.replace(image, revision=2))
    assert kept.before is kept.state
    await rooms.aggregate.handle(kept)
    assert fuse.calls == []


@virtual
async def test_a_takeover_between_is_no_gap(world: World) -> None:
    """processing to processing is not folded; the next revision is, over the gap."""
    await world.batch(2)
    await world.change_image(0, state=PROCESSING)
    await world.change_image(0, state=PROCESSING, fence=2)
    await world.change_image(0, state=COMPLETED)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    assert await world.store.counts("acme.b1") == Counts(queued=1, completed=1)


@virtual
async def test_changes_of_an_unknown_batch_do_no_harm(world: World) -> None:
    change = ImageChanged(batch="acme.none", index=0, shard=0, revision=2, state=COMPLETED, before=QUEUED)
    await world.rooms.aggregate.handle(change)
    assert await world.kept("results") == {}
    assert await world.events() == []


@virtual
async def test_changes_come_before_ingest_has_opened_the_batch(world: World) -> None:
    """Workers are quicker than ingest: counted, but nothing is closed."""
    await world.batch(2, state=BatchState.INGESTING)
    for index in range(2):
        await settle(world, index)
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    assert (await world.the_batch()).state is BatchState.INGESTING
    assert await world.store.counts("acme.b1") == Counts(completed=2)
    assert await completions(world) == []


# --- closing


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


# --- status.json


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


# --- numbers


@virtual
async def test_a_tally_stays_small(world: World) -> None:
    """250 images a shard: its document stays below ten kilobytes when all of them are settled."""
    batch: Batch = await world.batch(2000)
    assert batch.shards == 8
    tally = await world.store.tally("acme.b1", 0)
    assert tally is not None
    for index in range(0, 2000, 8):
        tally = decisions.batch.fold(tally, index=index, revision=3, state=COMPLETED)  # type: ignore[assignment,arg-type]
    assert len(msgspec.json.encode(tally)) < 10_000
    assert tally.counts == Counts(completed=250)


@virtual
async def test_costs_of_all_images_are_in_the_completion(world: World) -> None:
    await world.batch(2)
    for index in range(2):
        await settle(world, index, FAILED if index else COMPLETED)
        call = Call(step="generate", model="m", cost_micro_usd=50_400)
        await world.change_image(index, calls=(call, call))
    for change in await pending(world):
        await world.rooms.aggregate.handle(change)
    (event,) = await completions(world)
    assert event["data"]["costUsd"] == 0.2016
    assert isinstance(await world.image(), Image)
