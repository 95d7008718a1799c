"""A round's failed.csv comes back: its images are tried again in their own batch, with what was corrected in it.

Each drop of the file is one retry, also of the same bytes. The event of one drop may come many times: the batch
remembers which drops it has taken, and a retry that was killed is carried on by the same drop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from shared.errors import Busy, ManifestRejected, Problem
from shared.lifecycle.replay import Replay
from shared.manifest.reader import Manifest, ManifestImage
from shared.manifest.sources import SourceRules, resolve
from shared.model import Batch, BatchState, Control, Correction, Image, ImageState, Refusal
from shared.ports import BatchStore, ObjectStore

_AT_ONCE: Final = 50  # photos looked for at once: 10,000 one after another would outlast ingest's function
_FROM_FAILED_CSV: Final = "what the batch's own failed.csv had"

# What does not pass while the event of a drop comes again, for a day; to what is allowed instead.
_FOR_LONG: Final[Mapping[Refusal | None, str]] = {
    Refusal.PAUSED: "a batch that is not paused",
    Refusal.EXPIRING: "a batch whose documents are kept for 30 more days",
}


class Retries:
    """Gives the failed images that a dropped failed.csv lists a new round in their own batch. INGEST uses it.

    Rows of images that have completed meanwhile are left out. What a row corrects (address, room, style) is written
    with the requeue itself, so that a retry interrupted by a kill corrects no image twice and forgets none.
    """

    def __init__(self, store: BatchStore, objects: ObjectStore, replay: Replay) -> None:
        self._store = store
        self._objects = objects
        self._replay = replay

    async def take(self, drop: str, found: Manifest) -> Batch:
        """Give the images of `found` that have failed a new round; return the batch. `drop` names this very object.

        Raises `ManifestRejected` when they cannot be tried again, and `Busy` when they can be, but not right now.
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
        if not corrections and not under_way:  # a retry under way must be ended, also when it has requeued everything
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
        """What is wanted of each listed image that has failed. Raises `ManifestRejected`."""
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
        """The corrected address. A path is looked for beside failed.csv, then where the batch's own paths begin.

        failed.csv is in a folder of reports: who corrects a path there means it as the manifest had it. A path that was
        not corrected is looked for at its own place first: beside failed.csv may lie another photo of that name.
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
            except (OSError, ValueError):  # a name too long, a folder that may not be entered
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
