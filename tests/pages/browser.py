"""A browser without a window, where the machine has one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Final

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

BROWSER: Final = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER: Final = shutil.which("chromedriver")
MISSING: Final = "Chromium and its driver are not installed: sudo apt-get install chromium chromium-driver"
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

needed = pytest.mark.skipif(not (BROWSER and DRIVER) and os.environ.get("CI") != "true", reason=f"not run: {MISSING}")


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
