"""Shadows of the furniture on floor and walls, as a picture: how much of its light each pixel of the photo loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from shared.staging.preview.light import Grid
from shared.staging.preview.openings import Sides
from shared.staging.preview.views import Floats, View

SUN_CELL: Final = 0.015  # metres of what is known of the sun
_CLEAR: Final = 0.03  # metres below the last surface at which a place still belongs to it
_PENUMBRA: Final = 1.2  # cells by which the edge of the sun's shadow is blurred: the sun is no point
_UNSEEN: Final = 0.015  # of the light: this part of a shadow is left out; unseen, and more pixels stay the photo's
FLOOR: Final = 0  # the first of:
_WALLS: Final = ("floor", "left", "right", "back", "ceiling")


@dataclass(frozen=True)
class Beam:
    """Direct sun, on the floor and in the air above it.

    What is known of it lies on the floor, cell by cell (rows along y, columns along x): whether the photo shows sun
    there, and up to which height the furniture stands in the way of the light that would fall there.
    """

    direction: Any  # unit vector towards the sun
    share: Floats  # of the light on lit floor that is the sun's, by channel
    strength: Floats  # on a surface that faces it, by channel, in the units of light
    matte: Any  # how far each pixel of the half-size picture is lit floor, of 255
    start: tuple[float, float]
    lit: Floats  # 0 to 1
    top: Floats  # metres

    @property
    def slant(self) -> tuple[float, float]:
        """How far the beam moves along x and y for each metre that it rises."""
        x, y, z = (float(each) for each in self.direction)
        return x / z, y / z

    def at(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return how far places (metres) are in the sun, 0 to 1: soft over the width of a cell."""
        across, along = self.slant
        column = (x - z * np.float32(across) - np.float32(self.start[0])) / np.float32(SUN_CELL) - np.float32(0.5)
        row = (y - z * np.float32(along) - np.float32(self.start[1])) / np.float32(SUN_CELL) - np.float32(0.5)
        high, wide = self.lit.shape
        inside = (column >= 0) & (row >= 0) & (column < wide - 1.01) & (row < high - 1.01)
        out = np.zeros(len(x), np.float32)
        some = np.flatnonzero(inside)
        column, row, z = column[some], row[some], z[some] + np.float32(_CLEAR)
        i, j = row.astype(np.int32), column.astype(np.int32)
        a, b = row - i, column - j
        lit, top, first = self.lit.reshape(-1), self.top.reshape(-1), i * np.int32(wide) + j
        for step, weight in ((0, (1 - a) * (1 - b)), (1, (1 - a) * b), (wide, a * (1 - b)), (wide + 1, a * b)):
            cell = first + np.int32(step)
            out[some] += weight * lit[cell] * (top[cell] < z)
        return out


def half_of(view: View) -> View:
    """Return the camera of the half-size picture in which shadows are drawn."""
    return view.scaled((view.width + 1) // 2, (view.height + 1) // 2)


def lost_light(view: View, sides: Sides, grids: dict[str, Grid], surface: Any, beam: Beam | None = None) -> Any:
    """Return the light missing from each pixel (height, width, 3), of 255.

    `surface` is what each pixel of the half-size picture shows. Shadows are drawn at that size, where they are as
    smooth as at full size, in a fifth of the time.
    """
    half = half_of(view)
    if not grids:
        return np.zeros((view.height, view.width, 3), np.uint8)
    small = np.zeros((half.height, half.width, 3), np.uint8)
    for name, grid in grids.items():
        here = surface == _WALLS.index(name)
        rows, columns = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        if not len(rows):
            continue
        top, low, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        missing = 255 * np.clip(1 - np.float32(_UNSEEN) - grid.ratio, 0, 1)
        source = Image.fromarray((missing + np.float32(0.5)).astype(np.uint8))
        data = _quotients(half, sides, name, grid, (left, top))
        drawn = source.transform(
            (right - left, low - top), Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR
        )
        box = slice(top, low), slice(left, right)
        np.copyto(small[box], np.asarray(drawn), where=here[box][..., None])
    if beam is not None:
        _in_the_sun(small, surface == FLOOR, half, sides, beam)
    whole = Image.fromarray(small).resize((2 * half.width, 2 * half.height), Image.Resampling.BILINEAR)
    return np.asarray(whole)[: view.height, : view.width]


def _in_the_sun(small: Any, floor: Any, half: View, sides: Sides, beam: Beam) -> None:
    """Take the sun's part of the light from lit floor where furniture stands in its way, and only there.

    There the furniture's soft shadow falls on the sky's part alone.
    """
    rows, columns = np.flatnonzero((beam.matte > 0).any(axis=1)), np.flatnonzero((beam.matte > 0).any(axis=0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    covered = Image.fromarray(((beam.top > 0) * 255).astype(np.uint8).T).filter(ImageFilter.GaussianBlur(_PENUMBRA))
    grid = Grid(beam.start, SUN_CELL, np.zeros((0, 0, 3), np.float32))
    data = _quotients(half, sides, "floor", grid, (int(columns[0]), int(rows[0])))
    size = box[1].stop - box[1].start, box[0].stop - box[0].start
    hidden = np.asarray(covered.transform(size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR))
    sun = (beam.matte[box] * floor[box])[..., None] * (beam.share * np.float32(1 / 255))
    lost = small[box] * (1 - sun) + hidden[..., None] * sun
    small[box] = (lost + np.float32(0.5)).astype(np.uint8)


def surfaces(view: View, sides: Sides) -> Any:
    """Return which side of the box each pixel shows: a number of `_WALLS`."""
    columns = np.arange(view.width, dtype=np.float32) + np.float32(0.5)
    rows = np.arange(view.height, dtype=np.float32)[:, None] + np.float32(0.5)
    planes = view.planes().astype(np.float32)
    x, y, z = (plane[0] * columns + (plane[1] * rows + plane[2]) for plane in planes)
    # The nearer the wall, the larger its share of the ray per metre.
    near = z * np.float32(-1 / view.eye)
    found = np.zeros(near.shape, np.uint8)
    for number, (way, distance) in enumerate(
        ((x, sides.left), (x, sides.right), (y, sides.back), (z, sides.height - view.eye)), 1
    ):
        value = way * np.float32(1 / distance)
        found[value > near] = number
        np.maximum(near, value, out=near)
    found[near <= 0] = len(_WALLS)
    return found


def _quotients(view: View, sides: Sides, name: str, grid: Grid, corner: tuple[int, int]) -> Any:
    """Return Pillow's eight numbers: from a place in the picture, counted from a corner, to a place in the grid."""
    x, y, z = view.planes()
    if name == "floor":
        along, across, under, up = -view.eye * x, -view.eye * y, z, 0.0
    elif name == "back":
        along, across, under, up = sides.back * x, sides.back * z, y, view.eye
    else:
        wall = sides.left if name == "left" else sides.right
        along, across, under, up = wall * y, wall * z, x, view.eye
    # places in the grid's picture: its first cell's middle is at 0.5
    row = (along - grid.start[0] * under) / grid.cell + 0.5 * under
    column = (across + (up - grid.start[1]) * under) / grid.cell + 0.5 * under
    moved = [(a, b, c + a * corner[0] + b * corner[1]) for a, b, c in (column, row, under)]
    last = moved[2][2] if abs(moved[2][2]) > 1e-9 else 1e-9
    return [float(value / last) for value in (*moved[0], *moved[1], *moved[2][:2])]
