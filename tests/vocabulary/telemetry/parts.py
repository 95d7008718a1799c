"""What was said in the log, line by line."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

from shared.telemetry import LogEvent

PROJECT = "ruum-production-4711"
TRACE = "logging.googleapis.com/trace"
OWN = {"severity", "message", "time", "logger", TRACE, "stack_trace"}

log = logging.getLogger("shared.test_telemetry")


class Said:
    """The log as its readers get it: every line one JSON object."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def raw(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.raw == "" or self.raw.endswith("\n")
        found = [json.loads(line) for line in self.raw.split("\n")[:-1]]
        assert all(type(line) is dict for line in found)
        return found

    @property
    def line(self) -> dict[str, Any]:
        (only,) = self.lines
        return only

    def of(self, event: LogEvent) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == event.value]

    def events(self, image: int) -> list[str]:
        return [line["event"] for line in self.lines if line.get("image") == image and "event" in line]
