"""End every command with an exit code, and with one line for anything that went wrong. No input causes a traceback."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import typer

from ops import app as apps
from ops import errors, show
from ops.cli_common import (
    BROKEN_PIPE,
    FAILED_HERE,
    INTERRUPTED,
    NO_SPACE,
    NOT_NOW,
    OK,
    WRONG_USAGE,
    Ended,
    database_fault,
)
from shared.errors import BadSetting, ConfigurationError, RuumError

# typer hides its own copy of click. The base class of its usage errors can be reached through a public subclass.
UsageError: type[Any] = typer.BadParameter.__bases__[0]
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. An exception from it is printed as one line."""
    show.prepare_streams()
    as_json = "--json" in arguments
    try:
        with _log_on_stderr():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio replaces only Python's own handler
            answer = apps.command()(args=list(arguments), prog_name="ruum-batch", standalone_mode=False)
            code = answer if isinstance(answer, int) else OK
            sys.stdout.flush()
    except BaseException as error:
        code = _said(error, as_json=as_json)
    if code == INTERRUPTED and not show.said_goodbye:
        show.say("interrupted")
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    return BROKEN_PIPE if code == OK and show.stdout_gone() else code


def _said(error: BaseException, *, as_json: bool) -> int:
    """Print what went wrong. Returns the exit code."""
    if isinstance(error, SystemExit):  # only typer raises it, when the reader of a --help goes away
        show.discard_output()
        return BROKEN_PIPE if error.code == 1 else error.code if isinstance(error.code, int) else OK
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, UsageError):
        show.err.print(error.format_message())
        return WRONG_USAGE
    if isinstance(error, BrokenPipeError | errors.ReaderGone):
        show.discard_output()
        return BROKEN_PIPE
    code, message = explained(error)
    if os.environ.get("LOG_LEVEL", "").upper() == "DEBUG":
        traceback.print_exception(error)
    if as_json and not show.printed_json:
        with suppress(OSError, ValueError):
            sys.stdout.write(json.dumps({"error": {"exitCode": code, "message": message}}) + "\n")
            sys.stdout.flush()
    show.say(message)
    return code


def explained(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the sentence for an exception that ended a command."""
    if isinstance(error, Ended):
        return error.code, error.message
    if isinstance(error, UsageError):
        return WRONG_USAGE, _usage(error)
    if isinstance(error, BadSetting):
        return WRONG_USAGE, str(error)
    if isinstance(error, sqlite3.Error):
        return FAILED_HERE, database_fault(error)
    if isinstance(error, UnicodeError):
        return WRONG_USAGE, f"text that cannot be read ({_shortened(error)}): use UTF-8"
    if isinstance(error, ValueError) and "null byte" in str(error):
        return WRONG_USAGE, "a path or name contains a null byte"
    if isinstance(error, OSError):
        return _os_error(error)
    if isinstance(error, MemoryError):
        return FAILED_HERE, "not enough memory"
    if isinstance(error, ConfigurationError):
        return FAILED_HERE, str(error)
    if isinstance(error, RuumError):
        return (NOT_NOW if type(error).__name__ == "Busy" else FAILED_HERE), str(error)
    if type(error).__module__.startswith(("google.", "grpc", "requests.", "urllib3.")):
        return FAILED_HERE, f"Google Cloud refused the request: {_shortened(' '.join(str(error).split()), 400)}"
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {os.path.basename(where[0].filename)}:{where[0].lineno}" if where else ""
    what = _shortened(" ".join(str(error).split()))
    return FAILED_HERE, (
        f"internal error: {type(error).__name__}: {what}{place}. LOG_LEVEL=DEBUG shows the traceback; please report it"
    )


LIBRARY_WORDS: Final = {  # pydantic's messages, which speak of the input and not of the option
    "Input should be a valid integer, unable to parse string as an integer": "not a whole number",
    "Input should be a valid number, unable to parse string as a number": "not a number",
    "Input should be greater than or equal to ": "the minimum is ",
    "Input should be less than or equal to ": "the maximum is ",
}


def _usage(error: Any) -> str:
    """Return one line: what is wrong, and which command's help to read."""
    message = " ".join(str(error.format_message()).split())
    for theirs, ours in LIBRARY_WORDS.items():
        message = message.replace(theirs, ours)
    command = error.ctx.command_path if error.ctx else "ruum-batch"
    return f"{message}{'' if message.endswith(('.', '?', '!')) else '.'} See: {command} --help"


def _os_error(error: OSError) -> tuple[int, str]:
    text = error.strerror or str(error) or type(error).__name__
    where = f"{_shortened(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
    if error.errno in NO_SPACE:
        return FAILED_HERE, f"{where}no space left on the disk. Free some, then run the same command again"
    return (WRONG_USAGE if error.filename is not None else FAILED_HERE), f"{where}{text}"


def _shortened(text: object, max_characters: int = 200) -> str:
    whole = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else str(text)
    return whole if len(whole) <= max_characters else whole[: max_characters - 1] + "…"


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Write log records to stderr, one a line, while a command runs. Raises `Ended` for a level that does not exist.

    Handlers and level belong to the process, so a caller in the same process, such as a test, gets its own back.
    """
    level = os.environ.get("LOG_LEVEL", "ERROR").upper() or "ERROR"
    if level not in LEVELS:
        raise Ended(f"LOG_LEVEL={_shortened(level, 40)} is not a level (allowed: {', '.join(LEVELS)})", WRONG_USAGE)
    root = logging.getLogger()
    level_before, handlers_before = root.level, root.handlers[:]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(message)s", traces=level == "DEBUG"))
    root.setLevel(level)
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.setLevel(level_before)
        root.handlers[:] = handlers_before


class _OneLine(logging.Formatter):
    """A log record as one line. Tracebacks are shown at LOG_LEVEL=DEBUG only."""

    def __init__(self, pattern: str, *, traces: bool) -> None:
        super().__init__(pattern)
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        if self._traces or not record.exc_info:
            return super().format(record)
        error = record.exc_info[1]
        what = f" ({type(error).__name__}: {_shortened(' '.join(str(error).split()))})" if error else ""
        return f"{record.levelname} {record.getMessage()}{what}"
