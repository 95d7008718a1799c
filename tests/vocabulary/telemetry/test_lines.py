"""A line of the log: one JSON object, whatever is in it, and nothing secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

from ops.local_stack.gemini_server import GeminiServer, Plan
from shared import telemetry
from shared.adapters.google.gemini import GeminiModel
from shared.errors import ConfigurationError, RuumError
from shared.model import Tier
from shared.ports import Photo, Request
from shared.settings import Gemini, Settings
from shared.telemetry import FIELDS, LogEvent, bound, tell, trace_id
from tests.vocabulary.telemetry.parts import OWN, PROJECT, TRACE, Said, log

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
