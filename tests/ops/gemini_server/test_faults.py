"""The local Gemini's faults, one by one, as the real client sees them."""

from __future__ import annotations

import asyncio
import json
from typing import get_args

import httpx2
import pydantic
import pytest
from google.genai import errors, types

from ops.local_stack.gemini_server import FAULTS, Fault, Plan, Step
from shared.answers import Verdict
from tests.ops.gemini_server.parts import Answer, ask, one_call, parts_of, picture_in, quota_ids, retry_delay, running


def answer_to(fault: Fault, step: Step) -> Answer:
    """The client's answer for a fault that raises nothing."""
    answer, call = one_call(Plan(script=[fault]), step)
    assert isinstance(answer, Answer)
    assert (call.step, call.fault, call.status) == (step, fault, 200)
    return answer


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
