"""Many documents read from the store: by page, by state, by time."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from shared import decisions
from shared.model import Checkpoint, Counts, Image, ImageState, Refusal
from tests.contract.backends import Backend
from tests.contract.store.parts import a_batch, a_tally, an_image, bump, bump_batch, bump_tally


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
