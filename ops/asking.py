"""Ask questions on a terminal, from commands that run on an event loop."""

from __future__ import annotations

import select
import signal
import sys
from contextlib import suppress
from typing import Final

import typer

from ops import show

LOOK_SECONDS: Final = 0.2  # how late a Ctrl-C may be noticed
_YES: Final = ("y", "yes", "s", "sim")
_NO: Final = ("n", "no", "nao", "não", "")


def can_answer() -> bool:
    """Return whether somebody is there to answer."""
    try:
        return sys.stdin.isatty()
    except ValueError:  # closed
        return False


def confirm(question: str) -> bool:
    """Ask on stderr until the answer is yes or no; Enter alone means no. Raises `typer.Abort` on Ctrl-C or no input.

    An event loop handles SIGINT itself, but not while we block here. So Python's own handler is set meanwhile.
    """
    show.clear_bar()
    if _is_cancelled():
        raise typer.Abort
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            sys.stderr.write(f"{question} [y/N]: ")
            sys.stderr.flush()
            answer = _line().strip().lower()
            if answer in _YES or answer in _NO:
                return answer in _YES
            sys.stderr.write("Please answer y or n.\n")
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\n")
        raise typer.Abort from None
    finally:
        signal.signal(signal.SIGINT, before)


def _is_cancelled() -> bool:
    """Whether a Ctrl-C that came before the question waits to be noticed by the event loop."""
    import asyncio

    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop
        return False
    return task is not None and task.cancelling() > 0


def _line() -> str:
    """A line from the terminal. Raises `EOFError` at its end.

    Python runs the handler of a signal between two steps of the interpreter. A Ctrl-C that arrives just before a read
    blocks would wait with it for the next key, so we read only what is there.
    """
    with suppress(OSError, ValueError):  # a stand-in for a terminal has no file
        while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            pass
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
