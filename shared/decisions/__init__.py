"""Every rule of the pipeline as a pure function: no I/O, no clock, no log.

Callers name a rule by its subject, `decisions.image.claim(...)`: a verb alone, or a module called `image`, would hide
behind local names.
"""

from shared.decisions import batch, fairness, forecast, image, money, quota

__all__ = ["batch", "fairness", "forecast", "image", "money", "quota"]
