"""The vendor's moods of the field: the real adapter and the three agents against a server that has them."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

from shared.adapters.google.gemini import GeminiModel
from shared.errors import ConfigurationError, WorldError
from shared.model import Checkpoint
from shared.ports import Answer, Finished, Photo, Request, Step
from shared.settings import Gemini, PhotoLimits, Settings, StagingRules
from shared.staging import pictures
from shared.staging.agents import Agents
from tests.field import picture_parts
from tests.field.servers import HERE

LIMITS = PhotoLimits()


class StepRunner:
    """Pays for everything."""

    def __init__(self) -> None:
        self.checkpoint = Checkpoint()
        self.bought: list[str] = []

    async def buy(self, step: Step, call: Callable[[], Awaitable[Answer[Any]]]) -> Any:
        self.bought.append(step.name)
        return (await call()).value

    async def keep(self, checkpoint: Checkpoint, picture: bytes | None) -> None:
        self.checkpoint = checkpoint

    async def kept_picture(self) -> bytes | None:
        return None

    async def picture_work(self, step: str, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work()

    def measured(self, step: str, duration_ms: int) -> None:
        """Not asked for here."""


class Direct:
    """`Pictures` in this process."""

    async def normalise(self, data: bytes) -> Photo:
        return pictures.normalise(data, LIMITS)

    async def framed(self, photo: Photo) -> Photo:
        return pictures.framed(photo, LIMITS)

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        return pictures.finish(picture, photo, LIMITS)


class Vendor:
    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._process = process

    def calls(self) -> list[dict[str, Any]]:
        """What it was asked, once it has been stopped."""
        self._process.kill()
        assert self._process.stdout is not None
        return [json.loads(line) for line in self._process.stdout]


@contextmanager
def vendor(case: str) -> Iterator[Vendor]:
    command = [sys.executable, str(HERE / "vendor.py"), case]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Vendor(int(process.stdout.readline()), process)
        finally:
            process.kill()


def staged(at: Vendor, runner: StepRunner) -> Finished:
    async def main() -> Finished:
        model = GeminiModel("any-key", Settings(gemini=Gemini(base_url=at.address)))
        try:
            photo = pictures.normalise(picture_parts.jpeg(picture_parts.scene(1200, 900)), LIMITS)
            request = Request(room_type="living_room", design_style="modern")
            return await Agents(model, Direct(), StagingRules()).stage(photo, request, runner)
        finally:
            await model.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("case", "bought"),
    [
        ("sound", ["analyse", "generate", "verify"]),
        ("fenced", ["analyse", "generate", "verify"]),
        ("refused-once", ["analyse", "generate", "generate", "verify"]),
        ("blocked-other-once", ["analyse", "generate", "generate", "verify"]),
        ("square-once", ["analyse", "generate", "generate", "verify"]),
    ],
)
def test_it_is_staged_all_the_same(case: str, bought: list[str]) -> None:
    runner = StepRunner()
    with vendor(case) as at:
        finished = staged(at, runner)
        calls = at.calls()
    assert runner.bought == bought == [call["step"] for call in calls]
    with Image.open(io.BytesIO(finished.jpeg)) as picture:
        rgb = picture.convert("RGB")
        edges = [
            rgb.getpixel((x * rgb.width // 100, y * rgb.height // 100))
            for x, y in ((2, 50), (97, 50), (50, 3), (50, 96))
        ]
    assert edges[0][0] > 180 and edges[1][2] > 180 and edges[2][1] > 160 and edges[3][0] > 180, "nothing was cut away"
    for call in calls:
        if call["step"] != "generate":
            assert call["config"]["maxOutputTokens"] == Gemini().max_text_tokens


def test_spent_credits_are_our_configurations_fault() -> None:
    with vendor("credits-spent") as at, pytest.raises(ConfigurationError, match="credits"):
        staged(at, StepRunner())


def test_an_outage_is_the_worlds() -> None:
    """That it spends no attempt is shown in tests/rooms and in the simulation, on virtual time."""
    with vendor("outage") as at, pytest.raises(WorldError):
        staged(at, StepRunner())
