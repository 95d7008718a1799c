"""Pictures as cameras, phones, CRMs and CDNs write them, and thousands of variants of what can be wrong with their files.

One rule for all: what is beside the pixels never refuses and never turns a picture, and a picture that lacks pixels is
never staged. Every scene is four quadrants, so that a turned, mirrored or cut picture is noticed. Each test says how many
variants it tries, and checks that it tried them.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from PIL import ExifTags, Image

from shared.errors import ErrorCode, ImageRejected
from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.field.make_pictures import cases
from tests.field.picture_parts import (
    ADOBE,
    COLOURS,
    P3,
    Entry,
    any_png,
    canvas,
    chunk,
    grey_profile,
    ink_profile,
    jpeg,
    orientation,
    palette_png,
    profile_chunk,
    profile_parts,
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

LIMITS = PhotoLimits()
SMALL = (96, 72)
WITHIN = 16
EXIF = b"Exif\0\0"
PLACES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))

Colour = tuple[int, ...]


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product sets Pillow's limit for its whole process. Here the limit must not outlast a test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


# --- what a test asks of a file


def decoded(jpeg_data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg_data), formats=("JPEG",)) as picture:
        picture.load()
        return picture


def staged(data: bytes, why: object = "") -> bytes:
    """Return the JPEG that the models are shown."""
    try:
        return pictures.normalise(data, LIMITS).jpeg
    except ImageRejected as error:
        raise AssertionError(f"{why}: refused: {error.message}") from None


def staged_or_refused(data: bytes, why: object = "") -> bytes | str:
    """Return the JPEG, or the refusal's message."""
    try:
        return pictures.normalise(data, LIMITS).jpeg
    except ImageRejected as error:
        assert error.code is ErrorCode.NOT_A_PICTURE, (why, error)
        return error.message


def refusal(data: bytes, why: object = "") -> str:
    answer = staged_or_refused(data, why)
    assert isinstance(answer, str), f"{why}: staged"
    return answer


def quadrants(picture: Image.Image) -> list[Colour]:
    return [picture.getpixel((int(picture.width * x), int(picture.height * y))) for x, y in PLACES]


def off(found: list[Colour], wanted: list[Colour]) -> int:
    return max(abs(a - b) for one, other in zip(found, wanted, strict=True) for a, b in zip(one, other, strict=True))


def assert_upright(data: bytes, why: object = "", wanted: list[Colour] | None = None, within: int = WITHIN) -> None:
    picture = decoded(staged(data, why))
    assert picture.width * 3 == picture.height * 4, f"{why}: {picture.size} is not 4:3"
    found = quadrants(picture)
    assert off(found, wanted or list(COLOURS)) <= within, f"{why}: {found}"


def turned(picture: Image.Image, value: int) -> Image.Image:
    """Return the picture as a camera stores it that names this orientation: the inverse of what viewers do."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    return picture.transpose(inverse[value]) if value in inverse else picture


def noise(width: int = SMALL[0], height: int = SMALL[1]) -> Image.Image:
    """A picture in which every byte of the file matters."""
    values = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def pixels_of(picture: Image.Image | None = None) -> np.ndarray:
    return np.asarray(picture or scene(*SMALL))


def heic(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "HEIF", quality=90, **options)
    return out.getvalue()


@cache
def reported() -> dict[str, bytes]:
    return cases()


# --- the cases that people reported

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


# --- EXIF: no tag of it refuses or turns a picture, and only the orientation turns it

TYPES = (*range(14), 14, 16, 17, 18, 99, 129, 255, 65535)  # 1 to 12 are EXIF's, 13 TIFF's, 16 to 18 BigTIFF's
KNOWN_TAGS = sorted(
    {int(tag) for tag in ExifTags.TAGS} | {int(tag) for tag in ExifTags.GPSTAGS} | set(range(0x9000, 0x9020)) - {0x112}
)


def junk_entry(chance: random.Random, tag: int, kind: int) -> Entry:
    """An entry whose count and value are anything. What is longer than four bytes is written behind the directory."""
    count = chance.choice((0, 1, 2, 3, 5, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(2**32)))
    where = chance.choice((0, 8, 10, 2**31, 2**32 - 1, chance.randrange(400), chance.randrange(2**32)))
    value = chance.choice((struct.pack("<I", where), chance.randbytes(chance.randrange(40)), b"72\0", b""))
    return (tag, kind, count, value)


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


def stored_small(value: int) -> Image.Image:
    return turned(scene(*SMALL), value)


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


# --- PNG: chunks beside the pixels

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


# --- WebP


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


# --- HEIC


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


# --- ICC profiles

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
