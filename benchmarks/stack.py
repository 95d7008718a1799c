"""Measure the whole stack on Google's emulators with a model that does nothing: images per second, and their cost.

    python benchmarks/stack.py [--images 1000] [--in-flight 50] [--warm 300] [--skip operations]

There are two runs. The first is the stack as `ruum-batch up` starts it, with its doors (functions-framework) and one
worker process whose model, photos and pictures do nothing. It measures images per second from the manifest's upload to
the completion event, and each process's CPU time. A smaller batch runs first, because the emulators' Java starts
slowly. Then AGGREGATE's door is measured alone: events per second, with 16 in progress.

The second run has the rooms in this process, behind the same router, each with clients that count operations per image
by room and kind. Then each kind of operation is measured alone on the same emulators, one after another and 50 at once.
`ratio` compares the seconds per image of the second run (and of the first) with the sum of its bare operations.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
from google.cloud.firestore import AsyncClient
from google.events.cloud.firestore_v1 import DocumentEventData
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient

from ops import errors
from ops.local_stack import emulators
from ops.local_stack.router import STORAGE_EVENTS, TRIGGER, Router
from ops.local_stack.stack import PROJECT, ROOT, Options, Stack, subscription_request
from ops.noop import NoopModel, NoopPictures, NoopSource
from shared import decisions, ports
from shared.adapters.google import clients
from shared.adapters.google.documents import to_fields
from shared.adapters.google.events import image_changed
from shared.adapters.google.queue import PubSubQueue
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.model import Batch, BatchState, Counts, Image, ImageState, ManifestRef, Tally, Tier, shards_for
from shared.ports import Message, Queue
from shared.settings import Buckets, ManifestLimits, Settings, WorkerLimits, from_environment
from shared.topology import EVENTS_SUBSCRIPTION, topology
from shared.worker.heartbeat import Heartbeat
from shared.worker.subscriber import Subscriber

NAME: Final = "manifests/bench/bench.jsonl"
AT_ONCE: Final = 50  # bare operations at once
EVENTS_AT_ONCE: Final = 16  # events that the router has in progress at one door
BARE: Final = 300  # operations of each kind
TICKS: Final = os.sysconf("SC_CLK_TCK")


def manifest_of(images: int, batch: str = "bench") -> bytes:
    """Return a manifest with `images` photos, which are never fetched."""
    header = {"clientName": "bench", "batchId": batch, "designStyle": "modern", "roomType": "bedroom", "cache": False}
    lines = [header, *({"url": f"photos/{index}.jpg", "propertyCode": f"APT-{index}"} for index in range(images))]
    return b"\n".join(json.dumps(line).encode() for line in lines)


def settings_for(images: int, in_flight: int) -> dict[str, str]:
    """Return the settings that differ from the defaults, as environment variables."""
    return {
        "RUUM_WORKER_IN_FLIGHT": str(in_flight),
        "RUUM_MANIFEST_MAX_IMAGES": str(max(images, 1)),
        "RUUM_MANIFEST_MAX_BYTES": str(1 << 30),
    }


def as_settings(images: int, in_flight: int) -> Settings:
    """Return the same settings for rooms in this process."""
    limits = ManifestLimits(max_images=max(images, 1), max_bytes=1 << 30)
    return Settings(manifest=limits, worker=WorkerLimits(in_flight=in_flight))


# --- processes


def cpu_seconds(group: int) -> float:
    """Return the user and system time of a group's living processes, and of the children they have waited for."""
    return sum(sum(map(int, fields[11:15])) for fields in _stats(group)) / TICKS


def _stats(group: int) -> Iterator[list[str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group:
                yield fields


def peak_mib(pid: int) -> int:
    """Return a process's peak resident memory, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


class Shares:
    """CPU time of processes by name, since this object was created."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._groups = dict(processes)
        self._before = {name: cpu_seconds(group) for name, group in self._groups.items()}
        self._own = time.process_time()
        self._started = time.perf_counter()

    def taken(self) -> dict[str, dict[str, float]]:
        """Return CPU seconds, and their share of one core."""
        wall = time.perf_counter() - self._started
        spent = {name: cpu_seconds(group) - self._before[name] for name, group in self._groups.items()}
        spent["router and this benchmark"] = time.process_time() - self._own
        return {name: {"cpuSeconds": round(s, 2), "ofOneCore": round(s / wall, 3)} for name, s in spent.items()}


# --- emulators without doors


class Bench:
    """The emulators, an empty project on them, and the environment that points to it."""

    def __init__(self, processes: emulators.Processes, ports: Mapping[str, int]) -> None:
        self.processes = processes
        self.ports = ports
        self.environment = {
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            clients.PUBSUB_EMULATOR: f"127.0.0.1:{ports['pubsub']}",
            clients.FIRESTORE_EMULATOR: f"127.0.0.1:{ports['firestore']}",
            clients.STORAGE_EMULATOR: f"http://127.0.0.1:{ports['storage']}",
        }

    def pids(self) -> dict[str, int]:
        """Return process ids by name; each is also the id of the process's group."""
        return {name: self.processes.running(name).pid for name in self.processes.names()}


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Start the three emulators with topics, subscriptions and buckets; the trigger posts to port `router`."""
    names = ("pubsub", "firestore", "storage", "router")
    ports = dict(zip(names, emulators.free_ports(len(names)), strict=True))
    processes = emulators.Processes(lambda name, text: None)
    here = Bench(processes, ports)
    commands = {
        "pubsub": emulators.pubsub_command(ports["pubsub"]),
        "firestore": emulators.firestore_command(ports["firestore"], ports["router"]),
        "storage": emulators.storage_command(ports["storage"], None, PROJECT, STORAGE_EVENTS),
    }
    probes = {"storage": "/storage/v1/b"}
    try:
        for name, command in commands.items():
            await processes.start(name, command, {**os.environ, **here.environment})
        await asyncio.gather(
            *(
                emulators.ready(f"http://127.0.0.1:{ports[name]}{probes.get(name, '/')}", processes.running(name), name)
                for name in commands
            )
        )
        await _furnish(here)
        yield here
    finally:
        await processes.stop()


async def _furnish(here: Bench) -> None:
    """Create the product's topics, subscriptions and buckets, and Firestore's trigger."""
    publisher, subscriber = clients.pubsub_clients(here.environment)
    known = topology()
    for topic in (*known.topics, STORAGE_EVENTS):
        await publisher.create_topic(name=f"projects/{PROJECT}/topics/{topic}")
    for topic in known.topics:
        for name, policy in known.subscriptions(topic).items():
            await subscriber.create_subscription(request=subscription_request(topic, name, policy))
    await subscriber.create_subscription(
        request={
            "name": f"projects/{PROJECT}/subscriptions/{STORAGE_EVENTS}",
            "topic": f"projects/{PROJECT}/topics/{STORAGE_EVENTS}",
            "ack_deadline_seconds": 600,
        }
    )
    await close(publisher, subscriber)
    storage = clients.storage_client(PROJECT, here.environment)
    for bucket in dict.fromkeys((Buckets().intake, Buckets().results, Buckets().work)):
        await asyncio.to_thread(storage.bucket(bucket).create)
    storage.close()


async def register_trigger(here: Bench) -> None:
    """Let Firestore post the changes of images to port `router`."""
    url = f"http://127.0.0.1:{here.ports['firestore']}/emulator/v1/projects/{PROJECT}/eventarcTrigger"
    trigger = {
        "eventType": "google.cloud.firestore.document.v1.updated",
        "database": "(default)",
        "namespace": "(default)",
        "document": {"value": "batches/{batch}/images/{image}", "matchType": "PATH_PATTERN"},
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        (await client.post(url, params={"eventarcTriggerId": TRIGGER}, json=trigger)).raise_for_status()


async def close(publisher: PublisherAsyncClient, subscriber: SubscriberAsyncClient) -> None:
    """Close both clients."""
    await publisher.transport.close()  # type: ignore[no-untyped-call]
    await subscriber.transport.close()  # type: ignore[no-untyped-call]


async def drop(on_google: wiring.OnGoogle, images: int, name: str) -> None:
    """Upload a manifest, as a CRM does."""
    path = f"manifests/bench/{name}.jsonl"
    await on_google.objects.put("intake", path, manifest_of(images, name), content_type="application/jsonl")


async def completed(queue: Queue, images: int) -> None:
    """Wait for the completion event of a batch of `images` images, as a CRM does."""
    while True:
        for delivery in await queue.pull(EVENTS_SUBSCRIPTION, 100, 2.0):
            await queue.ack(EVENTS_SUBSCRIPTION, [delivery.ack_id])
            if delivery.attributes["ce-type"] == "ruum.batch.completed":
                counts = json.loads(delivery.data)["counts"]
                if counts["completed"] == images:
                    return
                if sum(counts.values()) == images:
                    raise RuntimeError(f"not all completed: {counts}")


async def exact(on_google: wiring.OnGoogle, images: int) -> bool:
    """Return whether the newest batch has each image once and completed, and its counts and its completion agree."""
    (batch, *_) = await on_google.store.batches()
    found = [(image.index, image.state) async for image in on_google.store.images(batch.id)]
    counts = await on_google.store.counts(batch.id)
    return (
        found == [(index, ImageState.COMPLETED) for index in range(images)]
        and counts == Counts(completed=images)
        and batch.completion is not None
        and batch.completion.counts == counts
    )


# --- the first run: the stack as it is


async def worker() -> None:
    """Run a subscriber whose model, photos and pictures do nothing, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clock, settings = SystemClock(), from_environment(os.environ)
    on_google = wiring.google(clock, settings, os.environ)
    heartbeat = Heartbeat(on_google.store, clock, settings.worker.heartbeat_seconds)
    room = noop_room(on_google.backend, settings, heartbeat)
    await heartbeat.beat()
    beating = asyncio.create_task(heartbeat.run())
    await Subscriber(on_google.queue, room.handle, clock, settings.worker).run(stop, 5.0)
    beating.cancel()
    await on_google.aclose()


def noop_room(backend: ports.Backend, settings: Settings, heartbeat: Heartbeat) -> Any:
    """Return STAGE IMAGE with nothing to do."""
    source, pictures, model = NoopSource(), NoopPictures(), NoopModel()
    return wiring.stage_image(
        backend, SystemClock(), settings, heartbeat=heartbeat, source=source, pictures=pictures, model=model
    )


async def whole(images: int, in_flight: int, *, warm: int = 300, events: int = 0) -> dict[str, Any]:
    """Return the stack's figures after `warm` images. Then measure AGGREGATE's door with `events` events, if any."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(
            Path(folder),
            Options(subscribers=0, environment=settings_for(max(images, warm), in_flight)),
            lambda name, text: None,
        )
        await stack.start()
        on_google = wiring.google(SystemClock(), Settings(), stack.environment)
        try:
            environment = {**os.environ, **stack.environment, **settings_for(max(images, warm), in_flight)}
            environment["PYTHONPATH"] = str(ROOT)
            await stack.processes.start("subscriber", [sys.executable, __file__, "--worker"], environment)
            await asyncio.sleep(3)  # until it pulls
            if warm:
                await drop(on_google, warm, "warm")
                await completed(on_google.queue, warm)
            figures = await _whole(stack, on_google, images)
            if events:
                figures["aggregateDoor"] = await aggregate_door(stack, on_google, events)
            return figures
        finally:
            await on_google.aclose()
            await stack.stop()


async def _whole(stack: Stack, on_google: wiring.OnGoogle, images: int) -> dict[str, Any]:
    pids = {name: stack.processes.running(name).pid for name in stack.processes.names()}
    backlog = Backlog(stack)
    watching = asyncio.create_task(backlog.watch())
    shares, started = Shares(pids), time.perf_counter()
    await drop(on_google, images, "bench")
    await completed(on_google.queue, images)
    seconds = time.perf_counter() - started
    watching.cancel()
    taken = shares.taken()
    return {
        "images": images,
        "exact": await exact(on_google, images),
        "seconds": round(seconds, 1),
        "imagesPerSecond": round(images / seconds, 1),
        "imageEventsPerSecond": round(3 * images / seconds, 1),  # claim, checkpoint, settle
        "mostEventsWaitingInRouter": backlog.most,
        "cpu": taken,
        "cpuMsPerImage": round(sum(share["cpuSeconds"] for share in taken.values()) * 1000 / images, 1),
        "firestorePeakMiB": peak_mib(pids["firestore"]),
        "load": os.getloadavg()[0],
    }


class Backlog:
    """The maximum of events that the router had in progress: large if AGGREGATE is the bottleneck."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.most = 0

    async def watch(self) -> None:
        """Sample ten times a second until cancelled."""
        while True:
            if self._stack.router is not None:
                self.most = max(self.most, self._stack.router.pending)
            await asyncio.sleep(0.1)


async def aggregate_door(stack: Stack, on_google: wiring.OnGoogle, events: int) -> dict[str, Any]:
    """Measure events per second of AGGREGATE's door: one batch, each image claimed and completed, one left open."""
    batch = a_batch("bench.door", events // 2 + 1)
    await on_google.store.create_batch(batch)
    await on_google.store.create_tallies(decisions.batch.empty_tallies(batch))
    moves = ((2, ImageState.QUEUED, ImageState.PROCESSING), (3, ImageState.PROCESSING, ImageState.COMPLETED))
    bodies = [event_body(batch, index, *move) for move in moves for index in range(events // 2)]
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "bench",
        "ce-type": "google.cloud.firestore.document.v1.updated",
        "ce-source": f"//firestore.googleapis.com/projects/{PROJECT}/databases/(default)",
        "content-type": "application/protobuf",
    }
    url = f"http://127.0.0.1:{stack.ports['aggregate']}"
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:

        async def post(body: bytes) -> None:
            (await client.post(url, content=body, headers=headers)).raise_for_status()

        shares = Shares({name: stack.processes.running(name).pid for name in ("aggregate", "firestore")})
        started = time.perf_counter()
        await at_once(bodies, post, EVENTS_AT_ONCE)
        seconds = time.perf_counter() - started
    counts = await on_google.store.counts(batch.id)
    return {
        "events": len(bodies),
        "eventsPerSecond": round(len(bodies) / seconds, 1),
        "exact": counts == Counts(queued=1, completed=events // 2),
        "cpu": shares.taken(),
    }


def a_batch(name: str, images: int) -> Batch:
    """Return a batch that is processing."""
    ref = ManifestRef(uri="gs://intake/x.json", generation=1, sha256="", base="gs://intake/")
    fields: dict[str, Any] = {"client": "bench", "client_name": "bench", "tier": Tier.NORMAL, "manifest": ref}
    shards = shards_for(images)
    return Batch(id=name, total=images, shards=shards, state=BatchState.PROCESSING, created_at=time.time(), **fields)


def event_body(batch: Batch, index: int, revision: int, before: ImageState, after: ImageState) -> bytes:
    """Return Firestore's event of one image's change, with the fields that AGGREGATE reads."""
    event = DocumentEventData.pb()()
    for document, state in ((event.value, after), (event.old_value, before)):
        document.fields["batch"].string_value = batch.id
        document.fields["state"].string_value = state.value
        for name, value in (("index", index), ("shard", index % batch.shards), ("revision", revision)):
            document.fields[name].integer_value = value
    body: bytes = event.SerializeToString()
    return body


async def at_once(items: list[Any], work: Callable[[Any], Awaitable[object]], most: int) -> None:
    """Await `work` for all items, at most `most` at a time."""
    left = iter(items)

    async def lane() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(lane() for _ in range(most)))


# --- the second run: rooms in this process, counting


class Counted:
    """Wraps any port and counts its calls, and the published messages."""

    def __init__(self, inner: Any, counts: Counter[str], prefix: str) -> None:
        self._inner = inner
        self._counts = counts
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._counts[f"{self._prefix} {name}"] += 1
            if name == "publish":
                self._counts["messages published"] += len(args[1])
            return found(*args, **kwargs)

        return call


class Part:
    """One room's own clients, and the operations they made."""

    def __init__(self, here: Bench, settings: Settings) -> None:
        self.on_google = wiring.google(SystemClock(), settings, here.environment)
        self.calls: Counter[str] = Counter()
        self.backend = ports.Backend(
            self.on_google.store,
            Counted(self.on_google.queue, self.calls, "queue"),
            Counted(self.on_google.objects, self.calls, "object"),
        )

    @property
    def operations(self) -> dict[str, int]:
        """Return reads and writes of the database by kind."""
        from shared.adapters.google.store import FirestoreStore

        store = self.on_google.store
        assert isinstance(store, FirestoreStore)
        return store.operations

    def reset(self) -> None:
        """Start counting from here."""
        self.operations.clear()
        self.calls.clear()

    def counts(self) -> Counter[str]:
        """Return database operations by kind, and calls of queue and objects."""
        return Counter(self.operations) + self.calls


class InProcess(Router):
    """The router, with rooms in this process behind it instead of doors."""

    def __init__(self, queue: PubSubQueue, ingest: wiring.Rooms, aggregate: wiring.Rooms) -> None:
        super().__init__(queue, PROJECT, Buckets().intake, {"ingest": "", "aggregate": "", "dead_letter": ""})
        self._ingest = ingest
        self._aggregate = aggregate
        self.discarding = False

    async def _post(self, door: str, headers: Mapping[str, str], body: bytes) -> bool:
        if self.discarding:
            return True
        async with self._slots[door]:
            try:
                if door == "ingest":
                    data = json.loads(body)
                    await self._ingest.ingest.handle(data["bucket"], data["name"])
                elif door == "aggregate":
                    await self._aggregate.aggregate.handle(image_changed(body))
            except Exception as error:
                print(f"{door}: {type(error).__name__}: {error}", file=sys.stderr)
                return False
        return True


async def counted(images: int, in_flight: int, warm: int) -> dict[str, Any]:
    """Return operations per image by room, the bare cost of each kind, and the ratio of the whole to their sum."""
    async with bench() as here:
        clock, settings = SystemClock(), as_settings(max(images, warm), in_flight)
        parts = {name: Part(here, settings) for name in ("ingest", "aggregate", "stage_image", "client")}
        queue = PubSubQueue(*clients.pubsub_clients(here.environment), PROJECT, clock)
        rules = wiring.google_rules(settings)
        rooms = {
            name: wiring.rooms(parts[name].backend, clock, settings, rules, folder_is_client=True)
            for name in ("ingest", "aggregate")
        }
        router = InProcess(queue, rooms["ingest"], rooms["aggregate"])
        routing = asyncio.create_task(router.run(here.ports["router"]))
        heartbeat = Heartbeat(parts["stage_image"].on_google.store, clock, settings.worker.heartbeat_seconds)
        room = noop_room(parts["stage_image"].backend, settings, heartbeat)
        await heartbeat.beat()
        beating, stop = asyncio.create_task(heartbeat.run()), asyncio.Event()
        subscriber = Subscriber(parts["stage_image"].backend.queue, room.handle, clock, settings.worker)
        working = asyncio.create_task(subscriber.run(stop, 5.0))
        await asyncio.sleep(1)  # until the router listens
        await register_trigger(here)
        client = parts["client"].on_google
        await drop(client, warm, "warm")
        await completed(client.queue, warm)
        for part in parts.values():
            part.reset()
        started = time.perf_counter()
        await drop(client, images, "bench")
        await completed(client.queue, images)
        seconds = time.perf_counter() - started
        stop.set()
        await working
        beating.cancel()
        router.discarding = True
        by_room = {name: parts[name].counts() for name in ("ingest", "aggregate", "stage_image")}
        bare = await Bare(here, client, queue).measure()
        routing.cancel()
        await asyncio.gather(routing, return_exceptions=True)
        for part in parts.values():
            await part.on_google.aclose()
    total = sum(by_room.values(), Counter())
    needed = sum(total[kind] * bare[cost]["secondsAtOnce"] for kind, cost in COST_OF.items())
    return {
        "imagesPerSecondInOneProcess": round(images / seconds, 1),
        "operationsPerImage": {room: per_image(found, images) for room, found in by_room.items()},
        "writesPerImage": round(sum(n for kind, n in total.items() if kind.endswith(("write", "create"))) / images, 2),
        "readsPerImage": round(sum(n for kind, n in total.items() if kind.endswith(("read", "sum"))) / images, 2),
        "bare": {
            kind: {"perSecondOneByOne": round(1 / cost["seconds"]), "perSecondAtOnce": round(1 / cost["secondsAtOnce"])}
            for kind, cost in bare.items()
        },
        "bareMsPerImage": round(needed * 1000 / images, 2),
        "ratioInOneProcess": round(seconds / needed, 2),
        "notPriced": sorted(kind for kind in total if kind not in COST_OF),
        "load": os.getloadavg()[0],
    }


def per_image(counts: Counter[str], images: int) -> dict[str, float]:
    """Return the counts by kind, largest first."""
    return {kind: round(count / images, 3) for kind, count in counts.most_common()}


# Which bare operation a counted kind costs. Extending leases and idle pulls are not work.
COST_OF: Final = {
    "image read": "get", "batch read": "get", "tally read": "tally get", "worker read": "get",
    "image write": "image update", "batch write": "update", "tally write": "tally update", "worker write": "update",
    "image create": "create", "tally create": "create", "tally sum": "sum",
    "messages published": "publish", "queue ack": "ack",
    "object put": "put", "object stat": "stat", "object get": "object get", "object delete": "delete",
}  # fmt: skip


class Bare:
    """Measures each kind of operation alone, with clients as the product uses them, one by one and many at once."""

    def __init__(self, here: Bench, client: wiring.OnGoogle, queue: PubSubQueue) -> None:
        self._db: AsyncClient = clients.firestore_client(PROJECT, "(default)", here.environment)
        self._here = here
        self._on_google = client
        self._queue = queue

    async def measure(self) -> dict[str, dict[str, float]]:
        """Return seconds per operation by kind."""
        image = Image(
            batch="bench.bare", index=0, source="gs://intake/manifests/bench/photos/0.jpg", room_type="bedroom",
            design_style="modern", tier=Tier.NORMAL, shard=0, property_code="APT-0", created_at=time.time(),
        )  # fmt: skip
        entries = {index * 8: (4, ImageState.COMPLETED) for index in range(125)}  # half full
        tally = Tally(batch="bench.bare", shard=0, counts=Counts(queued=125, completed=125), entries=entries)
        images = self._db.collection("batches/bench.bare/images")  # where the trigger looks
        elsewhere, tallies = self._db.collection("bare"), self._db.collection("batches/bench.bare/tallies")
        fields = to_fields(image)
        found: dict[str, dict[str, float]] = {"create": await self._create(images, fields)}
        for index in range(BARE):
            await elsewhere.document(str(index)).set(fields)
            await tallies.document(str(index)).set(to_fields(tally))
        found["get"] = await self._timed(lambda n: elsewhere.document(str(n)).get())
        found["tally get"] = await self._timed(lambda n: tallies.document(str(n)).get())
        found["update"] = await self._timed(lambda n: elsewhere.document(str(n)).update({"token": time.time_ns()}))
        found["image update"] = await self._timed(lambda n: images.document(f"{n:06d}").update(_claimed()))
        changed = {"entries": to_fields(tally)["entries"] + b" ", "open": 3, "counts.queued": 3}
        found["tally update"] = await self._timed(lambda n: tallies.document(str(n)).update(changed))
        await asyncio.sleep(5)  # the trigger's backlog
        found["sum"] = await self._timed(lambda n: self._on_google.store.counts("bench.bare"))
        found |= await self._messages() | await self._objects()
        self._db.close()  # type: ignore[no-untyped-call]
        return found

    async def _create(self, images: Any, fields: dict[str, Any]) -> dict[str, float]:
        """Create the documents in commits of 500."""
        started = time.perf_counter()
        for start in range(0, 2000, 500):
            commit = self._db.batch()
            for index in range(start, start + 500):
                commit.create(images.document(f"{index:06d}"), fields)
            await commit.commit()
        each = (time.perf_counter() - started) / 2000
        return {"seconds": each, "secondsAtOnce": each}

    async def _messages(self) -> dict[str, dict[str, float]]:
        message = Message(b'{"batch":"bench.bare","index":1,"round":1,"tier":"normal"}', {"client": "bench"})
        started = time.perf_counter()
        for _ in range(4):
            await self._queue.publish("batch-events", [message] * 500)
        published = (time.perf_counter() - started) / 2000
        ids: list[str] = []
        while len(ids) < 2 * BARE:
            pulled = await self._queue.pull(EVENTS_SUBSCRIPTION, 2 * BARE - len(ids), 2.0)
            ids += [delivery.ack_id for delivery in pulled]
        rest = iter(ids)
        acked = await self._timed(lambda n: self._queue.ack(EVENTS_SUBSCRIPTION, [next(rest)]))
        return {"publish": {"seconds": published, "secondsAtOnce": published}, "ack": acked}

    async def _objects(self) -> dict[str, dict[str, float]]:
        objects, names = self._on_google.objects, iter(range(10_000))

        def put(_: int) -> Awaitable[object]:
            return objects.put("work", f"bare/{next(names)}", b"picture", content_type="image/jpeg", if_generation=0)

        return {
            "put": await self._timed(put),
            "stat": await self._timed(lambda n: objects.stat("work", f"bare/{n}")),
            "object get": await self._timed(lambda n: objects.get("work", f"bare/{n}")),
            "delete": await self._timed(lambda n: objects.delete("work", f"bare/{n}")),
        }

    async def _timed(self, work: Callable[[int], Awaitable[object]]) -> dict[str, float]:
        await work(0)
        started = time.perf_counter()
        for number in range(BARE // 3):
            await work(number)
        one_by_one = (time.perf_counter() - started) / (BARE // 3)
        started = time.perf_counter()
        await at_once(list(range(BARE)), work, AT_ONCE)
        return {"seconds": one_by_one, "secondsAtOnce": (time.perf_counter() - started) / BARE}


def _claimed() -> dict[str, Any]:
    """Change about as much as a claim does."""
    return {
        "state": "processing",
        "revision": 2,
        "fence": 1,
        "token": time.time_ns(),
        "claim": {"worker": "w", "at": 1},
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--warm", type=int, default=300, help="images of the batch before the measured one")
    parser.add_argument("--skip", choices=("whole", "operations"), help="leave out one of the two runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        asyncio.run(worker())
        return
    figures: dict[str, Any] = {}
    try:
        if given.skip != "whole":
            figures |= asyncio.run(whole(given.images, given.in_flight, warm=given.warm, events=2000))
        if given.skip != "operations":
            operations = asyncio.run(counted(given.images, given.in_flight, given.warm))
            figures["operations"] = operations
            if "seconds" in figures:
                spent = figures["seconds"] * 1000 / given.images
                figures["ratioToBareOperations"] = round(spent / operations["bareMsPerImage"], 2)
    except errors.Missing as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
