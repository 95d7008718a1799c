"""A hot ledger: many workers, a database that takes one commit of a document at a time and is slow about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared.decisions.quota import Ledger
from shared.model import Refusal, Tier
from shared.settings import Limit
from shared.worker.quota import SharedQuota
from tests.harness.world import World, virtual

pytestmark = pytest.mark.slow

MODEL = "gemini-nano-banana-2.1"
WINDOWS = 10
READ_SECONDS, COMMIT_SECONDS = 0.012, 0.040


class HotDocument:
    """A store for one ledger: reads take 12 ms, a commit 40 ms and the document's only turn, one at a time."""

    def __init__(self, world: World, turn_seconds: float) -> None:
        self._clock = world.clock
        self._turn_seconds = turn_seconds
        self._turn = asyncio.Lock()
        self._ledger: Any = None
        self.version = 0
        self.writes = 0
        self.lost = 0

    async def record(self, kind: type, key: str) -> Any:
        return self._ledger

    async def change_record(self, kind: type, key: str, decide: Callable[[Any, float], Any], token: str) -> Any:
        for number in range(100):
            await self._clock.sleep(READ_SECONDS)
            version, before = self.version, self._ledger
            after = decide(before, self._clock.now())
            if isinstance(after, Refusal):
                return after
            async with self._turn:
                await self._clock.sleep(COMMIT_SECONDS)
                if version == self.version:
                    self.version += 1
                    self.writes += 1
                    self._ledger = after
                    await self._clock.sleep(max(0.0, self._turn_seconds - COMMIT_SECONDS))
                    return after
            self.lost += 1
            await self._clock.sleep(self._clock.random.uniform(0, 0.05 * 2 ** min(number, 5)))
        raise AssertionError("a hundred compare-and-sets lost")


async def used_by(
    world: World, workers: int, per_minute: int, turn_seconds: float, minutes: float
) -> tuple[float, float]:
    """(share of the quota that was used, writes a second), with always 60 calls waiting at every worker."""
    store = HotDocument(world, turn_seconds)
    quotas = [
        SharedQuota(store, world.clock, {MODEL: Limit(per_minute=per_minute)}, f"worker-{number}")  # type: ignore[arg-type]
        for number in range(workers)
    ]
    started: list[float] = []

    async def caller(quota: SharedQuota[Ledger]) -> None:
        while True:
            grant = await quota.reserve(MODEL, Tier.NORMAL)
            started.append(world.clock.monotonic())
            await quota.succeeded(MODEL, grant)

    tasks = [asyncio.create_task(caller(quota)) for quota in quotas for _ in range(60)]
    await world.clock.sleep(90)  # the window is full
    began, writes, before = world.clock.monotonic(), store.writes, len(started)
    await world.clock.sleep(minutes * 60)
    used, written = len(started) - before, store.writes - writes
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for quota in quotas:
        quota.close()
    for at in started:
        assert sum(at <= other < at + 60 for other in started[:: max(1, len(started) // 400)]) <= per_minute
    seconds = world.clock.monotonic() - began
    return used / (per_minute * seconds / 60), written / seconds


@pytest.mark.parametrize("turn_seconds", [0.05, 0.2])
@virtual
async def test_two_thousand_calls_a_minute_of_forty_workers(world: World, turn_seconds: float) -> None:
    """60 of 61 seconds, 0.984, is the most that the margin allows. Measured over ten windows: 0.984, 1.97 to 2.01."""
    used, writes = await used_by(world, 40, 2000, turn_seconds, minutes=WINDOWS * 61 / 60)
    assert used >= 0.97, f"{used:.3f} of the quota"
    assert writes <= 2.1, f"{writes:.2f} writes a second"


@pytest.mark.parametrize("workers", [1, 4, 5, 10])
@virtual
async def test_fewer_workers_use_it_too(world: World, workers: int) -> None:
    used, writes = await used_by(world, workers, 300, 0.2, minutes=WINDOWS * 61 / 60)
    assert used >= 0.97, f"{used:.3f} of the quota"
    most = 2.1 if workers >= 5 else 5
    assert writes <= most, f"{writes:.2f} writes a second"
