"""The worker's hands when they stop or halt: what is finished, what is given back, how soon."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from shared.messages import Task, encode
from shared.model import ImageState, Tier
from shared.ports import Delivery
from shared.settings import WorkerLimits
from shared.worker.disposition import ACK, Action, Disposition
from shared.worker.subscriber import GIVE_BACK_SECONDS, PULL_SECONDS, RELEASE_SECONDS, Subscriber
from tests.harness.fakes import Stall
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import World, ticks, virtual
from tests.worker.subscriber.parts import LIMITS, NORMAL, Crew, fill, takes, waiting


@virtual
async def test_stopping_with_nothing_to_do(world: World) -> None:
    crew = Crew(world, takes(world, 1.0), grace=8.0)
    await world.clock.sleep(100.5)
    assert await crew.end() <= PULL_SECONDS


@virtual
async def test_what_ends_within_the_grace_is_finished(world: World) -> None:
    await fill(world, count=10)
    crew = Crew(world, takes(world, 10.0), WorkerLimits(in_flight=20), grace=8.0)
    await world.clock.sleep(5)
    await crew.end()
    assert await waiting(world) == 0
    assert len(crew.begun) == 10


@virtual
async def test_stopping_takes_no_longer_than_the_grace(world: World) -> None:
    """Cloud Run kills ten seconds after it has asked: the pulls under way are part of the grace."""
    await fill(world, count=5)
    crew = Crew(world, takes(world, 1000.0), grace=8.0)
    await world.clock.sleep(100.5)
    assert await crew.end() <= 8.1
    assert crew.subscriber.in_hand == 0


@virtual
async def test_stopping_while_pulls_fail(world: World) -> None:
    fuse = Fuse(error=unreachable)
    crew = Crew(world, takes(world, 1.0), queue=fused(world.parts, fuse).queue, grace=3.0)
    await world.clock.sleep(10)
    fuse.away = True
    await world.clock.sleep(PULL_SECONDS + 0.1)
    assert await crew.end() <= 3.1


@virtual
async def test_stopping_while_a_pull_hangs(world: World) -> None:
    """A queue that never answers must not keep the worker from giving back what it has in hand."""
    await fill(world)
    queue = fused(world.parts, Fuse()).queue
    found = queue.pull

    async def pull(subscription: str, most: int, wait_seconds: float) -> list[Delivery]:
        if subscription != NORMAL:
            await world.clock.sleep(100_000)
        deliveries: list[Delivery] = await found(subscription, most, wait_seconds)
        return deliveries

    queue.pull = pull
    crew = Crew(world, takes(world, 1000.0), queue=queue, grace=8.0)
    await world.clock.sleep(10)
    assert await crew.end() <= 8.1


@pytest.mark.parametrize("hangs", ["release", "nack"])
@virtual
async def test_stopping_while_the_database_or_the_queue_hangs(world: World, hangs: str) -> None:
    """Cloud Run kills 10 s after SIGTERM, whoever does not answer: what is not said runs out by itself."""
    await fill(world, count=30)
    queue = fused(world.parts, Fuse()).queue

    async def handle(delivery: Delivery) -> Disposition:
        try:
            await world.clock.sleep(1000)
        finally:
            await world.clock.sleep(100 if hangs == "release" else 0)  # a claim's release, by a database that hangs
        return ACK

    async def nack(subscription: str, ack_ids: list[str]) -> None:
        await world.clock.sleep(100)

    if hangs == "nack":
        queue.nack = nack
    crew = Crew(world, handle, queue=queue, grace=5.0)
    await world.clock.sleep(10)
    assert await crew.end() <= 5.0 + RELEASE_SECONDS + GIVE_BACK_SECONDS + 0.1
    if hangs == "release":
        await world.clock.sleep(13)
        assert len(await world.queue.pull(NORMAL, 100, 0)) == 30, "given back all the same"


@virtual
async def test_what_is_left_is_given_back(world: World) -> None:
    await fill(world, count=30)
    crew = Crew(world, takes(world, 1000.0), grace=5.0)
    await world.clock.sleep(30)
    await crew.end()
    assert crew.inside == 0
    assert await waiting(world) == 30
    await world.clock.sleep(13)
    again = await world.queue.pull(NORMAL, 100, 0)
    assert len(again) == 30, "after the backoff, not after the lease"


@virtual
async def test_what_is_pulled_after_the_stop_is_given_back(world: World) -> None:
    crew = Crew(world, takes(world, 1.0))
    await world.clock.sleep(1)
    crew.stop.set()
    await ticks()
    await fill(world, count=3)
    await crew.running
    assert crew.begun == []
    await world.clock.sleep(13)
    assert len(await world.queue.pull(NORMAL, 10, 0)) == 3


@virtual
async def test_a_worker_that_stops_spends_no_attempts(world: World) -> None:
    """The real room: everything in hand is released, queued again, its attempts and crashes as before."""
    await world.batch(20)
    hand = await world.worker()
    tasks = [encode(Task(batch="acme.b1", index=index, round=1, tier=Tier.NORMAL)) for index in range(20)]
    await world.published(NORMAL, *tasks)
    for step in ("fetch", "analyse", "generate", "verify"):
        world.fakes.will(step, *[lambda: world.clock.sleep(30.0)] * 100)
    stop = asyncio.Event()
    subscriber = Subscriber(world.queue, hand.handle, world.clock, LIMITS)
    running = asyncio.create_task(subscriber.run(stop, 5.0))
    await world.clock.sleep(135)
    stop.set()
    await running
    await hand.heartbeat.stop()
    images = [image async for image in world.store.images("acme.b1")]
    assert {image.state for image in images} <= {ImageState.QUEUED, ImageState.COMPLETED}
    assert sum(image.state is ImageState.COMPLETED for image in images) == 10
    assert {(image.attempts, image.crashes) for image in images} == {(0, 0)}
    assert sum(image.fence for image in images) == 20
    # The next worker goes on.
    world.fakes.source.script.clear()
    world.fakes.model.script.clear()
    crew = Subscriber(world.queue, (await world.worker()).handle, world.clock, LIMITS)
    stop = asyncio.Event()
    running = asyncio.create_task(crew.run(stop, 5.0))
    await world.clock.sleep(30)
    stop.set()
    await running
    states = [image.state async for image in world.store.images("acme.b1")]
    assert states == [ImageState.COMPLETED] * 20


@virtual
async def test_held_by_another_worker_is_let_go_of(world: World) -> None:
    """Neither ack nor nack: extended by `held_seconds`, and again on the next delivery, as long as it is held."""
    await world.batch()
    other = await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    task = await world.task()
    work = other.begin(task)
    await stall.reached.wait()
    await world.published(NORMAL, task.data)
    calls: list[tuple[float, str]] = []
    queue = fused(world.parts, Fuse()).queue
    for method in ("ack", "nack", "extend"):

        async def noted(
            *arguments: Any, method: str = method, real: Any = getattr(world.queue, method), **options: Any
        ) -> Any:
            calls.append((world.clock.monotonic(), method))
            return await real(*arguments, **options)

        setattr(queue, method, noted)
    stop = asyncio.Event()
    running = asyncio.create_task(Subscriber(queue, (await world.worker()).handle, world.clock, LIMITS).run(stop, 1.0))
    await world.clock.sleep(100)
    assert {method for _, method in calls} == {"extend"}
    assert 3 <= len(calls) <= 10
    gaps = [after - before for (before, _), (after, _) in pairwise(calls)]
    assert gaps[0] == pytest.approx(LIMITS.held_seconds, abs=0.1)
    assert gaps == sorted(gaps)
    stall.go_on.set()
    assert (await work).action is Action.ACK
    await world.clock.sleep(gaps[-1] * 3)
    assert calls[-1][1] == "ack"
    stop.set()
    await running


@virtual
async def test_a_worker_that_lost_its_claim_neither_acks_nor_nacks_when_it_stops(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    await world.published(NORMAL, (await world.task()).data)
    answered: list[str] = []
    queue = fused(world.parts, Fuse()).queue
    for method in ("ack", "nack"):

        async def noted(*arguments: Any, method: str = method, real: Any = getattr(world.queue, method)) -> Any:
            answered.append(method)
            return await real(*arguments)

        setattr(queue, method, noted)
    stop = asyncio.Event()
    running = asyncio.create_task(Subscriber(queue, hand.handle, world.clock, LIMITS).run(stop, 1.0))
    await stall.reached.wait()
    await world.change_image(fence=2)
    stop.set()
    await running
    assert answered == []
