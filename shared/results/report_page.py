"""report.html: the data it is given, and the page itself.

The page is `report.html` beside this module. It holds all of a round's images in one JSON element and shows a part of
them at a time.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

from shared.events import iso
from shared.model import Batch, Counts, Image, ImageState
from shared.results import names
from shared.vendors import PREVIEW

_DATA: Final = b'"@DATA@"'


def row(batch: Batch, image: Image) -> list[Any]:
    """Return what report.html needs of an image, by position: names would double the bytes of 10,000 images.

    Object names become relative to the round's folder, where the page lies. The row of a picture ends with its size in
    pixels and whether the preview model made it. The page then says so beside the picture, because the viewer's slider
    can cover the label inside it. One more value may follow: the name of a large copy of the photo, for the viewer.
    """
    output = image.output
    about = [image.index, image.property_code or "", image.room_type, image.design_style, image.state.value]
    error = f"{image.error.code}: {image.error.message}" if image.error else ""
    if output is None:
        return [*about, "", "", "", error, image.source]
    folder = names.results_folder(batch)
    pictures = ["../" + name.removeprefix(folder) for name in (output.picture, output.before, output.thumbnail)]
    found = [*about, *pictures, error, "", output.width, output.height, int(image.model == PREVIEW)]
    return [*found, "../" + output.original.removeprefix(folder)] if output.original else found


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
    for element, mark in ((b"script", b"@SCRIPT@"), (b"style", b"@STYLE@")):
        inside = template.partition(b"<%s>" % element)[2].partition(b"</%s>" % element)[0]
        template = template.replace(mark, b"sha256-" + base64.b64encode(hashlib.sha256(inside).digest()))
    return template
