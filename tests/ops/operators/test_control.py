"""`ruum-batch pause`, `resume` and `cancel`: what they say, and what they leave in store and queue."""

from __future__ import annotations

import json
import sys
import time

import pytest

from shared.model import BatchState, Claim, Control, Counts, Worker
from tests.ops.commands import Ruum
from tests.ops.operators.data import BUG, PROCESSING, Data, Terminal, at_work, failed, ok, queued

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
    assert "acme.gone: 2 failed images left alone: the batch was cancelled" in said.err
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
