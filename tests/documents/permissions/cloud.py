"""A cloud in memory that notes which door makes which call."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shared import ports
from shared.assembly import wiring
from shared.assembly.worker import EmptyTiers
from shared.lifecycle.replay import fold_image
from shared.messages import ImageChanged, decode
from shared.model import ImageState, Tier
from shared.rooms.stage_image import StageImage
from shared.settings import Buckets, CacheRules, FleetRules, Gemini, Settings, ThresholdRules
from shared.staging.photo_source import PhotoSource
from shared.topology import CHANGES_TOPIC, DEAD_LETTER_DOOR, topic_of
from shared.worker.heartbeat import Heartbeat
from shared.worker.subscriber import Subscriber
from tests.clocks import VirtualClock
from tests.harness.fakes import IMAGE, TEXT
from tests.harness.world import SETTINGS, World

TIERS = {topic_of(tier) for tier in Tier}
NAME = "manifests/acme/{}.json"
CLOUD: Settings = msgspec.structs.replace(
    SETTINGS,
    buckets=Buckets(source="source"),
    cache=CacheRules(),
    fleet=FleetRules(pool="projects/p/locations/r/workerPools/w"),
    gemini=Gemini(text_model=TEXT, image_model=IMAGE),
    threshold=ThresholdRules(percent=50.0, minimum_sample=3),
)
Place = tuple[str, int]


class Ledger:
    """What each door was seen to do, and from which lines of the product."""

    def __init__(self) -> None:
        self.kinds: defaultdict[str, set[str]] = defaultdict(set)
        self.places: set[Place] = set()

    def note(self, door: str, kind: str, frame: Any) -> None:
        self.kinds[door].add(kind)
        self.places.add((frame.f_code.co_filename, frame.f_lineno))

    def of(self, door: str) -> set[str]:
        """A bucket that is written may be read by the same grant."""
        found = self.kinds[door]
        written = {kind.replace("write:", "read:") for kind in found if kind.startswith("write:")}
        return found - written


class Recorded:
    """A port that notes the kind of each call before it is made."""

    def __init__(
        self, port: Any, door: str, ledger: Ledger, kind: Callable[[str, tuple[Any, ...]], str | None]
    ) -> None:
        self._port = port
        self._note = (door, ledger, kind)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        door, ledger, kind = self._note

        def call(*args: Any, **options: Any) -> Any:
            found = kind(name, args)
            if found is not None:
                ledger.note(door, found, sys._getframe(1))
            return method(*args, **options)

        return call


def of_store(name: str, args: tuple[Any, ...]) -> str:
    return "firestore"


def of_objects(name: str, args: tuple[Any, ...]) -> str | None:
    if name == "uri":
        return None  # words, no call
    verb = {"get": "read", "stat": "read", "list": "read", "put": "write", "delete": "write", "link": "sign"}[name]
    return f"{verb}:{args[0]}"


def of_queue(name: str, args: tuple[Any, ...]) -> str:
    where = "stage-image" if args[0] in TIERS else args[0]
    verb = {"publish": "publish", "pull": "pull", "ack": "pull", "nack": "pull", "extend": "pull"}[name]
    return f"{verb}:{where}"


def of_fleet(name: str, args: tuple[Any, ...]) -> str:
    return "scale:worker"


class Pool:
    """A fleet that only counts."""

    def __init__(self) -> None:
        self.count = 0
        self.at_zero: Callable[[], Awaitable[Any]] | None = None

    async def instances(self) -> int:
        return self.count

    async def scale(self, instances: int) -> None:
        self.count = instances
        if instances == 0 and self.at_zero is not None:
            await self.at_zero()


class Web:
    """A downloader: every address leads to a photo."""

    async def fetch(self, url: str) -> bytes:
        return b"photo"


class Cloud:
    """A world in which each door has backend and rooms of its own, as each has a process and an account of its own."""

    def __init__(self, clock: VirtualClock, ledger: Ledger) -> None:
        self.world = World(clock, CLOUD)
        self.ledger = ledger
        self.pool = Pool()
        self.rooms = {door: self._rooms(door) for door in ("ingest", "aggregate", "dead_letter", "reconcile")}

    def backend(self, door: str) -> ports.Backend:
        world, ledger = self.world, self.ledger
        return ports.Backend(
            Recorded(world.store, door, ledger, of_store),
            Recorded(world.queue, door, ledger, of_queue),
            Recorded(world.objects, door, ledger, of_objects),
            Recorded(self.pool, door, ledger, of_fleet),
        )

    def _rooms(self, door: str) -> wiring.Rooms:
        rules = wiring.google_rules(self.world.settings)
        return wiring.rooms(
            self.backend(door), self.world.clock, self.world.settings, rules, folder_is_client=True
        )  # fmt: skip

    # --- what comes in

    async def manifest(self, *urls: str, name: str = "b1", **header: Any) -> None:
        """A manifest and its photos in their buckets, by the customer's hand; ingest's event."""
        fields = {"clientName": "acme", "batchId": name, "designStyle": "modern", "roomType": "living_room", **header}
        for url in urls:
            if url.startswith("https://"):
                continue  # it is the web's
            bucket, _, photo = url.removeprefix("gs://").partition("/") if "://" in url else ("intake", "", "")
            photo = photo or f"manifests/acme/{url}"
            await self.world.objects.put(bucket, photo, url.encode(), content_type="image/jpeg")
        content = json.dumps({**fields, "images": [{"url": url} for url in urls]}).encode()
        await self.world.objects.put("intake", NAME.format(name), content, content_type="application/json")
        await self.ingest(name)

    async def ingest(self, name: str = "b1") -> None:
        await self.rooms["ingest"].ingest.handle("intake", NAME.format(name))

    async def changes(self) -> None:
        for delivery in await self.world.drain(CHANGES_TOPIC):
            await self.rooms["aggregate"].aggregate.handle(decode(ImageChanged, delivery.data))
            await self.world.clock.sleep(4)  # progress is shown anew

    async def letters(self) -> None:
        for delivery in await self.world.drain(DEAD_LETTER_DOOR):
            await self.rooms["dead_letter"].dead_letter.handle(delivery.data, delivery.attributes)

    async def reconcile(self) -> None:
        await self.rooms["reconcile"].reconcile.run()

    async def work(self, seconds: float = 60.0) -> None:
        """A worker of the pool for so long: its room, hands, heartbeat and notes, as `shared.assembly.worker.work` has them."""
        world, backend = self.world, self.backend("stage_image")
        heartbeat = Heartbeat(backend.store, world.clock, world.settings.worker.heartbeat_seconds)
        fakes = world.fakes
        room: StageImage = wiring.stage_image(
            backend, world.clock, world.settings, heartbeat=heartbeat,
            source=PhotoSource(Web(), backend.objects, (), 10_000),  # type: ignore[arg-type]
            pictures=fakes.pictures, model=fakes.model,
        )  # fmt: skip
        empties = EmptyTiers(backend.store, world.clock)
        hands = Subscriber(backend.queue, room.handle, world.clock, world.settings.worker, on_empty=empties.note)
        await heartbeat.beat()
        loops = [asyncio.create_task(loop) for loop in (heartbeat.run(), empties.run())]
        stop = asyncio.Event()
        running = asyncio.create_task(hands.run(stop, 5.0))
        await world.clock.sleep(seconds)
        stop.set()
        await running
        for loop in loops:
            loop.cancel()
        await heartbeat.stop()

    # --- short cuts past the doors

    async def settle_quietly(self, batch: str = "acme.b1", state: ImageState = ImageState.COMPLETED) -> None:
        """Every image settled and counted, and nobody told: what a killed AGGREGATE leaves."""
        async for image in self.world.store.images(batch):
            await self.world.change_image(image.index, batch, state=state, settled_at=self.world.clock.now())
            changed = await self.world.image(image.index, batch)
            await fold_image(self.world.store, changed, self.world.clock)
        await self.world.drain(CHANGES_TOPIC)
