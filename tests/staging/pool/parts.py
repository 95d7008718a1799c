"""A picture pool at work, and its subprocesses as the machine sees them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from PIL import Image

from shared.errors import ImageRejected
from shared.settings import PhotoLimits
from shared.staging.pool import PicturePool
from tests.staging.pool.jobs import own_pid


def children() -> set[int]:
    """Processes whose parent we are, from /proc: also those multiprocessing has forgotten."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid() and fields[0] != "Z":
                    found.add(int(entry.name))
    return found


def spawned() -> set[int]:
    """Our children that are pool subprocesses, not multiprocessing's resource tracker."""
    found = set()
    for pid in children():
        with contextlib.suppress(OSError):
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


@contextlib.contextmanager
def opened(**limits: object) -> Iterator[PicturePool]:
    pool = PicturePool(PhotoLimits(**{"subprocesses": 2, "job_seconds": 20.0, **limits}))
    try:
        yield pool
    finally:
        pool.close()


def run(work: Callable[[], Awaitable[object]], seconds: float = 20) -> object:
    async def main() -> object:
        return await asyncio.wait_for(work(), seconds)

    return asyncio.run(main())


def assert_works(pool: PicturePool) -> None:
    assert run(lambda: pool.run(ImageRejected, own_pid)) != os.getpid()


def photo_bytes(size: tuple[int, int] = (200, 150)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(out, "PNG")
    return out.getvalue()
