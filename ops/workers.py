"""Find the workers that are alive, by their heartbeats in the target's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared import decisions
from shared.model import Worker

if TYPE_CHECKING:
    import sqlite3

    from ops.target import Target

MAX_HEARTBEATS: Final = 1000  # Firestore deletes those older than a day; `at` has no index, to keep heartbeats cheap


async def living(target: Target) -> list[Worker]:
    """Return the workers whose heartbeat is fresh, newest first."""
    now = target.clock.now()
    found = await (_embedded(target) if target.embedded is not None else _firestore(target))
    alive = [worker for worker in found if not worker.stopped and decisions.image.heartbeat_is_fresh(worker, now)]
    return sorted(alive, key=lambda worker: -worker.at)


async def _embedded(target: Target) -> list[Worker]:
    import msgspec

    if target.embedded is None:
        return []

    def work(connection: sqlite3.Connection) -> list[Worker]:
        return [msgspec.json.decode(row[0], type=Worker) for row in connection.execute("SELECT doc FROM workers")]

    return await target.embedded.database.read("workers read", work)


async def _firestore(target: Target) -> list[Worker]:
    """Read all heartbeats, with a client of its own: the port can only read single ones."""
    if not target.environ:
        return []
    from shared.adapters.google import clients
    from shared.adapters.google.documents import from_fields
    from shared.adapters.google.errors import CALL_SECONDS, retried

    project = target.settings.google.project or target.environ.get("GOOGLE_CLOUD_PROJECT", "")
    client = clients.firestore_client(project, target.settings.google.database, target.environ)

    async def read() -> list[Worker]:
        query = client.collection("workers").limit(MAX_HEARTBEATS)
        return [from_fields(Worker, snapshot.to_dict() or {}) async for snapshot in query.stream(timeout=CALL_SECONDS)]

    try:
        return await retried("workers", read, target.clock)
    finally:
        client.close()  # type: ignore[no-untyped-call]
