"""A data folder's file: made anew, opened again, refused when another version made it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from shared.adapters.embedded.database import VERSION, Database
from shared.adapters.system_clock import SystemClock
from shared.assembly.wiring import embedded
from shared.errors import ConfigurationError
from shared.model import BatchState, Lease
from tests import builders
from tests.clocks import VirtualClock, run_virtual


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


def test_who_takes_a_folder_over_frees_its_closers() -> None:
    """The dead closer's batch can be closed at once, and a write by what it had read is refused: the batch has moved."""

    async def main(clock: VirtualClock) -> None:
        parts = embedded(clock)
        lease = Lease(holder="dead", until=clock.now() + 30)
        closing = builders.a_batch(id="acme.a", state=BatchState.CLOSING, closer=lease, revision=7)
        idle = builders.a_batch(id="acme.b", state=BatchState.PROCESSING, revision=3)
        for batch in (closing, idle):
            await parts.store.create_batch(batch)
        await parts.store.take_over()
        freed, untouched = await parts.store.batch("acme.a"), await parts.store.batch("acme.b")
        assert freed is not None
        assert untouched is not None
        assert (freed.closer, freed.revision, untouched.revision) == (None, 8, 3)

    run_virtual(main)
