"""Closers who race for one batch over the store: one closes it, and counts what there is."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shared import decisions
from shared.errors import RuumError
from shared.lifecycle.closing import Closer
from shared.model import Batch, BatchMove, BatchState, Counts, Image
from shared.settings import Settings, WorkerLimits
from shared.topology import EVENTS_SUBSCRIPTION
from tests.contract.backends import Backend, Unsteady, take
from tests.contract.store.parts import FAILURE, OUTPUT, a_batch, a_tally, an_image


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
                batch.id, lambda known: decisions.batch.apply(known, BatchMove.OPEN), self.backend.clock.token()
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
