"""docs/schemas/ and docs/asyncapi.json: made from the code, and valid by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from ops.generate import schemas
from shared import decisions
from shared.events import EVENTS
from shared.messages import EVENT_TYPE_PREFIX
from shared.model import BatchState, Control
from shared.results import report
from shared.topology import EVENTS_TOPIC
from tests.documents.schemas.parts import ASYNCAPI, DOCS, FILES, a_batch, check, schema, sent


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
        assert path.read_bytes().decode() == content, f"{path.name}: run python -m ops.generate.schemas"


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
