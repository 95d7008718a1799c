"""Commands operators hold: quota, pause, resume, cancel, dead-letters, replay, retry-failed, reconcile."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Annotated, Any, Final

import msgspec
import typer

from ops import remote, show
from ops.cli_common import (
    INTERRUPTED,
    OK,
    OUR_FAULT,
    WRONG_USAGE,
    BatchArgument,
    DataOption,
    JsonFlag,
    ProjectOption,
    fail,
    with_target,
)
from ops.target import Target
from shared import ledger as ledgers
from shared import names, wiring
from shared.errors import ErrorCode
from shared.ledger import Ledger
from shared.messages import iso
from shared.model import Batch, Control, ImageState, Refusal
from shared.quota import QuotaEvents
from shared.replay import Busy, Plan
from shared.settings import Limit

ASK_ABOVE: Final = 100  # images replayed without a filter and without asking


def _known_codes(codes: list[str] | None) -> list[str] | None:
    """A misspelt code would find nothing, and look like good news."""
    unknown = [code for code in codes or () if code not in set(ErrorCode)]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there is {', '.join(sorted(ErrorCode))}")
    return codes


CodeOption = Annotated[
    list[str] | None,
    typer.Option("--code", callback=_known_codes, help="Only images that failed with this code (repeatable)."),
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
RateOption = Annotated[float | None, typer.Option("--rate", min=0.1, help="Images a second at most.")]


def _rooms(target: Target) -> wiring.Rooms:
    rules = wiring.google_rules(target.settings)
    return wiring.rooms(target.backend, target.clock, target.settings, rules, folder_is_client=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, example in (
        (quota, "quota"),
        (set_quota, "set-quota gemini-nano-banana-2.1 --per-minute 120"),
        (pause, "pause acme.demo"),
        (resume, "resume acme.demo"),
        (cancel, "cancel acme.demo"),
        (retry_failed, "retry-failed acme.demo --code vendor_timeout"),
        (replay, "replay --client acme --dry-run"),
        (reconcile, "reconcile"),
    ):
        app.command(name=command.__name__.replace("_", "-"), epilog=f"Example: ruum-batch {example}")(command)
    letters = typer.Typer(no_args_is_help=True, help="What failed for good, and why.")
    letters.command(name="list", epilog="Example: ruum-batch dead-letters list --client acme --code vendor_timeout")(
        list_dead_letters
    )
    app.add_typer(letters, name="dead-letters")


def quota(data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False) -> None:
    """Show each model's limit, use, waiting calls and circuit."""

    async def work(target: Target) -> int:
        rows = [_quota_row(target, *await _ledger_now(target, name)) for name in target.settings.limits]
        if as_json:
            show.as_json({"models": rows})
            return OK
        for row in rows:
            limit = f"{row['perMinute']}/min" if row["perMinute"] else f"{row['concurrent']} at once"
            slow = f", slow mode at {row['rate']:.0%}" if row["rate"] < 1 else ""
            use = f"used {row['used']:>4}, waiting {row['waiting']:>4}"
            spent = f", the day's quota is spent until {row['daySpentUntil']}" if row["daySpentUntil"] else ""
            opened = f" until {row['openUntil']}" if row["openUntil"] else ""
            show.out.print(f"{row['model']:<26} {limit:<12} {use}, {row['circuit']}{opened}{slow}{spent}")
        return OK

    with_target(work, data, project)


async def _ledger_now(target: Target, model: str) -> tuple[Ledger, float]:
    """A ledger and the server's time, which its times are of: this machine's clock may be off."""
    seen: list[tuple[Ledger, float]] = []

    def look(known: Ledger | None, now: float) -> Refusal:
        seen[:] = [(known or Ledger(id=model), now)]
        return Refusal.UNCHANGED

    await target.backend.store.change_record(Ledger, model, look, target.clock.token())
    return seen[0]


def _quota_row(target: Target, ledger: Ledger, now: float) -> dict[str, Any]:
    ledger = ledgers.recovered(ledger, now)
    limit = ledger.limit or target.settings.limits[ledger.id]
    return {
        "model": ledger.id,
        "perMinute": limit.per_minute,
        "concurrent": limit.concurrent,
        "used": ledgers.used(ledger, now) if limit.per_minute else sum(slot.until > now for slot in ledger.slots),
        "waiting": sum(waiter.count for waiter in ledger.waiters.values() if waiter.until > now),
        "rate": ledger.rate,
        "circuit": ledger.circuit.value,
        "openUntil": iso(ledger.open_until) if ledger.open_until > now else None,
        "daySpentUntil": iso(ledger.day_spent_until) if ledger.day_spent_until > now else None,
    }


def set_quota(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model id, as `quota` lists them.")],
    per_minute: Annotated[int | None, typer.Option(min=1, help="Calls a minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Calls at once.")] = None,
    data: DataOption = None,
    project: ProjectOption = None,
) -> None:
    """Change a model's limit while everything runs; without an option the settings' own holds again."""

    async def work(target: Target) -> int:
        if model not in target.settings.limits:
            fail(f"{model} has no limit to change (there are: {', '.join(target.settings.limits)})", WRONG_USAGE)
        limit = Limit(per_minute=per_minute, concurrent=concurrent) if per_minute or concurrent else None
        seen: list[Ledger] = []

        def decide(known: Ledger | None, _: float) -> Ledger:
            seen[:] = [known or Ledger(id=model)]
            return ledgers.set_limit(seen[0], limit)

        written = await target.backend.store.change_record(Ledger, model, decide, target.clock.token())
        if isinstance(written, Ledger):
            events = QuotaEvents(target.backend.queue, target.clock, target.settings.limits)
            await events.tell(seen[0], written)
        show.out.print(f"{model}: limit {'set' if limit else 'as in the settings'}")
        return OK

    with_target(work, data, project)


def _control(batch_id: str, data: Any, project: str | None, verb: str, done: str) -> None:
    async def work(target: Target) -> int:  # noqa: RET503 - fail never returns
        answer: Batch | Refusal = await getattr(_rooms(target).operator, verb)(batch_id)
        if isinstance(answer, Batch) or answer is Refusal.UNCHANGED:
            show.out.print(f"{batch_id}: {done}")
            return OK
        if answer is Refusal.MISSING:
            await remote.batch_of(target, batch_id)  # raises, and names those there are
        fail(f"{batch_id} cannot {verb}: it is finished, or being cancelled", WRONG_USAGE)

    with_target(work, data, project)


def pause(batch: BatchArgument, data: DataOption = None, project: ProjectOption = None) -> None:
    """Start no further paid call of a batch. What is in hand finishes its call and is given back."""
    _control(batch, data, project, "pause", "paused; go on with: ruum-batch resume " + batch)


def resume(batch: BatchArgument, data: DataOption = None, project: ProjectOption = None) -> None:
    """Go on with a paused batch."""
    _control(batch, data, project, "resume", "running")


def cancel(batch: BatchArgument, yes: YesFlag = False, data: DataOption = None, project: ProjectOption = None) -> None:
    """Stop a batch for good. What is done is kept and reported; cancelled images are never staged."""
    _sure(yes, f"cancel {batch} for good?")
    _control(batch, data, project, "cancel", "cancelled; what is in hand settles itself")


def list_dead_letters(
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client's batches.")] = None,
    code: CodeOption = None,
    older_than_minutes: Annotated[float, typer.Option(min=0, help="Only images that failed before.")] = 0.0,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List failed images, from the database: looking at letters would take them away from others."""

    async def work(target: Target) -> int:
        rows: list[dict[str, Any]] = []
        before = target.clock.now() - older_than_minutes * 60
        for known in await _batches(target, batch, client):
            async for image in target.backend.store.images(known.id, ImageState.FAILED):
                error = image.error
                if error and (not code or error.code in code) and (image.settled_at or 0.0) <= before:
                    rows.append({"batch": known.id, "index": image.index, "round": image.round, "code": error.code,
                                 "message": error.message, "source": image.source,
                                 "failedAt": iso(image.settled_at or 0.0)})  # fmt: skip
        if as_json:
            show.as_json({"failed": rows})
            return OK
        for row in rows:
            show.out.print(
                f"{row['batch']}  {row['index']:>6}  {row['code']:<22} {row['failedAt'][:16]}Z  {row['message']}"
            )
        show.out.print(f"{len(rows)} failed images")
        return OK

    with_target(work, data, project)


async def _batches(target: Target, batch: str | None, client: str | None) -> list[Batch]:
    if batch:
        await remote.batch_of(target, batch)
    found = await target.backend.store.batches()
    slug = names.slug(client).lower() if client else None
    return [b for b in found if (not batch or b.id == batch) and (not slug or b.client == slug) and b.total]


def retry_failed(
    batch: BatchArgument,
    code: CodeOption = None,
    dry_run: DryRunFlag = False,
    rate: RateOption = None,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
) -> None:
    """Give a batch's failed images a new round. Paid work is kept: only the failing step runs again."""
    _replay(batch, None, tuple(code or ()), 0.0, dry_run, rate, yes or bool(code), data, project)


def replay(
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client's batches.")] = None,
    code: CodeOption = None,
    older_than_minutes: Annotated[float, typer.Option(min=0, help="Only images that failed before.")] = 0.0,
    dry_run: DryRunFlag = False,
    rate: RateOption = None,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
) -> None:
    """Give failed images of any batch a new round. Shows its plan first.

    Ctrl-C ends it in order: what is queued again runs, the rest stays failed, and the same command goes on with it.
    One that was killed is carried on by reconcile, or by the same command when its lease has run out: in two minutes.
    """
    filtered = bool(batch or client or code or older_than_minutes)
    _replay(batch, client, tuple(code or ()), older_than_minutes * 60, dry_run, rate, yes or filtered, data, project)


def _replay(
    batch: str | None,
    client: str | None,
    codes: tuple[str, ...],
    older_than_seconds: float,
    dry_run: bool,
    rate: float | None,
    sure: bool,
    data: Any,
    project: str | None,
) -> None:
    async def work(target: Target) -> int:
        replay = _rooms(target).replay
        plans: list[Plan] = []
        for known in await _batches(target, batch, client):
            plan = await replay.plan(known, codes, older_than_seconds)
            if plan.images and known.control is Control.CANCELLING and not plan.interrupted:
                show.err.print(f"{known.id}: {plan.images} failed images are left alone: it was cancelled")
            elif plan.images or plan.interrupted:
                plans.append(plan)
        for plan in plans:
            listed = ", ".join(f"{count} {code}" for code, count in sorted(plan.codes.items()))
            goes_on = "an interrupted replay goes on: " if plan.interrupted else ""
            show.out.print(f"{plan.batch}: {goes_on}{listed or 'what is queued already'}")
        total = sum(plan.images for plan in plans)
        show.out.print(f"{total} images of {len(plans)} batches")
        if dry_run or not plans:
            return OK
        if total > ASK_ABOVE:
            _sure(sure, f"replay {total} images?")
        code, stop = OK, _stop_on_signals()
        for plan in plans:
            if stop.is_set():
                break
            try:
                run = replay.run(
                    plan.batch, codes, older_than_seconds=older_than_seconds, images_per_second=rate, stop=stop
                )
                show.out.print(f"{plan.batch}: {await run} images queued again")
            except Busy as error:  # one that cannot be replayed holds up no other
                show.err.print(f"ruum-batch: {await _busy(target, plan.batch, error)}")
                code = OUR_FAULT
        if stop.is_set():
            show.err.print("stopped: what is not queued again stays failed; the same command goes on with it")
            return INTERRUPTED
        await replay.drain_letters(stop)  # what it leaves, the next replay takes away
        return code

    with_target(work, data, project)


def _stop_on_signals() -> asyncio.Event:
    """Set by Ctrl-C, or by a polite kill."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _busy(target: Target, batch_id: str, error: Busy) -> str:
    """Why a batch cannot be replayed now, and when it can."""
    batch = await target.backend.store.batch(batch_id)
    lease = batch.replay.lease if batch is not None and batch.replay is not None else None
    left = lease.until - target.clock.now() if lease else 0.0
    if left <= 0:
        return str(error)
    return (
        f"{batch_id} is being replayed, or its replay was interrupted a moment ago: "
        f"the same command goes on in {left:.0f} s"
    )


def _sure(yes: bool, question: str) -> None:
    """Ask, unless told not to. Nobody there to answer means no."""
    if not yes and not (sys.stdin.isatty() and typer.confirm(question)):
        fail(f"{question} not done; say --yes to do it", WRONG_USAGE)


def reconcile(data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False) -> None:
    """Carry on whatever was left lying about. Safe at any time; a healthy backlog is left alone."""

    async def work(target: Target) -> int:
        report = await _rooms(target).reconcile.run()
        done = msgspec.to_builtins(report)
        if as_json:
            show.as_json(done)
        else:
            show.out.print(", ".join(f"{count} {name}" for name, count in done.items() if count is not None))
        return OK

    with_target(work, data, project)
