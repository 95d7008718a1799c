"""A world on the in-memory backend and virtual time, its rooms and workers, and short words for what tests do with them."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from shared import decisions
from shared.assembly.wiring import Embedded, Rooms, embedded, rooms, stage_image
from shared.decisions.image import HEARTBEAT_STALE_SECONDS, TRIAL_AFTER_SECONDS
from shared.manifest.sources import SourceRules
from shared.messages import Letter, Task, decode, encode, is_letter, task_for
from shared.model import Batch, BatchState, Claim, Image, ImageState, Tier
from shared.ports import Backend, Delivery, Message
from shared.settings import Limit, Price, Settings
from shared.topology import CHANGES_TOPIC, DEAD_LETTER_DOOR, EVENTS_SUBSCRIPTION, topic_of
from shared.worker.disposition import Disposition
from shared.worker.heartbeat import Heartbeat
from tests import builders
from tests.clocks import VirtualClock, run_virtual
from tests.harness.fakes import IMAGE, TEXT, Fakes
from tests.harness.faults import Fuse, fused

PRICES = {TEXT: Price(input_usd=1.0, output_usd=2.0), IMAGE: Price(input_usd=3.0, output_usd=40.0)}
# More than any test asks for: what waits in these tests waits for another reason.
LIMITS = {TEXT: Limit(per_minute=300), IMAGE: Limit(per_minute=300)}
SETTINGS = Settings(prices=PRICES, limits=LIMITS)
STALE_SECONDS = HEARTBEAT_STALE_SECONDS + 1.0  # after this long without a heartbeat a worker is dead


# --- virtual time


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test on virtual time: its first parameter is a `World`, the others are pytest's."""

    def run(**arguments: Any) -> None:
        async def main(clock: VirtualClock) -> None:
            # Tasks of killed workers end as they do.
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
            await test(World(clock), **arguments)

        run_virtual(main)

    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


async def ticks(count: int = 50) -> None:
    """Let everything that is ready go on, without letting time pass."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- the world


class Hand:
    """One worker: a heartbeat of its own, and the room."""

    def __init__(self, world: World, backend: Any, fakes: Fakes) -> None:
        self.heartbeat = Heartbeat(backend.store, world.clock, world.settings.worker.heartbeat_seconds)
        self.room = stage_image(
            Backend(backend.store, backend.queue, backend.objects),
            world.clock,
            world.settings,
            heartbeat=self.heartbeat,
            source=fakes.source,
            pictures=fakes.pictures,
            model=fakes.model,
        )
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> Hand:
        await self.heartbeat.beat()
        self._beating = asyncio.create_task(self.heartbeat.run())
        return self

    def fall_silent(self) -> None:
        """Its heart stops; what it has in hand may go on, as that of a worker cut off from the world does."""
        if self._beating is not None:
            self._beating.cancel()

    async def handle(self, delivery: Delivery) -> Disposition:
        return await self.room.handle(delivery)

    def begin(self, delivery: Delivery) -> asyncio.Task[Disposition]:
        return asyncio.create_task(self.room.handle(delivery))


class World:
    """The in-memory backend, its rooms, and short words for what tests do with them."""

    def __init__(self, clock: VirtualClock, settings: Settings = SETTINGS) -> None:
        self.clock = clock
        self.settings = settings
        self.parts: Embedded = embedded(clock)
        self.store = self.parts.store
        self.queue = self.parts.queue
        self.objects = self.parts.objects
        self.fakes = Fakes()
        self.rooms = self.rooms_on(self.parts)
        self._deliveries = 0

    def rooms_on(self, backend: Any, *, folder_is_client: bool = True, kept_seconds: float = math.inf) -> Rooms:
        """The rooms without model on these ports."""
        return rooms(
            Backend(backend.store, backend.queue, backend.objects, kept_seconds=kept_seconds),
            self.clock,
            self.settings,
            lambda stored: SourceRules(base="gs://intake/" + stored.name.rpartition("/")[0] + "/"),
            folder_is_client=folder_is_client,
        )

    # --- what there is

    async def batch(self, total: int = 1, name: str = "b1", **changes: Any) -> Batch:
        """A batch as ingest leaves it: processing, its images queued. Without the cache, which is a test's own choice."""
        batch = builders.a_batch(
            id=f"acme.{name}",
            manifest=builders.a_manifest_ref(uri="memory://m", base=""),
            total=total,
            state=BatchState.PROCESSING,
            tasks_published=total,
            created_at=self.clock.now(),
            cache=False,
        )
        batch = await self.store.create_batch(msgspec.structs.replace(batch, **changes))
        await self.store.create_tallies(decisions.batch.empty_tallies(batch))
        await self.store.create_images(
            [
                builders.an_image(
                    batch=batch.id,
                    index=index,
                    source=f"https://example.com/{index}.jpg",
                    room_type="living_room",
                    design_style="modern",
                    tier=batch.tier,
                    shard=index % batch.shards,
                    property_code=f"APT {index}",
                    created_at=batch.created_at,
                    moved_at=batch.created_at,
                )
                for index in range(total)
            ]
        )
        return batch

    async def change_batch(self, batch: str = "acme.b1", **changes: Any) -> Batch:
        """Write the batch as an operator's command would."""
        changed = await self.store.change_batch(
            batch,
            lambda known: msgspec.structs.replace(known, revision=known.revision + 1, **changes),
            self.clock.token(),
        )
        assert isinstance(changed, Batch)
        return changed

    async def change_image(self, index: int = 0, batch: str = "acme.b1", **changes: Any) -> Image:
        """Put an image into a state that a test starts from; it moved there just now, unless the test says otherwise."""
        changes.setdefault("moved_at", self.clock.now())
        changed = await self.store.change_image(
            batch,
            index,
            lambda known: msgspec.structs.replace(known, revision=known.revision + 1, **changes),
            self.clock.token(),
        )
        assert isinstance(changed, Image)
        return changed

    async def held_by(self, worker: str, index: int = 0, **changes: Any) -> Image:
        """An image that `worker` claimed just now."""
        claim = Claim(
            worker=worker, at=self.clock.now(), alone=changes.pop("alone", False), step=changes.pop("step", "")
        )
        return await self.change_image(
            index, state=ImageState.PROCESSING, claim=claim, fence=changes.pop("fence", 1), **changes
        )

    async def image(self, index: int = 0, batch: str = "acme.b1") -> Image:
        found = await self.store.image(batch, index)
        assert found is not None
        return found

    async def the_batch(self, batch: str = "acme.b1") -> Batch:
        found = await self.store.batch(batch)
        assert found is not None
        return found

    # --- who works

    async def worker(self, backend: Any = None) -> Hand:
        """A living worker, on the world's backend or another view of it."""
        return await Hand(self, backend or self.parts, self.fakes).start()

    async def grown_worker(self, backend: Any = None) -> Hand:
        """A worker that has lived for long enough to try suspects."""
        hand = await self.worker(backend)
        await self.clock.sleep(TRIAL_AFTER_SECONDS)
        await hand.heartbeat.beat()
        return hand

    async def killed_at(self, step: str, delivery: Delivery) -> Hand:
        """A worker of its own is killed at this step of the delivery's image; what it leaves behind is left."""
        process = Fuse()
        hand = await self.grown_worker(fused(self.parts, process))

        async def die() -> None:
            raise process.blow()

        self.fakes.will(step, die)
        assert await process.kills(hand.handle(delivery))
        hand.fall_silent()
        return hand

    async def task(self, index: int = 0, **changes: Any) -> Delivery:
        """The delivery of an image's task."""
        task = task_for(await self.image(index), changes.pop("epoch", 0))
        return self.delivery(encode(msgspec.structs.replace(task, **changes)))

    def delivery(self, data: bytes, attempt: int = 1) -> Delivery:
        self._deliveries += 1
        identity = str(self._deliveries)
        return Delivery(f"{identity}.{attempt}", identity, data, {}, attempt, self.clock.now())

    # --- what came out

    async def drain(self, subscription: str) -> list[Delivery]:
        """Everything that waits on a subscription, acked."""
        drained: list[Delivery] = []
        while deliveries := await self.queue.pull(subscription, 1000, 0.0):
            drained += deliveries
            await self.queue.ack(subscription, [delivery.ack_id for delivery in deliveries])
        return drained

    async def letters(self) -> list[Letter]:
        """The letters since the last look."""
        deliveries = await self.drain(DEAD_LETTER_DOOR)
        assert all(is_letter(delivery.attributes) for delivery in deliveries)
        return [decode(Letter, delivery.data) for delivery in deliveries]

    async def events(self) -> list[dict[str, Any]]:
        """The events on the completion topic since the last look."""
        return [
            {**delivery.attributes, "data": json.loads(delivery.data)}
            for delivery in await self.drain(EVENTS_SUBSCRIPTION)
        ]

    async def tasks(self, tiers: Iterable[Tier] = Tier) -> list[Task]:
        """The tasks that wait, acked."""
        return [decode(Task, found.data) for tier in tiers for found in await self.drain(topic_of(tier))]

    async def changes(self) -> list[Delivery]:
        """The change events since the last look."""
        return await self.drain(CHANGES_TOPIC)

    async def published(self, topic: str, *bodies: bytes) -> None:
        await self.queue.publish(topic, [Message(body) for body in bodies])

    async def kept(self, bucket: str, prefix: str = "") -> dict[str, tuple[int, bytes, dict[str, str]]]:
        """The objects below a prefix: name to (generation, content, metadata)."""
        found: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        async for stored in self.objects.list(bucket, prefix):
            got = await self.objects.get(bucket, stored.name)
            assert got is not None
            found[stored.name] = (stored.generation, got[1], dict(stored.metadata))
        return found
