"""STAGE IMAGE against the table of errors and messages (design, section 5), row by row, and the rules of claims."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from ops.noop import GOOD
from shared.decisions.image import CLAIM_CAP_SECONDS, HEARTBEAT_STALE_SECONDS, TRIAL_AFTER_SECONDS
from shared.decisions.quota import Circuit, Ledger
from shared.errors import (
    ConfigurationError,
    DailyQuotaSpent,
    ErrorCode,
    ImageRejected,
    RuumError,
    Throttled,
    WorldError,
    WrongShape,
)
from shared.messages import Letter, decode, encode, task_for
from shared.model import Checkpoint, Control, Failure, Image, ImageState, Trials, Usage, Worker
from shared.ports import Message, Photo
from shared.worker.disposition import Action
from shared.worker.gate import Gate
from shared.worker.heartbeat import Heartbeat
from tests.clocks import VirtualClock
from tests.parts import (
    BAD,
    COST,
    IMAGE,
    STALE_SECONDS,
    STEPS,
    TEXT,
    Fuse,
    Fused,
    Hand,
    Stall,
    World,
    fused,
    spec,
    ticks,
    unreachable,
    virtual,
)

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
PAID = ("analyse", "generate", "verify")
WORLD = WorldError(ErrorCode.VENDOR_BAD_ANSWER, "the vendor answers nonsense")


def rejected(code: ErrorCode = ErrorCode.NOT_A_PICTURE) -> ImageRejected:
    return ImageRejected(code, "look at this")


def billed(error: WorldError | ImageRejected, tokens: int = 50) -> WorldError | ImageRejected:
    error.usage = Usage(IMAGE, tokens, 0)
    return error


async def no_trace(world: World) -> None:
    """Nothing was said on the dead-letter topic."""
    assert await world.letters() == []


def kinds(images: Image) -> list[str]:
    return [call.step for call in images.calls]


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


# --- row: unreadable message


UNREADABLE = [b"", b"{}", b"not json", b"\xff\xfe\x00", b"[]", b"null", b"7", b'{"batch": 7, "index": 0, "round": 1, "tier": "normal"}',
              b'{"batch": "acme.b1", "index": "0", "round": 1, "tier": "normal"}',
              b'{"batch": "acme.b1", "index": 0, "round": 1, "tier": "vip"}', b'{"batch": "acme.b1"', b"[" * 100_000,
              b"x" * 1_000_000]  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:20]))
@virtual
async def test_an_unreadable_message(world: World, body: bytes) -> None:
    hand = await world.worker()
    assert (await hand.handle(world.delivery(body))).action is Action.ACK
    (letter,) = await world.letters()
    assert letter.task is None
    assert letter.code == ErrorCode.INTERNAL
    assert "unreadable" in letter.message
    assert len(letter.original) <= 500
    assert letter.original[:20] == body[:20].decode("utf-8", "replace")


@virtual
async def test_an_unreadable_message_while_the_queue_is_away(world: World) -> None:
    """`handle` never raises; a letter that was not written is written when the message comes again."""
    hand = await world.worker(fused(world.parts, Fuse(1, on="publish", error=unreachable)))
    delivery = world.delivery(b"not json")
    assert (await hand.handle(delivery)).action is Action.NACK
    assert (await hand.handle(delivery)).action is Action.ACK
    assert len(await world.letters()) == 1


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


# --- row: the world's fault


WORLD_FAULTS = [
    ("fetch", ErrorCode.SOURCE_UNAVAILABLE), ("analyse", ErrorCode.VENDOR_BAD_ANSWER), ("generate", ErrorCode.VENDOR_BAD_ANSWER),
    ("finish", ErrorCode.VENDOR_BAD_ANSWER), ("verify", ErrorCode.VENDOR_BAD_ANSWER),
]  # fmt: skip


@pytest.mark.parametrize(("step", "code"), WORLD_FAULTS)
@virtual
async def test_the_worlds_fault(world: World, step: str, code: ErrorCode) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will(step, *[WorldError(code, "not now")] * 3)
    task = await world.task()
    for attempt in (1, 2):
        assert (await hand.handle(task)).action is Action.NACK
        image = await world.image()
        assert image.state is QUEUED
        assert image.attempts == attempt
        assert image.error == Failure(code=code, message="not now")
        assert image.claim is None
        await no_trace(world)
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.fence) == (FAILED, 3, 3)
    (letter,) = await world.letters()
    assert (letter.code, letter.message, letter.attempts) == (code, "not now", 3)
    assert (await hand.handle(task)).action is Action.ACK
    assert await world.letters() == [letter]
    assert (await world.image()) == image


AWAY = [WorldError(code, "not now") for code in (ErrorCode.VENDOR_UNAVAILABLE, ErrorCode.VENDOR_TIMEOUT)]


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
@virtual
async def test_an_outage_spends_no_attempt_of_a_single_image(world: World, step: str, away: WorldError) -> None:
    """Five failures in a row open the circuit, but one image makes few calls: each failure waits for the next answer."""
    await world.batch()
    hand = await world.worker()
    world.fakes.will(step, *[away] * 9)
    assert (await hand.handle(await world.task())).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.error) == (COMPLETED, 0, None)
    assert world.fakes.bought.count(step) == 10


@virtual
async def test_a_call_that_fails_while_others_are_answered_spends_attempts(world: World) -> None:
    await world.batch(2)
    hand = await world.worker()
    world.fakes.will("generate", AWAY[0])
    first = hand.begin(await world.task(0))
    await world.clock.sleep(1)
    assert (await hand.handle(await world.task(1))).action is Action.ACK
    assert (await first).action is Action.NACK
    assert (await world.image(0)).attempts == 1


@virtual
async def test_a_call_that_only_ever_fails_spends_attempts_in_the_end(world: World) -> None:
    """One photo that the vendor cannot answer must not be taken for an outage without end."""
    patient = msgspec.structs.replace(world.settings.attempts, max_outage_seconds=3600.0)
    world.settings = msgspec.structs.replace(world.settings, attempts=patient)
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", *[AWAY[0]] * 1000)
    started = world.clock.now()
    assert (await hand.handle(await world.task())).action is Action.NACK
    assert 3600 <= world.clock.now() - started <= 3600 + 400
    assert (await world.image()).attempts == 1


@virtual
async def test_it_recovers_and_forgets_the_error(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", WORLD, WORLD)
    task = await world.task()
    for _ in range(2):
        assert (await hand.handle(task)).action is Action.NACK
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.error) == (COMPLETED, 2, None)


@virtual
async def test_most_attempts_is_the_setting(world: World) -> None:
    attempts = msgspec.structs.replace(world.settings.attempts, max_attempts=1)
    world.settings = msgspec.structs.replace(world.settings, attempts=attempts)
    await world.batch()
    hand = await world.worker()
    world.fakes.will("fetch", WORLD)
    assert (await hand.handle(await world.task())).action is Action.ACK
    assert (await world.image()).state is FAILED


@virtual
async def test_a_store_away_before_the_claim_spends_nothing(world: World) -> None:
    await world.batch()
    for at in (1, 2):
        fuse = Fuse(at, error=unreachable)
        hand = Hand(world, fused(world.parts, fuse), world.fakes)
        assert (await hand.handle(await world.task())).action is Action.NACK
        image = await world.image()
        assert (image.state, image.attempts, image.fence) == (QUEUED, 0, 0)
    await no_trace(world)


# --- row: throttled


@pytest.mark.parametrize("asked", [7.0, 0.0, 300.0, None])
@pytest.mark.parametrize("step", PAID)
@virtual
async def test_throttled_waits_and_spends_nothing(world: World, step: str, asked: float | None) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will(step, Throttled("slow down", asked))
    started = world.clock.now()
    work = hand.begin(await world.task())
    await world.clock.sleep(0.9 + (asked or 0.0))
    image = await world.image()
    assert (image.state, image.attempts) == (PROCESSING, 0)
    assert world.fakes.bought.count(step) == 1
    assert (await work).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.error) == (COMPLETED, 0, None)
    waited = world.clock.now() - started
    if asked is None:
        assert 5.0 <= waited <= 60.0
    else:
        assert waited == pytest.approx(asked + 1.0, abs=0.2), "vendors truncate: one second more than they say"
    assert kinds(image) == list(PAID), "a call that was turned away costs nothing"


@pytest.mark.parametrize("refusal", [Throttled("slow down", 7.0), DailyQuotaSpent("come tomorrow")])
@pytest.mark.parametrize("step", PAID)
@virtual
async def test_a_refusal_that_cannot_be_noted_spends_nothing(world: World, step: str, refusal: RuumError) -> None:
    """The vendor says no, and the ledger cannot be reached to say so: neither is the image's fault."""
    await world.batch()
    fuse = Fuse(error=unreachable, on="change_record")
    hand = await world.worker(fused(world.parts, fuse))

    async def refuse() -> None:
        fuse.at = len(fuse.calls) + 1  # the ledger's next write
        raise refusal

    world.fakes.will(step, refuse)
    disposition = await hand.handle(await world.task())
    assert fuse.blown
    image = await world.image()
    assert image.attempts == 0
    if isinstance(refusal, Throttled):
        assert (disposition.action, image.state) == (Action.ACK, COMPLETED)
    else:
        assert image.state is QUEUED


@virtual
async def test_one_pause_holds_back_the_whole_model(world: World) -> None:
    await world.batch(3)
    hand = await world.worker()
    world.fakes.will("generate", Throttled("slow down", 9.0))
    first = hand.begin(await world.task(0))
    await ticks()
    others = [hand.begin(await world.task(index)) for index in (1, 2)]
    await world.clock.sleep(9.5)
    assert world.fakes.bought.count("generate") == 1, "nobody asks while the vendor wants rest"
    assert world.fakes.bought.count("analyse") == 3, "the other model is not concerned"
    for work in (first, *others):
        assert (await work).action is Action.ACK


@virtual
async def test_throttled_again_and_again(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", *[Throttled("slow down", 59.0)] * 200)
    assert (await hand.handle(await world.task())).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.fence) == (COMPLETED, 0, 1)


@virtual
async def test_an_open_circuit_is_waited_out(world: World) -> None:
    """The vendor is away for ten minutes: hardly anything is asked meanwhile, and no image fails of it."""
    await world.batch(20)
    hand = await world.worker()
    back_at = world.clock.now() + 600

    async def answer() -> None:
        if world.clock.now() < back_at:
            raise WorldError(ErrorCode.VENDOR_UNAVAILABLE, "away")

    world.fakes.will("generate", *[answer] * 1000)

    async def insist(index: int) -> None:
        task = await world.task(index)
        while (await hand.handle(task)).action is not Action.ACK:
            await world.clock.sleep(10)

    await asyncio.gather(*[insist(index) for index in range(20)])
    images = [await world.image(index) for index in range(20)]
    assert {image.state for image in images} == {COMPLETED}
    assert sum(image.attempts for image in images) == 0, "what opened the circuit is part of the outage too"
    assert world.fakes.bought.count("generate") <= 20 + 20 + 25
    assert world.clock.now() - back_at < 320


async def open_circuit(world: World, model: str = TEXT) -> float:
    """An outage that all of the fleet knows of; when its probe is due."""
    until = world.clock.now() + 30
    ledger = Ledger(id=model, circuit=Circuit.OPEN, open_until=until, opened_times=1, failures=5)
    await world.store.change_record(Ledger, model, lambda known, now: ledger, world.clock.token())
    return until


@pytest.mark.parametrize("control", [Control.PAUSED, Control.CANCELLING])
@virtual
async def test_a_probe_whose_batch_was_stopped_closes_no_circuit(world: World, control: Control) -> None:
    """It was never sent, so it has shown nothing; and the next who waits is the probe at once."""
    await world.batch()
    await world.batch(name="b2")
    hand = await world.worker()
    due = await open_circuit(world)
    stopped = hand.begin(await world.task())
    await world.clock.sleep(20)
    await world.change_batch(control=control, control_epoch=1)
    await stopped
    assert (world.clock.now() >= due, world.fakes.bought) == (True, [])
    await world.clock.sleep(1)
    ledger = await world.store.record(Ledger, TEXT)
    assert ledger is not None
    assert ledger.circuit is Circuit.OPEN
    began = world.clock.now()
    task = task_for(await world.image(0, "acme.b2"), 0)
    assert (await hand.handle(world.delivery(encode(task)))).action is Action.ACK
    assert world.clock.now() - began < 2
    ledger = await world.store.record(Ledger, TEXT)
    assert ledger is not None
    assert ledger.circuit is Circuit.CLOSED


@virtual
async def test_a_probe_that_is_broken_off_closes_no_circuit(world: World) -> None:
    """A deployment in the middle of an outage."""
    await world.batch()
    hand = await world.worker()
    await open_circuit(world)
    stall = Stall()
    world.fakes.will("analyse", stall)
    work = hand.begin(await world.task())
    await stall.reached.wait()
    work.cancel()
    await asyncio.wait([work])
    await world.clock.sleep(1)
    ledger = await world.store.record(Ledger, TEXT)
    assert ledger is not None
    assert ledger.circuit is Circuit.OPEN
    assert ledger.open_until <= world.clock.now(), "the next may try at once"
    assert (await world.image()).attempts == 0


@virtual
async def test_a_long_wait_does_not_cap_the_claim(world: World) -> None:
    """An hour of waiting for quota: the claim of a living worker stands, and a second worker leaves it alone."""
    await world.batch()
    first, second = await world.worker(), await world.worker()
    world.fakes.will("generate", Throttled("slow down", 3600.0))
    task = await world.task()
    work = first.begin(task)
    await world.clock.sleep(CLAIM_CAP_SECONDS + 600)
    assert (await second.handle(task)).action is Action.LET_GO
    assert (await work).action is Action.ACK
    image = await world.image()
    assert (image.state, image.fence) == (COMPLETED, 1)


# --- row: our configuration's fault


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_our_configurations_fault(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    error = ConfigurationError("the key is not valid")
    world.fakes.will(step, *[error] * 5)
    task = await world.task()
    for _ in range(5):
        done = await hand.handle(task)
        assert done.action is Action.HALT
        assert done.reason == str(error)
        image = await world.image()
        assert (image.state, image.attempts, image.claim) == (QUEUED, 0, None)
    await no_trace(world)
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.error) == (COMPLETED, None)


@pytest.mark.parametrize("step", PAID)
@virtual
async def test_a_spent_day(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will(step, DailyQuotaSpent("the day is spent"))
    task = await world.task()
    for _ in range(5):
        done = await hand.handle(task)
        assert (done.action, done.fault) == (Action.HALT, False)  # nobody is woken for a vendor's midnight
        assert "spent" in done.reason
        image = await world.image()
        assert (image.state, image.attempts, image.claim) == (QUEUED, 0, None)
        await world.clock.sleep(600)
    await no_trace(world)
    hand.fall_silent()
    await world.clock.sleep(26 * 3600)
    assert (await (await world.worker()).handle(task)).action is Action.ACK
    assert (await world.image()).state is COMPLETED


@virtual
async def test_a_model_without_a_price_is_our_configurations_fault(world: World) -> None:
    """`RUUM_GEMINI_IMAGE_MODEL` names a model that nobody entered a price for: no customer may pay for that."""
    await world.batch()
    hand = await world.worker()
    world.fakes.model.spec = spec(image="gemini-3-pro-image")
    world.fakes.model.usage["generate"] = Usage("gemini-3-pro-image", 100, 1000)
    task = await world.task()
    actions = [(await hand.handle(task)).action for _ in range(3)]
    image = await world.image()
    assert image.state is not FAILED, image.error
    assert image.attempts == 0
    assert set(actions) == {Action.HALT}
    assert "generate" not in world.fakes.bought, "nothing is bought that cannot be billed"


@virtual
async def test_configuration_is_never_the_final_error(world: World) -> None:
    """`ErrorCode.CONFIGURATION`: "ours; never the final error of an image". A cancelled one shows its error in results."""
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", ConfigurationError("the key is not valid"))
    task = await world.task()
    await hand.handle(task)
    await world.change_batch(control=Control.CANCELLING, control_epoch=1)
    await world.clock.sleep(6)
    assert (await hand.handle(task)).action is Action.ACK
    image = await world.image()
    assert image.state is CANCELLED
    assert image.error is None or image.error.code != ErrorCode.CONFIGURATION


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


# --- row: worker killed


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


# --- claims held by others


@virtual
async def test_held_by_another(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    before = await world.image()
    for hand in (second, first):  # the holder's own second delivery of the task is no better
        done = await hand.handle(task)
        assert (done.action, done.seconds) == (Action.LET_GO, world.settings.worker.held_seconds)
    assert await world.image() == before
    await no_trace(world)
    stall.go_on.set()
    assert (await work).action is Action.ACK
    assert world.fakes.bought == list(PAID)


@virtual
async def test_held_for_long_it_waits_longer_each_time(world: World) -> None:
    """Soon at first, for the holder may just have died; in all longer than a stuck claim stands."""
    await world.batch()
    hand, other = await world.worker(), await world.worker()
    await world.held_by(other.heartbeat.worker)
    data = (await world.task()).data
    waits = [(await hand.handle(world.delivery(data, attempt))).seconds for attempt in range(1, 11)]
    assert waits[0] == world.settings.worker.held_seconds
    assert waits == sorted(waits)
    assert max(waits) <= 600, "Pub/Sub's longest extension"
    assert sum(waits) > 600, "two downloads, three generations of 120 s and as many verifications fit in"
    assert sum(waits[:4]) < 60


@virtual
async def test_two_workers_at_once_and_only_one_stages(world: World) -> None:
    await world.batch()
    hands = [await world.worker() for _ in range(10)]
    task = await world.task()
    done = await asyncio.gather(*[hand.handle(task) for hand in hands])
    assert {d.action for d in done} <= {Action.ACK, Action.LET_GO}
    assert world.fakes.bought == list(PAID)
    assert (await world.image()).fence == 1


ENDINGS: dict[str, Callable[[], BaseException | None]] = {
    "as usual": lambda: None,
    "the image's fault": rejected,
    "the world's fault": lambda: WORLD,
    "our fault": lambda: ConfigurationError("no key"),
    "a bug": lambda: KeyError("x"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_stale_worker_changes_nothing(world: World, step: str, ending: str) -> None:
    """Cut off at any step, taken over, then going on however it likes: no document, no public object, no letter."""
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall(ENDINGS[ending]())
    world.fakes.will(step, stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    assert (await second.handle(task)).action is Action.ACK
    image, objects = await world.image(), await world.kept("results")
    assert (image.state, image.fence) == (COMPLETED, 2)
    stall.go_on.set()
    done = await work
    assert (done.action, done.seconds) == (Action.LET_GO, 0.0), "neither ack nor nack, and not extended"
    assert await world.image() == image
    assert await world.kept("results") == objects
    await no_trace(world)


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_stale_worker_changes_nothing_while_the_other_works(world: World, step: str) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall, theirs = Stall(), Stall()
    world.fakes.will(step, stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    world.fakes.will("verify", theirs) if step != "verify" else world.fakes.will("verify", theirs)
    successor = second.begin(task)
    await ticks()
    held = await world.image()
    assert (held.state, held.fence) == (PROCESSING, 2)
    stall.go_on.set()
    if step != "verify":
        theirs.go_on.set()
    await ticks()
    theirs.go_on.set()
    assert (await successor).action is Action.ACK
    assert (await work).action is Action.LET_GO
    image = await world.image()
    assert (image.state, image.fence) == (COMPLETED, 2)
    assert image.output is not None
    for name in (image.output.picture, image.output.thumbnail, image.output.before):
        assert (await world.kept("results"))[name][2]["fence"] == "2"


@virtual
async def test_a_cancelled_stale_worker_changes_nothing(world: World) -> None:
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    theirs = Stall()
    world.fakes.will("generate", theirs)
    successor = second.begin(task)
    await theirs.reached.wait()
    held = await world.image()
    work.cancel()
    await asyncio.wait([work])
    assert await world.image() == held
    theirs.go_on.set()
    assert (await successor).action is Action.ACK


@virtual
async def test_a_stale_public_picture_is_overwritten_by_the_next_fence(world: World) -> None:
    """The stale worker was quicker with the objects: whoever settles the image has the last word on them."""
    await world.batch()
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will("verify", stall)
    task = await world.task()
    work = first.begin(task)
    await stall.reached.wait()
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    theirs = Stall()
    world.fakes.will("verify", BAD, theirs)
    successor = second.begin(task)
    await theirs.reached.wait()
    stall.go_on.set()
    assert (await work).action is Action.LET_GO
    theirs.go_on.set()
    assert (await successor).action is Action.ACK
    image = await world.image()
    assert image.output is not None
    _, content, metadata = (await world.kept("results"))[image.output.picture]
    assert content == b"finished raw 2"
    assert metadata["fence"] == "2"


# --- pause and cancel


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


# --- paid work is kept


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


# --- cancellation of the task itself: a worker that stops


@pytest.mark.parametrize("step", STEPS)
@virtual
async def test_a_stopping_worker_releases(world: World, step: str) -> None:
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will(step, stall)
    task = await world.task()
    work = hand.begin(task)
    await stall.reached.wait()
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    image = await world.image()
    assert (image.state, image.attempts, image.crashes, image.claim) == (QUEUED, 0, 0, None)
    await no_trace(world)
    assert (await hand.handle(task)).action is Action.ACK


@virtual
async def test_a_stopping_worker_releases_a_suspect_that_waits(world: World) -> None:
    await world.batch(2)
    await world.held_by("ghost", 1, crashes=1)
    hand = await world.grown_worker()
    busy = Stall()
    world.fakes.will("fetch", busy)
    first = hand.begin(await world.task(0))
    await busy.reached.wait()
    suspect = hand.begin(await world.task(1))
    await ticks()
    suspect.cancel()
    await asyncio.wait([suspect])
    image = await world.image(1)
    assert (image.state, image.attempts, image.claim) == (QUEUED, 0, None)
    busy.go_on.set()
    assert (await first).action is Action.ACK


@virtual
async def test_a_throttled_image_is_released_when_the_worker_stops(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("generate", Throttled("slow down", 600.0))
    work = hand.begin(await world.task())
    await world.clock.sleep(10)
    work.cancel()
    await asyncio.wait([work])
    image = await world.image()
    assert (image.state, image.attempts) == (QUEUED, 0)
    assert image.checkpoint is not None
    assert image.checkpoint.analysis is not None


# --- faults at every place


async def calls_of_a_staging(clock: VirtualClock, *, cache: bool) -> int:
    """How many port calls the staging of one image makes."""
    fuse = Fuse()
    world = World(clock)
    await world.batch(cache=cache)
    hand = Hand(world, fused(world.parts, fuse), world.fakes)
    await hand.handle(await world.task())
    return len(fuse.calls)


@pytest.mark.parametrize("cache", [False, True], ids=["plain", "cache"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_killed_at_every_place(world: World, after: bool, cache: bool) -> None:
    """kill -9 at each port call; the next worker takes over and it ends as if nothing had happened."""
    count = await calls_of_a_staging(world.clock, cache=cache)
    assert count >= 10
    waited: list[str] = []
    for at in range(1, count + 1):
        world = World(world.clock)
        await world.batch(cache=cache)
        fuse = Fuse(at, after=after)
        first = Hand(world, fused(world.parts, fuse), world.fakes)
        await world.store.beat(Worker(id=first.heartbeat.worker, at=world.clock.now()))
        task = await world.task()
        assert await fuse.kills(first.handle(task))
        await world.clock.sleep(STALE_SECONDS)
        second = await world.worker()
        taken_over = world.clock.now()
        assert (await second.handle(task)).action is Action.ACK, fuse.calls
        second.fall_silent()
        if world.clock.now() > taken_over + 10:
            waited.append(f"call {at} ({fuse.calls[-1]}): {world.clock.now() - taken_over:.0f} s")
        image = await world.image()
        assert image.state is COMPLETED, fuse.calls
        assert image.attempts == 0
        assert image.output is not None
        objects = await world.kept("results")
        assert set(objects) == {image.output.picture, image.output.thumbnail, image.output.before}
        kept = "change_image" in fuse.calls[fuse.calls.index("put") :] if "put" in fuse.calls else False
        assert world.fakes.bought.count("generate") <= 2
        if kept and (after or fuse.calls[-1] != "change_image"):
            assert world.fakes.bought.count("generate") == 1, fuse.calls
        assert objects[image.output.picture][1].startswith(b"finished raw ")
        await no_trace(world)
    assert waited == [], "nobody is left to wait for: the image is staged at once"


@pytest.mark.parametrize("cache", [False, True], ids=["plain", "cache"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_storage_fails_once_at_every_place(world: World, after: bool, cache: bool) -> None:
    """One call to database, queue or bucket fails (or its reply is lost); the only worker is alive and goes on.

    Whatever it was, within an hour of redeliveries the image has to be completed.
    """
    count = await calls_of_a_staging(world.clock, cache=cache)
    stuck: list[str] = []
    for at in range(1, count + 1):
        world = World(world.clock)
        await world.batch(cache=cache)
        fuse = Fuse(at, after=after, error=unreachable)
        hand = Hand(world, fused(world.parts, fuse), world.fakes)
        beating = asyncio.create_task(Heartbeat.run(_same(hand.heartbeat, world)))
        await ticks(3)
        task = await world.task()
        for _ in range(180):
            done = await hand.handle(task)
            if done.action is Action.ACK:
                break
            await world.clock.sleep(max(done.seconds, 10.0))
        beating.cancel()
        image = await world.image()
        if image.state is not COMPLETED:
            stuck.append(f"call {at} ({fuse.calls[at - 1]}): {image.state}, last answer {done.action}")
        else:
            assert image.attempts <= 1
    assert stuck == []


def _same(heartbeat: Heartbeat, world: World) -> Heartbeat:
    """A heartbeat of the same worker on the sound store."""
    sound = Heartbeat(world.store, world.clock, 5)
    sound.worker = heartbeat.worker
    return sound


@pytest.mark.parametrize("ending", ["success", "world", "rejected", "configuration", "bug"])
@virtual
async def test_an_outage_in_mid_work_is_survived(world: World, ending: str) -> None:
    """Nothing can be reached for two minutes, heartbeat included; the only worker lives on and gets its task again."""
    await world.batch()
    fuse = Fuse(error=unreachable)
    hand = await world.worker(fused(world.parts, fuse))
    ends = {"world": WORLD, "rejected": rejected(), "configuration": ConfigurationError("x"), "bug": KeyError("x")}
    stall = Stall(ends.get(ending))
    world.fakes.will("generate", stall)
    task = await world.task()
    work = hand.begin(task)
    await stall.reached.wait()
    fuse.away = True
    stall.go_on.set()
    assert (await work).action in (Action.NACK, Action.HALT)
    await world.clock.sleep(120)
    fuse.away = False
    for _ in range(180):
        done = await hand.handle(task)
        if done.action is Action.ACK:
            break
        await world.clock.sleep(max(done.seconds, 10.0))
    image = await world.image()
    assert (image.state, done.action) == (COMPLETED, Action.ACK)
    assert image.attempts <= 1


@virtual
async def test_every_error_of_the_product_is_answered(world: World) -> None:
    """`handle` never raises, whatever comes out of a step."""
    await world.batch(30)
    hand = await world.worker()
    errors = [RuumError("x"), OSError("x"), TimeoutError("x"), MemoryError("x"), RecursionError("x"), StopAsyncIteration("x"),
              EOFError("x"), AssertionError("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "x")]  # fmt: skip
    for index, error in enumerate(errors):
        world.fakes.will("analyse", error)
        assert (await hand.handle(await world.task(index))).action is Action.NACK
        assert (await world.image(index)).attempts == 1


@virtual
async def test_the_worker_goes_on_with_an_image_it_has_lost_before(world: World) -> None:
    """A stale hand that ends must not disturb the new hand of the same worker on the same image."""
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will("fetch", stall)
    task = await world.task()
    old = hand.begin(task)
    await stall.reached.wait()
    await world.change_image(state=QUEUED, claim=None, fence=2)  # taken over and given back by another
    world.fakes.will("analyse", Throttled("slow down", 20.0))
    new = hand.begin(task)
    await world.clock.sleep(5)
    stall.go_on.set()
    await world.clock.sleep(1)
    assert (await old).action is Action.LET_GO
    assert (await new).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts) == (COMPLETED, 0)


@virtual
async def test_a_stale_hand_that_ends_does_not_strip_its_successor(world: World) -> None:
    """The new hand of the same worker is in a paid call: a third delivery must find the image held."""
    await world.batch()
    hand = await world.worker()
    first, second = Stall(), Stall()
    world.fakes.will("fetch", first)
    world.fakes.will("generate", second)
    task = await world.task()
    old = hand.begin(task)
    await first.reached.wait()
    await world.change_image(state=QUEUED, claim=None, fence=2)  # taken over and given back by another
    new = hand.begin(task)
    await second.reached.wait()
    first.go_on.set()
    assert (await old).action is Action.LET_GO
    fence = (await world.image()).fence
    assert (await hand.handle(await world.task())).action is Action.LET_GO
    assert (await world.image()).fence == fence
    second.go_on.set()
    assert (await new).action is Action.ACK
    assert ((await world.image()).state, (await world.image()).fence) == (COMPLETED, fence)


# --- letters on the wire


@virtual
async def test_a_letter_can_be_read_by_others(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("fetch", rejected())
    await hand.handle(await world.task(epoch=3))
    (delivery,) = await world.drain("dead-letter-operators")
    body = json.loads(delivery.data)
    assert body == {
        "code": "not_a_picture", "message": "look at this", "attempts": 1,
        "task": {"batch": "acme.b1", "index": 0, "round": 1, "tier": "normal", "epoch": 3},
    }  # fmt: skip
    assert decode(Letter, encode(decode(Letter, delivery.data))) == decode(Letter, delivery.data)
    assert Message(delivery.data, delivery.attributes).attributes == {"kind": "letter"}


# --- the gate


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
