"""Shorten the log lines of a local stack's parts for people."""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Final

from ops import show, words
from shared.telemetry import LogEvent

HINT: Final = "up. In another terminal: ruum-batch submit samples/batch.json --watch    (Ctrl-C stops everything)"
KEPT: Final = 20  # last lines of each part, shown when it ends
# Another function is writing the reports. The event that found it closing comes again, as intended.
EXPECTED: Final = "shared.errors.StillClosing"
LOUD: Final = ("WARNING", "ERROR", "CRITICAL")


class Lines:
    """Shows the parts' lines, shortened or unchanged."""

    def __init__(self, *, verbose: bool, as_json: bool) -> None:
        self._verbose = verbose
        self._as_json = as_json
        self._last: dict[str, deque[str]] = {}
        self._shown: set[str] = set()

    def show(self, name: str, text: str) -> None:
        """Show one line of the part `name`."""
        self._last.setdefault(name, deque(maxlen=KEPT)).append(text)
        line = parsed(text)
        if self._verbose or (self._as_json and line is not None):
            self._shown.add(name)
            show.out.print(f"{name:<13} {text}" if self._verbose else text)
            return
        if self._as_json or line is None:
            return
        short = shortened(line)
        if short:
            show.out.print(f"{name:<13} {short}")
        if line.get("event") == LogEvent.BATCH_CLOSED.value:
            show.err.print(HINT)

    def last_words(self, name: str | None = None) -> None:
        """Print the last lines of a part that has ended, or of all parts. Lines that were shown are not repeated."""
        for part, lines in self._last.items():
            if (name is None or part == name) and part not in self._shown:
                for line in lines:
                    if parsed(line) is None:
                        show.err.print(f"{part:<13} {line}")


def parsed(text: str) -> dict[str, Any] | None:
    """Return a JSON log line of ours, parsed; None for everything else."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "severity" in found else None


def shortened(line: dict[str, Any]) -> str | None:
    """Return a log line in a few words; None for lines that do not matter while all goes well."""
    event, batch = line.get("event"), line.get("batch", "")
    if event == LogEvent.BATCH_ACCEPTED.value:
        return f"{batch}: accepted, {words.count(line.get('images', 0), 'image')}"
    if event == LogEvent.BATCH_REJECTED.value:
        return f"{batch}: rejected, {words.count(line.get('problems', 0), 'problem')}"
    if event == LogEvent.BATCH_CLOSED.value:
        seconds = words.duration((line.get("durationMs") or 0) / 1000)
        cost = f", {words.money(line['costUsd'])}" if line.get("costUsd") else ""
        state = str(line.get("state", "")).replace("_", " ")
        return f"{batch}: {state} in {seconds}, {line.get('failed', 0)} of {line.get('images', 0)} failed{cost}"
    if event == LogEvent.BATCH_PAUSED.value:
        return f"{batch}: paused: {line.get('reason', '')}"
    if event == LogEvent.IMAGE_SETTLED.value:
        code = f" ({line['code']})" if line.get("code") else ""
        cached = ", from the cache" if line.get("cached") else ""
        return f"{batch} image {line.get('image')}: {line.get('state')}{code}{cached}"
    if event == LogEvent.ATTEMPT_FAILED.value:
        return f"{batch} image {line.get('image')}: attempt failed, {line.get('code')}: {line.get('reason', '')}"
    if event == LogEvent.QUOTA_CHANGED.value:
        return f"quota of {line.get('model')}: circuit {line.get('circuit')}, rate {line.get('rate', 1):.0%}"
    if line.get("severity") in LOUD:
        cause = line.get("reason") or str(line.get("stack_trace", "")).strip().rpartition("\n")[2]
        if cause.startswith(EXPECTED):
            return None
        return f"{line['severity']} {line.get('message', '')}{': ' if cause else ''}{cause}"
    return None
