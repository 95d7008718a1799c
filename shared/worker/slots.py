"""A worker's slots: how many images it works on at once. An image that waits for something else holds none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """`most` slots; those that come back from a wait go before new ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._coming_back: deque[asyncio.Future[None]] = deque()
        self.waiting = 0  # images that hold no slot while they wait

    @property
    def free(self) -> int:
        """How many new images may be taken."""
        return 0 if self._coming_back else max(0, self._limit - self._taken)

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._taken

    def take(self, count: int = 1) -> None:
        """Take slots for new images, or for images that were asked for."""
        self._taken += count

    def leave(self, count: int = 1) -> None:
        """Give slots back; the first who wants to come back gets one."""
        self._taken -= count
        while self._coming_back and self._taken < self._limit:
            coming = self._coming_back.popleft()
            if not coming.done():
                self._taken += 1
                coming.set_result(None)

    @asynccontextmanager
    async def outside(self) -> AsyncIterator[None]:
        """Hold no slot inside; wait for one at the end. Cancelled anywhere, a slot is held: its holder leaves it."""
        self.waiting += 1
        self.leave()
        try:
            yield
            await self._back()
        except BaseException:
            self._taken += 1
            raise
        finally:
            self.waiting -= 1

    async def _back(self) -> None:
        if self._taken < self._limit and not self._coming_back:
            self._taken += 1
            return
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coming_back.append(coming)
        try:
            await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled():
                self._taken -= 1  # it was given one in the same moment
            elif coming in self._coming_back:
                self._coming_back.remove(coming)
            raise
