"""Parts that odd pictures are made of: one scene, EXIF by hand, small colour profiles, PNG chunk by chunk.

The scene is four quadrants, upright: red, green above; blue, yellow below. Needs Pillow and numpy.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, ImageDraw

SIZE = (480, 360)
COLOURS = (
    (200, 60, 50),
    (60, 170, 70),
    (50, 80, 190),
    (220, 200, 60),
)  # top left, top right, bottom left, bottom right
_STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def scene(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for number, colour in enumerate(COLOURS):
        x, y = number % 2 * width // 2, number // 2 * height // 2
        draw.rectangle([x, y, x + width // 2, y + height // 2], fill=colour)
    return picture


def stored(orientation: int) -> Image.Image:
    """The scene as a camera held in this EXIF orientation stores it."""
    return scene().transpose(_STORED[orientation])


def jpeg(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


def png(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", **options)
    return out.getvalue()


def webp(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=95, **options)
    return out.getvalue()


# --- JPEG segments


def segment(data: bytes, payload: bytes, marker: int = 0xE1) -> bytes:
    """`data` with one segment more, directly behind the start of the image."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


def segments(data: bytes, *added: tuple[int, bytes]) -> bytes:
    """`data` with further segments (marker, payload), in this order, directly behind the start of the image."""
    for marker, payload in reversed(added):
        data = segment(data, payload, marker)
    return data


def profile_parts(*parts: tuple[int, int, bytes]) -> list[tuple[int, bytes]]:
    """Return the segments of an ICC profile. A part is (its number, the number of all, bytes of the profile)."""
    return [(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + body) for number, count, body in parts]


def exif_jpeg(picture: Image.Image, tiff: bytes) -> bytes:
    return segment(jpeg(picture), b"Exif\0\0" + tiff)


def xmp(orientation: int, *, element: bool = False) -> bytes:
    """An XMP packet that names an orientation, as attribute or as element."""
    said = (
        b"><tiff:Orientation>%d</tiff:Orientation></rdf:Description>" if element else b' tiff:Orientation="%d"/>'
    ) % orientation
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"' + said + b"</rdf:RDF></x:xmpmeta>"
    )


XMP_JPEG = b"http://ns.adobe.com/xap/1.0/\0"

# --- EXIF: entries are (tag, type, count, bytes of the value)

Entry = tuple[int, int, int, bytes]


def orientation(value: int) -> Entry:
    return (0x112, 3, 1, struct.pack("<H", value))


def _directory(entries: list[Entry], base: int) -> bytes:
    head, data = struct.pack("<H", len(entries)), b""
    behind = base + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in sorted(entries):
        if len(value) > 4:
            where = struct.pack("<I", behind + len(data))
            data += value + bytes(len(value) % 2)
        else:
            where = value.ljust(4, b"\0")
        head += struct.pack("<HHI", tag, kind, count) + where
    return head + bytes(4) + data


def tiff(entries: list[Entry], *, exif: list[Entry] | None = None, gps: list[Entry] | None = None) -> bytes:
    """A little-endian EXIF block with its sub-directories."""
    rows = list(entries)
    if exif is not None:
        rows.append((0x8769, 4, 1, b"EXIF"))
    if gps is not None:
        rows.append((0x8825, 4, 1, b"GPS_"))
    main = _directory(rows, 8)
    place, behind = 8 + len(main), b""
    for mark, sub in ((b"EXIF", exif), (b"GPS_", gps)):
        if sub is not None:
            main = main.replace(mark, struct.pack("<I", place), 1)
            more = _directory(sub, place)
            behind += more
            place += len(more)
    return b"II*\0" + struct.pack("<I", 8) + main + behind


# --- colour profiles: small ones of our own, described by their primaries and one gamma


def _s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(
    red: tuple[float, float], green: tuple[float, float], blue: tuple[float, float], gamma: float = 2.2
) -> bytes:
    """An ICC v2 matrix profile with a D65 white, adapted to D50 (Bradford)."""
    corners = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    matrix = corners * np.linalg.solve(corners, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford @ matrix
    xyz = lambda column: b"XYZ " + bytes(4) + b"".join(_s15(float(v)) for v in column)  # noqa: E731
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    name = b"case\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    described += bytes(-len(described) % 4)
    tags = [(b"desc", described), (b"cprt", b"text" + bytes(4) + b"none" + bytes(4)), (b"wtpt", xyz(d50))]
    tags += [(key, xyz(adapted[:, i])) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(key, curve) for key in (b"rTRC", b"gTRC", b"bTRC")]
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, data in tags:
        table += key + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + _s15(0.9642) + _s15(1) + _s15(0.8249)
    return head.ljust(128, b"\0") + table + body


def grey_profile(gamma: float) -> bytes:
    """Return an ICC v2 profile for grey pictures, with one gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _assembled(b"GRAY", b"XYZ ", b"mntr", [(b"wtpt", _xyz((0.9642, 1, 0.8249))), (b"kTRC", curve)])


def ink_profile(corners: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """Return an ICC v2 profile for CMYK pictures: a table of two points a side, from inks to Lab.

    `corners` maps inks (each 0 or 1) to Lab in eight bits. What it leaves out is as dark as it is inked.
    """
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += b"".join(_s15(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table += bytes(range(256)) * 4
    for number in range(16):
        inks = (number >> 3 & 1, number >> 2 & 1, number >> 1 & 1, number & 1)
        table += bytes(corners.get(inks, (255 - 60 * sum(inks), 128, 128)))
    table += bytes(range(256)) * 3
    return _assembled(b"CMYK", b"Lab ", b"prtr", [(b"wtpt", _xyz((0.9642, 1, 0.8249))), (b"A2B0", table)])


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_s15(v) for v in values)


def _assembled(space: bytes, between: bytes, kind: bytes, more: list[tuple[bytes, bytes]]) -> bytes:
    name = b"case\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = [(b"desc", described), (b"cprt", b"text" + bytes(4) + b"none\0"), *more]
    start, index, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, data in tags:
        index += key + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, kind, space, between)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + _s15(0.9642) + _s15(1) + _s15(0.8249)
    return head.ljust(128, b"\0") + index + body


P3 = profile((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = profile((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def into(icc: bytes) -> Image.Image:
    """The scene with its colours expressed in another profile: shown right only by those who look at the profile."""
    return ImageCms.profileToProfile(
        scene(), ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc)), outputMode="RGB"
    )


# --- PNG, chunk by chunk


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def raw_png(pixels: np.ndarray, *before: bytes, after: bytes = b"") -> bytes:
    """RGB, 8 or 16 bits by the array's type, with further chunks before or after the pixels."""
    depth = pixels.dtype.itemsize * 8
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(before)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + after
        + chunk(b"IEND", b"")
    )


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type


def idat(pixels: np.ndarray) -> bytes:
    return chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 9))


def any_png(pixels: np.ndarray, colour_type: int, *before: bytes, after: bytes = b"") -> bytes:
    """A PNG of any colour type; 8 or 16 bits by the array's type. A palette is among the chunks `before`."""
    height, width = pixels.shape[:2]
    assert pixels.size == height * width * CHANNELS[colour_type]
    head = struct.pack(">IIBBBBB", width, height, pixels.dtype.itemsize * 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(before) + idat(pixels) + after + chunk(b"IEND", b"")


def palette_png(picture: Image.Image, *between: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """The picture in eight colours, with further chunks before the palette, between it and the pixels, and after."""
    small = picture.quantize(8)
    palette = chunk(b"PLTE", bytes(small.getpalette()[:24]))
    return any_png(np.asarray(small), 3, before, palette, *between, after=after)


def profile_chunk(icc: bytes) -> bytes:
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))


def gamma_encoded(exponent: float, depth: int) -> np.ndarray:
    """The scene's pixels raised to a power, as software writes them that stores light and not sRGB."""
    most = 2**depth - 1
    values = np.round((np.asarray(scene()) / 255.0) ** exponent * most)
    return values.astype(">u2" if depth == 16 else "u1")


# --- WebP, chunk by chunk


def riff_chunk(kind: bytes, data: bytes, *, length: int | None = None, padded: bool = True) -> bytes:
    size = struct.pack("<I", len(data) if length is None else length)
    return kind + size + data + (bytes(len(data) % 2) if padded else b"")


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def canvas(width: int, height: int, flags: int = 0) -> bytes:
    """WebP's VP8X chunk. Flags: 0x20 profile, 0x10 alpha, 0x08 EXIF, 0x04 XMP, 0x02 animation."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)
