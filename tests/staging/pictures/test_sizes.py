"""Pictures too small, too large, and those made to burst memory."""

from __future__ import annotations

import hashlib
import struct
import time
import zlib

import pytest
from PIL import Image

from shared.errors import ErrorCode, ImageRejected
from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.staging.pictures.parts import (
    BLUE,
    LIMITS,
    RED,
    assert_upright,
    chunk,
    encoded,
    noise,
    normal,
    png,
    quadrants,
    refused,
)

# --- sizes


def test_too_small_is_refused() -> None:
    for size in ((63, 500), (500, 63), (1, 1), (63, 63)):
        error = refused(encoded(Image.new("RGB", size)), ErrorCode.PICTURE_TOO_SMALL)
        assert str(size[0]) in error.message
        assert "64" in error.message
    normal(encoded(Image.new("RGB", (64, 64))))


def test_the_limit_keeps_the_aspect_ratio() -> None:
    for size in ((3000, 2000), (2000, 3000), (2049, 2048), (4097, 300), (2048, 1365), (999, 333)):
        photo = pictures.normalise(encoded(Image.new("RGB", size, RED), compress_level=1), LIMITS)
        scale = min(1, 2048 / max(size))
        assert abs(photo.width - size[0] * scale) <= 0.5
        assert abs(photo.height - size[1] * scale) <= 0.5
        assert max(photo.width, photo.height) <= 2048


def test_a_small_photo_is_not_blown_up() -> None:
    assert normal(encoded(quadrants(300, 200))).size == (300, 200)


def test_a_shrunk_photo_is_still_the_photo() -> None:
    assert_upright(normal(encoded(quadrants(3000, 2000), "JPEG")))


def test_the_hash_is_that_of_the_customers_bytes() -> None:
    data = encoded(quadrants(), "JPEG")
    assert pictures.normalise(data, LIMITS).sha256 == hashlib.sha256(data).hexdigest()


# --- bombs


def rejected_quickly(data: bytes, code: ErrorCode | None = None, seconds: float = 2) -> None:
    started = time.monotonic()
    refused(data, code)
    assert time.monotonic() - started < seconds


@pytest.mark.parametrize(
    "size", [(10400, 10400), (7300, 7300), (52_000_001, 1), (1, 52_000_001), (2**31 - 1, 2**31 - 1), (65535, 65535)]
)
def test_a_header_that_promises_too_many_pixels_is_enough_to_refuse(size: tuple[int, int]) -> None:
    """Pillow itself only warns below twice its limit."""
    rejected_quickly(png(*size, 8, 2, b"\0"), ErrorCode.PICTURE_TOO_LARGE)


def test_a_bomb_of_zeros_is_refused_before_it_is_unpacked() -> None:
    rows = zlib.compress(bytes(40_000_000), 9)  # 39 KB; 108 MP of one-bit pixels would be 14 MB, of RGB 324 MB
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10400, 10400, 8, 2, 0, 0, 0))
    rejected_quickly(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""), ErrorCode.PICTURE_TOO_LARGE
    )


def test_exactly_the_limit_passes_one_more_does_not() -> None:
    limits = PhotoLimits(max_pixels=100 * 100)
    normal(encoded(Image.new("RGB", (100, 100))), limits)
    refused(encoded(Image.new("RGB", (101, 100))), ErrorCode.PICTURE_TOO_LARGE, limits)
    refused(encoded(Image.new("RGB", (300, 300))), ErrorCode.PICTURE_TOO_LARGE, limits)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "HEIF", "MPO"])
def test_too_many_pixels_in_every_format(format_: str) -> None:
    limits = PhotoLimits(max_pixels=100 * 100)
    refused(encoded(Image.new("RGB", (120, 120)), format_), ErrorCode.PICTURE_TOO_LARGE, limits)


def test_a_jpeg_header_that_lies_about_its_size() -> None:
    data = bytearray(encoded(noise(100, 100), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, place, 65000, 65000)
    rejected_quickly(bytes(data), ErrorCode.PICTURE_TOO_LARGE)
    struct.pack_into(">HH", data, place, 1900, 1900)  # within the limit: libjpeg fills up with grey; no harm, no crash
    try:
        normal(bytes(data))
    except ImageRejected as error:
        assert error.code is ErrorCode.NOT_A_PICTURE


def test_a_webp_canvas_that_is_far_larger_than_its_frames() -> None:
    frames = [Image.new("RGB", (64, 64), BLUE)]
    data = bytearray(encoded(quadrants(64, 64), "WEBP", save_all=True, append_images=frames, duration=50))
    assert data[12:16] == b"VP8X"
    data[24:30] = (16383).to_bytes(3, "little") * 2  # 16384 x 16384, the format's most
    rejected_quickly(bytes(data), seconds=5)


def test_a_heic_that_lies_about_its_size() -> None:
    data = bytearray(encoded(quadrants(), "HEIF"))
    place = data.index(b"ispe") + 8
    struct.pack_into(">II", data, place, 30000, 30000)
    rejected_quickly(bytes(data))


def test_compressed_text_that_unpacks_without_end_is_no_way_in() -> None:
    bomb = zlib.compress(bytes(80_000_000), 9)
    rows = b"".join(b"\0" + bytes(80 * 3) for _ in range(80))
    for extra in (
        chunk(b"zTXt", b"k\0\0" + bomb),
        chunk(b"iTXt", b"k\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"k\0\0" + bomb),
    ):
        started = time.monotonic()
        try:
            normal(png(80, 80, 8, 2, rows, extra))
        except ImageRejected as error:
            assert error.code is ErrorCode.NOT_A_PICTURE
        assert time.monotonic() - started < 2


def test_ten_thousand_text_chunks_are_no_way_in() -> None:
    rows = b"".join(b"\0" + bytes(80 * 3) for _ in range(80))
    extra = [chunk(b"tEXt", b"key%d\0" % index + b"x" * 1000) for index in range(10_000)]
    started = time.monotonic()
    try:
        normal(png(80, 80, 8, 2, rows, *extra))
    except ImageRejected as error:
        assert error.code is ErrorCode.NOT_A_PICTURE
    assert time.monotonic() - started < 3


def test_memory_that_runs_out_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "_decoded", out_of_memory)
    refused(encoded(quadrants()), ErrorCode.PICTURE_TOO_LARGE)


def test_memory_that_runs_out_while_colours_are_converted_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly called it must not matter at which step; the pool's own guard is tested there."""

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "to_srgb", out_of_memory)
    with pytest.raises((ImageRejected, MemoryError)):
        pictures.normalise(encoded(quadrants()), LIMITS)
