"""Finishes whatever a crash left half done. Safe to run at any time and any number of times.

It first sets the number of workers, so that a long run does not keep them waiting. Then it does the following for every
batch that is not done:

- It continues an interrupted closing, announcement, replay, resume or cancel.
- It folds every image that has moved since its last run into its tally. It never sets a tally, because that could undo
  newer changes.
- It republishes images that have not moved for a long time and whose tier's subscription was seen empty twice since.

Last, it deletes orphaned work objects. It leaves a healthy backlog alone.

The cost of a run depends on what has moved since the last one, not on the number of images. Only a batch that seems
stalled is read completely, once an hour. That also finds images written before `moved_at` existed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import msgspec

from shared import decisions
from shared.errors import RuumError
from shared.lifecycle import closing
from shared.lifecycle.announce import announce_control
from shared.lifecycle.commands import Operator
from shared.lifecycle.fleet import Scaling
from shared.lifecycle.replay import Replay, fold_image
from shared.messages import task_message
from shared.model import (
    OPEN_STATES,
    SETTLED_STATES,
    Batch,
    BatchState,
    Control,
    Image,
    ImageState,
    Reconciled,
    Refusal,
    Tally,
    TierEmpty,
    last_moved,
)
from shared.ports import Backend, Clock
from shared.settings import Settings
from shared.telemetry import LogEvent, bound, tell
from shared.topology import topic_of
from shared.worker.heartbeat import known_holder

log = logging.getLogger(__name__)

PUBLISH_CHUNK: Final = 500
# Each run reads the ten minutes before the last one again. `moved_at` is by the worker's clock, which may differ from
# ours, and a write may take 30 s of retries.
OVERLAP_SECONDS: Final = 600.0
ORPHANS_KEY: Final = "~work-objects"  # key of the record of the last search for orphans; no batch has this id


class Report(msgspec.Struct, rename="camel"):
    """What a run did: the number of batches it looked at, and of the things it continued or repaired.

    `stalled` counts running batches that have not moved for a long time. `instances` is how many workers are wanted
    now.
    """

    batches: int = 0
    closed: int = 0
    replays: int = 0
    folded: int = 0
    published: int = 0
    cancelled: int = 0
    work_objects: int = 0
    stalled: int = 0
    instances: int | None = None


class Reconcile:
    """Continues interrupted work in all open batches. The reconcile function and the operators' command run it."""

    def __init__(
        self,
        parts: Backend,
        closer: closing.Closer,
        operator: Operator,
        replay: Replay,
        scaling: Scaling,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._store = parts.store
        self._queue = parts.queue
        self._objects = parts.objects
        self._closer = closer
        self._operator = operator
        self._replay = replay
        self._scaling = scaling
        self._clock = clock
        self._settings = settings

    async def settle(self) -> int | None:
        """Set the number of workers and do nothing else. Return the number; None without a fleet."""
        return await self._scaling.settle()

    async def run(self) -> Report:
        """Continue everything; return what was done. An error in one batch does not stop the others."""
        report = Report()
        try:
            await self.settle()  # first, so that a run that is cut off later has set the number
        except RuumError as error:
            log.warning("workers not set, tried again after the batches: %s", error)
        for batch in await self._store.batches(open_only=True):
            report.batches += 1
            try:
                await self._carry_on(batch, report)
            except RuumError as error:
                log.warning("reconcile of %s: %s", batch.id, error)
            except Exception:
                log.exception("bug while reconciling %s", batch.id)
        report.work_objects = await self._delete_orphans()
        report.instances = await self.settle()  # again, now that batches were counted and closed
        tell(log, LogEvent.RECONCILED, report=msgspec.to_builtins(report))
        return report

    async def _carry_on(self, batch: Batch, report: Report) -> None:
        """Continue whatever is unfinished in one batch."""
        await announce_control(self._store, self._queue, self._clock, batch)
        if batch.state is BatchState.INGESTING:  # its event is redelivered; if not, someone has to look
            report.stalled += self._tell_if_stalled(batch, 0.0)
            return
        if batch.state is BatchState.REOPENING:
            now = self._clock.now()
            if batch.replay and batch.replay.lease.until <= now and decisions.batch.may_carry_on(batch.replay, "", now):
                await self._replay.run(batch.id, batch.replay.codes)
                report.replays += 1
            return
        if batch.state is BatchState.PROCESSING:
            unmarked = await self._fold_moved(batch, report)
            await self._look_after_queued(batch, report, unmarked)
        await self._closer.check(batch.id)
        if batch.control is not Control.RUN:  # perhaps no further event will refresh its status.json
            await self._closer.show_progress(batch.id, at_once=True)
        after = await self._store.batch(batch.id)
        report.closed += after is not None and not after.is_open

    async def _look_after_queued(self, batch: Batch, report: Report, unmarked: list[Image]) -> None:
        """Cancel the queued images, leave them to a pause, or republish those that seem forgotten."""
        if batch.control is Control.CANCELLING:
            report.cancelled += await self._operator.cancel_queued(batch)
        elif batch.control is Control.RUN and batch.epoch_published < batch.control_epoch:
            report.published += await self._operator.publish_queued(batch)
        elif batch.control is Control.RUN:
            report.published += await self._publish_forgotten(batch, unmarked)

    async def _fold_moved(self, batch: Batch, report: Report) -> list[Image]:
        """Fold every image that has moved since the last run and whose change event has not arrived.

        A batch in which nothing has moved for a long time is read completely. Returns its open images without
        `moved_at`, which cannot be found in any other way.
        """
        now, key = self._clock.now(), batch.id
        known = await self._store.record(Reconciled, key) or Reconciled()
        moved = self._store.moved_images(batch.id, list(ImageState), since=known.at - OVERLAP_SECONDS)
        moved_at = max(known.moved_at, await self._fold_all(batch, moved, report))
        unmarked: list[Image] = []
        rules = self._settings.reconcile
        swept = self._seems_stalled(batch, moved_at) and now - known.swept_at >= rules.stalled_seconds
        if swept:
            everything = self._store.images(batch.id)
            moved_at = max(moved_at, await self._fold_all(batch, everything, report, unmarked))
        note = partial(decisions.batch.note_run, at=now, moved_at=moved_at, swept=swept)
        await self._store.change_record(Reconciled, key, note, self._clock.token())
        report.stalled += self._tell_if_stalled(batch, moved_at)
        return unmarked

    async def _fold_all(
        self, batch: Batch, images: AsyncIterator[Image], report: Report, unmarked: list[Image] | None = None
    ) -> float:
        """Fold these images; return when the latest of them moved.

        Open images without `moved_at` are added to `unmarked`.
        """
        tallies: dict[int, Tally | None] = {}
        moved_at = 0.0
        async for image in images:
            moved_at = max(moved_at, last_moved(image))
            if unmarked is not None and not image.moved_at and image.state in OPEN_STATES:
                unmarked.append(image)
            if image.shard not in tallies:
                tallies[image.shard] = await self._store.tally(batch.id, image.shard)
            tally = tallies[image.shard]
            revision, state = (
                tally.entries.get(image.index, (0, ImageState.QUEUED)) if tally else (image.revision, None)
            )
            if revision < image.revision and state is not image.state:
                result = await fold_image(self._store, image, self._clock)
                report.folded += not isinstance(result, Refusal)
        return moved_at

    def _seems_stalled(self, batch: Batch, moved_at: float) -> bool:
        """Return whether the batch should run, but no image has moved for `stalled_seconds`."""
        still = self._clock.now() - max(batch.created_at, moved_at)
        return batch.control is Control.RUN and still >= self._settings.reconcile.stalled_seconds

    def _tell_if_stalled(self, batch: Batch, moved_at: float) -> bool:
        """Return whether a running batch has been still for so long that someone should look, and log it."""
        if not self._seems_stalled(batch, moved_at):
            return False
        still = self._clock.now() - max(batch.created_at, moved_at)
        with bound(batch=batch.id, client=batch.client, round=batch.round):
            tell(log, LogEvent.BATCH_STALLED, level=logging.ERROR, durationMs=round(still * 1000))
        return True

    async def _publish_forgotten(self, batch: Batch, unmarked: list[Image]) -> int:
        """Republish open images that have not moved for a long time, when nothing waits in their tier.

        Return how many.

        Processing images too. If a worker claims an image from an old delivery while a newer one is acked for a pause,
        and the worker's release then fails, the image has neither a holder nor a message.
        """
        now = self._clock.now()
        emptied = await self._store.record(TierEmpty, batch.tier.value)
        before = decisions.batch.forgotten_before(batch, emptied, now, self._settings.reconcile)
        if before is None:
            return 0
        still = [image async for image in self._store.moved_images(batch.id, sorted(OPEN_STATES), before=before)]
        still += [image for image in unmarked if last_moved(image) < before]
        forgotten = [image for image in still if not await self._in_hand(image)]
        for start in range(0, len(forgotten), PUBLISH_CHUNK):
            chunk = forgotten[start : start + PUBLISH_CHUNK]
            tasks = [task_message(image, batch.control_epoch) for image in chunk]
            await self._queue.publish(topic_of(batch.tier), tasks)
        if forgotten:
            note = partial(decisions.batch.note_republished, now=now)
            await self._store.change_batch(batch.id, note, self._clock.token())
        return len(forgotten)

    async def _in_hand(self, image: Image) -> bool:
        """Return whether a living worker holds the image.

        One read each, for the few that have not moved for long.
        """
        holder = await known_holder(self._store, image)
        return holder is not None and decisions.image.claim_is_alive(image, holder, self._clock.now())

    async def _delete_orphans(self) -> int:
        """Delete work objects older than a day that no image will continue from. Return how many.

        Runs once a day. Work objects of failed images stay for a replay, and each run has to read those images again.
        """
        bucket, age, now = self._settings.buckets.work, self._settings.reconcile.work_object_seconds, self._clock.now()
        known = await self._store.record(Reconciled, ORPHANS_KEY) or Reconciled()
        if now - known.swept_at < age:
            return 0
        oldest, deleted = now - age, 0
        async for stored in self._objects.list(bucket, "work/"):
            if stored.updated_at > oldest:
                continue
            _, batch_id, index, _ = stored.name.split("/", 3)
            image = await self._store.image(batch_id, int(index))
            named = image is not None and image.checkpoint is not None and image.checkpoint.picture == stored.name
            # The checkpoint of a failed image stays, because a replay continues from it.
            if image is None or (image.state in SETTLED_STATES and not (named and image.state is ImageState.FAILED)):
                await self._objects.delete(bucket, stored.name)
                deleted += 1
        note = partial(decisions.batch.note_run, at=now, moved_at=0.0, swept=True)
        await self._store.change_record(Reconciled, ORPHANS_KEY, note, self._clock.token())
        return deleted
