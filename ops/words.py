"""Put values into words, the same in every command: counts, durations, money, moments."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

_MORE: Final = {"batch": "batches", "crash": "crashes", "entry": "entries"}


def count(number: float, noun: str) -> str:
    """Return a number with its noun: `1 image`, `2 images`, `0 batches`. Only the last word of `noun` changes."""
    shown = f"{number:,}"
    if number == 1:
        return f"{shown} {noun}"
    head, _, last = noun.rpartition(" ")
    plural = _MORE.get(last, last + "s")
    return f"{shown} {head + ' ' if head else ''}{plural}"


def are(number: int) -> str:
    """Return `is` or `are`."""
    return "is" if number == 1 else "are"


def duration(seconds: float) -> str:
    """Return seconds in words: hours and minutes above an hour, minutes and seconds below."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def ago(seconds: float) -> str:
    """Return an age as one number: `40 s`, `12 min`, `3 h`, `2 days`."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.0f} h"
    return count(round(seconds / 86_400), "day")


def money(usd: float) -> str:
    """Return US dollars to the cent. Less than a cent has words of its own, so that nobody reads it as free."""
    if 0 < usd < 0.01:
        return "less than $0.01"
    return f"${usd:,.2f}"


def clock_time(at: float, now: float | None = None) -> str:
    """Return a moment in local time: `23:12:39` today, `2026-11-29 23:12` on another day."""
    moment, today = time.localtime(at), time.localtime(now)
    if moment[:3] == today[:3]:
        return time.strftime("%H:%M:%S", moment)
    return time.strftime("%Y-%m-%d %H:%M", moment)


def some(things: Iterable[str], max_shown: int = 3, *, total: int | None = None) -> str:
    """Return the first few, and how many more there are. `total`: how many there are in all, if `things` is a part."""
    every = list(things)
    more = (total if total is not None else len(every)) - min(max_shown, len(every))
    return ", ".join(every[:max_shown]) + (f" and {more:,} more" if more > 0 else "")
