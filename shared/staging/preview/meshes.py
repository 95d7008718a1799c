"""Shapes that furniture is made of: parametric surfaces with normals, in cells fine enough to carry light per vertex.

A piece is built in its own frame: metres, origin on the floor in the middle of its footprint, x along its width, its
back towards +y (the wall), z up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.staging.preview.views import Floats

CELL: Final = 0.085  # metres between vertices of a flat surface: light is kept per vertex
Place = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks. `colour` is linear red, green, blue; `scale` metres of one repeat of the texture."""

    colour: tuple[float, float, float]
    texture: str = "plain"
    scale: float = 0.5
    strength: float = 0.12  # how far the texture darkens and lightens
    gloss: float = 0.0
    velvet: float = 0.0
    thin: bool = False  # seen from both sides: leaves, lamp shades
    glow: float = 0.0  # of a lamp shade


@dataclass
class Mesh:
    """Triangles with a normal, a place in the piece's own frame and a material each."""

    vertices: Floats
    normals: Floats
    local: Floats
    faces: NDArray[np.int32]
    material: NDArray[np.int16]  # of each face
    part: NDArray[np.int32]  # of each face: which shape it belongs to
    materials: list[Material]


@dataclass
class Builder:
    """Collects the shapes of one piece."""

    shapes: list[tuple[Floats, Floats, NDArray[np.int32], int]] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)

    def add(self, shape: tuple[Any, Any, Any], material: Material, at: Place = (0, 0, 0), turn: Any = None) -> None:
        """Add a shape, turned (degrees about x, y, z, in this order) and then moved."""
        vertices, normals, faces = shape
        if turn is not None:
            matrix = rotation(*turn)
            vertices, normals = vertices @ matrix.T, normals @ matrix.T
        if material not in self.materials:
            self.materials.append(material)
        number = self.materials.index(material)
        moved = (vertices + np.asarray(at, np.float32)).astype(np.float32)
        self.shapes.append((moved, normals.astype(np.float32), faces.astype(np.int32), number))

    def box(
        self, size: Place, at: Place, material: Material, radius: float = 0.006, bulge: float = 0.0, turn: Any = None
    ) -> None:
        """Add a rounded box; `at` is the middle of its underside."""
        self.add(rounded_box(size, radius, bulge), material, (at[0], at[1], at[2] + size[2] / 2), turn)

    def mesh(self) -> Mesh:
        """Return all shapes as one mesh."""
        counts = np.cumsum([0, *(len(shape[0]) for shape in self.shapes)])
        return Mesh(
            vertices=np.concatenate([shape[0] for shape in self.shapes]),
            normals=np.concatenate([shape[1] for shape in self.shapes]),
            local=np.concatenate([shape[0] for shape in self.shapes]),
            faces=np.concatenate([shape[2] + np.int32(n) for shape, n in zip(self.shapes, counts, strict=False)]),
            material=np.concatenate([np.full(len(s[2]), s[3], np.int16) for s in self.shapes]),
            part=np.concatenate([np.full(len(s[2]), k, np.int32) for k, s in enumerate(self.shapes)]),
            materials=list(self.materials),
        )


def rotation(x: float, y: float, z: float) -> Floats:
    """Return the matrix that turns about x, then y, then z (degrees)."""
    a, b, c = (math.radians(angle) for angle in (x, y, z))
    rx = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    ry = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    rz = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return (rz @ ry @ rx).astype(np.float32)


def sheet(places: Any, *, closed: bool = False) -> tuple[Any, Any, Any]:
    """Return the surface through a grid of places (n, m, 3); its normals point along d/dn x d/dm.

    `closed`: the second axis ends where it began.
    """
    places = np.asarray(places, np.float64)
    if closed:
        other = np.empty_like(places)
        other[:, 1:-1] = places[:, 2:] - places[:, :-2]
        other[:, 0], other[:, -1] = places[:, 1] - places[:, -1], places[:, 0] - places[:, -2]
    else:
        other = _slope(places.transpose(1, 0, 2)).transpose(1, 0, 2)
    normals = _cross(_slope(places), other)
    length = np.sqrt((normals * normals).sum(axis=-1, keepdims=True))
    normals = np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0, 0, 1.0])
    faces = _grid_faces(*places.shape[:2], closed=closed)
    return places.reshape(-1, 3).astype(np.float32), normals.reshape(-1, 3).astype(np.float32), faces


def _slope(places: Any) -> Any:
    """Return twice the change along the first axis; only its direction is asked for."""
    out = np.empty_like(places)
    out[1:-1] = places[2:] - places[:-2]
    out[0], out[-1] = places[1] - places[0], places[-1] - places[-2]
    return out


def _cross(one: Any, other: Any) -> Any:
    """Return the cross product; numpy's own takes three times as long for small arrays."""
    out = np.empty_like(one)
    for k in range(3):
        a, b = (k + 1) % 3, (k + 2) % 3
        out[..., k] = one[..., a] * other[..., b] - one[..., b] * other[..., a]
    return out


@lru_cache(maxsize=128)
def _grid_faces(n: int, m: int, *, closed: bool = False) -> Any:
    """Return the triangles of a grid of n by m places, two a cell."""
    number = np.arange(n * m, dtype=np.int32).reshape(n, m)
    right = np.roll(number, -1, axis=1) if closed else number[:, 1:]
    left = number if closed else number[:, :-1]
    a, b, c, d = left[:-1], left[1:], right[1:], right[:-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    faces.flags.writeable = False
    return faces


def joined(*shapes: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Return several shapes as one."""
    starts = np.cumsum([0, *(len(shape[0]) for shape in shapes)])
    return (
        np.concatenate([shape[0] for shape in shapes]),
        np.concatenate([shape[1] for shape in shapes]),
        np.concatenate([shape[2] + start for shape, start in zip(shapes, starts, strict=False)]),
    )


def _ticks(half: float, radius: float) -> Any:
    """Return places across a face: close together where the edge is rounded."""
    flat = half - radius
    cells = max(1, math.ceil(2 * flat / CELL))
    inner = np.linspace(-flat, flat, cells + 1)
    if radius < 0.012:
        return np.concatenate([[-half], inner, [half]])
    return np.concatenate([[-half, -flat - 0.45 * radius], inner, [flat + 0.45 * radius, half]])


@lru_cache(maxsize=64)  # legs, books, cushions: many are alike
def rounded_box(size: Place, radius: float, bulge: float = 0.0) -> tuple[Any, Any, Any]:
    """Return a box around the origin with rounded edges; `bulge`: how far its faces swell, as cushions do."""
    half = [each / 2 for each in size]
    radius = float(min(radius, min(half) * 0.999))
    ticks = [_ticks(each, radius) for each in half]
    faces = []
    for axis in range(3):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        a, b = ticks[one][:, None], ticks[other][None, :]
        inner_a = np.clip(a, -(half[one] - radius), half[one] - radius)
        inner_b = np.clip(b, -(half[other] - radius), half[other] - radius)
        normals = np.empty((a.size, b.size, 3))
        normals[..., one], normals[..., other], normals[..., axis] = a - inner_a, b - inner_b, radius
        normals /= np.sqrt((normals * normals).sum(axis=-1, keepdims=True))
        places = radius * normals
        places[..., one] += inner_a
        places[..., other] += inner_b
        places[..., axis] += half[axis] - radius
        if bulge and half[axis] < 1.01 * max(half[one], half[other]):
            u, v = np.clip(a / half[one], -1, 1), np.clip(b / half[other], -1, 1)
            places[..., axis] += bulge * (1 - u * u) * (1 - v * v)
            normals[..., one] += 2 * bulge * u / half[one] * (1 - v * v)
            normals[..., other] += 2 * bulge * v / half[other] * (1 - u * u)
            normals /= np.sqrt((normals * normals).sum(axis=-1, keepdims=True))
        triangles = _grid_faces(a.size, b.size)
        places, normals = places.reshape(-1, 3), normals.reshape(-1, 3)
        mirror = np.ones(3)
        mirror[axis] = -1
        faces += [(places, normals, triangles), (places * mirror, normals * mirror, triangles[:, ::-1])]
    shape = joined(*faces)
    for column in shape:
        column.flags.writeable = False
    return shape


def pillow(width: float, height: float, thick: float) -> tuple[Any, Any, Any]:
    """Return a scatter cushion standing in the x-z plane around the origin, its corners drawn out."""
    t = np.sin(np.linspace(-1, 1, 9) * math.pi / 2)
    u, v = np.meshgrid(t, t, indexing="ij")
    swell = np.sqrt(np.maximum(0, (1 - np.abs(u) ** 2.6) * (1 - np.abs(v) ** 2.6)))
    x = width / 2 * u * (1 - 0.10 * (1 - v * v))
    z = height / 2 * v * (1 - 0.10 * (1 - u * u))
    front = sheet(np.stack([x, -thick / 2 * swell, z], axis=-1))
    back = sheet(np.stack([x[::-1], thick / 2 * swell[::-1], z[::-1]], axis=-1))
    return joined(front, back)


def curve(points: Sequence[tuple[float, ...]], per: int = 4) -> Any:
    """Return a smooth line through points (Catmull-Rom)."""
    p = np.array(points, np.float64)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    out = []
    for k in range(1, len(p) - 2):
        t = np.linspace(0, 1, per, endpoint=False)[:, None]
        a, b, c, d = p[k - 1], p[k], p[k + 1], p[k + 2]
        out.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack([*out, p[-2:-1]])


def lathe(profile: Sequence[tuple[float, float]], sides: int = 20, *, smooth: bool = True) -> tuple[Any, Any, Any]:
    """Return the surface of (radius, height) turned about z, upwards outside."""
    line = curve(profile, 3) if smooth else np.array(profile, np.float64)
    angle = np.arange(sides) * (2 * math.pi / sides)
    radius, up = np.maximum(line[:, 0], 1e-4), line[:, 1]
    places = np.stack(
        [
            radius[:, None] * np.cos(angle),
            radius[:, None] * np.sin(angle),
            np.broadcast_to(up[:, None], (len(up), sides)),
        ],
        axis=-1,
    )
    return sheet(places[::-1], closed=True)


def cylinder(radius: float, height: float, sides: int = 24, edge: float = 0.004) -> tuple[Any, Any, Any]:
    """Return a disc or drum standing on the origin."""
    rings = max(1, math.ceil(radius / CELL))
    inner = [(radius * k / rings, height) for k in range(rings)]
    walls = [
        (radius, height - edge - (height - 2 * edge) * k / max(1, math.ceil(height / CELL)))
        for k in range(max(1, math.ceil(height / CELL)) + 1)
    ]
    side = lathe([*walls[::-1]], sides, smooth=False)
    lid = lathe([(radius, height - edge), (radius - edge, height), *inner[::-1]], sides, smooth=False)
    foot = lathe([(1e-4, 0.0), (radius - edge, 0.0), (radius, edge)], sides, smooth=False)
    return joined(side, lid, foot)


def tube(path: Any, radius: Any, sides: int = 7) -> tuple[Any, Any, Any]:
    """Return a pipe along a path (n, 3); `radius` one number or one a point."""
    path = np.asarray(path, np.float64)
    radius = np.broadcast_to(np.asarray(radius, np.float64), (len(path),))
    way = np.gradient(path, axis=0)
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
    helper = np.eye(3)[np.abs(way).max(axis=0).argmin()]  # the axis that the path never runs along
    one = np.cross(way, helper)
    one /= np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-9)
    other = np.cross(way, one)
    angle = np.arange(sides) * (2 * math.pi / sides)
    ring = np.cos(angle)[None, :, None] * one[:, None] + np.sin(angle)[None, :, None] * other[:, None]
    places = path[:, None] + ring * radius[:, None, None]
    vertices, _, faces = sheet(places, closed=True)
    return vertices, ring.reshape(-1, 3).astype(np.float32), faces[:, ::-1]


def bar(start: Place, end: Place, thick: float, thin: float | None = None, sides: int = 8) -> tuple[Any, Any, Any]:
    """Return a straight, perhaps tapering bar with closed ends."""
    one, other = np.array(start, np.float64), np.array(end, np.float64)
    pieces = max(2, math.ceil(float(np.linalg.norm(other - one)) / (1.6 * CELL)) + 1)
    share = np.linspace(0, 1, pieces)[:, None]
    path = one * (1 - share) + other * share
    thin = thick if thin is None else thin
    radius = thick * (1 - share[:, 0]) + thin * share[:, 0]
    path = np.vstack([path[:1], path, path[-1:]])
    path[0] -= (other - one) * 1e-4
    path[-1] += (other - one) * 1e-4
    return tube(path, np.concatenate([[1e-4], radius, [1e-4]]), sides)


def leaf(length: float, width: float, bend: float, cells: int = 6) -> tuple[Any, Any, Any]:
    """Return a leaf that grows from the origin along +x, rises along z and hangs over by `bend` (0 to 1)."""
    t = np.linspace(0, 1, cells)
    wide = width / 2 * np.sin(math.pi * np.clip(t * 0.92 + 0.06, 0, 1)) ** 0.8
    x, z = length * t * (1 - 0.25 * bend * t), length * (0.55 * t - bend * t * t)
    fold = 0.35 * wide
    left = np.stack([x, wide, z + fold], axis=-1)
    middle = np.stack([x, np.zeros_like(t), z], axis=-1)
    right = np.stack([x, -wide, z + fold], axis=-1)
    return sheet(np.stack([left, middle, right], axis=1)[:, ::-1])
