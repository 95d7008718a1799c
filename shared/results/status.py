"""status.json: a batch's progress, its speed, and when it will be done."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from shared.decisions import forecast
from shared.decisions.forecast import Capacity
from shared.errors import PreconditionFailed
from shared.events import Status, iso, plain
from shared.model import Batch, BatchState, Control, Counts, ImageState
from shared.ports import ObjectStore, StoredObject
from shared.results import names

# Retries when another writer replaced status.json first. Every lost retry means that a fresh one was written.
STATUS_TRIES: Final = 20


# Cloud Storage accepts one write a second to one object name, and answers 429 above that. Each process that runs
# AGGREGATE writes every `progress_seconds`, so ten of them write three times a second.
STATUS_SECONDS: Final = 1.0


async def write_status(
    objects: ObjectStore,
    bucket: str,
    batch: Batch,
    counts: Counts,
    now: float,
    capacity: Capacity | None = None,
    *,
    at_once: bool = True,
) -> None:
    """Refresh the batch's status.json, but never with older data: a newer round or more settled images stay.

    Without `at_once`, one of the same round that was written less than `STATUS_SECONDS` ago stays too. Many processes
    together then do not write more often than Cloud Storage allows.

    The measured speed is stored in the object's metadata, so that the next refresh, in any process, continues from it.
    """
    name = names.status_name(batch)
    order = (batch.round, batch.state is BatchState.CLOSED, counts.settled)
    for _ in range(STATUS_TRIES):
        known = await objects.stat(bucket, name)
        if known is not None:
            known_order = tuple(msgspec.json.decode(known.metadata["order"]))
            if known_order > order:
                return
            # `updated_at` is by the object store's clock. If ours differs by more, every refresh is written.
            fresh = abs(now - known.updated_at) < STATUS_SECONDS and known_order[:2] == order[:2]
            if fresh and not at_once:
                return
        pace = _pace(known, batch, counts, now)
        status = status_of(batch, counts, now, pace.images_per_second, capacity)
        try:
            await objects.put(
                bucket,
                name,
                msgspec.json.encode(status),
                content_type="application/json",
                metadata={
                    "order": msgspec.json.encode(order).decode(),
                    "epoch": str(batch.control_epoch),
                    "pace": msgspec.json.encode(pace).decode(),
                },
                if_generation=known.generation if known else 0,
            )
        except PreconditionFailed:
            continue
        return


def _pace(known: StoredObject | None, batch: Batch, counts: Counts, now: float) -> forecast.Pace:
    """Return the speed at which images settled in this round, measured from one refresh to the next.

    It starts with the first settled image. The time that this one took, or that a pause took, is not slowness.
    """
    if known is None:
        return forecast.Pace()
    known_round, _, settled = msgspec.json.decode(known.metadata["order"])
    if known_round != batch.round or not settled:
        return forecast.Pace()
    before = _known_pace(known)
    if known.metadata.get("epoch") != str(batch.control_epoch):
        return before
    return forecast.pace_now(before, counts.settled - settled, now - known.updated_at)


def _known_pace(status: StoredObject) -> forecast.Pace:
    written = status.metadata.get("pace")
    return msgspec.json.decode(written, type=forecast.Pace) if written else forecast.Pace()


def known_speed(status: StoredObject | None) -> float | None:
    """Return images per second, as the last refresh of this status.json measured it."""
    return _known_pace(status).images_per_second if status is not None else None


def status_of(
    batch: Batch, counts: Counts, now: float, speed: float | None = None, capacity: Capacity | None = None
) -> dict[str, Any]:
    """Return a batch's progress as status.json and the command line show it."""
    return plain(progress_of(batch, counts, now, speed, capacity))


def progress_of(batch: Batch, counts: Counts, now: float, speed: float | None, capacity: Capacity | None) -> Status:
    """Return a batch's progress.

    `eta_seconds` is None when nothing moves: before the first image, while paused, during a vendor's outage, and when
    the batch is closed.
    """
    moving = batch.state is BatchState.PROCESSING and batch.control is Control.RUN
    return Status(
        batch_id=batch.id,
        client=batch.client,
        state=batch.outcome,
        control=batch.control.value,
        paused_reason=batch.paused_reason if batch.control is Control.PAUSED else None,
        round=batch.round,
        total=batch.total,
        **{state.value: counts.of(state) for state in ImageState},
        progress=round(counts.settled / batch.total if batch.total else 0.0, 4),
        images_per_minute=round(speed * 60, 2) if speed and moving else None,
        eta_seconds=forecast.eta_seconds(counts.open, speed, capacity) if moving else None,
        updated_at=iso(now),
    )
