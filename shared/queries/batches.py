"""The progress of batches: one batch's status, and its line in a list."""

from __future__ import annotations

from typing import Final

import msgspec

from shared import decisions
from shared.events import Status, iso
from shared.lifecycle import fleet
from shared.model import Batch, BatchState, Control
from shared.ports import StoredObject
from shared.queries.pipeline import Pipeline
from shared.results import names
from shared.results.status import known_speed, progress_of

# An older measurement of the speed says nothing about now. Even at one image a minute, the slowest plausible speed,
# five images would have settled since.
FRESH_SECONDS: Final = 300.0
STATES: Final = ("open", "running", "paused", "cancelling", "closed", "failed", "rejected")


class Listed(Status, frozen=True, kw_only=True):
    """A batch in a list: its status, and what else people look for there.

    `cost_usd` is None where finding it out would mean reading every image.
    """

    tier: str
    created_at: str  # RFC 3339, UTC
    cost_usd: float | None


async def status(pipeline: Pipeline, batch: Batch) -> Status:
    """Return a batch's progress, speed and remaining time now.

    Reads its tallies, status.json, and a ledger per model.
    """
    store, now, settings = pipeline.backend.store, pipeline.clock.now(), pipeline.settings
    counts = await store.counts(batch.id)
    known = await pipeline.backend.objects.stat(settings.buckets.results, names.status_name(batch))
    capacity = await fleet.capacity_now(store, settings, now, with_slots=False)
    return progress_of(batch, counts, now, speed_now(known, now), capacity)


async def listed(pipeline: Pipeline, batch: Batch, *, read_images: bool) -> Listed:
    """Return a batch's line in a list.

    `read_images` sums the cost of an open batch, which reads every image of it.
    """
    store = pipeline.backend.store
    if batch.is_open:
        found = await status(pipeline, batch)
    else:
        found = progress_of(batch, await store.counts(batch.id), pipeline.clock.now(), None, None)
    cost = batch.completion.cost_usd if batch.completion and not batch.is_open else None
    if batch.is_open and read_images:
        micro = 0
        async for image in store.images(batch.id):
            micro += image.cost_micro_usd
        cost = decisions.money.usd(micro)
    return Listed(
        **msgspec.structs.asdict(found), tier=batch.tier.value, created_at=iso(batch.created_at), cost_usd=cost
    )


def speed_now(status: StoredObject | None, now: float) -> float | None:
    """Return images per second, as status.json last measured them; None if that is older than `FRESH_SECONDS`.

    Every settled image refreshes the file, so an old one means that nothing moves: workers sleep or have halted.
    """
    return known_speed(status) if status is not None and status.updated_at > now - FRESH_SECONDS else None


def states_of(batch: Batch) -> set[str]:
    """Return every word of `STATES` that applies to a batch."""
    if batch.state is BatchState.REJECTED:
        return {"rejected"}
    if batch.state is BatchState.CLOSED:
        return {"closed", "failed"} if batch.outcome == "completed_with_failures" else {"closed"}
    return {"open", {Control.RUN: "running", Control.PAUSED: "paused"}.get(batch.control, "cancelling")}
