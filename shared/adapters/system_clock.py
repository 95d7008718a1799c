"""The system's clock. Tests and the simulation have their own, on a loop whose time is virtual."""

from __future__ import annotations

import asyncio
import random
import time
import uuid


class SystemClock:
    """The `shared.ports.Clock` of a real process: system time, and randomness that cannot be repeated."""

    def __init__(self) -> None:
        self._random = random.Random()

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @property
    def random(self) -> random.Random:
        return self._random

    def token(self) -> str:
        return uuid.uuid4().hex
