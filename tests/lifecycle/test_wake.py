"""Workers are woken by work and sent home by the schedule: ingest, replay, resume and reconcile with a fleet to size."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shared import ports
from shared.assembly import wiring
from shared.decisions.quota import Ledger
from shared.errors import ConfigurationError, RuumError, WorldError
from shared.lifecycle.fleet import Scaling
from shared.lifecycle.reconcile import Report
from shared.manifest.sources import SourceRules
from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Control, ImageState, Lease, ReplayPlan
from shared.settings import FleetRules, Gemini, Limit
from shared.topology import topic_of
from tests.parts import IMAGE, SETTINGS, TEXT, Fuse, World, unreachable, virtual

# Two images keep a worker busy; the quotas leave room for all of them.
RULES = FleetRules(pool="projects/p/locations/r/workerPools/w", images_per_instance=2, max_instances=4)
WOKEN = msgspec.structs.replace(SETTINGS, fleet=RULES, gemini=Gemini(text_model=TEXT, image_model=IMAGE))
NAME = "manifests/acme/{}.json"


class Fleet:
    """A `Fleet` that only counts. `before` is awaited in each of its calls, with the call's name."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.scaled: list[int] = []
        self.asked = 0
        self.error: tuple[str, Exception] | None = None
        self.seen_at_scale: Callable[[], Awaitable[Any]] | None = None

    def _fail(self, name: str) -> None:
        if self.error is not None and self.error[0] == name:
            raise self.error[1]

    async def instances(self) -> int:
        self.asked += 1
        self._fail("instances")
        return self.count

    async def scale(self, instances: int) -> None:
        self._fail("scale")
        if self.seen_at_scale is not None:
            await self.seen_at_scale()
        self.scaled.append(instances)
        self.count = instances


def woken(world: World) -> World:
    """A world whose settings name a pool."""
    return World(world.clock, WOKEN)


def rooms(world: World, fleet: Any, **parts: Any) -> wiring.Rooms:
    """The cloud's rooms on the world, with a fleet; `parts` stand in for the world's own store, queue or objects."""
    backend = ports.Backend(
        parts.get("store", world.store), parts.get("queue", world.queue), parts.get("objects", world.objects), fleet
    )
    return wiring.rooms(
        backend, world.clock, world.settings, lambda _: SourceRules(base="gs://intake/x/"), folder_is_client=True
    )


async def ingest(world: World, on: wiring.Rooms, count: int = 3, name: str = "b1", **header: Any) -> Batch:
    fields = {"clientName": "acme", "batchId": name, "designStyle": "modern", "roomType": "living_room", **header}
    images = [{"url": f"https://example.com/{index}.jpg"} for index in range(count)]
    content = json.dumps({**fields, "images": images}).encode()
    await world.objects.put("intake", NAME.format(name), content, content_type="application/json")
    batch = await on.ingest.handle("intake", NAME.format(name))
    assert batch is not None
    return batch


async def settle_all(world: World, on: wiring.Rooms, state: ImageState, batch: str = "acme.b1") -> None:
    """Every image of the batch to this state, and AGGREGATE told of it."""
    async for image in world.store.images(batch):
        await world.change_image(image.index, batch, state=ImageState.PROCESSING)
        await world.change_image(image.index, batch, state=state, settled_at=world.clock.now())
    for delivery in await world.changes():
        await on.aggregate.handle(decode(ImageChanged, delivery.data))


async def reconciled(on: wiring.Rooms) -> Report:
    return await on.reconcile.run()


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
