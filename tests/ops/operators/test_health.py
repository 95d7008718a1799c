"""`ruum-batch health`, `image` and `resend`: what they tell, and of a data folder in which nobody works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from typing import Any

import msgspec
import pytest

from ops import local, show
from ops import words as words_module
from ops.commands import control
from ops.target import Target
from shared.adapters.system_clock import SystemClock
from shared.decisions.quota import Circuit
from shared.model import BatchState, Call, Control, Counts, ImageState, Trials, Worker
from shared.settings import Settings
from shared.worker.hosts import HostLedger
from tests.ops.commands import Ruum
from tests.ops.operators.data import BUG, PICTURE, TIMEOUT, Data, at_work, failed, ok, queued

# --- health


def test_health_of_a_healthy_system(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()], days_ago=1)
    said = ruum("health", "--data", data.folder)
    said.done()
    assert "all is well" in said.out


def test_health_names_a_host_that_asked_to_wait(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.record(HostLedger(id="host:photos.example", not_before=data.now + 300, refusals=1), "host:photos.example")
    said = ruum("health", "--data", data.folder)
    assert "waits      photos.example asked us to wait until" in said.out
    assert said.code == 0


@pytest.mark.parametrize(
    ("code", "images", "words"),
    [
        (TIMEOUT, 1, [f"1 image of acme failed with {TIMEOUT} in the last hour (", "replay --client acme --code"]),
        (BUG, 40, ["40 images of acme failed with internal in the last hour (our own fault"]),
        (
            "source_not_found",
            20,
            ["20 images of acme", "The client can correct the addresses: ruum-batch dead-letters"],
        ),
        ("source_not_found", 19, []),
    ],
)
def test_health_is_not_well_after_failures(ruum: Ruum, data: Data, code: str, images: int, words: list[str]) -> None:
    data.batch("a", [failed(code, 5)] * images)
    said = ruum("health", "--data", data.folder)
    assert "all is well" not in said.out
    assert said.code == (3 if words else 0)
    assert ("LOOK" in said.out) is bool(words)
    for word in words or [f"19 {code} of acme in the last hour", "nothing else needs a person"]:
        assert word in said.out


@pytest.mark.parametrize("images", [1, 3, 4, 100, 101, 1234])
def test_failures_are_counted_beyond_those_that_are_named(ruum: Ruum, data: Data, images: int) -> None:
    batch = data.batch("a", [failed(f"{number}") | {"code": TIMEOUT} for number in range(images)])
    said = ruum("status", batch, "--data", data.folder).out
    (line,) = [line for line in said.splitlines() if f"{images} {TIMEOUT}" in line]
    more = re.search(r" and ([\d,]+) more$", line)
    assert (int(more[1].replace(",", "")) if more else 0) == images - min(images, 3)
    assert line.count("bad.jpg") == min(images, 3)


@pytest.mark.parametrize(
    ("things", "total", "words"),
    [([], None, ""), (["a"], None, "a"), (["a", "b", "c"], None, "a, b, c"), (["a", "b", "c", "d"], None, "a, b, c and 1 more"),
     (["a", "b", "c", "d"], 4000, "a, b, c and 3,997 more"), (["a", "b"], 5, "a, b and 3 more"), (["a"], 1, "a")],
)  # fmt: skip
def test_some_of_many(things: list[str], total: int | None, words: str) -> None:
    assert words_module.some(things, total=total) == words


@pytest.mark.parametrize("processing", [0, 1, 45])
@pytest.mark.parametrize("works", [True, False])
def test_a_pause_says_what_is_still_in_progress(ruum: Ruum, data: Data, processing: int, works: bool) -> None:
    """The numbers go on moving for a while: whoever pauses must not think that nothing happened."""
    holder = [queued(state=ImageState.PROCESSING, counted=ImageState.PROCESSING)] * processing
    batch = data.batch("a", [queued(), *holder], closed=False)
    with at_work(data.folder) if works else contextlib.nullcontext():
        said = ruum("pause", batch, "--data", data.folder)
    said.done()
    expected = f"{processing} image{'s' if processing > 1 else ''} still in progress: a paid call that has started"
    assert (expected in said.out) is (processing > 0 and works)
    assert ("still in progress" in said.out) is (processing > 0 and works)


def test_a_cancel_does_not_call_queued_images_in_progress(data: Data) -> None:
    batch = data.found(data.batch("a", [queued()], closed=False, control=Control.CANCELLING))

    async def said(counts: Counts) -> list[str]:
        embedded = local.open_backend(SystemClock(), data.folder, data.folder)
        try:
            where = Target(embedded.backend, SystemClock(), Settings(), "here", data=data.folder, embedded=embedded)
            return await control._cancelled(where, batch, counts)
        finally:
            embedded.database.close()

    both = asyncio.run(said(Counts(queued=85, processing=45, completed=20)))
    assert both[1].startswith("  85 still queued: they will be cancelled")
    assert both[2].startswith("  45 in progress: finished if")
    assert len(asyncio.run(said(Counts(queued=85)))) == len(asyncio.run(said(Counts(processing=45)))) == 2
    assert len(asyncio.run(said(Counts(cancelled=1)))) == 1


@pytest.mark.parametrize(
    ("stuck", "idle", "numbers"),
    [(False, 1.0, "60/min, 49 s left"), (False, 59.0, "60/min"), (False, 61.0, "time left unknown"),
     (True, 1.0, "time left unknown")],
)  # fmt: skip
def test_progress_tells_a_time_left_only_while_something_moves(
    data: Data, stuck: bool, idle: float, numbers: str
) -> None:
    """An outage, or a halt of the workers, that nothing in the store tells of."""
    batch = data.found(data.batch("a", [queued()] * 60, closed=False))
    progress = show.BatchProgress()
    progress.stuck = stuck
    progress._speed.note(0, 60, 1000.0)
    progress._speed.note(10, 50, 1010.0)
    shown = progress._numbers(batch, Counts(queued=50, completed=10), 1010.0 + idle)
    assert shown == f"10 of 60 finished, {numbers}"


def test_health_names_what_needs_a_person(ruum: Ruum, data: Data) -> None:
    data.batch("a", [queued(), failed(minutes_ago=5), failed(BUG, 200)], closed=False)
    paused = data.batch("b", [queued()], closed=False, control=Control.PAUSED, paused_reason="tea", client="globex")
    data.ledger(PICTURE, circuit=Circuit.OPEN, open_until=time.time() + 300)
    data.run(lambda e: e.store.beat(Worker(id="worker-x", at=time.time() + 30)))
    data.run(lambda e: e.store.beat(Worker(id="worker-dead", at=time.time() - 300)))
    found = json.loads((said := ruum("health", "--data", data.folder, "--json")).out)
    assert said.code == 3
    assert [worker["id"] for worker in found["workers"]] == ["worker-x"]
    assert (found["batches"], found["openImages"]) == ({"running": 1, "paused": 1}, 2)
    assert found["oldest"]["batch"] == "acme.a"
    assert found["failures"] == [{"client": "acme", "code": TIMEOUT, "images": 1}]
    trouble = "\n".join(found["trouble"])
    for words in ("Gemini does not answer", f"{paused} is paused", "tea", "Nothing is running in"):
        assert words in trouble
    said = ruum("health", "--data", data.folder)
    for words in ("worker-x", "1 running, 1 paused", f"1 {TIMEOUT} of acme in the last hour", "LOOK"):
        assert words in said.out


KEY = "the key of Gemini is not valid."


@pytest.mark.parametrize(("halted", "every"), [(1, False), (2, True)])
def test_a_halt_of_the_workers_is_said(ruum: Ruum, data: Data, halted: int, every: bool) -> None:
    """Workers that live and do nothing, because our configuration is wrong, need a person at once."""
    batch = data.batch("a", [queued()], closed=False)
    with at_work(data.folder):
        for number in range(2):
            worker = Worker(id=f"w{number}", at=time.time() + 30, halted=KEY if number < halted else "")
            data.run(lambda e, worker=worker: e.store.beat(worker))
        said = ruum("health", "--data", data.folder)
        assert said.code == 3
        who = "The workers have" if every else "1 of 2 workers have"
        assert f"LOOK       {who} stopped taking images" in said.out
        assert "the key of Gemini is not valid. Fix it" in said.out
        assert "stopped taking images" in ruum("status", batch, "--data", data.folder).out
        found = json.loads(ruum("health", "--data", data.folder, "--json").out)
        assert [(wait["kind"], wait["serious"]) for wait in found["waits"]] == [("halt", every)]


# --- image


def test_an_image_s_whole_story(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), failed(BUG), queued()], closed=False)
    said = ruum("image", batch, 1, "--data", data.folder)
    said.done()
    for words in ("acme.a image 1: failed", "https://example.com/bad.jpg", f"{BUG}: {BUG} it was", "round 1", "trace "):
        assert words in said.out
    assert "queued; nothing is running in this data folder" in ruum("image", batch, 2, "--data", data.folder).out
    found = ruum("image", batch, 1, "--data", data.folder, "--json").json
    assert (found["index"], found["state"], found["error"]["code"]) == (1, "failed", BUG)
    for index in (3, 10**30):
        ruum("image", batch, index, "--data", data.folder).refused(64, "0 to 2")


def test_an_image_that_workers_died_with_says_so(ruum: Ruum, data: Data) -> None:
    died = Trials(deaths=3, step="prepare", in_a_row=2, passed=1)
    images = [queued(crashes=2), queued(crashes=1, trials=died), queued(crashes=1)]
    batch = data.batch("a", images, closed=False)
    stories = [" ".join(ruum("image", batch, index, "--data", data.folder).out.split()) for index in range(3)]
    told = [
        "it will be tried alone",
        "3 workers died while holding only this image, the last one in step prepare; 1 trial passed",
    ]
    assert [[words in story for words in told] for story in stories] == [[True, False], [False, True], [False, False]]


# --- resend


def test_an_event_is_sent_again(ruum: Ruum, data: Data) -> None:
    done = data.batch("a", [ok()])
    ruum("resend", done, "--data", data.folder).done()
    (line,) = (data.folder / "events.jsonl").read_text().splitlines()
    assert (json.loads(line)["id"], json.loads(line)["type"]) == ("acme.a/1", "ruum.batch.completed")
    running = data.batch("b", [queued()], closed=False)
    paused = data.batch("c", [queued()], closed=False, control=Control.PAUSED, paused_reason="tea")
    for batch, kind in ((running, "accepted"), (paused, "paused")):
        assert ruum("resend", batch, "--data", data.folder, "--json").json["type"] == f"ruum.batch.{kind}"
    ruum("resend", data.rejected(), "--data", data.folder).refused(1, "no longer stored")


# --- the list of batches, and what is said where there is nothing to do


def listed(ruum: Ruum, data: Data) -> dict[str, dict[str, str]]:
    """The table of `batches` as people see it: batch to column to cell."""
    head, *lines = ruum("batches", "--data", data.folder).out.splitlines()
    starts = [match.span() for match in re.finditer(r"\S+", head)]
    found = {}
    for line in lines:
        cells = {}
        for number, (start, end) in enumerate(starts):
            right = number >= 4  # numbers stand under the end of their heading
            before, after = (starts[number - 1][1] if right else start), (end if right else None)
            stop = after if after is not None else (starts[number + 1][0] if number < 3 else starts[4][0])
            cells[head[start:end]] = line[before:stop].strip()
        found[cells["BATCH"]] = cells
    return found


def test_batches_say_what_an_open_one_costs_so_far_and_what_is_left(ruum: Ruum, data: Data) -> None:
    free = data.batch("a", [ok()])
    running = data.batch("b", [ok(), queued()], closed=False)
    paused = data.batch("c", [queued()], closed=False, control=Control.PAUSED, paused_reason="tea")
    bill = (Call(step="generate", model=PICTURE, cost_micro_usd=50_400),)
    data.run(lambda e: e.store.change_image(running, 0, lambda image: msgspec.structs.replace(image, calls=bill), "t"))
    with at_work(data.folder):
        rows = {row["batchId"]: row for row in ruum("batches", "--data", data.folder, "--json").json["batches"]}
        table = listed(ruum, data)
    assert rows[running]["costUsd"] == 0.0504
    assert rows[paused]["costUsd"] == 0
    assert (rows[paused]["etaSeconds"], table[paused]["LEFT"]) == (None, "unknown")
    assert table[paused]["COST"] == "$0.00"
    assert table[running]["COST"] == "$0.05"
    assert (table[free]["LEFT"], table[free]["COST"]) == ("", "$0.00")


def test_a_time_left_is_only_said_while_something_moves(
    ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = data.batch("a", [ok(), queued()], closed=False)
    monkeypatch.setattr("shared.queries.batches.speed_now", lambda status, now: 0.5)
    assert listed(ruum, data)[batch]["LEFT"] == "unknown", "nobody works here"
    with at_work(data.folder):
        assert listed(ruum, data)[batch]["LEFT"] == "2 s"


@pytest.mark.parametrize("images", [[ok()], [ok(), queued()]])
def test_retry_failed_where_nothing_failed_says_so(ruum: Ruum, data: Data, images: list[Any]) -> None:
    batch = data.batch("a", images, closed=len(images) == 1)
    said = ruum("retry-failed", batch, "--data", data.folder)
    assert (said.code, said.out) == (0, f"nothing has failed in {batch}\n")
    other = data.batch("b", [failed()])
    said = ruum("retry-failed", other, "--code", "not_a_picture", "--data", data.folder)
    assert said.out == f"no image of {other} that failed with not_a_picture can be retried now\n"


def test_watch_of_a_rejected_batch_begins_with_what_is_wrong(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [], closed=False, state=BatchState.REJECTED, problems=3)
    said = ruum("watch", batch, "--data", data.folder)
    assert said.code == 2
    assert said.err.startswith(f"{batch}: rejected, 3 problems in ")
    assert "finished" not in said.err


def test_the_place_that_nobody_named_is_said(ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data.batch("a", [ok()])
    (data.folder.parent / "staged").mkdir()
    data.folder.rename(data.folder.parent / "staged/.ruum")
    monkeypatch.chdir(data.folder.parent)
    assert ruum("batches").err == "in the data folder staged/.ruum\n"
    said = ruum("batches", "--json")
    assert len(said.json["batches"]) == 1
    assert said.err == "in the data folder staged/.ruum\n"
    assert ruum("batches", "--data", "staged/.ruum").err == ""
