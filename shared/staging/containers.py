"""The files pictures come in, taken apart: what the decoder needs of them, and the little else that we want to know.

Cameras, phones, CRMs and CDNs write metadata of every kind, and much of it is broken. None of it may refuse or turn a
picture, so the decoder never sees it: JPEG, PNG and WebP are copied without any part that holds no pixels. Read from
the rest are the orientation (by the rules of browsers) and the colours. HEIC stays as it is: its decoder applies the
orientation that counts there, and leaves EXIF alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from shared.errors import Unusable
from shared.staging.colours import Colours

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MAX_PROFILE_BYTES: Final = 8 * 1024 * 1024  # presses' largest profiles have 3 MB
_ORIENTATION_TAG: Final = 0x0112
_SHORT: Final = 3  # EXIF's type of 16-bit numbers: the only one browsers take an orientation in

# JPEG markers: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, table B.1
_RST, _SOI, _EOI, _SOS, _DQT, _DHT, _DAC, _DNL, _DRI, _DHP, _EXP, _COM = (
    0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xCC, 0xDC, 0xDD, 0xDE, 0xDF, 0xFE,
)  # fmt: skip
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, _DAC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES: Final = frozenset({_DQT, _DHT, _DAC, _DNL, _DRI, _DHP, _EXP})
_SKIPPED: Final = frozenset({*range(0xE0, 0xFF)}) | {0xC8}  # APPn, JPGn, COM: a length, and nothing the decoder needs
# Steps of 1 lose a difference of one coefficient in rounding, and steps above 4 lose it in black and white.
_COARSE: Final = 2
_ENDINGS: Final = (b"", b"\x5a\x36", b"\xa5\xc9", b"\x33\xd2\x6b", b"\xcc\x2d\x94")
_JFIF: Final = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


class Damaged(Unusable):
    """The file cannot hold a whole picture; the text says what is wrong with it."""


class Contents(msgspec.Struct, frozen=True):
    """What the decoder is given, how the picture is turned (EXIF's 1 to 8), and what it says of its colours."""

    data: bytes
    orientation: int = 1
    colours: Colours = Colours()


def read(data: bytes) -> Contents:
    """Take `data` apart. Raises `Damaged`. A file of another kind is answered as it is: the decoder will judge it."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == _PNG:
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return Contents(data)


def orientation_of(tiff: bytes) -> int:
    """Return the orientation that an EXIF block names, 1 when it names none or in a form that browsers do not read.

    Only the first directory's entries are looked at, each for itself: one that points behind the end spoils no other.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    start = struct.unpack_from(f"{order}I", tiff, 4)[0]
    if start + 2 > len(tiff):
        return 1
    count = struct.unpack_from(f"{order}H", tiff, start)[0]
    for number in range(count):
        place = start + 2 + 12 * number
        if place + 12 > len(tiff):
            break
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, place)
        if tag == _ORIENTATION_TAG and kind == _SHORT and values == 1:
            return value if 1 <= value <= 8 else 1
    return 1


# --- JPEG


def _jpeg(data: bytes) -> Contents:
    kept = [b"\xff\xd8"]
    orientation: int | None = None
    profile: dict[int, bytes] = {}
    counts: set[int] = set()
    for marker, start, end in _segments(data):
        payload = data[start + 4 : end]
        if marker == _SOS:
            kept.append(data[start:])  # the pixels, and whatever follows them
            break
        if marker in _FRAMES or marker in _TABLES:
            kept.append(b"\xff" + data[start + 1 : end])
        elif marker == 0xE0 and payload[:5] == b"JFIF\0" and len(payload) >= 14:
            kept.append(_JFIF)
        elif marker == 0xEE and payload[:5] == b"Adobe" and len(payload) >= 12:
            kept.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + payload[11:12])  # the colour transform
        elif marker == 0xE1 and payload[:5] == b"Exif\0" and orientation is None:
            orientation = orientation_of(payload[6:])
        elif marker == 0xE2 and payload[:12] == b"ICC_PROFILE\0" and len(payload) > 14:
            profile.setdefault(payload[12], payload[14:])
            counts.add(payload[13])
    # Browsers ignore a profile that lacks a part, or whose parts do not agree on their number.
    numbers = range(1, max(counts, default=0) + 1)
    whole = len(counts) == 1 and all(number in profile for number in numbers)
    icc = b"".join(profile[number] for number in numbers) if whole else b""
    return Contents(b"".join(kept), orientation or 1, Colours(icc=icc or None))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) up to the first scan, as decoders find them: rubbish between segments is passed over.

    `start` is that of the byte 0xFF before the marker. A segment that ends behind the file ends the walk.
    """
    position = 2
    while True:
        start = data.find(b"\xff", position)
        if start < 0:
            raise Damaged("it ends before its pixels")
        while data[start + 1 : start + 2] == b"\xff":  # fill bytes
            start += 1
        if start + 1 >= len(data):
            raise Damaged("it ends before its pixels")
        marker = data[start + 1]
        position = start + 2
        if marker == _EOI:
            raise Damaged("it holds no pixels")
        if marker != _SOS and marker not in _FRAMES and marker not in _TABLES and marker not in _SKIPPED:
            continue
        if start + 4 > len(data):
            raise Damaged("it ends before its pixels")
        length = struct.unpack_from(">H", data, start + 2)[0]
        if length < 2:
            continue  # no length a segment can have
        end = start + 2 + length
        if end > len(data):
            raise Damaged("it ends before its pixels")
        yield marker, start, end
        if marker == _SOS:
            return
        position = end


def jpeg_endings(data: bytes) -> tuple[bytes, tuple[bytes, ...]] | None:
    """Return a JPEG that lacks its end marker with one, and files that tell whether all its pixels are there.

    None when scans or restart intervals are missing. Otherwise the files decode to the same picture when all pixels
    are there, because nothing that follows the pixels changes any. Where some are missing, the decoder makes them up
    from what follows: from nothing, or from bits, which are different in each file and begin with either bit. The
    files show whole blocks, in steps that are not the finest, so that cropping and rounding hide few differences.
    """
    if not _scans_complete(data):
        return None
    pixels = data[:-1] if data.endswith(b"\xff") and not data.endswith(b"\xff\xff") else data
    begun = _revealing(pixels)
    probes = tuple(begun + bits * 400 + b"\xff\xd9" for bits in _ENDINGS)
    return pixels + b"\xff\xd9", probes


def _revealing(data: bytes) -> bytes:
    """Return the JPEG with whole blocks, and no finer step of its quantisation than `_COARSE`, but for the means'."""
    changed = bytearray(data)
    for marker, start, end in _segments(data):
        place = start + 4
        if marker in _FRAMES and place + 5 <= end:
            size = struct.unpack_from(">HH", data, place + 1)
            struct.pack_into(">HH", changed, place + 1, *(min(-(-side // 8) * 8, 0xFFFF) for side in size))
        while marker == _DQT and place + 65 <= end:
            width = 2 if data[place] >> 4 else 1
            for step in range(place + 2 * width, min(place + 1 + 64 * width, end), width):
                changed[step] = max(data[step], _COARSE)
            place += 1 + 64 * width
    return bytes(changed)


def _scans_complete(data: bytes) -> bool:
    """Return whether the scans hold every bit of every coefficient, and the last one all its restart intervals."""
    frame, progressive, restart = b"", False, 0
    missing: dict[tuple[int, int], int] = {}  # (component, coefficient): bits still to come
    scan, behind = b"", 0  # the components of the last scan, and where its data begin
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        length = struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : position + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            frame, progressive = body, marker in _PROGRESSIVE
            missing = {(component, number): 99 for component in body[6::3] for number in range(64)}
        elif marker == _DRI and len(body) >= 2:
            restart = struct.unpack_from(">H", body)[0]
        elif marker == _SOS and body:
            count = body[0]
            if len(body) < 1 + 2 * count + 3:
                return False
            scan, behind = body[1 : 1 + 2 * count : 2], position + 2 + length
            first, last, bits = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
            if not progressive:
                first, last, bits = 0, 63, 0
            for component in scan:
                for number in range(first, min(last, 63) + 1):
                    missing[component, number] = bits
        elif marker not in _TABLES and marker not in _SKIPPED:
            position += 1
            continue
        position += 2 + length
    if any(missing.values()):
        return False
    markers = sum(data.count(bytes((0xFF, marker)), behind) for marker in range(_RST, _RST + 8)) if restart else 0
    return not restart or markers + 1 >= -(-_units(frame, scan) // restart)


def _units(frame: bytes, scan: bytes) -> int:
    """Return how many units (MCU) a scan of these components has, by ITU-T T.81, A.1.1 and A.2."""
    sizes: tuple[int, int, int] = struct.unpack_from(">HHB", frame, 1)
    height, width, count = sizes
    factors = {frame[6 + 3 * number]: divmod(frame[7 + 3 * number], 16) for number in range(count)}
    widest, highest = (max(pair[side] for pair in factors.values()) for side in (0, 1))
    if len(scan) > 1:
        return -(-width // (8 * widest)) * -(-height // (8 * highest))
    across, down = factors[scan[0]]
    columns, rows = -(-width * across // widest), -(-height * down // highest)
    return -(-columns // 8) * -(-rows // 8)


# --- PNG

_PIECE_BYTES: Final = 1 << 20
_MAX_INFLATED_BYTES: Final = 512 * 1024 * 1024  # 52 megapixels of four channels in 16 bits have 416 MB
_COLOUR_CHUNKS: Final = {b"cICP": 4, b"iCCP": None, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}  # with their length


def _png(data: bytes) -> Contents:
    head: bytes | None = None
    palette = transparency = b""
    pixels: list[bytes] = []
    doubtful = False  # whether a checksum over pixels is wrong
    orientation: int | None = None
    told: dict[bytes, bytes] = {}
    for kind, body, sound, whole in _chunks(data):
        if kind == b"IHDR" and head is None:
            if not sound or len(body) != 13:
                raise Damaged("its header is broken")
            head = body
        elif kind == b"IDAT":
            pixels.append(body)
            doubtful = doubtful or (whole and not sound)
        elif kind == b"IEND":
            break
        elif kind == b"PLTE" and not palette:
            if not sound and head is not None and head[9] == 3:
                raise Damaged("its palette is broken")
            palette = body
        elif not sound:
            continue  # as decoders do with an ancillary chunk whose checksum is wrong
        elif kind == b"eXIf" and not pixels:
            orientation = orientation or orientation_of(body)
        elif kind == b"tRNS" and not pixels and (palette or (head and head[9] != 3)):
            transparency = transparency or body
        elif kind in _COLOUR_CHUNKS and not pixels and len(body) == (_COLOUR_CHUNKS[kind] or len(body)):
            told.setdefault(kind, body)
    if head is None or not pixels:
        raise Damaged("it ends before its pixels" if head else "its header is missing")
    if doubtful:
        _check_pixels(pixels)
    kept = [_PNG, _chunk(b"IHDR", head)]
    if head[9] == 3:
        if not palette or len(palette) % 3 or len(palette) > 768:
            raise Damaged("its palette is broken")
        kept.append(_chunk(b"PLTE", palette))
    if _transparent(head[9], transparency, palette):
        kept.append(_chunk(b"tRNS", transparency))
    kept += [_chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")]
    return Contents(b"".join(kept), orientation or 1, _png_colours(told, grey=head[9] in (0, 4)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool, bool]]:
    """Yield (kind, body, whether the checksum is right, whether all of it is there)."""
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        end = position + 8 + length
        sound = data[end : end + 4] == struct.pack(">I", zlib.crc32(kind + body))
        if not sound and not kind.isalpha():
            return  # an earlier length was wrong
        yield kind, body, sound, end + 4 <= len(data)
        position = end + 4


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _check_pixels(pixels: list[bytes]) -> None:
    """Inflate the pixels, keeping none: their own checksum decides where the file's is wrong. Raises `Damaged`."""
    inflating = zlib.decompressobj()
    size = 0
    try:
        for body in pixels:
            for start in range(0, len(body), _PIECE_BYTES):
                rest = body[start : start + _PIECE_BYTES]
                while rest and not inflating.eof and size <= _MAX_INFLATED_BYTES:
                    size += len(inflating.decompress(rest, _PIECE_BYTES))
                    rest = inflating.unconsumed_tail
        sound = inflating.eof
    except zlib.error:
        sound = False
    if not sound:
        raise Damaged("its pixels are broken")


def _transparent(colour_type: int, body: bytes, palette: bytes) -> bool:
    """Whether a tRNS chunk fits its picture."""
    if colour_type == 3:
        return 0 < len(body) <= len(palette) // 3
    return len(body) == {0: 2, 2: 6}.get(colour_type, -1)


def _png_colours(told: dict[bytes, bytes], *, grey: bool) -> Colours:
    """What the chunks say, each ignored when it cannot be right."""
    cicp, gamma, primaries = told.get(b"cICP", b""), told.get(b"gAMA", b""), told.get(b"cHRM", b"")
    return Colours(
        icc=_inflated_profile(told.get(b"iCCP", b"")),
        cicp=(cicp[0], cicp[1]) if len(cicp) == 4 and cicp[2:] == b"\x00\x01" else None,  # RGB, full range
        srgb=len(told.get(b"sRGB", b"")) == 1 and told[b"sRGB"][0] <= 3,
        gamma=struct.unpack(">I", gamma)[0] / 100_000 if len(gamma) == 4 else None,
        primaries=tuple(value / 100_000 for value in struct.unpack(">8I", primaries)) if len(primaries) == 32 else None,
        grey=grey,
    )


def _inflated_profile(body: bytes) -> bytes | None:
    name, separator, rest = body.partition(b"\0")
    if not separator or not name or rest[:1] != b"\0":
        return None
    inflating = zlib.decompressobj()
    try:
        profile = inflating.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflating.eof else None


# --- WebP: https://developers.google.com/speed/webp/docs/riff_container

_WEBP_PIXELS: Final = frozenset({b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
_WEBP_ANIMATION_AND_ALPHA: Final = 0x12
_WEBP_PROFILE: Final = 0x20  # where this flag is missing, browsers do not look for a profile


def _webp(data: bytes) -> Contents:
    kept: list[bytes] = []
    orientation: int | None = None
    icc: bytes | None = None
    profiled = False
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        if kind == b"VP8X" and len(body) >= 10:
            profiled = bool(body[0] & _WEBP_PROFILE)
            kept.append(_riff(kind, bytes([body[0] & _WEBP_ANIMATION_AND_ALPHA, 0, 0, 0]) + body[4:10]))
        elif kind in _WEBP_PIXELS:
            # One that ends behind the file stays so long: the decoder finds out whether all pixels are there.
            kept.append(_riff(kind, body, length))
        elif kind == b"EXIF" and orientation is None:
            orientation = orientation_of(body.removeprefix(b"Exif\0\0"))
        elif kind == b"ICCP" and profiled and icc is None and len(body) == length:
            icc = body
        position += 8 + length + length % 2
    chunks = b"".join(kept)
    return Contents(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks, orientation or 1, Colours(icc=icc))


def _riff(kind: bytes, body: bytes, length: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(body) if length is None else length) + body + b"\0" * (len(body) % 2)
