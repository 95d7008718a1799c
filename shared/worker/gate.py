"""Lets many tasks in together, or one alone: how a suspect image is kept from killing healthy ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count


class Gate:
    """A lock that admits many together, or one alone.

    Those that want to be alone go before newcomers, or a busy worker would never be empty. Among themselves the lowest
    rank goes first, then the first to come.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._alone = False
        self._want_alone: list[tuple[int, int]] = []  # by rank, then by their numbers
        self._numbers = count()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Enter beside others."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._want_alone)
            self._inside += 1
        try:
            yield
        finally:
            await asyncio.shield(self._leave())

    @asynccontextmanager
    async def alone(self, rank: int = 0) -> AsyncIterator[None]:
        """Enter alone. Must not be called while inside: it would wait for itself."""
        mine = (rank, next(self._numbers))
        self._want_alone.append(mine)
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_free_for(mine))
                self._alone = True
                self._want_alone.remove(mine)
        except BaseException:
            await asyncio.shield(self._give_up(mine))
            raise
        try:
            yield
        finally:
            await asyncio.shield(self._open())

    def _is_free_for(self, mine: tuple[int, int]) -> bool:
        return not self._alone and not self._inside and mine == min(self._want_alone)

    async def _give_up(self, mine: tuple[int, int]) -> None:
        async with self._changed:
            self._want_alone.remove(mine)
            self._changed.notify_all()

    async def _leave(self) -> None:
        async with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    async def _open(self) -> None:
        async with self._changed:
            self._alone = False
            self._changed.notify_all()
