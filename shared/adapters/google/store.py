"""The BatchStore on Firestore: every change is a compare-and-set on the document's update time.

No read-write transaction ever touches a shared document: two that first read and then write the same one deadlock for
seconds (docs/cursed-knowledge.md).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from google.api_core import exceptions
from google.cloud.firestore import DELETE_FIELD, AsyncClient, AsyncDocumentReference
from google.cloud.firestore_v1.base_query import FieldFilter

from shared.adapters.google.documents import Fields, changes, from_fields, to_fields
from shared.adapters.google.errors import CALL_SECONDS, DEADLINE_SECONDS, retried
from shared.errors import ErrorCode, WorldError
from shared.model import Batch, Counts, Image, ImageState, Record, Refusal, Tally, Worker
from shared.ports import Clock, Decision

D = TypeVar("D", Batch, Image, Tally)
M = TypeVar("M", Batch, Image, Tally, Worker)
R = TypeVar("R", bound=Record)

PAGE: Final = 500  # images read at once
COMMIT: Final = 500  # documents created in one commit: Firestore's limit
CREATES_PER_SECOND: Final = 500  # Firestore's "500/50/5" rule: a new collection starts at 500 a second
# How many documents this process remembers after writing them; the next change of one needs no read. 5,000 of 2 KB are
# 10 MB.
REMEMBERED: Final = 5000
COLLECTIONS: Final = {
    "Ledger": "quotas",
    "CacheEntry": "cache",
    "TierEmpty": "tiers",
    "HostLedger": "hosts",
    "Reconciled": "reconciled",
}
# A batch outlives its images and tallies. A manifest uploaded again after the batch's deletion must not meet left-over
# images. Firestore usually deletes an expired document within a day.
BATCH_OUTLIVES_SECONDS: Final = 7 * 86_400.0
EXPIRY: Final = "expireTime"  # the timestamp field that Firestore's TTL policies use
_STATES: Final = tuple(state.value for state in ImageState)


def image_id(index: int) -> str:
    """Return the document id of an image: zero-padded, so that ids sort like indexes.

    Sequential ids are a hot spot above 500 writes a second. Ingest creates no more than that, and later writes come in
    the order in which images finish.
    """
    return f"{index:06d}"


class _Known(msgspec.Struct, frozen=True):
    """A document as this process last read or wrote it."""

    fields: Fields
    update_time: Any
    token: str


class FirestoreStore:
    """The `shared.ports.BatchStore` on Firestore.

    Batches, images and tallies expire `kept_seconds` after their creation.
    """

    def __init__(self, client: AsyncClient, clock: Clock, kept_seconds: float) -> None:
        self._client = client
        self._clock = clock
        self._kept_seconds = kept_seconds
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._create_at = 0.0  # when the next images may be created
        self.operations: dict[str, int] = {}  # reads and writes by kind, for the benchmarks

    # --- references

    def _batch_ref(self, batch_id: str) -> AsyncDocumentReference:
        return self._client.collection("batches").document(batch_id)

    def _image_ref(self, batch_id: str, index: int) -> AsyncDocumentReference:
        ref: AsyncDocumentReference = self._batch_ref(batch_id).collection("images").document(image_id(index))
        return ref

    def _tally_ref(self, batch_id: str, shard: int) -> AsyncDocumentReference:
        ref: AsyncDocumentReference = self._batch_ref(batch_id).collection("tallies").document(str(shard))
        return ref

    def _new_fields(self, document: Batch | Image | Tally) -> Fields:
        """Return the fields of a new document with its expiry, which no later write changes."""
        outlives = BATCH_OUTLIVES_SECONDS if isinstance(document, Batch) else 0.0
        expires_at = self._clock.now() + self._kept_seconds + outlives
        return {**to_fields(document), EXPIRY: datetime.fromtimestamp(expires_at, UTC)}

    # --- one document

    def _count(self, kind: str, times: int = 1) -> None:
        self.operations[kind] = self.operations.get(kind, 0) + times

    async def _lost(self, times: int) -> None:
        """Wait after a lost compare-and-set, so that fewer writers collide the next time.

        The wait is random, and longer after each loss.
        """
        await self._clock.sleep(self._clock.random.uniform(0.005, min(1.0, 0.025 * 2.0**times)))

    async def _get(self, kind: type[M], ref: AsyncDocumentReference) -> M | None:
        self._count(f"{kind.__name__.lower()} read")
        snapshot = await retried(ref.path, lambda: ref.get(retry=None, timeout=CALL_SECONDS), self._clock)
        fields = snapshot.to_dict()
        return from_fields(kind, fields) if fields is not None else None

    async def _change(
        self, kind: type[D], ref: AsyncDocumentReference, decide: Decision[D], token: str, seen: D | None = None
    ) -> D | Refusal:
        """Change a document by compare-and-set until it succeeds, the decision refuses, or the deadline passes.

        If `seen` is what this process wrote last, the first try needs no read.
        """
        deadline, lost = self._clock.monotonic() + DEADLINE_SECONDS, 0
        known = self._known.get(ref.path)
        if known is None or seen is None or known.token != seen.token:
            known = None
        while True:
            remembered = known is not None
            if known is None:
                known = await self._read(kind, ref)
                if known is None:
                    return Refusal.MISSING
            before = from_fields(kind, known.fields)
            if before.token == token:
                return before
            decided = decide(before)
            if isinstance(decided, Refusal):
                if not remembered:
                    return decided
                known = None  # the remembered document may be old, so only a fresh read may lead to a refusal
                continue
            after = msgspec.structs.replace(decided, token=token)
            if await self._write(kind, ref, known, after):
                return after
            known = None
            if self._clock.monotonic() > deadline:
                message = f"{ref.path}: lost every compare-and-set for {DEADLINE_SECONDS:g} s"
                raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, message)
            lost += 1
            await self._lost(lost)

    async def _read(self, kind: type[D], ref: AsyncDocumentReference) -> _Known | None:
        self._count(f"{kind.__name__.lower()} read")
        snapshot = await retried(ref.path, lambda: ref.get(retry=None, timeout=CALL_SECONDS), self._clock)
        fields = snapshot.to_dict()
        if fields is None:
            return None
        return _Known(fields, snapshot.update_time, fields.get("token", ""))

    async def _write(self, kind: type[D], ref: AsyncDocumentReference, known: _Known, after: D) -> bool:
        """Compare-and-set. False when the document has changed, or when the reply to our own success was lost."""
        self._count(f"{kind.__name__.lower()} write")
        fields = to_fields(after)
        if EXPIRY in known.fields:
            fields[EXPIRY] = known.fields[EXPIRY]
        update = changes(known.fields, fields, DELETE_FIELD)
        option = self._client.write_option(last_update_time=known.update_time)
        try:
            written = await retried(
                ref.path, lambda: ref.update(update, option=option, retry=None, timeout=CALL_SECONDS), self._clock
            )
        except (exceptions.FailedPrecondition, exceptions.Aborted):
            self._known.pop(ref.path, None)
            return False
        if kind is Image:
            self._remember(ref.path, _Known(fields, written.update_time, after.token))
        return True

    def _remember(self, path: str, known: _Known) -> None:
        self._known[path] = known
        self._known.move_to_end(path)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    # --- batches

    async def create_batch(self, batch: Batch) -> Batch:
        ref, fields = self._batch_ref(batch.id), self._new_fields(batch)
        self._count("batch write")
        try:
            await retried(ref.path, lambda: ref.create(fields, retry=None, timeout=CALL_SECONDS), self._clock)
        except exceptions.AlreadyExists:
            existing = await self.batch(batch.id)
            if existing is not None:
                return existing
        return batch

    async def batch(self, batch_id: str) -> Batch | None:
        return await self._get(Batch, self._batch_ref(batch_id))

    async def batches(self, *, open_only: bool = False) -> list[Batch]:
        collection = self._client.collection("batches")
        # Few batches are open, so they are sorted here: a query that filters and orders would need its own index.
        query = (
            collection.where(filter=FieldFilter("open", "==", True))
            if open_only
            else collection.order_by("createdAt", direction="DESCENDING")
        )

        async def read() -> list[Batch]:
            return [
                from_fields(Batch, snapshot.to_dict() or {})
                async for snapshot in query.stream(retry=None, timeout=CALL_SECONDS)
            ]

        found = await retried("batches", read, self._clock)
        self._count("batch read", len(found))
        return sorted(found, key=lambda batch: -batch.created_at) if open_only else found

    async def change_batch(self, batch_id: str, decide: Decision[Batch], token: str) -> Batch | Refusal:
        return await self._change(Batch, self._batch_ref(batch_id), decide, token)

    # --- tallies

    async def create_tallies(self, tallies: Sequence[Tally]) -> None:
        await self._create_all([(self._tally_ref(t.batch, t.shard), self._new_fields(t)) for t in tallies], "tally")

    async def tally(self, batch_id: str, shard: int) -> Tally | None:
        return await self._get(Tally, self._tally_ref(batch_id, shard))

    async def change_tally(self, batch_id: str, shard: int, decide: Decision[Tally], token: str) -> Tally | Refusal:
        return await self._change(Tally, self._tally_ref(batch_id, shard), decide, token)

    async def open_images(self, batch_id: str) -> tuple[int, int]:
        tallies = self._batch_ref(batch_id).collection("tallies")
        found = await self._aggregate(tallies.sum("open", alias="open").count(alias="shards"))
        return found["open"], found["shards"]

    async def counts(self, batch_id: str) -> Counts:
        query: Any = self._batch_ref(batch_id).collection("tallies")
        for name in _STATES:  # five sums, the maximum of one aggregation
            query = query.sum(f"counts.{name}", alias=name)
        return Counts(**await self._aggregate(query))

    async def _aggregate(self, query: Any) -> dict[str, int]:
        self._count("tally sum")
        rows = await retried("tallies", lambda: query.get(retry=None, timeout=CALL_SECONDS), self._clock)
        # An empty sum returns the float 0.0.
        return {result.alias: int(result.value) for row in rows for result in row}

    # --- images

    async def create_images(self, images: Sequence[Image]) -> None:
        """Create images, at the rate at which a new Firestore collection accepts documents.

        Above it, Firestore slows down.
        """
        now = self._clock.monotonic()
        await self._clock.sleep(max(0.0, self._create_at - now))
        self._create_at = max(now, self._create_at) + len(images) / CREATES_PER_SECOND
        await self._create_all([(self._image_ref(i.batch, i.index), self._new_fields(i)) for i in images], "image")

    async def _create_all(self, documents: list[tuple[AsyncDocumentReference, Fields]], kind: str) -> None:
        """Create the documents that do not exist.

        A commit creates all or nothing, so a refused one is repeated without the existing documents.
        """
        for start in range(0, len(documents), COMMIT):
            chunk = documents[start : start + COMMIT]
            while chunk:
                self._count(f"{kind} create", len(chunk))
                if await self._create(chunk):
                    break
                there = await self._existing([ref for ref, _ in chunk])
                chunk = [(ref, fields) for ref, fields in chunk if ref.path not in there]

    async def _create(self, chunk: list[tuple[AsyncDocumentReference, Fields]]) -> bool:
        async def commit() -> None:
            batch = self._client.batch()
            for ref, fields in chunk:
                batch.create(ref, fields)
            await batch.commit(retry=None, timeout=DEADLINE_SECONDS)

        try:
            await retried(f"create {len(chunk)} documents", commit, self._clock)
        except exceptions.AlreadyExists:
            return False
        return True

    async def _existing(self, refs: list[AsyncDocumentReference]) -> set[str]:
        async def read() -> set[str]:
            found = self._client.get_all(refs, field_paths=["token"], retry=None, timeout=DEADLINE_SECONDS)
            return {snapshot.reference.path async for snapshot in found if snapshot.exists}

        return await retried("look for documents", read, self._clock)

    async def image(self, batch_id: str, index: int) -> Image | None:
        return await self._get(Image, self._image_ref(batch_id, index))

    async def images(self, batch_id: str, state: ImageState | None = None, start: int = 0) -> AsyncIterator[Image]:
        query = self._batch_ref(batch_id).collection("images").order_by("__name__").limit(PAGE)
        if state is not None:
            query = query.where(filter=FieldFilter("state", "==", state.value))
        last: Any = self._image_ref(batch_id, start - 1) if start else None  # it need not exist
        while True:
            page = query.start_after({"__name__": last}) if last is not None else query
            read = partial(page.get, retry=None, timeout=DEADLINE_SECONDS)
            snapshots = await retried("images", read, self._clock)
            self._count("image read", len(snapshots))
            for snapshot in snapshots:
                yield from_fields(Image, snapshot.to_dict())
            if len(snapshots) < PAGE:
                return
            last = snapshots[-1].reference

    async def moved_images(
        self, batch_id: str, states: Collection[ImageState], *, since: float = 0.0, before: float = math.inf
    ) -> AsyncIterator[Image]:
        query = (
            self._batch_ref(batch_id)
            .collection("images")
            .where(filter=FieldFilter("state", "in", [state.value for state in states]))
            .where(filter=FieldFilter("movedAt", ">=", since))
            .where(filter=FieldFilter("movedAt", "<", before))
            .order_by("movedAt")
            .order_by("__name__")
            .limit(PAGE)
        )
        last: Any = None
        while True:
            page = query.start_after(last) if last is not None else query
            read = partial(page.get, retry=None, timeout=DEADLINE_SECONDS)
            snapshots = await retried("moved images", read, self._clock)
            self._count("image read", len(snapshots))
            for snapshot in snapshots:
                yield from_fields(Image, snapshot.to_dict())
            if len(snapshots) < PAGE:
                return
            last = snapshots[-1]

    async def change_image(
        self, batch_id: str, index: int, decide: Decision[Image], token: str, seen: Image | None = None
    ) -> Image | Refusal:
        return await self._change(Image, self._image_ref(batch_id, index), decide, token, seen)

    # --- records

    async def record(self, kind: type[R], key: str) -> R | None:
        self._count(f"{kind.__name__.lower()} read")
        ref = self._record_ref(kind, key)
        snapshot = await retried(ref.path, lambda: ref.get(retry=None, timeout=CALL_SECONDS), self._clock)
        fields = snapshot.to_dict()
        return from_fields(kind, fields) if fields is not None else None

    def _record_ref(self, kind: type[R], key: str) -> AsyncDocumentReference:
        return self._client.collection(COLLECTIONS[kind.__name__]).document(key)

    async def records(self, kind: type[R]) -> list[R]:
        query = self._client.collection(COLLECTIONS[kind.__name__]).order_by("__name__")
        snapshots = await retried("records", lambda: query.get(retry=None, timeout=CALL_SECONDS), self._clock)
        self._count(f"{kind.__name__.lower()} read", len(snapshots))
        return [from_fields(kind, snapshot.to_dict() or {}) for snapshot in snapshots]

    async def change_record(
        self, kind: type[R], key: str, decide: Callable[[R | None, float], R | Refusal], token: str
    ) -> R | Refusal:
        ref = self._record_ref(kind, key)
        deadline, lost = self._clock.monotonic() + DEADLINE_SECONDS, 0
        while self._clock.monotonic() <= deadline:
            self._count(f"{kind.__name__.lower()} read")
            snapshot = await retried(ref.path, lambda: ref.get(retry=None, timeout=CALL_SECONDS), self._clock)
            fields = snapshot.to_dict()
            before = from_fields(kind, fields) if fields is not None else None
            if before is not None and before.token == token:
                return before
            # The server's time of this read, because workers' clocks may differ.
            decided = decide(before, snapshot.read_time.timestamp())
            if isinstance(decided, Refusal):
                return decided
            after = msgspec.structs.replace(decided, token=token)
            known = _Known(fields, snapshot.update_time, "") if fields is not None else None
            if await self._put_record(ref, known, to_fields(after)):
                return after
            lost += 1
            await self._lost(lost)
        raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, f"{ref.path}: lost every compare-and-set")

    async def _put_record(self, ref: AsyncDocumentReference, known: _Known | None, fields: Fields) -> bool:
        """Create or compare-and-set the record. False when another writer was faster."""
        self._count("record write")
        if known is None:
            call = partial(ref.create, fields, retry=None, timeout=CALL_SECONDS)
        else:
            option = self._client.write_option(last_update_time=known.update_time)
            update = changes(known.fields, fields, DELETE_FIELD)
            call = partial(ref.update, update, option=option, retry=None, timeout=CALL_SECONDS)
        try:
            await retried(ref.path, call, self._clock)
        except (exceptions.FailedPrecondition, exceptions.Aborted, exceptions.AlreadyExists):
            return False
        return True

    # --- workers

    async def beat(self, worker: Worker) -> None:
        ref = self._client.collection("workers").document(worker.id)
        self._count("worker write")
        await retried(ref.path, lambda: ref.set(to_fields(worker), retry=None, timeout=CALL_SECONDS), self._clock)

    async def worker(self, worker_id: str) -> Worker | None:
        return await self._get(Worker, self._client.collection("workers").document(worker_id))
