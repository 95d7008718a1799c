"""STAGE IMAGE keeps the work that is paid: whatever interrupts it, nothing is bought twice."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import ConfigurationError, ErrorCode, ImageRejected, WorldError
from shared.model import Usage
from shared.worker.disposition import Action
from tests.harness.fakes import BAD, COST, IMAGE, TEXT, Stall
from tests.harness.world import STALE_SECONDS, World, virtual
from tests.rooms.stage_image.parts import COMPLETED, FAILED, PAID, WORLD, kinds, rejected


def billed(error: WorldError | ImageRejected, tokens: int = 50) -> WorldError | ImageRejected:
    error.usage = Usage(IMAGE, tokens, 0)
    return error


@pytest.mark.parametrize("how", ["world", "cancelled", "crashed", "configuration", "bug"])
@virtual
async def test_a_generated_picture_is_not_bought_again(world: World, how: str) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    task = await world.task()
    if how == "crashed":
        await world.killed_at("verify", task)
    else:
        stall = Stall()
        ends = {"world": WORLD, "configuration": ConfigurationError("x"), "bug": KeyError("x")}
        world.fakes.will("verify", ends.get(how, stall))
        work = first.begin(task)
        if how == "cancelled":
            await stall.reached.wait()
            work.cancel()
        await asyncio.wait([work])
    assert len(await world.kept("work")) == 1
    await world.clock.sleep(STALE_SECONDS)
    assert (await second.handle(task)).action is Action.ACK
    image = await world.image()
    assert image.state is COMPLETED
    assert world.fakes.bought == [*PAID, "verify"]
    assert image.output is not None
    assert (await world.kept("results"))[image.output.picture][1] == b"finished raw 1"
    assert await world.kept("work") == {}, "the picture of the first worker is cleared away by the second"
    assert image.attempts == (1 if how in ("world", "bug") else 0)


@virtual
async def test_an_analysis_travels_with_a_release(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", WORLD, ConfigurationError("x"))
    task = await world.task()
    for _ in range(3):
        await hand.handle(task)
    assert (await world.image()).state is COMPLETED
    assert world.fakes.bought == ["analyse", "generate", "generate", "generate", "verify"]


@virtual
async def test_a_missing_work_object_is_no_checkpoint(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", WORLD)
    task = await world.task()
    await hand.handle(task)
    (name,) = await world.kept("work")
    await world.objects.delete("work", name)
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert image.state is COMPLETED
    assert world.fakes.bought == [*PAID, "generate", "verify"]
    assert image.output is not None
    assert (await world.kept("results"))[image.output.picture][1] == b"finished raw 2"


@virtual
async def test_a_damaged_picture_is_not_kept(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("finish", WorldError(ErrorCode.VENDOR_BAD_ANSWER, "truncated"))
    task = await world.task()
    assert (await hand.handle(task)).action is Action.NACK
    assert await world.kept("work") == {}
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert world.fakes.bought == ["analyse", "generate", "generate", "verify"]
    assert image.cost_micro_usd == COST["analyse"] + 2 * COST["generate"] + COST["verify"], (
        "it was paid for all the same"
    )


@virtual
async def test_generations_are_counted_across_attempts(world: World) -> None:
    """Bad, then a world's fault, then bad and bad: three pictures in all, not three per attempt."""
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", BAD, WORLD, BAD, BAD)
    task = await world.task()
    while (await hand.handle(task)).action is Action.NACK:
        pass
    image = await world.image()
    assert image.state is FAILED
    assert image.error is not None
    assert image.error.code == ErrorCode.QUALITY_REJECTED
    assert world.fakes.bought.count("generate") == 3


@virtual
async def test_defects_survive_a_failed_generation(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", BAD)
    world.fakes.will("generate", None, WORLD)
    task = await world.task()
    assert (await hand.handle(task)).action is Action.NACK
    assert (await hand.handle(task)).action is Action.ACK
    assert world.fakes.model.defects[0] == ()
    assert world.fakes.model.defects[1] == world.fakes.model.defects[2] != ()


@virtual
async def test_costs_add_up_over_attempts_and_failures(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("analyse", billed(WorldError(ErrorCode.VENDOR_BAD_ANSWER, "x"), 7))
    world.fakes.will("generate", billed(WorldError(ErrorCode.VENDOR_BAD_ANSWER, "x"), 11), None)
    world.fakes.will("verify", BAD, billed(rejected(ErrorCode.REFUSED_BY_SAFETY), 13))
    task = await world.task()
    while (await hand.handle(task)).action is Action.NACK:
        pass
    image = await world.image()
    assert image.state is FAILED
    expected = 3 * (7 + 11 + 13) + COST["analyse"] + 2 * COST["generate"] + COST["verify"]
    assert image.cost_micro_usd == expected
    assert kinds(image) == ["analyse", "analyse", "generate", "generate", "verify", "generate", "verify"]
    assert {call.model for call in image.calls} == {TEXT, IMAGE}
