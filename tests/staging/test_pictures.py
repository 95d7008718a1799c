"""Pictures from cameras, phones, CRMs and attackers: upright clean sRGB comes out, or a coded refusal; nothing else."""

from __future__ import annotations

import hashlib
import io
import math
import random
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from shared.errors import ErrorCode, ImageRejected, WorldError, WrongShape
from shared.ports import Photo
from shared.settings import PhotoLimits
from shared.staging import pictures, shapes
from shared.staging.colours import Colours, to_srgb

pillow_heif.register_heif_opener()

LIMITS = PhotoLimits()
RED, GREEN, BLUE, YELLOW, WHITE, BLACK = (
    (220, 20, 30),
    (20, 200, 40),
    (30, 40, 220),
    (230, 220, 20),
    (255,) * 3,
    (0,) * 3,
)
CORNERS = {"top left": RED, "top right": GREEN, "bottom left": BLUE, "bottom right": YELLOW}


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product sets Pillow's limit for the whole process, which is a subprocess of its own; here it must not stay."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


# --- makers


def encoded(picture: Image.Image, format_: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, format_, **options)
    return out.getvalue()


def quadrants(width: int = 240, height: int = 160) -> Image.Image:
    """A colour in each corner: every turn and mirroring of it is another picture."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(YELLOW, (width // 2, height // 2, width, height))
    return picture


def noise(width: int, height: int, seed: int = 1) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand: what Pillow cannot or would not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def png_of(values: np.ndarray, colour_type: int, *extra: bytes) -> bytes:
    """A 16-bit PNG of an array of (height, width) or (height, width, channels)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour_type, rows, *extra)


def decoded(photo: Photo) -> Image.Image:
    with Image.open(io.BytesIO(photo.jpeg)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        assert picture.size == (photo.width, photo.height)
        picture.load()
        return picture


def normal(data: bytes, limits: PhotoLimits = LIMITS) -> Image.Image:
    return decoded(pictures.normalise(data, limits))


def refused(data: bytes, code: ErrorCode | None = None, limits: PhotoLimits = LIMITS) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        pictures.normalise(data, limits)
    assert code is None or caught.value.code is code, caught.value
    assert caught.value.message
    assert len(caught.value.message) < 500
    return caught.value


def near(found: tuple[int, ...], wanted: tuple[int, ...], within: int = 14) -> bool:
    return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


def assert_pixel(picture: Image.Image, x: float, y: float, wanted: tuple[int, int, int], within: int = 14) -> None:
    place = (int(x * (picture.width - 1)), int(y * (picture.height - 1)))
    found = picture.getpixel(place)
    assert near(found, wanted, within), f"at {place}: {found}, not {wanted}"


def assert_upright(picture: Image.Image) -> None:
    assert picture.width > picture.height
    for (x, y), wanted in zip(((0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)), CORNERS.values(), strict=True):
        assert_pixel(picture, x, y, wanted, 20)


# --- orientation

# What a camera that was held so stores: the inverse of what a viewer has to do.
STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda picture: picture,
    2: lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    4: lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    6: lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    8: lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
}


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", STORED)
def test_a_turned_photo_stands_upright(value: int, format_: str) -> None:
    assert_upright(normal(encoded(STORED[value](quadrants()), format_, exif=orientation(value))))


@pytest.mark.parametrize("value", STORED)
def test_a_turned_heic_photo_stands_upright_and_is_not_turned_twice(value: int) -> None:
    data = encoded(STORED[value](quadrants()), "HEIF", exif=orientation(value).tobytes(), quality=90)
    assert_upright(normal(data))


@pytest.mark.parametrize("value", [0, 9, 42, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    assert_upright(normal(encoded(quadrants(), "JPEG", exif=orientation(value))))


def test_turning_comes_before_fitting() -> None:
    limits = PhotoLimits(max_side_pixels=120)
    picture = normal(encoded(STORED[6](quadrants()), "JPEG", exif=orientation(6)), limits)
    assert picture.size == (120, 80)
    assert_upright(picture)


# --- metadata


def test_no_metadata_comes_out() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    exif[0x9286] = "SECRETUSER"
    exif.get_ifd(0x8825).update({1: "S", 2: (23.0, 33.0, 1.0), 3: "W", 4: (46.0, 38.0, 1.0)})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><SECRETXMP/></x:xmpmeta>'
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(
        quadrants(), "JPEG", exif=exif, xmp=xmp, comment=b"SECRETCOMMENT", icc_profile=profile, dpi=(300, 300)
    )
    for planted in (b"Exif\0", b"SECRETMAKER", b"SECRETXMP", b"SECRETCOMMENT", b"ICC_PROFILE"):
        assert planted in data, "the test must plant what it looks for"

    photo = pictures.normalise(data, LIMITS)

    for trace in (b"Exif", b"SECRET", b"xmp", b"adobe", b"ICC_PROFILE", b"GPS"):
        assert trace not in photo.jpeg
    with Image.open(io.BytesIO(photo.jpeg)) as clean:
        assert not clean.getexif()
        assert set(clean.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert clean.info.get("jfif_density", (1, 1)) == (1, 1)


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "HEIF"])
def test_no_metadata_comes_out_of_other_formats(format_: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    options: dict[str, object] = {"exif": exif.tobytes()}
    if format_ == "PNG":
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "SECRETTEXT")
        text.add_itxt("XML:com.adobe.xmp", "<x>SECRETXMP</x>")
    else:
        options["xmp"] = b"<x>SECRETXMP</x>"
    data = encoded(quadrants(), format_, **options)
    assert b"SECRETMAKER" in data
    photo = pictures.normalise(data, LIMITS)
    assert b"SECRET" not in photo.jpeg
    assert b"Exif" not in photo.jpeg


def test_nothing_behind_the_end_of_a_picture_is_carried_on() -> None:
    data = encoded(quadrants(), "JPEG") + b"PK\x03\x04SECRETZIP" * 50
    assert b"SECRETZIP" not in pictures.normalise(data, LIMITS).jpeg


CORRUPT_EXIF = {
    "cut in the directory": b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x01",
    "directory longer than the data": b"Exif\0\0II*\0\x08\0\0\0\x20\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0",
    "directory outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "no TIFF": b"Exif\0\0junkjunkjunk",
    "empty": b"Exif\0\0",
    "orientation is text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0A\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("exif", CORRUPT_EXIF.values(), ids=CORRUPT_EXIF)
def test_damaged_metadata_does_not_damage_the_picture(exif: bytes) -> None:
    """Editors and CRMs cut EXIF blocks every day; every viewer shows those photos."""
    assert_upright(normal(encoded(quadrants(), "JPEG", exif=exif)))


@pytest.mark.parametrize("body", [b"MPF\0junk", b"MPF\0II*\0\x08\0\0\0\0\0"])
def test_a_jpeg_with_a_damaged_multi_picture_note_is_a_jpeg(body: bytes) -> None:
    """Phones write such notes (MPF: depth map, HDR gain map), tools that crop the file leave them behind."""
    data = encoded(quadrants(), "JPEG")
    note = b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    assert_upright(normal(data[:2] + note + data[2:]))


def test_a_multi_picture_file_of_a_phone_is_its_first_picture() -> None:
    data = encoded(quadrants(), "MPO", save_all=True, append_images=[Image.new("RGB", (240, 160), BLACK)])
    assert_upright(normal(data))


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


@cache
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


P3_PRIMARIES = {  # Display P3, adapted to D50 as ICC profiles have them
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


@cache
def p3_profile() -> bytes:
    """Apple's Display P3 is sRGB's curve with wider primaries: the sRGB profile with those three tags rewritten."""
    data = bytearray(srgb_profile())
    (count,) = struct.unpack_from(">I", data, 128)
    for index in range(count):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if name in P3_PRIMARIES:
            struct.pack_into(">iii", data, offset + 8, *(round(value * 65536) for value in P3_PRIMARIES[name]))
    return bytes(data)


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


# --- what it really is


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


def whole(format_: str) -> bytes:
    return encoded(noise(200, 150), format_)


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


# --- finish


@cache
def photo_of(width: int, height: int, colour: tuple[int, int, int] = BLUE) -> Photo:
    return pictures.normalise(encoded(Image.new("RGB", (width, height), colour), compress_level=1), LIMITS)


SIZES = [
    (1536, 1024),
    (1024, 1536),
    (2048, 1365),
    (1365, 2048),
    (800, 800),
    (640, 480),
    (2048, 64),
    (64, 2048),
    (101, 97),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("off", [-0.028, 0.0, 0.028])
def test_the_output_has_the_photos_ratio(size: tuple[int, int], scale: float, off: float) -> None:
    """Answered in the shape that was asked for, as exactly as vendors do ("4:3" as 1184 x 864)."""
    photo = photo_of(*size)
    shown = pictures.framed(photo, LIMITS)
    answered = (max(1, round(shown.width * scale * (1 + off))), max(1, round(shown.height * scale)))
    finished = pictures.finish(encoded(Image.new("RGB", answered, RED), compress_level=1), photo, LIMITS)

    with Image.open(io.BytesIO(finished.jpeg)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (finished.width, finished.height)
        assert near(picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2)), RED, 6)
    assert max(picture.size) <= LIMITS.max_side_pixels
    scale = max(picture.size) / max(photo.width, photo.height)
    assert abs(picture.width - photo.width * scale) <= 1
    assert abs(picture.height - photo.height * scale) <= 1
    assert finished.sha256 == hashlib.sha256(finished.jpeg).hexdigest()

    for data, colour in ((finished.thumbnail, RED), (finished.before, BLUE)):
        with Image.open(io.BytesIO(data)) as small:
            assert small.format == "JPEG"
            assert max(small.size) <= LIMITS.thumbnail_side_pixels
            wide = small.width / small.height
            assert abs(small.height * wide - small.width) < 1
            assert abs(small.width * photo.height / photo.width - small.height) <= 2 * max(
                1, photo.height / photo.width
            )
            assert near(small.convert("RGB").getpixel((small.width // 2, small.height // 2)), colour, 8)


@pytest.mark.parametrize("size", [(1200, 900), (900, 1200), (1600, 1000), (2048, 700), (700, 2048), (1000, 1000)])
def test_a_picture_of_another_shape_is_never_cut_to_fit(size: tuple[int, int]) -> None:
    photo = photo_of(*size)
    asked = shapes.frame(*size) or size
    tried = 0
    for ratio in shapes.RATIOS:
        across, down = map(int, ratio.split(":"))
        if abs(math.log(across / down * asked[1] / asked[0])) <= shapes.TOLERANCE:
            continue
        tried += 1
        with pytest.raises(WrongShape, match=f"the photo {size[0]} x {size[1]}"):
            pictures.finish(encoded(Image.new("RGB", (across * 40, down * 40), RED), compress_level=1), photo, LIMITS)
    assert tried >= 8


@pytest.mark.parametrize("size", [(1600, 1000), (2048, 300), (300, 2048), (1000, 620), (640, 480), (2048, 64)])
def test_the_bars_of_an_odd_shape_are_cut_away_and_nothing_else(size: tuple[int, int]) -> None:
    """A photo of a shape that models do not draw is shown to them within bars; its edges come back whole."""
    room = Image.new("RGB", size, GREEN)
    draw = ImageDraw.Draw(room)
    draw.rectangle([0, 0, size[0] - 1, size[1] - 1], outline=RED, width=16)
    photo = pictures.normalise(encoded(room, compress_level=1), LIMITS)
    shown = pictures.framed(photo, LIMITS)
    across, down = map(int, shapes.nearest_ratio(*size).split(":"))
    assert abs(math.log(shown.width / shown.height * down / across)) <= shapes.TOLERANCE
    assert shown.width >= photo.width
    assert shown.height >= photo.height
    finished = pictures.finish(shown.jpeg, photo, LIMITS)
    with Image.open(io.BytesIO(finished.jpeg)) as result:
        assert abs(result.width / result.height - size[0] / size[1]) < 0.01 * size[0] / size[1]
        for x, y in ((6, 0.5), (-7, 0.5), (0.5, 6), (0.5, -7)):
            left = x % result.width if isinstance(x, int) else round(x * result.width)
            top = y % result.height if isinstance(y, int) else round(y * result.height)
            assert near(result.convert("RGB").getpixel((left, top)), RED, 60), (size, x, y)


def test_thumbnails_of_a_large_photo_are_of_thumbnail_size() -> None:
    finished = pictures.finish(encoded(quadrants(1500, 1000), "JPEG"), photo_of(1500, 1000), LIMITS)
    for data in (finished.thumbnail, finished.before):
        with Image.open(io.BytesIO(data)) as small:
            assert small.size in {(320, 213), (320, 214)}


def test_a_models_picture_is_cleaned_like_a_photo() -> None:
    picture = Image.new("RGBA", (600, 400), (0, 0, 0, 0))
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "SECRETPROMPT")
    finished = pictures.finish(encoded(picture, pnginfo=info, exif=orientation(1)), photo_of(600, 400), LIMITS)
    for data in (finished.jpeg, finished.thumbnail, finished.before):
        assert b"SECRET" not in data
        assert b"Exif" not in data
    with Image.open(io.BytesIO(finished.jpeg)) as result:
        assert_pixel(result, 0.5, 0.5, WHITE, 4)


DAMAGED = {
    "empty": b"",
    "html": b"<html>quota exceeded</html>",
    "json": b'{"error": {"code": 500}}',
    "truncated": whole("PNG")[:2000],
    "truncated jpeg": whole("JPEG")[:2000],
    "gif": encoded(quadrants(), "GIF"),
    "bomb": png(10400, 10400, 8, 2, b"\0"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_answer_is_the_worlds_fault(data: bytes) -> None:
    with pytest.raises(WorldError) as caught:
        pictures.finish(data, photo_of(300, 200), LIMITS)
    assert caught.value.code is ErrorCode.VENDOR_BAD_ANSWER
    assert len(caught.value.message) < 500


# --- fuzz


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
