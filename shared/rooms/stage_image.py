"""STAGE IMAGE: a task comes in; a verified picture and a settled image go out.

Otherwise the task returns to its queue, or a letter goes to the dead-letter topic. The table of errors and messages
(docs/architecture.md, "What becomes of a message") is `StageImage`: one row, one `except`. Everything written after the
claim carries its fence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import msgspec

from shared import decisions
from shared.errors import (
    ConfigurationError,
    DailyQuotaSpent,
    ErrorCode,
    HostBusy,
    ImageRejected,
    LostClaim,
    RuumError,
    Unreadable,
    WorkStopped,
    WorldError,
)
from shared.messages import Letter, Task, decode, letter_message
from shared.model import (
    SETTLED_STATES,
    Control,
    Failure,
    Image,
    ImageState,
    Refusal,
    Worker,
    client_of,
    image_key,
)
from shared.ports import (
    Decision,
    Delivery,
)
from shared.telemetry import LogEvent, bound, image_settled, tell
from shared.topology import DEAD_LETTER_TOPIC
from shared.worker.claimed_image import MAX_MESSAGE_CHARACTERS, ClaimedImage, Tools
from shared.worker.control_cache import ControlCache
from shared.worker.disposition import ACK, LOST, NACK, Action, Disposition
from shared.worker.gate import Gate
from shared.worker.heartbeat import known_holder

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_HOLD_SECONDS: Final = 600.0  # Pub/Sub extends a delivery's lease by at most this


class StageImage:
    """Handles tasks. One per worker: it knows the worker's heartbeat and keeps suspects apart."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._control = ControlCache(tools.store, tools.clock, tools.settings.worker.control_cache_seconds)
        self._gate = Gate()
        self._began = tools.clock.monotonic()
        self._in_hand: dict[str, int] = {}  # by image: the fence of this worker's current claim

    async def handle(self, delivery: Delivery) -> Disposition:
        """Handle one task. Never raises, except when it is cancelled itself."""
        try:
            task = decode(Task, delivery.data)
        except Unreadable as error:
            return await self._unreadable(delivery, error)
        client = client_of(task.batch)
        with bound(batch=task.batch, image=task.index, round=task.round, client=client):
            try:
                return await self._answered(task, delivery)
            finally:
                self._tools.hosts.forget(image_key(task.batch, task.index))

    async def _answered(self, task: Task, delivery: Delivery) -> Disposition:
        """Return what becomes of the message, whatever goes wrong."""
        try:
            return await self._handle(task, delivery.attempt)
        except LostClaim as error:
            log.warning("lost the claim of %s/%s: %s", task.batch, task.index, error)
            return LOST
        except DailyQuotaSpent as error:  # expected, and already logged as quota_changed
            return Disposition(Action.HALT, seconds=error.seconds, reason=str(error), fault=False)
        except ConfigurationError as error:
            return Disposition(Action.HALT, reason=str(error))
        except WorldError as error:
            log.warning("storage failed for %s/%s: %s", task.batch, task.index, error)
            return NACK
        except Exception:
            log.exception("bug while staging %s/%s", task.batch, task.index)
            return NACK

    async def _unreadable(self, delivery: Delivery, error: Unreadable) -> Disposition:
        """Dead-letter a message that is not a task: redelivering it would change nothing."""
        shortened = delivery.data[:MAX_MESSAGE_CHARACTERS].decode("utf-8", "replace")
        letter = Letter(code=ErrorCode.INTERNAL, message=f"unreadable task: {error}", original=shortened)
        try:
            return await self._dead(letter)
        except RuumError as away:
            log.warning("unreadable task not dead-lettered: %s", away)
            return NACK

    async def _handle(self, task: Task, deliveries: int) -> Disposition:
        """Claim the image and stage it, beside others or alone."""
        batch = await self._control.read(task.batch)
        if batch is not None and batch.control is not Control.RUN:
            stopped = await self._stopped(task, deliveries)
            if stopped is not None:
                return stopped
        async with self._gate.together():
            claimed = await self._claim(task)
            if isinstance(claimed, Refusal):
                return await self._refused(task, claimed, deliveries)
            if claimed.state is ImageState.FAILED:
                image_settled(log, claimed)
                return await self._dead(self._letter(task, claimed))
            if not decisions.image.is_suspect(claimed):
                return await self._work(task, claimed, self._stage)
        # Two workers have died while they held this image, so it gets this one to itself.
        young_seconds = self._began + decisions.image.TRIAL_AFTER_SECONDS - self._tools.clock.monotonic()
        if young_seconds > 0:
            await ClaimedImage(self._tools, self._control, claimed).release(None)
            wait = partial(self._tools.clock.sleep, young_seconds)
            return Disposition(Action.WAIT, reason="a young worker tries no suspects", wait=wait)
        return await self._work(task, claimed, self._try_alone)

    # --- before the claim

    async def _stopped(self, task: Task, deliveries: int) -> Disposition | None:
        """Handle a task of a batch that may not run, by an uncached read; None if the batch does run."""
        batch = await self._control.read_now(task.batch)
        if batch is None or batch.control is Control.RUN:
            return None
        # Resuming raises the epoch and publishes again. A task newer than this pause must not be acked.
        if batch.control is Control.PAUSED and batch.control_epoch < task.epoch:
            return None
        image = await self._tools.store.image(task.batch, task.index)
        if image is None or image.round != task.round or image.state in SETTLED_STATES:
            return await self._refused(task, Refusal.SETTLED if image else Refusal.MISSING, deliveries)
        if batch.control is Control.PAUSED:
            # Resuming republishes queued images only. An image that a worker holds, or died holding, needs its message.
            return ACK if image.state is ImageState.QUEUED else self._held(deliveries)
        decide = partial(decisions.image.cancel_queued, now=self._tools.clock.now(), holder=await self._holder(image))
        cancelled = await self._change(task, decide)
        if isinstance(cancelled, Image):
            image_settled(log, cancelled)
        return self._held(deliveries) if cancelled is Refusal.HELD else ACK

    async def _holder(self, image: Image) -> Worker | None:
        """Return the heartbeat of the image's holder.

        If this worker is the holder, its own knowledge decides. An image it no longer works on (a reply was lost) is
        free. One it works on is held, however long ago the last heartbeat could be written.
        """
        holder = await known_holder(self._tools.store, image)
        if holder is None or holder.id != self._tools.heartbeat.worker:
            return holder
        left_behind = image_key(image.batch, image.index) not in self._in_hand
        return msgspec.structs.replace(holder, at=self._tools.clock.now(), stopped=left_behind)

    async def _claim(self, task: Task) -> Image | Refusal:
        """Claim the image. Only if it is held, read the holder's heartbeat and try again."""
        worker = self._tools.heartbeat.worker
        decide = partial(decisions.image.claim, task_round=task.round, worker=worker, now=self._tools.clock.now())
        result = await self._change(task, partial(decide, holder=None))
        if result is not Refusal.HELD:
            return result
        image = await self._tools.store.image(task.batch, task.index)
        holder = await self._holder(image) if image else None
        return Refusal.HELD if holder is None else await self._change(task, partial(decide, holder=holder))

    async def _change(self, task: Task, decide: Decision[Image]) -> Image | Refusal:
        """Change the image's document without a claim of our own."""
        return await self._tools.store.change_image(task.batch, task.index, decide, self._tools.clock.token())

    async def _refused(self, task: Task, refusal: Refusal, deliveries: int) -> Disposition:
        """Return what becomes of a task whose image could not be claimed."""
        if refusal is Refusal.HELD:
            return self._held(deliveries)
        if refusal is Refusal.MISSING:
            return await self._dead(Letter(code=ErrorCode.INTERNAL, message="no such image", task=task))
        if refusal is Refusal.SETTLED:
            image = await self._tools.store.image(task.batch, task.index)
            if image is not None and image.state is ImageState.FAILED and image.round == task.round:
                return await self._dead(self._letter(task, image))  # the worker that failed it may have died before
        return ACK

    def _held(self, deliveries: int) -> Disposition:
        """Let go of a message whose image another worker holds.

        An ack would lose the image if that worker dies; a nack would spend the deliveries of a healthy image. The wait
        doubles with each delivery. It is short at first, because the holder may just have been killed, and half an hour
        in all, which few images need. If an image waits for quota even longer, the queue dead-letters its task, and
        DEAD LETTER leaves the image to its living holder.
        """
        first = self._tools.settings.worker.held_seconds
        return Disposition(Action.LET_GO, seconds=min(MAX_HOLD_SECONDS, first * 2.0 ** max(0, deliveries - 2)))

    # --- with the claim

    async def _stage(self, image: Image, claimed: ClaimedImage) -> None:
        """Stage an image beside others."""
        await claimed.stage(await claimed.photo())

    async def _try_alone(self, image: Image, claimed: ClaimedImage) -> None:
        """Stage a suspect: alone while it may kill the worker, then beside others.

        Of several suspects, the one with the fewest lone deaths goes first. Kills that have nothing to do with any
        image are then spread over all suspects, and one deadly image does not keep the others waiting.
        """
        async with claimed.waiting(self._gate.alone(image.trials.deaths)):
            await claimed.go_alone()
            photo = await claimed.photo()
            if decisions.image.is_tried_to_the_end(image):
                await claimed.stage(photo)
                return
            await claimed.pass_trial()
        async with claimed.waiting(self._gate.together()):
            await claimed.stage(photo)

    async def _work(
        self, task: Task, image: Image, stage: Callable[[Image, ClaimedImage], Awaitable[None]]
    ) -> Disposition:
        """Run `stage` on a claimed image; settle or release the image by what it raises."""
        claimed = ClaimedImage(self._tools, self._control, image)
        key = image_key(image.batch, image.index)
        self._in_hand[key] = image.fence
        try:
            await stage(image, claimed)
        except LostClaim:
            raise
        except WorkStopped:
            return await self._give_up_for_control(task, claimed)
        except ImageRejected as error:
            failed = await claimed.fail(error)
            return await self._dead(self._letter(task, failed))
        except HostBusy as busy:
            await claimed.release(None)
            turn = partial(self._tools.hosts.turn, busy.host, key, image.tier)
            return Disposition(Action.WAIT, reason=str(busy), wait=turn)
        except ConfigurationError as error:
            await claimed.release(Failure(code=ErrorCode.CONFIGURATION, message=str(error)))
            raise
        except WorldError as error:
            return await self._spend_attempt(task, claimed, error.code, error.message)
        except asyncio.CancelledError:
            await asyncio.shield(claimed.release(None))
            raise
        except Exception as error:
            log.exception("bug while staging %s/%s", task.batch, task.index)
            return await self._spend_attempt(task, claimed, ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            if self._in_hand.get(key) == image.fence:  # unless another task of this worker has claimed it since
                del self._in_hand[key]
                self._tools.heartbeat.forget(key)
        return ACK

    async def _give_up_for_control(self, task: Task, claimed: ClaimedImage) -> Disposition:
        """Cancel or release an image whose batch was paused or cancelled meanwhile."""
        batch = await self._control.read_now(task.batch)
        if batch is not None and batch.control is Control.CANCELLING:
            await claimed.cancel()
            return ACK
        await claimed.release(None)
        # Read the batch again: an image released after a resume has listed the queued ones still needs its message.
        batch = await self._control.read_now(task.batch)
        forgotten = batch is not None and batch.control is Control.PAUSED and batch.control_epoch >= task.epoch
        return ACK if forgotten else NACK

    async def _spend_attempt(self, task: Task, claimed: ClaimedImage, code: str, message: str) -> Disposition:
        """Release the image with one attempt spent, or fail it if that was the last."""
        error = Failure(code=code, message=message[:MAX_MESSAGE_CHARACTERS])
        released = await claimed.release(error, spend_attempt=True)
        tell(log, LogEvent.ATTEMPT_FAILED, attempt=released.attempts, code=code, reason=error.message)
        return await self._dead(self._letter(task, released)) if released.state is ImageState.FAILED else NACK

    # --- letters

    def _letter(self, task: Task, image: Image) -> Letter:
        """Return the letter of a failed image."""
        error = image.error or Failure(code=ErrorCode.INTERNAL, message="failed without an error")
        return Letter(code=error.code, message=error.message, attempts=image.attempts, task=task)

    async def _dead(self, letter: Letter) -> Disposition:
        """Publish a letter, and ack the task. Operators see it in their subscription."""
        await self._tools.queue.publish(DEAD_LETTER_TOPIC, [letter_message(letter)])
        tell(log, LogEvent.DEAD_LETTER, code=letter.code, reason=letter.message)
        return ACK
