"""The three agents in sequence: analyse the room, generate the furnished picture, verify it.

A picture that is not good is generated again. The caller is a `StepRunner`, which pays for calls and keeps paid work
safe.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from shared.answers import Analysis, Verdict
from shared.decisions.image import PictureStep
from shared.errors import AnswerRefused, ErrorCode, ImageRejected, WrongShape
from shared.model import Checkpoint
from shared.ports import Answer, Finished, ModelSpec, Photo, Pictures, Request, StagingModel, Step
from shared.settings import StagingRules
from shared.staging.shapes import frame

T = TypeVar("T")

MAX_DEFECTS = 8  # named to the next generation: more would drown the request for the room itself


class StepRunner(Protocol):
    """What the agents need of their caller."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Paid work of earlier attempts."""

    async def buy(self, step: Step, call: Callable[[], Awaitable[Answer[T]]]) -> T:
        """Make a paid call once quota and batch allow it, and record its cost."""

    async def keep(self, checkpoint: Checkpoint, picture: bytes | None) -> None:
        """Keep paid work safe before continuing. `picture` is a newly generated one."""

    async def kept_picture(self) -> bytes | None:
        """Return the picture of the checkpoint, if it still exists."""

    async def picture_work(self, step: PictureStep, work: Callable[[], Awaitable[T]]) -> T:
        """Run work that decodes or writes a picture, and record that it runs: it may crash the process."""

    def measured(self, step: str, duration_ms: int) -> None:
        """Record how long a step took."""


class Agents:
    """Stages one photo at a time; holds no state between photos."""

    def __init__(self, model: StagingModel, pictures: Pictures, rules: StagingRules) -> None:
        self._model = model
        self._pictures = pictures
        self._rules = rules

    @property
    def spec(self) -> ModelSpec:
        """The model in use: its calls, and the version of its prompts."""
        return self._model.spec

    async def stage(self, photo: Photo, request: Request, runner: StepRunner) -> Finished:
        """Return the verified picture.

        Raises `ImageRejected` when no generation is good enough (quality_rejected), or when the vendor refuses every
        answer.
        """
        analysis = await self._analysis(photo, request, runner)
        kept = await runner.kept_picture()
        finished = await self._finished(kept, photo, runner, runner.checkpoint) if kept is not None else None
        while True:
            if finished is None:
                finished = await self._generated(photo, analysis, request, runner)
            if finished is None:
                continue
            verify = partial(self._model.verify, photo, finished.jpeg, analysis, request)
            verdict = await self._bought(runner, "verify", verify)
            defects = self.defects(verdict)
            if not defects:
                return finished
            await self._reject(runner, defects)
            finished = None

    async def _bought(self, runner: StepRunner, name: str, call: Callable[[], Awaitable[Answer[T]]]) -> T:
        """Buy an answer. One that the vendor's filter refuses is asked for again, up to `max_refusals`."""
        while True:
            try:
                return await runner.buy(self.spec.step(name), call)
            except AnswerRefused as refused:
                refusals = runner.checkpoint.refusals + 1
                await runner.keep(msgspec.structs.replace(runner.checkpoint, refusals=refusals), None)
                if refusals >= self._rules.max_refusals:
                    message = f"{refused.message}, as it did with {refusals} answers"
                    raise ImageRejected(refused.code, message) from None

    async def _analysis(self, photo: Photo, request: Request, runner: StepRunner) -> Analysis:
        if runner.checkpoint.analysis is not None:
            return Analysis.model_validate_json(runner.checkpoint.analysis)
        analysis = await self._bought(runner, "analyse", lambda: self._model.analyse(photo, request))
        # Stored with the next write only: an analysis is too cheap for a write of its own.
        await runner.keep(msgspec.structs.replace(runner.checkpoint, analysis=analysis.model_dump_json()), None)
        return analysis

    async def _generated(
        self, photo: Photo, analysis: Analysis, request: Request, runner: StepRunner
    ) -> Finished | None:
        """Buy a picture, check that it can be used, and only then keep it.

        None if it has another shape than the photo.
        """
        shown = photo
        if frame(photo.width, photo.height) is not None:
            shown = await runner.picture_work(PictureStep.FRAME, partial(self._pictures.framed, photo))
        defects = runner.checkpoint.defects
        generate = partial(self._model.generate, shown, analysis, request, defects)
        raw = await self._bought(runner, "generate", generate)
        bought = msgspec.structs.replace(runner.checkpoint, generations=runner.checkpoint.generations + 1)
        finished = await self._finished(raw, photo, runner, bought)
        if finished is not None:
            await runner.keep(bought, raw)
        return finished

    async def _finished(self, raw: bytes, photo: Photo, runner: StepRunner, bought: Checkpoint) -> Finished | None:
        """Return the picture as it would be published.

        None if it does not have its photo's shape, which counts as a defect like any other.
        """
        try:
            return await runner.picture_work(PictureStep.FINISH, partial(self._pictures.finish, raw, photo))
        except WrongShape as error:
            await runner.keep(bought, None)
            await self._reject(runner, (f"the picture has the wrong shape: {error.message}",))
            return None

    async def _reject(self, runner: StepRunner, defects: tuple[str, ...]) -> None:
        """Pass the defects to the next generation; raise `ImageRejected` if none is left."""
        bought = runner.checkpoint.generations
        if bought >= self._rules.max_generations:
            message = f"{bought} pictures failed verification; the last: {'; '.join(defects)}"
            raise ImageRejected(ErrorCode.QUALITY_REJECTED, message[:500])
        await runner.keep(msgspec.structs.replace(runner.checkpoint, picture=None, defects=defects), None)

    def defects(self, verdict: Verdict) -> tuple[str, ...]:
        """Return why a picture is not good enough, in words for the next generation; empty if it is."""
        low = [
            f"{name} scored {math.floor(score * 100) / 100:.2f}, needs {least:.2f}"
            for name, score, least in (
                ("structure kept", verdict.structure_kept, self._rules.min_structure_kept),
                ("realism", verdict.realism, self._rules.min_realism),
                ("style fit", verdict.style_fit, self._rules.min_style_fit),
            )
            if score < least
        ]
        return (*low, *verdict.defects)[:MAX_DEFECTS] if low else ()
