"""What the commands of the command line share: exit codes, options, and the way to their target."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from ops.errors import CommandError

if TYPE_CHECKING:
    from ops.target import Target

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)

OK: Final = 0
FAILED_HERE: Final = 1
REJECTED: Final = 2
SOME_FAILED: Final = 3
NOT_NOW: Final = 4
WRONG_USAGE: Final = 64
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
EXIT_CODES: Final = {
    OK: "done; every image completed",
    FAILED_HERE: "failed here: disk, database, network, credentials, or a bug",
    REJECTED: "the manifest was rejected",
    SOME_FAILED: "images failed or were cancelled, photos are missing, or the batch is paused or makes no progress",
    NOT_NOW: "the batch's current state does not allow it",
    WRONG_USAGE: "wrong usage: arguments, settings, a missing key, or a question that nobody answered",
    INTERRUPTED: "Ctrl-C",
    BROKEN_PIPE: "the reader of the output went away",
}

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="A data folder, such as staged/.ruum.  [default: the stack running here, else staged/.ruum]",
    ),
]
ProjectOption = Annotated[str | None, typer.Option(metavar="ID", help="A Google Cloud project.")]
ManifestPath = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="A .json, .jsonl, .csv, .xlsx or .ods manifest.")
]
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="A batch id, such as acme.demo.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to every question.")]
PhotosOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FOLDER", help="Another folder that photos may come from (repeatable)."),
]
ClientOption = Annotated[str | None, typer.Option(metavar="NAME", help="Only this client's batches.")]


def fail(message: str, code: int = FAILED_HERE) -> NoReturn:
    """End the command with one line on stderr."""
    raise Ended(message, code)


def with_target(
    work: Callable[[Target], Coroutine[Any, Any, int]],
    data: Path | None,
    project: str | None,
    *,
    need_google: bool = False,
    or_nothing: bool = False,
) -> NoReturn:
    """Run a command against its target. Every expected failure ends it with one line."""
    import asyncio

    from ops import errors, show, target

    if data is not None and project is not None:
        fail("--data and --project cannot be combined: a command works in one place", WRONG_USAGE)

    async def body() -> int:
        where = target.opened(data=data, project=project, need_google=need_google, or_nothing=or_nothing)
        async with where as found:
            if data is None and project is None and (found.data is not None or found.environ):
                show.err.print(f"in {found.where}")
            return await work(found)

    try:
        code = asyncio.run(body())
    except (errors.NoTarget, errors.NoBatch) as error:
        fail(str(error), WRONG_USAGE)
    except sqlite3.Error as error:
        fail(database_fault(error, data or target.DEFAULT_DATA))
    raise typer.Exit(code)


def database_fault(error: sqlite3.Error, folder: Path | None = None) -> str:
    """Return one sentence for an error from SQLite. `folder` is the data folder, if known."""
    name = getattr(error, "sqlite_errorname", "") or ""
    where = f" in {folder}" if folder else ""
    if name.startswith("SQLITE_FULL"):
        return f"no space left on the disk for the database{where}. Free some, then run the same command again"
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        return (
            f"the database{where} cannot be opened or written ({error}). Check the folder, its permissions and the disk"
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"the database{where} is locked by another program. Try again"
    return f"the database{where} is damaged or not one of ours ({error}). Restore it, or use another --data folder"


def readable(path: Path | str) -> str:
    """Return a path as text for people; bytes that are not text are escaped."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


class Ended(CommandError):
    """Ends a command that cannot do what it was asked: one sentence for people, and the exit code."""

    def __init__(self, message: str, code: int = FAILED_HERE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
