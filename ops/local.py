"""The whole pipeline in one process on the embedded backend: what `ruum-batch run` starts."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from ops import run_notes
from ops.errors import FolderInUse, NoKey, OurFault
from ops.events_file import EventsFile
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.errors import Busy, ConfigurationError, RuumError, StillClosing
from shared.manifest.sources import SourceRules
from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Control, Counts
from shared.ports import Delivery, StoredObject
from shared.settings import Buckets, Settings
from shared.topology import CHANGES_TOPIC, DEAD_LETTER_DOOR, EVENTS_SUBSCRIPTION
from shared.vendors import PREVIEW
from shared.worker.subscriber import consume

KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")  # the names Google's own tools read, in this order
CHANGES_AT_ONCE: Final = 200
WATCH_SECONDS: Final = 0.5  # between two checks of the progress; an event announces the end itself
LOCK_TRIES: Final = 10  # another command that checks the lock holds it for an instant
LOCK_PAUSE_SECONDS: Final = 0.03
OPEN_SECONDS: Final = 10.0  # for a database that another command is about to close
OPEN_PAUSE_SECONDS: Final = 0.02


def gemini_key(environ: Mapping[str, str]) -> str | None:
    """Return the key that is set, if any."""
    return next((environ[name] for name in KEY_VARIABLES if environ.get(name)), None)


def model_maker(name: str | None, environ: Mapping[str, str]) -> tuple[str, wiring.ModelMaker]:
    """Return (name, maker) of the model asked for, or of Gemini when GEMINI_API_KEY is set. Raises `NoKey`.

    GOOGLE_API_KEY is often set for other Google services. It is used when Gemini is asked for by name, and never
    selects Gemini by itself.
    """
    key = gemini_key(environ)
    chosen = name or ("gemini" if environ.get("GEMINI_API_KEY") else PREVIEW)
    try:
        return chosen, wiring.model_maker(chosen, key)
    except ConfigurationError as error:
        raise NoKey(f"{error} (https://aistudio.google.com/apikey), or use --model preview") from None


@asynccontextmanager
async def locked(data: Path) -> AsyncIterator[None]:
    """Lock the data folder for this process; the system releases it however the process ends. Raises `FolderInUse`."""
    data.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not await _taken(descriptor):
            raise FolderInUse(f"another ruum-batch is using {data}; wait for it, or pass another --data") from None
        yield
    finally:
        os.close(descriptor)


async def _taken(descriptor: int) -> bool:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
        else:
            return True
    return False


def is_locked(data: Path) -> bool:
    """Return whether a process is using the data folder."""
    try:
        descriptor = os.open(data / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def on_one_machine(settings: Settings) -> Settings:
    """Return the settings with the buckets of a data folder. RUUM_BUCKETS_* names those in the cloud."""
    return msgspec.structs.replace(settings, buckets=Buckets())


def open_backend(clock: SystemClock, data: Path, out: Path) -> wiring.Embedded:
    """Open the backend of a data folder, with results below `out`. Waits for another command that is closing it."""
    data.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            return wiring.embedded(clock, data / "batch.sqlite", bucket_folders(data, out))
        except sqlite3.OperationalError as error:
            # Another command is closing the file: it merges the log into the file, and locks out everyone else.
            # Only the low byte counts: with a log to recover, the error is SQLITE_BUSY_RECOVERY.
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > give_up:
                raise
            time.sleep(OPEN_PAUSE_SECONDS)


def bucket_folders(data: Path, out: Path) -> dict[str, Path]:
    """Return the folder that stands in for each bucket."""
    return {"intake": data / "intake", "work": data / "work", "results": out}


class LocalRun:
    """Takes one manifest through the rooms. Use `open`, then `ingest`, then `work`."""

    def __init__(
        self, settings: Settings, embedded: wiring.Embedded, clock: SystemClock, folders: list[Path], events: Path
    ) -> None:
        self._settings = settings
        self._embedded = embedded
        self._clock = clock
        self._folders = folders
        self._events = events
        self.store = embedded.store
        self.rooms = wiring.rooms(embedded.backend, clock, settings, self._rules_of, folder_is_client=False)
        self.closed = asyncio.Event()
        self._batch_id = ""

    @classmethod
    async def open(cls, settings: Settings, data: Path, out: Path, manifest_path: Path, photos: list[Path]) -> LocalRun:
        """Open the backend. Photos may come from the manifest's folder, `photos`, and folders of earlier batches."""
        clock = SystemClock()
        embedded = open_backend(clock, data, out)
        run_notes.note_results(data, out)
        await embedded.store.take_over()
        folders = [manifest_path.parent.resolve(), *(folder.resolve() for folder in photos)]
        earlier = await embedded.store.batches()
        folders.extend(Path(unquote(urlsplit(batch.manifest.base).path)) for batch in earlier)
        return cls(settings, embedded, clock, list(dict.fromkeys(folders)), out / "events.jsonl")

    def rules(self, base: str) -> SourceRules:
        """Return the rules for what a manifest in the folder `base` (a URI) may name."""
        return SourceRules(
            base=base,
            allow_http=self._settings.download.allow_http,
            folders=tuple(str(folder) for folder in self._folders),
        )

    def _rules_of(self, stored: StoredObject) -> SourceRules:
        return self.rules(stored.metadata["base"])

    async def ingest(self, path: Path, content: bytes) -> Batch:
        """Put the manifest into the intake bucket and ingest it. Returns the batch, which may be `rejected`."""
        name = f"manifests/{run_notes.CLIENT_FOLDER}/{path.name}"
        base = path.parent.resolve().as_uri().rstrip("/") + "/"
        bucket = self._settings.buckets.intake
        await self._embedded.objects.put(
            bucket, name, content, content_type="application/octet-stream", metadata={"base": base}
        )
        batch = await self.rooms.ingest.handle(bucket, name)
        if batch is None:
            raise OurFault(f"{name} is not recognised as a manifest")
        self._batch_id = batch.id
        return batch

    async def work(
        self,
        make_model: wiring.ModelMaker,
        stop: asyncio.Event,
        grace_seconds: float,
        look: Callable[[Batch, Counts], Awaitable[None]],
    ) -> Batch:
        """Stage until the batch is closed and its event written, or `stop` is set. Raises `OurFault`.

        `look` is called after every check of the batch.
        """
        from shared.assembly import (
            worker,  # imports the downloader's HTTP library: 0.1 s that other commands save
        )

        faults: list[str] = []

        def halted(reason: str) -> None:
            faults.append(reason)
            stop.set()

        working = asyncio.create_task(
            worker.work(
                self._embedded.backend,
                self._clock,
                self._settings,
                make_model,
                stop,
                grace_seconds=grace_seconds,
                folders=self._folders,
                on_halt=halted,
            )
        )
        consumers = [asyncio.create_task(loop) for loop in self._consumers()]
        try:
            batch = await self._watch(stop, working, look)
            stop.set()
            await working
        finally:
            for task in consumers:
                task.cancel()
            await asyncio.gather(*consumers, return_exceptions=True)
            with suppress(RuumError):  # the last update may have come too soon after the one before to be written
                await self.rooms.closer.show_progress(self._batch_id, at_once=True)
            self._embedded.database.close()
        if faults:
            raise OurFault(faults[0])
        return batch

    def _consumers(self) -> list[Any]:
        """Return the loops that stand in for Eventarc and for the CRM."""
        events = EventsFile(self._events, self._on_event)

        async def changed(delivery: Delivery) -> None:
            await self.rooms.aggregate.handle(decode(ImageChanged, delivery.data))

        async def dead(delivery: Delivery) -> None:
            await self.rooms.dead_letter.handle(delivery.data, delivery.attributes)

        queue, clock = self._embedded.queue, self._clock
        return [
            consume(queue, CHANGES_TOPIC, changed, max_messages=CHANGES_AT_ONCE, clock=clock),
            consume(queue, DEAD_LETTER_DOOR, dead, max_messages=10, clock=clock),
            consume(queue, EVENTS_SUBSCRIPTION, events.handle, max_messages=10, clock=clock),
        ]

    async def deliver_events(self) -> None:
        """Write the waiting events into events.jsonl, and close the backend. For a rejected manifest."""
        events = EventsFile(self._events)
        queue = self._embedded.queue
        while deliveries := await queue.pull(EVENTS_SUBSCRIPTION, 100, 0.0):
            for delivery in deliveries:
                await events.handle(delivery)
            await queue.ack(EVENTS_SUBSCRIPTION, [delivery.ack_id for delivery in deliveries])
        self._embedded.database.close()

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["type"] == "ruum.batch.completed" and event["subject"] == self._batch_id:
            self.closed.set()

    async def _watch(
        self, stop: asyncio.Event, working: asyncio.Task[None], look: Callable[[Batch, Counts], Awaitable[None]]
    ) -> Batch:
        """Show progress until the batch is closed and announced, or work has stopped."""
        while True:
            batch = await self.store.batch(self._batch_id)
            if batch is None:
                raise RuntimeError(f"batch {self._batch_id} is gone")
            await look(batch, await self.store.counts(batch.id))
            announced = batch.state is BatchState.CLOSED and batch.announced_round >= batch.round
            if announced and not await self._embedded.queue.waiting(EVENTS_SUBSCRIPTION):
                return batch
            if working.done() or stop.is_set():
                return batch
            # Continues a closing that a kill interrupted; does nothing in every other case.
            with suppress(StillClosing):
                await self.rooms.closer.check(batch.id)
            if batch.state is BatchState.REOPENING:  # the same for a replay, once its lease shows that nobody runs it
                with suppress(Busy):
                    await self.rooms.replay.run(batch.id)
            if batch.control is Control.PAUSED and (await self.store.open_images(batch.id))[0]:
                return batch  # nothing moves until a person resumes or cancels it
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self.closed.wait()


def summary(batch: Batch, counts: Counts, cost_usd: float, results: str) -> dict[str, Any]:
    """Return what `--json` prints of a batch."""
    done: dict[str, Any] = msgspec.to_builtins(
        {
            "batchId": batch.id,
            "state": batch.outcome,
            "total": batch.total,
            "completed": counts.completed,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "successRate": round(counts.completed / batch.total, 4) if batch.total else 0.0,
            "costUsd": cost_usd,
            "resultsDir": results,
        }
    )
    return done
