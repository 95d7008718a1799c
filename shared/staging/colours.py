"""What a picture says of its colours, and how they become sRGB, which is what browsers and models expect.

The order is that of PNG (W3C, PNG third edition, 4.3): cICP, ICC profile, sRGB, gAMA with cHRM. Where a picture has no
ICC profile but says how its values are meant, a small profile is made of that, so that there is one way to convert:
Little CMS. The numbers were compared with Chromium's (tests/pages/test_pictures_as_browsers.py).
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import msgspec
from PIL import Image, ImageCms

_GREY: Final = frozenset({"1", "L", "LA", "La"})
_WHITE: Final = (255, 255, 255)
Matrix = Sequence[Sequence[float]]


class Colours(msgspec.Struct, frozen=True):
    """What was found in the file.

    `cicp` are the code points of ITU-T H.273 for primaries and transfer; `gamma` is the exponent by which light was
    encoded (0.45455 for most screens); `primaries` are x and y of white, red, green, blue.
    `grey` is a PNG with one channel of colour: of some, the decoder makes three equal ones.
    """

    icc: bytes | None = None
    cicp: tuple[int, int] | None = None
    srgb: bool = False
    gamma: float | None = None
    primaries: tuple[float, ...] | None = None
    grey: bool = False


# H.273, table 2: x and y of red, green, blue; the white is D65 unless named.
_D65: Final = (0.3127, 0.3290)
_REC709: Final = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_PRIMARIES: Final[dict[int, tuple[tuple[float, float], tuple[float, ...]]]] = {
    1: (_D65, _REC709),
    4: ((0.310, 0.316), (0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: (_D65, (0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: (_D65, (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    7: (_D65, (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    9: (_D65, (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: (_D65, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: (_D65, (0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
_HDR_PEAK: Final = 1000.0 / 203.0  # a screen's peak by SDR's white, both in nits: ITU-R BT.2408


def _srgb_light(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _bent(light: float) -> float:
    """HDR light, 1 being SDR's white, brought below 1: extended Reinhard, of the shape that browsers use."""
    return min(1.0, light * (1 + light / _HDR_PEAK**2) / (1 + light))


def _pq_light(value: float) -> float:
    """SMPTE ST 2084: 10,000 nits at 1."""
    power = value ** (1 / 78.84375)
    nits = 10_000 * (max(power - 0.8359375, 0.0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return _bent(nits / 203.0)


def _hlg_light(value: float) -> float:
    """ITU-R BT.2100, on a screen of 1,000 nits."""
    scene = value * value / 3 if value <= 0.5 else (math.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return _bent(scene**1.2 * _HDR_PEAK)


def _power(exponent: float, scale: float = 1.0) -> Callable[[float], float]:
    return lambda value: scale * value**exponent


_SCREEN: Final = _power(2.4)  # ITU-R BT.1886: how screens show what was encoded by BT.709, 601 and 2020
_TRANSFERS: Final[dict[int, Callable[[float], float]]] = {
    1: _SCREEN, 4: _power(2.2), 5: _power(2.8), 6: _SCREEN, 8: _power(1.0), 11: _SCREEN, 13: _srgb_light,
    14: _SCREEN, 15: _SCREEN, 16: _pq_light, 17: _power(2.6, 52.37 / 48), 18: _hlg_light,
}  # fmt: skip
_SRGB_CICP: Final = (1, 13)
_LIKE_SRGB: Final = 0.05  # libpng's threshold: a gamma so near to the screen's is the screen's
# libpng calls others "out of range"; and the curve must still be one that 8 bits can hold.
_MIN_GAMMA, _MAX_GAMMA = 0.1, 10.0


def to_srgb(picture: Image.Image, colours: Colours) -> Image.Image:
    """Return `picture`, of any mode, as RGB in sRGB; what is transparent lies on white."""
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda value: value / 256).convert("L")
        picture.info.pop("transparency", None)
    elif picture.mode in ("I", "F"):
        picture = _scaled(picture)
    alpha = None
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        alpha = layer.getchannel("A")
        # Grey stays grey, because a profile for grey fits nothing else.
        picture = layer.getchannel("R") if colours.grey or picture.mode in _GREY else layer.convert("RGB")
    elif picture.mode in ("P", "1"):
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    rgb = _converted(picture, colours)
    if alpha is None:
        return rgb
    flat = Image.new("RGB", rgb.size, _WHITE)
    flat.paste(rgb, mask=alpha)
    return flat


def _scaled(picture: Image.Image) -> Image.Image:
    """32-bit grey as 8 bits. Pillow opens 16-bit PNGs of some kinds so: values above 255 mean that depth."""
    high = picture.getextrema()[1]
    deep = isinstance(high, int | float) and high > 255
    grey = picture.point(lambda value: value / 256) if deep else picture
    return grey.convert("L")


def _converted(picture: Image.Image, colours: Colours) -> Image.Image:
    if colours.cicp is not None and picture.mode in ("RGB", "L"):
        if colours.cicp == _SRGB_CICP:
            return picture.convert("RGB")
        made = _cicp_profile(*colours.cicp)
        converted = made and _through(picture.convert("RGB"), made)
        if converted:
            return converted
    if colours.icc is not None:
        fitting = _fitting(picture, colours.icc)
        converted = fitting and _through(fitting, colours.icc)
        if converted:
            return converted
    if not colours.srgb and picture.mode in ("RGB", "L"):
        made = _described_profile(colours.gamma, colours.primaries)
        converted = made and _through(picture.convert("RGB"), made)
        if converted:
            return converted
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _fitting(picture: Image.Image, icc: bytes) -> Image.Image | None:
    """The picture in the mode its profile speaks of; None when the two do not fit. Grey fits a profile for RGB."""
    space = icc[16:20]
    if space == b"RGB " and picture.mode in ("RGB", "L"):
        return picture.convert("RGB")
    if (space, picture.mode) in ((b"GRAY", "L"), (b"CMYK", "CMYK")):
        return picture
    return None


def _through(picture: Image.Image, icc: bytes) -> Image.Image | None:
    """`picture` in sRGB; None when the profile cannot be used."""
    try:
        return ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@cache
def _cicp_profile(primaries: int, transfer: int) -> bytes | None:
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    white, corners = _PRIMARIES[primaries]
    return made_profile(white, corners, _TRANSFERS[transfer])


def _described_profile(gamma: float | None, primaries: Sequence[float] | None) -> bytes | None:
    """A profile of what gAMA and cHRM say; None when they say sRGB, what cannot be, or (cHRM alone) too little."""
    if gamma is None or not _MIN_GAMMA <= gamma <= _MAX_GAMMA:
        return None
    like_screen = abs(gamma * 2.2 - 1) <= _LIKE_SRGB
    light = _srgb_light if like_screen else _power(1 / gamma)
    corners = tuple(primaries[2:]) if primaries else _REC709
    white = (primaries[0], primaries[1]) if primaries else _D65
    like_srgb = all(abs(a - b) < 0.005 for a, b in zip((*white, *corners), (*_D65, *_REC709), strict=True))
    if like_screen and like_srgb:
        return None
    return made_profile(white, corners, light)


# --- a profile of our own


def made_profile(white: Sequence[float], corners: Sequence[float], light: Callable[[float], float]) -> bytes | None:
    """An ICC v2 matrix profile, made of chromaticities and a transfer curve (0 to 1 in and out).

    None when the chromaticities span no colours. See ICC.1:2001-04, 6.3.1.2 (three-component matrix-based).
    """
    try:
        adapted = _to_d50(white, _matrix(white, corners))
    except ZeroDivisionError:
        return None
    if any(abs(value) > 2 for row in adapted for value in row):
        return None
    curve = b"curv" + bytes(4) + struct.pack(">I", 1024)
    curve += b"".join(struct.pack(">H", round(65535 * min(1.0, max(0.0, light(i / 1023))))) for i in range(1024))
    name = b"as described\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = [(b"desc", described), (b"cprt", b"text" + bytes(4) + b"none\0"), (b"wtpt", _xyz((0.9642, 1.0, 0.8249)))]
    tags += [(key, _xyz([row[i] for row in adapted])) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(key, curve) for key in (b"rTRC", b"gTRC", b"bTRC")]
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, data in tags:
        table += key + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + b"".join(map(_s15, (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + table + body


def _s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_s15, values))


def _matrix(white: Sequence[float], corners: Sequence[float]) -> Matrix:
    """RGB to XYZ: each corner's XYZ, so scaled that together they make the white."""
    columns = [_from_xy(corners[i], corners[i + 1]) for i in (0, 2, 4)]
    rows = tuple(zip(*columns, strict=True))
    scale = _applied(_inverse(rows), _from_xy(white[0], white[1]))
    return tuple(tuple(row[i] * scale[i] for i in range(3)) for row in rows)


def _to_d50(white: Sequence[float], matrix: Matrix) -> Matrix:
    """Adapt to the white that profiles are in, by Bradford."""
    bradford: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
    there = _applied(bradford, (0.9642, 1.0, 0.8249))
    here = _applied(bradford, _from_xy(white[0], white[1]))
    scaled: Matrix = tuple(tuple(v * there[i] / here[i] for v in row) for i, row in enumerate(bradford))
    return _product(_product(_inverse(bradford), scaled), matrix)


def _from_xy(x: float, y: float) -> tuple[float, float, float]:
    return (x / y, 1.0, (1 - x - y) / y)


def _applied(matrix: Matrix, vector: Sequence[float]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = list(zip(*right, strict=True))
    return tuple(_applied(columns, row) for row in left)


def _inverse(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    whole = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return tuple(tuple(value / whole for value in row) for row in cofactors)
