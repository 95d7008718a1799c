"""One picture pool for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.staging.pool import PicturePool
from tests.staging.pool.parts import opened


@pytest.fixture(scope="module")
def pool() -> Iterator[PicturePool]:
    """One pool for the tests that leave it whole: starting the subprocesses costs a second."""
    with opened() as shared:
        yield shared
