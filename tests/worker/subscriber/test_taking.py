"""What the worker's hands take: as much as there are free slots, of each tier by its weight."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.model import Tier
from shared.settings import WorkerLimits
from shared.worker.subscriber import PULL_SECONDS
from tests.harness.world import World, virtual
from tests.worker.subscriber.parts import Crew, fill, takes, waiting

TIER_WEIGHTS = {Tier.EXPRESS: 6, Tier.NORMAL: 3, Tier.ECONOMY: 1}


# --- free slots


@pytest.mark.parametrize("in_flight", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("jitter", [0.0, 9.0])
@virtual
async def test_never_more_than_in_flight(world: World, in_flight: int, jitter: float) -> None:
    for tier in Tier:
        await fill(world, tier, 100)
    crew = Crew(world, takes(world, 1.0, jitter), WorkerLimits(in_flight=in_flight))
    await world.clock.sleep(60)
    assert crew.max_inside <= in_flight
    assert crew.max_in_hand <= in_flight
    assert crew.max_inside == in_flight, "and no slot is left idle"
    await crew.end()


@pytest.mark.parametrize("tiers", [(Tier.EXPRESS,), (Tier.NORMAL,), (Tier.ECONOMY,), (Tier.NORMAL, Tier.ECONOMY)])
@virtual
async def test_nothing_is_wasted_when_a_tier_waits_alone(world: World, tiers: tuple[Tier, ...]) -> None:
    """Idle tiers reserve a slot each while they are asked; the others go to those that have work."""
    for tier in tiers:
        await fill(world, tier, 2000)
    crew = Crew(world, takes(world, 10.0, 5.0), WorkerLimits(in_flight=50))
    await world.clock.sleep(200)
    await crew.end()
    done = len([at for at, _ in crew.begun if at <= 200])
    assert done >= 0.9 * 50 * 200 / 12.5


@virtual
async def test_everything_is_handled_once(world: World) -> None:
    for tier in Tier:
        await fill(world, tier, 30)
    crew = Crew(world, takes(world, 1.0, 3.0))
    await world.clock.sleep(120)
    assert len(crew.begun) == 90
    assert [await waiting(world, tier) for tier in Tier] == [0, 0, 0]
    await crew.end()


@virtual
async def test_what_comes_later_is_begun_at_once(world: World) -> None:
    crew = Crew(world, takes(world, 1.0))
    await world.clock.sleep(100)
    for tier in Tier:
        now = world.clock.monotonic()
        await fill(world, tier)
        await world.clock.sleep(PULL_SECONDS)
        assert crew.begun[-1] == (pytest.approx(now, abs=0.1), tier)
    await crew.end()


# --- tiers by weight


def shares(crew: Crew, since: float, until: float) -> dict[Tier, float]:
    seen = Counter(tier for at, tier in crew.begun if since <= at < until)
    return {tier: seen[tier] / seen.total() for tier in Tier}


@pytest.mark.parametrize("in_flight", [10, 50])
@pytest.mark.parametrize("jitter", [0.0, 20.0])
@virtual
async def test_tiers_by_weight(world: World, in_flight: int, jitter: float) -> None:
    """All have a backlog: of what is begun, 6 parts are express, 3 normal, 1 economy."""
    for tier in Tier:
        await fill(world, tier, 1000)
    crew = Crew(world, takes(world, 10.0, jitter), WorkerLimits(in_flight=in_flight))
    await world.clock.sleep(300)
    await crew.end()
    measured = shares(crew, 60, 300)
    weight = sum(TIER_WEIGHTS.values())
    for tier in Tier:
        assert measured[tier] == pytest.approx(TIER_WEIGHTS[tier] / weight, abs=0.05), measured


@pytest.mark.parametrize("idle", Tier)
@virtual
async def test_two_tiers_by_weight(world: World, idle: Tier) -> None:
    busy = [tier for tier in Tier if tier is not idle]
    for tier in busy:
        await fill(world, tier, 800)
    crew = Crew(world, takes(world, 10.0, 20.0), WorkerLimits(in_flight=30))
    await world.clock.sleep(300)
    await crew.end()
    measured = shares(crew, 60, 300)
    weight = sum(TIER_WEIGHTS[tier] for tier in busy)
    for tier in busy:
        assert measured[tier] == pytest.approx(TIER_WEIGHTS[tier] / weight, abs=0.08), measured


@virtual
async def test_no_tier_starves(world: World) -> None:
    """However much express has to do: what is normal or economy goes on."""
    await fill(world, Tier.EXPRESS, 800)
    await fill(world, Tier.NORMAL, 20)
    await fill(world, Tier.ECONOMY, 5)
    crew = Crew(world, takes(world, 10.0, 20.0), WorkerLimits(in_flight=20))
    await world.clock.sleep(300)
    await crew.end()
    seen = Counter(tier for at, tier in crew.begun if at <= 300)
    assert (seen[Tier.NORMAL], seen[Tier.ECONOMY]) == (20, 5)
