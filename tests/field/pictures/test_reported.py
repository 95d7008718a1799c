"""The pictures that people reported as broken elsewhere."""

from __future__ import annotations

from functools import cache

import pytest

from shared.staging import pictures
from tests.field.make_pictures import cases
from tests.field.picture_parts import COLOURS
from tests.field.pictures.parts import LIMITS, WITHIN, assert_upright, decoded, off, quadrants, refusal


@cache
def reported() -> dict[str, bytes]:
    return cases()


REPORTED = {
    "exif-resolution-as-text.jpg": "only the orientation is read of EXIF, so the odd resolution does not matter",
    "exif-gps-reference-as-numbers.jpg": "the same for GPS",
    "exif-packet-as-text.jpg": "the same for a metadata packet",
    "exif-earlier-tag-cut.jpg": "a tag that points behind the end does not spoil the orientation after it",
    "xmp-orientation-only.jpg": "browsers read EXIF's orientation and not XMP's",
    "xmp-orientation-element.jpg": "browsers read EXIF's orientation and not XMP's",
    "png-large-xmp.png": "text chunks are never unpacked",
    "png-resolution-bad-crc.png": "decoders drop an ancillary chunk whose checksum is wrong",
    "png-profile-bad-crc.png": "decoders drop an ancillary chunk whose checksum is wrong",
    "png-text-damaged.png": "text chunks are not read",
    "png-resolution-short.png": "the resolution is not read",
    "png-old-exif-junk.png": "text chunks are not read",
    "jpeg-no-end-marker.jpg": "all pixels are there",
    "jpeg-one-byte-short.jpg": "all pixels are there",
    "palette-wide-gamut.png": "the palette's colours are converted",
    "linear-light-16-bit.png": "gAMA says how the values are meant",
    "gamma-1.8.png": "gAMA says how the values are meant",
    "cicp-wide-gamut.png": "cICP says how the values are meant",
    "phone-50-mp-8192x6144.jpg": "50 megapixels are promised, and this camera makes 50.3 million pixels",
}


def test_every_reported_case_is_tested() -> None:
    assert set(REPORTED) == set(cases())


@pytest.mark.parametrize("name", REPORTED)
def test_a_reported_picture_is_staged_upright_in_its_colours(name: str) -> None:
    data = reported()[name]
    assert_upright(data, REPORTED[name])
    photo = pictures.normalise(data, LIMITS)
    before = decoded(pictures.finish(photo.jpeg, photo, LIMITS).before)
    assert before.size == (320, 240)
    assert off(quadrants(before), list(COLOURS)) <= WITHIN, "the thumbnail that the report shows"


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.95])
def test_a_photo_cut_in_its_middle_stays_refused(share: float) -> None:
    """5 shares of 3 files."""
    for name in ("jpeg-no-end-marker.jpg", "exif-packet-as-text.jpg", "phone-50-mp-8192x6144.jpg"):
        data = reported()[name]
        message = refusal(data[: int(len(data) * share)], name)
        assert "JPEG" in message
        assert "damaged" in message
