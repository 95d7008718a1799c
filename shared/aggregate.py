"""AGGREGATE: an image's change enters; exact counts, progress and, with the last image, the batch's closing leave.

Changes may come twice, late and out of order; the revision folded in last decides.
"""

from __future__ import annotations

from shared import closing, forecast, names
from shared.forecast import Capacity
from shared.messages import ImageChanged, batch_event
from shared.model import Batch, BatchState, Control, Counts, FailureThreshold, Tally
from shared.operator import Operator, threshold_passed
from shared.ports import BatchStore, Clock, Message, ObjectStore, Queue
from shared.settings import Settings
from shared.topology import EVENTS_TOPIC


class Aggregate:
    """See the module."""

    def __init__(
        self,
        store: BatchStore,
        queue: Queue,
        objects: ObjectStore,
        closer: closing.Closer,
        operator: Operator,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._store = store
        self._queue = queue
        self._objects = objects
        self._operator = operator
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
            now, bucket = self._clock.now(), self._settings.buckets.results
            capacity = await forecast.capacity_now(self._store, self._settings, now, with_slots=False)
            await closing.write_status(self._objects, bucket, batch, counts, now, capacity)
            await self._tell_progress(batch, counts, capacity)
            await self._stop_if_doomed(batch, counts)

    async def _tell_progress(self, batch: Batch, counts: Counts, capacity: Capacity) -> None:
        """One event for each tenth passed, several at once when it goes fast; a repeated one has the same id."""
        tenth = counts.settled * 10 // batch.total if batch.total else 0
        if not batch.progress_announced < tenth < 10:  # the whole is told by batch.completed
            return
        now = self._clock.now()
        status = await self._objects.stat(self._settings.buckets.results, names.status_name(batch))
        data = closing.progress_of(batch, counts, now, closing.known_speed(status), capacity)
        passed = range(batch.progress_announced + 1, tenth + 1)
        events = [batch_event(batch, f"{batch.id}/{batch.round}/progress/{each}", now, data) for each in passed]
        await self._queue.publish(EVENTS_TOPIC, [Message(event.body(), event.attributes()) for event in events])
        await self._store.change_batch(
            batch.id, lambda b: closing.note_progress(b, round_now=batch.round, tenth=tenth), self._clock.token()
        )

    async def _stop_if_doomed(self, batch: Batch, counts: Counts) -> None:
        """Pause a batch of which too many images fail: a wrong folder or expired links, and no use in paying on."""
        rules = self._settings.threshold
        own = FailureThreshold(percent=rules.percent, minimum_sample=rules.minimum_sample) if rules.percent else None
        if batch.control is Control.RUN and threshold_passed(batch.threshold or own, batch.baseline, counts):
            failed = counts.failed - batch.baseline.failed
            settled = counts.settled - batch.baseline.settled
            await self._operator.pause(batch.id, f"{failed} of {settled} images failed")
