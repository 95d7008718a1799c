"""The Gemini adapter's sound answers: what is sent for them, in which shape, and what is billed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from ops.local_stack.gemini_server import GOOD, ROOM, Call, Fault, Step
from shared.errors import CodedError, Throttled, WorldError
from shared.model import Usage
from shared.ports import Answer, Photo
from shared.staging.shapes import nearest_ratio
from tests.adapters.gemini.parts import KEY, PHOTO, SETTINGS, STEPS, Rig, answer, ask, candidate, jpeg, picture_part

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
    assert answer(rig.said(200, body, "verify")).usage == Usage(SETTINGS.text_model, reported=False)


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
