"""report.html in a browser: opened, looked at, clicked and typed into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from PIL import Image as Picture
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from shared.model import Failure, Image
from tests.results.report.parts import FAILED, batch, files, image

DESKTOP: Final = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE: Final = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
LARGER_PHONE: Final = {**PHONE, "width": 390, "height": 844}
WAIT_SECONDS: Final = 20


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


def open_viewer(page: ReportPage, index: int) -> None:
    page.one(f"a[data-index='{index}']").click()
    page.wait.until(lambda _: page.viewing is not None)
