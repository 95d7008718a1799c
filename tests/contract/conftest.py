"""Every case of the contract suites on every backend; the gaps of a backend are expected failures, strictly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for clocks.py

from backends import BACKENDS, GAPS, Backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A backend with empty queues. State of other tests may be in its store and buckets: see `Backend.unique`."""
    with BACKENDS[request.param](tmp_path) as opened:
        yield opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "backend" in item.fixturenames and hasattr(item, "callspec"):
            reason = GAPS.get((item.callspec.params.get("backend"), item.originalname))
            if reason:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
