"""What is said in logs: one JSON object a line, one trace per image, a bound on what an image costs, nothing secret."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import io
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops.gemini_server import GeminiServer, Plan
from shared import telemetry
from shared.adapters.google.gemini import GeminiModel
from shared.errors import ConfigurationError, ErrorCode, ImageRejected, RuumError, Throttled, WorldError
from shared.messages import ImageChanged, decode
from shared.model import Control, Failure, ImageState, Tier, Trials
from shared.ports import Photo, Request
from shared.settings import Gemini, Limit, Price, Settings
from shared.telemetry import FIELDS, LogEvent, bound, tell, trace_id
from shared.topology import topic_of
from shared.worker.disposition import Action
from tests.parts import BAD, STALE_SECONDS, USAGE, Hand, Stall, World, spec, virtual

ROOT = Path(__file__).parents[2]
PROJECT = "ruum-production-4711"
TRACE = "logging.googleapis.com/trace"
MAX_BYTES_AN_IMAGE = 4096
OWN = {"severity", "message", "time", "logger", TRACE, "stack_trace"}

log = logging.getLogger("shared.test_telemetry")


class Said:
    """The log as its readers get it: every line one JSON object."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def raw(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.raw == "" or self.raw.endswith("\n")
        found = [json.loads(line) for line in self.raw.split("\n")[:-1]]
        assert all(type(line) is dict for line in found)
        return found

    @property
    def line(self) -> dict[str, Any]:
        (only,) = self.lines
        return only

    def of(self, event: LogEvent) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == event.value]

    def events(self, image: int) -> list[str]:
        return [line["event"] for line in self.lines if line.get("image") == image and "event" in line]


@pytest.fixture
def said() -> Iterator[Said]:
    """The log as a door configures it, into memory; put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    found = Said()
    telemetry.configure({"GOOGLE_CLOUD_PROJECT": PROJECT}, found.stream)
    yield found
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


# --- a line


def test_a_line(said: Said) -> None:
    with bound(batch="acme.b1", image=7, round=2, client="acme"):
        tell(log, LogEvent.STEP, step="generate", attempt=1, durationMs=31_000, costUsd=0.05)
    line = said.line
    assert line == {
        "severity": "INFO", "message": "step", "event": "step", "batch": "acme.b1", "image": 7, "round": 2, "attempt": 1,
        "client": "acme", "step": "generate", "durationMs": 31_000, "costUsd": 0.05,
        TRACE: f"projects/{PROJECT}/traces/{trace_id('acme.b1', 7)}",
    }  # fmt: skip


def test_severities_are_cloud_loggings(said: Said) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]
    for level in levels:
        tell(log, LogEvent.HEALTH, level=level)
        log.log(level, "in words")
    names = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    assert [line["severity"] for line in said.lines] == [name for name in names for _ in range(2)]


def test_the_level_is_a_setting(said: Said) -> None:
    for level, told in (("", 2), ("INFO", 2), ("WARNING", 1), ("ERROR", 0), ("DEBUG", 3)):
        stream = io.StringIO()
        telemetry.configure({"LOG_LEVEL": level} if level else {}, stream)
        tell(log, LogEvent.HEALTH, level=logging.DEBUG)
        tell(log, LogEvent.HEALTH)
        tell(log, LogEvent.HEALTH, level=logging.WARNING)
        assert len(stream.getvalue().splitlines()) == told, level
    assert said.raw == "", "the handler before is gone"


def test_what_is_none_is_left_out_and_zero_is_not(said: Said) -> None:
    tell(log, LogEvent.IMAGE_SETTLED, code=None, attempt=0, cached=False, costUsd=0.0)
    line = said.line
    assert "code" not in line
    assert (line["attempt"], line["cached"], line["costUsd"]) == (0, False, 0.0)


def test_traces() -> None:
    found = {trace_id("acme.b1", None), trace_id("acme.b1", 0), trace_id("acme.b1", 1), trace_id("acme.b2", 0),
             trace_id("acme.b", 10), trace_id("acme.b1/0")}  # fmt: skip
    assert len(found) >= 5
    assert all(len(trace) == 32 and set(trace) <= set("0123456789abcdef") for trace in found)
    assert trace_id("acme.b1", 0) == trace_id("acme.b1", 0)


def test_batches_have_traces_too_and_other_lines_none(said: Said) -> None:
    with bound(batch="acme.b1"):
        log.warning("of a batch")
    log.warning("of nothing")
    of_batch, of_nothing = said.lines
    assert of_batch[TRACE] == f"projects/{PROJECT}/traces/{trace_id('acme.b1')}"
    assert TRACE not in of_nothing


def test_the_vocabulary_hides_no_field_of_a_lines_own() -> None:
    assert not OWN & FIELDS.keys()
    assert all(FIELDS.values())


# --- hostile text

HOSTILE = [
    "two\nlines", "carriage\r\nreturn", "\x1b[31mred\x1b]0;title\x07", 'quotes " and \\ and {"severity": "ERROR"}',
    "\x00\x08\x7f", "\x9b31m", "next\x85line", "separators \u2028 and \u2029", "\u202eturned round", "ação 客厅 🛋",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_stays_one_line(said: Said, text: str) -> None:
    with bound(batch=text, client=text):
        tell(log, LogEvent.DEAD_LETTER, reason=text, code=text)
        log.warning("in words: %s", text)
    assert [line["reason"] for line in said.lines if "reason" in line] == [text], "nothing is lost"
    assert len(said.lines) == 2
    assert len(said.raw.splitlines()) == 2, "whatever else its reader takes for a line's end"
    control = {ascii(sign) for sign in said.raw if ord(sign) < 32 or 128 <= ord(sign) < 160} - {ascii("\n")}
    assert control == set(), "no terminal obeys it"


def test_half_a_character_can_be_written() -> None:
    """stderr writes what is not UTF-8 with backslashes: that is JSON's own way too."""
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", ("\ud800 alone",), None)
    written = telemetry.JsonLines(PROJECT).format(record).encode("utf-8", "backslashreplace")
    assert ascii(json.loads(written)["message"]) == ascii("\ud800 alone")


@pytest.mark.parametrize("size", [1001, 100_000, 3_000_000])
def test_a_huge_message_is_bounded(said: Said, size: int) -> None:
    log.warning("%s", "\n" * size)
    assert len(said.line["message"]) == telemetry.MAX_MESSAGE_CHARACTERS
    assert len(said.raw) < 4096


def test_a_huge_field_is_bounded(said: Said) -> None:
    """What others wrote comes in fields too: an operator's reason, an error's words."""
    tell(log, LogEvent.CONFIGURATION_FAULT, reason="x" * 1_000_000)
    assert len(said.raw) < 16_384


def test_a_traceback_is_in_the_line_and_bounded(said: Said) -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise ValueError("first\nsecond\x1b[31m" + "x" * 100_000 + "the end")

    try:
        deep(50)
    except ValueError:
        log.exception("bug while staging %s/%s", "acme.b1", 3)
    line = said.line
    assert line["severity"] == "ERROR"
    assert len(line["stack_trace"]) <= telemetry.MAX_TRACEBACK_CHARACTERS
    assert line["stack_trace"].endswith("the end")
    assert len(said.raw.splitlines()) == 1


def test_a_value_that_json_does_not_know_breaks_nothing(said: Said) -> None:
    tell(log, LogEvent.RECONCILED, report={"at": Path("/tmp"), "tier": Tier.NORMAL})
    assert said.line["report"] == {"at": "/tmp", "tier": "normal"}


# --- bound


def fields(said: Said) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name in FIELDS} for line in said.lines]


def test_bound_nests_and_is_restored(said: Said) -> None:
    with bound(batch="a.b", image=1):
        log.info("x")
        with bound(image=2, step="verify"):
            log.info("x")
        log.info("x")
        with pytest.raises(ValueError), bound(image=3):  # noqa: PT012
            raise ValueError
        log.info("x")
    log.info("x")
    outer = {"batch": "a.b", "image": 1}
    assert fields(said) == [outer, {"batch": "a.b", "image": 2, "step": "verify"}, outer, outer, {}]


def test_a_lines_own_fields_go_before_what_is_bound(said: Said) -> None:
    with bound(batch="a.b", attempt=1):
        tell(log, LogEvent.STEP, attempt=2)
    assert said.line["attempt"] == 2


def test_tasks_inherit_and_do_not_mix(said: Said) -> None:
    async def image(index: int) -> None:
        with bound(image=index):
            for _ in range(5):
                await asyncio.sleep(0)
                log.info("of %d", index)

    async def main() -> None:
        with bound(batch="a.b"):
            await asyncio.gather(*(image(index) for index in range(10)))
            log.info("after")

    asyncio.run(main())
    for line in said.lines:
        assert line["batch"] == "a.b"
        assert line["message"] == (f"of {line['image']}" if "image" in line else "after")
    assert len(said.lines) == 51


def half_way() -> tuple[Coroutine[Any, Any, None], contextvars.Context]:
    """A coroutine inside its `bound`, and the context it was begun in."""

    async def work() -> None:
        with bound(batch="a.killed", image=9):
            await asyncio.sleep(0)

    job = work()
    own = contextvars.copy_context()
    own.run(job.send, None)
    return job, own


def test_a_coroutine_may_be_closed_from_another_context(said: Said) -> None:
    """As the garbage collector does with what a killed task left."""
    job, own = half_way()
    contextvars.Context().run(job.close)
    log.info("here")
    assert fields(said) == [{}]
    own.run(log.info, "there")  # its own context may keep what it had: nobody runs in it any more


def test_closing_anothers_coroutine_takes_nothing_from_ones_own_lines(said: Said) -> None:
    job, _ = half_way()
    with bound(batch="a.living", image=1):
        job.close()
        log.info("x")
    log.info("x")
    assert fields(said) == [{"batch": "a.living", "image": 1}, {}]


# --- every call in the product


def calls(name: str) -> list[tuple[str, ast.Call]]:
    found = []
    for folder in ("shared", "functions"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                    module = isinstance(node.func, ast.Name) or ast.unparse(node.func.value) == "telemetry"
                    if called == name and module:
                        found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def event_of(call: ast.Call) -> str:
    event = call.args[1]
    assert isinstance(event, ast.Attribute)
    assert ast.unparse(event.value) in ("LogEvent", "telemetry.LogEvent")
    return event.attr


def test_every_tell_speaks_the_vocabulary() -> None:
    found = calls("tell")
    assert len(found) > 15
    for place, call in found:
        assert len(call.args) == 2, place
        assert ast.unparse(call.args[0]) == "log", place
        assert event_of(call) in LogEvent.__members__, place
        names = {keyword.arg for keyword in call.keywords}
        assert None not in names, f"{place}: **fields hide names"
        assert names - {"level"} <= FIELDS.keys(), place
        assert "event" not in names, place


def test_every_bound_speaks_the_vocabulary() -> None:
    found = calls("bound")
    assert len(found) > 5
    for place, call in found:
        assert not call.args, place
        assert {keyword.arg for keyword in call.keywords} <= FIELDS.keys(), place


def test_every_event_is_told_somewhere() -> None:
    told = {event_of(call) for _, call in calls("tell")}
    assert told == set(LogEvent.__members__)


def test_every_field_is_used_somewhere() -> None:
    used = {keyword.arg for name in ("tell", "bound") for _, call in calls(name) for keyword in call.keywords}
    assert FIELDS.keys() - used == {"event"}


def test_nothing_is_printed_past_the_log() -> None:
    assert [place for place, _ in calls("print")] == []


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


# --- secrets


async def photographed(model: GeminiModel) -> None:
    photo = Photo(jpeg=b"\xff\xd8\xff\xd9", width=4, height=3, sha256="0")
    try:
        await model.analyse(photo, Request("living_room", "modern"))
    except RuumError as error:
        log.warning("storage failed for %s: %s", "x", error)
    except Exception:
        log.exception("bug while staging")


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
@pytest.mark.parametrize("right", [True, False], ids=["right key", "wrong key"])
def test_the_gemini_key_is_in_no_line(said: Said, level: str, right: bool) -> None:
    """Through the real client, at the level somebody sets to find a fault, with answers that repeat it."""
    secret = "AIzaSy-very-secret-key-4711"
    telemetry.configure({"LOG_LEVEL": level, "GOOGLE_CLOUD_PROJECT": PROJECT, "GEMINI_API_KEY": secret}, said.stream)

    async def main() -> None:
        async with GeminiServer(Plan(key=secret if right else "another")) as base_url:
            model = GeminiModel(secret, Settings(gemini=Gemini(base_url=base_url)))
            for _ in range(2):
                await photographed(model)
            await model.aclose()

    asyncio.run(main())
    assert secret not in said.raw
    assert right or said.lines
    assert len(said.raw.splitlines()) == len(said.lines)


@pytest.mark.parametrize("key", ["AIza-secret\n", "AIza-secret key", "AIza-secret\u200b"])
def test_a_key_that_is_refused_is_not_told(said: Said, key: str) -> None:
    try:
        GeminiModel(key, Settings())
    except ConfigurationError:
        log.exception("no model")
    assert "AIza-secret" not in said.line["message"] + said.line["stack_trace"]
