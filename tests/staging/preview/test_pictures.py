"""The README's pictures show what the preview draws today: `make pictures` makes them anew."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.settings import PhotoLimits
from shared.staging import pictures, preview

ROOT = Path(__file__).parents[3]
THUMBNAIL = 96, 72
GAP_SHARE = 24 / 1400  # between the halves of before-after.jpg
# Where report.jpg (1400 pixels wide) shows rooms after staging, without the caption at their top and the label below.
TILES = {"dining-01": (776, 312, 1016, 448), "bedroom-01": (274, 562, 514, 698)}


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pictures` sets Pillow's limit for the whole process, which is a subprocess of its own; here it must not stay."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000_000)


@cache
def staged(name: str) -> Image.Image:
    """A room of the sample batch as `make demo` stages it."""
    batch = json.loads((ROOT / "samples/batch.json").read_text())
    (image,) = (each for each in batch["images"] if Path(each["url"]).stem == name)
    room, style = image["roomType"], image.get("designStyle", batch["designStyle"])
    photo = pictures.normalise((ROOT / "samples" / image["url"]).read_bytes(), PhotoLimits())
    drawn = preview.furnish(photo.jpeg, preview.measure(photo.jpeg, room), room, style)
    with Image.open(io.BytesIO(drawn)) as picture:
        return picture.convert("RGB")


def published(name: str) -> Image.Image:
    with Image.open(ROOT / "docs/images" / name) as picture:
        return picture.convert("RGB")


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean difference (of 255) at thumbnail size."""
    small = [np.asarray(each.resize(THUMBNAIL, Image.Resampling.BOX), float) for each in (one, other)]
    return float(np.abs(small[0] - small[1]).mean())


def test_the_picture_before_and_after_is_todays() -> None:
    whole = published("before-after.jpg")
    half = round(whole.width * (1 - GAP_SHARE) / 2)
    before, after = (
        whole.crop((0, 0, half, whole.height)),
        whole.crop((whole.width - half, 0, whole.width, whole.height)),
    )
    assert apart(after, staged("bedroom-01")) < 5
    assert apart(before, staged("bedroom-01")) > 8, "the comparison sees furniture"


@pytest.mark.parametrize("name", TILES)
def test_the_reports_picture_is_todays(name: str) -> None:
    whole = published("report.jpg")
    box = tuple(round(edge * whole.width / 1400) for edge in TILES[name])
    room = staged(name)
    tile = 4 / 3 * 182  # the report's tiles are 182 pixels high
    scale = room.width / tile
    top = {"dining-01": 312 - 279, "bedroom-01": 562 - 528}[name] * scale
    part = room.crop((0, round(top), room.width, round(top + 136 * scale)))
    empty = published("report.jpg").crop((box[0] - 244, box[1], box[2] - 244, box[3]))
    assert apart(whole.crop(box), part) < 0.5 * apart(empty, part)
