"""Fakes at the ports: a model, pictures and a source that do as they are told."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from ops.noop import ANALYSIS, GOOD
from shared.answers import Analysis, Verdict
from shared.model import Usage
from shared.ports import Answer, Finished, ModelSpec, Photo, Request, Step

TEXT, IMAGE = "text-model", "image-model"
BAD = Verdict(structure_kept=0.2, realism=0.9, style_fit=0.9, defects=["sofa floats", "window walled up"])
USAGE = {"analyse": Usage(TEXT, 100, 10), "generate": Usage(IMAGE, 200, 1000), "verify": Usage(TEXT, 300, 20)}
COST = {"analyse": 120, "generate": 40_600, "verify": 340}  # of these, in millionths of a dollar


class Scripted:
    """Steps that are told what to do: the next entry of a step's script is raised, awaited, or answered."""

    def __init__(self) -> None:
        self.script: dict[str, list[Any]] = {}
        self.calls: list[str] = []
        self.inside = 0
        self.max_inside = 0

    def will(self, step: str, *entries: Any) -> None:
        """What the next calls of `step` do: an exception is raised, a callable awaited, None is the usual, else a value."""
        self.script.setdefault(step, []).extend(entries)

    async def _meet(self, step: str, usual: Any) -> Any:
        self.calls.append(step)
        script = self.script.get(step)
        entry = script.pop(0) if script else None
        self.inside += 1
        self.max_inside = max(self.max_inside, self.inside)
        try:
            if isinstance(entry, BaseException):
                raise entry
            if callable(entry):
                entry = await entry()
            return usual if entry is None else entry
        finally:
            self.inside -= 1


def spec(text: str = TEXT, image: str = IMAGE, prompts: str = "v-test") -> ModelSpec:
    """The usual three calls, of these two models."""
    usual = {"analyse": text, "generate": image, "verify": text}
    return ModelSpec("fake", prompts, tuple(Step(name, Usage(model)) for name, model in usual.items()))


class Model(Scripted):
    """A `StagingModel`: every picture it makes is another one; `defects` are those each generation was told."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = spec()
        self.usage = dict(USAGE)
        self.defects: list[tuple[str, ...]] = []
        self.verified: list[bytes] = []
        self._made = 0

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return Answer(await self._meet("analyse", ANALYSIS), self.usage["analyse"])

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        self.defects.append(tuple(defects))
        self._made += 1
        return Answer(await self._meet("generate", b"raw %d" % self._made), self.usage["generate"])

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        self.verified.append(picture)
        return Answer(await self._meet("verify", GOOD), self.usage["verify"])


class PictureWorks(Scripted):
    """`Pictures` that only mark the bytes."""

    async def normalise(self, data: bytes) -> Photo:
        photo = Photo(jpeg=b"photo of " + data, width=4, height=3, sha256=hashlib.sha256(data).hexdigest())
        return await self._meet("normalise", photo)

    async def framed(self, photo: Photo) -> Photo:
        return await self._meet("framed", photo)

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        jpeg = b"finished " + picture
        digest = hashlib.sha256(jpeg).hexdigest()
        finished = Finished(jpeg=jpeg, thumbnail=b"thumb", before=b"before", width=4, height=3, sha256=digest)
        return await self._meet("finish", finished)


class Source(Scripted):
    """An `ImageSource`: the address itself is the photo."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[str] = []

    async def fetch(self, uri: str, client: str) -> bytes:
        self.clients.append(client)
        return await self._meet("fetch", uri.encode())


class Fakes:
    """The fakes that workers share, as they share the world outside."""

    def __init__(self) -> None:
        self.model = Model()
        self.pictures = PictureWorks()
        self.source = Source()

    def of(self, step: str) -> Scripted:
        """The fake that a step belongs to."""
        if step == "fetch":
            return self.source
        return self.pictures if step in ("normalise", "framed", "finish") else self.model

    def will(self, step: str, *entries: Any) -> None:
        self.of(step).will(step, *entries)

    @property
    def bought(self) -> list[str]:
        """The paid calls so far, by step."""
        return self.model.calls


STEPS = ("fetch", "normalise", "analyse", "generate", "finish", "verify")


class Stall:
    """A step that does not go on until it is told to; then it raises `error`, or does as usual."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error = error

    async def __call__(self) -> None:
        self.reached.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
