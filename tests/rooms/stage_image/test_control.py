"""STAGE IMAGE in batches that are paused or cancelled, before and in the middle of a staging."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import Throttled
from shared.model import Control, Failure
from shared.worker.disposition import Action
from tests.harness.fakes import COST, Stall
from tests.harness.faults import Fused
from tests.harness.world import STALE_SECONDS, World, virtual
from tests.rooms.stage_image.parts import CANCELLED, COMPLETED, FAILED, PAID, QUEUED, kinds, no_trace


@virtual
async def test_paused_at_the_claim(world: World) -> None:
    await world.batch(control=Control.PAUSED, control_epoch=1)
    before = await world.image()
    hand = await world.worker()
    for epoch in (0, 1):
        assert (await hand.handle(await world.task(epoch=epoch))).action is Action.ACK
    assert await world.image() == before
    assert world.fakes.source.calls == []
    await no_trace(world)


@virtual
async def test_a_task_newer_than_the_pause_is_not_forgotten(world: World) -> None:
    """Read paused at epoch 1, the task was sent by the resume that made it 2: a late reader must not ack it."""
    await world.batch(control=Control.PAUSED, control_epoch=1)
    hand = await world.worker()
    assert (await hand.handle(await world.task(epoch=2))).action in (Action.NACK, Action.LET_GO)
    image = await world.image()
    assert (image.state, image.attempts) == (QUEUED, 0)
    assert world.fakes.bought == []


@virtual
async def test_the_pause_is_looked_at_again_before_a_task_is_forgotten(world: World) -> None:
    """The cache still says paused, the batch runs again: the task is staged."""
    await world.batch(2, control=Control.PAUSED, control_epoch=1)
    hand = await world.worker()
    await hand.handle(await world.task(0))
    await world.change_batch(control=Control.RUN, control_epoch=2)
    assert (await hand.handle(await world.task(1, epoch=2))).action is Action.ACK
    assert (await world.image(1)).state is COMPLETED


@virtual
async def test_control_is_noticed_within_the_caches_seconds(world: World) -> None:
    await world.batch(3)
    hand = await world.worker()
    await hand.handle(await world.task(0))
    await world.change_batch(control=Control.PAUSED, control_epoch=1)
    await world.clock.sleep(world.settings.worker.control_cache_seconds + 0.1)
    await hand.handle(await world.task(1))
    assert (await world.image(1)).state is QUEUED


@pytest.mark.parametrize("step", ["analyse", "generate"])
@virtual
async def test_paused_between_paid_calls(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will(step, stall)
    task = await world.task()
    work = hand.begin(task)
    await stall.reached.wait()
    await world.change_batch(control=Control.PAUSED, control_epoch=1)
    await world.clock.sleep(6)
    stall.go_on.set()
    assert (await work).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.claim, image.error) == (QUEUED, 0, None, None)
    done = PAID[: PAID.index(step) + 1]
    assert world.fakes.bought == list(done), "what was under way is finished, the next is not begun"
    assert kinds(image) == list(done)
    await no_trace(world)
    await world.change_batch(control=Control.RUN, control_epoch=2)
    await world.clock.sleep(6)
    assert (await hand.handle(await world.task(epoch=2))).action is Action.ACK
    assert world.fakes.bought == list(PAID), "nothing is bought twice"
    assert (await world.image()).cost_micro_usd == sum(COST.values())


@virtual
async def test_paused_and_resumed_in_one_breath(world: World) -> None:
    """Noticed as paused by the cache, running again by the uncached look: the task must come again."""
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will("analyse", stall)
    work = hand.begin(await world.task())
    await stall.reached.wait()
    await world.change_batch(control=Control.PAUSED, control_epoch=1)
    await world.clock.sleep(6)
    other = await world.batch(1, "b2")
    await hand.room._control.read("acme.b1")  # another image of the batch has filled the cache
    assert other.control is Control.RUN
    await world.change_batch(control=Control.RUN, control_epoch=2)
    stall.go_on.set()
    done = await work
    image = await world.image()
    assert image.attempts == 0
    assert (image.state, done.action) in ((COMPLETED, Action.ACK), (QUEUED, Action.NACK))


@virtual
async def test_resumed_between_the_last_look_and_the_release(world: World) -> None:
    """Resuming has listed the queued images before this one was: its own message must not be forgotten."""
    await world.batch()

    class Store:
        resumes = False

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def change_image(self, *given: Any, **options: Any) -> Any:
            if self.resumes:
                self.resumes = False
                await world.rooms.operator.resume("acme.b1")
            return await world.store.change_image(*given, **options)

    store = Store()
    hand = await world.worker(Fused(store, world.queue, world.objects))
    stall = Stall()
    world.fakes.will("analyse", stall)
    work = hand.begin(await world.task())
    await stall.reached.wait()
    await world.rooms.operator.pause("acme.b1")
    await world.clock.sleep(6)
    store.resumes = True
    stall.go_on.set()
    done = await work
    assert not store.resumes
    image = await world.image()
    published = await world.tasks()
    assert image.state is QUEUED
    assert done.action is Action.NACK or published, "one message is left for it"


@virtual
async def test_waiting_for_quota_does_not_hide_a_pause(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", Throttled("slow down", 60.0))
    work = hand.begin(await world.task())
    await world.clock.sleep(30)
    await world.change_batch(control=Control.PAUSED, control_epoch=1)
    done = await work
    image = await world.image()
    assert world.fakes.bought.count("generate") == 1, "it was paused before the second try"
    assert (image.state, done.action) == (QUEUED, Action.ACK)


@virtual
async def test_cancelling_settles_what_is_queued(world: World) -> None:
    await world.batch(control=Control.CANCELLING, control_epoch=1)
    hand = await world.worker()
    task = await world.task()
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.fence, image.attempts) == (CANCELLED, 1, 0)
    assert image.settled_at == world.clock.now()
    assert (await hand.handle(task)).action is Action.ACK
    assert await world.image() == image
    assert world.fakes.source.calls == []
    await no_trace(world)


@pytest.mark.parametrize("step", ["analyse", "generate"])
@virtual
async def test_cancelled_between_paid_calls(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will(step, stall)
    work = hand.begin(await world.task())
    await stall.reached.wait()
    await world.change_batch(control=Control.CANCELLING, control_epoch=1)
    await world.clock.sleep(6)
    stall.go_on.set()
    assert (await work).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.claim) == (CANCELLED, 0, None)
    done = PAID[: PAID.index(step) + 1]
    assert kinds(image) == list(done), "what was paid for is on the bill"
    await no_trace(world)


@virtual
async def test_cancelling_leaves_what_is_in_hand_to_its_holder(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("verify", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    before = await world.change_batch(control=Control.CANCELLING, control_epoch=1)
    assert before.control is Control.CANCELLING
    held = await world.image()
    done = await second.handle(task)
    assert (done.action, done.seconds) == (Action.LET_GO, world.settings.worker.held_seconds)
    assert await world.image() == held
    stall.go_on.set()
    assert (await work).action is Action.ACK
    assert (await world.image()).state is COMPLETED, "the last paid call was done already"


@virtual
async def test_cancelling_settles_what_a_dead_worker_left(world: World) -> None:
    """Promise 1: every image ends, whatever crashes when. Nobody else will ever look at this one."""
    await world.batch()
    second = await world.worker()
    task = await world.task()
    await world.killed_at("generate", task)
    await world.change_batch(control=Control.CANCELLING, control_epoch=1)
    for _ in range(20):
        await world.clock.sleep(world.settings.worker.held_seconds)
        done = await second.handle(task)
    assert done.action is Action.ACK
    assert (await world.image()).state is CANCELLED


@virtual
async def test_a_pause_does_not_forget_what_a_dead_worker_left(world: World) -> None:
    """Resuming publishes the queued images, and so does reconcile: an image still `processing` needs its message."""
    await world.batch()
    second = await world.worker()
    task = await world.task()
    await world.killed_at("generate", task)
    await world.change_batch(control=Control.PAUSED, control_epoch=1)
    await world.clock.sleep(STALE_SECONDS)
    done = await second.handle(task)
    image = await world.image()
    assert done.action is not Action.ACK or image.state is QUEUED, (done, image.state)
    assert image.attempts == 0


@pytest.mark.parametrize("control", [Control.PAUSED, Control.CANCELLING])
@virtual
async def test_a_lost_letter_is_repeated_whatever_the_batch_is_told(world: World, control: Control) -> None:
    """Row 1: already settled: ack, and repeat the letter that may have been lost. Resuming publishes queued ones only."""
    await world.batch()
    await world.change_image(state=FAILED, attempts=1, error=Failure(code="not_a_picture", message="x"))
    await world.change_batch(control=control, control_epoch=1)
    hand = await world.worker()
    assert (await hand.handle(await world.task())).action is Action.ACK
    assert [letter.code for letter in await world.letters()] == ["not_a_picture"]
