"""An event loop on its own thread, for doors that are called synchronously.

A cached asyncio client belongs to the loop that first used it, so one `asyncio.run` per event would not work. The loop
is created at the first event, after the server has forked its processes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from shared.telemetry import configuration_faults

log = logging.getLogger(__name__)

R = TypeVar("R")
P = TypeVar("P")


class Background(Generic[P]):
    """Creates its parts once, on its loop, and runs coroutines with them."""

    def __init__(self, make: Callable[[], Awaitable[P]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parts: asyncio.Task[P] | None = None

    def run(self, work: Callable[[P], Coroutine[Any, Any, R]]) -> R:
        """Run `work` with the parts, and return its result. Raises what it raises."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="background", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(self._with_parts(work), self._loop).result()

    async def _with_parts(self, work: Callable[[P], Coroutine[Any, Any, R]]) -> R:
        with configuration_faults(log):
            if self._parts is None or (self._parts.done() and self._parts.exception() is not None):
                self._parts = asyncio.ensure_future(self._make())
            return await work(await asyncio.shield(self._parts))
