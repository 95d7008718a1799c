"""STAGE IMAGE: a task enters; a verified picture and a settled image leave, or the task goes back, or a letter leaves.

The table of errors and messages (docs/architecture.md, "What becomes of a message") is `StageImage`: one row, one
`except`. Everything written after the claim carries its fence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

import msgspec

from shared import claims, names
from shared.cache import Cache, Lead, key_of
from shared.control import ControlCache
from shared.errors import (
    CodedError,
    ConfigurationError,
    DailyQuotaSpent,
    ErrorCode,
    ImageRejected,
    LostClaim,
    RuumError,
    Throttled,
    WorkStopped,
    WorldError,
)
from shared.fenced import put_fenced
from shared.gate import Gate
from shared.heartbeat import Heartbeat, known_holder
from shared.ledger import MARGIN_SECONDS
from shared.messages import Letter, Task, Unreadable, decode, letter_message
from shared.model import (
    SETTLED_STATES,
    Batch,
    Call,
    Checkpoint,
    Control,
    Failure,
    Image,
    ImageState,
    Output,
    Refusal,
    Worker,
    image_key,
)
from shared.ports import (
    Answer,
    BatchStore,
    Clock,
    Decision,
    Delivery,
    Finished,
    ImageSource,
    ObjectStore,
    Photo,
    Pictures,
    Queue,
    Request,
    Usage,
)
from shared.quota import Quota
from shared.settings import Settings, cost_micro_usd
from shared.staging.agents import Agents
from shared.telemetry import LogEvent, bound, image_settled, tell
from shared.topology import DEAD_LETTER_TOPIC

log = logging.getLogger(__name__)

T = TypeVar("T")

# What the breaker counts: the vendor does not answer. A bad answer is an answer.
BREAKING: Final = frozenset({ErrorCode.VENDOR_UNAVAILABLE, ErrorCode.VENDOR_TIMEOUT})
LONGEST_HOLD_SECONDS: Final = 600.0  # the longest a delivery's lease can be extended by
MOST_MESSAGE_CHARACTERS: Final = 500  # of an error kept with an image: a sentence, not a page of HTML


class Action(StrEnum):
    """What the subscriber does with a delivery."""

    ACK = "ack"
    NACK = "nack"  # comes again after the queue's backoff
    LET_GO = "let_go"  # neither: its lease is extended once by `seconds` and then left to run out
    HALT = "halt"  # let go of it and stop pulling for a while: our configuration's fault


class Disposition(msgspec.Struct, frozen=True):
    """The action, for how long (LET_GO), and why (HALT)."""

    action: Action
    seconds: float = 0.0
    reason: str = ""


ACK: Final = Disposition(Action.ACK)
NACK: Final = Disposition(Action.NACK)
LOST: Final = Disposition(Action.LET_GO)


class Tools(msgspec.Struct, frozen=True):
    """Everything the room works with."""

    store: BatchStore
    queue: Queue
    objects: ObjectStore
    source: ImageSource
    pictures: Pictures
    agents: Agents
    quota: Quota
    heartbeat: Heartbeat
    clock: Clock
    settings: Settings


class StageImage:
    """See the module. One per worker: it knows the worker's heartbeat and keeps suspects apart."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._control = ControlCache(tools.store, tools.clock, tools.settings.worker.control_cache_seconds)
        self._gate = Gate()
        self._in_hand: set[str] = set()

    async def handle(self, delivery: Delivery) -> Disposition:
        """Deal with one task. Never raises, except when it is itself cancelled."""
        try:
            task = decode(Task, delivery.data)
        except Unreadable as error:
            return await self._unreadable(delivery, error)
        client = task.batch.partition(".")[0]
        with bound(batch=task.batch, image=task.index, round=task.round, client=client):
            return await self._answered(task, delivery)

    async def _answered(self, task: Task, delivery: Delivery) -> Disposition:
        """What becomes of the message, whatever goes wrong."""
        try:
            return await self._handle(task, delivery.attempt)
        except LostClaim as error:
            log.warning("lost the claim of %s/%s: %s", task.batch, task.index, error)
            return LOST
        except ConfigurationError as error:
            return Disposition(Action.HALT, reason=str(error))
        except WorldError as error:
            log.warning("storage failed for %s/%s: %s", task.batch, task.index, error)
            return NACK
        except Exception:
            log.exception("bug while staging %s/%s", task.batch, task.index)
            return NACK

    async def _unreadable(self, delivery: Delivery, error: Unreadable) -> Disposition:
        shortened = delivery.data[:MOST_MESSAGE_CHARACTERS].decode("utf-8", "replace")
        letter = Letter(code=ErrorCode.INTERNAL, message=f"unreadable task: {error}", original=shortened)
        try:
            return await self._dead(letter)
        except RuumError as away:
            log.warning("unreadable task not dead-lettered: %s", away)
            return NACK

    async def _handle(self, task: Task, deliveries: int) -> Disposition:
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
            if not claims.is_suspect(claimed):
                return await self._work(task, claimed, nullcontext())
        # Two workers died with this image in hand: it gets this one to itself.
        return await self._work(task, claimed, self._gate.alone())

    # --- before the claim

    async def _stopped(self, task: Task, deliveries: int) -> Disposition | None:
        """What an uncached look at a batch that is not to run makes of a task; None: it runs again."""
        batch = await self._control.read_now(task.batch)
        if batch is None or batch.control is Control.RUN:
            return None
        # Resuming raises the epoch and publishes again: a task later than this pause must not be forgotten.
        if batch.control is Control.PAUSED and batch.control_epoch < task.epoch:
            return None
        image = await self._tools.store.image(task.batch, task.index)
        if image is None or image.round != task.round or image.state in SETTLED_STATES:
            return await self._refused(task, Refusal.SETTLED if image else Refusal.MISSING, deliveries)
        if batch.control is Control.PAUSED:
            # Resuming publishes what is queued; what another worker holds, or died holding, needs its message.
            return ACK if image.state is ImageState.QUEUED else self._held(deliveries)
        decide = partial(claims.cancel_queued, now=self._tools.clock.now(), holder=await self._holder(image))
        cancelled = await self._change(task, decide)
        if isinstance(cancelled, Image):
            image_settled(log, cancelled)
        return self._held(deliveries) if cancelled is Refusal.HELD else ACK

    async def _holder(self, image: Image) -> Worker | None:
        """The holder's heartbeat.

        What this worker itself has left behind (a reply was lost) is in nobody's hand; what it has in hand is held,
        however long ago its last heartbeat could be written.
        """
        holder = await known_holder(self._tools.store, image)
        if holder is None or holder.id != self._tools.heartbeat.worker:
            return holder
        left_behind = image_key(image.batch, image.index) not in self._in_hand
        return msgspec.structs.replace(holder, at=self._tools.clock.now(), stopped=left_behind)

    async def _claim(self, task: Task) -> Image | Refusal:
        """Claim the image; only when someone holds it is that worker's heartbeat looked up."""
        worker = self._tools.heartbeat.worker
        decide = partial(claims.claim, task_round=task.round, worker=worker, now=self._tools.clock.now())
        result = await self._change(task, partial(decide, holder=None))
        if result is not Refusal.HELD:
            return result
        image = await self._tools.store.image(task.batch, task.index)
        holder = await self._holder(image) if image else None
        return Refusal.HELD if holder is None else await self._change(task, partial(decide, holder=holder))

    async def _change(self, task: Task, decide: Decision[Image]) -> Image | Refusal:
        return await self._tools.store.change_image(task.batch, task.index, decide, self._tools.clock.token())

    async def _refused(self, task: Task, refusal: Refusal, deliveries: int) -> Disposition:
        if refusal is Refusal.HELD:
            return self._held(deliveries)
        if refusal is Refusal.MISSING:
            return await self._dead(Letter(code=ErrorCode.INTERNAL, message="no such image", task=task))
        if refusal is Refusal.SETTLED:
            image = await self._tools.store.image(task.batch, task.index)
            if image is not None and image.state is ImageState.FAILED and image.round == task.round:
                return await self._dead(self._letter(task, image))  # the letter may have been lost with its sender
        return ACK

    def _held(self, deliveries: int) -> Disposition:
        """Another worker has it: neither ack (it may die) nor nack (that spends deliveries of a healthy image).

        The wait doubles with each delivery: soon at first, for the holder may just have been killed; half an hour in
        all, which few images take. One that waits for quota even longer is dead-lettered by the queue, and DEAD
        LETTER leaves it to its living holder.
        """
        first = self._tools.settings.worker.held_seconds
        return Disposition(Action.LET_GO, seconds=min(LONGEST_HOLD_SECONDS, first * 2.0 ** max(0, deliveries - 2)))

    # --- with the claim

    async def _work(self, task: Task, image: Image, room: AbstractAsyncContextManager[None]) -> Disposition:
        hand = _Hand(self._tools, self._control, image)
        key = image_key(image.batch, image.index)
        self._in_hand.add(key)
        try:
            async with hand.waiting(room):
                if claims.is_suspect(image):
                    await hand.go_alone()
                await hand.stage()
        except LostClaim:
            raise
        except WorkStopped:
            return await self._give_up_for_control(task, hand)
        except ImageRejected as error:
            failed = await hand.fail(error)
            return await self._dead(self._letter(task, failed))
        except ConfigurationError as error:
            await hand.release(Failure(code=ErrorCode.CONFIGURATION, message=str(error)))
            raise
        except WorldError as error:
            return await self._spend_attempt(task, hand, error.code, error.message)
        except asyncio.CancelledError:
            await asyncio.shield(hand.release(None))
            raise
        except Exception as error:
            log.exception("bug while staging %s/%s", task.batch, task.index)
            return await self._spend_attempt(task, hand, ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            self._in_hand.discard(key)
            self._tools.heartbeat.forget(key)
        return ACK

    async def _give_up_for_control(self, task: Task, hand: _Hand) -> Disposition:
        batch = await self._control.read_now(task.batch)
        if batch is not None and batch.control is Control.CANCELLING:
            await hand.cancel()
            return ACK
        await hand.release(None)
        return (
            ACK if batch is not None and batch.control is Control.PAUSED and batch.control_epoch >= task.epoch else NACK
        )

    async def _spend_attempt(self, task: Task, hand: _Hand, code: str, message: str) -> Disposition:
        error = Failure(code=code, message=message[:MOST_MESSAGE_CHARACTERS])
        released = await hand.release(error, spend_attempt=True)
        tell(log, LogEvent.ATTEMPT_FAILED, attempt=released.attempts, code=code, reason=error.message)
        return await self._dead(self._letter(task, released)) if released.state is ImageState.FAILED else NACK

    # --- letters

    def _letter(self, task: Task, image: Image) -> Letter:
        error = image.error or Failure(code=ErrorCode.INTERNAL, message="failed without an error")
        return Letter(code=error.code, message=error.message, attempts=image.attempts, task=task)

    async def _dead(self, letter: Letter) -> Disposition:
        await self._tools.queue.publish(DEAD_LETTER_TOPIC, [letter_message(letter)])
        tell(log, LogEvent.DEAD_LETTER, code=letter.code, reason=letter.message)
        return ACK


class _Hand:
    """One claimed image: every change goes through its fence. Implements `shared.staging.agents.Desk`."""

    def __init__(self, tools: Tools, control: ControlCache, image: Image) -> None:
        self._tools = tools
        self._control = control
        self._image = image
        self._calls = list(image.calls)
        self._durations: dict[str, int] = {}
        self._works: list[str] = [image.checkpoint.picture] if image.checkpoint and image.checkpoint.picture else []
        self.checkpoint = image.checkpoint or Checkpoint()
        self._cached = False
        self._cache = Cache(tools.store, tools.objects, tools.clock, tools.settings)

    async def stage(self) -> None:
        """Fetch, stage, publish, settle. Raises whatever went wrong, with nothing settled."""
        image, tools = self._image, self._tools
        data = await self._timed("download", tools.source.fetch(image.source, image.batch.partition(".")[0]))
        photo = await self._timed("prepare", tools.pictures.normalise(data))
        request = Request(room_type=image.room_type, design_style=image.design_style)
        finished = await self._staged(photo, request)
        output = await self._timed("publish", self._publish(finished))
        await self._change(
            partial(
                claims.complete,
                fence=image.fence,
                output=output,
                calls=tuple(self._calls),
                durations_ms=self._durations,
                prompts=tools.agents.prompts,
                cached=self._cached,
                now=tools.clock.now(),
            )
        )
        await self._forget_works()

    async def _staged(self, photo: Photo, request: Request) -> Finished:
        """A verified picture, from the client's cache or bought; what is bought is given to the cache."""
        tools, batch = self._tools, await self._batch()
        if not batch.cache:
            return await tools.agents.stage(photo, request, self)
        key = key_of(batch.client, photo, request, tools.agents.prompts, tools.agents.models)
        lead = Lead(tools.heartbeat.worker, image_key(self._image.batch, self._image.index), self._image.fence)
        async with tools.heartbeat.waiting(lead.image):
            kept = await self._cache.picture_or_lead(key, batch.client, lead, self._check_control)
        if kept is not None:
            self._cached = True
            return await tools.pictures.finish(kept, photo)
        try:
            finished = await tools.agents.stage(photo, request, self)
            picture = await self.kept_picture()
            if picture is not None:
                await self._cache.fill(key, batch.client, picture)
        except BaseException:
            await asyncio.shield(self._let_go(key, lead))
            raise
        return finished

    async def _let_go(self, key: str, lead: Lead) -> None:
        """Leave the lead to another; if that cannot be said now, the lead dies with this claim."""
        try:
            await self._cache.let_go(key, lead)
        except RuumError as error:
            log.warning("lead of a cache entry not given up: %s", error)

    async def _publish(self, finished: Finished) -> Output:
        batch = await self._batch()
        folder, stem = names.results_folder(batch), names.picture_stem(self._image)
        picture, thumbnail = f"{folder}images/{stem}.jpg", f"{folder}thumbnails/{stem}.jpg"
        before = f"{folder}thumbnails/{stem}-before.jpg"
        for name, data in ((before, finished.before), (thumbnail, finished.thumbnail), (picture, finished.jpeg)):
            await put_fenced(
                self._tools.objects,
                self._tools.settings.buckets.results,
                name,
                data,
                content_type="image/jpeg",
                fence=self._image.fence,
            )
        return Output(
            picture=picture,
            thumbnail=thumbnail,
            before=before,
            sha256=finished.sha256,
            width=finished.width,
            height=finished.height,
        )

    async def _batch(self) -> Batch:
        batch = await self._control.read(self._image.batch)
        if batch is None:
            raise RuntimeError(f"batch {self._image.batch} is gone")
        return batch

    async def _forget_works(self) -> None:
        """Delete the work objects that the settled image needs no more; what is left over, reconcile finds."""
        for name in self._works:
            try:
                await self._tools.objects.delete(self._tools.settings.buckets.work, name)
            except CodedError as error:
                log.warning("work object %s not deleted: %s", name, error)

    # --- settling, all by the fence

    async def _change(self, decide: Decision[Image]) -> Image:
        image = self._image
        changed = await self._tools.store.change_image(
            image.batch, image.index, decide, self._tools.clock.token(), seen=image
        )
        if isinstance(changed, Refusal):
            raise LostClaim(f"fence {image.fence}: {changed}")
        self._image = changed
        if changed.state in SETTLED_STATES:
            image_settled(log, changed, sum(self._durations.values()))
        return changed

    async def go_alone(self) -> None:
        """Nothing else is in this worker's hands now."""
        await self._change(partial(claims.go_alone, fence=self._image.fence))

    async def fail(self, error: ImageRejected) -> Image:
        """Settle as failed by its own fault."""
        failure = Failure(code=error.code, message=error.message[:MOST_MESSAGE_CHARACTERS])
        return await self._change(
            partial(
                claims.fail,
                fence=self._image.fence,
                error=failure,
                calls=tuple(self._calls),
                checkpoint=self._checkpoint_or_none(),
                now=self._tools.clock.now(),
            )
        )

    async def release(self, error: Failure | None, *, spend_attempt: bool = False) -> Image:
        """Give the image back, its paid work noted; see `claims.release`."""
        return await self._change(
            partial(
                claims.release,
                fence=self._image.fence,
                calls=tuple(self._calls),
                checkpoint=self._checkpoint_or_none(),
                error=error,
                spend_attempt=spend_attempt,
                max_attempts=self._tools.settings.attempts.most_attempts,
                now=self._tools.clock.now(),
            )
        )

    async def cancel(self) -> Image:
        """Settle as cancelled."""
        decide = partial(claims.cancel, fence=self._image.fence, calls=tuple(self._calls), now=self._tools.clock.now())
        return await self._change(decide)

    def _checkpoint_or_none(self) -> Checkpoint | None:
        return self.checkpoint if self.checkpoint != Checkpoint() else None

    # --- the agents' desk

    async def buy(self, step: str, model: str, call: Callable[[], Awaitable[Answer[T]]]) -> T:
        """One paid call: after the batch's control and the quota allow it.

        A 429 is waited out, and so is a failure that finds the circuit open: waiting spends no attempt.
        """
        tools = self._tools
        if model not in tools.settings.prices:
            raise ConfigurationError(f"there is no price for {model}: add it to RUUM_PRICES")
        while True:
            await self._check_control()
            async with tools.heartbeat.waiting(image_key(self._image.batch, self._image.index)):
                grant = await tools.quota.reserve(model, self._image.tier)
            granted = tools.clock.monotonic()
            try:
                await self._check_control()  # the wait may have been long
            except BaseException:
                await asyncio.shield(tools.quota.succeeded(model, grant))
                raise
            if tools.clock.monotonic() - granted > MARGIN_SECONDS / 2:
                # The look at the batch was slow: the call would start outside of the window it was granted for.
                await tools.quota.succeeded(model, grant)
                continue
            started = tools.clock.monotonic()
            try:
                answer = await call()
            except Throttled as throttled:
                tell(log, LogEvent.THROTTLED, level=logging.WARNING, step=step, model=model)
                await tools.quota.throttled(model, grant, throttled.retry_after_seconds)
            except DailyQuotaSpent:
                await tools.quota.day_spent(model, grant)
                raise
            except CodedError as error:
                if error.usage is not None:
                    self._note_call(step, error.usage, started)
                if error.code not in BREAKING:
                    await tools.quota.succeeded(model, grant)
                    raise
                if not await tools.quota.failed(model, grant):
                    raise
            except BaseException:
                await asyncio.shield(tools.quota.succeeded(model, grant))  # gives the slot back
                raise
            else:
                self._note_call(step, answer.usage, started)
                await tools.quota.succeeded(model, grant)
                return answer.value

    async def _check_control(self) -> None:
        """Raises `WorkStopped` when the batch is paused or being cancelled."""
        if (await self._batch()).control is not Control.RUN:
            raise WorkStopped(self._image.batch)

    def _note_call(self, step: str, usage: Usage, started: float) -> None:
        duration = self._elapsed_ms(started)
        self.measured(step, duration)
        cost = cost_micro_usd(self._tools.settings.prices, usage.model, usage.input_tokens, usage.output_tokens)
        self._calls.append(
            Call(
                step=step,
                model=usage.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost_micro_usd=cost,
                duration_ms=duration,
            )
        )
        tell(log, LogEvent.STEP, step=step, model=usage.model, durationMs=duration, costUsd=cost / 1_000_000)

    async def keep(self, checkpoint: Checkpoint, picture: bytes | None) -> None:
        """A new picture is written before the checkpoint naming it; without one the note waits for the next write."""
        self.checkpoint = checkpoint
        if picture is None:
            return
        name = names.work_picture(self._image, checkpoint.generations)
        work = self._tools.settings.buckets.work
        await self._tools.objects.put(work, name, picture, content_type="application/octet-stream")
        self._works.append(name)
        self.checkpoint = msgspec.structs.replace(checkpoint, picture=name)
        await self._change(
            partial(claims.checkpoint, fence=self._image.fence, checkpoint=self.checkpoint, calls=tuple(self._calls))
        )

    async def kept_picture(self) -> bytes | None:
        """A checkpoint whose object is missing is no checkpoint."""
        if self.checkpoint.picture is None:
            return None
        found = await self._tools.objects.get(self._tools.settings.buckets.work, self.checkpoint.picture)
        return found[1] if found else None

    @asynccontextmanager
    async def waiting(self, room: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Be inside `room`, the wait for it not counted as work."""
        async with AsyncExitStack() as inside:
            async with self._tools.heartbeat.waiting(image_key(self._image.batch, self._image.index)):
                await inside.enter_async_context(room)
            yield

    # --- measuring

    async def _timed(self, step: str, work: Awaitable[T]) -> T:
        started = self._tools.clock.monotonic()
        try:
            return await work
        finally:
            self.measured(step, self._elapsed_ms(started))

    def _elapsed_ms(self, started: float) -> int:
        return round((self._tools.clock.monotonic() - started) * 1000)

    def measured(self, step: str, duration_ms: int) -> None:
        """Steps that are repeated add up."""
        self._durations[step] = self._durations.get(step, 0) + duration_ms
