"""`costs`: what clients' batches have cost."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ops import show, words
from ops.cli_common import OK, WRONG_USAGE, ClientOption, DataOption, JsonFlag, ProjectOption, fail, with_target

if TYPE_CHECKING:
    from ops.target import Target
    from shared.queries.costs import BatchCosts, ClientCosts

_DAYS: Final = re.compile(r"(\d{1,5})\s*(d|days?|h|hours?)")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch costs --client acme --since 2026-11-01 --batches")(costs)


def costs(
    client: ClientOption = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only batches created since WHEN: 2026-11-01, 30d or 12h.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only batches created before WHEN: 2026-12-01, 30d or 12h.")
    ] = None,
    by_batch: Annotated[bool, typer.Option("--batches", help="List each batch as well.")] = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show each client's costs and prices.

    Cost is what the vendors charge for the recorded tokens, also for images that are not finished yet. If a vendor did
    not report a call's tokens, it counts as a typical call, and the sum of those is shown. Price is what the client
    pays: the cost times the tier's factor.
    """
    first, last = moment("--since", since), moment("--until", until)

    async def work(target: Target) -> int:
        import msgspec

        from ops import batch_lookup
        from shared.model import BatchState
        from shared.queries.costs import by_client, of_batch

        rows: list[BatchCosts] = []
        for batch in await batch_lookup.batches_of(target, client):
            started = first is None or batch.created_at >= first
            if batch.state is not BatchState.REJECTED and started and (last is None or batch.created_at < last):
                rows.append(await of_batch(target.pipeline, batch))
        clients = by_client(rows)
        if as_json:
            found = {"clients": clients, **({"batches": rows} if by_batch else {})}
            show.as_json(msgspec.to_builtins(found))
        else:
            _show(clients, rows if by_batch else [])
        return OK

    with_target(work, data, project)


def moment(option: str, written: str | None) -> float | None:
    """Return seconds since the epoch for `2026-11-01`, `2026-11-01T12:00`, `30d` or `12h` (ago)."""
    if written is None:
        return None
    text = written.strip().lower()
    ago = _DAYS.fullmatch(text)
    if ago:
        return time.time() - int(ago[1]) * (86_400 if ago[2].startswith("d") else 3600)
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError, OSError):
        fail(f"{option} {written[:60]} is not a date or an age (such as 2026-11-01, 30d or 12h)", WRONG_USAGE)


def _show(clients: list[ClientCosts], batches: list[BatchCosts]) -> None:
    if not clients:
        show.out.print("no batches")
        return
    table = [["CLIENT", "BATCHES", "IMAGES", "COST", "PRICE"]]
    table += [[row.client, str(row.batches), str(row.completed), words.money(row.cost_usd),
               words.money(row.price_usd)] for row in clients]  # fmt: skip
    show.table(table, right=frozenset({1, 2, 3, 4}))
    if batches:
        show.out.print()
        table = [["BATCH", "TIER", "CREATED", "IMAGES", "COST", "PRICE"]]
        table += [[row.batch_id, row.tier, row.created_at[:10], f"{row.completed} of {row.images}",
                   words.money(row.cost_usd), words.money(row.price_usd)] for row in batches]  # fmt: skip
        show.table(table, right=frozenset({3, 4, 5}))
    unfinished = sum(row.unfinished_usd for row in clients)
    if unfinished:
        show.out.print(f"{words.money(unfinished)} of the cost is for images that are not finished yet")
    estimated = sum(row.estimated_usd for row in clients)
    if estimated:
        show.out.print(
            f"{words.money(estimated)} of the cost is estimated: the vendor did not report these calls' tokens, "
            "so each counts as a typical call"
        )
