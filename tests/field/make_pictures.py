"""Writes the pictures of this folder: python make_pictures.py pictures"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from tests.field.picture_parts import (
    P3,
    XMP_JPEG,
    chunk,
    exif_jpeg,
    gamma_encoded,
    into,
    jpeg,
    orientation,
    png,
    raw_png,
    scene,
    segment,
    stored,
    tiff,
    xmp,
)  # fmt: skip


def broken_make(value: int) -> bytes:
    """Make (an earlier tag) claims 40 bytes that the file does not have; the orientation behind it is sound."""
    block = tiff([orientation(value), (0x10F, 2, 40, b"maker of phones".ljust(40, b"\0"))])
    return block[: len(block) - 30]


def cases() -> dict[str, bytes]:
    pixels = np.asarray(scene())
    plain = jpeg(scene())
    xmp_list = b"<x>" + b"<rdf:li>document ancestor</rdf:li>" * 60_000 + b"</x>"
    phys = struct.pack(">IIB", 2835, 2835, 1)
    return {
        "exif-resolution-as-text.jpg": exif_jpeg(stored(6), tiff([orientation(6), (0x11A, 2, 3, b"72\0")])),
        "exif-gps-reference-as-numbers.jpg": exif_jpeg(
            stored(8), tiff([orientation(8)], gps=[(1, 3, 2, struct.pack("<2H", 78, 0))])
        ),
        "exif-packet-as-text.jpg": exif_jpeg(stored(8), tiff([orientation(8), (0x2BC, 2, 4, b"<x/>")])),
        "exif-earlier-tag-cut.jpg": exif_jpeg(stored(6), broken_make(6)),
        "xmp-orientation-only.jpg": segment(plain, XMP_JPEG + xmp(6)),
        "xmp-orientation-element.jpg": segment(
            segment(plain, XMP_JPEG + xmp(3, element=True)), b"Exif\0\0" + tiff([(0x10F, 2, 4, b"abc\0")])
        ),
        "png-large-xmp.png": raw_png(
            pixels, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp_list, 9))
        ),
        "png-resolution-bad-crc.png": raw_png(pixels, chunk(b"pHYs", phys, crc=0)),
        "png-profile-bad-crc.png": raw_png(pixels, chunk(b"iCCP", b"x\0\0" + zlib.compress(P3), crc=1)),
        "png-text-damaged.png": raw_png(pixels, chunk(b"zTXt", b"Comment\0\5xx")),
        "png-resolution-short.png": raw_png(pixels, chunk(b"pHYs", b"\0\0")),
        "png-old-exif-junk.png": raw_png(
            pixels, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\nnot hexadecimal\n"))
        ),
        "jpeg-no-end-marker.jpg": plain[:-2],
        "jpeg-one-byte-short.jpg": plain[:-1],
        "palette-wide-gamut.png": png(into(P3).quantize(16), icc_profile=P3),
        "linear-light-16-bit.png": raw_png(gamma_encoded(2.2, 16), chunk(b"gAMA", struct.pack(">I", 100_000))),
        "gamma-1.8.png": raw_png(gamma_encoded(2.2 / 1.8, 8), chunk(b"gAMA", struct.pack(">I", 55_556))),
        "cicp-wide-gamut.png": raw_png(np.asarray(into(P3)), chunk(b"cICP", bytes([12, 13, 0, 1]))),
        "phone-50-mp-8192x6144.jpg": jpeg(scene(8192, 6144), quality=40, progressive=True, optimize=True),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in cases().items():
        (folder / name).write_bytes(data)
    (folder / "room.jpg").write_bytes(jpeg(scene()))
    print(len(cases()), "pictures")
