"""The whole pipeline on Google's emulators: what a CRM drops and receives, and what kills cannot break.

One stack per test: each kills or misuses its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ops import remote
from ops.local_stack.router import FaultInjection
from ops.local_stack.stack import PROJECT, Options, Stack
from ops.manifest_file import checked
from ops.target import Target
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.manifest.sources import SourceRules
from shared.messages import structured
from shared.model import Batch, BatchState, Counts, ImageState
from shared.ports import Message
from shared.results import names
from shared.settings import Settings
from shared.topology import DEAD_LETTER_KEPT, EVENTS_SUBSCRIPTION
from tests.contract.google import missing
from tests.e2e.conftest import manifest, photo

BATCH_SECONDS = 240  # a loaded machine takes its time; a hang does not end


# With CI=true their absence is a failure: the tests run, and say what is missing.
pytestmark = pytest.mark.skipif(
    missing() is not None and os.environ.get("CI") != "true", reason=f"not run: {missing()}"
)


class World:
    """A stack with a client of it."""

    def __init__(self, stack: Stack, on_google: wiring.OnGoogle, folder: Path, lines: list[str]) -> None:
        self.stack = stack
        self.folder = folder
        self.lines = lines
        self.queue = on_google.queue
        self.target = Target(on_google.backend, SystemClock(), Settings(), "the stack")

    async def submit(self, path: Path) -> str:
        content = path.read_bytes()
        rules = SourceRules(base=path.parent.as_uri() + "/", folders=(str(path.parent),))
        found, problems = checked(content, path.name, Settings(), rules)
        assert found is not None, problems
        return await remote.submit(self.target, path, content, found, lambda done, total: None)

    async def finished(self, batch_id: str) -> tuple[Batch, Counts]:
        async with asyncio.timeout(BATCH_SECONDS):
            return await remote.watch(self.target, batch_id, lambda batch, counts: None)

    async def settled(self, batch_id: str, at_least: int) -> Counts:
        """Wait until so many images have settled."""
        async with asyncio.timeout(BATCH_SECONDS):
            while True:
                counts = await self.target.backend.store.counts(batch_id)
                if counts.settled >= at_least:
                    return counts
                await asyncio.sleep(0.1)

    async def events(self, last_type: str) -> list[dict[str, Any]]:
        """All events until one of `last_type` has come, as a CRM pulls them."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while last_type not in {event["type"] for event in found}:
                for delivery in await self.queue.pull(EVENTS_SUBSCRIPTION, 100, 2.0):
                    found.append(structured(dict(delivery.attributes), delivery.data))
                    await self.queue.ack(EVENTS_SUBSCRIPTION, [delivery.ack_id])
        return found

    async def check(self, batch_id: str, total: int) -> list[dict[str, Any]]:
        """What must hold of every finished batch; the lines of its results.jsonl."""
        batch, counts = await self.finished(batch_id)
        store = self.target.backend.store
        images = [image async for image in store.images(batch_id)]
        assert [image.index for image in images] == list(range(total)), "an image was lost, or came twice"
        truth = Counter(image.state for image in images)
        assert {state: counts.of(state) for state in ImageState if counts.of(state)} == dict(truth), (
            "the tally is wrong"
        )
        assert counts.open == 0
        assert batch.completion is not None
        assert batch.completion.counts == counts
        got = await self.target.backend.objects.get("results", names.round_folder(batch) + "results.jsonl")
        assert got is not None
        rows = [json.loads(line) for line in got[1].splitlines()]
        assert [row["state"] for row in rows] == [image.state.value for image in images]
        for row in rows:
            if row["state"] == "completed":
                picture = await self.target.backend.objects.stat("results", row["output"])
                assert picture is not None
                assert picture.bytes > 1000
        return rows


@asynccontextmanager
async def world(folder: Path, options: Options) -> AsyncIterator[World]:
    lines: list[str] = []
    stack = Stack(folder / "stack", options, lambda name, text: lines.append(f"{name}: {text}"))
    await stack.start()
    on_google = wiring.google(SystemClock(), Settings(), stack.environment)
    try:
        yield World(stack, on_google, folder, lines)
    except BaseException:
        print("\n".join(line for line in lines if not line.startswith(("pubsub", "firestore")))[-20_000:])
        raise
    finally:
        await on_google.aclose()
        await stack.stop()


def run(folder: Path, options: Options, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world(folder, options) as here:
            await scenario(here)

    asyncio.run(main())


def batch_of(folder: Path, count: int, *extra: str, photos: int = 6, **header: str) -> Path:
    for index in range(min(count, photos)):
        photo(folder / "photos" / f"{index}.jpg", index, size=(320, 240))
    return manifest(folder, [*(f"photos/{index % photos}.jpg" for index in range(count)), *extra], **header)


def test_what_a_crm_drops_and_receives(tmp_path: Path) -> None:
    """Good and bad photos, a rejected manifest, a poisoned message, other objects in the bucket: all on one stack."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/page.jpg").write_text("<html>no photo</html>")

    async def scenario(here: World) -> None:
        objects = here.target.backend.objects
        await objects.put("intake", "manifests/acme/notes.txt", b"no manifest", content_type="text/plain")
        bad = b'{"clientName": "acme", "images": [{"url": "http://x/y.jpg"}]}'
        await objects.put("intake", "manifests/acme/bad.json", bad, content_type="application/json")
        await here.queue.publish("stage-image-normal", [Message(b"poison", {"x": "y"})])
        batch_id = await here.submit(batch_of(tmp_path, 8, "photos/page.jpg", "photos/none.jpg"))
        assert batch_id == "acme.b1"
        rows = await here.check(batch_id, 10)
        assert [row["error"]["code"] for row in rows if row["error"]] == ["not_a_picture", "source_not_found"]
        events = await here.events("ruum.batch.completed")
        kinds = Counter(event["type"] for event in {event["id"]: event for event in events}.values())
        del kinds["ruum.batch.progress"]
        expected = {"ruum.batch.rejected": 2, "ruum.batch.accepted": 1, "ruum.batch.completed": 1}
        assert kinds == expected, "notes.txt, in a client's folder, is answered too"
        completed = next(event for event in events if event["type"] == "ruum.batch.completed")
        assert completed["id"] == "acme.b1/1"
        assert completed["data"]["counts"]["completed"] == 8
        rejected = next(event for event in events if str(event["data"].get("manifest")).endswith("/bad.json"))
        report = await objects.get("results", "manifests/acme/bad.json.errors.json")
        assert report is not None
        assert len(json.loads(report[1])["problems"]) == rejected["data"]["problems"]
        # The letters are kept for operators: the poison and the two failed images.
        letters: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while len({(letter.get("task") or {}).get("index", -1) for letter in letters}) < 3:
                for delivery in await here.queue.pull(DEAD_LETTER_KEPT, 10, 2.0):
                    letters.append(json.loads(delivery.data))
        assert any("unreadable" in letter["message"] for letter in letters)
        # The same content again is the same batch: nothing happens twice.
        assert await here.submit(tmp_path / "batch.json") == batch_id
        assert (await here.check(batch_id, 10)) == rows

    run(tmp_path, Options(), scenario)


def test_every_event_twice_and_shuffled_with_two_subscribers(tmp_path: Path) -> None:
    async def scenario(here: World) -> None:
        batch_id = await here.submit(batch_of(tmp_path, 40))
        rows = await here.check(batch_id, 40)
        assert {row["state"] for row in rows} == {"completed"}
        events = await here.events("ruum.batch.completed")
        assert {event["id"] for event in events if event["type"] == "ruum.batch.completed"} == {"acme.b1/1"}

    run(tmp_path, Options(subscribers=2, faults=FaultInjection(double=True, late_seconds=2.0)), scenario)


def test_kills_in_mid_batch(tmp_path: Path) -> None:
    """A subscriber and each function killed (-9) in mid-batch and started again: nothing lost, nothing counted twice."""

    async def scenario(here: World) -> None:
        store = here.target.backend.store

        async def restarted(door: str) -> None:
            await here.stack.restart_door(door)
            assert (await store.counts(batch_id)).open > 0, "that was no mid-batch"

        await here.stack.kill("dead_letter")  # letters come while it is away
        batch_id = await here.submit(batch_of(tmp_path, 60, "photos/none.jpg", photos=60))
        await here.settled(batch_id, 5)
        await here.stack.kill("subscriber-1")
        await here.stack.start_subscriber("subscriber-3")
        await here.stack.kill("aggregate")
        await restarted("aggregate")
        await restarted("dead_letter")
        rows = await here.check(batch_id, 61)
        assert Counter(row["state"] for row in rows) == {"completed": 60, "failed": 1}
        events = await here.events("ruum.batch.completed")
        assert {event["id"] for event in events if event["type"] == "ruum.batch.completed"} == {"acme.b1/1"}

    slow = {"RUUM_WORKER_IN_FLIGHT": "6"}
    run(tmp_path, Options(subscribers=2, model="gemini", environment=slow, gemini=("--latency", "0.7")), scenario)


def test_ingest_killed_in_mid_manifest(tmp_path: Path) -> None:
    """Killed while images are created: the event comes again, and it goes on where it was."""

    async def scenario(here: World) -> None:
        store, caught = here.target.backend.store, False
        for number in range(1, 11):  # until one is met before its end: it takes a fraction of a second
            submitting = asyncio.create_task(here.submit(batch_of(tmp_path, 30, batchId=f"b{number}")))
            while (batch := await store.batch(f"acme.b{number}")) is None:
                await asyncio.sleep(0.005)
            await here.stack.kill("ingest")
            batch = await store.batch(batch.id)
            assert batch is not None
            caught = batch.state is BatchState.INGESTING
            await here.stack.restart_door("ingest")
            await submitting
            rows = await here.check(batch.id, 30)
            assert all(row["state"] == "completed" for row in rows)
            if caught:
                break
        assert caught

    run(tmp_path, Options(), scenario)


def test_sigterm_stops_a_subscriber_in_time(tmp_path: Path) -> None:
    """It exits 0 within Cloud Run's 10 s, spends no attempt, and another worker goes on at once."""

    async def scenario(here: World) -> None:
        batch_id = await here.submit(batch_of(tmp_path, 30))
        await here.settled(batch_id, 3)
        process = here.stack.processes.running("subscriber-1")
        started = asyncio.get_running_loop().time()
        process.terminate()
        assert await process.wait() == 0
        assert asyncio.get_running_loop().time() - started < 10
        await here.stack.start_subscriber("subscriber-2")
        rows = await here.check(batch_id, 30)
        assert all(row["attempts"] == 1 for row in rows)

    gemini = {"RUUM_WORKER_IN_FLIGHT": "10"}
    run(tmp_path, Options(model="gemini", environment=gemini, gemini=("--latency", "1.0")), scenario)


def test_the_project_is_the_stacks_own() -> None:
    assert PROJECT == "ruum-local", "nothing here may ever reach a real project"
