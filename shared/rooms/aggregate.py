"""AGGREGATE: changes of images come in; exact counts, progress and, with the last image, the batch's closing go out.

Changes may arrive twice, late and out of order. Only the highest revision of an image counts.
"""

from __future__ import annotations

from shared import decisions
from shared.lifecycle import closing
from shared.lifecycle.commands import Operator
from shared.messages import ImageChanged
from shared.model import Batch, Control, Counts, FailureThreshold, Tally
from shared.ports import BatchStore, Clock
from shared.settings import Settings


class Aggregate:
    """Counts changes of images, refreshes progress, and closes a batch or pauses it when too many images fail."""

    def __init__(
        self,
        store: BatchStore,
        closer: closing.Closer,
        operator: Operator,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._store = store
        self._operator = operator
        self._closer = closer
        self._clock = clock
        self._settings = settings
        self._refreshed: dict[str, float] = {}  # by batch: when this process last refreshed its progress

    async def handle(self, change: ImageChanged) -> None:
        """Fold in one change. If this raises, the event has to be redelivered."""
        if change.before is change.state:
            return
        folded = await self._store.change_tally(
            change.batch,
            change.shard,
            lambda tally: decisions.batch.fold(tally, index=change.index, revision=change.revision, state=change.state),
            self._clock.token(),
        )
        # A repeated event changes no count, but its first delivery may have crashed before the closing check.
        tally = folded if isinstance(folded, Tally) else await self._store.tally(change.batch, change.shard)
        if tally is not None and tally.counts.open == 0:
            await self._closer.check(change.batch)
        await self._show_progress(change.batch)

    async def _show_progress(self, batch_id: str) -> None:
        """Refresh status.json, at most every few seconds per process.

        Summing the shards on every event would be too expensive.
        """
        now = self._clock.monotonic()
        every = self._settings.worker.progress_seconds
        if now - self._refreshed.get(batch_id, -every) < every:
            return
        self._refreshed = {name: at for name, at in self._refreshed.items() if now - at < every}
        self._refreshed[batch_id] = now
        shown = await self._closer.show_progress(batch_id)
        if shown is not None:
            await self._pause_if_failing(*shown)

    async def _pause_if_failing(self, batch: Batch, counts: Counts) -> None:
        """Pause a batch when too many of its images fail, instead of paying for the rest.

        Typical causes are a wrong folder or expired links.
        """
        rules = self._settings.threshold
        threshold = batch.threshold or FailureThreshold(count=rules.count or None, percent=rules.percent or None)
        passed = decisions.batch.threshold_passed(threshold, rules.minimum_sample, batch.baseline, counts)
        if batch.control is Control.RUN and passed:
            failed = counts.failed - batch.baseline.failed
            settled = counts.settled - batch.baseline.settled
            await self._operator.pause(batch.id, f"{failed} of {settled} images failed", seen=batch)
