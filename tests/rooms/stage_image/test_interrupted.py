"""STAGE IMAGE interrupted at every place: by a worker that stops, by a kill, by a port that fails."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import ConfigurationError, RuumError, Throttled
from shared.model import Worker
from shared.worker.disposition import Action
from shared.worker.heartbeat import Heartbeat
from tests.clocks import VirtualClock
from tests.harness.fakes import STEPS, Stall
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import STALE_SECONDS, Hand, World, ticks, virtual
from tests.rooms.stage_image.parts import COMPLETED, QUEUED, WORLD, no_trace, rejected

# --- cancellation of the task itself: a worker that stops


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_stopping_worker_releases(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will(step, stall)
    task = await world.task()
    work = hand.begin(task)
    await stall.reached.wait()
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    image = await world.image()
    assert (image.state, image.attempts, image.crashes, image.claim) == (QUEUED, 0, 0, None)
    await no_trace(world)
    assert (await hand.handle(task)).action is Action.ACK


@virtual
async def test_a_stopping_worker_releases_a_suspect_that_waits(world: World) -> None:
    await world.batch(2)
    await world.held_by("ghost", 1, crashes=1)
    hand = await world.grown_worker()
    busy = Stall()
    world.fakes.will("fetch", busy)
    first = hand.begin(await world.task(0))
    await busy.reached.wait()
    suspect = hand.begin(await world.task(1))
    await ticks()
    suspect.cancel()
    await asyncio.wait([suspect])
    image = await world.image(1)
    assert (image.state, image.attempts, image.claim) == (QUEUED, 0, None)
    busy.go_on.set()
    assert (await first).action is Action.ACK


@virtual
async def test_a_throttled_image_is_released_when_the_worker_stops(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", Throttled("slow down", 600.0))
    work = hand.begin(await world.task())
    await world.clock.sleep(10)
    work.cancel()
    await asyncio.wait([work])
    image = await world.image()
    assert (image.state, image.attempts) == (QUEUED, 0)
    assert image.checkpoint is not None
    assert image.checkpoint.analysis is not None


# --- faults at every place


async def calls_of_a_staging(clock: VirtualClock, *, cache: bool) -> int:
    """How many port calls the staging of one image makes."""
    fuse = Fuse()
    world = World(clock)
    await world.batch(cache=cache)
    hand = Hand(world, fused(world.parts, fuse), world.fakes)
    await hand.handle(await world.task())
    return len(fuse.calls)


@pytest.mark.parametrize("cache", [False, True], ids=["plain", "cache"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_killed_at_every_place(world: World, after: bool, cache: bool) -> None:
    """kill -9 at each port call; the next worker takes over and it ends as if nothing had happened."""
    count = await calls_of_a_staging(world.clock, cache=cache)
    assert count >= 10
    waited: list[str] = []
    for at in range(1, count + 1):
        world = World(world.clock)
        await world.batch(cache=cache)
        fuse = Fuse(at, after=after)
        first = Hand(world, fused(world.parts, fuse), world.fakes)
        await world.store.beat(Worker(id=first.heartbeat.worker, at=world.clock.now()))
        task = await world.task()
        assert await fuse.kills(first.handle(task))
        await world.clock.sleep(STALE_SECONDS)
        second = await world.worker()
        taken_over = world.clock.now()
        assert (await second.handle(task)).action is Action.ACK, fuse.calls
        second.fall_silent()
        if world.clock.now() > taken_over + 10:
            waited.append(f"call {at} ({fuse.calls[-1]}): {world.clock.now() - taken_over:.0f} s")
        image = await world.image()
        assert image.state is COMPLETED, fuse.calls
        assert image.attempts == 0
        assert image.output is not None
        objects = await world.kept("results")
        assert set(objects) == {image.output.picture, image.output.thumbnail, image.output.before}
        kept = "change_image" in fuse.calls[fuse.calls.index("put") :] if "put" in fuse.calls else False
        assert world.fakes.bought.count("generate") <= 2
        if kept and (after or fuse.calls[-1] != "change_image"):
            assert world.fakes.bought.count("generate") == 1, fuse.calls
        assert objects[image.output.picture][1].startswith(b"finished raw ")
        await no_trace(world)
    assert waited == [], "nobody is left to wait for: the image is staged at once"


@pytest.mark.parametrize("cache", [False, True], ids=["plain", "cache"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_storage_fails_once_at_every_place(world: World, after: bool, cache: bool) -> None:
    """One call to database, queue or bucket fails (or its reply is lost); the only worker is alive and goes on.

    Whatever it was, within an hour of redeliveries the image has to be completed.
    """
    count = await calls_of_a_staging(world.clock, cache=cache)
    stuck: list[str] = []
    for at in range(1, count + 1):
        world = World(world.clock)
        await world.batch(cache=cache)
        fuse = Fuse(at, after=after, error=unreachable)
        hand = Hand(world, fused(world.parts, fuse), world.fakes)
        beating = asyncio.create_task(Heartbeat.run(_same(hand.heartbeat, world)))
        await ticks(3)
        task = await world.task()
        for _ in range(180):
            done = await hand.handle(task)
            if done.action is Action.ACK:
                break
            await world.clock.sleep(max(done.seconds, 10.0))
        beating.cancel()
        image = await world.image()
        if image.state is not COMPLETED:
            stuck.append(f"call {at} ({fuse.calls[at - 1]}): {image.state}, last answer {done.action}")
        else:
            assert image.attempts <= 1
    assert stuck == []


def _same(heartbeat: Heartbeat, world: World) -> Heartbeat:
    """A heartbeat of the same worker on the sound store."""
    sound = Heartbeat(world.store, world.clock, 5)
    sound.worker = heartbeat.worker
    return sound


@pytest.mark.parametrize("ending", ["success", "world", "rejected", "configuration", "bug"])
@virtual
async def test_an_outage_in_mid_work_is_survived(world: World, ending: str) -> None:
    """Nothing can be reached for two minutes, heartbeat included; the only worker lives on and gets its task again."""
    await world.batch()
    fuse = Fuse(error=unreachable)
    hand = await world.worker(fused(world.parts, fuse))
    ends = {"world": WORLD, "rejected": rejected(), "configuration": ConfigurationError("x"), "bug": KeyError("x")}
    stall = Stall(ends.get(ending))
    world.fakes.will("generate", stall)
    task = await world.task()
    work = hand.begin(task)
    await stall.reached.wait()
    fuse.away = True
    stall.go_on.set()
    assert (await work).action in (Action.NACK, Action.HALT)
    await world.clock.sleep(120)
    fuse.away = False
    for _ in range(180):
        done = await hand.handle(task)
        if done.action is Action.ACK:
            break
        await world.clock.sleep(max(done.seconds, 10.0))
    image = await world.image()
    assert (image.state, done.action) == (COMPLETED, Action.ACK)
    assert image.attempts <= 1


@virtual
async def test_every_error_of_the_product_is_answered(world: World) -> None:
    """`handle` never raises, whatever comes out of a step."""
    await world.batch(30)
    hand = await world.worker()
    errors = [RuumError("x"), OSError("x"), TimeoutError("x"), MemoryError("x"), RecursionError("x"), StopAsyncIteration("x"),
              EOFError("x"), AssertionError("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "x")]  # fmt: skip
    for index, error in enumerate(errors):
        world.fakes.will("analyse", error)
        assert (await hand.handle(await world.task(index))).action is Action.NACK
        assert (await world.image(index)).attempts == 1


@virtual
async def test_the_worker_goes_on_with_an_image_it_has_lost_before(world: World) -> None:
    """A stale hand that ends must not disturb the new hand of the same worker on the same image."""
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will("fetch", stall)
    task = await world.task()
    old = hand.begin(task)
    await stall.reached.wait()
    await world.change_image(state=QUEUED, claim=None, fence=2)  # taken over and given back by another
    world.fakes.will("analyse", Throttled("slow down", 20.0))
    new = hand.begin(task)
    await world.clock.sleep(5)
    stall.go_on.set()
    await world.clock.sleep(1)
    assert (await old).action is Action.LET_GO
    assert (await new).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts) == (COMPLETED, 0)


@virtual
async def test_a_stale_hand_that_ends_does_not_strip_its_successor(world: World) -> None:
    """The new hand of the same worker is in a paid call: a third delivery must find the image held."""
    await world.batch()
    hand = await world.worker()
    first, second = Stall(), Stall()
    world.fakes.will("fetch", first)
    world.fakes.will("generate", second)
    task = await world.task()
    old = hand.begin(task)
    await first.reached.wait()
    await world.change_image(state=QUEUED, claim=None, fence=2)  # taken over and given back by another
    new = hand.begin(task)
    await second.reached.wait()
    first.go_on.set()
    assert (await old).action is Action.LET_GO
    fence = (await world.image()).fence
    assert (await hand.handle(await world.task())).action is Action.LET_GO
    assert (await world.image()).fence == fence
    second.go_on.set()
    assert (await new).action is Action.ACK
    assert ((await world.image()).state, (await world.image()).fence) == (COMPLETED, fence)
