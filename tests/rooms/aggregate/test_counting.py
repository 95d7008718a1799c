"""AGGREGATE counts exactly, whatever comes twice, late or out of order."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from shared import decisions
from shared.messages import ImageChanged, changed
from shared.model import Batch, BatchState, Call, Counts, Image, ImageState
from tests.harness.faults import Fuse, fused
from tests.harness.world import World, virtual
from tests.rooms.aggregate.parts import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PROCESSING,
    QUEUED,
    completions,
    pending,
    settle,
    status,
)

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
