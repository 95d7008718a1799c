"""AGGREGATE: an image's change enters; exact counts, progress and, with the last image, the batch's closing leave.

Changes may come twice, late and out of order; the revision folded in last decides.
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
    """See the module."""

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
        self._refreshed: dict[str, float] = {}  # batch to when its progress was last shown by this process

    async def handle(self, change: ImageChanged) -> None:
        """Fold one change in. Raising means: bring it again."""
        if change.before is change.state:
            return
        folded = await self._store.change_tally(
            change.batch,
            change.shard,
            lambda tally: decisions.batch.fold(tally, index=change.index, revision=change.revision, state=change.state),
            self._clock.token(),
        )
        # A repeated event changes nothing, yet its first delivery may have died before the closing check.
        tally = folded if isinstance(folded, Tally) else await self._store.tally(change.batch, change.shard)
        if tally is not None and tally.counts.open == 0:
            await self._closer.check(change.batch)
        await self._show_progress(change.batch)

    async def _show_progress(self, batch_id: str) -> None:
        """Refresh status.json, at most every few seconds per process: a sum per event would be expensive."""
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
        """Pause a batch when too many of its images fail (wrong folder, expired links): do not pay for the rest."""
        rules = self._settings.threshold
        threshold = batch.threshold or FailureThreshold(count=rules.count or None, percent=rules.percent or None)
        passed = decisions.batch.threshold_passed(threshold, rules.minimum_sample, batch.baseline, counts)
        if batch.control is Control.RUN and passed:
            failed = counts.failed - batch.baseline.failed
            settled = counts.settled - batch.baseline.settled
            await self._operator.pause(batch.id, f"{failed} of {settled} images failed", seen=batch)
