"""report.html in a real browser: what its reader sees and does, on a phone too, and what hostile texts do there (nothing)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from PIL import Image as Picture
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from shared.model import Failure, Image
from tests.results.test_report import CANCELLED, FAILED, HOSTILE, batch, files, image

BROWSER: Final = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER: Final = shutil.which("chromedriver")
MISSING: Final = "Chromium and its driver are not installed: sudo apt-get install chromium chromium-driver"
DESKTOP: Final = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE: Final = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
LARGER_PHONE: Final = {**PHONE, "width": 390, "height": 844}
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


@contextlib.contextmanager
def started() -> Iterator[Chrome]:
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


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with started() as driver:
        yield driver


class ReportPage:
    """The page of a round, with its pictures beside it, open in the browser.

    `edit` changes the data in the page; `at` ends its address.
    """

    def __init__(
        self,
        chrome: Chrome,
        folder: Path,
        *images: Image,
        screen: dict[str, Any] = DESKTOP,
        language: str = "en-US",
        edit: Callable[[dict[str, Any]], object] | None = None,
        at: str = "",
        pictures: bool = True,
        **changes: object,
    ) -> None:
        self.chrome = chrome
        results = folder / "results/acme/b1"
        self.folder = results / "round-1"
        for name in ("images", "thumbnails", "round-1"):
            (results / name).mkdir(parents=True, exist_ok=True)
        for name, content in files(*images, of=batch(**changes)).items():
            (self.folder / name).write_bytes(content)
        self.file = self.folder / "report.html"
        if edit:
            head, mark, rest = self.file.read_text().partition('id="data">')
            data, end, tail = rest.partition("</script>")
            changed = json.loads(data)
            edit(changed)
            self.file.write_text(head + mark + json.dumps(changed).replace("<", "\\u003c") + end + tail)
        for output in (one.output for one in images[:100] if one.output and pictures):
            for number, name in enumerate((output.picture, output.thumbnail, output.before)):
                scale = 100 if number == 0 else 80
                size = (output.width * scale + number, output.height * scale)
                Picture.new("RGB", size, ("gray", "silver", "white")[number]).save(folder / name)
        self.resize(screen)
        chrome.execute_cdp_cmd(
            "Emulation.setUserAgentOverride", {"userAgent": "ReportPage", "acceptLanguage": language}
        )
        chrome.get("about:blank")  # an address that differs in its hash only would not be loaded again
        chrome.get_log("browser")  # what earlier pages said
        chrome.get(self.file.as_uri() + at)
        self.wait = WebDriverWait(chrome, WAIT_SECONDS)
        self.wait.until(lambda _: self.run("return document.readyState") == "complete")

    def resize(self, screen: dict[str, Any]) -> None:
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def run(self, script: str, *arguments: object) -> Any:
        return self.chrome.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """As they stand in the page, not as they are drawn: spaces and odd characters kept."""
        return [str(one.get_property("textContent")) for one in self.all(selector)]

    def shown(self, selector: str) -> list[str]:
        """The texts of those elements that can be seen."""
        return [one.text for one in self.all(selector) if one.is_displayed()]

    def button(self, words: str) -> WebElement:
        return next(one for one in self.all("button") if words in one.text and one.is_displayed())

    def keys(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self.chrome).send_keys(*keys).perform()

    @property
    def focus(self) -> WebElement:
        return self.chrome.switch_to.active_element

    @property
    def viewing(self) -> str | None:
        """What the viewer shows, when it is open: the line below the room's name."""
        return self.texts("#viewer-ref")[0] if self.run("return document.getElementById('viewer').open") else None

    @property
    def cut(self) -> int:
        """How many percent of the photo before staging the viewer shows."""
        return int(str(self.one("#handle").get_dom_attribute("aria-valuenow")))

    def box(self, selector: str) -> dict[str, float]:
        found: dict[str, float] = self.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return {left: box.left, top: box.top, right: box.right, bottom: box.bottom, width: box.width, height: box.height}",
            selector,
        )
        return found

    def complaints(self) -> list[str]:
        return [str(line["message"]) for line in self.chrome.get_log("browser")]


def failed(index: int, message: str = "the file is an HTML page", code: str = "not_a_picture", **changes: Any) -> Image:
    return image(index, FAILED, error=Failure(code=code, message=message), **changes)


def upright(index: int, **changes: Any) -> Image:
    """3:4, as phones take them."""
    made = image(index, **changes)
    return msgspec.structs.replace(made, output=msgspec.structs.replace(made.output, width=3, height=4))


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


# --- the viewer


def open_viewer(page: ReportPage, index: int) -> None:
    page.one(f"a[data-index='{index}']").click()
    page.wait.until(lambda _: page.viewing is not None)


def close_viewer(page: ReportPage) -> None:
    """By Escape. The step that it takes back in the history comes a moment later."""
    page.keys(Keys.ESCAPE)
    page.wait.until(lambda _: page.viewing is None and "#" not in page.chrome.current_url)


def test_a_click_opens_the_viewer_and_escape_closes_it(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0), image(1, property_code="AP-1"))
    open_viewer(page, 1)
    assert page.texts("#viewer-name, #viewer-ref, #place") == ["living room · modern", "1 · AP-1", "2 / 2"]
    assert page.texts("#compare .tag") == ["After · virtually staged", "Before"]
    sources = page.run("return [...document.querySelectorAll('#compare img')].map(one => one.getAttribute('src'))")
    assert sources == ["../thumbnails/1.jpg", "../images/1.jpg", "../thumbnails/1-before.jpg"]
    assert page.box("#viewer") | {"right": 0} == page.run("return {left: 0, top: 0, right: 0, bottom: innerHeight, width: innerWidth, height: innerHeight}")  # fmt: skip
    assert chrome.current_url.endswith("#image-1"), "an address that can be sent"
    assert page.one("#full").get_property("href") == (tmp_path / "results/acme/b1/images/1.jpg").as_uri()
    close_viewer(page)
    assert page.focus.get_dom_attribute("data-index") == "1", "the focus is where the reader was"
    page.keys(Keys.ENTER)
    assert page.viewing == "1 · AP-1"
    page.button("Close").click()
    assert page.viewing is None
    assert page.complaints() == []


def test_arrow_keys_go_from_image_to_image(chrome: Chrome, tmp_path: Path) -> None:
    """Over those with a picture; past the end nothing happens; the card of the last one seen has the focus afterwards."""
    images = [failed(index) if index % 10 == 3 else image(index) for index in range(60)]
    page = ReportPage(chrome, tmp_path, *images)
    open_viewer(page, 2)
    page.keys(Keys.ARROW_RIGHT)
    assert page.viewing == "4", "3 has no picture"
    assert chrome.current_url.endswith("#image-4")
    page.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.viewing == "1"
    page.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.viewing == "0"
    assert not page.one("#earlier").is_enabled()
    page.one("#later").click()
    assert page.viewing == "1"
    page.keys(*[Keys.ARROW_RIGHT] * 70)
    assert page.viewing == "59"
    assert page.texts("#place") == ["54 / 54"]
    close_viewer(page)
    assert page.focus.get_dom_attribute("data-index") == "59"
    assert page.texts(".pages span") == ["Page 2 of 2"] * 2


def test_the_slider_is_moved_by_mouse_and_keys(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0), image(1))
    open_viewer(page, 0)
    assert page.cut == 50
    assert page.focus.get_dom_attribute("id") == "handle"
    assert page.focus.get_dom_attribute("role") == "slider"
    page.keys(Keys.ARROW_UP)
    assert page.cut == 55
    assert page.one("#handle").get_dom_attribute("aria-valuetext") == "55 % before"
    page.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.cut == 45
    page.keys(Keys.END)
    assert page.cut == 100
    page.keys(Keys.HOME, Keys.ARROW_DOWN)
    assert page.cut == 0
    frame = page.box("#compare")
    picture = page.one("#compare")
    quarter = round(frame["width"] / 4)
    ActionChains(chrome).move_to_element(picture).click_and_hold().move_by_offset(-quarter, 40).release().perform()
    assert page.cut == 25, "follows the pointer"
    assert page.box("#handle")["left"] + 22 == pytest.approx(frame["left"] + quarter, abs=frame["width"] / 100)
    shown = page.run("return [...document.querySelectorAll('.side')].map(one => getComputedStyle(one).clipPath)")
    assert shown == ["inset(0px 0px 0px 25%)", "inset(0px 75% 0px 0px)"], "after to the right of it, before to the left"
    beside = round(frame["width"] / 2) + 40
    ActionChains(chrome).move_to_element(picture).click_and_hold().move_by_offset(beside, 0).release().perform()
    assert page.cut == 100, "also from beside the picture"
    ActionChains(chrome).move_by_offset(-quarter, 0).perform()
    assert page.cut == 100, "let go"
    page.keys(Keys.ARROW_RIGHT)
    assert (page.viewing, page.cut) == ("1", 50), "arrow keys go on after a drag; each image starts in the middle"


def test_the_slider_is_moved_by_touch(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, upright(0), screen=LARGER_PHONE)
    chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        open_viewer(page, 0)
        frame = page.box("#compare")
        for kind, share in (("touchStart", 0.5), ("touchMove", 0.6), ("touchMove", 0.8), ("touchEnd", None)):
            x, y = frame["left"] + frame["width"] * (share or 0), frame["top"] + 200
            points = [] if share is None else [{"x": x, "y": y}]
            chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait.until(lambda _: page.cut == 80)
    finally:
        chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.parametrize("screen", [DESKTOP, LARGER_PHONE, {**PHONE, "width": 740, "height": 360}])
def test_the_viewer_shows_whole_pictures_as_large_as_they_go(
    chrome: Chrome, tmp_path: Path, screen: dict[str, Any]
) -> None:
    page = ReportPage(chrome, tmp_path, image(0), upright(1), screen=screen)
    for index, ratio in ((0, 4 / 3), (1, 3 / 4)):
        open_viewer(page, index)
        frame, stage = page.box("#compare"), page.box("#stage")
        assert frame["width"] / frame["height"] == pytest.approx(ratio, abs=0.01)
        assert frame["width"] == pytest.approx(stage["width"], abs=1) or frame["height"] == pytest.approx(
            stage["height"], abs=1
        )
        assert frame["left"] >= 0 and frame["right"] <= screen["width"]
        assert frame["top"] >= stage["top"] - 1 and frame["bottom"] <= stage["bottom"] + 1
        for name in ("#close", "#earlier", "#later", "#full"):
            box = page.box(name)
            assert 0 <= box["left"] and box["right"] <= screen["width"] and box["bottom"] <= screen["height"], name
        close_viewer(page)


def test_the_back_button_closes_the_viewer(chrome: Chrome, tmp_path: Path) -> None:
    """And Escape leaves no step behind that the next back would have to undo."""
    page = ReportPage(chrome, tmp_path, image(0), image(1))
    open_viewer(page, 0)
    page.keys(Keys.ARROW_RIGHT)
    chrome.back()
    page.wait.until(lambda _: page.viewing is None)
    assert chrome.current_url == page.file.as_uri()
    open_viewer(page, 0)
    close_viewer(page)
    chrome.back()
    page.wait.until(lambda _: chrome.current_url == "about:blank")


def test_an_address_opens_its_image(chrome: Chrome, tmp_path: Path) -> None:
    images = [failed(index) if index == 3 else image(index) for index in range(100)]
    page = ReportPage(chrome, tmp_path, *images, at="#image-77")
    assert page.viewing == "77"
    page.keys(Keys.ESCAPE)
    assert chrome.current_url.split("#")[0] == page.file.as_uri()
    assert page.texts(".pages span")[0] == "Page 2 of 3"
    for wrong in ("#image-3", "#image-100", "#image-", "#x"):
        assert ReportPage(chrome, tmp_path, *images, at=wrong).viewing is None


def test_a_large_photo_is_used_where_there_is_one(chrome: Chrome, tmp_path: Path) -> None:
    large = tmp_path / "results/acme/b1/images/0-before.jpg"
    page = ReportPage(
        chrome, tmp_path, image(0), edit=lambda data: data["images"][0].append("../images/0-before.jpg"), pictures=True
    )
    Picture.new("RGB", (1600, 1200), "red").save(large)
    open_viewer(page, 0)
    assert page.run(
        "return [...document.querySelectorAll('.side.before img')].map(one => one.getAttribute('src'))"
    ) == ["../thumbnails/0-before.jpg", "../images/0-before.jpg"]
    page.wait.until(lambda _: page.run("return document.querySelectorAll('.side.before img')[1].naturalWidth") == 1600)
    card = page.run("return [...document.querySelectorAll('article img')].map(one => one.getAttribute('src'))")
    assert card == ["../thumbnails/0-before.jpg", "../thumbnails/0.jpg"], "cards stay small"


def test_a_preview_is_called_one(chrome: Chrome, tmp_path: Path) -> None:
    page = ReportPage(chrome, tmp_path, image(0, model="preview"), image(1, model="gemini-3-pro-image"))
    assert page.texts(".pair small") == ["Before", "After · preview", "Before", "After"]
    open_viewer(page, 0)
    assert page.texts("#compare .tag")[0] == "After · PREVIEW, virtually staged"


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
