"""Pictures of every colour mode and profile come out as sRGB, as they look."""

from __future__ import annotations

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from shared.errors import ErrorCode, ImageRejected
from shared.staging.colours import Colours, to_srgb
from tests.staging.pictures.parts import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    assert_pixel,
    assert_upright,
    chunk,
    encoded,
    normal,
    p3_profile,
    png,
    png_of,
    quadrants,
    srgb_profile,
)

# --- colour modes


def test_a_cmyk_jpeg() -> None:
    picture = Image.new("CMYK", (200, 100), (0, 255, 255, 0))
    picture.paste((255, 0, 255, 0), (100, 0, 200, 100))
    result = normal(encoded(picture, "JPEG", quality=95))
    assert result.getpixel((40, 50))[0] > 200
    assert max(result.getpixel((40, 50))[1:]) < 60
    assert result.getpixel((160, 50))[1] > 150
    assert result.getpixel((160, 50))[0] < 60


def test_a_grey_jpeg() -> None:
    assert_pixel(normal(encoded(Image.new("L", (100, 100), 77), "JPEG")), 0.5, 0.5, (77, 77, 77), 3)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, 256), (100, 1))
    result = np.asarray(normal(png_of(ramp, 0)), dtype=int)[50]
    wanted = np.linspace(0, 255, 256)[:, None]
    assert np.abs(result - wanted).max() <= 4


@pytest.mark.parametrize("level", [0, 40, 200, 255, 256, 300, 2000, 65535])
def test_16_bit_grey_is_scaled_by_its_depth_not_by_its_content(level: int) -> None:
    """A night shot whose brightest pixel is 200 of 65535 is black, not light grey."""
    result = normal(png_of(np.full((80, 80), level), 0))
    assert_pixel(result, 0.5, 0.5, (level // 257,) * 3, 2)


def test_16_bit_grey_with_one_level_transparent() -> None:
    values = np.full((80, 80), 65535)
    values[:, :40] = 20000
    result = normal(png_of(values, 0, chunk(b"tRNS", struct.pack(">H", 20000))))
    assert_pixel(result, 0.9, 0.5, WHITE, 3)


def test_16_bit_colour() -> None:
    values = np.zeros((80, 80, 3), dtype=np.uint16)
    values[..., 0], values[..., 1], values[..., 2] = 0x8000, 0x4000, 0xFFFF
    assert_pixel(normal(png_of(values, 2)), 0.5, 0.5, (0x80, 0x40, 0xFF), 5)
    transparent = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    assert_pixel(normal(png_of(values, 2, transparent)), 0.5, 0.5, (0x80, 0x40, 0xFF), 5)


def test_16_bit_with_alpha() -> None:
    grey = np.full((80, 80, 2), 0x8000)
    grey[..., 1] = 65535
    assert_pixel(normal(png_of(grey, 4)), 0.5, 0.5, (128, 128, 128), 4)
    colour = np.zeros((80, 80, 4))
    colour[..., 0] = 65535
    assert_pixel(normal(png_of(colour, 6)), 0.5, 0.5, WHITE, 3)


def test_transparency_is_laid_on_white() -> None:
    picture = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (50, 0, 100, 50))
    picture.paste((0, 0, 0, 128), (50, 50, 100, 100))
    for data in (encoded(picture), encoded(picture, "WEBP", lossless=True), encoded(picture, "HEIF", quality=-1)):
        result = normal(data)
        assert_pixel(result, 0.2, 0.5, WHITE, 6)
        assert_pixel(result, 0.75, 0.25, (254, 0, 0), 20)
        assert_pixel(result, 0.75, 0.75, (127, 127, 127), 8)


def test_a_palette_with_transparency() -> None:
    picture = Image.new("P", (90, 90), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.paste(1, (30, 0, 60, 90))
    picture.paste(2, (60, 0, 90, 90))
    several = normal(encoded(picture, transparency=bytes([0, 128, 255])))
    assert_pixel(several, 0.12, 0.5, WHITE, 20)
    assert_pixel(several, 0.5, 0.5, (127, 255, 127), 30)
    assert_pixel(several, 0.88, 0.5, (0, 0, 254), 30)
    assert_pixel(normal(encoded(picture, transparency=0)), 0.1, 0.5, WHITE, 20)
    assert_pixel(normal(encoded(picture)), 0.1, 0.5, (254, 0, 0), 20)


def test_a_palette_shorter_than_its_indices() -> None:
    rows = b"".join(b"\0" + bytes([200] * 80) for _ in range(80))
    data = png(80, 80, 8, 3, rows, chunk(b"PLTE", bytes(9)))
    try:
        normal(data)
    except ImageRejected as error:
        assert error.code is ErrorCode.NOT_A_PICTURE


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("1", 1, WHITE),
        ("1", 0, BLACK),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), WHITE),
        ("P", 0, BLACK),
        ("RGB", RED, RED),
        ("RGBA", (*BLUE, 255), BLUE),
        ("I;16", 0x9000, (0x90,) * 3),
    ],
)
def test_every_mode_a_png_can_have(mode: str, colour, wanted: tuple[int, int, int]) -> None:
    assert_pixel(normal(encoded(Image.new(mode, (80, 80), colour))), 0.5, 0.5, wanted, 5)


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "1", "LA", "RGBa", "RGBX", "YCbCr", "LAB", "HSV", "CMYK", "PA"])
def test_every_mode_a_decoder_might_give_becomes_rgb(mode: str) -> None:
    """F and I come out of no format we take today; a next Pillow may think otherwise (it did with 16-bit PNG)."""
    result = to_srgb(Image.new(mode, (70, 70)), Colours())
    assert (result.mode, result.size) == ("RGB", (70, 70))


def test_the_first_frame_of_an_animated_webp() -> None:
    frames = [Image.new("RGB", (100, 80), colour) for colour in (GREEN, BLUE)]
    data = encoded(quadrants(100, 80), "WEBP", save_all=True, append_images=frames, duration=100, lossless=True)
    assert_upright(normal(data))


def test_an_animated_png_is_its_default_picture() -> None:
    data = encoded(quadrants(), save_all=True, append_images=[Image.new("RGB", (240, 160), BLACK)], duration=100)
    assert_upright(normal(data))


def test_heic() -> None:
    assert_upright(normal(encoded(quadrants(), "HEIF", quality=90)))


def test_a_heic_with_several_pictures_is_its_primary_one() -> None:
    container = pillow_heif.HeifFile()
    container.add_from_pillow(Image.new("RGB", (240, 160), BLACK))
    container.add_from_pillow(quadrants())
    out = io.BytesIO()
    container.save(out, quality=90, primary_index=1)
    assert_upright(normal(out.getvalue()))


def test_progressive_and_interlaced_pictures() -> None:
    assert_upright(normal(encoded(quadrants(), "JPEG", progressive=True)))
    assert_upright(normal(encoded(quadrants(), "JPEG", subsampling="4:1:1", restart_marker_rows=1)))


# --- colour profiles


def p3_as_srgb(colour: tuple[int, int, int]) -> tuple[int, ...]:
    matrix = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(matrix @ linear, 0, 1)
    return tuple(
        np.round(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).astype(int)
    )


P3_COLOUR = (190, 90, 70)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_display_p3_becomes_srgb(format_: str) -> None:
    wanted = p3_as_srgb(P3_COLOUR)
    assert max(abs(a - b) for a, b in zip(wanted, P3_COLOUR, strict=True)) > 10, "otherwise the test shows nothing"
    options = {"icc_profile": p3_profile(), "quality": 95}
    if format_ == "PNG":
        del options["quality"]
    data = encoded(Image.new("RGB", (100, 100), P3_COLOUR), format_, **options)
    assert_pixel(normal(data), 0.5, 0.5, wanted, 5)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_display_p3_with_an_alpha_channel_becomes_srgb_too(format_: str) -> None:
    """Screenshots on a Mac are exactly this."""
    options = {"lossless": True} if format_ == "WEBP" else {}
    picture = Image.new("RGBA", (100, 100), (*P3_COLOUR, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    data = encoded(picture, format_, icc_profile=p3_profile(), **options)
    assert_pixel(normal(data), 0.5, 0.5, p3_as_srgb(P3_COLOUR), 5)


def test_an_srgb_profile_changes_nothing() -> None:
    data = encoded(Image.new("RGB", (100, 100), P3_COLOUR), icc_profile=srgb_profile())
    assert_pixel(normal(data), 0.5, 0.5, P3_COLOUR, 4)


@pytest.mark.parametrize(
    "profile",
    [b"x", b"junk" * 100, srgb_profile()[:150], srgb_profile()[:128] + b"\xff" * 400, bytes(2000)],
    ids=["a byte", "junk", "truncated", "lying table", "zeros"],
)
def test_an_unusable_profile_is_ignored(profile: bytes) -> None:
    for picture, format_ in ((Image.new("RGB", (80, 80), RED), "PNG"), (Image.new("CMYK", (80, 80)), "JPEG")):
        normal(encoded(picture, format_, icc_profile=profile))


def test_a_profile_of_the_wrong_kind_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for mode, format_ in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG")):
        for profile in (lab, srgb_profile()):
            normal(encoded(Image.new(mode, (80, 80)), format_, icc_profile=profile))
