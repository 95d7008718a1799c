"""`erase`: delete all data of a client for good (LGPD, GDPR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ops import show
from ops.cli_common import (
    NOT_NOW,
    OK,
    WRONG_USAGE,
    DataOption,
    JsonFlag,
    ProjectOption,
    YesFlag,
    fail,
    with_target,
)

if TYPE_CHECKING:
    from ops.erasing import Plan
    from ops.target import Target


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch erase --client acme")(erase)


def erase(
    client: Annotated[str, typer.Option(metavar="NAME", help="The client whose data is erased.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be erased, and erase nothing.")] = False,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Erase all data of a client. This cannot be undone.

    Erases batches, images, cache, manifests, photos, pictures and reports. The client's batches must be finished or
    cancelled. Log lines, backups and events already sent are not touched.
    """

    async def work(target: Target) -> int:
        from ops import batch_lookup, erasing, idle, spending
        from shared.untrusted.text import client_slug

        slug = client_slug(client) if client.isprintable() else ""
        try:
            known = await erasing.batches_of(target, slug)
            plan = await erasing.plan(target, slug, known) if slug else None
            if plan is None or plan.is_empty:
                await batch_lookup.batches_of(target, client)  # raises, and lists the clients that exist
                fail(f"there is no data of {client} in {target.where}", WRONG_USAGE)
            if not dry_run:
                spending.sure(f"Erase {plan} of {slug} in {target.where} for good?", yes=yes)
                show.keep_going()
                async with idle.held(target) as alone:
                    if target.data is not None and not alone:
                        fail(f"a run is using {target.data}: wait until it ends", NOT_NOW)
                    await _erase(target, slug, plan)
        except erasing.NotFinished as error:
            fail(str(error), NOT_NOW)
        if as_json:
            show.as_json({
                "client": slug, "erased": not dry_run, "batches": plan.batches, "images": plan.images,
                "cacheEntries": len(plan.cache), "files": len(plan.objects),
            })  # fmt: skip
        else:
            show.out.print(f"{slug}: {plan} {'would be ' if dry_run else ''}erased")
            if not target.settings.buckets.source and target.data is None:
                show.err.print("the photo bucket was not searched: RUUM_BUCKETS_SOURCE does not name it")
        return OK

    with_target(work, data, project)


async def _erase(target: Target, client: str, agreed: Plan) -> None:
    """Check again, as the question may have waited for hours; then erase what was agreed to."""
    from ops import erasing

    known = await erasing.batches_of(target, client)
    plan = await erasing.plan(target, client, known)
    if plan != agreed:
        fail(f"{client}'s data has changed ({plan}), so nothing was erased. Run the same command again", NOT_NOW)
    await erasing.shut(target, known)
    await erasing.erase(target, known, plan)
