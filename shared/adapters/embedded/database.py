"""The SQLite file behind the store, the queue and the object index.

Calls run inline on the event loop. A commit takes about 20 microseconds, less than handing it to a thread, and virtual
time stays deterministic. WAL with synchronous NORMAL survives the death of the process at any moment; a power cut may
lose the last commits. SQLite itself never waits for another process's write, because that would stop the loop. A busy
database is retried after a sleep.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from shared.errors import ConfigurationError, ErrorCode, WorldError
from shared.ports import Clock

R = TypeVar("R")

# Another process (`status`, a second command) holds the write lock for milliseconds. After 10 s it must be hanging.
BUSY_SECONDS: Final = 10.0

# SQLite's own in-memory file system instead of ":memory:". With ":memory:", each commit that reorders pages walks all
# of them (see docs/cursed-knowledge.md), so an image costs more among 100,000 than among 1,000. A page cache of 16 MB
# bounds the walk.
IN_MEMORY: Final = "file:ruum?vfs=memdb"  # without a leading "/" each connection has its own
IN_MEMORY_PRAGMAS: Final = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = MEMORY; PRAGMA cache_size = -16000"

VERSION: Final = 2  # of the schema below: tallies have a column per state since 2

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, doc BLOB NOT NULL, created_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    batch TEXT NOT NULL, position INTEGER NOT NULL, state TEXT NOT NULL, doc BLOB NOT NULL,
    PRIMARY KEY (batch, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tallies (
    batch TEXT NOT NULL, shard INTEGER NOT NULL, queued INTEGER NOT NULL, processing INTEGER NOT NULL,
    completed INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL, doc BLOB NOT NULL,
    PRIMARY KEY (batch, shard)); -- with rowids: 6 KB are then overwritten where they lie, a tenth cheaper
CREATE TABLE IF NOT EXISTS workers (id TEXT PRIMARY KEY, doc BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, key TEXT NOT NULL, doc BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, subscription TEXT NOT NULL, data BLOB NOT NULL, attributes TEXT NOT NULL,
    published_at REAL NOT NULL, due_at REAL NOT NULL, deliveries INTEGER NOT NULL DEFAULT 0,
    nacks INTEGER NOT NULL DEFAULT 0, ack_id TEXT);
CREATE INDEX IF NOT EXISTS messages_due ON messages (subscription, due_at);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, bytes INTEGER NOT NULL,
    metadata TEXT NOT NULL, updated_at REAL NOT NULL, content_type TEXT NOT NULL, content BLOB,
    PRIMARY KEY (bucket, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generations (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL);
INSERT OR IGNORE INTO generations VALUES (1, 0);
"""


class Database:
    """One SQLite connection. Without a `path` everything stays in memory, for tests and simulation."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self.operations: dict[str, int] = {}  # counted by kind, for the benchmarks' "operations per image"
        self._connection = sqlite3.connect(
            IN_MEMORY if path is None else str(path),
            uri=path is None,
            isolation_level=None,
            timeout=0,
            cached_statements=256,
        )
        if path is None:
            self._connection.executescript(IN_MEMORY_PRAGMAS)
        else:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")  # only while the schema is made
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and version != VERSION:
            self._connection.close()
            raise ConfigurationError(
                f"{path} was created by another version of ruum-batch; choose another --data folder"
            )
        # The version first: a process that opens the file in between sees no tables, or tables and version.
        self._connection.executescript(f"PRAGMA user_version = {VERSION}; {SCHEMA}")
        self._connection.execute("PRAGMA busy_timeout = 0")

    async def write(self, kind: str, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run `work` in one transaction, which is rolled back if it raises.

        Raises `WorldError` when the database stays busy for `BUSY_SECONDS`. `kind` is counted in `operations`.
        """
        self.operations[kind] = self.operations.get(kind, 0) + 1
        await self._begin()
        try:
            result = work(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result

    async def read(self, kind: str, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run `work` without a transaction: in WAL mode readers and writers do not block each other."""
        self.operations[kind] = self.operations.get(kind, 0) + 1
        return work(self._connection)

    async def _begin(self) -> None:
        """Begin a transaction, retrying while another process holds the write lock."""
        deadline = self._clock.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                if self._clock.monotonic() > deadline:
                    message = f"the database {self.path} stays locked by another process"
                    raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, message) from error
                await self._clock.sleep(self._clock.random.uniform(0.002, 0.02))
            else:
                return

    def close(self) -> None:
        """Close the file. SQLite then folds the WAL into it."""
        self._connection.close()
