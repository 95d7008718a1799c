"""A batch about to be closed, and a clock that stands still."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

from shared.model import Batch, BatchState, Completion, Counts, ImageState, Output
from tests import builders

S, B = ImageState, BatchState
NOW = 1_000_000.0
OUTPUT = Output(picture="p.jpg", thumbnail="t.jpg", before="b.jpg", sha256="0" * 64, width=4, height=3)


def a_batch(state: BatchState = B.PROCESSING, **changes: Any) -> Batch:
    known: dict[str, Any] = {"total": 2, "state": state, "revision": 5, "created_at": NOW - 100}
    return builders.a_batch(**known | changes)


def a_completion(outcome: str = "completed", **counts: int) -> Completion:
    return Completion(
        outcome=outcome, counts=Counts(**counts), success_rate=1.0, cost_usd=0.0, duration_seconds=1.0, reports={}
    )


class Clock:
    """Time that stands still until it is set."""

    def __init__(self) -> None:
        self.time = NOW
        self.random = random.Random(1)
        self._tokens = itertools.count()

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)

    def token(self) -> str:
        return f"token-{next(self._tokens)}"
