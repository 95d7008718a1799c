"""Cameras: where a place in the room appears in the picture, and which ray a pixel looks along.

World coordinates are metres: x to the right along the back wall, y towards it, z up. The camera stands at x = y = 0.
Camera coordinates are (right, forward, up). Angles are radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

Floats = Any  # a float32 array; numpy's own types tell dtypes apart and lose them at every second call
NEAREST: Final = 0.05  # metres in front of the camera; what is nearer has no place in the picture


@lru_cache(maxsize=256)  # a search asks for the same few cameras again and again
def _axes(yaw: float, pitch: float, roll: float) -> Any:
    ux, uy, uz = math.sin(roll) * math.cos(pitch), math.sin(pitch), math.cos(roll) * math.cos(pitch)
    flat = math.sqrt(max(1e-12, 1 - uy * uy))
    ax, ay, az = -ux * uy / flat, (1 - uy * uy) / flat, -uz * uy / flat  # ahead, made level
    rx, ry, rz = ay * uz - az * uy, az * ux - ax * uz, ax * uy - ay * ux
    cos, sin = math.cos(yaw), math.sin(yaw)
    axes = np.array(
        [
            [cos * rx + sin * ax, cos * ax - sin * rx, ux],
            [cos * ry + sin * ay, cos * ay - sin * ry, uy],
            [cos * rz + sin * az, cos * az - sin * rz, uz],
        ]
    )
    axes.flags.writeable = False
    return axes


@dataclass(frozen=True)
class View:
    """A pinhole camera. `focal`, `centre_x` and `centre_y` are pixels; `eye` is metres above the floor."""

    width: int
    height: int
    focal: float
    centre_x: float
    centre_y: float
    yaw: float  # positive: the camera looks to the right of the back wall's normal
    pitch: float  # positive: it looks up
    roll: float
    eye: float

    def axes(self) -> Any:
        """Return the world's x, y and z in camera coordinates, one a column."""
        return _axes(self.yaw, self.pitch, self.roll)

    def project(self, places: Floats) -> tuple[Floats, Floats, Floats]:
        """Return columns, rows and distances along the view of world places (..., 3).

        What is behind the camera gets a distance below `NEAREST` and a meaningless column and row.
        """
        axes = self.axes().astype(np.float32)
        x, y, z = places[..., 0], places[..., 1], places[..., 2] - np.float32(self.eye)
        right, depth, up = (x * axes[k, 0] + y * axes[k, 1] + z * axes[k, 2] for k in range(3))
        near = np.maximum(depth, np.float32(NEAREST))
        scale = np.float32(self.focal) / near
        return np.float32(self.centre_x) + right * scale, np.float32(self.centre_y) - up * scale, depth

    def rays(self, columns: Floats, rows: Floats) -> Floats:
        """Return the world directions (..., 3) of pixels; the forward part of each is 1 in camera coordinates."""
        axes = self.axes().astype(np.float32)
        across = (columns - np.float32(self.centre_x)) / np.float32(self.focal)
        up = (np.float32(self.centre_y) - rows) / np.float32(self.focal)
        across, up = np.broadcast_arrays(across, up)
        return np.stack([across * axes[0, k] + axes[1, k] + up * axes[2, k] for k in range(3)], axis=-1)

    def planes(self) -> Any:
        """Return the same as `rays` as a matrix: the direction of a pixel is this times (column, row, 1)."""
        across, forward, up = self.axes() / self.focal
        return np.stack(
            [across, -up, forward * self.focal - across * self.centre_x + up * self.centre_y],
            axis=1,
        )

    def floor(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Return x and y on the floor under pixels; infinite where they look above the horizon."""
        ray = self.rays(columns, rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(ray[..., 2] < -1e-4, -self.eye / ray[..., 2], np.inf).astype(np.float32)
            return ray[..., 0] * reach, ray[..., 1] * reach

    def vanishing(self) -> Any:
        """Return the three axes' vanishing points in homogeneous pixels, one a row."""
        axes = self.axes()
        u = self.focal * axes[0] + self.centre_x * axes[1]
        v = -self.focal * axes[2] + self.centre_y * axes[1]
        return np.stack([u, v, axes[1]], axis=1)

    def scaled(self, width: int, height: int) -> View:
        """Return the same camera for another size of its picture."""
        across, down = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            focal=self.focal * across,
            centre_x=self.centre_x * across,
            centre_y=self.centre_y * down,
        )
