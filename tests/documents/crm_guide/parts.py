"""The customer's pages, read: their tables, blocks, words and numbers."""

from __future__ import annotations

import re
from pathlib import Path

from shared.settings import Settings

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = {name: (DOCS / name).read_text("utf-8") for name in ("crm-guide.md", "crm-guide.pt-BR.md", "manifest.md")}
EN, PT, MANIFEST = PAGES.values()
GUIDES = ("crm-guide.md", "crm-guide.pt-BR.md")
SETTINGS = Settings()
TERRAFORM = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "terraform").glob("*.tf")))
# The guide's tables, in order.
GIVEN, PROGRAMS, FIELDS, KINDS, CHECKS, RESULTS, STATUS, CODES, LIMITS, WISHES, BLANKS = range(11)
FIRST = {"crm-guide.md": ("first.json", "first-1"), "crm-guide.pt-BR.md": ("primeiro.json", "lote-1")}


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


def mib(value: int) -> str:
    assert value % 2**20 == 0
    return f"{value >> 20} MiB"
