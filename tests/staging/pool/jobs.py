"""Jobs for the picture pool, importable by its subprocesses: they crash, hang, eat memory or answer nonsense."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from shared.errors import CodedError, ErrorCode


def own_pid() -> int:
    return os.getpid()


def slow_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def killed(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)
    time.sleep(10)


def left(code: int) -> None:
    os._exit(code)


def asked_to_leave(code: int) -> None:
    sys.exit(code)


def hungry(size: int) -> int:
    return len(bytearray(size))


def busy(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def deaf(seconds: float) -> None:
    """Hangs and does not want to be ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)


def dies_after_its_answer(seconds: float) -> int:
    def die() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die, daemon=True).start()
    return os.getpid()


def rejects(kind: type[CodedError], code: ErrorCode, message: str) -> None:
    raise kind(code, message)


class Awkward(Exception):
    """As many libraries have them: it pickles, but cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def raises_awkwardly() -> None:
    raise Awkward("a", "b")


def raises_value_error() -> None:
    raise ValueError("a bug of ours")


def answers_what_cannot_be_pickled() -> object:
    return lambda: 1


def limits_of_process() -> tuple[tuple[int, int], tuple[int, int]]:
    import resource

    return resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CORE)
