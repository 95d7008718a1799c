"""`validate` and `estimate`: check a manifest, and estimate its cost. Neither stores or stages anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ops import show, words
from ops.cli_common import (
    OK,
    SOME_FAILED,
    DataOption,
    JsonFlag,
    ManifestPath,
    PhotosOption,
    ProjectOption,
    readable,
    with_target,
)

if TYPE_CHECKING:
    from ops.photos import Missing
    from ops.target import Target
    from shared.decisions.forecast import Estimate


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: ruum-batch validate samples/faulty.json")(validate)
    app.command(epilog="Example: ruum-batch estimate samples/batch.json --project my-project")(estimate)


def validate(manifest: ManifestPath, photos: PhotosOption = None, as_json: JsonFlag = False) -> None:
    """Check a manifest and list all its problems.

    Checks that photos on this machine exist, and fetches no addresses. Exit code 3: valid, but photos are missing.
    """
    from ops import manifest_file
    from ops import photos as local_photos

    found = manifest_file.read_or_reject(manifest, photos or (), as_json=as_json)
    absent = local_photos.missing_for(found, manifest)
    if as_json:
        show.as_json({
            "valid": True, "batchId": found.batch, "images": len(found.images), "problems": [],
            "missingPhotos": _shown(absent, manifest),
        })  # fmt: skip
    else:
        distinct = len({(image.source, image.room_type, image.design_style) for image in found.images})
        repeated = f", {len(found.images) - distinct} repeated" if distinct < len(found.images) else ""
        images = words.count(len(found.images), "image")
        show.out.print(f"{readable(manifest)}: valid, {images}{repeated}, tier {found.tier.value}, batch {found.batch}")
    if absent:
        show.err.print(local_photos.sentence(absent, manifest.parent.resolve()))
    raise typer.Exit(SOME_FAILED if absent else OK)


def _shown(absent: Missing | None, manifest: Path) -> list[str]:
    from ops import photos as local_photos

    base = manifest.parent.resolve()
    return [local_photos.shown(path, base) for path in absent.paths] if absent else []


def estimate(
    manifest: ManifestPath,
    data: DataOption = None,
    project: ProjectOption = None,
    photos: PhotosOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate a manifest's cost and duration in each tier.

    Without a stack, project or data folder, the estimate is for an idle system, by the settings alone.
    """
    import msgspec

    from ops import manifest_file
    from ops import photos as local_photos
    from shared.queries.estimate import of_manifest

    found = manifest_file.read_or_reject(manifest, photos or (), as_json=as_json)
    absent = local_photos.missing_for(found, manifest)

    async def work(target: Target) -> int:
        estimated = await of_manifest(target.pipeline, found)
        if as_json:
            show.as_json(msgspec.to_builtins(estimated) | {"missingPhotos": _shown(absent, manifest)})
        else:
            _show(estimated)
        if absent:
            show.err.print(local_photos.sentence(absent, manifest.parent.resolve()))
        return OK

    with_target(work, data, project, or_nothing=True)


def _show(found: Estimate) -> None:
    """Print the estimate in a few lines, then a line per tier."""
    kept = f", {found.repeated} repeated and {found.already_staged} already staged" if found.cached_share else ""
    basis = "measured" if found.cost_measured else "typical"
    images = words.count(found.images, "image")
    show.out.print(f"{images}{kept}: {found.to_buy} to buy, {words.money(found.cost_usd)} ({basis})")
    waiting = words.count(sum(found.backlog.values()), "image")
    still = f", blocked for {words.duration(found.blocked_seconds)}" if found.blocked_seconds else ""
    if found.outage:
        still = ". The vendor does not answer now, so the end cannot be estimated"
    pace = f"{found.images_per_minute:g} images a minute, limited by {found.limited_by}"
    show.out.print(f"  {pace}; {waiting} ahead of it{still}")
    least = "at least " if found.outage else ""
    show.table(
        [
            [f"  {name}", words.money(tier.price_usd), f"done in {least}{words.duration(tier.seconds)}",
             "<- the manifest's" if name == found.tier else ""]
            for name, tier in found.tiers.items()
        ],
        right=frozenset({1}),
    )  # fmt: skip
