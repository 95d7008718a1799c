"""JSON that is no manifest, and fields that are hostile, broken or fine."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from shared.manifest.model import Manifest
from shared.manifest.vocabulary import ROOMS, STYLES
from shared.model import Tier
from tests.manifest.reader.parts import DEN, IMAGE, WRITERS, Writer, as_json, as_lines, attempt, only, refuse, take

# --- JSON that is no manifest


@pytest.mark.parametrize(
    "raw", ["[]", "null", "true", "3", "-0.5", '"text"', "[{}]", '[{"url":"a.jpg"}]', '["clientName"]']
)
def test_json_of_another_shape(raw: str) -> None:
    problem = only(refuse(raw))
    assert problem.pointer == ""
    assert "object" in (problem.allowed or "")


@pytest.mark.parametrize("raw", ["[]", "3", '{"images": 3, "clientName": "a"}', "[" * 50_000])
def test_a_problem_of_the_whole_file_reads_as_a_sentence(raw: str) -> None:
    """The pointer to the whole document is the empty text; nobody should read ": is a list"."""
    assert not str(refuse(raw)[0]).startswith(":")


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("{", 1), ("nul", 1), ("{'a': 1}", 1), ('{"a": 1,}', 1), ('{\n"a": 1,\n}', 3), ('{\n"a" 1}', 2),
        ('{"a": 1}\n{"b": 2}', 2), ('{"a": "\n"}', 1), ('{"a": "\\x"}', 1), ("// note\n{}", 1), ('{"a": 01}', 1),
        ('{"a": +1}', 1), ('{"a": "tab\there"}', 1), ("\ufeffx{}", 1), ("html>", 1),
    ],
)  # fmt: skip
def test_broken_json_names_its_line(raw: str, line: int) -> None:
    problem = only(refuse(raw))
    assert "is not JSON" in problem.reason
    assert problem.line == line
    assert "JSON object" in (problem.allowed or "")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["none", "lf", "crlf"])
@pytest.mark.parametrize("cut", ['{"url":"https://x.com/a.jpg"', '{"url":', '{"url":"a.jpg",', "["])
def test_a_line_that_breaks_off_does_so_at_its_own_end(cut: str, end: str) -> None:
    problem = only(refuse(as_lines() + (cut + end).encode(), "a.jsonl"))
    assert (problem.line, problem.allowed) == (2, "a JSON object in one line")
    assert re.search(rf"at column ({len(cut)}|{len(cut) + 1})$", problem.reason), problem.reason
    assert only(refuse('{\n"a": 1' + end)).line == 2


@pytest.mark.parametrize("write", [as_json, as_lines], ids=["json", "jsonl"])
def test_nan_and_infinity_are_refused_in_every_field(write: Writer) -> None:
    """Python reads them, JSON knows none: each is a problem with its field, and hides no other."""
    name = "a.json" if write is as_json else "a.jsonl"
    header = ("clientName", "batchId", "priority", "roomType", "designStyle", "cache", "failureThreshold")
    image = ("url", "roomType", "designStyle", "propertyCode")
    for number in (float("nan"), float("inf"), -float("inf")):
        fields = {**dict.fromkeys(image, number), "url": [number]}
        problems = refuse(write(fields, number, {"url": "../x"}, **dict.fromkeys(header, number)), name)
        assert sorted(p.field or "" for p in problems) == sorted(["", "url", *header, *image])
        assert all(problem.allowed for problem in problems)
        assert refuse(json.dumps(number))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4000, "9" * 100_000, "-0"])
def test_strange_numbers_are_refused_where_they_stand(number: str) -> None:
    """Not only that there is one somewhere in 10,000 images."""
    raw = as_json(IMAGE, {"url": "X"}).replace(b'"X"', b"\n\n" + number.encode())
    problem = only(refuse(raw))
    assert problem.line == 3 or problem.pointer == "/images/1/url", str(problem)[:200]
    assert "sys." not in str(problem), "advice for programmers of Python"
    assert len(str(problem)) < 500


DEEP = [3, 400, 900, 990, 1000, 1100, 3000, 100_000]


@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_deep_nesting_is_refused(opening: str, closing: str, depth: int) -> None:
    for deep in (opening * depth + "1" + closing * depth, opening * depth):
        refuse(deep)
        assert refuse(as_lines() + deep.encode(), "a.jsonl")[0].line == 2
        for shape in (
            '{"clientName":%s}',
            '{"clientName":"a","images":%s}',
            '{"clientName":"a","images":[{"url":%s}]}',
        ):
            for problem in refuse(shape % deep):
                assert len(str(problem)) < 600


def test_very_deep_nesting_says_so() -> None:
    assert "nested" in only(refuse("[" * 100_000)).reason
    assert "nested" in only(refuse('{"clientName":"a","x":' + "[" * 100_000)).reason


@pytest.mark.parametrize("images", [b"", b"null"])
def test_images_may_not_be_missing(images: bytes) -> None:
    problem = only(refuse(b'{"clientName":"a"' + (b',"images":' + images if images else b"") + b"}"))
    assert (problem.pointer, problem.field, problem.reason) == ("/images", "images", "is missing")


@pytest.mark.parametrize("images", ["{}", '{"url":"a.jpg"}', '"a.jpg"', "1", "true", "0"])
def test_images_must_be_a_list(images: str) -> None:
    problem = only(refuse(f'{{"clientName":"a","images":{images}}}'))
    assert (problem.pointer, problem.field) == ("/images", "images")
    assert problem.value == json.dumps(json.loads(images))


@pytest.mark.parametrize("item", [None, 1, "a.jpg", [], ["a.jpg"], True])
def test_an_image_must_be_an_object(item: Any) -> None:
    assert only(refuse(as_json(IMAGE, item))).pointer == "/images/1"
    assert only(refuse(as_lines(IMAGE, item), "a.jsonl")).line == 3


# --- fields


NOT_TEXTS: list[Any] = [1, 0, 1.5, True, False, [], {}, ["x"], {"a": "b"}]


@pytest.mark.parametrize("value", NOT_TEXTS, ids=repr)
@pytest.mark.parametrize("field", ["clientName", "batchId", "priority", "roomType", "designStyle"])
def test_a_header_field_that_is_no_text_is_one_problem(field: str, value: Any) -> None:
    """And not one more on each of the images that rely on it."""
    images = [{"url": f"{n}.jpg"} for n in range(5)]
    problem = only(refuse(as_json(*images, **{field: value})))
    assert (problem.pointer, problem.field, problem.value) == (f"/{field}", field, json.dumps(value))
    problem = only(refuse(as_lines(*images, **{field: value}), "a.jsonl"))
    assert (problem.line, problem.field) == (1, field)


@pytest.mark.parametrize("value", NOT_TEXTS, ids=repr)
@pytest.mark.parametrize("field", ["url", "propertyCode", "roomType", "designStyle"])
def test_an_image_field_that_is_no_text_is_one_problem(field: str, value: Any) -> None:
    problem = only(refuse(as_json(IMAGE, {**IMAGE, field: value}, IMAGE)))
    assert (problem.pointer, problem.field, problem.value) == (f"/images/1/{field}", field, json.dumps(value))
    problem = only(refuse(as_lines(IMAGE, {**IMAGE, field: value}), "a.jsonl"))
    assert (problem.line, problem.field) == (3, field)


@pytest.mark.parametrize("value", ["x", "roomy", " "])
@pytest.mark.parametrize("field", ["roomType", "designStyle", "priority"])
def test_an_unknown_header_value_is_one_problem(field: str, value: str) -> None:
    problem = only(refuse(as_json(IMAGE, IMAGE, **{field: value})))
    assert (problem.pointer, problem.reason) == (f"/{field}", "is not known")
    assert problem.allowed


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize("empty", ["", None])
def test_required_fields(write: Writer, name: str, empty: str | None) -> None:
    for field in ("clientName", "url", "roomType", "designStyle"):
        problem = only(
            refuse(write({**IMAGE, field: empty}) if field == "url" else write(IMAGE, **{field: empty}), name)
        )
        assert problem.field == field
        assert "missing" in problem.reason or "empty" in problem.reason
        assert problem.allowed


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_optional_fields_may_be_left_empty(write: Writer, name: str) -> None:
    found = take(write({**IMAGE, "propertyCode": ""}, priority="", batchId=""), name)
    assert (found.tier, found.batch_id, found.images) == (Tier.NORMAL, None, (DEN,))


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("roomType", "livng room", "living_room"), ("roomType", "Cozina", "kitchen"), ("roomType", "bedrom", "bedroom"),
        ("designStyle", "moderm", "modern"), ("designStyle", "Minimalistic", "minimalist"),
        ("priority", "expres", "express"),
    ],
)  # fmt: skip
def test_a_misspelling_gets_the_nearest_values(write: Writer, name: str, field: str, value: str, nearest: str) -> None:
    problem = only(refuse(write(IMAGE, **{field: value}), name))
    assert (problem.field, problem.value) == (field, json.dumps(value))
    assert re.match(rf"nearest: {nearest}\b", problem.allowed or "")


@pytest.mark.parametrize(("field", "values"), [("roomType", ROOMS), ("designStyle", STYLES)])
def test_a_value_near_nothing_gets_all_of_them(field: str, values: tuple[str, ...]) -> None:
    problem = only(refuse(as_json(IMAGE, **{field: "qzxwqzxw"})))
    assert [value for value in values if value not in (problem.allowed or "")] == []


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize("length", [0, 1])
def test_texts_at_and_above_their_limits(write: Writer, name: str, length: int) -> None:
    fine = write({"url": "u" * 30, "propertyCode": "p" * 200}, clientName="c" * 200)
    assert len(take(fine, name, max_url_characters=30).images) == 1
    over = write({"url": "u" * 31, "propertyCode": "p" * 201}, clientName="c" * 201)
    problems = refuse(over, name, max_url_characters=30)
    assert [problem.field for problem in problems] == ["clientName", "url", "propertyCode"]
    assert [problem.allowed for problem in problems] == ["at most 200", "at most 30", "at most 200"]


@pytest.mark.parametrize("name", ["\u65e5\u672c", "!!!", "-", "--", "_", "___", "\u202e", " ", "\U0001f3e0", "\u0301"])
def test_a_client_name_needs_a_letter_or_digit(name: str) -> None:
    problem = only(refuse(as_json(IMAGE, clientName=name)))
    assert problem.pointer == "/clientName"


@pytest.mark.parametrize(
    "batch_id",
    [
        ".", "..", "../x", "a/b", "a\\b", ".a", "-a", "_a", "__a__", "a b", "a\n", "\na", "a\x00", "é", "\uff11",
        "x" * 65, "a%2fb", "a:b", "a\u202eb", " a",
    ],
)  # fmt: skip
def test_batch_ids_that_are_none(batch_id: str) -> None:
    problem = only(refuse(as_json(IMAGE, batchId=batch_id)))
    assert problem.pointer == "/batchId"


CONTROLS = ["\x00", "\x01", "\x07", "\x08", "\t", "\n", "\r", "\x1b[31m", "\x7f", "\x80", "\x85", "\x9b31m", "\x9d0;x"]


@pytest.mark.parametrize("field", ["clientName", "url", "propertyCode", "roomType", "designStyle", "priority"])
def test_control_characters_are_refused_in_every_field(field: str) -> None:
    """U+009B is ESC [ in one character: what the manifest lets in, command line and report print later."""
    accepted = []
    for control in (*CONTROLS, "\ud800", "\udfff"):
        value = {field: f"A{control}b"}
        found = attempt(as_json({**IMAGE, **value}) if field in ("url", "propertyCode") else as_json(IMAGE, **value))
        if isinstance(found, Manifest):
            accepted.append(ascii(control))
        else:
            assert [problem.field for problem in found] == [field]
    assert accepted == []


@pytest.mark.parametrize("field", ["clientName", "propertyCode"])
def test_marks_that_turn_or_break_a_line_are_refused_in_names(field: str) -> None:
    accepted = []
    for mark in ("\u202e", "\u202a", "\u2066", "\u2028", "\u2029"):
        value = {field: f"A{mark}b"}
        found = attempt(as_json({**IMAGE, **value}) if field == "propertyCode" else as_json(IMAGE, **value))
        if isinstance(found, Manifest):
            accepted.append(ascii(mark))
        else:
            assert [problem.field for problem in found] == [field]
    assert accepted == []


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    problems = refuse(as_json({**IMAGE, "URL": "b", "notes": 1}, images2=[], url="x", propertyCode="y"))
    assert [(p.pointer, p.reason) for p in problems] == [
        ("/images2", "is not a field here"), ("/url", "is not a field here"), ("/propertyCode", "is not a field here"),
        ("/images/0/URL", "is not a field here"), ("/images/0/notes", "is not a field here"),
    ]  # fmt: skip
    assert "clientName" in (problems[0].allowed or "")
    assert "propertyCode" in (problems[-1].allowed or "")


def test_duplicate_keys() -> None:
    raw = (
        '{"clientName":"a","clientName":"a","roomType":"den","designStyle":"boho","images":[],'
        '"images":[{"url":"a.jpg"},{"url":"a.jpg","url":"b.jpg","url":"c.jpg"},{"x":1,"x":1,"url":"a.jpg"}]}'
    )
    assert [(p.pointer, p.field, p.reason) for p in refuse(raw)] == [
        ("/clientName", "clientName", "appears twice"),
        ("/images", "images", "appears twice"),
        ("/images/1/url", "url", "appears twice"),
        ("/images/2/x", "x", "appears twice"),
        ("/images/2/x", "x", "is not a field here"),
    ]
    lines = '{"clientName":"a","clientName":"b","roomType":"den","designStyle":"boho"}\n\n{"url":"a","url":"b"}\n'
    assert [(p.line, p.field, p.reason) for p in refuse(lines, "a.jsonl")] == [
        (1, "clientName", "appears twice"), (3, "url", "appears twice"),
    ]  # fmt: skip


def test_a_key_written_in_two_ways_is_still_twice() -> None:
    assert only(refuse('{"clientName":"a","\\u0063lientName":"a","images":[]}')).reason == "appears twice"


def follow(document: Any, pointer: str) -> Any:
    """RFC 6901."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


@pytest.mark.parametrize("key", ["a/b", "~", "~1", "a~0b", "/", "", "0", "é", " "])
def test_pointers_are_json_pointers(key: str) -> None:
    raw = as_json({**IMAGE, key: "mine"})
    problem = only(refuse(raw))
    assert follow(json.loads(raw), problem.pointer or "") == "mine"
