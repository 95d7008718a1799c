"""A round's batch and images, hostile ones too, and the files that are made of them."""

from __future__ import annotations

import csv
import hashlib
import io
from typing import Any

import msgspec

from shared.errors import ManifestRejected
from shared.manifest import reader
from shared.manifest.model import Manifest
from shared.manifest.sources import SourceRules
from shared.model import Batch, BatchState, Call, Failure, Image, ImageState, Output
from shared.results import report
from shared.settings import ManifestLimits
from tests import builders

COMPLETED, FAILED, CANCELLED = ImageState.COMPLETED, ImageState.FAILED, ImageState.CANCELLED
HOSTILE = [
    "=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "\n=1", "</script><script>alert(1)</script>",
    "<!--", "]]>", "<img src=x onerror=alert(1)>", '"', '""', "'", "a,b", "a;b", "a\nb", "a\r\nb", '"quoted", twice', "\u2028",
    "\u2029", "\x00", "\x1b[31m", "ação", "日本語", "🏠👨‍👩‍👧", "\u202egnp.exe", "&lt;b&gt;", '"@DATA@"', "\\", "\\u003c", "${x}",
    "%00", "'=1", "''", " leading", "trailing ", "", "a" * 4000, "\ufeff",
]  # fmt: skip
LIMITS = ManifestLimits()
RULES = SourceRules(base="gs://intake/manifests/acme/", gs_prefixes=("gs://intake/manifests/acme",))


def batch(**changes: Any) -> Batch:
    made = builders.a_batch(
        id="acme.b1", state=BatchState.CLOSING, manifest=builders.a_manifest_ref(uri="gs://m", base=""),
        created_at=1_772_442_000.0, closing_at=1_772_442_100.5,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def image(index: int = 0, state: ImageState = COMPLETED, **changes: Any) -> Image:
    folder = "results/acme/b1/"
    stem = str(index)
    output = Output(
        picture=f"{folder}images/{stem}.jpg", thumbnail=f"{folder}thumbnails/{stem}.jpg",
        before=f"{folder}thumbnails/{stem}-before.jpg", sha256=hashlib.sha256(stem.encode()).hexdigest(), width=4, height=3,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "batch": "acme.b1", "index": index, "source": f"https://example.com/{index}.jpg", "room_type": "living_room",
        "design_style": "modern", "state": state, "prompts": "v1",
        "durations_ms": {"generate": 1500, "verify": 500},
        "calls": (Call(step="generate", model="m", cost_micro_usd=50_400),),
        "output": output if state is COMPLETED else None,
        "error": Failure(code="not_a_picture", message="the file is an HTML page") if state is FAILED else None,
        "attempts": 1 if state is FAILED else 0,
    }  # fmt: skip
    return builders.an_image(**fields | changes)


def files(*images: Image, of: Batch | None = None) -> dict[str, bytes]:
    gathered = report.RoundReport(of or batch())
    for one in images:
        gathered.add(one)
    return dict(gathered.files())


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))


def read_again(content: bytes) -> Manifest:
    try:
        return reader.read(io.BytesIO(content), "failed.csv", LIMITS, RULES)
    except ManifestRejected as error:
        raise AssertionError([str(problem) for problem in error.problems]) from error
