"""Doors, windows and plain stretches of the walls, measured on each wall as if one stood in front of it.

Colour does not help: a white door stands in a white wall. Edges do: a column of plain wall has no edge between the
skirting board and the ceiling, and what reaches the floor has two tall edges there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np

from shared.staging.preview.views import Floats, View

Wall = Literal["left", "back", "right"]
WALLS: Final[tuple[Wall, ...]] = ("left", "back", "right")
CELL: Final = 0.025  # metres of the wall's grid
_SHORTEST: Final = 0.45  # metres of an upright line that may bound an opening
_GAP: Final = 4  # cells that a line may be interrupted
_COVERED: Final = 0.6  # of a lintel or a sill, for it to be one
_DOOR_WIDTHS: Final = (0.55, 1.45)  # with the frame around the leaf
_DOOR_TOPS: Final = (1.80, 2.50)
_TEXTURE: Final = 2.2  # upright lines a metre, over nearly the whole wall: tiles or panels
_MARGIN: Final = 0.10  # metres from a corner, whose own line is no opening's


@dataclass(frozen=True)
class Hole:
    """An opening in a wall: where along it (x on the back wall, y on the side walls), and between which heights."""

    wall: Wall
    kind: Literal["door", "window", "passage"]
    start: float
    end: float
    bottom: float
    top: float


@dataclass(frozen=True)
class Stretch:
    """A plain piece of wall, along it."""

    wall: Wall
    start: float
    end: float


@dataclass(frozen=True)
class Sides:
    """The walls as planes, in metres: x of the side walls, y of the back wall, height of the room."""

    left: float
    right: float
    back: float
    height: float

    def places(self, wall: Wall, along: Any, up: Any) -> Floats:
        """Return world places on a wall."""
        along, up = np.broadcast_arrays(np.asarray(along, np.float32), np.asarray(up, np.float32))
        across = np.full_like(along, {"left": self.left, "right": self.right, "back": self.back}[wall])
        if wall == "back":
            return np.stack([along, across, up], axis=-1)
        return np.stack([across, along, up], axis=-1)

    def span(self, wall: Wall) -> tuple[float, float]:
        """Return where a wall begins and ends along itself; a side wall begins beside the camera."""
        return (self.left, self.right) if wall == "back" else (0.3, self.back)


def strip(view: View, picture: Any, sides: Sides, wall: Wall) -> tuple[Any, Any, Any, Any]:
    """Return the wall's part of a picture (height, along), what of it is in the photo, and both scales in metres."""
    start, end = sides.span(wall)
    along = np.arange(start + CELL / 2, max(end, start + 2 * CELL), CELL, dtype=np.float32)
    up = np.arange(CELL / 2, sides.height, CELL, dtype=np.float32)
    u, v, depth = view.project(sides.places(wall, along[None, :], up[:, None]))
    seen = (depth > 0.2) & (u > 0) & (u < view.width - 2) & (v > 0) & (v < view.height - 2)
    column, row = np.where(seen, u, 0).astype(np.int32), np.where(seen, v, 0).astype(np.int32)
    return picture[row, column] * seen, seen, along, up


def _box(picture: Any, size: int, axis: int) -> Any:
    """Return running means of `size` cells, odd."""
    half = size // 2
    padded = np.pad(picture, [(half + 1, half) if k == axis else (0, 0) for k in range(2)], mode="edge")
    sums = np.cumsum(padded, axis=axis, dtype=np.float32)
    if axis == 0:
        return (sums[size:] - sums[:-size]) / size
    return (sums[:, size:] - sums[:, :-size]) / size


def openings(view: View, grey: Floats, maps: Any, sides: Sides) -> tuple[list[Hole], list[Stretch]]:
    """Return the holes in the walls and their plain stretches.

    `grey` (0 to 255) and `maps` (edges along x, y and z) have the size of `view`.
    """
    holes: list[Hole] = []
    plain: list[Stretch] = []
    for wall in WALLS:
        level, seen, along, up = strip(view, maps[0 if wall == "back" else 1], sides, wall)
        if level.shape[0] < 20 or level.shape[1] < 12 or seen.mean() < 0.02:
            continue
        upright, _, _, _ = strip(view, maps[2], sides, wall)
        tone, _, _, _ = strip(view, grey, sides, wall)
        found = _rectangles(level > 0, upright > 0, tone, seen, along, up)
        holes += [_hole(wall, *each) for each in found]
        plain += [Stretch(wall, *each) for each in _plain(level > 0, upright > 0, seen, along, up, found)]
    return holes, plain


Rectangle = tuple[float, float, float, float]  # start, end, bottom, top


def _uprights(upright: Any, seen: Any, along: Any, up: Any) -> list[tuple[int, float, float]] | None:
    """Return (column, lower end, upper end) of the upright lines of a wall; None when it is tiled or panelled."""
    thick = _box(upright.astype(np.float32), 3, 1) > 0.3
    lengths = np.zeros(thick.shape[1])
    ends = np.zeros((thick.shape[1], 2))
    for column in range(thick.shape[1]):
        if along[column] - along[0] < _MARGIN or along[-1] - along[column] < _MARGIN:
            continue
        best = max(_runs(_closed(thick[:, column], _GAP)), key=lambda run: run[1] - run[0], default=(0, 0))
        lengths[column] = (best[1] - best[0]) * CELL
        ends[column] = (up[best[0]], up[min(best[1], len(up)) - 1])
    lines = []
    for first, last in _runs(lengths > _SHORTEST):
        column = first + int(lengths[first:last].argmax())
        lines.append((column, float(ends[column, 0]), float(ends[column, 1])))
    visible = np.flatnonzero(seen.any(axis=0))
    span = (visible[-1] - visible[0]) * CELL if len(visible) else 0
    count = 1 + int((np.diff([line[0] for line in lines]) * CELL > 0.15).sum()) if lines else 0
    if span and count > _TEXTURE * span and (lines[-1][0] - lines[0][0]) * CELL > 0.7 * span:
        return None
    return lines


def _rectangles(level: Any, upright: Any, tone: Any, seen: Any, along: Any, up: Any) -> list[Rectangle]:
    lines = _uprights(upright, seen, along, up)
    columns = np.flatnonzero(seen.mean(axis=0) > 0.3)
    if lines is None or not len(columns):
        return []
    thick = _box(level.astype(np.float32), 3, 0) > 0.3
    covered = np.zeros((thick.shape[0], thick.shape[1] + 1), np.float32)
    np.cumsum(thick, axis=1, out=covered[:, 1:])
    visible = np.zeros_like(covered)
    np.cumsum(seen, axis=1, out=visible[:, 1:])

    def share(row: int, first: int, last: int) -> float:
        count = float(visible[row, last] - visible[row, first])
        return float(covered[row, last] - covered[row, first]) / count if count > 0.3 * (last - first) else 0.0

    def best(between: tuple[float, float], first: int, last: int, need: float, *, highest: bool) -> float | None:
        within = np.flatnonzero((up > between[0]) & (up < between[1]))
        rows = [int(k) for k in within if share(int(k), first, last) > need]
        return None if not rows else float(up[rows[-1] if highest else rows[0]])

    ceiling = float(up[-1])
    edges = [
        (int(columns[0]), 0.0, ceiling, True),
        *((*line, False) for line in lines),
        (int(columns[-1]), 0.0, ceiling, True),
    ]
    found: list[Rectangle] = []
    for number, (first, low, high, open_first) in enumerate(edges):
        for last, other_low, other_high, open_last in edges[number + 1 :]:
            width = (last - first) * CELL
            if not 0.35 < width < 7.5:
                continue
            top, bottom = min(high, other_high), max(low, other_low)
            if open_first and open_last:
                continue
            if top - bottom < 0.4:
                continue
            need = _COVERED if not (open_first or open_last) else 0.85
            lintel = best((top - 0.18, min(top + 0.15, ceiling - 0.12)), first, last, need, highest=True)
            if lintel is None:
                continue
            sill = best((bottom - 0.18, bottom + 0.18), first, last, need, highest=False)
            if bottom > 0.32 and sill is None:
                continue
            floor = 0.0 if bottom <= 0.32 else (sill if sill is not None else bottom)
            found.append((float(along[first]), float(along[last]), floor, lintel))
    if not found and _glass(tone, seen, up, int(columns[0]), int(columns[-1])):
        return [(float(along[columns[0]]), float(along[columns[-1]]), 0.0, min(2.45, ceiling))]
    return _united(found)


def _glass(tone: Any, seen: Any, up: Any, first: int, last: int) -> bool:
    """Return whether a wall without any opening's edges is open as a whole: no paint varies like a view does."""
    rows = np.flatnonzero((up > 0.8) & (up < 1.9))
    parts = [tone[row, first:last][seen[row, first:last]] for row in rows]
    spread = [float(np.std(part)) for part in parts if part.size > 5]
    return len(spread) > 10 and float(np.median(spread)) > 30


def _united(found: list[Rectangle]) -> list[Rectangle]:
    """Return the rectangles with those that overlap or nearly touch made one: panes, panels, a leaf and its frame."""
    found = sorted(found)
    out: list[Rectangle] = []
    for each in found:
        for number, other in enumerate(out):
            beside = each[0] < other[1] + 0.12 and other[0] < each[1] + 0.12
            if beside and each[2] < other[3] + 0.1 and other[2] < each[3] + 0.1:
                out[number] = (
                    min(each[0], other[0]), max(each[1], other[1]), min(each[2], other[2]), max(each[3], other[3])
                )  # fmt: skip
                break
        else:
            out.append(each)
    return out if len(out) == len(found) else _united(out)


def _hole(wall: Wall, start: float, end: float, bottom: float, top: float) -> Hole:
    if bottom > 0.32:
        return Hole(wall, "window", start, end, bottom, top)
    door = _DOOR_WIDTHS[0] <= end - start <= _DOOR_WIDTHS[1] and _DOOR_TOPS[0] <= top <= _DOOR_TOPS[1]
    return Hole(wall, "door" if door else "passage", start, end, 0.0, top)


def _plain(
    level: Any, upright: Any, seen: Any, along: Any, up: Any, found: list[Rectangle]
) -> list[tuple[float, float]]:
    """Return stretches without an edge between 1.1 and 1.95 m, where a picture may hang or a tall piece stand."""
    band = (up > 1.1) & (up < min(1.95, float(up[-1]) - 0.3))
    busy = (level[band] | upright[band]).mean(axis=0) > 0.06
    busy |= seen[band].mean(axis=0) < 0.98
    for start, end, _, _ in found:
        busy |= (along > start - 0.06) & (along < end + 0.06)
    busy = _box(busy.astype(np.float32)[None], 3, 1)[0] > 0.1
    return [(float(along[a]), float(along[b - 1])) for a, b in _runs(~busy) if (b - a) * CELL > 0.3]


def _closed(flags: Any, gap: int) -> Any:
    """Return the flags with gaps of at most `gap` cells filled."""
    flags = flags.copy()
    runs = _runs(flags)
    for (_, end), (start, _) in pairwise(runs):
        if start - end <= gap:
            flags[end:start] = True
    return flags


def _runs(flags: Any) -> list[tuple[int, int]]:
    """Return (first, one past the last) of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
