"""The file in which a running stack tells the other commands of its folder how to reach it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ops.errors import AlreadyUp

STATE: Final = Path(".ruum")


@asynccontextmanager
async def announced(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Tell other commands in `folder` how to reach the stack while it is running. Raises `AlreadyUp`."""
    state = folder / STATE
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUp(
                f"a stack is already running in {folder.resolve()}; stop it with Ctrl-C in its terminal"
            ) from None
        (state / "stack.json").write_text(json.dumps(dict(environment)))
        try:
            yield
        finally:
            (state / "stack.json").unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def found(folder: Path) -> dict[str, str] | None:
    """Return the environment of the stack running in `folder`; None if there is none."""
    state = folder / STATE
    if not (state / "stack.json").is_file() or not (state / "up.lock").is_file():
        return None
    descriptor = os.open(state / "up.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        environment: dict[str, str] = json.loads((state / "stack.json").read_text())
        return environment
    finally:
        os.close(descriptor)
    return None  # the lock is free: a stack that was killed left the file behind
