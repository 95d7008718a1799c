"""kill -9 at random moments of a batch: nothing lost, nothing counted twice, nothing checkpointed bought again."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from pathlib import Path

from ops.gemini_server import GeminiServer, Plan
from ops.local import open_backend
from shared.clock import SystemClock
from shared.model import Batch, Counts, Image
from tests.e2e.conftest import RUUM, clean_environment, manifest, photo

IMAGES = 30
KILLS = 20
IN_FLIGHT = 4


async def read(folder: Path) -> tuple[Batch, list[Image], Counts]:
    backend = open_backend(SystemClock(), folder / "out/.ruum", folder / "out")
    try:
        batch = await backend.store.batch("acme.b1")
        assert batch is not None
        images = [image async for image in backend.store.images("acme.b1")]
        return batch, images, await backend.store.counts("acme.b1")
    finally:
        backend.database.close()


async def kill_and_restart(folder: Path, base_url: str) -> tuple[int, int]:
    """(kills that met a living process, exit code of the last run)."""
    chance = random.Random(20)
    command = [RUUM, "run", "batch.json", "--out", "out", "--model", "gemini", "--max-in-flight", str(IN_FLIGHT)]
    environment = clean_environment(GEMINI_API_KEY="test-key", RUUM_GEMINI_BASE_URL=base_url)
    killed = 0
    for attempt in range(KILLS + 1):
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if attempt == KILLS:
            return killed, await asyncio.wait_for(process.wait(), 120)
        try:
            async with asyncio.timeout(chance.uniform(1.0, 3.0)):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            killed += 1
    raise AssertionError


def test_twenty_kills(tmp_path: Path) -> None:
    for index in range(IMAGES):
        photo(tmp_path / f"{index}.jpg", index, size=(160, 120))
    manifest(tmp_path, [f"{index}.jpg" for index in range(IMAGES)])

    async def scenario() -> tuple[int, int, int]:
        server = GeminiServer(Plan(latency=0.3))
        async with server as base_url:
            killed, code = await kill_and_restart(tmp_path, base_url)
        return killed, code, sum(call.step == "generate" and call.answered for call in server.calls)

    killed, code, generated = asyncio.run(scenario())
    assert killed >= 5, "the batch was over before it could be killed: the test shows nothing"
    batch, images, counts = asyncio.run(read(tmp_path))
    assert code == (0 if counts.failed == 0 else 3)
    assert batch.outcome in ("completed", "completed_with_failures")
    assert counts.settled == IMAGES
    assert counts.open == 0
    for state in ("completed", "failed"):
        assert sum(image.state.value == state for image in images) == getattr(counts, state)
    # A worker that dies three times with the same image in hand is the image's fault, as far as anyone can tell.
    assert {image.error.code for image in images if image.error} <= {"worker_crashed"}
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    assert [event["id"] for event in events if event["type"] == "ruum.batch.completed"] == ["acme.b1/1"]
    for image in images:
        bought = [call.step for call in image.calls]
        assert bought.count("generate") <= 1, (
            f"image {image.index} bought a picture again after its checkpoint: {bought}"
        )
    assert generated <= IMAGES + killed * IN_FLIGHT, "more was bought than the kills can have lost"
