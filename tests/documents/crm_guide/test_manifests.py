"""What the customer's pages say of manifests, held against the reader."""

from __future__ import annotations

import io
import json
import re

import pytest

from shared.assembly.wiring import google_rules
from shared.errors import ManifestRejected
from shared.manifest import reader
from shared.manifest.checks import MAX_NAME_CHARACTERS
from shared.manifest.fields import COLUMNS as CSV_COLUMNS
from shared.manifest.fields import HEADER_FIELDS, IMAGE_FIELDS
from shared.manifest.model import Manifest
from shared.manifest.vocabulary import ROOM_NAMES, ROOMS, STYLE_NAMES, STYLES, TIER_NAMES, TIERS
from shared.model import BatchState, FailureThreshold, ImageState
from shared.ports import StoredObject
from shared.results import names, report
from shared.untrusted.text import slug
from tests import builders
from tests.documents.crm_guide.parts import (
    DOCS,
    EN,
    FIELDS,
    FIRST,
    GIVEN,
    GUIDES,
    MANIFEST,
    PAGES,
    PT,
    RESULTS,
    ROOT,
    SETTINGS,
    TERRAFORM,
    blocks,
    first_words,
    mib,
    prose,
    tables,
)


def read(content: str, name: str = "manifests/acme/first.json") -> Manifest:
    """As the cloud's ingest reads it."""
    rules = google_rules(SETTINGS)(StoredObject("ruum-prod-ruum-intake", name, 1, len(content), {}, 0.0))
    try:
        return reader.read(io.BytesIO(content.encode()), name, SETTINGS.manifest, rules)
    except ManifestRejected as error:
        raise AssertionError([str(problem) for problem in error.problems]) from error


def manifest_blocks(page: str) -> list[str]:
    return [block for block in blocks(page, "json") if '"images"' in block]


# --- manifests


@pytest.mark.parametrize("page", PAGES)
def test_manifest_blocks_are_accepted(page: str) -> None:
    found = [read(block) for block in manifest_blocks(PAGES[page])]
    assert len(found) == 1
    assert found[0].client == "acme"


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.csv", "manifesto.csv", "failed.csv"])
def test_example_manifests_are_accepted(name: str) -> None:
    found = read((DOCS / "examples" / name).read_bytes().decode(), f"manifests/acme/{name}")
    assert found.client == "acme"
    if name.startswith("manifest"):
        assert [image.room_type for image in found.images] == ["living_room", "bedroom"]
        assert {image.design_style for image in found.images} == {"modern"}
    if name in ("manifest.jsonl", "manifest.csv"):
        assert found.images == read(*manifest_blocks(EN)).images
        assert found.batch == "acme.first-1"


def test_the_first_manifest_says_the_same_in_both_languages() -> None:
    english, portuguese = (read(*manifest_blocks(page)) for page in (EN, PT))
    assert [image.room_type for image in english.images] == ["living_room", "bedroom"]
    assert [image.room_type for image in portuguese.images] == ["living_room", "bedroom"]
    assert {image.design_style for image in (*english.images, *portuguese.images)} == {"modern"}
    assert (english.batch, portuguese.batch) == ("acme.first-1", "acme.lote-1")


@pytest.mark.parametrize("page", GUIDES)
def test_the_endings_of_manifests_are_the_readers(page: str) -> None:
    (said,) = re.findall(
        r"^(?:A manifest is an object|Um manifesto é um objeto).*?(?=^$)", PAGES[page], re.DOTALL | re.MULTILINE
    )
    assert sorted(re.findall(r"`(\.\w+)`", said)) == sorted(reader.SUFFIXES)


@pytest.mark.parametrize("page", GUIDES)
def test_the_names_of_files_and_folders_are_the_codes(page: str) -> None:
    """Where step 2 drops the manifest, it is one; the folders that step 4 and the results name are those written."""
    text, (file, batch_id) = PAGES[page], FIRST[page]
    (dropped,) = re.findall(rf"gcloud storage cp {re.escape(file)} gs://([\w-]+)/(\S+?)`", text)
    (block,) = manifest_blocks(text)
    assert read(block, dropped[1]).client == dropped[1].split("/")[1]
    batch = builders.a_batch(id=f"acme.{batch_id}", total=2, state=BatchState.CLOSING, closing_at=1.0)
    (fetched,) = re.findall(r"cp -r gs://([\w-]+)/(\S+) \.`", text)
    assert fetched[1] == names.results_folder(batch) + "images"
    assert [f"`{dropped[0]}`", f"`{fetched[0]}`"] == [cells[1] for cells in tables(text)[GIVEN][2:4]]
    relative = names.round_folder(batch).removeprefix(names.results_folder(batch))
    made = [relative + name for name, _ in report.RoundReport(batch).files()]
    named = first_words(tables(text)[RESULTS])
    assert named[3:] == made
    assert named[1:3] == ["thumbnails/", "status.json"]
    image = builders.an_image(batch=batch.id, property_code="APT 1", state=ImageState.COMPLETED)
    stem = re.sub(r"<[ií]nd(ex|ice)>", "0", named[0].replace("<propertyCode>", slug("APT 1")))
    assert stem == f"images/{names.picture_stem(image)}.jpg"
    places = re.findall(r"gs://<result\w+>/(manifests/)<client\w*>/<n\w+>(\.errors\.json)", text)
    assert places == [("manifests/", names.errors_name(""))]


@pytest.mark.parametrize("page", GUIDES)
def test_the_table_of_fields_is_complete(page: str) -> None:
    table = tables(PAGES[page])[FIELDS]
    assert sorted(first_words(table)) == sorted({*HEADER_FIELDS, *IMAGE_FIELDS})
    for cells in table:
        words = cells[1].split(", ")
        for field in re.findall(r"`([^`]+)`", cells[0]):
            where = [field in HEADER_FIELDS, field in IMAGE_FIELDS]
            assert [any(word.startswith(start) for word in words) for start in (("header", "cabe"), ("ima",))] == where
    tiers = next(cells[2] for cells in table if cells[0] == "`priority`")
    assert [TIER_NAMES.match(word) for word in re.findall(r"`(\w+)`", tiers) if word not in ("high", "alta")] == [
        *TIERS
    ]
    assert all(TIER_NAMES.match(word) for word in re.findall(r"`(\w+)`", tiers))
    threshold = next(cells[2] for cells in table if cells[0] == "`failureThreshold`")
    thresholds = []
    for example in re.findall(r"`([^`]+)`", threshold):
        document = json.loads(manifest_blocks(PAGES[page])[0]) | {"failureThreshold": json.loads(example)}
        thresholds.append(read(json.dumps(document)).threshold)
    assert thresholds == [
        FailureThreshold(count=50), FailureThreshold(percent=20.0), FailureThreshold(percent=20.0, minimum_sample=50),
    ]  # fmt: skip
    assert f" {SETTINGS.threshold.minimum_sample} im" in threshold
    assert re.search(rf"{SETTINGS.threshold.percent:.0f} ?%$", threshold)


# --- photos


@pytest.mark.parametrize("page", GUIDES)
def test_how_photos_are_fetched_is_the_settings(page: str) -> None:
    text, download = prose(PAGES[page]), SETTINGS.download
    assert f"{download.total_seconds:.0f} s" in text
    assert not download.allow_http
    assert not download.allow_private_addresses
    per_minute = SETTINGS.limits[SETTINGS.gemini.image_model].per_minute
    assert per_minute is not None
    minutes = SETTINGS.manifest.max_images / per_minute
    assert f"{minutes // 60:.0f} h {minutes % 60:.0f} min" in text


@pytest.mark.parametrize("page", GUIDES)
def test_how_photos_are_fetched_is_what_the_downloader_does(page: str) -> None:
    text, download = prose(PAGES[page]), SETTINGS.download
    assert re.search(rf"\b{download.max_redirects} redire", text)
    assert re.search(rf"\b{getattr(download, 'max_per_host', None)} (photos at once|fotos ao mesmo tempo)", text)
    assert getattr(download, "max_refused_seconds", None) == 86_400, "a day"
    assert re.search(r'variable "worker" \{.*?max_instances += optional\(number, 4\)', TERRAFORM, re.DOTALL)
    assert "RuumBatch/1.0 (+" in (ROOT / "shared/staging/download.py").read_text("utf-8")
    assert "`RuumBatch/1.0 (+CONTACT)`" in PAGES[page]
    assert "`RUUM_DOWNLOAD_CONTACT`" in PAGES[page]


# --- manifest.md


def test_the_manifests_page_has_the_fields() -> None:
    table = tables(MANIFEST)[0]
    assert sorted(first_words(table)) == sorted({*HEADER_FIELDS, *IMAGE_FIELDS})
    for cells in table:
        for field in first_words([cells]):
            assert ("header" in cells[1]) is (field in HEADER_FIELDS)
            assert ("image" in cells[1]) is (field in IMAGE_FIELDS)
    tiers = next(cells[3] for cells in table if cells[0] == "`priority`")
    assert [word for word in re.findall(r"`(\w+)`", tiers) if word != "high"] == [*TIERS]
    assert TIER_NAMES.match("high") == "express"


def test_the_manifests_page_has_the_columns_of_csv() -> None:
    (item,) = re.findall(r"^- \*\*Tables\*\*[^:]*: (.*?)(?=^$)", MANIFEST, re.DOTALL | re.MULTILINE)
    assert set(CSV_COLUMNS) <= set(re.findall(r"`(\w+)`", item))


def test_the_manifests_page_has_rooms_and_styles() -> None:
    for name, known in (("roomType", ROOMS), ("designStyle", STYLES)):
        (listed,) = re.findall(rf"^\*\*{name}\*\*: (.*?)\.$", MANIFEST, re.DOTALL | re.MULTILINE)
        assert tuple(re.split(r",\s+", listed)) == known


def test_the_spellings_on_the_manifests_page_are_understood() -> None:
    (paragraph,) = re.findall(r"^Case, spaces.*?(?=^$)", MANIFEST, re.DOTALL | re.MULTILINE)
    spellings = [" ".join(word.split()) for word in re.findall(r"`([^`]+)`", paragraph)]
    assert len(spellings) >= 8
    for spelling in spellings:
        assert any(known.match(spelling) for known in (ROOM_NAMES, STYLE_NAMES, TIER_NAMES)), spelling
    for known in (ROOMS, STYLES):
        for value in known:
            names_known = ROOM_NAMES if known is ROOMS else STYLE_NAMES
            for spelling in (value.upper(), value.replace("_", " "), value.replace("_", "-"), f" {value} ".strip()):
                assert names_known.match(spelling) == value


def test_the_numbers_on_the_manifests_page_are_the_settings() -> None:
    text, limits, photo, rules = prose(MANIFEST), SETTINGS.manifest, SETTINGS.photo, SETTINGS.threshold
    for said in [
        f"1 to {limits.max_images:,} images",
        f"at most {mib(limits.max_bytes)}",
        f"at most {limits.max_url_characters} characters",
        f"at most {MAX_NAME_CHARACTERS} characters",
        f"last {SETTINGS.cache.keep_seconds / 86_400:.0f} days",
        f" {rules.minimum_sample} ",
        f"{rules.percent:.0f} %",
        f"{mib(photo.max_bytes)} or 50 megapixels",
        f"below {photo.min_pixels_side} pixels",
        "1 to 64 of",
    ]:
        assert said in text, said


@pytest.mark.parametrize("batch_id", ["a", "A", "z", "Z", "0", "9", "_", "-", ".", "a_-.Z9", "a" * 64])
def test_batch_ids_as_the_manifests_page_has_them_are_accepted(batch_id: str) -> None:
    """1 to 64 of A-Z a-z 0-9 _ - . as the page says; where it says more of the first character, by that."""
    (cell,) = (cells[3] for cells in tables(MANIFEST)[0] if cells[0] == "`batchId`")
    assert "1 to 64 of" in cell
    if batch_id[0] not in "_-." or not re.search("start|begin|first", cell):
        document = json.loads(manifest_blocks(MANIFEST)[0]) | {"batchId": batch_id}
        assert read(json.dumps(document)).batch_id == batch_id


def test_the_threshold_examples_on_the_manifests_page() -> None:
    (cell,) = (cells[3] for cells in tables(MANIFEST)[0] if cells[0] == "`failureThreshold`")
    thresholds = []
    for example in re.findall(r"`([^`]+)`", cell):
        document = json.loads(manifest_blocks(MANIFEST)[0]) | {"failureThreshold": json.loads(example)}
        thresholds.append(read(json.dumps(document)).threshold)
    assert thresholds == [
        FailureThreshold(count=50),
        FailureThreshold(percent=20.0),
        FailureThreshold(percent=20.0, minimum_sample=50),
    ]
    assert (SETTINGS.threshold.percent, SETTINGS.threshold.minimum_sample) == (50.0, 20), "as the page says"


def test_the_manifests_page_names_the_reports() -> None:
    batch = builders.a_batch(id="acme.b1", state=BatchState.CLOSING, closing_at=1.0)
    (section,) = re.findall(r"^## What comes out\n(.*?)(?=^## )", MANIFEST, re.DOTALL | re.MULTILINE)
    for name, _ in report.RoundReport(batch).files():
        assert f"`{name}`" in section
    for place in ("`results/<client>/<batch>/`", "`status.json`", "`round-<n>/`", "`thumbnails/`"):
        assert place in section
