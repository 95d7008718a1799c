"""STAGE IMAGE against the table of errors and messages: a worker was killed, and who is to blame."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from shared.decisions.image import CLAIM_CAP_SECONDS, HEARTBEAT_STALE_SECONDS, TRIAL_AFTER_SECONDS
from shared.errors import ErrorCode, WrongShape
from shared.model import Trials
from shared.ports import Photo
from shared.worker.disposition import Action
from tests.harness.fakes import Stall
from tests.harness.faults import Fuse, fused
from tests.harness.world import STALE_SECONDS, World, ticks, virtual
from tests.rooms.stage_image.parts import COMPLETED, FAILED, PROCESSING, QUEUED


@virtual
async def test_a_dead_workers_image_is_taken_over(world: World) -> None:
    await world.batch()
    second = await world.worker()
    task = await world.task()
    await world.killed_at("generate", task)
    await world.clock.sleep(HEARTBEAT_STALE_SECONDS - 1)
    assert (await second.handle(task)).action is Action.LET_GO, "a beat or two may be lost"
    await world.clock.sleep(2)
    assert (await second.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.crashes, image.fence, image.attempts) == (COMPLETED, 1, 2, 0)


@virtual
async def test_a_worker_that_left_no_heartbeat_is_dead(world: World) -> None:
    await world.batch()
    await world.held_by("ghost")
    hand = await world.worker()
    assert (await hand.handle(await world.task())).action is Action.ACK
    image = await world.image()
    assert (image.state, image.crashes, image.fence) == (COMPLETED, 1, 2)


@virtual
async def test_what_a_stopped_worker_left_is_free_at_once_and_no_crash(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    await world.held_by(first.heartbeat.worker, crashes=1)
    first.fall_silent()
    await first.heartbeat.stop()
    assert (await second.handle(await world.task())).action is Action.ACK
    image = await world.image()
    assert (image.state, image.crashes) == (COMPLETED, 1)


@virtual
async def test_a_stuck_claim_of_a_living_worker_is_taken_over_and_no_crash(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("fetch", stall)
    task = await world.task()
    work = first.begin(task)
    await world.clock.sleep(CLAIM_CAP_SECONDS - 10)
    assert (await second.handle(task)).action is Action.LET_GO
    await world.clock.sleep(11)
    assert (await second.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.crashes, image.fence) == (COMPLETED, 0, 2)
    stall.go_on.set()
    assert (await work).action is Action.LET_GO
    assert await world.image() == image


@virtual
async def test_the_third_claim_after_two_crashes_is_alone(world: World) -> None:
    await world.batch(4)
    await world.held_by("ghost", 3, crashes=1)
    hand = await world.grown_worker()
    busy, suspect = Stall(), Stall()
    world.fakes.will("fetch", busy)
    before = hand.begin(await world.task(0))
    await busy.reached.wait()
    world.fakes.will("fetch", suspect)
    alone = hand.begin(await world.task(3))
    await ticks()
    image = await world.image(3)
    assert not suspect.reached.is_set(), "it waits until nothing else is in hand"
    assert (image.crashes, image.state) == (2, PROCESSING)
    later = [hand.begin(await world.task(index)) for index in (1, 2)]
    await ticks()
    assert [(await world.image(index)).state for index in (1, 2)] == [QUEUED, QUEUED], "nothing else is claimed"
    busy.go_on.set()
    await suspect.reached.wait()
    await ticks()
    assert (await before).action is Action.ACK
    image = await world.image(3)
    assert image.claim is not None
    assert image.claim.alone
    assert world.fakes.source.inside == 1
    assert [(await world.image(index)).state for index in (1, 2)] == [QUEUED, QUEUED]
    suspect.go_on.set()
    assert (await alone).action is Action.ACK
    assert [(await work).action for work in later] == [Action.ACK] * 2
    assert [(await world.image(index)).state for index in range(4)] == [COMPLETED] * 4


@virtual
async def test_a_young_worker_gives_a_suspect_back_until_it_has_lived_for_a_while(world: World) -> None:
    """So the suspect holds no slot, and is in no hand that may be killed."""
    await world.batch()
    await world.held_by("ghost", crashes=1)
    hand = await world.worker()
    await world.clock.sleep(5)
    task = await world.task()
    done = await hand.handle(task)
    assert done.action is Action.WAIT
    image = await world.image()
    assert (image.state, image.crashes, image.attempts, image.claim) == (QUEUED, 2, 0, None)
    assert done.wait is not None
    before = world.clock.monotonic()
    await done.wait()
    assert world.clock.monotonic() - before == TRIAL_AFTER_SECONDS - 5
    assert world.fakes.source.calls == []
    assert (await hand.handle(task)).action is Action.ACK
    assert (await world.image()).trials == Trials(passed=1)


@virtual
async def test_when_its_photo_is_prepared_a_suspect_goes_on_in_company(world: World) -> None:
    """First all suspects prepare their photos, one by one; then all images go on side by side."""
    await world.batch(3)
    for index in range(2):
        await world.held_by("ghost", index, crashes=1)
    hand = await world.grown_worker()
    drawing = [Stall() for _ in range(3)]
    world.fakes.will("generate", *drawing)
    fetching = Stall()
    world.fakes.will("fetch", fetching)
    work = [hand.begin(await world.task(index)) for index in range(2)]
    await fetching.reached.wait()
    work.append(hand.begin(await world.task(2)))
    await ticks()
    fetching.go_on.set()
    for stall in drawing:
        await stall.reached.wait()
    assert world.fakes.source.max_inside == 1, "the third is no suspect, and waited for the others' photos"
    for index in range(2):
        image = await world.image(index)
        assert (image.trials, image.crashes, image.claim.alone, image.claim.step) == (Trials(passed=1), 0, False, "")
    for stall in drawing:
        stall.go_on.set()
    assert [(await done).action for done in work] == [Action.ACK] * 3


@virtual
async def test_after_two_trials_a_suspect_is_alone_to_the_end(world: World) -> None:
    await world.batch(2)
    await world.held_by("ghost", 0, crashes=1, trials=Trials(passed=2))
    hand = await world.grown_worker()
    drawing = Stall()
    world.fakes.will("generate", drawing)
    suspect = hand.begin(await world.task(0))
    await drawing.reached.wait()
    other = hand.begin(await world.task(1))
    await ticks()
    assert (await world.image()).claim.alone
    assert (await world.image(1)).state is QUEUED
    drawing.go_on.set()
    assert [(await work).action for work in (suspect, other)] == [Action.ACK] * 2


# Where a worker that is alone with an image dies -> the step that its document names.
NOTED = {"fetch": "", "normalise": "prepare", "analyse": "", "generate": "", "finish": "finish", "verify": ""}


@pytest.mark.parametrize("step", list(NOTED))
@virtual
async def test_a_lone_workers_successor_knows_where_it_died(world: World, step: str) -> None:
    await world.batch()
    await world.change_image(crashes=2, trials=Trials(passed=2))
    task = await world.task()
    await world.killed_at(step, task)
    image = await world.image()
    assert image.claim is not None
    assert (image.claim.alone, image.claim.step) == (True, NOTED[step])
    await world.clock.sleep(STALE_SECONDS)
    assert (await (await world.grown_worker()).handle(task)).action is Action.ACK
    image = await world.image()
    row = 1 if NOTED[step] else 0
    assert (image.state, image.trials) == (COMPLETED, Trials(deaths=1, step=NOTED[step], in_a_row=row, passed=2))


@virtual
async def test_a_picture_that_was_refused_is_not_what_its_worker_died_of(world: World) -> None:
    """A picture of the wrong shape costs a generation; a death while the next one is bought is a death elsewhere."""
    await world.batch()
    await world.change_image(crashes=2, trials=Trials(passed=2))
    task = await world.task()
    hand = await world.grown_worker()
    again = Stall()
    world.fakes.will("generate", None, again)
    world.fakes.will("finish", WrongShape("it is square"))
    work = hand.begin(task)
    await again.reached.wait()
    image = await world.image()
    assert image.claim is not None
    assert (image.claim.alone, image.claim.step) == (True, "")
    again.go_on.set()
    assert (await work).action is Action.ACK


@virtual
async def test_a_photo_within_bars_is_noted_too(world: World) -> None:
    """No model draws a shape as long as this."""
    await world.batch()
    await world.change_image(crashes=2, trials=Trials(passed=2))
    world.fakes.will("normalise", Photo(jpeg=b"long", width=4000, height=400, sha256="0"))
    await world.killed_at("framed", await world.task())
    image = await world.image()
    assert image.claim is not None
    assert (image.claim.alone, image.claim.step) == (True, "frame")


@pytest.mark.parametrize("step", list(NOTED))
@virtual
async def test_an_image_in_company_writes_no_steps(world: World, step: str) -> None:
    await world.batch()
    task = await world.task()
    await world.killed_at(step, task)
    image = await world.image()
    assert image.claim is not None
    assert (image.claim.alone, image.claim.step) == (False, "")
    assert image.revision <= 3, "its claim and its checkpoint"


@virtual
async def test_six_lone_deaths_in_one_step_are_the_images_own(world: World) -> None:
    await world.batch()
    task = await world.task()
    for deaths in range(8):
        assert (await world.image()).trials.deaths == max(0, deaths - 3)
        await world.killed_at("normalise", task)
        await world.clock.sleep(STALE_SECONDS)
    last = await world.worker()
    assert (await last.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.crashes, image.claim) == (FAILED, 8, None)
    assert image.trials == Trials(deaths=6, step="prepare", in_a_row=6)
    assert image.error is not None
    assert image.error.code == ErrorCode.WORKER_CRASHED
    assert image.error.message == (
        "6 workers died while they held only this image, the last 6 of them at the step prepare"
    )
    (letter,) = await world.letters()
    assert letter.code == ErrorCode.WORKER_CRASHED
    assert letter.task is not None
    assert (await last.handle(task)).action is Action.ACK
    assert await world.letters() == [letter]


@virtual
async def test_a_suspect_that_only_waited_for_its_turn_is_not_to_blame(world: World) -> None:
    """The worker dies while the suspect still waits until others are done: it was not alone, and nothing touched it."""
    await world.batch(2)
    await world.held_by("ghost", 1, crashes=1)
    hand = await world.grown_worker()
    other = Stall()
    world.fakes.will("fetch", other)
    _ = hand.begin(await world.task(0))
    await other.reached.wait()
    _ = hand.begin(await world.task(1))
    await ticks()
    assert (await world.image(1)).crashes == 2
    assert world.fakes.source.calls == ["fetch"], "the suspect is not even fetched yet"
    hand.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    await (await world.grown_worker()).handle(await world.task(1))
    image = await world.image(1)
    assert (image.state, image.trials) == (COMPLETED, Trials(passed=1))


@virtual
async def test_of_many_suspects_only_the_one_that_worked_is_to_blame(world: World) -> None:
    """One poisonous picture takes fifty healthy ones through two crashes; alone, one after another, all but it survive."""
    await world.batch(10)
    for index in range(10):
        await world.held_by("ghost", index, crashes=1)
    poison = (await world.image(4)).source.encode()
    normalise = world.fakes.pictures.normalise
    process = Fuse()  # of the present worker

    async def deadly(data: bytes) -> Any:
        if data == poison:
            raise process.blow()
        return await normalise(data)

    world.fakes.pictures.normalise = deadly  # type: ignore[method-assign]
    for life in range(8):  # workers, one after another; each takes whatever is open
        process = Fuse()
        hand = await world.grown_worker(fused(world.parts, process))
        waiting = [index for index in range(10) if (await world.image(index)).state in (QUEUED, PROCESSING)]
        tasks = [await world.task(index) for index in waiting]
        await process.kills(all_of([hand.handle(task) for task in tasks]))
        hand.fall_silent()
        await world.clock.sleep(STALE_SECONDS)
        if (
            life > 1
        ):  # its second death at the latest is known to be its own: it is tried last, when all others are done
            assert [index for index in range(10) if (await world.image(index)).state is PROCESSING] in ([4], [])
    states = {index: (await world.image(index)).state for index in range(10)}
    assert states == {index: FAILED if index == 4 else COMPLETED for index in range(10)}


async def all_of(work: list[Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*work, return_exceptions=True)
