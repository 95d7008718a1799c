"""How long and how dear: what an image costs, and when a batch will be ready."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.decisions import forecast
from shared.decisions.forecast import Capacity
from shared.decisions.money import price_usd
from shared.model import Tier
from shared.settings import Gemini, Price, Settings, StagingRules, TierFactors, Typical
from tests.decisions.forecast.parts import ECONOMY, EXPRESS, NORMAL, NOW, closed_form, work
from tests.harness.fakes import IMAGE, TEXT

# --- cost and price


def test_a_typical_image_by_hand() -> None:
    settings = Settings(
        prices={TEXT: Price(input_usd=1.0, output_usd=2.0), IMAGE: Price(input_usd=3.0, output_usd=40.0)},
        gemini=Gemini(text_model=TEXT, image_model=IMAGE),
        typical=Typical(text_input_tokens=1000, text_output_tokens=100, image_input_tokens=10, image_output_tokens=1000,
                        generations=2.0),
    )  # fmt: skip
    assert forecast.cost_per_image_usd(settings) == pytest.approx(0.0012 + 2 * 0.04003)
    preview = msgspec.structs.replace(settings, staging=StagingRules(model="preview"))
    assert forecast.cost_per_image_usd(preview) == 0.0


@pytest.mark.parametrize(("tier", "price"), [(EXPRESS, 3.0), (NORMAL, 2.0), (ECONOMY, 1.4)])
def test_tiers_change_the_price(tier: Tier, price: float) -> None:
    """Express half as much again, economy 30 % less."""
    assert price_usd(TierFactors(), tier, 2.0) == price


def test_factors_are_settings() -> None:
    settings = Settings(tiers=TierFactors(express_factor=3.0, normal_factor=1.1, economy_factor=0.0))
    assert [price_usd(settings.tiers, tier, 1.0) for tier in Tier] == [3.0, 1.1, 0.0]


def test_measured_cost_is_weighted_by_images() -> None:
    assert forecast.measured_cost_usd([(10.0, 100), (1.0, 1)]) == pytest.approx(11 / 101)
    assert forecast.measured_cost_usd([]) is None
    assert forecast.measured_cost_usd([(0.0, 50), (3.0, 0)]) is None  # the preview's; nothing completed
    assert forecast.measured_cost_usd(iter([(0.0, 50), (2.0, 4)])) == 0.5


# --- estimate


def estimated(settings: Settings | None = None, **changes: Any) -> forecast.Estimate:
    given_ = {
        "tier": NORMAL, "images": 100, "repeated": 0, "already_staged": 0, "backlog": {},
        "capacity": Capacity(1.0, IMAGE), "measured_cost_usd": 0.06,
    }  # fmt: skip
    return forecast.estimate(settings or Settings(), **{**given_, **changes})


def test_an_estimate_by_hand() -> None:
    found = estimated(repeated=30, already_staged=10, backlog={NORMAL: 60, EXPRESS: 60})
    assert (found.to_buy, found.cached_share, found.cost_measured) == (60, 0.4, True)
    assert found.cost_usd == 3.6
    assert {name: tier.price_usd for name, tier in found.tiers.items()} == {
        "express": 5.4, "normal": 3.6, "economy": 2.52,
    }  # fmt: skip
    # Beside 60 express and 60 normal ones: as express 60 normal get a third of the way; 50 s for the last image itself.
    assert found.tiers["express"].seconds == pytest.approx(120 + 60 + 50)
    assert found.tiers["normal"].seconds == pytest.approx(180 + 50)
    assert found.tiers["economy"].seconds == pytest.approx(180 + 50)
    assert found.backlog == {"express": 60, "normal": 60, "economy": 0}
    assert (found.tier, found.images_per_minute, found.limited_by) == ("normal", 60.0, IMAGE)


def test_an_estimate_is_a_json_document_as_its_readers_expect() -> None:
    found = json.loads(msgspec.json.encode(estimated()))
    assert {"toBuy", "alreadyStaged", "cachedShare", "costPerImageUsd", "costUsd", "imagesPerMinute"} <= set(found)
    assert set(found["tiers"]["express"]) == {"priceUsd", "seconds"}


@hypothesis_settings(deadline=None)
@given(
    st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1), work, st.floats(0.01, 100),
    st.floats(0, 1e5), st.sampled_from(list(Tier)),
)  # fmt: skip
def test_an_estimate_adds_up(
    images: int, part: float, rest: float, backlog: dict[Tier, int], rate: float, blocked: float, tier: Tier
) -> None:
    repeated = int(images * part)
    staged = int((images - repeated) * rest)
    capacity = Capacity(rate, IMAGE, blocked)
    found = estimated(
        images=images, repeated=repeated, already_staged=staged, backlog=backlog, capacity=capacity, tier=tier
    )
    assert found.to_buy + found.repeated + found.already_staged == found.images == images
    assert 0 <= found.cached_share <= 1
    assert found.cost_usd == pytest.approx(0.06 * found.to_buy, abs=1e-6)
    express, normal, economy = (found.tiers[name] for name in ("express", "normal", "economy"))
    assert express.price_usd >= normal.price_usd >= economy.price_usd
    if not any(backlog.values()):  # a weightier tier may be the longer queue
        assert express.seconds == normal.seconds == economy.seconds
    if found.to_buy:
        own = {t: float(backlog[t] + (found.to_buy if t is tier else 0)) for t in Tier}
        expected = blocked + closed_form(own, tier, rate) + 50
        assert found.tiers[tier.value].seconds == pytest.approx(expected, rel=1e-6, abs=0.06)


def test_what_the_cache_gives_whole_waits_for_no_vendor() -> None:
    """ "What the cache gives takes no call": a spent day or an open circuit does not hold it up."""
    found = estimated(already_staged=100, capacity=Capacity(1.0, IMAGE, 8 * 3600.0))
    assert (found.to_buy, found.cost_usd, found.cached_share) == (0, 0.0, 1.0)
    assert [tier.seconds for tier in found.tiers.values()] == [0.0, 0.0, 0.0]
    some = estimated(already_staged=99, capacity=Capacity(1.0, IMAGE, 8 * 3600.0))  # one is bought: it waits
    assert [tier.seconds for tier in some.tiers.values()] == [8 * 3600 + 1 + 50.0] * 3


def test_without_a_quota_the_slots_bound_the_speed() -> None:
    """The preview, or a vendor without limit: 10,000 images of 50 s each are not done in 50 s by one worker of 50 slots."""
    settings = Settings(staging=StagingRules(model="preview"))
    capacity = forecast.capacity(settings, {}, forecast.calls_by_model(settings), NOW)
    few, many = (
        estimated(settings, images=images, capacity=capacity, measured_cost_usd=None) for images in (50, 10_000)
    )
    assert (few.tiers["normal"].seconds, many.tiers["normal"].seconds) == (100.0, 10_050.0)
    assert (many.images_per_minute, many.limited_by) == (60.0, "50 images in flight")


def test_the_preview_costs_nothing_whatever_others_measured() -> None:
    found = estimated(Settings(staging=StagingRules(model="preview")), measured_cost_usd=0.06)
    assert found.cost_usd == 0.0
