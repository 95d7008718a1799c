"""The command line, for the tests of its commands."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import cli
from tests.ops.commands import Ruum, Said


@pytest.fixture
def ruum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Ruum]:
    """The command line's own entry, in this process, in an empty folder and without a key or a setting."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("RUUM_", "GEMINI_", "GOOGLE_")):
            monkeypatch.delenv(name)

    def run(*arguments: object, **environment: str) -> Said:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["ruum-batch", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # at its end a command ignores it, for good
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, said.out, said.err)

    yield run
    assert list(folder.iterdir()) == [], "nothing is stored where a command runs"
