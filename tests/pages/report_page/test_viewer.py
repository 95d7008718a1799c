"""report.html in a real browser: the viewer, on a phone too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture
from selenium.webdriver import ActionChains, Chrome, Keys

from tests.pages.browser import needed
from tests.pages.report_page.parts import DESKTOP, LARGER_PHONE, PHONE, ReportPage, failed, open_viewer, upright
from tests.results.report.parts import image

pytestmark = needed


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
