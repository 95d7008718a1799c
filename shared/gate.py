"""Many at once, or one alone: how a suspect image is kept from taking healthy ones with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets many pass together, or one alone. Whoever wants to be alone goes before newcomers."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._alone = False
        self._want_alone = 0

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Be inside with others."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._want_alone)
            self._inside += 1
        try:
            yield
        finally:
            await asyncio.shield(self._leave())

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside with nobody else. For one who is not inside."""
        self._want_alone += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._alone and not self._inside)
                self._alone = True
        finally:
            self._want_alone -= 1
        try:
            yield
        finally:
            await asyncio.shield(self._open())

    async def _leave(self) -> None:
        async with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    async def _open(self) -> None:
        async with self._changed:
            self._alone = False
            self._changed.notify_all()
