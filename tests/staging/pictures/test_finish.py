"""Staged pictures as they are delivered: the photo's own size and colours, a thumbnail, a before."""

from __future__ import annotations

import hashlib
import io
import math

import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from shared.errors import ErrorCode, WorldError, WrongShape
from shared.staging import pictures, shapes
from tests.staging.pictures.parts import (
    BLUE,
    GREEN,
    LIMITS,
    RED,
    WHITE,
    assert_pixel,
    encoded,
    near,
    orientation,
    photo_of,
    png,
    quadrants,
    whole,
)

SIZES = [
    (1536, 1024),
    (1024, 1536),
    (2048, 1365),
    (1365, 2048),
    (800, 800),
    (640, 480),
    (2048, 64),
    (64, 2048),
    (101, 97),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("off", [-0.028, 0.0, 0.028])
def test_the_output_has_the_photos_ratio(size: tuple[int, int], scale: float, off: float) -> None:
    """Answered in the shape that was asked for, as exactly as vendors do ("4:3" as 1184 x 864)."""
    photo = photo_of(*size)
    shown = pictures.framed(photo, LIMITS)
    answered = (max(1, round(shown.width * scale * (1 + off))), max(1, round(shown.height * scale)))
    finished = pictures.finish(encoded(Image.new("RGB", answered, RED), compress_level=1), photo, LIMITS)

    with Image.open(io.BytesIO(finished.jpeg)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (finished.width, finished.height)
        assert near(picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2)), RED, 6)
    assert max(picture.size) <= LIMITS.max_side_pixels
    scale = max(picture.size) / max(photo.width, photo.height)
    assert abs(picture.width - photo.width * scale) <= 1
    assert abs(picture.height - photo.height * scale) <= 1
    assert finished.sha256 == hashlib.sha256(finished.jpeg).hexdigest()

    for data, colour in ((finished.thumbnail, RED), (finished.before, BLUE)):
        with Image.open(io.BytesIO(data)) as small:
            assert small.format == "JPEG"
            assert max(small.size) <= LIMITS.thumbnail_side_pixels
            wide = small.width / small.height
            assert abs(small.height * wide - small.width) < 1
            assert abs(small.width * photo.height / photo.width - small.height) <= 2 * max(
                1, photo.height / photo.width
            )
            assert near(small.convert("RGB").getpixel((small.width // 2, small.height // 2)), colour, 8)


@pytest.mark.parametrize("size", [(1200, 900), (900, 1200), (1600, 1000), (2048, 700), (700, 2048), (1000, 1000)])
def test_a_picture_of_another_shape_is_never_cut_to_fit(size: tuple[int, int]) -> None:
    photo = photo_of(*size)
    asked = shapes.frame(*size) or size
    tried = 0
    for ratio in shapes.RATIOS:
        across, down = map(int, ratio.split(":"))
        if abs(math.log(across / down * asked[1] / asked[0])) <= shapes.TOLERANCE:
            continue
        tried += 1
        with pytest.raises(WrongShape, match=f"the photo {size[0]} x {size[1]}"):
            pictures.finish(encoded(Image.new("RGB", (across * 40, down * 40), RED), compress_level=1), photo, LIMITS)
    assert tried >= 8


@pytest.mark.parametrize("size", [(1600, 1000), (2048, 300), (300, 2048), (1000, 620), (640, 480), (2048, 64)])
def test_the_bars_of_an_odd_shape_are_cut_away_and_nothing_else(size: tuple[int, int]) -> None:
    """A photo of a shape that models do not draw is shown to them within bars; its edges come back whole."""
    room = Image.new("RGB", size, GREEN)
    draw = ImageDraw.Draw(room)
    draw.rectangle([0, 0, size[0] - 1, size[1] - 1], outline=RED, width=16)
    photo = pictures.normalise(encoded(room, compress_level=1), LIMITS)
    shown = pictures.framed(photo, LIMITS)
    across, down = map(int, shapes.nearest_ratio(*size).split(":"))
    assert abs(math.log(shown.width / shown.height * down / across)) <= shapes.TOLERANCE
    assert shown.width >= photo.width
    assert shown.height >= photo.height
    finished = pictures.finish(shown.jpeg, photo, LIMITS)
    with Image.open(io.BytesIO(finished.jpeg)) as result:
        assert abs(result.width / result.height - size[0] / size[1]) < 0.01 * size[0] / size[1]
        for x, y in ((6, 0.5), (-7, 0.5), (0.5, 6), (0.5, -7)):
            left = x % result.width if isinstance(x, int) else round(x * result.width)
            top = y % result.height if isinstance(y, int) else round(y * result.height)
            assert near(result.convert("RGB").getpixel((left, top)), RED, 60), (size, x, y)


def test_thumbnails_of_a_large_photo_are_of_thumbnail_size() -> None:
    finished = pictures.finish(encoded(quadrants(1500, 1000), "JPEG"), photo_of(1500, 1000), LIMITS)
    for data in (finished.thumbnail, finished.before):
        with Image.open(io.BytesIO(data)) as small:
            assert small.size in {(320, 213), (320, 214)}


def test_a_models_picture_is_cleaned_like_a_photo() -> None:
    picture = Image.new("RGBA", (600, 400), (0, 0, 0, 0))
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "SECRETPROMPT")
    finished = pictures.finish(encoded(picture, pnginfo=info, exif=orientation(1)), photo_of(600, 400), LIMITS)
    for data in (finished.jpeg, finished.thumbnail, finished.before):
        assert b"SECRET" not in data
        assert b"Exif" not in data
    with Image.open(io.BytesIO(finished.jpeg)) as result:
        assert_pixel(result, 0.5, 0.5, WHITE, 4)


DAMAGED = {
    "empty": b"",
    "html": b"<html>quota exceeded</html>",
    "json": b'{"error": {"code": 500}}',
    "truncated": whole("PNG")[:2000],
    "truncated jpeg": whole("JPEG")[:2000],
    "gif": encoded(quadrants(), "GIF"),
    "bomb": png(10400, 10400, 8, 2, b"\0"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_answer_is_the_worlds_fault(data: bytes) -> None:
    with pytest.raises(WorldError) as caught:
        pictures.finish(data, photo_of(300, 200), LIMITS)
    assert caught.value.code is ErrorCode.VENDOR_BAD_ANSWER
    assert len(caught.value.message) < 500
