"""Ask questions on a terminal, from commands that run on an event loop."""

from __future__ import annotations

import signal
import sys

import typer

from ops import show


def can_answer() -> bool:
    """Return whether somebody is there to answer."""
    try:
        return sys.stdin.isatty()
    except ValueError:  # closed
        return False


def confirm(question: str) -> bool:
    """Ask on stderr; no answer means no. Ctrl-C ends the command.

    An event loop handles SIGINT itself, but not while we block here. So Python's own handler is set meanwhile.
    """
    show.clear_bar()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        sys.stderr.write("\n")
        raise
    finally:
        signal.signal(signal.SIGINT, before)
