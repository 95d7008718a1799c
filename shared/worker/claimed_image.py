"""One claimed image in a worker's hands: from its photo to its settled document, every change through its fence.

What goes wrong is raised, with nothing settled; `shared.rooms.stage_image` decides what becomes of image and message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import msgspec

from shared import decisions
from shared.decisions.image import PictureStep
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
)
from shared.model import (
    SETTLED_STATES,
    Batch,
    Checkpoint,
    Control,
    Failure,
    Image,
    Output,
    Refusal,
    Usage,
    client_of,
    image_key,
)
from shared.ports import (
    Answer,
    BatchStore,
    Clock,
    Decision,
    Finished,
    ImageSource,
    ObjectStore,
    Photo,
    Pictures,
    Queue,
    Request,
    Step,
)
from shared.results import names
from shared.results.fenced import put_fenced
from shared.settings import Settings
from shared.staging.agents import Agents
from shared.telemetry import LogEvent, image_settled, tell
from shared.worker.cache import Cache, Lead, key_of
from shared.worker.control_cache import ControlCache
from shared.worker.heartbeat import Heartbeat
from shared.worker.hosts import Hosts
from shared.worker.quota import Quota

log = logging.getLogger(__name__)

T = TypeVar("T")

# What the breaker counts: the vendor does not answer. A bad answer is an answer.
BREAKING: Final = frozenset({ErrorCode.VENDOR_UNAVAILABLE, ErrorCode.VENDOR_TIMEOUT})
MAX_MESSAGE_CHARACTERS: Final = 500  # of an error kept with an image: a sentence, not a page of HTML


class Tools(msgspec.Struct, frozen=True):
    """Everything the room works with."""

    store: BatchStore
    queue: Queue
    objects: ObjectStore
    source: ImageSource
    pictures: Pictures
    agents: Agents
    quota: Quota
    hosts: Hosts
    heartbeat: Heartbeat
    clock: Clock
    settings: Settings


class ClaimedImage:
    """One claimed image: every change goes through its fence. Implements `shared.staging.agents.StepRunner`."""

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

    async def stage(self, photo: Photo) -> None:
        """Stage, publish, settle. Raises whatever went wrong, with nothing settled."""
        image, tools = self._image, self._tools
        request = Request(room_type=image.room_type, design_style=image.design_style)
        finished = await self._staged(photo, request)
        output = await self._timed("publish", self._publish(finished))
        await self._change(
            partial(
                decisions.image.complete,
                fence=image.fence,
                output=output,
                calls=tuple(self._calls),
                durations_ms=self._durations,
                prompts=tools.agents.spec.prompts,
                model=tools.agents.spec.step("generate").usual.model,
                cached=self._cached,
                now=tools.clock.now(),
            )
        )
        await self._delete_work_objects()

    async def photo(self) -> Photo:
        """The customer's photo made safe. What was downloaded is let go of here: fifty in flight are 200 MB."""
        client = client_of(self._image.batch)
        async with self._tools.hosts.visit(self._image.source, image_key(self._image.batch, self._image.index)):
            data = await self._timed("download", self._tools.source.fetch(self._image.source, client))
        prepare = partial(self._tools.pictures.normalise, data)
        return await self._timed("prepare", self.picture_work(PictureStep.PREPARE, prepare))

    async def _staged(self, photo: Photo, request: Request) -> Finished:
        """A verified picture, from the client's cache or bought; what is bought is given to the cache."""
        tools, batch = self._tools, await self._batch()
        if not batch.cache:
            return await tools.agents.stage(photo, request, self)
        key = key_of(batch.client, photo, request, tools.agents.spec)
        lead = Lead(tools.heartbeat.worker, image_key(self._image.batch, self._image.index), self._image.fence)
        async with tools.heartbeat.waiting(lead.image):
            kept = await self._cache.picture_or_lead(key, batch.client, lead, self._check_control)
        if kept is not None:
            self._cached = True
            return await self.picture_work(PictureStep.FINISH, partial(tools.pictures.finish, kept, photo))
        try:
            finished = await tools.agents.stage(photo, request, self)
            picture = await self.kept_picture()
            if picture is not None:
                await self._cache.fill(key, batch.client, picture)
        except (ImageRejected, WorkStopped):
            await self._let_go(key, lead)
            raise
        except BaseException:
            if self.checkpoint.picture is None:  # with one it keeps the lead: its next attempt goes on from there
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
        before, original = f"{folder}thumbnails/{stem}-before.jpg", f"{folder}originals/{stem}.jpg"
        files = [(before, finished.before), (thumbnail, finished.thumbnail), (picture, finished.jpeg)]
        if finished.original:
            files.insert(0, (original, finished.original))
        for name, data in files:
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
            original=original if finished.original else None,
        )

    async def _batch(self) -> Batch:
        batch = await self._control.read(self._image.batch)
        if batch is None:
            raise RuntimeError(f"batch {self._image.batch} is gone")
        return batch

    async def _delete_work_objects(self) -> None:
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
        await self._change(partial(decisions.image.go_alone, fence=self._image.fence))

    async def pass_trial(self) -> None:
        """Its photo was prepared alone; from here on it may be in company."""
        await self._change(partial(decisions.image.pass_trial, fence=self._image.fence))

    async def picture_work(self, step: PictureStep, work: Callable[[], Awaitable[T]]) -> T:
        """Decode or write a picture. Alone with the image it is noted, for the successor if this worker dies of it."""
        claim = self._image.claim
        if claim is None or not claim.alone:
            return await work()
        await self._change(partial(decisions.image.enter_step, fence=self._image.fence, step=step.value))
        leave = partial(decisions.image.enter_step, fence=self._image.fence, step="")
        try:
            done = await work()
        except CodedError:  # the worker lives, and may go on with the image: a later death is not of this step
            await self._change(leave)
            raise
        await self._change(leave)
        return done

    async def fail(self, error: ImageRejected) -> Image:
        """Settle as failed by its own fault."""
        failure = Failure(code=error.code, message=error.message[:MAX_MESSAGE_CHARACTERS])
        return await self._change(
            partial(
                decisions.image.fail,
                fence=self._image.fence,
                error=failure,
                calls=tuple(self._calls),
                checkpoint=self._checkpoint_or_none(),
                now=self._tools.clock.now(),
            )
        )

    async def release(self, error: Failure | None, *, spend_attempt: bool = False) -> Image:
        """Give the image back, its paid work noted; see `decisions.image.release`."""
        return await self._change(
            partial(
                decisions.image.release,
                fence=self._image.fence,
                calls=tuple(self._calls),
                checkpoint=self._checkpoint_or_none(),
                error=error,
                spend_attempt=spend_attempt,
                max_attempts=self._tools.settings.attempts.max_attempts,
                now=self._tools.clock.now(),
            )
        )

    async def cancel(self) -> Image:
        """Settle as cancelled."""
        decide = partial(
            decisions.image.cancel, fence=self._image.fence, calls=tuple(self._calls), now=self._tools.clock.now()
        )
        return await self._change(decide)

    def _checkpoint_or_none(self) -> Checkpoint | None:
        return self.checkpoint if self.checkpoint != Checkpoint() else None

    # --- the agents' runner

    async def _noted(self, noting: Awaitable[None]) -> None:
        """A refusal is told to the ledger. One that cannot be noted is met again; it must not cost an attempt."""
        try:
            await noting
        except RuumError as error:
            log.warning("a refusal was not noted: %s", error)

    async def buy(self, step: Step, call: Callable[[], Awaitable[Answer[T]]]) -> T:
        """One paid call: after the batch's control and the quota allow it.

        A 429 is waited out, and so is a failure that finds the circuit open: waiting spends no attempt.
        """
        tools, model = self._tools, step.usual.model
        if model not in tools.settings.prices:
            raise ConfigurationError(f"there is no price for {model}: add it to RUUM_PRICES")
        began_failing: float | None = None
        while True:
            await self._check_control()
            async with tools.heartbeat.waiting(image_key(self._image.batch, self._image.index)):
                grant = await tools.quota.reserve(model, self._image.tier)
            try:
                await self._check_control()  # the wait may have been long
            except BaseException:
                tools.quota.unused(model, grant)
                raise
            if tools.clock.monotonic() > grant.begin_by:  # the look at the batch was slow, or this process stood still
                tools.quota.unused(model, grant)
                continue
            started = tools.clock.monotonic()
            try:
                answer = await call()
            except Throttled as throttled:
                tell(log, LogEvent.THROTTLED, level=logging.WARNING, step=step.name, model=model)
                await self._noted(tools.quota.throttled(model, grant, throttled.retry_after_seconds))
            except DailyQuotaSpent:
                await self._noted(tools.quota.day_spent(model, grant))
                raise
            except CodedError as error:
                if error.usage is not None:
                    self._note_call(step, error.usage, started)
                if error.code not in BREAKING:
                    await tools.quota.succeeded(model, grant)
                    raise
                began_failing = started if began_failing is None else began_failing
                waited = tools.clock.monotonic() - began_failing
                if not await tools.quota.failed(model, grant) or waited > tools.settings.attempts.max_outage_seconds:
                    raise
            except BaseException:
                tools.quota.unused(model, grant)
                raise
            else:
                self._note_call(step, answer.usage, started)
                await tools.quota.succeeded(model, grant)
                return answer.value

    async def _check_control(self) -> None:
        """Raises `WorkStopped` when the batch is paused or being cancelled."""
        if (await self._batch()).control is not Control.RUN:
            raise WorkStopped(self._image.batch)

    def _note_call(self, step: Step, usage: Usage, started: float) -> None:
        duration = self._elapsed_ms(started)
        self.measured(step.name, duration)
        if not usage.told:
            log.warning("%s did not say what a call used: counted as a usual %s", usage.model, step.name)
        call = decisions.money.call_of(step.name, usage, step.usual, self._tools.settings.prices, duration)
        self._calls.append(call)
        tell(log, LogEvent.STEP, step=step.name, model=call.model, durationMs=duration,
             costUsd=decisions.money.usd(call.cost_micro_usd))  # fmt: skip

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
            partial(
                decisions.image.checkpoint,
                fence=self._image.fence,
                checkpoint=self.checkpoint,
                calls=tuple(self._calls),
            )
        )

    async def kept_picture(self) -> bytes | None:
        """A checkpoint whose object is missing is no checkpoint."""
        if self.checkpoint.picture is None:
            return None
        found = await self._tools.objects.get(self._tools.settings.buckets.work, self.checkpoint.picture)
        return found[1] if found else None

    @asynccontextmanager
    async def waiting(self, entry: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Be inside `entry`, the wait for it not counted as work."""
        async with AsyncExitStack() as inside:
            async with self._tools.heartbeat.waiting(image_key(self._image.batch, self._image.index)):
                await inside.enter_async_context(entry)
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
