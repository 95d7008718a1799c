"""Erase a client: find all its data, and delete it. The database's ports delete nothing, so this module does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ops import local, remote, run_notes, words
from ops.errors import CommandError
from shared.model import Batch, BatchState, Control, Reconciled, Refusal
from shared.results import names
from shared.worker import cache
from shared.worker.cache import CacheEntry

if TYPE_CHECKING:
    import sqlite3

    from ops.target import Target


PAGE: Final = 500  # documents deleted in one commit: Firestore's limit


class Plan(msgspec.Struct, frozen=True):
    """What would be erased. `objects` are (bucket, name); `cache` the keys of cache entries."""

    client: str
    batches: int
    images: int
    cache: tuple[str, ...]
    objects: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return (f"{words.count(self.batches, 'batch')} with {words.count(self.images, 'image')}, "
                f"{words.count(len(self.objects), 'file')}, {words.count(len(self.cache), 'cache entry')}")  # fmt: skip

    @property
    def is_empty(self) -> bool:
        """Return whether there is no data of the client."""
        return not (self.batches or self.cache or self.objects)


async def plan(target: Target, client: str, batches: list[Batch]) -> Plan:
    """Find all data of the client. `batches` are all its batches."""
    buckets, objects = target.settings.buckets, target.backend.objects
    entries = [entry for entry in await target.backend.store.records(CacheEntry) if entry.client == client]
    found: set[tuple[str, str]] = {(buckets.work, cache.object_name(entry.key)) for entry in entries}
    prefixes = [(buckets.results, f"results/{client}/"), (buckets.intake, f"manifests/{client}/"),
                (buckets.results, f"manifests/{client}/")]  # fmt: skip
    if buckets.source:
        prefixes.append((buckets.source, f"{client}/"))
    for batch in batches:
        prefixes += [(buckets.work, f"work/{batch.id}/"), (buckets.results, f"closing/{batch.id}/")]
    for bucket, prefix in prefixes:
        async for stored in objects.list(bucket, prefix):
            found.add((bucket, stored.name))
    for batch in batches:  # on one machine the manifests of all clients are in one folder
        name = remote.manifest_object(batch)
        for bucket, each in ((buckets.intake, name), (buckets.results, names.errors_name(name))):
            if await objects.stat(bucket, each) is not None:
                found.add((bucket, each))
    images = sum(batch.total for batch in batches if batch.state is not BatchState.REJECTED)
    return Plan(client, len(batches), images, tuple(entry.key for entry in entries), tuple(sorted(found)))


async def batches_of(target: Target, client: str) -> list[Batch]:
    """Return all batches of a client. Raises `NotFinished` when one of them is open."""
    found = [batch for batch in await target.backend.store.batches() if batch.client == client]
    still = [batch for batch in found if batch.is_open]
    if still:
        raise NotFinished(still)
    return found


async def shut(target: Target, batches: list[Batch]) -> None:
    """Mark the batches as cancelled, so that no replay reopens them. Raises `NotFinished`.

    Without this, a replay could reopen a batch between the check and its erasure, and its images would be staged while
    they are erased.
    """
    still: list[Batch] = []

    def cancelled(batch: Batch) -> Batch | Refusal:
        if batch.is_open:
            still[:] = [batch]
            return Refusal.ILLEGAL
        return msgspec.structs.replace(batch, control=Control.CANCELLING, revision=batch.revision + 1)

    for batch in batches:
        answer = await target.backend.store.change_batch(batch.id, cancelled, target.clock.token())
        if answer is Refusal.ILLEGAL:
            raise NotFinished(still)


async def erase(target: Target, batches: list[Batch], found: Plan) -> None:
    """Delete the data: objects first, documents last, so that an interrupted erasure can be run again."""
    for bucket, name in found.objects:
        await target.backend.objects.delete(bucket, name)
    if target.embedded is not None and target.data is not None:
        await _embedded(target, batches, found)
        _local_files(target.data, batches, found)
    elif target.environ:
        await _firestore(target, batches, found)


async def _embedded(target: Target, batches: list[Batch], found: Plan) -> None:
    if target.embedded is None:
        return

    def work(connection: sqlite3.Connection) -> None:
        for batch in batches:
            connection.execute("DELETE FROM images WHERE batch = ?", (batch.id,))
            connection.execute("DELETE FROM tallies WHERE batch = ?", (batch.id,))
            connection.execute("DELETE FROM records WHERE kind = ? AND key = ?", (Reconciled.__name__, batch.id))
        for key in found.cache:
            connection.execute("DELETE FROM records WHERE kind = ? AND key = ?", (CacheEntry.__name__, key))
        ids = {batch.id for batch in batches}
        for number, data in connection.execute("SELECT id, data FROM messages").fetchall():
            if _batch_of(data) in ids:
                connection.execute("DELETE FROM messages WHERE id = ?", (number,))
        for batch in batches:
            connection.execute("DELETE FROM batches WHERE id = ?", (batch.id,))

    await target.embedded.database.write("erase", work)


def _batch_of(data: bytes) -> str | None:
    """Return the id of the batch that a message is about: a task, a change, an event or a letter."""
    try:
        body: Any = json.loads(data)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    task = body.get("task")
    found = body.get("batch") or body.get("batchId") or (task.get("batch") if isinstance(task, dict) else None)
    return found if isinstance(found, str) else None


def _local_files(data: Path, batches: list[Batch], found: Plan) -> None:
    """Delete the client's lines of events.jsonl, the notes of its runs, and the folders that are now empty."""
    for batch in batches:
        (data / run_notes.RUN_NOTES / f"{batch.id}.json").unlink(missing_ok=True)
    out = run_notes.results_of(data)
    events = out / "events.jsonl"
    if events.is_file():
        kept = [line for line in events.read_bytes().splitlines(keepends=True) if _client_of(line) != found.client]
        part = events.with_name(".events.jsonl.part")
        part.write_bytes(b"".join(kept))
        part.replace(events)
    roots = local.bucket_folders(data, out)
    for bucket, name in found.objects:
        for folder in (roots[bucket] / name).parents:
            if folder == roots[bucket] or not folder.is_dir() or os.listdir(folder):
                break
            folder.rmdir()


def _client_of(line: bytes) -> str | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("client") if isinstance(found, dict) else None


async def _empty(client: Any, collection: Any, target: Target) -> None:
    """Delete every document of a collection. On the emulator, the library's `recursive_delete` deletes none."""
    from shared.adapters.google.errors import retried

    async def page() -> int:
        deletes, found = client.batch(), 0
        async for snapshot in collection.limit(PAGE).stream():
            deletes.delete(snapshot.reference)
            found += 1
        if found:
            await deletes.commit()
        return found

    while await retried(collection.id, page, target.clock):
        pass


async def _firestore(target: Target, batches: list[Batch], found: Plan) -> None:
    from shared.adapters.google import clients
    from shared.adapters.google.errors import retried

    project = target.settings.google.project or target.environ.get("GOOGLE_CLOUD_PROJECT", "")
    client = clients.firestore_client(project, target.settings.google.database, target.environ)
    try:
        for key in found.cache:
            ref = client.collection("cache").document(key)
            await retried(ref.path, ref.delete, target.clock)
        for batch in batches:
            ref = client.collection("batches").document(batch.id)
            for name in ("images", "tallies"):
                await _empty(client, ref.collection(name), target)
            for document in (client.collection("reconciled").document(batch.id), ref):
                await retried(document.path, document.delete, target.clock)
    finally:
        client.close()  # type: ignore[no-untyped-call]


class NotFinished(CommandError):
    """The client has open batches, whose images are still being written. The text says what to do."""

    def __init__(self, still: list[Batch]) -> None:
        over = (BatchState.CLOSED, BatchState.CLOSING)
        to_cancel = [b.id for b in still if b.control is not Control.CANCELLING and b.state not in over]
        if to_cancel:
            them = "it" if len(to_cancel) == 1 else "them"
            text = f"not finished: cancel {them} first, and erase once every image is finished"
        else:
            text = "about to finish: try again in a minute"
        listed = to_cancel or [batch.id for batch in still]
        super().__init__(f"nothing was erased: {words.some(listed)} {words.are(len(listed))} {text}")
