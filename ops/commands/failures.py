"""`dead-letters list`, `retry-failed`, `replay`: list failed images, and give them a new round."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops import show, words
from ops.cli_common import (
    INTERRUPTED,
    NOT_NOW,
    OK,
    BatchArgument,
    ClientOption,
    DataOption,
    JsonFlag,
    ProjectOption,
    YesFlag,
    with_target,
)

if TYPE_CHECKING:
    from ops.target import Target
    from shared.errors import Busy
    from shared.lifecycle.replay import Plan
    from shared.queries.failures import FailedImage


def _known_codes(codes: list[str] | None) -> list[str] | None:
    """Refuse a misspelt code: it would find nothing, and look like good news."""
    if not codes:
        return codes
    from shared.errors import ErrorCode

    unknown = [code for code in codes if code not in set(ErrorCode)]
    if unknown:
        raise typer.BadParameter(f"unknown code {', '.join(unknown)}. Valid codes: {', '.join(sorted(ErrorCode))}")
    return codes


CodeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--code", metavar="CODE", callback=_known_codes, help="Only images that failed with this code (repeatable)."
    ),
]
BatchOption = Annotated[str | None, typer.Option(metavar="BATCH", help="Only this batch.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
RateOption = Annotated[
    float | None, typer.Option("--rate", min=0.1, metavar="N", help="Queue at most N images a second.")
]
OlderOption = Annotated[float, typer.Option(min=0, metavar="N", help="Only images that failed over N minutes ago.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("retry-failed", epilog="Example: ruum-batch retry-failed acme.demo --code vendor_timeout")(retry_failed)
    app.command(epilog="Example: ruum-batch replay --client acme --dry-run")(replay)
    letters = typer.Typer(no_args_is_help=True, help="List what failed for good, and why.")
    letters.command(name="list", epilog="Example: ruum-batch dead-letters list --client acme --code vendor_timeout")(
        list_dead_letters
    )
    app.add_typer(letters, name="dead-letters")


def list_dead_letters(
    batch: BatchOption = None,
    client: ClientOption = None,
    code: CodeOption = None,
    older_than_minutes: OlderOption = 0.0,
    since_minutes: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="Only images that failed in the last N minutes.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="List at most this many; all are counted.")
    ] = None,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List failed images with their photos, and totals by code."""

    async def work(target: Target) -> int:
        import msgspec

        from ops import batch_lookup
        from shared.queries.failures import images

        rows: list[FailedImage] = []
        now = target.clock.now()
        since = now - since_minutes * 60 if since_minutes is not None else 0.0
        for known in await batch_lookup.batches_of(target, client, batch):
            if known.total:
                rows += await images(
                    target.backend.store, known, code or (), since=since, before=now - older_than_minutes * 60
                )
        if as_json:
            counted = Counter(row.code for row in rows)
            show.as_json(
                {"failed": msgspec.to_builtins(rows[:limit]), "total": len(rows), "byCode": dict(counted.most_common())}
            )
            return OK
        _show(rows, limit)
        return OK

    with_target(work, data, project)


def _show(rows: list[FailedImage], limit: int | None) -> None:
    if rows:
        table = [["BATCH", "INDEX", "CODE", "FAILED AT", "PHOTO", "MESSAGE"]]
        for row in rows[:limit]:
            property_code = f" ({row.property_code})" if row.property_code else ""
            table.append([row.batch, str(row.index), row.code, row.failed_at[:16] + "Z",
                          row.photo + property_code, row.message.strip().rstrip(":")])  # fmt: skip
        show.table(table, right=frozenset({1}))
    if limit is not None and len(rows) > limit:
        show.out.print(f"… and {len(rows) - limit} more")
    codes = ", ".join(f"{number} {code}" for code, number in Counter(row.code for row in rows).most_common())
    show.out.print(words.count(len(rows), "failed image") + (f": {codes}" if codes else ""))


def retry_failed(
    batch: BatchArgument,
    code: CodeOption = None,
    dry_run: DryRunFlag = False,
    rate: RateOption = None,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a batch's failed images a new round. Paid work is kept: only the failing step runs again.

    Asks before it replays more than 100 images or spends more than $0.25. It does not buy a picture twice.
    """
    _replay(_Wish(batch, None, tuple(code or ()), 0.0, dry_run, rate, yes, as_json), data, project)


def replay(
    batch: BatchOption = None,
    client: ClientOption = None,
    code: CodeOption = None,
    older_than_minutes: OlderOption = 0.0,
    dry_run: DryRunFlag = False,
    rate: RateOption = None,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give failed images of any batch a new round. Shows its plan first.

    Asks before it replays more than 100 images or spends more than $0.25. It does not buy a picture twice.

    Ctrl-C stops it safely: images already queued are staged, the others stay failed, and the same command continues
    with them. After a crash, reconcile or the same command continues after two minutes.
    """
    wish = _Wish(batch, client, tuple(code or ()), older_than_minutes * 60, dry_run, rate, yes, as_json)
    _replay(wish, data, project)


class _Wish:
    """What a replay was asked for."""

    def __init__(
        self,
        batch: str | None,
        client: str | None,
        codes: tuple[str, ...],
        older_than_seconds: float,
        dry_run: bool,
        rate: float | None,
        yes: bool,
        as_json: bool,
    ) -> None:
        self.batch = batch
        self.client = client
        self.codes = codes
        self.older_than_seconds = older_than_seconds
        self.dry_run = dry_run
        self.rate = rate
        self.yes = yes
        self.as_json = as_json


def _replay(wish: _Wish, data: Path | None, project: str | None) -> None:
    async def work(target: Target) -> int:
        from ops import spending
        from ops.commands.control import rooms_of

        rooms = rooms_of(target)
        plans = await _plans(target, rooms.replay, wish)
        cost = await spending.of_replay(target, plans, wish.codes) if plans else 0.0
        total = sum(plan.images for plan in plans)
        if not plans and wish.batch and not wish.as_json:
            show.out.print(await _nothing(target, wish))
        else:
            _show_plans(plans, total, cost, wish)
        if wish.dry_run or not plans:
            if wish.as_json:
                show.as_json(_as_json(plans, cost, {}))
            return OK
        if total > spending.ASK_ABOVE_IMAGES or cost > spending.ASK_ABOVE_USD:
            price = f" for {spending.about(cost)}" if cost else ""
            spending.sure(f"Replay {words.count(total, 'image')}{price}?", yes=wish.yes)
        return await _run(target, rooms.replay, plans, wish, cost)

    with_target(work, data, project)


async def _plans(target: Target, replay: Any, wish: _Wish) -> list[Plan]:
    from ops import batch_lookup
    from shared.model import Control

    plans: list[Plan] = []
    for known in await batch_lookup.batches_of(target, wish.client, wish.batch):
        if not known.total:
            continue
        plan = await replay.plan(known, wish.codes, wish.older_than_seconds)
        if plan.images and known.control is Control.CANCELLING and not plan.interrupted:
            alone = "the batch was cancelled"
            show.err.print(f"{known.id}: {words.count(plan.images, 'failed image')} left alone: {alone}")
        elif plan.images or plan.interrupted:
            plans.append(plan)
    return plans


async def _nothing(target: Target, wish: _Wish) -> str:
    """Say why no image of the one batch that was named can be replayed."""
    counts = await target.backend.store.counts(wish.batch or "")
    if not counts.failed:
        return f"nothing has failed in {wish.batch}"
    wanted = f" with {' or '.join(wish.codes)}" if wish.codes else ""
    return f"no image of {wish.batch} that failed{wanted} can be retried now"


def _show_plans(plans: list[Plan], total: int, cost: float, wish: _Wish) -> None:
    if wish.as_json:
        return
    for plan in plans:
        listed = ", ".join(f"{count} {code}" for code, count in sorted(plan.codes.items()))
        goes_on = "an interrupted replay continues: " if plan.interrupted else ""
        show.out.print(f"{plan.batch}: {goes_on}{listed or 'images that are already queued'}")
    price = f", about {words.money(cost)}" if cost else ""
    show.out.print(f"{words.count(total, 'image')} of {words.count(len(plans), 'batch')}{price}")


def _as_json(plans: list[Plan], cost: float, done: dict[str, int | str]) -> dict[str, Any]:
    return {
        "batches": [
            {"batchId": plan.batch, "codes": plan.codes, "images": plan.images, "interrupted": plan.interrupted,
             "queuedAgain": done.get(plan.batch) if isinstance(done.get(plan.batch), int) else None,
             "refused": done.get(plan.batch) if isinstance(done.get(plan.batch), str) else None}
            for plan in plans
        ],
        "images": sum(plan.images for plan in plans),
        "costUsd": round(cost, 6),
    }  # fmt: skip


async def _run(target: Target, replay: Any, plans: list[Plan], wish: _Wish, cost: float) -> int:
    from ops.commands.control import go_on
    from shared.errors import Busy

    code, stop, done = OK, _stop_on_signals(), dict[str, int | str]()
    show.keep_going()
    for plan in plans:
        if stop.is_set():
            break
        try:
            images = await replay.run(
                plan.batch, wish.codes, older_than_seconds=wish.older_than_seconds,
                images_per_second=wish.rate, stop=stop,
            )  # fmt: skip
        except Busy as error:  # a batch that cannot be replayed must not hold up the others
            done[plan.batch] = await _busy(target, plan.batch, error)
            show.say(str(done[plan.batch]))
            code = NOT_NOW
            continue
        done[plan.batch] = images
        if not wish.as_json:
            show.out.print(f"{plan.batch}: {words.count(images, 'image')} queued again")
            batch = await target.backend.store.batch(plan.batch)
            for line in go_on(target, batch) if batch is not None and not stop.is_set() else ():
                show.out.print(line)
    if stop.is_set():
        code = INTERRUPTED
        show.goodbye("stopped: images not queued again stay failed; run the same command to continue")
    else:
        await replay.drain_letters(stop)  # the next replay removes those that it leaves
    if wish.as_json:
        show.as_json(_as_json(plans, cost, done))
    return code


def _stop_on_signals() -> asyncio.Event:
    """Return an event that Ctrl-C, SIGTERM or SIGHUP sets."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _busy(target: Target, batch_id: str, error: Busy) -> str:
    """Say why a batch cannot be replayed now, and when it can."""
    batch = await target.backend.store.batch(batch_id)
    lease = batch.replay.lease if batch is not None and batch.replay is not None else None
    left = lease.until - target.clock.now() if lease else 0.0
    if left <= 0:
        return str(error)
    at = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
    return (
        f"{batch_id} is being replayed, or its replay was interrupted a moment ago: "
        f"run the same command again in {left:.0f} s, at {at}"
    )
