"""One image that a worker has claimed, from its photo to its settled document. Every change goes through its fence.

Failures are raised with nothing settled. `shared.rooms.stage_image` decides what becomes of the image and its message.
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

# Errors that the circuit breaker counts: the vendor does not answer. A bad answer shows that it works.
BREAKING: Final = frozenset({ErrorCode.VENDOR_UNAVAILABLE, ErrorCode.VENDOR_TIMEOUT})
MAX_MESSAGE_CHARACTERS: Final = 500  # of an error kept with an image: a sentence, not a page of HTML


class Tools(msgspec.Struct, frozen=True):
    """Everything the room works with, handed to each claimed image."""

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
    """One claimed image: every change goes through its fence. Implements `shared.staging.agents.StepRunner`.

    Calls, durations and checkpoint are collected here and written with the next change. The image's document is
    therefore not written once per step.
    """

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
        """Stage the photo, publish the pictures, and settle the image.

        Whatever fails is raised, with nothing settled.
        """
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
        """Download the customer's photo and return it re-encoded.

        The downloaded bytes are released here: 50 images in flight would keep 200 MB of them.
        """
        client = client_of(self._image.batch)
        async with self._tools.hosts.visit(self._image.source, image_key(self._image.batch, self._image.index)):
            data = await self._timed("download", self._tools.source.fetch(self._image.source, client))
        prepare = partial(self._tools.pictures.normalise, data)
        return await self._timed("prepare", self.picture_work(PictureStep.PREPARE, prepare))

    async def _staged(self, photo: Photo, request: Request) -> Finished:
        """Return a verified picture, from the client's cache or bought. A bought one is added to the cache."""
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
            # An image with a paid picture keeps the lead: its next attempt continues with that picture.
            if self.checkpoint.picture is None:
                await asyncio.shield(self._let_go(key, lead))
            raise
        return finished

    async def _let_go(self, key: str, lead: Lead) -> None:
        """Give up the lead. If that cannot be written now, the lead ends with this claim."""
        try:
            await self._cache.let_go(key, lead)
        except RuumError as error:
            log.warning("lead of a cache entry not given up: %s", error)

    async def _publish(self, finished: Finished) -> Output:
        """Write the pictures to the results bucket, each under this claim's fence, the staged picture last."""
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
        """Return the batch, a few seconds old at most."""
        batch = await self._control.read(self._image.batch)
        if batch is None:
            raise RuntimeError(f"batch {self._image.batch} is gone")
        return batch

    async def _delete_work_objects(self) -> None:
        """Delete work objects that the settled image no longer needs; reconcile deletes what is left over."""
        for name in self._works:
            try:
                await self._tools.objects.delete(self._tools.settings.buckets.work, name)
            except CodedError as error:
                log.warning("work object %s not deleted: %s", name, error)

    # --- settling, all by the fence

    async def _change(self, decide: Decision[Image]) -> Image:
        """Change the image's document under this claim's fence. Raises `LostClaim` when the decision refuses."""
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
        """Record that this worker holds nothing else now."""
        await self._change(partial(decisions.image.go_alone, fence=self._image.fence))

    async def pass_trial(self) -> None:
        """Record that its photo was prepared alone; it may now continue beside others."""
        await self._change(partial(decisions.image.pass_trial, fence=self._image.fence))

    async def picture_work(self, step: PictureStep, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, which decodes or writes a picture.

        While the worker is alone with the image, the step is recorded first. If the worker dies of it, its successor
        knows where.
        """
        claim = self._image.claim
        if claim is None or not claim.alone:
            return await work()
        await self._change(partial(decisions.image.enter_step, fence=self._image.fence, step=step.value))
        leave = partial(decisions.image.enter_step, fence=self._image.fence, step="")
        try:
            done = await work()
        except CodedError:  # the worker survived and may continue: a later crash must not be blamed on this step
            await self._change(leave)
            raise
        await self._change(leave)
        return done

    async def fail(self, error: ImageRejected) -> Image:
        """Settle as failed through the image's own fault."""
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
        """Return the image to the queue with its paid work recorded; see `decisions.image.release`."""
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
        """Record a refusal in the ledger.

        If that fails, the next call meets it again; it must not cost an attempt.
        """
        try:
            await noting
        except RuumError as error:
            log.warning("a refusal was not noted: %s", error)

    async def buy(self, step: Step, call: Callable[[], Awaitable[Answer[T]]]) -> T:
        """Make one paid call, once the batch's control and the quota allow it. Returns the call's answer.

        A 429 is waited out, and so is a failure during an outage; waiting spends no attempt. After `max_outage_seconds`
        of failures the last one is raised. Raises `WorkStopped` on a pause or cancel, `DailyQuotaSpent`,
        `ConfigurationError` for a model without a price, and the vendor's other errors.
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
            # Reading the batch took too long, or the process was suspended: the call would start outside its window.
            if tools.clock.monotonic() > grant.begin_by:
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
        """Raise `WorkStopped` when the batch is paused or being cancelled."""
        if (await self._batch()).control is not Control.RUN:
            raise WorkStopped(self._image.batch)

    def _note_call(self, step: Step, usage: Usage, started: float) -> None:
        """Add the call to the image's bill. A call whose vendor reports no usage is billed as a usual one."""
        duration = self._elapsed_ms(started)
        self.measured(step.name, duration)
        if not usage.reported:
            log.warning("%s did not say what a call used: counted as a usual %s", usage.model, step.name)
        call = decisions.money.call_of(step.name, usage, step.usual, self._tools.settings.prices, duration)
        self._calls.append(call)
        tell(log, LogEvent.STEP, step=step.name, model=call.model, durationMs=duration,
             costUsd=decisions.money.usd(call.cost_micro_usd))  # fmt: skip

    async def keep(self, checkpoint: Checkpoint, picture: bytes | None) -> None:
        """Keep the checkpoint. A new `picture` is stored before the checkpoint that names it.

        Without a picture nothing is written now: the checkpoint is stored with the next change of the image.
        """
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
        """Return the picture of the checkpoint; None if it names none or its object is missing."""
        if self.checkpoint.picture is None:
            return None
        found = await self._tools.objects.get(self._tools.settings.buckets.work, self.checkpoint.picture)
        return found[1] if found else None

    @asynccontextmanager
    async def waiting(self, entry: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Enter `entry`, counting the time until it opens as waiting and not as work."""
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
        """Add to a step's duration; a repeated step counts in total."""
        self._durations[step] = self._durations.get(step, 0) + duration_ms
