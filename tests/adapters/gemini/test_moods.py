"""The Gemini adapter and the moods of vendors: what they were reported to answer."""

from __future__ import annotations

import json

import pytest

from ops.local_stack.gemini_server import GOOD, Step
from shared.errors import AnswerRefused, ConfigurationError, ErrorCode, ImageRejected, Throttled, WorldError
from tests.adapters.gemini.parts import SETTINGS, Rig, answer, candidate

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
