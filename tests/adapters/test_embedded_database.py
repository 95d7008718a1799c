"""A data folder's file: made anew, opened again, refused when another version made it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from shared.adapters.embedded.database import VERSION, Database
from shared.adapters.system_clock import SystemClock
from shared.errors import ConfigurationError


def test_a_file_is_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        Database(tmp_path / "batch.sqlite", SystemClock()).close()


@pytest.mark.parametrize("version", [0, VERSION - 1, VERSION + 1])
def test_a_file_of_another_version_is_refused_untouched(tmp_path: Path, version: int) -> None:
    path = tmp_path / "batch.sqlite"
    with closing(sqlite3.connect(path)) as made:
        made.executescript(f"CREATE TABLE tallies (open INTEGER); PRAGMA user_version = {version}")
    with pytest.raises(ConfigurationError, match=f"{path} was created by another version"):
        Database(path, SystemClock())
    with closing(sqlite3.connect(path)) as left:
        assert left.execute("SELECT name FROM sqlite_schema").fetchall() == [("tallies",)]


def test_a_file_whose_making_was_cut_short_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "batch.sqlite"
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"PRAGMA user_version = {VERSION}")
    Database(path, SystemClock()).close()
    with closing(sqlite3.connect(path)) as left:
        assert ("tallies",) in left.execute("SELECT name FROM sqlite_schema").fetchall()
