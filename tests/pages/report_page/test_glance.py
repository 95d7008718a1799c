"""report.html in a real browser: the page at a glance, whole pictures, both languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.pages.browser import needed
from tests.pages.report_page.parts import DESKTOP, LARGER_PHONE, PHONE, ReportPage, failed, upright
from tests.results.report.parts import CANCELLED, batch, image

pytestmark = needed


# --- the page at a glance


def test_a_reader_sees_totals_pictures_and_reasons(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0, property_code="AP-1"), failed(1), image(2, CANCELLED))
    assert page.chrome.title == "acme.b1: staging report"
    assert page.texts("h1") == ["Acme"]
    assert page.texts("#report, #when") == [
        "Virtual staging report · acme.b1",
        "Cancelled · 2 Mar 2026 09:01 UTC, took 1 min 41 s",
    ]
    assert page.one("time").get_dom_attribute("datetime") == "2026-03-02T09:01:40.500Z"
    assert page.texts("#totals li") == [
        "3images", "1completed", "1failed", "1cancelled", "$0.15AI vendors’ cost, not your price",
    ]  # fmt: skip
    assert page.texts("article p") == [
        "living room · modern", "0 · AP-1",
        "living room · modern", "1", "Not a picture, or damaged", "Send a JPEG, PNG, WebP or HEIC file.",
        "not_a_picture: the file is an HTML page", "https://example.com/1.jpg",
        "living room · modern", "2", "Cancelled", "https://example.com/2.jpg",
    ]  # fmt: skip
    page.wait.until(lambda _: page.run("return [...document.images].every(one => one.complete)"))
    assert page.run("return [...document.images].map(one => [one.alt, one.naturalWidth])") == [
        ["living room, AP-1: before", 322],
        ["living room, AP-1: after, modern style", 321],
    ]
    before, after = page.all("article img")
    assert before.rect["y"] == after.rect["y"] and before.rect["x"] < after.rect["x"], "side by side"
    assert page.complaints() == []


def test_what_makes_no_sense_is_not_shown(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0, property_code="AP-1"), image(1, property_code="AP-1"))
    assert page.texts("#totals li") == ["2images", "2completed", "0failed", "$0.10AI vendors’ cost, not your price"]
    assert page.shown("nav, #filters, #search, #grouping, #failures, #away, #none") == []
    assert page.texts("#files a") == ["results.csv", "results.jsonl"], "nothing failed: no failed.csv"
    assert page.texts("main h2") == []


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (59.4, "59 s"), (215.8, "3 min 36 s"), (3600, "1 h"), (7500, "2 h 5 min"), (266_400, "3 d 2 h")],
)
def test_times_are_for_people(chrome: Chrome, tmp_path: Path, seconds: float, told: str) -> None:
    ended = batch().created_at + seconds
    assert ReportPage(chrome, tmp_path, image(0), closing_at=ended).texts("time")[0].endswith(f"UTC, took {told}")


def test_a_later_round_says_so(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0), round=2)
    assert page.texts("time") == ["round 2, 2 Mar 2026 09:01 UTC, 1 min 41 s after the manifest"]


def test_the_files_beside_it_are_linked(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0), failed(1))
    links = [str(one.get_property("href")) for one in page.all("#files a")]
    assert links == [(page.folder / name).as_uri() for name in ("results.csv", "failed.csv", "results.jsonl")]
    page.all("#files a")[2].click()
    page.wait.until(lambda _: chrome.current_url.endswith("/round-1/results.jsonl"))
    assert '"state":"failed"' in page.one("body").text


def test_without_its_folders_it_says_what_is_missing(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0), pictures=False)
    page.wait.until(lambda _: page.shown("#away"))
    assert page.shown("#away")[0].startswith("Some pictures cannot be shown.")


# --- whole pictures


def test_an_upright_photo_is_shown_whole(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0), upright(1), image(2), upright(3), image(4))
    for screen in (DESKTOP, LARGER_PHONE):
        page.resize(screen)
        page.wait.until(lambda _: page.run("return [...document.images].every(one => one.complete || !one.loading)"))
        for card, ratio in zip(page.all("article"), (4 / 3, 3 / 4, 4 / 3, 3 / 4, 4 / 3), strict=True):
            for picture in card.find_elements(By.CSS_SELECTOR, "img"):
                assert picture.value_of_css_property("object-fit") == "contain"
                assert picture.rect["width"] / picture.rect["height"] == pytest.approx(ratio, abs=0.01)
                assert card.rect["x"] <= picture.rect["x"]
                assert picture.rect["x"] + picture.rect["width"] <= card.rect["x"] + card.rect["width"]
                assert picture.rect["y"] + picture.rect["height"] <= card.rect["y"] + card.rect["height"]
                assert picture.rect["width"] > 100


def test_the_pictures_of_a_row_are_of_one_height(chrome: Chrome, tmp_path: Path) -> None:
    shapes = [upright(index) if index % 3 == 1 else image(index) for index in range(12)]
    page = ReportPage(chrome, tmp_path, *shapes)
    rows: dict[float, set[int]] = {}
    for picture in page.all("article img"):
        rows.setdefault(picture.rect["y"], set()).add(round(picture.rect["height"]))
    assert 1 < len(rows) < 12, "some side by side"
    assert all(max(heights) - min(heights) <= 1 for heights in rows.values()), rows


def test_a_phone_shows_it_without_scrolling_sideways(chrome: Chrome, tmp_path: Path) -> None:
    long = "W" * 500
    page = ReportPage(
        chrome,
        tmp_path,
        image(0, property_code=long),
        upright(1, property_code="x"),
        failed(2, long, property_code=long, source=f"https://a/{long}"),
        *[image(index) for index in range(3, 100)],
        screen=PHONE,
        client_name=long,
    )
    for _ in range(2):
        assert page.run("return innerWidth") == PHONE["width"]
        assert page.run("return document.documentElement.scrollWidth") == PHONE["width"]
        parts = [one for one in page.all("header *, #tools *, article, article *, nav *") if one.is_displayed()]
        assert all(one.rect["x"] + one.rect["width"] <= 360 for one in parts)
        page.button("Português").click()


# --- languages


def test_the_page_speaks_the_readers_language(chrome: Chrome, tmp_path: Path) -> None:
    images = [image(0, property_code="AP-1", room_type="bedroom", design_style="rustic"), failed(1)]
    page = ReportPage(chrome, tmp_path, *images, language="pt-BR")
    assert page.run("return document.documentElement.lang") == "pt-BR"
    assert page.texts("#report, #when, #failures h2") == [
        "Relatório de fotos mobiliadas · acme.b1",
        "Concluído com falhas · 2 de mar. de 2026, 09:01 UTC, em 1 min 41 s",
        "1 imagem falhou: o que fazer",
    ]
    assert page.texts("#totals li")[-1] == "US$\u00a00,10custo dos fornecedores de IA (não é o seu preço)"
    assert page.texts("article .name, article .state") == ["quarto · rústico", "sala de estar · moderno", "Não é uma imagem, ou está danificada"]  # fmt: skip
    alts = page.run("return [...document.images].map(one => one.alt)")
    assert alts == ["quarto, AP-1: antes", "quarto, AP-1: depois, estilo rústico"]
    page.button("English").click()
    assert page.run("return document.documentElement.lang") == "en-US"
    assert page.texts("article .name")[0] == "bedroom · rustic"
    assert page.focus.text == "English"
    assert page.button("English").get_dom_attribute("aria-pressed") == "true"
    assert ReportPage(chrome, tmp_path, *images, language="de-DE,pt-PT").texts("article .name")[0] == "quarto · rústico"
    assert ReportPage(chrome, tmp_path, *images, language="de-DE").texts("article .name")[0] == "bedroom · rustic"


def test_both_languages_have_the_same_words(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0))
    shape = """
      const shape = (value, name) => name === "rooms" || name === "styles" ? "names"
        : typeof value === "function" ? `function of ${value.length}`
        : Array.isArray(value) ? value.length
        : typeof value === "object" ? Object.entries(value).map(([key, inner]) => [key, shape(inner, key)]).sort()
        : typeof value;
      return JSON.stringify(shape(STRINGS[arguments[0]]))"""
    assert page.run(shape, "pt") == page.run(shape, "en")
