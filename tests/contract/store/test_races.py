"""The store, changed by many at once: no change is lost, whatever races."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from typing import Any

import pytest

from shared import decisions
from shared.adapters.system_clock import SystemClock
from shared.assembly.wiring import embedded
from shared.errors import ErrorCode, WorldError
from shared.model import Batch, Counts, Image, ImageState, Refusal, Tally, Worker
from tests.contract.backends import Backend, Unsteady
from tests.contract.store.parts import KINDS, Subject, a_batch, a_tally, an_image, bump

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
