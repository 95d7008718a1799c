"""`batches` and `status`: list the batches, and show one batch's progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops import show, words
from ops.cli_common import (
    OK,
    WRONG_USAGE,
    BatchArgument,
    ClientOption,
    DataOption,
    JsonFlag,
    ProjectOption,
    fail,
    with_target,
)

if TYPE_CHECKING:
    from ops.target import Target
    from shared.events import Status
    from shared.model import Batch, Counts
    from shared.queries.batches import Listed

_OPEN = ("ingesting", "processing", "closing", "reopening")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(epilog="Example: ruum-batch batches --data staged/.ruum --state paused")(batches)
    app.command(epilog="Example: ruum-batch status acme.demo --data staged/.ruum")(status)


def batches(
    client: ClientOption = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE", help="Only batches that are open, running, paused, cancelling, closed, failed or rejected."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="List at most the newest N.")] = None,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List all batches, newest first."""
    from shared.queries.batches import STATES

    if state is not None and state not in STATES:
        fail(f"--state {state} is not one of {', '.join(STATES)}", WRONG_USAGE)

    async def work(target: Target) -> int:
        import msgspec

        from ops import batch_lookup
        from shared.queries.batches import states_of

        chosen = [b for b in await batch_lookup.batches_of(target, client) if state is None or state in states_of(b)]
        found = [await _row(target, batch) for batch in chosen[:limit]]
        if as_json:
            show.as_json({"batches": msgspec.to_builtins(found)})
        else:
            _show(found, target)
        return OK

    with_target(work, data, project)


async def _row(target: Target, batch: Batch) -> Listed:
    """Return a batch as `batches` lists it. In the cloud an open batch has no cost: that needs a read per image."""
    import msgspec

    from ops import waiting
    from shared.queries import batches

    here = target.data is not None or target.local_stack
    row = await batches.listed(target.pipeline, batch, read_images=here)
    if batch.is_open and not _estimate_holds(await waiting.of_batch(target, batch)):
        row = msgspec.structs.replace(row, eta_seconds=None)
    return row


def _estimate_holds(waits: list[Any]) -> bool:
    """Return whether a time left can be estimated: not during a block without a known end. A spent day has one."""
    return not any(wait.serious and wait.kind != "day" for wait in waits)


def state_word(found: Status) -> str:
    """Return a batch's state for people, `paused` and `cancelling` included."""
    state = found.state.replace("_", " ")
    if found.state in _OPEN:
        return {"paused": "paused", "cancelling": "cancelling"}.get(found.control, state)
    return state


def _show(found: list[Listed], target: Target) -> None:
    """Print a header, then a line per batch."""
    if not found:
        show.out.print(f"no batches in {target.where}")
        return
    rows = [["BATCH", "STATE", "TIER", "CREATED", "COMPLETED", "FAILED", "LEFT", "COST"]]
    for batch in found:
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(_seconds(batch.created_at)))
        cost = words.money(batch.cost_usd) if batch.cost_usd is not None else ""
        left = words.duration(batch.eta_seconds) if batch.eta_seconds is not None else ""
        left = left or ("unknown" if batch.state in _OPEN else "")
        rejected = batch.state == "rejected"
        done = "" if rejected else f"{batch.completed} of {batch.total}"
        failed = "" if rejected else str(batch.failed)
        rows.append([batch.batch_id, state_word(batch), batch.tier, created, done, failed, left, cost])
    show.table(rows, right=frozenset({4, 5, 6, 7}))


def _seconds(written: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(written).timestamp()


def status(
    batch: BatchArgument, data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False
) -> None:
    """Show a batch's progress and what to do next.

    Also shows what an open batch is waiting for.
    """

    async def work(target: Target) -> int:
        from ops import remote, waiting
        from shared.queries import batches

        known = await remote.batch_of(target, batch)
        found = await batches.status(target.pipeline, known)
        waits = await waiting.of_batch(target, known)
        if as_json:
            import msgspec

            show.as_json(msgspec.to_builtins(found) | {
                "controlledBy": known.controlled_by, "cancelReason": known.cancel_reason,
                "waitsFor": [msgspec.to_builtins(wait) for wait in waits],
            })  # fmt: skip
            return OK
        counts = await target.backend.store.counts(batch)
        show.out.print(_head(known, found))
        for line in _progress(found, waits):
            show.out.print(line)
        for name in ("queued", "processing", "completed", "failed", "cancelled"):
            show.out.print(f"  {name:<10} {getattr(found, name)}")
        for line in await _what_now(target, known, counts, waits):
            show.out.print(line)
        return OK

    with_target(work, data, project)


def _head(batch: Batch, found: Status) -> str:
    state = found.state.replace("_", " ")
    is_open = found.state in _OPEN
    control = f", {found.control}" if is_open else ""
    return f"{batch.id}: {state}{control}, round {found.round}, tier {batch.tier.value}"


def _progress(found: Status, waits: list[Any]) -> list[str]:
    done = found.completed + found.failed + found.cancelled
    # The measured speed is that of the past: beside a wait it would contradict the time left.
    pace = f", {found.images_per_minute:.1f} a minute" if found.images_per_minute and not waits else ""
    seconds = found.eta_seconds if _estimate_holds(waits) else None
    left = f", {words.duration(seconds)} left" if seconds else ""
    if not left and found.state == "processing" and done < found.total:
        left = ", time left unknown"
    return [f"  {done} of {found.total} finished ({found.progress:.0%}){pace}{left}"] if found.total else []


async def _what_now(target: Target, batch: Batch, counts: Counts, waits: list[Any]) -> list[str]:
    """Return the lines below the counts: why nothing moves or how the batch ended, and the commands that help."""
    from ops import failure_lines, remote, run_notes, waiting
    from ops.commands import submit
    from shared.model import BatchState, Control
    from shared.queries import failures
    from shared.results import names

    if batch.state is BatchState.REJECTED:
        listed = await remote.first_problems(target, batch)
        lines = [f"  {words.count(batch.problems, 'problem')} in {batch.manifest.uri}"]
        if listed:
            lines += [f"    {problem}" for problem in listed[0][:10]] + [f"  all of them as JSON: {listed[1]}"]
        return lines
    groups = await failures.of(target.backend.store, batch) if counts.failed else []
    lines = failure_lines.lines(groups)
    if batch.state is BatchState.CLOSED and batch.completion:
        done = batch.completion
        report = submit.results_place(target, names.round_folder(batch) + "report.html")
        lines.append(f"  took {words.duration(done.duration_seconds)}, cost {words.money(done.cost_usd)}, "
                     f"price {words.money(done.price_usd)}")  # fmt: skip
        lines.append(f"  report: {report}")
        if batch.control is Control.CANCELLING:
            lines.append(f"  cancelled{_by(batch)}" + (f": {batch.cancel_reason}" if batch.cancel_reason else ""))
        return lines + submit.next_steps(target, batch, groups)
    lines += [f"  {wait.sentence}" for wait in waits]
    if batch.control is Control.PAUSED:
        nobody = target.data is not None and not target.somebody_works()
        then = run_notes.run_command(target.data, batch) if nobody and target.data is not None else None
        lines += waiting.paused_lines(target.options, batch, goes_on=then)
    if batch.control is Control.CANCELLING:
        lines.append(f"  being cancelled{_by(batch)}" + (f": {batch.cancel_reason}" if batch.cancel_reason else ""))
    return lines


def _by(batch: Batch) -> str:
    return f" by {batch.controlled_by}" if batch.controlled_by else ""
