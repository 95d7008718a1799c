"""Runs work on hostile files in a process of its own, limited in memory and time.

If it crashes, nothing else does.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from shared.errors import Unusable

P = ParamSpec("P")
R = TypeVar("R")

_PR_SET_PDEATHSIG: Final = 1  # Linux: the kernel's signal to a child whose parent has died


class Exceeded(Unusable):
    """The work exceeded its memory or time, or ended its process. The text says which."""


def limit(address_space_bytes: int, parent: int) -> None:
    """Limit this process. Runs first in each subprocess, which dies with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the kernel was asked to signal that
            os._exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and lets the work in progress finish
    gc.freeze()


def _quiet_limit(address_space_bytes: int, parent: int) -> None:
    """Like `limit`, and discard what a crashing library prints."""
    limit(address_space_bytes, parent)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run_confined(
    address_space_bytes: int, seconds: float, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run `work` in a subprocess made for this one call; return or raise what it does. Raises `Exceeded`."""
    from pebble import ProcessExpired, ProcessPool  # only where there is such work: a manifest in JSON needs none

    context = multiprocessing.get_context("spawn")
    initargs = (address_space_bytes, os.getpid())
    with ProcessPool(max_workers=1, initializer=_quiet_limit, initargs=initargs, context=context) as pool:
        future = pool.schedule(work, args=args, kwargs=kwargs, timeout=seconds)
        try:
            result: R = future.result()
        except TimeoutError:
            raise Exceeded(f"it takes longer than {seconds:g} s") from None
        except MemoryError:
            raise Exceeded("it needs more memory than it may") from None
        except ProcessExpired as error:
            raise Exceeded("it unpacks to more than can be read") from error
        else:
            return result
        finally:
            pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves this one untyped
