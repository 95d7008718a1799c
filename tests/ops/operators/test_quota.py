"""`ruum-batch quota` and `set-quota`: what they say, and what they leave in the ledger."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.decisions.quota import Circuit, Ledger, Slot, Waiter
from shared.settings import LIMITS, Limit
from shared.topology import EVENTS_SUBSCRIPTION
from tests.ops.commands import Ruum
from tests.ops.operators.data import DAY, PICTURE, Data, ok

SLOTTED = "runway"  # 10 at once in the settings


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
