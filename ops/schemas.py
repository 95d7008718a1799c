"""Writes docs/schemas/ and docs/asyncapi.json from the code's own types: python -m ops.schemas. A test holds drift."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from shared import events
from shared.manifest import BATCH_ID, HEADER_FIELDS, IMAGE_FIELDS, MOST_NAME_CHARACTERS
from shared.messages import EVENT_SOURCE, EVENT_TYPE_PREFIX
from shared.settings import ManifestLimits
from shared.vocabulary import ROOM_NAMES, STYLE_NAMES, TIER_NAMES

DOCS: Final = Path(__file__).parents[1] / "docs"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_WORDS: Final = {
    "batchId": "Your own id of the batch: the same id with the same content is the same batch. Without it, a hash.",
    "clientName": "Who the photos are for; its slug is the client's folder.",
    "designStyle": "Default: The style. Common spellings and Portuguese names are taken too.",
    "roomType": "Default: The kind of room. Common spellings and Portuguese names are taken too.",
    "priority": "express (+50 %), normal, or economy (-30 %); high is express.",
    "cache": "Whether pictures staged before for this client may be used again.",
    "failureThreshold": 'Pause the batch when so many images failed: 50, or "20%", or "20% of 50", the fewest settled.',
    "url": "https://…, gs:// in an allowed bucket, or a path beside the manifest.",
    "propertyCode": "Your code of the property; part of file names.",
}


# Narrower than the reader, which takes any script and wants one letter or digit for the folder's name.
_TEXT: Final = "^[ -~À-ÿ]+$"
_NAME: Final = "^[ -~À-ÿ]*[A-Za-z0-9][ -~À-ÿ]*$"


def manifest() -> dict[str, Any]:
    """The manifest as JSON. The reader takes more: common spellings, Portuguese names, CSV, JSON Lines."""
    limits = ManifestLimits()
    text = {"type": "string", "minLength": 1, "maxLength": MOST_NAME_CHARACTERS}
    fields: dict[str, dict[str, Any]] = {
        "batchId": {"type": "string", "pattern": f"^{BATCH_ID.pattern}$"},
        "clientName": {**text, "pattern": _NAME},
        "designStyle": {"type": "string", "enum": list(STYLE_NAMES.values)},
        "roomType": {"type": "string", "enum": list(ROOM_NAMES.values)},
        "priority": {"type": "string", "enum": [*TIER_NAMES.values, "high"], "default": "normal"},
        "cache": {"type": "boolean", "default": True},
        "failureThreshold": {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 999_999},
                {"type": "string", "pattern": "^([1-9][0-9]?([.,][0-9]{1,3})?|100) ?%( of [1-9][0-9]{0,5})?$"},
            ]
        },
        "url": {"type": "string", "minLength": 1, "maxLength": limits.most_url_characters},
        "propertyCode": {**text, "pattern": _TEXT},
    }
    image = {
        "type": "object",
        "properties": {
            key: {**fields[key], "description": _WORDS[key].removeprefix("Default: ")} for key in IMAGE_FIELDS
        },
        "required": ["url"],
        "additionalProperties": False,
    }
    in_header_or_images = [
        {"anyOf": [{"required": [key]}, {"properties": {"images": {"items": {"required": [key]}}}}]}
        for key in ("roomType", "designStyle")
    ]
    return {
        "$schema": DIALECT,
        "title": "Batch manifest",
        "type": "object",
        "properties": {
            **{key: {**fields[key], "description": _WORDS[key]} for key in HEADER_FIELDS},
            "images": {"type": "array", "minItems": 1, "maxItems": limits.most_images, "items": image},
        },
        "required": ["clientName", "images"],
        "allOf": in_header_or_images,
        "additionalProperties": False,
    }


def results() -> dict[str, Any]:
    """One line of results.jsonl."""
    return {"$schema": DIALECT, **_inlined(events.ResultLine), "title": "A line of results.jsonl"}


def event_data(kind: str) -> dict[str, Any]:
    """The data of one kind of event."""
    return {"$schema": DIALECT, **_inlined(events.EVENTS[kind]), "title": EVENT_TYPE_PREFIX + kind}


def _inlined(kind: type[events.Public]) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(kind)
    reference = schema.pop("$ref").rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"].pop(reference)
    return found | ({"$defs": schema["$defs"]} if schema["$defs"] else {})


def asyncapi() -> dict[str, Any]:
    """The completion topic, as AsyncAPI 3.0: what is on it, and how it travels."""
    kinds = {kind: data for kind, data in events.EVENTS.items() if kind.startswith("batch.")}
    references, components = msgspec.json.schema_components(kinds.values(), ref_template="#/components/schemas/{name}")
    headers = {
        "type": "object",
        "description": "Attributes of the Pub/Sub message; headers of a push.",
        "properties": {
            "ce-specversion": {"const": "1.0"},
            "ce-id": {"type": "string", "description": "Drop an event whose id you have seen."},
            "ce-type": {"type": "string"},
            "ce-source": {"const": EVENT_SOURCE},
            "ce-subject": {"type": "string", "description": "batch id"},
            "ce-time": {"type": "string", "format": "date-time"},
            "content-type": {"const": "application/json"},
            "client": {"type": "string", "description": "client folder; subscriptions filter on it"},
        },
    }
    messages = {
        data.__name__: {
            "name": EVENT_TYPE_PREFIX + kind,
            "title": EVENT_TYPE_PREFIX + kind,
            "summary": (data.__doc__ or "").partition("\n")[0],
            "contentType": "application/json",
            "headers": {"$ref": "#/components/schemas/Headers"},
            "payload": reference,
        }
        for (kind, data), reference in zip(kinds.items(), references, strict=True)
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ruum Batch: batch events",
            "version": version("ruum-batch"),
            "description": "CloudEvents 1.0 in binary mode: attributes beside JSON data. At least once, in any order.",
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
                "summary": "Pull from your own subscription, or be pushed to.",
            }
        },
        "components": {"messages": messages, "schemas": {**components, "Headers": headers}},
    }


def documents() -> dict[Path, dict[str, Any]]:
    """Each file, below docs/, with its content."""
    schemas = {f"schemas/{kind}.schema.json": event_data(kind) for kind in events.EVENTS}
    found = {
        "schemas/manifest.schema.json": manifest(),
        "schemas/results.schema.json": results(),
        **schemas,
        "asyncapi.json": asyncapi(),
    }
    return {DOCS / name: content for name, content in found.items()}


def written(content: dict[str, Any]) -> str:
    """A document's text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, content in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written(content))
