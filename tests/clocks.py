"""A clock and an event loop whose time is virtual: waiting costs nothing, and one seed gives one and the same run.

Nothing on this loop may depend on threads, subprocesses or sockets: the loop looks whether they are ready, but it
never waits for them.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

# 2026-03-02 09:00:00 UTC, a Monday: what VirtualClock.now() says when a loop starts.
EPOCH: Final = 1_772_442_000.0
# A run that gets this far has a periodic task that keeps it going and nobody who ends it.
MAX_RUN_SECONDS: Final = 100 * 86_400.0


class Deadlock(RuntimeError):
    """Every task waits for another one, or the run goes on for ever."""


class _Selector(selectors.DefaultSelector):
    """Tells `idle` for how long the loop would wait (None: for ever) instead of waiting."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._idle(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 s and, when nothing is ready, jumps to the next timer.

    Raises `Deadlock` out of the run when nothing is ready and nothing is scheduled.

    It holds on to every task that has not ended. asyncio itself holds them weakly: those of a killed worker, which
    nobody refers to any more, ended as garbage, at a collection, in the middle of some other test.
    """

    def __init__(self, max_run_seconds: float = MAX_RUN_SECONDS) -> None:
        self._virtual_seconds = 0.0
        self._max_run_seconds = max_run_seconds
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 1000
        super().__init__(_Selector(self._jump))

    def time(self) -> float:
        return self._virtual_seconds

    def create_task(self, coro: Any, **named: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **named)
        self._tasks.append(task)
        if len(self._tasks) >= self._prune_at:
            self._tasks = [known for known in self._tasks if not known.done()]
            self._prune_at = 2 * len(self._tasks) + 1000
        return task

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise Deadlock(f"nothing is ready and nothing is scheduled; waiting: {self._waiting()}")
        if self._virtual_seconds > self._max_run_seconds:
            raise Deadlock(f"still running after {self._virtual_seconds:.0f} virtual seconds: {self._waiting()}")
        self._virtual_seconds += seconds

    def _waiting(self) -> str:
        tasks = sorted(f"{task.get_name()} ({task.get_coro().__qualname__})" for task in asyncio.all_tasks(self))
        return ", ".join(tasks) or "no task"


class VirtualClock:
    """See `shared.ports.Clock`; the time is a `VirtualLoop`'s. Clocks with different seeds give different tokens."""

    def __init__(self, loop: VirtualLoop, seed: int = 0) -> None:
        self._loop = loop
        self._seed = seed
        self._random = random.Random(seed)
        self._tokens = 0

    def now(self) -> float:
        return EPOCH + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @property
    def random(self) -> random.Random:
        return self._random

    def token(self) -> str:
        self._tokens += 1
        return f"token-{self._seed}-{self._tokens:06}"


def run_virtual(main: Callable[[VirtualClock], Coroutine[Any, Any, T]], seed: int = 0) -> T:
    """`asyncio.run` on a virtual loop of its own; `main` is given the clock. What is left running is cancelled."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(VirtualClock(loop, seed)))
