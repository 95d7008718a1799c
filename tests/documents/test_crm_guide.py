"""What the customer's pages say, held against the code: programs, manifests, fields, codes, limits, grants, links."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ops import app, schemas, stack_file
from ops.stack import PROJECT
from shared.adapters.google import clients
from shared.assembly.wiring import google_rules
from shared.decisions.fairness import TIER_WEIGHTS
from shared.decisions.forecast import cost_per_image_usd
from shared.errors import ErrorCode, ManifestRejected
from shared.events import EVENTS
from shared.manifest import reader
from shared.manifest.reader import CSV_COLUMNS, HEADER_FIELDS, IMAGE_FIELDS, MAX_NAME_CHARACTERS, Manifest
from shared.manifest.vocabulary import ROOM_NAMES, ROOMS, STYLE_NAMES, STYLES, TIER_NAMES, TIERS
from shared.messages import EVENT_TYPE_PREFIX
from shared.model import Batch, BatchState, Control, FailureThreshold, Image, ImageState, ManifestRef, Tier
from shared.ports import StoredObject
from shared.results import names, report
from shared.settings import Settings
from shared.topology import EVENTS_SUBSCRIPTION, topology
from shared.untrusted.text import slug

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {name: (DOCS / name).read_text("utf-8") for name in ("crm-guide.md", "crm-guide.pt-BR.md", "manifest.md")}
EN, PT, MANIFEST = PAGES.values()
GUIDES = ("crm-guide.md", "crm-guide.pt-BR.md")
SETTINGS = Settings()
TERRAFORM = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "terraform").glob("*.tf")))
# The guide's tables, in order.
GIVEN, PROGRAMS, FIELDS, KINDS, CHECKS, RESULTS, STATUS, CODES, LIMITS, WISHES, BLANKS = range(11)
FIRST = {"crm-guide.md": ("first.json", "first-1"), "crm-guide.pt-BR.md": ("primeiro.json", "lote-1")}
FINAL_CODES = {code.value for code in ErrorCode} - {ErrorCode.CONFIGURATION.value}  # of which no image's error is
KEPT = topology().policies["keep"]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """The page without its code blocks, in one line."""
    return " ".join(re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE).split())


def tables(page: str) -> list[list[list[str]]]:
    """The tables, each as its rows of cells, without the header."""
    lines = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE).splitlines()
    found: list[list[list[str]]] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if re.fullmatch(r"\|(-+\|)+", line):
            found.append([])
            width = line.count("|") - 1
        elif line.startswith("|") and found and before.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == width, f"a row of {len(cells)} cells: {line}"
            found[-1].append(cells)
    return found


def first_words(table: list[list[str]]) -> list[str]:
    """What stands in backticks in the first column, row by row."""
    return [word for row in table for word in re.findall(r"`([^`]+)`", row[0])]


def headings(page: str) -> list[int]:
    """The level of each heading."""
    return [len(marks) for marks in re.findall(r"^(#+) ", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)]  # fmt: skip


def read(content: str, name: str = "manifests/acme/first.json") -> Manifest:
    """As the cloud's ingest reads it."""
    rules = google_rules(SETTINGS)(StoredObject("ruum-prod-ruum-intake", name, 1, len(content), {}, 0.0))
    try:
        return reader.read(io.BytesIO(content.encode()), name, SETTINGS.manifest, rules)
    except ManifestRejected as error:
        raise AssertionError([str(problem) for problem in error.problems]) from error


def manifest_blocks(page: str) -> list[str]:
    return [block for block in blocks(page, "json") if '"images"' in block]


def number(page: str, value: int) -> str:
    """A number as the page's language writes it."""
    return f"{value:,}" if page is not PT else f"{value:,}".replace(",", ".")


def mib(value: int) -> str:
    assert value % 2**20 == 0
    return f"{value >> 20} MiB"


def row(page: str, table: int, at: int) -> str:
    return " | ".join(tables(page)[table][at])


# --- both languages


def test_both_languages_have_the_same_shape() -> None:
    assert headings(EN) == headings(PT)
    assert len(headings(EN)) >= 10
    assert [len(table) for table in tables(EN)] == [len(table) for table in tables(PT)]
    assert len(tables(EN)) == BLANKS + 1
    for table in (FIELDS, KINDS, STATUS, CODES, BLANKS):
        assert [cells[0] for cells in tables(EN)[table]] == [cells[0] for cells in tables(PT)[table]]
    assert [cells[1] for cells in tables(EN)[GIVEN][:-2]] == [cells[1] for cells in tables(PT)[GIVEN][:-2]]
    assert [cells[1:] for cells in tables(EN)[PROGRAMS]] == [cells[1:] for cells in tables(PT)[PROGRAMS]]
    lists = [len(re.findall(r"^(?:- |\d\. )", page, re.MULTILINE)) for page in (EN, PT)]
    assert lists[0] == lists[1]


def test_both_languages_have_the_same_blocks_of_code() -> None:
    """But for the first manifest, whose names are those of the language."""
    english, portuguese = (re.findall(r"^```\w*\n.*?^```$", page, re.DOTALL | re.MULTILINE) for page in (EN, PT))
    own = ("lote-1", "first-1")
    theirs = [block.replace("primeiro", "first").replace("lote-1", "first-1") for block in portuguese]
    assert [one for one in theirs if '"images"' not in one] == [one for one in english if '"images"' not in one]
    assert len(english) == len(portuguese)
    assert own[1] in EN
    assert own[0] in PT


@pytest.mark.parametrize("pattern", [r"gs://[\w<]\S*", r"gcloud \S+ \S+", r"\[[^]]*\]\((?!crm-guide)([^)]+)\)"])
def test_both_languages_name_the_same_things(pattern: str) -> None:
    english, portuguese = (re.findall(pattern, prose(page)) for page in (EN, PT))
    if pattern.startswith("gs"):
        words = {"<resultados>": "<results>", "<cliente>": "<client>", "<nome>": "<name>"}
        portuguese = [re.sub(r"<\w+>", lambda match: words[match[0]], one) for one in portuguese]
        portuguese = [one.replace("primeiro.", "first.").replace("lote-1", "first-1") for one in portuguese]
    if pattern.startswith("gcloud"):
        portuguese = [one.replace("primeiro.", "first.") for one in portuguese]
    assert sorted(english) == sorted(portuguese)
    assert english


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", PAGES[page]):
        assert target.startswith("https://") or (DOCS / target).exists(), target


# --- programs


def test_the_programs_are_those_of_the_table() -> None:
    linked = {name for cells in tables(EN)[PROGRAMS] for name in re.findall(r"\(examples/([^)]+)\)", " ".join(cells))}
    there = {path.name for path in (DOCS / "examples").iterdir() if path.suffix in (".py", ".mjs")}
    assert linked == there
    assert len(there) == 8


def test_nothing_else_is_among_the_examples() -> None:
    made = {path.name for path in schemas.documents() if path.parent == DOCS / "examples"}
    by_hand = {"manifest.csv", "manifest.jsonl", "manifesto.csv"}
    there = {path.name for path in (DOCS / "examples").iterdir() if path.is_file()}
    assert {name for name in there if not name.endswith((".py", ".mjs"))} == made | by_hand


@pytest.mark.parametrize("page", GUIDES)
def test_what_is_shown_is_what_the_examples_hold(page: str) -> None:
    text = PAGES[page]
    shown = blocks(text, "jsonl") + blocks(text, "csv")
    files = ["manifest.jsonl", "results.jsonl", "manifest.csv", "manifesto.csv"]
    assert shown == [(DOCS / "examples" / name).read_text("utf-8") for name in files]
    (verify,) = blocks(text, "python")
    program = (DOCS / "examples/webhook.py").read_text("utf-8")
    assert verify in program
    assert verify.startswith("def verify(")


@pytest.mark.parametrize("page", GUIDES)
def test_the_addresses_of_plain_https_are_the_programs(page: str) -> None:
    text, (file, batch) = PAGES[page], FIRST[page]
    submit, results = ((DOCS / "examples" / name).read_text("utf-8") for name in ("submit.mjs", "results.mjs"))
    upload, download = re.findall(r'"https://storage\.googleapis\.com(\S+)"', text)
    path = re.escape(f"manifests/acme/{file}")
    assert re.fullmatch(rf"/upload/storage/v1/b/ruum-prod-ruum-intake/o\?uploadType=media&name={path}", upload)
    assert "/upload/storage/v1/b/${bucket}/o?uploadType=media&name=${encodeURIComponent(name)}" in submit
    name = quote(f"results/acme/{batch}/round-1/results.jsonl", safe="")
    assert download == f"/storage/v1/b/ruum-prod-ruum-results/o/{name}?alt=media"
    assert "/storage/v1/b/${bucket}/o/${encodeURIComponent(name)}?alt=media" in results


@pytest.mark.parametrize("page", GUIDES)
def test_the_way_to_try_it_is_there(page: str) -> None:
    """The commands exist, the files too, and the emulators' names are those of the stack."""
    text = PAGES[page]
    assert f"`{PROJECT}`" in text
    assert f"`{EVENTS_SUBSCRIPTION}`" in text
    assert f"`{SETTINGS.buckets.intake}`" in text
    assert f"`{SETTINGS.buckets.results}`" in text
    assert f"`{stack_file.STATE / 'stack.json'}`" in text
    assert f"subscribe.py {PROJECT} {EVENTS_SUBSCRIPTION}" in text
    for name in ("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"):
        assert f"`{name}`" in text
        assert name in (clients.PUBSUB_EMULATOR, clients.STORAGE_EMULATOR)
    commands = re.findall(r"ruum-batch (\w+)(?: (samples/\S+))?", text)
    known = {
        command.name or (command.callback and command.callback.__name__) for command in app.app.registered_commands
    }
    assert {name for name, _ in commands} >= {"validate", "run", "up", "submit"}
    for name, sample in commands:
        assert name in known
        assert not sample or (ROOT / sample).is_file()


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
    batch = Batch(
        id=f"acme.{batch_id}", client="acme", client_name="acme", tier=Tier.NORMAL, total=2, shards=1,
        state=BatchState.CLOSING, manifest=ManifestRef(uri="m", generation=1, sha256="0", base=""),
        created_at=0.0, closing_at=1.0,
    )  # fmt: skip
    (fetched,) = re.findall(r"cp -r gs://([\w-]+)/(\S+) \.`", text)
    assert fetched[1] == names.results_folder(batch) + "images"
    assert [f"`{dropped[0]}`", f"`{fetched[0]}`"] == [cells[1] for cells in tables(text)[GIVEN][2:4]]
    relative = names.round_folder(batch).removeprefix(names.results_folder(batch))
    made = [relative + name for name, _ in report.RoundReport(batch).files()]
    named = first_words(tables(text)[RESULTS])
    assert named[3:] == made
    assert named[1:3] == ["thumbnails/", "status.json"]
    image = Image(batch=batch.id, index=0, source="s", room_type="den", design_style="boho", tier=Tier.NORMAL, shard=0,
                  property_code="APT 1", state=ImageState.COMPLETED)  # fmt: skip
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


# --- events


@pytest.mark.parametrize("page", GUIDES)
def test_the_table_of_events_is_complete(page: str) -> None:
    kinds = [EVENT_TYPE_PREFIX + kind for kind in EVENTS if kind.startswith("batch.")]
    assert first_words(tables(PAGES[page])[KINDS]) == kinds
    for kind in set(re.findall(r"ruum\.[a-z]+\.[a-z]+", PAGES[page])):
        assert kind in kinds or kind == "ruum.quota.changed", "which the guide says that nobody receives"


def example(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "examples/events" / f"{kind}.json").read_text("utf-8"))["data"]
    return found


@pytest.mark.parametrize("page", GUIDES)
def test_one_event_of_each_type_is_shown(page: str) -> None:
    """In the order of the table, exactly as docs/examples/events/ has it, which is made from the code."""
    shown = [json.loads(block) for block in blocks(PAGES[page], "json") if '"images"' not in block]
    assert shown == [example(kind) for kind in EVENTS if kind.startswith("batch.")]


def test_the_example_of_a_completion_adds_up() -> None:
    completed = example("batch.completed")
    assert {state.value for state in ImageState} == set(completed["counts"])
    assert sum(completed["counts"].values()) == completed["total"]
    assert completed["counts"]["completed"] / completed["total"] == completed["successRate"]
    assert completed["costUsd"] == completed["priceUsd"], "a normal batch"
    assert completed["costUsd"] == pytest.approx(completed["total"] * cost_per_image_usd(SETTINGS), rel=0.1)
    assert completed["outcome"] == "completed_with_failures", "the case that readers must see"


@pytest.mark.parametrize("page", GUIDES)
def test_every_outcome_is_named(page: str) -> None:
    for outcome in ("completed", "completed_with_failures", "cancelled"):
        assert f"`{outcome}`" in PAGES[page]


@pytest.mark.parametrize("page", GUIDES)
def test_the_fields_of_status_are_all_there(page: str) -> None:
    table = tables(PAGES[page])[STATUS]
    assert sorted(first_words(table)) == sorted(schemas.event_data("batch.progress")["properties"])
    states = {state.value for state in BatchState} - {"closed", "rejected"}
    outcomes = {"completed", "completed_with_failures", "cancelled"}
    (said,) = (cells[1] for cells in table if cells[0] == "`state`")
    assert set(re.findall(r"`(\w+)`", said)) == states | outcomes
    (said,) = (cells[1] for cells in table if cells[0] == "`control`")
    assert set(re.findall(r"`(\w+)`", said)) == {control.value for control in Control}


@pytest.mark.parametrize("page", GUIDES)
def test_the_senders_account_is_terraforms(page: str) -> None:
    """Whoever trusts a push must know the account that signs it."""
    assert re.search(r'for_each += toset\(\[[^\]]*"webhook"', TERRAFORM)
    webhook = TERRAFORM.partition('resource "google_pubsub_subscription" "webhook" {')[2].partition("\n}\n")[0]
    assert 'google_service_account.caller["webhook"].email' in webhook
    assert re.search(
        r'"google_service_account" "caller" \{.*?account_id += "\$\{var\.name\}-\$\{each\.key\}"', TERRAFORM, re.DOTALL
    )
    checks = {cells[0].strip("`"): cells[1] for cells in tables(PAGES[page])[CHECKS]}
    assert list(checks)[1:] == ["iss", "exp", "aud", "email", "email_verified"]
    account = "`ruum-webhook@ruum-prod.iam.gserviceaccount.com`"
    assert account in checks["email"]
    assert account == tables(PAGES[page])[GIVEN][5][1]
    assert checks["email_verified"] == "`true`"


@pytest.mark.parametrize("page", GUIDES)
def test_what_is_said_of_pushes_is_what_is_set_up(page: str) -> None:
    text = prose(PAGES[page])
    webhook = TERRAFORM.partition('resource "google_pubsub_subscription" "webhook" {')[2].partition("\n}\n")[0]
    assert "oidc_token" in webhook
    assert "write_metadata = true" in webhook, "attributes as headers, the body as it is"
    assert '"604800s"' in webhook, "a week"
    assert f"{KEPT.ack_deadline_seconds} s" in text
    least, most = KEPT.retry_minimum_seconds, KEPT.retry_maximum_seconds // 60
    assert re.search(rf"{least} s (to|a) {most} min", text)
    assert re.search(r"for a week|durante uma semana", text)
    assert re.search(r"200, 201, 202 (or|ou) 204", text), "what Pub/Sub takes for an acknowledgement"


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


# --- failed.csv


@pytest.mark.parametrize("page", GUIDES)
def test_failed_csv_has_the_columns_that_the_guide_names(page: str) -> None:
    header = (DOCS / "examples/failed.csv").read_text("utf-8-sig").splitlines()[0]
    columns = re.split("[,;]", header)
    for name in ("batchId", "errorCode", "errorMessage"):
        assert name in columns
        assert f"`{name}`" in PAGES[page]


# --- what the operator fills in


@pytest.mark.parametrize("page", [*GUIDES, "data-protection.md"])
def test_every_blank_is_explained(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    explained = {word for table in tables(text) for word in first_words(table) if word.startswith("{{")}
    assert set(re.findall(r"\{\{\w+\}\}", text)) == explained
    assert explained


# --- how long what is kept


def kept_days() -> dict[str, int]:
    """Days by what terraform/ deletes after them."""
    (lifecycle,) = re.findall(r"lifecycle = \{(.*?)\n  \}\n", TERRAFORM, re.DOTALL)
    found = {f"{bucket}/{prefix}": int(days) for bucket, rules in re.findall(r"(\w+) += \[(.*)\]", lifecycle) for prefix, days in re.findall(r'prefix = "([^"]*)", days = (\d+)', rules)}  # fmt: skip
    assert re.search(r"source += \[\]", lifecycle)
    return found


@pytest.mark.parametrize("page", [*GUIDES, "data-protection.md"])
def test_retention_is_what_terraform_sets(page: str) -> None:
    text = " ".join((DOCS / page).read_text("utf-8").split())
    days = kept_days()
    assert days == {"intake/": 90, "work/work/": 30, "work/cache/": 31}
    assert re.search(r"\b90 (days|dias)", text)
    if page == "data-protection.md":
        for number in (30, 31, 365):
            assert re.search(rf"\b{number} days", text), number
        assert re.search(r"retention_duration_seconds = each\.key == \"work\" \? 0 : 604800", TERRAFORM)
        assert "seven days" in text


# --- error codes


@pytest.mark.parametrize("page", GUIDES)
def test_every_error_code_stands_once(page: str) -> None:
    named = first_words(tables(PAGES[page])[CODES])
    assert len(named) == len(set(named))
    assert set(named) == FINAL_CODES
    everywhere = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGES[page]))
    others = {
        "open_plan",
        "completed_with_failures",
        "email_verified",
        "project_id",
        "results_kept_days",
        "documents_kept_days",
        "signed_link_seconds",
    }
    assert everywhere - others <= {code.value for code in ErrorCode}


def test_every_error_code_stands_once_on_the_manifests_page() -> None:
    named = first_words(tables(MANIFEST)[1])
    assert sorted(named) == sorted(code.value for code in ErrorCode)


# --- limits


@pytest.mark.parametrize("page", GUIDES)
def test_the_limits_are_the_settings(page: str) -> None:
    text, limits, photo = PAGES[page], SETTINGS.manifest, SETTINGS.photo
    to = "to" if text is EN else "a"
    assert row(text, LIMITS, 0).endswith(f"| 1 {to} {number(text, limits.max_images)}")
    assert row(text, LIMITS, 1).endswith(f"| {mib(limits.max_bytes)}")
    assert 50 <= photo.max_pixels / 10**6 < 55, "every camera that is sold as 50 megapixels"
    megapixels = "50 megapixels"
    for said in (mib(photo.max_bytes), megapixels, f"{photo.min_pixels_side} pixels"):
        assert said in row(text, LIMITS, 2)
    assert f" {number(text, photo.max_side_pixels)} pixels" in row(text, LIMITS, 3)
    assert "JPEG" in row(text, LIMITS, 3)
    per_minute = SETTINGS.limits[SETTINGS.gemini.image_model].per_minute
    assert re.search(rf": {per_minute} (images a minute|imagens por minuto)", row(text, LIMITS, 5))
    picture = next(cells for cells in tables(text)[CODES] if "`picture_too_large`" in cells[0])
    assert mib(photo.max_bytes) in picture[1]
    assert megapixels in picture[1]
    days = int(SETTINGS.cache.keep_seconds / 86_400)
    assert re.search(rf"{days} (days|dias)", prose(text))
    kept = re.search(r'variable "results_kept_days" \{.*?default += (\d+)', TERRAFORM, re.DOTALL)
    assert kept is not None
    assert kept[1] == "365"
    assert re.search(r"one year|um ano", row(text, LIMITS, 4))
    assert re.search(r"1 (to|a) 64", prose(text))
    assert reader.BATCH_ID.fullmatch("a" * 64)
    assert not reader.BATCH_ID.fullmatch("a" * 65)


@pytest.mark.parametrize("page", GUIDES)
def test_prices_are_the_settings(page: str) -> None:
    text = row(PAGES[page], LIMITS, 6)
    factors = {
        tier: float(factor.replace(",", ".")) for factor, tier in re.findall(r"× ([\d.,]+) (?:for|em) `(\w+)`", text)
    }
    tiers = SETTINGS.tiers
    assert factors == {
        "express": tiers.express_factor,
        "normal": tiers.normal_factor,
        "economy": tiers.economy_factor,
    }
    about = re.search(r"\$ ?(\d[.,]\d\d)", text)
    assert about is not None
    assert float(about[1].replace(",", ".")) == round(cost_per_image_usd(SETTINGS), 2)


@pytest.mark.parametrize(
    ("page", "words"), [("crm-guide.md", "60 %, 30 % and 10 % of the capacity"), ("crm-guide.pt-BR.md", "60%, 30% e 10% da capacidade")]
)  # fmt: skip
def test_the_tiers_turns_are_the_schedulers(page: str, words: str) -> None:
    assert words in prose(PAGES[page])
    assert [TIER_WEIGHTS[tier] for tier in (Tier.EXPRESS, Tier.NORMAL, Tier.ECONOMY)] == [6, 3, 1]


@pytest.mark.parametrize("page", [*GUIDES, "manifest.md"])
def test_three_times_is_the_settings(page: str) -> None:
    cells = {code: cells[1] for table in tables(PAGES[page]) for cells in table for code in first_words([cells])}
    assert SETTINGS.attempts.max_attempts == SETTINGS.staging.max_generations == 3
    assert re.search(r"three times|três vezes", cells["source_unavailable"])


# --- what a customer may do in the cloud


def test_a_customers_grants_reach_what_the_guide_names() -> None:
    """Each object the guide tells a customer to read or write lies below a prefix that terraform/ lets its CRM have."""
    granted = {}
    for name in ("crm_writes", "crm_reads"):
        block = TERRAFORM.partition(f'"google_storage_bucket_iam_member" "{name}" {{')[2].partition("\n}\n")[0]
        found = re.findall(r"\b(manifests|results)/\$\{(?:each\.key|pair\[0\])\}/", block)
        granted[name] = [f"{folder}/acme/" for folder in found]
    (dropped,) = re.findall(r"cp first\.json gs://[\w-]+/(\S+?)`", EN)
    assert any(dropped.startswith(prefix) for prefix in granted["crm_writes"])
    (fetched,) = re.findall(r"cp -r gs://[\w-]+/(\S+) \.`", EN)
    assert any(fetched.startswith(prefix) for prefix in granted["crm_reads"])
    (errors,) = re.findall(r"`gs://<results>/(manifests/<client>/<name>\.errors\.json)`", EN)
    errors = errors.replace("<client>", "acme").replace("<name>", "first.json")
    assert any(errors.startswith(prefix) for prefix in granted["crm_reads"]), f"the CRM may not read {errors}"


@pytest.mark.xfail(
    '"source"' not in TERRAFORM.partition('"crm_writes" {')[2].partition("\n}\n")[0], reason="no CRM may write photos"
)
def test_a_customer_may_write_photos_where_the_guide_says() -> None:
    block = TERRAFORM.partition('"google_storage_bucket_iam_member" "crm_writes" {')[2].partition("\n}\n")[0]
    assert '"source"' in block
    assert "gs://ruum-prod-ruum-source/acme/" in EN


def test_a_customer_may_list_what_the_guide_copies_whole() -> None:
    """`cp -r` lists, and a list is a call on the bucket: a condition on objects' names alone refuses it."""
    block = TERRAFORM.partition('"google_storage_bucket_iam_member" "crm_reads" {')[2].partition("\n}\n")[0]
    assert "cp -r gs://" not in EN or "objectListPrefix" in block or "condition" not in block


def test_the_example_subscription_is_what_terraform_would_call_it() -> None:
    block = TERRAFORM.partition('"google_pubsub_subscription" "crm" {')[2].partition("\n}\n")[0]
    pattern = re.search(r'name += "\$\{var\.name\}(-batch-events-)\$\{each\.key\}"', block)
    assert pattern is not None
    assert re.search(rf"`ruum{pattern[1]}acme`", EN)


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
    batch: Any = Batch(
        id="acme.b1", client="acme", client_name="acme", tier=Tier.NORMAL, total=1, shards=1, state=BatchState.CLOSING,
        manifest=ManifestRef(uri="m", generation=1, sha256="0", base=""), created_at=0.0, closing_at=1.0,
    )  # fmt: skip
    (section,) = re.findall(r"^## What comes out\n(.*?)(?=^## )", MANIFEST, re.DOTALL | re.MULTILINE)
    for name, _ in report.RoundReport(batch).files():
        assert f"`{name}`" in section
    for place in ("`results/<client>/<batch>/`", "`status.json`", "`round-<n>/`", "`thumbnails/`"):
        assert place in section
