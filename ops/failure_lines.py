"""Show failures on a terminal: a line per code, and the commands that help."""

from __future__ import annotations

from ops import words
from shared.queries.failures import OF_THE_PHOTO, Group


def lines(groups: list[Group]) -> list[str]:
    """Return a line per code: how many images, what to do, which photos."""
    return [f"  {group.count} {group.code} ({group.advice}): {_photos(group)}" for group in groups]


def _photos(group: Group) -> str:
    return words.some(group.photos, total=group.count)


def next_steps(groups: list[Group], *, again: str, retry: str) -> list[str]:
    """Return what to run next. `again` runs failed.csv, for fixed photos; `retry` gives the images a new round."""
    found = []
    if any(group.code in set(OF_THE_PHOTO) for group in groups):
        found.append(f"  when the photos are corrected:  {again}")
    if any(group.code not in set(OF_THE_PHOTO) for group in groups):
        found.append(f"  to retry the others:            {retry}" if found else f"  to retry them:  {retry}")
    return found
