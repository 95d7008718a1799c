"""The log's events and fields: those in the list, with what is bound to them, at every call in the product."""

from __future__ import annotations

import ast
import asyncio
import contextvars
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from shared.telemetry import FIELDS, LogEvent, bound, tell
from tests.vocabulary.telemetry.parts import Said, log

ROOT = Path(__file__).parents[3]


# --- bound


def fields(said: Said) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name in FIELDS} for line in said.lines]


def test_bound_nests_and_is_restored(said: Said) -> None:
    with bound(batch="a.b", image=1):
        log.info("x")
        with bound(image=2, step="verify"):
            log.info("x")
        log.info("x")
        with pytest.raises(ValueError), bound(image=3):  # noqa: PT012
            raise ValueError
        log.info("x")
    log.info("x")
    outer = {"batch": "a.b", "image": 1}
    assert fields(said) == [outer, {"batch": "a.b", "image": 2, "step": "verify"}, outer, outer, {}]


def test_a_lines_own_fields_go_before_what_is_bound(said: Said) -> None:
    with bound(batch="a.b", attempt=1):
        tell(log, LogEvent.STEP, attempt=2)
    assert said.line["attempt"] == 2


def test_tasks_inherit_and_do_not_mix(said: Said) -> None:
    async def image(index: int) -> None:
        with bound(image=index):
            for _ in range(5):
                await asyncio.sleep(0)
                log.info("of %d", index)

    async def main() -> None:
        with bound(batch="a.b"):
            await asyncio.gather(*(image(index) for index in range(10)))
            log.info("after")

    asyncio.run(main())
    for line in said.lines:
        assert line["batch"] == "a.b"
        assert line["message"] == (f"of {line['image']}" if "image" in line else "after")
    assert len(said.lines) == 51


def half_way() -> tuple[Coroutine[Any, Any, None], contextvars.Context]:
    """A coroutine inside its `bound`, and the context it was begun in."""

    async def work() -> None:
        with bound(batch="a.killed", image=9):
            await asyncio.sleep(0)

    job = work()
    own = contextvars.copy_context()
    own.run(job.send, None)
    return job, own


def test_a_coroutine_may_be_closed_from_another_context(said: Said) -> None:
    """As the garbage collector does with what a killed task left."""
    job, own = half_way()
    contextvars.Context().run(job.close)
    log.info("here")
    assert fields(said) == [{}]
    own.run(log.info, "there")  # its own context may keep what it had: nobody runs in it any more


def test_closing_anothers_coroutine_takes_nothing_from_ones_own_lines(said: Said) -> None:
    job, _ = half_way()
    with bound(batch="a.living", image=1):
        job.close()
        log.info("x")
    log.info("x")
    assert fields(said) == [{"batch": "a.living", "image": 1}, {}]


# --- every call in the product


def calls(name: str) -> list[tuple[str, ast.Call]]:
    found = []
    for folder in ("shared", "functions"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                    module = isinstance(node.func, ast.Name) or ast.unparse(node.func.value) == "telemetry"
                    if called == name and module:
                        found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def event_of(call: ast.Call) -> str:
    event = call.args[1]
    assert isinstance(event, ast.Attribute)
    assert ast.unparse(event.value) in ("LogEvent", "telemetry.LogEvent")
    return event.attr


def test_every_tell_speaks_the_vocabulary() -> None:
    found = calls("tell")
    assert len(found) > 15
    for place, call in found:
        assert len(call.args) == 2, place
        assert ast.unparse(call.args[0]) == "log", place
        assert event_of(call) in LogEvent.__members__, place
        names = {keyword.arg for keyword in call.keywords}
        assert None not in names, f"{place}: **fields hide names"
        assert names - {"level"} <= FIELDS.keys(), place
        assert "event" not in names, place


def test_every_bound_speaks_the_vocabulary() -> None:
    found = calls("bound")
    assert len(found) > 5
    for place, call in found:
        assert not call.args, place
        assert {keyword.arg for keyword in call.keywords} <= FIELDS.keys(), place


def test_every_event_is_told_somewhere() -> None:
    told = {event_of(call) for _, call in calls("tell")}
    assert told == set(LogEvent.__members__)


def test_every_field_is_used_somewhere() -> None:
    used = {keyword.arg for name in ("tell", "bound") for _, call in calls(name) for keyword in call.keywords}
    assert FIELDS.keys() - used == {"event"}


def test_nothing_is_printed_past_the_log() -> None:
    assert [place for place, _ in calls("print")] == []
