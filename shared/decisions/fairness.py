"""Which tier is served next: start-time fair queueing, used by the quota's ledger and by the subscriber.

A turn costs its tier 1 / weight of virtual time. The tier whose next turn would start earliest is served. A tier that
was idle joins at the current virtual time: it does not wait behind the turns that others had meanwhile, and it is not
compensated for them either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from shared.model import Tier

# When all three wait, express gets 6 turns for every 3 of normal and 1 of economy.
TIER_WEIGHTS: Final[Mapping[Tier, int]] = {Tier.EXPRESS: 6, Tier.NORMAL: 3, Tier.ECONOMY: 1}


def start_of(tier: Tier, served: Mapping[str, float], virtual: float) -> float:
    """Return the virtual time at which the tier's next turn starts. `served` is when each tier's last turn ended."""
    return max(virtual, served.get(tier.value, 0.0))


def next_tier(waiting: Iterable[Tier], served: Mapping[str, float], virtual: float) -> Tier:
    """Return the waiting tier whose turn it is; of two that start together, the one with more weight."""
    return min(waiting, key=lambda tier: (start_of(tier, served, virtual), -TIER_WEIGHTS[tier]))


def finish_of(tier: Tier, start: float) -> float:
    """Return the virtual time at which a turn that starts at `start` ends."""
    return start + 1 / TIER_WEIGHTS[tier]
