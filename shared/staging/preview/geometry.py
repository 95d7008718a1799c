"""The room in one photo: camera and box, found by lines alone, with a measure of how sure that is.

Vanishing points give a few possible cameras; a box room is fitted under each, and the box decides. Vanishing points
alone fall for diagonal tiles and herringbone: those have more lines than the walls, but no wall ends where they do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

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


def aligned(view: View, segments: Segments, off: float, *, upright: bool = True) -> tuple[float, float]:
    """Return how much length points at a vanishing point within `off` radians, graded; and the share of all length."""
    if not len(segments.length):
        return 0.0, 0.0
    middle = (segments.start + segments.end) / 2
    way = (segments.end - segments.start) / segments.length[:, None]
    best = np.zeros(len(middle))
    for point in view.vanishing()[: 3 if upright else 2]:
        to_x, to_y = point[0] - point[2] * middle[:, 0], point[1] - point[2] * middle[:, 1]
        miss = np.abs(to_x * way[:, 1] - to_y * way[:, 0]) / np.maximum(np.hypot(to_x, to_y), 1e-9)
        best = np.maximum(best, 1 - (miss / math.sin(off)) ** 2)
    weight = np.minimum(segments.length, 0.25 * view.width)
    total = float((weight * best).sum())
    return total, total / float(weight.sum())


def _prior(view: View) -> float:
    """Return what to take off a camera's support for being unusual: a share of it."""
    field = 2 * math.degrees(math.atan(max(view.width, view.height) / 2 / view.focal))
    horizon = view.centre_y - math.tan(-view.pitch) * view.focal
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
    found: list[tuple[float, View]] = []
    beyond = vertical is None or math.hypot(vertical[0] - width / 2, vertical[1] - height / 2) > _PARALLEL * height
    for focal in focals:
        if beyond:
            rows = points[(points[:, 1] > 0.12 * height) & (points[:, 1] < 0.85 * height)]
            found += _supported(View(width, height, focal, width / 2, 0.0, 0.0, 0.0, 0.0, 1.0), rows, few, level=True)
        if vertical is not None:
            base = _tilted(width, height, focal, vertical)
            ray = np.stack(
                [(points[:, 0] - width / 2) / focal, np.ones(len(points)), (height / 2 - points[:, 1]) / focal], axis=1
            )
            sine = np.abs(ray @ base.axes()[:, 2]) / np.linalg.norm(ray, axis=1)
            found += _supported(base, points[sine < 0.03], few, level=False)
    found.sort(key=lambda item: -item[0])
    rough: list[View] = []
    for _, view in found[:600]:
        if all(_different(view, other) for other in rough):
            rough.append(view)
        if len(rough) == 2 * _CAMERAS:
            break
    chosen: list[View] = []
    for view in rough:
        fine = refined(view, segments)
        if all(_different(fine, other) for other in chosen):
            chosen.append(fine)
        if len(chosen) == _CAMERAS:
            break
    return chosen or [plain[4]]


def _supported(base: View, points: Any, segments: Segments, *, level: bool) -> list[tuple[float, View]]:
    """Return cameras like `base` that look along the points, with the share of length that supports each.

    `level`: the camera is level and its horizon runs through the point; otherwise its horizon is that of `base`.
    """
    if not len(points):
        return []
    centre = points[:, 1] if level else np.full(len(points), base.centre_y)
    ray = np.stack(
        [(points[:, 0] - base.centre_x) / base.focal, np.ones(len(points)), (centre - points[:, 1]) / base.focal],
        axis=1,
    )
    axes = replace(base, yaw=0.0).axes()
    turn = -np.arctan2(ray @ axes[:, 0], ray @ axes[:, 1])
    turn = (turn + math.pi / 4) % (math.pi / 2) - math.pi / 4
    keys = np.stack([np.round(centre / base.height / 0.007), np.round(np.degrees(turn) * 2)], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    turn, centre = turn[first], centre[first]
    middle = ((segments.start + segments.end) / 2).astype(np.float32)
    way = (segments.end - segments.start) / segments.length[:, None]
    weight = np.minimum(segments.length, 0.25 * base.width)
    best = np.zeros((len(turn), len(middle)), np.float32)
    for along, across in ((np.sin(turn), np.cos(turn)), (np.cos(turn), -np.sin(turn))):
        # the world's x, then its y, in camera coordinates
        right, ahead, up = (along * axes[k, 1] + across * axes[k, 0] for k in range(3))
        u = (base.focal * right + base.centre_x * ahead).astype(np.float32)
        v = (-base.focal * up + centre * ahead).astype(np.float32)
        w = ahead.astype(np.float32)
        to_x = u[:, None] - w[:, None] * middle[None, :, 0]
        to_y = v[:, None] - w[:, None] * middle[None, :, 1]
        miss = np.abs(to_x * way[:, 1] - to_y * way[:, 0]) / np.maximum(np.sqrt(to_x * to_x + to_y * to_y), 1e-9)
        best = np.maximum(best, 1 - (miss / np.float32(math.sin(math.radians(2)))) ** 2)
    values = best @ weight / weight.sum()
    views = [replace(base, yaw=float(a), centre_y=float(c)) for a, c in zip(turn, centre, strict=True)]
    return [(float(value) - _prior(view), view) for value, view in zip(values, views, strict=True)]


def _different(one: View, other: View) -> bool:
    turn = abs((one.yaw - other.yaw + math.pi / 4) % (math.pi / 2) - math.pi / 4)
    return (
        turn > math.radians(4)
        or abs(math.log(one.focal / other.focal)) > 0.13
        or abs(one.centre_y - other.centre_y) > 0.03 * one.height
        or abs(one.pitch - other.pitch) > math.radians(1)
    )


def refined(view: View, segments: Segments) -> View:
    """Return the camera moved until the lines fit best, one number at a time."""
    steps = {"yaw": math.radians(1.5), "focal": 0.05 * view.focal}
    if view.pitch == 0 and view.roll == 0:
        steps["centre_y"] = 0.015 * view.height
    else:
        steps |= {"pitch": math.radians(0.6), "roll": math.radians(0.4)}

    def value(candidate: View) -> float:
        _, share = aligned(candidate, segments, math.radians(1.2))
        return share - 0.25 * _prior(candidate)

    return _climb(view, steps, value, rounds=6)


def _climb(view: View, steps: dict[str, float], value: Callable[[View], float], rounds: int) -> View:
    best = value(view)
    for _ in range(rounds):
        for name, step in steps.items():
            for sign in (1, -1):
                moved = replace(view, **{name: getattr(view, name) + sign * step})
                found = value(moved)
                while found > best + 1e-9:
                    view, best = moved, found
                    moved = replace(view, **{name: getattr(view, name) + sign * step})
                    found = value(moved)
        steps = {name: step / 2 for name, step in steps.items()}
    return view


# --- the box


def edge_maps(edges: Edges, view: View, shape: tuple[int, int]) -> Any:
    """Return for each axis a picture of the edges that point at its vanishing point, shape (3, height, width).

    It is 2 on an edge and beside it, and 1 two pixels off.
    """
    maps = np.zeros((3, *shape), np.uint8)
    for k, point in enumerate(view.vanishing()):
        to_x, to_y = point[0] - point[2] * edges.columns, point[1] - point[2] * edges.rows
        miss = np.abs(to_x * edges.along[:, 1] - to_y * edges.along[:, 0]) / np.maximum(np.hypot(to_x, to_y), 1e-9)
        here = miss < math.sin(_NEAR_AXIS)
        near = np.zeros(shape, np.bool_)
        near[edges.rows[here], edges.columns[here]] = True
        for _ in range(2):
            wide = near.copy()
            wide[1:] |= near[:-1]
            wide[:-1] |= near[1:]
            near = wide.copy()
            near[:, 1:] |= wide[:, :-1]
            near[:, :-1] |= wide[:, 1:]
            maps[k] += near
    return maps


_STEP: Final = 0.008  # of the focal length: about 4 pixels, as wide as the thickened edges
_ACROSS: Final = np.arange(-2.4, 2.4, _STEP)
_UP: Final = np.arange(-1.5, 1.3, _STEP)


def search_box(view: View, maps: Any) -> list[Box]:
    """Return promising boxes, found in the picture as it would be if the camera faced the back wall.

    There the back wall is a rectangle, and the room's other four lines are rays from the vanishing point through its
    corners. What each line adds is a difference of running sums, so that for a bottom and a top edge the best left and
    right ones are found independently.
    """
    flat = replace(view, eye=0.0)
    places = np.empty((len(_UP), len(_ACROSS), 3), np.float32)
    places[..., 0], places[..., 1], places[..., 2] = _ACROSS, 1, _UP[:, None]
    u, v, depth = flat.project(places)
    seen = (depth > 0.1) & (u > 1) & (u < view.width - 2) & (v > 1) & (v < view.height - 2)
    column, row = np.where(seen, u, 0).astype(np.int32), np.where(seen, v, 0).astype(np.int32)
    index = row * np.int32(view.width) + column
    gain = [
        (np.where(maps[k].reshape(-1)[index] > 0, 1 - _CHANCE, -_CHANCE) * seen).astype(np.float32) for k in range(3)
    ]
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
    usual = 60.0  # steps: half a picture's width; a line that long counts as one
    found = []
    left, right = slice(0, middle + 20), slice(middle - 20, len(_ACROSS))
    for floor in floors:
        posts = (upright[tops] - upright[floor]) / (0.6 * usual)  # [top, column]
        posts = posts + ray[floor] + 0.7 * ray[tops]
        walls = (1.2 * level[floor] + 0.7 * level[tops]) / usual
        lefts, rights = posts[:, left] - walls[:, :-1][:, left], posts[:, right] + walls[:, 1:][:, right]
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


def _rays(gain: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Return for each place of the faced picture how well its ray outwards is covered: 0 by chance, 0.7 fully."""
    turns, steps = 480, 330
    angle = (np.arange(turns, dtype=np.float32) + 0.5) * np.float32(2 * math.pi / turns)
    reach = np.arange(steps, dtype=np.float32) * np.float32(0.9 * _STEP)
    x = ((np.cos(angle)[:, None] * reach - _ACROSS[0]) / _STEP).astype(np.int32)
    y = ((np.sin(angle)[:, None] * reach - _UP[0]) / _STEP).astype(np.int32)
    inside = (x >= 0) & (x < gain.shape[1]) & (y >= 0) & (y < gain.shape[0])
    index = np.where(inside, y * np.int32(gain.shape[1]) + x, 0)
    outward = np.cumsum((gain.reshape(-1)[index] * inside)[:, ::-1], axis=1)[:, ::-1]
    count = np.cumsum((seen.reshape(-1)[index] & inside)[:, ::-1], axis=1)[:, ::-1]
    value = (outward / np.maximum(count, 1) * np.minimum(1, count / 14)).astype(np.float32)
    turn = np.arctan2(_UP[:, None], _ACROSS) % (2 * math.pi) * (turns / (2 * math.pi))
    far = np.hypot(_UP[:, None], _ACROSS) / (0.9 * _STEP)
    return value[np.minimum(turn.astype(np.int32), turns - 1), np.minimum(far.astype(np.int32), steps - 1)]


_NEAR: Final = 0.25  # eye heights: lines of the side walls begin there; what is nearer is never in a picture
_SAMPLES: Final = 56


def lines_of(box: Box) -> tuple[Any, Any, Any, Any]:
    """Return axis, weight, first and last place of the eight lines of the box that a camera sees; the floor's first."""
    left, right, back, top = box.left, box.right, box.back, box.ceiling
    first = [
        (left, back, -1), (left, _NEAR, -1), (right, _NEAR, -1), (left, back, -1), (right, back, -1),
        (left, back, top), (left, _NEAR, top), (right, _NEAR, top),
    ]  # fmt: skip
    last = [
        (right, back, -1), (left, back, -1), (right, back, -1), (left, back, top), (right, back, top),
        (right, back, top), (left, back, top), (right, back, top),
    ]  # fmt: skip
    axis, weight = np.array([0, 1, 1, 2, 2, 0, 1, 1]), np.array([1.2, 1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.7])
    return axis, weight, np.array(first, np.float64), np.array(last, np.float64)


def _pixels_of(view: View, first: Any, last: Any) -> tuple[Any, Any, Any]:
    """Return columns and rows spread over the visible part of each line, and the length of that part in pixels."""
    axes = view.axes()
    ends = [places @ axes.T for places in (first, last)]
    shares = []
    for a, b in (ends, ends[::-1]):  # pull what is behind the camera in front of it
        move = np.where(
            a[:, 1] < 0.08, (0.08 - a[:, 1]) / np.where(np.abs(b[:, 1] - a[:, 1]) < 1e-9, 1, b[:, 1] - a[:, 1]), 0
        )
        shares.append(a + np.clip(move, 0, 1)[:, None] * (b - a))
    u, v = [], []
    for place in shares:
        ahead = np.maximum(place[:, 1], 0.05)
        u.append(view.centre_x + view.focal * place[:, 0] / ahead)
        v.append(view.centre_y - view.focal * place[:, 2] / ahead)
    low, high = np.zeros(len(first)), np.ones(len(first))
    for (start, end), edge in ((u, view.width - 2.0), (v, view.height - 2.0)):
        way = np.where(np.abs(end - start) < 1e-9, 1e-9, end - start)
        one, other = (1.0 - start) / way, (edge - start) / way
        low, high = np.maximum(low, np.minimum(one, other)), np.minimum(high, np.maximum(one, other))
    share = low[:, None] + np.maximum(high - low, 0)[:, None] * np.linspace(0, 1, _SAMPLES)
    length = np.hypot(u[1] - u[0], v[1] - v[0]) * np.maximum(high - low, 0)
    return u[0][:, None] + share * (u[1] - u[0])[:, None], v[0][:, None] + share * (v[1] - v[0])[:, None], length


def box_score(view: View, box: Box, maps: Any) -> float:
    """Return how far the box's lines are covered by edges of the right direction, against chance."""
    axis, weight, first, last = lines_of(box)
    u, v, length = _pixels_of(view, first, last)
    u = np.clip(u, 0, view.width - 1).astype(np.int32)
    v = np.clip(v, 0, view.height - 1).astype(np.int32)
    hit = maps[axis[:, None], v, u].mean(axis=1) / 2
    return float(((hit - _CHANCE) * np.minimum(1, length / (0.12 * view.width)) * weight).sum())


def fit(grey: Floats) -> tuple[Fit, Edges]:
    """Return the room in a grey picture (0 to 255), whose longest side is about `WORK_SIDE` pixels, and its edges."""
    height, width = grey.shape
    edges, angle = edges_of(grey)
    segments = segments_of(edges, angle, (height, width))
    fits = []
    for view in cameras(segments, width, height):
        maps = edge_maps(edges, view, (height, width))
        support = aligned(view, segments, math.radians(2))[1]
        tried = [Fit(view, box, box_score(view, box, maps), support) for box in search_box(view, maps)]
        tried.sort(key=lambda each: -each.score)
        fits += tried[:2]
    fits.sort(key=_worth)
    best = min((_joint(candidate, edges, segments, (height, width)) for candidate in fits[:4]), key=_worth)
    return replace(best, box=_nearer_lines(best, edges, grey)), edges


def _worth(found: Fit) -> float:
    """Return a key that sorts the best first."""
    return -(found.score + 1.5 * found.support)


def _joint(found: Fit, edges: Edges, segments: Segments, shape: tuple[int, int]) -> Fit:
    """Return camera and box moved together until both fit best."""
    view, box = found.view, found.box
    maps = edge_maps(edges, view, shape)

    def value(camera: View, room: Box) -> float:
        return (
            box_score(camera, room, maps)
            + 2.0 * aligned(camera, segments, math.radians(1.2))[1]
            - 0.15 * _prior(camera)
        )

    best = value(view, box)
    of_view = {"yaw": math.radians(0.5), "focal": 0.03 * view.focal}
    of_view |= (
        {"centre_y": 0.006 * view.height}
        if view.pitch == 0 and view.roll == 0
        else {"pitch": math.radians(0.3), "roll": math.radians(0.2)}
    )
    size = 0.04
    for _ in range(6):
        for name in ("back", "left", "right", "ceiling"):
            for factor in (1 + size, 1 / (1 + size)):
                moved = replace(box, **{name: getattr(box, name) * factor})
                score = value(view, moved)
                if score > best + 1e-6:
                    box, best = moved, score
        for name, step in of_view.items():
            for sign in (1, -1):
                turned = replace(view, **{name: getattr(view, name) + sign * step})
                score = value(turned, box)
                if score > best + 1e-6:
                    view, best = turned, score
        of_view = {name: step / 1.7 for name, step in of_view.items()}
        size /= 1.7
    return Fit(view, box, box_score(view, box, maps), aligned(view, segments, math.radians(2))[1])


def _nearer_lines(found: Fit, edges: Edges, grey: Floats) -> Box:
    """Return the box with each wall moved to the nearer of two lines: a skirting board has one above and one below.

    The strip between both must differ from the floor before it, or it is floor (a row of tiles, a plank).
    """
    view, box = found.view, found.box
    maps = edge_maps(edges, view, grey.shape)
    for number, name in enumerate(("back", "left", "right")):
        here = getattr(box, name)

        def pixels(value: float, number: int = number, name: str = name, box: Box = box) -> tuple[Any, Any, float]:
            _, _, first, last = lines_of(replace(box, **{name: value}))
            u, v, length = _pixels_of(view, first[number : number + 1], last[number : number + 1])
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
