"""AGGREGATE: an image's change enters; exact counts, progress and, with the last image, the batch's closing leave.

Changes may come twice, late and out of order; the revision folded in last decides.
"""

from __future__ import annotations

from shared import closing
from shared.messages import ImageChanged
from shared.model import BatchState, Tally
from shared.ports import BatchStore, Clock, ObjectStore
from shared.settings import Settings


class Aggregate:
    """See the module."""

    def __init__(
        self, store: BatchStore, objects: ObjectStore, closer: closing.Closer, clock: Clock, settings: Settings
    ) -> None:
        self._store = store
        self._objects = objects
        self._closer = closer
        self._clock = clock
        self._settings = settings
        self._refreshed: dict[str, float] = {}  # batch to when its progress was last shown by this process

    async def handle(self, change: ImageChanged) -> None:
        """Fold one change in. Raising means: bring it again."""
        if change.before is change.state:
            return
        folded = await self._store.change_tally(
            change.batch,
            change.shard,
            lambda tally: closing.fold(tally, index=change.index, revision=change.revision, state=change.state),
            self._clock.token(),
        )
        # A repeated event changes nothing, yet its first delivery may have died before the closing check.
        tally = folded if isinstance(folded, Tally) else await self._store.tally(change.batch, change.shard)
        if tally is not None and tally.counts.open == 0:
            await self._closer.check(change.batch)
        await self._show_progress(change.batch)

    async def _show_progress(self, batch_id: str) -> None:
        """Refresh status.json, at most every few seconds per process: a sum per event would be dear."""
        now = self._clock.monotonic()
        every = self._settings.worker.progress_seconds
        if now - self._refreshed.get(batch_id, -every) < every:
            return
        self._refreshed = {name: at for name, at in self._refreshed.items() if now - at < every}
        self._refreshed[batch_id] = now
        batch = await self._store.batch(batch_id)
        if batch is not None and batch.state is not BatchState.CLOSED:
            counts = await self._store.counts(batch_id)
            await closing.write_status(self._objects, self._settings.buckets.results, batch, counts, self._clock.now())
