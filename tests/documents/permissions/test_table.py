"""shared/permissions.json against what the doors do: the table grants every kind of call a door makes, and no other."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path

import pytest

from shared.ports import BatchStore, Fleet, ObjectStore, Queue
from tests.clocks import VirtualClock, run_virtual
from tests.documents.permissions.cloud import Cloud, Ledger
from tests.documents.permissions.scenarios import SCENARIOS

ROOT = Path(__file__).parents[3]
TABLE: dict[str, list[str]] = json.loads((ROOT / "shared/permissions.json").read_text("utf-8"))


# --- scenarios: each reaches some calls that no other does


@pytest.fixture(scope="module")
def seen() -> Ledger:
    """All scenarios, each in a world of its own."""
    ledger = Ledger()
    for scenario in SCENARIOS:

        async def main(clock: VirtualClock) -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
            await scenario(Cloud(clock, ledger))  # noqa: B023

        run_virtual(main)
    return ledger


# --- the table


def test_the_table_knows_the_doors() -> None:
    assert TABLE.keys() == {path.parent.name for path in (ROOT / "functions").glob("*/main.py")}
    for door, kinds in TABLE.items():
        assert len(kinds) == len(set(kinds)), door


@pytest.mark.parametrize("door", TABLE)
def test_a_door_may_do_what_it_does_and_nothing_else(seen: Ledger, door: str) -> None:
    named = "GEMINI_API_KEY" in (ROOT / "functions" / door / "main.py").read_text("utf-8")
    secrets = {"secret:gemini"} if named else set()  # read by Cloud Run for it: no port
    assert seen.of(door) | secrets == set(TABLE[door])


def test_only_its_door_knows_the_key() -> None:
    naming = {
        str(path.relative_to(ROOT)) for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")
        if "os.environ" in path.read_text("utf-8") and "GEMINI_API_KEY" in path.read_text("utf-8")
    }  # fmt: skip
    assert naming == {"functions/stage_image/main.py"}


# --- the scenarios reach every call there is

PORTS = {"store", "queue", "objects", "fleet"}
METHODS = {
    name for port in (BatchStore, Queue, ObjectStore, Fleet)
    for name, _ in inspect.getmembers(port, inspect.isfunction) if not name.startswith("_")
} - {"uri", "link"}  # fmt: skip
# What people start from the command line, with an account of their own; and what only one machine does.
OTHERS = {
    ("shared/lifecycle/commands.py", "resume"), ("shared/lifecycle/commands.py", "cancel"), ("shared/lifecycle/replay.py", "drain_letters"),
    ("shared/lifecycle/replay.py", "_stands"), ("shared/worker/subscriber.py", "consume"), ("shared/assembly/worker.py", "_health"),
}  # fmt: skip


def sites() -> dict[tuple[str, str, int, int], str]:
    """(file, function, first line, last line) of every call of a port in the rooms, and its text."""
    found = {}
    # Adapters implement the ports; the staging of a picture is given none but its source.
    of_ports = {"rooms", "lifecycle", "worker", "results", "assembly"}
    for path in sorted(path for folder in of_ports for path in (ROOT / "shared" / folder).glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                port = ast.unparse(node.func.value).rpartition(".")[2].lstrip("_")
                if port in PORTS and node.func.attr in METHODS:
                    place = (str(path.relative_to(ROOT)), function.name, node.lineno, node.end_lineno or node.lineno)
                    found[place] = ast.unparse(node.func)
    return found


def test_the_scenarios_reach_every_call(seen: Ledger) -> None:
    """So that a call added to a room is seen here, and a grant it needs is not forgotten."""
    reached = {(str(Path(file).relative_to(ROOT)), line) for file, line in seen.places if file.startswith(str(ROOT))}
    missed = {
        f"{file}:{first} {function}: {text}"
        for (file, function, first, last), text in sites().items()
        if (file, function) not in OTHERS and not any((file, line) in reached for line in range(first, last + 1))
    }
    assert missed == set()
    assert len(sites()) > 80
