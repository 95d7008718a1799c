"""Ports that fail and processes that are killed, at the n-th call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from shared.assembly.wiring import Embedded
from shared.errors import ErrorCode, WorldError


class Killed(BaseException):
    """The process died here: nothing after this line happens."""


class Fuse:
    """Counts the calls of the ports it protects, and blows at the n-th, before or after the call has done its work.

    `on` counts the calls of one method only. While `away` every call fails: nothing can be reached.
    """

    def __init__(
        self, at: int = 0, *, after: bool = False, error: Callable[[], BaseException] = Killed, on: str = ""
    ) -> None:
        self.at = at
        self.after = after
        self.error = error
        self.on = on
        self.away = False
        self.calls: list[str] = []
        self._burnt = asyncio.Event()

    def wrap(self, port: Any) -> Any:
        return _Fused(port, self)

    @property
    def blown(self) -> bool:
        return 0 < self.at <= len(self.calls)

    def count(self, name: str) -> bool:
        """Whether this call is the one that blows afterwards."""
        if self.away:
            raise self.error()
        if self.on not in ("", name):
            return False
        self.calls.append(name)
        if len(self.calls) == self.at and not self.after:
            raise self.blow()
        return len(self.calls) == self.at

    def blow(self) -> BaseException:
        """The error to raise. A process that was killed does nothing more, in none of its tasks."""
        error = self.error()
        self.away = isinstance(error, Killed)
        self._burnt.set()
        return error

    async def kills(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Whether the process died at this work, in whichever of its tasks."""
        job = asyncio.create_task(work)
        burnt = asyncio.create_task(self._burnt.wait())
        await asyncio.wait({job, burnt}, return_when=asyncio.FIRST_COMPLETED)
        burnt.cancel()
        if not self.away:
            await job
        return self.away


class _Fused:
    def __init__(self, port: Any, fuse: Fuse) -> None:
        self._port = port
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)

        async def call(*args: Any, **options: Any) -> Any:
            last = self._fuse.count(name)
            result = await method(*args, **options)
            if last:
                raise self._fuse.blow()
            return result

        async def iterate(*args: Any, **options: Any) -> Any:
            last = self._fuse.count(name)
            async for item in method(*args, **options):
                yield item
            if last:
                raise self._fuse.blow()

        if inspect.iscoroutinefunction(method):
            return call
        return iterate if inspect.isasyncgenfunction(method) else method


def unreachable() -> WorldError:
    return WorldError(ErrorCode.STORAGE_UNAVAILABLE, "broken by the test")


class Fused(msgspec.Struct, frozen=True):
    """A backend whose ports share one fuse."""

    store: Any
    queue: Any
    objects: Any


def fused(parts: Embedded, fuse: Fuse) -> Fused:
    return Fused(fuse.wrap(parts.store), fuse.wrap(parts.queue), fuse.wrap(parts.objects))
