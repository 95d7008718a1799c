"""Procedural surfaces: small tileable pictures between 0 and 1 (mean 0.5), made once a process."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import numpy as np

from shared.staging.preview.views import Floats

SIDE: Final = 256
NAMES: Final = ("plain", "weave", "grain", "leather", "marble")


def _noise(seed: int, low: float, high: float, stretch: float = 1.0) -> Any:
    """Return tileable noise of wavelengths from SIDE / high to SIDE / low; `stretch` draws it out along the rows."""
    chance = np.random.default_rng(seed)
    wave = np.fft.fft2(chance.standard_normal((SIDE, SIDE)))
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE) * SIDE, np.fft.fftfreq(SIDE) * SIDE, indexing="ij")
    far = np.hypot(fy, fx * stretch)
    out = np.real(np.fft.ifft2(wave * np.exp(-((far / high) ** 2)) * (1 - np.exp(-((far / low) ** 2)))))
    return out / max(1e-9, float(out.std()))


@cache
def atlas() -> Floats:
    """Return all textures, (number, SIDE, SIDE), in the order of `NAMES`."""
    y, x = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    plain = np.full((SIDE, SIDE), 0.5)
    turn = 2 * math.pi / SIDE
    threads = np.sin(x * turn * 42) * np.sin(y * turn * 42)
    weave = 0.5 + 0.17 * threads + 0.10 * _noise(1, 3, 60)
    lines = _noise(2, 6, 90, 9.0)
    bands = np.sin(y * turn * 5 + 1.6 * _noise(3, 1, 4, 4.0))
    grain = 0.5 + 0.13 * lines + 0.13 * bands
    leather = 0.5 + 0.13 * _noise(4, 2, 9) + 0.06 * _noise(5, 20, 70)
    veins = np.abs(_noise(6, 1, 5) + 0.35 * _noise(7, 5, 20))
    marble = 0.62 - 0.55 * np.exp(-veins / 0.07) + 0.04 * _noise(8, 1, 6)
    return np.clip(np.stack([plain, weave, grain, leather, marble]), 0, 1).astype(np.float32)


def rug(pattern: str, x: Floats, y: Floats, width: float, depth: float) -> Floats:
    """Return how much of the figure's colour a place on a rug has (0 to 1); x and y are metres from its middle."""
    ax, ay = np.abs(x), np.abs(y)
    edge = np.minimum(width / 2 - ax, depth / 2 - ay)
    if pattern == "border":
        return _between(edge, 0.14, 0.20) + 0.5 * _between(edge, 0.24, 0.255)
    if pattern == "stripes":
        return np.float32(0.9) * _wave(x / 0.36, 0.32) * (edge > 0.03)
    if pattern == "diamonds":
        net = np.minimum(np.abs(_tri(x / 0.42 + y / 0.42)), np.abs(_tri(x / 0.42 - y / 0.42)))
        return ((net < 0.07) & (edge > 0.06)).astype(np.float32)
    if pattern == "checks":
        return (0.5 * _wave(x / 0.5, 0.5) + 0.5 * _wave(y / 0.5, 0.5)).astype(np.float32)
    if pattern == "arcs":
        u, v = np.mod(x, 0.6) - 0.3, np.mod(y + 0.3 * (np.mod(np.floor(x / 0.6), 2)), 0.6)
        return _wave(np.hypot(u, v) / 0.15, 0.3) * (edge > 0.05)
    if pattern == "medallion":
        far = np.hypot(x / (0.34 * width), y / (0.34 * depth))
        petals = far + 0.10 * np.cos(8 * np.arctan2(y, x))
        inner = _between(petals, 0.30, 0.42) + _between(petals, 0.55, 0.60) + 0.7 * _between(petals, 0.0, 0.14)
        frame = _between(edge, 0.05, 0.07) + 0.8 * _between(edge, 0.13, 0.26) * (
            0.5 + 0.5 * np.sign(np.sin(x * 26) * np.sin(y * 26))
        )
        return np.clip(inner + frame, 0, 1).astype(np.float32)
    woven = 0.5 * _wave(x / 0.05, 0.5) * _wave(y / 0.05, 0.5)
    return np.maximum(woven, 0.9 * _between(edge, 0.0, 0.05)).astype(np.float32)


def _between(value: Any, low: float, high: float) -> Floats:
    return ((value > low) & (value < high)).astype(np.float32)


def _tri(value: Any) -> Any:
    return np.mod(value + 0.5, 1) - 0.5


def _wave(value: Any, share: float) -> Floats:
    return (np.mod(value, 1) < share).astype(np.float32)
