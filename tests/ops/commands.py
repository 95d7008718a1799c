"""What a command of the command line answered, for the tests that run one: see `conftest.ruum`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec


class Said(msgspec.Struct):
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """All of stdout as one object."""
        assert self.code == 0, self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def refused(self, code: int, *words: str) -> None:
        """One line on stderr that says why, and no traceback."""
        assert self.code == code, (self.out, self.err)
        assert "Traceback" not in self.err
        assert len(self.err.splitlines()) == 1, self.err
        assert self.err.startswith("ruum-batch: ")
        for word in words:
            assert word in self.err

    def done(self) -> None:
        assert (self.code, self.err) == (0, "")


Ruum = Callable[..., Said]
