"""Direct sun: where the photo shows its patch on the floor, which way it comes from, and how much brighter it is.

A patch alone says nothing: a light rug, a reflection or a pale tile looks like one. It is believed only when its
points, carried back along one direction, come out through openings that were found by their own edges, the points
beside it do not, and no other direction explains both nearly as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from shared.staging.preview.colours import LINEAR
from shared.staging.preview.light import Environment
from shared.staging.preview.openings import Hole, Sides
from shared.staging.preview.raster import Scene, heights
from shared.staging.preview.shadows import FLOOR, SUN_CELL, Beam, half_of, surfaces
from shared.staging.preview.views import Floats, View

_BRIGHTER: Final = 1.9  # times its surroundings: less is a tile or a reflection
_RAGGED: Final = 0.05  # share of neighbours on the floor of which one is lit and one is not: more is a pattern
_SHARES: Final = (0.015, 0.5)  # of the floor in the picture that a patch covers
_SAID: Final = 0.85  # share of lit points that come from a window
_SURE: Final = 0.75  # of lit points that come from a window, less the same of unlit ones
_APART: Final = math.radians(25)
_AHEAD: Final = 0.09  # by which the best direction beats every other one farther off than that
_NEARLY: Final = 0.10  # less than the best: directions that explain the patch nearly as well
_VAGUE: Final = math.radians(8.5)  # from their middle: a window as large as a wall explains any patch
_POINTS: Final = 300
_MARGIN: Final = 0.08  # metres around a window that still count: its edges are known to about that
_CLEAR: Final = 1.3  # times the unlit floor's luminance: what a window shows is brighter, a passage is not
_LUMA: Final = np.array([0.2126, 0.7152, 0.0722], np.float32)
_AROUND: Final = 7  # pixels at half size in which the sun is as strong everywhere
_WARM: Final = np.array([1.0, 0.95, 0.86], np.float32)  # colour of the sun: the photo's own is lost where it is white
_STRONGEST: Final = 3.5  # times the sky's light: the photo shows no more of it than its white
_LARGEST: Final = 9.0  # metres of floor that are looked at


@dataclass(frozen=True)
class Sun:
    """What is known of the sun."""

    direction: Any  # unit vector towards it
    share: Floats  # of the light on lit floor that is the sun's, by channel
    lit: Any  # which pixels of the small picture show lit floor
    threshold: float  # of their luminance
    unlit: float  # luminance of the floor beside them


def sun_of(small: Floats, view: View, sides: Sides, holes: tuple[Hole, ...]) -> Sun | None:
    """Return the sun in a small linear picture that `view` fits; None unless it is sure."""
    holes = tuple(hole for hole in holes if hole.kind != "door")  # of a white door and a white window lines say nothing
    if not holes:
        return None
    floor = surfaces(view, sides) == FLOOR
    luma = small @ _LUMA
    found = patch(luma, floor)
    if found is None:
        return None
    lit, threshold = found
    inner, outer = floor & ~_near(~lit), floor & ~_near(lit)
    if inner.sum() < 30 or outer.sum() < 30:
        return None
    glass = tuple(
        hole for hole in holes if _seen_through(luma, view, sides, hole) > _CLEAR * float(np.median(luma[outer]))
    )
    direction = _direction(_spread(view, inner), _spread(view, outer), sides, glass) if glass else None
    if direction is None:
        return None
    beside = outer & _near(lit, 6)
    unlit = np.median(small[beside if beside.sum() > 30 else outer], axis=0)
    bright = np.median(small[inner], axis=0)
    share = np.clip(1 - unlit / np.maximum(bright, 1e-3), 0, 0.85).astype(np.float32)
    return Sun(direction, share, lit, threshold, float(unlit @ _LUMA))


def beam_of(photo: Image.Image, view: View, floor: Any, sun: Sun, scene: Scene, light: Environment) -> Beam | None:
    """Return the sun as it falls into the furnished room; None when hardly any of the patch is in reach.

    `floor` says which pixels of the half-size picture show floor.
    """
    half = half_of(view)
    matte, core = _matte(photo, floor, sun)
    rows, columns = np.nonzero(matte[::4, ::4] > 127)
    if len(rows) < 20:
        return None
    x, y = half.floor(4 * columns.astype(np.float32), 4 * rows.astype(np.float32))
    start = float(x.min()) - 0.1, float(y.min()) - 0.1
    size = tuple(
        int(min(_LARGEST, high - low + 0.2) / SUN_CELL) for low, high in ((y.min(), y.max()), (x.min(), x.max()))
    )
    direction = sun.direction
    slant = float(direction[0] / direction[2]), float(direction[1] / direction[2])
    along, across = (
        np.float32(low) + (np.arange(n, dtype=np.float32) + np.float32(0.5)) * np.float32(SUN_CELL)
        for low, n in zip(start[::-1], size, strict=True)
    )
    places = np.zeros((*size, 3), np.float32)
    places[..., 0], places[..., 1] = across, along[:, None]
    u, v, depth = half.project(places)
    seen = (depth > 0.1) & (u >= 0) & (v >= 0) & (u < half.width) & (v < half.height)
    column, row = np.where(seen, u, 0).astype(np.int32), np.where(seen, v, 0).astype(np.int32)
    lit = core[row, column] * (seen * np.float32(1 / 255))
    up = light.irradiance(np.array([[0, 0, 1.0]], np.float32))[0]
    most = float(sun.share.max())  # the channel that is least cut off
    strength = up.mean() * _WARM * np.float32(min(most / (1 - most), _STRONGEST) / direction[2])
    return Beam(direction, sun.share, strength, matte, start, lit, heights(scene, slant, start, SUN_CELL, size))


def _matte(photo: Image.Image, floor: Any, sun: Sun) -> tuple[Any, Any]:
    """Return how far each pixel of the half-size picture is in the sun, of 255: with half shade, and without.

    `floor` says which of them show floor. Thin lines count as what is around them: a pale joint in the shade, a dark
    one in the sun. Half shade is what it is, so that taking the sun away leaves shade and no edge.
    """
    box, luma, here = _part(photo, floor, sun)
    lit = here & (luma > sun.threshold)
    bright = _blurred(np.where(lit, luma, 0), _AROUND) / np.maximum(_blurred(lit, _AROUND), 0.02)
    usual = max(1e-3, float(sun.share @ _LUMA))
    most = np.clip((1 - sun.unlit / np.maximum(bright, 1e-3)) / usual, 0, 1)  # less where the patch is less bright
    shade = 1.15 * sun.unlit
    half = np.clip((_blurred(np.minimum(luma, 1), 1) - shade) / np.maximum(bright - shade, 1e-3), 0, 1)
    core = (_blurred(lit, 3) > 0.5) * most * floor[box]
    edge = half * (bright > shade) * most * floor[box]
    out = np.zeros((2, *floor.shape), np.uint8)
    for number, share in enumerate((np.maximum(core, edge), core)):
        out[number][box] = np.round(255 * _blurred(share, 1))
    return out[0], out[1]


def _part(photo: Image.Image, floor: Any, sun: Sun) -> tuple[Any, Floats, Any]:
    """Return the rectangle around the patch at half size, its luminance, and which pixels of it may be lit floor."""
    high, wide = floor.shape
    near = np.asarray(Image.fromarray((_near(sun.lit) * 255).astype(np.uint8)).resize((wide, high))) > 0
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    top, low, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    across, down = photo.width / wide, photo.height / high
    of_photo = (left * across, top * down, right * across, low * down)
    small = photo.resize((right - left, low - top), Image.Resampling.BOX, box=of_photo)
    box = slice(top, low), slice(left, right)
    return box, LINEAR[np.asarray(small)] @ _LUMA, near[box] & floor[box]


def _blurred(values: Any, radius: int) -> Any:
    """Return values between 0 and 1, each the mean of those around it."""
    picture = Image.fromarray((np.asarray(values) * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.BoxBlur(radius)), np.float32) / 255


def patch(luma: Floats, floor: Any) -> tuple[Any, float] | None:
    """Return the lit part of the floor and its least luminance (Otsu's threshold); None when it is no clear patch."""
    if floor.sum() < 200:
        return None
    value = np.log(np.maximum(luma, 1e-3))
    counts, edges = np.histogram(value[floor], 64)
    middle = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), float(counts.sum())
    sums = np.cumsum(counts * middle)
    apart = (sums[-1] * below / total - sums) ** 2 / np.maximum(below * (total - below), 1e-9)
    threshold = float(edges[1:][int(apart[:-1].argmax())])
    lit = floor & (value > threshold)
    share = float(lit.sum()) / total
    if not _SHARES[0] < share < _SHARES[1]:
        return None
    if np.median(luma[lit]) < _BRIGHTER * max(1e-4, float(np.median(luma[floor & ~lit]))):
        return None
    across = floor[:, 1:] & floor[:, :-1]
    down = floor[1:] & floor[:-1]
    changes = int((lit[:, 1:] ^ lit[:, :-1])[across].sum()) + int((lit[1:] ^ lit[:-1])[down].sum())
    if changes > _RAGGED * (int(across.sum()) + int(down.sum())):
        return None
    return lit, math.exp(threshold)


def _seen_through(luma: Floats, view: View, sides: Sides, hole: Hole) -> float:
    """Return the median luminance of what an opening shows; 0 when it is not in the picture."""
    along, up = np.linspace(hole.start, hole.end, 14)[1:-1], np.linspace(max(hole.bottom, 0.3), hole.top, 14)[1:-1]
    u, v, depth = view.project(sides.places(hole.wall, along, up[:, None]))
    seen = (depth > 0.1) & (u >= 0) & (v >= 0) & (u < view.width) & (v < view.height)
    return float(np.median(luma[v[seen].astype(np.int32), u[seen].astype(np.int32)])) if seen.any() else 0.0


def _near(mask: Any, pixels: int = 2) -> Any:
    """Return the mask grown by some pixels."""
    for _ in range(pixels):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        mask = wide.copy()
        mask[:, 1:] |= wide[:, :-1]
        mask[:, :-1] |= wide[:, 1:]
    return mask


def _spread(view: View, mask: Any) -> Any:
    """Return places on the floor (n, 2) of some of the mask's pixels, spread evenly over it."""
    rows, columns = np.nonzero(mask)
    some = np.linspace(0, len(rows) - 1, min(_POINTS, len(rows))).astype(int)
    x, y = view.floor(columns[some].astype(np.float32) + 0.5, rows[some].astype(np.float32) + 0.5)
    return np.stack([x, y], axis=1)


def _direction(lit: Any, unlit: Any, sides: Sides, holes: tuple[Hole, ...]) -> Any:
    """Return the direction towards the sun that explains the patch, or None."""
    turn, rise = np.meshgrid(np.radians(np.arange(0, 360, 5)), np.radians(np.arange(12, 68, 4)), indexing="ij")
    ways = _ways(turn.reshape(-1), rise.reshape(-1))
    said, value = _explained(ways, lit, unlit, sides, holes)
    best = int(value.argmax())
    other = value[ways @ ways[best] < math.cos(_APART)].max(initial=-1)
    if value[best] - other < _AHEAD:
        return None
    alike = ways[value >= value[best] - _NEARLY]
    middle = alike.mean(axis=0)
    if (alike @ middle).min() < math.cos(_VAGUE) * np.linalg.norm(middle):
        return None
    start_turn, start_rise = turn.reshape(-1)[best], rise.reshape(-1)[best]
    more_turn, more_rise = np.meshgrid(np.radians(np.arange(-6, 7, 1.5)), np.radians(np.arange(-5, 6, 1.0)))
    ways = _ways(start_turn + more_turn.reshape(-1), start_rise + more_rise.reshape(-1))
    said, value = _explained(ways, lit, unlit, sides, holes)
    good = np.flatnonzero(value >= value.max() - 0.01)  # a plateau: its middle is the likeliest
    if value.max() < _SURE or said[good].min() < _SAID:
        return None
    middle = ways[good].mean(axis=0)
    return (middle / np.linalg.norm(middle)).astype(np.float32)


def _ways(turn: Any, rise: Any) -> Any:
    """Return unit vectors: `turn` from straight ahead to the right, `rise` from the horizon."""
    return np.stack([np.sin(turn) * np.cos(rise), np.cos(turn) * np.cos(rise), np.sin(rise)], axis=1)


def _explained(ways: Any, lit: Any, unlit: Any, sides: Sides, holes: tuple[Hole, ...]) -> tuple[Any, Any]:
    """Return for each direction the share of lit points that come from a window, and that less the unlit ones'."""
    said = _from_windows(ways, lit, sides, holes)
    return said, said - _from_windows(ways, unlit, sides, holes)


def _from_windows(ways: Any, points: Any, sides: Sides, holes: tuple[Hole, ...]) -> Any:
    """Return for each direction the share of floor points (n, 2) from which it leads out through a window."""
    x, y = points[None, :, 0], points[None, :, 1]
    out = np.zeros((len(ways), len(points)), np.bool_)
    reach = {}
    for wall, axis, at, place in (("left", 0, sides.left, x), ("right", 0, sides.right, x), ("back", 1, sides.back, y)):
        way = ways[:, axis : axis + 1]
        towards = way < -1e-3 if wall == "left" else way > 1e-3
        reach[wall] = np.where(towards, (at - place) / np.where(towards, way, 1), np.inf)
    first = np.minimum(np.minimum(reach["left"], reach["right"]), reach["back"])
    for hole in holes:
        far = np.where(np.isfinite(reach[hole.wall]), reach[hole.wall], 0)
        along = (x if hole.wall == "back" else y) + far * ways[:, (0 if hole.wall == "back" else 1)][:, None]
        up = far * ways[:, 2:]
        inside = (along > hole.start - _MARGIN) & (along < hole.end + _MARGIN)
        inside &= (up > hole.bottom - _MARGIN) & (up < hole.top + _MARGIN)
        out |= inside & (reach[hole.wall] == first) & (far > 0)
    return out.mean(axis=1)
