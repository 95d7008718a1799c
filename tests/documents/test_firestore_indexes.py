"""Every query of the Firestore adapter has its index in terraform/firestore.tf: the emulator answers without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shared.model import ImageState

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "shared/adapters/google"
FIRESTORE = (ROOT / "terraform/firestore.tf").read_text("utf-8")
TERRAFORM = {path.name: path.read_text("utf-8") for path in (ROOT / "terraform").glob("*.tf")}

# Whatever of the client's API decides which index a query reads.
METHODS = {"where", "order_by", "sum", "avg", "count", "find_nearest", "collection_group", "start_at", "end_at"}

# What the adapter asks, function by function: the calls as they stand in its source, the collection, and the fields of
# the index that Firestore reads. One field is a single-field index, several are a composite one; documents in the order
# of their names need none of their own.
QUERIES: dict[str, tuple[list[str], str, list[tuple[str, ...]]]] = {
    "batches": (
        [
            "where(filter=FieldFilter('open', '==', True))",
            "order_by('createdAt', direction='DESCENDING')",
        ],
        "batches",
        [("open",), ("createdAt",)],
    ),
    "open_images": (["sum('open', alias='open')", "count(alias='shards')"], "tallies", [("open",)]),
    # Sums over several fields in one query: an index that holds them all, in alphabetical order.
    "counts": (
        ["sum(f'counts.{name}', alias=name)"],
        "tallies",
        [tuple(sorted(f"counts.{state.value}" for state in ImageState))],
    ),
    "images": (
        ["order_by('__name__')", "where(filter=FieldFilter('state', '==', state.value))"],
        "images",
        [("state",)],
    ),
    # Several states at once are as many scans of one index, merged.
    "moved_images": (
        [
            "where(filter=FieldFilter('state', 'in', [state.value for state in states]))",
            "where(filter=FieldFilter('movedAt', '>=', since))",
            "where(filter=FieldFilter('movedAt', '<', before))",
            "order_by('movedAt')",
            "order_by('__name__')",
        ],
        "images",
        [("state", "movedAt")],
    ),
    "records": (["order_by('__name__')"], "", []),
}


def queries_in(tree: ast.AST) -> dict[str, list[str]]:
    """Return the calls of each function that say what a query asks for."""
    found: dict[str, list[str]] = {}
    for function in ast.walk(tree):
        if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                arguments = ", ".join([*map(ast.unparse, node.args), *map(ast.unparse, node.keywords)])
                found.setdefault(function.name, []).append(f"{node.func.attr}({arguments})")
    return found


def indexed() -> dict[str, dict[str, str]]:
    """Return the fields that Terraform leaves a single-field index, with its order, by collection."""
    block = re.search(r"^  indexed = \{\n(.*?)^  \}", FIRESTORE, re.MULTILINE | re.DOTALL)
    assert block is not None
    return {
        collection: dict(re.findall(r'(\w+) = "(\w+)"', fields))
        for collection, fields in re.findall(r"^    (\w+) += \{(.*)\}$", block[1], re.MULTILINE)
    }


def composites() -> set[tuple[str, tuple[str, ...]]]:
    """Return the composite indexes of Terraform: the collection, and the fields in their order."""
    found = set()
    for body in re.findall(r'^resource "google_firestore_index" "\w+" \{\n(.*?)^\}', FIRESTORE, re.M | re.S):
        collection = re.search(r'collection += "(\w+)"', body)
        fields = re.search(r"for_each = \[(.*)\]", body)
        assert collection is not None
        assert fields is not None
        found.add((collection[1], tuple(re.findall(r'"([\w.]+)"', fields[1]))))
    return found


def test_every_query_of_the_adapter_is_listed() -> None:
    """A query that is new here needs a line in QUERIES, with the index that it reads, and that index in Terraform."""
    found: dict[str, list[str]] = {}
    for path in ADAPTER.glob("*.py"):
        found |= queries_in(ast.parse(path.read_text("utf-8")))
    assert {name: sorted(calls) for name, calls in found.items()} == {
        name: sorted(calls) for name, (calls, _, _) in QUERIES.items()
    }


@pytest.mark.parametrize(
    "added",
    [
        "query = query.where(filter=FieldFilter('tier', '==', tier))",
        "await self._aggregate(tallies.avg('open'))",
        "await self._aggregate(tallies.sum('shards', alias='shards'))",
        "collection = collection.order_by('touchedAt')",
    ],
)
def test_a_new_query_would_be_noticed(added: str) -> None:
    before = queries_in(ast.parse((ADAPTER / "store.py").read_text("utf-8")))
    after = queries_in(ast.parse(f"async def another(self):\n    {added}"))
    assert after, added
    assert before | after != before


def test_terraform_makes_the_indexes_that_queries_read_and_no_other() -> None:
    wanted = {(collection, fields) for _, collection, indexes in QUERIES.values() for fields in indexes}
    assert {(c, fields) for c, fields in wanted if len(fields) > 1} == composites()
    single = {(collection, fields[0]) for collection, fields in wanted if len(fields) == 1}
    assert {(collection, field) for collection, fields in indexed().items() for field in fields} == single
    # An order that is asked for by name must be the index's own.
    assert indexed()["batches"]["createdAt"] == "DESCENDING"


def test_a_composite_index_is_ascending_and_of_one_collection() -> None:
    for body in re.findall(r'^resource "google_firestore_index" "\w+" \{\n(.*?)^\}', FIRESTORE, re.M | re.S):
        assert 'query_scope = "COLLECTION"' in body
        assert re.findall(r"order += (\S+)", body) == ['"ASCENDING"']


def test_every_collection_is_told_what_to_index() -> None:
    """A collection that Terraform does not know has an index on each of its fields."""
    source = (ADAPTER / "store.py").read_text("utf-8")
    named = set(re.findall(r'\.collection\("(\w+)"\)', source))
    records = re.search(r"COLLECTIONS: Final = \{(.*?)\}", source, re.DOTALL)
    assert records is not None
    named |= set(re.findall(r': "(\w+)"', records[1]))
    assert len(named) >= 6
    assert named == indexed().keys()


def test_what_queries_waits_for_the_indexes() -> None:
    """An index takes minutes to build. Until then each count fails, so that no worker is started."""
    for name in ("functions.tf", "worker.tf"):
        waits = " ".join(re.findall(r"depends_on = \[(.*?)\]", TERRAFORM[name], re.DOTALL))
        for index in re.findall(r'^resource "google_firestore_index" "(\w+)"', FIRESTORE, re.M):
            assert f"google_firestore_index.{index}" in waits, (name, index)
        assert "google_firestore_field.indexed" in waits, name
