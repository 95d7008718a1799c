"""Manifests: what is hostile or broken first, then what is accepted.

Every rejection here is a `ManifestRejected` with problems that say where, what, and what would do instead.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tracemalloc
import unicodedata
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ManifestRejected, Problem
from shared.manifest import tables
from shared.manifest.reader import MAX_VALUE_SHOWN, Manifest, ManifestImage, batch_of, in_words, read, wrong_name
from shared.manifest.sources import SourceRules
from shared.manifest.vocabulary import ROOM_ALIASES, ROOMS, STYLE_ALIASES, STYLES
from shared.model import Tier
from shared.results import report
from shared.settings import ManifestLimits

FUZZ = settings(
    max_examples=80, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
RULES = SourceRules(base="gs://intake/manifests/acme/", gs_prefixes=("gs://crm/acme/",))
BASE = RULES.base
SUFFIXES = [".json", ".jsonl", ".csv"]
HEADER: dict[str, Any] = {"clientName": "Acme", "roomType": "den", "designStyle": "boho"}
IMAGE: dict[str, Any] = {"url": "a.jpg"}
COLUMNS = "clientName,url,roomType,designStyle"
ROW = "Acme,a.jpg,den,boho"
DEN = ManifestImage(BASE + "a.jpg", "den", "boho")
BOM = b"\xef\xbb\xbf"
BIDI = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c"}


def take(raw: bytes | str, name: str = "a.json", rules: SourceRules = RULES, **limits: int) -> Manifest:
    content = raw.encode() if isinstance(raw, str) else raw
    return read(io.BytesIO(content), name, ManifestLimits(**limits), rules)


def refuse(raw: bytes | str, name: str = "a.json", rules: SourceRules = RULES, **limits: int) -> tuple[Problem, ...]:
    with pytest.raises(ManifestRejected) as caught:
        take(raw, name, rules, **limits)
    problems = caught.value.problems
    assert problems, "a rejection has reasons"
    assert all(problem.reason for problem in problems)
    return problems


def attempt(raw: bytes | str, name: str = "a.json", **limits: int) -> Manifest | tuple[Problem, ...]:
    try:
        return take(raw, name, RULES, **limits)
    except ManifestRejected as error:
        return error.problems


def only(problems: tuple[Problem, ...]) -> Problem:
    assert len(problems) == 1, [str(problem)[:120] for problem in problems]
    return problems[0]


def as_json(*images: Any, **header: Any) -> bytes:
    return json.dumps({**HEADER, **header, "images": list(images)}).encode()


def as_lines(*images: Any, **header: Any) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in ({**HEADER, **header}, *images)).encode()


def as_csv(*images: dict[str, Any], **header: Any) -> bytes:
    """The same as a CSV, written as `report.py` writes one."""
    columns = ("clientName", "url", "propertyCode", "roomType", "designStyle", "priority", "batchId")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for image in images:
        whole = {**HEADER, **header, **image}
        writer.writerow([tables.neutral(str(whole.get(column) or "")) for column in columns])
    return text.getvalue().encode()


def table(*lines: str, end: str = "\r\n") -> str:
    return "".join(line + end for line in lines)


WRITERS: list[Any] = [
    pytest.param(as_json, "a.json", id="json"),
    pytest.param(as_lines, "a.jsonl", id="jsonl"),
    pytest.param(as_csv, "a.csv", id="csv"),
]
Writer = Callable[..., bytes]


def where(problem: Problem) -> int | str | None:
    return problem.line if problem.line is not None else problem.pointer


def unsafe(text: str) -> list[str]:
    """The characters of `text` that could steer a terminal, forge a line, or cannot be encoded."""
    return [ascii(c) for c in text if c in BIDI or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]


# --- files that are no manifest at all


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "raw", [b"", b" ", b"\n", b" \r\n\t\n", b"\n" * 1000, BOM, BOM + b"\r\n"],
    ids=["nothing", "space", "newline", "blanks", "newlines", "bom", "bom-newline"],
)  # fmt: skip
def test_empty_files_say_so(raw: bytes, suffix: str) -> None:
    problem = only(refuse(raw, "a" + suffix))
    assert problem.reason == "is empty"
    assert problem.allowed


PICTURES = {
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ", "gif": b"GIF89a\x01\x00\x01\x00",
    "heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "heif": b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00",
    "tiff-le": b"II*\x00\x08\x00\x00\x00", "tiff-be": b"MM\x00*\x00\x00\x00\x08",
}  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_instead_of_a_manifest_says_so(kind: str, suffix: str) -> None:
    """Of every format the product takes as a photo: exactly what people drop by mistake."""
    problem = only(refuse(PICTURES[kind] + bytes(range(256)) * 20, "a" + suffix))
    assert "picture" in problem.reason
    assert problem.allowed


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00", "spreadsheet"), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel"),
        (b"%PDF-1.7\n", "PDF"), (b"\x1f\x8b\x08\x00", "gzip"),
    ],
    ids=["xlsx", "xls", "pdf", "gzip"],
)  # fmt: skip
def test_other_files_say_what_they_are(raw: bytes, reason: str, suffix: str) -> None:
    assert reason in only(refuse(raw + b"\x00" * 100, "a" + suffix)).reason


@pytest.mark.parametrize("name", ["manifest", "a.txt", "a.json.bak", "a.xls", "json", "", ".", "a.jsonl.gz", "a.csv "])
def test_other_names_are_refused(name: str) -> None:
    problem = only(refuse(as_json(IMAGE), name))
    assert "name" in problem.reason
    assert problem == wrong_name(name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_wide_encodings_are_read(encoding: str, suffix: str, end: str) -> None:
    """Excel's "Unicode text" and PowerShell's redirections are UTF-16, with a mark or without."""
    write = {".json": as_json, ".jsonl": as_lines, ".csv": as_csv}[suffix]
    text = write({"url": "salão 家.jpg"}, IMAGE, clientName="Imobiliária São João").decode().replace("\r\n", "\n")
    raw = text.replace("\n", end).encode(encoding)
    taken = take(raw, "a" + suffix)
    assert taken.client_name == "Imobiliária São João"
    assert [image.source for image in taken.images] == [BASE + "salão 家.jpg", BASE + "a.jpg"]
    assert taken.sha256 == hashlib.sha256(raw).hexdigest(), "of the bytes as they came"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_wide_encoding_that_is_cut_says_so(suffix: str, cut: int) -> None:
    write = {".json": as_json, ".jsonl": as_lines, ".csv": as_csv}[suffix]
    raw = write(IMAGE).decode().encode("utf-32")[:-cut]
    assert "UTF-32" in refuse(raw, "a" + suffix)[-1].reason


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_wide_encodings_keep_to_the_size_limit(suffix: str) -> None:
    raw = b"\xff\xfe" + ("x" * 500_000 + "\n").encode("utf-16-le") * 10
    assert "larger than 100000 bytes" in refuse(raw, "a" + suffix, max_bytes=100_000)[-1].reason


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("raw", [b"\x00\x00{\x00", b"a\x00b", b"\x00a", b"a\x00b\x00cd", b"\x00" * 64])
def test_not_every_nul_byte_is_a_wide_encoding(raw: bytes, suffix: str) -> None:
    problem = refuse(raw, "a" + suffix)[0]
    assert (problem.line, problem.reason.partition(";")[0]) == (1, "holds a NUL byte")
    assert "\\u0000" in (problem.value or "")


@pytest.mark.parametrize(
    ("name", "raw", "line"),
    [
        ("a.json", '{"clientName":"São"}'.encode("latin-1"), 1),
        ("a.json", '{\n\n"clientName":"São"}'.encode("cp1252"), 3),
        ("a.json", b'{"clientName":\n"\xff"}', 2),
        ("a.json", BOM + b'{\n"clientName":"\xff"}', 2),
        ("a.json", BOM + b"{\n\xff}", 2),
        ("a.json", b'{"clientName":"\xed\xa0\x80"}', 1),  # a surrogate, encoded as if it were a character
        ("a.json", b'{"clientName":"\xc0\xaf"}', 1),  # overlong
        ("a.json", as_json(IMAGE)[:-1] + b"\n\n\xc3", 3),  # cut inside a character
        ("a.jsonl", as_lines(IMAGE) + '{"url":"São.jpg"}\n'.encode("latin-1"), 3),
        ("a.csv", table(COLUMNS, "São,a.jpg,den,boho").encode() + b"S\xe3o,a.jpg,den,boho", 3),  # of two programs
        ("a.csv", BOM + table(COLUMNS, "São,a.jpg,den,boho").encode("latin-1"), 2),  # it says that it is UTF-8
        ("a.csv", table(COLUMNS, ROW, "S\x81\xb2o,a.jpg,den,boho").encode("latin-1"), 3),  # nor Windows-1252
        ("a.csv", BOM + table("clientName,url,São").encode("latin-1"), 1),
    ],
)
def test_other_encodings_are_refused_at_their_line(name: str, raw: bytes, line: int) -> None:
    problem = next(problem for problem in refuse(raw, name) if "UTF-8" in problem.reason)
    assert problem.line == line
    assert problem.allowed == "UTF-8"


@pytest.mark.parametrize(
    ("name", "raw", "line"),
    [
        ("a.json", b'{"clientName":"a\x00"}', 1),
        ("a.json", b'{\n"clientName":\n"a\x00"}', 3),
        ("a.jsonl", as_lines(IMAGE, IMAGE) + b'{"url":"\x00"}\n', 4),
        ("a.csv", table(COLUMNS, ROW, "Acme,\x00,den,boho").encode(), 3),
        ("a.csv", b"\x00" + table(COLUMNS, ROW).encode(), 1),
    ],
)
def test_nul_bytes_are_refused_at_their_line(name: str, raw: bytes, line: int) -> None:
    problem = refuse(raw, name)[-1]
    assert "NUL" in problem.reason
    assert problem.line == line


# --- a broken line hides no other line; where the next ones cannot be told apart, the last problem says so

UNREAD = "nothing after this line was read"
BROKEN_BYTES = {"latin-1": b"S\xe3o", "nul": b"S\x00o", "cut": b"\xc3"}
BROKEN_LINES = {
    **BROKEN_BYTES, "no-json": b"nonsense", "breaks-off": b'{"url":', "deep": b"[" * 100_000, "quote": b'{"url":"',
}  # fmt: skip


def said(problems: tuple[Problem, ...]) -> list[tuple[int | str | None, bool]]:
    """Where each problem stands, and whether reading stopped there."""
    return [(where(problem), UNREAD in str(problem)) for problem in problems]


@pytest.mark.parametrize("broken", BROKEN_LINES)
def test_a_broken_json_line_hides_no_other(broken: str) -> None:
    bad = as_lines(IMAGE).replace(b'"a.jpg"', b'"../../etc/passwd"').splitlines(keepends=True)[1]
    raw = as_lines() + BROKEN_LINES[broken] + b"\r\n" + bad + b"\n" + BROKEN_LINES[broken] + b"\n" + bad
    problems = refuse(raw, "a.jsonl")
    assert said(problems) == [(2, False), (3, False), (5, False), (6, False)]
    assert all(problem.allowed for problem in problems)


@pytest.mark.parametrize("broken", BROKEN_LINES)
def test_a_broken_first_json_line_hides_no_other(broken: str) -> None:
    """The images below it rely on a header nobody could read: only what is wrong with themselves is said."""
    raw = BROKEN_LINES[broken] + b'\n{"url":"a.jpg"}\n{"url":"../x"}\n'
    assert said(refuse(raw, "a.jsonl")) == [(1, False), (3, False)]


def test_json_lines_without_a_header_are_checked_all_the_same() -> None:
    found = [(p.line, p.field) for p in refuse('{"url":"../x"}\n{"url":"a.jpg"}\n{"url":"../y"}\n', "a.jsonl")]
    assert found == [(1, None), (1, "url"), (3, "url")]
    assert [(p.line, p.field) for p in refuse('null\n{"url":"../y"}\n', "a.jsonl")] == [(1, None), (2, "url")]


def test_a_header_with_a_url_is_a_header_with_a_field_too_much() -> None:
    problem = only(refuse(as_lines(IMAGE, url="a.jpg"), "a.jsonl"))
    assert (problem.line, problem.field, problem.reason) == (1, "url", "is not a field here")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    "broken",
    [b"Acme,S\x81\xb2o,den,boho", b"Acme,S\x00o,den,boho", b'Acme,"%s",den,boho' % b"\x81\xb2",
     b'Acme,"a"b,den,boho', b"Acme,a\rb,den,boho", b"Acme,%s,den,boho" % (b"x" * 140_000)],
    ids=["no-text", "nul", "quoted-no-text", "after-quote", "cr", "large-field"],
)  # fmt: skip
def test_a_broken_csv_line_hides_no_other(broken: bytes, end: bytes) -> None:
    bad = b"Acme,../../etc/passwd,den,boho"
    problems = refuse(end.join([COLUMNS.encode(), ROW.encode(), broken, bad, broken, broken, bad]), "a.csv")
    assert said(problems) == [(line, False) for line in range(3, 8)]
    assert all(problem.allowed for problem in problems)
    assert "universal-newline" not in str(problems[0])


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([b'Acme,"a.jpg,den,boho'], 3),  # never closed
        ([b'Acme,"a', b"", b'b"c,den,boho'], 3),
        ([b'Acme,"a.jpg,den,boho', b"Acme,../x,den,boho", b'Acme,"b.jpg",den,boho'], 3),  # closed where one opens
        ([b'Acme,"a"b"c,den,boho'], 3),
        ([b'Acme,"\x81\xb2', b'",den,boho'], 3),
        ([b'Acme,"', b"\x81\xb2", b'",den,boho'], 4),
        ([b'Acme,"', b"\x00", b'",den,boho'], 4),
        ([b'Acme,"', b'\x81\xb2",den,boho'], 4),
        ([b'Acme,"', b'\x81\xb2"",den,boho'], 4),
    ],
)
def test_reading_that_stops_at_an_open_csv_quote_says_so(lines: list[bytes], line: int) -> None:
    rest = [b"Acme,../../etc/passwd,den,boho"] * 3
    problems = refuse(b"\n".join([COLUMNS.encode(), b"Acme,../x,den,boho", *lines, *rest]), "a.csv")
    assert said(problems) == [(2, False), (line, True)]
    assert problems[-1].allowed


@pytest.mark.parametrize(
    "header",
    [b"clientName,url,S\xe3o", b"clientName,url,\x00", b'"clientName"x,url', b'"clientName,url', b"Acme,a.jpg",
     b'"clientName\n\x81\xb2",url', COLUMNS.encode() + b",propertycodes"],
)  # fmt: skip
def test_a_csv_header_that_cannot_be_read_says_that_nothing_after_it_was(header: bytes) -> None:
    problems = refuse(header + b"\nAcme,../x,den,boho\n", "a.csv")
    assert [stopped for _, stopped in said(problems)] == [False] * (len(problems) - 1) + [True]


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


# --- every problem at once, each at its place


def test_json_reports_every_problem_in_order() -> None:
    raw = as_json(
        IMAGE, {"url": ""}, {"url": "../x", "roomType": "qq", "colour": "red"}, 7, {"url": "b.jpg", "designStyle": 1},
        clientName="", priority="soon", batchId="a b",
    )  # fmt: skip
    assert [(p.pointer, p.field) for p in refuse(raw)] == [
        ("/clientName", "clientName"), ("/priority", "priority"), ("/batchId", "batchId"), ("/images/1/url", "url"),
        ("/images/2/colour", "colour"), ("/images/2/url", "url"), ("/images/2/roomType", "roomType"),
        ("/images/3", None), ("/images/4/designStyle", "designStyle"),
    ]  # fmt: skip


def test_json_lines_reports_every_problem_in_order() -> None:
    lines = [
        json.dumps({**HEADER, "priority": "soon"}), json.dumps(IMAGE), "", '{"url": x}', json.dumps({"url": "ftp://x/y"}),
        "[]", json.dumps({**IMAGE, "roomType": "qq", "designStyle": "qq"}), "   ", "nonsense", json.dumps(HEADER),
    ]  # fmt: skip
    found = [p.line for p in refuse("\n".join(lines), "a.jsonl")]
    assert found == [1, 4, 5, 6, 7, 7, 9, 10, 10]


def test_csv_reports_every_problem_in_order() -> None:
    raw = table(
        COLUMNS, ROW, "Acme,../x,qq,boho", "", "Acme,,den", "Other,a.jpg,den,boho", ";;", "Acme,,,", ",,,",
        "Acme,https://u:p@x/,den,qq",
    )  # fmt: skip
    assert [(p.line, p.field) for p in refuse(raw, "a.csv")] == [
        (3, "url"), (3, "roomType"), (5, None), (6, "clientName"), (7, None), (8, "url"), (8, "roomType"),
        (8, "designStyle"), (10, "url"), (10, "designStyle"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([COLUMNS, 'Acme,"a\nb\nc",den,boho', "Acme,a.jpg,qq,boho"], [2, 5]),
        ([COLUMNS, 'Acme,a.jpg,"\n\n\nden\n\n",boho', "Acme,a.jpg,qq,boho"], [8]),
        (['"clientName","url","roomType\n","designStyle"', "Acme,a.jpg,qq,boho", ROW], [3]),
        ([COLUMNS, "", "", "Acme,a.jpg,qq,boho", "", 'Acme,"x""\ny""",den,boho'], [4, 6]),
        ([COLUMNS, ROW, 'Acme,a.jpg,den,"boho\n"', 'Acme,"../\nx",den,boho', "short"], [5, 7]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "bom"])
def test_csv_line_numbers_count_lines_inside_quotes(lines: list[str], found: list[int], end: str, mark: bytes) -> None:
    raw = mark + table(*(line.replace("\n", end) for line in lines), end=end).encode()
    assert [problem.line for problem in refuse(raw, "a.csv")] == found


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([COLUMNS, ROW, 'Acme,"a.jpg,den,boho', *[ROW] * 50], 3),
        ([COLUMNS, 'Acme,"a.jpg,den,boho'], 2),
        ([COLUMNS, ROW, 'Acme,"' + "x" * 60_000, "x" * 60_000, "x" * 60_000 + '",den,boho'], 3),
        ([COLUMNS, ROW, 'Acme,"a\n\nb"c,den,boho', ROW], 3),
    ],
    ids=["unclosed", "unclosed-last", "large-field", "after-quote"],
)
def test_broken_quotes_are_reported_where_their_row_begins(lines: list[str], line: int) -> None:
    """The end of a file of 10,000 rows is no help in finding the quote that was left open."""
    problem = only(refuse(table(*lines, end="\n"), "a.csv"))
    assert "is not CSV" in problem.reason
    assert problem.line == line


def test_problems_before_a_broken_quote_are_reported_too() -> None:
    problems = refuse(table(COLUMNS, "Acme,../x,den,boho", 'Acme,"a"b,den,boho'), "a.csv")
    assert [problem.line for problem in problems] == [2, 3]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":"a.jpg"', '{"url":"b.jpg"}'], [2]),
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":"a.jpg",', '{"url":"b.jpg"}'], [2]),
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":', "[", "{"], [2, 3, 4]),
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":"a.jpg', '{"url":"b.jpg"}'], [2]),
    ],
    ids=["brace", "comma", "colon", "quote"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_line_cut_short_is_reported_at_its_own_line(lines: list[str], found: list[int], end: str) -> None:
    assert [problem.line for problem in refuse(table(*lines, end=end), "a.jsonl")] == found


@pytest.mark.parametrize("header", ['{"clientName":"Acme"', "nonsense", '{"clientName":"a","x":NaN}', "{" * 50_000])
def test_a_broken_header_line_does_not_make_images_headers(header: str) -> None:
    lines = table(header, '{"url":"a.jpg","roomType":"den","designStyle":"boho"}', '{"url":"../x"}', end="\n")
    found = {problem.line for problem in refuse(lines, "a.jsonl")}
    assert 1 in found
    assert 2 not in found, "nothing is wrong with this line"
    assert 3 in found, "every problem at once"


@pytest.mark.parametrize("first", [json.dumps(IMAGE), "null", "[]", '"Acme"', "7", '{"url": null}'])
def test_json_lines_need_a_header_first(first: str) -> None:
    problem = refuse(table(first, json.dumps(IMAGE)), "a.jsonl")[0]
    assert problem.line == 1
    assert "header" in problem.reason
    assert "clientName" in (problem.allowed or "")


def test_a_pretty_printed_json_is_not_json_lines() -> None:
    document = json.dumps({**HEADER, "images": [IMAGE]}, indent=1)
    problems = refuse(document, "a.jsonl")
    assert problems[0].line == 1
    assert len({problem.line for problem in problems}) == len(problems), "at most one problem a line"


def test_a_header_repeated_in_json_lines_is_refused_at_its_line() -> None:
    problems = refuse(as_lines(IMAGE) + as_lines(IMAGE), "a.jsonl")
    assert {problem.line for problem in problems} == {3}
    assert problems[0].field == "clientName"


def test_a_header_repeated_in_csv_is_refused_at_its_line() -> None:
    problems = refuse(table(COLUMNS, ROW, COLUMNS, ROW), "a.csv")
    assert {problem.line for problem in problems} == {3}


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("clientName", ["url, roomType, designStyle"]),
        ("clientName,url,roomType", ["designStyle"]),
        ("clientName,url,roomType,designStyle,url", ["url"]),
        ("clientName,url,roomType,designStyle,Room Type", ["roomType"]),
        ("clientName,url,roomType,designStyle,propertyCodes", ["propertyCodes"]),
        ("clientName,url,roomTyp,designStyle", ["roomTyp"]),
        ("a,b", [None]),
        ("Acme,a.jpg,den,boho", [None]),
        ("clientName/url/roomType", [None]),
        ("clientName|url|roomType", ["designStyle"]),
    ],
)
def test_csv_columns_that_do_not_fit(header: str, fields: list[str]) -> None:
    problems = refuse(table(header, ROW), "a.csv")
    assert [(problem.line, problem.field) for problem in problems] == [(1, field) for field in fields]
    assert all(problem.allowed for problem in problems)


@pytest.mark.parametrize("row", ["Acme", "Acme,", ROW + ",x", ROW + ",x,y,z", ROW + ",,x"])
def test_csv_rows_of_another_width(row: str) -> None:
    problem = only(refuse(table(COLUMNS, ROW, row, ROW), "a.csv"))
    assert problem.line == 3
    assert problem.reason == f"has {row.count(',') + 1} fields"
    assert "4" in (problem.allowed or "")


@pytest.mark.parametrize("column", ["clientName", "priority", "batchId"])
def test_csv_rows_agree_on_the_header_fields(column: str) -> None:
    columns = ["clientName", "url", "roomType", "designStyle", "priority", "batchId"]
    rows = [dict(zip(columns, ["Acme", "a.jpg", "den", "boho", "high", "b-1"], strict=True)) for _ in range(4)]
    rows[2][column] = {"clientName": "Other", "priority": "low", "batchId": "b-2"}[column]
    raw = table(",".join(columns), *(",".join(row.values()) for row in rows))
    problem = only(refuse(raw, "a.csv"))
    assert (problem.line, problem.field) == (4, column)
    assert rows[0][column] in (problem.allowed or "")


def test_old_line_ends_are_read_and_counted() -> None:
    taken = take(table(COLUMNS, ROW, ROW, end="\r"), "a.csv")
    assert len(taken.images) == 2
    assert only(refuse(table(COLUMNS, ROW, "Acme,../x,den,boho", ROW, end="\r"), "a.csv")).line == 3
    assert only(refuse(table(COLUMNS, ROW, "Acme,../x,den,boho", ROW, end="\r\r\n"), "a.csv")).line == 3
    assert refuse(as_lines(IMAGE).replace(b"\n", b"\r"), "a.jsonl")[0].line == 1


# --- how much is reported


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_problems_stop_at_their_limit(write: Writer, name: str) -> None:
    bad = [{"url": f"../{n}"} for n in range(50)]
    problems = refuse(write(*bad), name, max_problems=7)
    assert len(problems) == 8
    assert [problem.field for problem in problems[:7]] == ["url"] * 7
    assert "more" in problems[-1].reason
    assert "7" in problems[-1].reason


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_a_full_list_does_not_claim_that_there_are_more(write: Writer, name: str) -> None:
    bad = [{"url": f"../{n}"} for n in range(7)]
    assert [p.field for p in refuse(write(*bad), name, max_problems=7)] == ["url"] * 7


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_offending_values_are_shortened(write: Writer, name: str) -> None:
    long = "x" * 100_000
    problems = refuse(write({"url": long, "roomType": long, "propertyCode": long}, batchId=long, priority=long), name)
    assert [p.field for p in problems] == ["priority", "batchId", "url", "roomType", "propertyCode"]
    for problem in problems:
        assert problem.value is not None
        assert len(problem.value) <= MAX_VALUE_SHOWN
        assert problem.value.startswith('"xxx')


LONG = "x" * 100_000
LONG_CASES = {
    "field": ("a.json", as_json({**IMAGE, LONG: 1})),
    "header-field": ("a.json", as_json(IMAGE, **{LONG: 1})),
    "list": ("a.json", as_json([LONG], ["x"] * 100_000)),
    "object": ("a.json", as_json(IMAGE, clientName={LONG: [1] * 100_000})),
    "syntax": ("a.json", b'{"' + LONG.encode()),
    "number": ("a.json", b'{"clientName":' + b"9" * 4000 + b"}"),
    "host": ("a.json", as_json({"url": "https://" + "x" * 4000 + "\u2100/"})),
    "port": ("a.json", as_json({"url": "https://x:" + "x" * 4000})),
    "column": ("a.csv", table(LONG, ROW).encode()),
    "first-row": ("a.csv", table(COLUMNS, f"{LONG},a.jpg,den,boho", ROW, ROW).encode()),
    "line": ("a.jsonl", as_lines() + LONG.encode()),
    "head": ("a.jsonl", b'"' + LONG.encode() + b'"'),
}


@pytest.mark.parametrize("case", LONG_CASES)
def test_no_problem_is_long(case: str) -> None:
    """A thousand problems of 100 KB each would make an error report of 100 MB out of a manifest of 200 KB."""
    name, raw = LONG_CASES[case]
    assert [len(str(problem)) for problem in refuse(raw, name) if len(str(problem)) > 700] == []


HOSTILE = ["\x1b[31m", "\x9b31m", "\x9d0;x\x9c", "\x7f", "\x07", "\r", "\n", "\x85", "\u202e", "\u2066", "\u2028"]
PLACES: dict[str, Callable[[str], tuple[str, bytes]]] = {
    "url": lambda h: ("a.json", as_json({"url": f"../{h}"})),
    "scheme": lambda h: ("a.json", as_json({"url": f"{h}x://y"})),
    "host": lambda h: ("a.json", as_json({"url": f"https://{h}\u2100/"})),
    "port": lambda h: ("a.json", as_json({"url": f"https://x:{h}/"})),
    "room": lambda h: ("a.json", as_json({**IMAGE, "roomType": f"q{h}q"})),
    "style": lambda h: ("a.json", as_json({**IMAGE, "designStyle": f"q{h}q"})),
    "priority": lambda h: ("a.json", as_json(IMAGE, priority=f"q{h}q")),
    "batch": lambda h: ("a.json", as_json(IMAGE, batchId=f"q{h}q")),
    "client": lambda h: ("a.json", as_json(IMAGE, clientName=f"{h}" * 201)),
    "code": lambda h: ("a.json", as_json({**IMAGE, "propertyCode": f"{h}" * 201})),
    "unknown field": lambda h: ("a.json", as_json({**IMAGE, f"q{h}q": 1})),
    "unknown header field": lambda h: ("a.json", as_json(IMAGE, **{f"q{h}q": 1})),
    "field twice": lambda h: ("a.json", b'{%s:1,%s:2,"clientName":"a"}' % ((json.dumps(h).encode(),) * 2)),
    "field of a line": lambda h: ("a.jsonl", as_lines({**IMAGE, f"q{h}q": 1})),
    "item": lambda h: ("a.json", as_json([h], {h: 1}, h)),
    "whole": lambda h: ("a.json", json.dumps(h).encode()),
    "syntax": lambda h: ("a.json", f'{{"a": {h}'.encode()),
    "syntax of a line": lambda h: ("a.jsonl", as_lines() + f'"{h}\n'.encode()),
    "wrong encoding": lambda h: ("a.json", b"\xff" + h.encode()),
    "nan": lambda h: ("a.json", b'{"' + h.encode() + b'": NaN}'),
    "column": lambda h: ("a.csv", f'"q{h}q",url\r\n'.encode()),
    "cell": lambda h: ("a.csv", table(COLUMNS, f'Acme,a.jpg,"q{h}q",boho').encode()),
    "client of a row": lambda h: ("a.csv", table(COLUMNS, ROW, f'"q{h}q",a.jpg,den,boho').encode()),
    "client of the first row": lambda h: ("a.csv", table(COLUMNS, f'"q{h}q",a.jpg,den,boho', ROW).encode()),
    "name": lambda h: (f"a.{h}", b"x"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_printed_cannot_steer_a_terminal(place: str) -> None:
    leaks = {}
    for hostile in HOSTILE:
        name, raw = PLACES[place](hostile)
        for problem in refuse(raw, name):
            if found := unsafe(str(problem)):
                leaks[ascii(hostile)] = (found, ascii(str(problem))[:150])
    assert leaks == {}


@pytest.mark.parametrize(
    "raw",
    [
        '{"clientName":"\\ud800"}', '{"\\ud800":1}', '{"clientName":"a","images":[{"url":"\\udfff.jpg"}]}',
        '{"clientName":"a","images":[{"\\ud83d":1,"\\ud83d":2}]}', '"\\ud800"', '{"clientName":["\\ud800"]}',
        '{"clientName":"a","images":[{"url":"a.jpg","roomType":"\\ud800","designStyle":{"\\ud800":"\\udc00\\ud800"}}]}',
    ],
)  # fmt: skip
def test_problems_of_half_characters_can_be_written(raw: str) -> None:
    """A lone surrogate has no UTF-8: the errors.json must be writable all the same, or ingest never ends."""
    problems = refuse(raw)
    assert report.rejection("a.json", [msgspec.to_builtins(problem) for problem in problems])
    assert all(str(problem).encode() for problem in problems)


@pytest.mark.parametrize("url", ["file://[", "file://[::1/x", "file://[zz]/x", "file://\u2100/x"])
@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_malformed_file_addresses_are_problems(write: Writer, name: str, url: str) -> None:
    """On one machine, where folders are allowed, too: a problem of the manifest, never a traceback."""
    local = SourceRules(base="file:///srv/job/", folders=("/srv/photos",))
    assert only(refuse(write({"url": url}), name, local)).field == "url"


def test_a_pair_of_surrogate_escapes_is_a_character() -> None:
    raw = b'{"clientName":"Acme \\ud83c\\udfe0","roomType":"den","designStyle":"boho","images":[{"url":"a.jpg"}]}'
    assert take(raw).client_name == "Acme \U0001f3e0"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("is empty"), "is empty"),
        (Problem("is empty", allowed="text"), "is empty (allowed: text)"),
        (Problem("is bad", line=3, field="url", value='"x"', allowed="y"), 'line 3: url "x" is bad (allowed: y)'),
        (Problem("is bad", pointer="/images/0"), "/images/0: is bad"),
        (Problem("is empty", line=1, field="url", value='""'), 'line 1: url "" is empty'),
    ],
)
def test_a_problem_reads_as_a_sentence(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_problem_leaves_out_what_it_does_not_know() -> None:
    assert msgspec.to_builtins(Problem("is empty", line=2)) == {"reason": "is empty", "line": 2}


# --- limits


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_no_image_is_too_few(write: Writer, name: str) -> None:
    problem = only(refuse(write(), name))
    assert problem.reason == "names no image"
    assert problem.allowed == "1 to 10,000 images"


@pytest.mark.parametrize("raw", [COLUMNS, COLUMNS + "\r\n\r\n , ,,\r\n", COLUMNS + "\n,,,\n"])
def test_a_csv_of_only_a_header_names_no_image(raw: str) -> None:
    assert only(refuse(raw, "a.csv")).reason == "names no image"


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_the_number_of_images(write: Writer, name: str) -> None:
    assert len(take(write(IMAGE, IMAGE, IMAGE), name, max_images=3).images) == 3
    for number in (4, 5, 1234):
        problem = only(refuse(write(*[IMAGE] * number), name, max_images=3))
        assert problem.reason == f"has {number:,} images"
        assert problem.allowed == "at most 3; split it into several manifests"


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_far_too_many_images_are_counted_and_not_kept(write: Writer, name: str) -> None:
    """More than a JSON's objects are kept of, and more than a spreadsheet's rows are."""
    problem = only(refuse(write(*[IMAGE] * 2000), name, max_images=3, max_problems=10))
    assert problem.reason == "has 2,000 images"


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_too_many_images_are_noticed_beside_other_problems(write: Writer, name: str) -> None:
    """Else the customer corrects the one, sends again, and only then learns of the other."""
    reasons = [p.reason for p in refuse(write({"url": "../x"}, *[IMAGE] * 3), name, max_images=3)]
    assert len(reasons) == 2
    assert reasons[0] == "has 4 images"


def test_too_many_images_are_said_beside_too_many_problems() -> None:
    raw = as_lines(*[IMAGE] * 4, *["broken"] * 30)
    for most in (1, 2, 30, 31):
        found = refuse(raw.replace(b'"broken"', b"{"), "a.jsonl", max_images=3, max_problems=most)
        assert found[0].reason == ("has 4 images" if most >= 30 else "has more than 3 images")
        assert len(found) == min(most + 1, 30) + 1


def test_a_json_of_nested_objects_is_no_manifest() -> None:
    nested = {"url": "a.jpg", "propertyCode": [{} for _ in range(100)]}
    problem = only(refuse(as_json(nested, nested, nested), max_images=3, max_problems=10))
    assert problem.reason == "holds too many objects"


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_the_size_of_the_file(write: Writer, name: str) -> None:
    raw = write(IMAGE, IMAGE)
    assert len(take(raw, name, max_bytes=len(raw)).images) == 2
    problem = only(refuse(raw, name, max_bytes=len(raw) - 1))
    assert str(len(raw) - 1) in problem.reason
    assert problem.allowed == f"at most {len(raw) - 1} bytes"


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_ten_thousand_images(write: Writer, name: str) -> None:
    images = [{"url": f"{n}.jpg", "propertyCode": f"A-{n}", "roomType": ROOMS[n % 33]} for n in range(10_000)]
    found = take(write(*images), name)
    assert [image.source for image in found.images] == [f"{BASE}{n}.jpg" for n in range(10_000)]
    assert found.images[9_999] == ManifestImage(f"{BASE}9999.jpg", ROOMS[9_999 % 33], "boho", "A-9999")
    problem = only(refuse(write(*images, IMAGE), name))
    assert problem.reason == "has 10,001 images"


def test_a_hundred_thousand_images_with_the_setting() -> None:
    raw = COLUMNS + "\n" + "".join(f"Acme,{n}.jpg,quarto,Moderno\n" for n in range(100_000))
    found = take(raw, "a.csv", max_images=100_000)
    assert len(found.images) == 100_000
    assert found.images[-1] == ManifestImage(BASE + "99999.jpg", "bedroom", "modern")


@pytest.mark.parametrize("item", ["{}", "[]", '{"":0}', "[[]]"])
def test_json_of_tiny_items_does_not_multiply_in_memory(item: str) -> None:
    """At the 32 MB that are allowed, forty times the file is already more than a function's memory."""
    raw = f'{{"clientName":"a","images":[{",".join([item] * 100_000)}]}}'.encode()
    tracemalloc.start()
    try:
        refuse(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(raw), f"{peak / len(raw):.0f} bytes for each byte of the file"


class Endless:
    """A file that never ends: `head`, then `body` for ever. Notes how far it was read."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self._head = head
        self._body = body
        self._place = 0
        self.furthest = 0
        self.max_at_once = 0

    def _from(self, place: int, size: int) -> bytes:
        if size < 0:
            raise AssertionError("read without a limit")
        self.max_at_once = max(self.max_at_once, size)
        head = self._head[place : place + size]
        start = max(place - len(self._head), 0) % len(self._body)
        wanted = size - len(head)
        return head + (self._body * (wanted // len(self._body) + 2))[start : start + wanted]

    def read(self, size: int = -1) -> bytes:
        return self._moved(self._from(self._place, size))

    def readline(self, size: int = -1) -> bytes:
        line = b""
        while len(line) < size and not line.endswith(b"\n"):
            part = self._from(self._place + len(line), min(4096, size - len(line)))
            line += part[: part.find(b"\n") + 1] if b"\n" in part else part
        return self._moved(line)

    def _moved(self, got: bytes) -> bytes:
        self._place += len(got)
        self.furthest = max(self.furthest, self._place)
        return got

    def seek(self, place: int, whence: int = 0) -> int:
        assert whence == 0
        self._place = place
        return place

    def lines_read(self) -> int:
        return self._from(0, self.furthest).count(b"\n")


def refuse_endless(stream: Endless, name: str, **limits: int) -> tuple[Problem, ...]:
    with pytest.raises(ManifestRejected) as caught:
        read(cast(BinaryIO, stream), name, ManifestLimits(**limits), RULES)
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "head", "body"),
    [("a.jsonl", as_lines(), b'{"url":"a.jpg"}\n'), ("a.csv", table(COLUMNS).encode(), table(ROW).encode())],
)
def test_images_are_counted_up_to_the_size_limit(name: str, head: bytes, body: bytes) -> None:
    stream = Endless(head, body)
    found = refuse_endless(stream, name, max_images=500, max_bytes=100_000)
    assert [problem.reason for problem in found] == ["has more than 500 images", "is larger than 100000 bytes"]
    assert stream.furthest <= 100_001


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_images_beyond_the_limit_take_no_memory(name: str) -> None:
    def peak(number: int) -> int:
        rows = [{**IMAGE, "url": f"{n}.jpg"} for n in range(number)]
        raw = as_lines(*rows) if name == "a.jsonl" else as_csv(*rows)
        tracemalloc.start()
        try:
            refuse(raw, name, max_images=100)
            return tracemalloc.get_traced_memory()[1] - len(raw)  # which the stream holds
        finally:
            tracemalloc.stop()

    assert peak(20_000) < peak(200) + 200_000


@pytest.mark.parametrize(
    ("name", "head", "body"),
    [
        ("a.jsonl", as_lines(), b"\n"), ("a.jsonl", as_lines(), b"     \r\n"), ("a.jsonl", b"{", b" "),
        ("a.jsonl", as_lines(), b'{"url":"a.jpg"}'), ("a.json", b"{", b" "), ("a.json", b"[", b"["),
        ("a.json", b'{"images":[', b'{"url":"a.jpg"},\n'), ("a.csv", table(COLUMNS).encode(), b"\r\n"),
        ("a.csv", table(COLUMNS).encode(), b",,,\n"), ("a.csv", b"clientName", b","), ("a.csv", b"x", b"y"),
        ("a.csv", table(COLUMNS, 'Acme,"').encode(), b"\n"), ("a.csv", table(COLUMNS).encode(), b"x"),
    ],
)  # fmt: skip
def test_reading_stops_at_the_size_limit(name: str, head: bytes, body: bytes) -> None:
    stream = Endless(head, body)
    problems = refuse_endless(stream, name, max_bytes=50_000)
    assert "larger than 50000 bytes" in problems[-1].reason
    assert stream.furthest <= 2 * 50_000
    assert stream.max_at_once <= 50_001


@pytest.mark.parametrize(
    ("name", "head", "body"),
    [
        ("a.jsonl", as_lines(), b"x\n"), ("a.jsonl", as_lines(), b"null\n"), ("a.jsonl", as_lines(), b"{}\n"),
        ("a.csv", table(COLUMNS).encode(), b"x\n"), ("a.csv", table(COLUMNS).encode(), b"Acme,../x,den,boho\n"),
        ("a.jsonl", as_lines(), b"\xff\n"), ("a.csv", table(COLUMNS).encode(), b"\xff\n"),
        ("a.csv", table(COLUMNS).encode(), b'"a"b\n'), ("a.jsonl", b"null\n", b"\x00\n"),
    ],
)  # fmt: skip
def test_reading_stops_when_enough_problems_were_found(name: str, head: bytes, body: bytes) -> None:
    stream = Endless(head, body)
    assert len(refuse_endless(stream, name, max_problems=20)) == 21
    assert stream.lines_read() <= 1 + 20 + 1 + 4096 // len(body), "no further than the first bytes that were sniffed"


def test_an_endless_quoted_field_stops_the_reading() -> None:
    stream = Endless(table(COLUMNS).encode() + b'Acme,"', b"x" * 99 + b"\n")
    assert "128 KiB" in (only(refuse_endless(stream, "a.csv")).allowed or "")
    assert stream.furthest < 200_000


# --- what is accepted


@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_the_designs_example(write: Writer, name: str, end: bytes, mark: bytes) -> None:
    raw = write(
        {"url": "https://x.example/1.jpg", "propertyCode": "APT-101", "roomType": "bedroom",
         "designStyle": "scandinavian"},
        {"url": "gs://crm/acme/2.jpg"},
        {"url": "flats/3 front.jpg", "propertyCode": "Cobertura São João"},
        clientName="Imobiliária Acme", designStyle="Moderno", roomType="Sala de Estar", priority="high",
        batchId="may-1",
    )  # fmt: skip
    raw = mark + raw.replace(b"\r\n", b"\n").replace(b"\n", end)
    assert take(raw, name) == Manifest(
        client_name="Imobiliária Acme",
        client="imobiliaria-acme",
        tier=Tier.EXPRESS,
        batch_id="may-1",
        separator="," if name.endswith(".csv") else None,
        sha256=hashlib.sha256(raw).hexdigest(),
        images=(
            ManifestImage("https://x.example/1.jpg", "bedroom", "scandinavian", "APT-101"),
            ManifestImage("gs://crm/acme/2.jpg", "living_room", "modern"),
            ManifestImage(BASE + "flats/3 front.jpg", "living_room", "modern", "Cobertura São João"),
        ),
    )


@pytest.mark.parametrize("name", ["A.JSON", "x/y/May 1.Json", "a.b.json"])
def test_names_in_capitals_and_folders(name: str) -> None:
    assert take(as_json(IMAGE), name).images == (DEN,)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_leading_white_space_is_no_emptiness(name: str) -> None:
    raw = as_json(IMAGE) if name == "a.json" else as_lines(IMAGE)
    for blank in (b"\n", b" \r\n" * 10, b"\n" * 5000):
        assert take(blank + raw, name).images == (DEN,)


def test_json_lines_skips_blank_lines_and_needs_no_last_line_end() -> None:
    raw = as_lines(IMAGE, IMAGE).replace(b"\n", b"\n\r\n  \n").rstrip()
    assert take(raw, "a.jsonl").images == (DEN, DEN)


@pytest.mark.parametrize(
    "raw",
    [
        table(COLUMNS, ROW), table(COLUMNS, ROW).rstrip(), table(COLUMNS, ROW, end="\n"),
        table(COLUMNS, ROW).replace(",", ";"),
        '"clientName","url","roomType","designStyle"\r\n"Acme","a.jpg","den","boho"',
        '"clientName";"url";"roomType";"designStyle"\n"Acme";"a.jpg";"den";"boho"\n', table(COLUMNS + ",", ROW + ","),
        table("Client Name,URL,Room Type,Design Style", ROW), table("client_name,url,room_type,design_style", ROW),
        table("CLIENTNAME, url ,room-type,designstyle", ROW),
        table("url,designStyle,clientName,roomType", "a.jpg,boho,Acme,den"),
        table(COLUMNS, "", ROW, "", ",,,", " , ,,"), table(COLUMNS, " Acme , a.jpg ,\u00a0den, boho "),
        table(COLUMNS + ",priority,batchId,propertyCode", ROW + ",,,"),
        table(COLUMNS, "Acme,a.jpg,DEN,Boho"),
        table(COLUMNS + ",,", ROW + ",a note,another"), table(COLUMNS, 'Acme,"a.jpg","\r\nden\r\n",boho'),
    ],
)  # fmt: skip
def test_csv_as_spreadsheets_write_it(raw: str) -> None:
    for mark in (b"", BOM):
        found = take(mark + raw.encode(), "a.csv")
        assert (found.client_name, found.images) == ("Acme", (DEN,))


def test_the_other_separator_may_stand_in_cells() -> None:
    semicolons = table("clientName;url;roomType;designStyle;propertyCode", 'Acme, Inc.;a.jpg;den;boho;"1;2,3"')
    found = take(semicolons, "a.csv")
    assert (found.client_name, found.images[0].property_code) == ("Acme, Inc.", "1;2,3")
    commas = table(COLUMNS + ",propertyCode", '"Acme; ""Inc.""",a.jpg,den,boho,1;2;3;4;5;6')
    found = take(commas, "a.csv")
    assert (found.client_name, found.images[0].property_code) == ('Acme; "Inc."', "1;2;3;4;5;6")


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("'=1+1", "=1+1"), ("'+55 11", "+55 11"), ("'-1", "-1"), ("'@home", "@home"), ("=1+1", "=1+1"),
        ("'abc", "'abc"), ("'", "'"), ("''=1", "'=1"), ("'1", "'1"), ("'=", "="),
    ],
)  # fmt: skip
def test_the_quote_before_a_formula_is_taken_away(cell: str, code: str) -> None:
    raw = table(COLUMNS + ",propertyCode", f"{ROW},{cell}")
    assert take(raw, "a.csv").images[0].property_code == code


def test_a_quoted_formula_is_text_in_every_column() -> None:
    raw = table("clientName,url,roomType,designStyle", "'-Acme,'=a.jpg,den,boho")
    found = take(raw, "a.csv")
    assert (found.client_name, found.images[0].source) == ("-Acme", BASE + "=a.jpg")


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize(
    ("text", "tier"),
    [("express", Tier.EXPRESS), ("HIGH", Tier.EXPRESS), ("normal", Tier.NORMAL), ("Baixa", Tier.ECONOMY)],
)
def test_priorities(write: Writer, name: str, text: str, tier: Tier) -> None:
    assert take(write(IMAGE, priority=text), name).tier is tier


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_every_spelling_of_the_vocabulary_is_accepted(write: Writer, name: str) -> None:
    rooms = [(room, spelling) for room in ROOMS for spelling in (room, *ROOM_ALIASES[room])]
    styles = [(style, spelling) for style in STYLES for spelling in (style, *STYLE_ALIASES[style])]
    images = [
        {**IMAGE, "roomType": room, "designStyle": styles[n % len(styles)][1]} for n, (_, room) in enumerate(rooms)
    ]
    found = take(write(*images), name).images
    assert [image.room_type for image in found] == [room for room, _ in rooms]
    assert [image.design_style for image in found] == [styles[n % len(styles)][0] for n in range(len(rooms))]


@pytest.mark.parametrize("batch_id", ["a", "1", "A-1_b.c", "a..b", "x" * 64, "a.", "9-"])
def test_batch_ids(batch_id: str) -> None:
    found = take(as_json(IMAGE, batchId=batch_id))
    assert (found.batch_id, found.batch) == (batch_id, f"acme.{batch_id}")


# --- the batch's id


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_the_same_content_is_the_same_batch(write: Writer, name: str) -> None:
    one, other = take(write(IMAGE), name), take(write(IMAGE), "elsewhere/" + name)
    assert one == other
    assert one.batch == other.batch
    assert re.fullmatch(r"acme\.[0-9a-f]{16}", one.batch)


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_other_content_or_another_client_is_another_batch(write: Writer, name: str) -> None:
    batches = {
        take(raw, name).batch
        for raw in (write(IMAGE), write(IMAGE, IMAGE), write(IMAGE, priority="low"), write(IMAGE, clientName="Beta"))
    }
    assert len(batches) == 4


def test_differing_clients_differ_even_in_the_same_bytes() -> None:
    one, other = batch_of("acme", None, "0" * 64), batch_of("beta", None, "0" * 64)
    assert one.partition(".")[2] != other.partition(".")[2]


def test_a_batch_id_of_ones_own_does_not_depend_on_the_content() -> None:
    one, other = take(as_json(IMAGE, batchId="may")), take(as_json(IMAGE, IMAGE, batchId="may"))
    assert one.batch == other.batch == "acme.may"
    assert one.sha256 != other.sha256, "so that ingest can tell the difference"


@pytest.mark.parametrize(("client", "batch_id"), [("__a", "b__"), ("__", "x__"), ("_ _", "a__"), ("__acme__", "__")])
def test_no_batch_id_is_one_that_firestore_keeps_for_itself(client: str, batch_id: str) -> None:
    """Document ids like `__.*__` are refused by Firestore: for ever, whoever tries again."""
    found = attempt(as_json(IMAGE, clientName=client, batchId=batch_id))
    assert not (isinstance(found, Manifest) and re.fullmatch(r"__.*__", found.batch))


# --- anything at all


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


# --- problems in words


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 999])
def test_one_cause_is_one_sentence(rows: int) -> None:
    """10,000 rows with the same mistake filled a screen, and hid the one problem that was another."""
    wrong = [
        Problem("is not known", line + 2, None, "roomType", '"livng room"', "nearest: living_room")
        for line in range(rows)
    ]
    other = Problem("is missing", 7, None, "url")
    found = in_words([*wrong, other])
    more = f" and {rows - 1:,} more" if rows > 1 else ""
    assert found == [
        (f'line 2{more}: roomType "livng room" is not known. Did you mean living_room?', rows),
        ("line 7: url is missing", 1),
    ]


def test_values_of_one_cause_are_named() -> None:
    reason = "is plain http, which can be read and altered on the way"
    many = [Problem(reason, None, f"/images/{n}/url", "url", f'"http://a/{n}.jpg"', "https") for n in range(5000)]
    ((sentence, number),) = in_words(many)
    assert number == 5000
    values = '"http://a/0.jpg", "http://a/1.jpg", "http://a/2.jpg" and 4,997 others'
    assert sentence == f"/images/0/url and 4,999 more: url {values} are{reason[2:]} (allowed: https)"


@pytest.mark.parametrize(
    ("reason", "said"),
    [("is not known", "are not known"), ("has 300 characters", "have 300 characters"),
     ("holds control characters", "hold control characters"), ("differs from the first row", "differ from the first row"),
     ("is not UTF-8", "are not UTF-8"), ("is no threshold", "each is no threshold"),
     ("is not a batch id", "each is not a batch id"), ("is an address", "each is an address"),
     ("is neither yes nor no", "each is neither yes nor no"), ("leaves its folder", "leave its folder")],
)  # fmt: skip
def test_several_values_are_said_in_the_plural(reason: str, said: str) -> None:
    def sentence(*values: str) -> str:
        ((text, _),) = in_words(
            [Problem(reason, line, None, "roomType", f'"{value}"') for line, value in enumerate(values, start=1)]
        )
        return text.partition(": ")[2]

    assert sentence("a", "a") == f'roomType "a" {reason}'
    assert sentence("a", "b") == f'roomType "a" and "b" {said}'
    assert sentence("a", "b", "c") == f'roomType "a", "b" and "c" {said}'
    assert sentence("a", "b", "c", "d") == f'roomType "a", "b", "c" and 1 other {said}'
    assert sentence(*"abcde") == f'roomType "a", "b", "c" and 2 others {said}'


def test_what_is_missing_says_what_would_do() -> None:
    problems = refuse(json.dumps({"images": [{"roomType": "bedroom", "designStyle": "boho"}]}))
    assert [str(problem) for problem in problems] == [
        "/clientName: clientName is missing (allowed: the customer's name)",
        "/images/0/url: url is missing (allowed: an https:// address, or a path beside the manifest)",
    ]


def test_different_causes_stay_apart_and_in_order() -> None:
    apart = [Problem("a", 1), Problem("b", 2), Problem("a", 3, field="x"), Problem("a", 4, allowed="y"), Problem("c")]
    assert in_words(apart) == [(str(problem), 1) for problem in apart]
    assert in_words([]) == []


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("plan.xls", "save it as .xlsx, .ods or CSV"), ("plan.XLSM", "save it as .xlsx, .ods or CSV"),
        ("a.b/plan.numbers", "export it as .xlsx or CSV"), ("plan.txt", "name it .csv: tabs are understood"),
        ("plan.zip", "unpack it first"), ("plan", "a name ending in .json, .jsonl, .csv, .xlsx or .ods"),
        ("plan.pdf", "a name ending in .json, .jsonl, .csv, .xlsx or .ods"), ("xls", "save it as .xlsx, .ods or CSV"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_told_what_to_become(name: str, instead: str) -> None:
    problem = wrong_name(name)
    assert str(problem) == f"is not a manifest by its name (allowed: {instead})"
    with pytest.raises(ManifestRejected) as refused:
        read(io.BytesIO(b"{}"), name, ManifestLimits(), SourceRules(base=""))
    assert refused.value.problems == (problem,)


def test_a_field_in_another_spelling_is_one_problem_and_not_missing_too() -> None:
    """One cause is one problem: snake_case was told six times in a manifest of one photo."""
    photo = {"url": "https://a.example/1.jpg", "room_type": "bedroom", "Design-Style": "modern"}
    text = json.dumps(
        {"client_name": "acme", "images": [photo, {"url": "https://a.example/2.jpg", "roomType": "bedroom"}]}
    )
    with pytest.raises(ManifestRejected) as refused:
        read(io.BytesIO(text.encode()), "m.json", ManifestLimits(), SourceRules(base=""))
    assert [(p.pointer, p.reason[:10]) for p in refused.value.problems] == [
        ("/client_name", "is not a f"), ("/images/0/room_type", "is not a f"), ("/images/0/Design-Style", "is not a f"),
        ("/images/1/designStyle", "is missing"),
    ]  # fmt: skip
    header = json.dumps(
        {"clientName": "acme", "room_type": "bedroom", "designStyle": "modern", "images": [{"url": photo["url"]}] * 9}
    )
    with pytest.raises(ManifestRejected) as refused:
        read(io.BytesIO(header.encode()), "m.json", ManifestLimits(), SourceRules(base=""))
    assert [str(problem) for problem in refused.value.problems] == [
        "/room_type: room_type is not a field here. Did you mean roomType?"
    ]
