"""Remember what a staging model's vendor last said and what its calls have cost, for `run` to show."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from shared import decisions
from shared.answers import Analysis, Verdict
from shared.assembly import wiring
from shared.errors import CodedError, Throttled
from shared.model import Usage
from shared.ports import Answer, ModelSpec, Photo, Request, StagingModel
from shared.settings import Settings
from shared.staging.pool import PicturePool

T = TypeVar("T")


class Notes:
    """What the calls of one run have cost, and the last fault. `last_fault` is None after a call that succeeded."""

    def __init__(self) -> None:
        self.last_fault: str | None = None
        self.cost_micro_usd = 0

    @property
    def cost_usd(self) -> float:
        return decisions.money.usd(self.cost_micro_usd)

    def maker(self, make: wiring.ModelMaker) -> wiring.ModelMaker:
        """Wrap a model's maker, so that the model's calls are noted here."""

        def made(settings: Settings, pool: PicturePool) -> StagingModel:
            return NotedModel(make(settings, pool), self, settings)

        return made


class NotedModel:
    """Implements `shared.ports.StagingModel` by calling another one, and notes faults and costs."""

    def __init__(self, model: StagingModel, notes: Notes, settings: Settings) -> None:
        self._model = model
        self._notes = notes
        self._settings = settings

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return await self._noted("analyse", self._model.analyse(photo, request))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        return await self._noted("generate", self._model.generate(photo, analysis, request, defects))

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        return await self._noted("verify", self._model.verify(photo, picture, analysis, request))

    async def aclose(self) -> None:
        await self._model.aclose()

    async def _noted(self, step: str, call: Awaitable[Answer[T]]) -> Answer[T]:
        try:
            answer = await call
        except CodedError as error:
            self._notes.last_fault = error.message
            self._bill(step, error.usage)
            raise
        except Throttled as error:
            self._notes.last_fault = str(error)
            raise
        self._notes.last_fault = None
        self._bill(step, answer.usage)
        return answer

    def _bill(self, step: str, usage: Usage | None) -> None:
        """Add the cost of a call, computed as for the image's own record."""
        prices = self._settings.prices
        if usage is not None and usage.model in prices:
            call = decisions.money.call_of(step, usage, self.spec.step(step).usual, prices, duration_ms=0)
            self._notes.cost_micro_usd += call.cost_micro_usd
