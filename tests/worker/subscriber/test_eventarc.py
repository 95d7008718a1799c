"""The subscriber as the stand-in for Eventarc: any topic, one handler."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from shared.ports import Delivery
from shared.topology import DEAD_LETTER_DOOR
from shared.worker.disposition import Action, Disposition
from shared.worker.subscriber import consume
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import World, ticks, virtual
from tests.worker.subscriber.parts import LEASE, NORMAL, Crew, fill, takes, waiting


@virtual
async def test_consume(world: World) -> None:
    seen: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)
        if delivery.data == b"normal 1" and seen.count(b"normal 1") < 3:
            raise ValueError("not now")

    await fill(world, count=3)
    consuming = asyncio.create_task(consume(world.queue, NORMAL, handle, max_messages=2, clock=world.clock))
    await world.clock.sleep(100)
    assert Counter(seen) == {b"normal 0": 1, b"normal 1": 3, b"normal 2": 1}
    assert await waiting(world) == 0
    consuming.cancel()
    await asyncio.wait([consuming])


@pytest.mark.parametrize("method", ["pull", "ack", "nack"])
@virtual
async def test_consume_survives_a_queue_that_is_away_for_a_moment(world: World, method: str) -> None:
    """`ruum-batch run` has one consumer per feed and nobody who starts it again."""
    fails = method == "nack"

    async def handle(delivery: Delivery) -> None:
        nonlocal fails
        if fails:
            fails = False
            raise ValueError("not now")

    await fill(world, count=3)
    queue = fused(world.parts, Fuse(1, on=method, error=unreachable)).queue
    consuming = asyncio.create_task(consume(queue, NORMAL, handle, max_messages=10, clock=world.clock))
    await world.clock.sleep(200)
    assert not consuming.done()
    assert await waiting(world) == 0
    consuming.cancel()
    await asyncio.wait([consuming])


@virtual
async def test_the_queue_gives_up_what_nobody_answers(world: World) -> None:
    """Ten deliveries without an answer: the dead-letter topic has it, and no worker is given it again."""
    await fill(world)
    crew = Crew(world, takes(world, 0.1, answer=Disposition(Action.LET_GO)))
    await world.clock.sleep(LEASE * 12)
    assert len(crew.begun) == 10
    assert len(await world.queue.pull(DEAD_LETTER_DOOR, 10, 0)) == 1
    await crew.end()
    await ticks()
