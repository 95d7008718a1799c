"""The local Gemini's sound answers, and requests that are wrong, as the real client sees them."""

from __future__ import annotations

import asyncio
import io

import httpx2
import pydantic
import pytest
from google.genai import errors, types
from PIL import Image

from ops.local_stack.gemini_server import GOOD, ROOM, GeminiServer, Plan, Step
from shared.answers import Verdict
from tests.ops.gemini_server.parts import (
    IMAGE_MODEL,
    TEXT_MODEL,
    Answer,
    ask,
    one_call,
    parts_of,
    photo,
    picture_in,
    running,
)

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
