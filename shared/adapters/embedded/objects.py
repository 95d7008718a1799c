"""The ObjectStore as a directory: plain files that people can open, with generations and metadata in SQLite.

A write replaces the file and commits its row under the database's write lock. A crash between the two leaves the new
bytes under the old generation. The process that takes over the work repeats the write, with the same or a higher fence,
so no reader is misled for longer than that.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from shared.adapters.embedded.database import Database
from shared.errors import ObjectTooLarge, PreconditionFailed
from shared.ports import Clock, StoredObject

_COLUMNS = "bucket, name, generation, bytes, metadata, updated_at"


def _object(row: tuple[str, str, int, int, str, float]) -> StoredObject:
    bucket, name, generation, size, metadata, updated_at = row
    return StoredObject(bucket, name, generation, size, json.loads(metadata), updated_at)


def _checked(name: str) -> str:
    """Return the name. Raise `ValueError` for one that would leave the bucket's folder.

    Our own names never do; a bug's might.
    """
    if not name or name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"not an object name: {name!r}")
    return name


class EmbeddedObjects:
    """The `shared.ports.ObjectStore` of one machine.

    `folders` maps each bucket to its directory; None keeps the objects in memory.
    """

    def __init__(self, database: Database, clock: Clock, folders: Mapping[str, Path] | None) -> None:
        self._database = database
        self._clock = clock
        self._folders = folders

    def _path(self, bucket: str, name: str) -> Path | None:
        name = _checked(name)
        return None if self._folders is None else self._folders[bucket] / name

    async def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        if_generation: int | None = None,
    ) -> StoredObject:
        path = self._path(bucket, name)
        kept = json.dumps(dict(metadata or {}))
        temporary = None
        if path is not None:
            temporary = path.with_name(f".{self._clock.token()[:24]}.part")  # a name of its own for each writer
            self._write(temporary, data)

        def work(connection: sqlite3.Connection) -> StoredObject:
            now_there = self._row(connection, bucket, name)
            if if_generation is not None and if_generation != (now_there.generation if now_there else 0):
                raise PreconditionFailed(f"{bucket}/{name} is not at generation {if_generation}")
            generation = connection.execute("UPDATE generations SET last = last + 1 RETURNING last").fetchone()[0]
            row = (bucket, name, generation, len(data), kept, self._clock.now())
            content = data if path is None else None
            connection.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, content_type, content)
            )
            if path is not None and temporary is not None:
                temporary.replace(path)
            return _object(row)

        try:
            return await self._database.write("object write", work)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file. Its folder usually exists, so it is created only if the first try fails."""
        try:
            path.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def _row(self, connection: sqlite3.Connection, bucket: str, name: str) -> StoredObject | None:
        """Return the object's row. None also if a person has deleted its file."""
        query = f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND name = ?"
        row = connection.execute(query, (bucket, name)).fetchone()
        if row is None:
            return None
        path = self._path(bucket, name)
        # The file decides: a person may have deleted it.
        return _object(row) if path is None or path.is_file() else None

    async def stat(self, bucket: str, name: str) -> StoredObject | None:
        return await self._database.read("object read", lambda connection: self._row(connection, bucket, name))

    async def get(self, bucket: str, name: str, max_bytes: int | None = None) -> tuple[StoredObject, bytes] | None:
        def work(connection: sqlite3.Connection) -> tuple[StoredObject, bytes] | None:
            found = self._row(connection, bucket, name)
            if found is None:
                return None
            path = self._path(bucket, name)
            size = found.bytes if path is None else path.stat().st_size  # a person may have replaced the file
            if max_bytes is not None and size > max_bytes:
                raise ObjectTooLarge(f"{bucket}/{name} has {size} bytes")
            if path is not None:
                return found, path.read_bytes()
            query = "SELECT content FROM objects WHERE bucket = ? AND name = ?"
            return found, connection.execute(query, (bucket, name)).fetchone()[0]

        return await self._database.read("object read", work)

    async def list(self, bucket: str, prefix: str) -> AsyncIterator[StoredObject]:
        # Not LIKE: "_" and "%" are ordinary characters in names.
        query = (
            f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND name >= ? AND substr(name, 1, ?) = ? ORDER BY name"
        )
        values = (bucket, prefix, len(prefix), prefix)
        rows = await self._database.read("object list", lambda c: c.execute(query, values).fetchall())
        for row in rows:
            path = self._path(bucket, row[1])
            if path is None or path.is_file():
                yield _object(row)

    async def delete(self, bucket: str, name: str) -> None:
        path = self._path(bucket, name)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
            if path is not None:
                path.unlink(missing_ok=True)

        await self._database.write("object delete", work)

    async def link(self, bucket: str, name: str, seconds: float) -> str:
        return self.uri(bucket, name)

    def uri(self, bucket: str, name: str) -> str:
        path = self._path(bucket, name)
        return f"memory://{bucket}/{name}" if path is None else path.resolve().as_uri()
