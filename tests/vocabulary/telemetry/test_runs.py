"""What is said of a whole run: one trace per image, each end told once, a bound on what an image costs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shared.errors import ErrorCode, ImageRejected, Throttled, WorldError
from shared.messages import ImageChanged, decode
from shared.model import Control, Failure, ImageState, Tier, Trials
from shared.settings import Limit, Price, Settings
from shared.telemetry import FIELDS, LogEvent, trace_id
from shared.topology import topic_of
from shared.worker.disposition import Action
from tests.harness.fakes import BAD, USAGE, Stall, spec
from tests.harness.world import STALE_SECONDS, Hand, World, virtual
from tests.vocabulary.telemetry.parts import OWN, PROJECT, TRACE, Said

MAX_BYTES_AN_IMAGE = 4096


# --- a whole run

NAME = "manifests/acme/spring.json"
BATCH = "acme.spring-listings-2026"
REAL = {"text": "gemini-3.5-flash-lite", "image": "gemini-nano-banana-2.1"}
WORLD = WorldError(ErrorCode.VENDOR_BAD_ANSWER, "gemini-nano-banana-2.1 answered 400")
RUN = Settings(
    prices=dict.fromkeys(REAL.values(), Price(input_usd=1.5, output_usd=30.0)),
    limits=dict.fromkeys(REAL.values(), Limit(per_minute=300)),
)


class Run:
    """A manifest from the intake bucket to its end: ingest, one worker, AGGREGATE and DEAD LETTER, one event at a time."""

    def __init__(self, clock: Any, settings: Settings = RUN) -> None:
        self.world = World(clock, settings)
        self.model = self.world.fakes.model
        self.model.spec = spec(REAL["text"], REAL["image"])
        self.model.usage = {
            step: msgspec.structs.replace(usage, model=REAL["image" if step == "generate" else "text"])
            for step, usage in USAGE.items()
        }
        self.hand: Hand | None = None

    def will(self, step: str, *entries: Any) -> None:
        self.world.fakes.will(step, *entries)

    async def ingest(self, images: int = 1, **header: Any) -> None:
        content = json.dumps(
            {"clientName": "acme", "batchId": "spring-listings-2026", "designStyle": "modern", "cache": False,
             "roomType": "living_room", **header,
             "images": [{"url": f"https://photos.example.com/listings/2026/{index}.jpg"} for index in range(images)]}
        ).encode()  # fmt: skip
        await self.world.objects.put("intake", NAME, content, content_type="application/json")
        await self.world.rooms.ingest.handle("intake", NAME)

    async def tasks(self) -> int:
        """Hand the worker what waits, as the subscriber does; how many deliveries."""
        hand = self.hand = self.hand or await self.world.worker()
        done = 0
        for tier in Tier:
            for delivery in await self.world.queue.pull(topic_of(tier), 100, 0.0):
                done += 1
                disposition = await hand.handle(delivery)
                answer = self.world.queue.ack if disposition.action is Action.ACK else self.world.queue.nack
                await answer(topic_of(tier), [delivery.ack_id])
        return done

    async def changes(self) -> None:
        for delivery in await self.world.changes():
            await self.world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))

    async def through(self) -> None:
        """Until nothing is open."""
        for _ in range(50):
            await self.tasks()
            await self.changes()
            if not (await self.world.store.counts(BATCH)).open:
                return
            await self.world.clock.sleep(60)
        pytest.fail("the batch does not end")


def of_images(said: Said) -> dict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in said.lines:
        if "image" in line:
            found[line["image"]].append(line)
    return found


def size_of(lines: list[dict[str, Any]]) -> int:
    """Bytes as they were written."""
    return sum(len(json.dumps(line, ensure_ascii=False).encode()) + 1 for line in lines)


def run_logged(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test of a whole run: (run, said)."""

    async def body(world: World, said: Said) -> None:
        await test(Run(world.clock), said)

    body.__name__, body.__doc__, body.__module__ = test.__name__, test.__doc__, test.__module__
    return virtual(body)


@run_logged
async def test_a_run_of_three_images(run: Run, said: Said) -> None:
    await run.ingest(3, priority="economy")
    await run.through()
    for index, lines in of_images(said).items():
        assert said.events(index) == ["image_queued", "step", "step", "step", "image_settled"]
        assert [line["step"] for line in lines if line["event"] == "step"] == ["analyse", "generate", "verify"]
        for line in lines:
            assert line["severity"] == "INFO"
            assert (line["batch"], line["image"], line["round"]) == (BATCH, index, 1)
            assert line[TRACE] == f"projects/{PROJECT}/traces/{trace_id(BATCH, index)}"
            assert line.keys() <= FIELDS.keys() | OWN
        assert lines[0]["tier"] == "economy"  # said once: an image has 4 KB for all its lines
        queued, analyse, generate, verify, settled = lines
        assert all(line["costUsd"] > 0 and line["durationMs"] >= 0 and line["model"] for line in lines[1:4])
        assert (settled["client"], settled["state"], settled["attempt"]) == ("acme", "completed", 0)
        assert settled["cached"] is False
        assert settled["costUsd"] == pytest.approx(sum(line["costUsd"] for line in lines[1:4]))
        assert queued["client"] == "acme"
    assert len({line[TRACE] for lines in of_images(said).values() for line in lines}) == 3
    (accepted,), (closed,) = said.of(LogEvent.BATCH_ACCEPTED), said.of(LogEvent.BATCH_CLOSED)
    assert (accepted["batch"], accepted["client"], accepted["tier"], accepted["images"]) == (
        BATCH,
        "acme",
        "economy",
        3,
    )
    assert (closed["batch"], closed["client"], closed["round"], closed["state"]) == (BATCH, "acme", 1, "completed")
    assert (closed["images"], closed["failed"]) == (3, 0)
    assert accepted[TRACE] == closed[TRACE] == f"projects/{PROJECT}/traces/{trace_id(BATCH)}"


@run_logged
async def test_every_line_of_an_image_names_its_client(run: Run, said: Said) -> None:
    """A support question begins with a customer: all of an image is found by its client, not only its first line."""
    run.will("generate", WORLD)
    await run.ingest(1)
    await run.through()
    assert {line["event"] for line in said.lines if line.get("image") == 0 and "client" not in line} == set()


@run_logged
async def test_an_image_with_trouble_keeps_its_trace_and_its_budget(run: Run, said: Said) -> None:
    """A failing attempt, a picture that is bought again, a 429: one trace, and at most 4 KB beside nine smooth ones."""
    run.will("generate", WORLD, Throttled("slow down", 1.0))
    run.will("verify", BAD)
    await run.ingest(10)
    await run.through()
    lines = of_images(said)
    assert sorted(lines) == list(range(10))
    events = Counter(line["event"] for line in said.lines if line.get("image") is not None)
    assert (events["attempt_failed"], events["throttled"], events["step"]) == (1, 1, 10 * 3 + 2 + 0)
    for index, own in lines.items():
        assert {line[TRACE] for line in own} == {f"projects/{PROJECT}/traces/{trace_id(BATCH, index)}"}
        assert (own[0]["event"], own[-1]["event"]) == ("image_queued", "image_settled")
        assert size_of(own) <= MAX_BYTES_AN_IMAGE
    total = len(said.raw.encode())
    assert total <= 10 * MAX_BYTES_AN_IMAGE, "batches' lines and all"


@run_logged
async def test_a_failed_attempt_and_a_picture_bought_again_fit_in_the_budget(run: Run, said: Said) -> None:
    run.will("generate", WORLD)
    run.will("verify", BAD)
    await run.ingest(1)
    await run.through()
    steps = [line["step"] for line in said.of(LogEvent.STEP)]
    assert steps == ["analyse", "generate", "verify", "generate", "verify"]
    assert size_of(of_images(said)[0]) <= MAX_BYTES_AN_IMAGE


@run_logged
async def test_the_unluckiest_image_keeps_its_budget(run: Run, said: Said) -> None:
    """Everything that can befall one image: two failing attempts, three pictures bought, and a letter in the end."""
    run.will("generate", WORLD, WORLD)
    run.will("verify", BAD, BAD, BAD)
    await run.ingest(1)
    await run.through()
    assert Counter(said.events(0)) == {
        "image_queued": 1, "step": 7, "attempt_failed": 2, "image_settled": 1, "dead_letter": 1,
    }  # fmt: skip
    assert {line["code"] for line in said.of(LogEvent.IMAGE_SETTLED)} == {"quality_rejected"}
    own = of_images(said)[0]
    assert size_of(own) <= MAX_BYTES_AN_IMAGE


@run_logged
async def test_a_replay_goes_on_in_the_same_trace(run: Run, said: Said) -> None:
    run.will("generate", ImageRejected(ErrorCode.REFUSED_BY_SAFETY, "no"))
    await run.ingest(1)
    await run.through()
    assert await run.world.rooms.replay.run(BATCH) == 1
    await run.through()
    own = of_images(said)[0]
    assert {line[TRACE] for line in own} == {f"projects/{PROJECT}/traces/{trace_id(BATCH, 0)}"}
    settled = said.of(LogEvent.IMAGE_SETTLED)
    assert [(line["round"], line["state"]) for line in settled] == [(1, "failed"), (2, "completed")]
    assert [line["state"] for line in said.of(LogEvent.BATCH_CLOSED)] == ["completed_with_failures", "completed"]


@run_logged
async def test_the_costs_told_of_an_image_add_up(run: Run, said: Said) -> None:
    """The dashboard sums costUsd over `image_settled`: what a replay did not buy again is not told again."""
    refused = ImageRejected(ErrorCode.REFUSED_BY_SAFETY, "no")
    refused.usage = msgspec.structs.replace(USAGE["generate"], model=REAL["image"])
    run.will("generate", refused)
    await run.ingest(1)
    await run.through()
    await run.world.rooms.replay.run(BATCH)
    await run.through()
    image = await run.world.image(0, BATCH)
    steps = sum(line["costUsd"] for line in said.of(LogEvent.STEP))
    assert steps == pytest.approx(image.cost_micro_usd / 1e6)
    assert sum(line["costUsd"] for line in said.of(LogEvent.IMAGE_SETTLED)) == pytest.approx(steps)


# --- every end of an image is told once


async def completed(run: Run) -> ImageState:
    await run.through()
    return ImageState.COMPLETED


async def rejected(run: Run) -> ImageState:
    run.will("normalise", ImageRejected(ErrorCode.NOT_A_PICTURE, "no"))
    await run.through()
    return ImageState.FAILED


async def tried_in_vain(run: Run) -> ImageState:
    run.will("analyse", WORLD, WORLD, WORLD)
    await run.through()
    return ImageState.FAILED


async def cancelled_queued(run: Run) -> ImageState:
    await run.world.rooms.operator.cancel(BATCH)
    return ImageState.CANCELLED


async def cancelled_by_a_worker(run: Run) -> ImageState:
    """The operator's command died after its first write; the worker that gets the task settles the image."""
    await run.world.change_batch(BATCH, control=Control.CANCELLING)
    await run.tasks()
    return ImageState.CANCELLED


async def cancelled_in_hand(run: Run) -> ImageState:
    stall = Stall()
    run.will("analyse", stall)
    working = asyncio.create_task(run.tasks())
    await stall.reached.wait()
    await run.world.rooms.operator.cancel(BATCH)
    await run.world.clock.sleep(6)
    stall.go_on.set()
    await working
    return ImageState.CANCELLED


async def given_up(run: Run) -> ImageState:
    error = Failure(code="vendor_unavailable", message="x")
    await run.world.change_image(0, BATCH, attempts=3, error=error)
    (delivery,) = await run.world.queue.pull(topic_of(Tier.NORMAL), 1, 0.0)
    await run.world.rooms.dead_letter.handle(delivery.data, {})
    return ImageState.FAILED


async def crashed(run: Run) -> ImageState:
    """The sixth worker died with nothing else in hand: the next one's claim settles it."""
    trials = Trials(deaths=5, step="prepare", in_a_row=5)
    await run.world.held_by("worker-dead", batch=BATCH, alone=True, step="prepare", trials=trials)
    await run.world.clock.sleep(STALE_SECONDS)
    await run.tasks()
    return ImageState.FAILED


ENDS = [
    completed,
    rejected,
    tried_in_vain,
    cancelled_in_hand,
    given_up,
    crashed,
    cancelled_queued,
    cancelled_by_a_worker,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@virtual
async def test_every_end_of_an_image_is_told_once(world: World, said: Said, end: Any) -> None:
    """However it settles: what is counted by the log is what happened, and no trace stops short."""
    run = Run(world.clock)
    await run.ingest(1)
    state = await end(run)
    image = await run.world.image(0, BATCH)
    assert image.state is state
    (settled,) = said.of(LogEvent.IMAGE_SETTLED)
    assert (settled["state"], settled["client"], settled["round"]) == (state.value, "acme", 1)
    assert settled.get("code") == (image.error.code if image.error else None)
    assert settled["attempt"] == image.attempts
    assert settled[TRACE] == f"projects/{PROJECT}/traces/{trace_id(BATCH, 0)}"


# --- trouble in a run


@run_logged
async def test_a_bug_is_one_line_with_its_traceback(run: Run, said: Said) -> None:
    run.will("analyse", ValueError("first\nsecond\x1b[31m"))
    await run.ingest(1)
    await run.through()
    (bug,) = [line for line in said.lines if "stack_trace" in line]
    assert (bug["severity"], bug["batch"], bug["image"]) == ("ERROR", BATCH, 0)
    assert "ValueError: first\nsecond" in bug["stack_trace"]
    assert len(said.raw.splitlines()) == len(said.lines)


@run_logged
async def test_hostile_manifests_and_tasks_stay_lines(run: Run, said: Said) -> None:
    evil = "\x1b[2J\nsecond line" + "A" * 2_000_000
    await run.ingest(1, designStyle=evil, clientName="acme")
    hand = await run.world.worker()
    for body in (evil.encode(), json.dumps({"batch": evil, "index": 0, "round": 1, "tier": "normal"}).encode()):
        await hand.handle(run.world.delivery(body))
        await run.world.rooms.dead_letter.handle(body, {})
    assert len(said.of(LogEvent.BATCH_REJECTED)) == 1
    assert len(said.raw.splitlines()) == len(said.lines)
    assert max(len(line) for line in said.raw.splitlines()) < 16_384
