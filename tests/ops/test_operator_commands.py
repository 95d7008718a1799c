"""The operators' commands, on data folders made here: what they say, and what they leave in store and queue."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops import local, words
from shared import decisions
from shared.adapters import system_clock as clocks
from shared.assembly import wiring
from shared.decisions.quota import Circuit, Ledger, Slot, Waiter
from shared.errors import ConfigurationError
from shared.messages import Letter, Task, decode, encode, letter_message, task_for
from shared.model import (
    Batch,
    BatchState,
    Claim,
    Completion,
    Control,
    Counts,
    Failure,
    Image,
    ImageState,
    Lease,
    ManifestRef,
    ReplayPlan,
    Tally,
    Tier,
    TierEmpty,
    Trials,
    Worker,
    last_moved,
    shards_for,
)
from shared.ports import Message
from shared.settings import LIMITS, Limit, Settings
from shared.topology import DEAD_LETTER_KEPT, DEAD_LETTER_TOPIC, EVENTS_SUBSCRIPTION, topic_of
from tests.ops.commands import Ruum

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
PICTURE = "gemini-nano-banana-2.1"  # 60 a minute in the settings
SLOTTED = "runway"  # 10 at once in the settings
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
        batch = Batch(
            id=f"{client}.{name}", client=client, client_name=client, tier=changes.pop("tier", Tier.NORMAL),
            manifest=ManifestRef(uri="memory://m", generation=1, sha256="0", base="file:///nowhere/"),
            total=len(images), shards=shards_for(len(images)), created_at=at, tasks_published=len(images), state=state,
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
            Image(
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


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


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


# --- quota


def rows(ruum: Ruum, data: Data) -> dict[str, dict[str, Any]]:
    found = ruum("quota", "--data", data.folder, "--json").json
    assert list(found) == ["models"]
    return {row["model"]: row for row in found["models"]}


def test_quota_of_an_idle_system(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    found = rows(ruum, data)
    assert set(found) == set(LIMITS)
    assert found[PICTURE] == {
        "model": PICTURE, "perMinute": 60, "concurrent": None, "changed": False, "used": 0, "waiting": 0, "rate": 1.0,
        "circuit": "closed", "openUntil": None, "daySpentUntil": None,
    }  # fmt: skip
    assert (found[SLOTTED]["perMinute"], found[SLOTTED]["concurrent"]) == (None, 10)


def test_quota_counts_what_is_used_and_waits_now(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.ledger(
        PICTURE, grants=((data.now - 100, 5), (data.now - 20, 3), (data.now - 1, 1)), circuit=Circuit.OPEN,
        waiters={"w normal": Waiter(count=4, until=data.now + 99), "x normal": Waiter(count=9, until=data.now - 1)},
        rate=0.5, rate_changed_at=data.now + 60, open_until=data.now + 60, day_spent_until=1e10,
    )  # fmt: skip
    row = rows(ruum, data)[PICTURE]
    assert (row["used"], row["waiting"], row["rate"], row["circuit"]) == (4, 4, 0.5, "open")
    assert row["daySpentUntil"] == "2286-11-20T17:46:40.000Z"


def test_quota_counts_no_slot_of_a_dead_worker(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.ledger(SLOTTED, slots=(Slot(id="lives", until=data.now + 99), Slot(id="dead", until=data.now - 99)))
    assert rows(ruum, data)[SLOTTED]["used"] == 1


def test_quota_knows_that_an_idle_night_ends_slow_mode(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.ledger(PICTURE, rate=1 / 64, rate_changed_at=data.now - DAY)
    assert rows(ruum, data)[PICTURE]["rate"] == 1.0


def test_quota_for_people(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.ledger(PICTURE, circuit=Circuit.OPEN, rate=0.5, rate_changed_at=data.now + 60, open_until=data.now + 60)
    said = ruum("quota", "--all", "--data", data.folder)
    said.done()
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert set(lines) == {"MODEL", *LIMITS}
    for word in ("60/min", "OPEN", "slow mode at 50%"):
        assert word in lines[PICTURE]
    assert " ok" in lines["gemini-3.5-flash-lite"], "a closed circuit reads as one that is shut"
    assert "10 at once" in lines[SLOTTED]
    assert "slow" not in lines[SLOTTED]


def test_quota_tells_people_until_when_the_day_is_spent(ruum: Ruum, data: Data) -> None:
    """docs/operations.md, "quota-exhausted": `ruum-batch quota` says until when."""
    data.batch("a", [ok()])
    data.ledger(PICTURE, day_spent_until=1e10)
    (line,) = [line for line in ruum("quota", "--data", data.folder).out.splitlines() if line.startswith(PICTURE)]
    assert "2286" in line


# --- set-quota


def limit_of(data: Data, model: str = PICTURE) -> Ledger | None:
    known: Ledger | None = data.run(lambda e: e.store.record(Ledger, model))
    return known


def test_set_quota_and_back(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.ledger(PICTURE, grants=((data.now, 3),), rate=0.5, rate_changed_at=data.now + 60)
    said = ruum("set-quota", PICTURE, "--per-minute", 120, "--data", data.folder)
    said.done()
    (event,) = data.messages(EVENTS_SUBSCRIPTION)
    assert (json.loads(event)["perMinute"], json.loads(event)["rate"]) == (120, 0.5)
    ledger = limit_of(data)
    assert ledger is not None
    assert (ledger.limit, ledger.grants, ledger.rate) == (Limit(per_minute=120), ((data.now, 3),), 0.5)
    found = rows(ruum, data)
    assert (found[PICTURE]["perMinute"], found["gemini-3-pro-image"]["perMinute"]) == (120, 60)

    back = ruum("set-quota", PICTURE, "--reset", "--data", data.folder)
    back.done()
    assert f"{PICTURE}: 60/min → 120/min\n" == said.out
    assert f"{PICTURE}: 120/min → 60/min (as in the settings)\n" == back.out
    ledger = limit_of(data)
    assert ledger is not None
    assert (ledger.limit, ledger.grants) == (None, ((data.now, 3),))
    assert rows(ruum, data)[PICTURE]["perMinute"] == 60


def test_set_quota_without_a_limit_changes_nothing_and_says_what_there_is(ruum: Ruum, data: Data) -> None:
    """Whoever only wanted to look must not change production."""
    data.batch("a", [ok()])
    data.ledger(PICTURE, limit=Limit(per_minute=7))
    before = data.everything()
    ruum("set-quota", PICTURE, "--data", data.folder).refused(64, "--per-minute", "--reset", "7/min")
    ruum("set-quota", PICTURE, "--reset", "--per-minute", 5, "--data", data.folder).refused(64)
    assert data.everything() == before


def test_set_quota_where_nothing_was_asked_yet(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    ruum("set-quota", SLOTTED, "--concurrent", 7, "--data", data.folder).done()
    assert rows(ruum, data)[SLOTTED]["concurrent"] == 7


@pytest.mark.parametrize("options", [("--reset",), ("--per-minute", 5)])
def test_set_quota_of_an_unknown_model(ruum: Ruum, data: Data, options: tuple[object, ...]) -> None:
    data.batch("a", [ok()])
    before = data.everything()
    ruum("set-quota", "gemini-next", *options, "--data", data.folder).refused(64, "gemini-next", *LIMITS)
    assert data.everything() == before


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_set_quota_wants_a_number(ruum: Ruum, data: Data, value: str) -> None:
    data.batch("a", [ok()])
    before = data.everything()
    said = ruum("set-quota", PICTURE, "--per-minute", value, "--data", data.folder)
    assert (said.code, said.out) == (64, "")
    assert "--per-minute" in said.err
    assert "Traceback" not in said.err
    assert data.everything() == before


# --- pause, resume


def test_pause_and_resume(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), queued(), failed(), queued()], closed=False)
    ruum("pause", batch, "--data", data.folder).done()
    paused = data.found(batch)
    assert (paused.control, paused.state, paused.control_epoch) == (Control.PAUSED, BatchState.PROCESSING, 0)
    assert paused.paused_reason
    assert (len(data.tasks()), data.events()) == (2, 2), "the pause, and how far the batch was"

    ruum("resume", batch, "--data", data.folder).done()
    resumed = data.found(batch)
    assert (resumed.control, resumed.paused_reason) == (Control.RUN, None)
    assert (resumed.control_epoch, resumed.epoch_published) == (1, 1)
    assert resumed.baseline == Counts(queued=2, completed=1, failed=1)
    assert data.tasks()[2:] == [(batch, 1, 1, 1), (batch, 3, 1, 1)]
    assert data.standing(batch) == [("completed", 1), ("queued", 1), ("failed", 1), ("queued", 1)]


def test_pause_twice_and_resume_twice_change_nothing_more(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False)
    for verb in ("pause", "resume"):
        ruum(verb, batch, "--data", data.folder).done()
        before = data.everything()
        ruum(verb, batch, "--data", data.folder).done()
        assert data.everything() == before


def test_resume_carries_on_a_resume_that_was_killed(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False, control_epoch=2, epoch_published=1, published=False)
    ruum("resume", batch, "--data", data.folder).done()
    assert data.tasks() == [(batch, 0, 1, 2)]
    assert data.found(batch).epoch_published == 2


def test_why_it_is_paused_is_shown_everywhere(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False, control=Control.PAUSED, paused_reason="25 of 30 images failed")
    assert "25 of 30 images failed" in ruum("status", batch, "--data", data.folder).out
    assert ruum("status", batch, "--data", data.folder, "--json").json["pausedReason"] == "25 of 30 images failed"
    assert "paused" in ruum("batches", "--data", data.folder).out
    ruum("resume", batch, "--data", data.folder).done()
    assert ruum("status", batch, "--data", data.folder, "--json").json["pausedReason"] is None
    assert "paused" not in ruum("batches", "--data", data.folder).out


def test_a_pause_is_in_status_json_at_once(ruum: Ruum, data: Data) -> None:
    """For who polls instead of listening: no image's event may come that would refresh it."""
    batch = data.batch("a", [queued(), ok()], closed=False)
    path = data.folder / "results/acme/a/status.json"
    for verb, control in (("pause", "paused"), ("resume", "run"), ("cancel", "cancelling")):
        ruum(verb, batch, *(("--yes",) if verb == "cancel" else ()), "--data", data.folder).done()
        assert json.loads(path.read_text())["control"] == control


def test_a_cancelled_batch_s_failures_are_left_alone_and_said(ruum: Ruum, data: Data) -> None:
    data.batch("gone", [failed(), failed()], control=Control.CANCELLING)
    other = data.batch("b", [failed()])
    said = ruum("replay", "--data", data.folder)
    assert said.code == 0
    assert "acme.gone: 2 failed images left alone: it was cancelled" in said.err
    assert f"{other}: 1 image queued again" in said.out
    assert data.standing("acme.gone") == [("failed", 1)] * 2


def test_status_for_people_says_whether_it_runs(ruum: Ruum, data: Data) -> None:
    """docs/operations.md, "paused-batch": it worked when `ruum-batch status BATCH` says `run`."""
    batch = data.batch("a", [queued()], closed=False, control=Control.PAUSED, paused_reason="too many failed")
    said = ruum("status", batch, "--data", data.folder)
    said.done()
    assert "paused" in said.out


# --- cancel


def test_cancel_asks_and_nobody_answers(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), queued()], closed=False)
    before = data.everything()
    ruum("cancel", batch, "--data", data.folder).refused(64, batch, "--yes")
    assert data.everything() == before


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 64)])
def test_cancel_asks_on_a_terminal(
    ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    batch = data.batch("a", [queued()], closed=False)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    said = ruum("cancel", batch, "--data", data.folder)
    assert said.code == code
    assert "for good? 1 of 1 image would not be staged" in said.out + said.err
    assert data.standing(batch) == [("cancelled" if code == 0 else "queued", 1)]


def test_cancel_for_good(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed(), queued(), queued(), failed(BUG)], closed=False)
    ruum("cancel", batch, "--yes", "--data", data.folder).done()
    assert [state for state, _ in data.standing(batch)] == ["failed", "cancelled", "cancelled", "failed"]
    assert data.found(batch).control is Control.CANCELLING
    before = data.events()
    ruum("cancel", batch, "--yes", "--data", data.folder).done()  # once more, as after a kill
    assert data.events() - before <= 1

    # Nobody works in the data folder: the command itself has counted, closed, and written the event.
    found = data.found(batch)
    assert (found.state, found.control, found.outcome) == (BatchState.CLOSED, Control.CANCELLING, "cancelled")
    assert found.announced_round == 1
    assert data.counts(batch) == Counts(failed=2, cancelled=2)
    (line,) = [line for line in (data.folder / "events.jsonl").read_text().splitlines() if "batch.completed" in line]
    assert json.loads(line)["data"]["outcome"] == "cancelled"
    ruum("resume", batch, "--data", data.folder).refused(4, batch)
    assert ruum("status", batch, "--data", data.folder, "--json").json["state"] == "cancelled"


def test_cancel_leaves_what_is_in_living_hands(ruum: Ruum, data: Data) -> None:
    claims = [Claim(worker=name, at=data.now - 5) for name in ("lives", "dead")]
    images = [queued(state=PROCESSING, claim=claim) for claim in claims]
    batch = data.batch("a", [*images, queued()], closed=False)
    data.run(lambda e: e.store.beat(Worker(id="lives", at=time.time() + 60)))
    data.run(lambda e: e.store.beat(Worker(id="dead", at=data.now - 900)))
    with at_work(data.folder):
        said = ruum("cancel", batch, "--yes", "--data", data.folder)
    said.done()
    assert "being cancelled" in said.out
    assert [state for state, _ in data.standing(batch)] == ["processing", "cancelled", "cancelled"]
    found = data.found(batch)
    assert (found.state, found.control) == (BatchState.PROCESSING, Control.CANCELLING)
    for verb in ("pause", "resume"):
        ruum(verb, batch, "--data", data.folder).refused(4, batch, "it is being cancelled")
    assert data.found(batch).control is Control.CANCELLING


# --- batches that a command cannot work on


VERBS = (("pause",), ("resume",), ("cancel", "--yes"), ("retry-failed",), ("replay", "--batch"),
         ("dead-letters", "list", "--batch"), ("status",))  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_an_unknown_batch(ruum: Ruum, data: Data, verb: tuple[str, ...]) -> None:
    data.batch("b1", [failed()])
    data.batch("b2", [queued()], client="globex", closed=False)
    before = data.everything()
    ruum(*verb, "acme.nonsense", "--data", data.folder).refused(64, "acme.nonsense", "acme.b1", "globex.b2")
    assert data.everything() == before


@pytest.mark.parametrize("verb", [("pause",), ("resume",), ("cancel", "--yes")], ids=" ".join)
@pytest.mark.parametrize("kind", ["finished", "rejected"])
def test_what_is_over_is_not_controlled(ruum: Ruum, data: Data, verb: tuple[str, ...], kind: str) -> None:
    batch = data.batch("a", [ok(), failed()]) if kind == "finished" else data.rejected()
    before = data.everything()
    why = "it is finished" if kind == "finished" else "its manifest was rejected"
    ruum(*verb, batch, "--data", data.folder).refused(4, f"{batch} cannot be {verb[0].removesuffix('e')}", why)
    assert data.everything() == before


@pytest.mark.parametrize("verb", [("retry-failed",), ("replay", "--batch")], ids=" ".join)
@pytest.mark.parametrize("kind", ["finished", "rejected", "running"])
def test_nothing_failed_nothing_replayed(ruum: Ruum, data: Data, verb: tuple[str, ...], kind: str) -> None:
    batch = data.rejected() if kind == "rejected" else data.batch("a", [ok(), ok()], closed=kind == "finished")
    before = data.everything()
    said = ruum(*verb, batch, "--data", data.folder)
    assert (said.code, said.out) == (0, f"nothing has failed in {batch}\n")
    assert data.everything() == before


# --- status, batches


def test_status_as_json(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), queued(), failed(), queued()], closed=False, control=Control.PAUSED)
    found = ruum("status", batch, "--data", data.folder, "--json").json
    expected = {
        "batchId": batch, "client": "acme", "state": "processing", "control": "paused", "round": 1, "total": 4,
        "queued": 2, "processing": 0, "completed": 1, "failed": 1, "cancelled": 0, "progress": 0.5,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected


def test_status_for_people(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), ok(), failed()])
    said = ruum("status", batch, "--data", data.folder)
    said.done()
    head, finished, *rest = said.out.splitlines()
    assert head == f"{batch}: completed with failures, round 1, tier normal"
    assert "3 of 3 finished (100%)" in finished
    assert dict(line.split() for line in rest[:5]) == {
        "queued": "0", "processing": "0", "completed": "2", "failed": "1", "cancelled": "0",
    }  # fmt: skip
    told = "\n".join(rest[5:])
    assert f"1 {TIMEOUT} (the vendor took too long: try again): https://example.com/bad.jpg" in told
    assert "took 1 min 00 s" in told
    assert f"ruum-batch retry-failed {batch} --data" in told


def test_status_of_a_rejected_batch(ruum: Ruum, data: Data) -> None:
    found = ruum("status", data.rejected(), "--data", data.folder, "--json").json
    assert (found["state"], found["total"], found["progress"]) == ("rejected", 0, 0.0)
    assert "rejected" in ruum("status", "acme.no", "--data", data.folder).out


def test_batches_newest_first(ruum: Ruum, data: Data) -> None:
    data.batch("old", [ok(), failed()], days_ago=9)
    data.rejected()
    data.batch("older", [queued()], days_ago=10, closed=False, client="globex")
    before = data.everything()
    found = ruum("batches", "--data", data.folder, "--json").json["batches"]
    assert [(row["batchId"], row["state"], row["failed"]) for row in found] == [
        ("acme.no", "rejected", 0), ("acme.old", "completed_with_failures", 1), ("globex.older", "processing", 0),
    ]  # fmt: skip
    lines = ruum("batches", "--data", data.folder).out.splitlines()
    assert [line.split()[0] for line in lines] == ["BATCH", "acme.no", "acme.old", "globex.older"]
    assert lines[0].split() == ["BATCH", "STATE", "TIER", "CREATED", "COMPLETED", "FAILED", "LEFT", "COST"]
    assert lines[2].split()[-5:] == ["1", "of", "2", "1", "$0.00"]
    assert data.everything() == before


def test_batches_of_an_empty_store(ruum: Ruum, data: Data) -> None:
    data.run(lambda e: e.store.batches())
    assert ruum("batches", "--data", data.folder, "--json").json == {"batches": []}
    assert ruum("batches", "--data", data.folder).out == f"no batches in the data folder {data.folder}\n"
    ruum("status", "acme.a", "--data", data.folder).refused(64, "acme.a", "none")


# --- dead-letters list


def letters(ruum: Ruum, data: Data, *options: object) -> list[tuple[str, int, str]]:
    found = ruum("dead-letters", "list", *options, "--data", data.folder, "--json").json
    assert list(found) == ["failed", "total", "byCode"]
    assert found["total"] == len(found["failed"]) == sum(found["byCode"].values())
    return [(row["batch"], row["index"], row["code"]) for row in found["failed"]]


def fill(data: Data) -> None:
    data.batch("a", [failed(minutes_ago=5), ok(), failed(BUG, 120)], days_ago=0.1)
    data.batch("b", [queued(), failed(minutes_ago=120)], days_ago=0.2, closed=False)
    data.batch("c", [failed("source_not_found", 600)], days_ago=0.3, client="globex")
    data.rejected()


A0, A2, B1, C0 = ("acme.a", 0, TIMEOUT), ("acme.a", 2, BUG), ("acme.b", 1, TIMEOUT), ("globex.c", 0, "source_not_found")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [A0, A2, B1, C0]),
        (("--batch", "acme.a"), [A0, A2]),
        (("--client", "globex"), [C0]),
        (("--client", "acme"), [A0, A2, B1]),
        (("--code", TIMEOUT), [A0, B1]),
        (("--code", BUG, "--code", "source_not_found"), [A2, C0]),
        (("--older-than-minutes", 60), [A2, B1, C0]),
        (("--older-than-minutes", 60, "--client", "acme", "--code", TIMEOUT), [B1]),
        (("--client", "Acme"), [A0, A2, B1]),
        (("--code", "worker_crashed"), []),
    ],
)
def test_letters_by(ruum: Ruum, data: Data, options: tuple[object, ...], expected: list[object]) -> None:
    fill(data)
    before = data.everything()
    assert sorted(letters(ruum, data, *options)) == expected
    assert data.everything() == before


@pytest.mark.parametrize("command", [("dead-letters", "list"), ("replay", "--dry-run"), ("retry-failed", "acme.a")])
def test_a_code_that_there_is_none_of_is_refused(ruum: Ruum, data: Data, command: tuple[str, ...]) -> None:
    """No image failed with it, which would look like good news."""
    fill(data)
    said = ruum(*command, "--code", "vendor_timeuot", "--data", data.folder)
    assert said.code == 64
    assert "vendor_timeuot: there is" in said.err
    assert "vendor_timeout" in said.err


def test_letters_tell_when(ruum: Ruum, data: Data) -> None:
    data.batch("a", [failed(minutes_ago=90)])
    (row,) = ruum("dead-letters", "list", "--data", data.folder, "--json").json["failed"]
    assert row["failedAt"][:16] in ruum("dead-letters", "list", "--data", data.folder).out
    assert abs(datetime.fromisoformat(row["failedAt"]).timestamp() - (data.now - 90 * 60)) < 1


def test_letters_for_people(ruum: Ruum, data: Data) -> None:
    fill(data)
    said = ruum("dead-letters", "list", "--client", "acme", "--data", data.folder)
    said.done()
    header, *lines, total = said.out.splitlines()
    assert header.split()[:3] == ["BATCH", "INDEX", "CODE"]
    assert total == f"3 failed images: 2 {TIMEOUT}, 1 {BUG}"
    assert all("https://example.com/bad.jpg" in line for line in lines)
    assert sorted(line.split()[:3] for line in lines) == [[b, str(i), c] for b, i, c in (A0, A2, B1)]
    assert all("it was" in line for line in lines)
    (row,) = ruum("dead-letters", "list", "--client", "globex", "--data", data.folder, "--json").json["failed"]
    assert (row["message"], row["source"]) == ("source_not_found it was", "https://example.com/bad.jpg")


# --- retry-failed


def test_retry_failed_of_a_finished_batch(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed(), ok(), failed(BUG)], tier=Tier.ECONOMY)
    other = data.batch("b", [failed()])
    said = ruum("retry-failed", batch, "--data", data.folder)
    said.done()
    assert "2 images of 1 batch\n" in said.out
    assert f"{batch}: 2 images queued again" in said.out
    assert data.standing(batch) == [("queued", 2), ("completed", 1), ("queued", 2)]
    found = data.found(batch)
    assert (found.state, found.round, found.replay, found.control) == (BatchState.PROCESSING, 2, None, Control.RUN)
    assert data.tasks(Tier.ECONOMY) == [(batch, 0, 2, 0), (batch, 2, 2, 0)]
    assert data.tasks() == []
    assert data.counts(batch) == Counts(queued=2, completed=1)
    assert (data.found(other).round, data.standing(other)) == (1, [("failed", 1)])


def test_retry_failed_of_a_running_batch_stays_in_its_round(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed(), queued()], closed=False)
    ruum("retry-failed", batch, "--data", data.folder).done()
    found = data.found(batch)
    assert (found.state, found.round) == (BatchState.PROCESSING, 1)
    assert data.standing(batch) == [("queued", 2), ("queued", 1)]
    assert (batch, 0, 2, 0) in data.tasks()


def test_retry_failed_by_code(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed(), failed(BUG), failed("source_not_found")])
    said = ruum("retry-failed", batch, "--code", BUG, "--code", TIMEOUT, "--data", data.folder)
    said.done()
    assert f"{batch}: 1 {BUG}, 1 {TIMEOUT}\n" in said.out
    assert data.standing(batch) == [("queued", 2), ("queued", 2), ("failed", 1)]
    assert [task[1] for task in data.tasks()] == [0, 1]


def test_retry_failed_announces_the_round_it_leaves(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed()], announced_round=0)
    ruum("retry-failed", batch, "--data", data.folder).done()
    assert (data.found(batch).announced_round, data.found(batch).round, data.events()) == (1, 2, 1)


@pytest.mark.parametrize("command", ["retry-failed", "replay"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_dry_run_changes_nothing(ruum: Ruum, data: Data, command: str, interrupted: bool) -> None:
    batch = data.batch("a", [failed(), ok(), failed(BUG), failed()])
    if interrupted:
        plan = ReplayPlan(number=1, lease=Lease(holder="dead", until=data.now - 1))
        data.change(batch, state=BatchState.REOPENING, round=2, replay=plan)
    before = data.everything()
    target = (batch,) if command == "retry-failed" else ("--batch", batch)
    said = ruum(command, *target, "--dry-run", "--data", data.folder)
    said.done()
    assert f"1 {BUG}, 2 {TIMEOUT}" in said.out
    assert "3 images of 1 batch\n" in said.out
    assert "queued again" not in said.out
    assert data.everything() == before


class Time:
    """The commands' clock: sleeping moves it. `slept` are the times it stood still, with the lease at the start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.ahead, self.slept = 0.0, list[tuple[float, float, float]]()
        outer = self

        async def sleep(_: object, seconds: float) -> None:
            lease = outer.lease(folder)
            outer.ahead += seconds
            outer.slept.append((seconds, time.time() + outer.ahead, lease))

        monkeypatch.setattr(clocks.SystemClock, "sleep", sleep)
        monkeypatch.setattr(clocks.SystemClock, "now", lambda _: time.time() + outer.ahead)
        monkeypatch.setattr(clocks.SystemClock, "monotonic", lambda _: time.monotonic() + outer.ahead)

    def lease(self, folder: Path) -> float:
        connection = sqlite3.connect(folder / "batch.sqlite")
        try:
            (doc,) = connection.execute("SELECT doc FROM batches").fetchone()
        finally:
            connection.close()
        plan = msgspec.json.decode(doc, type=Batch).replay
        return plan.lease.until if plan else float("inf")


def test_the_rate_is_kept(ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = data.batch("a", [failed()] * 150)
    moved = Time(monkeypatch, data.folder)
    assert ruum("retry-failed", batch, "--rate", 50, "--yes", "--data", data.folder).code == 0
    assert 2.0 <= sum(seconds for seconds, _, _ in moved.slept) <= 3.1
    assert len(data.tasks()) == 150


def test_a_slow_replay_keeps_its_lease(ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for its rate nobody may think it dead: reconcile runs every ten minutes."""
    batch = data.batch("a", [failed()] * 150)
    moved = Time(monkeypatch, data.folder)
    assert ruum("retry-failed", batch, "--rate", 0.5, "--yes", "--data", data.folder).code == 0
    assert moved.slept
    assert [seconds for seconds, woke, lease in moved.slept if lease < woke] == []


# --- asking


@pytest.mark.parametrize(
    ("images", "options", "asks"),
    [
        (101, ("replay",), True),
        (100, ("replay",), False),
        (101, ("replay", "--yes"), False),
        (101, ("replay", "--client", "acme"), True),
        (101, ("replay", "--batch", "acme.a"), True),
        (101, ("replay", "--code", TIMEOUT), True),
        (101, ("replay", "--older-than-minutes", 1), True),
        (101, ("retry-failed", "acme.a"), True),
        (101, ("retry-failed", "acme.a", "--yes"), False),
        (101, ("retry-failed", "acme.a", "--code", TIMEOUT), True),
    ],
)
def test_many_images_are_asked_about(
    ruum: Ruum, data: Data, images: int, options: tuple[object, ...], asks: bool
) -> None:
    data.batch("a", [failed()] * images)
    before = data.everything()
    said = ruum(*options, "--data", data.folder)
    assert f"acme.a: {images} {TIMEOUT}\n{images} images of 1 batch\n" in said.out
    if asks:
        said.refused(64, f"{images} images", "--yes")
        assert data.everything() == before
    else:
        said.done()
        assert data.standing("acme.a") == [("queued", 2)] * images
        assert len(data.tasks()) == images


def test_batches_are_asked_about_together(ruum: Ruum, data: Data) -> None:
    for name in ("a", "b"):
        data.batch(name, [failed()] * 51)
    before = data.everything()
    ruum("replay", "--data", data.folder).refused(64, "102 images")
    assert data.everything() == before


# --- replay


REPLAYED: dict[tuple[object, ...], list[tuple[str, int, str]]] = {
    (): [A0, A2, B1, C0],
    ("--batch", "acme.a"): [A0, A2],
    ("--client", "globex"): [C0],
    ("--client", "acme", "--code", TIMEOUT): [A0, B1],
    ("--code", "source_not_found", "--code", BUG): [A2, C0],
    ("--older-than-minutes", 60): [A2, B1, C0],
    ("--older-than-minutes", 60, "--batch", "acme.a"): [A2],
}


@pytest.mark.parametrize(("options", "expected"), REPLAYED.items(), ids=[" ".join(map(str, o)) for o in REPLAYED])
def test_replay_by(
    ruum: Ruum, data: Data, options: tuple[object, ...], expected: list[tuple[str, int, str]]
) -> None:  # fmt: skip
    fill(data)
    said = ruum("replay", *options, "--data", data.folder)
    said.done()
    batches = {batch for batch, _, _ in expected}
    assert f"{words.count(len(expected), 'image')} of {words.count(len(batches), 'batch')}\n" in said.out
    requeued = [
        (batch, image.index) for batch in ("acme.a", "acme.b", "globex.c") for image in data.images(batch)
        if (image.state, image.round) == (QUEUED, 2)
    ]  # fmt: skip
    assert requeued == [(batch, index) for batch, index, _ in expected]
    assert sorted(task[:2] for task in data.tasks() if task[2] == 2) == requeued
    rounds = {batch: data.found(batch).round for batch in ("acme.a", "acme.b", "globex.c")}
    closed = batches - {"acme.b"}  # which is running: its round goes on
    assert rounds == {batch: 2 if batch in closed else 1 for batch in rounds}


def test_the_plan_comes_first(ruum: Ruum, data: Data) -> None:
    fill(data)
    lines = ruum("replay", "--client", "acme", "--data", data.folder).out.splitlines()
    assert lines[:3] == [f"acme.a: 1 {BUG}, 1 {TIMEOUT}", f"acme.b: 1 {TIMEOUT}", "3 images of 2 batches"]
    assert [line for line in lines[3:] if not line.startswith("  ")] == [
        "acme.a: 2 images queued again", "acme.b: 1 image queued again",
    ]  # fmt: skip
    assert all("nothing runs in" in line and "now run: ruum-batch run" in line for line in lines[4::2])
    assert len(lines) == 7


def test_a_second_replay_finds_nothing(ruum: Ruum, data: Data) -> None:
    fill(data)
    ruum("replay", "--data", data.folder).done()
    before = data.everything()
    said = ruum("replay", "--data", data.folder)
    said.done()
    assert said.out == "0 images of 0 batches\n"
    assert data.everything() == before


def test_letters_of_images_that_go_on_are_taken_away(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed(), failed(BUG)])

    async def work(embedded: Any) -> None:
        for index, code in enumerate((TIMEOUT, BUG)):
            task = Task(batch=batch, index=index, round=1, tier=Tier.NORMAL)
            letter = letter_message(Letter(code=code, message="no", task=task))
            await embedded.queue.publish(DEAD_LETTER_TOPIC, [letter])

    data.run(work)
    ruum("replay", "--code", TIMEOUT, "--data", data.folder).done()
    assert [decode(Letter, letter).code for letter in data.messages(DEAD_LETTER_KEPT)] == [BUG]


@pytest.mark.parametrize("kind", ["cancelled", "being replayed"])
def test_one_batch_that_cannot_be_replayed_holds_up_no_other(ruum: Ruum, data: Data, kind: str) -> None:
    """A cancelled batch keeps its failed images for good; every later `replay` meets it."""
    stuck = data.batch("stuck", [ok(state=CANCELLED), failed()], days_ago=0.01)
    data.batch("b", [failed()], days_ago=0.5)
    if kind == "cancelled":
        data.change(stuck, control=Control.CANCELLING)
    else:
        plan = ReplayPlan(number=1, lease=Lease(holder="another", until=data.now + 900))
        data.change(stuck, state=BatchState.REOPENING, round=2, replay=plan)
    before = data.found(stuck)
    said = ruum("replay", "--client", "acme", "--data", data.folder)
    assert "Traceback" not in said.err
    assert (data.found(stuck), data.standing(stuck)) == (before, [("cancelled", 1), ("failed", 1)])
    assert data.standing("acme.b") == [("queued", 2)]


# --- a replay that was interrupted


def interrupted(data: Data, *, codes: tuple[str, ...] = (), alive: bool = False) -> str:
    """Killed after image 1 was requeued and before it was counted and published; 2 and 3 were still to come."""
    images = [ok(), queued(round=2, revision=3, counted=FAILED), failed(), failed(BUG)]
    plan = ReplayPlan(number=1, lease=Lease(holder="dead", until=data.now + (900 if alive else -1)), codes=codes)
    return data.batch("a", images, published=False, state=BatchState.REOPENING, round=2, replay=plan)


@pytest.mark.parametrize("command", [("replay",), ("replay", "--client", "acme"), ("retry-failed", "acme.a")])
def test_an_interrupted_replay_is_carried_on(ruum: Ruum, data: Data, command: tuple[str, ...]) -> None:
    batch = interrupted(data)
    assert ruum("status", batch, "--data", data.folder, "--json").json["state"] == "reopening"
    ruum(*command, "--data", data.folder).done()
    found = data.found(batch)
    assert (found.state, found.round, found.replay) == (BatchState.PROCESSING, 2, None)
    assert data.standing(batch) == [("completed", 1), ("queued", 2), ("queued", 2), ("queued", 2)]
    assert sorted(data.tasks()) == [(batch, index, 2, 0) for index in (1, 2, 3)]
    assert data.counts(batch) == Counts(completed=1, queued=3)


def test_an_interrupted_replay_with_nothing_left_is_carried_on_too(ruum: Ruum, data: Data) -> None:
    plan = ReplayPlan(number=1, lease=Lease(holder="dead", until=data.now - 1))
    images = [ok(), queued(round=2, revision=3, counted=FAILED)]
    batch = data.batch("a", images, published=False, state=BatchState.REOPENING, round=2, replay=plan)
    said = ruum("replay", "--data", data.folder)
    said.done()
    assert f"{batch}: an interrupted replay" in said.out
    assert data.found(batch).state is BatchState.PROCESSING
    assert data.tasks() == [(batch, 1, 2, 0)]


def test_an_interrupted_replay_is_shown_as_such(ruum: Ruum, data: Data) -> None:
    batch = interrupted(data)
    said = ruum("replay", "--dry-run", "--data", data.folder)
    (line,) = [line for line in said.out.splitlines() if line.startswith(batch)]
    assert "interrupted" in line


@pytest.mark.parametrize("options", [(), ("--code", BUG)], ids=["all", "another code"])
def test_the_plan_of_an_interrupted_replay_is_what_is_done(
    ruum: Ruum, data: Data, options: tuple[str, ...]
) -> None:  # fmt: skip
    """It goes on with the codes it was begun with: the plan shown is of those, not of the command's."""
    batch = interrupted(data, codes=(TIMEOUT,))
    before = {image.index: image.error.code for image in data.images(batch) if image.error}
    said = ruum("replay", *options, "--data", data.folder)
    said.done()
    after = data.images(batch)
    done = sorted(code for index, code in before.items() if after[index].state is QUEUED)
    shown = re.search(rf"{re.escape(batch)}: (.*)", said.out)
    assert shown
    assert sorted(re.findall(rf"{TIMEOUT}|{BUG}", shown[1])) == done


def test_a_replay_under_way_is_left_to_its_holder(ruum: Ruum, data: Data) -> None:
    batch = interrupted(data, alive=True)
    before = data.found(batch), data.standing(batch), data.tasks()
    ruum("retry-failed", batch, "--data", data.folder).refused(4, batch)
    assert (data.found(batch), data.standing(batch), data.tasks()) == before


def test_after_ctrl_c_the_same_command_goes_on(ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `replay --help` says: what is queued again runs, the rest stays failed, nobody waits for a lease."""
    batch = data.batch("a", [failed()] * 150)

    async def ctrl_c(_: object, seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)  # one turn of the loop, which hears of it

    # asyncio minds Ctrl-C only where Python's own handler stands, as it does when a command starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(clocks.SystemClock, "sleep", ctrl_c)
        said = ruum("replay", "--client", "acme", "--rate", 1000, "--yes", "--data", data.folder)
    assert said.code == 130
    assert "Traceback" not in said.err
    assert "the same command goes on" in said.err
    assert (data.found(batch).state, data.found(batch).replay) == (BatchState.PROCESSING, None)
    assert (data.counts(batch).queued, data.counts(batch).failed) == (100, 50)

    ruum("replay", "--client", "acme", "--rate", 1000, "--yes", "--data", data.folder).done()
    found = data.found(batch)
    assert (found.state, found.round) == (BatchState.PROCESSING, 2)
    assert data.standing(batch) == [("queued", 2)] * 150
    assert {task[1] for task in data.tasks()} == set(range(150))


# --- reconcile


NOTHING = {"closed": 0, "replays": 0, "folded": 0, "published": 0, "cancelled": 0, "workObjects": 0, "stalled": 0}


def reconciled(ruum: Ruum, data: Data) -> dict[str, Any]:
    return ruum("reconcile", "--data", data.folder, "--json").json


@pytest.mark.parametrize(
    ("seconds_old", "emptied"),
    [(2500, ()), (2500, (60,)), (2500, (9000, 60)), (600, (120, 60))],
    ids=["never seen empty", "seen once", "once before its images", "images touched lately"],
)
def test_a_healthy_backlog_is_left_alone(
    ruum: Ruum, data: Data, seconds_old: float, emptied: tuple[float, ...]
) -> None:  # fmt: skip
    data.batch("a", [ok(), queued(), queued(), failed()], closed=False, days_ago=seconds_old / DAY)
    data.batch("b", [failed()])
    if emptied:
        data.record(TierEmpty(tier=Tier.NORMAL, seen_at=tuple(data.now - ago for ago in emptied)), "normal")
    before = data.everything()
    assert reconciled(ruum, data) == {"batches": 1, **NOTHING, "instances": None}
    assert data.everything() == before


def test_a_backlog_is_published_again_only_when_it_is_forgotten(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(minutes_ago=5), queued()], closed=False, published=False, days_ago=0.04)
    data.record(TierEmpty(tier=Tier.NORMAL, seen_at=(data.now - 120, data.now - 60)), "normal")
    assert reconciled(ruum, data) == {"batches": 1, **NOTHING, "published": 1, "instances": None}
    assert data.tasks() == [(batch, 1, 1, 0)]
    assert reconciled(ruum, data)["published"] == 0  # not again at once
    assert len(data.tasks()) == 1


def test_reconcile_counts_and_closes(ruum: Ruum, data: Data) -> None:
    """The news of the last image was lost."""
    batch = data.batch("a", [failed(), failed(BUG, revision=3, counted=PROCESSING)], closed=False, days_ago=0.01)
    assert reconciled(ruum, data) == {"batches": 1, **NOTHING, "closed": 1, "folded": 1, "instances": None}
    found = data.found(batch)
    assert (found.state, found.outcome, found.announced_round) == (BatchState.CLOSED, "completed_with_failures", 1)
    assert data.counts(batch) == Counts(failed=2)
    assert reconciled(ruum, data) == {"batches": 0, **NOTHING, "instances": None}


def test_reconcile_announces_what_is_closed(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok()], announced_round=0)
    assert reconciled(ruum, data)["closed"] == 1
    assert (data.found(batch).announced_round, data.events()) == (1, 1)


def test_reconcile_carries_on_a_cancel(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [failed(), queued()], closed=False, control=Control.CANCELLING)
    assert reconciled(ruum, data)["cancelled"] == 1
    assert data.standing(batch) == [("failed", 1), ("cancelled", 1)]
    assert reconciled(ruum, data)["closed"] == 1
    assert data.found(batch).outcome == "cancelled"


def test_reconcile_carries_on_a_resume_and_leaves_a_pause(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False, control_epoch=1, published=False)
    paused = data.batch("b", [queued()], closed=False, control=Control.PAUSED, published=False, control_epoch=1)
    assert reconciled(ruum, data)["published"] == 1
    assert data.tasks() == [(batch, 0, 1, 1)]
    assert data.found(paused).control is Control.PAUSED


@pytest.mark.parametrize("alive", [False, True])
def test_reconcile_carries_on_a_dead_replay_only(ruum: Ruum, data: Data, alive: bool) -> None:
    batch = interrupted(data, codes=(TIMEOUT,), alive=alive)
    before = data.everything()
    assert reconciled(ruum, data)["replays"] == (0 if alive else 1)
    if alive:
        assert data.everything() == before
        return
    assert data.found(batch).state is BatchState.PROCESSING
    assert data.standing(batch) == [("completed", 1), ("queued", 2), ("queued", 2), ("failed", 1)]
    assert [task[1] for task in data.tasks()] == [1, 2]


def test_reconcile_for_people(ruum: Ruum, data: Data) -> None:
    data.batch("a", [queued()], closed=False)
    said = ruum("reconcile", "--data", data.folder)
    said.done()
    (line,) = said.out.splitlines()
    assert line == "1 open batch looked at, nothing to do"
    assert "None" not in line, "where there is no fleet there is nothing to say of it"


# --- beside `run`: its reports lie in OUT, its state in OUT/.ruum


@pytest.fixture
def out(ruum: Ruum, tmp_path: Path) -> Path:
    """A batch of one photo that does not exist, as `run` leaves it."""
    fields = {"batchId": "x", "clientName": "acme", "designStyle": "modern", "roomType": "bedroom"}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**fields, "images": [{"url": "none.jpg"}]}))
    out = tmp_path / "staged"
    said = ruum("run", path, "--out", out, "--model", "preview", "--json")
    assert said.code == 3, said.err
    return out


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in (folder / "results").rglob("*") if path.is_file()}


def test_results_of_a_run_are_found_in_its_data_folder(ruum: Ruum, out: Path, tmp_path: Path) -> None:
    (row,) = ruum("batches", "--data", out / ".ruum", "--json").json["batches"]
    found = ruum("results", row["batchId"], "--data", out / ".ruum", "--out", tmp_path / "copy", "--json").json
    assert files(out)
    assert (found["files"], files(tmp_path / "copy")) == (len(files(out)), files(out))


def test_a_round_that_a_command_closes_is_reported_beside_the_others(ruum: Ruum, out: Path) -> None:
    (row,) = ruum("batches", "--data", out / ".ruum", "--json").json["batches"]
    before = files(out)
    ruum("retry-failed", row["batchId"], "--data", out / ".ruum").done()
    ruum("cancel", row["batchId"], "--yes", "--data", out / ".ruum").done()
    ruum("reconcile", "--data", out / ".ruum").done()
    found = ruum("status", row["batchId"], "--data", out / ".ruum", "--json").json
    assert (found["state"], found["round"], found["cancelled"]) == ("cancelled", 2, 1)
    assert {Path(name).name for name in files(out) - before} >= {"report.html", "results.csv"}


def test_watch_names_the_folder_of_the_results(ruum: Ruum, out: Path) -> None:
    """As `run` does: a path, and no address, with whatever is in its name."""
    (row,) = ruum("batches", "--data", out / ".ruum", "--json").json["batches"]
    said = ruum("watch", row["batchId"], "--data", out / ".ruum", "--json")
    assert said.code == 3, said.err
    folder = Path(json.loads(said.out)["resultsDir"])
    assert (folder / "status.json").is_file()
    assert folder.is_relative_to(out)


# --- what is in the way is told in a line


def test_credentials_that_are_a_folder_are_told_in_a_line(ruum: Ruum, tmp_path: Path) -> None:
    said = ruum("batches", "--project", "p", GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path))
    said.refused(1, "credentials")


@pytest.mark.parametrize("good", [True, False])
def test_an_out_folder_that_is_a_file_is_told_in_a_line(ruum: Ruum, tmp_path: Path, good: bool) -> None:
    """Also when the manifest is rejected, whose report has nowhere to go."""
    fields = {"clientName": "acme", "designStyle": "modern", "roomType": "bedroom"} if good else {}
    manifest, out = tmp_path / "x.json", tmp_path / "out"
    manifest.write_text(json.dumps({**fields, "images": [{"url": "none.jpg"}]}))
    out.write_text("kept")
    said = ruum("run", manifest, "--out", out, "--model", "preview")
    assert "Traceback" not in said.err
    assert str(out) in said.err
    assert said.code == 64
    assert out.read_text() == "kept"


def test_the_project_that_was_named_wins(ruum: Ruum, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the setting: an operator who names a project means no other."""
    asked: list[tuple[str, dict[str, str]]] = []

    def google(clock: object, settings: Settings, environ: dict[str, str]) -> object:
        asked.append((settings.google.project, environ))
        raise ConfigurationError("seen")

    monkeypatch.setattr(wiring, "google", google)
    ruum("batches", "--project", "named", RUUM_GOOGLE_PROJECT="other").refused(1, "seen")
    ((project, environ),) = asked
    assert (project, environ["GOOGLE_CLOUD_PROJECT"]) == ("", "named")
