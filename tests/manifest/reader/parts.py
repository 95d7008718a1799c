"""Manifests written in every format, and what the reader says of them."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

from shared.errors import ManifestRejected, Problem
from shared.manifest import tables
from shared.manifest.model import Manifest, ManifestImage
from shared.manifest.reader import read
from shared.manifest.sources import SourceRules
from shared.settings import ManifestLimits

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


def unsafe(text: str) -> list[str]:
    """The characters of `text` that could steer a terminal, forge a line, or cannot be encoded."""
    return [ascii(c) for c in text if c in BIDI or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
