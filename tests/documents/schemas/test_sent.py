"""docs/schemas/ and docs/asyncapi.json are true of what is sent: events, status.json, results.jsonl."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ErrorCode
from shared.events import EVENTS
from shared.messages import EVENT_TYPE_PREFIX
from shared.model import BatchState, Call, Control, Counts, Failure, Image, ImageState, Output, Tier
from shared.results import report
from shared.results.status import status_of
from tests import builders
from tests.documents.schemas.parts import ASYNCAPI, DOCS, FUZZ, a_batch, check, day, schema, sent

GUIDE = (DOCS / "crm-guide.md").read_text("utf-8")


# --- what the rooms send


@pytest.mark.parametrize("kind", EVENTS)
def test_events_are_as_their_schemas_say(kind: str) -> None:
    found = [event for event in sent() if event["ce-type"] == EVENT_TYPE_PREFIX + kind]
    assert len(found) >= {"batch.cancelled": 1, "batch.accepted": 2, "batch.paused": 2, "batch.completed": 2}.get(
        kind, 3
    )
    for event in found:
        check(event["data"], schema(kind))


def test_no_event_is_of_another_kind() -> None:
    assert {event["ce-type"].removeprefix(EVENT_TYPE_PREFIX) for event in sent()} == set(EVENTS)


def test_attributes_are_as_asyncapi_says() -> None:
    headers = ASYNCAPI["components"]["schemas"]["Headers"]
    for event in sent():
        attributes = {name: value for name, value in event.items() if name != "data"}
        assert set(attributes) == set(headers["properties"])
        check(attributes, headers)


def example_events() -> list[dict[str, Any]]:
    """The events of docs/examples/, flat as `sent` has them."""
    files = [json.loads(path.read_text("utf-8")) for path in sorted((DOCS / "examples/events").iterdir())]
    return [{**event["attributes"], "data": event["data"]} for event in files]


def test_there_is_an_example_of_each_event_as_the_rooms_send_it() -> None:
    examples = {event["ce-type"]: event for event in example_events()}
    assert set(examples) == {event["ce-type"] for event in sent() if event["ce-type"].startswith("ruum.batch.")}
    for kind, example in examples.items():
        check(example["data"], schema(kind.removeprefix(EVENT_TYPE_PREFIX)))
        (like, *_) = (event for event in sent() if event["ce-type"] == kind)
        assert list(example) == list(like), "the attributes, in their order"
        assert list(example["data"]) == list(like["data"])


def test_ids_are_as_the_guide_says() -> None:
    rows = re.findall(r"^\| `(ruum\.\S+)` \| [^|]+ \| `([^`]+)` \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 6
    wild = {"<round>": r"\d+", "<1–9>": "[1-9]", "<n>": r"\d+"}
    seen = set()
    for event in [*sent(), *example_events()]:
        for kind, pattern in rows:
            if event["ce-type"] == kind:
                parts = re.split(r"(<[^>]+>)", pattern)
                known = {"<batch>": re.escape(event["data"]["batchId"]), **wild}
                expression = "".join(known[part] if part.startswith("<") else re.escape(part) for part in parts)
                assert re.fullmatch(expression, event["ce-id"]), (pattern, event["ce-id"])
                assert event["ce-subject"] == event["data"]["batchId"]
                assert event["client"] == event["data"]["client"]
                seen.add(kind)
    assert seen == {kind for kind, _ in rows}


def test_batch_ids_begin_with_their_client() -> None:
    """As the schemas and the guide say: <client>.<batchId>."""
    for event in sent():
        if event["ce-type"].startswith("ruum.batch."):
            assert event["data"]["batchId"].startswith(event["data"]["client"] + ".")


def test_problems_are_told_by_their_causes() -> None:
    """A sentence may be about many problems: those of one cause in many rows."""
    rejected = [event["data"] for event in sent() if event["ce-type"] == "ruum.batch.rejected"]
    for data in rejected:
        others = [re.match(r".* and ([\d,]+) more: ", sentence) for sentence in data["firstProblems"]]
        told = len(others) + sum(int(more[1].replace(",", "")) for more in others if more)
        assert told == data["problems"] and len(others) <= 10
    assert {data["problems"] > 10 for data in rejected} == {True, False}


# --- status.json


def test_status_is_as_its_schema_says() -> None:
    statuses = day().statuses
    assert {status["state"] for status in statuses} >= {"processing", "completed_with_failures", "cancelled"}
    assert {status["control"] for status in statuses} >= {"run", "paused"}
    assert any(status["imagesPerMinute"] is not None for status in statuses)
    for status in statuses:
        check(status, schema("batch.progress"))


@given(
    st.sampled_from(BatchState),
    st.sampled_from(Control),
    st.lists(st.integers(0, 20), min_size=5, max_size=5),
    st.floats(1e-6, 1e6) | st.none(),
    st.floats(0, 4e9),
)
@FUZZ
def test_any_status_is_as_its_schema_says(
    state: BatchState, control: Control, numbers: list[int], speed: float | None, now: float
) -> None:
    counts = Counts(**dict(zip((one.value for one in ImageState), numbers, strict=True)))
    batch = msgspec.structs.replace(BATCH, state=state, control=control, total=counts.total)
    encoded = msgspec.json.encode(status_of(batch, counts, now, speed, None))
    check(json.loads(encoded), schema("batch.progress"))


BATCH = a_batch()


# --- results.jsonl


def test_result_lines_are_as_their_schema_says() -> None:
    assert {line["state"] for line in day().lines} == {"completed", "failed", "cancelled"}
    for line in day().lines:
        check(line, schema("results"))
    for body in day().bodies:
        assert body.endswith(b"\n")
        assert len(body.splitlines()) == body.count(b"\n")


TEXTS = st.text(max_size=30)
OUTPUTS = st.builds(
    Output, picture=TEXTS, thumbnail=TEXTS, before=TEXTS, sha256=TEXTS, width=st.just(1), height=st.just(1)
)
IMAGES = st.builds(
    builders.an_image,
    batch=st.just("acme.b1"), index=st.integers(0, 10**6), source=TEXTS, room_type=TEXTS, design_style=TEXTS,
    tier=st.sampled_from(Tier), property_code=TEXTS | st.none(), state=st.sampled_from(ImageState),
    round=st.integers(1, 9), attempts=st.integers(0, 9), output=OUTPUTS | st.none(),
    error=st.builds(Failure, code=st.sampled_from([code.value for code in ErrorCode]), message=TEXTS) | st.none(),
    calls=st.lists(st.builds(Call, step=TEXTS, model=TEXTS, cost_micro_usd=st.integers(0, 10**7)), max_size=3).map(tuple),
    durations_ms=st.dictionaries(TEXTS, st.integers(0, 10**6), max_size=3), prompts=TEXTS | st.none(),
    cached=st.booleans(),
)  # fmt: skip


@given(st.lists(IMAGES, min_size=1, max_size=4))
@FUZZ
def test_any_report_is_as_its_schema_says(images: list[Image]) -> None:
    gathered = report.RoundReport(BATCH)
    for image in images:
        gathered.add(image)
    lines = dict(gathered.files())["results.jsonl"].decode().removesuffix("\n").split("\n")
    assert len(lines) == len(images)
    for line in lines:
        check(json.loads(line), schema("results"))
