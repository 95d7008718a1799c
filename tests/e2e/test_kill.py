"""kill -9 at random moments of a batch: nothing lost, nothing counted twice, nothing checkpointed bought again."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

from ops.local import open_backend
from ops.local_stack.gemini_server import Call, GeminiServer, Plan, Request, read_ask
from shared.adapters.system_clock import SystemClock
from shared.model import SETTLED_STATES, Batch, Counts, Image, ImageState
from shared.settings import PhotoLimits
from shared.staging.pictures import normalise
from tests.e2e.conftest import RUUM, clean_environment, manifest, photo, ruum

IMAGES = 44
KILLS = 20
IN_FLIGHT = 4
LATENCY_SECONDS = 0.12
MAX_CALLS = 16  # that a life has before it is killed: those of about five images
PREVIEWS = 60
KILLS_OF_PREVIEWS = int(os.environ.get("RUUM_TEST_KILLS", "20"))
LIFE_SECONDS = 0.8  # that a life works at most, until it is killed: about what a preview takes
SETTINGS = {
    "RUUM_LIMITS": json.dumps(dict.fromkeys(("gemini-nano-banana-2.1", "gemini-3.5-flash-lite"), {})),  # no waiting
    "RUUM_PHOTO_SUBPROCESSES": "1",  # a start takes half of its time for each
}


class Recording(GeminiServer):
    """Knows each call's photo, and by its key which life of the killed process made it, however late it is read."""

    def __init__(self, photos: dict[bytes, int]) -> None:
        super().__init__(Plan(latency=LATENCY_SECONDS))
        self.record: list[tuple[int, str, int]] = []  # (life, step, image), as they came
        self._photos = photos
        self._came = asyncio.Event()

    def begin(self, life: int) -> str:
        """The key of the next life; others are refused from now on."""
        self.plan.key = f"life-{life}"
        return self.plan.key

    async def _generate(self, call: Call, request: Request) -> bytes:
        ask = read_ask(request.body)
        life = int(request.headers["x-goog-api-key"].removeprefix("life-"))
        self.record.append((life, ask.step, self._photos[base64.urlsafe_b64decode(ask.picture)]))
        self._came.set()
        return await super()._generate(call, request)

    async def made(self, life: int, count: int) -> None:
        """Return when the life has made so many calls."""
        while sum(of == life for of, _, _ in self.record) < count:
            self._came.clear()
            await self._came.wait()


async def read(folder: Path, data: Path) -> tuple[Batch, list[Image], Counts]:
    backend = open_backend(SystemClock(), data, folder / "out")
    try:
        batch = await backend.store.batch("acme.b1")
        assert batch is not None
        images = [image async for image in backend.store.images("acme.b1")]
        return batch, images, await backend.store.counts("acme.b1")
    finally:
        backend.database.close()


async def kill_and_restart(folder: Path, server: Recording, base_url: str) -> tuple[int, list[list[Image]]]:
    """(exit code of the last life, the images as each kill left them)."""
    chance = random.Random(20)
    command = [RUUM, "run", "batch.json", "--out", "out", "--model", "gemini", "--max-in-flight", str(IN_FLIGHT)]
    left: list[list[Image]] = []
    for life in range(KILLS + 1):
        environment = clean_environment(GEMINI_API_KEY=server.begin(life), RUUM_GEMINI_BASE_URL=base_url, **SETTINGS)
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ended = asyncio.create_task(process.wait())
        try:
            if life == KILLS:
                return await asyncio.wait_for(ended, 120), left
            made = asyncio.create_task(server.made(life, chance.randint(1, MAX_CALLS)))
            await asyncio.wait((made, ended), timeout=120, return_when=asyncio.FIRST_COMPLETED)
            assert made.done(), f"life {life} made too few calls to be killed among them"
            await asyncio.sleep(chance.uniform(0, LATENCY_SECONDS))
        finally:
            if process.returncode is None:
                process.kill()
        assert await ended == -signal.SIGKILL
        # A copy, for whoever opens the database tidies up what the kill left.
        copy = shutil.copytree(folder / "out/.ruum", folder / f"kill-{life}")
        left.append((await read(folder, copy))[1])
    raise AssertionError


def test_twenty_kills(tmp_path: Path) -> None:
    photos: dict[bytes, int] = {}
    for index in range(IMAGES):
        photo(tmp_path / f"{index}.jpg", index, size=(160, 120))
        photos[normalise((tmp_path / f"{index}.jpg").read_bytes(), PhotoLimits()).jpeg] = index
    assert len(photos) == IMAGES
    manifest(tmp_path, [f"{index}.jpg" for index in range(IMAGES)])

    async def scenario() -> tuple[int, list[list[Image]], list[tuple[int, str, int]]]:
        server = Recording(photos)
        async with server as base_url:
            code, left = await kill_and_restart(tmp_path, server, base_url)
        return code, left, server.record

    code, left, record = asyncio.run(scenario())
    assert len(left) == KILLS
    batch, images, counts = asyncio.run(read(tmp_path, tmp_path / "out/.ruum"))
    assert code == 0
    assert batch.outcome == "completed"
    assert counts == Counts(completed=IMAGES)
    no_image_was_blamed(images)
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    assert [event["id"] for event in events if event["type"] == "ruum.batch.completed"] == ["acme.b1/1"]
    nothing_bought_again(left, record)
    for image in images:
        bought = [call.step for call in image.calls]
        assert bought.count("generate") == (image.checkpoint is not None), f"image {image.index}: {bought}"


def no_image_was_blamed(images: list[Image]) -> None:
    """A kill is nobody's fault: every image is staged, and no attempt was spent."""
    assert {
        image.index: (image.state, image.error) for image in images if image.state is not ImageState.COMPLETED
    } == {}
    assert {image.index for image in images if image.attempts} == set()


def test_kills_at_any_moment_blame_no_image(tmp_path: Path) -> None:
    """Kills within seconds of each other, each at a random moment, as on a machine with too little memory."""
    chance = random.Random(KILLS_OF_PREVIEWS)
    for index in range(PREVIEWS):
        photo(tmp_path / f"{index}.jpg", index, size=(320, 240))
    manifest(tmp_path, [f"{index}.jpg" for index in range(PREVIEWS)])
    command = [RUUM, "run", "batch.json", "--out", "out", "--model", "preview"]
    environment = clean_environment(RUUM_PHOTO_SUBPROCESSES="1", RUUM_WORKER_PROGRESS_SECONDS="0.1")
    for kill in range(KILLS_OF_PREVIEWS):
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                assert any("finished" in line for line in process.stderr), f"life {kill} did not begin to work"
                with suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, LIFE_SECONDS))
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL, "the batch was done before the last kill"
    done = ruum(*command[1:], cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    batch, images, counts = asyncio.run(read(tmp_path, tmp_path / "out/.ruum"))
    assert batch.outcome == "completed"
    assert counts == Counts(completed=PREVIEWS)
    no_image_was_blamed(images)
    assert any(image.trials.passed for image in images), "no image met two kills"


def nothing_bought_again(left: list[list[Image]], record: list[tuple[int, str, int]]) -> None:
    """By the server's record of calls, against what the database knew as bought at each kill."""
    bought = Counter((life, image) for life, step, image in record if step == "generate")
    assert max(bought.values()) == 1, "a life bought a picture twice"
    kept = [{image.index for image in images if image.checkpoint and image.checkpoint.picture} for images in left]
    settled = [{image.index for image in images if image.state in SETTLED_STATES} for images in left]
    verified = set()
    for life, step, image in record:
        if life > 0:
            assert image not in settled[life - 1], f"life {life}: {step} for image {image}, which was settled"
            assert image not in kept[life - 1] or step == "verify", (
                f"life {life}: {step} after image {image}'s checkpoint"
            )
        assert step == "verify" or image not in verified, f"life {life}: {step} for image {image}, verified before"
        if step == "verify":
            verified.add(image)
    # So only what a kill lost can have been bought again, and what it lost was in flight: in a worker's hand, in a slot.
    lost = [{image for of, image in bought if of == life} - kept[life] for life in range(KILLS)]
    for life, images in enumerate(left):
        assert lost[life] <= {image.index for image in images if image.claim}, f"kill {life}"
        assert len(lost[life]) <= IN_FLIGHT, f"kill {life}"
    assert any(lost), "no kill met a picture being bought"
    assert any(kept[life] - settled[life] for life in range(KILLS)), "no kill met a picture bought and not yet settled"
