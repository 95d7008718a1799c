"""Carry out one `run`, from its questions to its last line."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing.util
import os
import signal
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ops import errors, failure_lines, local, manifest_file, photos, run_notes, show, spending, waiting, words
from ops.cli_common import FAILED_HERE, NO_SPACE, OK, REJECTED, SOME_FAILED, database_fault, fail
from ops.noted_model import Notes
from shared import decisions
from shared.assembly import wiring
from shared.decisions.quota import next_reset
from shared.errors import ConfigurationError
from shared.manifest.model import Manifest
from shared.model import Batch, BatchState, Control, Counts
from shared.queries import failures
from shared.results import names
from shared.settings import Settings
from shared.telemetry import LogEvent
from shared.vendors import PREVIEW

# After Ctrl-C, images in progress have this long to finish. A preview takes 2 s. A Gemini call of up to 30 s is kept.
GRACE_SECONDS: Final = 8.0
WAITS_EVERY_SECONDS: Final = 2.0  # between two checks of what the batch is waiting for
STILL_SECONDS: Final = 10.0  # without a finished image, before a wait for quota gets a sentence of its own


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` was asked for."""

    settings: Settings
    manifest: Path
    content: bytes
    out: Path
    data: Path
    photos: tuple[Path, ...]
    model: str
    maker: wiring.ModelMaker
    yes: bool
    as_json: bool


def start(order: Order) -> int:
    """Run it. Returns the exit code. Every expected failure ends it with one line."""
    try:
        return asyncio.run(_Run(order).go())
    except errors.FolderInUse as error:
        fail(str(error))
    except (errors.OurFault, ConfigurationError) as error:
        fail(_what_now(str(error)))
    except sqlite3.Error as error:
        fail(database_fault(error, order.data))


def _what_now(fault: str) -> str:
    """Return a fault of our configuration, or a spent daily quota, with what to do about it."""
    if "same command" in fault:
        return fault
    if "daily quota" in fault:
        at = words.clock_time(next_reset(time.time()))
        return f"{fault}. It is reset at midnight in California, {at} here. Nothing is lost: run the same command then"
    return f"{fault.rstrip('.')}. Nothing is lost: fix this, then run the same command to continue"


class _Run:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._stop = asyncio.Event()
        self._signals: list[int] = []
        self._notes = Notes()
        self._progress = show.BatchProgress()
        self._looked_at = 0.0
        self._moved_at = time.monotonic()
        self._settled = -1
        self._serious: waiting.Wait | None = None
        self._disk_full: str | None = None
        self._is_retry = False
        self._now = time.time

    async def go(self) -> int:
        order = self._order
        show.keep_going()
        async with local.locked(order.data):
            here = await local.LocalRun.open(order.settings, order.data, order.out, order.manifest, list(order.photos))
            found = self._read(here)
            if found is not None:
                self._is_retry = found.is_retry
                await self._ask(here, found)
            # Until now nothing has started, and Ctrl-C ends the command. From here on it stops the work safely.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self._stopping, int(number))
            batch = await here.ingest(order.manifest, order.content)
            if batch.state is BatchState.REJECTED:
                await here.deliver_events()
                manifest_file.show_rejection(order.manifest, order.out, as_json=order.as_json)
                return REJECTED
            self._note(batch)
            done_before = batch.state is BatchState.CLOSED and batch.announced_round >= batch.round
            batch = await self._work(here)
            return await self._tell(batch, done_before=done_before)

    def _stopping(self, number: int) -> None:
        self._signals.append(number)
        if len(self._signals) > 1:  # asked twice: stop images in progress too
            show.clear_bar()
            show.err.print("stopped at once; run the same command to continue")
            _leave_at_once(128 + number)
        self._stop.set()
        show.err.print("stopping: images in progress may finish (press Ctrl-C again to stop at once)")

    # --- before

    def _read(self, here: local.LocalRun) -> Manifest | None:
        """Return the manifest, to check its photos and estimate its cost. If it is rejected, ingest reports it."""
        base = self._order.manifest.parent.resolve().as_uri().rstrip("/") + "/"
        order = self._order
        found, _ = manifest_file.checked(order.content, order.manifest.name, order.settings, here.rules(base))
        return found

    async def _ask(self, here: local.LocalRun, found: Manifest) -> None:
        """Say which photos are missing and what the batch will cost. Ask if somebody can answer."""
        order = self._order
        base = order.manifest.parent.resolve()
        known = await here.store.batch(found.batch)
        absent = photos.missing(found) if known is None else None
        if absent:
            text = photos.sentence(absent, base)
            others = len(found.images) - absent.images
            question = (
                f"Stage the other {words.count(others, 'image')}?" if others else "Every image would fail. Continue?"
            )
            photos.ask_to_go_on(text, question, yes=order.yes, refuse=False)
        images, cost = await spending.of_run(here.store, order.settings, found)
        if cost:
            key = spending.key_named(os.environ)
            line = f"model {order.model} ({key}): {spending.about(cost)} for {words.count(images, 'image')}"
            if cost > spending.ASK_ABOVE_USD:
                spending.sure(f"{line}. Continue?", yes=order.yes, otherwise="nothing was staged")
            if cost <= spending.ASK_ABOVE_USD or order.yes:
                show.err.print(line)

    def _note(self, batch: Batch) -> None:
        order = self._order
        manifest, folders = str(order.manifest.resolve()), [str(folder.resolve()) for folder in order.photos]
        earlier = run_notes.run_note(order.data, batch.id) if self._is_retry else None
        run_notes.note_run(
            order.data,
            batch.id,
            run_notes.RunNote(
                manifest=earlier.manifest if earlier else manifest,
                out=str(order.out.resolve()),
                model=order.model,
                photos=tuple(dict.fromkeys([*(earlier.photos if earlier else ()), *folders])),
                retry=manifest if earlier else None,
            ),
        )
        if not order.as_json:
            show.err.print(f"{batch.id}: {words.count(batch.total, 'image')}, model {order.model}")
            if order.model == PREVIEW and os.environ.get("GOOGLE_API_KEY") and "GEMINI_API_KEY" not in os.environ:
                show.err.print("GOOGLE_API_KEY is set, but does not select Gemini; --model gemini uses it")

    # --- while it works

    async def _work(self, here: local.LocalRun) -> Batch:
        handlers = logging.getLogger().handlers
        watch = _FaultWatch(self._disk_is_full)
        for handler in handlers:
            handler.addFilter(watch)
        try:
            with self._progress:
                self._here = here
                return await here.work(self._notes.maker(self._order.maker), self._stop, GRACE_SECONDS, self._look)
        finally:
            for handler in handlers:
                handler.removeFilter(watch)
            if self._disk_full:
                raise errors.OurFault(self._disk_full)

    def _disk_is_full(self, sentence: str) -> None:
        self._disk_full = sentence
        self._stop.set()

    async def _look(self, batch: Batch, counts: Counts) -> None:
        """Show the batch's progress, and what it is waiting for."""
        now = time.monotonic()
        if counts.settled != self._settled:
            self._settled, self._moved_at = counts.settled, now
        if counts.open and now - self._looked_at >= WAITS_EVERY_SECONDS:
            self._looked_at = now
            await self._say_waits(self._here, now)
        elif not counts.open:
            self._progress.waits, self._progress.stuck = "", False
        self._progress.cost_usd = self._notes.cost_usd
        self._progress.show(batch, counts)

    async def _say_waits(self, here: local.LocalRun, now: float) -> None:
        fault = self._notes.last_fault
        waits = await waiting.of_models(here.store, self._order.settings, self._now(), fault=fault)
        self._progress.waits = waits[0].short if waits else ""
        serious = next((wait for wait in waits if wait.serious), None)
        self._progress.stuck = serious is not None
        said = serious or (waits[0] if waits and now - self._moved_at >= STILL_SECONDS else None)
        if said is None and fault and now - self._moved_at >= STILL_SECONDS:
            self._progress.say_once(f"The last call failed: {fault}. It will be retried.")
            return
        over = "The work continues." if self._serious else None
        self._progress.say_once(said.sentence if said else None, about=said.about if said else None, over=over)
        self._serious = serious

    # --- after

    async def _tell(self, batch: Batch, *, done_before: bool) -> int:
        order = self._order
        counts, cost, groups = await _read_batch(order, batch)
        done = local.summary(batch, counts, cost, str(order.out / names.results_folder(batch)))
        done["failures"] = [msgspec.to_builtins(group) for group in groups]
        if order.as_json:
            show.as_json(done)
        if batch.state is BatchState.CLOSED:
            if not order.as_json:
                self._tell_closed(batch, done, groups, done_before=done_before)
            return OK if counts.completed == batch.total else SOME_FAILED
        where = f" --data {run_notes.quoted(order.data)}"
        if batch.control is Control.PAUSED and not self._signals:
            same = run_notes.run_command(order.data, batch)
            show.err.print(
                f"{batch.id} is paused with {counts.settled} of {batch.total} finished: {waiting.reason_of(batch)}"
            )
            for line in [*failure_lines.lines(groups), *waiting.paused_lines(where, batch, goes_on=same)]:
                show.err.print(line)
            return SOME_FAILED
        show.goodbye(f"stopped with {counts.settled} of {batch.total} finished; run the same command to continue")
        return 128 + self._signals[0] if self._signals else FAILED_HERE

    def _tell_closed(
        self, batch: Batch, done: dict[str, Any], groups: list[failures.Group], *, done_before: bool
    ) -> None:
        order = self._order
        show.summary_lines(done, groups)
        if done_before:
            show.out.print("it was already finished; nothing was staged now")
        folder = order.out / names.round_folder(batch)
        for line in failure_lines.next_steps(
            groups,
            again=run_notes.run_command(order.data, batch, folder / "failed.csv"),
            retry=f"ruum-batch retry-failed {batch.id} --data {run_notes.quoted(order.data)}, then the same run again",
        ):
            show.out.print(line)
        show.out.print(f"report: {(folder / 'report.html').resolve().as_uri()}")


async def _read_batch(order: Order, batch: Batch) -> tuple[Counts, float, list[failures.Group]]:
    """Return counts, cost in US dollars and failures, read anew from the database."""
    from shared.adapters.system_clock import SystemClock

    embedded = local.open_backend(SystemClock(), order.data, order.out)
    try:
        micro = 0
        async for image in embedded.store.images(batch.id):
            micro += image.cost_micro_usd
        groups = await failures.of(embedded.store, batch)
        return await embedded.store.counts(batch.id), decisions.money.usd(micro), groups
    finally:
        embedded.database.close()


class _FaultWatch(logging.Filter):
    """Ends a run at once when the disk is full. Otherwise every image in progress would log the same fault and fail."""

    def __init__(self, on_full: Any) -> None:
        super().__init__()
        self._on_full = on_full

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "fields", {}).get("event") == LogEvent.CONFIGURATION_FAULT.value:
            return False  # it ends the run, which prints it as its last line
        error = record.exc_info[1] if record.exc_info else None
        sentence = _no_space(error)
        if sentence is None:
            return True
        self._on_full(sentence)
        return False


def _no_space(error: BaseException | None) -> str | None:
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL"):
        return database_fault(error)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{name}no space left on the disk. Free some, then run the same command again"
    return None


def _leave_at_once(code: int) -> None:
    """Exit without waiting for anything. The picture subprocesses die with us; their semaphores are removed first.

    Otherwise multiprocessing's tracker would print a warning about them after the prompt is back.
    """
    with suppress(Exception):
        for finalizer in list(vars(multiprocessing.util)["_finalizer_registry"].values()):
            if getattr(finalizer._callback, "__qualname__", "") == "SemLock._cleanup":  # noqa: SLF001
                finalizer()
    os._exit(code)
