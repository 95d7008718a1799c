"""What report.html is given and what it says: every code, room and style has its words, and only its own script may run."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files as resources

import msgspec
import pytest

from shared.errors import ErrorCode
from shared.manifest import vocabulary
from shared.model import Failure
from shared.results import report_page
from shared.settings import PhotoLimits
from shared.vendors import PREVIEW
from tests.results.report.parts import COMPLETED, FAILED, batch, files, image
from tests.results.report.test_page import Page

SHELL = resources("shared.results").joinpath("report.html").read_text(encoding="utf-8")
LANGUAGES = re.findall(r"^  (\w\w): \{$(.*?)^  \},$", SHELL, re.DOTALL | re.MULTILINE)


def table(strings: str, name: str) -> dict[str, list[str]]:
    """One of the page's tables of words: its names, each with the texts behind it."""
    (inside,) = re.findall(rf"^    {name}: \{{(.*?)\}},$", strings, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"(\w+): (\[[^\]]*\]|\"[^\"]*\")", inside)
    return {key: re.findall(r'"([^"]*)"', texts) for key, texts in entries}


def test_there_are_two_languages() -> None:
    assert [name for name, _ in LANGUAGES] == ["en", "pt"]


@pytest.mark.parametrize(("language", "strings"), LANGUAGES)
def test_every_code_says_what_happened_and_what_to_do(language: str, strings: str) -> None:
    told = table(strings, "codes")
    assert set(told) == set(ErrorCode)
    for code, texts in told.items():
        assert len(texts) == 2, code
        assert not texts[0].endswith("."), f"{code}: a title"
        assert texts[1].endswith("."), f"{code}: a sentence"


@pytest.mark.parametrize(("language", "strings"), LANGUAGES)
def test_the_limits_are_the_settings(language: str, strings: str) -> None:
    told, values = table(strings, "codes"), msgspec.structs.astuple(PhotoLimits())
    units = {"source_too_large": 2**20, "picture_too_small": 1}
    (megapixels,) = re.findall(r"\d+", told["picture_too_large"][1])
    assert int(megapixels) <= PhotoLimits().max_pixels / 10**6 < int(megapixels) * 1.1, "what is sold as such passes"
    for code, unit in units.items():
        (number,) = re.findall(r"\d+", told[code][1])
        assert int(number) * unit in values, code


def test_rooms_and_styles_have_portuguese_names() -> None:
    """English ones are made of the value itself, `living_room`; a few read better another way."""
    english, portuguese = (dict(LANGUAGES)[name] for name in ("en", "pt"))
    assert set(table(portuguese, "rooms")) == set(vocabulary.ROOMS)
    assert set(table(portuguese, "styles")) == set(vocabulary.STYLES)
    assert set(table(english, "rooms")) < set(vocabulary.ROOMS)
    assert set(table(english, "styles")) < set(vocabulary.STYLES)


def test_the_policy_allows_its_own_script_and_style_only() -> None:
    content = files(image(0, property_code="'@SCRIPT@' '@STYLE@'"))["report.html"].decode()
    (policy,) = re.findall(r'content="(default-src [^"]*)"', content)
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")
    for directive, element in (("script-src", "script"), ("style-src", "style")):
        (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert Page(content.encode()).data["images"][0][1] == "'@SCRIPT@' '@STYLE@'", "a customer's text stays as it is"


def test_no_attribute_needs_what_the_policy_forbids() -> None:
    shell = SHELL.split("<body>")[1].split("<script")[0]
    assert not re.search(r"\s(style|on\w+)=", shell)


def test_a_row_says_whether_the_preview_model_made_it() -> None:
    for model, told in ((PREVIEW, 1), ("gemini-3-pro-image", 0), (None, 0)):
        assert report_page.row(batch(), image(0, model=model))[-3:] == [4, 3, told]


def test_a_row_without_a_picture_has_no_size() -> None:
    row = report_page.row(batch(), image(1, FAILED, error=Failure(code="x", message="y: z"), property_code="A"))
    assert row == [1, "A", "living_room", "modern", "failed", "", "", "", "x: y: z", "https://example.com/1.jpg"]


def test_rows_are_the_same_bytes_every_time() -> None:
    one = image(0, COMPLETED, property_code="ação", model="preview")
    again = msgspec.json.decode(msgspec.json.encode(one), type=type(one))
    assert msgspec.json.encode(report_page.row(batch(), one)) == msgspec.json.encode(report_page.row(batch(), again))
