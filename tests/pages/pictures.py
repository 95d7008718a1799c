"""Make docs/images from a batch staged on this machine: `make pictures`.

report.jpg shows the report on a desktop, and its viewer on a phone beside it. before-after.jpg shows one room.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final

from PIL import Image as Picture
from selenium.webdriver import Chrome

from tests.pages.browser import started
from tests.pages.report_page.parts import DESKTOP, LARGER_PHONE

ROOT: Final = Path(__file__).resolve().parents[2]
PHOTO: Final = "bedroom-01.jpg"
STAGED: Final = "2-APT-101.jpg"
UPRIGHT: Final = "#image-11"
GAP: Final = 24
WIDTH: Final = 1400
LIMIT_BYTES: Final = 150_000


def screenshot(chrome: Chrome, address: str, screen: dict[str, object]) -> Picture.Image:
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    chrome.get("about:blank")
    chrome.get(address)
    loaded = "Promise.all([...document.images].filter(one => one.getBoundingClientRect().top < innerHeight)"
    chrome.execute_async_script(loaded + ".map(one => one.decode())).then(arguments[0])")  # type: ignore[no-untyped-call]
    return Picture.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")


def beside(left: Picture.Image, right: Picture.Image, width: int) -> Picture.Image:
    """The two side by side on white, `width` pixels wide in all."""
    whole = Picture.new("RGB", (left.width + GAP + right.width, max(left.height, right.height)), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width + GAP, 0))
    return whole.resize((width, round(whole.height * width / whole.width)), Picture.Resampling.LANCZOS)


def save(picture: Picture.Image, name: str) -> None:
    file = ROOT / "docs/images" / name
    picture.save(file, quality=82, optimize=True, progressive=True)
    assert file.stat().st_size < LIMIT_BYTES, f"{name}: {file.stat().st_size} bytes"


def main(out: Path) -> None:
    (page,) = out.resolve().glob("results/acme/demo/round-1/report.html")
    with started() as chrome:
        chrome.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        desktop = screenshot(chrome, page.as_uri(), {**DESKTOP, "height": 980})
        tall = {**LARGER_PHONE, "height": 980, "deviceScaleFactor": 1}
        phone = screenshot(chrome, page.as_uri() + UPRIGHT, tall)
    save(beside(desktop, phone, WIDTH), "report.jpg")
    staged = Picture.open(page.parents[1] / "images" / STAGED)
    photo = Picture.open(ROOT / "samples/photos" / PHOTO).resize(staged.size, Picture.Resampling.LANCZOS)
    save(beside(photo, staged, WIDTH), "before-after.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
