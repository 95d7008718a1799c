"""Rugs: flat on the floor, in the photo's own light, so that sun patches lie on them as on the floor."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from shared.staging.preview import textures
from shared.staging.preview.colours import shoulder
from shared.staging.preview.light import Environment
from shared.staging.preview.raster import Decal
from shared.staging.preview.shadows import Beam
from shared.staging.preview.views import Floats, View

_ROWS: Final = 96  # of the picture at once
_THREADS: Final = 900  # texels of the weave a metre
_PLACES: Final = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # samples of a pixel


class Laid(NamedTuple):
    """Some pixels of a rug."""

    pixels: Any  # row * width + column in the picture
    colours: Floats  # (n, 3), linear
    cover: Floats  # 0 to 1


class _Plane(NamedTuple):
    """A rug's own coordinates of the pixel (column, row): two quotients of planes with one denominator."""

    a: Any  # of column, of row, and a constant
    b: Any
    under: Any


def laid(
    decals: list[Decal],
    view: View,
    light: Environment,
    soft: Floats,
    tiny: View,
    hidden: Any,
    beam: Beam | None = None,
) -> list[Laid]:
    """Return what each rug shows where it is not `hidden` (height, width); a later one lies over an earlier one.

    `soft` is the photo's low-pass in linear light, seen by `tiny`. Where the sun is known it has a sharp edge instead.
    """
    up = light.irradiance(np.array([[0, 0, 1.0]], np.float32))[0]
    out = []
    for decal in decals:
        u, v, depth = view.project(np.array([[x, y, 0] for x, y in _corners(decal)], np.float32))
        if (depth < 0.1).any():
            continue
        first, last = max(0, int(v.min()) - 1), min(view.height, int(v.max()) + 2)
        box = max(0, int(u.min()) - 1), min(view.width, int(u.max()) + 2)
        field = _field(decal, view, soft, tiny)
        plane = _plane(decal, view)
        for top in range(first, last, _ROWS):
            pixels = _within(decal, plane, box, (top, min(last, top + _ROWS)), hidden)
            if len(pixels):
                row, column = np.divmod(pixels, view.width)
                cover, colour = _woven(decal, plane, column.astype(np.float32), row.astype(np.float32))
                if beam is None:
                    lit = field[np.minimum(row // 4, field.shape[0] - 1), np.minimum(column // 4, field.shape[1] - 1)]
                    lit = lit[:, None] * up
                else:
                    sun = beam.matte[row // 2, column // 2] * np.float32(1 / 255)
                    lit = up + sun[:, None] * (beam.strength * beam.direction[2])
                out.append(Laid(pixels, shoulder(colour * lit), cover))
    return out


def _corners(decal: Decal) -> list[tuple[float, float]]:
    c, s = float(np.cos(decal.turn)), float(np.sin(decal.turn))
    out = []
    for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        x, y = a * decal.width / 2, b * decal.depth / 2
        out.append((decal.x + x * c - y * s, decal.y + x * s + y * c))
    return out


def _field(decal: Decal, view: View, soft: Floats, tiny: View) -> Floats:
    """Return the photo's light at every fourth pixel, as a share of what is usual on the rug."""
    u, v, _ = tiny.project(np.array([[x, y, 0] for x, y in _corners(decal)], np.float32))
    u0, u1 = np.clip([u.min(), u.max()], 0, tiny.width - 1).astype(int)
    v0, v1 = np.clip([v.min(), v.max()], 0, tiny.height - 1).astype(int)
    part = soft[v0 : v1 + 1, u0 : u1 + 1].mean(axis=2)
    usual = max(1e-3, float(np.median(part)))
    share = np.clip(soft.mean(axis=2) / usual, 0.45, 2.0)
    field = Image.fromarray(share.astype(np.float32))
    return np.asarray(field.resize((view.width // 4 + 1, view.height // 4 + 1), Image.Resampling.BILINEAR))


def _plane(decal: Decal, view: View) -> _Plane:
    """Return where on the rug a pixel looks."""
    c, s = float(np.cos(decal.turn)), float(np.sin(decal.turn))
    x, y, down = view.planes()
    x, y = -view.eye * x - decal.x * down, -view.eye * y - decal.y * down
    return _Plane(*(each.astype(np.float32) for each in (x * c + y * s, y * c - x * s, down)))


def _places(plane: _Plane, column: Any, row: Any) -> tuple[Floats, Floats]:
    """Return the rug's coordinates (metres from its middle) at places of the picture, which look down."""
    share = 1 / np.minimum(plane.under[0] * column + (plane.under[1] * row + plane.under[2]), np.float32(-1e-4))
    a = plane.a[0] * column + (plane.a[1] * row + plane.a[2])
    b = plane.b[0] * column + (plane.b[1] * row + plane.b[2])
    return a * share, b * share


def _inside(decal: Decal, a: Floats, b: Floats) -> Any:
    if decal.round:
        return a * a + b * b < (decal.width / 2) ** 2
    return (np.abs(a) < decal.width / 2) & (np.abs(b) < decal.depth / 2)


def _within(decal: Decal, plane: _Plane, box: tuple[int, int], rows: tuple[int, int], hidden: Any) -> Any:
    """Return the pixels of a band that the rug covers at least in a corner."""
    columns = np.arange(box[0], box[1] + 1, dtype=np.float32)[None, :]
    lines = np.arange(rows[0], rows[1] + 1, dtype=np.float32)[:, None]
    inside = _inside(decal, *_places(plane, columns, lines))  # at the pixels' corners
    some = inside[:-1, :-1] | inside[1:, :-1] | inside[:-1, 1:] | inside[1:, 1:]
    row, column = np.nonzero(some & ~hidden[rows[0] : rows[1], box[0] : box[1]])
    return (row + rows[0]) * hidden.shape[1] + column + box[0]


def _woven(decal: Decal, plane: _Plane, column: Floats, row: Floats) -> tuple[Floats, Floats]:
    """Return the coverage and the colours of pixels, means over their samples."""
    hits, figure, fine = (np.zeros(len(column), np.float32) for _ in range(3))
    weave = textures.atlas()[textures.NAMES.index("weave")].reshape(-1)
    for dx, dy in _PLACES:
        a, b = _places(plane, column + np.float32(dx), row + np.float32(dy))
        inside = _inside(decal, a, b)
        hits += inside
        figure += textures.rug(decal.pattern, a, b, decal.width, decal.depth) * inside
        side = textures.SIDE
        texel = ((b * _THREADS).astype(np.int32) & (side - 1)) * side + ((a * _THREADS).astype(np.int32) & (side - 1))
        fine += weave[texel] * inside
    count = np.maximum(hits, 1)
    share = np.clip(figure / count, 0, 1)[:, None]
    value = np.array(decal.ground, np.float32) * (1 - share) + np.array(decal.figure, np.float32) * share
    value *= (np.float32(0.94) + np.float32(0.12) * (fine / count))[:, None]
    return hits * np.float32(1 / len(_PLACES)), value
