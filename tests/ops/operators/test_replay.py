"""`ruum-batch retry-failed` and `replay`: what is asked first, what is begun again, what was interrupted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops import words
from shared.adapters import system_clock as clocks
from shared.messages import Letter, Task, decode, letter_message
from shared.model import Batch, BatchState, Control, Counts, Lease, ReplayPlan, Tier
from shared.topology import DEAD_LETTER_KEPT, DEAD_LETTER_TOPIC
from tests.ops.commands import Ruum
from tests.ops.operators.data import (
    A0,
    A2,
    B1,
    BUG,
    C0,
    CANCELLED,
    FAILED,
    QUEUED,
    TIMEOUT,
    Data,
    failed,
    fill,
    interrupted,
    ok,
    queued,
)

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
    assert all("nothing is running in" in line and "now run: ruum-batch run" in line for line in lines[4::2])
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
    assert "run the same command to continue" in said.err
    assert (data.found(batch).state, data.found(batch).replay) == (BatchState.PROCESSING, None)
    assert (data.counts(batch).queued, data.counts(batch).failed) == (100, 50)

    ruum("replay", "--client", "acme", "--rate", 1000, "--yes", "--data", data.folder).done()
    found = data.found(batch)
    assert (found.state, found.round) == (BatchState.PROCESSING, 2)
    assert data.standing(batch) == [("queued", 2)] * 150
    assert {task[1] for task in data.tasks()} == set(range(150))
