"""`ruum-batch up` as its user meets it: once per folder, again after it ended however it ended, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ops.local_stack.stack_file import STATE
from tests.e2e import test_stack
from tests.e2e.conftest import RUUM, clean_environment

pytestmark = test_stack.pytestmark

UP = "up. In another terminal"
READY_SECONDS = 120
COMMAND = (RUUM, "up")


class Up:
    """The command, running; its lines until it is up."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.parts: set[int] = set()
        self._rest: asyncio.Task[bytes] | None = None

    async def until_up(self) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(READY_SECONDS):
            while not (self.lines and self.lines[-1].startswith(UP)):
                line = await self.process.stderr.readline()
                assert line, self.lines
                self.lines.append(line.decode())
        self.parts = below(self.process.pid)
        self._rest = asyncio.create_task(self.process.stderr.read())

    async def end(self, how: signal.Signals) -> int:
        """Its exit code, when it and every process it started have ended."""
        self.process.send_signal(how)
        async with asyncio.timeout(60):
            code = await self.process.wait()
            while any(alive(part) for part in self.parts):
                await asyncio.sleep(0.05)
        return code


def alive(pid: int) -> bool:
    """Whether it runs: a zombie waits only for its new parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def below(pid: int) -> set[int]:
    """All descendants of a process."""
    children: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children |= {int(child) for child in (thread / "children").read_text().split()}
    return children.union(*(below(child) for child in children))


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        cwd=folder,
        env=clean_environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Up(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_ends_whole_and_starts_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(tmp_path) as first:
            await first.until_up()
            assert len(first.parts) >= 8, "three emulators, four doors, a subscriber"
            async with started(tmp_path) as second:
                _, said = await second.process.communicate()
                assert second.process.returncode == 1
                assert f"a stack is already running in {tmp_path}" in said.decode()
            assert (tmp_path / STATE / "objects/intake").is_dir()
            assert await first.end(signal.SIGKILL) == -signal.SIGKILL
        async with started(tmp_path) as again:  # on what the one before left
            await again.until_up()
            assert await again.end(signal.SIGHUP) == 0  # a closed terminal
        assert not (tmp_path / STATE / "stack.json").exists()

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """The resilience that is the product's can be tried by hand: everything else goes on."""

    def workers(pid: int) -> set[int]:
        found = set()
        for part in below(pid):
            with suppress(OSError):
                if "functions/stage_image/main.py" in Path(f"/proc/{part}/cmdline").read_text() and alive(part):
                    found.add(part)
        return found

    async def scenario() -> None:
        async with started(tmp_path) as up:
            lines: list[str] = []
            assert up.process.stderr is not None

            async def until(words: str) -> None:
                while not any(words in line for line in lines):
                    line = await up.process.stderr.readline()  # type: ignore[union-attr]
                    assert line, lines
                    lines.append(line.decode())

            async with asyncio.timeout(READY_SECONDS):
                await until(UP)
                (worker,) = workers(up.process.pid)
                os.kill(worker, signal.SIGKILL)
                await until("subscriber-1 has ended; restarting it")
                while not workers(up.process.pid) - {worker}:
                    await asyncio.sleep(0.05)
            up.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                assert await up.process.wait() == 0

    asyncio.run(scenario())
