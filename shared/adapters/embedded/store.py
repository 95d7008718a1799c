"""The BatchStore on SQLite: each change is read, decided and written in one transaction."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Final, TypeVar

import msgspec

from shared import decisions, messages
from shared.adapters.embedded.database import Database
from shared.adapters.embedded.queue import EmbeddedQueue
from shared.model import Batch, Counts, Document, Image, ImageState, Record, Refusal, Tally, Worker
from shared.ports import Clock, Decision, Message
from shared.topology import CHANGES_TOPIC

D = TypeVar("D", Batch, Image, Tally)
R = TypeVar("R", bound=Record)

PAGE: Final = 500  # images read at once: about 400 KB

_batch = msgspec.json.Decoder(Batch)
_image = msgspec.json.Decoder(Image)
_tally = msgspec.json.Decoder(Tally)
_worker = msgspec.json.Decoder(Worker)
_encode = msgspec.json.Encoder().encode

# SQLite sums the shards, as Firestore does. Decoding every shard made each read cost more as batches grew.
_SUMS: Final = (
    "SELECT " + ", ".join(f"coalesce(sum({state.value}), 0)" for state in ImageState) + " FROM tallies WHERE batch = ?"
)


def _columns(counts: Counts) -> list[int]:
    return [counts.of(state) for state in ImageState]


def _decide(document: D, decide: Decision[D], token: str) -> D | Refusal | None:
    """Return the document to write, a refusal, or None if the last write was this very change."""
    if document.token == token:
        return None
    decided = decide(document)
    return decided if isinstance(decided, Refusal) else msgspec.structs.replace(decided, token=token)


class EmbeddedStore:
    """The `shared.ports.BatchStore` of one machine. An image and its change event are written in one transaction."""

    def __init__(self, database: Database, queue: EmbeddedQueue, clock: Clock) -> None:
        self._clock = clock
        self._database = database
        self._queue = queue

    async def create_batch(self, batch: Batch) -> Batch:
        def work(connection: sqlite3.Connection) -> Batch:
            connection.execute(
                "INSERT OR IGNORE INTO batches VALUES (?, ?, ?)", (batch.id, _encode(batch), batch.created_at)
            )
            return _batch.decode(connection.execute("SELECT doc FROM batches WHERE id = ?", (batch.id,)).fetchone()[0])

        return await self._database.write("batch write", work)

    async def batch(self, batch_id: str) -> Batch | None:
        def work(connection: sqlite3.Connection) -> Batch | None:
            row = connection.execute("SELECT doc FROM batches WHERE id = ?", (batch_id,)).fetchone()
            return _batch.decode(row[0]) if row else None

        return await self._database.read("batch read", work)

    async def batches(self, *, open_only: bool = False) -> list[Batch]:
        def work(connection: sqlite3.Connection) -> list[Batch]:
            rows = connection.execute("SELECT doc FROM batches ORDER BY created_at DESC, id").fetchall()
            found = [_batch.decode(row[0]) for row in rows]
            return [batch for batch in found if batch.is_open] if open_only else found

        return await self._database.read("batch read", work)

    async def change_batch(self, batch_id: str, decide: Decision[Batch], token: str) -> Batch | Refusal:
        def work(connection: sqlite3.Connection) -> Batch | Refusal:
            row = connection.execute("SELECT doc FROM batches WHERE id = ?", (batch_id,)).fetchone()
            if row is None:
                return Refusal.MISSING
            before = _batch.decode(row[0])
            after = _decide(before, decide, token)
            if after is None or isinstance(after, Refusal):
                return before if after is None else after
            connection.execute("UPDATE batches SET doc = ? WHERE id = ?", (_encode(after), batch_id))
            return after

        return await self._database.write("batch write", work)

    async def create_tallies(self, tallies: Sequence[Tally]) -> None:
        rows = [(tally.batch, tally.shard, *_columns(tally.counts), _encode(tally)) for tally in tallies]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO tallies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

        await self._database.write("tally create", work)

    async def tally(self, batch_id: str, shard: int) -> Tally | None:
        def work(connection: sqlite3.Connection) -> Tally | None:
            key = (batch_id, shard)
            row = connection.execute("SELECT doc FROM tallies WHERE batch = ? AND shard = ?", key).fetchone()
            return _tally.decode(row[0]) if row else None

        return await self._database.read("tally read", work)

    async def change_tally(self, batch_id: str, shard: int, decide: Decision[Tally], token: str) -> Tally | Refusal:
        def work(connection: sqlite3.Connection) -> Tally | Refusal:
            key = (batch_id, shard)
            row = connection.execute("SELECT doc FROM tallies WHERE batch = ? AND shard = ?", key).fetchone()
            if row is None:
                return Refusal.MISSING
            before = _tally.decode(row[0])
            after = _decide(before, decide, token)
            if after is None or isinstance(after, Refusal):
                return before if after is None else after
            connection.execute(
                "UPDATE tallies SET queued = ?, processing = ?, completed = ?, failed = ?, cancelled = ?, doc = ?"
                " WHERE batch = ? AND shard = ?",
                (*_columns(after.counts), _encode(after), *key),
            )
            return after

        return await self._database.write("tally write", work)

    async def open_images(self, batch_id: str) -> tuple[int, int]:
        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            query = "SELECT coalesce(sum(queued + processing), 0), count(*) FROM tallies WHERE batch = ?"
            total, shards = connection.execute(query, (batch_id,)).fetchone()
            return total, shards

        return await self._database.read("tally sum", work)

    async def counts(self, batch_id: str) -> Counts:
        def work(connection: sqlite3.Connection) -> Counts:
            row = connection.execute(_SUMS, (batch_id,)).fetchone()
            return Counts(**{state.value: count for state, count in zip(ImageState, row, strict=True)})

        return await self._database.read("tally sum", work)

    async def create_images(self, images: Sequence[Image]) -> None:
        rows = [(image.batch, image.index, image.state.value, _encode(image)) for image in images]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?)", rows)

        await self._database.write("image create", work)

    async def image(self, batch_id: str, index: int) -> Image | None:
        def work(connection: sqlite3.Connection) -> Image | None:
            key = (batch_id, index)
            row = connection.execute("SELECT doc FROM images WHERE batch = ? AND position = ?", key).fetchone()
            return _image.decode(row[0]) if row else None

        return await self._database.read("image read", work)

    async def images(self, batch_id: str, state: ImageState | None = None, start: int = 0) -> AsyncIterator[Image]:
        last = start - 1
        while True:
            page = await self._page(batch_id, state, last)
            for image in page:
                yield image
            if len(page) < PAGE:
                return
            last = page[-1].index

    async def _page(self, batch_id: str, state: ImageState | None, after: int) -> list[Image]:
        query = "SELECT doc FROM images WHERE batch = ? AND position > ?"
        values: tuple[str | int, ...] = (batch_id, after)
        if state is not None:
            query += " AND state = ?"
            values = (*values, state.value)

        def work(connection: sqlite3.Connection) -> list[Image]:
            rows = connection.execute(f"{query} ORDER BY position LIMIT {PAGE}", values).fetchall()
            return [_image.decode(row[0]) for row in rows]

        return await self._database.read("image page", work)

    async def moved_images(
        self, batch_id: str, states: Collection[ImageState], *, since: float = 0.0, before: float = math.inf
    ) -> AsyncIterator[Image]:
        last = (since, -1)
        while True:
            page = await self._moved_page(batch_id, states, last, before)
            for image in page:
                yield image
            if len(page) < PAGE:
                return
            last = (page[-1].moved_at, page[-1].index)

    async def _moved_page(
        self, batch_id: str, states: Collection[ImageState], after: tuple[float, int], before: float
    ) -> list[Image]:
        """Return one page, selected by SQLite's JSON functions.

        A column for `movedAt` would be faster, but would make earlier data folders unreadable.
        """
        moved = "json_extract(CAST(doc AS TEXT), '$.movedAt')"
        query = (
            f"SELECT doc FROM images WHERE batch = ? AND state IN ({', '.join('?' for _ in states)})"
            f" AND ({moved}, position) > (?, ?) AND {moved} < ? ORDER BY {moved}, position LIMIT {PAGE}"
        )
        values = (batch_id, *(state.value for state in states), *after, before)

        def work(connection: sqlite3.Connection) -> list[Image]:
            return [_image.decode(row[0]) for row in connection.execute(query, values).fetchall()]

        return await self._database.read("image page", work)

    async def change_image(
        self, batch_id: str, index: int, decide: Decision[Image], token: str, seen: Image | None = None
    ) -> Image | Refusal:
        def work(connection: sqlite3.Connection) -> Image | Refusal:
            key = (batch_id, index)
            row = connection.execute("SELECT doc FROM images WHERE batch = ? AND position = ?", key).fetchone()
            if row is None:
                return Refusal.MISSING
            before = _image.decode(row[0])
            after = _decide(before, decide, token)
            if after is None or isinstance(after, Refusal):
                return before if after is None else after
            connection.execute(
                "UPDATE images SET state = ?, doc = ? WHERE batch = ? AND position = ?",
                (after.state.value, _encode(after), *key),
            )
            event = messages.encode(messages.changed(before, after))
            self._queue.publish_within(connection, CHANGES_TOPIC, [Message(event)])
            return after

        result = await self._database.write("image write", work)
        self._queue.wake(CHANGES_TOPIC)
        return result

    async def record(self, kind: type[R], key: str) -> R | None:
        def work(connection: sqlite3.Connection) -> R | None:
            query = "SELECT doc FROM records WHERE kind = ? AND key = ?"
            row = connection.execute(query, (kind.__name__, key)).fetchone()
            return msgspec.json.decode(row[0], type=kind) if row else None

        return await self._database.read(f"{kind.__name__.lower()} read", work)

    async def records(self, kind: type[R]) -> list[R]:
        def work(connection: sqlite3.Connection) -> list[R]:
            query = "SELECT doc FROM records WHERE kind = ? ORDER BY key"
            rows = connection.execute(query, (kind.__name__,)).fetchall()
            return [msgspec.json.decode(row[0], type=kind) for row in rows]

        return await self._database.read(f"{kind.__name__.lower()} read", work)

    async def change_record(
        self, kind: type[R], key: str, decide: Callable[[R | None, float], R | Refusal], token: str
    ) -> R | Refusal:
        def work(connection: sqlite3.Connection) -> R | Refusal:
            query = "SELECT doc FROM records WHERE kind = ? AND key = ?"
            row = connection.execute(query, (kind.__name__, key)).fetchone()
            before = msgspec.json.decode(row[0], type=kind) if row else None
            if before is not None and before.token == token:
                return before
            decided = decide(before, self._clock.now())
            if isinstance(decided, Refusal):
                return decided
            after = msgspec.structs.replace(decided, token=token)
            connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind.__name__, key, _encode(after)))
            return after

        return await self._database.write(f"{kind.__name__.lower()} write", work)

    async def beat(self, worker: Worker) -> None:
        await self._put("workers", worker.id, worker)

    async def worker(self, worker_id: str) -> Worker | None:
        def work(connection: sqlite3.Connection) -> Worker | None:
            row = connection.execute("SELECT doc FROM workers WHERE id = ?", (worker_id,)).fetchone()
            return _worker.decode(row[0]) if row else None

        return await self._database.read("worker read", work)

    async def _put(self, table: str, key: str, document: Document) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, _encode(document)))

        await self._database.write(f"{table[:-1]} write", work)

    async def take_over(self) -> None:
        """Declare every earlier worker dead, and end its leases and closer leases.

        For a process that holds the exclusive lock of the data folder. No other process can be alive, so nothing needs
        to wait for a time-out.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM workers")
            connection.execute("UPDATE messages SET due_at = 0, ack_id = NULL WHERE ack_id IS NOT NULL")
            for identity, doc in connection.execute("SELECT id, doc FROM batches").fetchall():
                free = decisions.batch.free_closer(_batch.decode(doc))
                if isinstance(free, Batch):
                    connection.execute("UPDATE batches SET doc = ? WHERE id = ?", (_encode(free), identity))

        await self._database.write("take over", work)
