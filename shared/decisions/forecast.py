"""Duration and cost of a batch: an estimate before it runs, an ETA while it does.

The vendor's quota bounds the fleet. Within it the tiers share by weight, as in `shared.decisions.fairness`. What has
not been measured yet comes from the settings' typical figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from shared.decisions.fairness import TIER_WEIGHTS
from shared.decisions.money import MICRO, cost_micro_usd, price_usd
from shared.decisions.quota import Circuit, Ledger, recovered, slots_now
from shared.errors import ConfigurationError
from shared.model import Tier
from shared.settings import FleetRules, Limit, Settings
from shared.vendors import spec_of

# Time constant with which the measured speed forgets. Slow mode shows within two minutes; one slow image does not.
SPEED_SECONDS: Final = 120.0


class Capacity(msgspec.Struct, frozen=True):
    """What the fleet can do: images per second, what limits it, and for how many seconds nothing moves.

    `outage` means that a vendor does not answer. `blocked_seconds` is then only the time until the next probe.
    """

    images_per_second: float
    limited_by: str
    blocked_seconds: float = 0.0
    outage: bool = False


def capacity(
    settings: Settings,
    ledgers: Mapping[str, Ledger],
    models: Mapping[str, int],
    now: float,
    *,
    with_slots: bool = True,
) -> Capacity:
    """Return the fleet's capacity under the quotas of `models` (id to calls per image), as their ledgers stand now.

    With `with_slots` the workers' slots limit it too: those of one worker, or of `max_instances` where the fleet can
    start them. A measured speed already contains that limit, so callers that have one pass False.
    """
    workers = settings.fleet.max_instances if settings.fleet.pool else 1
    in_flight = workers * settings.worker.in_flight
    most = in_flight / settings.typical.image_seconds if with_slots else math.inf
    bounds = [Capacity(most, f"{in_flight} images in flight")]
    blocked, outage = 0.0, False
    for model, calls in models.items():
        ledger = recovered(ledgers.get(model, Ledger(id=model)), now)
        limit = ledger.limit or settings.limits.get(model) or Limit()
        if limit.per_minute:
            bounds.append(Capacity(limit.per_minute / 60 * ledger.rate / calls, model))
        slots = slots_now(limit, ledger.rate)
        if slots:
            bounds.append(Capacity(slots / settings.typical.call_seconds / calls, model))
        is_open = ledger.circuit is not Circuit.CLOSED
        outage = outage or is_open
        opens = ledger.open_until if is_open else 0.0
        blocked = max(blocked, max(ledger.day_spent_until, ledger.not_before, opens) - now)
    least = min(bounds, key=lambda bound: bound.images_per_second)
    return msgspec.structs.replace(least, blocked_seconds=blocked, outage=outage)


def calls_by_model(settings: Settings) -> dict[str, int]:
    """Return the calls of one image by model id; empty where no vendor's quota limits them (the local preview)."""
    spec = spec_of(settings)
    return {} if spec.local else dict(Counter(step.usual.model for step in spec.steps))


def instances_wanted(backlog: int, capacity: Capacity, image_seconds: float, rules: FleetRules) -> int:
    """Return the number of workers for `backlog` open images, at most `max_instances`.

    The backlog and the quota both bound how many images are in flight at once. Example: 60 images a minute of 50 s each
    keep 50 in flight, which is one instance of 50 slots.
    """
    if not backlog:
        return 0
    useful = min(backlog, capacity.images_per_second * image_seconds)
    # Round first: 250 calls a minute of 60 s are 250 in flight, but the float is 250.00000000000003.
    return min(rules.max_instances, max(1, math.ceil(round(useful / rules.images_per_instance, 6))))


def at_most(measured: float, known: Capacity) -> Capacity:
    """Return the capacity limited to the measured speed (images per second); 0 means that nothing was measured."""
    if not 0 < measured < known.images_per_second:
        return known
    return msgspec.structs.replace(known, images_per_second=measured, limited_by="the speed measured now")


def finish_seconds(work: Mapping[Tier, float], of: Tier, images_per_second: float) -> float:
    """Return how many seconds pass until the last image of tier `of` is done.

    `work` is the number of images by tier. The tiers share the rate by weight, and the rest speeds up when a tier
    finishes.
    """
    left = {tier: images for tier, images in work.items() if images > 0}
    at = 0.0
    while of in left:
        weights = sum(TIER_WEIGHTS[tier] for tier in left)
        share = {tier: images_per_second * TIER_WEIGHTS[tier] / weights for tier in left}
        first = min(left, key=lambda tier: left[tier] / share[tier])
        span = left[first] / share[first]
        at += span
        left = {tier: left[tier] - span * share[tier] for tier in left if tier is not first}
        left = {tier: images for tier, images in left.items() if images > 1e-9}
    return at


def cost_per_image_usd(settings: Settings) -> float:
    """Return the vendor's price of a typical image, in US dollars.

    Raises `ConfigurationError` for a model without a price.
    """
    spec = spec_of(settings)
    if spec.local:
        return 0.0
    missing = set(spec.models) - settings.prices.keys()
    if missing:
        raise ConfigurationError(f"there is no price for {', '.join(sorted(missing))}: add it to RUUM_PRICES")
    return sum(step.times * cost_micro_usd(settings.prices, step.usual) for step in spec.steps) / MICRO


class TierEstimate(msgspec.Struct, frozen=True, rename="camel"):
    """A batch's estimate in one tier: the customer's price, and the seconds until its last image is done."""

    price_usd: float
    seconds: float


class Estimate(msgspec.Struct, frozen=True, rename="camel"):
    """The estimate of a batch before it runs. All costs are in US dollars.

    `repeated` photos are bought once, and `already_staged` ones come from the cache. During an `outage` the vendor does
    not answer, so the seconds of all tiers are lower bounds.
    """

    images: int
    repeated: int
    already_staged: int
    to_buy: int
    cached_share: float
    cost_per_image_usd: float
    cost_measured: bool
    cost_usd: float
    images_per_minute: float
    limited_by: str
    blocked_seconds: float
    outage: bool
    backlog: dict[str, int]
    tier: str
    tiers: dict[str, TierEstimate]


def estimate(
    settings: Settings,
    *,
    tier: Tier,
    images: int,
    repeated: int,
    already_staged: int,
    backlog: Mapping[Tier, int],
    capacity: Capacity,
    measured_cost_usd: float | None,
) -> Estimate:
    """Return cost and time of a batch in each tier. Images from the cache need no call and practically no time."""
    to_buy = images - repeated - already_staged
    typical = cost_per_image_usd(settings)
    measured = measured_cost_usd if typical else None  # the preview is free whatever others have cost
    per_image = typical if measured is None else measured
    cost = round(per_image * to_buy, 6)
    tiers = {}
    for possible in Tier:
        work = {other: float(backlog.get(other, 0)) for other in Tier}
        work[possible] += to_buy
        waiting = capacity.blocked_seconds + finish_seconds(work, possible, capacity.images_per_second)
        # A batch that comes entirely from the cache makes no call and waits for no vendor.
        seconds = waiting + settings.typical.image_seconds if to_buy else 0.0
        tiers[possible.value] = TierEstimate(price_usd(settings.tiers, possible, cost), round(seconds, 1))
    return Estimate(
        images=images,
        repeated=repeated,
        already_staged=already_staged,
        to_buy=to_buy,
        cached_share=round((repeated + already_staged) / images, 4),
        cost_per_image_usd=round(per_image, 6),
        cost_measured=measured is not None,
        cost_usd=cost,
        images_per_minute=round(capacity.images_per_second * 60, 2),
        limited_by=capacity.limited_by,
        blocked_seconds=round(capacity.blocked_seconds, 1),
        outage=capacity.outage,
        backlog={other.value: backlog.get(other, 0) for other in Tier},
        tier=tier.value,
        tiers=tiers,
    )


def measured_cost_usd(costs: Iterable[tuple[float, int]]) -> float | None:
    """Return the mean cost per image of closed batches, given as (cost in USD, images bought).

    None when none of them cost anything: the preview's batches are free.
    """
    paid = [(cost, completed) for cost, completed in costs if cost and completed]
    return sum(cost for cost, _ in paid) / sum(completed for _, completed in paid) if paid else None


# --- while it runs


class Pace(msgspec.Struct, frozen=True):
    """The measured speed: images settled, and the seconds that took. Both decay with `SPEED_SECONDS`."""

    images: float = 0.0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float | None:
        """The speed; None before anything was measured."""
        return self.images / self.seconds if self.seconds else None


def pace_now(known: Pace, settled: int, seconds: float) -> Pace:
    """Return the pace after `settled` more images in `seconds`.

    A new measurement is weighted by the time it covers. The pace is therefore right from the first measurement on, with
    no warm-up from zero.
    """
    if seconds <= 0:  # two looks at the same moment, or a clock set back: count the images, but no time
        return Pace(known.images + max(0, settled), known.seconds)
    kept = math.exp(-seconds / SPEED_SECONDS)
    remembered = SPEED_SECONDS * (1 - kept)  # of these seconds
    return Pace(known.images * kept + max(0, settled) / seconds * remembered, known.seconds * kept + remembered)


def eta_seconds(open_images: int, speed: float | None, capacity: Capacity | None) -> float | None:
    """Return the seconds until the open images are settled, at the measured speed.

    The speed is capped at what the quota allows. None before the first image has settled, because nothing was measured
    yet. None also during an outage, because nobody knows how long that will last.
    """
    if not open_images:
        return 0.0
    if not speed or (capacity is not None and capacity.outage):
        return None
    if capacity is None:
        return round(open_images / speed, 1)
    return round(open_images / min(speed, capacity.images_per_second) + capacity.blocked_seconds, 1)
