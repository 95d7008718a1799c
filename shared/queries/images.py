"""Everything known about one image."""

from __future__ import annotations

import msgspec

from shared.model import Batch, Image, Worker
from shared.queries.pipeline import Pipeline
from shared.telemetry import trace_id
from shared.worker.heartbeat import known_holder


class Story(msgspec.Struct, frozen=True):
    """An image, the worker that has claimed it (alive or not), and the trace id of its log lines."""

    image: Image
    holder: Worker | None
    trace: str


async def story(pipeline: Pipeline, batch: Batch, index: int) -> Story | None:
    """Return the image at this place in the manifest; None if there is none. Makes two reads."""
    if not 0 <= index < batch.total:
        return None
    store = pipeline.backend.store
    image = await store.image(batch.id, index)
    if image is None:
        return None
    return Story(image, await known_holder(store, image), trace_id(batch.id, index))
