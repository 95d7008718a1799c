"""A worker's heartbeat: one small document, written every few seconds.

It stands for all claims of the worker, so that a worker with 50 images makes one write instead of 50.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from shared.errors import RuumError
from shared.model import Image, Worker
from shared.ports import BatchStore, Clock

log = logging.getLogger(__name__)

MAX_REASON = 500  # characters of a halt's reason: it is written every few seconds


class Heartbeat:
    """Names the worker, writes its heartbeat, and records how long each image it holds has waited for quota."""

    def __init__(self, store: BatchStore, clock: Clock, every_seconds: float) -> None:
        self.worker = f"worker-{clock.token()}"
        self._store = store
        self._clock = clock
        self._every_seconds = every_seconds
        self.halted: Callable[[], str] = lambda: ""  # called at each beat, so that commands can say why nothing moves
        self._waited: dict[str, float] = {}
        self._waiting_since: dict[str, float] = {}

    async def beat(self) -> None:
        """Write the heartbeat once. Must happen before the first claim, or that claim would look dead."""
        now = self._clock.monotonic()
        waited = {key: seconds + now - self._waiting_since.get(key, now) for key, seconds in self._waited.items()}
        halted = self.halted()[:MAX_REASON]
        await self._store.beat(Worker(id=self.worker, at=self._clock.now(), halted=halted, waited_seconds=waited))

    async def stop(self) -> None:
        """Record a clean shutdown: claims left over are free at once, and count no crash."""
        await self._store.beat(Worker(id=self.worker, at=self._clock.now(), stopped=True))

    async def run(self) -> None:
        """Beat until cancelled.

        A failed beat is retried at the next interval. If others take this worker for dead meanwhile, the fences keep
        the images correct.
        """
        while True:
            try:
                await self.beat()
            except RuumError as error:
                log.warning("heartbeat not written: %s", error)
            await self._clock.sleep(self._every_seconds)

    @asynccontextmanager
    async def waiting(self, key: str) -> AsyncIterator[None]:
        """Count the time inside the context as waiting, which does not age the claim of image `key`."""
        started = self._waiting_since[key] = self._clock.monotonic()
        self._waited.setdefault(key, 0.0)
        try:
            yield
        finally:
            # A stale task and its successor may both wait for this image; the second to finish finds the entry gone.
            self._waiting_since.pop(key, None)
            if key in self._waited:
                self._waited[key] += self._clock.monotonic() - started

    def forget(self, key: str) -> None:
        """Drop the waiting time of an image that this worker no longer holds."""
        self._waited.pop(key, None)


async def known_holder(store: BatchStore, image: Image) -> Worker | None:
    """Return the heartbeat of the image's holder; None when no worker holds the image.

    A holder without a heartbeat counts as dead, so it gets one from 1970.
    """
    if image.claim is None:
        return None
    return await store.worker(image.claim.worker) or Worker(id=image.claim.worker, at=0.0)
