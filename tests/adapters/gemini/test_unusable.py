"""The Gemini adapter, refused or given answers that cannot be used: billed all the same."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from ops.local_stack.gemini_server import Fault, Step
from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.settings import PhotoLimits
from shared.staging import pictures
from tests.adapters.gemini.parts import PHOTO, STEPS, Rig, answer, candidate, error_body, jpeg, picture_part

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
