"""A data folder for each test of the commands about money."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.money.data import Data


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")
