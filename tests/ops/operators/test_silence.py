"""Nothing stands still in silence: who waits, for what, who paused it, when and why."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
import pytest

from ops import run_notes, waiting
from shared.adapters.embedded.objects import EmbeddedObjects
from shared.decisions.quota import Circuit, Ledger, Waiter
from shared.model import Control
from shared.ports import StoredObject
from shared.queries import batches
from shared.settings import Limit
from tests.ops.commands import Ruum
from tests.ops.operators.data import PICTURE, TIMEOUT, Data, at_work, failed, ok, queued

RUN = "ruum-batch run "


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
    assert f"nothing is running in {data.folder}; now run: {RUN}/m/acme.json --out" in said.out
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
        f"{batch} makes no progress, with 1 of 2 finished. Nothing is running in {data.folder}. To continue: {RUN}"
        in said.err
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
    assert "cancel:" in said


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
    assert "Nothing is running in" in ruum("status", batch, "--data", data.folder).out


@pytest.mark.parametrize(
    ("wait", "age", "left"),
    [
        ({}, 1.0, "1 min 00 s left"),
        ({"waiters": {"w normal": Waiter(count=4, until=2e9)}}, 1.0, "1 min 00 s left"),
        ({"day_spent_until": 600.0}, 1.0, "11 min 00 s left"),
        ({"circuit": Circuit.OPEN, "open_until": 300.0}, 1.0, "time left unknown"),
        ({"circuit": Circuit.HALF_OPEN, "probe_until": 100.0}, 1.0, "time left unknown"),
        ({}, 400.0, "time left unknown"),  # nothing has moved for long: the workers sleep, or have halted
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
        (ledger(circuit=Circuit.HALF_OPEN, probe_until=NOW + 60), ["A test call is in progress"], True),
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
