"""Documents that must stay true to the code."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

from ops.generate import settings_page
from shared.errors import ErrorCode
from shared.manifest.vocabulary import ROOMS, STYLES

DOCS = Path(__file__).parents[2] / "docs"


def test_settings_page_is_the_codes_own() -> None:
    assert (DOCS / "settings.md").read_text("utf-8") == settings_page.page(), (
        "run: python -m ops.generate.settings_page > docs/settings.md"
    )


def test_every_error_code_is_documented() -> None:
    text = (DOCS / "manifest.md").read_text("utf-8")
    assert [code.value for code in ErrorCode if f"`{code.value}`" not in text] == []


def test_every_room_and_style_is_documented() -> None:
    words = set(re.findall(r"[a-z_]+", (DOCS / "manifest.md").read_text("utf-8")))
    assert set(ROOMS) | set(STYLES) <= words


def test_links_lead_somewhere() -> None:
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_module_has_its_line_in_the_architecture() -> None:
    """And no line names a module that has gone."""
    root = DOCS.parent
    table = (
        (DOCS / "architecture.md")
        .read_text("utf-8")
        .partition("## Where a line lives")[2]
        .partition("Imports point")[0]
    )
    listed: list[str] = []
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([^`]+)`", row):
            if name.endswith("/"):
                folder = name
                continue
            path = name if "/" in name else folder + name
            folder = path.rpartition("/")[0] + "/"
            listed.append(path)
    modules = {
        path.relative_to(root).as_posix()
        for package in ("shared", "ops")
        for path in (root / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules - set(listed) == set()
    assert {path for path in set(listed) - modules if not list(root.glob(path))} == set()
    assert [path for path, times in Counter(listed).items() if times > 1] == []


def test_no_file_holds_both_sides_of_a_merge() -> None:
    """Where no parser would notice: a branch's side stood in the architecture for an evening."""
    root = DOCS.parent
    folders = ("docs", "shared", "ops", "functions", "terraform", "tests", "benchmarks")
    files = [*root.glob("*.*"), *(path for folder in folders for path in (root / folder).rglob("*.*"))]
    marks = re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE)
    assert [path for path in files if path.is_file() and marks.search(path.read_bytes())] == []


def test_the_newest_version_of_the_changelog_is_the_projects() -> None:
    root = DOCS.parent
    versions = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert versions[0] == tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
