"""Reconcile: what was left lying about is carried on. Safe to run at any time, as often as one likes.

For every batch that is not done: an interrupted closing, announcement, replay, resume or cancel is carried on; every
image is folded into its tally (never set: a fold cannot undo news); queued images that nothing has touched for long,
whose tier's subscription has been seen empty twice since, are published again. Orphaned work objects are deleted. A
healthy backlog is left alone.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

import msgspec

from shared import claims, closing
from shared.control import announce_control
from shared.errors import RuumError
from shared.fleet import Scaling
from shared.heartbeat import known_holder
from shared.messages import encode, task_for
from shared.model import SETTLED_STATES, Batch, BatchState, Control, Image, ImageState, Refusal, Tally, TierEmpty
from shared.operator import Operator
from shared.ports import BatchStore, Clock, Message, ObjectStore, Queue
from shared.replay import Replay, fold_image, may_carry_on
from shared.settings import Settings
from shared.telemetry import LogEvent, bound, tell
from shared.topology import topic_of

log = logging.getLogger(__name__)

PUBLISH_CHUNK: Final = 500


class Parts(Protocol):
    """The backend reconcile works on."""

    @property
    def store(self) -> BatchStore: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def objects(self) -> ObjectStore: ...


class Report(msgspec.Struct, rename="camel"):
    """What a run did: batches looked at, and what was carried on, folded, published, cancelled and deleted.

    `stalled` batches run and have not moved for long; `instances` is how many workers are wanted now.
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
    """See the module."""

    def __init__(
        self,
        parts: Parts,
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

    async def run(self) -> Report:
        """Carry everything on; what was done. One batch's trouble does not keep the others waiting."""
        report = Report()
        for batch in await self._store.batches(open_only=True):
            report.batches += 1
            try:
                await self._carry_on(batch, report)
            except RuumError as error:
                log.warning("reconcile of %s: %s", batch.id, error)
            except Exception:
                log.exception("bug while reconciling %s", batch.id)
        report.work_objects = await self._delete_orphans()
        report.instances = await self._scaling.settle()
        tell(log, LogEvent.RECONCILED, report=msgspec.to_builtins(report))
        return report

    async def _carry_on(self, batch: Batch, report: Report) -> None:
        await announce_control(self._store, self._queue, self._clock, batch)
        if batch.state is BatchState.INGESTING:  # its event comes again by itself; one that does not, somebody must see
            report.stalled += self._is_stalled(batch, 0.0)
            return
        if batch.state is BatchState.REOPENING:
            now = self._clock.now()
            if batch.replay and batch.replay.lease.until <= now and may_carry_on(batch.replay, "", now):
                await self._replay.run(batch.id, batch.replay.codes)
                report.replays += 1
            return
        if batch.state is BatchState.PROCESSING:
            folded, moved_at = await self._fold_all(batch)
            report.folded += folded
            report.stalled += self._is_stalled(batch, moved_at)
            await self._look_after_queued(batch, report)
        await self._closer.check(batch.id)
        if batch.control is not Control.RUN:  # no event may come that would show how it stands
            await self._closer.show_progress(batch.id, at_once=True)
        after = await self._store.batch(batch.id)
        report.closed += after is not None and not after.is_open

    async def _look_after_queued(self, batch: Batch, report: Report) -> None:
        """What becomes of queued images: cancelled, left to a pause, or published again if they seem forgotten."""
        if batch.control is Control.CANCELLING:
            report.cancelled += await self._operator.cancel_queued(batch)
        elif batch.control is Control.RUN and batch.epoch_published < batch.control_epoch:
            report.published += await self._operator.publish_queued(batch)
        elif batch.control is Control.RUN:
            report.published += await self._publish_forgotten(batch)

    def _is_stalled(self, batch: Batch, moved_at: float) -> bool:
        """Whether a running batch has not moved for so long that somebody should look; said so in the log."""
        still = self._clock.now() - max(batch.created_at, moved_at)
        if batch.control is not Control.RUN or still < self._settings.reconcile.stalled_seconds:
            return False
        with bound(batch=batch.id, client=batch.client, round=batch.round):
            tell(log, LogEvent.BATCH_STALLED, level=logging.ERROR, durationMs=round(still * 1000))
        return True

    async def _fold_all(self, batch: Batch) -> tuple[int, float]:
        """Fold every image whose news has not arrived; (how many, when an image of the batch last moved)."""
        tallies: dict[int, Tally | None] = {}
        folded, moved_at = 0, 0.0
        async for image in self._store.images(batch.id):
            claimed = image.claim.at if image.claim else 0.0
            moved_at = max(moved_at, claimed, image.touched_at, image.settled_at or 0.0)
            if image.shard not in tallies:
                tallies[image.shard] = await self._store.tally(batch.id, image.shard)
            tally = tallies[image.shard]
            revision, state = (
                tally.entries.get(image.index, (0, ImageState.QUEUED)) if tally else (image.revision, None)
            )
            if revision < image.revision and state is not image.state:
                result = await fold_image(self._store, image, self._clock)
                folded += not isinstance(result, Refusal)
        return folded, moved_at

    async def _publish_forgotten(self, batch: Batch) -> int:
        """Publish again the images nothing has touched for long, when their tier's subscription is empty.

        A pull does not show messages that are leased or backing off, so one empty look is not enough: workers note
        when they found a tier empty, and twice since the image was last touched is the rule.

        Not the queued ones alone: a worker that claimed an image from an old delivery, while a newer one was acked for
        a pause, and whose release then failed, leaves an image in nobody's hand without a message.
        """
        rules, now = self._settings.reconcile, self._clock.now()
        emptied = await self._store.record(TierEmpty, batch.tier.value)
        if emptied is None or len(emptied.seen_at) < 2 or now - batch.republished_at < rules.every_seconds:
            return 0
        forgotten: list[Image] = []
        for state in (ImageState.QUEUED, ImageState.PROCESSING):
            async for image in self._store.images(batch.id, state):
                touched = max(image.touched_at, image.created_at, image.claim.at if image.claim else 0.0)
                long_ago = now - touched >= rules.untouched_seconds and emptied.seen_at[0] > touched
                if long_ago and not await self._in_hand(image):
                    forgotten.append(image)
        for start in range(0, len(forgotten), PUBLISH_CHUNK):
            chunk = forgotten[start : start + PUBLISH_CHUNK]
            tasks = [Message(encode(task_for(image, batch.control_epoch)), {"client": batch.client}) for image in chunk]
            await self._queue.publish(topic_of(batch.tier), tasks)
        if forgotten:
            await self._store.change_batch(
                batch.id,
                lambda b: msgspec.structs.replace(b, republished_at=now, revision=b.revision + 1),
                self._clock.token(),
            )
        return len(forgotten)

    async def _in_hand(self, image: Image) -> bool:
        """Whether a living worker works on it: one look at its heartbeat, for the few that have not moved for long."""
        holder = await known_holder(self._store, image)
        return holder is not None and claims.claim_is_alive(image, holder, self._clock.now())

    async def _delete_orphans(self) -> int:
        """Delete work objects older than a day that no image goes on from; how many."""
        bucket, oldest = self._settings.buckets.work, self._clock.now() - self._settings.reconcile.work_object_seconds
        deleted = 0
        async for stored in self._objects.list(bucket, "work/"):
            if stored.updated_at > oldest:
                continue
            _, batch_id, index, _ = stored.name.split("/", 3)
            image = await self._store.image(batch_id, int(index))
            named = image is not None and image.checkpoint is not None and image.checkpoint.picture == stored.name
            # A failed image's checkpoint stays: it is what a replay goes on from.
            if image is None or (image.state in SETTLED_STATES and not (named and image.state is ImageState.FAILED)):
                await self._objects.delete(bucket, stored.name)
                deleted += 1
        return deleted
