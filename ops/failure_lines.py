"""How failures are told on a terminal: a line per code, and the commands that help."""

from __future__ import annotations

from ops import words
from shared.queries.failures import OF_THE_PHOTO, Group


def lines(groups: list[Group]) -> list[str]:
    """A line per code: how many, what to do, which photos."""
    return [f"  {group.count} {group.code} ({group.advice}): {_photos(group)}" for group in groups]


def _photos(group: Group) -> str:
    return words.some(group.photos, total=group.count)


def next_steps(groups: list[Group], *, again: str, retry: str) -> list[str]:
    """What to run next. `again` names failed.csv, for corrected photos; `retry` gives the same images a new round."""
    found = []
    if any(group.code in set(OF_THE_PHOTO) for group in groups):
        found.append(f"  when the photos are corrected:  {again}")
    if any(group.code not in set(OF_THE_PHOTO) for group in groups):
        found.append(f"  to try the others again:        {retry}" if found else f"  to try them again:  {retry}")
    return found
