"""`run`: stage a manifest on this machine."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from ops.cli_common import WRONG_USAGE, JsonFlag, ManifestPath, PhotosOption, YesFlag, fail

PREVIEW_IN_FLIGHT: Final = 4  # two for each picture subprocess: more would only wait


class ModelName(StrEnum):
    """The staging models of `shared.vendors.SPECS`, repeated here because importing them would slow every start."""

    PREVIEW = "preview"
    GEMINI = "gemini"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch run samples/batch.json --out staged --model preview")(run)


def run(
    manifest: ManifestPath,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for results/ and events.jsonl.")] = Path("staged"),
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the batches' state.  [default: OUT/.ruum]")
    ] = None,
    model: Annotated[
        ModelName | None,
        typer.Option(help="The staging model.  [default: gemini if GEMINI_API_KEY is set, else preview]"),
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            min=1, max=500, metavar="N", help="Images in progress at once.  [default: 4 for preview, 50 for gemini]"
        ),
    ] = None,
    photos: PhotosOption = None,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Stage a manifest on this machine. After an interruption, run the same command to continue.

    With Gemini, it prints the estimated cost and asks before it spends more than $0.25.
    """
    import msgspec

    from ops import errors, local, manifest_file, staging_run

    settings = local.on_one_machine(manifest_file.settings_here())
    content = manifest_file.content(manifest, settings, out, as_json=as_json)
    manifest_file.check_folders(photos or [])
    try:
        name, maker = local.model_maker(model.value if model else None, os.environ)
    except errors.NoKey as error:
        fail(str(error), WRONG_USAGE)
    in_flight = max_in_flight or (PREVIEW_IN_FLIGHT if name == ModelName.PREVIEW else settings.worker.in_flight)
    settings = msgspec.structs.replace(
        settings,
        worker=msgspec.structs.replace(settings.worker, in_flight=in_flight),
        staging=msgspec.structs.replace(settings.staging, model=name),
    )
    order = staging_run.Order(
        settings=settings,
        manifest=manifest,
        content=content,
        out=out,
        data=data or out / ".ruum",
        photos=tuple(photos or ()),
        model=name,
        maker=maker,
        yes=yes,
        as_json=as_json,
    )
    raise typer.Exit(staging_run.start(order))
