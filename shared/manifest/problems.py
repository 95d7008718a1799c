"""The problems of a manifest: where each one is, all of them collected, and the same as sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import msgspec

from shared.errors import Problem, Unusable
from shared.settings import ManifestLimits
from shared.untrusted.text import shortened

MAX_VALUE_SHOWN: Final = 80  # of an offending value, so that an error report stays readable
MORE_THAN_LISTED: Final = "more problems than"  # begins the last problem of a list that is cut


def in_words(problems: Sequence[Problem]) -> list[tuple[str, int]]:
    """Return sentences for people, each with the number of its problems: one cause in 10,000 rows is one sentence.

    Problems of one cause differ only in place and value. The sentence names the first place and the first three values.
    """
    causes: dict[tuple[str, str | None, str | None], list[Problem]] = {}
    for problem in problems:
        causes.setdefault((problem.reason, problem.field, problem.allowed), []).append(problem)
    found = []
    for alike in causes.values():
        values = list(dict.fromkeys(problem.value for problem in alike if problem.value is not None))
        last = f"{len(values) - 3:,} other{'s' if len(values) > 4 else ''}" if len(values) > 3 else values[-1:]
        first = values[:3] if len(values) > 3 else values[:-1]
        shown = f"{', '.join(first)} and {''.join(last)} " if len(values) > 1 else None
        found.append((alike[0].in_words(shown, len(alike) - 1), len(alike)))
    return found


class Place(msgspec.Struct, frozen=True):
    """A place in the file: a line, or a JSON pointer."""

    line: int | None = None
    pointer: str | None = None

    def at(self, field: str) -> Place:
        return self if self.pointer is None else Place(pointer=f"{self.pointer}/{_pointer(field)}")


class ReadingStopped(Unusable):
    """Reading on is useless: the problems found so far are reported."""


class Problems:
    """Collects what is wrong with a manifest, as many problems as the limits list."""

    def __init__(self, limits: ManifestLimits) -> None:
        self.found: list[Problem] = []
        self._limits = limits

    def __len__(self) -> int:
        return len(self.found)

    def note(self, reason: str, place: Place | None = None, *, field: str | None = None, value: Any = None,
             allowed: str | None = None) -> None:  # fmt: skip
        """Note a problem. `value` is the offending one. Raises `ReadingStopped` above the number that is listed."""
        where = place or Place()
        excerpt = None if value is None else shown(value)
        if len(self.found) < self._limits.max_problems:
            self.found.append(Problem(reason, where.line, where.pointer, field, excerpt, allowed))
        else:
            self.found.append(Problem(f"{MORE_THAN_LISTED} the {self._limits.max_problems} listed"))
            raise ReadingStopped

    def stop(self, reason: str, place: Place | None = None, **more: Any) -> NoReturn:
        """Note a problem after which reading on is useless. Raises `ReadingStopped`."""
        self.note(reason, place, **more)
        raise ReadingStopped

    def note_too_many(self, seen: int, *, exactly: bool) -> None:
        """Put the problem of too many images first. `exactly` says that all of the images `seen` were counted."""
        limit = self._limits.max_images
        if seen <= limit:
            return
        reason = f"has {seen:,} images" if exactly else f"has more than {limit:,} images"
        del self.found[self._limits.max_problems + 1 :]
        self.found.insert(0, Problem(reason, allowed=f"at most {limit:,}; split it into several manifests"))

    def leave_rest_unread(self) -> NoReturn:
        """Stop after the last problem, and say there that nothing below it was read."""
        last = self.found[-1]
        self.found[-1] = msgspec.structs.replace(last, reason=f"{last.reason}; nothing after this line was read")
        raise ReadingStopped


def short(text: str) -> str:
    """Return a customer's text cut to `MAX_VALUE_SHOWN` characters, safe to print on a terminal."""
    return shortened(text, MAX_VALUE_SHOWN)


def _pointer(key: str) -> str:
    """Return a key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def shown(value: Any) -> str:
    """Return a value as in JSON, shortened, and safe to print on a terminal."""
    try:
        text = (
            json.dumps(value, ensure_ascii=False)
            if not isinstance(value, str)
            else json.dumps(value[:200], ensure_ascii=False)
        )
    except (ValueError, RecursionError):
        text = type(value).__name__
    return short(text)
