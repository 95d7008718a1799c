"""Light for the furniture: the photo is its own environment, and what stands in the room hides part of it.

Radiance is in the photo's linear units: a value of 1 is a white pixel. Irradiance is divided by pi, so that a surface
shows as its colour times its irradiance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shared.staging.preview.meshes import Mesh
from shared.staging.preview.openings import Sides, Wall
from shared.staging.preview.views import Floats, View

DIRECTIONS: Final = 72
_RECEIVERS: Final = 8_192  # places at once: a table of all directions for them is 2 MiB
_POINTS: Final = 80_000  # on all surfaces; about three a cell of the depth maps
_MAP_CELL: Final = 0.028  # metres
_BIAS: Final = 0.03
_WHITE_PAINT: Final = 0.8
_BRIGHTER: Final = 4.0  # a window may be five times as bright as the white that the photo shows of it
_RETURNED: Final = 0.55  # of the mean light, by what hides it
_RETURN_METRES: Final = 0.8
# Of what is computed: walls that the photo shows light are lit by more than the middle of the room sees.
_WALL_SHADOW: Final = 0.65
FLOOR_CELL, WALL_CELL = 0.035, 0.06  # metres of the shadow grids
_FADE: Final = 0.5  # metres over which a grid's shadow ends


def fibonacci() -> Floats:
    """Return directions spread evenly over the sphere."""
    k = np.arange(DIRECTIONS) + 0.5
    up = 1 - 2 * k / DIRECTIONS
    turn = math.pi * (1 + math.sqrt(5)) * k
    flat = np.sqrt(1 - up * up)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), up], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Environment:
    """What comes from each direction to the middle of the furniture."""

    directions: Floats  # (n, 3)
    radiance: Floats  # (n, 3)

    def irradiance(self, normals: Floats) -> Floats:
        """Return what falls on surfaces with these normals when nothing hides any of it."""
        cosine = np.maximum(normals @ self.directions.T, 0) * np.float32(4 / DIRECTIONS)
        return (cosine @ self.radiance).astype(np.float32)

    def strongest(self, count: int) -> tuple[Floats, Floats]:
        """Return the brightest directions and their radiance, for highlights."""
        order = np.argsort(-self.radiance.sum(axis=1), kind="stable")[:count]
        return self.directions[order], self.radiance[order]


def environment(small: Floats, view: View, sides: Sides, middle: tuple[float, float, float]) -> Environment:
    """Return the light at `middle`, looked up in a small linear picture (height, width, 3) that `view` fits."""
    directions = fibonacci()
    origin = np.array(middle, np.float32)
    low = np.array([sides.left, -3.0, 0.0], np.float32)
    high = np.array([sides.right, sides.back, sides.height], np.float32)
    with np.errstate(divide="ignore"):
        reach = np.where(directions > 0, (high - origin) / directions, (low - origin) / directions)
    places = origin + directions * np.maximum(reach.min(axis=1), 0.01)[:, None]
    u, v, depth = view.project(places.astype(np.float32))
    height, width = small.shape[:2]
    column = np.clip(u, 0, width - 1).astype(int)
    row = np.clip(v, 0, height - 1).astype(int)
    brightest = small.max(axis=2)
    boosted = small * (1 + _BRIGHTER * np.clip((brightest - 0.8) / 0.2, 0, 1) ** 2)[..., None]
    radiance = boosted[row, column]
    walls = small[: max(1, int(0.55 * height))].reshape(-1, 3)
    radiance[depth < 0.1] = 0.85 * np.median(walls, axis=0)
    radiance = radiance.astype(np.float32)
    found = Environment(directions, radiance)
    saturation = walls.max(axis=1) - walls.min(axis=1)
    paint = walls[(walls.max(axis=1) < 0.9) & (saturation < 0.25 * walls.max(axis=1) + 0.02)]
    if not len(paint):
        paint = walls
    bright = np.percentile(paint.mean(axis=1), 88)
    up = found.irradiance(np.array([[0, 0, 1.0]], np.float32))[0]
    scale = float(bright) / max(1e-4, _WHITE_PAINT * float(up.mean()))
    tone = paint[np.argsort(paint.mean(axis=1), kind="stable")[int(0.6 * len(paint)) :]].mean(axis=0)
    tone = tone / max(1e-4, float(tone.mean()))
    own = up / max(1e-4, float(up.mean()))
    tint = 1 + 0.6 * (tone / np.maximum(own, 0.2) - 1)
    return Environment(directions, (radiance * np.float32(scale) * tint.astype(np.float32)).astype(np.float32))


def scattered(meshes: list[Mesh]) -> Floats:
    """Return points on all surfaces, as dense everywhere; always the same ones for the same meshes."""
    corners = np.concatenate([mesh.vertices[mesh.faces] for mesh in meshes])
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = np.cumsum(area)
    chance = np.random.default_rng(7)
    chosen = np.searchsorted(total, chance.random(_POINTS) * total[-1])
    a, b = chance.random((2, _POINTS), dtype=np.float32)
    swap = a + b > 1
    a, b = np.where(swap, 1 - a, a)[:, None], np.where(swap, 1 - b, b)[:, None]
    one = corners[np.minimum(chosen, len(corners) - 1)]
    return (one[:, 0] + a * (one[:, 1] - one[:, 0]) + b * (one[:, 2] - one[:, 0])).astype(np.float32)


class Shadows:
    """One depth map a direction: how far towards the light the last surface of each line lies."""

    def __init__(self, light: Environment, points: Floats) -> None:
        self._light = light
        self._mean = light.radiance.mean(axis=0) * np.float32(_RETURNED)
        self._maps = []
        for direction in light.directions:
            helper = np.array([0, 0, 1.0]) if abs(direction[2]) < 0.9 else np.array([1.0, 0, 0])
            one = np.cross(helper, direction)
            one /= np.linalg.norm(one)
            other = np.cross(direction, one)
            basis = np.stack([one, other]).astype(np.float32) / np.float32(_MAP_CELL)
            across, along = points @ basis[0], points @ basis[1]
            low = np.array([math.floor(across.min()) - 2, math.floor(along.min()) - 2], np.int32)
            size = np.array([math.ceil(across.max()), math.ceil(along.max())], np.int32) - low + 3
            depth = np.full(int(size[0]) * int(size[1]), -1e6, np.float32)
            # truncation: the same half cell off for points and receivers
            index = (across.astype(np.int32) - low[0]) * size[1] + (along.astype(np.int32) - low[1])
            np.maximum.at(depth, index, points @ direction)
            self._maps.append((basis, low, size, depth))

    def light(self, places: Floats, normals: Floats) -> Floats:
        """Return the irradiance at places on surfaces, with what the scene hides of it."""
        total = np.empty((len(places), 3), np.float32)
        for start in range(0, len(places), _RECEIVERS):
            some = slice(start, start + _RECEIVERS)
            open_, back = self._shares(places[some], normals[some])
            total[some] = open_ @ self._light.radiance + back @ np.minimum(self._light.radiance, self._mean)
        return total

    def _shares(self, places: Floats, normals: Floats) -> tuple[Floats, Floats]:
        """Return by direction (n, directions) the share of light that arrives, and that what hides it gives back."""
        lifted = places + np.float32(0.02) * normals
        weight = (normals @ self._light.directions.T) * np.float32(4 / DIRECTIONS)
        weight[weight < 0.01 * 4 / DIRECTIONS] = 0
        back = np.zeros_like(weight)
        for number, direction in enumerate(self._light.directions):
            chosen = np.flatnonzero(weight[:, number])
            if not len(chosen):
                continue
            basis, low, size, depth = self._maps[number]
            at = lifted if len(chosen) == len(lifted) else lifted[chosen]
            across, along = (at @ basis[0]).astype(np.int32) - low[0], (at @ basis[1]).astype(np.int32) - low[1]
            # the outermost cells are empty: what is beyond them looks there
            index = np.clip(across, 0, size[0] - 1) * size[1] + np.clip(along, 0, size[1] - 1)
            above = depth[index] - at @ direction
            hidden = np.flatnonzero(above > _BIAS)
            some = chosen[hidden]
            share = 1 - np.exp(above[hidden] * np.float32(-1 / _RETURN_METRES))
            back[some, number] = weight[some, number] * share
            weight[some, number] = 0
        return weight, back


def blurred(grid: Floats) -> Floats:
    """Return a grid smoothed by one cell each way: 72 directions leave streaks."""
    for axis in (0, 1):
        padded = np.pad(grid, [(2, 2) if k == axis else (0, 0) for k in range(grid.ndim)], mode="edge")
        n = grid.shape[axis]
        parts = [padded[k : k + n] if axis == 0 else padded[:, k : k + n] for k in range(5)]
        grid = (parts[0] + 4 * parts[1] + 6 * parts[2] + 4 * parts[3] + parts[4]) / np.float32(16)
    return grid


@dataclass(frozen=True)
class Grid:
    """The share of light left on a rectangle of floor or wall; 1 where nothing is hidden, and at its ends."""

    start: tuple[float, float]
    cell: float
    ratio: Floats  # (along, across, 3)


def _faded(ratio: Floats, cell: float) -> Floats:
    """Return the ratio going to 1 towards the rectangle's ends: a step of one per cent is seen as a line."""
    n, m = ratio.shape[:2]
    reach = _FADE / cell
    x = np.minimum(np.arange(n), np.arange(n)[::-1]) / reach
    y = np.minimum(np.arange(m), np.arange(m)[::-1]) / reach
    weight = np.clip(np.minimum(x[:, None], y[None, :]), 0, 1)[..., None].astype(np.float32)
    weight = weight * weight * (3 - 2 * weight)
    return (1 + (ratio - 1) * weight).astype(np.float32)


def floor_grid(shadows: Shadows, light: Environment, sides: Sides, points: Floats) -> Grid:
    """Return what the furniture leaves of the floor's light, with a dark line where something touches it."""
    low = np.maximum(points[:, :2].min(axis=0) - 1.6, [sides.left - _FADE, 0.2])
    high = np.minimum(points[:, :2].max(axis=0) + 1.6, [sides.right + _FADE, sides.back + _FADE])
    x = np.arange(low[0], high[0], FLOOR_CELL, dtype=np.float32)
    y = np.arange(low[1], high[1], FLOOR_CELL, dtype=np.float32)
    places = np.zeros((len(x), len(y), 3), np.float32)
    places[..., 0], places[..., 1] = x[:, None], y[None, :]
    normals = np.zeros_like(places)
    normals[..., 2] = 1
    with_scene = shadows.light(places.reshape(-1, 3), normals.reshape(-1, 3)).reshape(places.shape)
    without = light.irradiance(np.array([[0, 0, 1.0]], np.float32))[0]
    ratio = blurred(with_scene / np.maximum(without, 1e-4))
    near = points[points[:, 2] < 0.07]
    touch = np.zeros((len(x), len(y)), np.float32)
    i = ((near[:, 0] - low[0]) / FLOOR_CELL + 0.5).astype(int)
    j = ((near[:, 1] - low[1]) / FLOOR_CELL + 0.5).astype(int)
    ok = (i >= 0) & (j >= 0) & (i < len(x)) & (j < len(y))
    touch[i[ok], j[ok]] = 1
    ratio = ratio * (1 - 0.38 * blurred(touch[..., None]))
    return Grid((float(low[0]), float(low[1])), FLOOR_CELL, _faded(np.minimum(ratio, 1), FLOOR_CELL))


def wall_grid(shadows: Shadows, light: Environment, sides: Sides, points: Floats, wall: Wall) -> Grid | None:
    """Return what the furniture leaves of a wall's light; None when nothing stands within a metre of it."""
    axis, other = (1, 0) if wall == "back" else (0, 1)
    plane = {"left": sides.left, "right": sides.right, "back": sides.back}[wall]
    near = points[np.abs(points[:, axis] - plane) < 0.8]
    if len(near) < 20:
        return None
    start, end = float(near[:, other].min()) - 0.9, float(near[:, other].max()) + 0.9
    along = np.arange(start, end, WALL_CELL, dtype=np.float32)
    up = np.arange(-_FADE, min(sides.height, float(near[:, 2].max()) + 0.8) + _FADE, WALL_CELL, dtype=np.float32)
    places = sides.places(wall, along[:, None], up[None, :])
    normals = np.zeros_like(places)
    normals[..., axis] = 1 if wall == "left" else -1
    flat = normals.reshape(-1, 3)
    with_scene = shadows.light(places.reshape(-1, 3), flat).reshape(places.shape)
    without = light.irradiance(flat[:1])[0]
    ratio = blurred(blurred(with_scene / np.maximum(without, 1e-4)))
    ratio = 1 - _WALL_SHADOW * (1 - ratio)
    return Grid((float(along[0]), float(up[0])), WALL_CELL, _faded(np.clip(ratio, 0.25, 1), WALL_CELL))


def low_pass(small: Floats, radius: int) -> Floats:
    """Return a small picture blurred by running means of `radius` pixels each way, twice."""
    out: Any = small
    for _ in range(2):
        for axis in (0, 1):
            padded = np.pad(out, [(radius + 1, radius) if k == axis else (0, 0) for k in range(3)], mode="edge")
            sums = np.cumsum(padded, axis=axis, dtype=np.float64)
            size = 2 * radius + 1
            out = (sums[size:] - sums[:-size] if axis == 0 else sums[:, size:] - sums[:, :-size]) / size
    return np.asarray(out, np.float32)
