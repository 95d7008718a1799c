"""Data folders as rooms, workers and operators leave them, written and read beside the commands."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ops import local
from shared import decisions
from shared.adapters import system_clock as clocks
from shared.assembly import wiring
from shared.decisions.quota import Ledger
from shared.messages import Task, decode, encode, task_for
from shared.model import (
    Batch,
    BatchState,
    Completion,
    Counts,
    Failure,
    Image,
    ImageState,
    Lease,
    ReplayPlan,
    Tally,
    Tier,
    Trials,
    last_moved,
)
from shared.ports import Message
from shared.topology import EVENTS_SUBSCRIPTION, topic_of
from tests import builders

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
PICTURE = "gemini-nano-banana-2.1"  # 60 a minute in the settings
TIMEOUT, BUG = "vendor_timeout", "internal"
DAY = 86_400.0


def ok(photo: str = "ok", **changes: Any) -> dict[str, Any]:
    return {"source": f"https://example.com/{photo}.jpg", "state": COMPLETED, **changes}


def failed(code: str = TIMEOUT, minutes_ago: float = 60.0, **changes: Any) -> dict[str, Any]:
    return ok("bad", state=FAILED, code=code, minutes_ago=minutes_ago, **changes)


def queued(**changes: Any) -> dict[str, Any]:
    return ok("open", **{"state": QUEUED, **changes})


class Data:
    """A data folder, written and read beside the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = time.time()

    def run(self, work: Callable[[wiring.Embedded], Any]) -> Any:
        async def body() -> Any:
            embedded = local.open_backend(clocks.SystemClock(), self.folder, self.folder)
            try:
                return await work(embedded)
            finally:
                embedded.database.close()

        return asyncio.run(body())

    # --- writing

    def batch(
        self, name: str, images: Sequence[dict[str, Any]], *, client: str = "acme", closed: bool = True,
        days_ago: float = 0.01, published: bool = True, **changes: Any,
    ) -> str:  # fmt: skip
        """A batch with these images, counted; the tasks of its queued ones published."""
        at = self.now - days_ago * DAY
        state = BatchState.CLOSED if closed else BatchState.PROCESSING
        batch = builders.a_batch(
            id=f"{client}.{name}", client=client, client_name=client, tier=changes.pop("tier", Tier.NORMAL),
            manifest=builders.a_manifest_ref(uri="memory://m", base="file:///nowhere/"),
            total=len(images), created_at=at, tasks_published=len(images), state=state,
        )  # fmt: skip
        if closed:
            counts = sum((Counts(**{image["state"].value: 1}) for image in images), Counts())
            outcome = "completed_with_failures" if counts.failed else "completed"
            completion = Completion(
                outcome=outcome, counts=counts, success_rate=1.0, cost_usd=0.0, duration_seconds=60.0, reports={}
            )
            batch = msgspec.structs.replace(batch, closed_at=at, completion=completion, announced_round=1)
        batch = msgspec.structs.replace(batch, **changes)
        documents = [
            builders.an_image(
                batch=batch.id, index=index, room_type="bedroom", design_style="modern", tier=batch.tier,
                shard=index % batch.shards, source=image["source"], state=image["state"], created_at=at,
                revision=image.get("revision", 2), round=image.get("round", 1), claim=image.get("claim"),
                crashes=image.get("crashes", 0), trials=image.get("trials", Trials()),
                error=Failure(code=image["code"], message=f"{image['code']} it was") if "code" in image else None,
                settled_at=(
                    self.now - image["minutes_ago"] * 60 if "minutes_ago" in image
                    else None if image["state"] in (QUEUED, PROCESSING) else at
                ),
            )
            for index, image in enumerate(images)
        ]  # fmt: skip
        documents = [msgspec.structs.replace(image, moved_at=last_moved(image)) for image in documents]
        tallies = decisions.batch.empty_tallies(batch)
        for document, image in zip(documents, images, strict=True):
            counted = image.get("counted", document.state)
            folded = decisions.batch.fold(tallies[document.shard], index=document.index, revision=2, state=counted)
            assert isinstance(folded, Tally)
            tallies[document.shard] = folded
        tasks = [
            Message(encode(task_for(document, 0)), {"client": client}) for document in documents
            if document.state is QUEUED
        ]  # fmt: skip

        async def work(embedded: Any) -> None:
            await embedded.store.create_batch(batch)
            await embedded.store.create_tallies(tallies)
            await embedded.store.create_images(documents)
            if published and tasks:
                await embedded.queue.publish(topic_of(batch.tier), tasks)

        self.run(work)
        return batch.id

    def rejected(self, name: str = "no") -> str:
        return self.batch(name, [], closed=False, state=BatchState.REJECTED, problems=2)

    def change(self, batch: str, **changes: Any) -> None:
        self.run(lambda e: e.store.change_batch(batch, lambda b: msgspec.structs.replace(b, **changes), "test"))

    def ledger(self, model: str, **changes: Any) -> None:
        self.record(Ledger(id=model, **changes), model)

    def record(self, record: Any, key: str) -> None:
        self.run(lambda e: e.store.change_record(type(record), key, lambda known, at: record, "test"))

    # --- reading

    def found(self, batch: str) -> Batch:
        known: Batch | None = self.run(lambda e: e.store.batch(batch))
        assert known is not None
        return known

    def images(self, batch: str) -> list[Image]:
        async def work(embedded: Any) -> list[Image]:
            return [image async for image in embedded.store.images(batch)]

        known: list[Image] = self.run(work)
        return known

    def standing(self, batch: str) -> list[tuple[str, int]]:
        """(state, round) of each image."""
        return [(image.state.value, image.round) for image in self.images(batch)]

    def counts(self, batch: str) -> Counts:
        known: Counts = self.run(lambda e: e.store.counts(batch))
        return known

    def messages(self, subscription: str) -> list[bytes]:
        connection = sqlite3.connect(self.folder / "batch.sqlite")
        try:
            query = "SELECT data FROM messages WHERE subscription = ? ORDER BY id"
            return [row[0] for row in connection.execute(query, (subscription,))]
        finally:
            connection.close()

    def tasks(self, tier: Tier = Tier.NORMAL) -> list[tuple[str, int, int, int]]:
        """(batch, index, round, epoch) of each task in a tier's queue."""
        found = [decode(Task, data) for data in self.messages(topic_of(tier))]
        return [(task.batch, task.index, task.round, task.epoch) for task in found]

    def events(self) -> int:
        return len(self.messages(EVENTS_SUBSCRIPTION))

    def everything(self) -> str:
        """All of the database, as text, but for what a reconcile notes for its own next run."""
        connection = sqlite3.connect(self.folder / "batch.sqlite")
        try:
            tables = ("batches", "images", "tallies", "records", "messages", "objects", "workers")
            rows = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
            rows["records"] = [row for row in rows["records"] if row[0] != "Reconciled"]
            return repr(rows)
        finally:
            connection.close()


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """As beside a `run` in that data folder."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fill(data: Data) -> None:
    data.batch("a", [failed(minutes_ago=5), ok(), failed(BUG, 120)], days_ago=0.1)
    data.batch("b", [queued(), failed(minutes_ago=120)], days_ago=0.2, closed=False)
    data.batch("c", [failed("source_not_found", 600)], days_ago=0.3, client="globex")
    data.rejected()


A0, A2, B1, C0 = ("acme.a", 0, TIMEOUT), ("acme.a", 2, BUG), ("acme.b", 1, TIMEOUT), ("globex.c", 0, "source_not_found")


def interrupted(data: Data, *, codes: tuple[str, ...] = (), alive: bool = False) -> str:
    """Killed after image 1 was requeued and before it was counted and published; 2 and 3 were still to come."""
    images = [ok(), queued(round=2, revision=3, counted=FAILED), failed(), failed(BUG)]
    plan = ReplayPlan(number=1, lease=Lease(holder="dead", until=data.now + (900 if alive else -1)), codes=codes)
    return data.batch("a", images, published=False, state=BatchState.REOPENING, round=2, replay=plan)
