"""Makers of pictures, and what is looked at in them."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from shared.errors import ErrorCode, ImageRejected
from shared.ports import Photo
from shared.settings import PhotoLimits
from shared.staging import pictures

pillow_heif.register_heif_opener()

LIMITS = PhotoLimits()
RED, GREEN, BLUE, YELLOW, WHITE, BLACK = (
    (220, 20, 30),
    (20, 200, 40),
    (30, 40, 220),
    (230, 220, 20),
    (255,) * 3,
    (0,) * 3,
)
CORNERS = {"top left": RED, "top right": GREEN, "bottom left": BLUE, "bottom right": YELLOW}


def encoded(picture: Image.Image, format_: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, format_, **options)
    return out.getvalue()


def quadrants(width: int = 240, height: int = 160) -> Image.Image:
    """A colour in each corner: every turn and mirroring of it is another picture."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(YELLOW, (width // 2, height // 2, width, height))
    return picture


def noise(width: int, height: int, seed: int = 1) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand: what Pillow cannot or would not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def png_of(values: np.ndarray, colour_type: int, *extra: bytes) -> bytes:
    """A 16-bit PNG of an array of (height, width) or (height, width, channels)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour_type, rows, *extra)


def decoded(photo: Photo) -> Image.Image:
    with Image.open(io.BytesIO(photo.jpeg)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        assert picture.size == (photo.width, photo.height)
        picture.load()
        return picture


def normal(data: bytes, limits: PhotoLimits = LIMITS) -> Image.Image:
    return decoded(pictures.normalise(data, limits))


def refused(data: bytes, code: ErrorCode | None = None, limits: PhotoLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        pictures.normalise(data, limits)
    assert code is None or caught.value.code is code, caught.value
    assert caught.value.message
    assert len(caught.value.message) < 500
    return caught.value


def near(found: tuple[int, ...], wanted: tuple[int, ...], within: int = 14) -> bool:
    return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


def assert_pixel(picture: Image.Image, x: float, y: float, wanted: tuple[int, int, int], within: int = 14) -> None:
    place = (int(x * (picture.width - 1)), int(y * (picture.height - 1)))
    found = picture.getpixel(place)
    assert near(found, wanted, within), f"at {place}: {found}, not {wanted}"


def assert_upright(picture: Image.Image) -> None:
    assert picture.width > picture.height
    for (x, y), wanted in zip(((0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)), CORNERS.values(), strict=True):
        assert_pixel(picture, x, y, wanted, 20)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@cache
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


P3_PRIMARIES = {  # Display P3, adapted to D50 as ICC profiles have them
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


@cache
def p3_profile() -> bytes:
    """Apple's Display P3 is sRGB's curve with wider primaries: the sRGB profile with those three tags rewritten."""
    data = bytearray(srgb_profile())
    (count,) = struct.unpack_from(">I", data, 128)
    for index in range(count):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if name in P3_PRIMARIES:
            struct.pack_into(">iii", data, offset + 8, *(round(value * 65536) for value in P3_PRIMARIES[name]))
    return bytes(data)


def whole(format_: str) -> bytes:
    return encoded(noise(200, 150), format_)


@cache
def photo_of(width: int, height: int, colour: tuple[int, int, int] = BLUE) -> Photo:
    return pictures.normalise(encoded(Image.new("RGB", (width, height), colour), compress_level=1), LIMITS)
