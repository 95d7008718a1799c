"""Which triangle each sample of the picture shows: all rows of all triangles at once, the nearest face kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from shared.staging.preview import textures
from shared.staging.preview.meshes import Mesh
from shared.staging.preview.views import Floats, View

SAMPLES: Final = 2  # a pixel, each way
_CHUNK: Final = 200_000  # fragments at once
_ROWS: Final = 384  # of samples whose distances are kept at once
_FACE_BITS: Final = 22  # of a sample's number that say which face it shows; the rest says how near that is
_FLOAT_BITS: Final = 12  # of the distance that are left out: surfaces within a millimetre do not fight


@dataclass(frozen=True)
class Decal:
    """A rug: a rectangle on the floor. `ground` and `figure` are linear colours."""

    x: float
    y: float
    width: float
    depth: float
    turn: float  # radians
    pattern: str
    ground: tuple[float, float, float]
    figure: tuple[float, float, float]
    round: bool = False


@dataclass
class Scene:
    """All meshes as one, and what lies flat."""

    vertices: Floats
    normals: Floats
    local: Floats
    faces: Any
    part: Any  # of each face
    look: Any  # of each face: row of the material tables
    colour: Floats
    texture: Any
    scale: Floats
    strength: Floats
    gloss: Floats
    velvet: Floats
    thin: Any
    glow: Floats
    decals: list[Decal]
    pieces: Any  # of each face: number of its piece


def gathered(meshes: list[Mesh], decals: list[Decal]) -> Scene:
    """Return pieces as one scene."""
    materials = [material for mesh in meshes for material in mesh.materials]
    v = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    p = np.cumsum([0, *(int(mesh.part.max()) + 1 for mesh in meshes)])
    m = np.cumsum([0, *(len(mesh.materials) for mesh in meshes)])
    every = list(enumerate(meshes))

    def column(name: str, kind: Any = np.float32) -> Any:
        return np.array([getattr(material, name) for material in materials], kind)

    return Scene(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        local=np.concatenate([mesh.local for mesh in meshes]),
        faces=np.concatenate([mesh.faces + np.int32(v[k]) for k, mesh in every]),
        part=np.concatenate([mesh.part + np.int32(p[k]) for k, mesh in every]),
        look=np.concatenate([mesh.material.astype(np.int32) + np.int32(m[k]) for k, mesh in every]),
        colour=column("colour"),
        texture=np.array([textures.NAMES.index(material.texture) for material in materials], np.int32),
        scale=column("scale"), strength=column("strength"), gloss=column("gloss"), velvet=column("velvet"),
        thin=column("thin", np.bool_), glow=column("glow"), decals=decals,
        pieces=np.concatenate([np.full(len(mesh.faces), k, np.int32) for k, mesh in every]),
    )  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """For each sample of a rectangle of the picture the face it shows, or -1."""

    left: int
    top: int
    faces: Any  # (height * SAMPLES, width * SAMPLES)
    u: Floats  # of each vertex, in samples from the rectangle's corner
    v: Floats
    inverse: Floats  # 1 / distance of each vertex


class _Edges(NamedTuple):
    """Triangles in the picture, one entry each: where they begin and end in a row, and how near they are there."""

    number: Any  # of the face
    left: Any  # (2, n): x = left_slope * row + left, of up to two edges
    left_slope: Any
    right: Any
    right_slope: Any
    nearness: Any  # 1 / distance = nearness + dx * column + dy * row
    dx: Any
    dy: Any
    first: Any  # rows
    last: Any  # one past


def raster(view: View, scene: Scene) -> Samples | None:
    """Return what each sample shows; None when nothing is in the picture."""
    u, v, depth = view.project(scene.vertices)
    corners = scene.faces
    ahead = (depth > 0.12)[corners].all(axis=1)
    if not ahead.any():
        return None
    used = np.zeros(len(u), np.bool_)
    used[corners[ahead]] = True
    left, right = max(0, int(u[used].min()) - 1), min(view.width, int(u[used].max()) + 2)
    top, low = max(0, int(v[used].min()) - 1), min(view.height, int(v[used].max()) + 2)
    if right <= left or low <= top:
        return None
    wide, high = (right - left) * SAMPLES, (low - top) * SAMPLES
    su = ((u - left) * SAMPLES - 0.5).astype(np.float32)
    sv = ((v - top) * SAMPLES - 0.5).astype(np.float32)
    inverse = (1 / np.maximum(depth, 0.05)).astype(np.float32)
    edges = _edges(scene, ahead, su, sv, inverse, (high, wide))
    faces = np.empty((high, wide), np.int32)
    for begin in range(0, high, _ROWS):
        end = min(high, begin + _ROWS)
        buffer = _filled(edges, wide, begin, end)
        shown = (buffer & ((1 << _FACE_BITS) - 1)).astype(np.int32)
        shown[buffer == 0] = -1
        faces[begin:end] = shown.reshape(-1, wide)
    return Samples(left, top, faces, su, sv, inverse)


def heights(scene: Scene, slant: tuple[float, float], start: tuple[float, float], cell: float, size: Any) -> Floats:
    """Return how high (metres, below 4) the last surface is over each cell of the floor, seen along a beam of light.

    The beam moves by `slant` (x, y) for each metre that it rises; the cells, (rows, columns), go along y and x from
    `start`. It is 0 where nothing is over the floor.
    """
    x, y, z = (scene.vertices[:, k] for k in range(3))
    su = ((x - z * np.float32(slant[0]) - np.float32(start[0])) / np.float32(cell) - np.float32(0.5)).astype(np.float32)
    sv = ((y - z * np.float32(slant[1]) - np.float32(start[1])) / np.float32(cell) - np.float32(0.5)).astype(np.float32)
    near = 1 + np.clip(z, 0, 3.99) / np.float32(4)  # from 1 to 2 all heights are kept equally well
    edges = _edges(scene, np.ones(len(scene.faces), np.bool_), su, sv, near, size, both=True)
    buffer = _filled(edges, size[1], 0, size[0])
    value = ((buffer >> _FACE_BITS) << _FLOAT_BITS).astype(np.int32).view(np.float32)
    return np.where(buffer > 0, 4 * value - 4, 0).astype(np.float32).reshape(size)


def _filled(edges: _Edges, wide: int, begin: int, end: int) -> Any:
    """Return some rows of samples: the nearest face of each, its nearness in the upper bits; 0 where none is."""
    buffer = np.zeros((end - begin) * wide, np.int64)
    some = np.flatnonzero((edges.first < end) & (edges.last > begin))
    low_row = np.maximum(edges.first[some], begin)
    count = np.minimum(edges.last[some], end) - low_row
    ends = np.cumsum(count)
    start = 0
    while start < len(some):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _CHUNK // 4)))
        part = slice(start, stop)
        _fill(buffer, wide, begin, edges, some[part], low_row[part], count[part])
        start = stop
    return buffer


def _edges(
    scene: Scene, ahead: Any, su: Floats, sv: Floats, inverse: Floats, size: Any, *, both: bool = False
) -> _Edges:
    """Return the triangles that hold at least one sample's row and column; those that look away only with `both`."""
    high, wide = size
    x, y = [su[scene.faces[:, k]] for k in range(3)], [sv[scene.faces[:, k]] for k in range(3)]
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    turned = both | (area < 0) | scene.thin[scene.look]  # rows count down: faces towards the camera turn the other way
    first = np.ceil(np.maximum(np.minimum(np.minimum(y[0], y[1]), y[2]), 0))
    last = np.floor(np.minimum(np.maximum(np.maximum(y[0], y[1]), y[2]), high - 1))
    from_ = np.ceil(np.maximum(np.minimum(np.minimum(x[0], x[1]), x[2]), 0))
    to = np.floor(np.minimum(np.maximum(np.maximum(x[0], x[1]), x[2]), wide - 1))
    chosen = np.flatnonzero(ahead & turned & (np.abs(area) > 1e-4) & (first <= last) & (from_ <= to))
    px = np.stack([each[chosen] for each in x]).astype(np.float64)
    py = np.stack([each[chosen] for each in y]).astype(np.float64)
    w = np.stack([inverse[scene.faces[chosen, k]] for k in range(3)]).astype(np.float64)
    flat = area[chosen].astype(np.float64)
    rise = (py - np.roll(py, -1, axis=0)) * np.sign(flat)  # positive: the triangle lies to the right of this edge
    drop = py - np.roll(py, -1, axis=0)
    slope = (px - np.roll(px, -1, axis=0)) / np.where(drop == 0, 1, drop)
    origin = px - slope * py
    index = np.arange(len(chosen))
    lines = []
    for side in (rise > 0, rise < 0):
        one, other = side.argmax(axis=0), 2 - side[::-1].argmax(axis=0)
        lines.append(np.stack([origin[one, index], origin[other, index]]))
        lines.append(np.stack([slope[one, index], slope[other, index]]))
    dx = ((w[1] - w[0]) * (py[2] - py[0]) - (w[2] - w[0]) * (py[1] - py[0])) / flat
    dy = ((w[2] - w[0]) * (px[1] - px[0]) - (w[1] - w[0]) * (px[2] - px[0])) / flat
    return _Edges(
        chosen, lines[0], lines[1], lines[2], lines[3], w[0] - dx * px[0] - dy * py[0], dx, dy,
        first[chosen].astype(np.int32), last[chosen].astype(np.int32) + 1,
    )  # fmt: skip


def _fill(buffer: Any, wide: int, top: int, edges: _Edges, some: Any, first: Any, count: Any) -> None:
    """Put triangles into the buffer of a few rows: the nearest face of each sample, its nearness in the upper bits.

    `some` are the triangles; each covers `count` rows from `first` on.
    """
    each = np.repeat(some, count)
    if not len(each):
        return
    row = np.arange(len(each)) + np.repeat(first - (np.cumsum(count) - count), count)
    low = np.maximum(
        edges.left[0][each] + edges.left_slope[0][each] * row, edges.left[1][each] + edges.left_slope[1][each] * row
    )
    high = np.minimum(
        edges.right[0][each] + edges.right_slope[0][each] * row, edges.right[1][each] + edges.right_slope[1][each] * row
    )
    begin = np.ceil(np.clip(low, 0, wide)).astype(np.int32)
    count = np.floor(np.clip(high, -1, wide - 1)).astype(np.int32) + 1 - begin
    keep = np.flatnonzero(count > 0)
    each, row, begin, count = each[keep], row[keep], begin[keep], count[keep]
    dx = edges.dx[each]
    nearness = edges.nearness[each] + dx * begin + edges.dy[each] * row
    place = (row - top) * wide + begin
    number, dx = edges.number[each], dx.astype(np.float32)
    nearness = nearness.astype(np.float32)
    ends = np.cumsum(count)
    position = 0
    while position < len(each):
        before = int(ends[position - 1]) if position else 0
        stop = max(position + 1, int(np.searchsorted(ends, before + _CHUNK)))
        part = slice(position, stop)
        n = count[part]
        span = np.repeat(np.arange(stop - position, dtype=np.int32), n)
        step = np.arange(len(span), dtype=np.int32) - (ends[part] - n - before).astype(np.int32)[span]
        value = nearness[part][span] + dx[part][span] * step.astype(np.float32)
        value = np.clip(value, np.float32(1e-3), np.float32(8))
        key = (value.view(np.int32) >> _FLOAT_BITS).astype(np.int64) << _FACE_BITS
        key |= number[part][span]
        np.maximum.at(buffer, place[part][span] + step, key)
        position = stop
