"""report.html in a real browser: what its reader sees, on a phone too, and what hostile texts do there (nothing)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from PIL import Image as Picture
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from shared.model import Failure, Image
from tests.unit.test_report import CANCELLED, FAILED, HOSTILE, files, image

BROWSER: Final = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER: Final = shutil.which("chromedriver")
MISSING: Final = "Chromium and its driver are not installed: sudo apt-get install chromium chromium-driver"
PHONE: Final = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
WAIT_SECONDS: Final = 20
SWITCHES: Final = (
    "--headless=new",
    "--no-sandbox",  # its sandbox refuses root, who runs CI; the only pages opened are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and os.environ.get("CI") != "true", reason=f"not run: {MISSING}"
)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    assert BROWSER and DRIVER, MISSING
    options = ChromeOptions()
    options.binary_location = BROWSER
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class ReportPage:
    """The page of a round, with its pictures beside it, open in the browser."""

    def __init__(self, chrome: Chrome, folder: Path, *images: Image, phone: bool = False) -> None:
        self.chrome = chrome
        results = folder / "results/acme/b1"
        for name in ("images", "thumbnails", "round-1"):
            (results / name).mkdir(parents=True)
        (results / "round-1/report.html").write_bytes(files(*images)["report.html"])
        for output in (one.output for one in images[:100] if one.output):
            for number, name in enumerate((output.picture, output.thumbnail, output.before)):
                Picture.new("RGB", (40 + number, 30), "gray").save(folder / name)
        chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        if phone:
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        chrome.get_log("browser")  # what earlier pages said
        chrome.get((results / "round-1/report.html").as_uri())
        self.wait = WebDriverWait(chrome, WAIT_SECONDS)
        self.wait.until(lambda _: self.run("return document.readyState") == "complete")

    def run(self, script: str) -> object:
        return self.chrome.execute_script(script)  # type: ignore[no-untyped-call]

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """As they stand in the page, not as they are drawn: spaces and odd characters kept."""
        return [str(one.get_property("textContent")) for one in self.all(selector)]

    def button(self, words: str) -> WebElement:
        return next(one for one in self.all("button") if words in one.text)

    def complaints(self) -> list[str]:
        return [str(line["message"]) for line in self.chrome.get_log("browser")]


def failed(index: int, message: str = "the file is an HTML page", **changes: object) -> Image:
    return image(index, FAILED, error=Failure(code="not_a_picture", message=message), **changes)


def test_a_reader_sees_totals_pictures_and_reasons(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0, property_code="AP-1"), failed(1), image(2, CANCELLED))
    assert page.chrome.title == "acme.b1: staging report"
    assert page.texts("h1") == ["acme.b1: cancelled"]
    assert page.texts("#totals li") == ["3images", "1completed", "1failed", "1cancelled", "$0.15cost"]
    assert page.texts("article > p") == [
        "0 · AP-1 · living room, modern · completed",
        "1 · living room, modern · failed",
        "not_a_picture: the file is an HTML page",
        "https://example.com/1.jpg",
        "2 · living room, modern · cancelled",
        "https://example.com/2.jpg",
    ]
    page.wait.until(lambda _: page.run("return [...document.images].every(one => one.complete)"))
    assert page.run("return [...document.images].map(one => [one.alt, one.naturalWidth])") == [
        ["before", 42],
        ["after", 41],
    ]
    before, after = page.all("img")
    assert before.rect["y"] == after.rect["y"] and before.rect["x"] < after.rect["x"], "side by side"
    page.all("a.pair")[0].click()
    page.wait.until(lambda _: page.chrome.current_url == (tmp_path / "results/acme/b1/images/0.jpg").as_uri())
    assert page.complaints() == []


def test_a_phone_shows_it_without_scrolling_sideways(chrome: Chrome, tmp_path: Path) -> None:
    long = "W" * 500
    page = ReportPage(
        chrome, tmp_path, image(0, property_code=long), failed(1, long, source=f"https://a/{long}"), phone=True
    )
    assert page.run("return innerWidth") == PHONE["width"]
    assert page.run("return document.documentElement.scrollWidth") == PHONE["width"]
    assert all(one.rect["x"] + one.rect["width"] <= 360 for one in page.all("article, article *, nav *, #totals li"))


def test_ten_thousand_images_are_paged_filtered_and_reached_by_keyboard(chrome: Chrome, tmp_path: Path) -> None:
    images = [failed(index) if index % 100 == 7 else image(index) for index in range(10_000)]
    page = ReportPage(chrome, tmp_path, *images)
    assert len(page.all("article")) == 48
    assert len(page.all("body *")) < 600, "a phone keeps one page's elements, not 10,000 images'"
    page.button("next").send_keys(Keys.ENTER)
    assert page.texts("#pages span") == ["page 2 of 209"]
    assert page.texts("article > p")[0].startswith("48 · ")
    assert chrome.switch_to.active_element.text == "next →", "the focus stays where the reader presses"
    chrome.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.texts("#pages span") == ["page 3 of 209"]
    page.button("failed (100)").click()
    assert page.texts("#pages span") == ["page 1 of 3"]
    assert page.button("failed").get_dom_attribute("aria-pressed") == "true"
    assert page.button("all").get_dom_attribute("aria-pressed") == "false"
    shown: list[str] = []
    while True:
        shown += page.texts("article > p:first-of-type")
        if not page.button("next").is_enabled():
            break
        page.button("next").click()
    assert shown == [f"{index} · living room, modern · failed" for index in range(7, 10_000, 100)]
    page.button("previous").click()
    assert page.texts("#pages span") == ["page 2 of 3"]


def test_hostile_texts_are_text(chrome: Chrome, tmp_path: Path) -> None:
    evil = [
        *HOSTILE,
        "<img src=x onerror='document.title=\"evil\"'>",
        "</script><script>document.title='evil'</script>",
    ]
    images = [failed(index, text, property_code=text, source=f"https://a/{text}") for index, text in enumerate(evil)]
    images.append(image(len(evil), property_code="<b onclick=alert(1)>"))
    page = ReportPage(chrome, tmp_path, *images)
    assert page.chrome.title == "acme.b1: staging report"
    assert len(page.all("script")) == 2
    assert len(page.all("main b, main script, main svg, main iframe")) == 0
    assert len(page.all("img")) == 2  # of the one that is staged
    names = [f"{index} · {text}" if text else f"{index}" for index, text in enumerate(evil)]
    assert page.texts("article.failed > p:first-of-type") == [
        f"{name} · living room, modern · failed" for name in names
    ]
    assert page.complaints() == []


def test_nothing_is_asked_of_other_hosts(chrome: Chrome, tmp_path: Path) -> None:
    """Were a hole found, the page's own policy still keeps it from sending anything anywhere."""
    page = ReportPage(chrome, tmp_path, image(0))
    loaded = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert isinstance(loaded, list)
    assert all(str(name).startswith("file:") for name in loaded)
    page.run("const one = new Image(); one.src = 'https://example.com/x.png'; document.body.append(one)")
    page.wait.until(lambda _: any("Content Security Policy" in line for line in page.complaints()))
