"""Recognises files by their first bytes, for messages that name what was sent instead of what was expected."""

from __future__ import annotations

from typing import Final

_UTF8_MARK: Final = b"\xef\xbb\xbf"
_MAGIC: Final = {
    b"\xff\xd8\xff": "a JPEG picture", b"\x89PNG": "a PNG picture", b"GIF8": "a GIF picture",
    b"PK\x03\x04": "a zip file or spreadsheet", b"%PDF": "a PDF file", b"\x1f\x8b": "a gzip file",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file", b"II*\x00": "a TIFF picture", b"MM\x00*": "a TIFF picture",
    b"8BPS": "a Photoshop file", b"\x00\x00\x00\x0cjP": "a JPEG 2000 picture", b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7-Zip archive", b"\x1aE\xdf\xa3": "a video", b"{\\rtf": "an RTF document",
    b"\xff\x0a": "a JPEG XL picture", b"\x00\x00\x00\x0cJXL": "a JPEG XL picture", b"(\xb5/\xfd": "a Zstandard file",
}  # fmt: skip
_HEIC_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_READABLE: Final = frozenset({"a JPEG picture", "a PNG picture", "a WebP picture", "a HEIC picture"})


def is_picture(data: bytes) -> bool:
    """Return whether `data` begins like a picture of a kind that can be staged."""
    return kind_of(data) in _READABLE


def kind_of(data: bytes) -> str | None:
    """Return what `data` is, worded to follow "is", such as "a PNG picture"; None if its start says nothing."""
    if data[:4] == b"RIFF":
        return "a WebP picture" if data[8:12] == b"WEBP" else "an audio or video file"
    if data[4:8] == b"ftyp":
        if data[8:12] in _HEIC_BRANDS:
            return "a HEIC picture"
        return "an AVIF picture" if data[8:12] in (b"avif", b"avis") else "a video"
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "a BMP picture"
    start = data[:512].removeprefix(_UTF8_MARK).lstrip().lower()
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if start.startswith(b"<"):
        return "an HTML or XML page"
    if start.startswith((b"{", b"[")):
        return "a JSON text"
    return None
