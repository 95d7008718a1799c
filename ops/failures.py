"""What failed in a batch, by code: how many, which photos, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from ops import photos, words
from shared.errors import ErrorCode
from shared.model import Batch, ImageState

if TYPE_CHECKING:
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
    """The images that failed with one code: `count` in all. `photos` names the first hundred, as the manifest does."""

    code: str
    count: int
    photos: tuple[str, ...]
    advice: str


MAX_NAMED: Final = 100


async def of(store: BatchStore, batch: Batch) -> list[Group]:
    """The failed images of a batch by code, the most frequent first."""
    named: dict[str, list[str]] = {}
    counted: dict[str, int] = {}
    async for image in store.images(batch.id, ImageState.FAILED):
        code = image.error.code if image.error else "unknown"
        counted[code] = counted.get(code, 0) + 1
        if len(named.setdefault(code, [])) < MAX_NAMED:
            label = photos.source_shown(image.source, batch.manifest.base)
            named[code].append(f"{label} ({image.property_code})" if image.property_code else label)
    groups = [Group(code, number, tuple(named[code]), advice(code)) for code, number in counted.items()]
    return sorted(groups, key=lambda group: (-group.count, group.code))


def advice(code: str) -> str:
    """What the reader may do about a code."""
    known: dict[Any, str] = {**OF_THE_PHOTO, **OF_THE_WORLD}
    return known.get(code, "look at the log")


def lines(groups: list[Group]) -> list[str]:
    """A line per code: how many, what to do, which photos."""
    return [f"  {group.count} {group.code} ({group.advice}): {_photos(group)}" for group in groups]


def _photos(group: Group) -> str:
    return words.some(group.photos, total=group.count)


def next_steps(groups: list[Group], *, again: str, retry: str) -> list[str]:
    """What to run next. `again` names failed.csv, for corrected photos; `retry` gives the same images a new round."""
    found = []
    if any(group.code in set(OF_THE_PHOTO) for group in groups):
        found.append(f"  when the photos are corrected:  {again}")
    if any(group.code not in set(OF_THE_PHOTO) for group in groups):
        found.append(f"  to try the others again:        {retry}" if found else f"  to try them again:  {retry}")
    return found
