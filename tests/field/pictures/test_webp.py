"""WebP files of the field: what stands beside the pixels, and where they end."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from tests.field.picture_parts import ADOBE, COLOURS, P3, canvas, riff, riff_chunk, scene, tiff, webp, xmp
from tests.field.pictures.parts import (
    EXIF,
    SMALL,
    WITHIN,
    assert_upright,
    decoded,
    junk_entry,
    noise,
    off,
    quadrants,
    staged,
    staged_or_refused,
)


def webp_kinds() -> dict[str, tuple[bytes, bool]]:
    """The chunks of a picture, and whether it is animated. VP8X is left to the tests."""
    picture = scene(*SMALL)
    alpha = picture.convert("RGBA")
    alpha.putpixel((0, 0), (1, 2, 3, 100))
    moving = webp(picture, save_all=True, append_images=[Image.new("RGB", SMALL)], duration=50)
    still = webp(alpha)
    assert still[12:16] == moving[12:16] == b"VP8X"
    return {
        "lossy": (webp(picture)[12:], False),
        "lossless": (webp(picture, lossless=True)[12:], False),
        "alpha": (still[30:], False),
        "animated": (moving[30:], True),
    }


@pytest.mark.parametrize("kind", webp_kinds())
def test_webp_chunks_beside_the_pixels_change_nothing(kind: str) -> None:
    """700 files of each of 4 kinds: EXIF, XMP, profiles and unknown chunks of any content, wrong sizes, missing padding,
    flags that lie."""
    body, animated = webp_kinds()[kind]
    chance = random.Random(kind)
    tried = 0
    for _ in range(700):
        before, after = [], []
        for _ in range(chance.randrange(4)):
            name = chance.choice((b"EXIF", b"XMP ", b"ICCP", b"abcd", b"UNKN", b"\0\0\0\0", chance.randbytes(4)))
            if name in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"):
                continue
            content = chance.randbytes(chance.choice((0, 1, 2, 3, 7, 8, 50, 501)))
            if name == b"EXIF" and chance.random() < 0.5:
                content = chance.choice((EXIF, b"")) + tiff([junk_entry(chance, chance.randrange(0x111), 2)])
            if name == b"XMP ":
                content = chance.choice((content, xmp(6), xmp(3, element=True)))
            chance.choice((before, after)).append(riff_chunk(name, content))
        if after and chance.random() < 0.2:
            after[-1] = after[-1][: chance.randrange(len(after[-1]))]  # the file ends in it
        flags = (
            chance.choice((0, 0x08, 0x20, 0x2C, 0xC1)) | (0x02 if animated else 0) | (0x10 if kind == "alpha" else 0)
        )
        parts = [canvas(*SMALL, flags), *before, body, *after]
        right = 4 + sum(map(len, parts))
        size = chance.choice((right, right, right - 1, right + 1, right + 1_000, right // 2, 0, 12, 2**32 - 1))
        assert_upright(riff(*parts, size=size), (flags, before, after, size))
        tried += 1
    assert tried == 700


@pytest.mark.parametrize("kind", ["lossy", "lossless", "alpha"])
def test_a_webp_that_ends_too_early_is_staged_only_with_all_its_pixels(kind: str) -> None:
    """Cut at each of the last 64 bytes and at 60 other places, in 3 kinds."""
    picture = noise().convert("RGBA" if kind == "alpha" else "RGB")
    if kind == "alpha":
        picture.putalpha(noise().convert("L"))
    data = webp(picture, lossless=kind == "lossless")
    whole = staged(data)
    chance = random.Random(kind)
    for cut in {*range(len(data) - 64, len(data)), *(chance.randrange(12, len(data)) for _ in range(60))}:
        answer = staged_or_refused(data[:cut])
        if isinstance(answer, bytes):
            assert answer == whole, f"{cut} of {len(data)} bytes are another picture"
        else:
            assert "WebP" in answer, answer
            assert "damaged" in answer, answer


def test_a_webp_profile_counts_where_browsers_read_it() -> None:
    """4 files: the flag must announce the profile, and the first of two counts."""
    raw = Image.open(io.BytesIO(webp(scene(*SMALL)))).convert("RGB")
    body = webp(raw)[12:]
    wide = quadrants(decoded(staged(riff(canvas(*SMALL, 0x20), riff_chunk(b"ICCP", P3), body))))
    assert off(wide, list(COLOURS)) > WITHIN
    two = riff(canvas(*SMALL, 0x20), riff_chunk(b"ICCP", P3), riff_chunk(b"ICCP", ADOBE), body)
    assert_upright(two, "two profiles", wide, 6)
    assert_upright(riff(canvas(*SMALL, 0), riff_chunk(b"ICCP", P3), body), "not announced")
    assert_upright(riff(canvas(*SMALL, 0x20), body), "announced, but not there")
