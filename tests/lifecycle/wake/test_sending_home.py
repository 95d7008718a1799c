"""Workers are sent home by the schedule: reconcile with a fleet to size."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.errors import WorldError
from shared.lifecycle.fleet import Scaling
from shared.model import Batch, BatchState, Control, ImageState, Lease, ReplayPlan
from tests.harness.faults import Fuse, unreachable
from tests.harness.world import World, virtual
from tests.lifecycle.wake.parts import Fleet, ingest, reconciled, rooms, woken

# --- who needs workers


def reopening(now: float) -> dict[str, Any]:
    plan = ReplayPlan(number=1, lease=Lease(holder="somebody", until=now + 100))
    return {"state": BatchState.REOPENING, "replay": plan}


@pytest.mark.parametrize(
    ("changes", "instances"),
    [
        ({}, 2),
        ({"state": BatchState.INGESTING}, 2),
        ({"control": Control.CANCELLING}, 2),
        ({"control": Control.PAUSED}, 0),
        ({"control": Control.PAUSED, "state": BatchState.INGESTING}, 0),
        ({"state": BatchState.CLOSED}, 0),  # its event is not out yet; no worker can help with that
        ({"state": BatchState.CLOSED, "announced_round": 1}, 0),
        ({"state": BatchState.REJECTED}, 0),
    ],
    ids=str,
)
@virtual
async def test_who_needs_workers(world: World, changes: dict[str, Any], instances: int) -> None:
    world, fleet = woken(world), Fleet(1)
    await world.batch(3, **changes)
    scaling = Scaling(world.store, fleet, world.clock, world.settings)
    await scaling.wake()
    assert fleet.count == max(1, instances)
    assert await scaling.settle() == instances
    assert fleet.count == instances


@virtual
async def test_a_batch_that_is_being_reopened_needs_workers(world: World) -> None:
    world, fleet = woken(world), Fleet()
    await world.batch(3, **reopening(world.clock.now()))
    await Scaling(world.store, fleet, world.clock, world.settings).wake()
    assert fleet.scaled == [2]


@virtual
async def test_settled_images_need_no_workers(world: World) -> None:
    world, fleet = woken(world), Fleet(3)
    on = rooms(world, fleet)
    await world.batch(5)
    for index in range(5):
        await world.change_image(index, state=ImageState.COMPLETED, settled_at=1.0)
    report = await reconciled(on)
    assert (report.closed, report.instances) == (1, 0), "counted again after reconcile has folded them in"
    assert fleet.scaled == [0]


@virtual
async def test_only_what_is_open_is_listed(world: World) -> None:
    """On the embedded backend; the contract suite holds both to it."""
    states: dict[str, dict[str, Any]] = {
        "ingesting": {"state": BatchState.INGESTING},
        "processing": {},
        "paused": {"control": Control.PAUSED},
        "closing": {"state": BatchState.CLOSING},
        "reopening": {"state": BatchState.REOPENING},
        "unannounced": {"state": BatchState.CLOSED},
        "round-2-unannounced": {"state": BatchState.CLOSED, "round": 2, "announced_round": 1},
        "done": {"state": BatchState.CLOSED, "announced_round": 1},
        "done-twice": {"state": BatchState.CLOSED, "round": 2, "announced_round": 2},
        "rejected": {"state": BatchState.REJECTED},
    }
    for number, (name, changes) in enumerate(states.items()):
        await world.batch(1, name, created_at=float(number), **changes)
    everything = [batch.id for batch in await world.store.batches()]
    assert everything == [f"acme.{name}" for name in reversed(states)]
    found = [batch.id for batch in await world.store.batches(open_only=True)]
    assert found == [name for name in everything if name not in ("acme.done", "acme.done-twice", "acme.rejected")]


# --- down to zero, and back when a batch opened meanwhile


@virtual
async def test_nothing_open_sends_all_home(world: World) -> None:
    world, fleet = woken(world), Fleet(4)
    on = rooms(world, fleet)
    for _ in range(3):
        assert (await reconciled(on)).instances == 0
    assert fleet.scaled == [0], "said once: a pool that is at rest is left alone"


@virtual
async def test_the_schedule_starts_workers_and_stops_none_that_may_have_work(world: World) -> None:
    """A worker that is stopped loses the calls it has paid for; one that idles until all is done costs cents."""
    world = woken(world)
    await world.batch(3)
    for there in (0, 1, 2, 4):
        fleet = Fleet(there)
        assert (await reconciled(rooms(world, fleet))).instances == max(there, 2)
        assert fleet.scaled == ([] if there >= 2 else [2])


@virtual
async def test_workers_are_set_before_anything_is_read(world: World) -> None:
    """A run that is cut off in the middle of a large batch has started the workers all the same."""
    world, fleet = woken(world), Fleet(0)
    await world.batch(3)
    cut = Fuse(1, on="moved_images")
    on = rooms(world, fleet, store=cut.wrap(world.store))
    assert await cut.kills(on.reconcile.run())
    assert fleet.scaled == [2]


@virtual
async def test_a_fleet_that_is_away_at_first_keeps_no_batch_waiting(world: World) -> None:
    """The number is set at the end; when that fails too, the run fails, and the schedule comes again."""
    world, fleet = woken(world), Fleet(0)
    await world.batch(1)
    await world.change_image(0, state=ImageState.FAILED, settled_at=1.0)
    fleet.count, fleet.error = 2, ("instances", unreachable())
    with pytest.raises(WorldError):
        await reconciled(rooms(world, fleet))
    assert (await world.the_batch()).state is BatchState.CLOSED
    fleet.error = None
    assert (await reconciled(rooms(world, fleet))).instances == 0


class Watched:
    """The ports' calls in one order; `hook` runs before (or after) the n-th of them, once."""

    def __init__(self, at: int, *, after: bool, hook: Callable[[], Awaitable[Any]]) -> None:
        self.at = at
        self.after = after
        self.hook = hook
        self.calls: list[str] = []

    def wrap(self, port: Any) -> Any:
        return _Watched(port, self)


class _Watched:
    def __init__(self, port: Any, watched: Watched) -> None:
        self._port = port
        self._watched = watched

    def __getattr__(self, name: str) -> Any:
        method, watched = getattr(self._port, name), self._watched
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            watched.calls.append(name)
            mine = len(watched.calls) == watched.at
            if mine and not watched.after:
                await watched.hook()
            answer = await method(*args, **options)
            if mine and watched.after:
                await watched.hook()
            return answer

        return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("there", [0, 1, 3])
@virtual
async def test_a_batch_that_opens_while_all_are_sent_home_has_its_worker(world: World, there: int, after: bool) -> None:
    """It opens, and its own wake-up is through, between any two steps of the settling."""
    at, places = 1, 0
    while True:
        world, fleet = woken(world), Fleet(there)
        plain = rooms(world, fleet)
        watched = Watched(at, after=after, hook=lambda: ingest(world, plain, 1))  # noqa: B023 - called in this turn
        scaling = Scaling(watched.wrap(world.store), watched.wrap(fleet), world.clock, world.settings)
        await scaling.settle()
        if len(watched.calls) < at:
            break
        assert fleet.count >= 1, f"{watched.calls} {at}"
        places += 1
        at += 1
    assert places >= (7 if there else 4)  # with none there nothing is set, and the batch's own wake-up finds none


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_all_are_sent_home_while_a_batch_opens(world: World, after: bool) -> None:
    """The other way round: a whole settling between any two steps of ingest."""
    at, settled = 1, False
    while True:
        world, fleet = woken(world), Fleet(1)
        scaling = Scaling(world.store, fleet, world.clock, world.settings)
        watched = Watched(at, after=after, hook=scaling.settle)
        on = rooms(
            world, watched.wrap(fleet), store=watched.wrap(world.store), queue=watched.wrap(world.queue)
        )  # fmt: skip
        await ingest(world, on, 1)
        if len(watched.calls) < at:
            break
        assert fleet.count == 1, f"{watched.calls} {at}"
        settled = settled or 0 in fleet.scaled
        at += 1
    assert settled
    assert at > 10


@pytest.mark.parametrize("seed", range(20))
@virtual
async def test_batches_open_and_close_while_the_schedule_settles(world: World, seed: int) -> None:
    """Everything at once, each call taking its time: in the end whoever waits has a worker."""
    chance = random.Random(seed)
    world, fleet = woken(world), Fleet(chance.randint(0, 4))

    class Slow:
        def __init__(self, port: Any) -> None:
            self._port = port

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._port, name)

            async def call(*args: Any, **options: Any) -> Any:
                await world.clock.sleep(chance.random())
                answer = await method(*args, **options)
                await world.clock.sleep(chance.random())
                return answer

            return call if inspect.iscoroutinefunction(method) else method

    scaling = Scaling(Slow(world.store), Slow(fleet), world.clock, world.settings)
    on = rooms(world, Slow(fleet), store=Slow(world.store))

    async def schedule() -> None:
        for _ in range(4):
            await scaling.settle()
            await world.clock.sleep(chance.uniform(0, 5))

    async def opens() -> None:
        await world.clock.sleep(chance.uniform(0, 20))
        await ingest(world, on, 1)

    await asyncio.gather(schedule(), opens())
    assert fleet.count == 1


@virtual
async def test_one_more_look_and_no_more(world: World) -> None:
    world, fleet = woken(world), Fleet(1)
    looks: list[bool] = []

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def batches(self, *, open_only: bool = False) -> list[Batch]:
            looks.append(open_only)
            return await world.store.batches(open_only=open_only)

    scaling = Scaling(Store(), fleet, world.clock, world.settings)  # type: ignore[arg-type]
    assert await scaling.settle() == 0
    assert looks == [True, True]
    await world.batch(1)
    assert await scaling.settle() == 1
    assert looks == [True] * 4, "once to count, and once more after it was set: whoever sets last counts last"
