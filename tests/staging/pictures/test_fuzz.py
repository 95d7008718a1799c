"""Pictures broken at random: a clean picture or a coded refusal comes out, nothing else."""

from __future__ import annotations

import io
import random
import struct
import warnings
from functools import cache

import numpy as np
import pytest
from PIL import Image

from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.staging.pictures.parts import (
    LIMITS,
    chunk,
    encoded,
    noise,
    orientation,
    p3_profile,
    photo_of,
    png_of,
    refused,
)


@cache
def seeds() -> dict[str, bytes]:
    small = noise(72, 66)
    palette = small.quantize(8)
    alpha = small.convert("RGBA")
    alpha.putalpha(100)
    exif = orientation(6)
    exif.get_ifd(0x8825).update({1: "S", 2: (23.0, 33.0, 1.0)})
    return {
        "jpeg": encoded(small, "JPEG", exif=exif, icc_profile=p3_profile(), quality=60),
        "progressive": encoded(small, "JPEG", progressive=True, quality=40),
        "cmyk": encoded(small.convert("CMYK"), "JPEG", quality=40),
        "mpo": encoded(small, "MPO", save_all=True, append_images=[small], quality=40),
        "png": encoded(small.resize((66, 64)), exif=exif, icc_profile=p3_profile()),
        "png alpha": encoded(alpha),
        "png palette": encoded(palette, transparency=bytes(range(8))),
        "png 16 bit": png_of(np.random.default_rng(2).integers(0, 65536, (64, 64)), 0, chunk(b"tRNS", b"\x01\x02")),
        "webp": encoded(small, "WEBP", exif=exif),
        "webp lossless": encoded(alpha, "WEBP", lossless=True),
        "webp animated": encoded(small, "WEBP", save_all=True, append_images=[small.rotate(90)], duration=50),
        "heic": encoded(small, "HEIF", exif=exif.tobytes(), icc_profile=p3_profile()),
    }


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or moved; mostly near the front, where the structure is."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 12))):
        place = int(len(changed) * chance.random() ** chance.choice((1, 4)))
        match chance.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[place : place + 4] = chance.choice((bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case 2:
                del changed[place : place + chance.choice((1, 4, 64))]
            case 3:
                changed[place:place] = changed[place : place + chance.choice((1, 12, 200))]
            case 4:
                changed[place:place] = chance.randbytes(chance.choice((1, 8)))
            case 5:
                del changed[place:]
    return bytes(changed)


def mended(data: bytes) -> bytes:
    """A PNG with its checksums set right, so that mutations reach behind them."""
    out, place = bytearray(data[:8]), 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        out += chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length])
        place += 12 + length
    return bytes(out + data[place:])


FUZZ_LIMITS = PhotoLimits(max_pixels=1_000_000)  # mutations of a header shall not cost a second each
ROUNDS = 50


@pytest.mark.parametrize("kind", seeds())
def test_mutated_pictures_are_taken_or_refused_and_nothing_else(kind: str) -> None:
    chance = random.Random(f"pictures {kind}")
    original = seeds()[kind]
    photo = photo_of(120, 80)
    taken = 0
    for number in range(ROUNDS):
        data = mutated(original, chance)
        if kind.startswith("png") and number % 4:
            data = mended(data)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # as in production: pytest turns warnings into errors, the product must not rely on it
            try:
                normalised = pictures.normalise(data, FUZZ_LIMITS)
            except ImageRejected:
                pass
            else:
                taken += 1
                assert b"Exif" not in normalised.jpeg[:200]
                with Image.open(io.BytesIO(normalised.jpeg)) as picture:
                    picture.load()
            try:
                pictures.finish(data, photo, FUZZ_LIMITS)
            except WorldError as error:
                assert error.code is ErrorCode.VENDOR_BAD_ANSWER
    assert taken < ROUNDS, "the mutations do not bite"


def test_random_bytes_behind_every_signature() -> None:
    chance = random.Random(7)
    signatures = (
        b"\xff\xd8\xff\xe0",
        b"\xff\xd8\xff\xe1",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"RIFF\xff\0\0\0WEBPVP8X",
        b"RIFF\xff\0\0\0WEBPVP8L",
        b"\0\0\0\x18ftypheic",
    )
    for signature in signatures:
        for _ in range(25):
            refused(signature + chance.randbytes(chance.choice((0, 5, 40, 400))), limits=FUZZ_LIMITS)


def a_plain_jpeg(size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (120, 140, 90)).save(out, "JPEG")
    return out.getvalue()


def test_a_large_jpeg_is_decoded_at_half_its_size():
    """4000 pixels become 2000 in the decoder, which is near enough to 2048 to need no resampling."""
    photo = pictures.normalise(a_plain_jpeg((4000, 3000)), LIMITS)
    assert (photo.width, photo.height) == (2000, 1500)
    assert (pictures.normalise(a_plain_jpeg((4096, 3072)), LIMITS).width) == 2048
    assert (pictures.normalise(a_plain_jpeg((3900, 3000)), LIMITS).width) == 2048, "half of it would be too small"


def test_a_narrow_jpeg_is_told_by_its_own_size():
    with pytest.raises(ImageRejected, match=r"8000 x 70 pixels"):
        pictures.normalise(a_plain_jpeg((8000, 70)), LIMITS)
