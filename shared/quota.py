"""The seam between the rooms and the vendors' limits: every paid call awaits one reservation first.

The ledger shared by all workers (rolling minute, slots, breaker; docs/architecture.md, "Quota") takes this place; until
then a worker only honours the pause a vendor asks for.
"""

from __future__ import annotations

from typing import Final, Protocol

from shared.model import Tier
from shared.ports import Clock

# Vendors truncate the pause they ask for ("7s" may be 7.9 s), so one second is added.
RETRY_AFTER_MARGIN_SECONDS: Final = 1.0
# A 429 without a pause (Vertex sends none): half of the rolling minute the limits are counted in.
DEFAULT_PAUSE_SECONDS: Final = 30.0


class Quota(Protocol):
    """Rights to call a vendor's model."""

    async def reserve(self, model: str, tier: Tier) -> None:
        """Return when the next call of `model` may start. Waiting here spends no attempt."""

    async def throttled(self, model: str, retry_after_seconds: float | None) -> None:
        """Note that the vendor answered 429."""


class PauseOnThrottle:
    """No limit of its own; after a 429 nothing is called until the vendor's pause is over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open_at: dict[str, float] = {}

    async def reserve(self, model: str, tier: Tier) -> None:
        while (wait := self._open_at.get(model, 0.0) - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)

    async def throttled(self, model: str, retry_after_seconds: float | None) -> None:
        pause = (
            DEFAULT_PAUSE_SECONDS if retry_after_seconds is None else retry_after_seconds + RETRY_AFTER_MARGIN_SECONDS
        )
        self._open_at[model] = max(self._open_at.get(model, 0.0), self._clock.monotonic() + pause)
