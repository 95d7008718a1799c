"""What calls cost us, and what customers pay.

Sums are exact to the millionth of a dollar, because the lines of a bill must add up to its total.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from shared.model import Call, Tier, Usage
from shared.settings import Price, TierFactors

MICRO: Final = 1_000_000  # of a US dollar: bills are kept in whole millionths


def cost_micro_usd(prices: Mapping[str, Price], usage: Usage) -> int:
    """Return what a call costs, in millionths of a US dollar, rounded up.

    Every unit that a vendor charges by is counted: tokens, seconds, credits, pictures, and the call itself. Raises
    `KeyError` for a model without a price.
    """
    price = prices[usage.model]
    tokens = usage.input_tokens * _as_written(price.input_usd) + usage.output_tokens * _as_written(price.output_usd)
    others = (
        Decimal(str(usage.seconds)) * _as_written(price.second_usd)
        + Decimal(str(usage.credits)) * _as_written(price.credit_usd)
        + usage.pictures * _as_written(price.picture_usd)
        + _as_written(price.call_usd)
    )
    return math.ceil(tokens + others * MICRO)  # token prices are per million tokens


def call_of(step: str, usage: Usage, usual: Usage, prices: Mapping[str, Price], duration_ms: int) -> Call:
    """Return the line of an image's bill for one call. If the vendor did not report its usage, `usual` is charged."""
    counted = usage if usage.reported else msgspec.structs.replace(usual, model=usage.model)
    return Call(
        step=step,
        model=counted.model,
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        seconds=counted.seconds,
        credits=counted.credits,
        pictures=counted.pictures,
        cost_micro_usd=cost_micro_usd(prices, counted),
        duration_ms=duration_ms,
        estimated=not usage.reported,
    )


def usd(micro: int) -> float:
    """Return millionths of a US dollar as US dollars."""
    return micro / MICRO


def price_usd(factors: TierFactors, tier: Tier, cost_usd: float) -> float:
    """Return what the customer pays for work of this tier that cost us `cost_usd`, both in US dollars."""
    of = {
        Tier.EXPRESS: factors.express_factor,
        Tier.NORMAL: factors.normal_factor,
        Tier.ECONOMY: factors.economy_factor,
    }
    return round(cost_usd * of[tier], 6)


@functools.cache
def _as_written(price: float | None) -> Decimal:
    """Return the price exactly as written in the settings, not as the nearest float, so that sums are exact.

    None means that the vendor does not charge by this unit.
    """
    return Decimal(0) if price is None else Decimal(str(price))
