"""A picture is what its bytes are, whatever its name says; what is none is refused."""

from __future__ import annotations

import pytest

from shared.errors import ErrorCode
from tests.staging.pictures.parts import assert_upright, encoded, normal, quadrants, refused, whole


def test_a_jpg_that_is_a_png_is_read_by_its_bytes() -> None:
    assert_upright(normal(encoded(quadrants(), "PNG")))  # no name is given at all: bytes decide


@pytest.mark.parametrize(
    "format_", ["GIF", "TIFF", "BMP", "ICO", "TGA", "PPM", "PCX", "SGI", "JPEG2000", "PDF", "EPS", "DDS", "AVIF"]
)
def test_other_formats_are_refused(format_: str) -> None:
    try:
        data = encoded(quadrants(), format_)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {format_}")
    refused(data, ErrorCode.NOT_A_PICTURE)


@pytest.mark.parametrize(
    "data",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><image href="file:///etc/passwd"/></svg>',
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>',
        b"%PDF-1.7\n1 0 obj\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        b"GIF89a\x64\x00\x64\x00\x00\x00\x00;",
        b"PK\x03\x04" + bytes(100),
        b"\x7fELF" + bytes(100),
        b"#!/bin/sh\nrm -rf /\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        b"8BPS\0\1" + bytes(100),
        b"push graphic-context\nimage over 0,0 0,0 'https://example.com/'\n",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x24\0\0\0WEBPVP8 ",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x18ftypavif\0\0\0\0mif1avif",
        bytes(1000),
        b"\xff" * 1000,
        b"a",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    refused(data, ErrorCode.NOT_A_PICTURE)


def test_an_empty_file_is_refused() -> None:
    refused(b"", ErrorCode.NOT_A_PICTURE)


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"<html>",
        b"\n\n  <!doctype html><title>Sign in</title>",
        b"\xef\xbb\xbf<!DOCTYPE html><html></html>",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    ],
)
def test_an_error_page_is_called_a_page(page: bytes) -> None:
    error = refused(page, ErrorCode.NOT_A_PICTURE)
    assert "page" in error.message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_a_truncated_picture_is_refused(format_: str, share: float) -> None:
    data = whole(format_)
    normal(data)
    refused(data[: int(len(data) * share)], ErrorCode.NOT_A_PICTURE)


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(whole("PNG"))
    data[len(data) // 2] ^= 0xFF
    refused(bytes(data), ErrorCode.NOT_A_PICTURE)
