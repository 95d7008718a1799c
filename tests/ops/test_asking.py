"""Questions on a terminal: a Ctrl-C ends them whenever it comes."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import sys
import time

import pytest
import typer

from ops import asking

# A signal that another thread takes interrupts no read of the main thread. That is what a Ctrl-C looks like that comes
# a moment before the read: noted, and not acted upon.
CHILD = """
import signal, sys, threading
from ops import asking

reading, line = threading.Event(), asking._line

def noted():
    reading.set()
    return line()

def interrupt():
    reading.wait()
    threading.Event().wait(0.3)  # until the main thread waits for a key
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

asking._line = noted
threading.Thread(target=interrupt, daemon=True).start()
try:
    asking.confirm("Continue?")
except BaseException as error:
    print("ended by", type(error).__name__, flush=True)
"""


def test_a_signal_that_interrupts_no_read_ends_a_question() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", CHILD])
    said, ended, until = b"", 0, time.monotonic() + 30
    while not ended and time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                said += os.read(terminal, 1000)
            except OSError:  # the child has closed its side
                os.waitpid(pid, 0)
                break
        ended, _ = os.waitpid(pid, os.WNOHANG)
    else:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    os.close(terminal)
    assert b"ended by Abort" in said, said


def test_a_ctrl_c_that_came_before_the_question_ends_it() -> None:
    """The event loop notes it on its task, and would look at it only after the answer."""

    async def asks() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(typer.Abort):
            asking.confirm("Continue?")
        task.uncancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)

    asyncio.run(asks())
