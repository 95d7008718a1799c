"""Waiting for quota takes as long as the quota makes it, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.model import Tier
from shared.quota import SharedQuota
from shared.settings import Limit
from tests.rooms.parts import World, virtual

MODEL = "image-model"


@virtual
async def test_who_comes_while_the_ledger_is_asked_waits_no_longer(world: World) -> None:
    """The ask under way is not for it, and is granted whole: it must be asked for at once, and not five seconds later."""

    class SlowStore:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def change_record(self, *given: Any) -> Any:
            await world.clock.sleep(0.05)
            return await world.store.change_record(*given)

    quota = SharedQuota(SlowStore(), world.clock, {MODEL: Limit(per_minute=600)}, "worker-1")  # type: ignore[arg-type]
    waited: list[float] = []

    async def caller(after: float) -> None:
        await world.clock.sleep(after)
        started = world.clock.monotonic()
        grant = await quota.reserve(MODEL, Tier.NORMAL)
        waited.append(world.clock.monotonic() - started)
        await quota.succeeded(MODEL, grant)

    await asyncio.gather(*(caller(number * 0.02) for number in range(100)))
    quota.close()
    assert len(waited) == 100
    assert max(waited) < 0.2, f"100 calls of 600 a minute waited up to {max(waited):.2f} s"
