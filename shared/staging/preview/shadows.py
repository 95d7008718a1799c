"""Shadows of the furniture on floor and walls, as a picture: how much of its light each pixel of the photo loses."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from PIL import Image

from shared.staging.preview.light import Grid
from shared.staging.preview.openings import Sides
from shared.staging.preview.views import View

_UNSEEN: Final = 0.015  # of the light: this part of a shadow is left out; unseen, and more pixels stay the photo's
_WALLS: Final = ("floor", "left", "right", "back", "ceiling")


def lost_light(view: View, sides: Sides, grids: dict[str, Grid]) -> Any:
    """Return the light missing from each pixel (height, width, 3), of 255.

    It is drawn at half size, where shadows are as smooth as at full size, in a fifth of the time.
    """
    half = view.scaled((view.width + 1) // 2, (view.height + 1) // 2)
    if not grids:
        return np.zeros((view.height, view.width, 3), np.uint8)
    surface = surfaces(half, sides)
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
    whole = Image.fromarray(small).resize((2 * half.width, 2 * half.height), Image.Resampling.BILINEAR)
    return np.asarray(whole)[: view.height, : view.width]


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
