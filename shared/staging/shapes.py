"""The shapes of pictures: which one to ask a model for, and whether a picture has it."""

from __future__ import annotations

import math
from typing import Final

# Gemini's aspect ratios, width to height.
RATIOS: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
# A vendor's "4:3" may be 1184 x 864, which is 2.8 % off. More than this is never cut away.
TOLERANCE: Final = 0.04


def nearest_ratio(width: int, height: int) -> str:
    """Return the aspect ratio nearest to a picture's, among those that image models draw."""
    return min(RATIOS, key=lambda ratio: _apart(width / height, _quotient(ratio)))


def fits(width: int, height: int, photo_width: int, photo_height: int) -> bool:
    """Return whether a picture has its photo's shape, or that of the frame around the photo (`frame`)."""
    photo = photo_width / photo_height
    asked = _quotient(nearest_ratio(photo_width, photo_height))
    return min(_apart(width / height, photo), _apart(width / height, asked)) <= TOLERANCE


def frame(width: int, height: int) -> tuple[int, int] | None:
    """Return the smallest size around a picture in a shape that models draw; None if its own shape is near enough."""
    asked = _quotient(nearest_ratio(width, height))
    if _apart(width / height, asked) <= TOLERANCE:
        return None
    return (round(height * asked), height) if asked > width / height else (width, round(width / asked))


def _quotient(ratio: str) -> float:
    across, down = map(int, ratio.split(":"))
    return across / down


def _apart(one: float, other: float) -> float:
    return abs(math.log(one / other))
