"""What operators do to a batch: pause, resume, cancel. Each may crash and be run again."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

from shared import decisions, errors
from shared.decisions.batch import By
from shared.lifecycle import closing
from shared.lifecycle.announce import announce_control
from shared.lifecycle.fleet import Scaling
from shared.messages import task_message
from shared.model import Batch, Image, ImageState, Refusal
from shared.ports import BatchStore, Clock, Message, Queue
from shared.telemetry import LogEvent, bound, image_settled, tell
from shared.topology import topic_of
from shared.worker.heartbeat import known_holder

log = logging.getLogger(__name__)

PUBLISH_CHUNK = 500  # tasks published in one request when a batch is resumed


class Operator:
    """Pauses, resumes and cancels batches, for the commands, for AGGREGATE's threshold and for reconcile.

    Every method returns the batch, or the refusal that says why nothing was done. `by` is the person who asked; None
    when the pipeline itself did.
    """

    def __init__(self, store: BatchStore, queue: Queue, closer: closing.Closer, scaling: Scaling, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._closer = closer
        self._scaling = scaling
        self._clock = clock

    async def pause(
        self,
        batch_id: str,
        reason: str = "paused by an operator",
        seen: Batch | None = None,
        *,
        by: str | None = None,
    ) -> Batch | Refusal:
        """Pause the batch. Workers notice within seconds and release images that are between two paid calls.

        `reason` is for people, and is sent to the customer. `seen` as for `decisions.batch.pause`.
        """
        who = By(by, self._clock.now())
        paused = await self._store.change_batch(
            batch_id, lambda b: decisions.batch.pause(b, reason=reason, seen=seen, by=who), self._clock.token()
        )
        if isinstance(paused, Batch):
            with bound(batch=paused.id, client=paused.client, round=paused.round):
                tell(log, LogEvent.BATCH_PAUSED, level=logging.WARNING, reason=reason, by=by)
            await announce_control(self._store, self._queue, self._clock, paused)
            await self._closer.show_progress(batch_id, at_once=True)
        return paused

    async def resume(self, batch_id: str, *, by: str | None = None) -> Batch | Refusal:
        """Run the batch again and republish every queued image.

        After a crash, the same call publishes the images that the first one did not.
        """
        counts = await self._store.counts(batch_id)
        who = By(by, self._clock.now())
        resumed = await self._store.change_batch(
            batch_id, lambda b: decisions.batch.resume(b, counts=counts, by=who), self._clock.token()
        )
        if resumed is Refusal.UNCHANGED:
            resumed = await self._store.batch(batch_id) or Refusal.MISSING
        if isinstance(resumed, Batch) and resumed.epoch_published < resumed.control_epoch:
            await self.publish_queued(resumed)
            await self._scaling.wake()
            await self._closer.show_progress(batch_id, at_once=True)
        return resumed

    async def publish_queued(self, batch: Batch) -> int:
        """Publish a task for every queued image at the batch's current control epoch. Return how many."""
        published, tasks = 0, list[Message]()
        async for image in self._store.images(batch.id, ImageState.QUEUED):
            tasks.append(task_message(image, batch.control_epoch))
            if len(tasks) >= PUBLISH_CHUNK:
                await self._queue.publish(topic_of(batch.tier), tasks)
                published, tasks = published + len(tasks), []
        if tasks:
            await self._queue.publish(topic_of(batch.tier), tasks)
        epoch = batch.control_epoch
        await self._store.change_batch(
            batch.id, lambda b: decisions.batch.note_published(b, epoch=epoch), self._clock.token()
        )
        return published + len(tasks)

    async def cancel(self, batch_id: str, *, reason: str | None = None, by: str | None = None) -> Batch | Refusal:
        """Cancel the batch for good, and every queued image with it.

        Workers finish or cancel the images that they hold. Completed images are kept.
        """
        who = By(by, self._clock.now())
        begun = await self._store.change_batch(
            batch_id, lambda b: decisions.batch.begin_cancel(b, reason=reason, by=who), self._clock.token()
        )
        if begun is Refusal.UNCHANGED:
            begun = await self._store.batch(batch_id) or Refusal.MISSING
        if not isinstance(begun, Batch):
            return begun
        await announce_control(self._store, self._queue, self._clock, begun)
        await self.cancel_queued(begun)
        await self._closer.show_progress(batch_id, at_once=True)
        return begun

    async def cancel_queued(self, batch: Batch) -> int:
        """Settle every image of a cancelled batch that no living worker holds. Return how many."""
        cancelled = 0
        for state in (ImageState.QUEUED, ImageState.PROCESSING):
            async for image in self._store.images(batch.id, state):
                holder = await known_holder(self._store, image)
                decide = partial(decisions.image.cancel_queued, now=self._clock.now(), holder=holder)
                settled = await self._store.change_image(batch.id, image.index, decide, self._clock.token(), image)
                if isinstance(settled, Image):
                    cancelled += 1
                    image_settled(log, settled)
        with suppress(errors.StillClosing):
            await self._closer.check(batch.id)
        return cancelled
