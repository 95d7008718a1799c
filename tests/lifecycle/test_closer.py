"""A closer at work, on the embedded backend in memory: slow, killed, beside another one."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from shared import decisions, errors
from shared.assembly.wiring import Embedded, embedded
from shared.lifecycle import closing
from shared.model import Batch, BatchMove, BatchState, Counts, Failure, Image, Tally
from shared.ports import Message
from shared.results import names
from shared.results.status import write_status
from shared.settings import Settings
from tests import builders
from tests.lifecycle.closing_parts import OUTPUT, B, Clock, a_batch


class Killed(Exception):
    """The process died here."""


class Objects:
    """The embedded objects, with something happening before the writes of chosen names."""

    def __init__(self, inner: Any, before: dict[str, Any] | None = None) -> None:
        self._inner = inner
        self.before = before or {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put(self, bucket: str, name: str, data: bytes, **options: Any) -> Any:
        for part, happens in self.before.items():
            if name.endswith(part):
                await happens()
        return await self._inner.put(bucket, name, data, **options)


class Announcements:
    """A queue of which only what is published matters."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def publish(self, topic: str, sent: list[Message]) -> None:
        for message in sent:
            if "/progress/" not in message.attributes["ce-id"]:
                self.events.append((message.attributes["ce-id"], msgspec.json.decode(message.data)))


class World:
    """A batch of two images whose first closing is near: image 0 has completed and image 1 failed, both are folded."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.parts: Embedded = embedded(self.clock)
        self.store = self.parts.store
        self.queue = Announcements()
        self.settings = Settings()
        self.results = self.settings.buckets.results

    async def begin(self) -> None:
        batch = a_batch(revision=1)
        await self.store.create_batch(batch)
        await self.store.create_tallies(decisions.batch.empty_tallies(batch))
        images = [builders.an_image(batch=batch.id, index=index, shard=index) for index in range(2)]
        await self.store.create_images(images)
        await self.settle(0)
        await self.settle(1, fails=True)

    async def change(self, index: int, decide: Any) -> Image:
        """Write the image and fold its change."""
        image = await self.store.change_image("acme.a", index, decide, self.clock.token())
        assert isinstance(image, Image), image
        tally = await self.store.change_tally(
            "acme.a",
            image.shard,
            lambda tally: decisions.batch.fold(tally, index=index, revision=image.revision, state=image.state),
            self.clock.token(),
        )
        assert isinstance(tally, Tally)
        return image

    async def settle(self, index: int, *, fails: bool = False) -> None:
        image = await self.change(
            index,
            lambda image: decisions.image.claim(
                image, task_round=image.round, worker="w", now=self.clock.time, holder=None
            ),
        )
        fence, now = image.fence, self.clock.time
        if fails:
            error = Failure(code="vendor_timeout", message="")
            await self.change(
                index, lambda image: decisions.image.fail(image, fence=fence, error=error, calls=(), now=now)
            )
        else:
            await self.change(
                index,
                lambda image: decisions.image.complete(
                    image, fence=fence, output=OUTPUT, calls=(), durations_ms={}, prompts="", now=now
                ),
            )

    async def replay(self) -> None:
        """As the design says: reopen as a new round, requeue and fold what failed, resume; then it is staged."""
        await self.move(BatchMove.REOPEN, round=2)
        await self.change(1, lambda image: decisions.image.requeue(image, replay=1))
        await self.move(BatchMove.RESUME)
        await self.settle(1)

    async def move(self, move: BatchMove, **changes: Any) -> None:
        moved = await self.store.change_batch(
            "acme.a", lambda batch: decisions.batch.apply(batch, move, **changes), self.clock.token()
        )
        assert isinstance(moved, Batch)

    def closer(self, before: dict[str, Any] | None = None) -> closing.Closer:
        objects: Any = Objects(self.parts.objects, before)
        queue: Any = self.queue
        return closing.Closer(self.store, queue, objects, self.clock, self.settings)

    async def batch(self) -> Batch:
        batch = await self.store.batch("acme.a")
        assert batch is not None
        return batch

    async def status(self) -> dict[str, Any]:
        found = await self.parts.objects.get(self.results, names.status_name(await self.batch()))
        assert found is not None
        return msgspec.json.decode(found[1])

    async def report(self, round_: int) -> list[str]:
        """The images' states as the round's results.jsonl has them."""
        name = f"{names.results_folder(await self.batch())}round-{round_}/results.jsonl"
        found = await self.parts.objects.get(self.results, name)
        assert found is not None
        return [msgspec.json.decode(line)["state"] for line in found[1].splitlines()]


async def killed() -> None:
    raise Killed


def test_a_batch_without_open_images_is_closed_reported_and_announced_once():
    async def run() -> None:
        world = World()
        await world.begin()
        for _ in range(3):
            await world.closer().check("acme.a")
        batch = await world.batch()
        assert (batch.state, batch.outcome, batch.announced_round) == (B.CLOSED, "completed_with_failures", 1)
        assert batch.closer is None
        assert [name for name, _ in world.queue.events] == ["acme.a/1"]
        assert world.queue.events[0][1]["counts"]["failed"] == 1
        assert await world.report(1) == ["completed", "failed"]
        assert (await world.status())["state"] == "completed_with_failures"

    asyncio.run(run())


@pytest.mark.parametrize("state", [B.INGESTING, B.CLOSED, B.REOPENING, B.REJECTED])
def test_a_check_leaves_other_batches_alone(state: BatchState):
    async def run() -> None:
        world = World()
        batch = a_batch(state, announced_round=1)
        await world.store.create_batch(batch)
        await world.store.create_tallies([])
        await world.closer().check("acme.a")
        await world.closer().check("acme.b")
        assert await world.batch() == batch
        assert world.queue.events == []

    asyncio.run(run())


@pytest.mark.parametrize("missing", ["an image is open", "a shard is missing"])
def test_a_batch_is_not_closed_while_something_is_open_or_unknown(missing: str):
    async def run() -> None:
        world = World()
        batch = a_batch()
        await world.store.create_batch(batch)
        done = [Tally(batch="acme.a", shard=shard, counts=Counts(completed=1)) for shard in range(2)]
        still_open = Tally(batch="acme.a", shard=1, counts=Counts(processing=1))
        await world.store.create_tallies([done[0], still_open] if missing == "an image is open" else done[:1])
        await world.closer().check("acme.a")
        assert await world.batch() == batch

    asyncio.run(run())


# Where a closer can die, and what is there when the next one comes.
DEATHS = ["results.jsonl", "results.csv", "failed.csv", "report.html", "status.json"]


@pytest.mark.parametrize("place", DEATHS)
def test_a_closing_is_carried_on_from_wherever_its_closer_died(place: str):
    async def run() -> None:
        world = World()
        await world.begin()
        with pytest.raises(Killed):
            await world.closer({place: killed}).check("acme.a")
        world.clock.time += world.settings.worker.closer_lease_seconds
        await world.closer().check("acme.a")
        batch = await world.batch()
        assert (batch.state, batch.announced_round) == (B.CLOSED, 1)
        assert [name for name, _ in world.queue.events] == ["acme.a/1"]
        assert await world.report(1) == ["completed", "failed"]
        # The time it took is the time of the closing that was begun, not of the one that carried it on.
        assert world.queue.events[0][1]["durationSeconds"] == 100

    asyncio.run(run())


@pytest.mark.parametrize("place", DEATHS)
def test_a_crm_that_polls_the_status_sees_the_end_wherever_the_closer_died(place: str):
    async def run() -> None:
        world = World()
        await world.begin()
        batch = await world.batch()  # AGGREGATE has shown progress before
        counts = await world.store.counts("acme.a")
        await write_status(world.parts.objects, world.results, batch, counts, world.clock.time)
        with pytest.raises(Killed):
            await world.closer({place: killed}).check("acme.a")
        world.clock.time += world.settings.worker.closer_lease_seconds
        for _ in range(3):  # the event comes again, more than once
            await world.closer().check("acme.a")
        assert (await world.batch()).state is B.CLOSED
        assert (await world.status())["state"] == "completed_with_failures"

    asyncio.run(run())


def test_nobody_carries_a_closing_on_while_its_lease_lives():
    async def run() -> None:
        world = World()
        await world.begin()
        with pytest.raises(Killed):
            await world.closer({"report.html": killed}).check("acme.a")
        world.clock.time += world.settings.worker.closer_lease_seconds - 1
        before = await world.batch()
        with pytest.raises(errors.StillClosing):  # so the event comes again, and finds the lease over some time
            await world.closer().check("acme.a")
        assert await world.batch() == before
        assert before.state is B.CLOSING
        assert world.queue.events == []
        world.clock.time += 1
        await world.closer().check("acme.a")
        assert (await world.batch()).state is B.CLOSED

    asyncio.run(run())


class RestlessStore:
    """The store, in which somebody changes the batch between the look at it and the lease, so many times."""

    def __init__(self, inner: Any, clock: Clock, times: int) -> None:
        self._inner, self._clock, self.times = inner, clock, times
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def open_images(self, batch_id: str) -> Any:
        answer = await self._inner.open_images(batch_id)
        self.looks += 1
        if self.looks <= self.times:
            touch = lambda batch: msgspec.structs.replace(batch, revision=batch.revision + 1)
            await self._inner.change_batch(batch_id, touch, self._clock.token())
        return answer


@pytest.mark.parametrize("times", [0, 1, 4, 5])
def test_a_batch_that_moves_on_is_looked_at_again_a_few_times(times: int):
    async def run() -> None:
        world = World()
        await world.begin()
        store: Any = RestlessStore(world.store, world.clock, times)
        objects, queue = world.parts.objects, world.queue
        closes = times < closing.CHECK_TRIES
        # Returning silently would leave a batch with nothing open to the next reconcile.
        with nullcontext() if closes else pytest.raises(errors.StillClosing, match="each of 5 closing checks"):
            await closing.Closer(store, queue, objects, world.clock, world.settings).check("acme.a")  # type: ignore[arg-type]
        assert (await world.batch()).state is (B.CLOSED if closes else B.PROCESSING)
        assert store.looks == (times + 1 if closes else closing.CHECK_TRIES)

    asyncio.run(run())


async def slow_first_closer(world: World, place: str) -> tuple[asyncio.Event, asyncio.Task[None]]:
    """A closer of round 1 that stops for long before it writes `place`; meanwhile another one closes round 1."""
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def stops() -> None:
        reached.set()
        await goes_on.wait()

    await world.begin()
    slow = asyncio.create_task(world.closer({place: stops}).check("acme.a"))
    await reached.wait()
    world.clock.time += world.settings.worker.closer_lease_seconds + 1
    await world.closer().check("acme.a")
    assert (await world.batch()).announced_round == 1
    return goes_on, slow


async def finish(goes_on: asyncio.Event, slow: asyncio.Task[None]) -> None:
    goes_on.set()
    await asyncio.wait([slow])
    slow.exception()  # it may raise or not: it must do no harm


def test_two_closers_of_one_round_write_and_announce_the_same():
    async def run() -> None:
        world = World()
        goes_on, slow = await slow_first_closer(world, "report.html")
        before = await world.batch()
        await finish(goes_on, slow)
        assert await world.batch() == before
        assert len({name for name, _ in world.queue.events}) == 1
        assert all(data == world.queue.events[0][1] for _, data in world.queue.events)

    asyncio.run(run())


def test_a_closer_that_lost_its_lease_does_not_close_the_next_round():
    """It slept through the end of round 1 and through a replay; when it wakes, round 2 is being closed by another."""

    async def run() -> None:
        world = World()
        goes_on, slow = await slow_first_closer(world, "report.html")
        await world.replay()
        with pytest.raises(Killed):  # the closer of round 2 dies before its first report is there
            await world.closer({"results.jsonl": killed}).check("acme.a")
        assert (await world.batch()).state is B.CLOSING
        await finish(goes_on, slow)
        second = [data for name, data in world.queue.events if name == "acme.a/2"]
        assert second == [], f"round 2 was announced before its report was written, with {second[0]['counts']}"
        assert (await world.batch()).state is B.CLOSING
        world.clock.time += world.settings.worker.closer_lease_seconds + 1
        await world.closer().check("acme.a")
        assert (await world.batch()).outcome == "completed"
        assert world.queue.events[-1][0] == "acme.a/2"
        assert world.queue.events[-1][1]["counts"]["completed"] == 2

    asyncio.run(run())


def test_a_closer_that_lost_its_lease_does_not_overwrite_an_announced_report():
    """It wakes up before it has read the images, while a replay has requeued one of them."""

    async def run() -> None:
        world = World()
        reached, goes_on = asyncio.Event(), asyncio.Event()
        await world.begin()
        slow_store = PausingStore(world.store, reached, goes_on)
        objects: Any = Objects(world.parts.objects)
        queue: Any = world.queue
        closer = closing.Closer(slow_store, queue, objects, world.clock, world.settings)  # type: ignore[arg-type]
        slow = asyncio.create_task(closer.check("acme.a"))
        await reached.wait()
        world.clock.time += world.settings.worker.closer_lease_seconds + 1
        await world.closer().check("acme.a")
        announced = world.queue.events[0][1]["reports"]["results.jsonl"]
        assert await world.report(1) == ["completed", "failed"]
        await world.move(BatchMove.REOPEN, round=2)
        await world.change(1, lambda image: decisions.image.requeue(image, replay=1))
        await finish(goes_on, slow)
        assert await world.report(1) == ["completed", "failed"], f"no longer what was announced: {announced}"
        assert slow.exception() is None, "who lost its lease stops, and that is no bug of its own"

    asyncio.run(run())


def test_a_slow_closers_report_does_not_replace_that_of_the_closer_after_it():
    """Reports carry the revision at which their closer took the lease."""

    async def run() -> None:
        world = World()
        goes_on, slow = await slow_first_closer(world, "report.html")
        folder = names.round_folder(await world.batch())
        written = await world.parts.objects.stat(world.results, folder + "report.html")
        assert written is not None
        await finish(goes_on, slow)
        assert slow.exception() is None
        assert await world.parts.objects.stat(world.results, folder + "report.html") == written
        assert int(written.metadata["fence"]) > 2

    asyncio.run(run())


def test_a_mismatch_of_images_and_tallies_is_loud_to_who_has_the_lease():
    async def run() -> None:
        world = World()
        await world.begin()
        tampered = lambda tally: msgspec.structs.replace(tally, counts=Counts(cancelled=1))
        await world.store.change_tally("acme.a", 0, tampered, world.clock.token())
        with pytest.raises(RuntimeError, match="tallies"):
            await world.closer().check("acme.a")
        assert (await world.batch()).state is B.CLOSING
        assert world.queue.events == []

    asyncio.run(run())


class PausingStore:
    """The store, whose list of images is long in coming."""

    def __init__(self, inner: Any, reached: asyncio.Event, goes_on: asyncio.Event) -> None:
        self._inner, self._reached, self._goes_on = inner, reached, goes_on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def images(self, batch_id: str, state: Any = None, start: int = 0) -> Any:
        self._reached.set()
        await self._goes_on.wait()
        async for image in self._inner.images(batch_id, state, start):
            yield image
