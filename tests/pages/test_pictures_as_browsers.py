"""Customers see their photos in a browser: what it shows, upright and in which colours, is what the models must be shown.

Every case is drawn by Chromium on a white canvas, and compared in the middle of its four quadrants. Where we differ on
purpose, the reason stands beside the case.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from shared.errors import ImageRejected
from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.field.make_pictures import cases as reported
from tests.field.picture_parts import (
    ADOBE,
    COLOURS,
    P3,
    any_png,
    canvas,
    chunk,
    exif_jpeg,
    grey_profile,
    into,
    jpeg,
    orientation,
    palette_png,
    png,
    profile_chunk,
    profile_parts,
    raw_png,
    riff,
    riff_chunk,
    scene,
    segment,
    segments,
    tiff,
    webp,
    xmp,
)
from tests.pages.browser import BROWSER, DRIVER, MISSING, SWITCHES, needed

WITHIN = 8  # of 255: two decoders and one more JPEG encoding
PLACES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
EXIF = b"Exif\0\0"
TOO_LARGE_TO_SEND = "phone-50-mp-8192x6144.jpg"
DRAW = """
const [address, places, done] = arguments, picture = new Image()
picture.onload = () => {
  const canvas = document.createElement('canvas')
  canvas.width = picture.naturalWidth
  canvas.height = picture.naturalHeight
  const context = canvas.getContext('2d', {willReadFrequently: true})
  context.fillStyle = 'white'
  context.fillRect(0, 0, canvas.width, canvas.height)
  context.drawImage(picture, 0, 0)
  const colour = ([x, y]) => Array.from(context.getImageData(canvas.width * x | 0, canvas.height * y | 0, 1, 1).data)
  done([[canvas.width, canvas.height], ...places.map(place => colour(place).slice(0, 3))])
}
picture.onerror = () => done(null)
picture.src = address
"""

Seen = list[list[int]]

pytestmark = needed


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    assert BROWSER and DRIVER, MISSING
    options = ChromeOptions()
    options.binary_location = BROWSER
    for switch in (*SWITCHES, "--force-color-profile=srgb"):
        options.add_argument(switch)
    driver = Chrome(options=options, service=ChromeService(executable_path=DRIVER))
    try:
        driver.get("data:text/html,<title>pictures</title>")
        yield driver
    finally:
        driver.quit()


def in_browser(chrome: Chrome, name: str, data: bytes) -> Seen | None:
    kind = name.rpartition(".")[2].replace("jpg", "jpeg")
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return chrome.execute_async_script(DRAW, address, PLACES)


def in_ours(data: bytes) -> Seen | None:
    try:
        photo = pictures.normalise(data, PhotoLimits())
    except ImageRejected:
        return None
    with Image.open(io.BytesIO(photo.jpeg)) as picture:
        found = [picture.getpixel((int(picture.width * x), int(picture.height * y))) for x, y in PLACES]
        return [list(picture.size), *map(list, found)]


def alike(one: Seen, other: Seen) -> bool:
    pairs = [(a, b) for left, right in zip(one[1:], other[1:], strict=True) for a, b in zip(left, right, strict=True)]
    return one[0] == other[0] and max(abs(a - b) for a, b in pairs) <= WITHIN


# --- the cases: a name that ends in the file's kind, and the file


def orientations() -> Iterator[tuple[str, bytes]]:
    picture = scene()
    plain = jpeg(picture)
    sixth, third, none = tiff([orientation(6)]), tiff([orientation(3)]), tiff([(0x10F, 2, 4, b"abc\0")])
    for value in range(10):
        yield f"orientation {value}.jpg", exif_jpeg(picture, tiff([orientation(value)]))
    for name, kind, count, value in (
        ("byte", 1, 1, b"\6"), ("text", 2, 2, b"6\0"), ("no numbers", 3, 0, b"\6\0"), ("two numbers", 3, 2, b"\6\0\6\0"),
        ("long", 4, 1, b"\6\0\0\0"), ("rational", 5, 1, struct.pack("<II", 6, 1)), ("undefined", 7, 1, b"\6"),
        ("signed short", 8, 1, b"\6\0"), ("signed long", 9, 1, b"\6\0\0\0"), ("directory", 13, 1, b"\6\0\0\0"),
    ):  # fmt: skip
        yield f"orientation as {name}.jpg", exif_jpeg(picture, tiff([(0x112, kind, count, value)]))
    yield "two EXIF blocks, 6 and 3.jpg", segments(plain, (0xE1, EXIF + sixth), (0xE1, EXIF + third))
    yield "two EXIF blocks, none and 6.jpg", segments(plain, (0xE1, EXIF + none), (0xE1, EXIF + sixth))
    yield "two EXIF blocks, junk and 6.jpg", segments(plain, (0xE1, EXIF + b"xx"), (0xE1, EXIF + sixth))
    yield "EXIF with an odd prefix.jpg", segment(plain, b"Exif\0\xff" + sixth)
    yield "EXIF in small letters.jpg", segment(plain, b"exif\0\0" + sixth)
    yield "EXIF behind a comment.jpg", segments(plain, (0xFE, b"hello"), (0xE1, EXIF + sixth))
    yield "EXIF before the scan.jpg", before_scan(plain, 0xE1, EXIF + sixth)
    two = sixth[:8] + struct.pack("<H", 2)
    last = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + bytes(4)
    yield "orientation twice.jpg", exif_jpeg(picture, two + struct.pack("<HHIHH", 0x112, 3, 1, 3, 0) + last)
    yield (
        "orientation twice, first of a wrong type.jpg",
        exif_jpeg(picture, two + struct.pack("<HHII", 0x112, 4, 1, 3) + last),
    )
    yield "more entries promised.jpg", exif_jpeg(picture, sixth[:8] + struct.pack("<H", 50) + sixth[10:22])
    yield "entry cut.jpg", exif_jpeg(picture, sixth[:18])
    yield "EXIF ends behind its entry.jpg", exif_jpeg(picture, sixth[:22])
    yield "EXIF of another TIFF.jpg", exif_jpeg(picture, b"II+\0" + sixth[4:])
    yield "directory further behind.jpg", exif_jpeg(picture, b"II*\0" + struct.pack("<I", 20) + bytes(12) + sixth[8:])
    yield (
        "big-endian.jpg",
        exif_jpeg(picture, b"MM\0*" + struct.pack(">IH", 8, 1) + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + bytes(4)),
    )
    yield "XMP.jpg", segment(plain, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))
    pixels = np.asarray(picture)
    text = b"\nexif\n%8d\n" % len(EXIF + sixth) + (EXIF + sixth).hex().encode() + b"\n"
    yield "EXIF.png", raw_png(pixels, chunk(b"eXIf", sixth))
    yield "EXIF behind the pixels.png", raw_png(pixels, after=chunk(b"eXIf", sixth))
    yield "EXIF with a wrong checksum.png", raw_png(pixels, chunk(b"eXIf", sixth, 3))
    yield "EXIF with a prefix.png", raw_png(pixels, chunk(b"eXIf", EXIF + sixth))
    yield (
        "EXIF in a text chunk.png",
        raw_png(pixels, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))),
    )
    yield "EXIF.webp", webp(picture, exif=EXIF + sixth)
    yield "EXIF without a prefix.webp", webp(picture, exif=sixth)
    yield "XMP.webp", webp(picture, xmp=xmp(6))


def before_scan(data: bytes, marker: int, payload: bytes) -> bytes:
    place = data.index(b"\xff\xda")
    return data[:place] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[place:]


def gamma(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


CODE_POINTS = (
    (1, 1), (1, 4), (1, 5), (1, 6), (1, 8), (1, 11), (1, 13), (1, 16), (1, 17), (1, 18), (2, 2), (5, 6), (9, 1), (9, 13), (9, 14),
    (9, 16), (9, 18), (11, 13), (12, 1), (12, 13), (22, 13),
)  # fmt: skip
GAMMAS = (
    1, 100, 10_000, 22_000, 35_000, 43_000, 45_455, 47_500, 50_000, 55_556, 71_429, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000,
)  # fmt: skip


def png_colours() -> Iterator[tuple[str, bytes]]:
    picture = scene()
    pixels, grey = np.asarray(picture), np.asarray(picture.convert("L"))
    opaque = np.full((*grey.shape, 1), 255, np.uint8)
    linear, screen = gamma(100_000), gamma(45_455)
    corners = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
    wide = zlib.compress(P3)
    for primaries, transfer in CODE_POINTS:
        yield f"cICP {primaries} {transfer}.png", raw_png(pixels, chunk(b"cICP", bytes([primaries, transfer, 0, 1])))
    for value in GAMMAS:
        yield f"gAMA {value}.png", raw_png(pixels, gamma(value))
    for name, before in {
        "cICP of narrow range": [chunk(b"cICP", bytes([12, 13, 0, 0]))],
        "cICP too short": [chunk(b"cICP", bytes([12, 13, 0]))],
        "cHRM alone": [chunk(b"cHRM", corners)],
        "cHRM and gAMA": [screen, chunk(b"cHRM", corners)],
        "cHRM and another gAMA": [gamma(55_556), chunk(b"cHRM", corners)],
        "cHRM of zeros": [chunk(b"cHRM", bytes(32))],
        "cHRM too long and gAMA": [linear, chunk(b"cHRM", bytes(40))],
        "sRGB before gAMA": [chunk(b"sRGB", b"\0"), linear],
        "sRGB too long and gAMA": [chunk(b"sRGB", b"\0\0"), linear],
        "sRGB of no meaning and gAMA": [chunk(b"sRGB", b"\x09"), linear],
        "sRGB and iCCP": [chunk(b"sRGB", b"\0"), profile_chunk(P3)],
        "gAMA too long": [chunk(b"gAMA", struct.pack(">I", 100_000) + b"x")],
        "gAMA too short": [chunk(b"gAMA", b"\0\1")],
        "gAMA twice": [screen, linear],
        "gAMA twice, the first too short": [chunk(b"gAMA", b"\0"), linear],
        "iCCP twice": [profile_chunk(P3), profile_chunk(ADOBE)],
        "iCCP broken and gAMA": [chunk(b"iCCP", b"x\0\0" + zlib.compress(b"garbage" * 40)), linear],
        "iCCP of another method": [chunk(b"iCCP", b"x\0\1" + wide)],
        "iCCP without a name": [chunk(b"iCCP", b"\0\0" + wide)],
        "iCCP with a long name": [chunk(b"iCCP", b"x" * 80 + b"\0\0" + wide)],
        "iCCP cut": [chunk(b"iCCP", b"x\0\0" + wide[:-6])],
        "iCCP without its end": [chunk(b"iCCP", b"x\0\0" + wide[:-2])],
        "iCCP and rubbish": [chunk(b"iCCP", b"x\0\0" + wide + b"xxxx")],
        "iCCP with a wrong sum": [chunk(b"iCCP", b"x\0\0" + wide[:-1] + b"\x99")],
        "tRNS": [chunk(b"tRNS", struct.pack(">3H", *COLOURS[0]))],
        "tRNS too short": [chunk(b"tRNS", bytes(4))],
        "tRNS too long": [chunk(b"tRNS", struct.pack(">3H", *COLOURS[0]) + b"\0")],
        "tRNS in 16 bits": [chunk(b"tRNS", struct.pack(">3H", COLOURS[0][0] + 256, *COLOURS[0][1:]))],
        "unknown chunk": [chunk(b"abCd", b"xx")],
        "chunk without a name": [chunk(b"a1\0d", b"xx")],
        "unknown critical chunk": [chunk(b"ABCD", b"xx")],
        "text with a wrong length": [struct.pack(">I4s", 20, b"tEXt") + b"Comment\0hello" + bytes(4)],
    }.items():
        yield f"{name}.png", raw_png(pixels, *before)
    for name, after in {
        "gAMA behind the pixels": linear,
        "tRNS behind the pixels": chunk(b"tRNS", struct.pack(">3H", *COLOURS[0])),
        "text with a wrong length behind the pixels": struct.pack(">I4s", 20, b"tEXt") + b"Comment\0hello" + bytes(4),
    }.items():
        yield f"{name}.png", raw_png(pixels, after=after)
    clear = chunk(b"tRNS", bytes(4))
    yield "palette, gAMA before it.png", palette_png(picture, before=linear)
    yield "palette, gAMA behind it.png", palette_png(picture, linear)
    yield "palette, iCCP behind it.png", palette_png(picture, profile_chunk(P3))
    yield "palette, cICP behind it.png", palette_png(picture, chunk(b"cICP", bytes([12, 13, 0, 1])))
    yield "palette, tRNS before it.png", palette_png(picture, before=clear)
    yield "palette, tRNS.png", palette_png(picture, clear)
    yield "palette, tRNS twice.png", palette_png(picture, chunk(b"tRNS", b"\xff" * 4), clear)
    yield "palette, tRNS too long.png", palette_png(picture, chunk(b"tRNS", bytes(9)))
    yield "palette, tRNS empty.png", palette_png(picture, chunk(b"tRNS", b""))
    yield "palette, tRNS behind the pixels.png", palette_png(picture, after=clear)
    yield "grey, gAMA.png", any_png(grey, 0, linear)
    yield "grey, cICP.png", any_png(grey, 0, chunk(b"cICP", bytes([12, 8, 0, 1])))
    yield "grey and alpha, gAMA.png", any_png(np.dstack([grey, opaque]), 4, linear)
    yield "grey and alpha, cICP.png", any_png(np.dstack([grey, opaque]), 4, chunk(b"cICP", bytes([1, 8, 0, 1])))
    yield "RGBA, gAMA.png", any_png(np.dstack([pixels, opaque]), 6, linear)


def profiles() -> Iterator[tuple[str, bytes]]:
    picture = scene()
    pixels, grey = np.asarray(picture), np.asarray(picture.convert("L"))
    opaque, half = np.full((*grey.shape, 1), 255, np.uint8), np.full((*grey.shape, 1), 128, np.uint8)
    deep = lambda values: (values.astype(">u2") * 257).astype(">u2")
    linear = grey_profile(1.0)
    made = {
        "L": (grey, 0), "L, 16 bits": (deep(grey), 0), "LA": (np.dstack([grey, opaque]), 4), "LA, half": (np.dstack([grey, half]), 4),
        "LA, 16 bits": (deep(np.dstack([grey, opaque])), 4), "RGB": (pixels, 2), "RGB, 16 bits": (deep(pixels), 2),
        "RGBA": (np.dstack([pixels, opaque]), 6), "RGBA, half": (np.dstack([pixels, half]), 6),
        "RGBA, 16 bits": (deep(np.dstack([pixels, opaque])), 6),
    }  # fmt: skip
    for kind, icc in {"wide": P3, "grey": linear}.items():
        for mode, (values, colour_type) in made.items():
            yield f"{mode}, {kind} profile.png", any_png(values, colour_type, profile_chunk(icc))
        yield (
            f"L with a transparent level, {kind} profile.png",
            any_png(grey, 0, profile_chunk(icc), chunk(b"tRNS", b"\0\1")),
        )
        yield f"palette, {kind} profile.png", palette_png(picture, before=profile_chunk(icc))
        yield (
            f"palette with alpha, {kind} profile.png",
            palette_png(picture, chunk(b"tRNS", b"\xff" * 4), before=profile_chunk(icc)),
        )
        yield f"one bit, {kind} profile.png", png(picture.convert("1"), icc_profile=icc)
        yield f"RGB, {kind} profile.jpg", jpeg(picture, icc_profile=icc)
        yield f"L, {kind} profile.jpg", jpeg(picture.convert("L"), icc_profile=icc)
        yield f"CMYK, {kind} profile.jpg", jpeg(picture.convert("CMYK"), icc_profile=icc)
    yield "P3.jpg", jpeg(into(P3), icc_profile=P3)
    yield "Adobe RGB.jpg", jpeg(into(ADOBE), icc_profile=ADOBE)
    yield "CMYK.jpg", jpeg(picture.convert("CMYK"))
    first, second, third = P3[:100], P3[100:300], P3[300:]
    for name, parts in {
        "in three parts": [(1, 3, first), (2, 3, second), (3, 3, third)],
        "in any order": [(3, 3, third), (1, 3, first), (2, 3, second)],
        "a part missing": [(1, 3, first), (3, 3, third)],
        "a part twice": [(1, 3, first), (2, 3, second), (3, 3, third), (1, 3, first)],
        "twice": [(1, 1, P3), (1, 1, P3)],
        "two others": [(1, 1, P3), (1, 1, ADOBE)],
        "counts differ": [(1, 2, first), (2, 3, second), (3, 3, third)],
        "last count differs": [(1, 3, first), (2, 3, second), (3, 2, third)],
        "an empty part": [(1, 4, first), (2, 4, second), (3, 4, b""), (4, 4, third)],
        "counted from 0": [(0, 3, first), (1, 3, second), (2, 3, third)],
        "0 of 1": [(0, 1, P3)],
        "0 of 0": [(0, 0, P3)],
        "1 of 0": [(1, 0, P3)],
        "more parts than there are": [(1, 1, P3), (2, 1, second)],
        "and rubbish": [(1, 1, P3 + b"x" * 50)],
        "cut": [(1, 1, P3[:-3])],
        "half": [(1, 1, P3[:300])],
        "of no size": [(1, 1, bytes(4) + P3[4:])],
    }.items():
        yield f"profile {name}.jpg", segments(jpeg(picture), *profile_parts(*parts))


def structures() -> Iterator[tuple[str, bytes]]:
    picture = scene()
    plain = jpeg(picture)
    tables, scan = plain.index(b"\xff\xdb"), plain.index(b"\xff\xda")
    for name, added in {
        "comment of length 0": b"\xff\xfe\0\0", "comment of length 1": b"\xff\xfe\0\1", "comment of length 2": b"\xff\xfe\0\2",
        "EXIF of length 0": b"\xff\xe1\0\0", "fill bytes": b"\xff" * 9, "rubbish": b"\0\0abc", "stuffed rubbish": b"\xff\0\xff\0ab",
        "second start": b"\xff\xd8", "restart marker": b"\xff\xd3", "reserved marker": b"\xff\5\0\4ab", "JPG0": b"\xff\xf0\0\4ab",
    }.items():  # fmt: skip
        yield f"{name} at the start.jpg", plain[:2] + added + plain[2:]
        yield f"{name} before the tables.jpg", plain[:tables] + added + plain[tables:]
        yield f"{name} before the scan.jpg", plain[:scan] + added + plain[scan:]
    jfif, adobe = b"JFIF\0\1\1\0\0\1\0\1\0\0", b"Adobe\0\x64\0\0\0\0\0\0"
    rgb, bare = jpeg(picture, keep_rgb=True), plain[:2] + plain[20:]
    for length in (5, 9, 13, 14):
        yield f"RGB, JFIF of {length} bytes.jpg", segment(rgb, jfif[:length], 0xE0)
        yield f"YCbCr, JFIF of {length} bytes.jpg", segment(bare, jfif[:length], 0xE0)
    for length in (5, 11, 12, 13):
        yield f"RGB, Adobe's note of {length} bytes.jpg", segment(bare, adobe[:length], 0xEE)
        yield f"YCbCr, Adobe's note of {length} bytes.jpg", segment(rgb, (adobe[:11] + b"\1\0")[:length], 0xEE)
    yield "neither JFIF nor Adobe.jpg", bare
    yield "a trailer.jpg", plain + b"x" * 100_000
    yield "no end marker.jpg", plain[:-2]
    body, size = webp(picture)[12:], picture.size
    icc = riff_chunk(b"ICCP", P3)
    yield "plain.webp", riff(body)
    yield "canvas.webp", riff(canvas(*size), body)
    yield "profile.webp", riff(canvas(*size, 0x20), icc, body)
    yield "profile not announced.webp", riff(canvas(*size), icc, body)
    yield "profile announced and missing.webp", riff(canvas(*size, 0x20), body)
    yield "profile broken.webp", riff(canvas(*size, 0x20), riff_chunk(b"ICCP", b"junk"), body)
    yield "profile behind the pixels.webp", riff(canvas(*size, 0x20), body, icc)
    yield "two profiles.webp", riff(canvas(*size, 0x20), icc, riff_chunk(b"ICCP", ADOBE), body)
    yield "unknown chunks.webp", riff(canvas(*size), riff_chunk(b"abcd", b"hello"), body, riff_chunk(b"XXXX", b"12345"))
    yield "a chunk behind.webp", riff(body, riff_chunk(b"EXIF", b"abc"))
    yield "a trailer.webp", riff(body) + b"x" * 1_000
    for by in (-100, -1, 1, 100):
        yield f"size wrong by {by}.webp", riff(body, size=4 + len(body) + by)


@cache
def all_cases() -> dict[str, bytes]:
    made = [*orientations(), *png_colours(), *profiles(), *structures(), *reported().items()]
    names = dict(made)
    assert len(names) == len(made), "two cases have one name"
    del names[TOO_LARGE_TO_SEND]
    return names


# --- where we differ, and why

_HDR = "Films' HDR has no one way onto a screen: each browser bends the light above white in its own way, by screen"
_GAMMA = "libpng calls this gamma out of range, and a picture drawn by it is black or white"
_TOO_LONG = "libpng, which other browsers use, ignores a tRNS chunk of a wrong length, as the standard says"
_EXIF = "Chromium ignores EXIF in WebP; converters such as cwebp keep both the pixels and the tag of a phone's photo"

AS_STORED = {
    "gAMA 1.png": _GAMMA, "gAMA 100.png": _GAMMA, "gAMA 2000000.png": _GAMMA,
    "tRNS too long.png": _TOO_LONG, "palette, tRNS too long.png": _TOO_LONG,
}  # fmt: skip
OTHERWISE = {
    "EXIF.webp": _EXIF,
    "EXIF without a prefix.webp": _EXIF,
    "cICP 1 16.png": _HDR, "cICP 1 18.png": _HDR, "cICP 9 16.png": _HDR, "cICP 9 18.png": _HDR,
    "palette, cICP behind it.png": "what the chunk says is plain, and Chromium reads iCCP and gAMA there too",
}  # fmt: skip


def test_every_exception_is_a_case() -> None:
    assert set(AS_STORED) | set(OTHERWISE) <= set(all_cases())


@pytest.mark.parametrize("name", all_cases())
def test_a_picture_looks_as_in_the_browser(chrome: Chrome, name: str) -> None:
    data = all_cases()[name]
    ours, browser = in_ours(data), in_browser(chrome, name, data)
    stored = [list(scene().size), *map(list, COLOURS)]
    if name in AS_STORED:
        assert ours is not None and alike(ours, stored), f"{ours}. {AS_STORED[name]}"
    elif browser is None:  # nothing to compare with: we may know better, but must not show another picture
        assert ours is None or alike(ours, stored), ours
    elif name not in OTHERWISE:
        assert ours is not None, f"refused, and the browser shows {browser}"
        assert alike(ours, browser), f"ours {ours}, the browser {browser}"


@pytest.mark.parametrize("name", ["EXIF.webp", "EXIF without a prefix.webp"])
def test_a_webp_is_turned_by_its_exif_although_chromium_does_not(chrome: Chrome, name: str) -> None:
    data, as_jpeg = all_cases()[name], all_cases()["orientation 6.jpg"]
    ours, turned = in_ours(data), in_browser(chrome, "orientation 6.jpg", as_jpeg)
    assert ours is not None and turned is not None
    assert alike(ours, turned), _EXIF


@pytest.mark.parametrize("name", [name for name, reason in OTHERWISE.items() if reason == _HDR])
def test_hdr_is_upright_and_keeps_its_hues(chrome: Chrome, name: str) -> None:
    data = all_cases()[name]
    ours, browser = in_ours(data), in_browser(chrome, name, data)
    assert ours is not None and browser is not None
    assert ours[0] == browser[0], _HDR
    for one, other in zip(ours[1:4], browser[1:4], strict=True):  # red, green, blue; yellow is bent most
        assert one.index(max(one)) == other.index(max(other)), (one, other)
