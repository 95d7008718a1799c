"""A staging model that remembers what its vendor last said and what its calls have cost, for `run` to tell."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from shared.answers import Analysis, Verdict
from shared.assembly import wiring
from shared.errors import CodedError, Throttled
from shared.model import Usage
from shared.ports import Answer, Photo, Request, StagingModel
from shared.settings import Settings, cost_micro_usd
from shared.staging.pool import PicturePool

T = TypeVar("T")


class Notes:
    """What the calls of one run came to. `last_fault` is None as long as the last call succeeded."""

    def __init__(self) -> None:
        self.last_fault: str | None = None
        self.cost_micro_usd = 0

    @property
    def cost_usd(self) -> float:
        return self.cost_micro_usd / 1_000_000

    def maker(self, make: wiring.ModelMaker) -> wiring.ModelMaker:
        """The same model, noted here."""

        def made(settings: Settings, pool: PicturePool) -> StagingModel:
            return NotedModel(make(settings, pool), self, settings)

        return made


class NotedModel:
    """Implements `shared.ports.StagingModel` by another one."""

    def __init__(self, model: StagingModel, notes: Notes, settings: Settings) -> None:
        self._model = model
        self._notes = notes
        self._settings = settings

    @property
    def prompts(self) -> str:
        return self._model.prompts

    @property
    def text_model(self) -> str:
        return self._model.text_model

    @property
    def image_model(self) -> str:
        return self._model.image_model

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return await self._noted(self._model.analyse(photo, request))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        return await self._noted(self._model.generate(photo, analysis, request, defects), picture=True)

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        return await self._noted(self._model.verify(photo, picture, analysis, request))

    async def aclose(self) -> None:
        await self._model.aclose()

    async def _noted(self, call: Awaitable[Answer[T]], *, picture: bool = False) -> Answer[T]:
        try:
            answer = await call
        except CodedError as error:
            self._notes.last_fault = error.message
            self._bill(error.usage, picture=picture)
            raise
        except Throttled as error:
            self._notes.last_fault = str(error)
            raise
        self._notes.last_fault = None
        self._bill(answer.usage, picture=picture)
        return answer

    def _bill(self, usage: Usage | None, *, picture: bool) -> None:
        """Add what a call cost. Where the vendor did not say what it used, count a usual call, as the image does."""
        prices = self._settings.prices
        if usage is not None and usage.model in prices:
            usual = self._settings.typical.tokens(picture=picture)
            tokens = (usage.input_tokens, usage.output_tokens) if usage.told else usual
            self._notes.cost_micro_usd += cost_micro_usd(prices, usage.model, *tokens)
