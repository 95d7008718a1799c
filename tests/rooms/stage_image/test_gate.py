"""STAGE IMAGE behind the gate: while it is shut nothing is begun."""

from __future__ import annotations

import asyncio

from ops.noop import GOOD
from shared.model import Checkpoint
from shared.worker.gate import Gate
from tests.harness.world import World, ticks, virtual
from tests.rooms.stage_image.parts import WORLD


@virtual
async def test_the_gate_lets_many_in_or_one(world: World) -> None:
    gate = Gate()
    inside: list[str] = []
    seen: list[tuple[str, ...]] = []

    async def visit(name: str, *, alone: bool, seconds: float) -> None:
        async with gate.alone() if alone else gate.together():
            inside.append(name)
            seen.append(tuple(inside))
            await world.clock.sleep(seconds)
            inside.remove(name)

    visits = []
    for name, alone in (("a", False), ("b", False), ("X", True), ("c", False), ("Y", True), ("d", False)):
        visits.append(asyncio.create_task(visit(name, alone=alone, seconds=10)))
        await world.clock.sleep(1)
    await asyncio.gather(*visits)
    assert ("a", "b") in seen
    assert ("X",) in seen
    assert ("Y",) in seen
    assert all(len(group) == 1 for group in seen if set(group) & {"X", "Y"})
    assert seen[2:4] == [("X",), ("Y",)], "whoever wants to be alone goes before newcomers"


@virtual
async def test_the_gate_when_one_who_wants_to_be_alone_gives_up(world: World) -> None:
    """Those who waited behind it go on, even when it gives up in the very moment in which it could go in."""
    gate = Gate()
    leave = asyncio.Event()

    async def first() -> None:
        async with gate.alone():
            await leave.wait()

    async def together() -> None:
        async with gate.together():
            pass

    async def alone() -> None:
        async with gate.alone():
            pass

    holder = asyncio.create_task(first())
    await ticks()
    newcomer = asyncio.create_task(together())
    await ticks()
    second = asyncio.create_task(alone())
    await ticks()
    leave.set()
    while not holder.done():
        await asyncio.sleep(0)
    second.cancel()
    async with asyncio.timeout(60):
        await newcomer


@virtual
async def test_the_gate_lets_the_lowest_rank_go_first(world: World) -> None:
    gate = Gate()
    order: list[str] = []

    async def alone(name: str, rank: int) -> None:
        async with gate.alone(rank):
            order.append(name)

    async with gate.together():
        visits = [asyncio.create_task(alone(name, rank)) for name, rank in (("a", 2), ("b", 0), ("c", 1), ("d", 0))]
        await ticks()
        assert order == []
    await asyncio.gather(*visits)
    assert order == ["b", "d", "c", "a"]


@virtual
async def test_the_gate_goes_on_when_the_next_to_be_alone_gives_up(world: World) -> None:
    """Somebody is inside all the time: nobody else wakes those that wait."""
    gate = Gate()
    inside = asyncio.Event()

    async def together() -> None:
        async with gate.together():
            inside.set()

    async def alone(rank: int) -> None:
        async with gate.alone(rank):
            pass

    async with gate.together():
        first = asyncio.create_task(alone(0))
        await ticks()
        newcomer = asyncio.create_task(together())
        await ticks()
        assert not inside.is_set()
        first.cancel()
        async with asyncio.timeout(60):
            await newcomer
    second, third = asyncio.create_task(alone(1)), asyncio.create_task(alone(2))
    await ticks()
    async with asyncio.timeout(60):
        await asyncio.gather(second, third)


@virtual
async def test_nothing_is_verified_that_was_not_finished(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", GOOD)
    await hand.handle(await world.task())
    assert world.fakes.model.verified == [b"finished raw 1"], "verify sees what the customer will see"


@virtual
async def test_a_checkpoint_names_its_picture(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", WORLD)
    await hand.handle(await world.task())
    image = await world.image()
    (name,) = await world.kept("work")
    assert image.checkpoint is not None
    assert image.checkpoint == Checkpoint(analysis=image.checkpoint.analysis, picture=name, generations=1)
    assert name == "work/acme.b1/0/1-1", "the fence stands in its name"
