"""Counting and closing, rule by rule: exact counts whatever comes when, one way through closing, no older news."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions, errors, events
from shared.assembly.wiring import Embedded, embedded
from shared.lifecycle import closing
from shared.model import (
    SETTLED_STATES,
    Batch,
    BatchMove,
    BatchState,
    Completion,
    Counts,
    Failure,
    Image,
    ImageState,
    Lease,
    ManifestRef,
    Output,
    Refusal,
    Tally,
    Tier,
    shards_for,
)
from shared.ports import Message
from shared.results import names
from shared.results.status import status_of, write_status
from shared.settings import Settings

S, B = ImageState, BatchState
NOW = 1_000_000.0
OUTPUT = Output(picture="p.jpg", thumbnail="t.jpg", before="b.jpg", sha256="0" * 64, width=4, height=3)
REF = ManifestRef(uri="gs://intake/manifests/acme/a.json", generation=1, sha256="0" * 64, base="gs://intake/")
LEASE = Lease(holder="me", until=NOW + 30)


def a_batch(state: BatchState = B.PROCESSING, **changes: Any) -> Batch:
    known: dict[str, Any] = {
        "id": "acme.a", "client": "acme", "client_name": "Acme", "tier": Tier.NORMAL, "manifest": REF, "total": 2,
        "shards": 2, "state": state, "revision": 5, "created_at": NOW - 100,
    }  # fmt: skip
    return Batch(**(known | changes))


def a_completion(outcome: str = "completed", **counts: int) -> Completion:
    return Completion(
        outcome=outcome, counts=Counts(**counts), success_rate=1.0, cost_usd=0.0, duration_seconds=1.0, reports={}
    )


# --- fold -------------------------------------------------------------------------------------------------------------


def a_tally(images: int) -> Tally:
    return Tally(batch="acme.a", shard=0, counts=Counts(queued=images))


def folded(tally: Tally, event: tuple[int, int, ImageState]) -> Tally:
    index, revision, state = event
    before = msgspec.json.encode(tally)
    after = decisions.batch.fold(tally, index=index, revision=revision, state=state)
    assert msgspec.json.encode(tally) == before  # a decision may run twice: it must not touch what it was given
    if isinstance(after, Refusal):
        assert after is Refusal.UNCHANGED
        return tally
    return after


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, ImageState]]]:
    """How many images a shard has, and the events of what happened to them, by the product's own image rules."""
    count = draw(st.integers(1, 5))
    events: list[tuple[int, int, ImageState]] = []
    for index in range(count):
        image = Image(
            batch="acme.a", index=index, source="s", room_type="den", design_style="boho", tier=Tier.NORMAL, shard=0
        )
        for choice in draw(st.lists(st.integers(0, 5), max_size=8)):
            fence = image.fence
            after = [
                lambda: decisions.image.claim(image, task_round=image.round, worker="w", now=NOW, holder=None),
                lambda: decisions.image.release(image, fence=fence, calls=()),
                lambda: decisions.image.complete(
                    image, fence=fence, output=OUTPUT, calls=(), durations_ms={}, prompts="", now=NOW
                ),
                lambda: decisions.image.fail(
                    image, fence=fence, error=Failure(code="x", message=""), calls=(), now=NOW
                ),
                lambda: decisions.image.cancel_queued(image, now=NOW),
                lambda: decisions.image.requeue(image, replay=image.replay + 1, now=NOW),
            ][choice]()
            if isinstance(after, Image):
                image = after
                events.append((index, image.revision, image.state))
    return count, events


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(history=histories(), chance=st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_of_events_counts_the_same(history, chance: random.Random):
    count, events = history
    shuffled = events + [event for event in events if chance.random() < 0.5]
    chance.shuffle(shuffled)
    tally = a_tally(count)
    for event in shuffled:
        tally = folded(tally, event)
        assert tally.counts.total == count
        assert min(tally.counts.of(state) for state in S) >= 0
    newest = {index: state for index, _, state in events}  # in order of revision per image
    assert tally.counts == sum((Counts(**{newest.get(index, S.QUEUED).value: 1}) for index in range(count)), Counts())
    assert {index: state for index, (_, state) in tally.entries.items()} == newest


def test_every_order_of_one_images_life_counts_the_same():
    life = [(0, 2, S.PROCESSING), (0, 3, S.QUEUED), (0, 4, S.PROCESSING), (0, 5, S.FAILED), (0, 6, S.QUEUED)]
    for order in itertools.permutations(life):
        tally = a_tally(2)
        for event in (*order, *order):
            tally = folded(tally, event)
        assert tally.counts == Counts(queued=2)
        assert tally.entries == {0: (6, S.QUEUED)}


@pytest.mark.parametrize(("known", "revision", "counts"), [(3, 2, False), (3, 3, False), (3, 4, True), (0, 1, True)])
def test_only_a_newer_revision_counts(known: int, revision: int, counts: bool):
    tally = Tally(batch="acme.a", shard=0, counts=Counts(processing=1, queued=1), entries={0: (known, S.PROCESSING)})
    after = decisions.batch.fold(tally, index=0, revision=revision, state=S.FAILED)
    if counts:
        assert after == msgspec.structs.replace(
            tally, counts=Counts(queued=1, failed=1), entries={0: (revision, S.FAILED)}
        )
    else:
        assert after is Refusal.UNCHANGED


@pytest.mark.parametrize("total", [1, 2, 8, 9, 2001, 10_000])
def test_empty_tallies_count_every_image_as_open(total: int):
    batch = a_batch(total=total, shards=shards_for(total))
    tallies = decisions.batch.empty_tallies(batch)
    assert [tally.shard for tally in tallies] == list(range(batch.shards))
    assert sum((tally.counts for tally in tallies), Counts()) == Counts(queued=total)
    assert {tally.batch for tally in tallies} == {batch.id}
    assert all(tally.entries == {} for tally in tallies)


# --- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(B))
@pytest.mark.parametrize("seen", [4, 5, 6])
def test_closing_begins_only_on_the_revision_seen_and_only_from_processing(state: BatchState, seen: int):
    batch = a_batch(state)
    answer = decisions.batch.begin_closing(batch, seen_revision=seen, lease=LEASE, now=NOW)
    if seen != 5:
        assert answer is Refusal.STALE_REVISION
    elif state is B.PROCESSING:
        assert answer == msgspec.structs.replace(batch, state=B.CLOSING, revision=6, closer=LEASE, closing_at=NOW)
    else:
        assert answer is Refusal.ILLEGAL


@pytest.mark.parametrize("state", list(B))
@pytest.mark.parametrize(
    ("closer", "busy"),
    [
        (None, False),
        (Lease(holder="other", until=NOW + 0.001), True),
        (Lease(holder="other", until=NOW), False),
        (Lease(holder="other", until=NOW - 1), False),
    ],
    ids=["nobody's", "living", "ends now", "over"],
)
def test_a_closing_is_carried_on_when_its_lease_is_over(state, closer, busy):
    batch = a_batch(state, closer=closer, closing_at=NOW - 40)
    answer = decisions.batch.take_closer(batch, lease=LEASE, now=NOW)
    if state is not B.CLOSING:
        assert answer is Refusal.ILLEGAL
    elif busy:
        assert answer is Refusal.BUSY
    else:  # the time it began stays: the reports depend on it
        assert answer == msgspec.structs.replace(batch, closer=LEASE, revision=6)


def test_a_closed_batch_has_its_completion_and_no_closer():
    batch = a_batch(B.CLOSING, closer=LEASE)
    completion = a_completion(completed=2)
    assert decisions.batch.close(batch, holder="me", completion=completion, now=NOW) == msgspec.structs.replace(
        batch, state=B.CLOSED, revision=6, completion=completion, closer=None, closed_at=NOW
    )


@pytest.mark.parametrize("state", list(B))
@pytest.mark.parametrize("closer", [None, LEASE, Lease(holder="other", until=NOW - 1)], ids=["nobody", "me", "other"])
def test_only_the_leases_holder_closes_and_only_what_is_closing(state: BatchState, closer: Lease | None):
    answer = decisions.batch.close(
        a_batch(state, closer=closer), holder="me", completion=a_completion(completed=2), now=NOW
    )
    if state is not B.CLOSING:
        assert answer is Refusal.ILLEGAL
    elif closer is LEASE:
        assert isinstance(answer, Batch)
    else:
        assert answer is Refusal.STALE_FENCE


@pytest.mark.parametrize(("known", "noted", "changes"), [(0, 1, True), (1, 1, False), (2, 1, False), (1, 2, True)])
def test_an_announcement_is_noted_once_and_never_taken_back(known: int, noted: int, changes: bool):
    batch = a_batch(B.CLOSED, round=2, announced_round=known)
    answer = decisions.batch.note_announced(batch, round_announced=noted)
    if changes:
        assert answer == msgspec.structs.replace(batch, announced_round=noted, revision=6)
    else:
        assert answer is Refusal.UNCHANGED


def test_closing_moves_raise_the_revision_so_that_a_replay_in_between_is_seen():
    batch = a_batch()
    reopened = decisions.batch.move(batch, BatchMove.REOPEN)
    resumed = decisions.batch.move(reopened, BatchMove.RESUME)
    assert resumed.state is B.PROCESSING
    assert decisions.batch.begin_closing(resumed, seen_revision=5, lease=LEASE, now=NOW) is Refusal.STALE_REVISION


# --- a closer at work, on the embedded backend in memory --------------------------------------------------------------


class Clock:
    """Time that stands still until it is set."""

    def __init__(self) -> None:
        self.time = NOW
        self.random = random.Random(1)
        self._tokens = itertools.count()

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)

    def token(self) -> str:
        return f"token-{next(self._tokens)}"


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
        await self.store.create_images([
            Image(
                batch=batch.id, index=index, source="s", room_type="den", design_style="boho", tier=Tier.NORMAL,
                shard=index,
            )
            for index in range(2)
        ])  # fmt: skip
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
            "acme.a", lambda batch: decisions.batch.move(batch, move, **changes), self.clock.token()
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
        # Going home in silence would leave a batch with nothing open to the next reconcile.
        with nullcontext() if closes else pytest.raises(errors.StillClosing, match="moved on"):
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


# --- status.json ------------------------------------------------------------------------------------------------------

NEWS = st.tuples(
    st.integers(1, 3), st.sampled_from([B.PROCESSING, B.CLOSING, B.CLOSED]), st.integers(0, 2)
)  # round, state, settled images


def told(news: tuple[int, BatchState, int]) -> tuple[Batch, Counts]:
    round_, state, settled = news
    if state is B.CLOSED:
        settled = 2
    counts = Counts(queued=2 - settled, completed=settled)
    completion = a_completion(completed=2) if state is B.CLOSED else None
    return a_batch(state, round=round_, completion=completion), counts


def age(status: dict[str, Any]) -> tuple[int, bool, int]:
    return (status["round"], status["state"] == "completed", status["completed"])


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(news=st.lists(NEWS, min_size=1, max_size=12))
def test_the_status_never_goes_back(news):
    async def run() -> None:
        parts = embedded(Clock())
        shown: list[tuple[int, bool, int]] = []
        for place, item in enumerate(news):
            batch, counts = told(item)
            await write_status(parts.objects, "results", batch, counts, NOW + place)
            found = await parts.objects.get("results", names.status_name(batch))
            assert found is not None
            shown.append(age(msgspec.json.decode(found[1])))
            assert shown[-1] == max(age(status_of(*told(known), NOW)) for known in news[: place + 1])
        assert shown == sorted(shown)

    asyncio.run(run())


class Yielding:
    """Objects with a pause before each look and each write, so that writers get between one another's."""

    def __init__(self, inner: Any, chance: random.Random) -> None:
        self._inner, self._chance = inner, chance

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)

    async def stat(self, *args: Any) -> Any:
        await self._pause()
        return await self._inner.stat(*args)

    async def put(self, *args: Any, **options: Any) -> Any:
        await self._pause()
        return await self._inner.put(*args, **options)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(news=st.lists(NEWS, min_size=2, max_size=3), chance=st.randoms(use_true_random=False))
def test_the_newest_status_stays_when_three_write_at_once(news, chance: random.Random):
    async def run() -> None:
        parts = embedded(Clock())
        objects: Any = Yielding(parts.objects, chance)
        writes = [write_status(objects, "results", *told(item), NOW) for item in news]
        await asyncio.gather(*writes)
        found = await parts.objects.get("results", names.status_name(a_batch()))
        assert found is not None
        newest = max(age(status_of(*told(item), NOW)) for item in news)
        assert age(msgspec.json.decode(found[1])) == newest

    asyncio.run(run())


def test_the_same_news_again_refreshes_the_status():
    async def run() -> None:
        parts = embedded(Clock())
        batch, counts = told((1, B.PROCESSING, 1))
        for at in (NOW, NOW + 5):
            await write_status(parts.objects, "results", batch, counts, at)
        found = await parts.objects.get("results", names.status_name(batch))
        assert found is not None
        assert msgspec.json.decode(found[1])["updatedAt"] == events.iso(NOW + 5)

    asyncio.run(run())


LATER = {"counts": (1, B.PROCESSING, 2), "closed": (1, B.CLOSED, 2), "round": (2, B.PROCESSING, 1)}


@pytest.mark.parametrize(
    ("news", "later", "at_once", "written"),
    [
        ("counts", 0.0, False, False),
        ("counts", 0.999, False, False),
        ("counts", 1.0, False, True),
        ("counts", 60.0, False, True),
        ("counts", -0.5, False, False),  # our clock is behind the store's
        ("counts", -1.0, False, True),  # it is wrong: nothing can be told from it
        ("counts", 0.0, True, True),
        ("closed", 0.0, False, True),
        ("round", 0.0, False, True),
    ],
)
def test_a_status_written_a_moment_ago_is_left_alone(news: str, later: float, at_once: bool, written: bool):
    """Cloud Storage takes one write a second to one name. A new round and the end are always written."""

    async def run() -> None:
        clock = Clock()
        parts = embedded(clock)
        await write_status(parts.objects, "results", *told((1, B.PROCESSING, 1)), clock.now())
        before = await parts.objects.stat("results", names.status_name(a_batch()))
        batch, counts = told(LATER[news])
        await write_status(parts.objects, "results", batch, counts, clock.now() + later, at_once=at_once)
        after = await parts.objects.stat("results", names.status_name(a_batch()))
        assert before is not None and after is not None
        assert (after.generation > before.generation) is written

    asyncio.run(run())


def test_a_status_tells_the_batch_in_plain_words():
    batch = a_batch(B.CLOSING, round=2, total=8)
    assert status_of(batch, Counts(queued=1, processing=1, completed=3, failed=2, cancelled=1), NOW) == {
        "batchId": "acme.a", "client": "acme", "state": "closing", "control": "run", "round": 2, "total": 8,
        "pausedReason": None,
        "queued": 1, "processing": 1, "completed": 3, "failed": 2, "cancelled": 1, "progress": 0.75,
        "imagesPerMinute": None, "etaSeconds": None, "updatedAt": events.iso(NOW),
    }  # fmt: skip
    assert status_of(msgspec.structs.replace(batch, total=0), Counts(), NOW)["progress"] == 0.0
    assert {state.value for state in SETTLED_STATES} == {"completed", "failed", "cancelled"}
