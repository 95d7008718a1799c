"""What the commands of the command line share: exit codes, options, and the way to their target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from ops import remote, show
from ops.target import NoTarget, Target, opened
from shared.errors import ConfigurationError, WorldError
from shared.replay import Busy
from shared.settings import BadSetting

OK: Final = 0
OUR_FAULT: Final = 1
REJECTED: Final = 2
SOME_FAILED: Final = 3
WRONG_USAGE: Final = 64
INTERRUPTED: Final = 130

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder with the state of batches on this machine.")]
ProjectOption = Annotated[
    str | None, typer.Option(help="A Google Cloud project.  [default: the stack that is up here]")
]
ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A .json, .jsonl or .csv manifest.")]
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="A batch id, such as acme.demo.")]


def fail(message: str, code: int = OUR_FAULT) -> NoReturn:
    show.err.print(f"ruum-batch: {message}")
    raise typer.Exit(code)


def with_target(
    work: Callable[[Target], Coroutine[Any, Any, int]],
    data: Path | None,
    project: str | None,
    *,
    need_google: bool = False,
    or_nothing: bool = False,
) -> NoReturn:
    """Run a command against its target; every expected failure as one line."""

    async def body() -> int:
        async with opened(data=data, project=project, need_google=need_google, or_nothing=or_nothing) as target:
            return await work(target)

    try:
        code = asyncio.run(body())
    except BadSetting as error:
        fail(str(error), WRONG_USAGE)
    except (NoTarget, remote.NoBatch) as error:
        fail(str(error), WRONG_USAGE)
    except (ConfigurationError, WorldError, Busy) as error:
        fail(str(error))
    raise typer.Exit(code)
