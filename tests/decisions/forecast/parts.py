"""Work of three tiers, and how long each takes by the rule of sharing."""

from __future__ import annotations

from hypothesis import strategies as st

from shared.model import Tier

EXPRESS, NORMAL, ECONOMY = Tier
WEIGHTS = {EXPRESS: 6, NORMAL: 3, ECONOMY: 1}  # the promise, not the product's own table
NOW = 1_772_442_000.0

work = st.fixed_dictionaries({tier: st.integers(0, 40) for tier in Tier})


def closed_form(left: dict[Tier, float], of: Tier, rate: float) -> float:
    """When `of` is through, every tier has had the same for its weight, or all it wanted."""
    turns = left[of] / WEIGHTS[of]
    return sum(min(left[tier], turns * WEIGHTS[tier]) for tier in Tier) / rate if left[of] else 0.0
