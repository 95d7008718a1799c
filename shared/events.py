"""What customers receive: the data of every event, status.json, and the lines of results.jsonl.

These types are the contract with a CRM. docs/schemas/ and docs/asyncapi.json are generated from them, docstrings
included. A test keeps them equal, so a field changes here and in the documents, or not at all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
Usd = Annotated[float, Meta(ge=0, description="US dollars")]
Time = Annotated[str, Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})]


class Public(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of everything that customers read: camelCase, and no field is ever left out."""


class _OfBatch(Public, frozen=True, kw_only=True):
    """Base of the data of events about a batch."""

    batch_id: Annotated[str, Meta(description="<client>.<batchId>")]
    client: Annotated[str, Meta(description="the client's folder")]


class BatchAccepted(_OfBatch, frozen=True, kw_only=True):
    """The manifest is valid and every image is queued."""

    total: Annotated[int, Meta(ge=1, description="images")]
    tier: str
    manifest: Annotated[str, Meta(description="URI of the manifest")]


class BatchRejected(_OfBatch, frozen=True, kw_only=True):
    """The manifest has problems, and nothing of it is staged. Fix it and upload it again."""

    manifest: Annotated[str, Meta(description="URI of the manifest")]
    problems: Annotated[int, Meta(ge=1, description="how many problems there are")]
    first_problems: Annotated[tuple[str, ...], Meta(max_length=10, description="the first of them, in words")]
    errors: Annotated[str, Meta(description="URI of <manifest>.errors.json, which lists all")]


class Status(_OfBatch, frozen=True, kw_only=True):
    """A batch's progress: the data of `batch.progress`, and all of status.json."""

    state: Annotated[
        str,
        Meta(
            description="ingesting, processing, closing, reopening, rejected; "
            "closed reads completed, completed_with_failures or cancelled"
        ),
    ]
    control: Annotated[str, Meta(description="run, paused or cancelling")]
    paused_reason: Annotated[str | None, Meta(description="why it is paused; null while it is not")]
    round: Annotated[int, Meta(ge=1, description="1, and one more with each replay of a closed batch")]
    total: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    progress: Annotated[Share, Meta(description="settled share of the images")]
    images_per_minute: Annotated[float | None, Meta(description="measured; null when nothing moves")]
    eta_seconds: Annotated[
        float | None,
        Meta(description="until the last image is settled; null when not known, as in a vendor's outage"),
    ]
    updated_at: Time


class BatchPaused(_OfBatch, frozen=True, kw_only=True):
    """No further image is started: an operator paused the batch, or too many of its images failed."""

    control: str
    reason: str


class BatchCancelled(_OfBatch, frozen=True, kw_only=True):
    """The batch is being cancelled.

    Completed images are kept, the rest are not staged. `batch.completed` follows.
    """

    control: str


class StateCounts(Public, frozen=True, kw_only=True):
    """Images by state. `queued` and `processing` are 0 in a closed batch."""

    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int


class ReportLink(Public, frozen=True, kw_only=True):
    """Where a report is, and its sha256."""

    uri: Annotated[str, Meta(description="gs://…, or a signed https link where those are switched on")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Meta(ge=0)]


class BatchCompleted(_OfBatch, frozen=True, kw_only=True):
    """A round is over: every image has settled and the reports are written.

    There is exactly one event id per round.
    """

    round: Annotated[int, Meta(ge=1)]
    outcome: Annotated[str, Meta(description="completed, completed_with_failures or cancelled")]
    total: int
    counts: StateCounts
    success_rate: Share
    cost_usd: Annotated[float, Meta(ge=0, description="what the vendors charge for the batch, all rounds together")]
    price_usd: Annotated[float, Meta(ge=0, description="what the client pays: the cost by the tier's factor")]
    cached: Annotated[int, Meta(ge=0, description="completed images whose picture was there already")]
    duration_seconds: Annotated[float, Meta(ge=0, description="from the manifest to the end of this round")]
    reports: Annotated[dict[str, ReportLink], Meta(description="results.jsonl, results.csv, failed.csv, report.html")]


class QuotaChanged(Public, frozen=True, kw_only=True):
    """A vendor model's quota has changed: its rate, its circuit breaker, its limit, or its daily quota.

    For operators.
    """

    model: str
    circuit: Annotated[str, Meta(description="closed, open or half_open")]
    circuit_before: str
    rate: Annotated[Share, Meta(description="share of the limit in use: below 1 is slow mode")]
    rate_before: Share
    epoch: Annotated[int, Meta(ge=0, description="one more with each 429 that halved the rate")]
    per_minute: Annotated[int | None, Meta(description="the limit in use, in calls a minute")]
    concurrent: Annotated[int | None, Meta(description="the limit in use, in calls at once")]
    day_spent_until: Annotated[str | None, Meta(description="RFC 3339; until then the vendor's day is used up")]


# Event type, after "ruum.", to its data.
EVENTS: Final[dict[str, type[Public]]] = {
    "batch.accepted": BatchAccepted,
    "batch.rejected": BatchRejected,
    "batch.progress": Status,
    "batch.paused": BatchPaused,
    "batch.cancelled": BatchCancelled,
    "batch.completed": BatchCompleted,
    "quota.changed": QuotaChanged,
}


class ImageError(Public, frozen=True, kw_only=True):
    """Why an image failed: a code for programs, a sentence for people."""

    code: str
    message: str


class ResultLine(Public, frozen=True, kw_only=True):
    """One image: a line of results.jsonl."""

    index: Annotated[int, Meta(ge=0, description="place in the manifest, from 0")]
    property_code: str | None
    source: Annotated[str, Meta(description="absolute address of the photo")]
    room_type: str
    design_style: str
    state: Annotated[str, Meta(description="completed, failed or cancelled")]
    output: Annotated[str | None, Meta(description="object name of the staged picture in the results bucket")]
    thumbnail: Annotated[str | None, Meta(description="object name of a small copy")]
    error: ImageError | None
    attempts: Annotated[int, Meta(ge=0, description="tries in this round")]
    round: Annotated[int, Meta(ge=1)]
    cached: bool
    durations_ms: Annotated[dict[str, int], Meta(description="milliseconds by step")]
    cost_usd: Usd
    cost_estimated: Annotated[
        bool, Meta(description="part of costUsd is an estimate: the vendor did not say what a call used")
    ]
    sha256: Annotated[str | None, Meta(description="of the staged picture's bytes")]
    prompts: Annotated[str | None, Meta(description="version of the prompts it was made with")]


def plain(document: Public) -> dict[str, Any]:
    """Return the document as plain JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(document)
    return found


def iso(at: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
