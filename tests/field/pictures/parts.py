"""What the field's tests ask of a file: how it is staged or refused, and what is seen in it."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
from PIL import Image

from shared.errors import ErrorCode, ImageRejected
from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.field.picture_parts import COLOURS, Entry, scene

LIMITS = PhotoLimits()
SMALL = (96, 72)
WITHIN = 16
EXIF = b"Exif\0\0"
PLACES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))

Colour = tuple[int, ...]


def decoded(jpeg_data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg_data), formats=("JPEG",)) as picture:
        picture.load()
        return picture


def staged(data: bytes, why: object = "") -> bytes:
    """Return the JPEG that the models are shown."""
    try:
        return pictures.normalise(data, LIMITS).jpeg
    except ImageRejected as error:
        raise AssertionError(f"{why}: refused: {error.message}") from None


def staged_or_refused(data: bytes, why: object = "") -> bytes | str:
    """Return the JPEG, or the refusal's message."""
    try:
        return pictures.normalise(data, LIMITS).jpeg
    except ImageRejected as error:
        assert error.code is ErrorCode.NOT_A_PICTURE, (why, error)
        return error.message


def refusal(data: bytes, why: object = "") -> str:
    answer = staged_or_refused(data, why)
    assert isinstance(answer, str), f"{why}: staged"
    return answer


def quadrants(picture: Image.Image) -> list[Colour]:
    return [picture.getpixel((int(picture.width * x), int(picture.height * y))) for x, y in PLACES]


def off(found: list[Colour], wanted: list[Colour]) -> int:
    return max(abs(a - b) for one, other in zip(found, wanted, strict=True) for a, b in zip(one, other, strict=True))


def assert_upright(data: bytes, why: object = "", wanted: list[Colour] | None = None, within: int = WITHIN) -> None:
    picture = decoded(staged(data, why))
    assert picture.width * 3 == picture.height * 4, f"{why}: {picture.size} is not 4:3"
    found = quadrants(picture)
    assert off(found, wanted or list(COLOURS)) <= within, f"{why}: {found}"


def turned(picture: Image.Image, value: int) -> Image.Image:
    """Return the picture as a camera stores it that names this orientation: the inverse of what viewers do."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    return picture.transpose(inverse[value]) if value in inverse else picture


def noise(width: int = SMALL[0], height: int = SMALL[1]) -> Image.Image:
    """A picture in which every byte of the file matters."""
    values = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


TYPES = (*range(14), 14, 16, 17, 18, 99, 129, 255, 65535)  # 1 to 12 are EXIF's, 13 TIFF's, 16 to 18 BigTIFF's


def junk_entry(chance: random.Random, tag: int, kind: int) -> Entry:
    """An entry whose count and value are anything. What is longer than four bytes is written behind the directory."""
    count = chance.choice((0, 1, 2, 3, 5, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32)))
    where = chance.choice((0, 8, 10, 2**31, 2**32 - 1, chance.randrange(400), chance.randrange(2**32)))
    value = chance.choice((struct.pack("<I", where), chance.randbytes(chance.randrange(40)), b"72\0", b""))
    return (tag, kind, count, value)


def stored_small(value: int) -> Image.Image:
    return turned(scene(*SMALL), value)
