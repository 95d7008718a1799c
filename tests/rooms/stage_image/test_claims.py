"""STAGE IMAGE and images that others hold: alive, dead, lost and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.errors import ConfigurationError
from shared.worker.disposition import Action
from tests.harness.fakes import BAD, STEPS, Stall
from tests.harness.world import STALE_SECONDS, World, ticks, virtual
from tests.rooms.stage_image.parts import COMPLETED, PAID, PROCESSING, WORLD, no_trace, rejected


@virtual
async def test_held_by_another(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    before = await world.image()
    for hand in (second, first):  # the holder's own second delivery of the task is no better
        done = await hand.handle(task)
        assert (done.action, done.seconds) == (Action.LET_GO, world.settings.worker.held_seconds)
    assert await world.image() == before
    await no_trace(world)
    stall.go_on.set()
    assert (await work).action is Action.ACK
    assert world.fakes.bought == list(PAID)


@virtual
async def test_held_for_long_it_waits_longer_each_time(world: World) -> None:
    """Soon at first, for the holder may just have died; in all longer than a stuck claim stands."""
    await world.batch()
    hand, other = await world.worker(), await world.worker()
    await world.held_by(other.heartbeat.worker)
    data = (await world.task()).data
    waits = [(await hand.handle(world.delivery(data, attempt))).seconds for attempt in range(1, 11)]
    assert waits[0] == world.settings.worker.held_seconds
    assert waits == sorted(waits)
    assert max(waits) <= 600, "Pub/Sub's longest extension"
    assert sum(waits) > 600, "two downloads, three generations of 120 s and as many verifications fit in"
    assert sum(waits[:4]) < 60


@virtual
async def test_two_workers_at_once_and_only_one_stages(world: World) -> None:
    await world.batch()
    hands = [await world.worker() for _ in range(10)]
    task = await world.task()
    done = await asyncio.gather(*[hand.handle(task) for hand in hands])
    assert {d.action for d in done} <= {Action.ACK, Action.LET_GO}
    assert world.fakes.bought == list(PAID)
    assert (await world.image()).fence == 1


ENDINGS: dict[str, Callable[[], BaseException | None]] = {
    "as usual": lambda: None,
    "the image's fault": rejected,
    "the world's fault": lambda: WORLD,
    "our fault": lambda: ConfigurationError("no key"),
    "a bug": lambda: KeyError("x"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_stale_worker_changes_nothing(world: World, step: str, ending: str) -> None:
    """Cut off at any step, taken over, then going on however it likes: no document, no public object, no letter."""
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall(ENDINGS[ending]())
    world.fakes.will(step, stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    assert (await second.handle(task)).action is Action.ACK
    image, objects = await world.image(), await world.kept("results")
    assert (image.state, image.fence) == (COMPLETED, 2)
    stall.go_on.set()
    done = await work
    assert (done.action, done.seconds) == (Action.LET_GO, 0.0), "neither ack nor nack, and not extended"
    assert await world.image() == image
    assert await world.kept("results") == objects
    await no_trace(world)


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_stale_worker_changes_nothing_while_the_other_works(world: World, step: str) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall, theirs = Stall(), Stall()
    world.fakes.will(step, stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    world.fakes.will("verify", theirs) if step != "verify" else world.fakes.will("verify", theirs)
    successor = second.begin(task)
    await ticks()
    held = await world.image()
    assert (held.state, held.fence) == (PROCESSING, 2)
    stall.go_on.set()
    if step != "verify":
        theirs.go_on.set()
    await ticks()
    theirs.go_on.set()
    assert (await successor).action is Action.ACK
    assert (await work).action is Action.LET_GO
    image = await world.image()
    assert (image.state, image.fence) == (COMPLETED, 2)
    assert image.output is not None
    for name in (image.output.picture, image.output.thumbnail, image.output.before):
        assert (await world.kept("results"))[name][2]["fence"] == "2"


@virtual
async def test_a_cancelled_stale_worker_changes_nothing(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    theirs = Stall()
    world.fakes.will("generate", theirs)
    successor = second.begin(task)
    await theirs.reached.wait()
    held = await world.image()
    work.cancel()
    await asyncio.wait([work])
    assert await world.image() == held
    theirs.go_on.set()
    assert (await successor).action is Action.ACK


@virtual
async def test_a_stale_public_picture_is_overwritten_by_the_next_fence(world: World) -> None:
    """The stale worker was quicker with the objects: whoever settles the image has the last word on them."""
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("verify", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    theirs = Stall()
    world.fakes.will("verify", BAD, theirs)
    successor = second.begin(task)
    await theirs.reached.wait()
    stall.go_on.set()
    assert (await work).action is Action.LET_GO
    theirs.go_on.set()
    assert (await successor).action is Action.ACK
    image = await world.image()
    assert image.output is not None
    _, content, metadata = (await world.kept("results"))[image.output.picture]
    assert content == b"finished raw 2"
    assert metadata["fence"] == "2"
