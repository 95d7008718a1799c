"""ICC profiles of the field: whole, broken, missing, and of other kinds of colour."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from tests.field.picture_parts import (
    COLOURS,
    P3,
    any_png,
    chunk,
    grey_profile,
    ink_profile,
    jpeg,
    palette_png,
    profile_chunk,
    profile_parts,
    scene,
    segments,
)
from tests.field.pictures.parts import SMALL, WITHIN, Colour, assert_upright, decoded, off, quadrants, staged

LEVELS = [Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) for colour in COLOURS]
LINEAR = grey_profile(1.0)
INKS = ink_profile({
    (0, 0, 0, 0): (255, 128, 128), (1, 0, 0, 0): (136, 208, 195), (0, 1, 0, 0): (82, 207, 20), (0, 0, 1, 0): (223, 119, 222),
})  # fmt: skip


def wide(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(io.BytesIO(P3))
    return ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), profile, outputMode="RGB")


def in_modes() -> dict[str, tuple[bytes, bytes | None, list[Colour]]]:
    """A file without a profile in each mode, the profile that fits it, and the colours that the profile makes of it."""
    rgb = np.asarray(wide(scene(*SMALL)))
    light = np.zeros((SMALL[1], SMALL[0]), np.uint8)
    for number, level in enumerate(LEVELS):
        value = level / 255
        value = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        x, y = number % 2 * SMALL[0] // 2, number // 2 * SMALL[1] // 2
        light[y : y + SMALL[1] // 2, x : x + SMALL[0] // 2] = round(255 * value)
    opaque = np.full((*light.shape, 1), 255, np.uint8)
    deep = lambda values: (values.astype(">u2") * 257).astype(">u2")
    greys, colours = [(level,) * 3 for level in LEVELS], list(COLOURS)
    inks = Image.new("CMYK", SMALL)
    for number, ink in enumerate(((255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 0))):
        inks.paste(ink, (number % 2 * SMALL[0] // 2, number // 2 * SMALL[1] // 2, *SMALL))
    return {
        "L": (any_png(light, 0), LINEAR, greys),
        "L, 16 bits": (any_png(deep(light), 0), LINEAR, greys),
        "L with a transparent level": (any_png(light, 0, chunk(b"tRNS", b"\0\1")), LINEAR, greys),
        "LA": (any_png(np.dstack([light, opaque]), 4), LINEAR, greys),
        "LA, 16 bits": (any_png(deep(np.dstack([light, opaque])), 4), LINEAR, greys),
        "P": (palette_png(Image.fromarray(rgb)), P3, colours),
        "P with transparency": (palette_png(Image.fromarray(rgb), chunk(b"tRNS", b"\xff" * 4)), P3, colours),
        "RGB": (any_png(rgb, 2), P3, colours),
        "RGB, 16 bits": (any_png(deep(rgb), 2), P3, colours),
        "RGB with a transparent colour": (any_png(rgb, 2, chunk(b"tRNS", bytes(6))), P3, colours),
        "RGBA": (any_png(np.dstack([rgb, opaque]), 6), P3, colours),
        "RGBA, 16 bits": (any_png(deep(np.dstack([rgb, opaque])), 6), P3, colours),
        "RGB JPEG": (jpeg(Image.fromarray(rgb)), P3, colours),
        "L JPEG": (jpeg(Image.fromarray(light)), LINEAR, greys),
        "CMYK JPEG": (jpeg(inks), INKS, [(251, 0, 0), (87, 0, 255), (236, 222, 0), (255, 255, 255)]),
    }


def with_profile(data: bytes, icc: bytes) -> bytes:
    if data.startswith(b"\xff\xd8"):
        return segments(data, *profile_parts((1, 1, icc)))
    return data[:33] + profile_chunk(icc) + data[33:]  # behind IHDR


@pytest.mark.parametrize("mode", in_modes())
def test_a_profile_that_fits_is_used_and_any_other_is_ignored(mode: str) -> None:
    """The right one, two or three of other kinds, and 40 that are damaged, in each of 15 modes: 654 pictures."""
    data, right, colours = in_modes()[mode]
    assert_upright(with_profile(data, right), "the right one", colours, 20)
    plain = quadrants(decoded(staged(data)))
    assert off(plain, colours) > 20, "the profile must make a difference"
    chance = random.Random(mode)
    for other in (LINEAR, P3, INKS, bytes(200)):
        grey_in_wide = other == P3 and mode.startswith("L")  # grey fits a profile for RGB, and has no colour to change
        if other is not right and not grey_in_wide:
            assert_upright(with_profile(data, other), ("another kind", other[16:20]), plain, 6)
    for number in range(40):
        broken = bytearray(right)
        match number % 4:
            case 0:
                del broken[chance.randrange(len(broken)) :]
            case 1:
                for _ in range(5):
                    broken[chance.randrange(len(broken))] = chance.randrange(256)
            case 2:
                broken[128:] = chance.randbytes(len(broken) - 128)
            case 3:
                broken[:] = chance.randbytes(chance.randrange(500))
        picture = decoded(staged(with_profile(data, bytes(broken)), (number, bytes(broken))))
        assert picture.size == SMALL
        if number % 4 in (2, 3):
            assert off(quadrants(picture), plain) <= 6


def test_a_profile_in_many_segments_is_put_together_or_ignored() -> None:
    """600 photos: a profile in 1 to 255 parts, in any order, among other segments; with one missing it is ignored."""
    chance = random.Random("parts")
    plain = jpeg(wide(scene(*SMALL)))
    dull = quadrants(decoded(staged(plain)))
    assert off(dull, list(COLOURS)) > WITHIN
    for number in range(600):
        count = chance.choice((1, 2, 3, 5, 17, 255))
        cuts = sorted(chance.sample(range(1, len(P3)), count - 1))
        bodies = [P3[start:end] for start, end in zip([0, *cuts], [*cuts, len(P3)], strict=True)]
        parts = profile_parts(*((index, count, body) for index, body in enumerate(bodies, 1)))
        chance.shuffle(parts)
        missing = number % 2
        if missing:
            parts.remove(chance.choice(parts))
        for _ in range(3):
            parts.insert(
                chance.randrange(len(parts) + 1), (0xE2, chance.choice((b"MPF\0junk", b"ICC_PROFILE", b"FPXR\0")))
            )
        assert_upright(segments(plain, *parts), (number, count), dull if missing else None)


def test_parts_of_a_profile_that_contradict_one_another() -> None:
    """7 photos: what browsers ignore is ignored."""
    plain = jpeg(wide(scene(*SMALL)))
    dull = quadrants(decoded(staged(plain)))
    first, second = P3[:200], P3[200:]
    assert_upright(segments(plain, *profile_parts((1, 3, first), (2, 2, second))), "the last count differs", dull)
    assert_upright(segments(plain, *profile_parts((1, 2, first), (2, 3, second))), "the first count differs", dull)
    assert_upright(segments(plain, *profile_parts((1, 3, first), (2, 3, b""), (3, 3, second))), "an empty part", dull)
    assert_upright(segments(plain, *profile_parts((1, 1, P3), (2, 1, second))), "more than there are")
    assert_upright(segments(plain, *profile_parts((0, 2, first), (1, 2, second))), "counted from 0", dull)
    assert_upright(segments(plain, *profile_parts((1, 0, P3))), "one of none", dull)
    assert_upright(segments(plain, *profile_parts((1, 1, P3), (1, 1, P3))), "the same twice")
