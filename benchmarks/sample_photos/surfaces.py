"""What the rooms of the sample photos are made of: wood, tiles, carpet, brick, concrete and paint.

Every pattern is computed where a ray meets it and knows how large the pixel is there, so that joints far away fade
into grey instead of breaking into dots. Places and pixel sizes are metres, angles degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rooms import Surface

Array = npt.NDArray[np.floating[Any]]  # in fact float32: half the memory, and precise enough for 8 bits
Mask = npt.NDArray[np.bool_]

TEXELS: Final = 1024  # a side of the noise pictures; a power of two, so that wrapping is a mask


@dataclass(frozen=True)
class Hits:
    """The rays that meet one face: where on it, how they slant, and how large a pixel is there.

    A slope is the metres a ray moves along u (or v) for each metre it goes through the face.
    """

    u: Array
    v: Array
    slope_u: Array
    slope_v: Array
    pixel_u: Array
    pixel_v: Array

    @property
    def pixel(self) -> Array:
        """Return the smaller side of a pixel."""
        return np.minimum(self.pixel_u, self.pixel_v)

    def only(self, where: Mask) -> Hits:
        """Return only the hits that are wanted."""
        return Hits(*(getattr(self, field.name)[where] for field in fields(self)))

    def turned(self, angle: float) -> Hits:
        """Return the same hits in a pattern laid at an angle."""
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        pixel_u, pixel_v = np.hypot(self.pixel_u * c, self.pixel_v * s), np.hypot(self.pixel_u * s, self.pixel_v * c)
        return Hits(self.u * c + self.v * s, self.v * c - self.u * s, self.slope_u, self.slope_v, pixel_u, pixel_v)


def linear(color: str) -> Array:
    """Return a #rrggbb colour as linear light, 0 to 1."""
    return np.asarray((np.array(tuple(bytes.fromhex(color[1:])), np.float32) / 255) ** np.float32(2.2))


def _noise(seed: int, stretch: float, power: float) -> Array:
    """Return tileable noise, mean 0 and deviation 1. `stretch` stretches it along u; a larger `power` coarsens it."""
    white = np.random.default_rng(seed).standard_normal((TEXELS, TEXELS))
    frequency = np.fft.fftfreq(TEXELS) * TEXELS
    radius = np.hypot(frequency[:, None], frequency[None, :] * stretch)
    picture = np.fft.ifft2(np.fft.fft2(white) * np.maximum(radius, 2.0) ** -power).real
    return np.asarray((picture - picture.mean()) / picture.std(), np.float32)


CLOUDY: Final = _noise(1, 1, 1.6)
STREAKY: Final = _noise(2, 30, 0.9)
GRITTY: Final = _noise(3, 1, 0.4)
DICE: Final = np.random.default_rng(4).random(4096, np.float32)


def sample(texture: Array, u: Array, v: Array) -> Array:
    """Return a square, repeating texture of numbers or colours at (u, v) texels, interpolated between texels."""
    side = len(texture)
    flat = texture.reshape(side * side, *texture.shape[2:])
    left, top = np.floor(u), np.floor(v)
    x0, y0 = left.astype(np.int32) & (side - 1), (top.astype(np.int32) & (side - 1)) * side
    x1, y1 = (x0 + 1) & (side - 1), (y0 + side) & (side * side - 1)
    across, down = ((part[:, None] if texture.ndim == 3 else part) for part in (u - left, v - top))
    upper, upper_next, lower, lower_next = (flat.take(y + x, axis=0) for y in (y0, y1) for x in (x0, x1))
    upper += (upper_next - upper) * across
    lower += (lower_next - lower) * across
    return np.asarray(upper + (lower - upper) * down)


def _dice(column: Array, row: Array) -> Array:
    """Return a fixed random number, 0 to 1, for each piece of a pattern."""
    return np.asarray(DICE[(column.astype(np.int32) * 131 + row.astype(np.int32) * 2477) & 4095])


def line(distance: Array, half: float, pixel: Array) -> Array:
    """Return how much of a pixel a line covers. It is `half` wide to each side, its middle `distance` away."""
    return np.asarray(np.minimum(np.clip((half + pixel / 2 - np.abs(distance)) / pixel, 0, 1), 2 * half / pixel))


def band(value: Array, low: float, high: float, pixel: Array | float) -> Array:
    """Return how much of a pixel lies between `low` and `high`."""
    return np.asarray(np.clip((value - low) / pixel + 0.5, 0, 1) * np.clip((high - value) / pixel + 0.5, 0, 1))


def mix(under: Array, over: Array, cover: Array) -> Array:
    """Return the colours `under`, covered by `over` (one colour or many) to the share `cover`."""
    mixed = np.array(under)
    seen = np.flatnonzero(cover)  # most covers are narrow
    mixed[seen] += ((over[seen] if over.ndim == 2 else over) - mixed[seen]) * cover[seen, None]
    return mixed


def shade(colour: Array, *shares: Array) -> Array:
    """Return the colours, darker by each share (lighter by a negative one)."""
    rest = np.ones_like(shares[0])
    for share in shares:
        rest = rest * (1 - share)
    return np.asarray(colour * rest[:, None])


def _bond(hit: Hits, length: float, width: float, shift: float, joint: float) -> tuple[Array, Array, Array]:
    """Lay pieces in rows. Returns two numbers per piece, and how much of a pixel is joint (`joint` wide each side).

    A row starts `shift` lengths after the last; a negative shift means anywhere, as a floor layer does it.
    """
    row = np.floor(hit.v / width)
    along = hit.u / length + (row * shift if shift >= 0 else _dice(row, row))
    column = np.floor(along)
    ends = (np.abs(along - column - 0.5) - 0.5) * length
    sides = (np.abs(hit.v / width - row - 0.5) - 0.5) * width
    seam = np.maximum(line(ends, joint, hit.pixel_u), line(sides, joint, hit.pixel_v))
    return _dice(column, row), _dice(row + 57, column), seam


def _herringbone(hit: Hits, width: float, joint: float) -> tuple[Hits, Array, Array]:
    """Lay blocks five times as long as wide at right angles. Returns the place in the block, its number, the joints."""
    blocks = 5
    x, y = hit.u / width, hit.v / width
    i, j = np.floor(x), np.floor(y)
    step = np.mod(i - j, 2 * blocks)
    flat, back = step < blocks, 2 * blocks - 1 - step
    along, across = np.where(flat, step + x - i, back + y - j), np.where(flat, y - j, x - i)
    number = _dice(np.where(flat, i - step, i + 977), np.where(flat, j, j - back))
    ends, sides = (np.abs(along - blocks / 2) - blocks / 2) * width, (np.abs(across - 0.5) - 0.5) * width
    seam = np.maximum(line(ends, joint, hit.pixel), line(sides, joint, hit.pixel))
    return Hits(along * width, across * width, x, y, hit.pixel_u, hit.pixel_v), number, seam


def _wood(surface: Surface, hit: Hits) -> Array:
    if surface.kind == "herringbone":
        place, number, seam = _herringbone(hit.turned(45), surface.size, surface.joint)
    else:
        place = hit
        number, _, seam = _bond(hit, surface.size * 8.5, surface.size, -1, surface.joint)
    near = 1 / (1 + (hit.pixel / 0.0025) ** 2)
    # Rings are the contours of a noise that is stretched along the plank; pores are fine streaks.
    rings = sample(CLOUDY, place.u * 26 + number * 2931, place.v * 300 + number * 6839)
    pores = sample(STREAKY, place.u * 300 + number * 4885, place.v * 1300 + number * 977)
    figure = 0.3 * np.sin(rings * 11) * near + 0.5 * pores * (0.3 + 0.7 * near) + 0.3 * rings
    tone = np.clip(0.5 + surface.contrast * (1.1 * (number - 0.5) + 0.55 * figure), 0, 1)
    colour = mix(np.broadcast_to(linear(surface.color), (tone.size, 3)), linear(surface.second), tone)
    return shade(colour, 0.75 * seam)


def _tiles(surface: Surface, hit: Hits) -> Array:
    number, other, seam = _bond(hit, surface.size * surface.ratio, surface.size, surface.shift, surface.joint)
    veins = sample(CLOUDY, hit.u * 260 + number * 5110, hit.v * 260 + other * 7330)
    grit = sample(GRITTY, hit.u * 600, hit.v * 600) / (1 + (hit.pixel / 0.003) ** 2)
    tone = surface.contrast * (0.5 * (number - 0.5) + 0.16 * veins + 0.05 * grit)
    base, joint = np.broadcast_to(linear(surface.color), (tone.size, 3)), linear(surface.second)
    if surface.kind == "checker":
        base = mix(base, joint, np.mod(np.floor(hit.u / surface.size) + np.floor(hit.v / surface.size), 2))
        joint = joint * 0.8
    return mix(shade(base, -tone), joint, seam)


def _rough(surface: Surface, hit: Hits) -> Array:
    """Return carpet, concrete or paint: one colour, more or less uneven."""
    patches = sample(CLOUDY, hit.u * 90, hit.v * 90)
    grit = sample(GRITTY, hit.u * 600, hit.v * 600) / (1 + (hit.pixel / 0.003) ** 2)
    base = np.broadcast_to(linear(surface.color), (patches.size, 3))
    if surface.kind == "carpet":
        pile = sample(GRITTY, hit.u * 260, hit.v * 260) / (1 + (hit.pixel / 0.006) ** 2)
        return shade(base, surface.contrast * (0.3 * pile + 0.2 * grit + 0.06 * patches))
    if surface.kind == "concrete":
        stains = sample(CLOUDY, hit.u * 31, hit.v * 31 + 400)
        cuts = _bond(hit, surface.size, surface.size, 0, surface.joint)[2]
        return shade(base, surface.contrast * (0.2 * patches + 0.2 * stains + 0.06 * grit), 0.45 * cuts)
    return shade(base, 0.008 * patches + 0.006 * grit)


def material(surface: Surface, hit: Hits) -> Array:
    """Return the colour of a surface (the share of light it reflects) at each hit."""
    hit = hit.turned(surface.turn) if surface.turn else hit
    if surface.kind in {"planks", "herringbone"}:
        return _wood(surface, hit)
    if surface.kind in {"tiles", "checker"}:
        return _tiles(surface, hit)
    return _rough(surface, hit)
