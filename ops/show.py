"""Show things on the command line: lines on stdout and stderr, JSON, a progress bar. Results go to stdout only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from ops import words
from ops.errors import ReaderGone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.errors import Problem
    from shared.model import Batch, Counts

MAX_PROBLEMS_SHOWN: Final = 50  # of a manifest, on a terminal; the file has all of them
MAX_MESSAGE: Final = 1500  # characters of a line: a pasted text may be pages long
PLAIN_SECONDS: Final = 5.0  # between two lines of progress where there is no terminal
SPEED_SECONDS: Final = 60.0  # images a minute are measured over the last minute
NARROWEST_BAR: Final = 10  # columns; if fewer are left for the bar, only the numbers are shown

printed_json = False
said_goodbye = False  # the command itself has printed how it was interrupted
_keep_going = False
_gone: set[str] = set()
_bar: _Bar | None = None


class Lines:
    """Prints lines to the current stdout or stderr."""

    def __init__(self, stream: str) -> None:
        self._stream = stream

    def print(self, text: str = "") -> None:
        """Print a line. A reader that has gone away ends the command, unless `keep_going` was called."""
        if _bar is not None:
            _bar.clear()
        try:
            stream = getattr(sys, self._stream)
            stream.write(text + "\n")
            stream.flush()
        except BrokenPipeError:
            _gone.add(self._stream)
            discard_output()
            if not _keep_going:
                raise ReaderGone from None
        except ValueError:  # closed
            _gone.add(self._stream)

    @property
    def is_terminal(self) -> bool:
        with suppress(ValueError, AttributeError):
            return bool(getattr(sys, self._stream).isatty())
        return False


out = Lines("stdout")
err = Lines("stderr")


def prepare_streams() -> None:
    """Escape what the streams' encoding lacks, instead of failing. Also resets this module for a new command."""
    global printed_json, said_goodbye, _keep_going, _bar
    printed_json, said_goodbye, _keep_going, _bar = False, False, False, None
    _gone.clear()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def keep_going() -> None:
    """Let no failed print end the command from here on: its work is worth more than its lines."""
    global _keep_going  # noqa: PLW0603
    _keep_going = True


def stdout_gone() -> bool:
    """Return whether the reader of stdout has gone away."""
    return "stdout" in _gone


def discard_output() -> None:
    """Discard output that is still buffered, so that the interpreter's last flush does not fail."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError, ValueError):
            stream.flush()
            continue
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def say(message: str) -> None:
    """Print one line on stderr, prefixed with `ruum-batch:`."""
    with suppress(OSError, ValueError, ReaderGone):
        err.print(f"ruum-batch: {message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + '…'}")


def goodbye(message: str) -> None:
    """Print what to know after Ctrl-C, instead of `interrupted`."""
    global said_goodbye  # noqa: PLW0603
    said_goodbye = True
    with suppress(OSError, ValueError, ReaderGone):
        err.print(message)


def as_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    global printed_json  # noqa: PLW0603
    printed_json = True
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    out.print(json.dumps(document, ensure_ascii=encoding != "utf8", indent=2))


def table(rows: list[list[str]], right: frozenset[int] = frozenset()) -> None:
    """Print rows in columns as wide as their widest cell. The columns `right` are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.print("  ".join(cells).rstrip())


class _Bar:
    """One line at the bottom of the terminal that is rewritten in place."""

    def __init__(self) -> None:
        self._shown = False
        self._colours = "NO_COLOR" not in os.environ and os.getenv("TERM") != "dumb"

    def draw(self, share: float, numbers: str) -> None:
        width = max(20, shutil.get_terminal_size().columns - 1)
        encoding = (getattr(sys.stderr, "encoding", "") or "").lower()
        full, empty = ("━", "━") if "utf" in encoding and self._colours else ("#", "-")
        room = min(40, width - len(numbers) - 1)
        bar = ""
        if room >= NARROWEST_BAR:
            done = round(max(0.0, min(1.0, share)) * room)
            bar = full * done + empty * (room - done) + " "
            if self._colours:
                bar = f"\x1b[32m{full * done}\x1b[2;37m{empty * (room - done)}\x1b[0m "
        with suppress(OSError, ValueError):
            sys.stderr.write(f"\r\x1b[K{bar}{numbers[:width]}")
            sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            with suppress(OSError, ValueError):
                sys.stderr.write("\r\x1b[K")
            self._shown = False


def clear_bar() -> None:
    """Remove the bar until it is drawn again."""
    if _bar is not None:
        _bar.clear()


class Speed:
    """The speed over the last minute, and when the last image will be finished at that speed."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._ends_at: float | None = None

    def note(self, settled: int, open_images: int, now: float) -> None:
        """Remember how many images are settled now."""
        if self._seen and settled == self._seen[-1][1]:
            return
        self._seen.append((now, settled))
        while len(self._seen) > 2 and self._seen[0][0] < now - SPEED_SECONDS:
            self._seen.popleft()
        speed = self.per_second
        self._ends_at = now + open_images / speed if speed else None

    def is_known(self, now: float) -> bool:
        """Return whether an image was finished in the last minute: otherwise the current speed is unknown."""
        return bool(self.per_second) and now - self._seen[-1][0] <= SPEED_SECONDS

    @property
    def per_second(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def left_seconds(self, now: float) -> float | None:
        """Return the seconds to the end; None when they are unknown, or the estimated end has passed."""
        return self._ends_at - now if self._ends_at is not None and self._ends_at > now else None


class BatchProgress:
    """Shows progress: a bar on a terminal, elsewhere a line every few seconds; and what a batch is waiting for."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._printed_at = 0.0
        self._printed: tuple[int, str] = (-1, "")
        self._said: object = None
        self._started = time.monotonic()
        self._last: tuple[Batch, Counts] | None = None
        self.cost_usd = 0.0
        self.waits = ""  # in a few words, beside the numbers
        self.stuck = False  # nothing moves until the wait is over

    def __enter__(self) -> Self:
        global _bar  # noqa: PLW0603
        _bar = _Bar() if err.is_terminal else None
        return self

    def __exit__(self, *exc: object) -> None:
        global _bar  # noqa: PLW0603
        if _bar is not None:
            _bar.clear()
        _bar = None

    def say_once(self, sentence: str | None, *, about: object = None, over: str | None = None) -> None:
        """Print a sentence unless the one before was about the same thing. Print `over` when there is none any more."""
        key = (about or sentence) if sentence else None
        if key == self._said:
            return
        if sentence:
            err.print(sentence)
        elif over and self._said:
            err.print(over)
        self._said = key

    def show(self, batch: Batch, counts: Counts) -> None:
        """Show what has changed. May be called often."""
        now = time.monotonic()
        self._speed.note(counts.settled, counts.open, now)
        numbers = self._numbers(batch, counts, now)
        if _bar is not None:
            _bar.draw(counts.settled / batch.total if batch.total else 0.0, numbers)
            return
        finished = counts.settled == batch.total
        state = (counts.settled, self.waits)
        if state != self._printed and (finished or now - self._printed_at >= PLAIN_SECONDS):
            self._printed, self._printed_at = state, now
            err.print(f"{batch.id}: {numbers}")

    def _numbers(self, batch: Batch, counts: Counts, now: float) -> str:
        word = {"closing": "writing reports, ", "reopening": "queueing again, ", "ingesting": "reading, "}
        parts = [f"{word.get(batch.state.value, '')}{counts.settled} of {batch.total} finished"]
        if counts.failed:
            parts.append(f"{counts.failed} failed")
        if counts.open and self._speed.per_second:
            left = self._speed.left_seconds(now)
            if self.stuck or not self._speed.is_known(now):
                parts.append("time left unknown")
            else:
                parts.append(f"{self._speed.per_second * 60:.0f}/min")
                parts += [f"{words.duration(left)} left"] if left else []
        if self.cost_usd:
            parts.append(words.money(self.cost_usd))
        if self.waits:
            parts.append(self.waits)
        return ", ".join(parts)


def problems(name: str, found: Sequence[Problem], written_to: str | None) -> None:
    """Print a rejected manifest's problems, a line for each cause."""
    from shared.manifest.problems import MORE_THAN_LISTED, in_words

    is_cut = bool(found) and found[-1].reason.startswith(MORE_THAN_LISTED)
    number = len(found) - is_cut
    err.print(f"{name}: rejected, {'more than ' if is_cut else ''}{words.count(number, 'problem')}")
    causes = in_words(found[:number])
    for sentence, _ in causes[:MAX_PROBLEMS_SHOWN]:
        err.print(f"  {sentence}")
    more = sum(places for _, places in causes[MAX_PROBLEMS_SHOWN:])
    if more > 0:
        err.print(f"  … and {more} more; --json lists all of them" if not written_to else f"  … and {more} more")
    if any("is outside the folders" in problem.reason for problem in found):
        err.print("  to allow another folder of photos: --photos FOLDER")
    if written_to:
        err.print(f"{'All of them' if len(found) > 1 else 'The same'} as JSON: {written_to}")


def summary_lines(done: Mapping[str, Any], groups: list[Any]) -> None:
    """Print how a batch ended: one line, and a line for each code of its failures."""
    from ops import failure_lines

    cost = f", {words.money(done['costUsd'])}" if done["costUsd"] else ""
    cancelled = f", {done['cancelled']} cancelled" if done["cancelled"] else ""
    failed = f", {done['failed']} failed" if done["failed"] else ""
    out.print(
        f"{done['batchId']}: {done['state'].replace('_', ' ')}: {done['completed']} of {done['total']} completed"
        f"{failed}{cancelled}{cost}"
    )
    for line in failure_lines.lines(groups):
        out.print(line)
