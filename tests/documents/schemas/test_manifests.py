"""docs/schemas/ of manifests: what the reader accepts, the schema accepts."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.assembly.wiring import google_rules
from shared.errors import ManifestRejected
from shared.manifest.fields import HEADER_FIELDS, IMAGE_FIELDS
from shared.manifest.model import Manifest
from shared.manifest.reader import read
from shared.manifest.sources import SourceRules
from shared.manifest.vocabulary import ROOM_ALIASES, ROOM_NAMES, STYLE_ALIASES, STYLE_NAMES, TIER_NAMES, Vocabulary
from shared.ports import StoredObject
from shared.settings import ManifestLimits, Settings
from tests.documents.schemas.parts import DOCS, FORMATS, FUZZ, ROOT, schema

RULES = google_rules(Settings())(StoredObject("intake", "manifests/acme/a.json", 1, 1, {}, 0.0))


def fits(document: Any, against: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(against, format_checker=FORMATS).is_valid(document)


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
    command = [sys.executable, "-c", RECORDER, str(noted), "tests/manifest/reader"]
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
