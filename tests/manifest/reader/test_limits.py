"""Limits of manifests: of files, lines, fields, and of those that never end."""

from __future__ import annotations

import tracemalloc
from typing import BinaryIO, cast

import pytest

from shared.errors import ManifestRejected, Problem
from shared.manifest.model import ManifestImage
from shared.manifest.reader import read
from shared.manifest.vocabulary import ROOMS
from shared.settings import ManifestLimits
from tests.manifest.reader.parts import (
    BASE,
    COLUMNS,
    IMAGE,
    ROW,
    RULES,
    WRITERS,
    Writer,
    as_csv,
    as_json,
    as_lines,
    only,
    refuse,
    table,
    take,
)


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
    assert problem.reason == "contains too many objects"


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


@pytest.mark.slow
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


@pytest.mark.slow
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
