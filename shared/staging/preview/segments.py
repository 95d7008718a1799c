"""Straight edges of a picture: the raw material of everything that is measured in a room."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.staging.preview.views import Floats

_SMALLEST_STEP: Final = 1.6  # of 255 a pixel: a white door in a white wall has 2
_NOISE: Final = 2.6  # times the median gradient: what sensor noise does not reach
_TURN: Final = math.radians(11.5)  # between neighbours of one line
_GRAIN: Final = 3.0  # of 255: each time as much asks for one more smoothing
_MAX_GAIN: Final = 4.0
_DARK: Final = 140.0  # of 255: a photo whose brightest parts are below is underexposed
_SHORTEST: Final = 16.0  # pixels
_STRAIGHT: Final = 1.2  # pixels rms off the line


class Edges(NamedTuple):
    """Edge pixels: their places, and the direction of the edge as a unit vector (dx, dy)."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    along: Floats  # (n, 2)


class Segments(NamedTuple):
    """Straight segments: both ends (n, 2) as (x, y), and their lengths in pixels."""

    start: Floats
    end: Floats
    length: Floats


def smoothed(picture: Floats) -> Floats:
    """Return the picture blurred by about one pixel, which makes gradients of noise small."""
    kernel = (0.06136, 0.24477, 0.38774, 0.24477, 0.06136)
    for axis in (0, 1):
        padding = [(2, 2) if k == axis else (0, 0) for k in range(2)]
        padded = np.pad(picture, padding, mode="edge")
        length = picture.shape[axis]
        parts = [
            np.float32(weight) * (padded[k : k + length] if axis == 0 else padded[:, k : k + length])
            for k, weight in enumerate(kernel)
        ]
        picture = np.add.reduce(parts)
    return picture


def cleared(grey: Floats) -> Floats:
    """Return the picture with its grain smoothed away and, where it is underexposed, its brightest parts at 240."""
    second = grey[:, 2:] - 2 * grey[:, 1:-1] + grey[:, :-2]
    grain = float(np.median(np.abs(second))) / 0.6745 / 2.449 if second.size else 0.0
    bright = float(np.percentile(grey, 99))
    gain = np.float32(min(_MAX_GAIN, 240 / bright) if 4 < bright < _DARK else 1)
    for _ in range(min(3, int(grain * gain / _GRAIN))):
        grey = smoothed(grey)
    return grey * gain


def edges_of(grey: Floats) -> tuple[Edges, Any]:
    """Return the edge pixels of a grey picture (0 to 255), and the angle of the gradient at each."""
    smooth = smoothed(grey)
    down, across = np.zeros_like(smooth), np.zeros_like(smooth)
    down[1:-1] = (smooth[2:] - smooth[:-2]) / 2
    across[:, 1:-1] = (smooth[:, 2:] - smooth[:, :-2]) / 2
    size = np.sqrt(down * down + across * across)
    least = max(_SMALLEST_STEP, _NOISE * float(np.median(size)))
    inner = size[1:-1, 1:-1]
    steep = np.abs(down[1:-1, 1:-1])
    flat = np.abs(across[1:-1, 1:-1])
    level, upright = steep > 2.41 * flat, flat > 2.41 * steep
    falling = (down[1:-1, 1:-1] * across[1:-1, 1:-1]) > 0

    def peak(dy: int, dx: int) -> Any:
        height, width = size.shape
        one = size[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]
        other = size[1 - dy : height - 1 - dy, 1 - dx : width - 1 - dx]
        return (inner >= one) & (inner > other)

    maximum = np.where(level, peak(1, 0), np.where(upright, peak(0, 1), np.where(falling, peak(1, 1), peak(1, -1))))
    rows, columns = np.nonzero(maximum & (inner > least))
    rows, columns = rows + 1, columns + 1
    dy, dx, norm = down[rows, columns], across[rows, columns], size[rows, columns]
    along = np.stack([-dy / norm, dx / norm], axis=1)
    return Edges(rows, columns, along), np.arctan2(dy, dx)


def segments_of(edges: Edges, angle: Any, shape: tuple[int, int]) -> Segments:
    """Join edge pixels that continue one another, fit a line to each set, keep what is long and straight."""
    count = len(edges.rows)
    empty = Segments(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    if count < 2:
        return empty
    number = np.full((shape[0] + 2, shape[1] + 2), -1, np.int32)
    number[edges.rows + 1, edges.columns + 1] = np.arange(count, dtype=np.int32)
    ones, others = [], []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        there = number[edges.rows + 1 + dy, edges.columns + 1 + dx]
        here = np.flatnonzero(there >= 0)
        there = there[here]
        turn = np.abs((angle[here] - angle[there] + math.pi) % (2 * math.pi) - math.pi)
        ones.append(here[turn < _TURN])
        others.append(there[turn < _TURN])
    one, other = np.concatenate(ones), np.concatenate(others)
    label = np.arange(count)
    while True:  # labels sink to the smallest of their set; pointers are shortened, so that it takes few rounds
        low = np.minimum(label[one], label[other])
        before = label.copy()
        for ends in (one, other):
            np.minimum.at(label, before[ends], low)
            np.minimum.at(label, ends, low)
        for _ in range(3):
            label = label[label]
        if np.array_equal(label, before):
            break
    _, label, size = np.unique(label, return_inverse=True, return_counts=True)
    x, y = edges.columns.astype(np.float64), edges.rows.astype(np.float64)

    def mean(values: Any) -> Any:
        return np.bincount(label, values) / size

    mx, my = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    half = np.sqrt(np.maximum(((xx - yy) / 2) ** 2 + xy * xy, 0))
    rms = np.sqrt(np.maximum((xx + yy) / 2 - half, 0))
    turn = 0.5 * np.arctan2(2 * xy, xx - yy)
    ux, uy = np.cos(turn), np.sin(turn)
    along = (x - mx[label]) * ux[label] + (y - my[label]) * uy[label]
    first, last = np.full(len(size), np.inf), np.full(len(size), -np.inf)
    np.minimum.at(first, label, along)
    np.maximum.at(last, label, along)
    keep = (last - first > _SHORTEST) & (rms < _STRAIGHT)
    start = np.stack([mx + first * ux, my + first * uy], axis=1)[keep]
    end = np.stack([mx + last * ux, my + last * uy], axis=1)[keep]
    return Segments(start.astype(np.float32), end.astype(np.float32), (last - first)[keep].astype(np.float32))
