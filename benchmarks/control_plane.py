"""Measure the control plane alone: the embedded backend on files, with a model and pictures that do nothing.

    python benchmarks/control_plane.py [--images 1000] [--in-flight 50] [--objects files|database]

`--objects database` keeps the no-op pictures in the SQLite file. Four files per image would measure the file system,
and the queues without a ledger that this is compared with write none.

Prints images per second, CPU per image (of this whole process), peak memory, and database operations per image by
kind, from the manifest's ingest to the batch's completion event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from ops.noop import NoopModel, NoopPictures, NoopSource
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.manifest.sources import SourceRules
from shared.messages import ImageChanged, decode
from shared.model import BatchState
from shared.ports import Delivery, StoredObject
from shared.settings import ManifestLimits, Settings, WorkerLimits
from shared.topology import CHANGES_TOPIC, EVENTS_SUBSCRIPTION
from shared.worker.heartbeat import Heartbeat
from shared.worker.subscriber import Subscriber, consume


def manifest_of(images: int) -> bytes:
    """Return a manifest with `images` photos."""
    header = {"clientName": "bench", "designStyle": "modern", "roomType": "bedroom", "cache": False}
    lines = [header, *({"url": f"photos/{index}.jpg", "propertyCode": f"APT-{index}"} for index in range(images))]
    return b"\n".join(json.dumps(line).encode() for line in lines)


def rules_of(_: StoredObject) -> SourceRules:
    """Return rules that allow paths beside the manifest."""
    return SourceRules(base="file:///photos/")


async def measure(images: int, in_flight: int, folder: Path, *, files: bool = True) -> dict[str, object]:
    """Run one batch. Returns the figures."""
    clock = SystemClock()
    settings = Settings(
        manifest=ManifestLimits(max_images=1_000_000, max_bytes=1 << 30), worker=WorkerLimits(in_flight=in_flight)
    )
    folders = {name: folder / name for name in ("intake", "work", "results")} if files else None
    embedded = wiring.embedded(clock, folder / "bench.sqlite", folders)
    rooms = wiring.rooms(embedded.backend, clock, settings, rules_of, folder_is_client=True)
    heartbeat = Heartbeat(embedded.store, clock, settings.worker.heartbeat_seconds)
    room = wiring.stage_image(
        embedded.backend,
        clock,
        settings,
        heartbeat=heartbeat,
        source=NoopSource(),
        pictures=NoopPictures(),
        model=NoopModel(),
    )
    stop, closed = asyncio.Event(), asyncio.Event()

    async def changed(delivery: Delivery) -> None:
        await rooms.aggregate.handle(decode(ImageChanged, delivery.data))

    async def event(delivery: Delivery) -> None:
        if delivery.attributes["ce-type"] == "ruum.batch.completed":
            closed.set()

    name = "manifests/bench/bench.jsonl"
    await embedded.objects.put("intake", name, manifest_of(images), content_type="application/jsonl")
    started, cpu = time.perf_counter(), time.process_time()
    await heartbeat.beat()
    batch = await rooms.ingest.handle("intake", name)
    ingested = time.perf_counter() - started
    subscriber = Subscriber(embedded.queue, room.handle, clock, settings.worker)
    working = asyncio.create_task(subscriber.run(stop, 5.0))
    loops = [
        asyncio.create_task(consume(embedded.queue, CHANGES_TOPIC, changed, max_messages=200, clock=clock)),
        asyncio.create_task(consume(embedded.queue, EVENTS_SUBSCRIPTION, event, max_messages=10, clock=clock)),
    ]
    await closed.wait()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    stop.set()
    await working
    for loop in loops:
        loop.cancel()
    if batch is None or (done := await embedded.store.batch(batch.id)) is None or done.state is not BatchState.CLOSED:
        raise RuntimeError("the batch did not close")
    if done.completion is None or done.completion.counts.completed != images:
        raise RuntimeError(f"not all completed: {done.completion}")
    operations = {kind: round(count / images, 2) for kind, count in sorted(embedded.database.operations.items())}
    embedded.database.close()
    return {
        "images": images,
        "objects": "files" if files else "database",
        "imagesPerSecond": round(images / seconds),
        "cpuMsPerImage": round(cpu_seconds * 1000 / images, 3),
        "ingestSeconds": round(ingested, 2),
        "peakMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "operationsPerImage": operations,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--objects", choices=("files", "database"), default="files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(given.images, given.in_flight, Path(folder), files=given.objects == "files"))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
