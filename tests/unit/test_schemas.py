"""docs/schemas/ and docs/asyncapi.json: made from the code, valid, and true of what is sent and accepted."""

from __future__ import annotations

import asyncio
import io
import json
import re
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
from shared import closing, report
from shared import ledger as ledgers
from shared.errors import ErrorCode, ManifestRejected
from shared.events import EVENTS
from shared.manifest import HEADER_FIELDS, IMAGE_FIELDS, Manifest, read
from shared.messages import EVENT_TYPE_PREFIX, ImageChanged, decode
from shared.model import Batch, BatchState, Call, Claim, Control, Counts, Failure, Image, ImageState, Output, Tier
from shared.ports import StoredObject
from shared.quota import QuotaEvents, SharedQuota
from shared.settings import Limit, ManifestLimits, Settings
from shared.sources import SourceRules
from shared.topology import EVENTS_TOPIC
from shared.wiring import google_rules
from tests.clocks import run_virtual
from tests.rooms.parts import World

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
        assert path.read_bytes().decode() == schemas.written(content), f"{path.name}: run python -m ops.schemas"


def test_no_file_is_left_over() -> None:
    made = {path for path in schemas.documents() if path.parent == DOCS / "schemas"}
    assert set((DOCS / "schemas").iterdir()) == made
    assert {path.relative_to(DOCS).as_posix() for path in schemas.documents()} == {
        "asyncapi.json",
        "schemas/manifest.schema.json",
        "schemas/results.schema.json",
        *(f"schemas/{kind}.schema.json" for kind in EVENTS),
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
    assert found["title"]
    assert found["type"] == "object"
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
        (quota["circuit"], {circuit.value for circuit in ledgers.Circuit}),
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
    kept = {key: value for key, value in found.items() if key not in ("$schema", "$defs")}
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
    grants = [await quota.reserve("model", Tier.NORMAL) for _ in range(ledgers.FAILURES_TO_OPEN + 2)]
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


def test_ids_are_as_the_guide_says() -> None:
    rows = re.findall(r"^\| `(ruum\.\S+)` \| [^|]+ \| `([^`]+)` \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 6
    wild = {"<round>": r"\d+", "<1–9>": "[1-9]", "<n>": r"\d+"}
    seen = set()
    for event in sent():
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


def test_few_problems_are_told_whole_and_many_in_part() -> None:
    rejected = [event["data"] for event in sent() if event["ce-type"] == "ruum.batch.rejected"]
    for data in rejected:
        assert len(data["firstProblems"]) == min(10, data["problems"])
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
    encoded = msgspec.json.encode(closing.status_of(batch, counts, now, speed, None))
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


# --- manifests: what the schema accepts is accepted

MANIFEST = schema("manifest")
PROPERTIES: dict[str, dict[str, Any]] = MANIFEST["properties"]
ITEM: dict[str, Any] = PROPERTIES["images"]["items"]
GOOD = {"clientName": "Acme", "designStyle": "modern", "roomType": "den", "images": [{"url": "a.jpg"}]}
# What the schema says in words alone: addresses that are one of the three things its description allows.
URLS = st.sampled_from(
    ["https://example.com/a.jpg", "https://example.com:8443/a b?x=1#y", "a.jpg", "photos/sala 1.jpg", "ação/ü.png",
     "gs://intake/manifests/acme/a.jpg", "HTTPS://EXAMPLE.com/a", "https://example.com/" + "x" * 4076]
)  # fmt: skip


def values(found: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Whatever this part of the schema accepts. Parts it has no reading for are an error, so that nothing is passed by."""
    known = {key: value for key, value in found.items() if key not in ("description", "default", "type")}
    if "enum" in known:
        return st.sampled_from(known.pop("enum")) if set(known) == {"enum"} else unread(found)
    if "anyOf" in known:
        return st.one_of([values(one) for one in known["anyOf"]]) if set(known) == {"anyOf"} else unread(found)
    if found["type"] == "boolean" and not known:
        return st.booleans()
    if found["type"] == "integer" and set(known) <= {"minimum", "maximum"}:
        return st.integers(known.get("minimum"), known.get("maximum"))
    if found["type"] == "string" and set(known) <= {"pattern", "minLength", "maxLength"}:
        least, most = known.get("minLength", 0), known.get("maxLength")
        if "pattern" not in known:
            return st.text(min_size=least, max_size=most)
        # Patterns are ECMA's: "$" is the very end there.
        pattern = re.sub(r"\$$", r"\\Z", known["pattern"])
        texts = st.from_regex(pattern)
        return texts.filter(lambda text: least <= len(text) and (most is None or len(text) <= most))
    return unread(found)


def unread(found: dict[str, Any]) -> st.SearchStrategy[Any]:
    raise NotImplementedError(f"this test does not know how to make what {found} accepts")


def problems(document: Any) -> list[str]:
    """Why the reader refuses what the schema accepts."""
    assert fits(document, MANIFEST), "no example of what the schema accepts"
    found = taken(document)
    return [] if isinstance(found, Manifest) else found


def taken(document: Any, rules: SourceRules = RULES) -> Manifest | list[str]:
    try:
        return read(io.BytesIO(json.dumps(document).encode()), "a.json", ManifestLimits(), rules)
    except ManifestRejected as error:
        return [str(problem) for problem in error.problems]


def test_the_schema_has_the_readers_fields() -> None:
    assert list(PROPERTIES) == [*HEADER_FIELDS, "images"]
    assert list(ITEM["properties"]) == list(IMAGE_FIELDS)
    assert PROPERTIES["images"]["maxItems"] == ManifestLimits().most_images
    assert not fits({**GOOD, "more": 1}, MANIFEST)
    assert not fits({**GOOD, "images": [{"url": "a.jpg", "more": 1}]}, MANIFEST)
    assert not fits({**GOOD, "images": []}, MANIFEST)


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_header_field_the_schema_accepts_is_accepted(field: str) -> None:
    @given(values(PROPERTIES[field]))
    @FUZZ
    def holds(value: Any) -> None:
        assert problems({**GOOD, field: value}) == []

    holds()


@pytest.mark.parametrize("field", IMAGE_FIELDS)
def test_an_image_field_the_schema_accepts_is_accepted(field: str) -> None:
    @given(URLS if field == "url" else values(ITEM["properties"][field]))
    @FUZZ
    def holds(value: Any) -> None:
        assert problems({**GOOD, "images": [{"url": "a.jpg", field: value}]}) == []

    holds()


def test_what_the_schema_requires_is_enough() -> None:
    """With the required fields alone, or with optional ones left out one by one."""
    for document in [
        {"clientName": "Acme", "images": [{"url": "a.jpg"}]},
        {"clientName": "Acme", "roomType": "den", "images": [{"url": "a.jpg"}]},
        {
            "clientName": "Acme",
            "roomType": "den",
            "images": [{"url": "a.jpg", "designStyle": "boho"}, {"url": "b.jpg"}],
        },
        GOOD,
    ]:
        assert not fits(document, MANIFEST) or problems(document) == []


@pytest.mark.parametrize("threshold", [1, 50, 999_999, 1_000_000, 50.0, "20%", "0.5%", "0,5%", "100%", "0%", "101%"])
def test_thresholds_the_schema_accepts_are_accepted(threshold: Any) -> None:
    document = {**GOOD, "failureThreshold": threshold}
    assert not fits(document, MANIFEST) or problems(document) == []


def test_images_are_not_told_that_they_are_defaults() -> None:
    for field in ("roomType", "designStyle"):
        assert "default" not in ITEM["properties"][field]["description"].lower()


PRINTABLE = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs")), min_size=1, max_size=40)
NAMES = PRINTABLE.filter(lambda text: any(character.isalnum() for character in text))
COMMON = {
    "clientName": NAMES,
    "propertyCode": NAMES,
    "url": URLS,
    "failureThreshold": st.sampled_from([1, 50, "20%", "7.5%"]),
}


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest as customers write them, every field and combination of them; odd values have tests of their own."""

    def some(found: dict[str, Any], required: list[str]) -> dict[str, Any]:
        chosen = [name for name in found if name in required or draw(st.booleans())]
        return {
            name: draw(COMMON[name] if name in COMMON else values(found[name])) for name in chosen if name != "images"
        }

    header = some(PROPERTIES, MANIFEST["required"])
    always = [name for name in ("roomType", "designStyle") if name not in header]
    images = [some(ITEM["properties"], [*ITEM["required"], *always]) for _ in range(draw(st.integers(1, 4)))]
    return {**header, "images": images}


@given(manifests())
@FUZZ
def test_a_manifest_the_schema_accepts_is_accepted(document: dict[str, Any]) -> None:
    assert problems(document) == []
    found = taken(document)
    assert isinstance(found, Manifest)
    assert len(found.images) == len(document["images"])
    for image, wanted in zip(found.images, document["images"], strict=True):
        assert image.room_type == wanted.get("roomType", document.get("roomType"))
        assert image.design_style == wanted.get("designStyle", document.get("designStyle"))
        assert image.property_code == wanted.get("propertyCode")
    tiers = {"high": "express", **{tier.value: tier.value for tier in Tier}}
    assert found.tier.value == tiers[document.get("priority", PROPERTIES["priority"]["default"])]
    assert found.cache is document.get("cache", PROPERTIES["cache"]["default"])


def test_valid_samples_validate() -> None:
    found = {}
    for path in sorted((ROOT / "samples").glob("*.json")):
        document = json.loads(path.read_text("utf-8"))
        if isinstance(taken(document, SourceRules(base=path.parent.as_uri() + "/")), Manifest):
            found[path.name] = fits(document, MANIFEST)
    assert found == {"batch.json": True}
    assert not fits(json.loads((ROOT / "samples/faulty.json").read_text("utf-8")), MANIFEST)


def test_the_guides_first_manifest_validates() -> None:
    (block,) = (block for block in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL) if '"images"' in block)
    assert fits(json.loads(block), MANIFEST)
