"""The local Gemini, running, and the real google-genai client that asks it."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from google import genai
from google.genai import errors, types
from PIL import Image

from ops.local_stack.gemini_server import Call, GeminiServer, Plan, Step
from shared.answers import Analysis, Verdict

TEXT_MODEL, IMAGE_MODEL = "gemini-3.5-flash-lite", "gemini-nano-banana-2.1"
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


def parts_of(answer: Answer) -> list[types.Part]:
    assert answer.candidates and answer.candidates[0].content and answer.candidates[0].content.parts
    return answer.candidates[0].content.parts


def picture_in(part: types.Part) -> Image.Image:
    assert part.inline_data and part.inline_data.data and part.inline_data.mime_type == "image/jpeg"
    return Image.open(io.BytesIO(part.inline_data.data))


def quota_ids(error: errors.APIError) -> list[str]:
    (failure,) = (d for d in error.details["error"]["details"] if d["@type"].endswith("google.rpc.QuotaFailure"))
    return [violation["quotaId"] for violation in failure["violations"]]


def retry_delay(error: errors.APIError) -> str:
    (info,) = (d for d in error.details["error"]["details"] if d["@type"].endswith("google.rpc.RetryInfo"))
    return str(info["retryDelay"])


async def status_of(client: genai.Client, step: Step) -> int:
    try:
        await ask(client, step)
    except errors.APIError as error:
        return error.code
    return 200
