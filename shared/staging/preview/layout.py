"""Where the pieces go: groups are tried along the walls and free in the room, and kept where nothing speaks against it.

A piece must stand inside the walls and whole in the picture, must not touch another, stand in a door's way, hide a door
or rise before a window. What finds no place is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from shared.staging.preview import furniture
from shared.staging.preview.families import Stuff, linear
from shared.staging.preview.meshes import Mesh
from shared.staging.preview.openings import Hole, Sides, Stretch, Wall
from shared.staging.preview.renderer import Decal
from shared.staging.preview.rooms import Group, Item, Layout, Rug
from shared.staging.preview.views import Floats, View

_WALL_GAP: Final = 0.015  # metres that stay between a piece and a wall
_GAP: Final = 0.03  # and between two pieces
_PULLED: Final = 0.35  # and, where there is room, between a chair and another group: people pull it back
_CHAIRS: Final = frozenset({"chair", "bistro chair", "office chair", "bar stool"})
_CLEAR: Final = 0.75  # metres in front of a door, for its leaf and for people
_FRAME: Final = 0.008  # share of the picture's longest side that stays around every piece
_NEAREST: Final = 1.0  # metres from the camera; nearer things fill the picture
_HIDDEN: Final = 0.12  # share of a door that furniture may cover in the picture
_SHRUNK: Final = (1.0, 0.85, 0.7, 0.58)  # sizes at which a rug is tried
_TALL: Final = 1.25  # metres: what rises above this against a wall needs plain wall behind it
_SLENDER: Final = ("floor lamp", "towel ladder")  # hide nothing of the wall
_FRONT: Final = 4.0  # of merit, for a front that the camera does not see
_STEP: Final = 0.16  # metres between the places tried along a wall

Point = tuple[float, float]


@dataclass(frozen=True)
class Space:
    """A measured room: its camera, its walls, and what is in them."""

    view: View
    sides: Sides
    holes: tuple[Hole, ...]
    plain: tuple[Stretch, ...]


@dataclass(frozen=True)
class Placed:
    """A piece that has a place. `foot` are its corners on the floor; empty for what hangs."""

    name: str
    mesh: Mesh
    foot: tuple[Point, ...]
    height: float
    at: tuple[float, float, float]
    turn: float


@dataclass
class Plan:
    """What goes into a room."""

    pieces: list[Placed] = field(default_factory=list)
    rugs: list[Decal] = field(default_factory=list)


def rectangle_overlap(one: tuple[Point, ...], other: tuple[Point, ...], gap: float = 0.0) -> bool:
    """Return whether two convex quadrilaterals come nearer than `gap` (separating axes)."""
    for a, b in ((one, other), (other, one)):
        for k in range(len(a)):
            (x0, y0), (x1, y1) = a[k], a[(k + 1) % len(a)]
            nx, ny = y1 - y0, x0 - x1
            size = math.hypot(nx, ny)
            if size < 1e-9:
                continue
            nx, ny = nx / size, ny / size
            mine = [x * nx + y * ny for x, y in a]
            yours = [x * nx + y * ny for x, y in b]
            if min(yours) >= max(mine) + gap or min(mine) >= max(yours) + gap:
                return False
    return True


def keep_free(space: Space) -> list[tuple[Point, ...]]:
    """Return the rectangles on the floor in front of doors and passages."""
    out: list[tuple[Point, ...]] = []
    for hole in space.holes:
        if hole.kind == "window":
            continue
        start, end = space.sides.span(hole.wall)
        whole = hole.end - hole.start > 0.8 * (end - start)  # a railing, or a wall of glass: nobody walks through
        deep = _CLEAR if hole.kind == "door" else (0.06 if whole else 0.55)
        if hole.wall == "back":
            y = space.sides.back
            out.append(((hole.start, y - deep), (hole.end, y - deep), (hole.end, y), (hole.start, y)))
        else:
            x = space.sides.left if hole.wall == "left" else space.sides.right
            inner = x + deep if hole.wall == "left" else x - deep
            low, high = min(x, inner), max(x, inner)
            out.append(((low, hole.start), (high, hole.start), (high, hole.end), (low, hole.end)))
    return out


def door_shape(space: Space, hole: Hole) -> Any:
    """Return the door's corners in the picture (4, 2), or None when it is not in front of the camera."""
    along = np.array([hole.start, hole.end, hole.end, hole.start], np.float32)
    up = np.array([0, 0, hole.top, hole.top], np.float32)
    u, v, depth = space.view.project(space.sides.places(hole.wall, along, up))
    return None if (depth < 0.1).any() else np.stack([u, v], axis=1)


class Planner:
    """Places the steps of a layout one after another."""

    def __init__(self, space: Space, stuff: Stuff, seed: int) -> None:
        self._space, self._stuff = space, stuff
        self._chance = np.random.default_rng(seed)
        self._variant = int(self._chance.integers(12))
        self._meshes: dict[tuple[str, int], tuple[Mesh, Floats, Floats]] = {}
        self._free = keep_free(space)
        self._doors = [
            shape for hole in space.holes if hole.kind == "door" and (shape := door_shape(space, hole)) is not None
        ]
        self._count = 0
        self.plan = Plan()

    def mesh(self, name: str, variant: int) -> tuple[Mesh, Floats, Floats]:
        """Return a piece's mesh in its own frame with its lowest and highest corner, built once."""
        key = name, variant
        if key not in self._meshes:
            mesh = furniture.build(name, self._stuff, variant)
            self._meshes[key] = mesh, mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        return self._meshes[key]

    def follow(self, layout: Layout) -> Plan:
        """Place what fits of a layout."""
        for step in layout:
            mirror = bool(self._chance.integers(2))
            self._count += 1
            self._step(step, mirror)
        return self.plan

    def _step(self, step: tuple[Group, ...], mirror: bool) -> bool:
        """Place the first of some groups that fits; one that stands close to chairs only when no other fits."""
        known: dict[int, list[tuple[Point, float, float]]] = {}
        for gap in (_PULLED, _GAP):
            for number, group in enumerate(step):
                if group.items[0].name in furniture.ON_WALL or group.items[0].name in furniture.RUGS:
                    if self._lies_or_hangs(group.items[0].name):
                        return True
                    continue
                if number not in known:
                    known[number] = self._origins(group)
                if self._place(group, known[number], mirror, gap):
                    return True
        return False

    # --- groups

    def _lies_or_hangs(self, name: str) -> bool:
        return self._hang(name, None) if name in furniture.ON_WALL else self._runner(name)

    def _place(self, group: Group, origins: list[tuple[Point, float, float]], mirror: bool, gap: float) -> bool:
        best = self._best(group, origins, mirror, gap)
        if best is None:
            return False
        found, (origin, turn) = best
        self.plan.pieces += found
        if group.rug is not None:
            self._lay(group.rug, origin, turn, mirror)
        if group.above is not None:
            self._hang(group.above, found[0])
        return True

    def _best(
        self, group: Group, origins: list[tuple[Point, float, float]], mirror: bool, gap: float
    ) -> tuple[list[Placed], tuple[Point, float]] | None:
        """Return the group where it stands best, chairs at least `gap` from others; None where it does not fit."""
        best: tuple[float, list[Placed], tuple[Point, float]] | None = None
        whole = 0.9 * len(group.items)
        for origin, turn, merit in origins:
            if best is not None and merit + whole <= best[0]:
                continue  # even with all of its pieces, seen best, it would not win
            found = self._try(group, origin, turn, mirror, gap)
            if found is None:
                continue
            value = merit + 0.9 * len(found) + self._merit(found)
            if best is None or value > best[0]:
                best = value, found, (origin, turn)
        return None if best is None else best[1:]

    def _origins(self, group: Group) -> list[tuple[Point, float, float]]:
        """Return origins, turns and merits at which a group is tried."""
        sides, out = self._space.sides, []
        if group.free:
            deep = min(sides.back, 7.0)
            for y in np.arange(1.3, deep - 0.3, 0.24):
                for x in np.arange(max(sides.left, -4.0) + 0.4, min(sides.right, 4.0) - 0.3, 0.24):
                    for turn in (0.0, 90.0):
                        middle = abs(x - (sides.left + sides.right) / 2) / (sides.right - sides.left)
                        out.append(((float(x), float(y)), turn, -1.4 * middle - 0.25 * abs(y - 0.62 * deep)))
            return out
        for wall, turn in (("back", 0.0), ("left", 90.0), ("right", -90.0)):
            start, end = sides.span(wall)  # type: ignore[arg-type]
            length = max(0.1, end - start)
            for along in np.arange(start + 0.15, end - 0.1, _STEP):
                share = (along - start) / length
                merit = (1.1 if wall == "back" else 0.0) - (0 if group.corner else 1.2 * abs(share - 0.5))
                if group.corner:
                    merit += 1.5 * abs(share - 0.5)
                merit += float(self._chance.uniform(0, 0.35))
                origin = {"back": (along, sides.back), "left": (sides.left, along), "right": (sides.right, along)}[wall]
                if group.front:
                    merit -= _FRONT * (1.0 - _facing(origin, turn))
                out.append(((float(origin[0]), float(origin[1])), turn, merit))
        return out

    def _merit(self, found: list[Placed]) -> float:
        """Return how well the camera sees the first piece: in the middle, neither far away nor at its feet."""
        x, y, _ = found[0].at
        u, _, depth = self._space.view.project(np.array([[x, y, 0.4]], np.float32))
        off = abs(float(u[0]) / self._space.view.width - 0.5)
        return -1.6 * off - 0.12 * max(0.0, float(depth[0]) - 3.0) - 0.5 * max(0.0, 2.0 - float(depth[0]))

    def _try(self, group: Group, origin: Point, turn: float, mirror: bool, gap: float) -> list[Placed] | None:
        found: list[Placed] = []
        for number, item in enumerate(group.items):
            placed = self._item(item, origin, turn, mirror, found, gap)
            if placed is not None:
                found.append(placed)
            elif number < group.need:
                return None
        return found

    def _variant_of(self, name: str) -> int:
        """Return the piece's variant: what repeats in a room (plants, art, vases) differs, pairs are alike."""
        pair = name in {
            "chair",
            "bedside table",
            "bistro chair",
            "office chair",
            "bar stool",
            "washing machine",
            "exercise mat",
            "armchair",
            "loveseat",
        }
        return self._variant if pair else (self._variant + self._count) % 12

    def _item(
        self, item: Item, origin: Point, turn: float, mirror: bool, with_others: list[Placed], gap: float
    ) -> Placed | None:
        mesh, low, high = self.mesh(item.name, self._variant_of(item.name))
        x, rotation = (-item.x, -item.turn) if mirror else (item.x, item.turn)
        y = item.y if item.middle else item.y + float(high[1])
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        at = origin[0] + c * x + s * y, origin[1] + s * x - c * y
        whole = turn + rotation
        z = self._space.sides.height if item.on == "ceiling" else 0.0
        return self.stand(item.name, mesh, at, whole, z, low, high, with_others, gap)

    def stand(
        self,
        name: str,
        mesh: Mesh,
        at: Point,
        turn: float,
        z: float,
        low: Any,
        high: Any,
        with_others: list[Placed],
        gap: float = _GAP,
    ) -> Placed | None:
        """Return the piece at a place, or None when something speaks against it.

        `with_others` are its own group's; a chair keeps `gap` from others, and they from it.
        """
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        foot = tuple(
            (at[0] + c * x - s * y, at[1] + s * x + c * y)
            for x, y in ((low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1]))
        )
        sides = self._space.sides
        for x, y in foot:
            if not (sides.left + _WALL_GAP < x < sides.right - _WALL_GAP and y < sides.back - _WALL_GAP):
                return None
        hangs = z > 0
        if not hangs:
            others = [
                *((each, gap if name in _CHAIRS or each.name in _CHAIRS else _GAP) for each in self.plan.pieces),
                *((each, _GAP) for each in with_others),
            ]
            tucked = name in _CHAIRS
            for other, apart in others:
                if not other.foot:
                    continue
                # Chairs reach under the table they belong to.
                under = tucked and ("table" in other.name or "island" in other.name or "desk" in other.name)
                if rectangle_overlap(foot, other.foot, -0.30 if under else apart):
                    return None
            if any(rectangle_overlap(foot, zone) for zone in self._free):
                return None
        corners = np.array([[x, y, h + z] for x, y in foot for h in (float(low[2]), float(high[2]))], np.float32)
        box = self.framed(corners)
        if box is None:
            return None
        if not hangs and (self.hides_door(box) or self._before_window(foot, float(high[2]), name)):
            return None
        return Placed(name, mesh, () if hangs else foot, float(high[2]), (at[0], at[1], z), turn)

    def framed(self, corners: Floats) -> tuple[float, float, float, float] | None:
        """Return the picture's rectangle around world places; None when not all of them are well inside the picture."""
        view = self._space.view
        u, v, depth = view.project(corners)
        edge = _FRAME * max(view.width, view.height)
        if (depth < _NEAREST).any() or u.min() < edge or u.max() > view.width - edge:
            return None
        if v.min() < edge or v.max() > view.height - edge:
            return None
        return float(u.min()), float(v.min()), float(u.max()), float(v.max())

    def hides_door(self, box: tuple[float, float, float, float]) -> bool:
        """Return whether a rectangle of the picture covers a part of a door."""
        for shape in self._doors:
            left, top, right, low = shape[:, 0].min(), shape[:, 1].min(), shape[:, 0].max(), shape[:, 1].max()
            wide = max(0.0, min(box[2], right) - max(box[0], left))
            high = max(0.0, min(box[3], low) - max(box[1], top))
            if wide * high > _HIDDEN * max(1.0, (right - left) * (low - top)):
                return True
        return False

    def _before_window(self, foot: tuple[Point, ...], height: float, name: str) -> bool:
        """Return whether a piece at a wall rises before a window, or is tall where no plain wall is known."""
        sides = self._space.sides
        allowed = 0.50 if "bed" in name and "side" not in name else 0.18
        for wall in ("left", "back", "right"):
            if wall == "back":
                far, along = sides.back - max(y for _, y in foot), [x for x, _ in foot]
            elif wall == "left":
                far, along = min(x for x, _ in foot) - sides.left, [y for _, y in foot]
            else:
                far, along = sides.right - max(x for x, _ in foot), [y for _, y in foot]
            if far > 0.45:
                continue
            start, end = min(along), max(along)
            for hole in self._space.holes:
                behind = hole.wall == wall and hole.kind != "door" and start < hole.end and end > hole.start
                if behind and height > max(hole.bottom, 0.75) + allowed:
                    return True
            if height > _TALL and "plant" not in name and name not in _SLENDER:
                known = any(
                    p.wall == wall and p.start - 0.05 <= start and end <= p.end + 0.05 for p in self._space.plain
                )
                if not known:
                    return True
        return False

    # --- what lies and hangs

    def _lay(self, rug: Rug, origin: Point, turn: float, mirror: bool) -> None:
        width, depth = furniture.RUGS[rug.kind]
        x = -rug.x if mirror else rug.x
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        at = origin[0] + c * x + s * rug.y, origin[1] + s * x - c * rug.y
        for share in _SHRUNK:
            if self._rug(at, width * share, depth * share, turn, round_=rug.kind == "round rug", kind=rug.kind):
                return

    def _rug(self, at: Point, width: float, depth: float, turn: float, *, round_: bool, kind: str) -> bool:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        corners = [
            (at[0] + c * a - s * b, at[1] + s * a + c * b)
            for a, b in (
                (-width / 2, -depth / 2),
                (width / 2, -depth / 2),
                (width / 2, depth / 2),
                (-width / 2, depth / 2),
            )
        ]
        sides = self._space.sides
        if any(not (sides.left + 0.05 < x < sides.right - 0.05 and y < sides.back - 0.05) for x, y in corners):
            return False
        if self.framed(np.array([[x, y, 0] for x, y in corners], np.float32)) is None:
            return False
        for other in self.plan.rugs:
            if rectangle_overlap(tuple(corners), tuple(rug_corners(other)), 0.1):
                return False
        family = self._stuff.family
        pattern = "jute" if kind == "bath mat" else family.rug
        ground, figure = (family.pale, family.accent) if kind == "bath mat" else (family.rug_ground, family.rug_figure)
        self.plan.rugs.append(
            Decal(at[0], at[1], width, depth, math.radians(turn), pattern, linear(ground), linear(figure), round_)
        )
        return True

    def _runner(self, kind: str) -> bool:
        """Lay a rug along the room where nothing stands."""
        sides = self._space.sides
        width, depth = furniture.RUGS[kind]
        for share in _SHRUNK:
            for y in np.arange(1.8, sides.back - 0.6, 0.2):
                for x in (0.5 * (sides.left + sides.right) + d for d in (0.0, 0.12, -0.12, 0.25, -0.25)):
                    half_w, half_d = width * share / 2, depth * share / 2
                    corners = (
                        (x - half_w, y - half_d),
                        (x + half_w, y - half_d),
                        (x + half_w, y + half_d),
                        (x - half_w, y + half_d),
                    )
                    if any(p.foot and rectangle_overlap(corners, p.foot, 0.02) for p in self.plan.pieces):
                        continue
                    if self._rug((float(x), float(y)), width * share, depth * share, 0.0, round_=False, kind=kind):
                        return True
        return False

    def _hang(self, name: str, over: Placed | None) -> bool:
        """Hang something on plain wall: over a piece, or where it shows best."""
        mesh, low, high = self.mesh(name, self._variant_of(name))
        half, tall = float(high[0] - low[0]) / 2, float(high[2])
        up = furniture.LOCAL_UP
        best: tuple[float, Placed] | None = None
        for stretch in self._space.plain:
            turn = {"back": 0.0, "left": 90.0, "right": -90.0}[stretch.wall]
            if over is not None:
                if abs((over.turn - turn + 180) % 360 - 180) > 1 or not self._at_wall(over, stretch.wall):
                    continue
                places = [over.at[0] if stretch.wall == "back" else over.at[1]]
                up = max(furniture.LOCAL_UP, over.height + 0.10 + tall)
            else:
                places = list(np.arange(stretch.start + half + 0.1, stretch.end - half - 0.05, 0.25))
            for along in places:
                if along - half < stretch.start + 0.02 or along + half > stretch.end - 0.02:
                    continue
                if up + tall > self._space.sides.height - 0.15:
                    continue
                placed = self._on_wall(name, mesh, stretch.wall, float(along), up, half, tall, turn)
                if placed is None:
                    continue
                value = -abs(along - (stretch.start + stretch.end) / 2) + (1.0 if stretch.wall == "back" else 0.0)
                if best is None or value > best[0]:
                    best = value, placed
        if best is None:
            return False
        self.plan.pieces.append(best[1])
        return True

    def _at_wall(self, piece: Placed, wall: Wall) -> bool:
        sides = self._space.sides
        far = {
            "back": sides.back - max(y for _, y in piece.foot),
            "left": min(x for x, _ in piece.foot) - sides.left,
            "right": sides.right - max(x for x, _ in piece.foot),
        }[wall]
        return far < 0.3

    def _on_wall(
        self, name: str, mesh: Mesh, wall: Wall, along: float, up: float, half: float, tall: float, turn: float
    ) -> Placed | None:
        sides = self._space.sides
        deep = 0.02
        at = {
            "back": (along, sides.back - deep),
            "left": (sides.left + deep, along),
            "right": (sides.right - deep, along),
        }[wall]
        corners = sides.places(
            wall, np.array([along - half, along + half] * 2), np.array([up - tall, up - tall, up + tall, up + tall])
        )
        if self.framed(corners) is None:
            return None
        for other in self.plan.pieces:  # neither behind something tall at the same wall nor over another picture
            if other.foot and (other.height < up - tall - 0.02 or not self._at_wall(other, wall)):
                continue
            if other.foot:
                spread = [x if wall == "back" else y for x, y in other.foot]
                if min(spread) < along + half + 0.05 and max(spread) > along - half - 0.05:
                    return None
            elif other.name in furniture.ON_WALL and math.hypot(other.at[0] - at[0], other.at[1] - at[1]) < half + 0.8:
                return None
        return Placed(name, mesh, (), tall, (at[0], at[1], up), turn)


def rug_corners(decal: Decal) -> list[Point]:
    c, s = math.cos(decal.turn), math.sin(decal.turn)
    return [
        (
            decal.x + a * decal.width / 2 * c - b * decal.depth / 2 * s,
            decal.y + a * decal.width / 2 * s + b * decal.depth / 2 * c,
        )
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def meshes_of(plan: Plan) -> list[Mesh]:
    """Return the plan's meshes where they stand."""
    return [furniture.turned(piece.mesh, piece.turn, piece.at) for piece in plan.pieces]


def _facing(at: Point, turn: float) -> float:
    """Return the cosine between a piece's front and the way to the camera: 1 from the front, 0 from the side."""
    away = math.hypot(*at)
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return max(0.0, (c * at[1] - s * at[0]) / away) if away else 1.0
