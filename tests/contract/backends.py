"""The backends the contract suites run on. Tests see the ports and this harness, never an adapter."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from shared import topology
from shared.assembly.wiring import Embedded, embedded
from shared.errors import ErrorCode, WorldError
from shared.ports import BatchStore, Clock, Delivery, ObjectStore, Queue
from shared.topology import Policy
from tests.clocks import VirtualClock, VirtualLoop

T = TypeVar("T")

# What a backend cannot do (yet): (backend id, name of the test function) to the reason. A gap that is mended must go.
GAPS: Final[Mapping[tuple[str, str], str]] = {
    ("google", "test_extending_a_lease_that_has_ended_changes_nothing"): (
        "the Pub/Sub emulator revives a lease that has ended when it is extended"
    ),
    ("embedded-file", "test_a_name_may_be_the_folder_of_another"): "a folder cannot be a file as well",
}

BUCKETS: Final = ("intake", "results", "work")

_numbers = itertools.count(1)


class Backend:
    """One backend as a test sees it: the ports, a clock, and what it is capable of.

    `second` is the same state seen by another process where that can be had, else this very backend. Capabilities:

        virtual         time is virtual: waiting is free, and times are exact
        change_feed     image writes are told on the queue, subscription `shared.topology.CHANGES_TOPIC`
        checked_names   object names that would leave a folder are refused with ValueError
        folders         bucket to the folder its objects are files in; None if they are none
        database        the SQLite file that another process may lock; None if there is none
    """

    def __init__(
        self,
        name: str,
        store: BatchStore,
        queue: Queue,
        objects: ObjectStore,
        clock: Clock,
        runner: asyncio.Runner,
        *,
        second: Backend | None = None,
        virtual: bool = False,
        change_feed: bool = False,
        checked_names: bool = False,
        folders: Mapping[str, Path] | None = None,
        database: Path | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self.queue = queue
        self.objects = objects
        self.clock = clock
        self.second = second or self
        self.virtual = virtual
        self.change_feed = change_feed
        self.checked_names = checked_names
        self.folders = folders
        self.database = database
        self.seeds = range(8) if virtual else range(1)  # how often a race is run
        self.slack_seconds = 0.01 if virtual else 2.0  # what may come late
        self._runner = runner

    def run(self, case: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a test's body on the backend's event loop."""
        return self._runner.run(case())

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        await self.clock.sleep(seconds)

    def unique(self, name: str) -> str:
        """An id nobody has used in this test process; fit for batches, workers, keys and object names."""
        return f"{name}-{next(_numbers)}"

    def policy(self, subscription: str) -> Policy:
        """The policy the subscription has on this backend."""
        known = topology.topology()
        return next(p for topic in known.topics for s, p in known.subscriptions(topic).items() if s == subscription)

    def needs(self, capability: str) -> None:
        """Skip the test on backends without the capability."""
        if not getattr(self, capability):
            pytest.skip(f"{self.name} has no {capability}")

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """While another process holds the database's write lock."""
        other = sqlite3.connect(str(self.database), isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        finally:
            other.close()


@contextmanager
def _embedded(name: str, folder: Path | None) -> Iterator[Backend]:
    loop = VirtualLoop()
    clock = VirtualClock(loop)
    database = folder / "ruum.db" if folder else None
    folders = {bucket: folder / bucket for bucket in BUCKETS} if folder else None
    first = embedded(clock, database, folders)
    other = embedded(clock, database, folders) if folder else None
    options = {"virtual": True, "change_feed": True, "checked_names": True, "folders": folders, "database": database}
    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        def seen_as(parts: Embedded, **more: Any) -> Backend:
            return Backend(name, parts.store, parts.queue, parts.objects, clock, runner, **options, **more)

        yield seen_as(first, second=seen_as(other) if other else None)
    first.database.close()
    if other:
        other.database.close()


BACKENDS: Final[Mapping[str, Callable[[Path], AbstractContextManager[Backend]]]] = {
    "embedded-memory": lambda folder: _embedded("embedded-memory", None),
    "embedded-file": lambda folder: _embedded("embedded-file", folder),
}


class Unsteady:
    """A port whose calls take a random while before and after they work, so that tasks meet in every order.

    `breaks` is the share of calls that raise `WorldError`: half of them before, half after the call has done its work.
    """

    def __init__(self, port: Any, clock: Clock, chance: random.Random, breaks: float = 0.0) -> None:
        self._port = port
        self._clock = clock
        self._chance = chance
        self._breaks = breaks

    async def _pause(self) -> None:
        await self._clock.sleep(self._chance.uniform(0, 0.02))
        if self._chance.random() < self._breaks / 2:
            raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "broken by the test")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def call(*args: Any, **options: Any) -> Any:
            await self._pause()
            result = await method(*args, **options)
            await self._pause()
            return result

        async def iterate(*args: Any, **options: Any) -> AsyncIterator[Any]:
            await self._pause()
            async for item in method(*args, **options):
                yield item

        if inspect.iscoroutinefunction(method):
            return call
        return iterate if inspect.isasyncgenfunction(method) else method


async def take(backend: Backend, subscription: str, count: int, within_seconds: float = 10.0) -> list[Delivery]:
    """Pull until there are `count` deliveries, or the time is up."""
    deadline = backend.clock.monotonic() + within_seconds
    taken = await backend.queue.pull(subscription, count, within_seconds)
    while len(taken) < count and (left := deadline - backend.clock.monotonic()) > 0:
        taken += await backend.queue.pull(subscription, count - len(taken), left)
    return taken


async def drain(backend: Backend, subscription: str, quiet_seconds: float = 1.0) -> list[Delivery]:
    """Pull and ack until nothing comes for a while."""
    drained: list[Delivery] = []
    while deliveries := await backend.queue.pull(subscription, 100, quiet_seconds):
        drained += deliveries
        await backend.queue.ack(subscription, [delivery.ack_id for delivery in deliveries])
    return drained
