"""The local Gemini, asked by the real google-genai client: what the client gives for each answer and each fault."""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx2
import pydantic
import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

from ops.gemini_server import BODY_BYTES, FAULTS, GOOD, ROOM, STEPS, Call, Fault, GeminiServer, Plan, Step, main
from shared.answers import Analysis, Verdict

TEXT_MODEL, IMAGE_MODEL = "gemini-3.5-flash-lite", "gemini-nano-banana-2.1"
ROOT = Path(__file__).parents[2]
Answer = types.GenerateContentResponse


def photo(width: int = 320, height: int = 240) -> bytes:
    """A plain beige JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (222, 210, 190)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_client(
    base_url: str, *, key: str = "test-key", version: str = "v1", timeout: int | None = None
) -> genai.Client:
    """The client as the product makes it: one attempt. `timeout` in milliseconds."""
    once = types.HttpRetryOptions(attempts=1)
    options = types.HttpOptions(base_url=base_url, api_version=version, timeout=timeout, retry_options=once)
    return genai.Client(api_key=key, http_options=options)


async def ask(client: genai.Client, step: Step, *, model: str | None = None, **config: Any) -> Answer:
    """One call as the pipeline makes it at `step`."""
    if step == "generate":
        model = model or IMAGE_MODEL
        config = {"response_modalities": ["IMAGE"]} | config
    elif step != "other":
        schema = Analysis if step == "analyse" else Verdict
        config = {"response_mime_type": "application/json", "response_schema": schema} | config
    contents: list[Any] = [types.Part.from_bytes(data=photo(), mime_type="image/jpeg"), f"Please {step} this room."]
    given = types.GenerateContentConfig(store=False, **config)
    return await client.aio.models.generate_content(model=model or TEXT_MODEL, contents=contents, config=given)


@asynccontextmanager
async def running(
    plan: Plan, *, now: Callable[[], float] = time.time, **options: Any
) -> AsyncIterator[tuple[GeminiServer, genai.Client]]:
    """A server and its client, both closed at the end."""
    server = GeminiServer(plan, now=now)
    async with server as base_url:
        client = make_client(base_url, **options)
        try:
            yield server, client
        finally:
            await client.aio.aclose()
            client.close()


def one_call(plan: Plan, step: Step, **options: Any) -> tuple[Answer | Exception, Call]:
    """What the client gives (or raises) for one call, and the server's record of it: exactly one."""

    async def scenario() -> tuple[Answer | Exception, Call]:
        async with running(plan, **options) as (server, client):
            try:
                result: Answer | Exception = await ask(client, step)
            except Exception as error:  # noqa: BLE001 - the exception is what is looked at
                result = error
            (call,) = server.calls
            return result, replace(call)  # as it stands when the client has its result

    return asyncio.run(scenario())


def answer_to(fault: Fault, step: Step) -> Answer:
    """The client's answer for a fault that raises nothing."""
    answer, call = one_call(Plan(script=[fault]), step)
    assert isinstance(answer, Answer)
    assert (call.step, call.fault, call.status) == (step, fault, 200)
    return answer


def parts_of(answer: Answer) -> list[types.Part]:
    assert answer.candidates and answer.candidates[0].content and answer.candidates[0].content.parts
    return answer.candidates[0].content.parts


def picture_in(part: types.Part) -> Image.Image:
    assert part.inline_data and part.inline_data.data and part.inline_data.mime_type == "image/jpeg"
    return Image.open(io.BytesIO(part.inline_data.data))


# --- sound answers


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize(("step", "value"), [("analyse", ROOM), ("verify", GOOD)])
def test_a_schema_is_answered_with_json_that_fits(step: Step, value: pydantic.BaseModel, version: str) -> None:
    answer, call = one_call(Plan(), step, version=version)
    assert isinstance(answer, Answer)
    assert answer.parsed == value
    assert answer.candidates and answer.candidates[0].finish_reason is types.FinishReason.STOP
    assert answer.model_version == TEXT_MODEL
    usage = answer.usage_metadata
    assert usage and usage.prompt_token_count and usage.candidates_token_count and usage.prompt_token_count > 1000
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count
    assert (call.model, call.step, call.status, call.answered, call.store) == (TEXT_MODEL, step, 200, True, False)


def test_a_json_schema_is_recognised_too() -> None:
    async def scenario() -> None:
        async with running(Plan()) as (server, client):
            schema = Verdict.model_json_schema()
            answer = await ask(client, "verify", response_schema=None, response_json_schema=schema)
            assert answer.parsed == GOOD.model_dump()  # a dict: the client does not validate
            assert server.calls[0].step == "verify"

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "tokens"), [(None, 1120), ("1K", 1120), ("2K", 1680)])
def test_a_picture_comes_back_with_something_in_its_lower_half(size: str | None, tokens: int) -> None:
    async def scenario() -> Answer:
        async with running(Plan()) as (_, client):
            return await ask(client, "generate", image_config=types.ImageConfig(aspect_ratio="4:3", image_size=size))

    answer = asyncio.run(scenario())
    (part,) = parts_of(answer)
    with picture_in(part) as picture, Image.open(io.BytesIO(photo())) as source:
        assert (picture.format, picture.size) == ("JPEG", source.size)
        high, low = (160, 60), (160, 180)
        assert difference(picture, source, high) < 10
        assert difference(picture, source, low) > 200
    assert answer.usage_metadata and answer.usage_metadata.candidates_token_count == tokens


def difference(one: Image.Image, other: Image.Image, place: tuple[int, int]) -> int:
    """Sum of the colour channels' differences at a place."""
    a, b = one.getpixel(place), other.getpixel(place)
    assert isinstance(a, tuple) and isinstance(b, tuple)
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def test_a_thought_with_a_picture_precedes_the_picture_on_demand() -> None:
    answer, _ = one_call(Plan(thoughts=True), "generate")
    assert isinstance(answer, Answer)
    thought, last = parts_of(answer)
    assert thought.thought and not last.thought
    with picture_in(thought) as draft, picture_in(last) as picture:
        assert draft.size != picture.size == (320, 240)


def test_a_plain_question_gets_plain_text() -> None:
    answer, call = one_call(Plan(), "other")
    assert isinstance(answer, Answer)
    assert (answer.text, call.step) == ("OK", "other")


# --- faults, one by one

REFUSALS: dict[Fault, tuple[type[errors.APIError], int, str]] = {
    "500": (errors.ServerError, 500, "INTERNAL"),
    "503": (errors.ServerError, 503, "UNAVAILABLE"),
    "429": (errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    "429_day": (errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    "429_bare": (errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    "401": (errors.ClientError, 401, "UNAUTHENTICATED"),
    "403": (errors.ClientError, 403, "PERMISSION_DENIED"),
    "404_model": (errors.ClientError, 404, "NOT_FOUND"),
}
FINISHES: dict[Fault, types.FinishReason] = {
    "safety": types.FinishReason.SAFETY,
    "image_safety": types.FinishReason.IMAGE_SAFETY,
    "prohibited_content": types.FinishReason.PROHIBITED_CONTENT,
    "no_image": types.FinishReason.NO_IMAGE,
    "image_other": types.FinishReason.IMAGE_OTHER,
    "recitation": types.FinishReason.RECITATION,
}
RAISES: dict[Fault, tuple[type[Exception], int | None]] = {
    "malformed_json": (json.JSONDecodeError, 200),
    "bad_base64": (pydantic.ValidationError, 200),
    "reset": (httpx2.ReadError, None),
    "truncated_body": (httpx2.RemoteProtocolError, 200),
    "hang": (httpx2.ReadTimeout, None),
}
UNUSABLE: set[Fault] = {"blocked", "empty", "schema_mismatch", "max_tokens", "truncated_picture", "low_quality"}


def test_every_fault_is_tested_here() -> None:
    assert set(FAULTS) == {*REFUSALS, *FINISHES, *RAISES, *UNUSABLE} == set(get_args(Fault))


@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
@pytest.mark.parametrize("fault", REFUSALS)
def test_a_refusal_raises_with_code_and_status(fault: Fault, step: Step) -> None:
    kind, code, status = REFUSALS[fault]
    error, call = one_call(Plan(script=[fault]), step)
    assert isinstance(error, kind)
    assert (error.code, error.status) == (code, status)
    assert isinstance(error.response, httpx2.Response) and error.response.headers["content-type"] == "application/json"
    assert (call.fault, call.status, call.answered) == (fault, code, False)


@pytest.mark.parametrize(("fault", "window"), [("429", "PerMinute"), ("429_day", "PerDay"), ("429_bare", None)])
def test_only_the_details_tell_the_three_429_apart(fault: Fault, window: str | None) -> None:
    error, _ = one_call(Plan(script=[fault]), "analyse")
    assert isinstance(error, errors.ClientError)
    if window is None:
        assert "details" not in error.details["error"]
    else:
        assert window in quota_ids(error)[0]
        assert retry_delay(error) == "7s"


def quota_ids(error: errors.APIError) -> list[str]:
    (failure,) = (d for d in error.details["error"]["details"] if d["@type"].endswith("google.rpc.QuotaFailure"))
    return [violation["quotaId"] for violation in failure["violations"]]


def retry_delay(error: errors.APIError) -> str:
    (info,) = (d for d in error.details["error"]["details"] if d["@type"].endswith("google.rpc.RetryInfo"))
    return str(info["retryDelay"])


@pytest.mark.parametrize("step", ["generate", "verify"])
@pytest.mark.parametrize("fault", FINISHES)
def test_a_finish_reason_raises_nothing_and_has_no_parts(fault: Fault, step: Step) -> None:
    answer = answer_to(fault, step)
    assert answer.candidates and answer.candidates[0].finish_reason is FINISHES[fault]
    content = answer.candidates[0].content
    assert content is None or content.parts is None
    assert (answer.parsed, answer.text) == (None, None)
    assert answer.usage_metadata and not answer.usage_metadata.candidates_token_count


@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
@pytest.mark.parametrize("fault", RAISES)
def test_a_broken_answer_raises_outside_the_clients_own_errors(fault: Fault, step: Step) -> None:
    kind, status = RAISES[fault]
    error, call = one_call(Plan(script=[fault]), step, timeout=200 if fault == "hang" else None)
    assert type(error) is kind
    # Not JSON and not base64 are whole answers of HTTP; the others never arrived.
    assert (call.fault, call.status, call.answered) == (fault, status, fault in ("malformed_json", "bad_base64"))


def test_a_connection_lost_while_it_was_kept_is_not_tried_again_by_the_client() -> None:
    async def scenario() -> None:
        script: list[Fault | None] = [None, "reset", None, "truncated_body", None]
        async with running(Plan(script=list(script))) as (server, client):
            for fault in script:
                if fault is None:
                    await ask(client, "verify")
                else:
                    with pytest.raises(RAISES[fault][0]):
                        await ask(client, "verify")
            assert [call.fault for call in server.calls] == script

    asyncio.run(scenario())


@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
def test_a_blocked_prompt_has_no_candidates(step: Step) -> None:
    answer = answer_to("blocked", step)
    assert answer.candidates is None
    assert answer.prompt_feedback
    assert answer.prompt_feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT


@pytest.mark.parametrize("step", ["analyse", "generate", "verify"])
def test_an_empty_answer_looks_like_success(step: Step) -> None:
    answer = answer_to("empty", step)
    assert (answer.candidates, answer.prompt_feedback, answer.usage_metadata) == (None, None, None)


@pytest.mark.parametrize("step", ["analyse", "verify"])
@pytest.mark.parametrize(("fault", "reason"), [("schema_mismatch", "STOP"), ("max_tokens", "MAX_TOKENS")])
def test_json_that_does_not_fit_is_not_parsed(fault: Fault, reason: str, step: Step) -> None:
    answer = answer_to(fault, step)
    assert answer.parsed is None
    assert answer.text
    assert answer.candidates and answer.candidates[0].finish_reason is types.FinishReason(reason)


def test_max_tokens_leaves_no_picture() -> None:
    answer = answer_to("max_tokens", "generate")
    assert answer.candidates and answer.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS
    assert answer.candidates[0].content is None


def test_a_truncated_picture_verifies_but_does_not_load() -> None:
    (part,) = parts_of(answer_to("truncated_picture", "generate"))
    with picture_in(part) as picture:
        picture.verify()
    with picture_in(part) as picture, pytest.raises(OSError, match="truncated"):
        picture.load()


def test_low_quality_is_a_verdict_that_names_defects() -> None:
    verdict = answer_to("low_quality", "verify").parsed
    assert isinstance(verdict, Verdict)
    assert max(verdict.structure_kept, verdict.realism, verdict.style_fit) < 0.5
    assert verdict.defects


# --- key, model, requests that are wrong


@pytest.mark.parametrize(("key", "code", "status"), [("wrong", 400, "INVALID_ARGUMENT"), ("forbidden", 403, "PERMISSION_DENIED")])  # fmt: skip
def test_a_bad_key_is_refused(key: str, code: int, status: str) -> None:
    error, call = one_call(Plan(script=["500"]), "analyse", key=key)
    assert isinstance(error, errors.ClientError)
    assert (error.code, error.status, call.status, call.fault) == (code, status, code, None)
    if code == 400:
        assert str(error.message).startswith("API key not valid")
        assert error.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"


def test_an_unknown_model_is_not_found() -> None:
    error, call = one_call(Plan(models={IMAGE_MODEL}), "analyse")
    assert isinstance(error, errors.ClientError)
    assert (error.code, error.status, call.model) == (404, "NOT_FOUND", TEXT_MODEL)
    answer, _ = one_call(Plan(models={IMAGE_MODEL}), "generate")
    assert isinstance(answer, Answer)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"contents": [{"parts": ["text"]}]}',
        b'{"contents": [], "generationConfig": {"responseSchema": {"properties": {"mood": {}}}}}',
        b'{"contents": [], "generationConfig": {"responseModalities": ["IMAGE"]}}',
        b'{"contents": [{"parts": [{"inlineData": {"data": "AAAA"}}]}], "generationConfig": {"responseModalities": ["IMAGE"]}}',
        b'{"contents": [{"parts": [{"inlineData": {"data": 7}}]}], "generationConfig": {"responseModalities": ["IMAGE"]}}',
    ],
)
def test_a_wrong_request_is_refused(body: bytes) -> None:
    async def scenario() -> None:
        server = GeminiServer(Plan())
        async with server as base_url, httpx2.AsyncClient(headers={"x-goog-api-key": "test-key"}) as http:
            response = await http.post(f"{base_url}/v1/models/m:generateContent", content=body)
            assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
            assert [(c.status, c.answered) for c in server.calls] == [(400, False)]

    asyncio.run(scenario())


# --- quotas


class HandClock:
    """Time moved by hand, in seconds."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def admitted(client: genai.Client, step: Step = "verify", **options: Any) -> errors.ClientError | None:
    """None when the call was answered, else its 429."""
    try:
        await ask(client, step, **options)
    except errors.ClientError as error:
        assert error.code == 429
        return error
    return None


def test_a_rolling_minute_admits_exactly_its_calls() -> None:
    clock = HandClock()

    async def scenario() -> None:
        async with running(Plan(per_minute={TEXT_MODEL: 3}), now=clock) as (server, client):
            for seconds in (0, 20, 30):
                clock.time = 1000.0 + seconds
                assert await admitted(client) is None
            clock.time = 1052.5
            refused = await admitted(client)
            assert refused and quota_ids(refused) == ["GenerateRequestsPerMinutePerProjectPerModel"]
            assert retry_delay(refused) == "7s"  # 7.5 s until the first of the three is 60 s old, truncated
            assert await admitted(client, "generate") is None  # another model, another quota
            clock.time = 1059.9
            assert await admitted(client)
            clock.time = 1060.0
            assert await admitted(client) is None  # and refused calls have not counted
            assert await admitted(client)
            clock.time = 1080.0
            assert await admitted(client) is None
            assert [call.at for call in server.calls if call.status == 429] == [1052.5, 1059.9, 1060.0]
            assert not any(call.answered for call in server.calls if call.status == 429)

    asyncio.run(scenario())


def test_no_rolling_minute_is_ever_above_its_quota_nor_needlessly_below() -> None:
    clock, chance, limit = HandClock(), random.Random(4), 5

    async def scenario() -> None:
        async with running(Plan(per_minute={"*": limit}), now=clock) as (_, client):
            sent: list[float] = []
            for _ in range(200):
                clock.time += chance.choice((0.0, 1.0, 5.0, 13.0, 30.0))
                recent = sum(at > clock.time - 60 for at in sent)
                refused = await admitted(client, "other")
                assert (refused is None) == (recent < limit)
                if refused is None:
                    sent.append(clock.time)

    asyncio.run(scenario())


def test_limits_change_while_running_and_none_may_be_left() -> None:
    clock = HandClock()

    async def scenario() -> None:
        plan = Plan()
        async with running(plan, now=clock) as (_, client):
            assert await admitted(client) is None
            clock.time += 15
            assert await admitted(client) is None
            plan.per_minute = {TEXT_MODEL: 1}
            clock.time += 20
            refused = await admitted(client)  # the calls before the limit was set count: both have to be gone
            assert refused and retry_delay(refused) == "40s"
            plan.per_minute = {TEXT_MODEL: 0}
            refused = await admitted(client)
            assert refused and retry_delay(refused) == "60s"
            plan.per_minute = None
            assert await admitted(client) is None

    asyncio.run(scenario())


def test_a_spent_day_is_told_by_its_quota_id() -> None:
    clock = HandClock()

    async def scenario() -> None:
        async with running(Plan(per_day={"*": 2}, per_minute={"*": 2}), now=clock) as (_, client):
            assert [await admitted(client), await admitted(client)] == [None, None]
            both = await admitted(client)
            assert both and ["PerMinute" in quota_ids(both)[0], "PerDay" in quota_ids(both)[1]] == [True, True]
            clock.time += 61
            day = await admitted(client)
            assert day and quota_ids(day) == ["GenerateRequestsPerDayPerProjectPerModel"]
            clock.time += 86_400
            assert await admitted(client) is None

    asyncio.run(scenario())


# --- scripts, rates, latency


async def status_of(client: genai.Client, step: Step) -> int:
    try:
        await ask(client, step)
    except errors.APIError as error:
        return error.code
    return 200


def test_scripts_are_consumed_one_per_call_the_steps_own_first() -> None:
    async def scenario() -> None:
        plan = Plan(script=["500", None, "503"], step_script={"generate": ["401", None]}, rates={"403": 1.0})
        async with running(plan) as (_, client):
            steps: list[Step] = ["analyse", "generate", "verify", "generate", "generate", "verify"]
            # None stands for a sound answer even where a rate would say otherwise.
            assert [await status_of(client, step) for step in steps] == [500, 401, 200, 200, 503, 403]
            plan.script.append("404_model")  # while running
            assert await status_of(client, "analyse") == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(("fault", "step"), [("low_quality", "analyse"), ("truncated_picture", "verify"), ("schema_mismatch", "generate")])  # fmt: skip
def test_a_scripted_fault_that_cannot_happen_is_loud(fault: Fault, step: Step) -> None:
    error, _ = one_call(Plan(script=[fault]), step)
    assert isinstance(error, errors.ClientError)
    assert error.code == 400 and fault in str(error.message)


RATES: dict[Fault, float] = {"503": 0.2, "low_quality": 0.3, "429_bare": 0.1}


@pytest.mark.parametrize("step", ["analyse", "verify"])
def test_random_faults_keep_to_their_rates(step: Step) -> None:
    # Without HTTP, for the number: 10,000 draws have a standard deviation of at most 50, and five are allowed.
    server, calls = GeminiServer(Plan(rates=RATES, seed=7)), [Call("m", 0.0, step) for _ in range(10_000)]
    for call in calls:
        server._meet(call)
    for fault, rate in RATES.items():
        expected = 0 if fault == "low_quality" and step == "analyse" else 10_000 * rate  # an analysis has no quality
        deviation = (expected * (1 - rate)) ** 0.5
        assert abs(sum(call.fault == fault for call in calls) - expected) <= 5 * deviation


def test_random_faults_repeat_with_the_seed() -> None:
    async def scenario(seed: int) -> list[Fault | None]:
        async with running(Plan(rates=RATES, seed=seed)) as (server, client):
            statuses = [await status_of(client, step) for step in ("analyse", "verify") * 20]
            expected = {None: 200, "low_quality": 200, "503": 503, "429_bare": 429}
            assert statuses == [expected[call.fault] for call in server.calls]
            return [call.fault for call in server.calls]

    faults = asyncio.run(scenario(7))
    assert set(faults) == {None, *RATES}
    assert asyncio.run(scenario(7)) == faults
    assert asyncio.run(scenario(8)) != faults


def test_latency_is_by_step_and_refusals_at_the_door_do_not_wait() -> None:
    async def scenario() -> None:
        plan = Plan(latency={"verify": 0.2, "generate": 3600.0}, jitter=0.0, step_script={"generate": ["403"]})
        async with running(plan) as (_, client):
            started = time.monotonic()
            assert await status_of(client, "analyse") == 200
            assert await status_of(client, "generate") == 403
            between = time.monotonic()
            assert await status_of(client, "verify") == 200
            assert time.monotonic() - between >= 0.2
            assert between - started < 3600

    asyncio.run(scenario())


def test_jitter_spreads_latency_evenly_around_its_mean() -> None:
    server = GeminiServer(Plan(latency=10.0, jitter=0.2))  # asked within: 10,000 s are not worth waiting for
    seconds = [server._meet(Call("m", 0.0, "verify")) for _ in range(1000)]
    assert 8.0 <= min(seconds) < 8.1 and 11.9 < max(seconds) <= 12.0
    assert 9.9 < sum(seconds) / len(seconds) < 10.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"rates": {"explode": 0.1}},
        {"rates": {"500": 0.7, "503": 0.7}},
        {"rates": {"500": -0.1}},
        {"script": ["explode"]},
        {"step_script": {"paint": []}},
        {"latency": {"paint": 1.0}},
        {"latency": -1.0},
        {"per_minute": {"*": -1}},
    ],
)
def test_a_plan_without_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"none of|rates|latency"):
        Plan(**wrong)


# --- records and the two addresses for other processes


def test_the_busiest_minute_counts_what_arrived() -> None:
    server = GeminiServer(Plan())
    server.calls += [
        Call("m", at, status=status) for at, status in [(0, 200), (1, 429), (59, 200), (60, 200), (119, 200)]
    ]
    server.calls += [Call("other", 7.0)]
    assert server.stats()["busiest"] == {"m": 3, "other": 1}, "60 s later is another minute"


def test_stats_count_alike_calls_and_the_plan_can_be_changed_over_http() -> None:
    async def scenario() -> None:
        plan = Plan(script=[None, None, "503"])
        server = GeminiServer(plan)
        async with server as base_url, httpx2.AsyncClient(base_url=base_url) as http:
            client = make_client(base_url)
            steps: list[Step] = ["verify", "verify", "generate"]
            assert [await status_of(client, step) for step in steps] == [200, 200, 503]
            stats = (await http.get("/stats")).json()
            assert stats == server.stats()
            assert (stats["calls"], stats["answered"]) == (3, 2)
            assert stats["busiest"] == {TEXT_MODEL: 2, IMAGE_MODEL: 1}
            assert stats["groups"] == [
                {"model": TEXT_MODEL, "step": "verify", "store": False, "fault": None, "status": 200, "answered": True}
                | {"count": 2},
                {"model": IMAGE_MODEL, "step": "generate", "store": False, "fault": "503", "status": 503}
                | {"answered": False, "count": 1},
            ]
            change = {"per_minute": {IMAGE_MODEL: 9}, "per_day": None, "latency": 0.01, "rates": {"401": 1.0}}
            assert (await http.post("/plan", json=change)).status_code == 200
            assert (plan.per_minute, plan.latency, plan.rates) == ({IMAGE_MODEL: 9}, 0.01, {"401": 1.0})
            assert await status_of(client, "generate") == 401
            for wrong in ({"rates": {"explode": 1.0}, "latency": 5.0}, {"key": "x"}, {"latency": "slow"}, [1], "x"):
                response = await http.post("/plan", json=wrong)
                assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
            assert (plan.latency, plan.rates, plan.key) == (0.01, {"401": 1.0}, "test-key")
            assert (await http.get("/plan")).status_code == (await http.post("/v1/models")).status_code == 404
            await client.aio.aclose()
            client.close()

    asyncio.run(scenario())


def test_a_call_whose_client_has_gone_was_work_for_nobody() -> None:
    async def scenario() -> None:
        async with running(Plan(latency=0.2, jitter=0.0)) as (server, client):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(client, "generate")
            (call,) = server.calls
            assert call.status is None  # under way
            while call.status is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert (call.status, call.answered) == (200, False)
            await ask(client, "verify")
            assert server.calls[1].answered

    asyncio.run(scenario())


def test_a_hundred_calls_at_once_are_all_answered() -> None:
    async def scenario() -> None:
        async with running(Plan(latency=0.1, thoughts=True)) as (server, client):
            steps: list[Step] = ["analyse", "generate", "verify", "other"] * 25
            answers = await asyncio.gather(*(ask(client, step) for step in steps))
            assert all(parts_of(answer) for answer in answers)
            assert sum(call.answered for call in server.calls) == 100

    asyncio.run(scenario())


def test_stopping_drops_calls_that_hang_and_can_be_repeated() -> None:
    async def scenario() -> None:
        async with running(Plan(script=["hang"])) as (server, client):
            waiting = asyncio.create_task(ask(client, "verify"))
            while not server.calls or not server.calls[0].fault:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(5):
                await server.stop()
                with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
                    await waiting
            await server.stop()
            await server.start()  # and started again, the records go on
            assert len(server.calls) == 1

    asyncio.run(scenario())


def test_stopping_does_not_wait_for_a_client_that_never_reads() -> None:
    async def scenario() -> None:
        server = GeminiServer(Plan())
        server.calls += [Call(f"model-{n}", 0.0) for n in range(100_000)]  # 12 MB of stats: more than sockets buffer
        base_url = await server.start()
        # A bare socket: a stream would read ahead by itself.
        with socket.create_connection(("127.0.0.1", int(base_url.rsplit(":", 1)[1]))) as silent:
            silent.sendall(b"GET /stats HTTP/1.1\r\n\r\n")
            await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                await server.stop()

    asyncio.run(scenario())


# --- HTTP, spoken by hand


def talk(*requests: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Send the bytes on one connection; the answers until the server closes it, or one for each request."""

    async def scenario() -> list[tuple[int, dict[str, str], bytes]]:
        async with GeminiServer(Plan()) as base_url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rsplit(":", 1)[1]))
            writer.writelines(requests)
            answers = []
            try:
                for _ in requests:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                    headers = dict(line.lower().split(": ", 1) for line in head[1:-1])
                    body = await reader.readexactly(int(headers.get("content-length", "0")))
                    answers.append((int(head[0].split()[1]), headers, body))
            except asyncio.IncompleteReadError as error:
                assert error.partial == b""
            finally:
                writer.close()
                await writer.wait_closed()
            return answers

    return asyncio.run(scenario())


def test_a_connection_is_kept_for_the_next_request_unless_told() -> None:
    stats = b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /stats?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert [(status, h["connection"]) for status, h, _ in talk(stats, last, stats)] == [
        (200, "keep-alive"),
        (200, "close"),
    ]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"what\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /plan HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /plan HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /plan HTTP/1.1\r\n\r\n{}", 411),
        (b"POST /plan HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (f"POST /plan HTTP/1.1\r\nContent-Length: {BODY_BYTES + 1}\r\n\r\n".encode(), 413),
        (b"GET /stats HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /stats HTTP/1.0\r\n\r\n", 505),
    ],
)
def test_what_is_not_http_or_too_large_is_refused_and_closed(request_bytes: bytes, status: int) -> None:
    ((seen, headers, body),) = talk(request_bytes)
    assert (seen, headers["connection"]) == (status, "close")
    assert json.loads(body)["error"]["code"] == status


def test_a_client_that_sends_too_much_still_reads_the_refusal() -> None:
    async def scenario() -> None:
        async with GeminiServer(Plan()) as base_url, httpx2.AsyncClient() as http:
            response = await http.post(f"{base_url}/plan", content=bytes(BODY_BYTES + 1))
            assert response.status_code == 413

    asyncio.run(scenario())


def test_a_body_that_waits_to_be_invited_is_invited() -> None:
    head = b"POST /plan HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert [status for status, _, _ in talk(head, b"{}")] == [100, 200]


# --- the command


def test_the_command_prints_its_address_and_serves_until_terminated() -> None:
    command = [sys.executable, "-m", "ops.gemini_server", "--latency", "0.01", "--per-minute", "2", "--fault", "503=0"]
    command += ["--per-minute", f"{IMAGE_MODEL}=0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        try:
            base_url = process.stdout.readline().strip()

            async def scenario() -> list[int]:
                client = make_client(base_url)
                steps: list[Step] = ["generate", "verify", "analyse", "verify"]
                statuses = [await status_of(client, step) for step in steps]
                await client.aio.aclose()
                client.close()
                return statuses

            assert asyncio.run(scenario()) == [429, 200, 200, 429]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [["--fault", "explode=0.1"], ["--fault", "503=often"], ["--latency", "-1"]])
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_steps_are_those_of_the_pipeline_and_one_for_anything_else() -> None:
    assert STEPS == ("analyse", "generate", "verify", "other")
