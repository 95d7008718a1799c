"""The customer's pages: alike in both languages, their programs and their blanks true."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from ops import app
from ops.generate import schemas
from ops.local_stack import stack_file
from ops.local_stack.stack import PROJECT
from shared.adapters.google import clients
from shared.topology import EVENTS_SUBSCRIPTION
from tests.documents.crm_guide.parts import (
    BLANKS,
    CODES,
    DOCS,
    EN,
    FIELDS,
    FIRST,
    GIVEN,
    GUIDES,
    KINDS,
    PAGES,
    PROGRAMS,
    PT,
    ROOT,
    SETTINGS,
    STATUS,
    blocks,
    first_words,
    prose,
    tables,
)


def headings(page: str) -> list[int]:
    """The level of each heading."""
    return [len(marks) for marks in re.findall(r"^(#+) ", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)]  # fmt: skip


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
