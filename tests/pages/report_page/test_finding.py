"""report.html in a real browser: finding images, and what hostile texts do there (nothing)."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys

from tests.pages.browser import needed
from tests.pages.report_page.parts import DESKTOP, ReportPage, failed, open_viewer
from tests.results.report.parts import HOSTILE, image

pytestmark = needed


# --- finding images


def test_ten_thousand_images_are_paged_filtered_and_reached_by_keyboard(chrome: Chrome, tmp_path: Path) -> None:
    images = [failed(index) if index % 100 == 7 else image(index) for index in range(10_000)]
    page = ReportPage(chrome, tmp_path, *images)
    assert len(page.all("article")) == 48
    assert len(page.all("body *")) < 800, "a phone keeps one page's elements, not 10,000 images'"
    page.button("Next").send_keys(Keys.ENTER)
    assert page.texts(".pages span") == ["Page 2 of 209"] * 2, "above and below"
    assert page.texts("article .ref")[0] == "48"
    assert page.focus.text == "Next →", "the focus stays where the reader presses"
    page.focus.send_keys(Keys.ENTER)
    assert page.texts(".pages span")[0] == "Page 3 of 209"
    page.button("failed (100)").click()
    assert page.texts(".pages span")[0] == "Page 1 of 3"
    assert page.texts("#found") == ["100 of 10,000 images"]
    assert page.button("failed").get_dom_attribute("aria-pressed") == "true"
    assert page.button("all").get_dom_attribute("aria-pressed") == "false"
    shown: list[str] = []
    while True:
        shown += page.texts("article .ref")
        if not page.button("Next").is_enabled():
            break
        page.button("Next").click()
    assert shown == [f"{index}" for index in range(7, 10_000, 100)]
    page.button("Previous").click()
    assert page.texts(".pages span")[0] == "Page 2 of 3"


def test_a_page_is_gone_to_by_its_number(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, *[image(index) for index in range(480)])
    above, below = page.all(".pages input")
    above.send_keys("7", Keys.ENTER)
    assert page.texts(".pages span")[0] == "Page 7 of 10"
    assert page.texts("article .ref")[0] == "288"
    assert above.get_property("value") == ""
    below.send_keys("10")
    page.all(".pages form button")[1].click()
    assert page.texts(".pages span")[0] == "Page 10 of 10"
    assert page.focus == above, "up to the pictures"
    assert -1 < page.box(".pages")["top"] < DESKTOP["height"]
    for wrong in ("11", "0", "-1"):
        above.clear()
        above.send_keys(wrong, Keys.ENTER)
        assert page.texts(".pages span")[0] == "Page 10 of 10", "the browser says what is allowed"
    above.clear()
    page.all(".pages button")[3].click()  # "previous" below
    assert page.texts(".pages span")[0] == "Page 9 of 10"
    assert page.focus == page.all(".pages button")[0]


def test_failures_are_summed_up_by_code_and_chosen_by_a_click(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(
        chrome,
        tmp_path,
        failed(0),
        failed(1, "no such file", "source_not_found"),
        image(2),
        failed(3, "the host answered 404: gone", "source_not_found"),
        failed(4, "?", "from_the_future"),
    )
    assert page.texts("#failures h2") == ["4 images failed: what to do"]
    assert page.texts("#failures button") == [
        "2Photo not found source_not_foundCorrect the address in failed.csv and submit that file again.",
        "1Not a picture, or damaged not_a_pictureSend a JPEG, PNG, WebP or HEIC file.",
        "1Failed from_the_futureContact us and give us this code.",
    ]
    page.all("#failures button")[0].click()
    assert page.texts("article .ref") == ["1", "3"]
    assert page.texts("#found") == ["2 of 5 images"]
    assert [one.get_dom_attribute("aria-pressed") for one in page.all("#failures button")] == ["true", "false", "false"]
    assert [one.get_dom_attribute("aria-pressed") for one in page.all("#filters button")] == ["false"] * 3
    page.all("#failures button")[2].click()
    assert page.texts("article .ref") == ["4"]
    page.all("#failures button")[2].click()
    assert len(page.all("article")) == 5, "once more: all"
    page.button("completed (1)").click()
    assert page.texts("article .ref") == ["2"]


def test_images_are_found_by_property_code(chrome: Chrome, tmp_path: Path) -> None:
    codes = ["APT-1", "Ação 2", "apt-10", "", "CASA (3)", "APT-1"]
    images = [image(index, property_code=code or None) for index, code in enumerate(codes)]
    page = ReportPage(chrome, tmp_path, *images)
    search = page.one("#search")
    assert search.get_dom_attribute("placeholder") == "Property code"
    for words, found in (("apt-1", {0, 2, 5}), ("acao", {1}), (" ÃO", {1}), ("(3)", {4}), (".*", set())):
        search.send_keys(Keys.CONTROL, "a", Keys.NULL, words)
        assert {int(ref.split(" · ")[0]) for ref in page.texts("article .ref")} == found, words
    assert page.shown("#none") == ["No image matches."]
    assert page.texts("#found") == ["0 of 6 images"]
    search.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    assert len(page.all("article")) == 6
    search.send_keys("apt-1")
    page.all("a.pair")[0].click()
    assert page.texts("#place") == ["1 / 3"], "the viewer goes through what was found"


def test_images_are_grouped_by_property(chrome: Chrome, tmp_path: Path) -> None:
    """Numbers in codes by their value; images without a code last; each group in the manifest's order."""
    codes = ["APT-10", "APT-9", None, "APT-10", "Bloco A", "apt-9"]
    page = ReportPage(chrome, tmp_path, *[image(index, property_code=code) for index, code in enumerate(codes)])
    assert page.texts("main h2") == ["apt-9 1 image", "APT-9 1 image", "APT-10 2 images", "Bloco A 1 image", "Without a property code 1 image"]  # fmt: skip
    assert [ref.split(" · ")[0] for ref in page.texts("article .ref")] == ["5", "1", "0", "3", "4", "2"]
    assert "4properties" in page.texts("#totals li")
    page.one("#group").click()
    assert page.texts("main h2") == []
    assert [ref.split(" · ")[0] for ref in page.texts("article .ref")] == ["0", "1", "2", "3", "4", "5"]
    page.one("#group").send_keys(Keys.SPACE)
    assert len(page.texts("main h2")) == 5


# --- what customers wrote


@pytest.mark.parametrize("language", ["en-US", "pt-BR"])
def test_hostile_texts_are_text(chrome: Chrome, tmp_path: Path, language: str) -> None:
    evil = [
        *HOSTILE,
        "<img src=x onerror='document.title=\"evil\"'>",
        "</script><script>document.title='evil'</script>",
        "javascript:document.title='evil'",
        "__proto__",
        "constructor",
    ]
    images = [
        failed(index, text, property_code=text, source=f"https://a/{text}", room_type=text, design_style=text)
        for index, text in enumerate(evil)
    ]
    images.append(image(len(evil), property_code="<b onclick=alert(1)>", room_type="<i>", design_style="constructor"))
    page = ReportPage(
        chrome, tmp_path, *images, language=language, client_name="<script>document.title='evil'</script>"
    )
    page.one("#group").click()  # off
    assert page.texts("h1") == ["<script>document.title='evil'</script>"]
    seen: list[str] = []
    for _ in range(2):
        assert len(page.all("script")) == 2
        assert len(page.all("main b, main i, main script, main svg, main iframe")) == 0
        assert all(str(one.get_property("href")).startswith("file:") for one in page.all("a[href]"))
        seen += page.texts("article.failed .ref")
        if page.shown("nav") and page.button("→").is_enabled():
            page.button("→").click()
    names = [f"{index} · {text}" if text else f"{index}" for index, text in enumerate(evil)]
    assert sorted(set(seen)) == sorted(names)
    page.one("#search").send_keys("onclick")
    open_viewer(page, len(evil))
    assert page.texts("#viewer-name, #viewer-ref") == ["<i> · constructor", f"{len(evil)} · <b onclick=alert(1)>"]
    assert len(page.all("dialog b, dialog i")) == 0
    assert chrome.title.startswith("acme.b1: ")
    assert page.complaints() == []


def test_nothing_is_asked_of_other_hosts(chrome: Chrome, tmp_path: Path) -> None:
    """Were a hole found, the page's own policy still keeps it from sending anything anywhere, and from running."""
    page = ReportPage(chrome, tmp_path, image(0))
    open_viewer(page, 0)
    loaded = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert isinstance(loaded, list)
    assert all(str(name).startswith("file:") for name in loaded)
    page.run("const one = new Image(); one.src = 'https://example.com/x.png'; document.body.append(one)")
    page.wait.until(lambda _: any("Content Security Policy" in line for line in page.complaints()))
    page.run(
        "const one = document.createElement('script'); one.textContent = 'document.title = \"evil\"';"
        "document.body.append(one); const two = document.createElement('div');"
        "two.setAttribute('onclick', 'document.title = \"evil\"'); document.body.append(two); two.click()"
    )
    page.wait.until(lambda _: any("Content Security Policy" in line for line in page.complaints()))
    assert chrome.title == "acme.b1: staging report"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_light_and_dark(chrome: Chrome, tmp_path: Path, scheme: str) -> None:
    page = ReportPage(chrome, tmp_path, image(0), failed(1))
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        colours = page.run(
            "const light = colour => colour.match(/[0-9]+/g).slice(0, 3).map(Number).reduce((sum, one) => sum + one) / 765;"
            "return [getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.body).color,"
            "getComputedStyle(document.querySelector('article.failed .state')).color].map(light)"
        )
        page_light, text_light, warning_light = colours
        assert (page_light > 0.9 and text_light < 0.2) if scheme == "light" else (page_light < 0.1 and text_light > 0.8)
        assert abs(page_light - warning_light) > 0.4
    finally:
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
