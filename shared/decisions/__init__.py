"""Every rule of the pipeline as a pure function: no I/O, no clock, no log.

Callers import the package and write `decisions.image.claim(...)`. A bare `claim`, or a module imported as `image`,
would collide with local variables of the same name.
"""

from shared.decisions import batch, fairness, forecast, image, money, quota

__all__ = ["batch", "fairness", "forecast", "image", "money", "quota"]
