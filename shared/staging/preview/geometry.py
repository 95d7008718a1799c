"""The room in one photo: camera and box, found by lines alone, with a measure of how sure that is.

Vanishing points give a few possible cameras; a box room is fitted under each, and the box decides. Vanishing points
alone fall for diagonal tiles and herringbone: those have more lines than the walls, but no wall ends where they do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.staging.preview.segments import Edges, Segments, edges_of, segments_of
from shared.staging.preview.views import Floats, View

WORK_SIDE: Final = 800  # pixels of the longest side; finer edges cost time and find no more walls
EYE: Final = 1.45  # metres: where people hold a camera; the scale of everything
LOWEST, HIGHEST = 2.3, 3.4  # metres of a ceiling; outside of it the eye height is corrected
_FIELDS: Final = (
    44,
    52,
    60,
    68,
    74,
    80,
    88,
    97,
    108,
)  # degrees along the longest side: from a 45 mm lens to a phone's wide one
_LIKELY_FIELD: Final = 74.0
_LIKELY_HORIZON: Final = 0.44  # of the height
_PAIRS_OF: Final = 48  # longest segments whose intersections are tried
_CAMERAS: Final = 8
_PARALLEL: Final = 6.0  # picture heights: a vertical vanishing point beyond may as well be at infinity
_CHANCE: Final = 0.30  # share of a line that random edges cover
_NEAR_AXIS: Final = math.radians(9)


@dataclass(frozen=True)
class Box:
    """A box room in eye heights, seen from the camera: side walls' x, back wall's y, the ceiling above the eye."""

    left: float
    right: float
    back: float
    ceiling: float


@dataclass(frozen=True)
class Fit:
    """A camera (pixels of the working picture, eye height 1), its box, and how well lines support both."""

    view: View
    box: Box
    score: float  # about 0 by chance; a clear room has 4 and more
    support: float  # share of the lines' length that points along the box's axes


# --- cameras


def up_of(segments: Segments, width: int, height: int) -> tuple[float, float] | None:
    """Return the vertical vanishing point in pixels, or None when the verticals are parallel or missing."""
    way = segments.end - segments.start
    steep = np.abs(way[:, 1]) > 3.2 * np.abs(way[:, 0])
    chosen = np.flatnonzero(steep)
    if len(chosen) < 2:
        return None
    chosen = chosen[np.argsort(-segments.length[chosen], kind="stable")][:60]
    scale = float(max(width, height))
    start = (segments.start[chosen] - [width / 2, height / 2]) / scale
    end = (segments.end[chosen] - [width / 2, height / 2]) / scale
    ones = np.ones((len(chosen), 1))
    one, other = np.hstack([start, ones]), np.hstack([end, ones])
    lines = np.cross(one, other)
    lines /= np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
    middle = (start + end) / 2
    way = (end - start) / np.linalg.norm(end - start, axis=1, keepdims=True)
    weight = segments.length[chosen].astype(np.float64)

    def misses(points: Any) -> Any:
        """Return the sine of the angle by which each segment misses each point."""
        to_x = points[:, None, 0] - points[:, None, 2] * middle[None, :, 0]
        to_y = points[:, None, 1] - points[:, None, 2] * middle[None, :, 1]
        return np.abs(to_x * way[:, 1] - to_y * way[:, 0]) / np.maximum(np.hypot(to_x, to_y), 1e-9)

    pairs = np.array(list(itertools.combinations(range(min(40, len(chosen))), 2)))
    points = np.cross(lines[pairs[:, 0]], lines[pairs[:, 1]])
    norm = np.linalg.norm(points, axis=1)
    points = np.vstack([points[norm > 1e-9] / norm[norm > 1e-9, None], [[0.0, 1.0, 0.0]]])
    score = (weight * np.maximum(0, 1 - (misses(points) / math.sin(math.radians(1.0))) ** 2)).sum(axis=1)
    score[-1] *= 1.03  # exactly parallel is the likeliest of all
    best = points[score.argmax()]
    for _ in range(6):
        off = misses(best[None])[0]
        trust = np.sqrt(weight * np.exp(-((off / math.sin(math.radians(0.7))) ** 2)))
        if trust.sum() < 1e-6:
            break
        best = np.linalg.svd(lines * trust[:, None])[2][-1]
    if abs(best[2]) < 1e-6 or math.hypot(best[0], best[1]) / abs(best[2]) * scale > 40 * height:
        return None
    return float(best[0] / best[2] * scale + width / 2), float(best[1] / best[2] * scale + height / 2)


def _tilted(width: int, height: int, focal: float, point: tuple[float, float]) -> View:
    """Return the camera with this focal length whose vertical lines meet in `point`."""
    a, b = (point[0] - width / 2) / focal, (height / 2 - point[1]) / focal
    up = np.array([a, 1.0, b]) / math.sqrt(a * a + 1 + b * b)
    if up[2] < 0:
        up = -up
    pitch, roll = math.asin(max(-1, min(1, float(up[1])))), math.atan2(float(up[0]), float(up[2]))
    return View(width, height, focal, width / 2, height / 2, 0.0, pitch, roll, 1.0)


class Lines(NamedTuple):
    """What `aligned` asks of segments again and again: middles, unit directions, lengths with an upper bound."""

    x: Any
    y: Any
    along: Any  # unit vector's x and y, (n,) each
    down: Any
    weight: Any  # pixels
    total: float


def lines_from(segments: Segments, width: int) -> Lines:
    """Return segments as lines; none counts for more than a quarter of the picture's `width`."""
    middle = (segments.start + segments.end) / 2
    way = (segments.end - segments.start) / np.maximum(segments.length, 1e-9)[:, None]
    weight = np.minimum(segments.length, 0.25 * width)
    return Lines(middle[:, 0], middle[:, 1], way[:, 0], way[:, 1], weight, float(weight.sum()))


def aligned(view: View, lines: Lines, off: float) -> float:
    """Return the share of all length that points at a vanishing point within `off` radians, graded."""
    if not len(lines.weight):
        return 0.0
    points = view.vanishing()
    to_x = points[:, :1] - points[:, 2:] * lines.x
    to_y = points[:, 1:2] - points[:, 2:] * lines.y
    miss = to_x * lines.down - to_y * lines.along
    miss *= miss
    miss /= np.maximum(to_x * to_x + to_y * to_y, 1e-18)  # the sine of the angle, squared
    best = np.maximum(1 - miss.min(axis=0) / math.sin(off) ** 2, 0)
    return float(lines.weight @ best) / lines.total


def _prior(view: View) -> float:
    """Return what to take off a camera's support for being unusual: a share of it."""
    return float(_priors(view, view.centre_y))


def _priors(view: View, centre: Any) -> Any:
    """Return the same for cameras like `view` whose principal points are in the rows `centre`."""
    field = 2 * math.degrees(math.atan(max(view.width, view.height) / 2 / view.focal))
    horizon = centre - math.tan(-view.pitch) * view.focal
    return 0.10 * ((field - _LIKELY_FIELD) / 30) ** 2 + 0.30 * ((horizon / view.height - _LIKELY_HORIZON) / 0.25) ** 2


def cameras(segments: Segments, width: int, height: int) -> list[View]:
    """Return up to eight different cameras that the lines allow, the best supported first."""
    way = segments.end - segments.start
    level = np.flatnonzero(np.abs(way[:, 1]) < 3.2 * np.abs(way[:, 0]))
    longest = level[np.argsort(-segments.length[level], kind="stable")][:_PAIRS_OF]
    focals = [max(width, height) / 2 / math.tan(math.radians(field) / 2) for field in _FIELDS]
    plain = [View(width, height, f, width / 2, _LIKELY_HORIZON * height, 0.0, 0.0, 0.0, 1.0) for f in focals]
    if len(longest) < 2:
        return [plain[4]]
    ones = np.ones((len(longest), 1))
    lines = np.cross(
        np.hstack([segments.start[longest], ones]).astype(np.float64), np.hstack([segments.end[longest], ones])
    )
    pairs = np.array(list(itertools.combinations(range(len(longest)), 2)))
    points = np.cross(lines[pairs[:, 0]], lines[pairs[:, 1]])
    far = np.abs(points[:, 2]) <= 1e-9 * np.linalg.norm(points, axis=1)
    points = points[~far]
    points = points[:, :2] / points[:, 2:]
    within = (
        (np.abs(points[:, 0] - width / 2) < 8 * width) & (points[:, 1] > -0.6 * height) & (points[:, 1] < 1.4 * height)
    )
    points = points[within]
    some = np.argsort(-segments.length, kind="stable")[:160]
    few = Segments(segments.start[some], segments.end[some], segments.length[some])
    vertical = up_of(segments, width, height)
    found: list[_Supported] = []
    beyond = vertical is None or math.hypot(vertical[0] - width / 2, vertical[1] - height / 2) > _PARALLEL * height
    for focal in focals:
        if beyond:
            rows = points[(points[:, 1] > 0.12 * height) & (points[:, 1] < 0.85 * height)]
            level_base = View(width, height, focal, width / 2, 0.0, 0.0, 0.0, 0.0, 1.0)
            found.append(_supported(level_base, rows, few, level=True))
        if vertical is not None:
            base = _tilted(width, height, focal, vertical)
            ray = np.stack(
                [(points[:, 0] - width / 2) / focal, np.ones(len(points)), (height / 2 - points[:, 1]) / focal], axis=1
            )
            sine = np.abs(ray @ base.axes()[:, 2]) / np.linalg.norm(ray, axis=1)
            found.append(_supported(base, points[sine < 0.03], few, level=False))
    rough: list[View] = []
    for view in _best_first(found, 600):
        if all(_different(view, other) for other in rough):
            rough.append(view)
        if len(rough) == 2 * _CAMERAS:
            break
    chosen: list[View] = []
    every = lines_from(segments, width)
    for view in rough:
        fine = refined(view, every)
        if all(_different(fine, other) for other in chosen):
            chosen.append(fine)
        if len(chosen) == _CAMERAS:
            break
    return chosen or [plain[4]]


class _Supported(NamedTuple):
    """Cameras like `base`, with other turns and horizons, and what each is worth."""

    base: View
    turn: Any
    centre: Any
    worth: Any


def _best_first(found: list[_Supported], count: int) -> Iterator[View]:
    """Yield the `count` best cameras; the few that are looked at are made when they are asked for."""
    worth = np.concatenate([each.worth for each in found]) if found else np.zeros(0)
    owner = np.repeat(np.arange(len(found)), [len(each.worth) for each in found])
    place = np.concatenate([np.arange(len(each.worth)) for each in found]) if found else owner
    for k in np.argsort(-worth, kind="stable")[:count]:
        each, at = found[owner[k]], place[k]
        yield replace(each.base, yaw=float(each.turn[at]), centre_y=float(each.centre[at]))


def _supported(base: View, points: Any, segments: Segments, *, level: bool) -> _Supported:
    """Return cameras like `base` that look along the points, with the share of length that supports each.

    `level`: the camera is level and its horizon runs through the point; otherwise its horizon is that of `base`.
    """
    if not len(points):
        return _Supported(base, np.zeros(0), np.zeros(0), np.zeros(0))
    centre = points[:, 1] if level else np.full(len(points), base.centre_y)
    ray = np.stack(
        [(points[:, 0] - base.centre_x) / base.focal, np.ones(len(points)), (centre - points[:, 1]) / base.focal],
        axis=1,
    )
    axes = base.axes()
    turn = -np.arctan2(ray @ axes[:, 0], ray @ axes[:, 1])
    turn = (turn + math.pi / 4) % (math.pi / 2) - math.pi / 4
    # One of those that are nearly alike: 0.7 % of the height, half a degree. (complex: numpy sorts pairs at once)
    keys = np.round(centre / base.height / 0.007) + 1j * np.round(np.degrees(turn) * 2)
    _, first = np.unique(keys, return_index=True)
    turn, centre = turn[first], centre[first]
    middle = ((segments.start + segments.end) / 2).astype(np.float32)
    way = ((segments.end - segments.start) / segments.length[:, None]).astype(np.float32)
    weight = np.minimum(segments.length, 0.25 * base.width)
    least = np.full((len(turn), len(middle)), np.inf, np.float32)
    for along, across in ((np.sin(turn), np.cos(turn)), (np.cos(turn), -np.sin(turn))):
        # the world's x, then its y, in camera coordinates
        right, ahead, up = (along * axes[k, 1] + across * axes[k, 0] for k in range(3))
        u = (base.focal * right + base.centre_x * ahead).astype(np.float32)[:, None]
        v = (-base.focal * up + centre * ahead).astype(np.float32)[:, None]
        w = ahead.astype(np.float32)[:, None]
        to_x, to_y = u - w * middle[:, 0], v - w * middle[:, 1]
        miss = to_x * way[:, 1] - to_y * way[:, 0]
        miss *= miss
        to_x *= to_x
        to_y *= to_y
        to_x += to_y
        miss /= np.maximum(to_x, np.float32(1e-18))  # the sine of the angle, squared
        np.minimum(least, miss, out=least)
    best = np.maximum(1 - least / np.float32(math.sin(math.radians(2)) ** 2), 0)
    return _Supported(base, turn, centre, best @ weight / weight.sum() - _priors(base, centre))


def _different(one: View, other: View) -> bool:
    turn = abs((one.yaw - other.yaw + math.pi / 4) % (math.pi / 2) - math.pi / 4)
    return (
        turn > math.radians(4)
        or abs(math.log(one.focal / other.focal)) > 0.13
        or abs(one.centre_y - other.centre_y) > 0.03 * one.height
        or abs(one.pitch - other.pitch) > math.radians(1)
    )


def refined(view: View, lines: Lines) -> View:
    """Return the camera moved until the lines fit best, one number at a time."""
    steps = {"yaw": math.radians(1.5), "focal": 0.05 * view.focal}
    if view.pitch == 0 and view.roll == 0:
        steps["centre_y"] = 0.015 * view.height
    else:
        steps |= {"pitch": math.radians(0.6), "roll": math.radians(0.4)}

    def value(candidate: View) -> float:
        return aligned(candidate, lines, math.radians(1.2)) - 0.25 * _prior(candidate)

    return _climb(view, steps, value, rounds=6)


def _climb(view: View, steps: dict[str, float], value: Callable[[View], float], rounds: int) -> View:
    best = value(view)
    for _ in range(rounds):
        for name, step in steps.items():
            for sign in (1, -1):
                start = view
                while (found := value(moved := _moved(view, name, sign * step))) > best + 1e-9:
                    view, best = moved, found
                if view is not start:
                    break  # the other way leads back
        steps = {name: step / 2 for name, step in steps.items()}
    return view


def _moved(view: View, name: str, by: float) -> View:
    return replace(view, **{name: getattr(view, name) + by})


# --- the box


def edge_maps(edges: Edges, view: View, shape: tuple[int, int]) -> Any:
    """Return for each axis a picture of the edges that point at its vanishing point, shape (3, height, width).

    It is 2 on an edge and beside it, and 1 two pixels off.
    """
    columns, rows = edges.columns.astype(np.float32), edges.rows.astype(np.float32)
    along, down = edges.along[:, 0].astype(np.float32), edges.along[:, 1].astype(np.float32)
    least = np.float32(math.sin(_NEAR_AXIS) ** 2)
    axes = np.zeros(len(rows), np.uint8)  # one bit an axis: all three are thickened at once
    for k, point in enumerate(_unit(view.vanishing())):
        to_x, to_y = point[0] - point[2] * columns, point[1] - point[2] * rows
        miss = to_x * down - to_y * along
        axes |= (miss * miss < least * (to_x * to_x + to_y * to_y)).astype(np.uint8) << k
    near = np.zeros(shape, np.uint8)
    near[edges.rows, edges.columns] = axes
    maps = np.zeros((3, *shape), np.uint8)
    for _ in range(2):
        near = _thickened(near)
        for k in range(3):
            maps[k] += (near >> k) & 1
    return maps


def _unit(vectors: Any) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _thickened(bits: Any) -> Any:
    """Return a picture of bits in which each pixel has those of its neighbours, too."""
    wide = bits.copy()
    wide[1:] |= bits[:-1]
    wide[:-1] |= bits[1:]
    out = wide.copy()
    out[:, 1:] |= wide[:, :-1]
    out[:, :-1] |= wide[:, 1:]
    return out


_STEP: Final = 0.008  # of the focal length: about 4 pixels, as wide as the thickened edges
_ACROSS: Final = np.arange(-2.4, 2.4, _STEP)
_UP: Final = np.arange(-1.5, 1.3, _STEP)


def search_box(view: View, maps: Any) -> list[Box]:
    """Return promising boxes, found in the picture as it would be if the camera faced the back wall.

    There the back wall is a rectangle, and the room's other four lines are rays from the vanishing point through its
    corners. What each line adds is a difference of running sums, so that for a bottom and a top edge the best left and
    right ones are found independently.
    """
    u, v, depth = replace(view, eye=0.0).project(_faced())
    seen = (depth > 0.1) & (u > 1) & (u < view.width - 2) & (v > 1) & (v < view.height - 2)
    column, row = np.where(seen, u, 0).astype(np.int32), np.where(seen, v, 0).astype(np.int32)
    index = row * np.int32(view.width) + column
    gain = [((maps[k].reshape(-1)[index] > 0) - np.float32(_CHANCE)) * seen for k in range(3)]
    level = np.zeros((len(_UP), len(_ACROSS) + 1), np.float32)
    np.cumsum(gain[0], axis=1, out=level[:, 1:])
    upright = np.zeros((len(_UP) + 1, len(_ACROSS)), np.float32)
    np.cumsum(gain[2], axis=0, out=upright[1:])
    ray = _rays(gain[1], seen)
    horizon, middle = int(-_UP[0] / _STEP), int(-_ACROSS[0] / _STEP)
    strength = (np.maximum(gain[0], 0)).sum(axis=1)
    floors, tops = np.arange(horizon - 10), np.arange(horizon + 8, len(_UP))
    floors = np.sort(floors[np.argsort(-strength[floors], kind="stable")][:44])
    tops = np.sort(tops[np.argsort(-strength[tops], kind="stable")][:30])
    usual = np.float32(60.0)  # steps: half a picture's width; a line that long counts as one
    left, right = slice(0, middle + 20), slice(middle - 20, len(_ACROSS))
    # What a floor's and a ceiling's edge add is independent of one another: two tables, summed for each pair.
    posts = ray[floors] - upright[floors] / (np.float32(0.6) * usual)
    above = np.float32(0.7) * ray[tops] + upright[tops] / (np.float32(0.6) * usual)
    low, high = np.float32(1.2) * level[floors] / usual, np.float32(0.7) * level[tops] / usual
    left_low, left_high = (posts - low[:, :-1])[:, left], (above - high[:, :-1])[:, left]
    right_low, right_high = (posts + low[:, 1:])[:, right], (above + high[:, 1:])[:, right]
    found = []
    for number, floor in enumerate(floors):
        lefts, rights = left_high + left_low[number], right_high + right_low[number]
        one, other = lefts.argmax(axis=1), rights.argmax(axis=1)
        value = lefts.max(axis=1) + rights.max(axis=1)
        found += [
            (float(value[k]), int(floor), int(tops[k]), int(one[k]), int(other[k]) + middle - 20)
            for k in np.argsort(-value, kind="stable")[:3]
        ]
    found.sort(reverse=True)
    boxes = []
    for _, floor_row, top_row, left_column, right_column in found[:24]:
        back = -1 / _UP[floor_row]
        edges = max(0.15, -_ACROSS[left_column] * back), max(0.15, _ACROSS[right_column] * back)
        boxes.append(Box(-float(edges[0]), float(edges[1]), float(back), float(max(0.3, _UP[top_row] * back))))
    return boxes


@cache
def _faced() -> Floats:
    """Return the places of the faced picture, on a wall one eye height before the camera, (up, across, 3)."""
    places = np.empty((len(_UP), len(_ACROSS), 3), np.float32)
    places[..., 0], places[..., 1], places[..., 2] = _ACROSS, 1, _UP[:, None]
    return places


@cache
def _fan() -> tuple[Any, Any, Any]:
    """Return the faced picture's cells along rays from its middle, outer end first, those within it, and back.

    The first two are (turn, step) and index the picture; the last is (up, across) and indexes the rays.
    """
    turns, steps = 480, 330
    angle = (np.arange(turns, dtype=np.float32) + 0.5) * np.float32(2 * math.pi / turns)
    reach = np.arange(steps, dtype=np.float32)[::-1] * np.float32(0.9 * _STEP)
    x = ((np.cos(angle)[:, None] * reach - _ACROSS[0]) / _STEP).astype(np.int32)
    y = ((np.sin(angle)[:, None] * reach - _UP[0]) / _STEP).astype(np.int32)
    inside = (x >= 0) & (x < len(_ACROSS)) & (y >= 0) & (y < len(_UP))
    cells = np.where(inside, y * np.int32(len(_ACROSS)) + x, 0)
    turn = np.minimum((np.arctan2(_UP[:, None], _ACROSS) % (2 * math.pi) * (turns / (2 * math.pi))), turns - 1)
    far = np.minimum(np.hypot(_UP[:, None], _ACROSS) / (0.9 * _STEP), steps - 1)
    return cells, inside, turn.astype(np.int32) * np.int32(steps) + np.int32(steps - 1) - far.astype(np.int32)


def _rays(gain: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Return for each place of the faced picture how well its ray outwards is covered: 0 by chance, 0.7 fully."""
    cells, inside, back = _fan()
    outward = np.cumsum(gain.reshape(-1)[cells] * inside, axis=1, dtype=np.float32)
    count = np.cumsum(seen.reshape(-1)[cells] & inside, axis=1, dtype=np.float32)
    value = outward / np.maximum(count, 14)  # a short ray is worth less
    return value.reshape(-1)[back]


_NEAR: Final = 0.25  # eye heights: lines of the side walls begin there; what is nearer is never in a picture
_SAMPLES: Final = 56
# The eight lines of the box that a camera sees, the floor's first: their axes, their weights, and their ends as
# columns of (left, right, back, ceiling, floor, near).
_AXIS: Final = np.array([0, 1, 1, 2, 2, 0, 1, 1])
_WEIGHT: Final = np.array([1.2, 1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.7])
_FIRST: Final = np.array(
    [[0, 2, 4], [0, 5, 4], [1, 5, 4], [0, 2, 4], [1, 2, 4], [0, 2, 3], [0, 5, 3], [1, 5, 3]]
)  # fmt: skip
_LAST: Final = np.array(
    [[1, 2, 4], [0, 2, 4], [1, 2, 4], [0, 2, 3], [1, 2, 3], [1, 2, 3], [0, 2, 3], [1, 2, 3]]
)  # fmt: skip


def lines_of(boxes: list[Box]) -> tuple[Any, Any]:
    """Return the first and the last place of the eight lines of each box, (boxes, 8, 3) each."""
    ends = np.array([(box.left, box.right, box.back, box.ceiling, -1.0, _NEAR) for box in boxes])
    return ends[:, _FIRST], ends[:, _LAST]


def _pixels_of(view: View, first: Any, last: Any) -> tuple[Any, Any, Any]:
    """Return columns and rows spread over the visible part of each line, and the length of that part in pixels.

    Lines are (..., 3); columns and rows have one more axis at the end, of `_SAMPLES`.
    """
    axes = view.axes()
    one, other = first @ axes.T, last @ axes.T
    way = other - one
    ahead = np.where(np.abs(way[..., 1]) < 1e-9, 1, way[..., 1])
    # what is behind the camera is pulled in front of it
    pull = np.clip(np.where(one[..., 1] < 0.08, (0.08 - one[..., 1]) / ahead, 0), 0, 1)
    push = np.clip(np.where(other[..., 1] < 0.08, (other[..., 1] - 0.08) / ahead, 0), 0, 1)
    one, other = one + pull[..., None] * way, other - push[..., None] * way
    u, v = [], []
    for place in (one, other):
        scale = view.focal / np.maximum(place[..., 1], 0.05)
        u.append(view.centre_x + place[..., 0] * scale)
        v.append(view.centre_y - place[..., 2] * scale)
    low, high = np.zeros(first.shape[:-1]), np.ones(first.shape[:-1])
    for (start, end), edge in ((u, view.width - 2.0), (v, view.height - 2.0)):
        way = end - start
        way = np.where(np.abs(way) < 1e-9, 1e-9, way)
        near, far = (1.0 - start) / way, (edge - start) / way
        low, high = np.maximum(low, np.minimum(near, far)), np.minimum(high, np.maximum(near, far))
    seen = np.maximum(high - low, 0)
    share = low[..., None] + seen[..., None] * _SPREAD
    across, down = u[1] - u[0], v[1] - v[0]
    length = np.hypot(across, down) * seen
    return u[0][..., None] + share * across[..., None], v[0][..., None] + share * down[..., None], length


_SPREAD: Final = np.linspace(0, 1, _SAMPLES)


def box_scores(view: View, boxes: list[Box], maps: Any) -> Any:
    """Return how far the lines of each box are covered by edges of the right direction, against chance."""
    u, v, length = _pixels_of(view, *lines_of(boxes))
    u = np.clip(u, 0, view.width - 1).astype(np.int32)
    v = np.clip(v, 0, view.height - 1).astype(np.int32)
    hit = maps[_AXIS[:, None], v, u].sum(axis=2, dtype=np.int32) / (2 * _SAMPLES)
    return ((hit - _CHANCE) * np.minimum(1, length / (0.12 * view.width)) * _WEIGHT).sum(axis=1)


def fit(grey: Floats) -> tuple[Fit, Edges]:
    """Return the room in a grey picture (0 to 255), whose longest side is about `WORK_SIDE` pixels, and its edges."""
    height, width = grey.shape
    edges, angle = edges_of(grey)
    segments = segments_of(edges, angle, (height, width))
    lines = lines_from(segments, width)
    fits, maps_of = [], {}
    for view in cameras(segments, width, height):
        maps = maps_of[view] = edge_maps(edges, view, (height, width))
        support = aligned(view, lines, math.radians(2))
        boxes = search_box(view, maps)
        scores = box_scores(view, boxes, maps)
        best = np.argsort(-scores, kind="stable")[:2]
        fits += [Fit(view, boxes[k], float(scores[k]), support) for k in best]
    fits.sort(key=_worth)
    found = min((_joint(candidate, lines, maps_of[candidate.view]) for candidate in fits[:4]), key=_worth)
    return replace(found, box=_nearer_lines(found, edges, grey)), edges


def _worth(found: Fit) -> float:
    """Return a key that sorts the best first."""
    return -(found.score + 1.5 * found.support)


def _joint(found: Fit, lines: Lines, maps: Any) -> Fit:
    """Return camera and box moved together until both fit best; `maps` are the edges under the camera so far."""
    view, box = found.view, found.box

    def of_camera(camera: View) -> float:
        return 2.0 * aligned(camera, lines, math.radians(1.2)) - 0.15 * _prior(camera)

    known = of_camera(view)
    best = float(box_scores(view, [box], maps)[0]) + known
    of_view = {"yaw": math.radians(0.5), "focal": 0.03 * view.focal}
    of_view |= (
        {"centre_y": 0.006 * view.height}
        if view.pitch == 0 and view.roll == 0
        else {"pitch": math.radians(0.3), "roll": math.radians(0.2)}
    )
    size = 0.04
    for _ in range(6):
        for name in ("back", "left", "right", "ceiling"):
            rooms = [replace(box, **{name: getattr(box, name) * factor}) for factor in (1 + size, 1 / (1 + size))]
            for room, score in zip(rooms, box_scores(view, rooms, maps) + known, strict=True):
                if score > best + 1e-6:
                    box, best = room, float(score)
                    break  # the other way leads back
        for name, step in of_view.items():
            for sign in (1, -1):
                turned = _moved(view, name, sign * step)
                support = of_camera(turned)
                score = float(box_scores(turned, [box], maps)[0]) + support
                if score > best + 1e-6:
                    view, best, known = turned, score, support
                    break
        of_view = {name: step / 1.7 for name, step in of_view.items()}
        size /= 1.7
    return Fit(view, box, best - known, aligned(view, lines, math.radians(2)))


def _nearer_lines(found: Fit, edges: Edges, grey: Floats) -> Box:
    """Return the box with each wall moved to the nearer of two lines: a skirting board has one above and one below.

    The strip between both must differ from the floor before it, or it is floor (a row of tiles, a plank).
    """
    view, box = found.view, found.box
    maps = edge_maps(edges, view, grey.shape)
    for number, name in enumerate(("back", "left", "right")):
        here = getattr(box, name)

        def pixels(value: float, number: int = number, name: str = name, box: Box = box) -> tuple[Any, Any, float]:
            first, last = lines_of([replace(box, **{name: value})])
            u, v, length = _pixels_of(view, first[0, number : number + 1], last[0, number : number + 1])
            return (
                np.clip(v[0], 0, view.height - 1).astype(int),
                np.clip(u[0], 0, view.width - 1).astype(int),
                length[0],
            )

        def cover(value: float, axis: int = min(number, 1)) -> float:
            row, column, _ = pixels(value)
            return float(maps[axis, row, column].mean()) / 2

        def tone(value: float) -> float:
            row, column, _ = pixels(value)
            return float(np.median(grey[row, column]))

        now = cover(here)
        if pixels(here)[2] < 0.08 * view.width or now < 0.3:
            continue
        for share in np.linspace(0.985, 0.90, 18):  # 9 cm of skirting hide 6 % of the floor's depth
            if cover(here * share) > max(0.55, 0.8 * now):
                between, before = tone(here * (1 + share) / 2), tone(here * share * 0.97)
                after = tone(here * 1.03)
                if abs(between - before) > abs(between - after) + 2:
                    box = replace(box, **{name: float(here * share)})
                    break
    return box
