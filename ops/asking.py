"""Questions on a terminal, in the middle of commands that run on an event loop."""

from __future__ import annotations

import signal
import sys

import typer

from ops import show


def can_answer() -> bool:
    """Whether somebody is there to answer."""
    try:
        return sys.stdin.isatty()
    except ValueError:  # closed
        return False


def confirm(question: str) -> bool:
    """Ask on stderr; no answer means no. Ctrl-C ends the command.

    An event loop has SIGINT handled by itself, which it cannot do while we wait here: the question would not end.
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
