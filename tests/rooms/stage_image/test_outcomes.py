"""STAGE IMAGE against the table of errors and messages (design, section 5): staged, refused, or stopped by a bug."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.model import Failure, ImageState
from shared.worker.disposition import Action
from tests.harness.fakes import BAD, COST, STEPS
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import World, virtual
from tests.rooms.stage_image.parts import CANCELLED, COMPLETED, FAILED, PAID, QUEUED, kinds, no_trace, rejected

# --- row: staged; or already settled


@virtual
async def test_staged(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    started = world.clock.now()
    world.fakes.will("generate", lambda: asyncio.sleep(30))
    done = await hand.handle(await world.task())
    assert done.action is Action.ACK
    image = await world.image()
    assert image.state is COMPLETED
    assert (image.attempts, image.crashes, image.fence, image.round) == (0, 0, 1, 1)
    assert image.claim is None
    assert image.error is None
    assert image.prompts == "v-test"
    assert image.settled_at == started + 30
    assert world.fakes.bought == list(PAID)
    assert world.fakes.source.clients == ["acme"]
    assert kinds(image) == list(PAID)
    assert image.cost_micro_usd == sum(COST.values())
    assert image.durations_ms["generate"] == 30_000
    assert set(image.durations_ms) == {"download", "prepare", *PAID, "publish"}
    assert image.output is not None
    objects = await world.kept("results", "results/")
    assert set(objects) == {image.output.picture, image.output.thumbnail, image.output.before}
    assert image.output.picture == "results/acme/b1/images/0-APT-0.jpg"
    assert objects[image.output.picture][1] == b"finished raw 1"
    assert {metadata["fence"] for _, _, metadata in objects.values()} == {"1"}
    assert await world.kept("work") == {}, "paid work that nobody needs any more is cleared away"
    await no_trace(world)


@virtual
async def test_a_completed_image_delivered_again_changes_nothing(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    task = await world.task()
    await hand.handle(task)
    image, objects, bought = await world.image(), await world.kept("results"), list(world.fakes.bought)
    for other in (hand, await world.worker()):
        assert (await other.handle(task)).action is Action.ACK
    assert await world.image() == image
    assert await world.kept("results") == objects
    assert world.fakes.bought == bought
    await no_trace(world)


@pytest.mark.parametrize("state", [QUEUED, COMPLETED, FAILED, CANCELLED])
@pytest.mark.parametrize("task_round", [1, 3])
@virtual
async def test_a_task_of_another_round_changes_nothing(world: World, state: ImageState, task_round: int) -> None:
    await world.batch()
    before = await world.change_image(state=state, round=2, error=Failure(code="internal", message="x"))
    hand = await world.worker()
    assert (await hand.handle(await world.task(round=task_round))).action is Action.ACK
    assert await world.image() == before
    assert world.fakes.bought == []
    await no_trace(world)


@virtual
async def test_a_task_of_no_image_is_a_letter(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    for task in (await world.task(index=0, batch="acme.none"), await world.task(round=1)):
        if b"none" not in task.data:
            task = world.delivery(task.data.replace(b'"index":0', b'"index":9'))
        assert (await hand.handle(task)).action is Action.ACK
        (letter,) = await world.letters()
        assert letter.code == ErrorCode.INTERNAL
        assert letter.task is not None


# --- row: the image's own fault


OWN_FAULTS = [
    ("fetch", ErrorCode.SOURCE_NOT_FOUND), ("fetch", ErrorCode.SOURCE_FORBIDDEN), ("fetch", ErrorCode.SOURCE_NOT_ALLOWED),
    ("fetch", ErrorCode.SOURCE_TOO_LARGE), ("normalise", ErrorCode.NOT_A_PICTURE), ("normalise", ErrorCode.PICTURE_TOO_LARGE),
    ("normalise", ErrorCode.PICTURE_TOO_SMALL), ("analyse", ErrorCode.REFUSED_BY_SAFETY),
    ("generate", ErrorCode.REFUSED_BY_SAFETY), ("verify", ErrorCode.REFUSED_BY_SAFETY),
]  # fmt: skip


@pytest.mark.parametrize(("step", "code"), OWN_FAULTS)
@virtual
async def test_the_images_own_fault(world: World, step: str, code: ErrorCode) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will(step, rejected(code))
    task = await world.task()
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert image.state is FAILED
    assert image.error == Failure(code=code, message="look at this")
    assert image.claim is None
    assert image.attempts == 1
    assert image.settled_at == world.clock.now()
    (letter,) = await world.letters()
    expected = {"code": code, "message": "look at this", "attempts": 1, "batch": "acme.b1", "index": 0, "round": 1}
    assert {"code": letter.code, "message": letter.message, "attempts": letter.attempts} | {
        name: getattr(letter.task, name) for name in ("batch", "index", "round")
    } == expected
    assert await world.kept("results") == {}
    # Delivered again: the letter may have been lost with its sender, so it is repeated; nothing else happens.
    bought = list(world.fakes.bought)
    assert (await (await world.worker()).handle(task)).action is Action.ACK
    assert await world.letters() == [letter]
    assert await world.image() == image
    assert world.fakes.bought == bought


@virtual
async def test_killed_between_settling_and_the_letter(world: World) -> None:
    await world.batch()
    fuse = Fuse(1, on="publish")
    hand = await world.worker(fused(world.parts, fuse))
    world.fakes.will("fetch", rejected())
    task = await world.task()
    assert await fuse.kills(hand.handle(task))
    assert (await world.image()).state is FAILED
    await no_trace(world)
    assert (await (await world.worker()).handle(task)).action is Action.ACK
    assert [letter.code for letter in await world.letters()] == [ErrorCode.NOT_A_PICTURE]


@virtual
async def test_a_letter_that_cannot_be_written_is_written_later(world: World) -> None:
    await world.batch()
    fuse = Fuse(1, on="publish", error=unreachable)
    hand = await world.worker(fused(world.parts, fuse))
    world.fakes.will("fetch", rejected())
    task = await world.task()
    assert (await hand.handle(task)).action is Action.NACK
    assert fuse.blown
    assert (await world.image()).state is FAILED
    await no_trace(world)
    assert (await hand.handle(task)).action is Action.ACK
    assert len(await world.letters()) == 1


@virtual
async def test_long_messages_are_shortened(world: World) -> None:
    await world.batch(2)
    hand = await world.worker()
    world.fakes.will("fetch", ImageRejected(ErrorCode.SOURCE_FORBIDDEN, "x" * 10_000))
    await hand.handle(await world.task(0))
    world.fakes.will("fetch", WorldError(ErrorCode.SOURCE_UNAVAILABLE, "y" * 10_000))
    await hand.handle(await world.task(1))
    for index in (0, 1):
        error = (await world.image(index)).error
        assert error is not None
        assert len(error.message) == 500


@virtual
async def test_quality_rejected_after_three_generations(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", BAD, BAD, BAD)
    assert (await hand.handle(await world.task())).action is Action.ACK
    image = await world.image()
    assert image.state is FAILED
    assert image.error is not None
    assert image.error.code == ErrorCode.QUALITY_REJECTED
    assert "sofa floats" in image.error.message
    assert world.fakes.bought == ["analyse", *["generate", "verify"] * 3]
    assert world.fakes.model.defects[0] == ()
    for told in world.fakes.model.defects[1:]:
        assert "sofa floats" in told
        assert "window walled up" in told
    assert image.cost_micro_usd == COST["analyse"] + 3 * (COST["generate"] + COST["verify"])
    assert [letter.code for letter in await world.letters()] == [ErrorCode.QUALITY_REJECTED]
    assert await world.kept("results") == {}


@virtual
async def test_the_second_generation_is_good(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("verify", BAD)
    await hand.handle(await world.task())
    image = await world.image()
    assert image.state is COMPLETED
    assert image.output is not None
    assert (await world.kept("results"))[image.output.picture][1] == b"finished raw 2"
    assert world.fakes.model.verified == [b"finished raw 1", b"finished raw 2"]
    assert await world.kept("work") == {}, "both generated pictures are cleared away"


# --- row: a bug


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_bug(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will(step, *[ZeroDivisionError("oops")] * 3)
    task = await world.task()
    for attempt in (1, 2):
        with logs() as records:
            assert (await hand.handle(task)).action is Action.NACK
        (record,) = [record for record in records if record.levelno >= logging.ERROR]
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ZeroDivisionError)
        assert "acme.b1/0" in record.getMessage()
        image = await world.image()
        assert (image.state, image.attempts, image.claim) == (QUEUED, attempt, None)
        assert image.error == Failure(code=ErrorCode.INTERNAL, message="ZeroDivisionError: oops")
    await no_trace(world)
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts) == (FAILED, 3)
    assert [(letter.code, letter.attempts) for letter in await world.letters()] == [(ErrorCode.INTERNAL, 3)]


class logs:
    """The log records of the room while inside."""

    def __enter__(self) -> list[logging.LogRecord]:
        self._records: list[logging.LogRecord] = []
        self._handler = logging.Handler()
        self._handler.emit = self._records.append  # type: ignore[method-assign]
        logging.getLogger("shared").addHandler(self._handler)
        return self._records

    def __exit__(self, *_: object) -> None:
        logging.getLogger("shared").removeHandler(self._handler)


@virtual
async def test_a_bug_of_one_image_leaves_the_others_alone(world: World) -> None:
    await world.batch(5)
    hand = await world.worker()
    world.fakes.will("analyse", None, ValueError("only this one"))
    done = await asyncio.gather(*[hand.handle(await world.task(index)) for index in range(5)])
    assert sorted(d.action for d in done) == [Action.ACK] * 4 + [Action.NACK]
    states = sorted([(await world.image(index)).state for index in range(5)])
    assert states == [COMPLETED] * 4 + [QUEUED]
