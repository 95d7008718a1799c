"""The entry point of `ruum-batch`: prepares the process, runs a command, and exits with its code.

Ctrl-C must end the command with one line from the first moment on, and the imports take part of a second. So the
handler is set before anything else is imported, even `typing` and `signal`.

Exit codes: see `ops.cli_common.EXIT_CODES`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in: `signal` itself takes milliseconds, in which Ctrl-C would be a traceback
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
INTERRUPTED_LINE = b"ruum-batch: interrupted\n"


def _interrupted_while_starting(_: int, __: FrameType | None) -> None:
    """Exit at once: an exception from a half-imported module would print a page of traceback."""
    os.write(2, INTERRUPTED_LINE)
    os._exit(INTERRUPTED)


if sys.argv and sys.argv[0].rpartition("/")[2] == "ruum-batch":  # and not imported by a test
    _signal.signal(_signal.SIGINT, _interrupted_while_starting)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    _signal.signal(_signal.SIGINT, _interrupted_while_starting)
    _open_standard_streams()
    from ops import ending

    code = ending.run(sys.argv[1:])
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # nothing is left to interrupt: the interpreter is shutting down
    sys.exit(code)


def _open_standard_streams() -> None:
    """Open the streams that the caller has closed (`>&-`): else the next file opened would take their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - kept as long as the process
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
