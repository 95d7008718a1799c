"""Compare the naive design with ours on the same emulators and sizes: how fast, how exact, and where it breaks.

    python benchmarks/naive.py [--images 100 1000 2500 5000 10000] [--duplicates 0.1] [--max-seconds 180] [--only ours]

The naive design: one document per batch that holds the counters (Increment) and the array of images, one message per
image, all messages handled at once, no quota, no claims, no compare-and-set. The comparison is fair to it:

- a no-op model like ours, asyncio clients, no HTTP between its parts, and one object per image (ours writes four);
- blind writes: with ten writers, a transaction that reads and writes the document commits 0.13 times a second;
- an array that grows by ArrayUnion as images complete, and leases of ten minutes;
- to see whether the batch is done, it reads only the counters.

Each size runs once with single messages and once with a share of them doubled, as Pub/Sub may deliver them. Prints
images per second to the first completion event, the counters beside the true ones, completion events, the maximum of
model calls at once, and what broke. Ours is the whole stack of benchmarks/stack.py, doors included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from typing import Any, Final

import msgspec
from google.api_core import exceptions
from google.cloud.firestore import ArrayUnion, AsyncClient, Increment
from stack import Bench, bench, close, manifest_of, whole

from ops import errors
from ops.local_stack.stack import PROJECT
from shared.adapters.google import clients
from shared.adapters.google.queue import PubSubQueue
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.errors import RuumError
from shared.ports import Delivery, Message
from shared.settings import Settings

TOPIC: Final = "naive-images"
QUIET_PULLS: Final = 2  # after this many empty pulls of two seconds each, nothing more is expected
WARM: Final = 300  # images of a batch before the measured one, as in ours
COUNTERS: Final = ("total", "queued", "processing", "completed", "failed")


class Naive:
    """The naive design's two functions."""

    def __init__(self, db: AsyncClient, queue: PubSubQueue, on_google: wiring.OnGoogle, batch: str) -> None:
        self._queue = queue
        self._objects = on_google.objects
        self._document = db.collection("naive").document(batch)
        self.started = 0.0
        self.first_completion: float | None = None
        self.completions = 0
        self.handled: set[int] = set()
        self.deliveries = 0
        self.at_once = 0
        self.max_at_once = 0
        self.broken: Counter[str] = Counter()

    async def ingest(self, manifest: bytes, duplicates: float) -> None:
        """Write the document and publish one message per image, some of them twice."""
        header, *lines = manifest.splitlines()
        total = len(lines)
        self.started = time.perf_counter()
        counters = {"total": total, "queued": total, "processing": 0, "completed": 0, "failed": 0}
        await self._document.set({**json.loads(header), **counters, "images": []})
        tasks = [Message(json.dumps({"index": i, **json.loads(line)}).encode()) for i, line in enumerate(lines)]
        every = round(1 / duplicates) if duplicates else total + 1
        await self._queue.publish(TOPIC, [*tasks, *tasks[every - 1 :: every]])

    async def handle(self, delivery: Delivery) -> None:
        """Handle one image: three blind writes on the batch, and a read to see whether it was the last."""
        task = json.loads(delivery.data)
        self.deliveries += 1
        try:
            await self._document.update({"queued": Increment(-1), "processing": Increment(1)})
            await self._model()
            name = f"naive/{task['index']}-{task['propertyCode']}.jpg"
            await self._objects.put("results", name, b"picture", content_type="image/jpeg")
            await self._document.update({"images": ArrayUnion([self._record(task, name)])})
            await self._document.update({"processing": Increment(-1), "completed": Increment(1)})
            seen = (await self._document.get(field_paths=["total", "completed", "failed"])).to_dict() or {}
        except (exceptions.GoogleAPIError, RuumError, ValueError) as error:
            self.broken[f"{type(error).__name__}: {str(error)[:90]}"] += 1
            if isinstance(error, exceptions.InvalidArgument):  # the document is too large: a retry cannot help
                await self._queue.ack(TOPIC, [delivery.ack_id])
            else:
                await self._queue.nack(TOPIC, [delivery.ack_id])
            return
        self.handled.add(task["index"])
        if seen["completed"] + seen["failed"] >= seen["total"]:
            self.completions += 1
            self.first_completion = self.first_completion or time.perf_counter()
            await self._queue.publish("batch-events", [Message(b"{}", {"ce-type": "completed"})])
        await self._queue.ack(TOPIC, [delivery.ack_id])

    async def _model(self) -> None:
        """Make three calls, which are answered at once, without any limit."""
        self.at_once += 1
        self.max_at_once = max(self.max_at_once, self.at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        self.at_once -= 1

    def _record(self, task: dict[str, Any], name: str) -> dict[str, Any]:
        """Return what the array keeps of an image."""
        return {
            **task,
            "url": f"gs://intake/manifests/bench/{task['url']}",
            "status": "completed",
            "output": f"gs://results/{name}",
            "thumbnail": f"gs://results/naive/thumbnails/{task['index']}.jpg",
            "sha256": "0" * 64,
            "completedAt": time.time(),
        }

    async def work(self, max_seconds: float) -> bool:
        """Handle all messages at once as they come, until none comes. Returns whether that was in time."""
        running: set[asyncio.Task[None]] = set()
        quiet = 0
        while quiet < QUIET_PULLS or running:
            if time.perf_counter() - self.started > max_seconds:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                return False
            deliveries = await self._queue.pull(TOPIC, 1000, 2.0)
            quiet = 0 if deliveries else quiet + 1
            for delivery in deliveries:
                task = asyncio.create_task(self.handle(delivery))
                running.add(task)
                task.add_done_callback(running.discard)
        return True

    async def counters(self) -> dict[str, int]:
        """Return the counters as the document has them."""
        found = (await self._document.get(field_paths=list(COUNTERS))).to_dict() or {}
        return {name: found.get(name, 0) for name in COUNTERS}


async def naive(images: int, duplicates: float, max_seconds: float) -> dict[str, Any]:
    """Run one batch the naive way. Returns the figures."""
    async with bench() as here:
        await _furnish(here)
        queue_clients = clients.pubsub_clients(here.environment)
        on_google = wiring.google(SystemClock(), Settings(), here.environment)
        db = clients.firestore_client(PROJECT, "(default)", here.environment)
        queue = PubSubQueue(*queue_clients, PROJECT, SystemClock())
        run = Naive(db, queue, on_google, "batch")
        try:
            warm = Naive(db, queue, on_google, "warm")
            await warm.ingest(manifest_of(WARM), 0.0)
            await warm.work(max_seconds)
            await run.ingest(manifest_of(images), duplicates)
            in_time = await run.work(max_seconds)
            counters = await run.counters()
        finally:
            await close(*queue_clients)
            await on_google.aclose()
            db.close()  # type: ignore[no-untyped-call]
    truth = {"total": images, "queued": 0, "processing": 0, "completed": images, "failed": 0}
    seconds = run.first_completion - run.started if run.first_completion else None
    return {
        "images": images,
        "duplicates": duplicates,
        "imagesPerSecond": round(images / seconds, 1) if seconds else None,
        "secondsToFirstCompletionEvent": round(seconds, 1) if seconds else None,
        "finishedInTime": in_time,
        "counters": counters,
        "exact": counters == truth,
        "imagesHandledWhole": len(run.handled),
        "completionEvents": run.completions,
        "deliveries": run.deliveries,
        "mostCallsAtOnce": run.max_at_once,
        "broken": dict(run.broken.most_common(4)),
        "load": os.getloadavg()[0],
    }


async def _furnish(here: Bench) -> None:
    """Create its topic, with leases long enough for every image."""
    publisher, subscriber = clients.pubsub_clients(here.environment)
    topic = f"projects/{PROJECT}/topics/{TOPIC}"
    await publisher.create_topic(name=topic)
    name = f"projects/{PROJECT}/subscriptions/{TOPIC}"
    await subscriber.create_subscription(request={"name": name, "topic": topic, "ack_deadline_seconds": 600})
    await close(publisher, subscriber)


def ours(images: int) -> dict[str, Any]:
    """Run the same size through our whole stack. Returns the figures."""
    figures = asyncio.run(whole(images, 50))
    return {name: figures[name] for name in ("images", "exact", "seconds", "imagesPerSecond", "load")}


def told(figures: dict[str, Any]) -> dict[str, Any]:
    """Print the figures on stderr at once, because the whole run takes long. Returns them."""
    print(json.dumps(figures), file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 2500, 5000, 10_000])
    parser.add_argument("--duplicates", type=float, default=0.1, help="share of messages that come twice")
    parser.add_argument("--max-seconds", type=float, default=180.0, help="maximum duration of each naive run")
    parser.add_argument("--only", choices=("naive", "ours"))
    given = parser.parse_args()
    figures: dict[str, list[Any]] = {"naive": [], "ours": []}
    try:
        for images in given.images:
            if given.only != "ours":
                for duplicates in (0.0, given.duplicates):
                    figures["naive"].append(told(asyncio.run(naive(images, duplicates, given.max_seconds))))
            if given.only != "naive":
                figures["ours"].append(told(ours(images)))
    except errors.Missing as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
