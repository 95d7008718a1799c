"""Write docs/schemas/, docs/asyncapi.json and the generated examples: `python -m ops.generate.schemas`.

Everything comes from the code's own types and functions. A test compares the files with what this module generates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from shared import events
from shared.errors import ErrorCode
from shared.manifest.checks import BATCH_ID, MAX_NAME_CHARACTERS
from shared.manifest.fields import HEADER_FIELDS, IMAGE_FIELDS, WORDS
from shared.manifest.vocabulary import ROOM_NAMES, STYLE_NAMES, TIER_NAMES
from shared.messages import EVENT_SOURCE, EVENT_TYPE_PREFIX, Event, batch_event
from shared.model import Batch, BatchState, Call, Control, Counts, Failure, Image, ImageState, ManifestRef, Output, Tier
from shared.results import names, report
from shared.results.status import progress_of
from shared.settings import ManifestLimits

DOCS: Final = Path(__file__).parents[2] / "docs"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ID_PREFIX: Final = "urn:ruum-batch:schema:"

# No control characters, and no marks that change a text's direction or break its line.
_PRINTABLE: Final = r"^[^\u0000-\u001F\u007F-\u009F\u200B-\u200F\u2028-\u202E\u2066-\u2069]*$"
_THRESHOLD: Final = r"^(\d{1,6}([.,]\d{1,3})?\s*(%(\s*(of|de)\s*\d{1,6})?)?)?$"

_EXAMPLES: Final[tuple[dict[str, Any], ...]] = (
    {
        "batchId": "first-1",
        "clientName": "acme",
        "designStyle": "modern",
        "roomType": "living_room",
        "images": [
            {"url": "https://photos.example.com/apt-101/sala.jpg", "propertyCode": "APT-101"},
            {"url": "https://photos.example.com/apt-101/quarto.jpg", "propertyCode": "APT-101", "roomType": "bedroom"},
        ],
    },
    {
        "batchId": "lote-1",
        "clientName": "Imobiliária São João",
        "designStyle": "moderno",
        "roomType": "sala de estar",
        "priority": "alta",
        "failureThreshold": "20%",
        "images": [{"url": "https://fotos.example.com/ap-101/sala.jpg", "propertyCode": "AP-101"}],
    },
)


def _of_header(field: str) -> str:
    """Return what a field of the header means. If images may have it too, the header's value is their default."""
    return f"Default: {WORDS[field]}" if field in IMAGE_FIELDS else WORDS[field]


def manifest() -> dict[str, Any]:
    """Return the schema of a manifest in JSON.

    It accepts every manifest that the reader accepts. The reader also checks spellings and addresses.
    """
    limits = ManifestLimits()
    optional = ["string", "null"]
    text = {"maxLength": MAX_NAME_CHARACTERS, "pattern": _PRINTABLE}

    def choice(values: Iterable[str]) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(values)}, {"type": optional, **text}]}

    fields: dict[str, dict[str, Any]] = {
        "batchId": {"type": optional, "pattern": f"^({BATCH_ID.pattern})?$"},
        "clientName": {"type": "string", "minLength": 1, **text},
        "designStyle": choice(STYLE_NAMES.values),
        "roomType": choice(ROOM_NAMES.values),
        "priority": {**choice(TIER_NAMES.values), "default": "normal"},
        "cache": {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, {"type": optional}], "default": True},
        "failureThreshold": {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 999_999},
                {"type": optional, "pattern": _THRESHOLD},
            ]
        },
        "url": {"type": "string", "minLength": 1, "maxLength": limits.max_url_characters},
        "propertyCode": {"type": optional, **text},
    }
    image = {
        "type": "object",
        "properties": {key: {**fields[key], "description": WORDS[key]} for key in IMAGE_FIELDS},
        "required": ["url"],
        "additionalProperties": False,
    }
    in_header_or_images = [
        {"anyOf": [{"required": [key]}, {"properties": {"images": {"items": {"required": [key]}}}}]}
        for key in ("roomType", "designStyle")
    ]
    return {
        **_head("manifest", "Batch manifest"),
        "description": (
            "A manifest in JSON. A manifest that this schema refuses is rejected. One that it accepts may still be "
            "rejected, for example for a room type that we do not know."
        ),
        "examples": list(_EXAMPLES),
        "type": "object",
        "properties": {
            **{key: {**fields[key], "description": _of_header(key)} for key in HEADER_FIELDS},
            "images": {"type": "array", "minItems": 1, "maxItems": limits.max_images, "items": image},
        },
        "required": ["clientName", "images"],
        "allOf": in_header_or_images,
        "additionalProperties": False,
    }


def results() -> dict[str, Any]:
    """Return the schema of one line of results.jsonl."""
    lines = [events.plain(report.result_line(image)) for image in example_images()]
    head = _head("results", "A line of results.jsonl")
    return {**head, **_inlined(events.ResultLine), "title": head["title"], "examples": lines}


def event_data(kind: str) -> dict[str, Any]:
    """Return the schema of the data of one kind of event."""
    head = _head(kind, EVENT_TYPE_PREFIX + kind)
    found = {**head, **_inlined(events.EVENTS[kind]), "title": head["title"]}
    example = example_events().get(kind)
    return found | ({"examples": [example.data]} if example else {})


def _head(name: str, title: str) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": ID_PREFIX + name, "title": title}


def _inlined(kind: type[events.Public]) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(kind)
    reference = schema.pop("$ref").rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"].pop(reference)
    return found | ({"$defs": schema["$defs"]} if schema["$defs"] else {})


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 description of the events topic: its messages, and how they are delivered."""
    kinds = {kind: data for kind, data in events.EVENTS.items() if kind.startswith("batch.")}
    references, components = msgspec.json.schema_components(kinds.values(), ref_template="#/components/schemas/{name}")
    headers = {
        "type": "object",
        "description": "Attributes of the Pub/Sub message; headers of a webhook's request.",
        "properties": {
            "ce-specversion": {"const": "1.0"},
            "ce-id": {"type": "string", "description": "The idempotency key: drop an event whose id you have handled."},
            "ce-type": {"type": "string"},
            "ce-source": {"const": EVENT_SOURCE},
            "ce-subject": {"type": "string", "description": "batch id"},
            "ce-time": {"type": "string", "format": "date-time"},
            "content-type": {"const": "application/json"},
            "client": {"type": "string", "description": "client folder; subscriptions filter on it"},
        },
    }
    examples = example_events()
    messages = {
        data.__name__: {
            "name": EVENT_TYPE_PREFIX + kind,
            "title": EVENT_TYPE_PREFIX + kind,
            "summary": (data.__doc__ or "").partition("\n")[0],
            "contentType": "application/json",
            "headers": {"$ref": "#/components/schemas/Headers"},
            "payload": reference,
            "examples": [{"headers": examples[kind].attributes(), "payload": examples[kind].data}],
        }
        for (kind, data), reference in zip(kinds.items(), references, strict=True)
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ruum Batch: batch events",
            "version": version("ruum-batch"),
            "description": (
                "CloudEvents 1.0 in binary mode: attributes beside JSON data. Delivered at least once, in any order. "
                "New types and new fields may be added: ignore those you do not know."
            ),
        },
        "defaultContentType": "application/json",
        "channels": {
            "batch-events": {
                "address": "batch-events",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "receiveBatchEvents": {
                "action": "receive",
                "channel": {"$ref": "#/channels/batch-events"},
                "summary": "Pull from your own subscription, or receive each event at your webhook.",
            }
        },
        "components": {"messages": messages, "schemas": {**components, "Headers": headers}},
    }


# --- examples ---------------------------------------------------------------------------------------------------------

_INTAKE: Final = "gs://ruum-prod-ruum-intake/"
_RESULTS: Final = "gs://ruum-prod-ruum-results/"
_MORNING: Final = 1_778_583_600.0  # 12 May 2026, 11:00 UTC, when the example batch is dropped
_COMPLETED: Final = Counts(completed=247, failed=3)


def _example_batch(name: str, **changes: Any) -> Batch:
    uri = f"{_INTAKE}manifests/acme/{name}.json"
    batch = Batch(
        id=f"acme.{name}", client="acme", client_name="acme", tier=Tier.NORMAL, total=250, shards=1,
        state=BatchState.PROCESSING, manifest=ManifestRef(uri=uri, generation=1, sha256="0", base=""),
        created_at=_MORNING,
    )  # fmt: skip
    return msgspec.structs.replace(batch, **changes)


def example_events() -> dict[str, Event]:
    """Return one event of each kind that a CRM receives, as the product would publish it."""
    batch, at = _example_batch("may-12"), _MORNING
    ids = {"batch_id": batch.id, "client": batch.client}
    half = Counts(queued=75, processing=50, completed=123, failed=2)
    stopped = _example_batch("may-13", control=Control.CANCELLING)
    wrong = _example_batch("rejected~3f8a1c07d2b94e65")
    refused = "manifests/acme/may-11.csv"
    cost = 15.094375
    folder = names.round_folder(batch)
    sizes = {"results.jsonl": 171_204, "results.csv": 63_570, "failed.csv": 702, "report.html": 88_431}
    told: list[tuple[Batch, str, float, events.Public]] = [
        (batch, "accepted", at + 4, events.BatchAccepted(**ids, total=250, tier="normal", manifest=batch.manifest.uri)),
        (wrong, "rejected", at, events.BatchRejected(
            batch_id=wrong.id, client=wrong.client, manifest=_INTAKE + refused, problems=2,
            first_problems=(
                "line 14: url is missing",
                'line 20: roomType "livng room" is not known. Did you mean living_room?',
            ),
            errors=_RESULTS + names.errors_name(refused),
        )),
        (batch, "1/progress/5", at + 158, progress_of(batch, half, at + 158, 0.96, None)),
        (stopped, "paused/1", at + 64, events.BatchPaused(
            batch_id=stopped.id, client=stopped.client, control=Control.PAUSED.value, reason="17 of 31 images failed"
        )),
        (stopped, "cancelled", at + 90, events.BatchCancelled(
            batch_id=stopped.id, client=stopped.client, control=stopped.control.value
        )),
        (batch, "1", at + 296, events.BatchCompleted(
            **ids, round=1, outcome=report.outcome(_COMPLETED), total=_COMPLETED.total,
            counts=events.StateCounts(**{state.value: _COMPLETED.of(state) for state in ImageState}),
            success_rate=round(_COMPLETED.completed / _COMPLETED.total, 4), cost_usd=cost, price_usd=cost, cached=4,
            duration_seconds=295.618,
            reports={
                name: events.ReportLink(uri=f"{_RESULTS}{folder}{name}", sha256=_hash(name), bytes=size)
                for name, size in sizes.items()
            },
        )),
    ]  # fmt: skip
    made = [batch_event(of, f"{of.id}/{name}", when, data) for of, name, when, data in told]
    return {event.type.removeprefix(EVENT_TYPE_PREFIX): event for event in made}


def example_images() -> list[Image]:
    """Return three images of a closed batch: one staged, one from the cache, one that failed."""
    batch = _example_batch("may-12")
    steps = {"download": 412, "prepare": 208, "analyse": 9_804, "generate": 31_050, "verify": 9_127, "publish": 366}
    calls = tuple(
        Call(step=step, model="m", cost_micro_usd=cost)
        for step, cost in (("analyse", 1_520), ("generate", 52_350), ("verify", 1_680))
    )

    def image(index: int, code: str, photo: str, **more: Any) -> Image:
        address = f"https://photos.example.com/{photo}"
        return Image(batch=batch.id, index=index, source=address, property_code=code, tier=batch.tier, shard=0, **more)

    def output(stem: str) -> Output:
        folder = names.results_folder(batch)
        return Output(
            picture=f"{folder}images/{stem}.jpg", thumbnail=f"{folder}thumbnails/{stem}.jpg", before="", width=2048,
            height=1536, sha256=_hash(stem),
        )  # fmt: skip

    missing = Failure(code=ErrorCode.SOURCE_NOT_FOUND.value, message="the host answered 404")
    return [
        image(0, "APT-101", "apt-101/sala.jpg", room_type="living_room", design_style="modern",
              state=ImageState.COMPLETED, output=output("0-APT-101"), calls=calls, durations_ms=steps, prompts="v1"),
        image(1, "APT-101", "apt-101/quarto.jpg", room_type="bedroom", design_style="modern",
              state=ImageState.COMPLETED, output=output("1-APT-101"), cached=True, prompts="v1",
              durations_ms={name: steps[name] for name in ("download", "prepare", "publish")}),
        image(2, "APT-102", "apt-102/sala.jpg", room_type="living_room", design_style="boho", state=ImageState.FAILED,
              attempts=1, error=missing, durations_ms={"download": 95}),
    ]  # fmt: skip


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def example_files() -> dict[Path, str]:
    """Return the generated files of docs/examples/: an event of each kind, status.json, and a round's reports."""
    folder = DOCS / "examples"
    made = {
        folder / "events" / f"{kind}.json": _written({"attributes": event.attributes(), "data": event.data})
        for kind, event in example_events().items()
    }
    made[folder / "status.json"] = _written(example_events()["batch.progress"].data)
    gathered = report.RoundReport(_example_batch("may-12", state=BatchState.CLOSING, closing_at=_MORNING))
    for image in example_images():
        gathered.add(image)
    for name, content in gathered.files():
        if not name.endswith(".html"):
            made[folder / name] = content.decode()
    return made


def documents() -> dict[Path, str]:
    """Return every file that this module generates, with its text."""
    schemas = {f"{kind}.schema.json": event_data(kind) for kind in events.EVENTS}
    schemas |= {"manifest.schema.json": manifest(), "results.schema.json": results()}
    found = {DOCS / "schemas" / name: _written(content) for name, content in schemas.items()}
    found[DOCS / "asyncapi.json"] = _written(asyncapi())
    return found | example_files()


def _written(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())  # as bytes: a CSV's line endings must stay CR LF
