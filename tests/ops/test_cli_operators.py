"""health, image, resend, erase, who paused and why, whole clients at once, and a data folder in which nobody works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops import erasing, local, run_notes, show, spending, waiting
from ops import words as words_module
from ops.commands import control
from ops.target import Target
from shared.adapters.embedded.objects import EmbeddedObjects
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.decisions.quota import Circuit, Ledger, Waiter
from shared.model import BatchState, Call, Control, Counts, ImageState, Trials, Worker
from shared.ports import StoredObject
from shared.queries import batches
from shared.settings import Buckets, Limit, Settings
from shared.worker.cache import CacheEntry
from shared.worker.hosts import HostLedger
from tests.ops.commands import Ruum
from tests.ops.test_operator_commands import BUG, PICTURE, TIMEOUT, Data, at_work, failed, ok, queued

RUN = "ruum-batch run "


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


def note(data: Data, batch: str, model: str = "preview") -> None:
    """As the `run` that staged the batch left it."""
    out = data.folder.parent / "staged"
    run_notes.note_run(data.folder, batch, run_notes.RunNote(manifest="/m/acme.json", out=str(out), model=model))
    (data.folder / "results-folder").write_bytes(str(out).encode())


# --- nothing stands still in silence


@pytest.mark.parametrize("command", [("retry-failed",), ("replay", "--batch"), ("resume",)])
def test_what_starts_nothing_says_what_to_run(ruum: Ruum, data: Data, command: tuple[str, ...]) -> None:
    if command == ("resume",):
        batch = data.batch("a", [queued()], closed=False, control=Control.PAUSED, paused_reason="tea")
    else:
        batch = data.batch("a", [failed()])
    note(data, batch)
    said = ruum(*command, batch, "--data", data.folder)
    said.done()
    assert f"nothing runs in {data.folder}; now run: {RUN}/m/acme.json --out" in said.out
    assert "--model preview" in said.out
    assert f"--data {data.folder}" in said.out, "the folder is not OUT/.ruum"


@pytest.mark.parametrize("command", [("retry-failed",), ("resume",)])
def test_beside_a_run_there_is_nothing_to_start(ruum: Ruum, data: Data, command: tuple[str, ...]) -> None:
    batch = data.batch("a", [failed(), queued()], closed=False, control=Control.RUN)
    with at_work(data.folder):
        said = ruum(*command, batch, "--data", data.folder)
    assert said.code == 0
    assert "now run" not in said.out


def test_watch_ends_where_nobody_works(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued(), ok()], closed=False)
    started = time.monotonic()
    said = ruum("watch", batch, "--data", data.folder)
    assert time.monotonic() - started < 5
    assert said.code == 3
    assert (
        f"{batch} makes no progress, with 1 of 2 finished. Nothing runs in {data.folder}. Go on with: {RUN}" in said.err
    )


def test_watch_ends_with_a_pause_and_the_commands_that_help(ruum: Ruum, data: Data) -> None:
    batch = data.batch(
        "a", [queued(), failed()], closed=False, control=Control.PAUSED, paused_reason="17 of 31 images failed"
    )
    note(data, batch)
    said = ruum("watch", batch, "--data", data.folder)
    assert said.code == 3
    assert f"{batch} is paused with 1 of 2 finished: 17 of 31 images failed" in said.err
    for verb in ("dead-letters list --batch", "resume", "cancel"):
        assert f"ruum-batch {verb} {batch} --data {data.folder}" in said.err
    assert f"and then: {RUN}/m/acme.json" in said.err
    assert f"1 {TIMEOUT} (" in said.err


@pytest.mark.parametrize("by", ["", "ana"])
def test_failures_explain_a_pause_only_where_nobody_asked_for_it(ruum: Ruum, data: Data, by: str) -> None:
    batch = data.batch("a", [queued()], closed=False, control=Control.PAUSED, paused_reason="tea", controlled_by=by)
    said = ruum("status", batch, "--data", data.folder).out
    assert ("see why:" in said) is (not by)
    assert "or stop:" in said


@pytest.mark.parametrize("working", [False, True])
def test_watch_of_a_batch_that_is_not_there_says_so_at_once(ruum: Ruum, data: Data, working: bool) -> None:
    data.batch("a", [ok()])
    started = time.monotonic()
    ruum("watch", "acme.b", "--data", data.folder).refused(64, "no batch acme.b", "Did you mean acme.a?")
    assert time.monotonic() - started < 5


def test_status_says_what_is_waited_for(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued(), ok()], closed=False)
    data.ledger(PICTURE, circuit=Circuit.OPEN, open_until=data.now + 300)
    with at_work(data.folder):
        said = ruum("status", batch, "--data", data.folder)
        found = ruum("status", batch, "--data", data.folder, "--json").json
    assert f"Gemini does not answer ({PICTURE}). The next test call is at" in said.out
    assert [wait["kind"] for wait in found["waitsFor"]] == ["circuit"]
    assert "Nothing runs in" in ruum("status", batch, "--data", data.folder).out


@pytest.mark.parametrize(
    ("wait", "age", "left"),
    [
        ({}, 1.0, "1 min 00 s left"),
        ({"waiters": {"w normal": Waiter(count=4, until=2e9)}}, 1.0, "1 min 00 s left"),
        ({"day_spent_until": 600.0}, 1.0, "11 min 00 s left"),
        ({"circuit": Circuit.OPEN, "open_until": 300.0}, 1.0, "time left not known"),
        ({"circuit": Circuit.HALF_OPEN, "probe_until": 100.0}, 1.0, "time left not known"),
        ({}, 400.0, "time left not known"),  # nothing has moved for long: the workers sleep, or have halted
    ],
)
def test_status_tells_a_time_left_only_where_it_is_known(
    ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch, wait: dict[str, Any], age: float, left: str
) -> None:
    batch = data.batch("a", [queued()] * 60 + [ok()], closed=False)
    later = {name: data.now + at for name, at in wait.items() if name.endswith("_until")}
    data.ledger(PICTURE, **{**wait, **later})
    status = StoredObject("results", "status.json", 1, 9, {}, data.now - age)

    async def stat(*_: Any) -> StoredObject:
        return status

    monkeypatch.setattr(EmbeddedObjects, "stat", stat)
    monkeypatch.setattr(batches, "known_speed", lambda known: 1.0)
    with at_work(data.folder):
        said = ruum("status", batch, "--data", data.folder).out
    seconds = re.search(r"finished \(2%\)(?:, 60.0 a minute)?, (.*)", said)
    assert seconds is not None, said
    assert re.sub(r"(1[01]) min \d\d s|59 s", lambda m: "11 min 00 s" if m[1] else "1 min 00 s", seconds[1]) == left


def ledger(**changes: Any) -> Ledger:
    return msgspec.structs.replace(Ledger(id=PICTURE), **changes)


NOW = 1_800_000_000.0
WAITERS = {"w normal": Waiter(count=40, until=NOW + 9)}


@pytest.mark.parametrize(
    ("known", "words", "serious"),
    [
        (ledger(waiters=WAITERS), [f"40 calls wait for the quota of {PICTURE} (60 a minute)."], False),
        (ledger(waiters={"w normal": Waiter(count=1, until=NOW + 9)}), ["1 call waits for the quota"], False),
        (ledger(waiters=WAITERS, rate=0.5, rate_changed_at=NOW), ["60 a minute, slowed to 50% after refusals"], False),
        (ledger(circuit=Circuit.OPEN, open_until=NOW + 60, waiters=WAITERS),
         ["Gemini does not answer", "40 calls wait.", "The next test call is at", "nothing is lost"], True),
        (ledger(circuit=Circuit.HALF_OPEN, probe_until=NOW + 60), ["A test call is under way"], True),
        (ledger(day_spent_until=NOW + 3600), ["The daily quota of", "used up until", "nothing is lost"], True),
        (ledger(not_before=NOW + 30, waiters=WAITERS), ["asked for a pause", "40 calls wait."], True),
    ],
)  # fmt: skip
def test_a_wait_in_words(known: Ledger, words: list[str], serious: bool) -> None:
    (wait,) = waiting.of_ledger(known, Limit(per_minute=60), NOW)
    assert wait.serious is serious
    for word in words:
        assert word in wait.sentence


def test_no_wait_is_not_said() -> None:
    assert waiting.of_ledger(ledger(grants=((NOW, 3),)), Limit(per_minute=60), NOW) == []


def test_what_the_vendor_said_last_is_told() -> None:
    known = ledger(circuit=Circuit.OPEN, open_until=NOW + 60)
    (wait,) = waiting.of_ledger(known, Limit(per_minute=60), NOW, "connection refused")
    assert f"({PICTURE}: connection refused)" in wait.sentence


# --- who, when, why


def test_who_paused_it_and_why_is_kept_and_shown(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False)
    ruum("pause", batch, "--reason", "client asked, ticket 123", "--by", "ana", "--data", data.folder).done()
    found = data.found(batch)
    assert (found.paused_reason, found.controlled_by) == ("client asked, ticket 123", "ana")
    assert abs((found.controlled_at or 0) - time.time()) < 60
    said = ruum("status", batch, "--data", data.folder)
    assert "is paused: client asked, ticket 123 (ana)" in said.out or "client asked, ticket 123" in said.out
    assert ruum("status", batch, "--data", data.folder, "--json").json["controlledBy"] == "ana"
    ruum("resume", batch, "--by", "bia", "--data", data.folder).done()
    assert (data.found(batch).paused_reason, data.found(batch).controlled_by) == (None, "bia")
    ruum("cancel", batch, "--reason", "wrong batch", "--by", "ana", "--yes", "--data", data.folder).done()
    found = data.found(batch)
    assert (found.cancel_reason, found.controlled_by) == ("wrong batch", "ana")
    assert "cancelled by ana: wrong batch" in ruum("status", batch, "--data", data.folder).out


def test_a_batch_of_before_still_reads(data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False)
    assert (data.found(batch).controlled_by, data.found(batch).cancel_reason) == (None, None)


def test_a_client_s_batches_or_all_are_paused_and_resumed_together(ruum: Ruum, data: Data) -> None:
    one = data.batch("a", [queued()], closed=False)
    two = data.batch("b", [queued()], closed=False)
    done = data.batch("c", [ok()])
    other = data.batch("d", [queued()], closed=False, client="globex")
    said = ruum("pause", "--client", "Acme", "--data", data.folder)
    said.done()
    assert [data.found(each).control.value for each in (one, two, done, other)] == ["paused", "paused", "run", "run"]
    found = ruum("pause", "--all", "--data", data.folder, "--json").json
    assert [row["batchId"] for row in found["batches"]] == [other]
    ruum("resume", "--all", "--data", data.folder).done()
    assert {data.found(each).control for each in (one, two, other)} == {Control.RUN}
    for words in ((), (one, "--all"), ("--client", "acme", "--all")):
        ruum("pause", *words, "--data", data.folder).refused(64, "a BATCH, --client NAME, --all")
    ruum("pause", "--client", "nobody", "--data", data.folder).refused(64, "no client nobody", "acme, globex")


@pytest.mark.parametrize("command", ["retry-failed", "pause", "status", "dead-letters"])
def test_an_empty_batch_is_not_all_batches(ruum: Ruum, data: Data, command: str) -> None:
    """`ruum-batch retry-failed "$BATCH"` with a variable that is not set."""
    data.batch("a", [failed()])
    before = data.everything()
    words = ("list", "--batch", "") if command == "dead-letters" else ("",)
    ruum(command, *words, "--data", data.folder).refused(64, "there is no batch")
    assert data.everything() == before


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
    assert both[1].startswith("  85 still queued: they are cancelled")
    assert both[2].startswith("  45 in progress end first")
    assert len(asyncio.run(said(Counts(queued=85)))) == len(asyncio.run(said(Counts(processing=45)))) == 2
    assert len(asyncio.run(said(Counts(cancelled=1)))) == 1


@pytest.mark.parametrize(
    ("stuck", "idle", "numbers"),
    [(False, 1.0, "60/min, 49 s left"), (False, 59.0, "60/min"), (False, 61.0, "time left not known"),
     (True, 1.0, "time left not known")],
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
    for words in ("Gemini does not answer", f"{paused} is paused", "tea", "Nothing runs in"):
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
        assert "the key of Gemini is not valid. Correct it" in said.out
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
    assert "queued; nobody works in this data folder" in ruum("image", batch, 2, "--data", data.folder).out
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
        "it is tried alone",
        "3 workers died while it held nothing else, the last at the step prepare; 1 trial passed",
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


# --- erase


def test_a_client_is_erased_and_no_other(ruum: Ruum, data: Data) -> None:
    mine, other = data.batch("a", [ok(), failed()]), data.batch("b", [ok()], client="globex")
    data.record(CacheEntry(key="k1", client="acme", picture="cache/k1/k1", expires_at=9e9), "k1")
    data.record(CacheEntry(key="k2", client="globex", picture="cache/k2/k2", expires_at=9e9), "k2")

    async def objects(embedded: Any) -> None:
        for bucket, name in (("results", "results/acme/a/images/0.jpg"), ("results", "results/globex/b/images/0.jpg"),
                             ("work", "cache/k1/k1"), ("work", "cache/k2/k2"), ("work", f"work/{mine}/0/1-1"),
                             ("results", "results/acme/a/originals/0.jpg"), ("results", f"closing/{mine}/1-9/00005000"),
                             ("results", f"closing/{mine}b/1-9/00005000".replace("acme", "globex")),
                             ("intake", "manifests/acme/x.json"), ("results", "manifests/acme/x.json.errors.json")):  # fmt: skip
            await embedded.objects.put(bucket, name, b"x", content_type="a/b")

    data.run(objects)
    (data.folder / "events.jsonl").write_text('{"id":"1","client":"acme"}\n{"id":"2","client":"globex"}\n')
    before = data.everything()
    dry = ruum("erase", "--client", "acme", "--dry-run", "--data", data.folder)
    dry.done()
    assert "1 batch with 2 images, 7 files, 1 cache entry would be erased" in dry.out
    ruum("erase", "--client", "acme", "--data", data.folder).refused(64, "Erase 1 batch", "--yes")
    assert data.everything() == before

    ruum("erase", "--client", "acme", "--yes", "--data", data.folder).done()
    left = data.everything() + (data.folder / "events.jsonl").read_text()
    left += " ".join(str(path) for path in data.folder.rglob("*"))
    assert "acme" not in left
    assert data.found(other).state is BatchState.CLOSED
    assert "cache/k2/k2" in left
    ruum("erase", "--client", "acme", "--yes", "--data", data.folder).refused(64, "no client acme")


OPEN = (BatchState.INGESTING, BatchState.PROCESSING, BatchState.REOPENING, BatchState.CLOSING, BatchState.CLOSED)


@pytest.mark.parametrize("control", Control)
@pytest.mark.parametrize("state", OPEN)
def test_what_is_not_finished_is_not_erased(ruum: Ruum, data: Data, state: BatchState, control: Control) -> None:
    """Beside a run, a cancel, a replay or a closing something is still written; an unannounced end is none."""
    batch = data.batch("a", [queued()], closed=False, state=state, control=control)
    data.batch("b", [ok()])
    before = data.everything()
    finishes = control is Control.CANCELLING or state in (BatchState.CLOSING, BatchState.CLOSED)
    said = ruum("erase", "--client", "acme", "--yes", "--data", data.folder)
    said.refused(4, f"{batch} is {'about to finish: try again' if finishes else 'not finished: cancel it first'}")
    assert data.everything() == before


@pytest.mark.parametrize("meanwhile", ["replayed", "another", "a run"])
def test_a_question_that_waited_long_erases_nothing_that_has_changed(
    ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    batch = data.batch("a", [failed()])
    beside = contextlib.ExitStack()

    def sure(question: str, *, yes: bool) -> None:
        with ThreadPoolExecutor(1) as other:
            if meanwhile == "replayed":
                other.submit(data.change, batch, state=BatchState.PROCESSING, round=2).result()
            elif meanwhile == "another":
                other.submit(data.batch, "b", [ok()]).result()
            else:
                beside.enter_context(at_work(data.folder))

    monkeypatch.setattr(spending, "sure", sure)
    with beside:
        said = ruum("erase", "--client", "acme", "--data", data.folder)
    said.refused(4, {"replayed": "cancel it first", "another": "acme has changed", "a run": "a run works"}[meanwhile])
    assert data.standing(batch) == [("failed", 1)]


def test_no_replay_opens_a_batch_that_is_being_erased(ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = data.batch("a", [failed()])

    async def killed(target: Any, known: Any, plan: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "erase", killed)
        assert ruum("erase", "--client", "acme", "--yes", "--data", data.folder).code == 130
    said = ruum("retry-failed", batch, "--data", data.folder)
    assert (said.code, data.standing(batch)) == (0, [("failed", 1)])
    assert "left alone" in said.err
    assert data.tasks() == []
    ruum("erase", "--client", "acme", "--yes", "--data", data.folder).done()


def test_a_batch_that_opens_after_the_last_look_is_not_erased(data: Data) -> None:
    batch = data.batch("a", [failed()])
    seen = data.found(batch)
    data.change(batch, state=BatchState.REOPENING, round=2)

    async def shut(embedded: Any) -> None:
        where = Target(embedded.backend, SystemClock(), Settings(), "here", data=data.folder, embedded=embedded)
        with pytest.raises(erasing.NotFinished, match="cancel it first"):
            await erasing.shut(where, [seen])

    data.run(shut)
    assert data.found(batch).control is Control.RUN


def test_photos_of_the_photo_bucket_are_erased_also_of_a_client_without_batches() -> None:
    """The bucket `source` holds the client's folder itself: <client>/…, and nobody else's that begins alike."""
    settings = Settings(buckets=Buckets(source="photos"))

    async def body() -> list[str]:
        embedded = wiring.embedded(SystemClock())
        try:
            for name in ("acme/1.jpg", "acme/new/2.jpg", "acme2/1.jpg", "globex/acme/1.jpg"):
                await embedded.objects.put("photos", name, b"x", content_type="image/jpeg")
            where = Target(embedded.backend, SystemClock(), settings, "here", embedded=embedded)
            known = await erasing.batches_of(where, "acme")
            plan = await erasing.plan(where, "acme", known)
            assert (plan.batches, plan.is_empty, len(plan.objects)) == (0, False, 2)
            await erasing.erase(where, known, plan)
            assert (await erasing.plan(where, "acme", known)).is_empty
            return [stored.name async for stored in embedded.objects.list("photos", "")]
        finally:
            embedded.database.close()

    assert asyncio.run(body()) == ["acme2/1.jpg", "globex/acme/1.jpg"]


def test_nothing_is_erased_beside_a_run(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    before = data.everything()
    with at_work(data.folder):
        ruum("erase", "--client", "acme", "--yes", "--data", data.folder).refused(4, "a run works in")
    assert data.everything() == before


# --- every command that changes something speaks JSON


def test_json_of_what_changes_something(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False)
    assert ruum("pause", batch, "--json", "--data", data.folder).json["control"] == "paused"
    assert ruum("resume", batch, "--json", "--data", data.folder).json["control"] == "run"
    assert ruum("cancel", batch, "--yes", "--json", "--data", data.folder).json["state"] == "cancelled"
    found = ruum("set-quota", PICTURE, "--per-minute", 9, "--json", "--data", data.folder).json
    assert (found["before"]["perMinute"], found["after"]["perMinute"]) == (60, 9)
    other = data.batch("b", [failed()])
    found = ruum("retry-failed", other, "--json", "--data", data.folder).json
    assert found["batches"][0]["queuedAgain"] == 1
    said = ruum("pause", "nope", "--json", "--data", data.folder)
    assert json.loads(said.out)["error"]["exitCode"] == 64


def test_batches_by_client_and_state(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.batch("b", [queued()], closed=False, control=Control.CANCELLING, client="globex")
    rows = ruum("batches", "--state", "cancelling", "--data", data.folder, "--json").json["batches"]
    assert [row["batchId"] for row in rows] == ["globex.b"]
    assert "cancelling" in ruum("batches", "--data", data.folder).out
    assert len(ruum("batches", "--client", "acme", "--limit", 1, "--data", data.folder, "--json").json["batches"]) == 1
    ruum("batches", "--state", "odd", "--data", data.folder).refused(64, "odd", "paused")


def test_two_places_are_one_too_many(ruum: Ruum, data: Data) -> None:
    ruum("batches", "--data", data.folder, "--project", "p").refused(64, "--data and --project")


def test_a_look_at_the_lock_keeps_no_run_from_starting(data: Data) -> None:
    """Commands look whether somebody works: for an instant that holds the lock."""

    async def body() -> None:
        async with local.locked(data.folder):
            assert local.is_locked(data.folder)
        assert not local.is_locked(data.folder)
        assert not local.is_locked(data.folder / "none")

    asyncio.run(body())
    assert SystemClock().now() > 0


def test_commands_that_open_and_close_a_data_folder_do_not_shut_one_another_out(data: Data) -> None:
    """The last to close the database keeps everybody out for a moment."""
    data.batch("a", [ok()])
    script = (
        "import sys, pathlib; from ops import local; from shared.adapters.system_clock import SystemClock\n"
        "for _ in range(150): local.open_backend(SystemClock(), *map(pathlib.Path, sys.argv[1:])).database.close()"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, data.folder, data.folder], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [each.communicate(timeout=120)[1] for each in started] == ["", "", ""]


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
    assert (rows[paused]["etaSeconds"], table[paused]["LEFT"]) == (None, "not known")
    assert table[paused]["COST"] == "$0.00"
    assert table[running]["COST"] == "$0.05"
    assert (table[free]["LEFT"], table[free]["COST"]) == ("", "$0.00")


def test_a_time_left_is_only_said_while_something_moves(
    ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = data.batch("a", [ok(), queued()], closed=False)
    monkeypatch.setattr("shared.queries.batches.speed_now", lambda status, now: 0.5)
    assert listed(ruum, data)[batch]["LEFT"] == "not known", "nobody works here"
    with at_work(data.folder):
        assert listed(ruum, data)[batch]["LEFT"] == "2 s"


@pytest.mark.parametrize("images", [[ok()], [ok(), queued()]])
def test_retry_failed_where_nothing_failed_says_so(ruum: Ruum, data: Data, images: list[Any]) -> None:
    batch = data.batch("a", images, closed=len(images) == 1)
    said = ruum("retry-failed", batch, "--data", data.folder)
    assert (said.code, said.out) == (0, f"nothing has failed in {batch}\n")
    other = data.batch("b", [failed()])
    said = ruum("retry-failed", other, "--code", "not_a_picture", "--data", data.folder)
    assert said.out == f"nothing in {other} that failed with not_a_picture can be tried again now\n"


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
