"""PNG files of the field: chunks beside the pixels."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from shared.errors import ErrorCode, ImageRejected
from shared.staging import pictures
from tests.field.picture_parts import COLOURS, any_png, chunk, palette_png, raw_png, scene
from tests.field.pictures.parts import (
    LIMITS,
    SMALL,
    Colour,
    assert_upright,
    decoded,
    off,
    quadrants,
    refusal,
    staged,
    staged_or_refused,
)


def pixels_of(picture: Image.Image | None = None) -> np.ndarray:
    return np.asarray(picture or scene(*SMALL))


REGISTERED = (
    b"cHRM", b"cICP", b"gAMA", b"iCCP", b"mDCV", b"mDCv", b"cLLI", b"cLLi", b"sBIT", b"sRGB", b"bKGD", b"hIST", b"tRNS", b"pHYs",
    b"sPLT", b"eXIf", b"tIME", b"acTL", b"fcTL", b"fdAT", b"tEXt", b"zTXt", b"iTXt", b"oFFs", b"pCAL", b"sCAL", b"gIFg",
    b"gIFx", b"gIFt", b"sTER", b"dSIG", b"fRAc",
)  # fmt: skip
PRIVATE = (
    b"caBX",
    b"iDOT",
    b"vpAg",
    b"npTc",
    b"orNT",
    b"prVW",
    b"mkBF",
    b"mkBS",
    b"mkTS",
    b"meTa",
    b"exIf",
    b"abcd",
    b"zzzZ",
)
LENGTHS = {b"cHRM": 32, b"cICP": 4, b"gAMA": 4, b"sRGB": 1, b"tRNS": 6}  # of those that say how pixels are meant


def png_bases() -> dict[str, tuple[bytes, bytes, bytes, list[Colour]]]:
    """By colour type: the file up to its pixels, the pixels, the end, and the colours of the quadrants."""
    found = {}
    rgb = pixels_of()
    grey = pixels_of(scene(*SMALL).convert("L"))
    opaque = np.full((SMALL[1], SMALL[0], 1), 255, np.uint8)
    levels = [(value,) * 3 for value in (Image.new("RGB", (1, 1), c).convert("L").getpixel((0, 0)) for c in COLOURS)]
    made = {
        "RGB": (any_png(rgb, 2), list(COLOURS)),
        "RGB, 16 bits": (any_png((rgb.astype(">u2") * 257).astype(">u2"), 2), list(COLOURS)),
        "RGBA": (any_png(np.dstack([rgb, opaque]), 6), list(COLOURS)),
        "grey": (any_png(grey, 0), levels),
        "grey and alpha": (any_png(np.dstack([grey, opaque]), 4), levels),
        "palette": (palette_png(scene(*SMALL)), list(COLOURS)),
    }
    for name, (data, colours) in made.items():
        place = data.index(b"IDAT") - 4
        found[name] = (data[:place], data[place:-12], data[-12:], colours)
    return found


def chunk_bodies(chance: random.Random, kind: bytes) -> Iterator[tuple[bytes, int | None]]:
    """Yield (body, checksum): empty, too short, too long, random, with a right and a wrong checksum."""
    right = LENGTHS.get(kind, 20)
    for length in (0, 1, right - 1, right, right + 1, 80, 300):
        body = chance.randbytes(length)
        yield body, None
        yield body, chance.randrange(2**32)


@pytest.mark.parametrize("base", png_bases())
def test_ancillary_chunks_never_refuse_or_turn_a_picture(base: str) -> None:
    """45 kinds and 10 random names, 14 bodies, 4 places, in each of 6 colour types: 18,480 pictures.

    The colours are right too, but where a chunk validly says that they are meant otherwise.
    """
    head, data, end, colours = png_bases()[base]
    chance = random.Random(base)
    names = [bytes([chance.choice(b"abcxyz"), *(chance.choice(b"abcXYZ") for _ in range(3))]) for _ in range(10)]
    half = 8 + len(data) // 2
    split = chunk(b"IDAT", data[8:half]), chunk(b"IDAT", data[half:-4])
    tried = 0
    for kind in (*REGISTERED, *PRIVATE, *names):
        for body, checksum in chunk_bodies(chance, kind):
            odd = chunk(kind, body, checksum)
            means_something = checksum is None and len(body) == LENGTHS.get(kind)
            for place, made in {
                "before": head + odd + data + end,
                "between": head + split[0] + odd + split[1] + end,
                "after": head + data + odd + end,
                "behind the end": head + data + end + odd,
            }.items():
                tried += 1
                if place == "before" and (means_something or (kind == b"tRNS" and base == "palette")):
                    assert decoded(staged(made, (kind, body, place))).size == SMALL
                else:
                    assert_upright(made, (kind, body.hex(), checksum, place), colours)
    assert tried == 3_080


def test_lengths_that_lie_never_show_another_picture() -> None:
    """A chunk's length off by some bytes or by gigabytes, before and after the pixels: 60 pictures.

    Nobody can find the pixels behind such a chunk. Before it they are found.
    """
    head, data, end, _ = png_bases()["RGB"]
    tried = 0
    for kind in (b"tEXt", b"eXIf", b"pHYs"):
        for by in (-8, -4, -1, 1, 4, 12, 5_000, 2**20, 2**31 - 30, 2**32 - 20):
            body = b"Comment\0words and more words"
            lying = struct.pack(">I", (len(body) + by) % 2**32) + kind + body + bytes(4)
            assert_upright(head + data + lying + end, (kind, by))
            message = refusal(head + lying + data + end, (kind, by))
            assert "PNG" in message
            assert "damaged" in message
            tried += 2
    assert tried == 60


def test_a_chunk_whose_name_is_no_name_is_passed_over() -> None:
    """Browsers show such files when the chunk's checksum is right: 300 pictures."""
    head, data, end, _ = png_bases()["RGB"]
    chance = random.Random("names")
    tried = 0
    while tried < 300:
        kind = chance.randbytes(4)
        if not kind.isalpha():
            odd = chunk(kind, chance.randbytes(chance.randrange(50)))
            assert_upright(head + odd + data + end, kind)
            assert_upright(head + data + odd + end, kind)
            tried += 2


@pytest.mark.parametrize("base", png_bases())
def test_a_damaged_critical_chunk_is_said_to_be_a_damaged_png(base: str) -> None:
    """Every byte of a small file changed in two ways, removed, doubled, and the file cut there, in 6 colour types.

    Either the file is refused as a damaged PNG, or every pixel is the whole file's.
    """
    small = {name: made for name, made in png_bases().items() if name == base}[base]
    data = b"".join(small[:3])
    whole = staged(data)
    taken = 0
    for place in range(4, len(data)):
        for changed in (
            data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :],
            data[:place] + bytes([data[place] ^ 0x81]) + data[place + 1 :],
            data[:place] + data[place + 1 :],
            data[:place] + data[place : place + 1] + data[place:],
            data[:place],
        ):
            answer = staged_or_refused(changed, place)
            if isinstance(answer, bytes):
                taken += 1
                assert answer == whole, f"byte {place} of {len(data)}: another picture"
            else:
                assert "PNG" in answer, (place, answer)
                assert "damaged" in answer, (place, answer)
                assert "none of" not in answer
    assert taken < len(data), "most of it must matter"


def test_pixels_with_a_wrong_checksum_are_checked_within_a_limit() -> None:
    """1 bomb: 700 MB in 700 KB. No picture within the limits is so large, so nobody has to inflate it to its end."""
    packing = zlib.compressobj(9, wbits=-15)
    megabyte = packing.compress(bytes(1 << 20)) + packing.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">I", ((700 << 20) % 65_521) << 16 | 1)
    bomb = b"\x78\x9c" + megabyte * 700 + b"\3\0" + checksum
    head, _, end, _ = png_bases()["RGB"]
    assert "damaged" in refusal(head + chunk(b"IDAT", bomb, 0) + end)


def test_a_png_header_of_any_content_is_a_png() -> None:
    """2,000 headers with a right checksum: sizes, depths, types and methods that cannot be, and such as can."""
    chance = random.Random("headers")
    _, data, end, _ = png_bases()["RGB"]
    tried = 0
    for _ in range(2_000):
        width, height = (chance.choice((0, 1, 64, 72, 95, 96, 97, 1_000)) for _ in range(2))
        odd = struct.pack(">II", width, height) + bytes(chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
        try:
            pictures.normalise(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", odd) + data + end, LIMITS)
        except ImageRejected as error:
            if error.code is not ErrorCode.PICTURE_TOO_SMALL:
                assert "PNG" in error.message, (odd, error.message)
                assert "damaged" in error.message
        tried += 1
    assert tried == 2_000


def test_transparency_counts_only_before_the_pixels() -> None:
    """5 pictures: browsers pass over a tRNS chunk behind the pixels, and before the palette that it belongs to."""
    half = len(COLOURS) // 2
    red = struct.pack(">3H", *COLOURS[0])
    white = [(255, 255, 255)]
    assert_upright(any_png(pixels_of(), 2, chunk(b"tRNS", red)), "before", white + list(COLOURS[1:]))
    assert_upright(any_png(pixels_of(), 2, after=chunk(b"tRNS", red)), "after")
    assert_upright(palette_png(scene(*SMALL), chunk(b"tRNS", bytes(4))), "before", white * 2 * half)
    assert_upright(palette_png(scene(*SMALL), after=chunk(b"tRNS", bytes(4))), "after")
    assert_upright(palette_png(scene(*SMALL), before=chunk(b"tRNS", bytes(4))), "before the palette")


def test_of_two_notes_on_colours_the_first_that_can_be_counts() -> None:
    """3 pairs."""
    linear, screen = chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"gAMA", struct.pack(">I", 45_455))
    light = quadrants(decoded(staged(raw_png(pixels_of(), linear))))
    assert off(light, list(COLOURS)) > 60
    assert_upright(raw_png(pixels_of(), screen, linear), "both can be")
    assert_upright(raw_png(pixels_of(), chunk(b"gAMA", b"\0"), linear), "the first is too short", light)
    assert_upright(raw_png(pixels_of(), chunk(b"gAMA", struct.pack(">I", 45_455), 0), linear), "the first's sum", light)
