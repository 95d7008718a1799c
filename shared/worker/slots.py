"""A worker's slots: how many images it works on at once. An image that waits for something else holds none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """`limit` slots for images. An image that returns from a wait goes before new ones.

    Otherwise a steady stream of new images would keep it from ever finishing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._coming_back: deque[asyncio.Future[None]] = deque()
        self.waiting = 0  # images that hold no slot while they wait

    @property
    def free(self) -> int:
        """How many new images may be taken; none while an image waits to come back."""
        return 0 if self._coming_back else max(0, self._limit - self._taken)

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return self._taken

    def take(self, count: int = 1) -> None:
        """Take slots for new images, or for images that a pull is about to ask for."""
        self._taken += count

    def leave(self, count: int = 1) -> None:
        """Give slots back. The first image that waits to come back gets one."""
        self._taken -= count
        while self._coming_back and self._taken < self._limit:
            coming = self._coming_back.popleft()
            if not coming.done():
                self._taken += 1
                coming.set_result(None)

    @asynccontextmanager
    async def outside(self) -> AsyncIterator[None]:
        """Hold no slot inside the context; wait for one at its end.

        If the wait is cancelled, a slot counts as taken again, because the job that holds it will always call `leave`.
        """
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
        """Take a slot again, or queue for the next one that is given back."""
        if self._taken < self._limit and not self._coming_back:
            self._taken += 1
            return
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coming_back.append(coming)
        try:
            await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled():
                self._taken -= 1  # `leave` handed it a slot in the same moment
            elif coming in self._coming_back:
                self._coming_back.remove(coming)
            raise
