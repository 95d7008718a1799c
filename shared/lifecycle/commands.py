"""What operators do to a batch: pause, resume, cancel. Each may be killed and run again."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

import msgspec

from shared.decisions import image as claims
from shared.lifecycle import closing
from shared.lifecycle.announce import announce_control
from shared.lifecycle.fleet import Scaling
from shared.messages import encode, task_for
from shared.model import Batch, BatchState, Control, Counts, FailureThreshold, Image, ImageState, Refusal
from shared.ports import BatchStore, Clock, Message, Queue
from shared.telemetry import LogEvent, bound, image_settled, tell
from shared.topology import topic_of
from shared.worker.heartbeat import known_holder

log = logging.getLogger(__name__)

PUBLISH_CHUNK = 500  # tasks published at once when a batch is resumed

FINAL_STATES = frozenset({BatchState.CLOSED, BatchState.REJECTED})

# --- pure decisions


class By(msgspec.Struct, frozen=True):
    """Who asked for a change of control, and when. `person` is None when the pipeline itself did."""

    person: str | None
    at: float

    def note(self, batch: Batch | Refusal) -> Batch | Refusal:
        """The changed batch with its author."""
        if isinstance(batch, Refusal):
            return batch
        return msgspec.structs.replace(batch, controlled_by=self.person, controlled_at=self.at)


def pause(batch: Batch, *, reason: str, seen: Batch | None = None) -> Batch | Refusal:
    """From run to paused, with the reason that people will read.

    `seen`: the batch whose counts were the reason; resumed or replayed since, they are a reason no more.
    """
    if batch.state in FINAL_STATES:
        return Refusal.ILLEGAL
    if seen is not None and (seen.control_epoch, seen.replays) != (batch.control_epoch, batch.replays):
        return Refusal.STALE_REVISION
    if batch.control is not Control.RUN:
        return Refusal.UNCHANGED if batch.control is Control.PAUSED else Refusal.ILLEGAL
    return msgspec.structs.replace(batch, control=Control.PAUSED, paused_reason=reason, revision=batch.revision + 1)


def resume(batch: Batch, *, counts: Counts) -> Batch | Refusal:
    """From paused to run at a higher epoch: tasks that workers forgot while it was paused are older.

    The failure threshold counts from here: `counts` are the batch's own now.
    """
    if batch.control is Control.CANCELLING or batch.state in FINAL_STATES:
        return Refusal.ILLEGAL
    if batch.control is Control.RUN:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(
        batch,
        control=Control.RUN,
        paused_reason=None,
        control_epoch=batch.control_epoch + 1,
        baseline=counts,
        revision=batch.revision + 1,
    )


def note_published(batch: Batch, *, epoch: int) -> Batch | Refusal:
    """Remember that the queued images of this epoch have been published."""
    if batch.epoch_published >= epoch:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(batch, epoch_published=epoch, revision=batch.revision + 1)


def begin_cancel(batch: Batch, *, reason: str | None = None) -> Batch | Refusal:
    """Cancel for good: there is no way back to run."""
    if batch.state in FINAL_STATES or batch.state is BatchState.CLOSING:
        return Refusal.ILLEGAL
    if batch.control is Control.CANCELLING:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(batch, control=Control.CANCELLING, cancel_reason=reason, revision=batch.revision + 1)


def threshold_passed(threshold: FailureThreshold, minimum_sample: int, baseline: Counts, counts: Counts) -> bool:
    """Whether too many images have failed since the baseline. A share is taken of at least the minimum sample.

    `minimum_sample` is the settings', for a threshold without one of its own; a number of failures needs none.
    """
    failed, settled = counts.failed - baseline.failed, counts.settled - baseline.settled
    if threshold.count is not None and failed >= threshold.count:
        return True
    sample = minimum_sample if threshold.minimum_sample is None else threshold.minimum_sample
    return threshold.percent is not None and settled >= sample and failed * 100 >= threshold.percent * settled


# --- the steps


class Operator:
    """See the module. Every method answers the batch, or the refusal that says why nothing was done."""

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

        `seen`: see the decision `pause`. `by`: the person who asked.
        """
        who = By(by, self._clock.now())
        paused = await self._store.change_batch(
            batch_id, lambda b: who.note(pause(b, reason=reason, seen=seen)), self._clock.token()
        )
        if isinstance(paused, Batch):
            with bound(batch=paused.id, client=paused.client, round=paused.round):
                tell(log, LogEvent.BATCH_PAUSED, level=logging.WARNING, reason=reason, by=by)
            await announce_control(self._store, self._queue, self._clock, paused)
            await self._closer.show_progress(batch_id, at_once=True)
        return paused

    async def resume(self, batch_id: str, *, by: str | None = None) -> Batch | Refusal:
        """Run again, and publish every queued image again. After a kill, run again it publishes what was not."""
        counts = await self._store.counts(batch_id)
        who = By(by, self._clock.now())
        resumed = await self._store.change_batch(
            batch_id, lambda b: who.note(resume(b, counts=counts)), self._clock.token()
        )
        if resumed is Refusal.UNCHANGED:
            resumed = await self._store.batch(batch_id) or Refusal.MISSING
        if isinstance(resumed, Batch) and resumed.epoch_published < resumed.control_epoch:
            await self.publish_queued(resumed)
            await self._scaling.wake()
            await self._closer.show_progress(batch_id, at_once=True)
        return resumed

    async def publish_queued(self, batch: Batch) -> int:
        """Publish a task for every queued image of the batch at its present epoch; how many."""
        published, tasks = 0, list[Message]()
        async for image in self._store.images(batch.id, ImageState.QUEUED):
            tasks.append(Message(encode(task_for(image, batch.control_epoch)), {"client": batch.client}))
            if len(tasks) >= PUBLISH_CHUNK:
                await self._queue.publish(topic_of(batch.tier), tasks)
                published, tasks = published + len(tasks), []
        if tasks:
            await self._queue.publish(topic_of(batch.tier), tasks)
        epoch = batch.control_epoch
        await self._store.change_batch(batch.id, lambda b: note_published(b, epoch=epoch), self._clock.token())
        return published + len(tasks)

    async def cancel(self, batch_id: str, *, reason: str | None = None, by: str | None = None) -> Batch | Refusal:
        """Cancel every queued image. Workers finish or cancel the images they hold; finished ones are kept."""
        who = By(by, self._clock.now())
        begun = await self._store.change_batch(
            batch_id, lambda b: who.note(begin_cancel(b, reason=reason)), self._clock.token()
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
        """Settle every image of a cancelled batch that nobody works on; how many."""
        cancelled = 0
        for state in (ImageState.QUEUED, ImageState.PROCESSING):
            async for image in self._store.images(batch.id, state):
                holder = await known_holder(self._store, image)
                decide = partial(claims.cancel_queued, now=self._clock.now(), holder=holder)
                settled = await self._store.change_image(batch.id, image.index, decide, self._clock.token(), image)
                if isinstance(settled, Image):
                    cancelled += 1
                    image_settled(log, settled)
        with suppress(closing.StillClosing):
            await self._closer.check(batch.id)
        return cancelled
