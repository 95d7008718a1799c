"""The BatchStore held to the words of its port, and the closing of a batch on top of it."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shared import decisions, messages
from shared.adapters.system_clock import SystemClock
from shared.assembly.wiring import embedded
from shared.decisions.image import HEARTBEAT_STALE_SECONDS
from shared.decisions.quota import Circuit, Ledger, Slot, Waiter
from shared.errors import ErrorCode, RuumError, WorldError
from shared.lifecycle.closing import Closer
from shared.model import (
    Batch,
    BatchMove,
    BatchState,
    Call,
    Checkpoint,
    Claim,
    Completion,
    Control,
    Counts,
    Failure,
    FailureThreshold,
    Image,
    ImageState,
    Lease,
    ManifestRef,
    Output,
    Refusal,
    ReplayPlan,
    ReportFile,
    Tally,
    Tier,
    Trials,
    Worker,
    shards_for,
)
from shared.ports import BatchStore
from shared.settings import Settings, WorkerLimits
from shared.topology import CHANGES_TOPIC, EVENTS_SUBSCRIPTION
from shared.worker.cache import CacheEntry
from tests.contract.backends import Backend, Unsteady, drain, take

OUTPUT = Output(picture="p.jpg", thumbnail="t.jpg", before="b.jpg", sha256="0" * 64, width=640, height=480)
FAILURE = Failure(code="not_a_picture", message="no")
# Enough for text to meet what a wire or a database treats as its own.
NASTY = [
    "",
    " padded ",
    "quotes ' \" ` \\ \\u0041 and %s {0} $1 ;--",
    "São Paulo, Ångström, cafe\u0301, 東京, עברית\u200f, \u00a0\u2028\ufeff",
    "🏠👩‍👩‍👧‍👦🇧🇷",
    "line\nfeed\r\ttab \x00 \x1f \x7f",
    "null",
    "{}",
    "a.b/c[0]*~",
    "é" * 2000,
]


def a_batch(batch_id: str, total: int = 1, **changes: Any) -> Batch:
    ref = ManifestRef(uri="gs://intake/manifests/acme/a.json", generation=1, sha256="0" * 64, base="gs://intake/")
    known = {"client": "acme", "client_name": "Acme", "tier": Tier.NORMAL, "shards": shards_for(total)}
    return Batch(**{"id": batch_id, "manifest": ref, "total": total, "state": BatchState.PROCESSING} | known | changes)


def an_image(batch_id: str, index: int = 0, **changes: Any) -> Image:
    known = {"source": f"https://x.example/{index}.jpg", "room_type": "den", "design_style": "boho"}
    return Image(**{"batch": batch_id, "index": index, "tier": Tier.NORMAL, "shard": index % 8} | known | changes)


def a_tally(batch_id: str, shard: int = 0, **counts: int) -> Tally:
    return Tally(batch=batch_id, shard=shard, counts=Counts(**counts))


def bump(image: Image) -> Image:
    return msgspec.structs.replace(image, revision=image.revision + 1, attempts=image.attempts + 1)


def bump_batch(batch: Batch) -> Batch:
    return msgspec.structs.replace(batch, revision=batch.revision + 1, problems=batch.problems + 1)


def bump_tally(tally: Tally) -> Tally:
    return msgspec.structs.replace(tally, counts=msgspec.structs.replace(tally.counts, queued=tally.counts.queued + 1))


def bump_record(ledger: Ledger) -> Ledger:
    return msgspec.structs.replace(ledger, failures=ledger.failures + 1)


class Subject:
    """One document of any kind, changed and read alike."""

    def __init__(self, kind: str, backend: Backend, store: BatchStore | None = None) -> None:
        self.kind = kind
        self.backend = backend
        self.store = store or backend.store
        self.batch_id = backend.unique("batch")

    async def create(self) -> None:
        if self.kind == "batch":
            await self.store.create_batch(a_batch(self.batch_id))
        elif self.kind == "tally":
            await self.store.create_tallies([a_tally(self.batch_id, 3)])
        elif self.kind == "record":
            await self.store.change_record(Ledger, self.batch_id, lambda known, now: Ledger(id="x"), "made")
        else:
            await self.store.create_images([an_image(self.batch_id, 3)])

    async def read(self) -> Any:
        if self.kind == "batch":
            return await self.store.batch(self.batch_id)
        if self.kind == "tally":
            return await self.store.tally(self.batch_id, 3)
        if self.kind == "record":
            return await self.store.record(Ledger, self.batch_id)
        return await self.store.image(self.batch_id, 3)

    async def change(self, decide: Callable[[Any], Any], token: str, store: BatchStore | None = None) -> Any:
        store = store or self.store
        if self.kind == "batch":
            return await store.change_batch(self.batch_id, decide, token)
        if self.kind == "tally":
            return await store.change_tally(self.batch_id, 3, decide, token)
        if self.kind == "record":
            return await store.change_record(Ledger, self.batch_id, lambda known, now: decide(known), token)
        return await store.change_image(self.batch_id, 3, decide, token)

    def bump(self, document: Any) -> Any:
        bumps = {"batch": bump_batch, "tally": bump_tally, "image": bump, "record": bump_record}
        return bumps[self.kind](document)

    def level(self, document: Any) -> int:
        """How often the document was bumped."""
        names = {"batch": "problems", "image": "attempts", "record": "failures"}
        level: int = document.counts.queued if self.kind == "tally" else getattr(document, names[self.kind])
        return level


KINDS = pytest.mark.parametrize("kind", ["image", "batch", "tally", "record"])


# --- races


def test_fifty_workers_claim_one_image_and_one_gets_it(backend: Backend) -> None:
    async def race(seed: int) -> None:
        batch_id, chance = backend.unique("batch"), random.Random(seed)
        await backend.store.create_images([an_image(batch_id, 0, fence=4)])

        async def worker(number: int) -> Image | Refusal:
            store = Unsteady((backend, backend.second)[number % 2].store, backend.clock, chance)
            name = f"{batch_id}-worker-{number}"
            await store.beat(Worker(id=name, at=backend.clock.now()))
            seen = await store.image(batch_id, 0)
            holder = await store.worker(seen.claim.worker) if seen.claim else None
            now = backend.clock.now()
            return await store.change_image(
                batch_id,
                0,
                lambda image: decisions.image.claim(image, task_round=1, worker=name, now=now, holder=holder),
                backend.clock.token(),
                seen if number % 3 else None,
            )

        answers = await asyncio.gather(*(worker(number) for number in range(50)))
        granted = [(n, answer) for n, answer in enumerate(answers) if isinstance(answer, Image)]
        assert len(granted) == 1, f"seed {seed}: {len(granted)} workers got the image"
        assert Counter(a for a in answers if isinstance(a, Refusal)) == {Refusal.HELD: 49}
        number, image = granted[0]
        assert (image.fence, image.revision, image.state) == (5, 2, ImageState.PROCESSING)
        assert image.claim is not None and image.claim.worker == f"{batch_id}-worker-{number}"
        assert await backend.store.image(batch_id, 0) == image

    async def case() -> None:
        for seed in backend.seeds:
            await race(seed)

    backend.run(case)


def test_folds_of_doubled_and_shuffled_events_are_exact(backend: Backend) -> None:
    async def race(seed: int) -> None:
        batch_id, chance = backend.unique("batch"), random.Random(seed)
        await backend.store.create_tallies([a_tally(batch_id, 5, queued=60)])
        ends = [chance.choice([ImageState.COMPLETED, ImageState.FAILED, ImageState.CANCELLED]) for _ in range(60)]
        path = [ImageState.PROCESSING, ImageState.QUEUED, ImageState.PROCESSING]
        events = [
            (index, revision, state)
            for index, end in enumerate(ends[:50])  # ten stay as they are
            for revision, state in enumerate([*path, end], 2)
        ] * 2
        chance.shuffle(events)

        async def task(number: int) -> None:
            store = Unsteady((backend, backend.second)[number % 2].store, backend.clock, chance)
            for index, revision, state in events[number::50]:
                await store.change_tally(
                    batch_id,
                    5,
                    lambda t, i=index, r=revision, s=state: decisions.batch.fold(t, index=i, revision=r, state=s),
                    backend.clock.token(),
                )

        await asyncio.gather(*(task(number) for number in range(50)))
        expected = Counter(end.value for end in ends[:50])
        tally = await backend.store.tally(batch_id, 5)
        assert tally is not None
        assert tally.counts == Counts(queued=10, **expected), f"seed {seed}"
        assert tally.entries == {index: (5, end) for index, end in enumerate(ends[:50])}
        assert await backend.store.counts(batch_id) == tally.counts
        assert await backend.store.open_images(batch_id) == (10, 1)

    async def case() -> None:
        for seed in backend.seeds:
            await race(seed)

    backend.run(case)


@KINDS
def test_fifty_changes_of_one_document_all_apply(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject, chance = Subject(kind, backend), random.Random(1)
        await subject.create()

        async def task(number: int) -> Any:
            store = Unsteady((backend, backend.second)[number % 2].store, backend.clock, chance)
            return await subject.change(subject.bump, backend.clock.token(), store)

        answers = await asyncio.gather(*(task(number) for number in range(50)))
        assert sorted(subject.level(answer) for answer in answers) == list(range(1, 51))
        assert subject.level(await subject.read()) == 50

    backend.run(case)


@KINDS
def test_one_change_asked_by_many_at_once_applies_once(backend: Backend, kind: str) -> None:
    """A reply that is late, not lost: the change is repeated while the first is still on its way."""

    async def case() -> None:
        subject, chance = Subject(kind, backend), random.Random(2)
        await subject.create()
        stores = [Unsteady(known.store, backend.clock, chance) for known in (backend, backend.second)] * 5
        answers = await asyncio.gather(*(subject.change(subject.bump, "the-token", store) for store in stores))
        assert [subject.level(answer) for answer in answers] == [1] * 10
        assert subject.level(await subject.read()) == 1

    backend.run(case)


def test_ten_creators_of_one_batch_get_the_same_one(backend: Backend) -> None:
    async def case() -> None:
        batch_id, chance = backend.unique("batch"), random.Random(3)

        async def task(number: int) -> Batch:
            store = Unsteady((backend, backend.second)[number % 2].store, backend.clock, chance)
            return await store.create_batch(a_batch(batch_id, created_at=float(number)))

        answers = await asyncio.gather(*(task(number) for number in range(10)))
        assert all(answer == answers[0] for answer in answers)
        assert await backend.store.batch(batch_id) == answers[0]
        assert len([batch for batch in await backend.store.batches() if batch.id == batch_id]) == 1

    backend.run(case)


def test_processes_on_one_file_claim_and_fold_exactly(backend: Backend) -> None:
    """Real threads, real time, a connection each: SQLite's own locks are met."""
    backend.needs("database")
    batch_id, tasks = backend.unique("batch"), 4

    async def prepare() -> None:
        await backend.store.create_images([an_image(batch_id, index) for index in range(20)])
        await backend.store.create_tallies([a_tally(batch_id, 0, queued=20)])

    backend.run(prepare)
    granted: list[tuple[int, int]] = []
    errors: list[BaseException] = []
    start = threading.Barrier(tasks)

    async def process(number: int) -> None:
        clock = SystemClock()
        parts = embedded(clock, backend.database, backend.folders)
        start.wait(timeout=10)
        order = random.Random(number).sample(range(20), 20)
        for index in order:
            answer = await parts.store.change_image(
                batch_id,
                index,
                lambda image: decisions.image.claim(image, task_round=1, worker=str(number), now=1.0, holder=None),
                clock.token(),
            )
            if isinstance(answer, Image):
                granted.append((index, answer.fence))
            await parts.store.change_tally(
                batch_id,
                0,
                lambda tally, i=index: decisions.batch.fold(tally, index=i, revision=2, state=ImageState.PROCESSING),
                clock.token(),
            )
        parts.database.close()

    def thread(number: int) -> None:
        try:
            asyncio.run(process(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(tasks)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60)
    assert errors == []
    assert sorted(granted) == [(index, 1) for index in range(20)]

    async def look() -> Tally | None:
        return await backend.store.tally(batch_id, 0)

    tally = backend.run(look)
    assert tally is not None and tally.counts == Counts(processing=20)


# --- fences


def test_a_stale_worker_changes_nothing(backend: Backend) -> None:
    async def case() -> None:
        batch_id = backend.unique("batch")
        old, new = backend.unique("worker"), backend.unique("worker")
        store, clock = backend.store, backend.clock
        await store.create_images([an_image(batch_id)])
        await store.beat(Worker(id=old, at=clock.now() - HEARTBEAT_STALE_SECONDS - 1))

        async def claim(worker: str, holder: Worker | None) -> Image | Refusal:
            return await store.change_image(
                batch_id,
                0,
                lambda image: decisions.image.claim(image, task_round=1, worker=worker, now=clock.now(), holder=holder),
                clock.token(),
            )

        mine = await claim(old, None)
        assert isinstance(mine, Image) and mine.fence == 1
        await store.beat(Worker(id=new, at=clock.now()))
        assert await claim(new, None) is Refusal.HELD  # without the holder's heartbeat
        theirs = await claim(new, await store.worker(old))
        assert isinstance(theirs, Image)
        assert (theirs.fence, theirs.crashes) == (2, 1) and theirs.claim is not None and theirs.claim.worker == new

        call = (Call(step="analyse", model="preview"),)
        late: dict[str, Callable[[Image], Image | Refusal]] = {
            "checkpoint": lambda i: decisions.image.checkpoint(
                i, fence=1, checkpoint=Checkpoint(analysis="{}"), calls=call
            ),
            "release": lambda i: decisions.image.release(i, fence=1, calls=call, error=FAILURE),
            "complete": lambda i: decisions.image.complete(
                i, fence=1, output=OUTPUT, calls=call, durations_ms={}, prompts="1", now=1.0
            ),
            "fail": lambda i: decisions.image.fail(i, fence=1, error=FAILURE, calls=call, now=1.0),
            "cancel": lambda i: decisions.image.cancel(i, fence=1, calls=call, now=1.0),
        }

        async def refused_all(now_there: Image) -> None:
            for name, decide in late.items():
                for seen in (None, mine, now_there):  # also as the stale worker last knew it
                    answer = await store.change_image(batch_id, 0, decide, clock.token(), seen)
                    assert answer is Refusal.STALE_FENCE, f"{name}: {answer}"
                    assert await store.image(batch_id, 0) == now_there, name

        await refused_all(theirs)
        released = await store.change_image(
            batch_id, 0, lambda i: decisions.image.release(i, fence=2, calls=()), clock.token(), theirs
        )
        assert isinstance(released, Image) and released.state is ImageState.QUEUED
        await refused_all(released)
        again = await claim(new, None)
        assert isinstance(again, Image) and again.fence == 3
        done = await store.change_image(
            batch_id,
            0,
            lambda i: decisions.image.complete(
                i, fence=3, output=OUTPUT, calls=(), durations_ms={}, prompts="1", now=1.0
            ),
            clock.token(),
            again,
        )
        assert isinstance(done, Image) and done.state is ImageState.COMPLETED
        await refused_all(done)

    backend.run(case)


def test_what_the_caller_last_saw_never_decides_when_it_is_stale(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, clock = backend.unique("batch"), backend.store, backend.clock
        await store.create_images([an_image(batch_id)])
        first = await store.image(batch_id, 0)
        assert first is not None
        second = await store.change_image(batch_id, 0, bump, clock.token(), first)  # current: no read is needed
        assert isinstance(second, Image) and (second.attempts, second.revision) == (1, 2)
        third = await store.change_image(batch_id, 0, bump, clock.token(), first)  # stale now
        assert isinstance(third, Image) and (third.attempts, third.revision) == (2, 3)

        def only_at(revision: int) -> Callable[[Image], Image | Refusal]:
            return lambda image: bump(image) if image.revision == revision else Refusal.STALE_REVISION

        # A refusal of what was seen is no refusal of what is there; a consent is no consent either.
        fourth = await store.change_image(batch_id, 0, only_at(3), clock.token(), first)
        assert isinstance(fourth, Image) and fourth.revision == 4
        assert await store.change_image(batch_id, 0, only_at(1), clock.token(), first) is Refusal.STALE_REVISION
        assert await store.image(batch_id, 0) == fourth
        # Answered documents can be used as `seen` at once, on any process.
        fifth = await backend.second.store.change_image(batch_id, 0, bump, clock.token(), fourth)
        assert isinstance(fifth, Image) and fifth.revision == 5
        # A claim that was held when it was seen, and is free now.
        held = await store.change_image(
            batch_id,
            0,
            lambda i: decisions.image.claim(i, task_round=1, worker="w", now=1.0, holder=None),
            clock.token(),
            fifth,
        )
        assert isinstance(held, Image)
        await store.change_image(
            batch_id, 0, lambda i: decisions.image.release(i, fence=1, calls=()), clock.token(), held
        )
        granted = await store.change_image(
            batch_id,
            0,
            lambda i: decisions.image.claim(i, task_round=1, worker="v", now=1.0, holder=None),
            clock.token(),
            held,
        )
        assert isinstance(granted, Image) and granted.fence == 2

    backend.run(case)


# --- tokens, refusals, missing documents


@KINDS
def test_a_repeated_token_applies_once(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        written = await subject.change(subject.bump, "token-1")
        assert subject.level(written) == 1 and await subject.read() == written
        assert await subject.change(subject.bump, "token-1") == written
        assert await subject.change(subject.bump, "token-1", backend.second.store) == written
        # Its own success is recognised even when the decision would refuse what it now finds.
        assert await subject.change(lambda document: Refusal.STALE_REVISION, "token-1") == written
        assert await subject.read() == written

    backend.run(case)


def test_a_repeated_token_applies_once_with_the_image_as_seen_before(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_images([an_image(batch_id)])
        seen = await store.image(batch_id, 0)
        written = await store.change_image(batch_id, 0, bump, "token-1", seen)
        assert await store.change_image(batch_id, 0, bump, "token-1", seen) == written
        assert isinstance(written, Image)
        assert await store.change_image(batch_id, 0, bump, "token-1", written) == written
        assert await store.image(batch_id, 0) == written

    backend.run(case)


@KINDS
def test_the_token_of_an_older_write_decides_again(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        for level, token in enumerate(["token-1", "token-2", "token-1"], 1):
            assert subject.level(await subject.change(subject.bump, token)) == level
        assert await subject.change(lambda document: Refusal.UNCHANGED, "token-2") is Refusal.UNCHANGED
        assert subject.level(await subject.read()) == 3

    backend.run(case)


@KINDS
def test_a_refusal_writes_nothing(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        before = await subject.read()
        for refusal in Refusal:
            assert await subject.change(lambda document, r=refusal: r, "token-1") is refusal
            assert await subject.read() == before
        # The refused token was not kept: asked again it decides.
        assert subject.level(await subject.change(subject.bump, "token-1")) == 1

    backend.run(case)


@KINDS
def test_a_decision_that_raises_writes_nothing_and_harms_nothing(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        before = await subject.read()

        def broken(document: Any) -> Any:
            raise ZeroDivisionError

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await subject.change(broken, "token-1")
            assert await subject.read() == before
        assert subject.level(await subject.change(subject.bump, "token-1")) == 1
        assert subject.level(await subject.change(subject.bump, "token-2", backend.second.store)) == 2

    backend.run(case)


@pytest.mark.parametrize("kind", ["image", "batch", "tally"])
def test_what_is_not_there_is_missing(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject, asked = Subject(kind, backend), []
        assert await subject.read() is None
        assert await subject.change(asked.append, "token-1") is Refusal.MISSING
        assert asked == [] and await subject.read() is None

    backend.run(case)


def test_unknown_ids_are_empty_everywhere(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_batch(a_batch(batch_id, total=4))
        await store.create_images([an_image(batch_id, 1)])
        await store.create_tallies([a_tally(batch_id, 1)])
        assert await store.image(batch_id, 0) is None
        assert await store.image(batch_id, 11) is None
        assert await store.tally(batch_id, 0) is None
        assert await store.change_image(batch_id, 11, bump, "t") is Refusal.MISSING
        assert await store.change_image(batch_id, 11, bump, "t", an_image(batch_id, 11)) is Refusal.MISSING
        assert await store.change_tally(batch_id, 11, bump_tally, "t") is Refusal.MISSING
        unknown = backend.unique("nobody")
        assert [image async for image in store.images(unknown)] == []
        assert [image async for image in store.images(unknown, ImageState.QUEUED)] == []
        assert await store.open_images(unknown) == (0, 0)
        assert await store.counts(unknown) == Counts()
        assert await store.worker(unknown) is None

    backend.run(case)


# --- creating


def test_a_batch_created_twice_stays_the_first(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        first = await store.create_batch(a_batch(batch_id, total=3))
        assert first == a_batch(batch_id, total=3)
        assert await store.create_batch(a_batch(batch_id, total=7, client_name="Other")) == first
        changed = await store.change_batch(batch_id, bump_batch, "token-1")
        assert await store.create_batch(a_batch(batch_id, total=3)) == changed
        assert await store.batch(batch_id) == changed

    backend.run(case)


def test_images_are_created_only_once(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_images([an_image(batch_id, index) for index in (0, 2, 4)])
        changed = await store.change_image(batch_id, 2, bump, "token-1")
        mixed = [an_image(batch_id, index, source="other", state=ImageState.FAILED) for index in range(6)]
        await store.create_images(mixed)
        await store.create_images(mixed)
        await store.create_images([])
        found = [image async for image in store.images(batch_id)]
        assert found[1::2] == mixed[1::2]
        assert found[0::2] == [an_image(batch_id, 0), changed, an_image(batch_id, 4)]
        assert [i.index async for i in store.images(batch_id, ImageState.FAILED)] == [1, 3, 5]

    backend.run(case)


def test_tallies_are_created_only_once(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_tallies([a_tally(batch_id, shard, queued=10) for shard in (0, 1)])
        await store.change_tally(
            batch_id, 1, lambda t: decisions.batch.fold(t, index=1, revision=2, state=ImageState.COMPLETED), "token-1"
        )
        mixed = [a_tally(batch_id, shard, queued=100) for shard in range(4)]
        await store.create_tallies(mixed)
        await store.create_tallies([])
        assert await store.counts(batch_id) == Counts(queued=10 + 9 + 200, completed=1)
        assert await store.open_images(batch_id) == (219, 4)
        folded = await store.tally(batch_id, 1)
        assert folded is not None and folded.entries == {1: (2, ImageState.COMPLETED)}

    backend.run(case)


def test_ten_thousand_images_and_forty_tallies(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, total = backend.unique("batch"), backend.store, 10_000
        batch = await store.create_batch(a_batch(batch_id, total=total, state=BatchState.INGESTING))
        assert batch.shards == 40
        await store.create_tallies(decisions.batch.empty_tallies(batch))
        for start in range(0, total, 500):
            await store.create_images([an_image(batch_id, start + i, shard=(start + i) % 40) for i in range(500)])
        assert await store.open_images(batch_id) == (total, 40)
        assert await store.counts(batch_id) == Counts(queued=total)
        indexes = [image.index async for image in store.images(batch_id)]
        assert indexes == list(range(total))

    backend.run(case)


# --- reading many


def test_images_come_in_order_whole_and_by_state(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, total = backend.unique("batch"), backend.store, 1203
        states = [list(ImageState)[index * 7 % 5] for index in range(total)]
        images = [an_image(batch_id, index, state=states[index]) for index in range(total)]
        shuffled = random.Random(4).sample(images, total)
        for start in range(0, total, 400):
            await store.create_images(shuffled[start : start + 400])
        assert [image async for image in store.images(batch_id)] == images
        for state in ImageState:
            expected = [index for index in range(total) if states[index] is state]
            assert [image.index async for image in store.images(batch_id, state)] == expected

    backend.run(case)


@pytest.mark.parametrize("count", [499, 500, 501, 1000])
def test_no_number_of_images_is_special(backend: Backend, count: int) -> None:
    async def case() -> None:
        batch_id = backend.unique("batch")
        images = [an_image(batch_id, index) for index in range(count)]
        await backend.store.create_images(images[: count // 2])
        await backend.store.create_images(images[count // 2 :])
        assert [i.index async for i in backend.store.images(batch_id)] == list(range(count))
        assert [i.index async for i in backend.store.images(batch_id, ImageState.QUEUED)] == list(range(count))
        assert [i.index async for i in backend.store.images(batch_id, ImageState.FAILED)] == []

    backend.run(case)


def test_changes_while_images_are_read_lose_and_double_nothing(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, total = backend.unique("batch"), backend.store, 1203
        for start in range(0, total, 401):
            await store.create_images([an_image(batch_id, index) for index in range(start, start + 401)])
        # Every image read is rewritten, with images before and after it.
        seen = []
        async for image in store.images(batch_id):
            seen.append(image.index)
            if image.index % 100 == 0:
                for index in (image.index, max(0, image.index - 150), min(total - 1, image.index + 250)):
                    await store.change_image(batch_id, index, bump, backend.clock.token())
        assert seen == list(range(total))
        # What is read leaves the state that is asked for, as when a cancel settles what is queued; others join it.
        cancelled = []
        async for image in store.images(batch_id, ImageState.QUEUED):
            if image.index % 3 == 0:
                decide = lambda i: decisions.image.cancel_queued(i, now=1.0)
                await store.change_image(batch_id, image.index, decide, backend.clock.token(), image)
            cancelled.append(image.index)
            if image.index == 700:
                await store.create_images([an_image(batch_id, total)])
        assert [index for index in cancelled if index < total] == list(range(total))
        left = [image.index async for image in store.images(batch_id, ImageState.QUEUED)]
        assert [index for index in left if index < total] == [index for index in range(total) if index % 3]

    backend.run(case)


MOVED_STATES = [[state] for state in ImageState] + [[ImageState.QUEUED, ImageState.PROCESSING], list(ImageState)]


def test_what_has_moved_is_found_by_state_and_time_and_nothing_else(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, total = backend.unique("batch"), backend.store, 603
        # Many moved at one moment, so that a page ends among them; of some it was never noted when.
        times: list[dict[str, float]] = [{}, {"moved_at": 1000.0}, {"moved_at": 1000.5}, {"moved_at": 2000.25}]
        images = [
            an_image(batch_id, index, state=list(ImageState)[index * 7 % 5], **times[index % 4])
            for index in range(total)
        ]
        for start in range(0, total, 400):
            await store.create_images(images[start : start + 400])
        await store.create_images([an_image(batch_id + ".other", 0, moved_at=1000.0)])
        ranges: list[dict[str, float]] = [
            {}, {"since": 1000.0}, {"since": 1000.1}, {"since": 2000.25}, {"since": 2000.3}, {"before": 1000.0},
            {"before": 1000.5}, {"since": 1000.5, "before": 2000.25}, {"since": -600.0, "before": 1e9},
        ]  # fmt: skip
        for states in MOVED_STATES:
            for each in ranges:
                since, before = each.get("since", 0.0), each.get("before", math.inf)
                wanted = [i for i in images if i.moved_at and i.state in states and since <= i.moved_at < before]
                found = [image async for image in store.moved_images(batch_id, states, **each)]
                assert found == sorted(wanted, key=lambda image: (image.moved_at, image.index)), (states, each)
        assert [image async for image in store.moved_images(backend.unique("none"), list(ImageState))] == []

    backend.run(case)


@pytest.mark.parametrize("count", [500, 501, 1000])
def test_no_number_of_moved_images_is_special(backend: Backend, count: int) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_images([an_image(batch_id, index, moved_at=7.0) for index in range(count)])
        assert [i.index async for i in store.moved_images(batch_id, [ImageState.QUEUED])] == list(range(count))
        assert [i.index async for i in store.moved_images(batch_id, [ImageState.FAILED])] == []

    backend.run(case)


def test_an_image_that_moves_is_found_where_it_is_now(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, token = backend.unique("batch"), backend.store, backend.clock.token
        await store.create_images([an_image(batch_id, index, moved_at=100.0) for index in range(3)])

        def take(image: Image) -> Image | Refusal:
            return decisions.image.claim(image, task_round=1, worker="w", now=200.5, holder=None)

        claimed = await store.change_image(batch_id, 1, take, token())
        assert isinstance(claimed, Image)
        found = [image async for image in store.moved_images(batch_id, list(ImageState), since=200.0)]
        assert found == [claimed]
        checkpointed = await store.change_image(
            batch_id, 1, lambda i: decisions.image.checkpoint(i, fence=1, checkpoint=Checkpoint(), calls=()), token()
        )
        assert isinstance(checkpointed, Image)
        queued = [image.index async for image in store.moved_images(batch_id, [ImageState.QUEUED])]
        assert (queued, checkpointed.moved_at) == ([0, 2], 200.5)

    backend.run(case)


def test_readers_do_not_disturb_each_other(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        for start in (0, 300):
            await store.create_images([an_image(batch_id, index) for index in range(start, start + 300)])
        left = aiter(store.images(batch_id))
        right = aiter(backend.second.store.images(batch_id, ImageState.QUEUED))
        for index in range(520):
            assert (await anext(left)).index == index
            assert (await anext(right)).index == index
        await left.aclose()  # type: ignore[attr-defined]
        assert [image.index async for image in right] == list(range(520, 600))

    backend.run(case)


def test_batches_do_not_mix(backend: Backend) -> None:
    async def case() -> None:
        base, store = backend.unique("acme.a"), backend.store
        ids = [base, base + "-", base + "_", base + ".", base + "0", base + "x", base.upper()]
        for number, batch_id in enumerate(ids):
            await store.create_batch(a_batch(batch_id, created_at=float(number)))
            await store.create_images([an_image(batch_id, index) for index in range(number + 1)])
            await store.create_tallies([a_tally(batch_id, shard, queued=1) for shard in range(number + 1)])
        for number, batch_id in enumerate(ids):
            found = [image async for image in store.images(batch_id)]
            assert [(image.batch, image.index) for image in found] == [(batch_id, i) for i in range(number + 1)]
            assert await store.open_images(batch_id) == (number + 1, number + 1)
            assert await store.counts(batch_id) == Counts(queued=number + 1)
        assert [batch.id for batch in await store.batches() if batch.id in ids] == ids[::-1]
        for batch_id in ids[::2]:
            await store.change_batch(batch_id, bump_batch, backend.clock.token())
            await store.change_image(batch_id, 0, bump, backend.clock.token())
            await store.change_tally(batch_id, 0, bump_tally, backend.clock.token())
        for number, batch_id in enumerate(ids):
            batch, image = await store.batch(batch_id), await store.image(batch_id, 0)
            changed = (number + 1) % 2
            assert batch is not None and image is not None
            assert (batch.id, batch.problems, image.batch, image.attempts) == (batch_id, changed, batch_id, changed)
            assert await store.open_images(batch_id) == (number + 1 + changed, number + 1)
            assert await store.counts(batch_id) == Counts(queued=number + 1 + changed)

    backend.run(case)


def test_sums_follow_every_fold(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, chance = backend.unique("batch"), backend.store, random.Random(5)
        batch = a_batch(batch_id, total=40)
        await store.create_batch(batch)
        assert await store.open_images(batch_id) == (0, 0)
        assert await store.counts(batch_id) == Counts()
        await store.create_tallies(decisions.batch.empty_tallies(batch)[:5])
        assert (await store.open_images(batch_id))[1] == 5  # one can tell that shards are not there yet
        await store.create_tallies(decisions.batch.empty_tallies(batch))
        states = dict.fromkeys(range(40), ImageState.QUEUED)
        for revision in range(1, 60):
            index, state = chance.randrange(40), chance.choice(list(ImageState))
            states[index] = state
            decide = lambda t, i=index, r=revision, s=state: decisions.batch.fold(t, index=i, revision=r, state=s)
            await store.change_tally(batch_id, index % 8, decide, backend.clock.token())
            expected = Counts(**Counter(known.value for known in states.values()))
            assert await store.counts(batch_id) == expected
            assert await store.open_images(batch_id) == (expected.open, 8)

    backend.run(case)


# --- documents


def unset(document: msgspec.Struct) -> set[str]:
    """The fields that stand at their defaults: a case that claims to be full says so itself."""
    return {f.name for f in msgspec.structs.fields(document) if getattr(document, f.name) in (f.default, {}, ())}


def test_documents_survive_exactly(backend: Backend) -> None:
    def full_image(batch_id: str, index: int, text: str) -> Image:
        call = Call(step=text, model=text, input_tokens=2**40, output_tokens=0, cost_micro_usd=2**53 + 1, duration_ms=1)
        return Image(
            batch=batch_id,
            index=index,
            source=text,
            room_type=text,
            design_style=text,
            tier=Tier.ECONOMY,
            shard=index,
            property_code=text,
            state=ImageState.PROCESSING,
            round=3,
            revision=2**53 + 1,
            fence=7,
            attempts=1,
            crashes=2,
            claim=Claim(worker=text, at=1_772_442_000.1234567, alone=True, step=text),
            trials=Trials(deaths=3, step=text, in_a_row=2, passed=1),
            checkpoint=Checkpoint(analysis=text, picture=text, generations=2, defects=(text, "", text)),
            output=msgspec.structs.replace(OUTPUT, picture=text),
            error=Failure(code=text, message=text),
            calls=(call, call),
            durations_ms={"analyse": 1, "a.b": 2, "with `quote` / and ~": 3},
            prompts=text,
            model=text,
            replay=2,
            earlier_cost_micro_usd=2**53,
            cached=True,
            created_at=0.1 + 0.2,
            touched_at=1 / 3,
            moved_at=2 / 3,
            settled_at=1e-9,
        )

    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        assert unset(full_image(batch_id, 1, "x")) == {"token"}
        images = [full_image(batch_id, index, text) for index, text in enumerate(NASTY)]
        bare = len(images)
        images.append(an_image(batch_id, bare, checkpoint=Checkpoint(), calls=(), settled_at=0.0, property_code=""))
        await store.create_images(images)
        assert [image async for image in store.images(batch_id)] == images
        for image in images:
            assert await store.image(batch_id, image.index) == image
            written = await store.change_image(batch_id, image.index, lambda i: bump(i), "token-é", image)
            assert written == msgspec.structs.replace(bump(image), token="token-é")
            assert await store.image(batch_id, image.index) == written
        # What was there can be taken away again.
        emptied = {"claim": None, "checkpoint": None, "error": None, "output": None, "calls": (), "durations_ms": {}}
        gone = await store.change_image(batch_id, 0, lambda i: msgspec.structs.replace(bump(i), **emptied), "token-2")
        assert isinstance(gone, Image) and (gone.claim, gone.calls, gone.durations_ms) == (None, (), {})
        assert await store.image(batch_id, 0) == gone

    backend.run(case)


def test_batches_tallies_and_workers_survive_exactly(backend: Backend) -> None:
    async def case() -> None:
        store, text = backend.store, NASTY[3] + NASTY[4]
        file = ReportFile(name=text, sha256="f" * 64, bytes=2**40)
        completion = Completion(
            outcome="completed",
            counts=Counts(completed=3),
            success_rate=1 / 3,
            cost_usd=0.1 + 0.2,
            duration_seconds=1e6 / 7,
            reports={"results.jsonl": file, "report.html": file},
        )
        full = a_batch(
            backend.unique("batch"),
            total=10_000,
            client_name=text,
            tier=Tier.EXPRESS,
            state=BatchState.CLOSED,
            control=Control.CANCELLING,
            control_epoch=3,
            round=2,
            revision=9,
            tasks_published=400,
            created_at=1_772_442_000.1234567,
            closing_at=0.0,
            closed_at=2.0,
            closer=Lease(holder=text, until=3.5),
            completion=completion,
            announced_round=1,
            problems=4,
            cache=False,
            threshold=FailureThreshold(count=3, percent=12.5, minimum_sample=7),
            baseline=Counts(queued=1, failed=2),
            paused_reason=text,
            republished_at=1.5,
            epoch_published=2,
            replay=ReplayPlan(
                lease=Lease(holder=text, until=1.0), number=3, codes=("internal", text), failed_before=1.5, drop=text
            ),
            replays=3,
            retried=("a", text),
            separator=";",
            controlled_by=text,
            controlled_at=4.5,
            cancel_reason=text,
            control_announced=text,
            progress_announced=9,
        )
        assert unset(full) == {"token"}
        assert await store.create_batch(full) == full
        assert await store.batch(full.id) == full
        emptied = await store.change_batch(
            full.id,
            lambda b: msgspec.structs.replace(b, revision=10, closer=None, completion=None, closing_at=None),
            "t",
        )
        assert isinstance(emptied, Batch)
        assert (emptied.closer, emptied.completion, emptied.closing_at) == (None, None, None)
        assert await store.batch(full.id) == emptied

        entries = {index: (index + 1, list(ImageState)[index % 5]) for index in range(0, 2500, 10)}
        tally = Tally(batch=full.id, shard=39, counts=Counts(queued=1, cancelled=249), entries=entries)
        await store.create_tallies([tally])
        assert await store.tally(full.id, 39) == tally

        worker = Worker(
            id=backend.unique("worker"), at=1.25, waited_seconds={"acme.spring/3": 0.1, "acme.spring/12": 1e3}
        )
        await store.beat(worker)
        assert await store.worker(worker.id) == worker

    backend.run(case)


def test_records_survive_exactly_in_order_of_key_and_kind_by_kind(backend: Backend) -> None:
    async def case() -> None:
        store, text, key = backend.store, NASTY[2] + NASTY[4], backend.unique("key")
        keys = [f"{key}.{name}" for name in ("a", "B", "a_b", "a-b", "10", "9", "gemini-3.5:lite", "é🏠")]
        full = Ledger(
            id=text,
            grants=((1_772_442_000.25, 1), (1_772_442_000.75, 60)),
            slots=(Slot(id=text, until=1.5), Slot(id="b", until=0.0)),
            waiters={"worker-1/express": Waiter(count=2, until=3.5), "a.b `c`~": Waiter(count=1, until=0.1 + 0.2)},
            served={"express": 1 / 6, "normal": 1e9 / 7},
            virtual=1 / 3,
            epoch=2**40,
            rate=0.5,
            circuit=Circuit.HALF_OPEN,
            probe=text,
            closed_at=1.25,
        )
        made = {}
        for number, name in enumerate(sorted(keys, reverse=True)):  # so that only the key gives their order
            token = f"{key}-{number}"
            made[name] = await store.change_record(Ledger, name, lambda known, now: full, token)
            assert made[name] == msgspec.structs.replace(full, token=token)
            assert await store.record(Ledger, name) == made[name]
        entry = CacheEntry(key=keys[0], client=text, picture=text, expires_at=1.25, led_by=text)
        await store.change_record(CacheEntry, keys[0], lambda known, now: entry, "token-c")
        assert await store.record(CacheEntry, keys[0]) == msgspec.structs.replace(entry, token="token-c")
        assert await store.record(CacheEntry, keys[1]) is None
        ours = [ledger for ledger in await store.records(Ledger) if ledger.token.startswith(f"{key}-")]
        assert ours == [made[name] for name in sorted(keys)]
        assert [e.token for e in await store.records(CacheEntry) if e.key.startswith(key)] == ["token-c"]
        # What was there can be taken away again.
        bare = await store.change_record(Ledger, keys[0], lambda known, now: Ledger(id="bare"), "token-d")
        assert await store.record(Ledger, keys[0]) == bare == Ledger(id="bare", token="token-d")

    backend.run(case)


def test_a_record_is_made_by_its_first_change_at_the_servers_time(backend: Backend) -> None:
    async def case() -> None:
        store, key, chance = backend.store, backend.unique("key"), random.Random(12)
        asked: list[tuple[Ledger | None, float]] = []

        def refuse(known: Ledger | None, now: float) -> Refusal:
            asked.append((known, now))
            return Refusal.BUSY

        assert await store.change_record(Ledger, key, refuse, "token-1") is Refusal.BUSY
        assert await store.record(Ledger, key) is None
        assert asked[0][0] is None
        assert abs(asked[0][1] - backend.clock.now()) <= backend.slack_seconds

        def count(known: Ledger | None, now: float) -> Ledger:
            return bump_record(known or Ledger(id=key))

        async def task(number: int) -> Ledger | Refusal:
            steady = Unsteady((backend, backend.second)[number % 2].store, backend.clock, chance)
            return await steady.change_record(Ledger, key, count, backend.clock.token())

        answers = await asyncio.gather(*(task(number) for number in range(30)))
        assert sorted(a.failures for a in answers if isinstance(a, Ledger)) == list(range(1, 31))
        await backend.advance(1)
        assert await store.change_record(Ledger, key, refuse, "token-1") is Refusal.BUSY
        known, now = asked[-1]
        assert known is not None and known.failures == 30
        assert 1 - backend.slack_seconds <= now - asked[0][1]

    backend.run(case)


def test_a_heartbeat_overwrites_the_one_before(backend: Backend) -> None:
    async def case() -> None:
        name, store = backend.unique("worker"), backend.store
        assert await store.worker(name) is None
        beats = [
            Worker(id=name, at=1.0, waited_seconds={"acme.a/1": 2.0, "acme.a/2": 1.0}),
            Worker(id=name, at=6.0, waited_seconds={"acme.a/2": 6.0}),
            Worker(id=name, at=11.0, stopped=True),
            Worker(id=name, at=16.0),
        ]
        for beat in beats:
            await store.beat(beat)
            assert await store.worker(name) == beat
            assert await backend.second.store.worker(name) == beat

    backend.run(case)


# --- the change feed on the queue


def test_each_write_that_changes_a_state_is_told_once(backend: Backend) -> None:
    backend.needs("change_feed")

    async def case() -> None:
        batch_id, store, clock = backend.unique("batch"), backend.store, backend.clock
        await store.create_images([an_image(batch_id, index) for index in range(20)])
        assert await drain(backend, CHANGES_TOPIC) == []

        def claim(image: Image) -> Image | Refusal:
            return decisions.image.claim(image, task_round=1, worker="w", now=1.0, holder=None)

        steps: list[tuple[Callable[[Image], Image | Refusal], str]] = [
            (claim, "a"),
            (claim, "a"),  # repeated
            (claim, "b"),  # HELD
            (lambda i: decisions.image.checkpoint(i, fence=1, checkpoint=Checkpoint(), calls=()), "c"),
            (lambda i: decisions.image.release(i, fence=9, calls=()), "d"),  # STALE_FENCE
            (lambda i: decisions.image.release(i, fence=1, calls=()), "e"),
            (claim, "f"),
            (lambda i: decisions.image.fail(i, fence=2, error=FAILURE, calls=(), now=1.0), "g"),
            (lambda image: decisions.image.requeue(image, replay=1), "h"),
            (lambda i: decisions.image.cancel_queued(i, now=1.0), "i"),
            (lambda i: decisions.image.cancel_queued(i, now=1.0), "j"),  # SETTLED
        ]

        async def go_through(index: int) -> None:
            steady = Unsteady(store, clock, random.Random(index))
            for decide, token in steps:
                await steady.change_image(batch_id, index, decide, token)

        await asyncio.gather(*(go_through(index) for index in range(20)))
        told = [messages.decode(messages.ImageChanged, d.data) for d in await drain(backend, CHANGES_TOPIC)]
        q, p, f, c = ImageState.QUEUED, ImageState.PROCESSING, ImageState.FAILED, ImageState.CANCELLED
        expected = [(2, q, p), (4, p, q), (5, q, p), (6, p, f), (7, f, q), (8, q, c)]
        for index in range(20):
            changes = [e for e in told if e.index == index and e.before is not e.state]
            assert sorted((e.revision, e.before, e.state) for e in changes) == expected
            assert {(e.batch, e.shard) for e in changes} == {(batch_id, index % 8)}
        assert len(told) <= 20 * 7  # and nothing for refusals and repetitions: the checkpoint is the seventh write

    backend.run(case)


def test_a_change_wakes_the_one_who_waits_for_it(backend: Backend) -> None:
    backend.needs("change_feed")

    async def case() -> None:
        batch_id = backend.unique("batch")
        await backend.store.create_images([an_image(batch_id)])
        pull = asyncio.create_task(backend.queue.pull(CHANGES_TOPIC, 10, 50.0))
        await backend.advance(5)
        assert not pull.done()
        changed_at = backend.clock.monotonic()
        await backend.store.change_image(batch_id, 0, bump, "token-1")
        assert len(await pull) == 1
        assert backend.clock.monotonic() - changed_at <= backend.slack_seconds

    backend.run(case)


# --- the file, locked by another process


def test_a_locked_database_is_waited_for(backend: Backend) -> None:
    backend.needs("database")

    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_images([an_image(batch_id)])
        async with backend.locked():
            tasks = [asyncio.create_task(store.change_image(batch_id, 0, bump, f"t{n}")) for n in range(50)]
            await backend.advance(3)
            assert not any(task.done() for task in tasks)
            assert await store.image(batch_id, 0) == an_image(batch_id)  # readers do not wait
        answers = await asyncio.gather(*tasks)
        assert sorted(answer.revision for answer in answers if isinstance(answer, Image)) == list(range(2, 52))

    backend.run(case)


def test_a_database_that_stays_locked_is_the_worlds_fault(backend: Backend) -> None:
    backend.needs("database")

    async def case() -> None:
        subject = Subject("image", backend)
        await subject.create()
        async with backend.locked():
            for attempt in (
                subject.change(subject.bump, "token-1"),
                backend.store.beat(Worker(id="w", at=1.0)),
                backend.store.create_batch(a_batch("locked-out")),
            ):
                with pytest.raises(WorldError) as caught:
                    await attempt
                assert caught.value.code is ErrorCode.STORAGE_UNAVAILABLE
        assert await backend.store.batch("locked-out") is None
        assert subject.level(await subject.change(subject.bump, "token-1")) == 1

    backend.run(case)


# --- closing


async def settled_batch(backend: Backend, total: int, state: BatchState) -> tuple[Batch, list[Image]]:
    """A batch whose images are all settled, nothing of it folded in yet."""
    batch = a_batch(backend.unique("acme.batch"), total=total, state=state, created_at=backend.clock.now())
    await backend.store.create_batch(batch)
    await backend.store.create_tallies(decisions.batch.empty_tallies(batch))
    await backend.store.create_images([an_image(batch.id, i, shard=i % batch.shards) for i in range(total)])
    images = []
    for index in range(total):
        claim = lambda i: decisions.image.claim(i, task_round=1, worker="w", now=1.0, holder=None)
        settle = lambda i, n=index: (
            decisions.image.fail(i, fence=1, error=FAILURE, calls=(), now=1.0)
            if n % 5 == 0
            else decisions.image.complete(i, fence=1, output=OUTPUT, calls=(), durations_ms={}, prompts="1", now=1.0)
        )
        await backend.store.change_image(batch.id, index, claim, backend.clock.token())
        image = await backend.store.change_image(batch.id, index, settle, backend.clock.token())
        assert isinstance(image, Image)
        images.append(image)
    return batch, images


class ClosingRace:
    """Tasks that fold the last images in, each twice, and check; they may break anywhere and then do it again.

    With short leases closers are taken over while they still write.
    """

    def __init__(self, backend: Backend, seed: int, breaks: float = 0.0, lease_seconds: float = 2.0) -> None:
        self.backend = backend
        self.chance = random.Random(seed)
        self.breaks = breaks
        self.lease_seconds = lease_seconds
        self.events: list[tuple[str, Any, dict[str, str]]] = []
        self._stop = asyncio.Event()

    def ports(self) -> tuple[Any, Closer]:
        """A process's own way to the backend: its store and closer."""
        view = (self.backend, self.backend.second)[self.chance.randrange(2)]
        store, queue, objects = (
            Unsteady(port, self.backend.clock, self.chance, self.breaks)
            for port in (view.store, view.queue, view.objects)
        )
        settings = Settings(worker=WorkerLimits(closer_lease_seconds=self.lease_seconds))
        return store, Closer(store, queue, objects, self.backend.clock, settings)

    async def until_it_works(self, step: Callable[[], Any]) -> None:
        for _ in range(300):
            try:
                return await step()
            except RuumError:  # broken by the test, or `StillClosing`: either way the event comes again
                await self.backend.advance(self.chance.uniform(0, 0.5))
        raise AssertionError("it never works: a closing is stuck")

    async def fold_and_check(self, image: Image) -> None:
        store, closer = self.ports()

        async def step() -> None:
            await store.change_tally(
                image.batch,
                image.shard,
                lambda t: decisions.batch.fold(t, index=image.index, revision=image.revision, state=image.state),
                self.backend.clock.token(),
            )
            await closer.check(image.batch)

        await self.backend.advance(self.chance.uniform(0, 0.3))
        await self.until_it_works(step)

    async def end_ingest(self, batch: Batch) -> None:
        store, closer = self.ports()

        async def step() -> None:
            await store.change_batch(
                batch.id, lambda known: decisions.batch.move(known, BatchMove.OPEN), self.backend.clock.token()
            )
            await closer.check(batch.id)

        await self.backend.advance(self.chance.uniform(0, 0.4))
        await self.until_it_works(step)

    async def customer(self, batch: Batch) -> None:
        """Sees each completion event the moment it comes, and looks whether it is true."""
        while not self._stop.is_set():
            for delivery in await self.backend.queue.pull(EVENTS_SUBSCRIPTION, 10, 0.2):
                attributes = dict(delivery.attributes)
                if "/progress/" in attributes["ce-id"]:
                    await self.backend.queue.ack(EVENTS_SUBSCRIPTION, [delivery.ack_id])
                    continue
                self.events.append((attributes["ce-id"], msgspec.json.decode(delivery.data), attributes))
                await self.backend.queue.ack(EVENTS_SUBSCRIPTION, [delivery.ack_id])
                known = await self.backend.store.batch(batch.id)
                assert known is not None and known.state is BatchState.CLOSED and known.completion is not None
                assert await self.backend.store.open_images(batch.id) == (0, batch.shards)
                for file in known.completion.reports.values():
                    got = await self.backend.objects.get("results", file.name)
                    assert got is not None and hashlib.sha256(got[1]).hexdigest() == file.sha256

    async def run(self, total: int, state: BatchState) -> None:
        batch, images = await settled_batch(self.backend, total, state)
        customer = asyncio.create_task(self.customer(batch))
        handlers = [self.fold_and_check(image) for image in images * 2]
        if state is BatchState.INGESTING:
            handlers += [self.end_ingest(batch), self.end_ingest(batch)]
        self.chance.shuffle(handlers)
        await asyncio.gather(*handlers)
        # As reconcile would: whoever broke left its lease behind.
        for _ in range((20 if self.backend.virtual else 4) if self.breaks else 0):
            await self.backend.advance(self.lease_seconds + 0.1)
            await self.until_it_works(lambda: self.ports()[1].check(batch.id))
        await self.backend.advance(1)
        self._stop.set()
        await customer
        assert {event_id for event_id, _, _ in self.events} == {f"{batch.id}/1"}
        assert all(event == self.events[0] for event in self.events)  # repeated or not, it says the same
        known = await self.backend.store.batch(batch.id)
        assert known is not None and known.completion is not None
        assert (known.state, known.announced_round, known.closer) == (BatchState.CLOSED, 1, None)
        failed = len(range(0, total, 5))
        assert known.completion.counts == Counts(completed=total - failed, failed=failed)
        assert await self.backend.store.counts(batch.id) == known.completion.counts


# The share of calls that break, and how long a closer's lease is: about 0.3 s is needed to close.
CLOSERS = pytest.mark.parametrize(
    ("breaks", "lease_seconds"), [(0.0, 2.0), (0.08, 2.0), (0.0, 0.1)], ids=["steady", "breaking", "overtaken"]
)


@CLOSERS
def test_a_batch_is_announced_once_however_many_close_it(backend: Backend, breaks: float, lease_seconds: float) -> None:
    async def case() -> None:
        for seed in backend.seeds:
            await ClosingRace(backend, seed, breaks, lease_seconds).run(12, BatchState.PROCESSING)

    backend.run(case)


@CLOSERS
def test_a_batch_whose_ingest_ends_last_is_announced_too(backend: Backend, breaks: float, lease_seconds: float) -> None:
    async def case() -> None:
        for seed in backend.seeds:
            await ClosingRace(backend, seed + 100, breaks, lease_seconds).run(9, BatchState.INGESTING)

    backend.run(case)


def test_a_batch_with_an_open_image_or_a_missing_shard_is_not_closed(backend: Backend) -> None:
    async def case() -> None:
        _, closer = ClosingRace(backend, 0).ports()
        batch, images = await settled_batch(backend, 9, BatchState.PROCESSING)
        for image in images[1:]:
            decide = lambda t, i=image: decisions.batch.fold(t, index=i.index, revision=i.revision, state=i.state)
            await backend.store.change_tally(batch.id, image.shard, decide, backend.clock.token())
        await asyncio.gather(*(closer.check(batch.id) for _ in range(5)))
        assert await backend.store.batch(batch.id) == batch
        lone = a_batch(backend.unique("acme.batch"), total=9)
        await backend.store.create_batch(lone)
        await backend.store.create_tallies([a_tally(lone.id, shard) for shard in range(7)])  # of eight
        await closer.check(lone.id)
        assert await backend.store.batch(lone.id) == lone
        await closer.check(backend.unique("nobody"))
        assert await take(backend, EVENTS_SUBSCRIPTION, 1, 1.0) == []

    backend.run(case)
