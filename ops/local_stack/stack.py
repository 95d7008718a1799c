"""The local stack: Google's emulators, the doors on functions-framework, subscribers, and the router between them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient

from ops import errors
from ops.local_stack import emulators
from ops.local_stack.router import STORAGE_EVENTS, TRIGGER, FaultInjection, Router
from shared.adapters.google import clients
from shared.adapters.google.queue import PubSubQueue
from shared.adapters.system_clock import SystemClock
from shared.settings import Buckets
from shared.topology import Policy, topology
from shared.vendors import PREVIEW

PROJECT: Final = "ruum-local"
ROOT: Final = Path(__file__).parents[2]
DOORS: Final = ("ingest", "aggregate", "dead_letter")
DOOR_THREADS: Final = 8  # threads of each function: most of the time they wait for the database
LOCAL_KEY: Final = "test-key"  # the local Gemini server's key; not a secret


class Options(msgspec.Struct, frozen=True):
    """What kind of stack to start."""

    subscribers: int = 1
    model: str = PREVIEW  # or gemini: the local Gemini server
    environment: Mapping[str, str] = {}  # settings for doors and subscribers, RUUM_*
    gemini: Sequence[str] = ()  # further arguments of the local Gemini server
    faults: FaultInjection = FaultInjection()


class Stack:
    """The whole pipeline, started and stopped together. Single parts can be killed and restarted."""

    def __init__(self, folder: Path, options: Options, on_line: Callable[[str, str], None]) -> None:
        self._folder = folder
        self._options = options
        self.processes = emulators.Processes(on_line)
        names = ("pubsub", "firestore", "storage", "router", "gemini", *DOORS)
        self.ports = dict(zip(names, emulators.free_ports(len(names)), strict=True))
        self._commands: dict[str, list[str]] = {}
        self._router: asyncio.Task[None] | None = None
        self.router: Router | None = None
        self._queue_clients: tuple[PublisherAsyncClient, SubscriberAsyncClient] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client of this stack needs in its environment."""
        return {
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            clients.PUBSUB_EMULATOR: f"127.0.0.1:{self.ports['pubsub']}",
            clients.FIRESTORE_EMULATOR: f"127.0.0.1:{self.ports['firestore']}",
            clients.STORAGE_EMULATOR: self._url("storage"),
        }

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def _door_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RUUM_")}
        kept.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
        local = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "RUUM_STAGING_MODEL": self._options.model}
        gemini = {"GEMINI_API_KEY": LOCAL_KEY, "RUUM_GEMINI_BASE_URL": self._url("gemini")}
        return {
            **kept,
            **local,
            **gemini,
            "THREADS": str(DOOR_THREADS),
            **self.environment,
            **self._options.environment,
        }

    # --- up

    async def start(self) -> None:
        """Start all parts, and return when they are ready. Raises `errors.Missing`, after stopping what was started."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        objects = self._folder / "objects"
        # Objects of an earlier stack: the other emulators keep nothing, so nothing refers to them any more.
        shutil.rmtree(objects, ignore_errors=True)
        objects.mkdir(parents=True)
        commands = {
            "pubsub": emulators.pubsub_command(self.ports["pubsub"]),
            "firestore": emulators.firestore_command(self.ports["firestore"], self.ports["router"]),
            "storage": emulators.storage_command(self.ports["storage"], objects, PROJECT, STORAGE_EVENTS),
        }
        if self._options.model == "gemini":
            port = str(self.ports["gemini"])
            commands["gemini"] = [
                sys.executable,
                "-m",
                "ops.local_stack.gemini_server",
                "--port",
                port,
                *self._options.gemini,
            ]
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        await self._start_all(commands, environment, {"gemini": "/stats", "storage": "/storage/v1/b"})
        self._queue_clients = clients.pubsub_clients(self.environment)
        await self._make_topics()
        await self._make_buckets()
        await self._register_trigger()
        queue = PubSubQueue(*self._queue_clients, PROJECT, SystemClock())
        doors = {door: self._url(door) for door in DOORS}
        self.router = Router(queue, PROJECT, Buckets().intake, doors, self._options.faults)
        self._router = asyncio.create_task(self.router.run(self.ports["router"]))
        doors_commands = {
            door: [sys.executable, "-m", "functions_framework", "--target", door,
                   "--source", str(ROOT / "functions" / door / "main.py"),
                   "--signature-type", "cloudevent", "--host", "127.0.0.1", "--port", str(self.ports[door])]
            for door in DOORS
        }  # fmt: skip
        await self._start_all(doors_commands, self._door_environment(), {})
        for number in range(self._options.subscribers):
            await self.start_subscriber(f"subscriber-{number + 1}")

    async def _start_all(
        self, commands: Mapping[str, list[str]], environment: Mapping[str, str], probes: Mapping[str, str]
    ) -> None:
        self._commands.update(commands)
        for name, command in commands.items():
            await self.processes.start(name, command, environment)
        probed = [
            emulators.ready(self._url(name) + probes.get(name, "/"), self.processes.running(name), name)
            for name in commands
            if name not in DOORS
        ]
        listening = [
            _listening(self.ports[name], self.processes.running(name), name) for name in commands if name in DOORS
        ]
        await asyncio.gather(*probed, *listening)

    async def start_subscriber(self, name: str) -> None:
        """Start one more worker."""
        command = [sys.executable, str(ROOT / "functions/stage_image/main.py")]
        await self.processes.start(name, command, self._door_environment())

    async def kill(self, name: str) -> None:
        """Kill a part with SIGKILL, and wait until it is gone."""
        process = self.processes.running(name)
        self.processes.kill(name)
        await process.wait()

    async def restart_door(self, door: str) -> None:
        """Restart a killed door on its port."""
        await self.processes.stop(door)
        await self._start_all({door: self._commands[door]}, self._door_environment(), {})

    async def _make_topics(self) -> None:
        """Create the topics and subscriptions of topology.json, and those of the bucket notifications."""
        if self._queue_clients is None:
            raise RuntimeError("no clients yet")
        publisher, subscriber = self._queue_clients
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

    async def _make_buckets(self) -> None:
        storage = clients.storage_client(PROJECT, self.environment)
        buckets = Buckets()
        for name in dict.fromkeys((buckets.intake, buckets.results, buckets.work)):
            await asyncio.to_thread(storage.bucket(name).create)

    async def _register_trigger(self) -> None:
        """Register Firestore's trigger: the emulator forgets its triggers at every start."""
        url = f"{self._url('firestore')}/emulator/v1/projects/{PROJECT}/eventarcTrigger?eventarcTriggerId={TRIGGER}"
        aggregate = topology().doors["aggregate"]  # as Terraform reads it
        trigger = {
            "eventType": aggregate.trigger,
            "database": "(default)",
            "namespace": "(default)",
            "document": {"value": aggregate.document, "matchType": "PATH_PATTERN"},
        }
        async with httpx2.AsyncClient(trust_env=False, timeout=emulators.READY_SECONDS) as client:
            (await client.post(url, json=trigger)).raise_for_status()

    async def ended(self) -> str:
        """Wait until a part ends that should not. Returns its name."""
        if self._router is None:
            raise RuntimeError("not started")
        ending = asyncio.create_task(self.processes.ended())
        try:
            await asyncio.wait({ending, self._router}, return_when=asyncio.FIRST_COMPLETED)
            return ending.result() if ending.done() else "the router"
        finally:
            ending.cancel()

    # --- down

    async def stop(self) -> None:
        """Stop the subscribers first, while the database still takes their last writes; then everything else."""
        subscribers = [name for name in self.processes.names() if name.startswith("subscriber")]
        if subscribers:
            await self.processes.stop(*subscribers)
        if self._router is not None:
            self._router.cancel()
            await asyncio.gather(self._router, return_exceptions=True)
        if self._queue_clients is not None:
            for client in self._queue_clients:
                await client.transport.close()  # type: ignore[no-untyped-call]
        await self.processes.stop()


def subscription_request(topic: str, name: str, policy: Policy) -> dict[str, Any]:
    """Return a subscription as Pub/Sub's API expects it."""
    request: dict[str, Any] = {
        "name": f"projects/{PROJECT}/subscriptions/{name}",
        "topic": f"projects/{PROJECT}/topics/{topic}",
        "ack_deadline_seconds": policy.ack_deadline_seconds,
        "retry_policy": {
            "minimum_backoff": {"seconds": policy.retry_minimum_seconds},
            "maximum_backoff": {"seconds": policy.retry_maximum_seconds},
        },
    }
    if policy.dead_letter_topic:
        request["dead_letter_policy"] = {
            "dead_letter_topic": f"projects/{PROJECT}/topics/{policy.dead_letter_topic}",
            "max_delivery_attempts": policy.max_deliveries,
        }
    return request


async def _listening(port: int, process: asyncio.subprocess.Process, name: str) -> None:
    """Return once a door accepts connections. A door answers only events, so there is no page to request."""
    async with asyncio.timeout(emulators.READY_SECONDS):
        while True:
            if process.returncode is not None:
                raise errors.Missing(f"{name} ended with exit code {process.returncode}: see its lines above")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(emulators.PROBE_SECONDS)
            else:
                writer.close()
                return
