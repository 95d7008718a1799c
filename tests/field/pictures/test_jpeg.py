"""JPEG files of the field: segments beside the pixels, and files that end too early."""

from __future__ import annotations

import random
import struct

import pytest
from PIL import Image

from tests.field.picture_parts import jpeg, scene, segment, segments
from tests.field.pictures.parts import SMALL, assert_upright, noise, refusal, staged, staged_or_refused

# --- JPEG: segments beside the pixels

SIGNATURES = (
    b"", b"JFIF\0", b"JFXX\0", b"AVI1", b"Exif\0\0", b"Exif\0\xff", b"http://ns.adobe.com/xap/1.0/\0",
    b"http://ns.adobe.com/xmp/extension/\0", b"ICC_PROFILE\0", b"MPF\0", b"MPF\0II*\0\x08\0\0\0", b"FPXR\0", b"META\0",
    b"Ducky", b"Photoshop 3.0\x008BIM", b"Adobe", b"Adobe\0", b"SPIFF\0", b"JUMBF", b"JP\0\0", b"HDR_RI ver=11",
    b"urn:iso:std:iso:ts:21496:-1\0", b"AROT", b"Ocad$Rev", b"QVCI", b"GoPro\0", b"\xff\xd8\xff\xdb", b"\xff\xd9", b"\xff\xff",
)  # fmt: skip


def header_places(data: bytes) -> list[int]:
    """Return where segments begin, up to that of the first scan."""
    places, position = [], 2
    while True:
        places.append(position)
        if data[position + 1] == 0xDA:
            return places
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def test_segments_of_every_kind_change_nothing() -> None:
    """17 markers, 29 signatures, 6 bodies, each at any place before the scan: 2,958 photos."""
    chance = random.Random("segments")
    plain = jpeg(scene(*SMALL))
    whole, places = staged(plain), header_places(plain)
    tried = 0
    for marker in (*range(0xE0, 0xF0), 0xFE):
        for signature in SIGNATURES:
            for body in (b"", b"\0", bytes(20), chance.randbytes(9), chance.randbytes(200), chance.randbytes(65_480)):
                payload = signature + body
                place = chance.choice(places)
                data = plain[:place] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + plain[place:]
                assert staged(data, (marker, signature, len(body), place)) == whole, (marker, signature, body[:40])
                tried += 1
    assert tried == 2_958


def test_segments_with_a_wrong_length_never_show_another_picture() -> None:
    """Lengths 0, 1, 2, all up to 700 that swallow what follows, and such as point behind the file, for 3 markers, before
    4 segments: 8,448 photos. Where a segment swallows one that is needed, the file is refused as a damaged JPEG."""
    plain = jpeg(scene(*SMALL))
    whole, places = staged(plain), header_places(plain)
    tried = taken = 0
    for marker in (0xE1, 0xE5, 0xFE):
        for place in (places[0], places[1], places[2], places[-1]):
            for length in (*range(700), 5_000, 30_000, 65_534, 65_535):
                data = plain[:place] + struct.pack(">BBH", 0xFF, marker, length) + plain[place:]
                answer = staged_or_refused(data)
                tried += 1
                if isinstance(answer, str):
                    assert length > 2, (marker, place, length, answer)
                    assert "JPEG" in answer, (marker, place, length, answer)
                    assert "damaged" in answer
                else:
                    taken += 1
                    assert answer == whole, (marker, place, length)
    assert tried == 8_448
    assert taken > 36


def test_what_stands_between_and_behind_segments_changes_nothing() -> None:
    """Fill bytes, rubbish, hundreds of segments, huge XMP and trailers: 10 kinds, at every place where they can be."""
    chance = random.Random("between")
    plain = jpeg(scene(*SMALL))
    whole = staged(plain)
    rubbish = bytes(value for value in chance.randbytes(4_000) if value != 0xFF)
    big = [(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(32) + chance.randbytes(65_400)) for _ in range(40)]
    many = [(chance.choice((*range(0xE0, 0xF0), 0xFE)), chance.randbytes(chance.randrange(60))) for _ in range(100)]
    between = {
        "fill bytes": b"\xff" * 1_000,
        "rubbish": rubbish,
        "stuffed rubbish": b"\xff\0" * 500,
        "restart markers": b"\xff\xd0\xff\xd7",
        "one hundred segments": segments(b"\xff\xd8", *many)[2:],
        "extended XMP of 2.6 MB": segments(b"\xff\xd8", *big)[2:],
    }
    for kind, added in between.items():
        for place in header_places(plain):
            if place > 2 or not added.startswith(rubbish[:1]):  # a JPEG is known by its first three bytes
                assert staged(plain[:place] + added + plain[place:], (kind, place)) == whole, (kind, place)
    behind = {
        "a film": b"\0\0\0\x18ftypmp42" + chance.randbytes(1_000_000),
        "zeros": bytes(1_000_000),
        "another JPEG": jpeg(Image.new("RGB", SMALL)),
        "half a JPEG": jpeg(noise())[:1_500],
    }
    for kind, trailer in behind.items():
        assert staged(plain + trailer, kind) == whole, kind


def test_the_note_on_how_colours_are_stored_counts_only_when_it_is_whole() -> None:
    """JFIF means YCbCr, Adobe's note names it. Decoders pass over shorter ones, of 14 and 12 bytes: 30 photos."""
    jfif, adobe = b"JFIF\0\1\1\0\0\1\0\1\0\0", b"Adobe\0\x64\0\0\0\0\0"
    rgb = jpeg(scene(*SMALL), keep_rgb=True)
    ycbcr = jpeg(scene(*SMALL))
    ycbcr = ycbcr[:2] + ycbcr[20:]  # without its JFIF
    tried = 0
    for length in range(14):
        assert_upright(segment(rgb, jfif[:length], 0xE0), length)
        assert_upright(segment(ycbcr, jfif[:length], 0xE0), length)
        tried += 2
    assert_upright(segment(rgb, adobe, 0xEE))
    assert_upright(segment(ycbcr, adobe[:11] + b"\1", 0xEE))
    assert tried + 2 == 30


# --- JPEG: files that end too early


def in_three_scans(picture: Image.Image) -> bytes:
    """Return a baseline JPEG whose scans hold one component each: three grey files in one."""
    grey = [jpeg(part) for part in picture.convert("YCbCr").split()]
    head, scan = grey[0], header_places(grey[0])[-1]
    frame = head.index(b"\xff\xc0")
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    made = head[: frame + 2] + struct.pack(">H", 17) + head[frame + 4 : frame + 9] + b"\3" + components
    made += head[frame + 13 : scan]
    for number, one in enumerate(grey, 1):
        made += b"\xff\xda\0\x08\1" + bytes((number, 0)) + b"\0\x3f\0" + one[scan + 10 : -2]
    return made + b"\xff\xd9"


def jpeg_kinds() -> dict[str, bytes]:
    detail = noise()
    grey = detail.convert("L")
    return {
        "baseline": jpeg(detail),
        "4:4:4": jpeg(detail, subsampling="4:4:4"),
        "optimised": jpeg(detail, optimize=True),
        "restart markers": jpeg(detail, restart_marker_blocks=3),
        "a restart marker a row": jpeg(detail, restart_marker_rows=1),
        "progressive": jpeg(detail, progressive=True),
        "progressive, restart markers": jpeg(detail, progressive=True, restart_marker_blocks=4),
        "grey": jpeg(grey),
        "grey, progressive": jpeg(grey, progressive=True),
        "grey, restart markers": jpeg(grey, restart_marker_blocks=5),
        "CMYK": jpeg(detail.convert("CMYK")),
        "CMYK, progressive": jpeg(detail.convert("CMYK"), progressive=True),
        "in three scans": in_three_scans(detail),
        "best quality": jpeg(detail, quality=100),
        "best quality, restart markers": jpeg(detail, quality=100, restart_marker_blocks=2, subsampling="4:2:2"),
        "flat": jpeg(scene(*SMALL)),
        "flat, progressive": jpeg(scene(*SMALL), progressive=True),
        "flat, restart markers": jpeg(scene(*SMALL), restart_marker_blocks=1),
        "one colour": jpeg(Image.new("RGB", SMALL, (90, 120, 150))),
        "one colour, restart markers": jpeg(Image.new("RGB", SMALL, (90, 120, 150)), restart_marker_blocks=1),
        "one colour, progressive": jpeg(Image.new("RGB", SMALL, (90, 120, 150)), progressive=True),
    }


@pytest.mark.parametrize("kind", jpeg_kinds())
def test_a_jpeg_that_ends_too_early_is_staged_only_with_all_its_pixels(kind: str) -> None:
    """Cut at every byte of its header, of its last 64 bytes, around every marker, and at 100 other places. 21 kinds.

    What is staged must be the whole file's picture to the last bit. Without the two bytes of the end marker it is staged.
    """
    data = jpeg_kinds()[kind]
    whole = staged(data)
    scan = header_places(data)[-1]
    markers = [at + by for at in range(scan, len(data) - 1) if data[at] == 0xFF and data[at + 1] for by in range(-2, 5)]
    chance = random.Random(kind)
    cuts = {
        *range(scan + 12),
        *range(len(data) - 64, len(data)),
        *markers,
        *(chance.randrange(len(data)) for _ in range(100)),
    }
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        answer = staged_or_refused(data[:cut])
        if isinstance(answer, bytes):
            assert answer == whole, f"{cut} of {len(data)} bytes are another picture"
            assert cut > scan
        elif cut >= 3:
            assert "JPEG" in answer, (cut, answer)
            assert "damaged" in answer, (cut, answer)
        assert isinstance(answer, bytes) or cut < len(data) - 2, "only the end marker is missing"


@pytest.mark.parametrize("kind", [kind for kind in jpeg_kinds() if "progressive" in kind or "scans" in kind])
def test_a_jpeg_without_its_last_scans_is_refused(kind: str) -> None:
    """Cut exactly where a scan ends, with and without an end marker there: the picture is coarse or lacks a colour."""
    data = jpeg_kinds()[kind]
    ends = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] in (0xC4, 0xDA)]
    ends = [at for at in ends if at > header_places(data)[-1]]
    assert len(ends) >= 2
    for cut in ends:
        assert "damaged" in refusal(data[:cut], (cut, len(data)))
