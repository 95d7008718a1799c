"""Short words for what the object store's suite does with objects."""

from __future__ import annotations

from typing import Any, Final

from shared.ports import ObjectStore, StoredObject

BUCKET: Final = "results"
KIND: Final = "application/octet-stream"
NAMES: Final = [
    "plain.jpg",
    "with spaces and  two.jpg",
    " leading and trailing ",
    "São Paulo/Ångström cafe\u0301 café/東京/🏠👩‍👩‍👧.jpg",
    "hash#tag#.jpg",
    "question?mark=1&b=2.jpg",
    "100%/%20/%2F/%s_%d.jpg",
    "quotes ' \" `/semi;colon:pipe|star*<>.jpg",
    "[brackets]/{braces}/$HOME/~/!bang",
    "UPPER/lower",
    "upper/LOWER",
    ".hidden/..double/trailing./...",
    "a/very/deep/folder/" + "/".join(["x"] * 60),
    "folders" + ("/" + "y" * 100) * 9,
    "segment-" + "z" * 190,
    "é" * 100,
]


async def put(objects: ObjectStore, name: str, data: bytes = b"x", **options: Any) -> StoredObject:
    return await objects.put(BUCKET, name, data, content_type=KIND, **options)


async def listed(objects: ObjectStore, prefix: str, bucket: str = BUCKET) -> list[str]:
    return [stored.name async for stored in objects.list(bucket, prefix)]


async def content(objects: ObjectStore, name: str) -> bytes | None:
    got = await objects.get(BUCKET, name)
    return got[1] if got else None
