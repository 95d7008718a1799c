"""EXIF: no tag of it refuses or turns a picture, and only the orientation turns it."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.field.picture_parts import (
    Entry,
    canvas,
    chunk,
    jpeg,
    orientation,
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
from tests.field.pictures.parts import EXIF, SMALL, TYPES, assert_upright, junk_entry, stored_small

KNOWN_TAGS = sorted(
    {int(tag) for tag in ExifTags.TAGS} | {int(tag) for tag in ExifTags.GPSTAGS} | set(range(0x9000, 0x9020)) - {0x112}
)


def test_every_tag_of_every_type_leaves_the_orientation_alone() -> None:
    """Every known tag in each of 22 types: 7,238 photos held sideways."""
    chance = random.Random("tags and types")
    plain = jpeg(stored_small(6))
    tried = 0
    for tag in KNOWN_TAGS:
        if tag == 0x112:
            continue
        for kind in TYPES:
            block = tiff([orientation(6), junk_entry(chance, tag, kind)])
            assert_upright(segment(plain, EXIF + block), (hex(tag), kind, block.hex()))
            tried += 1
    assert tried == 7_238


def test_directories_of_any_tags_leave_the_orientation_alone() -> None:
    """2,500 blocks of up to 40 entries with any tags and types, in three directories, half of the blocks cut."""
    chance = random.Random("directories")
    plain = {value: jpeg(stored_small(value)) for value in range(1, 9)}
    for number in range(2_500):
        value = chance.randrange(1, 9)

        def entries(most: int) -> list[Entry]:
            tags = [tag for tag in (chance.randrange(65536) for _ in range(chance.randrange(most))) if tag != 0x112]
            return [junk_entry(chance, tag, chance.choice(TYPES)) for tag in tags]

        block = tiff(
            [orientation(value), *entries(20)],
            exif=[orientation(3), *entries(10)] if chance.random() < 0.5 else None,
            gps=[orientation(8), *entries(10)] if chance.random() < 0.5 else None,
        )
        if chance.random() < 0.5:  # the first directory stays
            rows = struct.unpack_from("<H", block, 8)[0]
            block = block[: chance.randrange(10 + 12 * rows, len(block) + 1)]
        assert_upright(segment(plain[value], EXIF + block), (number, block.hex()))


def one_entry(order: str, kind: int, count: int, value: bytes) -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
    return head + struct.pack(order + "HHI", 0x112, kind, count) + value[:4].ljust(4, b"\0") + bytes(4)


def test_an_orientation_is_one_short_number_in_either_byte_order() -> None:
    """22 types, 6 counts, 2 byte orders, 13 values: 3,432 photos. Browsers take type 3 with count 1, from 1 to 8."""
    chance = random.Random("orientations")
    plain = {value: jpeg(stored_small(value)) for value in range(1, 9)}
    tried = 0
    for kind in TYPES:
        for count in (0, 1, 2, 3, 65535, 2**32 - 1):
            for order in "<>":
                for value in (*range(10), 42, 256 * 6, 65535):
                    valid = kind == 3 and count == 1 and 1 <= value <= 8
                    form = {1: "BBBB", 3: "HH", 6: "bbbb", 8: "HH"}.get(kind, "I")
                    small = value % 256 if "b" in form.lower() else value
                    words = [small if "b" not in form else small % 128] + [chance.randrange(9)] * (len(form) - 1)
                    block = one_entry(order, kind, count, struct.pack(order + form, *words))
                    assert_upright(segment(plain[value if valid else 1], EXIF + block), (kind, count, order, value))
                    tried += 1
    assert tried == 3_432


def test_an_orientation_that_is_not_the_photos_turns_nothing() -> None:
    """That of the thumbnail, of sub-directories, of XMP, of the second block, and of blocks that are no EXIF: 6 kinds,
    7 values: 42 photos."""
    plain = jpeg(scene(*SMALL))
    tried = 0
    for value in range(2, 9):
        sound = tiff([orientation(value)])
        maker = (0x10F, 2, 4, b"abc\0")
        thumbnail = tiff([maker])
        behind = len(thumbnail)
        thumbnail = thumbnail[:22] + struct.pack("<I", behind) + thumbnail[26:] + sound[8:]
        kinds = {
            "thumbnail": segment(plain, EXIF + thumbnail),
            "sub-directories": segment(
                plain, EXIF + tiff([maker], exif=[orientation(value)], gps=[orientation(value)])
            ),
            "second block": segments(plain, (0xE1, EXIF + tiff([maker])), (0xE1, EXIF + sound)),
            "XMP": segment(plain, b"http://ns.adobe.com/xap/1.0/\0" + xmp(value)),
            "another segment": segments(plain, (0xE2, EXIF + sound), (0xFE, EXIF + sound), (0xE1, b"exif\0\0" + sound)),
            "behind the picture": plain + segment(b"\xff\xd8", EXIF + sound),
        }
        for kind, data in kinds.items():
            assert_upright(data, (kind, value))
            tried += 1
    assert tried == 42


@pytest.mark.parametrize("form", ["png", "webp", "webp with prefix"])
def test_orientation_in_other_formats_has_the_same_rules(form: str) -> None:
    """8 orientations, and 300 blocks of junk, in each of three forms: 924 pictures."""
    chance = random.Random(form)

    def with_exif(picture: Image.Image, block: bytes) -> bytes:
        if form == "png":
            return raw_png(np.asarray(picture), chunk(b"eXIf", block))
        prefix = EXIF if "prefix" in form else b""
        return riff(canvas(*picture.size, 0x08), webp(picture)[12:], riff_chunk(b"EXIF", prefix + block))

    for value in range(1, 9):
        assert_upright(with_exif(stored_small(value), tiff([orientation(value)])), value)
    upright, sideways = scene(*SMALL), stored_small(6)
    for number in range(300):
        junk = [junk_entry(chance, chance.randrange(0x111), chance.choice(TYPES)) for _ in range(3)]
        if number % 2:
            assert_upright(with_exif(sideways, tiff([orientation(6), *junk])), junk)
        else:
            broken = chance.choice((chance.randbytes(60), tiff(junk)[: chance.randrange(40)], b"II*\0", b""))
            assert_upright(with_exif(upright, broken), broken.hex())
