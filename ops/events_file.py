"""The completion topic's subscriber on one machine: appends each event once to events.jsonl, as a CRM would."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.messages import structured
from shared.ports import Delivery


class EventsFile:
    """One CloudEvents JSON object per line. Repeated ids are dropped, as a consumer of at-least-once events must."""

    def __init__(self, path: Path, on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
        self._path = path
        self._on_event = on_event
        self._ids = self._known()

    def _known(self) -> set[str]:
        """Return the ids already in the file. Removes a line that a kill cut short: its event comes again."""
        if not self._path.exists():
            return set()
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return {json.loads(line)["id"] for line in whole.splitlines()}

    async def handle(self, delivery: Delivery) -> None:
        """Append one event; returning acks it."""
        event = structured(dict(delivery.attributes), delivery.data)
        if event["id"] not in self._ids:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
            self._ids.add(event["id"])
        self._on_event(event)
