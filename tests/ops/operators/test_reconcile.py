"""`ruum-batch reconcile`: what it says, and what it puts right in store and queue."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model import BatchState, Control, Counts, Tier, TierEmpty
from tests.ops.commands import Ruum
from tests.ops.operators.data import BUG, DAY, PROCESSING, TIMEOUT, Data, failed, interrupted, ok, queued

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
    assert line == "1 open batch checked, nothing to do"
    assert "None" not in line, "where there is no fleet there is nothing to say of it"
