"""The command line.

Exit codes: 0 all completed, 3 some failed or the batch was paused for it, 2 manifest rejected, 1 our fault, 64 wrong
usage, 130 Ctrl-C.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import unquote

import msgspec
import typer

from ops import local, manifest_file, money, operate, remote, show, stack_file
from ops.cli_common import (
    INTERRUPTED,
    OK,
    OUR_FAULT,
    REJECTED,
    SOME_FAILED,
    WRONG_USAGE,
    BatchArgument,
    DataOption,
    JsonFlag,
    ManifestPath,
    ProjectOption,
    fail,
    with_target,
)
from ops.target import Target
from shared import names, report, wiring
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.model import BatchState, Control, Counts
from shared.settings import Settings

# After Ctrl-C images in hand may finish for this long: a preview needs 2 s, a call to Gemini up to 30 s is kept anyway.
GRACE_SECONDS: Final = 8.0
PREVIEW_IN_FLIGHT: Final = 4  # two for each picture subprocess: more would only wait

# typer keeps its click to itself: the class behind every wrong option or argument is reached through a public child.
UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Virtually stage batches of photos of empty rooms.",
    epilog="Example: ruum-batch run samples/batch.json --out staged",
)


class ModelName(StrEnum):
    """Which staging model to use."""

    PREVIEW = "preview"
    GEMINI = "gemini"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ruum-batch {version('ruum-batch')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command(epilog="Example: ruum-batch run samples/batch.json --out staged --model preview")
def run(
    manifest: ManifestPath,
    out: Annotated[Path, typer.Option(help="Folder for results/ and events.jsonl.")] = Path("staged"),
    data: Annotated[Path | None, typer.Option(help="Folder for the state of batches.  [default: OUT/.ruum]")] = None,
    model: Annotated[
        ModelName | None,
        typer.Option(help="The staging model.  [default: gemini if GEMINI_API_KEY is set, else preview]"),
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(min=1, max=500, help="Images worked on at once.  [default: 4 for preview, 50 for gemini]"),
    ] = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="A further folder that photos may come from (repeatable).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Stage a manifest on this machine. Run the same command again after an interruption: it goes on where it was."""
    settings = manifest_file.settings_here()
    content = manifest_file.content(manifest, settings, out)
    try:
        name, maker = local.model_maker(model.value if model else None, os.environ)
    except local.OurFault as error:
        fail(str(error))
    in_flight = max_in_flight or (PREVIEW_IN_FLIGHT if name == "preview" else settings.worker.in_flight)
    settings = msgspec.structs.replace(
        settings,
        worker=msgspec.structs.replace(settings.worker, in_flight=in_flight),
        staging=msgspec.structs.replace(settings.staging, model=name),
    )
    folder = data or out / ".ruum"
    try:
        code = asyncio.run(_run(settings, manifest, content, out, folder, photos or [], maker, name, as_json))
    except (local.FolderInUse, local.OurFault, ConfigurationError) as error:
        fail(str(error))
    except OSError as error:  # a full disk, a folder that is a file or may not be written
        fail(f"{error.filename or out}: {error.strerror or error}")
    raise typer.Exit(code)


async def _run(
    settings: Settings,
    manifest: Path,
    content: bytes,
    out: Path,
    data: Path,
    photos: list[Path],
    maker: wiring.ModelMaker,
    model_name: str,
    as_json: bool,
) -> int:
    stop = asyncio.Event()
    signals: list[int] = []

    def stopping(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:  # asked twice: do not even let what is in hand finish
            os._exit(128 + number)
        stop.set()
        show.err.print("stopping: what is in hand may finish (once more to stop at once)")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping, int(number))
    async with local.locked(data):
        here = await local.LocalRun.open(settings, data, out, manifest, photos)
        batch = await here.ingest(manifest, content)
        if batch.state is BatchState.REJECTED:
            await here.deliver_events()
            manifest_file.show_rejection(manifest, out)
            return REJECTED
        if not as_json:
            show.err.print(f"{batch.id}: {batch.total} images, model {model_name}")
        with show.BatchProgress() as progress:
            batch = await here.work(maker, stop, GRACE_SECONDS, progress.show)
        counts, cost = await _read_batch(data, out, batch.id)
    done = local.summary(batch, counts, cost, str(out / names.results_folder(batch)))
    if as_json:
        show.as_json(done)
    if batch.state is BatchState.CLOSED:
        if not as_json:
            show.summary(done)
            show.out.print(f"report: {out / names.round_folder(batch) / 'report.html'}")
        return OK if counts.completed == batch.total else SOME_FAILED
    if batch.control is Control.PAUSED and not signals:
        where = f"--data {data}"
        show.err.print(
            f"{batch.id} is paused with {counts.settled} of {batch.total} settled: {batch.paused_reason}\n"
            f"  see why:  ruum-batch dead-letters list --batch {batch.id} {where}\n"
            f"  go on:    ruum-batch resume {batch.id} {where}, and then the same command\n"
            f"  or stop:  ruum-batch cancel {batch.id} {where}"
        )
        return SOME_FAILED
    show.err.print(f"stopped with {counts.settled} of {batch.total} settled; the same command goes on from here")
    return 128 + signals[0] if signals else OUR_FAULT


async def _read_batch(data: Path, out: Path, batch_id: str) -> tuple[Counts, float]:
    """Counts and cost in USD, with a fresh look into the database."""
    embedded = local.open_backend(SystemClock(), data, out)
    try:
        micro = 0
        async for image in embedded.store.images(batch_id):
            micro += image.cost_micro_usd
        return await embedded.store.counts(batch_id), report.usd(micro)
    finally:
        embedded.database.close()


@app.command(epilog="Example: ruum-batch validate samples/faulty.json")
def validate(
    manifest: ManifestPath,
    photos: Annotated[
        list[Path] | None, typer.Option(help="A further folder that photos may come from (repeatable).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read a manifest and list every problem it has. Nothing is fetched, staged or stored."""
    settings = manifest_file.settings_here()
    content = manifest_file.content(manifest, settings)
    found, problems = manifest_file.checked(
        content, manifest.name, settings, manifest_file.rules(manifest, settings, photos or [])
    )
    if as_json:
        show.as_json({
            "valid": found is not None,
            "batchId": found.batch if found else None,
            "images": len(found.images) if found else None,
            "problems": [msgspec.to_builtins(problem) for problem in problems],
        })  # fmt: skip
    elif found:
        show.out.print(f"{manifest}: valid, {len(found.images)} images, tier {found.tier.value}, batch {found.batch}")
    else:
        show.problems(str(manifest), problems, None)
    raise typer.Exit(OK if found else REJECTED)


@app.command(epilog="Example: ruum-batch up --subscribers 2")
def up(
    subscribers: Annotated[int, typer.Option(min=1, max=20, help="Workers that stage images.")] = 1,
    model: Annotated[
        ModelName, typer.Option(help="The staging model; gemini is a local server that speaks its protocol, and free.")
    ] = ModelName.PREVIEW,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the emulators' own lines too.")] = False,
) -> None:
    """Run the whole pipeline on Google's emulators in this folder, until Ctrl-C. Every start begins empty."""
    raise typer.Exit(asyncio.run(_up(subscribers, model.value, verbose)))


async def _up(subscribers: int, model: str, verbose: bool) -> int:
    from ops import stack  # Google's libraries take half a second to import
    from ops.emulators import Missing

    def line(name: str, text: str) -> None:
        if verbose or name.startswith("subscriber") or name in stack.DOORS:
            show.out.print(f"{name:<13} {text}")

    settings = {name: value for name, value in os.environ.items() if name.startswith("RUUM_")}
    options = stack.Options(subscribers=subscribers, model=model, environment=settings)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Ctrl-C, a service manager, a closed terminal
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    here = stack.Stack(stack_file.STATE.resolve(), options, line)
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
            show.err.print(
                "up. In another terminal: ruum-batch submit samples/batch.json --watch    (Ctrl-C stops all)"
            )
            ended = asyncio.create_task(here.ended())
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            code = OK if stop.is_set() else OUR_FAULT
            if ended.done() and not stop.is_set():
                show.err.print(f"ruum-batch: {ended.result()} has ended; stopping all")
            ended.cancel()
            await here.stop()
            return code
    except (stack_file.AlreadyUp, Missing) as error:
        show.err.print(f"ruum-batch: {error}")
        return OUR_FAULT


@app.command(epilog="Example: ruum-batch submit samples/batch.json --watch")
def submit(
    manifest: ManifestPath,
    project: ProjectOption = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Stay, and show progress until the batch is done.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Upload a manifest and the local photos it names to the intake bucket."""
    settings = manifest_file.settings_here()
    content = manifest_file.content(manifest, settings)
    found, problems = manifest_file.checked(content, manifest.name, settings, manifest_file.rules(manifest, settings))
    if found is None:
        show.problems(str(manifest), problems, None)
        raise typer.Exit(REJECTED)

    def uploaded(done: int, total: int) -> None:
        if done == total or done % 100 == 0:
            show.err.print(f"{done} of {total} photos uploaded")

    async def work(target: Target) -> int:
        batch_id = await remote.submit(target, manifest, content, found, uploaded)
        if watch_it:
            return await _watch(target, batch_id, as_json)
        if as_json:
            show.as_json({"batchId": batch_id, "total": len(found.images)})
        else:
            show.out.print(f"submitted as {batch_id}; follow it with: ruum-batch watch {batch_id}")
        return OK

    with_target(work, None, project, need_google=True)


@app.command(epilog="Example: ruum-batch status acme.demo --data staged/.ruum")
def status(
    batch: BatchArgument, data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False
) -> None:
    """Show how far a batch is. Works while it is being worked on."""

    async def work(target: Target) -> int:
        found = await remote.status(target, batch)
        if as_json:
            show.as_json(found)
        else:
            show.status(found)
        return OK

    with_target(work, data, project)


@app.command(epilog="Example: ruum-batch watch acme.demo")
def watch(
    batch: BatchArgument, data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False
) -> None:
    """Follow a batch until it is done. Exit codes as for run."""
    with_target(lambda target: _watch(target, batch, as_json), data, project)


async def _watch(target: Target, batch_id: str, as_json: bool) -> int:
    with show.BatchProgress() as progress:
        batch, counts = await remote.watch(target, batch_id, progress.show)
    cost = batch.completion.cost_usd if batch.completion else 0.0
    uri = target.backend.objects.uri(target.settings.buckets.results, names.results_folder(batch).rstrip("/"))
    folder = unquote(uri.removeprefix("file://"))
    done = local.summary(batch, counts, cost, folder)
    if as_json:
        show.as_json(done)
    elif batch.state is BatchState.REJECTED:
        show.err.print(f"{batch.id}: rejected, {batch.problems} problems")
    else:
        show.summary(done)
    if batch.state is BatchState.REJECTED:
        return REJECTED
    return OK if counts.completed == batch.total else SOME_FAILED


@app.command(epilog="Example: ruum-batch results acme.demo --out staged")
def results(
    batch: BatchArgument,
    out: Annotated[Path, typer.Option(help="Folder to copy results/ into.")] = Path("staged"),
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy a batch's pictures and reports to this machine."""

    async def work(target: Target) -> int:
        fetched = 0

        def count(done: int) -> None:
            nonlocal fetched
            fetched = done

        folder = await remote.fetch_results(target, batch, out, count)
        if as_json:
            show.as_json({"batchId": batch, "files": fetched, "resultsDir": str(folder)})
        else:
            show.out.print(f"{fetched} files in {folder}")
        return OK

    with_target(work, data, project)


@app.command(epilog="Example: ruum-batch batches --data staged/.ruum")
def batches(data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False) -> None:
    """List all batches, newest first."""

    async def work(target: Target) -> int:
        found = await remote.batches(target)
        if as_json:
            show.as_json({"batches": found})
        else:
            show.batches(found)
        return OK

    with_target(work, data, project)


operate.register(app)
money.register(app)


def main() -> None:
    """Entry point of `ruum-batch`."""
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "ERROR"), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        error.show()
        code = WRONG_USAGE
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else OK)
