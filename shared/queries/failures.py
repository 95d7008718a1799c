"""What failed: image by image, and by code with advice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from shared.errors import ErrorCode
from shared.events import Public, iso
from shared.manifest.sources import shown
from shared.model import Batch, Image, ImageState
from shared.ports import BatchStore

OF_THE_PHOTO: Final = {
    ErrorCode.SOURCE_NOT_FOUND: "correct the addresses",
    ErrorCode.SOURCE_FORBIDDEN: "make the photos readable, or sign their addresses",
    ErrorCode.SOURCE_NOT_ALLOWED: "use https addresses of public hosts; for files elsewhere --photos FOLDER",
    ErrorCode.SOURCE_TOO_LARGE: "send smaller files",
    ErrorCode.NOT_A_PICTURE: "send JPEG, PNG, WebP or HEIC files, and no pages",
    ErrorCode.PICTURE_TOO_LARGE: "send pictures with fewer pixels",
    ErrorCode.PICTURE_TOO_SMALL: "send pictures with more pixels",
    ErrorCode.REFUSED_BY_SAFETY: "send other photos",
    ErrorCode.QUALITY_REJECTED: "try another style or another photo",
}
OF_THE_WORLD: Final = {
    ErrorCode.SOURCE_UNAVAILABLE: "the photos' host did not answer: try again later",
    ErrorCode.VENDOR_UNAVAILABLE: "the vendor did not answer: try again",
    ErrorCode.VENDOR_TIMEOUT: "the vendor took too long: try again",
    ErrorCode.VENDOR_BAD_ANSWER: "the vendor's answers could not be used: try again",
    ErrorCode.STORAGE_UNAVAILABLE: "our storage did not answer: try again",
    ErrorCode.WORKER_CRASHED: "workers died again and again while they held only this image: look at the photo",
    ErrorCode.DELIVERIES_EXHAUSTED: "delivered too often without a result: try again",
    ErrorCode.CONFIGURATION: "our configuration: look at the log",
    ErrorCode.INTERNAL: "our own fault: look at the log",
}


class Group(msgspec.Struct, frozen=True, rename="camel"):
    """The images that failed with one code: `count` in all. `photos` names the first hundred, as in the manifest."""

    code: str
    count: int
    photos: tuple[str, ...]
    advice: str


MAX_NAMED: Final = 100


async def of(store: BatchStore, batch: Batch) -> list[Group]:
    """Return the failed images of a batch by code, the most frequent first. Reads every failed image."""
    named: dict[str, list[str]] = {}
    counted: dict[str, int] = {}
    async for image in store.images(batch.id, ImageState.FAILED):
        code = image.error.code if image.error else "unknown"
        counted[code] = counted.get(code, 0) + 1
        if len(named.setdefault(code, [])) < MAX_NAMED:
            label = shown(image.source, batch.manifest.base)
            named[code].append(f"{label} ({image.property_code})" if image.property_code else label)
    groups = [Group(code, number, tuple(named[code]), advice(code)) for code, number in counted.items()]
    return sorted(groups, key=lambda group: (-group.count, group.code))


def advice(code: str) -> str:
    """Return what the reader can do about a code."""
    known: dict[Any, str] = {**OF_THE_PHOTO, **OF_THE_WORLD}
    return known.get(code, "look at the log")


class FailedImage(Public, frozen=True, kw_only=True):
    """An image that failed for good in its latest round. `photo` is its source as in the manifest."""

    batch: str
    index: int
    round: int
    code: str
    message: str
    source: str
    photo: str
    property_code: str | None
    failed_at: str  # RFC 3339, UTC


async def images(
    store: BatchStore, batch: Batch, codes: Iterable[str] = (), *, since: float = 0.0, before: float = math.inf
) -> list[FailedImage]:
    """Return the failed images of a batch, in order; filtered by code and by the time of failure.

    Reads every failed image.
    """
    wanted = set(codes)
    return [
        _of(batch, image)
        async for image in store.images(batch.id, ImageState.FAILED)
        if image.error and (not wanted or image.error.code in wanted) and since <= (image.settled_at or 0.0) <= before
    ]


def _of(batch: Batch, image: Image) -> FailedImage:
    return FailedImage(
        batch=batch.id,
        index=image.index,
        round=image.round,
        code=image.error.code if image.error else "unknown",
        message=image.error.message if image.error else "",
        source=image.source,
        photo=shown(image.source, batch.manifest.base),
        property_code=image.property_code,
        failed_at=iso(image.settled_at or 0.0),
    )
