"""STAGE IMAGE against the table of errors and messages: the world's faults, throttling, our own configuration's."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shared.decisions.image import CLAIM_CAP_SECONDS
from shared.decisions.quota import Circuit, Ledger
from shared.errors import ConfigurationError, DailyQuotaSpent, ErrorCode, RuumError, Throttled, WorldError
from shared.messages import encode, task_for
from shared.model import Control, Failure, Usage
from shared.worker.disposition import Action
from tests.harness.fakes import STEPS, TEXT, Stall, spec
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import Hand, World, ticks, virtual
from tests.rooms.stage_image.parts import CANCELLED, COMPLETED, FAILED, PAID, PROCESSING, QUEUED, WORLD, kinds, no_trace

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
