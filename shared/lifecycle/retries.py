"""Retries the failed images of a batch when its failed.csv is uploaded again, with the corrections made in it.

Each upload of the file is one retry, even with the same bytes. The event of one upload may come many times. The batch
remembers which uploads ("drops") it has taken, and a retry that crashed is resumed by the same drop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shared.errors import Busy, ManifestRejected, Problem
from shared.lifecycle.replay import Replay
from shared.manifest.model import Manifest, ManifestImage
from shared.manifest.sources import SourceRules, resolve
from shared.model import Batch, BatchState, Control, Correction, Image, ImageState, Refusal
from shared.ports import BatchStore, ObjectStore

_AT_ONCE: Final = 50  # photos looked up at once: 10,000 one by one would exceed the time-out of ingest's function
_FROM_FAILED_CSV: Final = "what the batch's own failed.csv had"

# Refusals that will not pass within the day in which a drop's event is redelivered, with what is allowed instead.
_FOR_LONG: Final[Mapping[Refusal | None, str]] = {
    Refusal.PAUSED: "a batch that is not paused",
    Refusal.EXPIRING: "a batch whose documents are kept for 30 more days",
}


class Retries:
    """Gives the failed images listed in an uploaded failed.csv a new round in their own batch. INGEST uses it.

    Rows of images that have completed since are ignored. A row's corrections (address, room, style) are written
    together with the requeue. A retry that crashes therefore corrects no image twice and forgets none.
    """

    def __init__(self, store: BatchStore, objects: ObjectStore, replay: Replay) -> None:
        self._store = store
        self._objects = objects
        self._replay = replay

    async def take(self, drop: str, found: Manifest) -> Batch:
        """Give the failed images of `found` a new round; return the batch. `drop` identifies this upload.

        Raises `ManifestRejected` when they cannot be retried, and `Busy` when they can be, but not right now.
        """
        batch = await self._store.batch(found.batch)
        if batch is None or batch.state is BatchState.REJECTED:
            problem = Problem("names no batch of this client", field="batchId", value=found.batch_id,
                              allowed=_FROM_FAILED_CSV)  # fmt: skip
            raise ManifestRejected([problem])
        under_way = _is_under_way(batch, drop)
        if drop in batch.retried and not under_way:
            return batch
        corrections = await self._corrections(batch, found)
        if not corrections and not under_way:  # a retry in progress must be ended even if it has requeued everything
            return batch
        try:
            await self._replay.run(batch.id, wanted=corrections, drop=drop)
        except Busy as busy:
            if busy.refusal in _FOR_LONG or batch.control is Control.CANCELLING:
                allowed = _FOR_LONG.get(busy.refusal, "a batch that is not cancelled")
                problem = Problem(str(busy), field="batchId", value=found.batch_id, allowed=allowed)
                raise ManifestRejected([problem]) from None
            raise
        return await self._store.batch(batch.id) or batch

    async def _corrections(self, batch: Batch, found: Manifest) -> Mapping[int, Correction]:
        """Return the correction for each listed image that has failed, by index. Raises `ManifestRejected`."""
        wanted = {image.index: image for image in found.images if image.index is not None}
        problems = [
            Problem("is no image of the batch", field="index", value=str(index), allowed=f"0 to {batch.total - 1}")
            for index in wanted
            if index >= batch.total
        ]
        corrections: dict[int, Correction] = {}
        failed: list[tuple[ManifestImage, Image]] = []
        async for image in self._store.images(batch.id, ImageState.FAILED):
            listed = wanted.get(image.index)
            if listed is None:
                continue
            if listed.unchecked is not None and listed.source != image.source:
                problems.append(Problem(listed.unchecked, field="url", value=listed.source, allowed=_FROM_FAILED_CSV))
                continue
            failed.append((listed, image))
        if problems:
            raise ManifestRejected(problems)
        for start in range(0, len(failed), _AT_ONCE):
            some = failed[start : start + _AT_ONCE]
            sources = await asyncio.gather(*(self._source(listed, image, batch) for listed, image in some))
            for (listed, image), source in zip(some, sources, strict=True):
                corrections[image.index] = _correction(listed, source)
        return corrections

    async def _source(self, listed: ManifestImage, image: Image, batch: Batch) -> str:
        """Return the corrected address of the photo.

        A relative path is looked for beside failed.csv, then where the batch's own paths begin. failed.csv lies in a
        folder of reports, so a corrected path is usually meant as in the manifest. A path that was not corrected is
        tried at its own place first, because another photo of that name may lie beside failed.csv.
        """
        if listed.path is None or not batch.manifest.base or listed.source == image.source:
            return listed.source
        own = resolve(listed.path, SourceRules(base=batch.manifest.base))
        if own == image.source and await self._is_there(own):
            return own
        return listed.source if await self._is_there(listed.source) else own

    async def _is_there(self, source: str) -> bool:
        if source.startswith("file:"):
            try:
                return Path(unquote(urlsplit(source).path)).is_file()
            except (OSError, ValueError):  # the name is too long, or the folder may not be entered
                return False
        bucket, _, name = source.removeprefix("gs://").partition("/")
        return await self._objects.stat(bucket, name) is not None


def _is_under_way(batch: Batch, drop: str) -> bool:
    return batch.state is BatchState.REOPENING and batch.replay is not None and batch.replay.drop == drop


def _correction(listed: ManifestImage, source: str) -> Correction:
    return Correction(
        source=source,
        room_type=listed.room_type,
        design_style=listed.design_style,
        property_code=listed.property_code,
    )
