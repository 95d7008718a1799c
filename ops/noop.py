"""Parts that do nothing and return at once, to measure everything else. Only benchmarks and tests use them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from shared.answers import Analysis, Light, Point, Verdict
from shared.model import Usage
from shared.ports import Answer, Finished, ModelSpec, Photo, Request, Step

NAME: Final = "preview"  # free, as the preview model is

ANALYSIS: Final = Analysis(
    summary="an empty room",
    floor=[Point(x=0, y=1), Point(x=0.5, y=0.6), Point(x=1, y=1)],
    vanishing_point=Point(x=0.5, y=0.5),
    openings=[],
    light=Light(direction="diffuse", brightness=0.5, temperature_kelvin=5000),
    palette=["#ffffff"],
    must_not_change=[],
)
GOOD: Final = Verdict(structure_kept=1, realism=1, style_fit=1, defects=[])


async def _no_latency(step: str) -> None:
    """Answer every call at once."""


class NoopModel:
    """Implements `shared.ports.StagingModel`. `latency` is awaited in each call; `calls` counts them by step."""

    def __init__(self, latency: Callable[[str], Awaitable[None]] = _no_latency, picture: bytes = b"picture") -> None:
        self.calls: Counter[str] = Counter()
        self._latency = latency
        self._picture = picture

    @property
    def spec(self) -> ModelSpec:
        steps = tuple(Step(name, Usage(NAME)) for name in ("analyse", "generate", "verify"))
        return ModelSpec("noop", "noop", steps, free=True, local=True)

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        self.calls["analyse"] += 1
        await self._latency("analyse")
        return Answer(ANALYSIS, Usage(NAME))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        self.calls["generate"] += 1
        await self._latency("generate")
        return Answer(self._picture, Usage(NAME))

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        self.calls["verify"] += 1
        await self._latency("verify")
        return Answer(GOOD, Usage(NAME))

    async def aclose(self) -> None:
        """Nothing is open."""


class NoopPictures:
    """Implements `shared.ports.Pictures` without looking at the bytes."""

    async def normalise(self, data: bytes) -> Photo:
        return Photo(jpeg=data, width=4, height=3, sha256=hashlib.sha256(data).hexdigest())

    async def framed(self, photo: Photo) -> Photo:
        return photo

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        digest = hashlib.sha256(picture).hexdigest()
        return Finished(jpeg=picture, thumbnail=b"small", before=b"small", width=4, height=3, sha256=digest)


class NoopSource:
    """Implements `shared.ports.ImageSource`: every address leads to the same few bytes."""

    async def fetch(self, uri: str, client: str) -> bytes:
        return b"photo"
