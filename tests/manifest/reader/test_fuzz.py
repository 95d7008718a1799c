"""Anything at all, given as a manifest: read or refused with problems, in every format alike."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import Problem
from shared.manifest.model import Manifest
from shared.manifest.vocabulary import ROOMS, STYLES
from tests.manifest.reader.parts import (
    BOM,
    COLUMNS,
    IMAGE,
    SUFFIXES,
    as_csv,
    as_json,
    as_lines,
    attempt,
    only,
    refuse,
    table,
    take,
    unsafe,
)

FUZZ = settings(
    max_examples=80, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def outcome(raw: bytes, name: str) -> Manifest | tuple[Problem, ...]:
    """Read with small limits; any other exception than a rejection fails the test."""
    found = attempt(raw, name, max_images=20, max_problems=15, max_bytes=100_000)
    if not isinstance(found, Manifest):
        assert 1 <= len(found) <= 16
        for problem in found:
            assert problem.reason
            assert problem.line is None or 1 <= problem.line <= raw.count(b"\n") + 1
        return found
    assert 1 <= len(found.images) <= 20
    assert re.fullmatch(r"[a-z0-9_-]{1,64}\.[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", found.batch)
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    for image in found.images:
        assert image.room_type in ROOMS
        assert image.design_style in STYLES
        assert image.source.lower().startswith(("https://", "gs://"))
    assert msgspec.json.encode(found)
    return found


VALID = {".json": as_json(IMAGE, IMAGE), ".jsonl": as_lines(IMAGE, IMAGE), ".csv": as_csv(IMAGE, IMAGE)}


@FUZZ
@given(
    st.sampled_from(SUFFIXES),
    st.sampled_from([b"", BOM, b"{", b'{"images":[', as_lines(), table(COLUMNS).encode(), b'"', b"\xff\xfe"]),
    st.binary(max_size=200),
)
def test_any_bytes(suffix: str, head: bytes, tail: bytes) -> None:
    outcome(head + tail, "a" + suffix)


@FUZZ
@given(
    st.sampled_from(SUFFIXES),
    st.lists(
        st.tuples(
            st.integers(0, 300), st.integers(0, 3),
            st.sampled_from([b"", b'"', b"\x00", b"\xff", b",", b";", b"\n", b"\r", b"{", b"}", b"[", b"]", b"\\", b":",
                             b"1", b"null", b"\\ud800", b"'=", b"..", BOM, b"\x1b"]),
        ),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_good_files_with_something_broken(suffix: str, cuts: list[tuple[int, int, bytes]]) -> None:
    raw = VALID[suffix]
    for place, length, put in cuts:
        place %= len(raw) + 1
        raw = raw[:place] + put + raw[place + length :]
    outcome(raw, "a" + suffix)


KEYS = st.sampled_from(
    ["clientName", "batchId", "designStyle", "roomType", "priority", "images", "url", "propertyCode"]
) | st.text(st.characters(), max_size=5)  # fmt: skip
TEXTS = st.sampled_from(
    ["Acme", "a.jpg", "https://x.example/a.jpg", "den", "boho", "high", "", " ", "../x", "gs://crm/acme/x", "\ud800",
     "\x1b[0m", "x" * 5000, "file://[", "https://[", "\u202e"]
) | st.text(st.characters(), max_size=8)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)
IMAGES = st.fixed_dictionaries({}, optional={
    "url": TEXTS | ANYTHING, "roomType": st.sampled_from(["den", "sala", "qq"]) | SCALARS,
    "designStyle": st.sampled_from(["boho", "Moderno"]) | SCALARS, "propertyCode": SCALARS, "other": SCALARS,
})  # fmt: skip
DOCUMENTS = ANYTHING | st.fixed_dictionaries(
    {"clientName": st.just("Acme") | SCALARS, "images": st.lists(IMAGES | ANYTHING, max_size=5) | ANYTHING},
    optional={"roomType": st.just("den") | SCALARS, "designStyle": st.just("boho") | SCALARS, "batchId": SCALARS,
              "priority": SCALARS},
)  # fmt: skip


@FUZZ
@given(DOCUMENTS, st.booleans())
def test_any_json(document: Any, escaped: bool) -> None:
    raw = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    outcome(raw, "a.json")


@FUZZ
@given(st.lists(IMAGES | DOCUMENTS, max_size=6), st.booleans())
def test_any_json_lines(items: list[Any], headed: bool) -> None:
    outcome((as_lines() if headed else b"") + b"".join(json.dumps(item).encode() + b"\n" for item in items), "a.jsonl")


CELLS = st.sampled_from(
    ["Acme", "a.jpg", "den", "boho", "", " ", "'=x", "=x", '"', '""', ",", ";", "\n", "\r\n", "\r", "\ufeff", "../x",
     "high", "clientName", "url", "\x1b[0m", "\u2028"]
) | st.text(max_size=6)  # fmt: skip


@FUZZ
@given(st.lists(st.lists(CELLS, max_size=6), max_size=6), st.sampled_from(",;"), st.booleans(), st.booleans())
def test_any_csv(rows: list[list[str]], separator: str, quoted: bool, headed: bool) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    for row in ([COLUMNS.split(",")] if headed else []) + rows:
        if quoted:
            writer.writerow(row)
        else:
            text.write(separator.join(row) + "\n")
    outcome(text.getvalue().encode(), "a.csv")


@FUZZ
@given(DOCUMENTS)
def test_any_problem_can_be_printed_and_written(document: Any) -> None:
    found = outcome(json.dumps(document).encode(), "a.json")
    for problem in () if isinstance(found, Manifest) else found:
        assert unsafe(str(problem)) == []
        assert msgspec.json.encode(problem)


NAMES = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=20).map(str.strip)
GOOD_IMAGES = st.fixed_dictionaries(
    {"url": st.sampled_from(["a.jpg", 'https://x.example/a;b,c.jpg?d="e"', "gs://crm/acme/á.jpg", "x/y z.jpg"])},
    optional={
        "roomType": st.sampled_from(["sala de estar", "Kitchen", "walk-in closet"]),
        "designStyle": st.sampled_from(["Moderno", "art déco"]),
        "propertyCode": NAMES.filter(lambda name: name and not name.startswith("'")),
    },
)  # fmt: skip


@FUZZ
@given(
    st.lists(GOOD_IMAGES, min_size=1, max_size=5),
    NAMES.map(lambda name: f"A{name}"),
    st.sampled_from(["", "high", "economy"]),
)
def test_the_three_formats_say_the_same(images: list[dict[str, Any]], client: str, priority: str) -> None:
    header = {"clientName": client, "priority": priority, "batchId": "b"}
    found = [
        msgspec.structs.replace(take(write(*images, **header), name), sha256="", separator=None)
        for write, name in ((as_json, "a.json"), (as_lines, "a.jsonl"), (as_csv, "a.csv"))
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0].images) == len(images)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"clientName": "a",}', "a comma too many"), ('{"images": [{"url": "a.jpg"},]}', "a comma too many"),
        ("{'clientName': 'a'}", "double quotes"), ('{"a": 1 // why\n}', "comments"), ('{# no\n"a": 1}', "comments"),
        ('{"clientName": "a"}\n{"url": "a.jpg"}', "name the file .jsonl"),
    ],
)  # fmt: skip
def test_what_people_write_instead_of_json_is_named(raw: str, words: str) -> None:
    assert words in str(refuse(raw)[0])


@pytest.mark.parametrize("name", ["client_name", "ClientName", "CLIENT-NAME", "client name"])
def test_a_field_in_another_spelling_is_recognised(name: str) -> None:
    problem = next(problem for problem in refuse(json.dumps({name: "a", "images": [IMAGE]})) if problem.field == name)
    assert str(problem).endswith("Did you mean clientName?")


@pytest.mark.parametrize("path", ["photos\\a.jpg", "C:\\fotos\\a.jpg", "C:/fotos/a.jpg"])
def test_a_path_of_windows_says_so(path: str) -> None:
    assert "Windows" in only(refuse(as_json({"url": path}))).reason
