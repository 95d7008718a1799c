"""What nobody holds and no message stands for is published again; what somebody holds is not."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from shared.messages import ImageChanged, decode
from shared.model import Batch, BatchState, Claim, Control, ImageState, Tier, TierEmpty, Worker
from tests.rooms.parts import Fuse, Fused, World, fused, virtual

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


@pytest.mark.parametrize(
    ("operation", "kind", "control"),
    [("pause", "ruum.batch.paused", Control.PAUSED), ("cancel", "ruum.batch.cancelled", Control.CANCELLING)],
)
@virtual
async def test_a_pause_or_cancel_that_was_killed_is_told_all_the_same(
    world: World, operation: str, kind: str, control: Control
) -> None:
    """Killed at every place of it: customers hear of it, under one id, and before the batch's completion."""
    for at in range(1, 30):
        for after in (False, True):
            name = f"{operation}-{at}-{after}".lower()
            await world.batch(1, name)
            fuse = Fuse(at, after=after)
            rooms = world.rooms_on(fused(world.parts, fuse))
            killed = await fuse.kills(getattr(rooms.operator, operation)(f"acme.{name}"))
            began = (await world.the_batch(f"acme.{name}")).control is control
            await world.clock.sleep(60)
            await world.rooms.reconcile.run()
            await world.clock.sleep(60)
            await world.rooms.reconcile.run()
            told = [event for event in await world.events() if event["data"]["batchId"] == f"acme.{name}"]
            ids = [event["ce-id"] for event in told if event["ce-type"] == kind]
            assert (len(set(ids)), len(ids) <= 2) == (int(began), True), (at, after, ids)
            if operation == "cancel" and began:
                assert (await world.the_batch(f"acme.{name}")).state is BatchState.CLOSED
                kinds = list(dict.fromkeys(event["ce-type"] for event in told))
                assert kinds == [kind, "ruum.batch.progress", "ruum.batch.completed"]
            if not killed:
                return
    raise AssertionError("more calls than this test knows of")


@virtual
async def test_what_a_cancelled_batch_s_workers_close_is_told_in_order(world: World) -> None:
    """The operator was killed before it could tell, and the last image settled itself."""
    await world.batch(1)
    await world.change_batch(control=Control.CANCELLING)
    hand = await world.worker()
    await hand.handle(await world.task())
    await world.rooms.reconcile.run()
    kinds = [event["ce-type"] for event in await world.events() if event["ce-type"] != "ruum.batch.progress"]
    assert kinds == ["ruum.batch.cancelled", "ruum.batch.completed"]


@virtual
async def test_one_broken_batch_does_not_keep_the_others_waiting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even by a bug of ours: it is logged, and the next batch is looked after."""
    for name in ("a", "b", "c"):
        await world.batch(1, name)
        await world.change_image(0, f"acme.{name}", state=ImageState.FAILED, settled_at=world.clock.now())

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def batches(self, *, open_only: bool = False) -> list[Batch]:
            return sorted(await world.store.batches(open_only=open_only), key=lambda batch: batch.id)

        async def open_images(self, batch: str) -> tuple[int, int]:
            if batch == "acme.b":
                raise RuntimeError("what cannot be")
            return await world.store.open_images(batch)

    rooms = world.rooms_on(Fused(Store(), world.queue, world.objects))
    with caplog.at_level(logging.ERROR):
        report = await rooms.reconcile.run()
    assert (report.batches, report.closed, report.folded) == (3, 2, 3)
    assert "acme.b" in caplog.text
    assert (await world.the_batch("acme.c")).state is BatchState.CLOSED


@virtual
async def test_whoever_closes_a_batch_tells_first_that_it_was_cancelled(world: World) -> None:
    """No reconcile comes in between: AGGREGATE closes it with its last image, and after that nobody looks at it again."""
    await world.batch(1)
    await world.change_batch(control=Control.CANCELLING)  # and killed before it could tell
    hand = await world.worker()
    await hand.handle(await world.task())
    for change in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, change.data))
    assert (await world.the_batch()).state is BatchState.CLOSED
    kinds = [event["ce-type"] for event in await world.events() if event["ce-type"] != "ruum.batch.progress"]
    assert kinds == ["ruum.batch.cancelled", "ruum.batch.completed"]
