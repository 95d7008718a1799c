"""A worker's sign of life: one small document, written every few seconds, instead of a write per image in hand."""

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
    """Names the worker, beats for it, and tells how long each image in its hands has waited for quota."""

    def __init__(self, store: BatchStore, clock: Clock, every_seconds: float) -> None:
        self.worker = f"worker-{clock.token()}"
        self._store = store
        self._clock = clock
        self._every_seconds = every_seconds
        self.halted: Callable[[], str] = lambda: ""  # asked at each beat, so that commands can say why nothing moves
        self._waited: dict[str, float] = {}
        self._waiting_since: dict[str, float] = {}

    async def beat(self) -> None:
        """Write the heartbeat once; must have happened before the first claim."""
        now = self._clock.monotonic()
        waited = {key: seconds + now - self._waiting_since.get(key, now) for key, seconds in self._waited.items()}
        halted = self.halted()[:MAX_REASON]
        await self._store.beat(Worker(id=self.worker, at=self._clock.now(), halted=halted, waited_seconds=waited))

    async def stop(self) -> None:
        """Say goodbye: claims that may be left are free at once, and count no crash."""
        await self._store.beat(Worker(id=self.worker, at=self._clock.now(), stopped=True))

    async def run(self) -> None:
        """Beat until cancelled. A beat that fails is only late: the fences hold whatever others conclude."""
        while True:
            try:
                await self.beat()
            except RuumError as error:
                log.warning("heartbeat not written: %s", error)
            await self._clock.sleep(self._every_seconds)

    @asynccontextmanager
    async def waiting(self, key: str) -> AsyncIterator[None]:
        """Count the time spent inside as waiting, which does not age the claim of image `key`."""
        started = self._waiting_since[key] = self._clock.monotonic()
        self._waited.setdefault(key, 0.0)
        try:
            yield
        finally:
            # A stale hand and its successor may wait for one image at once; whoever ends last finds nothing left.
            self._waiting_since.pop(key, None)
            if key in self._waited:
                self._waited[key] += self._clock.monotonic() - started

    def forget(self, key: str) -> None:
        """The image is no longer in hand."""
        self._waited.pop(key, None)


async def known_holder(store: BatchStore, image: Image) -> Worker | None:
    """The heartbeat of the image's holder (one that left none is as good as dead); None when nobody holds it."""
    if image.claim is None:
        return None
    return await store.worker(image.claim.worker) or Worker(id=image.claim.worker, at=0.0)
