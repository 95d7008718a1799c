"""Closings that take far longer than their lease: renewed, kept page by page, carried on where they were killed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from shared import errors
from shared.lifecycle import closing
from shared.model import BatchState, Call, Counts, Image, ImageState, Output, Tally
from shared.ports import StoredObject
from shared.results.names import closing_folder, round_folder
from tests import builders
from tests.harness.faults import Killed
from tests.harness.world import World, virtual

pytestmark = pytest.mark.slow

PAGE_SECONDS = 1.0  # of Firestore, for 500 images
TOTAL = 100_000
SHARDS = 8


class SlowPages:
    """A store whose pages take a second each, counted; killed when it is told to be."""

    def __init__(self, world: World, kill_at: int = 0) -> None:
        self._world = world
        self.kill_at = kill_at
        self.pages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.store, name)

    async def images(self, batch_id: str, state: ImageState | None = None, start: int = 0) -> AsyncIterator[Image]:
        number = 0
        async for image in self._world.store.images(batch_id, state, start):
            if number % closing.PAGE_IMAGES == 0:
                self.pages += 1
                if self.pages == self.kill_at:
                    raise Killed
                await self._world.clock.sleep(PAGE_SECONDS)
            number += 1
            yield image


async def settled_batch(world: World, total: int) -> None:
    """All images completed and counted, nothing closed."""
    batch = await world.batch(0)
    await world.change_batch(batch.id, total=total, shards=SHARDS)
    output = Output(picture="p", thumbnail="t", before="b", sha256="0", width=4, height=3)
    plain = builders.an_image(batch=batch.id, state=ImageState.COMPLETED, output=output, settled_at=1.0)
    images = [msgspec.structs.replace(plain, index=index, shard=index % SHARDS) for index in range(total)]
    for start in range(0, total, 5000):
        await world.store.create_images(images[start : start + 5000])
    tallies = [
        Tally(batch=batch.id, shard=shard, counts=Counts(completed=len(range(shard, total, SHARDS))))
        for shard in range(SHARDS)
    ]
    await world.store.create_tallies(tallies)


def closer_of(world: World, store: Any) -> closing.Closer:
    return closing.Closer(store, world.queue, world.objects, world.clock, world.settings)


async def report_sha(world: World, name: str) -> str:
    found = await world.objects.get("results", round_folder(await world.the_batch()) + name)
    assert found is not None
    return hashlib.sha256(found[1]).hexdigest()


async def kept_parts(world: World) -> list[StoredObject]:
    return [stored async for stored in world.objects.list("results", closing_folder(await world.the_batch()))]


@virtual
async def test_a_closing_of_100_000_images_outlives_its_lease_and_its_killer(world: World) -> None:
    await settled_batch(world, TOTAL)
    lease = world.settings.worker.closer_lease_seconds
    assert TOTAL / closing.PAGE_IMAGES * PAGE_SECONDS > 5 * lease, "far longer than the lease"
    killed = SlowPages(world, kill_at=137)
    with pytest.raises(Killed):
        await closer_of(world, killed).check("acme.b1")
    assert len(await kept_parts(world)) == 13
    with pytest.raises(errors.StillClosing):
        await closer_of(world, world.store).check("acme.b1")
    await world.clock.sleep(lease)
    second = SlowPages(world)
    await closer_of(world, second).check("acme.b1")
    batch = await world.the_batch()
    assert batch.state is BatchState.CLOSED
    assert batch.completion is not None
    assert batch.completion.counts.completed == TOTAL
    assert second.pages == TOTAL // closing.PAGE_IMAGES - 130, "only what was not kept is read again"
    assert [event["ce-type"] for event in await world.events()].count("ruum.batch.completed") == 1
    assert await kept_parts(world) == [], "and nothing is left over"


@virtual
async def test_nobody_takes_over_a_closer_that_is_only_slow(world: World) -> None:
    await settled_batch(world, 20_000)
    slow = SlowPages(world)

    closing_it = asyncio.create_task(closer_of(world, slow).check("acme.b1"))
    refused = 0
    while not closing_it.done():
        await world.clock.sleep(2)
        try:
            await closer_of(world, world.store).check("acme.b1")
        except errors.StillClosing:
            refused += 1
    await closing_it
    assert refused >= 15
    assert slow.pages == 40


@pytest.mark.parametrize("kill_at", [2, 11, 12, 21, 30, 31, 40])
@virtual
async def test_the_reports_are_the_same_however_often_their_closer_is_killed(world: World, kill_at: int) -> None:
    await settled_batch(world, 20_000)
    await closer_of(world, world.store).check("acme.b1")
    expected = [await report_sha(world, name) for name in ("results.jsonl", "results.csv", "failed.csv", "report.html")]
    again = World(world.clock)
    await settled_batch(again, 20_000)
    store: Any = SlowPages(again, kill_at=kill_at)
    with pytest.raises(Killed):
        await closer_of(again, store).check("acme.b1")
    again_at = (await again.the_batch()).closing_at
    await again.clock.sleep(60)
    await closer_of(again, again.store).check("acme.b1")
    ended = await again.the_batch()
    assert ended.closing_at == again_at
    found = [await report_sha(again, name) for name in ("results.jsonl", "results.csv", "failed.csv")]
    assert found == expected[:3]


@virtual
async def test_a_closing_counts_what_the_vendor_did_not_say(world: World) -> None:
    await world.batch(2)
    guessed = Call(step="generate", model="m", cost_micro_usd=50_000, estimated=True)
    known = msgspec.structs.replace(guessed, estimated=False)
    for index, calls in enumerate([(known, guessed), (known,)]):
        await world.change_image(index, state=ImageState.COMPLETED, settled_at=world.clock.now(), calls=calls)
    await world.rooms.reconcile.run()
    done = (await world.the_batch()).completion
    assert done is not None
    assert (done.cost_usd, done.estimated_usd) == (0.15, 0.05)
