"""A fleet to size, and the rooms that size it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shared import ports
from shared.assembly import wiring
from shared.lifecycle.reconcile import Report
from shared.manifest.sources import SourceRules
from shared.model import Batch
from shared.settings import FleetRules, Gemini
from tests.harness.fakes import IMAGE, TEXT
from tests.harness.world import SETTINGS, World

# Two images keep a worker busy; the quotas leave room for all of them.
RULES = FleetRules(pool="projects/p/locations/r/workerPools/w", images_per_instance=2, max_instances=4)
WOKEN = msgspec.structs.replace(SETTINGS, fleet=RULES, gemini=Gemini(text_model=TEXT, image_model=IMAGE))
NAME = "manifests/acme/{}.json"


class Fleet:
    """A `Fleet` that only counts. `before` is awaited in each of its calls, with the call's name."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.scaled: list[int] = []
        self.asked = 0
        self.error: tuple[str, Exception] | None = None
        self.seen_at_scale: Callable[[], Awaitable[Any]] | None = None

    def _fail(self, name: str) -> None:
        if self.error is not None and self.error[0] == name:
            raise self.error[1]

    async def instances(self) -> int:
        self.asked += 1
        self._fail("instances")
        return self.count

    async def scale(self, instances: int) -> None:
        self._fail("scale")
        if self.seen_at_scale is not None:
            await self.seen_at_scale()
        self.scaled.append(instances)
        self.count = instances


def woken(world: World) -> World:
    """A world whose settings name a pool."""
    return World(world.clock, WOKEN)


def rooms(world: World, fleet: Any, **parts: Any) -> wiring.Rooms:
    """The cloud's rooms on the world, with a fleet; `parts` stand in for the world's own store, queue or objects."""
    backend = ports.Backend(
        parts.get("store", world.store), parts.get("queue", world.queue), parts.get("objects", world.objects), fleet
    )
    return wiring.rooms(
        backend, world.clock, world.settings, lambda _: SourceRules(base="gs://intake/x/"), folder_is_client=True
    )


async def ingest(world: World, on: wiring.Rooms, count: int = 3, name: str = "b1", **header: Any) -> Batch:
    fields = {"clientName": "acme", "batchId": name, "designStyle": "modern", "roomType": "living_room", **header}
    images = [{"url": f"https://example.com/{index}.jpg"} for index in range(count)]
    content = json.dumps({**fields, "images": images}).encode()
    await world.objects.put("intake", NAME.format(name), content, content_type="application/json")
    batch = await on.ingest.handle("intake", NAME.format(name))
    assert batch is not None
    return batch


async def reconciled(on: wiring.Rooms) -> Report:
    return await on.reconcile.run()
