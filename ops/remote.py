"""Submit, follow and fetch batches, wherever they are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from ops import batch_lookup, errors, photos
from ops.target import Target
from shared.manifest.model import Manifest
from shared.manifest.sources import SourceRules
from shared.model import Batch, BatchState, Counts
from shared.results import names

UPLOADS_AT_ONCE: Final = 8
WATCH_SECONDS: Final = 1.0  # between two checks of a batch; a check costs two reads
APPEAR_SECONDS: Final = 120.0  # max wait after a submit until the batch exists: ingest's instance may have to start
REJECTED_EVERY_SECONDS: Final = 5.0  # while no batch appears: between two checks whether its manifest was rejected
NO_BATCH_SECONDS: Final = 3.0  # without a batch, before the command says that there is none yet

NoBatch = errors.NoBatch
batch_of = batch_lookup.batch_of


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that a submit creates or gives a new round: one later than `round`. `uri` is its manifest's address."""

    round: int = 0
    uri: str | None = None


def submit_rules(target: Target, manifest: Path, client: str | None = None) -> SourceRules:
    """Return the rules for a manifest sent to this target: the web, files beside it, its client's own objects there.

    Without a client, any client's objects are allowed: this reading finds out which client it is.
    """
    buckets = target.settings.buckets
    folders = [
        f"gs://{buckets.intake}/manifests/{client or ''}",
        *([f"gs://{buckets.source}/{client or ''}"] if buckets.source else []),
    ]
    return SourceRules(
        base=manifest.parent.resolve().as_uri().rstrip("/") + "/",
        allow_http=target.settings.download.allow_http,
        gs_prefixes=tuple(folder.rstrip("/") + "/" for folder in folders),
    )


def manifest_name(found: Manifest, path: Path, content: bytes) -> str:
    """Return the object name of a submitted manifest. The content names the folder, so two `1.jpg` never collide."""
    return f"manifests/{found.client}/{hashlib.sha256(content).hexdigest()[:16]}/{path.name}"


async def submit(
    target: Target, path: Path, content: bytes, found: Manifest, progress: Callable[[int, int], None]
) -> str:
    """Upload the local photos a manifest names, then the manifest itself. Returns the batch's id.

    A photo that does not exist is left out: its image fails with its own error, and the others are staged.
    """
    name = manifest_name(found, path, content)
    folder = name.rpartition("/")[0] + "/"
    base = path.parent.resolve()
    local = [photo for image in found.images if (photo := photos.local_path(image.source)) is not None]
    there = [photo for photo in dict.fromkeys(local) if photo.is_file()]
    bucket, objects = target.settings.buckets.intake, target.backend.objects
    slots, done = asyncio.Semaphore(UPLOADS_AT_ONCE), 0

    async def upload(photo: Path) -> None:
        nonlocal done
        async with slots:
            photo_name = folder + photo.relative_to(base).as_posix()
            if await objects.stat(bucket, photo_name) is None:  # an interrupted submit continues
                await objects.put(bucket, photo_name, photo.read_bytes(), content_type="application/octet-stream")
        done += 1
        progress(done, len(there))

    await asyncio.gather(*(upload(photo) for photo in there))
    await objects.put(bucket, name, content, content_type="application/octet-stream")
    return found.batch


async def watch(
    target: Target,
    batch_id: str,
    show: Callable[[Batch, Counts], None],
    *,
    awaited: Awaited | None = None,
    look: Callable[[Batch, Counts], Awaitable[bool]] | None = None,
    not_yet: Callable[[], Awaitable[None]] | None = None,
) -> tuple[Batch, Counts]:
    """Show progress until the batch is closed and announced, or rejected. A batch just submitted may appear late.

    `look` ends the watching earlier by returning True. `not_yet` is called once if there is no batch after
    `NO_BATCH_SECONDS`.
    """
    started, looked_at, told = target.clock.monotonic(), 0.0, False
    after_round = awaited.round if awaited else 0
    while True:
        batch = await target.backend.store.batch(batch_id) if batch_lookup.may_be_an_id(batch_id) else None
        if batch is None or batch.round <= after_round:
            waited = target.clock.monotonic() - started
            rejected = None
            if awaited and awaited.uri and waited - looked_at >= REJECTED_EVERY_SECONDS:
                looked_at = waited
                rejected = await _rejected(target, awaited.uri)
            if rejected is not None:
                return rejected, Counts()
            if waited > APPEAR_SECONDS or (target.data is not None and batch is None):
                found = await batch_of(target, batch_id)
                return found, await target.backend.store.counts(batch_id)
            if not told and not_yet is not None and waited >= NO_BATCH_SECONDS:
                told = True
                await not_yet()
        else:
            counts = await target.backend.store.counts(batch_id)
            if batch.state is not BatchState.REJECTED:  # a rejected batch has no images: "0 of 0 finished"
                show(batch, counts)
            done = batch.state is BatchState.CLOSED and batch.announced_round >= batch.round
            if batch.state is BatchState.REJECTED or done or (look is not None and await look(batch, counts)):
                return batch, counts
        await target.clock.sleep(WATCH_SECONDS)


async def _rejected(target: Target, uri: str) -> Batch | None:
    """Return the rejected batch of the manifest with this address, if there is one."""
    known = await target.backend.store.batches()
    return next((b for b in known if b.state is BatchState.REJECTED and b.manifest.uri == uri), None)


async def first_problems(target: Target, batch: Batch) -> tuple[list[str], str] | None:
    """Return a rejected manifest's problems in words, and the address of their file; None when the file is gone."""
    bucket, objects = target.settings.buckets.results, target.backend.objects
    name = names.errors_name(manifest_object(batch))
    got = await objects.get(bucket, name)
    if got is None:
        return None
    from shared.errors import Problem
    from shared.manifest.problems import in_words

    listed = msgspec.json.decode(got[1], type=dict[str, Any]).get("problems", [])
    sentences = [sentence for sentence, _ in in_words(msgspec.convert(listed, list[Problem]))]
    return sentences, objects.uri(bucket, name)


def manifest_object(batch: Batch) -> str:
    """Return the object name of a batch's manifest, taken from its address."""
    from urllib.parse import unquote

    uri = batch.manifest.uri
    start = uri.find("manifests/")
    path = uri[start:] if start >= 0 else uri
    return unquote(path) if uri.startswith("file:") else path


async def fetch_results(target: Target, batch_id: str, out: Path, progress: Callable[[int], None]) -> Path:
    """Copy a batch's results below `out`. Returns their folder. Files that already exist are fetched again."""
    batch = await batch_of(target, batch_id)
    folder, done = names.results_folder(batch), 0
    bucket, objects = target.settings.buckets.results, target.backend.objects
    async for stored in objects.list(bucket, folder):
        got = await objects.get(bucket, stored.name)
        if got is None:
            continue  # deleted since it was listed
        path = out / stored.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(got[1])
        part.replace(path)
        done += 1
        progress(done)
    return out / folder
