"""`up`: run the whole pipeline on Google's emulators, in this folder."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ops import errors, show
from ops.cli_common import FAILED_HERE, INTERRUPTED, OK
from ops.commands.run import ModelName

EARLY_SECONDS: Final = 10.0  # a worker that ends earlier never got to work: starting alone takes 2 s
MAX_EARLY_ENDS: Final = 3

if TYPE_CHECKING:
    from ops.local_stack.stack import Stack


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch up --subscribers 2")(up)


def up(
    subscribers: Annotated[
        int, typer.Option(min=1, max=20, metavar="N", help="Number of workers that stage images.")
    ] = 1,
    model: Annotated[
        ModelName, typer.Option(help="The staging model; gemini is a free local server that speaks its protocol.")
    ] = ModelName.PREVIEW,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every line of every part.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Show the parts' JSON log lines unchanged.")] = False,
) -> None:
    """Run the whole pipeline on Google's emulators here, until Ctrl-C.

    Every start begins empty. Workers that end or are killed are restarted.
    """
    from ops import manifest_file

    manifest_file.settings_here()  # a wrong setting would end every part of the stack, one after another
    raise typer.Exit(asyncio.run(_up(subscribers, model.value, verbose=verbose, as_json=as_json)))


async def _up(subscribers: int, model: str, *, verbose: bool, as_json: bool) -> int:
    from ops.errors import Missing
    from ops.local_stack import (
        stack,
        stack_file,
        stack_lines,  # Google's libraries take half a second to import
    )

    lines = stack_lines.Lines(verbose=verbose, as_json=as_json)
    settings = {name: value for name, value in os.environ.items() if name.startswith("RUUM_")}
    options = stack.Options(subscribers=subscribers, model=model, environment=settings)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Ctrl-C, a service manager, a closed terminal
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    show.keep_going()
    here = stack.Stack(stack_file.STATE.resolve(), options, lines.show)
    try:
        async with stack_file.announced(Path(), here.environment):
            show.err.print("starting emulators, doors and subscribers …")
            starting = asyncio.create_task(here.start())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return INTERRUPTED
            await starting
            show.err.print(stack_lines.HINT)
            ended = await _until_stopped(here, stopping, subscribers)
            if ended is not None:
                lines.last_words(ended)
                show.say(f"{ended} has ended; stopping everything")
            await here.stop()
            return OK if ended is None else FAILED_HERE
    except (errors.AlreadyUp, Missing) as error:
        lines.last_words()
        show.say(str(error))
        return FAILED_HERE


async def _until_stopped(here: Stack, stopping: asyncio.Task[Any], subscribers: int) -> str | None:
    """Restart workers that end, until we are stopped (returns None) or another part ends (returns its name).

    A worker that repeatedly ends soon after its start cannot work; it counts as such a part.
    """
    loop = asyncio.get_running_loop()
    started_at = dict.fromkeys((f"subscriber-{number + 1}" for number in range(subscribers)), loop.time())
    early: Counter[str] = Counter()
    while True:
        ended = asyncio.create_task(here.ended())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            return None
        name = ended.result()
        early[name] = early[name] + 1 if loop.time() - started_at.get(name, 0.0) < EARLY_SECONDS else 0
        if not name.startswith("subscriber") or early[name] >= MAX_EARLY_ENDS:
            return name
        show.err.print(f"{name} has ended; restarting it. The next worker takes over its images")
        await asyncio.sleep(1.0)  # a worker that cannot start must not be restarted in a tight loop
        await here.start_subscriber(name)
        started_at[name] = loop.time()
