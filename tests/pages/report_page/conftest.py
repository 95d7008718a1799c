"""One browser for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.pages.browser import started


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with started() as driver:
        yield driver
