"""What AGGREGATE's tests do with a world: settle images, and look at what was told of them."""

from __future__ import annotations

import json
from typing import Any

from shared.messages import ImageChanged, decode
from shared.model import Claim, Failure, ImageState, Output
from tests.harness.world import World

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
STATUS = "results/acme/b1/status.json"


async def pending(world: World) -> list[ImageChanged]:
    """The changes since the last look."""
    return [decode(ImageChanged, delivery.data) for delivery in await world.changes()]


async def status(world: World) -> dict[str, Any]:
    got = await world.objects.get("results", STATUS)
    assert got is not None
    found: dict[str, Any] = json.loads(got[1])
    return found


async def settle(world: World, index: int, state: ImageState = COMPLETED) -> None:
    """An image's life in two writes: claimed, settled."""
    claim = Claim(worker="w", at=world.clock.now())
    await world.change_image(index, state=PROCESSING, claim=claim, fence=1)
    output = Output(
        picture=f"results/acme/b1/images/{index}.jpg", thumbnail="t", before="b", sha256="0", width=4, height=3
    )
    more: dict[str, Any] = {
        COMPLETED: {"output": output},
        FAILED: {"error": Failure(code="internal", message="x")},
    }.get(state, {})
    await world.change_image(index, state=state, claim=None, settled_at=world.clock.now(), **more)


async def completions(world: World) -> list[dict[str, Any]]:
    return [event for event in await world.events() if event["ce-type"] == "ruum.batch.completed"]
