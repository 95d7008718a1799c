"""`erase`: everything of a client, for good (LGPD, GDPR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ops import show, words
from ops.cli_common import NOT_NOW, OK, DataOption, JsonFlag, ProjectOption, YesFlag, fail, with_target

if TYPE_CHECKING:
    from ops.target import Target


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch erase --client acme")(erase)


def erase(
    client: Annotated[str, typer.Option(metavar="NAME", help="The client whose data goes.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go, and erase nothing.")] = False,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Erase everything of a client: batches, images, cache, manifests, photos, pictures, reports. Cannot be undone.

    The client's batches must be finished or cancelled. Log lines, backups and events already sent are not touched.
    """

    async def work(target: Target) -> int:
        from ops import batch_lookup, erasing, idle, spending

        known = await batch_lookup.batches_of(target, client)
        still = [batch.id for batch in known if batch.is_open]
        if still:
            fail(f"{words.some(still)} {'is' if len(still) == 1 else 'are'} not finished: cancel first", NOT_NOW)
        plan = await erasing.plan(target, known)
        if not dry_run:
            spending.sure(f"Erase {plan} of {known[0].client} in {target.where} for good?", yes=yes)
            show.keep_going()
            async with idle.held(target) as alone:
                if target.data is not None and not alone:
                    fail(f"a run works in {target.data}: wait for its end", NOT_NOW)
                await erasing.erase(target, known, plan)
        if as_json:
            show.as_json({
                "client": known[0].client, "erased": not dry_run, "batches": plan.batches, "images": plan.images,
                "cacheEntries": len(plan.cache), "files": len(plan.objects),
            })  # fmt: skip
        else:
            show.out.print(f"{known[0].client}: {plan} {'would be ' if dry_run else ''}erased")
        return OK

    with_target(work, data, project)
