"""What nobody holds and no message stands for is published again; what somebody holds is not."""

from __future__ import annotations

from shared.model import Claim, ImageState, Tier, TierEmpty, Worker
from tests.rooms.parts import World, virtual

UNTOUCHED, CAP = 900.0, 1800.0


async def seen_empty(world: World) -> None:
    """The tier was found empty twice, after everything."""
    now = world.clock.now()
    seen = TierEmpty(tier=Tier.NORMAL, seen_at=(now - 60, now))
    await world.store.change_record(TierEmpty, Tier.NORMAL.value, lambda _, __: seen, world.clock.token())


async def held(world: World, **heartbeat: object) -> None:
    """An image in processing, its worker alive, its message gone."""
    await world.batch(1)
    await world.change_image(0, state=ImageState.PROCESSING, claim=Claim(worker="w", at=world.clock.now()), fence=1)
    await world.clock.sleep(CAP + 120)
    await world.store.beat(Worker(id="w", at=world.clock.now(), **heartbeat))  # type: ignore[arg-type]
    await seen_empty(world)


@virtual
async def test_an_image_left_in_processing_without_a_message_is_published_again(world: World) -> None:
    """Simulation, seed 8285: claimed from an old delivery while a newer one was acked for a pause; the release failed."""
    await held(world)
    assert (await world.rooms.reconcile.run()).published == 1


@virtual
async def test_an_image_that_waits_for_quota_in_a_living_hand_is_left_alone(world: World) -> None:
    await held(world, waited_seconds={"acme.b1/0": CAP})
    assert (await world.rooms.reconcile.run()).published == 0


@virtual
async def test_a_dead_hand_s_image_comes_again_by_itself_before_that(world: World) -> None:
    """Its message's lease runs out; only what has not moved for a quarter of an hour is reconcile's."""
    await world.batch(1)
    await world.change_image(0, state=ImageState.PROCESSING, claim=Claim(worker="w", at=world.clock.now()), fence=1)
    await world.clock.sleep(UNTOUCHED - 60)
    await seen_empty(world)
    assert (await world.rooms.reconcile.run()).published == 0
