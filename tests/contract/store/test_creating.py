"""What is created in the store: once, whole, however often it is tried."""

from __future__ import annotations

from shared import decisions
from shared.model import BatchState, Counts, ImageState
from tests.contract.backends import Backend
from tests.contract.store.parts import a_batch, a_tally, an_image, bump, bump_batch


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
