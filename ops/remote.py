"""Commands that work on batches wherever they are: submit, status, watch, results, batches."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from ops.target import Target
from shared import closing, forecast, names
from shared.manifest import Manifest
from shared.model import Batch, BatchState, Counts

UPLOADS_AT_ONCE: Final = 8
WATCH_SECONDS: Final = 1.0  # between two looks; a look costs two reads
APPEAR_SECONDS: Final = 120.0  # after a submit, until ingest has made the batch: its instance may have to start


class NoBatch(Exception):
    """There is no such batch; the text names those there are."""


async def submit(
    target: Target, path: Path, content: bytes, found: Manifest, progress: Callable[[int, int], None]
) -> str:
    """Upload the local photos a manifest names, then the manifest itself; the batch's id.

    Everything lies in a folder named by the content, so that two manifests that name `1.jpg` do not meet. A photo that
    does not exist is left out: its image fails with its own error, the others are staged.
    """
    folder = f"manifests/{found.client}/{hashlib.sha256(content).hexdigest()[:16]}/"
    base = path.parent.resolve()
    local = [Path(unquote(urlsplit(image.source).path)) for image in found.images if image.source.startswith("file:")]
    photos = [photo for photo in dict.fromkeys(local) if photo.is_file()]
    bucket, objects = target.settings.buckets.intake, target.backend.objects
    slots, done = asyncio.Semaphore(UPLOADS_AT_ONCE), 0

    async def upload(photo: Path) -> None:
        nonlocal done
        async with slots:
            name = folder + photo.relative_to(base).as_posix()
            if await objects.stat(bucket, name) is None:  # a submit that was interrupted goes on
                await objects.put(bucket, name, photo.read_bytes(), content_type="application/octet-stream")
        done += 1
        progress(done, len(photos))

    await asyncio.gather(*(upload(photo) for photo in photos))
    await objects.put(bucket, folder + path.name, content, content_type="application/octet-stream")
    return found.batch


async def batch_of(target: Target, batch_id: str) -> Batch:
    """The batch. Raises `NoBatch`."""
    batch = await target.backend.store.batch(batch_id)
    if batch is None:
        known = ", ".join(known.id for known in (await target.backend.store.batches())[:20]) or "none"
        raise NoBatch(f"there is no batch {batch_id} in {target.where} (there are: {known})")
    return batch


async def status(target: Target, batch_id: str) -> dict[str, Any]:
    """The batch's status as status.json has it."""
    batch = await batch_of(target, batch_id)
    counts, now = await target.backend.store.counts(batch_id), target.clock.now()
    known = await target.backend.objects.stat(target.settings.buckets.results, names.status_name(batch))
    capacity = await forecast.capacity_now(target.backend.store, target.settings, now, with_slots=False)
    return closing.status_of(batch, counts, now, closing.known_speed(known), capacity)


async def batches(target: Target) -> list[dict[str, Any]]:
    """Every batch's status, newest first."""
    store = target.backend.store
    return [
        closing.status_of(batch, await store.counts(batch.id), target.clock.now()) for batch in await store.batches()
    ]


async def watch(target: Target, batch_id: str, show: Callable[[Batch, Counts], None]) -> tuple[Batch, Counts]:
    """Show progress until the batch is closed and announced, or rejected. A batch just submitted may appear late."""
    appear_by = target.clock.monotonic() + APPEAR_SECONDS
    while True:
        batch = await target.backend.store.batch(batch_id)
        if batch is None and target.clock.monotonic() > appear_by:
            await batch_of(target, batch_id)
        if batch is not None:
            counts = await target.backend.store.counts(batch_id)
            show(batch, counts)
            if batch.state is BatchState.REJECTED or (
                batch.state is BatchState.CLOSED and batch.announced_round >= batch.round
            ):
                return batch, counts
        await target.clock.sleep(WATCH_SECONDS)


async def fetch_results(target: Target, batch_id: str, out: Path, progress: Callable[[int], None]) -> Path:
    """Copy a batch's results below `out`; the folder they are in. Files that are there already are fetched anew."""
    batch = await batch_of(target, batch_id)
    folder, done = names.results_folder(batch), 0
    bucket, objects = target.settings.buckets.results, target.backend.objects
    async for stored in objects.list(bucket, folder):
        got = await objects.get(bucket, stored.name)
        if got is None:
            continue  # deleted meanwhile
        path = out / stored.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(got[1])
        part.replace(path)
        done += 1
        progress(done)
    return out / folder
