"""Whose turn it is among the tiers: start-time fair queueing, used by the quota's ledger and by the subscriber.

Each tier's turns cost one over its weight; the tier whose next turn would start earliest is served. A tier that was
idle joins at the present virtual time: it neither waits behind what others had meanwhile nor gets it paid back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from shared.model import Tier

# When all wait, express gets 6 turns for 3 of normal and 1 of economy.
TIER_WEIGHTS: Final[Mapping[Tier, int]] = {Tier.EXPRESS: 6, Tier.NORMAL: 3, Tier.ECONOMY: 1}


def start_of(tier: Tier, served: Mapping[str, float], virtual: float) -> float:
    """When the tier's next turn starts, in virtual time."""
    return max(virtual, served.get(tier.value, 0.0))


def next_tier(waiting: Iterable[Tier], served: Mapping[str, float], virtual: float) -> Tier:
    """The waiting tier whose turn it is; the weightier one when two start together."""
    return min(waiting, key=lambda tier: (start_of(tier, served, virtual), -TIER_WEIGHTS[tier]))


def finish_of(tier: Tier, start: float) -> float:
    """When a turn that starts at `start` ends."""
    return start + 1 / TIER_WEIGHTS[tier]
