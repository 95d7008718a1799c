"""The Gemini adapter, asked over real HTTP: every row of the table of answers becomes the right error, once, and billed.

Two servers: the local Gemini with its faults, and `Canned`, which says word for word what a test tells it to.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from ops.gemini_server import GOOD, ROOM, Call, Fault, GeminiServer, Plan, Step
from shared.adapters.google.gemini import GeminiModel
from shared.errors import (
    AnswerRefused,
    CodedError,
    ConfigurationError,
    DailyQuotaSpent,
    ErrorCode,
    ImageRejected,
    RuumError,
    Throttled,
    WorldError,
)
from shared.model import Usage
from shared.ports import Answer, Photo, Request
from shared.settings import Gemini, PhotoLimits, Settings
from shared.staging import pictures
from shared.staging.shapes import nearest_ratio

KEY = "test-key"
SETTINGS = Gemini()
STEPS: tuple[Step, ...] = ("analyse", "generate", "verify")
REQUEST = Request(room_type="living_room", design_style="modern")


def jpeg(width: int = 80, height: int = 60, colour: tuple[int, int, int] = (222, 210, 190)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTO = Photo(jpeg=jpeg(), width=80, height=60, sha256="0")


async def ask(model: GeminiModel, step: Step, photo: Photo = PHOTO, defects: tuple[str, ...] = ()) -> Answer[Any]:
    if step == "analyse":
        return await model.analyse(photo, REQUEST)
    if step == "generate":
        return await model.generate(photo, ROOM, REQUEST, defects)
    return await model.verify(photo, jpeg(colour=(1, 2, 3)), ROOM, REQUEST)


class Canned:
    """Answers every request with the same status and body, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(next(line for line in head.lower().splitlines() if line.startswith("content-length:"))[15:])
        self.heads.append(head)
        self.bodies.append(json.loads(await reader.readexactly(length)))
        lines = f"HTTP/1.1 {self.status} Said\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        writer.write(lines.encode() + self.body)
        await writer.drain()
        writer.close()


class Rig:
    """One event loop with both servers and the models that ask them; clients are dear, so all tests share them."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.server = GeminiServer(Plan(key=KEY))
        self.canned = Canned()
        self._base = runner.run(self.server.start())
        self._canned_base = runner.run(self.canned.start())
        self._models: dict[tuple[Any, ...], GeminiModel] = {}

    def model(self, key: str = KEY, *, canned: bool = False, base_url: str = "", **settings: Any) -> GeminiModel:
        known = (key, canned, base_url, *settings.items())
        if known not in self._models:
            base = base_url or (self._canned_base if canned else self._base)
            self._models[known] = GeminiModel(key, Settings(gemini=Gemini(base_url=base, **settings)))
        return self._models[known]

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            return await work()

        return self._runner.run(body())

    def call(self, step: Step, fault: Fault | None = None, **options: Any) -> Answer[Any] | RuumError:
        """What one call gives or raises; the server must have been asked exactly once.

        A call whose deadline ends may not have got that far: on a busy machine a tenth of a second is soon over.
        """
        self.server.calls.clear()
        self.server.plan.script = [fault]
        model = self.model(**options)
        fewest = 1
        try:
            return self.run(lambda: ask(model, step))
        except RuumError as error:
            fewest = int(not (isinstance(error, WorldError) and error.code == ErrorCode.VENDOR_TIMEOUT))
            return error
        finally:
            asked = len(self.server.calls)
            assert fewest <= asked <= 1, f"asked {asked} times: a repeated request is billed twice"

    def said(self, status: int, body: Any, step: Step = "analyse", **options: Any) -> Answer[Any] | RuumError:
        """The same with the canned server."""
        self.canned.status = status
        self.canned.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.canned.heads.clear()
        self.canned.bodies.clear()
        model = self.model(canned=True, **options)
        try:
            return self.run(lambda: ask(model, step))
        except RuumError as error:
            return error
        finally:
            assert len(self.canned.heads) == 1

    def close(self) -> None:
        for model in self._models.values():
            self._runner.run(model.aclose())
        self._runner.run(self.server.stop())
        self._runner.run(self.canned.stop())


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    with asyncio.Runner() as runner:
        rig = Rig(runner)
        yield rig
        rig.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.server.plan = Plan(key=KEY)
    shared_rig.server._admitted.clear()
    shared_rig.server._random = random.Random(0)  # whatever tests came before
    return shared_rig


def answer(result: Answer[Any] | RuumError) -> Answer[Any]:
    assert isinstance(result, Answer), repr(result)
    return result


def error_body(code: int, status: str, message: str = "no", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def picture_part(data: bytes, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(data).decode()}, **more}


def candidate(parts: list[dict[str, Any]] | None, reason: str = "STOP", **usage: int) -> dict[str, Any]:
    content = {} if parts is None else {"content": {"role": "model", "parts": parts}}
    return {"candidates": [{**content, "finishReason": reason, "index": 0}], "usageMetadata": usage}


def everything_told(error: BaseException) -> str:
    """All that a log could say of an error: text, repr, and the traceback with its causes."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


# --- sound answers


@pytest.mark.parametrize(("step", "value"), [("analyse", ROOM), ("verify", GOOD)])
def test_a_typed_answer(rig: Rig, step: Step, value: object) -> None:
    got = answer(rig.call(step))
    assert got.value == value
    assert got.usage.model == SETTINGS.text_model
    assert got.usage.input_tokens > 1000
    assert got.usage.output_tokens > 10
    assert [(call.model, call.step) for call in rig.server.calls] == [(SETTINGS.text_model, step)]


def test_a_generated_picture(rig: Rig) -> None:
    got = answer(rig.call("generate"))
    with Image.open(io.BytesIO(got.value)) as picture:
        picture.load()
        assert picture.size == (80, 60)
    assert got.usage.model == SETTINGS.image_model
    assert got.usage.output_tokens == 1680, "a picture of 2K: what the settings ask for"
    assert [(call.model, call.step) for call in rig.server.calls] == [(SETTINGS.image_model, "generate")]


def test_the_models_and_sizes_are_the_settings(rig: Rig) -> None:
    options = {"text_model": "t-1", "image_model": "i-1", "image_size": "1K", "api_version": "v1beta"}
    model = rig.model(**options)
    assert [(step.name, step.usual.model) for step in model.spec.steps] == [
        ("analyse", "t-1"), ("generate", "i-1"), ("verify", "t-1")
    ]  # fmt: skip
    assert answer(rig.call("verify", **options)).usage.model == "t-1"
    assert rig.server.calls[0].model == "t-1"
    drawn = answer(rig.call("generate", **options)).usage
    assert (drawn.model, drawn.output_tokens) == ("i-1", 1120)


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_stored_at_the_vendor(rig: Rig, step: Step) -> None:
    answer(rig.call(step))
    assert [call.store for call in rig.server.calls] == [False]
    rig.call(step, "503")
    assert [call.store for call in rig.server.calls] == [False]


def test_the_picture_is_the_last_that_is_no_thought(rig: Rig) -> None:
    rig.server.plan.thoughts = True
    with Image.open(io.BytesIO(answer(rig.call("generate")).value)) as picture:
        assert picture.size == (80, 60), "not the grey 64 x 64 draft"
    first, last, thought = (jpeg(colour=colour) for colour in ((9, 9, 9), (99, 9, 9), (9, 99, 9)))
    parts = [
        {"text": "Here it is"},
        picture_part(first),
        picture_part(thought, thought=True),
        picture_part(last),
        picture_part(thought, thought=True),
        {"text": "Enjoy"},
    ]
    assert answer(rig.said(200, candidate(parts), "generate")).value == last


def test_thinking_is_billed_as_output(rig: Rig) -> None:
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 300, "totalTokenCount": 420}
    got = answer(rig.said(200, candidate([{"text": GOOD.model_dump_json()}], **usage), "verify"))
    assert got.usage == Usage(SETTINGS.text_model, 100, 320)


@pytest.mark.parametrize("usage", [None, {}, {"candidatesTokenCount": 7}, {"totalTokenCount": 7}])
def test_an_answer_without_usage_says_that_nothing_was_told(rig: Rig, usage: dict[str, int] | None) -> None:
    body = candidate([{"text": GOOD.model_dump_json()}])
    del body["usageMetadata"]
    if usage is not None:
        body["usageMetadata"] = usage
    assert answer(rig.said(200, body, "verify")).usage == Usage(SETTINGS.text_model, told=False)


# --- what is sent


def test_the_request_as_it_goes_out(rig: Rig) -> None:
    rig.said(200, candidate([picture_part(jpeg())]), "generate")
    (head,), (body,) = rig.canned.heads, rig.canned.bodies
    assert head.startswith(f"POST /v1/models/{SETTINGS.image_model}:generateContent HTTP/1.1\r\n")
    assert f"x-goog-api-key: {KEY}" in head.replace("X-Goog-Api-Key", "x-goog-api-key")
    assert KEY not in head.splitlines()[0], "keys in addresses end in logs"
    assert body["store"] is False
    config = body["generationConfig"]
    assert config["responseModalities"] == ["IMAGE"]
    assert config["imageConfig"] == {"aspectRatio": "4:3", "imageSize": "2K"}
    (sent,) = [part["inlineData"] for content in body["contents"] for part in content["parts"] if "inlineData" in part]
    assert "image/jpeg" in sent.values()  # the client writes the name of this field in either of its spellings
    assert base64.urlsafe_b64decode(sent["data"]) == PHOTO.jpeg


def test_defects_of_an_earlier_picture_are_named(rig: Rig) -> None:
    rig.canned.status, rig.canned.body = 200, json.dumps(candidate([picture_part(jpeg())])).encode()
    rig.canned.bodies.clear()
    model = rig.model(canned=True)
    rig.run(lambda: ask(model, "generate", defects=("sofa floats", "window walled up")))
    rig.run(lambda: ask(model, "generate"))
    told = [
        "".join(part.get("text", "") for c in body["contents"] for part in c["parts"]) for body in rig.canned.bodies
    ]
    assert "sofa floats" in told[0]
    assert "window walled up" in told[0]
    assert "refused" not in told[1]


def test_verify_sees_the_photo_then_the_picture(rig: Rig) -> None:
    rig.said(200, candidate([{"text": GOOD.model_dump_json()}]), "verify")
    parts = [part for content in rig.canned.bodies[0]["contents"] for part in content["parts"]]
    sent = [base64.urlsafe_b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part]
    assert sent == [PHOTO.jpeg, jpeg(colour=(1, 2, 3))]
    schema = rig.canned.bodies[0]["generationConfig"]
    assert schema["responseMimeType"] == "application/json"
    assert set(schema["responseSchema"]["properties"]) == {"structure_kept", "realism", "style_fit", "defects"}


# --- our own configuration's fault


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["401", "403", "404_model"])
def test_permission_and_model_id_are_ours(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, ConfigurationError), repr(error)
    assert not isinstance(error, DailyQuotaSpent)


def test_a_bad_key_is_ours(rig: Rig) -> None:
    assert isinstance(rig.call("analyse", key="wrong-secret-key"), ConfigurationError)
    assert isinstance(rig.call("analyse", key="forbidden"), ConfigurationError)


def test_an_unknown_model_is_ours(rig: Rig) -> None:
    rig.server.plan.models = {SETTINGS.text_model}
    assert isinstance(rig.call("generate"), ConfigurationError)
    rig.server.plan.models = {SETTINGS.image_model}
    assert isinstance(rig.call("verify"), ConfigurationError)


def test_billing_or_region_is_ours(rig: Rig) -> None:
    body = error_body(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")
    assert isinstance(rig.said(400, body), ConfigurationError)


@pytest.mark.parametrize("key", ["secret-key\n", "secret-key\u200b", "secret\r\nkey"])
def test_a_key_that_fits_in_no_header_is_ours(rig: Rig, key: str) -> None:
    """A key pasted with an invisible character or a line end: no request ever leaves, and no image may pay for it."""
    with pytest.raises(RuumError) as caught:
        rig.run(lambda: ask(rig.model(key), "analyse"))
    assert isinstance(caught.value, ConfigurationError)


def test_a_key_that_fits_in_no_header_is_told_to_nobody(rig: Rig) -> None:
    # Made here, so that no source line in a traceback holds it.
    secret = "".join(chr(ord("a") + place * 7 % 26) for place in range(8))
    key = f"{secret}\r\n{secret[::-1]}"
    with pytest.raises(RuumError) as caught:
        rig.run(lambda: ask(rig.model(key), "analyse"))
    told = everything_told(caught.value)
    assert secret not in told
    assert secret[::-1] not in told


@pytest.mark.parametrize("step", STEPS)
def test_a_spent_day_is_not_a_pause(rig: Rig, step: Step) -> None:
    error = rig.call(step, "429_day")
    assert isinstance(error, DailyQuotaSpent), "it comes with a RetryInfo of 7 s all the same: not to be believed"


def test_the_day_as_the_server_counts_it(rig: Rig) -> None:
    rig.server.plan.per_day = {"*": 1}
    answer(rig.call("analyse"))
    assert isinstance(rig.call("analyse"), DailyQuotaSpent)


# --- throttled


@pytest.mark.parametrize("step", STEPS)
def test_429_with_retry_info(rig: Rig, step: Step) -> None:
    error = rig.call(step, "429")
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds == 7.0


@pytest.mark.parametrize("step", STEPS)
def test_bare_429(rig: Rig, step: Step) -> None:
    error = rig.call(step, "429_bare")
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds is None


@pytest.mark.parametrize(
    ("delay", "expected"),
    [("0s", 0.0), ("7.5s", 7.5), ("0.250s", 0.25), ("3600s", 3600.0), ("soon", None), ("", None), (7, None), ("-1s", None)],
)  # fmt: skip
def test_the_delay_as_vendors_write_it(rig: Rig, delay: object, expected: float | None) -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    error = rig.said(429, error_body(429, "RESOURCE_EXHAUSTED", "slow down", retry))
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds == expected


@pytest.mark.parametrize("body", [b"", b"<html>429</html>", b"[]", b'{"error": null}', b'{"error": {"details": null}}',
                                  b'{"error": {"code": 429, "details": ["x", 7, {"violations": [null, {}]}]}}',
                                  b'{"error": {"code": 429, "details": [{"violations": null}]}}'])  # fmt: skip
def test_429_with_any_body_is_a_pause(rig: Rig, body: bytes) -> None:
    error = rig.said(429, body)
    assert isinstance(error, Throttled), repr(error)
    assert error.retry_after_seconds is None


# --- the world's fault


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated_body"])
def test_vendor_unavailable(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_UNAVAILABLE


@pytest.mark.parametrize("status", [408, 499, 502, 504, 529])
@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"null", b'{"error": "x"}'])
def test_other_servers_faults_whatever_they_say(rig: Rig, status: int, body: bytes) -> None:
    error = rig.said(status, body)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_UNAVAILABLE


def test_nobody_listens(rig: Rig) -> None:
    model = rig.model(base_url="http://127.0.0.1:9")
    with pytest.raises(WorldError) as caught:
        rig.run(lambda: ask(model, "analyse"))
    assert caught.value.code == ErrorCode.VENDOR_UNAVAILABLE


@pytest.mark.parametrize("step", STEPS)
def test_a_hanging_vendor_is_given_up(rig: Rig, step: Step) -> None:
    error = rig.call(step, "hang", text_seconds=0.15, image_seconds=0.15)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_TIMEOUT


def test_the_deadline_is_of_the_whole_call(rig: Rig) -> None:
    """The client's own is per read: a vendor that drips a byte now and then would never be given up."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            writer.close()

    async def work() -> tuple[RuumError, float]:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        model = rig.model(base_url=base, text_seconds=0.2, image_seconds=0.2)
        started = asyncio.get_running_loop().time()
        try:
            await ask(model, "analyse")
        except RuumError as error:
            return error, asyncio.get_running_loop().time() - started
        finally:
            server.close()
        raise AssertionError

    error, seconds = rig.run(work)
    assert isinstance(error, WorldError)
    assert error.code == ErrorCode.VENDOR_TIMEOUT
    assert seconds < 2.0


def test_text_and_image_have_their_own_deadlines(rig: Rig) -> None:
    options = {"text_seconds": 0.2, "image_seconds": 60.0}
    error = rig.call("verify", "hang", **options)
    assert isinstance(error, WorldError)
    assert error.code == ErrorCode.VENDOR_TIMEOUT
    rig.server.plan.latency = {"generate": 0.3}  # longer than the text's deadline
    rig.server.plan.jitter = 0.0
    answer(rig.call("generate", **options))


def test_cancelling_is_no_error_of_the_vendor(rig: Rig) -> None:
    rig.server.plan.script = ["hang"]
    model = rig.model()

    async def work() -> bool:
        task = asyncio.create_task(ask(model, "analyse"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert rig.run(work)


# --- refusals


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["safety", "image_safety", "prohibited_content", "recitation", "blocked"])
def test_refused_by_safety(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, ImageRejected), repr(error)
    assert error.code == ErrorCode.REFUSED_BY_SAFETY


@pytest.mark.parametrize("reason", ["SPII", "BLOCKLIST", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"])
def test_the_rarer_refusals(rig: Rig, reason: str) -> None:
    error = rig.said(200, candidate(None, reason), "generate")
    assert isinstance(error, ImageRejected), repr(error)
    assert error.code == ErrorCode.REFUSED_BY_SAFETY


def test_a_refusal_with_words_is_still_a_refusal(rig: Rig) -> None:
    error = rig.said(200, candidate([{"text": "I can't do that"}], "IMAGE_SAFETY"), "generate")
    assert isinstance(error, ImageRejected), repr(error)


# --- answers that cannot be used


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", ["no_image", "image_other", "empty", "malformed_json", "bad_base64", "max_tokens"])
def test_vendor_bad_answer(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_BAD_ANSWER


@pytest.mark.parametrize("step", ["analyse", "verify"])
def test_json_that_does_not_fit(rig: Rig, step: Step) -> None:
    error = rig.call(step, "schema_mismatch")
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_BAD_ANSWER


@pytest.mark.parametrize(
    "text",
    [
        '{"structure_kept": 1.2, "realism": 1, "style_fit": 1, "defects": []}',
        '{"structure_kept": -0.1, "realism": 1, "style_fit": 1, "defects": []}',
        '{"structure_kept": NaN, "realism": 1, "style_fit": 1, "defects": []}',
        '{"structure_kept": 1, "realism": 1, "style_fit": 1, "defects": [1]}',
        '{"structure_kept": 1, "realism": 1}',
        "[]",
        "null",
        "",
        "I think it looks good",
        "[" * 5000,
    ],
)
def test_verdicts_out_of_bounds_are_no_verdicts(rig: Rig, text: str) -> None:
    error = rig.said(200, candidate([{"text": text}]), "verify")
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_BAD_ANSWER


@pytest.mark.parametrize(
    "body",
    [
        candidate([{"text": "Sorry, here is a description instead"}]),
        candidate([]),
        candidate([picture_part(b"")]),
        candidate([picture_part(jpeg(), thought=True)]),
        candidate(None, "OTHER"),
        candidate(None, "LANGUAGE"),
        {"candidates": []},
        {"candidates": [{}]},
        {"candidates": [{"finishReason": "STOP", "content": None}]},
        [],
        None,
    ],
)
def test_no_picture_in_the_answer(rig: Rig, body: Any) -> None:
    error = rig.said(200, body, "generate")
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_BAD_ANSWER


@pytest.mark.parametrize("body", [7, "text", [7], {"candidates": 7}, {"candidates": "x"}, {"candidates": [7]},
                                  {"candidates": [{"content": 7}]}, {"candidates": [{"content": {"parts": [7]}}]},
                                  {"candidates": [{"content": {"parts": "x"}}]}, {"usageMetadata": 7},
                                  {"promptFeedback": "x"}])  # fmt: skip
def test_json_of_another_shape(rig: Rig, body: Any) -> None:
    error = rig.said(200, body, "generate")
    assert isinstance(error, WorldError), repr(error)
    assert error.code == ErrorCode.VENDOR_BAD_ANSWER


def test_a_reason_of_the_future(rig: Rig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # google-genai warns of enum values it does not know
        error = rig.said(200, candidate(None, "IMAGE_TOO_SAD"), "generate")
        assert isinstance(error, WorldError), repr(error)
        assert error.code == ErrorCode.VENDOR_BAD_ANSWER
        blocked = rig.said(200, {"promptFeedback": {"blockReason": "TOO_SAD"}}, "generate")
        assert isinstance(blocked, ImageRejected), repr(blocked)


def test_a_request_the_vendor_finds_wrong_is_tried_a_few_times(rig: Rig) -> None:
    for status, name in ((400, "INVALID_ARGUMENT"), (413, "INVALID_ARGUMENT"), (422, "INVALID_ARGUMENT")):
        error = rig.said(status, error_body(status, name, "Unable to process input image."))
        assert isinstance(error, WorldError), repr(error)
        assert error.code == ErrorCode.VENDOR_BAD_ANSWER


def test_a_truncated_picture_is_found_when_it_is_decoded(rig: Rig) -> None:
    got = answer(rig.call("generate", "truncated_picture"))
    with pytest.raises(WorldError) as caught:
        pictures.finish(got.value, PHOTO, PhotoLimits())
    assert caught.value.code == ErrorCode.VENDOR_BAD_ANSWER
    whole = answer(rig.call("generate"))
    assert (pictures.finish(whole.value, PHOTO, PhotoLimits()).width) == 80


# --- the bill


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "fault",
    ["safety", "image_safety", "prohibited_content", "recitation", "blocked", "no_image", "image_other", "max_tokens"],
)
def test_refusals_and_bad_answers_are_billed(rig: Rig, fault: Fault, step: Step) -> None:
    error = rig.call(step, fault)
    assert isinstance(error, CodedError)
    assert error.usage is not None
    assert error.usage.model == (SETTINGS.image_model if step == "generate" else SETTINGS.text_model)
    assert error.usage.input_tokens > 1000, "the photo was looked at"


def test_a_picture_nobody_can_use_is_billed_whole(rig: Rig) -> None:
    usage = {"promptTokenCount": 1200, "candidatesTokenCount": 1680, "totalTokenCount": 2880}
    error = rig.said(200, candidate([picture_part(jpeg(), thought=True)], **usage), "generate")
    assert isinstance(error, CodedError)
    assert error.usage == Usage(SETTINGS.image_model, 1200, 1680)


@pytest.mark.parametrize("fault", ["500", "503", "reset"])
def test_what_failed_at_the_vendors_is_not_billed(rig: Rig, fault: Fault) -> None:
    error = rig.call("generate", fault)
    assert isinstance(error, CodedError)
    assert error.usage is None


# --- secrets


def test_the_key_is_in_no_error(rig: Rig) -> None:
    secret = "AIza-very-secret"
    errors: list[BaseException] = []
    for step in STEPS:
        result = rig.call(step, key=secret)
        assert isinstance(result, BaseException)
        errors.append(result)
    rig.server.plan.key = secret
    faults: tuple[Fault, ...] = ("500", "429", "429_day", "429_bare", "401", "403", "404_model", "safety", "blocked", "empty",
                                 "malformed_json", "bad_base64", "reset", "truncated_body", "hang")  # fmt: skip
    for fault in faults:
        result = rig.call("generate", fault, key=secret, image_seconds=0.2)
        assert isinstance(result, BaseException), fault
        errors.append(result)
    for status in (400, 401, 403, 404, 429, 500):
        details = {"reason": "API_KEY_INVALID" if status == 400 else "x", "metadata": {"key": secret}}
        result = rig.said(status, error_body(status, f"KEY {secret}", f"API key {secret} is bad", details), key=secret)
        assert isinstance(result, BaseException), status
        errors.append(result)
    assert [repr(error) for error in errors if secret in everything_told(error)] == []


def test_no_text_of_the_vendors_is_in_an_error(rig: Rig) -> None:
    """Not even its status: whoever stands between us and the vendor may write what it likes there."""
    for status in (400, 404, 409, 422):
        error = rig.said(status, error_body(status, "ECHO test-key", "API key test-key is odd"))
        assert isinstance(error, BaseException)
        assert KEY not in everything_told(error)


# --- aspect ratios


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1, 1, "1:1"), (2048, 1536, "4:3"), (1536, 2048, "3:4"), (2048, 1365, "3:2"), (1365, 2048, "2:3"),
        (2048, 1152, "16:9"), (1152, 2048, "9:16"), (2048, 1638, "5:4"), (1638, 2048, "4:5"), (2048, 878, "21:9"),
        (878, 2048, "9:16"), (2048, 64, "21:9"), (64, 2048, "9:16"), (1000, 1050, "1:1"), (1920, 1080, "16:9"),
        (1, 10_000, "9:16"), (4032, 3024, "4:3"), (1200, 900, "4:3"), (1280, 1000, "5:4"),
    ],
)  # fmt: skip
def test_nearest_ratio(width: int, height: int, expected: str) -> None:
    assert nearest_ratio(width, height) == expected


def test_every_ratio_is_nearest_to_itself() -> None:
    for ratio in ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"):
        across, down = map(int, ratio.split(":"))
        assert nearest_ratio(across * 100, down * 100) == ratio


def test_the_ratio_asked_for_is_the_photos(rig: Rig) -> None:
    rig.canned.status, rig.canned.body = 200, json.dumps(candidate([picture_part(jpeg())])).encode()
    rig.canned.bodies.clear()
    model = rig.model(canned=True)
    for width, height in ((90, 160), (210, 90), (100, 100)):
        photo = Photo(jpeg=jpeg(), width=width, height=height, sha256="0")
        rig.run(lambda photo=photo: ask(model, "generate", photo))
    sent = [body["generationConfig"]["imageConfig"]["aspectRatio"] for body in rig.canned.bodies]
    assert sent == ["9:16", "21:9", "1:1"]


def test_many_calls_at_once_are_many_calls(rig: Rig) -> None:
    rig.server.calls.clear()
    rig.server.plan.script = []
    rig.server.plan.rates = {"503": 0.3, "429": 0.2}
    model = rig.model()

    async def work() -> list[Any]:
        return await asyncio.gather(*(ask(model, "verify") for _ in range(30)), return_exceptions=True)

    results = rig.run(work)
    calls: list[Call] = rig.server.calls
    assert len(calls) == 30
    assert sum(isinstance(result, Answer) for result in results) == sum(call.fault is None for call in calls)
    assert sum(isinstance(result, Throttled) for result in results) == sum(call.fault == "429" for call in calls) > 0
    assert sum(isinstance(result, WorldError) for result in results) == sum(call.fault == "503" for call in calls) > 0


# --- moods: what vendors were reported to answer

KEPT = GOOD.model_dump_json()
WRAPPED = {
    "fence": f"```json\n{KEPT}\n```",
    "fence without a name": f"```\n{KEPT}\n```",
    "fence that is not closed": f"```json\n{KEPT}",
    "fence on one line": f"```json {KEPT} ```",
    "fence in capitals": f"```JSON\r\n{KEPT}\r\n```",
    "tildes": f"~~~\n{KEPT}\n~~~",
    "words before": f"Here is the verdict you asked for:\n{KEPT}",
    "words after": f"{KEPT}\nLet me know if you need more.",
    "braces in the words": f"As {{requested}} by {{you}}: {KEPT}",
    "an example before": f'For instance {{"structure_kept": 1}}; but here: {KEPT}',
    "indented": json.dumps(json.loads(KEPT), indent=4),
    "byte order mark": f"\ufeff{KEPT}",
    "extra fields": json.dumps(json.loads(KEPT) | {"comment": "fine"}),
    "twice": f"{KEPT}\n{KEPT}",
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_json_is_understood_however_it_is_wrapped(rig: Rig, text: str) -> None:
    assert answer(rig.said(200, candidate([{"text": text}]), "verify")).value == GOOD


def test_json_in_several_parts_is_one_answer_and_thoughts_are_none(rig: Rig) -> None:
    parts = [{"text": '{"structure_kept": 0}', "thought": True}, {"text": KEPT[:20]}, {"text": KEPT[20:]}]
    assert answer(rig.said(200, candidate(parts), "verify")).value == GOOD


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "no", KEPT[:-5], "[1, 2]", '"{}"', "{" * 5000, json.dumps({"a": KEPT})]
)
def test_what_is_no_answer_stays_none(rig: Rig, text: str) -> None:
    error = rig.said(200, candidate([{"text": text}]), "verify")
    assert isinstance(error, WorldError)
    assert error.code is ErrorCode.VENDOR_BAD_ANSWER


@pytest.mark.parametrize("reason", ["SAFETY", "IMAGE_SAFETY", "RECITATION", "IMAGE_RECITATION"])
@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
def test_a_refused_answer_may_be_asked_for_again(rig: Rig, reason: str, step: Step) -> None:
    error = rig.said(200, candidate([], reason), step)
    assert isinstance(error, AnswerRefused)
    assert reason in error.message
    assert error.usage is not None, "refusals are billed"


@pytest.mark.parametrize("reason", ["PROHIBITED_CONTENT", "IMAGE_PROHIBITED_CONTENT", "BLOCKLIST", "SPII"])
def test_a_refused_photo_is_final(rig: Rig, reason: str) -> None:
    error = rig.said(200, candidate([], reason), "generate")
    assert isinstance(error, ImageRejected)
    assert not isinstance(error, AnswerRefused)


@pytest.mark.parametrize(
    ("reason", "again"),
    [("OTHER", True), ("BLOCKED_REASON_UNSPECIFIED", True), ("IMAGE_SAFETY", True), ("SAFETY", False),
     ("BLOCKLIST", False), ("PROHIBITED_CONTENT", False), ("JAILBREAK", False), ("MODEL_ARMOR", False)],
)  # fmt: skip
def test_a_blocked_prompt(rig: Rig, reason: str, *, again: bool) -> None:
    error = rig.said(200, {"promptFeedback": {"blockReason": reason}}, "generate")
    assert isinstance(error, ImageRejected)
    assert isinstance(error, AnswerRefused) is again


MONEY = [
    "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.",
    "Prepaid credit balance exhausted.",
    "Your project has exceeded its monthly spending cap.",
    "You have reached your spend limit for this period.",
    "Spend-limit reached for billing tier 1.",
    "Insufficient credits. Add more to continue.",
    "No remaining credits on this account.",
    "Insufficient balance",
    "The budget of this project is used up.",
    "Quota exceeded for metric: generate_content_free_tier_requests, limit: 0, model: gemini-x",
]
BUSY = [
    "Resource has been exhausted (e.g. check quota).",
    "You exceeded your current quota, please check your plan and billing details. For more information see the docs.",
    "No capacity available for model on the server",
    "Quota exceeded for metric: generate_requests, limit: 60, model: gemini-x. Please retry in 20.5s.",
    "The model is overloaded. Please try again later.",
]


@pytest.mark.parametrize("message", MONEY)
@pytest.mark.parametrize("status", [402, 429])
def test_spent_money_is_our_configurations_fault(rig: Rig, message: str, status: int) -> None:
    body = {"error": {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED"}}
    error = rig.said(status, body)
    assert type(error) is ConfigurationError
    assert "credits" in str(error)
    assert message not in str(error), "a vendor's words may repeat our key"


@pytest.mark.parametrize("message", BUSY)
def test_a_busy_minute_is_no_spent_money(rig: Rig, message: str) -> None:
    body = {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}
    assert isinstance(rig.said(429, body), Throttled)


def test_a_plan_without_any_call_is_our_configurations_fault(rig: Rig) -> None:
    violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "0"}
    detail = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}
    body = {"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED", "details": [detail]}}
    assert type(rig.said(429, body)) is ConfigurationError


@pytest.mark.parametrize("step", ["analyse", "verify"])
def test_text_answers_have_a_bound_of_tokens(rig: Rig, step: Step) -> None:
    rig.said(200, candidate([{"text": KEPT}]), step)
    sent = rig.canned.bodies[0]["generationConfig"]
    assert sent["maxOutputTokens"] == SETTINGS.max_text_tokens
