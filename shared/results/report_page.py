"""report.html: its data, and the page itself.

The page is `report.html` beside this module. It holds all of a round's images in one JSON element and shows some of
them at a time.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from shared.events import iso
from shared.model import Batch, Counts, Image, ImageState
from shared.results import names
from shared.vendors import PREVIEW

_DATA: Final = b'"@DATA@"'


# What report.html is given of an image, in this order: names would double the bytes of 10,000 images. The page's own
# script is given the same names. PREVIEW: whether the preview model made the picture; the page says so beside it,
# because the viewer's slider can cover the label inside it. LARGE: a large copy of the photo, for the viewer.
COLUMNS: Final[dict[str, Callable[[Batch, Image], Any]]] = {
    "INDEX": lambda batch, image: image.index,
    "CODE": lambda batch, image: image.property_code or "",
    "ROOM": lambda batch, image: image.room_type,
    "STYLE": lambda batch, image: image.design_style,
    "STATE": lambda batch, image: image.state.value,
    "PICTURE": lambda batch, image: _beside(batch, image, "picture"),
    "BEFORE": lambda batch, image: _beside(batch, image, "before"),
    "AFTER": lambda batch, image: _beside(batch, image, "thumbnail"),
    "ERROR": lambda batch, image: f"{image.error.code}: {image.error.message}" if image.error else "",
    "SOURCE": lambda batch, image: "" if image.output else image.source,
    "WIDTH": lambda batch, image: image.output.width if image.output else None,
    "HEIGHT": lambda batch, image: image.output.height if image.output else None,
    "PREVIEW": lambda batch, image: int(image.model == PREVIEW) if image.output else None,
    "LARGE": lambda batch, image: _beside(batch, image, "original") or None,
}


def row(batch: Batch, image: Image) -> list[Any]:
    """Return an image's data for report.html, in the order of `COLUMNS`. Missing values at the end are left out."""
    values = [value(batch, image) for value in COLUMNS.values()]
    while values[-1] is None:
        del values[-1]
    return values


def _beside(batch: Batch, image: Image, kind: str) -> str:
    """Return the name of one of its output's objects relative to the round's folder; empty if there is none."""
    name: str = getattr(image.output, kind) if image.output else ""
    return "../" + name.removeprefix(names.results_folder(batch)) if name else ""


def page(batch: Batch, *, outcome: str, counts: Counts, cost_usd: float, rows: bytes | bytearray) -> bytes:
    """Return the page of a round. `rows` are its images as JSON, separated by commas; see `row`."""
    data = {
        "batch": batch.id,
        "client": batch.client_name,
        "round": batch.round,
        "outcome": outcome,
        "counts": {state.value: counts.of(state) for state in ImageState},
        "costUsd": cost_usd,
        "finished": iso(batch.closing_at or 0.0),
        "seconds": round((batch.closing_at or 0.0) - batch.created_at, 1),
        "images": msgspec.Raw(b"[" + rows + b"]"),
    }
    # "<" is escaped so that no text of a customer can end the script element it stands in.
    encoded = msgspec.json.encode(data).replace(b"<", b"\\u003c")
    return _template().replace(_DATA, encoded)


@cache
def _template() -> bytes:
    """Return the page without data, its policy naming the hashes of its own script and style.

    A browser then runs this one script and nothing that found its way into the page.
    """
    template = files("shared.results").joinpath("report.html").read_bytes()
    template = template.replace(b"@COLUMNS@", ", ".join(COLUMNS).encode())
    for element, mark in ((b"script", b"@SCRIPT@"), (b"style", b"@STYLE@")):
        inside = template.partition(b"<%s>" % element)[2].partition(b"</%s>" % element)[0]
        template = template.replace(mark, b"sha256-" + base64.b64encode(hashlib.sha256(inside).digest()))
    return template
