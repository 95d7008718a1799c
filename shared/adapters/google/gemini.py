"""The three agents on Gemini, through google-genai.

One client lives as long as the worker. The client's own retries are off, because they ignore RetryInfo and hide calls
from the quota. Each call has a total deadline, since the client's time-out is per read. Nothing is stored at the vendor
(`store=False`).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

import httpx2
from google import genai
from google.genai import errors, types
from pydantic import BaseModel, ValidationError

from shared.answers import Analysis, Verdict
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
from shared.ports import Answer, ModelSpec, Photo, Request
from shared.settings import Settings
from shared.staging import prompts
from shared.staging.shapes import nearest_ratio
from shared.vendors import gemini

M = TypeVar("M", bound=BaseModel)

# The photo itself, or the request, is refused. Asking again would change nothing.
_FINAL: Final = frozenset({
    "PROHIBITED_CONTENT", "IMAGE_PROHIBITED_CONTENT", "BLOCKLIST", "SPII",  # finish reasons
    "SAFETY", "JAILBREAK", "MODEL_ARMOR",  # block reasons, with the first and third of the above
})  # fmt: skip
# The filter refused this one answer; the next one may pass.
_ANSWER_REFUSED: Final = frozenset({"SAFETY", "IMAGE_SAFETY", "RECITATION", "IMAGE_RECITATION"})
# A 429 about money, for which waiting does not help. "Check your plan and billing details" does not count: the vendor
# says so in every 429.
_MONEY: Final = re.compile(
    r"credit[\w ]*(deplet|exhaust|run out|used up|insufficient)|(deplet|exhaust|insufficient|no)[\w ]*credit"
    r"|prepa(y|id)|spend(ing)?[- ](cap|limit)|budget|insufficient (funds|balance)|balance[\w ]*low|limit: 0\b"
    r"|payment[\w ]*(fail|declin|requir|overdue)|past due",
    re.IGNORECASE,
)
_JSON: Final = json.JSONDecoder()
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")


class GeminiModel:
    """Gemini's `shared.ports.StagingModel`. Call `aclose` at the end."""

    def __init__(self, key: str, settings: Settings) -> None:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError(
                "the Gemini API key contains invalid characters. Was it pasted with a trailing newline?"
            )
        self._settings, self._spec = settings.gemini, gemini(settings)
        self._client = genai.Client(
            api_key=key,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=self._settings.base_url,
                api_version=self._settings.api_version,
                timeout=int(max(self._settings.text_seconds, self._settings.image_seconds) * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return await self._typed(Analysis, [prompts.analyse(request), _part(photo.jpeg)])

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        return await self._typed(Verdict, [prompts.verify(request, analysis), _part(photo.jpeg), _part(picture)])

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        config = types.GenerateContentConfig(
            response_modalities=["IMAGE"],
            image_config=types.ImageConfig(
                aspect_ratio=nearest_ratio(photo.width, photo.height), image_size=self._settings.image_size
            ),
        )
        contents = [prompts.generate(request, analysis, defects), _part(photo.jpeg)]
        response = await self._call(self._settings.image_model, contents, config, self._settings.image_seconds)
        usage = _usage(self._settings.image_model, response)
        with _billed(usage):
            parts = _parts(response)
            pictures = [p.inline_data.data for p in parts if p.inline_data and p.inline_data.data and not p.thought]
            if not pictures:
                raise WorldError(ErrorCode.VENDOR_BAD_ANSWER, "the answer holds no picture")
            return Answer(pictures[-1], usage)

    async def _typed(self, kind: type[M], contents: list[Any]) -> Answer[M]:
        """Ask the text model for an answer of this type. An answer that does not fit is a `WorldError`."""
        config = types.GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=kind,
            max_output_tokens=self._settings.max_text_tokens,
        )
        response = await self._call(self._settings.text_model, contents, config, self._settings.text_seconds)
        usage = _usage(self._settings.text_model, response)
        with _billed(usage):
            text = "".join(part.text for part in _parts(response) if part.text and not part.thought)
            value = understood(text, kind)
            if value is None:
                message = f"the answer does not fit {kind.__name__} (finish {_finish(response)})"
                raise WorldError(ErrorCode.VENDOR_BAD_ANSWER, message)
            return Answer(value, usage)

    async def _call(
        self, model: str, contents: list[Any], config: types.GenerateContentConfig, seconds: float
    ) -> types.GenerateContentResponse:
        """Make one call within its total deadline, and raise every failure as one of our errors."""
        stored_nowhere = config.model_copy(update={"store": False})
        try:
            async with asyncio.timeout(seconds):
                return await self._client.aio.models.generate_content(
                    model=model, contents=contents, config=stored_nowhere
                )
        except TimeoutError:
            raise WorldError(ErrorCode.VENDOR_TIMEOUT, f"no answer from {model} within {seconds:g} s") from None
        except errors.APIError as error:
            _raise_for(error, model)
        except httpx2.TimeoutException as error:
            raise WorldError(ErrorCode.VENDOR_TIMEOUT, f"{model}: {type(error).__name__}") from None
        except httpx2.HTTPError as error:
            raise WorldError(ErrorCode.VENDOR_UNAVAILABLE, f"{model}: {type(error).__name__}") from None
        except (ValidationError, ValueError, TypeError, AttributeError, KeyError) as error:
            # Not JSON (a JSONDecodeError is a ValueError), or JSON of a shape that the client cannot read.
            raise WorldError(ErrorCode.VENDOR_BAD_ANSWER, f"{model}: {type(error).__name__}") from None

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.aio.aclose()


def understood(text: str, kind: type[M]) -> M | None:
    """Return the first object in `text` that is a `kind`; None if there is none.

    Models put JSON into Markdown fences, and write words before and after it.
    """
    start = text.find("{")
    while start >= 0:
        try:
            found, end = _JSON.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            inner = next(iter(found.values())) if isinstance(found, dict) and len(found) == 1 else None
            for one in (found, inner):
                with suppress(ValidationError):
                    return kind.model_validate(one)
        start = text.find("{", end)
    return None


def _part(jpeg: bytes) -> types.Part:
    return types.Part.from_bytes(data=jpeg, mime_type="image/jpeg")


def _parts(response: types.GenerateContentResponse) -> list[types.Part]:
    """Return the parts of the first candidate. Raises when the vendor refused or sent none."""
    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason is not None:
        _refuse(feedback.block_reason.value, "blocked", final=feedback.block_reason.value in _FINAL)
    if not response.candidates:
        raise WorldError(ErrorCode.VENDOR_BAD_ANSWER, "the answer is empty")
    candidate = response.candidates[0]
    reason = _finish(response)
    if reason in _ANSWER_REFUSED or reason in _FINAL:
        _refuse(reason, "refused", final=reason not in _ANSWER_REFUSED)
    parts = candidate.content.parts if candidate.content else None
    if not parts:
        raise WorldError(ErrorCode.VENDOR_BAD_ANSWER, f"the answer has no parts (finish {_finish(response)})")
    return parts


def _refuse(reason: str, did: str, *, final: bool) -> NoReturn:
    """Raise the error for a refusal: of the photo (`final`), or of one answer."""
    if final:
        raise ImageRejected(ErrorCode.REFUSED_BY_SAFETY, f"the vendor {did} it: {reason}")
    raise AnswerRefused(f"the vendor {did} it: {reason}")


@contextmanager
def _billed(usage: Usage) -> Iterator[None]:
    """Attach the usage to an error raised inside: the answer is paid for even if we cannot use it."""
    try:
        yield
    except CodedError as error:
        error.usage = usage
        raise


def _usage(model: str, response: types.GenerateContentResponse) -> Usage:
    """Return what the call used. Thinking tokens are billed as output, so they count as output.

    Without a count of input tokens the vendor has reported nothing.
    """
    used = response.usage_metadata
    if used is None or not used.prompt_token_count:
        return Usage(model, reported=False)
    if used.candidates_token_count is None and used.total_token_count:
        return Usage(model, used.prompt_token_count, max(0, used.total_token_count - used.prompt_token_count))
    if used.candidates_token_count is None:
        return Usage(model, reported=False)
    return Usage(
        model, used.prompt_token_count or 0, (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
    )


def _finish(response: types.GenerateContentResponse) -> str:
    reason = response.candidates[0].finish_reason if response.candidates else None
    return reason.value if reason else "unknown"


def _raise_for(error: errors.APIError, model: str) -> NoReturn:
    """Raise the error that a status code stands for. It never quotes the vendor's text, which may repeat our key."""
    code: RuumError
    if error.code in (402, 429):
        code = _throttled(error, model)
    elif error.code >= 500 or error.code in (408, 499):
        code = WorldError(ErrorCode.VENDOR_UNAVAILABLE, f"{model} answered {error.code}")
    elif error.code in (401, 403):
        code = ConfigurationError(f"{model} answered {error.code}: key or permission")
    elif error.code == 404:
        code = ConfigurationError(f"{model} answered 404: no such model for this key")
    elif error.code == 400 and any(detail.get("reason") == "API_KEY_INVALID" for detail in _details(error)):
        code = ConfigurationError(f"{model} answered 400: the key is not valid")
    elif error.code == 400 and error.status == "FAILED_PRECONDITION":
        code = ConfigurationError(f"{model} answered 400 FAILED_PRECONDITION: billing or region")
    else:
        # The vendor rejects the request: something about this photo, or our bug. It fails alone, after its attempts.
        code = WorldError(ErrorCode.VENDOR_BAD_ANSWER, f"{model} answered {error.code}")
    raise code from None


def _throttled(error: errors.APIError, model: str) -> RuumError:
    """Return the error for a 402 or 429: money, the daily quota, or too many calls in a minute."""
    details = _details(error)
    violations = [v for detail in details for v in detail.get("violations") or [] if isinstance(v, dict)]
    nothing_allowed = any(str(violation.get("quotaValue")) == "0" for violation in violations)
    if error.code == 402 or nothing_allowed or _MONEY.search(error.message or ""):
        return ConfigurationError(f"{model} answered {error.code}: the key's credits, spend limit or plan are used up")
    if any("PerDay" in str(violation.get("quotaId", "")) for violation in violations):
        return DailyQuotaSpent(f"the daily quota of {model} is spent")
    for detail in details:
        match = _SECONDS.fullmatch(str(detail.get("retryDelay", "")))
        if match:
            return Throttled(f"{model} answered 429", float(match[1]))
    return Throttled(f"{model} answered 429")


def _details(error: errors.APIError) -> list[dict[str, Any]]:
    body = error.details
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return [detail for detail in body["error"].get("details") or [] if isinstance(detail, dict)]
    return []
