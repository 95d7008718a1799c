"""Pictures come out upright and without metadata."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.staging.pictures.parts import BLACK, LIMITS, assert_upright, encoded, normal, orientation, quadrants

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
