"""Stands in for Eventarc on one machine: carries events to the doors, which are the unmodified functions, with retries.

    storage notification  ->  google.cloud.storage.object.v1.finalized        ->  ingest
    Firestore's trigger   ->  google.cloud.firestore.document.v1.updated      ->  aggregate
    dead-letter message   ->  google.cloud.pubsub.topic.v1.messagePublished   ->  dead_letter

Firestore's emulator delivers events one after another, and never again. Real Eventarc delivers them at least once, in
any order, and again after a failure. So this module answers the trigger at once and delivers the event itself. Tests
can have events doubled and shuffled.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx2
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.adapters.system_clock import SystemClock
from shared.errors import RuumError
from shared.ports import Delivery, Queue
from shared.topology import topology

log = logging.getLogger(__name__)

TRIGGER: Final = "image-updated"
STORAGE_EVENTS: Final = "storage-events"  # topic and subscription of the bucket notifications
AT_ONCE: Final = 16  # events in progress at one door: two workers of eight threads each
FIRST_RETRY_SECONDS: Final = 0.2  # real Eventarc starts at 10 s, too long to wait for on a workstation
MAX_RETRY_SECONDS: Final = 10.0
PULL_SECONDS: Final = 5.0  # max duration of an empty pull; the next pull also asks for slots freed meanwhile
DELIVERY_SECONDS: Final = float(max(door.timeout_seconds for door in topology().doors.values()))


class FaultInjection(msgspec.Struct, frozen=True):
    """What real Eventarc may do to events, done on purpose: deliver each twice, or up to `late_seconds` late."""

    double: bool = False
    late_seconds: float = 0.0


class Router:
    """Carries events until cancelled. `doors` maps ingest, aggregate and dead_letter to their addresses."""

    def __init__(
        self, queue: Queue, project: str, intake: str, doors: Mapping[str, str], faults: FaultInjection | None = None
    ) -> None:
        self._queue = queue
        self._project = project
        self._intake = intake
        self._doors = doors
        self._faults = faults or FaultInjection()
        self._clock = SystemClock()
        self._slots = {door: asyncio.Semaphore(AT_ONCE) for door in doors}
        self._under_way: set[asyncio.Task[None]] = set()
        self._carried: set[asyncio.Task[None]] = set()
        # Pooled connections expire soon, so that none is left over from a door that was killed and restarted.
        limits = httpx2.Limits(max_keepalive_connections=AT_ONCE, keepalive_expiry=1.0)
        self._client = httpx2.AsyncClient(trust_env=False, timeout=DELIVERY_SECONDS, limits=limits)

    @property
    def pending(self) -> int:
        """Return the number of events taken from the trigger and not delivered yet."""
        return len(self._under_way)

    async def run(self, port: int) -> None:
        """Serve the trigger's address and carry the subscriptions' messages."""
        app = Starlette(
            routes=[Route("/functions/projects/{project}/triggers/{trigger}", self._on_trigger, methods=["POST"])]
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.gather(self._carry(STORAGE_EVENTS), self._carry("dead-letter"))
        finally:
            server.should_exit = True  # when cancelled, it would not close its sockets
            await serving
            for task in self._under_way | self._carried:
                task.cancel()
            await self._client.aclose()

    # --- Firestore's trigger

    async def _on_trigger(self, request: Request) -> Response:
        """Answer at once: the emulator waits for each answer before it posts the next event."""
        body = base64.b64decode(await request.body())  # the emulator sends protobuf as base64 text
        headers = {name: value for name, value in request.headers.items() if name.startswith("ce-")}
        # It also repeats "projects/" in the source.
        headers["ce-source"] = headers.get("ce-source", "").replace("projects/projects/", "projects/")
        headers["content-type"] = "application/protobuf"
        for _ in range(2 if self._faults.double else 1):
            task = asyncio.create_task(self._deliver_late("aggregate", headers, body))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return Response(status_code=200)

    async def _deliver_late(self, door: str, headers: Mapping[str, str], body: bytes) -> None:
        if self._faults.late_seconds:
            await asyncio.sleep(self._clock.random.uniform(0, self._faults.late_seconds))
        pause = FIRST_RETRY_SECONDS
        while not await self._post(door, headers, body):
            await asyncio.sleep(pause * self._clock.random.uniform(0.5, 1.5))
            pause = min(pause * 2, MAX_RETRY_SECONDS)

    async def _post(self, door: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Deliver one event. Returns whether the door accepted it."""
        async with self._slots[door]:
            try:
                answer = await self._client.post(self._doors[door], content=body, headers=dict(headers))
            except httpx2.HTTPError as error:
                log.info("%s did not answer: %s", door, type(error).__name__)
                return False
        return answer.is_success

    # --- subscriptions

    async def _carry(self, subscription: str) -> None:
        """Carry one message per free slot at once, so that an ingest of minutes holds back no other manifest."""
        carried: set[asyncio.Task[None]] = set()
        while True:
            if len(carried) == AT_ONCE:
                await asyncio.wait(carried, return_when=asyncio.FIRST_COMPLETED)
            try:
                deliveries = await self._queue.pull(subscription, AT_ONCE - len(carried), PULL_SECONDS)
            except RuumError as error:
                log.warning("%s: %s", subscription, error)
                await asyncio.sleep(FIRST_RETRY_SECONDS)
                continue
            for delivery in deliveries:
                task = asyncio.create_task(self._carry_one(subscription, delivery))
                for tasks in (carried, self._carried):
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

    async def _carry_one(self, subscription: str, delivery: Delivery) -> None:
        event = self._storage_event(delivery) if subscription == STORAGE_EVENTS else self._message_event(delivery)
        try:
            if event is None or await self._post(event[0], event[1], event[2]):
                await self._queue.ack(subscription, [delivery.ack_id])
            else:
                await self._queue.nack(subscription, [delivery.ack_id])
        except RuumError as error:  # neither acked nor nacked: it comes again when its lease expires
            log.warning("%s: %s", subscription, error)

    def _storage_event(self, delivery: Delivery) -> tuple[str, dict[str, str], bytes] | None:
        """Return a bucket notification as Eventarc delivers it; None for buckets other than the intake."""
        bucket, name = delivery.attributes.get("bucketId"), delivery.attributes.get("objectId")
        if bucket != self._intake or delivery.attributes.get("eventType") != "OBJECT_FINALIZE":
            return None
        headers = _headers(
            delivery,
            "google.cloud.storage.object.v1.finalized",
            f"//storage.googleapis.com/projects/_/buckets/{bucket}",
            f"objects/{name}",
        )
        return "ingest", headers, delivery.data

    def _message_event(self, delivery: Delivery) -> tuple[str, dict[str, str], bytes]:
        source = f"//pubsub.googleapis.com/projects/{self._project}/topics/dead-letter"
        headers = _headers(delivery, "google.cloud.pubsub.topic.v1.messagePublished", source)
        message: dict[str, Any] = {
            "data": base64.b64encode(delivery.data).decode(),
            "attributes": dict(delivery.attributes),
            "messageId": delivery.message_id,
        }
        subscription = f"projects/{self._project}/subscriptions/dead-letter"
        return "dead_letter", headers, msgspec.json.encode({"message": message, "subscription": subscription})


class _Server(uvicorn.Server):
    """Leaves signals to the process that started the stack."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield


def _headers(delivery: Delivery, kind: str, source: str, subject: str | None = None) -> dict[str, str]:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": delivery.message_id,
        "ce-type": kind,
        "ce-source": source,
        "content-type": "application/json",
    }
    if subject is not None:
        headers["ce-subject"] = subject.encode("ascii", "backslashreplace").decode()
    return headers
