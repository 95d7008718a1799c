"""Estimates the cost and time of a batch from the settings, the backlog and the costs of earlier batches."""

from __future__ import annotations

from collections import Counter
from typing import Final

from shared.decisions import forecast
from shared.lifecycle import fleet
from shared.manifest.model import Manifest
from shared.model import BatchState, Control, ImageState, Tier
from shared.queries.batches import speed_now
from shared.queries.pipeline import Pipeline
from shared.results import names
from shared.vendors import spec_of

# How many earlier batches are read for the cost of a picture and the content of the cache. Newer ones say more, and a
# batch of 10,000 images costs 10,000 reads.
EARLIER_BATCHES: Final = 5


async def of_manifest(pipeline: Pipeline, found: Manifest) -> forecast.Estimate:
    """Return the cost and time of a manifest in each tier, as far as the pipeline knows.

    Reads the list of batches, tallies and status.json of waiting ones, and the images of up to five earlier ones.
    """
    store, now, settings = pipeline.backend.store, pipeline.clock.now(), pipeline.settings
    wishes = Counter((image.source, image.room_type, image.design_style) for image in found.images)
    backlog: Counter[Tier] = Counter()
    costs: list[tuple[float, int]] = []
    staged: set[tuple[str, str, str]] = set()
    speeds: list[float] = []
    looked = 0
    spec = spec_of(settings)
    wanted = (spec.prompts, spec.step("generate").usual.model)
    for batch in await store.batches():
        waits = batch.state not in (BatchState.CLOSED, BatchState.REJECTED) and batch.control is not Control.PAUSED
        if waits and batch.id != found.batch:
            backlog[batch.tier] += (await store.counts(batch.id)).open
            status = await pipeline.backend.objects.stat(settings.buckets.results, names.status_name(batch))
            speeds.append(speed_now(status, now) or 0.0)
        if batch.completion and len(costs) < EARLIER_BATCHES:
            done = batch.completion
            costs.append((done.cost_usd, done.counts.completed - done.cached))
        if found.cache and batch.client == found.client and batch.cache and looked < EARLIER_BATCHES:
            looked += 1
            async for image in store.images(batch.id, ImageState.COMPLETED):
                fresh = (image.settled_at or 0.0) + settings.cache.keep_seconds > now
                if fresh and (image.prompts, image.model) == wanted:  # as the cache's key has it
                    staged.add((image.source, image.room_type, image.design_style))
    known = {wish for wish in wishes if wish in staged} if found.cache else set()
    already = sum(wishes[wish] for wish in known)
    return forecast.estimate(
        settings,
        tier=found.tier,
        images=len(found.images),
        repeated=sum(times - 1 for wish, times in wishes.items() if wish not in known) if found.cache else 0,
        already_staged=already,
        backlog=backlog,
        capacity=await _capacity(pipeline, sum(speeds), sum(backlog.values())),
        measured_cost_usd=forecast.measured_cost_usd(costs),
    )


async def _capacity(pipeline: Pipeline, speed: float, waiting: int) -> forecast.Capacity:
    """Return what the fleet can do.

    It is limited to the measured speed, if enough images wait that this speed does not just reflect a lack of work.
    """
    store, settings, now = pipeline.backend.store, pipeline.settings, pipeline.clock.now()
    known = await fleet.capacity_now(store, settings, now)
    if not speed or waiting < known.images_per_second * settings.typical.image_seconds:
        return known
    return forecast.at_most(speed, await fleet.capacity_now(store, settings, now, with_slots=False))
