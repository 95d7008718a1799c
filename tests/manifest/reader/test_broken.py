"""Files that are no manifest at all, and lines that are broken: one hides no other."""

from __future__ import annotations

import hashlib

import pytest

from shared.errors import Problem
from shared.manifest.reader import wrong_name
from tests.manifest.reader.parts import (
    BASE,
    BOM,
    COLUMNS,
    IMAGE,
    ROW,
    SUFFIXES,
    as_csv,
    as_json,
    as_lines,
    only,
    refuse,
    table,
    take,
)


def where(problem: Problem) -> int | str | None:
    return problem.line if problem.line is not None else problem.pointer


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
    assert (problem.line, problem.reason.partition(";")[0]) == (1, "contains a NUL byte")
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
