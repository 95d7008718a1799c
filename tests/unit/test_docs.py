"""Documents that must stay true to the code."""

from __future__ import annotations

import re
from pathlib import Path

from ops import settings_page
from shared.errors import ErrorCode
from shared.vocabulary import ROOMS, STYLES

DOCS = Path(__file__).parents[2] / "docs"


def test_settings_page_is_the_codes_own() -> None:
    assert (DOCS / "settings.md").read_text("utf-8") == settings_page.page(), (
        "run: python -m ops.settings_page > docs/settings.md"
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
