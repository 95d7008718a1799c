"""docs/schemas/ and docs/asyncapi.json: made from the code, valid, and true of what is sent and accepted."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ops import schemas
from shared import decisions
from shared.assembly.wiring import google_rules
from shared.errors import ErrorCode, ManifestRejected
from shared.events import EVENTS
from shared.manifest.fields import HEADER_FIELDS, IMAGE_FIELDS
from shared.manifest.reader import Manifest, read
from shared.manifest.sources import SourceRules
from shared.manifest.vocabulary import ROOM_ALIASES, ROOM_NAMES, STYLE_ALIASES, STYLE_NAMES, TIER_NAMES, Vocabulary
from shared.messages import EVENT_TYPE_PREFIX, ImageChanged, decode
from shared.model import Batch, BatchState, Call, Claim, Control, Counts, Failure, Image, ImageState, Output, Tier
from shared.ports import StoredObject
from shared.results import report
from shared.results.status import status_of
from shared.settings import Limit, ManifestLimits, Settings
from shared.topology import EVENTS_TOPIC
from shared.worker.quota import QuotaEvents, SharedQuota
from tests.clocks import run_virtual
from tests.parts import World

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES = {path.name.removesuffix(".schema.json"): path for path in sorted((DOCS / "schemas").iterdir())}
ASYNCAPI: dict[str, Any] = json.loads((DOCS / "asyncapi.json").read_text("utf-8"))
GUIDE = (DOCS / "crm-guide.md").read_text("utf-8")
FORMATS = jsonschema.FormatChecker(formats=())
RULES = google_rules(Settings())(StoredObject("intake", "manifests/acme/a.json", 1, 1, {}, 0.0))
FUZZ = hypothesis_settings(
    max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@FORMATS.checks("date-time", raises=ValueError)
def is_time(text: object) -> bool:
    """RFC 3339 in UTC: a date and an offset, which `fromisoformat` alone would not ask for."""
    return isinstance(text, str) and "T" in text and datetime.fromisoformat(text).utcoffset() == timedelta(0)


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILES[name].read_text("utf-8"))
    return found


def closed(found: Any) -> Any:
    """The schema with no field outside it, at any depth."""
    if isinstance(found, list):
        return [closed(one) for one in found]
    if not isinstance(found, dict):
        return found
    inner = {key: closed(value) for key, value in found.items()}
    return {"additionalProperties": False, **inner} if "properties" in found and found.get("type") else inner


def check(document: Any, against: dict[str, Any]) -> None:
    """It validates, and has no field outside."""
    validator = jsonschema.Draft202012Validator(closed(against), format_checker=FORMATS)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    assert not errors, (errors, document)


def fits(document: Any, against: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(against, format_checker=FORMATS).is_valid(document)


def test_the_checks_here_see_what_is_wrong() -> None:
    completed = schema("batch.completed")
    (good,) = (event["data"] for event in sent() if event["ce-id"] == "acme.mixed/1")
    check(good, completed)
    counts = good["counts"]
    for bad in [
        good | {"more": 1},
        good | {"counts": counts | {"more": 1}},
        good | {"counts": {"queued": 0}},
        good | {"round": 0},
        good | {"reports": {"x": {}}},
    ]:
        with pytest.raises(AssertionError):
            check(bad, completed)
    status, *_ = (event["data"] for event in sent() if event["ce-id"].endswith("/progress/5"))
    for time in ("2026-03-02", "12:00", "2026-03-02T12:00:00", "2026-03-02T12:00:00+03:00"):
        with pytest.raises(AssertionError):
            check(status | {"updatedAt": time}, schema("batch.progress"))


# --- drift


def test_the_files_are_the_codes_own() -> None:
    for path, content in schemas.documents().items():
        assert path.read_bytes().decode() == content, f"{path.name}: run python -m ops.schemas"


def test_no_file_is_left_over() -> None:
    made = set(schemas.documents())
    for folder in ("schemas", "examples/events"):
        assert set((DOCS / folder).iterdir()) == {path for path in made if path.parent == DOCS / folder}
    assert {path.relative_to(DOCS).as_posix() for path in made} == {
        "asyncapi.json",
        "schemas/manifest.schema.json",
        "schemas/results.schema.json",
        *(f"schemas/{kind}.schema.json" for kind in EVENTS),
        *(f"examples/events/{kind}.json" for kind in EVENTS if kind.startswith("batch.")),
        *(f"examples/{name}" for name in ("status.json", "results.jsonl", "results.csv", "failed.csv")),
    }


# --- the schemas by themselves


def nodes(found: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(found, dict):
        yield found
        for value in found.values():
            yield from nodes(value)
    elif isinstance(found, list):
        for value in found:
            yield from nodes(value)


def resolved(reference: str, document: dict[str, Any]) -> Any:
    assert reference.startswith("#/"), reference
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_is_a_valid_schema(name: str) -> None:
    found = schema(name)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == f"urn:ruum-batch:schema:{name}"
    assert found["title"]
    assert found["type"] == "object"
    for example in found.get("examples", ()):
        check(example, found)
    assert found.get("examples") or name == "quota.changed", "customers need an example"
    jsonschema.Draft202012Validator.check_schema(found)
    used = {node["$ref"] for node in nodes(found) if "$ref" in node}
    for reference in used:
        resolved(reference, found)
    assert {reference.removeprefix("#/$defs/") for reference in used} == set(found.get("$defs", {}))
    for node in nodes(found):
        if "properties" in node:
            assert set(node.get("required", ())) <= set(node["properties"])


@pytest.mark.parametrize("name", [*EVENTS, "results"])
def test_what_customers_receive_may_grow(name: str) -> None:
    """Fields are never left out, and the guide says that new ones may come."""
    for node in nodes(schema(name)):
        if "properties" in node and node.get("type") == "object":
            assert node.get("additionalProperties", True) is not False
            assert set(node["required"]) == set(node["properties"])


def test_descriptions_name_every_value() -> None:
    """Words that programs compare with are text in the schemas: each description lists them all."""
    status = schema("batch.progress")["properties"]
    outcomes = {"completed", "completed_with_failures", "cancelled"}
    quota = schema("quota.changed")["properties"]
    for found, values in [
        (status["state"], {state.value for state in BatchState} - {"closed"} | outcomes),
        (status["control"], {control.value for control in Control}),
        (schema("batch.completed")["properties"]["outcome"], outcomes),
        (schema("results")["properties"]["state"], {"completed", "failed", "cancelled"}),
        (quota["circuit"], {circuit.value for circuit in decisions.quota.Circuit}),
        (
            schema("batch.completed")["properties"]["reports"],
            {name for name, _ in report.RoundReport(a_batch()).files()},
        ),
    ]:
        assert values <= set(re.findall(r"[\w.]+\w", found["description"]))


# --- AsyncAPI


def test_every_reference_of_asyncapi_resolves() -> None:
    references = [node["$ref"] for node in nodes(ASYNCAPI) if "$ref" in node]
    assert len(references) >= 20
    for reference in references:
        resolved(reference, ASYNCAPI)
    used = {reference.rpartition("/")[2] for reference in references if "/components/schemas/" in reference}
    assert used == set(ASYNCAPI["components"]["schemas"]), "a schema that nothing refers to"


def test_asyncapi_has_every_event_of_batches() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    (channel,) = ASYNCAPI["channels"].values()
    assert channel["address"] == EVENTS_TOPIC
    messages = [resolved(reference["$ref"], ASYNCAPI) for reference in channel["messages"].values()]
    kinds = [kind for kind in EVENTS if kind.startswith("batch.")]
    assert len(kinds) == 6
    assert [message["name"] for message in messages] == [EVENT_TYPE_PREFIX + kind for kind in kinds]
    assert messages == list(ASYNCAPI["components"]["messages"].values())
    for message, kind in zip(messages, kinds, strict=True):
        assert message["summary"].endswith(".")
        (example,) = message["examples"]
        check(example["headers"], ASYNCAPI["components"]["schemas"]["Headers"])
        check(example["payload"], schema(kind))
        assert inlined(message["payload"]) == inlined(schema(kind), schema(kind)), kind
    (operation,) = ASYNCAPI["operations"].values()
    assert operation["action"] == "receive"
    assert resolved(operation["channel"]["$ref"], ASYNCAPI) == channel


def inlined(found: Any, document: dict[str, Any] = ASYNCAPI, depth: int = 0) -> Any:
    """A schema with its references put in their places: the same in both documents, but for titles."""
    assert depth < 50
    if isinstance(found, list):
        return [inlined(one, document, depth + 1) for one in found]
    if not isinstance(found, dict):
        return found
    if "$ref" in found:
        rest = {key: value for key, value in found.items() if key != "$ref"}
        return inlined(resolved(found["$ref"], document) | rest, document, depth + 1)
    kept = {key: value for key, value in found.items() if key not in ("$schema", "$id", "$defs", "examples")}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    return {key: inlined(value, document, depth + 1) for key, value in kept.items()}


@pytest.mark.parametrize("name", ASYNCAPI["components"]["schemas"])
def test_asyncapis_schemas_are_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(ASYNCAPI["components"]["schemas"][name])


# --- what the rooms send


def manifest_of(name: str, count: int, **header: Any) -> bytes:
    images = [{"url": f"https://example.com/{index}.jpg", "propertyCode": f"APT {index}"} for index in range(count)]
    fields = {"clientName": "Acme", "batchId": name, "designStyle": "modern", "roomType": "living_room", "cache": False}
    return json.dumps({**fields, **header, "images": images}).encode()


def a_batch(**changes: Any) -> Batch:
    async def make(clock: Any) -> Batch:
        return await World(clock).batch(**changes)

    return run_virtual(make)


class Told(msgspec.Struct):
    """What a day in a world sent and left behind."""

    events: list[dict[str, Any]] = []
    statuses: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    bodies: list[bytes] = []


async def folded(world: World) -> None:
    """Every change so far, given to AGGREGATE."""
    for delivery in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))
        await asyncio.sleep(world.settings.worker.progress_seconds)


async def settled(world: World, batch: str, index: int, state: ImageState) -> None:
    claim = Claim(worker="w", at=world.clock.now())
    await world.change_image(index, batch, state=ImageState.PROCESSING, claim=claim, fence=1)
    folder = f"results/acme/{batch.partition('.')[2]}/"
    output = Output(
        picture=f"{folder}images/{index}.jpg", thumbnail="t", before="b", sha256=f"{index:064x}", width=4, height=3
    )
    more: dict[str, Any] = {
        ImageState.COMPLETED: {"output": output, "prompts": "v1", "durations_ms": {"generate": 1500}},
        ImageState.FAILED: {"error": Failure(code=ErrorCode.NOT_A_PICTURE.value, message="a page"), "attempts": 1},
    }.get(state, {})
    calls = (Call(step="generate", model="m", cost_micro_usd=50_400),)
    await world.change_image(
        index, batch, state=state, claim=None, calls=calls, settled_at=world.clock.now(), cached=index % 2 == 0, **more
    )


async def a_day(world: World, told: Told) -> None:
    """Every kind of event, and what else customers read, from the rooms themselves."""

    async def look() -> None:
        told.events += await world.events()
        for name, (_, content, _) in (await world.kept("results", "results/")).items():
            if name.endswith("status.json"):
                told.statuses.append(json.loads(content))

    async def dropped(name: str, content: bytes) -> Batch:
        await world.objects.put("intake", f"manifests/acme/{name}", content, content_type="application/json")
        batch = await world.rooms.ingest.handle("intake", f"manifests/acme/{name}")
        assert batch is not None
        await look()
        return batch

    # Rejected: few problems, more than an event tells, another client's folder, a batch id used before.
    await dropped("bad.json", manifest_of("bad", 1, clientName=3))
    await dropped("worse.json", manifest_of("worse", 30).replace(b"https:", b"http:"))
    await dropped("other.json", manifest_of("other", 1, clientName="Somebody else"))
    await dropped("empty.csv", b"")
    # Worked through with failures, and paused by its failure threshold on the way.
    mixed = (await dropped("mixed.json", manifest_of("mixed", 10, priority="express", failureThreshold=2))).id
    await dropped("again.json", manifest_of("mixed", 9))
    for index in range(10):
        await settled(world, mixed, index, ImageState.FAILED if index in (2, 5) else ImageState.COMPLETED)
        await folded(world)
        await look()
        if index == 7:
            assert (await world.the_batch(mixed)).control is Control.PAUSED
            await world.rooms.operator.resume(mixed)
    # Paused by hand, resumed, cancelled.
    stopped = (await dropped("stopped.json", manifest_of("stopped", 3))).id
    await settled(world, stopped, 0, ImageState.COMPLETED)
    await folded(world)
    await world.rooms.operator.pause(stopped, "tea")
    await look()
    await world.rooms.operator.resume(stopped)
    await world.rooms.operator.cancel(stopped)
    await folded(world)
    await look()
    # A vendor's quota: a 429, a failing vendor, and a day that is used up.
    events = QuotaEvents(world.queue, world.clock, world.settings.limits)
    quota = SharedQuota(world.store, world.clock, {"model": Limit(per_minute=60)}, "w", events.tell)
    grants = [await quota.reserve("model", Tier.NORMAL) for _ in range(decisions.quota.FAILURES_TO_OPEN + 2)]
    await quota.throttled("model", grants.pop(), None)
    for grant in grants[:-1]:
        await quota.failed("model", grant)
    await quota.day_spent("model", grants[-1])
    while telling := list(quota._telling):
        await asyncio.gather(*telling)
    quota.close()
    await look()
    for name, (_, content, _) in (await world.kept("results", "results/")).items():
        if name.endswith("results.jsonl"):
            told.bodies.append(content)
            told.lines += [json.loads(line) for line in content.splitlines()]


@cache
def day() -> Told:
    told = Told()
    run_virtual(lambda clock: a_day(World(clock), told))
    return told


def sent() -> list[dict[str, Any]]:
    return day().events


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
    Image,
    batch=st.just("acme.b1"), index=st.integers(0, 10**6), source=TEXTS, room_type=TEXTS, design_style=TEXTS,
    tier=st.sampled_from(Tier), shard=st.just(0), property_code=TEXTS | st.none(), state=st.sampled_from(ImageState),
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


# --- manifests: what the reader accepts, the schema accepts

MANIFEST = schema("manifest")
PROPERTIES: dict[str, dict[str, Any]] = MANIFEST["properties"]
ITEM: dict[str, Any] = PROPERTIES["images"]["items"]
GOOD = {"clientName": "Acme", "designStyle": "modern", "roomType": "den", "images": [{"url": "a.jpg"}]}


def taken(document: Any, rules: SourceRules = RULES) -> Manifest | list[str]:
    """The manifest, or why the reader refuses it."""
    try:
        return read(io.BytesIO(json.dumps(document).encode()), "a.json", ManifestLimits(), rules)
    except ManifestRejected as error:
        return [str(problem) for problem in error.problems]


def test_the_schema_has_the_readers_fields() -> None:
    assert list(PROPERTIES) == [*HEADER_FIELDS, "images"]
    assert list(ITEM["properties"]) == list(IMAGE_FIELDS)
    assert PROPERTIES["images"]["maxItems"] == ManifestLimits().max_images
    assert not fits({**GOOD, "more": 1}, MANIFEST)
    assert not fits({**GOOD, "images": [{"url": "a.jpg", "more": 1}]}, MANIFEST)
    assert not fits({**GOOD, "images": []}, MANIFEST)


@pytest.mark.parametrize(
    ("field", "known"), [("roomType", ROOM_NAMES), ("designStyle", STYLE_NAMES), ("priority", TIER_NAMES)]
)
def test_canonical_names_are_listed_first(field: str, known: Vocabulary) -> None:
    listed, free = PROPERTIES[field]["anyOf"]
    assert tuple(listed["enum"]) == known.values
    assert all(isinstance(taken({**GOOD, field: value}), Manifest) for value in listed["enum"])
    assert free["type"] == ["string", "null"]
    if field in ITEM["properties"]:
        assert ITEM["properties"][field]["anyOf"] == [listed, free]


@pytest.mark.parametrize(
    "wrong",
    [
        {"clientName": ""}, {"clientName": None}, {"clientName": 7}, {"clientName": "a\nb"}, {"clientName": "a" * 201},
        {"batchId": "über"}, {"batchId": "a" * 65}, {"batchId": 7}, {"cache": 7}, {"cache": []},
        {"failureThreshold": 0}, {"failureThreshold": "many"}, {"failureThreshold": True}, {"designStyle": 7},
        {"roomType": []}, {"priority": 1}, {"images": [{}]}, {"images": [{"url": ""}]}, {"images": ["a.jpg"]},
        {"images": [{"url": "a.jpg", "propertyCode": "a\u202eb"}]}, {"images": [{"url": "a" * 4097}]}, {"images": {}},
    ],
)  # fmt: skip
def test_what_is_plainly_wrong_both_refuse(wrong: dict[str, Any]) -> None:
    document = {**GOOD, **wrong}
    assert not isinstance(taken(document), Manifest)
    assert not fits(document, MANIFEST)


@pytest.mark.parametrize(
    "name", ["1º Lugar Imóveis", "Casa & Cia – Imóveis", "Imobiliária São João", "Ação", "不動産 7"]
)
def test_clients_names_are_accepted(name: str) -> None:
    document = {**GOOD, "clientName": name}
    assert isinstance(taken(document), Manifest)
    assert fits(document, MANIFEST)


WORDS = [
    "sala de estar", "Quarto", "QUARTO DE CASAL", "varanda", "living-room", "moderno", "Rústico", "boho", "alta",
    "urgente", "high", "express", "sim", "não", "20%", "0,5 %", "20% of 50", "20% de 50", "50", "first-1", "a.jpg",
    "https://example.com/ação.jpg", "Imobiliária São João", "APT 101", "livng room",
]  # fmt: skip
ANYTHING = (
    st.sampled_from(WORDS) | st.text(max_size=20) | st.none() | st.booleans() | st.integers(-1, 10**7)
    | st.floats(allow_nan=False, allow_infinity=False) | st.just("") | st.lists(st.integers(), max_size=1)
)  # fmt: skip
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "batchId": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True),
    "clientName": st.text(min_size=1, max_size=40) | st.sampled_from(WORDS),
    "designStyle": st.sampled_from([*STYLE_NAMES.values, *(name for of in STYLE_ALIASES.values() for name in of)]),
    "roomType": st.sampled_from([*ROOM_NAMES.values, *(name for of in ROOM_ALIASES.values() for name in of)]),
    "priority": st.sampled_from(["express", "alta", "Normal", "economia"]),
    "cache": st.booleans() | st.sampled_from(["sim", "não", "no", "1"]),
    "failureThreshold": st.integers(1, 999_999) | st.sampled_from(["20%", "0,5 %", "20% de 50", "20%of 50", "50", 50.0]),
    "url": st.sampled_from(["a.jpg", "fotos/salão 1.jpg", "https://example.com/a b.jpg", "HTTPS://EXAMPLE.com/a"]),
    "propertyCode": st.text(max_size=40),
}  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Manifests as people write them, right and wrong, with a value of any kind here and there."""

    def some(names: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
        chosen = [name for name in names if name in needed or draw(st.booleans())]
        return {name: draw(ANYTHING if draw(st.integers(0, 15)) == 0 else FITTING[name]) for name in chosen}

    header = some(HEADER_FIELDS, ("clientName", "roomType"))
    images = [some(IMAGE_FIELDS, ("url", "designStyle")) for _ in range(draw(st.integers(1, 3)))]
    return {**header, "images": images}


def test_any_manifest_the_reader_accepts_fits() -> None:
    seen: set[bool] = set()

    @given(documents())
    @hypothesis_settings(FUZZ, max_examples=600)
    def holds(document: Any) -> None:
        accepted = isinstance(taken(document), Manifest)
        seen.add(accepted)
        assert not accepted or fits(document, MANIFEST)

    holds()
    assert seen == {True, False}, "this tries nothing"


# Runs the reader's own tests in a process of its own and notes each document that the reader accepts.
RECORDER = """
import json, sys
import pytest
from shared.manifest import reader

read = reader.read
found = open(sys.argv[1], "w", encoding="utf-8")

def noting(stream, name, *more, **named):
    taken = read(stream, name, *more, **named)
    if len(taken.images) <= 100:
        stream.seek(0)
        try:
            text = stream.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            return taken  # UTF-16 and such: the same documents
        if "\\0" in text:
            return taken
        if name.lower().endswith(".json"):
            found.write(json.dumps(json.loads(text)) + "\\n")
        elif name.lower().endswith(".jsonl"):
            header, *images = [json.loads(line) for line in text.split("\\n") if line.strip()]
            found.write(json.dumps({**header, "images": images}) + "\\n")
    return taken

reader.read = noting
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", "not thousand and not memory", sys.argv[2]]))
"""


def test_every_manifest_that_the_readers_own_tests_accept_fits(tmp_path: Path) -> None:
    noted = tmp_path / "accepted.jsonl"
    command = [sys.executable, "-c", RECORDER, str(noted), "tests/manifest/test_manifest.py"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    accepted = {line: json.loads(line) for line in noted.read_text("utf-8").splitlines()}
    assert len(accepted) > 80, "the recorder notes nothing"
    validator = jsonschema.Draft202012Validator(MANIFEST)
    wrong = {line[:200]: error.message for line, one in accepted.items() for error in validator.iter_errors(one)}
    assert not wrong


def test_valid_samples_validate() -> None:
    found = {}
    for path in sorted((ROOT / "samples").glob("*.json")):
        document = json.loads(path.read_text("utf-8"))
        if isinstance(taken(document, SourceRules(base=path.parent.as_uri() + "/")), Manifest):
            found[path.name] = fits(document, MANIFEST)
    assert found == {"batch.json": True}


@pytest.mark.parametrize("page", ["crm-guide.md", "crm-guide.pt-BR.md", "manifest.md"])
def test_the_pages_manifests_validate(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    blocks = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"images"' in block]
    assert blocks
    for block in blocks:
        assert fits(json.loads(block), MANIFEST)
