"""Colours: bytes as the photo has them (sRGB), and linear light, in which everything is computed."""

from __future__ import annotations

from typing import Final

import numpy as np

from shared.staging.preview.views import Floats

_SHOULDER: Final = np.float32(0.75)


def to_linear() -> Floats:
    """Return the 256 linear values of sRGB's."""
    value = np.arange(256, dtype=np.float32) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


LINEAR: Final = to_linear()
_FINE: Final = 4096


def _to_srgb() -> Floats:
    value = np.arange(_FINE + 1, dtype=np.float32) / _FINE
    return (255 * np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)).astype(np.float32)


_SRGB: Final = _to_srgb()


def brightest(colours: Floats) -> Floats:
    """Return the largest of three channels; numpy's own `max` over an axis of three takes ten times as long."""
    return np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])


def darkest(colours: Floats) -> Floats:
    """Return the smallest of three channels."""
    return np.minimum(np.minimum(colours[..., 0], colours[..., 1]), colours[..., 2])


def to_srgb(linear: Floats) -> Floats:
    """Return 0 to 255, not rounded, of linear values."""
    return _SRGB[(np.clip(linear, 0, 1) * np.float32(_FINE) + np.float32(0.5)).astype(np.int32)]


def shoulder(linear: Floats) -> Floats:
    """Return linear values (n, 3) whose brightest part is bent down: white cloth in the sun keeps its folds."""
    over = np.flatnonzero(brightest(linear) > _SHOULDER)
    if len(over):
        above = np.maximum(linear[over] - _SHOULDER, 0)
        room = 1 - _SHOULDER
        linear[over] = np.minimum(linear[over], _SHOULDER) + room * (1 - np.exp(-above / room))
    return linear
