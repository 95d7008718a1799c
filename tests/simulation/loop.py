# mypy: disable-error-code="attr-defined"
"""A virtual loop for many runs: the same steps in the same order as `VirtualLoop`, without looking for sockets."""

from __future__ import annotations

import heapq
from asyncio import Handle
from contextvars import Context, copy_context
from typing import Any, Final

from tests.clocks import VirtualLoop

MAX_WAIT_SECONDS: Final = 24 * 3600.0  # as asyncio's own
MANY_CANCELLED: Final = 100


class _Handle(Handle):
    """A callback that is due, without what only a debugged loop needs."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Context | None) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class SimulationLoop(VirtualLoop):
    """See the module. A loop step costs a third of the usual one: no selector, no debug mode."""

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if self._timer_cancelled_count > MANY_CANCELLED and self._timer_cancelled_count * 2 > len(scheduled):
            for handle in scheduled:
                handle._scheduled = not handle._cancelled
            scheduled[:] = [handle for handle in scheduled if not handle._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        else:
            while scheduled and scheduled[0]._cancelled:
                self._timer_cancelled_count -= 1
                heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:
            if not scheduled:
                self._jump(None)
            wait = scheduled[0]._when - self._virtual_seconds
            if wait > 0:
                self._jump(min(wait, MAX_WAIT_SECONDS))
        due = self._virtual_seconds + self._clock_resolution
        while scheduled and scheduled[0]._when < due:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            # Who waits for the last 1e-13 s until some moment must find it come, or waits for ever.
            self._virtual_seconds = max(self._virtual_seconds, handle._when)
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
