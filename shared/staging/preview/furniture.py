"""The pieces: each a function that builds one out of `meshes` in a style's materials.

`SIZES` are the measures a maker builds to (width, depth, height in metres). `layout` measures what was built: a cushion
or a twig reaches a little farther.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np

from shared.staging.preview.families import Stuff, linear
from shared.staging.preview.meshes import (
    Builder,
    Material,
    Mesh,
    Place,
    bar,
    curve,
    cylinder,
    lathe,
    leaf,
    pillow,
    rotation,
    sheet,
    tube,
)  # fmt: skip

Size = tuple[float, float, float]
Make = Callable[["Piece"], None]
SIZES: Final[dict[str, Size]] = {}
_MAKERS: Final[dict[str, Make]] = {}


class Piece:
    """What a maker works with: the builder, the style's stuff, the piece's size, and its variant (0, 1, ...)."""

    def __init__(self, size: Size, stuff: Stuff, variant: int) -> None:
        self.width, self.depth, self.height = size
        self.s, self.f, self.variant = stuff, stuff.family, variant
        self.b = Builder()
        self.box, self.add = self.b.box, self.b.add
        self.chance = np.random.default_rng(variant)

    def legs(
        self, width: float, depth: float, height: float, inset: float = 0.06, at: tuple[float, float] = (0, 0)
    ) -> None:
        """Stand something of that footprint on the family's legs."""
        kind, x, y = self.f.legs, width / 2 - inset, depth / 2 - inset
        material = self.s.metal if kind in {"hairpin", "metal"} else self.s.wood
        if kind == "plinth":
            self.box((width - 2 * inset, depth - 2 * inset, height), (at[0], at[1], 0), self.s.wood)
            return
        for sx in (-1, 1):
            for sy in (-1, 1):
                px, py = at[0] + sx * x, at[1] + sy * y
                if kind == "tapered":
                    self.add(bar((px + sx * 0.03, py + sy * 0.02, 0), (px, py, height), 0.014, 0.026), material)
                elif kind == "block":
                    self.box((0.055, 0.055, height), (px, py, 0), material)
                elif kind == "turned":
                    h = height
                    line = [
                        (0.016, 0),
                        (0.022, 0.1 * h),
                        (0.014, 0.2 * h),
                        (0.03, 0.55 * h),
                        (0.02, 0.85 * h),
                        (0.03, h),
                    ]
                    self.add(lathe(line, 10), material, (px, py, 0))
                elif kind == "metal":
                    self.box((0.026, 0.026, height), (px, py, 0), material, 0.003)
                else:
                    self.add(bar((px + sx * 0.02, py, 0), (px - sx * 0.05, py, height), 0.006), material)
                    self.add(bar((px + sx * 0.02, py, 0), (px + sx * 0.03, py - sy * 0.04, height), 0.006), material)

    def top(self, width: float, depth: float, at: Place, thick: float = 0.035, *, disc: bool = False) -> None:
        """Add a table's top; `at` is the middle of its underside."""
        if disc:
            self.add(cylinder(width / 2, thick, 36), self.s.top, at)
        else:
            self.box((width, depth, thick), at, self.s.top, 0.006)

    def cushion(self, size: float, at: Place, lean: float, turn: float, material: Material) -> None:
        """Add a scatter cushion standing on `at`."""
        self.add(pillow(size, size * 0.94, 0.16), material, (at[0], at[1], at[2] + size * 0.44), (lean, 0, turn))

    def books(self, at: Place, width: float, height: float) -> None:
        """Add a row of upright books that begins at `at`."""
        x, colours = 0.0, ("#8d3b32", "#33475b", "#d8cbb0", "#5a6b54", "#b98a45", "#e7e1d6", "#3b3a3c")
        while x < width - 0.03:
            thick, tall = float(self.chance.uniform(0.02, 0.05)), float(self.chance.uniform(0.7, 1.0)) * height
            colour = Material(linear(colours[int(self.chance.integers(len(colours)))]), "weave", 0.1, 0.05)
            self.box((thick - 0.003, 0.15, tall), (at[0] + x + thick / 2, at[1], at[2]), colour, 0.003)
            x += thick

    def vase(self, at: Place, height: float = 0.24) -> None:
        """Add a vase, in two shapes, with or without twigs."""
        h = height
        kinds = (
            [(0.05, 0), (0.09, 0.3 * h), (0.085, 0.6 * h), (0.035, 0.85 * h), (0.045, h)],
            [(0.06, 0), (0.055, 0.4 * h), (0.075, 0.75 * h), (0.06, h)],
            [(0.04, 0), (0.11, 0.35 * h), (0.05, 0.62 * h), (0.03, 0.8 * h), (0.06, h)],
        )
        material = (self.s.pot, self.s.accent, self.s.clay)[self.variant % 3]
        self.add(lathe(kinds[self.variant % 3], 16), material, at)
        for k in range(7 if self.variant % 2 else 4):
            a, up = k * 2.4 + self.variant, 0.26 + 0.05 * (k % 3)
            end = (at[0] + 0.13 * math.cos(a), at[1] + 0.13 * math.sin(a), at[2] + h + up)
            path = curve(
                [
                    (at[0], at[1], at[2] + h - 0.02),
                    (at[0] + 0.03 * math.cos(a), at[1] + 0.03 * math.sin(a), at[2] + h + 0.5 * up),
                    end,
                ]
            )
            self.add(tube(path, 0.0035, 5), self.s.bark)
            for t in range(2, len(path), 2):
                self.add(
                    leaf(0.08, 0.035, 0.4, 4), self.s.olive, tuple(path[t]), (0, -20, math.degrees(a) + 80 * (-1) ** t)
                )

    def lamp(self, at: Place, height: float = 0.45) -> None:
        """Add a table lamp."""
        h = height
        foot = [(0.075, 0), (0.08, 0.02), (0.03, 0.10), (0.075, 0.28 * h), (0.05, 0.5 * h), (0.015, 0.6 * h)]
        self.add(lathe(foot, 14), self.s.metal if self.f.legs in {"metal", "hairpin"} else self.s.pot, at)
        self.add(lathe([(0.16, 0.58 * h), (0.12, h)], 20, smooth=False), self.s.shade, at)


def piece(name: str, width: float, depth: float, height: float) -> Callable[[Make], Make]:
    """Register a maker under the piece's name and size."""

    def keep(make: Make) -> Make:
        SIZES[name], _MAKERS[name] = (width, depth, height), make
        return make

    return keep


@lru_cache(maxsize=64)  # about 10 MiB; a property's rooms share pieces, and verify builds what generate built
def build(name: str, stuff: Stuff, variant: int) -> Mesh:
    """Return the piece's mesh in its own frame; nobody may change it."""
    made = Piece(SIZES[name], stuff, variant)
    _MAKERS[name](made)
    mesh = made.b.mesh()
    if name not in HANGING:  # slanting legs end a few millimetres under the floor, round feet a little above it
        mesh.vertices[:, 2] = np.maximum(mesh.vertices[:, 2] - max(0.0, float(mesh.vertices[:, 2].min())), 0)
    for column in (mesh.vertices, mesh.normals, mesh.local, mesh.faces, mesh.material, mesh.part):
        column.flags.writeable = False
    return mesh


# --- seats


def _seat(p: Piece, places: int, cushions: bool = True, material: Material | None = None) -> None:
    """Build a sofa or armchair as wide as the piece."""
    cloth = material or p.s.fabric
    soft, w, d = p.f.soft, p.width, p.depth
    arm = {"track": 0.17, "slim": 0.09, "rolled": 0.2, "slope": 0.13, "wood": 0.06, "round": 0.24}[p.f.arms]
    inner, leg = w - 2 * arm, 0.06 if p.f.legs == "plinth" else 0.14
    if p.f.arms == "wood":
        for sx in (-1, 1):
            x = sx * (w / 2 - 0.03)
            for y in (-d / 2 + 0.05, d / 2 - 0.08):
                p.add(bar((x, y, 0), (x, y, 0.58), 0.024, 0.022), p.s.wood)
            p.box((0.06, d - 0.04, 0.03), (x, 0, 0.57), p.s.wood)
            p.box((0.03, d - 0.12, 0.05), (x, 0, 0.24), p.s.wood)
        p.box((w - 0.06, d - 0.16, 0.06), (0, 0, 0.22), p.s.wood)
        if p.f.rattan:
            for k in range(int(w / 0.09)):
                x = -w / 2 + 0.06 + k * 0.09
                p.add(bar((x, d / 2 - 0.07, 0.26), (x, d / 2 - 0.02, 0.74), 0.009, sides=5), p.s.wood)
            p.add(bar((-w / 2 + 0.03, d / 2 - 0.02, 0.74), (w / 2 - 0.03, d / 2 - 0.02, 0.74), 0.02), p.s.wood)
        base = 0.28
    else:
        p.legs(w, d, leg, 0.08)
        p.box((w - 0.02, d - 0.04, 0.20), (0, 0, leg), cloth, 0.03)
        base = leg + 0.20
        for sx in (-1, 1):
            x = sx * (w / 2 - arm / 2)
            if p.f.arms == "rolled":
                p.box((arm - 0.05, d - 0.06, 0.40), (sx * (w / 2 - arm / 2 - 0.01), 0, leg), cloth, 0.04)
                p.add(bar((x, -d / 2 + 0.01, leg + 0.41), (x, d / 2 - 0.05, leg + 0.41), arm / 2, sides=18), cloth)
            elif p.f.arms == "slope":
                p.box((arm, d - 0.02, 0.46), (x, 0, leg), cloth, 0.05, turn=(0, sx * 5, 0))
            else:
                radius = {"track": 0.035, "slim": 0.02, "round": 0.115}[p.f.arms]
                p.box((arm, d, 0.46), (x, 0, leg), cloth, radius)
        p.box((w - 2 * arm + 0.02, 0.2, 0.62), (0, d / 2 - 0.1, leg + 0.02), cloth, 0.05)
    thick, each = 0.14 + 0.05 * soft, inner / places
    for k in range(places):
        x = -inner / 2 + each * (k + 0.5)
        p.box((each - 0.008, d - 0.24, thick), (x, -0.10, base), cloth, 0.045 + 0.025 * soft, 0.012 + 0.02 * soft)
        p.box(
            (each - 0.012, 0.16 + 0.05 * soft, 0.44),
            (x, d / 2 - 0.25, base + thick - 0.02),
            cloth,
            0.06,
            0.02 + 0.02 * soft,
            (9, 0, 0),
        )
    top = base + thick
    if cushions:
        x = inner / 2 - 0.24
        p.cushion(0.46, (-x, d / 2 - 0.41, top - 0.01), 20, 9, p.s.accent)
        if places > 1:
            p.cushion(0.44, (x, d / 2 - 0.41, top - 0.01), 20, -10, p.s.pale)
            p.cushion(0.38, (-x + 0.3, d / 2 - 0.46, top - 0.01), 24, -4, p.s.pale if p.variant % 2 else p.s.second)


@piece("sofa", 2.10, 0.94, 0.86)
def _sofa(p: Piece) -> None:
    _seat(p, 3 if p.variant % 3 else 2)


@piece("loveseat", 1.60, 0.92, 0.86)
def _loveseat(p: Piece) -> None:
    _seat(p, 2)


@piece("armchair", 0.86, 0.86, 0.86)
def _armchair(p: Piece) -> None:
    _seat(p, 1, material=p.s.second if p.variant % 2 else p.s.fabric)


@piece("outdoor sofa", 1.80, 0.86, 0.80)
def _outdoor_sofa(p: Piece) -> None:
    _outdoor(p, 2)


@piece("outdoor chair", 0.78, 0.80, 0.80)
def _outdoor_chair(p: Piece) -> None:
    _outdoor(p, 1)


def _outdoor(p: Piece, places: int) -> None:
    """Build a seat with a frame of slats that may stand in the rain."""
    w, d = p.width, p.depth
    for sx in (-1, 1):
        x = sx * (w / 2 - 0.035)
        for y in (-d / 2 + 0.04, d / 2 - 0.04):
            p.box((0.05, 0.05, 0.62 if y < 0 else 0.74), (x, y, 0), p.s.wood)
        p.box((0.07, d, 0.03), (x, 0, 0.60), p.s.wood)
        p.box((0.04, d - 0.08, 0.05), (x, 0, 0.30), p.s.wood)
    p.box((w - 0.1, d - 0.06, 0.05), (0, 0, 0.26), p.s.wood)
    for z in (0.40, 0.52, 0.64):
        p.box((w - 0.1, 0.025, 0.07), (0, d / 2 - 0.04, z), p.s.wood)
    each = (w - 0.13) / places
    for k in range(places):
        x = -(w - 0.13) / 2 + each * (k + 0.5)
        p.box((each - 0.01, d - 0.14, 0.13), (x, -0.03, 0.31), p.s.white, 0.045, 0.015)
        p.box((each - 0.02, 0.15, 0.38), (x, d / 2 - 0.17, 0.42), p.s.white, 0.06, 0.02, (10, 0, 0))
    p.cushion(0.42, (-(w / 2 - 0.30) if places > 1 else 0, d / 2 - 0.30, 0.43), 20, 8, p.s.accent)
    if places > 1:
        p.cushion(0.42, (w / 2 - 0.30, d / 2 - 0.30, 0.43), 20, -8, p.s.second)


@piece("ottoman", 0.90, 0.60, 0.42)
def _ottoman(p: Piece) -> None:
    p.legs(p.width, p.depth, 0.10, 0.07)
    p.box((p.width, p.depth, 0.20), (0, 0, 0.09), p.s.second, 0.04)
    p.box((p.width - 0.01, p.depth - 0.01, 0.13), (0, 0, 0.28), p.s.second, 0.05, 0.015)


def _stool(p: Piece) -> None:
    p.legs(0.34, 0.34, 0.42, 0.05)
    p.add(cylinder(0.18, 0.035, 24), p.s.wood, (0, 0, 0.41))


@piece("towel stool", 0.40, 0.40, 0.66)
def _towel_stool(p: Piece) -> None:
    _stool(p)
    for k, material in enumerate((p.s.white, p.s.accent, p.s.pale)):
        p.box((0.30 - 0.015 * k, 0.24, 0.06), (0, 0, 0.446 + 0.062 * k), material, 0.028, 0.006)


@piece("bench", 1.20, 0.40, 0.46)
def _bench(p: Piece) -> None:
    p.legs(p.width, p.depth, 0.38, 0.08)
    p.box((p.width, p.depth, 0.05), (0, 0, 0.37), p.s.wood)
    p.box((p.width - 0.06, p.depth - 0.05, 0.05), (0, 0, 0.41), p.s.fabric, 0.02, 0.008)


@piece("garden bench", 1.40, 0.60, 0.86)
def _garden_bench(p: Piece) -> None:
    for sx in (-1, 1):
        x = sx * 0.64
        p.box((0.06, 0.06, 0.60), (x, -0.24, 0), p.s.wood)
        p.box((0.06, 0.06, 0.86), (x, 0.25, 0), p.s.wood)
        p.box((0.07, 0.56, 0.035), (x, 0, 0.59), p.s.wood)
    for k in range(5):
        p.box((1.26, 0.085, 0.03), (0, -0.22 + 0.1 * k, 0.41), p.s.wood)
    for k in range(3):
        p.box((1.26, 0.03, 0.09), (0, 0.25, 0.50 + 0.12 * k), p.s.wood)
    p.cushion(0.40, (-0.42, 0.12, 0.44), 18, 8, p.s.accent)


@piece("chair", 0.48, 0.54, 0.84)
def _chair(p: Piece) -> None:
    w, d = 0.44, 0.46
    padded = p.f.cloth == "velvet" or p.f.arms in {"round", "rolled"}
    if p.f.legs in {"metal", "hairpin"}:
        frame, r = p.s.metal, 0.011
    else:
        frame, r = p.s.wood, 0.018
    for sx in (-1, 1):
        p.add(
            bar((sx * (w / 2 - 0.01), -d / 2 + 0.02, 0), (sx * (w / 2 - 0.035), -d / 2 + 0.04, 0.43), 0.8 * r, r), frame
        )
        p.add(bar((sx * (w / 2 - 0.02), d / 2 + 0.02, 0), (sx * (w / 2 - 0.04), d / 2 - 0.03, 0.44), 0.8 * r, r), frame)
        if not padded:
            p.add(
                bar((sx * (w / 2 - 0.04), d / 2 - 0.03, 0.42), (sx * (w / 2 - 0.04), d / 2 + 0.03, 0.83), r, 0.8 * r),
                frame,
            )
    p.box((w, d, 0.03), (0, -0.01, 0.42), frame)
    p.box((w - 0.01, d - 0.02, 0.05), (0, -0.01, 0.44), p.s.fabric, 0.024, 0.01)
    if padded:
        p.box((w - 0.02, 0.07, 0.40), (0, d / 2 - 0.01, 0.44), p.s.fabric, 0.034, 0.012, (-5, 0, 0))
    elif p.f.head == "slats":
        for k in range(5):
            x = (k - 2) * 0.075
            p.add(bar((x, d / 2 - 0.02, 0.45), (x, d / 2 + 0.03, 0.80), 0.009, sides=6), frame)
        p.box((w - 0.06, 0.03, 0.06), (0, d / 2 + 0.028, 0.77), frame)
    else:
        p.box((w - 0.06, 0.028, 0.17), (0, d / 2 + 0.022, 0.66), frame, 0.012)
        p.box((w - 0.06, 0.022, 0.05), (0, d / 2, 0.54), frame, 0.01)


@piece("bistro chair", 0.44, 0.48, 0.84)
def _bistro_chair(p: Piece) -> None:
    for sx in (-1, 1):
        p.add(
            tube(curve([(sx * 0.19, -0.2, 0), (sx * 0.18, -0.17, 0.44), (sx * 0.18, 0.17, 0.46)], 4), 0.011), p.s.metal
        )
        p.add(tube(curve([(sx * 0.2, 0.21, 0), (sx * 0.18, 0.17, 0.44), (sx * 0.17, 0.22, 0.82)], 5), 0.011), p.s.metal)
    p.add(cylinder(0.2, 0.025, 24), p.s.wood, (0, 0, 0.44))
    p.add(cylinder(0.18, 0.035, 24), p.s.accent, (0, 0, 0.465))
    for z in (0.60, 0.69, 0.78):
        p.add(bar((-0.17, 0.205, z), (0.17, 0.205, z), 0.012, sides=6), p.s.wood)


@piece("bar stool", 0.42, 0.44, 0.92)
def _bar_stool(p: Piece) -> None:
    frame = p.s.metal
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.add(bar((sx * 0.19, sy * 0.19, 0), (sx * 0.14, sy * 0.14, 0.66), 0.011), frame)
        p.add(bar((sx * 0.17, -0.175, 0.24), (sx * 0.17, 0.175, 0.24), 0.008), frame)
    p.add(bar((-0.17, -0.175, 0.24), (0.17, -0.175, 0.24), 0.009), frame)
    p.box((0.38, 0.38, 0.06), (0, 0, 0.65), p.s.fabric, 0.028, 0.008)
    p.box((0.36, 0.045, 0.20), (0, 0.175, 0.70), p.s.fabric, 0.02, 0.006, (-6, 0, 0))


@piece("office chair", 0.62, 0.62, 1.02)
def _office_chair(p: Piece) -> None:
    for k in range(5):
        a = math.radians(90 + 72 * k)
        end = (0.27 * math.cos(a), 0.27 * math.sin(a), 0.05)
        p.add(bar((0, 0, 0.11), end, 0.022, 0.014), p.s.dark)
        p.add(bar((end[0], end[1] - 0.015, 0.028), (end[0], end[1] + 0.015, 0.028), 0.028, sides=10), p.s.dark)
    p.add(bar((0, 0, 0.08), (0, 0, 0.44), 0.026), p.s.steel)
    p.box((0.50, 0.48, 0.09), (0, -0.01, 0.43), p.s.fabric, 0.04, 0.012)
    p.box((0.46, 0.07, 0.54), (0, 0.235, 0.48), p.s.fabric, 0.034, 0.015, (-8, 0, 0))
    for sx in (-1, 1):
        p.box((0.05, 0.28, 0.03), (sx * 0.28, 0, 0.65), p.s.dark, 0.012)
        p.add(bar((sx * 0.26, 0.05, 0.47), (sx * 0.28, 0.03, 0.66), 0.014), p.s.dark)


@piece("sun lounger", 0.70, 1.95, 0.85)
def _lounger(p: Piece) -> None:
    for sx in (-1, 1):
        p.box((0.06, 1.9, 0.07), (sx * 0.31, 0, 0.22), p.s.wood)
        for y in (-0.8, 0.55):
            p.box((0.06, 0.06, 0.23), (sx * 0.31, y, 0), p.s.wood)
    p.box((0.60, 1.25, 0.10), (0, -0.33, 0.27), p.s.white, 0.04, 0.01)
    p.box((0.60, 0.74, 0.10), (0, 0.56, 0.36), p.s.white, 0.04, 0.01, (38, 0, 0))
    p.box((0.46, 0.26, 0.10), (0, 0.66, 0.58), p.s.accent, 0.045, 0.012, (38, 0, 0))


# --- tables


@piece("coffee table", 1.10, 0.60, 0.62)
def _coffee_table(p: Piece) -> None:
    if p.f.table in {"round", "marble"}:
        p.add(cylinder(0.06, 0.36, 16), p.s.metal)
        p.add(cylinder(0.22, 0.02, 28), p.s.metal)
        p.top(0.60 + 0.30, 0, (0, 0, 0.36), disc=True)
    elif p.f.legs == "plinth":
        p.box((1.1, 0.6, 0.34), (0, 0, 0), p.s.wood, 0.01)
    else:
        p.legs(1.1, 0.6, 0.36, 0.07)
        p.top(1.1, 0.6, (0, 0, 0.355))
        if p.f.legs in {"block", "turned"}:
            p.box((0.98, 0.48, 0.02), (0, 0, 0.13), p.s.wood)
    z = 0.34 if p.f.legs == "plinth" and p.f.table == "wood" else 0.395
    p.box((0.26, 0.19, 0.03), (-0.2, 0.04, z), p.s.pale, 0.004)
    p.box((0.22, 0.16, 0.028), (-0.19, 0.05, z + 0.031), p.s.accent, 0.004, turn=(0, 0, 9))
    p.add(lathe([(0.03, 0), (0.09, 0.02), (0.12, 0.06)], 18), p.s.pot if p.variant % 2 else p.s.clay, (0.2, -0.04, z))
    if p.variant % 2:
        _sprout(p, (0.2, -0.04, z + 0.03), 0.14)


def _sprout(p: Piece, at: Place, reach: float) -> None:
    for k in range(9):
        p.add(leaf(reach * (0.7 + 0.3 * (k % 2)), 0.05, 0.5, 5), p.s.leaf, at, (0, -34, 40 * k + 11 * p.variant))


@piece("side table", 0.46, 0.46, 0.92)
def _side_table(p: Piece) -> None:
    if p.variant % 2:
        p.legs(0.42, 0.42, 0.50, 0.05)
    else:
        p.add(cylinder(0.025, 0.5, 12), p.s.metal)
        p.add(cylinder(0.15, 0.02, 24), p.s.metal)
    p.top(0.46, 0.46, (0, 0, 0.49), 0.025, disc=True)
    if p.variant % 3:
        p.vase((0, 0, 0.515), 0.17)
    else:
        p.lamp((0, 0, 0.515), 0.40)


@piece("low table", 0.70, 0.70, 0.55)
def _low_table(p: Piece) -> None:
    p.legs(0.6, 0.6, 0.34, 0.08)
    p.top(0.70, 0.70, (0, 0, 0.33), 0.03, disc=True)
    p.add(lathe([(0.03, 0), (0.09, 0.02), (0.12, 0.06)], 18), p.s.clay, (0.08, 0.02, 0.36))
    _sprout(p, (0.08, 0.02, 0.39), 0.12)


@piece("dining table", 1.80, 0.92, 1.20)
def _dining_table(p: Piece) -> None:
    _table(p, 1.80, 0.92)
    p.vase((0, 0, 0.755), 0.20)
    for x in (-0.55, 0.55):
        for y in (-0.28, 0.28):
            p.add(cylinder(0.13, 0.012, 22), p.s.enamel, (x, y, 0.752))


@piece("small dining table", 1.20, 0.80, 1.20)
def _small_dining_table(p: Piece) -> None:
    _table(p, 1.20, 0.80)
    p.vase((0, 0, 0.755), 0.20)


def _table(p: Piece, w: float, d: float) -> None:
    if p.f.table == "marble":
        for x in (-w / 4, w / 4):
            p.add(lathe([(0.24, 0), (0.22, 0.03), (0.09, 0.10), (0.07, 0.5), (0.16, 0.70)], 18), p.s.metal, (x, 0, 0))
    elif p.f.legs in {"block", "turned", "plinth"}:
        for sx in (-1, 1):
            for sy in (-1, 1):
                x, y = sx * (w / 2 - 0.07), sy * (d / 2 - 0.07)
                if p.f.legs == "turned":
                    p.add(
                        lathe([(0.03, 0), (0.035, 0.1), (0.025, 0.2), (0.05, 0.45), (0.035, 0.6), (0.05, 0.71)], 12),
                        p.s.wood,
                        (x, y, 0),
                    )
                else:
                    p.box((0.08, 0.08, 0.71), (x, y, 0), p.s.wood)
        p.box((w - 0.2, d - 0.2, 0.08), (0, 0, 0.63), p.s.wood)
    else:
        p.legs(w, d, 0.71, 0.1)
        p.box((w - 0.25, d - 0.25, 0.05), (0, 0, 0.665), p.s.wood)
    p.top(w, d, (0, 0, 0.71), 0.04)


@piece("round table", 1.00, 1.00, 1.18)
def _round_table(p: Piece) -> None:
    foot = p.s.metal if p.f.legs in {"metal", "hairpin"} else p.s.wood
    p.add(lathe([(0.30, 0), (0.28, 0.025), (0.06, 0.08), (0.05, 0.5), (0.14, 0.70)], 22), foot)
    p.top(1.0, 1.0, (0, 0, 0.70), 0.035, disc=True)
    p.vase((0.05, 0.05, 0.735), 0.19)


@piece("bistro table", 0.62, 0.62, 0.98)
def _bistro_table(p: Piece) -> None:
    p.add(lathe([(0.2, 0), (0.18, 0.02), (0.025, 0.06), (0.022, 0.68), (0.1, 0.71)], 18), p.s.metal)
    p.add(cylinder(0.31, 0.025, 30), p.s.wood, (0, 0, 0.71))
    p.add(lathe([(0.05, 0), (0.06, 0.09)], 14, smooth=False), p.s.clay, (0.05, 0.05, 0.735))
    _sprout(p, (0.05, 0.05, 0.82), 0.13)


@piece("meeting table", 2.60, 1.10, 0.95)
def _meeting_table(p: Piece) -> None:
    for x in (-0.8, 0.8):
        p.box((0.08, 0.75, 0.70), (x, 0, 0), p.s.metal, 0.01)
    p.box((2.6, 1.1, 0.04), (0, 0, 0.70), p.s.wood, 0.01)
    for x, y, turn in ((-0.75, -0.3, 0), (0.1, 0.3, 180), (0.85, -0.3, 8)):
        _laptop(p, (x, y, 0.74), turn)
    p.vase((0.3, 0, 0.74), 0.14)


def _laptop(p: Piece, at: Place, turn: float) -> None:
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    p.box((0.31, 0.21, 0.014), at, p.s.steel, 0.004, turn=(0, 0, turn))
    p.box(
        (0.31, 0.012, 0.2), (at[0] - 0.12 * s, at[1] + 0.12 * c, at[2] + 0.008), p.s.screen, 0.004, turn=(-12, 0, turn)
    )


@piece("desk", 1.40, 0.66, 1.20)
def _desk(p: Piece) -> None:
    if p.f.legs in {"hairpin", "metal", "tapered"}:
        p.legs(1.4, 0.66, 0.71, 0.06)
    else:
        for sx in (-1, 1):
            p.box((0.05, 0.6, 0.71), (sx * 0.65, 0, 0), p.s.wood)
    p.box((0.42, 0.54, 0.16), (0.42, 0, 0.55), p.s.wood)
    p.add(bar((0.36, -0.28, 0.63), (0.48, -0.28, 0.63), 0.008), p.s.metal)
    p.box((1.4, 0.66, 0.035), (0, 0, 0.71), p.s.wood, 0.006)
    p.box((0.20, 0.14, 0.015), (-0.05, 0.14, 0.745), p.s.dark, 0.005)
    p.box((0.04, 0.03, 0.12), (-0.05, 0.17, 0.75), p.s.dark)
    p.box((0.60, 0.03, 0.35), (-0.05, 0.15, 0.84), p.s.screen, 0.008)
    p.box((0.42, 0.13, 0.015), (-0.05, -0.13, 0.745), p.s.pale, 0.005)
    p.lamp((0.52, 0.16, 0.745), 0.40)
    p.books((-0.62, 0.2, 0.745), 0.16, 0.22)


@piece("console table", 1.20, 0.36, 1.22)
def _console(p: Piece) -> None:
    p.legs(1.2, 0.36, 0.76, 0.05)
    p.top(1.2, 0.36, (0, 0, 0.755), 0.035)
    p.box((1.06, 0.28, 0.02), (0, 0, 0.18), p.s.wood)
    p.add(rounded_basket(0.17, 0.22), p.s.basket, (0.3, 0, 0.2))
    p.lamp((-0.40, 0, 0.79), 0.43)
    p.vase((0.36, 0, 0.79), 0.19)
    p.box((0.24, 0.17, 0.03), (0.02, 0, 0.79), p.s.accent, 0.004)


def rounded_basket(radius: float, height: float) -> tuple[Any, Any, Any]:
    """Return a basket: a drum a little narrower at its foot, open above."""
    r = radius
    return lathe(
        [
            (0.001, 0.0),
            (0.8 * r, 0.005),
            (0.92 * r, 0.3 * height),
            (r, 0.8 * height),
            (0.96 * r, height),
            (0.88 * r, 0.97 * height),
            (0.8 * r, 0.5 * height),
        ],
        18,
    )


# --- storage


def _carcass(
    p: Piece, w: float, d: float, h: float, foot: float, columns: int, rows: int, *, knobs: bool = True
) -> None:
    """Add a body on feet with a grid of drawers or doors."""
    if foot:
        p.legs(w, d, foot, 0.05)
    p.box((w, d, h - foot), (0, 0, foot), p.s.wood, 0.006)
    cell_w, cell_h = (w - 0.04) / columns, (h - foot - 0.04) / rows
    for c in range(columns):
        for r in range(rows):
            x, z = -w / 2 + 0.02 + cell_w * (c + 0.5), foot + 0.02 + cell_h * r
            p.box((cell_w - 0.012, 0.022, cell_h - 0.012), (x, -d / 2 - 0.004, z + 0.006), p.s.wood, 0.005)
            if knobs:
                y, mid = -d / 2 - 0.026, z + cell_h * 0.5
                if cell_w > 1.2 * cell_h:
                    p.add(bar((x - 0.06, y, mid), (x + 0.06, y, mid), 0.007, sides=6), p.s.metal)
                else:
                    side = cell_w * 0.36 * (1 if c % 2 == 0 else -1)
                    p.add(bar((x + side, y, mid - 0.06), (x + side, y, mid + 0.06), 0.007, sides=6), p.s.metal)


@piece("sideboard", 1.60, 0.44, 1.20)
def _sideboard(p: Piece) -> None:
    _carcass(p, 1.6, 0.42, 0.76, 0.14, 4, 1)
    p.vase((-0.5, 0.02, 0.76), 0.24)
    p.lamp((0.55, 0.02, 0.76), 0.42)
    p.books((-0.05, 0.05, 0.76), 0.22, 0.2)


@piece("dresser", 1.10, 0.48, 1.16)
def _dresser(p: Piece) -> None:
    _carcass(p, 1.1, 0.46, 0.80, 0.12, 2, 3)
    p.vase((-0.28, 0.02, 0.80), 0.2)
    p.box((0.26, 0.18, 0.03), (0.2, 0, 0.80), p.s.accent, 0.004)
    p.box((0.22, 0.16, 0.03), (0.2, 0, 0.83), p.s.pale, 0.004)


@piece("changing table", 1.10, 0.50, 1.06)
def _changing(p: Piece) -> None:
    _carcass(p, 1.1, 0.48, 0.86, 0.10, 2, 3)
    p.box((0.72, 0.44, 0.09), (-0.1, 0, 0.86), p.s.white, 0.04, 0.01)
    p.box((0.24, 0.18, 0.14), (0.4, 0, 0.86), p.s.basket, 0.02)


@piece("bedside table", 0.46, 0.42, 0.98)
def _bedside(p: Piece) -> None:
    _carcass(p, 0.46, 0.40, 0.52, 0.12, 1, 2)
    p.lamp((0.02, 0.03, 0.52), 0.44)
    p.box((0.16, 0.12, 0.025), (-0.10, -0.08, 0.52), p.s.accent, 0.004)


@piece("media console", 1.80, 0.42, 1.36)
def _media(p: Piece) -> None:
    _carcass(p, 1.8, 0.40, 0.50, 0.12, 4, 1, knobs=False)
    p.box((0.4, 0.2, 0.02), (0, 0.05, 0.50), p.s.dark)
    p.box((0.05, 0.05, 0.08), (0, 0.07, 0.51), p.s.dark)
    p.box((1.35, 0.035, 0.78), (0, 0.07, 0.58), p.s.screen, 0.008)
    p.vase((-0.78, 0.0, 0.50), 0.18)


@piece("bookshelf", 0.86, 0.34, 1.92)
def _bookshelf(p: Piece) -> None:
    w, d, h = 0.86, 0.32, 1.92
    _open_shelf(p, w, d, h, 5)
    for k in range(5):
        z = 0.09 + k * (h - 0.1) / 5 + 0.02
        if (k + p.variant) % 3 == 0:
            p.vase((-0.18, 0, z), 0.15) if k < 4 else p.add(rounded_basket(0.12, 0.18), p.s.basket, (-0.18, 0, z))
            p.books((0.05, 0, z), 0.3, 0.24)
        elif (k + p.variant) % 3 == 1:
            p.books((-0.38, 0, z), 0.5, 0.25)
            p.add(lathe([(0.04, 0), (0.08, 0.06), (0.05, 0.14)], 14), p.s.pot, (0.26, 0, z))
        else:
            p.add(rounded_basket(0.13, 0.2), p.s.basket, (0.2, 0, z))
            p.books((-0.38, 0, z), 0.34, 0.22)


def _open_shelf(p: Piece, w: float, d: float, h: float, levels: int) -> None:
    frame = p.s.metal if p.f.legs in {"hairpin", "metal"} else p.s.wood
    for sx in (-1, 1):
        p.box((0.028, d, h), (sx * (w / 2 - 0.014), 0, 0), frame, 0.004)
    for k in range(levels + 1):
        p.box((w - 0.05, d - 0.01, 0.024), (0, 0, 0.07 + k * (h - 0.1) / levels), p.s.wood, 0.004)
    p.box((w - 0.05, 0.01, h - 0.1), (0, d / 2 - 0.006, 0.07), p.s.wood, 0.003)


@piece("low shelf", 1.10, 0.36, 1.06)
def _low_shelf(p: Piece) -> None:
    _open_shelf(p, 1.1, 0.34, 0.78, 2)
    p.box((0.02, 0.32, 0.68), (0, 0, 0.09), p.s.wood, 0.004)
    p.books((-0.5, 0, 0.115), 0.38, 0.24)
    p.add(rounded_basket(0.14, 0.22), p.s.basket, (0.28, 0, 0.11))
    p.add(rounded_basket(0.13, 0.2), p.s.basket, (-0.26, 0, 0.455))
    p.books((0.06, 0, 0.455), 0.34, 0.22)
    p.vase((0.34, 0, 0.78), 0.15)


@piece("metal shelf", 1.10, 0.45, 1.82)
def _metal_shelf(p: Piece) -> None:
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.box((0.035, 0.035, 1.8), (sx * 0.53, sy * 0.20, 0), p.s.steel, 0.004)
    colours = (p.s.basket, p.s.accent, p.s.dark, p.s.pale)
    for k in range(4):
        z = 0.12 + 0.54 * k
        p.box((1.08, 0.43, 0.03), (0, 0, z), p.s.steel, 0.004)
        if k < 3:
            x = -0.48
            while x < 0.30:
                wide, tall = float(p.chance.uniform(0.22, 0.36)), float(p.chance.uniform(0.18, 0.36))
                p.box((wide - 0.02, 0.34, tall), (x + wide / 2, 0, z + 0.03), colours[int(p.chance.integers(4))], 0.01)
                x += wide


@piece("wardrobe rail", 1.20, 0.50, 1.66)
def _rail(p: Piece) -> None:
    for sx in (-1, 1):
        p.add(bar((sx * 0.56, -0.22, 0.03), (sx * 0.56, 0.22, 0.03), 0.018), p.s.metal)
        p.add(bar((sx * 0.56, 0, 0.03), (sx * 0.56, 0, 1.62), 0.016), p.s.metal)
    p.add(bar((-0.58, 0, 1.62), (0.58, 0, 1.62), 0.016), p.s.metal)
    colours = (p.s.pale, p.s.accent, p.s.second, p.s.fabric, p.s.white)
    for k in range(8):
        x, long = -0.44 + 0.12 * k, 0.75 + 0.22 * float(p.chance.uniform())
        p.box((0.05, 0.40, long), (x, 0, 1.54 - long), colours[int(p.chance.integers(5))], 0.022, 0.008)
        p.add(tube(curve([(x, -0.12, 1.54), (x, 0, 1.60), (x, 0.12, 1.54)], 4), 0.006, 5), p.s.wood)
    p.box((1.0, 0.40, 0.02), (0, 0, 0.14), p.s.wood)
    for x in (-0.3, -0.05, 0.2):
        p.box((0.18, 0.26, 0.10), (x, 0, 0.16), p.s.wood, 0.02)


@piece("toy box", 0.80, 0.42, 0.66)
def _toys(p: Piece) -> None:
    p.box((0.8, 0.42, 0.40), (0, 0, 0), p.s.wood, 0.012)
    p.box((0.8, 0.42, 0.05), (0, 0, 0.40), p.s.accent, 0.02, 0.006)
    fur = Material(linear("#c39a6b"), "weave", 0.12, 0.2)
    ball = lathe([(0.002, 0), (0.075, 0.04), (0.075, 0.12), (0.002, 0.16)], 14)
    p.add(ball, fur, (-0.15, 0, 0.44))
    small = lathe([(0.002, 0), (0.05, 0.025), (0.05, 0.075), (0.002, 0.10)], 12)
    p.add(small, fur, (-0.15, -0.01, 0.56))
    for sx in (-1, 1):
        p.add(lathe([(0.002, 0), (0.02, 0.01), (0.002, 0.04)], 8), fur, (-0.15 + sx * 0.035, 0, 0.63))
        p.add(bar((-0.15 + sx * 0.05, -0.03, 0.46), (-0.15 + sx * 0.1, -0.1, 0.46), 0.028), fur)


@piece("play tent", 1.10, 1.10, 1.55)
def _tent(p: Piece) -> None:
    corners = [(-0.48, -0.48), (0.48, -0.48), (0.48, 0.48), (-0.48, 0.48)]
    for x, y in corners:
        p.add(bar((x * 1.08, y * 1.08, 0), (-x * 0.14, -y * 0.14, 1.53), 0.014), p.s.wood)
    cloth = Material(p.s.pale.colour, "weave", 0.25, 0.08, thin=True)
    for k in range(1, 4):
        (ax, ay), (bx, by) = corners[k], corners[(k + 1) % 4]
        t = np.linspace(0, 1, 8)
        up = np.linspace(0.02, 1.30, 14)
        share = 1 - up / 1.42
        across = (ax + (bx - ax) * t[:, None]) * share
        away = (ay + (by - ay) * t[:, None]) * share
        p.add(sheet(np.stack([across, away, np.broadcast_to(up, across.shape)], axis=-1)), cloth)
    t = np.linspace(0, 1, 5)
    up = np.linspace(0.02, 1.30, 14)
    for sign in (-1, 1):  # the flaps are open
        edge, open_to = 0.48 * (1 - up / 1.42), np.maximum(0.12, 0.40 * (1 - up / 1.0)) * (up < 0.95)
        flap = sign * (open_to + (edge - open_to) * t[:, None])
        deep = np.broadcast_to(-0.48 * (1 - up / 1.42), flap.shape)
        p.add(sheet(np.stack([flap, deep, np.broadcast_to(up, flap.shape)], axis=-1)[::-sign]), cloth)
    p.cushion(0.38, (0.05, 0.15, 0.02), 60, 10, p.s.accent)


# --- beds


def _bed(p: Piece, w: float, pillows: int) -> None:
    d, head = 2.06, p.f.head
    p.legs(w, d - 0.1, 0.14, 0.08, (0, -0.03))
    p.box((w + 0.04, d - 0.06, 0.16), (0, -0.02, 0.14), p.s.fabric if head == "tufted" else p.s.wood, 0.02)
    y, tall = d / 2 - 0.05, 1.10
    if head == "tufted":
        p.box((w + 0.12, 0.11, tall - 0.1), (0, y, 0.1), p.s.fabric, 0.045)
        for c in range(4):
            for r in range(2):
                width = (w + 0.06) / 4
                p.box(
                    (width, 0.05, 0.27),
                    (-(w + 0.06) / 2 + width * (c + 0.5), y - 0.06, 0.46 + 0.28 * r),
                    p.s.fabric,
                    0.024,
                    0.012,
                )
    elif head == "slats":
        for sx in (-1, 1):
            p.box((0.06, 0.06, tall), (sx * (w / 2 + 0.01), y, 0), p.s.wood)
        for k in range(int(w / 0.11)):
            p.box((0.035, 0.02, 0.62), (-w / 2 + 0.06 + 0.11 * k, y, 0.42), p.s.wood, 0.004)
        p.box((w + 0.08, 0.07, 0.06), (0, y, tall - 0.08), p.s.wood)
    elif head == "frame":
        for sx in (-1, 1):
            p.add(bar((sx * w / 2, y, 0), (sx * w / 2, y, tall), 0.022), p.s.metal)
        for z in (0.55, 0.80, tall - 0.02):
            p.add(bar((-w / 2, y, z), (w / 2, y, z), 0.016), p.s.metal)
    elif head == "arch":
        for k in range(12):  # an arch of upright boards
            x = (k - 5.5) * w / 12
            up = 0.78 + 0.36 * math.sqrt(max(0, 1 - (x / (w / 2)) ** 2))
            p.box((w / 12 - 0.004, 0.06, up - 0.2), (x, y, 0.2), p.s.fabric if not p.f.rattan else p.s.basket, 0.02)
    else:
        p.box((w + 0.12, 0.06, tall - 0.1), (0, y, 0.12), p.s.wood, 0.012)
        p.box((w - 0.04, 0.02, tall - 0.42), (0, y - 0.04, 0.32), p.s.wood, 0.008)
    p.box((w - 0.02, d - 0.14, 0.24), (0, -0.04, 0.28), p.s.white, 0.06)
    p.box((w + 0.06, 1.42, 0.17), (0, -0.33, 0.37), p.s.white, 0.07, 0.02)
    p.box((w + 0.075, 0.50, 0.13), (0, -0.72, 0.425), p.s.accent if p.variant % 2 else p.s.second, 0.055, 0.012)
    p.box((w + 0.055, 0.24, 0.15), (0, 0.33, 0.405), p.s.pale, 0.06, 0.012)
    for k in range(pillows):
        x = (k - (pillows - 1) / 2) * (w / max(pillows, 1))
        p.add(pillow(min(0.72, w / pillows - 0.05), 0.46, 0.2), p.s.white, (x, y - 0.21, 0.72), (28, 0, 0))
        p.add(
            pillow(min(0.62, w / pillows - 0.10), 0.42, 0.18),
            p.s.fabric if k % 2 else p.s.pale,
            (x, y - 0.38, 0.71),
            (30, 0, 0),
        )
    p.add(pillow(0.46, 0.36, 0.16), p.s.accent, (0, y - 0.53, 0.68), (32, 0, 0))


@piece("double bed", 1.76, 2.10, 1.16)
def _double_bed(p: Piece) -> None:
    _bed(p, 1.60, 2)


@piece("single bed", 1.14, 2.10, 1.16)
def _single_bed(p: Piece) -> None:
    _bed(p, 0.98, 1)


@piece("cot", 1.26, 0.72, 0.94)
def _cot(p: Piece) -> None:
    w, d = 1.24, 0.68
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.box((0.05, 0.05, 0.92), (sx * (w / 2 - 0.03), sy * (d / 2 - 0.03), 0), p.s.wood)
    for sy in (-1, 1):
        for z in (0.26, 0.86):
            p.box((w - 0.08, 0.03, 0.05), (0, sy * (d / 2 - 0.03), z), p.s.wood)
        for k in range(12):
            p.add(
                bar(
                    (-w / 2 + 0.1 + 0.094 * k, sy * (d / 2 - 0.03), 0.3),
                    (-w / 2 + 0.1 + 0.094 * k, sy * (d / 2 - 0.03), 0.87),
                    0.01,
                    sides=6,
                ),
                p.s.wood,
            )
    for sx in (-1, 1):
        p.box((0.03, d - 0.08, 0.62), (sx * (w / 2 - 0.03), 0, 0.28), p.s.wood)
    p.box((w - 0.1, d - 0.1, 0.12), (0, 0, 0.32), p.s.white, 0.04)
    p.box((0.6, d - 0.09, 0.08), (-0.2, 0, 0.41), p.s.accent, 0.035, 0.01)
    p.add(pillow(0.4, 0.28, 0.12), p.s.pale, (0.4, 0, 0.52), (0, 60, 90))


# --- lamps, plants, what hangs


@piece("floor lamp", 0.50, 0.50, 1.62)
def _floor_lamp(p: Piece) -> None:
    kind = p.f.lamp
    if kind == "tripod":
        for k in range(3):
            a = math.radians(90 + 120 * k)
            p.add(
                bar(
                    (0.23 * math.cos(a), 0.23 * math.sin(a), 0),
                    (0.02 * math.cos(a), 0.02 * math.sin(a), 1.26),
                    0.016,
                    0.013,
                ),
                p.s.wood,
            )
        p.add(lathe([(0.22, 1.24), (0.19, 1.58)], 22, smooth=False), p.s.shade)
    elif kind == "arc":
        p.add(cylinder(0.15, 0.035, 24), p.s.dark, (-0.08, 0, 0))
        path = curve([(-0.08, 0, 0.03), (-0.09, 0, 0.9), (-0.02, 0, 1.45), (0.10, 0, 1.56), (0.155, 0, 1.47)], 5)
        p.add(tube(path, 0.011), p.s.metal)
        p.add(
            lathe([(0.09, 1.33), (0.08, 1.40), (0.02, 1.47)], 18),
            Material(p.s.metal.colour, gloss=0.3, thin=True),
            (0.155, 0, 0),
        )
    elif kind == "paper":
        for k in range(3):
            a = math.radians(30 + 120 * k)
            p.add(
                bar((0.17 * math.cos(a), 0.17 * math.sin(a), 0), (0.12 * math.cos(a), 0.12 * math.sin(a), 1.0), 0.011),
                p.s.wood,
            )
        p.add(lathe([(0.12, 0.72), (0.2, 0.86), (0.22, 1.1), (0.2, 1.36), (0.1, 1.5)], 20), p.s.shade)
    else:
        p.add(cylinder(0.15, 0.025, 24), p.s.metal)
        p.add(bar((0, 0, 0.02), (0, 0, 1.40), 0.012), p.s.metal)
        p.add(lathe([(0.23, 1.28), (0.16, 1.60)], 22, smooth=False), p.s.shade)


def _pot(p: Piece, radius: float, height: float) -> None:
    r, h = radius, height
    kind = p.variant % 3
    if kind == 0:
        line = [(0.001, 0), (0.72 * r, 0.004), (0.9 * r, 0.5 * h), (r, h), (0.9 * r, h), (0.86 * r, 0.85 * h)]
        p.add(lathe(line, 20), p.s.pot)
    elif kind == 1:
        line = [
            (0.001, 0),
            (0.7 * r, 0.004),
            (1.02 * r, 0.4 * h),
            (0.9 * r, 0.9 * h),
            (0.95 * r, h),
            (0.82 * r, 0.9 * h),
        ]
        p.add(lathe(line, 20), p.s.basket)
    else:
        p.add(lathe([(0.001, 0), (0.75 * r, 0.004), (0.95 * r, 0.8 * h)], 20, smooth=False), p.s.clay)
        p.add(
            lathe(
                [(0.95 * r, 0.8 * h), (1.02 * r, 0.8 * h), (1.02 * r, h), (0.9 * r, h), (0.88 * r, 0.85 * h)],
                20,
                smooth=False,
            ),
            p.s.clay,
        )
    p.add(lathe([(0.86 * r, 0.88 * h), (0.002, 0.9 * h)], 16, smooth=False), p.s.soil)


@piece("plant", 0.80, 0.80, 1.62)
def _plant(p: Piece) -> None:
    kind = (
        p.f.plant if p.variant % 2 == 0 else {"fig": "snake", "snake": "fig", "palm": "fig", "olive": "palm"}[p.f.plant]
    )
    _pot(p, 0.19, 0.34)
    base, rng = 0.30, p.chance
    if kind == "snake":
        for k in range(13):
            a, r = k * 2.4, 0.03 + 0.008 * k
            tall = 0.85 - 0.035 * k
            blade = leaf(tall, 0.075, 0.03, 7)
            p.add(blade, p.s.leaf, (r * math.cos(a), r * math.sin(a), base), (0, -50 + 1.2 * k, math.degrees(a)))
    elif kind == "palm":
        for k in range(11):
            a = k * 2.399 + 0.3 * p.variant
            reach, up = 0.34 - 0.008 * k, 0.9 + 0.035 * k
            stem = curve(
                [
                    (0, 0, base),
                    (0.2 * reach * math.cos(a), 0.2 * reach * math.sin(a), base + 0.5 * up),
                    (reach * math.cos(a), reach * math.sin(a), base + 0.92 * up - 0.02 * (11 - k)),
                ],
                6,
            )
            p.add(tube(stem, np.linspace(0.008, 0.003, len(stem)), 5), p.s.leaf)
            for t in range(5, len(stem)):
                for side in (-1, 1):
                    p.add(leaf(0.17, 0.03, 0.8, 4), p.s.leaf, tuple(stem[t]), (0, -6, math.degrees(a) + side * 52))
    else:
        material, long, wide = (p.s.leaf, 0.20, 0.13) if kind == "fig" else (p.s.olive, 0.10, 0.032)
        trunk = curve([(0, 0, base), (0.03, 0.01, 0.7), (-0.01, 0.02, 1.15), (0.02, 0, 1.38)], 5)
        p.add(tube(trunk, np.linspace(0.017, 0.009, len(trunk)), 7), p.s.bark)
        if kind == "fig":
            for k in range(26):
                z = 0.62 + 0.82 * (k / 26)
                a, lift = k * 2.399 + 0.5 * p.variant, float(rng.uniform(-35, 5))
                p.add(
                    leaf(long * float(rng.uniform(0.8, 1.2)), wide, 0.55, 6),
                    material,
                    (0.02 * math.cos(a), 0.02 * math.sin(a), z),
                    (0, lift, math.degrees(a)),
                )
        else:
            for k in range(14):
                a, z = k * 2.399, 0.86 + 0.045 * k
                out = 0.26 * math.sin(math.pi * (0.25 + 0.6 * k / 14))
                twig = curve(
                    [
                        (0, 0.01, z - 0.1),
                        (0.6 * out * math.cos(a), 0.6 * out * math.sin(a), z),
                        (out * math.cos(a), out * math.sin(a), z + 0.08),
                    ],
                    5,
                )
                p.add(tube(twig, 0.004, 5), p.s.bark)
                for t in range(3, len(twig)):
                    for side in (-1, 1):
                        p.add(
                            leaf(long, wide, 0.4, 4),
                            material,
                            tuple(twig[t]),
                            (0, float(rng.uniform(-60, 0)), math.degrees(a) + side * float(rng.uniform(30, 80))),
                        )


@piece("planter", 0.62, 0.62, 1.05)
def _planter(p: Piece) -> None:
    _pot(p, 0.22, 0.40)
    for k in range(24):
        a = k * 2.399
        p.add(
            leaf(0.42 - 0.006 * k, 0.07, 0.55, 6),
            p.s.leaf if k % 4 else p.s.olive,
            (0.03 * math.cos(a), 0.03 * math.sin(a), 0.36 + 0.01 * k),
            (0, -52 + 1.4 * k, math.degrees(a)),
        )


@piece("pendant", 0.44, 0.44, 0.0)  # hangs: its height is the ceiling's
def _pendant(p: Piece) -> None:
    drop = 0.85
    p.add(bar((0, 0, -0.02), (0, 0, -drop + 0.2), 0.006, sides=6), p.s.dark)
    p.add(cylinder(0.05, 0.02, 16), p.s.dark, (0, 0, -0.022))
    shade = Material(p.s.metal.colour, gloss=0.3, thin=True) if p.f.lamp == "arc" else p.s.shade
    if p.f.lamp == "paper":
        p.add(lathe([(0.05, -drop - 0.1), (0.19, -drop + 0.02), (0.2, -drop + 0.14), (0.05, -drop + 0.26)], 22), shade)
    else:
        p.add(lathe([(0.2, -drop), (0.18, -drop + 0.05), (0.07, -drop + 0.16), (0.02, -drop + 0.2)], 22), shade)


@piece("art", 1.30, 0.04, 0.72)  # hangs: `at` is on the wall, its middle 1.55 m up
def _art(p: Piece) -> None:
    count, w, h = ((2, 0.52, 0.70), (1, 0.95, 0.68), (3, 0.38, 0.52))[p.variant % 3]
    frame = (p.s.wood, p.s.metal, p.s.dark)[(p.variant // 3) % 3]
    pitch = {1: 0.0, 2: 0.66, 3: 0.46}[count]
    for k in range(count):
        x = (k - (count - 1) / 2) * pitch
        p.box((w, 0.025, h), (x, 0.0, -h / 2), frame, 0.004)
        p.box((w - 0.04, 0.004, h - 0.04), (x, -0.014, -h / 2 + 0.02), p.s.paper, 0.001)
        inner_w, inner_h = w - 0.16, h - 0.18
        shapes = (p.s.accent, p.s.second, p.s.wood)
        for number in range(3):
            r = float(p.chance.uniform(0.16, 0.30)) * min(inner_w, inner_h)
            cx = x + float(p.chance.uniform(-0.22, 0.22)) * inner_w
            cz = float(p.chance.uniform(-0.25, 0.25)) * inner_h
            kind = int(p.chance.integers(3))
            if kind == 0:
                p.add(cylinder(r, 0.003, 22, 0.001), shapes[number], (cx, -0.016 - 0.002 * number, cz), (90, 0, 0))
            elif kind == 1:
                p.box((inner_w, 0.003, 0.35 * r), (x, -0.018 - 0.002 * number, cz), shapes[number], 0.001)
            else:
                p.box((1.3 * r, 0.003, 1.6 * r), (cx, -0.018 - 0.002 * number, cz - 0.8 * r), shapes[number], 0.001)


@piece("mirror", 0.70, 0.05, 0.72)
def _mirror(p: Piece) -> None:
    glass = Material(linear("#c8ced2"), "leather", 2.5, 0.05, gloss=0.2)
    frame = p.s.metal if p.f.legs in {"metal", "hairpin", "turned"} else p.s.wood
    if p.variant % 2:
        p.box((0.62, 0.03, 0.72), (0, 0, -0.36), frame, 0.01)
        p.box((0.56, 0.006, 0.66), (0, -0.016, -0.33), glass, 0.002)
    else:
        p.add(cylinder(0.35, 0.03, 40), frame, (0, 0.015, 0), (90, 0, 0))
        p.add(cylinder(0.315, 0.006, 40, 0.001), glass, (0, -0.014, 0), (90, 0, 0))


@piece("whiteboard", 1.50, 0.05, 0.90)
def _whiteboard(p: Piece) -> None:
    p.box((1.5, 0.03, 0.9), (0, 0, -0.45), p.s.steel, 0.004)
    p.box((1.44, 0.006, 0.84), (0, -0.016, -0.42), p.s.enamel, 0.002)
    for k in range(3):
        p.box((0.7 - 0.15 * k, 0.004, 0.012), (-0.25, -0.02, 0.2 - 0.14 * k), p.s.accent, 0.001)
    p.box((0.5, 0.05, 0.02), (0, -0.03, -0.46), p.s.steel, 0.004)


@piece("wall screen", 1.50, 0.06, 0.86)
def _wall_screen(p: Piece) -> None:
    p.box((1.5, 0.04, 0.86), (0, 0, -0.43), p.s.screen, 0.008)


@piece("pegboard", 1.40, 0.05, 0.80)
def _pegboard(p: Piece) -> None:
    p.box((1.4, 0.02, 0.8), (0, 0, -0.4), p.s.pale, 0.004)
    for k in range(6):
        x, long = -0.55 + 0.22 * k, 0.22 + 0.05 * (k % 3)
        p.box((0.035, 0.02, long), (x, -0.02, 0.25 - long), p.s.wood if k % 2 else p.s.accent, 0.008)
        p.box((0.09 - 0.02 * (k % 2), 0.02, 0.07), (x, -0.02, 0.25), p.s.steel, 0.008)


# --- rooms that work


@piece("towel ladder", 0.56, 0.30, 1.72)
def _ladder(p: Piece) -> None:
    for sx in (-1, 1):
        p.add(bar((sx * 0.25, -0.13, 0), (sx * 0.25, 0.13, 1.70), 0.017), p.s.wood)
    for k in range(5):
        share = 0.15 + 0.19 * k
        y, z = -0.13 + 0.26 * share, 1.7 * share
        p.add(bar((-0.25, y, z), (0.25, y, z), 0.013), p.s.wood)
    for share, long, material in ((0.91, 0.48, p.s.white), (0.53, 0.42, p.s.accent)):
        y, z = -0.13 + 0.26 * share, 1.7 * share
        p.box((0.38, 0.05, long), (0, y - 0.015, z - long + 0.025), material, 0.022, 0.004)


@piece("laundry basket", 0.46, 0.46, 0.64)
def _laundry(p: Piece) -> None:
    p.add(rounded_basket(0.22, 0.52), p.s.basket)
    p.add(lathe([(0.2, 0.44), (0.12, 0.60), (0.002, 0.62)], 14), p.s.white)


@piece("drying rack", 1.10, 0.55, 0.96)
def _rack(p: Piece) -> None:
    for sx in (-1, 1):
        p.add(bar((sx * 0.45, -0.25, 0), (sx * 0.45, 0.25, 0.92), 0.011), p.s.steel)
        p.add(bar((sx * 0.45, 0.25, 0), (sx * 0.45, -0.25, 0.92), 0.011), p.s.steel)
    for k in range(6):
        y = -0.25 + 0.1 * k
        p.add(bar((-0.52, y, 0.92), (0.52, y, 0.92), 0.007, sides=6), p.s.steel)
    for x, y, long, material in (
        (-0.26, -0.15, 0.46, p.s.white),
        (0.18, -0.05, 0.55, p.s.accent),
        (-0.05, 0.15, 0.4, p.s.pale),
    ):
        p.box((0.4, 0.02, long), (x, y, 0.93 - long), material, 0.008, 0.003)


@piece("ironing board", 1.30, 0.42, 1.06)
def _ironing(p: Piece) -> None:
    for sx in (-1, 1):
        p.add(bar((-0.35, sx * 0.16, 0), (0.30, sx * 0.10, 0.86), 0.012), p.s.steel)
        p.add(bar((0.35, sx * 0.16, 0), (-0.30, sx * 0.10, 0.86), 0.012), p.s.steel)
    p.box((1.3, 0.36, 0.04), (0, 0, 0.86), p.s.accent, 0.018, 0.004)
    p.box((0.24, 0.11, 0.05), (0.35, 0, 0.90), p.s.pale, 0.022)
    p.add(tube(curve([(0.27, 0, 0.95), (0.29, 0, 1.02), (0.40, 0, 1.02), (0.43, 0, 0.95)], 4), 0.013, 6), p.s.dark)


@piece("washing machine", 0.60, 0.62, 0.86)
def _washer(p: Piece) -> None:
    p.box((0.6, 0.58, 0.85), (0, 0.01, 0), p.s.enamel, 0.012)
    p.box((0.56, 0.012, 0.10), (0, -0.285, 0.73), p.s.steel, 0.004)
    p.add(cylinder(0.21, 0.03, 32), p.s.steel, (0, -0.27, 0.40), (90, 0, 0))
    p.add(cylinder(0.165, 0.012, 32), p.s.screen, (0, -0.297, 0.40), (90, 0, 0))


@piece("treadmill", 0.80, 1.70, 1.36)
def _treadmill(p: Piece) -> None:
    p.box((0.74, 1.66, 0.14), (0, 0, 0.03), p.s.dark, 0.03)
    p.box((0.50, 1.40, 0.012), (0, -0.1, 0.168), p.s.rubber, 0.004)
    for sx in (-1, 1):
        p.add(bar((sx * 0.35, 0.62, 0.12), (sx * 0.35, 0.74, 1.18), 0.03), p.s.steel)
        p.add(bar((sx * 0.35, 0.74, 1.02), (sx * 0.35, 0.28, 0.98), 0.02), p.s.dark)
    p.box((0.78, 0.10, 0.24), (0, 0.72, 1.10), p.s.dark, 0.03, turn=(-20, 0, 0))
    p.box((0.40, 0.012, 0.16), (0, 0.66, 1.15), p.s.screen, 0.004, turn=(-20, 0, 0))


@piece("exercise bike", 0.56, 1.10, 1.20)
def _bike(p: Piece) -> None:
    for y in (-0.48, 0.48):
        p.add(bar((-0.26, y, 0.03), (0.26, y, 0.03), 0.028), p.s.dark)
    p.add(bar((0, -0.48, 0.05), (0, 0.48, 0.05), 0.03), p.s.steel)
    p.add(cylinder(0.25, 0.05, 32), p.s.dark, (0.025, 0.24, 0.34), (0, 90, 180))
    p.add(cylinder(0.1, 0.07, 24), p.s.accent, (0.035, 0.24, 0.34), (0, 90, 180))
    p.add(bar((0, -0.30, 0.06), (0, -0.16, 0.88), 0.028), p.s.dark)
    p.add(bar((0, 0.24, 0.34), (0, 0.42, 1.06), 0.028), p.s.dark)
    p.box((0.22, 0.28, 0.07), (0, -0.16, 0.88), p.s.dark, 0.03)
    p.add(bar((-0.22, 0.38, 1.10), (0.22, 0.38, 1.10), 0.017), p.s.dark)
    p.box((0.18, 0.02, 0.12), (0, 0.45, 1.06), p.s.screen, 0.006)


@piece("exercise mat", 0.64, 1.76, 0.03)
def _mat(p: Piece) -> None:
    p.box((0.62, 1.74, 0.014), (0, 0, 0), p.s.accent, 0.006)


@piece("weights", 1.10, 0.46, 0.86)
def _weights(p: Piece) -> None:
    for sx in (-1, 1):
        p.box((0.05, 0.44, 0.05), (sx * 0.5, 0, 0), p.s.dark, 0.006)
        p.add(bar((sx * 0.5, -0.12, 0.03), (sx * 0.5, 0.16, 0.84), 0.026), p.s.dark)
    for level, (y, z) in enumerate(((-0.08, 0.22), (0.03, 0.50), (0.13, 0.76))):
        p.box((1.04, 0.17, 0.03), (0, y, z), p.s.steel, 0.006, turn=(-12, 0, 0))
        for k in range(5 - level):
            x = -0.42 + 0.84 * k / (4 - level)
            for sy in (-1, 1):
                p.add(
                    bar((x, y + sy * 0.06, z + 0.08), (x, y + sy * 0.13, z + 0.08), 0.055 - 0.008 * level, sides=10),
                    p.s.dark,
                )
            p.add(bar((x, y - 0.07, z + 0.08), (x, y + 0.07, z + 0.08), 0.014, sides=6), p.s.steel)


@piece("weight bench", 0.60, 1.30, 0.80)
def _weight_bench(p: Piece) -> None:
    for y in (-0.5, 0.42):
        p.add(bar((-0.28, y, 0.03), (0.28, y, 0.03), 0.026), p.s.dark)
        p.add(bar((0, y, 0.03), (0, y * 0.8, 0.42), 0.03), p.s.dark)
    p.add(bar((0, -0.5, 0.38), (0, 0.42, 0.38), 0.026), p.s.dark)
    p.box((0.30, 0.44, 0.08), (0, -0.36, 0.41), p.s.accent, 0.03)
    p.box((0.30, 0.78, 0.08), (0, 0.26, 0.51), p.s.accent, 0.03, turn=(28, 0, 0))


@piece("exercise ball", 0.66, 0.66, 0.65)
def _ball(p: Piece) -> None:
    angle = np.linspace(-90, 90, 15)
    line = [(0.325 * math.cos(math.radians(a)), 0.325 + 0.325 * math.sin(math.radians(a))) for a in angle]
    p.add(lathe(line, 28, smooth=False), Material(p.s.accent.colour, "leather", 1.5, 0.03, gloss=0.2))


@piece("workbench", 1.60, 0.66, 1.06)
def _workbench(p: Piece) -> None:
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.box((0.08, 0.08, 0.84), (sx * 0.72, sy * 0.26, 0), p.s.wood)
    p.box((1.6, 0.66, 0.06), (0, 0, 0.84), p.s.wood, 0.008)
    p.box((1.4, 0.5, 0.03), (0, 0, 0.2), p.s.wood)
    p.box((0.42, 0.24, 0.2), (-0.45, 0, 0.23), p.s.accent, 0.02)
    p.box((0.3, 0.3, 0.24), (0.25, 0, 0.23), p.s.basket, 0.01)
    p.box((0.16, 0.2, 0.12), (0.62, -0.2, 0.90), p.s.steel, 0.02)
    p.add(bar((0.62, -0.34, 0.96), (0.62, -0.10, 0.96), 0.016), p.s.steel)
    p.box((0.36, 0.17, 0.15), (-0.4, 0.1, 0.90), p.s.dark, 0.02)
    p.add(tube(curve([(-0.52, 0.1, 1.03), (-0.4, 0.1, 1.055), (-0.28, 0.1, 1.03)], 5), 0.01, 6), p.s.steel)


@piece("tool chest", 0.72, 0.46, 0.96)
def _tool_chest(p: Piece) -> None:
    red = Material(linear("#a8322c"), gloss=0.3)
    p.box((0.70, 0.44, 0.80), (0, 0, 0.10), red, 0.012)
    for k in range(5):
        z = 0.14 + 0.15 * k
        p.box((0.64, 0.012, 0.135), (0, -0.222, z), red, 0.004)
        p.add(bar((-0.24, -0.235, z + 0.10), (0.24, -0.235, z + 0.10), 0.007, sides=6), p.s.steel)
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.add(
                bar((sx * 0.29, sy * 0.17 - 0.02, 0.05), (sx * 0.29, sy * 0.17 + 0.02, 0.05), 0.05, sides=12), p.s.dark
            )
    p.box((0.68, 0.42, 0.02), (0, 0, 0.90), p.s.rubber, 0.006)


@piece("bicycle", 1.70, 0.52, 1.04)
def _bicycle(p: Piece) -> None:
    angle = np.linspace(0, 2 * math.pi, 33)
    for x in (-0.52, 0.52):
        rim = np.stack([x + 0.325 * np.cos(angle), np.zeros(33), 0.335 + 0.325 * np.sin(angle)], axis=1)
        p.add(tube(rim, 0.018, 6), p.s.dark)
        for k in range(0, 32, 4):
            p.add(bar((x, 0, 0.335), tuple(rim[k]), 0.003, sides=4), p.s.steel)
    paint = Material(p.s.accent.colour, gloss=0.3)
    hub, seat, head = (-0.05, 0.0, 0.30), (-0.20, 0.0, 0.80), (0.40, 0.0, 0.82)
    for one, other in (
        (hub, seat),
        (hub, head),
        (seat, head),
        (hub, (-0.52, 0.0, 0.335)),
        (seat, (-0.52, 0.0, 0.335)),
        (head, (0.52, 0.0, 0.335)),
    ):
        p.add(bar(one, other, 0.016), paint)
    p.add(bar(seat, (-0.225, 0, 0.90), 0.013), p.s.steel)
    p.box((0.26, 0.13, 0.05), (-0.22, 0, 0.90), p.s.dark, 0.024)
    p.add(bar(head, (0.38, 0, 0.98), 0.013), p.s.steel)
    p.add(bar((0.36, -0.25, 1.0), (0.36, 0.25, 1.0), 0.013), p.s.dark)
    p.add(cylinder(0.09, 0.01, 24), p.s.steel, (-0.05, 0.02, 0.30), (90, 0, 0))


@piece("kitchen island", 1.50, 0.80, 1.16)
def _island(p: Piece) -> None:
    p.box((1.4, 0.56, 0.88), (0, 0.08, 0.0), p.s.enamel if p.variant % 2 else p.s.wood, 0.008)
    stone = Material(linear("#dedbd5"), "marble", 1.1, 0.14, gloss=0.25)
    p.box((1.5, 0.8, 0.04), (0, 0, 0.88), p.s.wood if p.variant % 2 else stone, 0.008)
    p.add(lathe([(0.06, 0), (0.15, 0.04), (0.19, 0.1)], 20), p.s.pot, (-0.35, 0.05, 0.92))
    for k, (x, y) in enumerate(((-0.40, 0.04), (-0.30, 0.09), (-0.34, -0.03), (-0.35, 0.05))):
        fruit = Material(linear(("#d9a23a", "#c9652e", "#9fae3c")[k % 3]), gloss=0.15)
        p.add(
            lathe([(0.002, 0), (0.042, 0.02), (0.042, 0.06), (0.002, 0.085)], 12),
            fruit,
            (x, y, 0.955 + 0.02 * (k == 3)),
        )
    p.vase((0.42, 0.06, 0.92), 0.17)


@piece("kitchen trolley", 0.80, 0.44, 1.12)
def _trolley(p: Piece) -> None:
    for sx in (-1, 1):
        for sy in (-1, 1):
            p.add(bar((sx * 0.35, sy * 0.18, 0.04), (sx * 0.35, sy * 0.18, 0.86), 0.014), p.s.metal)
            p.add(
                bar((sx * 0.35, sy * 0.18 - 0.012, 0.035), (sx * 0.35, sy * 0.18 + 0.012, 0.035), 0.035, sides=10),
                p.s.dark,
            )
    for z in (0.16, 0.50, 0.84):
        p.box((0.78, 0.42, 0.028), (0, 0, z), p.s.wood, 0.006)
    p.add(rounded_basket(0.15, 0.2), p.s.basket, (-0.18, 0, 0.188))
    p.add(lathe([(0.1, 0), (0.1, 0.14)], 18, smooth=False), p.s.steel, (0.18, 0, 0.188))
    for k in range(4):
        p.add(
            lathe([(0.035, 0), (0.036, 0.14), (0.014, 0.19), (0.014, 0.25)], 12),
            Material(linear(("#3f5b3a", "#7d5a2e", "#c9c2b0", "#5c2a2a")[k]), gloss=0.3),
            (-0.26 + 0.11 * k, 0.04, 0.528),
        )
    p.vase((-0.22, 0, 0.868), 0.14)
    p.box((0.3, 0.2, 0.02), (0.16, 0, 0.868), p.s.wood, 0.006)


@piece("reception desk", 1.80, 0.76, 1.10)
def _reception(p: Piece) -> None:
    p.box((1.8, 0.5, 1.02), (0, -0.1, 0), p.s.wood, 0.012)
    p.box((1.84, 0.34, 0.04), (0, -0.18, 1.02), p.s.top, 0.008)
    p.box((1.6, 0.012, 0.10), (0, -0.36, 0.46), p.s.accent, 0.004)
    p.box((1.6, 0.3, 0.04), (0, 0.2, 0.70), p.s.wood, 0.006)


RUGS: Final[dict[str, tuple[float, float]]] = {  # flat on the floor: width, depth
    "rug": (2.6, 1.8), "large rug": (3.2, 2.2), "small rug": (1.6, 1.1), "runner": (0.75, 2.6), "bath mat": (0.9, 0.55),
    "round rug": (1.7, 1.7),
}  # fmt: skip
ON_WALL: Final = frozenset({"art", "mirror", "whiteboard", "wall screen", "pegboard"})
HANGING: Final = ON_WALL | {"pendant"}
LOCAL_UP: Final = 1.55  # metres: the middle of what hangs on a wall, at the eyes of who stands before it


def turned(mesh: Mesh, degrees: float, at: Place) -> Mesh:
    """Return the mesh in the room: turned about its middle, then moved."""
    matrix = rotation(0, 0, degrees)
    return Mesh(
        vertices=(mesh.vertices @ matrix.T + np.asarray(at, np.float32)).astype(np.float32),
        normals=(mesh.normals @ matrix.T).astype(np.float32),
        local=mesh.local, faces=mesh.faces, material=mesh.material, part=mesh.part, materials=mesh.materials,
    )  # fmt: skip
