"""The command line.

Exit codes: 0 all completed, 3 some failed, 2 manifest rejected, 1 our fault, 64 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import msgspec
import typer

from ops import local, show
from shared import closing, names, report
from shared import manifest as manifests
from shared.clock import SystemClock
from shared.manifest import Problem
from shared.model import BatchState, Counts
from shared.settings import BadSetting, Settings, from_environment
from shared.sources import SourceRules

OK: Final = 0
OUR_FAULT: Final = 1
REJECTED: Final = 2
SOME_FAILED: Final = 3
WRONG_USAGE: Final = 64
INTERRUPTED: Final = 130

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


ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A .json, .jsonl or .csv manifest.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


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
    settings = _settings()
    content = _read(manifest, settings, out)
    try:
        name, maker = local.model_maker(model.value if model else None, os.environ)
    except local.OurFault as error:
        _fail(str(error))
    in_flight = max_in_flight or (PREVIEW_IN_FLIGHT if name == "preview" else settings.worker.in_flight)
    settings = msgspec.structs.replace(settings, worker=msgspec.structs.replace(settings.worker, in_flight=in_flight))
    folder = data or out / ".ruum"
    try:
        code = asyncio.run(_run(settings, manifest, content, out, folder, photos or [], maker, name, as_json))
    except (local.FolderInUse, local.OurFault) as error:
        _fail(str(error))
    raise typer.Exit(code)


async def _run(
    settings: Settings,
    manifest: Path,
    content: bytes,
    out: Path,
    data: Path,
    photos: list[Path],
    maker: local.ModelMaker,
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

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping, int(number))
    async with local.locked(data):
        here = await local.LocalRun.open(settings, data, out, manifest, photos)
        batch = await here.ingest(manifest, content)
        if batch.state is BatchState.REJECTED:
            await here.deliver_events()
            _show_rejection(manifest, out)
            return REJECTED
        if not as_json:
            show.err.print(f"{batch.id}: {batch.total} images, model {model_name}")
        with show.BatchProgress() as progress:
            batch = await here.work(maker, stop, GRACE_SECONDS, progress.show)
        counts, cost = await _read_batch(data, out, batch.id)
    done = local.summary(batch, counts, cost, out / names.results_folder(batch))
    if as_json:
        show.as_json(done)
    if batch.state is BatchState.CLOSED:
        if not as_json:
            _show_summary(done, out / names.round_folder(batch) / "report.html")
        return OK if counts.completed == batch.total else SOME_FAILED
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


def _show_summary(done: dict[str, Any], page: Path) -> None:
    cost = f", ${done['costUsd']:.2f}" if done["costUsd"] else ""
    show.out.print(
        f"{done['batchId']}: {done['state'].replace('_', ' ')}: {done['completed']} of {done['total']} completed, "
        f"{done['failed']} failed{cost}"
    )
    show.out.print(f"report: {page}")


@app.command(epilog="Example: ruum-batch validate samples/faulty.json")
def validate(
    manifest: ManifestPath,
    photos: Annotated[
        list[Path] | None, typer.Option(help="A further folder that photos may come from (repeatable).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read a manifest and list every problem it has. Nothing is fetched, staged or stored."""
    settings = _settings()
    content = _read(manifest, settings, None)
    folders = [manifest.parent.resolve(), *(folder.resolve() for folder in photos or [])]
    rules = SourceRules(
        base=manifest.parent.resolve().as_uri().rstrip("/") + "/",
        allow_http=settings.download.allow_http,
        folders=tuple(str(folder) for folder in folders),
    )
    found, problems = local.checked(content, manifest.name, settings, rules)
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


@app.command(epilog="Example: ruum-batch status acme.demo --data staged/.ruum")
def status(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="A batch id, such as acme.demo.")],
    data: Annotated[Path, typer.Option(help="Folder with the state of batches.")] = Path("staged/.ruum"),
    as_json: JsonFlag = False,
) -> None:
    """Show how far a batch is. Works while `run` is working on it."""
    if not (data / "batch.sqlite").is_file():
        _fail(f"there are no batches in {data}", WRONG_USAGE)
    found = asyncio.run(_status(data, batch))
    if isinstance(found, list):
        known = ", ".join(found) or "none"
        _fail(f"there is no batch {batch} in {data} (there are: {known})", WRONG_USAGE)
    if as_json:
        show.as_json(found)
        return
    show.out.print(f"{found['batchId']}: {found['state'].replace('_', ' ')}, round {found['round']}")
    show.out.print(f"  {found['completed'] + found['failed'] + found['cancelled']} of {found['total']} settled "
                   f"({found['progress']:.0%})")  # fmt: skip
    for state in ("queued", "processing", "completed", "failed", "cancelled"):
        show.out.print(f"  {state:<10} {found[state]}")


async def _status(data: Path, batch_id: str) -> dict[str, Any] | list[str]:
    """The batch's status, or the ids there are."""
    clock = SystemClock()
    embedded = local.open_backend(clock, data, data)
    try:
        batch = await embedded.store.batch(batch_id)
        if batch is None:
            return [known.id for known in (await embedded.store.batches())[:20]]
        return closing.status_of(batch, await embedded.store.counts(batch_id), clock.now())
    finally:
        embedded.database.close()


# --- shared by the commands


def _settings() -> Settings:
    try:
        return from_environment(os.environ)
    except BadSetting as error:
        _fail(str(error), WRONG_USAGE)


def _fail(message: str, code: int = OUR_FAULT) -> NoReturn:
    show.err.print(f"ruum-batch: {message}")
    raise typer.Exit(code)


def _read(manifest: Path, settings: Settings, out: Path | None) -> bytes:
    """The manifest's bytes, one more than allowed at most. What is no file at all is rejected or refused here."""
    problem = None
    if manifest.is_dir():
        problem = Problem("is a folder", allowed="a file ending in .json, .jsonl or .csv")
    elif not manifest.name.lower().endswith(manifests.SUFFIXES) and manifest.exists():
        problem = Problem("is not a manifest by its name", allowed="a name ending in .json, .jsonl or .csv")
    if problem is not None:
        _reject_here(manifest, out, [problem])
    try:
        with manifest.open("rb") as file:
            return file.read(settings.manifest.most_bytes + 1)
    except OSError as error:
        _fail(f"{manifest} cannot be read: {error.strerror}", WRONG_USAGE)


def _errors_file(manifest: Path, out: Path) -> Path:
    return out / names.errors_name(f"manifests/{local.LOCAL_CLIENT_FOLDER}/{manifest.name}")


def _reject_here(manifest: Path, out: Path | None, problems: list[Problem]) -> None:
    """Reject a manifest that never reached the intake."""
    written = None
    if out is not None:
        written = _errors_file(manifest, out)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_bytes(report.rejection(manifest.name, [msgspec.to_builtins(p) for p in problems]))
    show.problems(str(manifest), problems, str(written) if written else None)
    raise typer.Exit(REJECTED)


def _show_rejection(manifest: Path, out: Path) -> None:
    """Repeat on stderr what ingest wrote."""
    written = _errors_file(manifest, out)
    found = msgspec.convert(json.loads(written.read_bytes())["problems"], list[Problem])
    show.problems(str(manifest), found, str(written))


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
