"""Every case of the contract suites on every backend; the gaps of a backend are expected failures, strictly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.backends import BACKENDS, GAPS, Backend
from tests.contract.google import google, missing


@pytest.fixture(params=[*BACKENDS, "google"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A backend with empty queues. State of other tests may be in its store and buckets: see `Backend.unique`."""
    if request.param == "google" and (why := missing()) is not None and os.environ.get("CI") != "true":
        pytest.skip(f"not run: {why}")
    opening = google("google") if request.param == "google" else BACKENDS[request.param](tmp_path)
    with opening as opened:
        yield opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "backend" in item.fixturenames and hasattr(item, "callspec"):
            reason = GAPS.get((item.callspec.params.get("backend"), item.originalname))
            if reason:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
