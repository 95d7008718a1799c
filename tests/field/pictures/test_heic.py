"""HEIC files of the field: their EXIF and their own turns."""

from __future__ import annotations

import io
import random
import struct

from PIL import Image

from tests.field.picture_parts import orientation, scene, tiff, xmp
from tests.field.pictures.parts import EXIF, SMALL, TYPES, assert_upright, junk_entry, refusal, stored_small


def heic(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "HEIF", quality=90, **options)
    return out.getvalue()


def test_heic_metadata_changes_nothing() -> None:
    """200 photos with EXIF and XMP of any content; XMP and EXIF name orientations that the file's own replaces."""
    chance = random.Random("HEIC")
    for number in range(200):
        block = tiff([junk_entry(chance, chance.randrange(0x111), chance.choice(TYPES)) for _ in range(4)])
        exif = chance.choice((EXIF, b"")) + chance.choice((block, block[: chance.randrange(30)], chance.randbytes(70)))
        packet = chance.choice((chance.randbytes(50), xmp(1)[: chance.randrange(1, 200)], b"\0", xmp(1)))
        data = heic(scene(*SMALL), exif=exif or None, xmp=packet)
        assert_upright(data, (number, exif.hex(), packet), within=20)


def test_a_heic_photo_is_turned_by_its_container_alone() -> None:
    """8 orientations in the container with the same in EXIF; 8 in EXIF alone; 3 in XMP alone: 19 photos."""
    for value in range(1, 9):
        data = heic(stored_small(value), exif=EXIF + tiff([orientation(value)]))
        assert_upright(data, ("container", value), within=20)
    for value in range(1, 9):
        data = heic(scene(*SMALL), exif=EXIF + tiff([orientation(1)]))
        mark = struct.pack("<HHIH", 0x112, 3, 1, 1)
        assert data.count(mark) == 1
        assert_upright(data.replace(mark, struct.pack("<HHIH", 0x112, 3, 1, value)), ("EXIF", value), within=20)
    for value in (3, 6, 8):
        data = heic(scene(*SMALL), xmp=xmp(1))
        mark = b'Orientation="1"'
        assert data.count(mark) == 1
        assert_upright(data.replace(mark, b'Orientation="%d"' % value), ("XMP", value), within=20)


def test_what_heic_files_call_themselves() -> None:
    """8 brands that the decoder opens: a damaged file is called a HEIC picture, never a film."""
    data = heic(scene(*SMALL))
    for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"):
        named = data[:8] + brand + data[12:]
        message = refusal(named[:200])
        assert "HEIC" in message
        assert "damaged" in message
