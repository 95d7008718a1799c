"""`pause`, `resume`, `cancel`, `resend`, `reconcile`: what operators do to batches."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ops import show, words
from ops.cli_common import (
    NOT_NOW,
    OK,
    WRONG_USAGE,
    BatchArgument,
    DataOption,
    JsonFlag,
    ProjectOption,
    YesFlag,
    fail,
    with_target,
)

if TYPE_CHECKING:
    from ops.target import Target
    from shared.assembly import wiring
    from shared.model import Batch, Counts, Refusal

MAX_REASON: Final = 300  # characters of a reason, which is shown in one line
BatchOrNone = Annotated[str | None, typer.Argument(metavar="BATCH", help="A batch id, such as acme.demo.")]
OfClient = Annotated[
    str | None, typer.Option("--client", metavar="NAME", help="Each batch of this client that it applies to.")
]
OfAll = Annotated[bool, typer.Option("--all", help="Each batch that it applies to.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="The reason; the client sees it too.")]
OwnReason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="The reason; kept with the batch.")]
ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Your name; kept with the batch.  [default: your login]")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command, example in (
        (pause, 'pause acme.demo --reason "client asked, ticket 123"'),
        (resume, "resume acme.demo"),
        (cancel, "cancel acme.demo"),
        (resend, "resend acme.demo"),
        (reconcile, "reconcile"),
    ):
        app.command(epilog=f"Example: ruum-batch {example}")(command)


def rooms_of(target: Target) -> wiring.Rooms:
    """Return the rooms of this target, for what needs no staging model."""
    from shared.assembly import wiring

    rules = wiring.google_rules(target.settings)
    return wiring.rooms(target.backend, target.clock, target.settings, rules, folder_is_client=True)


def person(by: str | None) -> str:
    """Return the name that an action is recorded under: `by`, else the login."""
    try:
        return (by or getpass.getuser())[:100]
    except (OSError, KeyError, ImportError):  # a user id without a name, as in some containers
        return "unknown"


def pause(
    batch: BatchOrNone = None,
    client: OfClient = None,
    every: OfAll = False,
    reason: Reason = None,
    by: ByOption = None,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Pause a batch: start no new paid calls. Calls in progress finish, then their images are queued again."""
    why = (reason or "paused by an operator")[:MAX_REASON]

    async def one(target: Target, known: Batch) -> Batch | Refusal:
        return await rooms_of(target).operator.pause(known.id, why, by=person(by))

    async def said(target: Target, known: Batch, counts: Counts) -> list[str]:
        return [
            f"{known.id}: paused; to continue: ruum-batch resume {known.id}{target.options}",
            *_drains(target, counts),
        ]

    _each("pause", one, said, batch, client, every, data, project, as_json)


def _drains(target: Target, counts: Counts) -> list[str]:
    """Say how many images are still in progress, and what happens to them: the counts keep changing for a while."""
    if not counts.processing or not target.somebody_works():
        return []
    images = words.count(counts.processing, "image")
    return [
        f"  {images} still in progress: a paid call that has started finishes, then its image is queued again.",
        "  No new call starts. An image that waits for quota is in progress until its turn comes; it costs nothing.",
    ]


def resume(
    batch: BatchOrNone = None,
    client: OfClient = None,
    every: OfAll = False,
    by: ByOption = None,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Resume a paused batch."""

    async def one(target: Target, known: Batch) -> Batch | Refusal:
        return await rooms_of(target).operator.resume(known.id, by=person(by))

    async def said(target: Target, known: Batch, counts: Counts) -> list[str]:
        queued = f", {words.count(counts.open, 'image')} to go"
        return [f"{known.id}: running{queued}", *go_on(target, known)]

    _each("resume", one, said, batch, client, every, data, project, as_json)


def go_on(target: Target, batch: Batch) -> list[str]:
    """Say which command to run next, in a data folder in which nothing is running."""
    from ops import run_notes

    if target.data is None or target.somebody_works():
        return []
    return [f"  nothing is running in {target.data}; now run: {run_notes.run_command(target.data, batch)}"]


def cancel(
    batch: BatchArgument,
    reason: OwnReason = None,
    by: ByOption = None,
    yes: YesFlag = False,
    data: DataOption = None,
    project: ProjectOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop a batch for good. Finished images are kept and reported; cancelled ones are never staged."""

    async def one(target: Target, known: Batch) -> Batch | Refusal:
        from ops import idle, spending

        counts = await target.backend.store.counts(known.id)
        if known.is_open and counts.open:
            question = (f"Cancel {known.id} for good? {counts.open} of {words.count(known.total, 'image')} "
                        "would not be staged.")  # fmt: skip
            spending.sure(question, yes=yes)
        rooms = rooms_of(target)
        async with idle.held(target) as alone:
            answer = await rooms.operator.cancel(
                known.id, reason=reason[:MAX_REASON] if reason else None, by=person(by)
            )
            if alone:
                await idle.wind_up(target, rooms, known.id)
        return answer

    _each("cancel", one, _cancelled, batch, None, False, data, project, as_json)


async def _cancelled(target: Target, known: Batch, counts: Counts) -> list[str]:
    from shared.model import BatchState

    now = await target.backend.store.batch(known.id) or known
    kept = f"{counts.completed} of {words.count(known.total, 'image')} completed, {counts.failed} failed"
    if now.state is BatchState.CLOSED:
        return [f"{known.id}: cancelled: {kept}, {counts.cancelled} cancelled"]
    lines = [f"{known.id}: being cancelled: {kept}, {counts.cancelled} cancelled"]
    if counts.queued:
        lines.append(f"  {counts.queued} still queued: they will be cancelled in a moment, at no cost")
    if counts.processing:
        lines.append(
            f"  {counts.processing} in progress: finished if their call is already paid for, otherwise cancelled"
        )
    return lines


def _each(
    verb: str,
    one: Callable[[Target, Batch], Awaitable[Batch | Refusal]],
    said: Callable[[Target, Batch, Counts], Awaitable[list[str]]],
    batch: str | None,
    client: str | None,
    every: bool,
    data: Path | None,
    project: str | None,
    as_json: bool,
) -> None:
    """Apply the command to one batch, or to every open batch of a client or of all clients."""
    if sum((batch is not None, client is not None, every)) != 1:
        fail(f"{verb} needs one of: a BATCH, --client NAME, --all", WRONG_USAGE)

    async def work(target: Target) -> int:
        done: list[dict[str, Any]] = []
        for known in await _chosen(target, verb, batch, client):
            answer = await one(target, known)
            refused = _refusal(verb, known, answer)
            if refused and batch is not None:
                fail(refused, NOT_NOW)
            counts = await target.backend.store.counts(known.id)
            now = await target.backend.store.batch(known.id) or known
            done.append({
                "batchId": known.id, "state": now.outcome, "control": now.control.value,
                "pausedReason": now.paused_reason, "by": now.controlled_by, "queued": counts.queued,
                "processing": counts.processing, "cancelled": counts.cancelled, "refused": refused,
            })  # fmt: skip
            if not as_json:
                for line in [refused] if refused else await said(target, now, counts):
                    show.out.print(line)
        if as_json:
            show.as_json(done[0] if batch is not None else {"batches": done})
        elif not done:
            show.out.print(f"no batch to {verb} in {target.where}")
        return OK

    with_target(work, data, project)


async def _chosen(target: Target, verb: str, batch: str | None, client: str | None) -> list[Batch]:
    from ops import batch_lookup
    from shared.model import BatchState, Control

    if batch is not None:
        return [await batch_lookup.batch_of(target, batch)]
    wanted = Control.PAUSED if verb == "resume" else Control.RUN
    found = await batch_lookup.batches_of(target, client)
    over = (BatchState.CLOSED, BatchState.REJECTED)
    return [known for known in found if known.state not in over and known.control is wanted]


def _refusal(verb: str, known: Batch, answer: Batch | Refusal) -> str | None:
    """Return why nothing was done, in a sentence; None when it was done, or there was nothing to do."""
    from shared.model import Batch, BatchState, Control, Refusal

    if isinstance(answer, Batch) or answer is Refusal.UNCHANGED:
        return None
    if verb == "cancel" and known.state is BatchState.CLOSED and known.control is Control.CANCELLING:
        return None  # an earlier cancel has done it
    past = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}[verb]
    if known.state is BatchState.REJECTED:
        why = "its manifest was rejected"
    elif known.state is BatchState.CLOSED:
        why = f"it is finished ({known.outcome.replace('_', ' ')})"
    elif known.control is Control.CANCELLING:
        why = "it is being cancelled"
    elif known.state is BatchState.CLOSING:
        why = "all its images are finished and its reports are being written"
    else:
        why = f"its state does not allow it ({answer.value.replace('_', ' ')})"
    return f"{known.id} cannot be {past}: {why}"


def resend(
    batch: BatchArgument, data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False
) -> None:
    """Send a batch's latest event again, with the same id.

    For a client that has lost it. A client that has already handled it recognises the id and ignores the repeat.
    """

    async def work(target: Target) -> int:
        from ops import batch_lookup, idle, resending

        known = await batch_lookup.batch_of(target, batch)
        kind, event_id = await resending.latest(target, rooms_of(target), known)
        async with idle.held(target) as alone:
            written = await idle.deliver(target) if alone else 0
        if as_json:
            show.as_json({"batchId": batch, "type": kind, "id": event_id})
            return OK
        known_there = " (events.jsonl keeps one line per id)" if written else ""
        show.out.print(f"{batch}: sent {kind} again, id {event_id}{known_there}")
        return OK

    with_target(work, data, project)


def reconcile(data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False) -> None:
    """Finish whatever an interruption left half done. Safe at any time; a healthy backlog is left alone."""

    async def work(target: Target) -> int:
        import msgspec

        report = await rooms_of(target).reconcile.run()
        done = msgspec.to_builtins(report)
        if as_json:
            show.as_json(done)
        else:
            show.out.print(_reconciled(done))
        return OK

    with_target(work, data, project)


RECONCILED: Final = {
    "batches": ("open batch", "checked"),
    "closed": ("batch", "closed"),
    "replays": ("replay", "continued"),
    "folded": ("image", "counted"),
    "published": ("image", "queued again"),
    "cancelled": ("image", "cancelled"),
    "work_objects": ("left-over work file", "deleted"),
    "workObjects": ("left-over work file", "deleted"),
    "stalled": ("batch", "stalled"),
    "instances": ("worker", "wanted"),
}


def _reconciled(done: dict[str, Any]) -> str:
    """Return what reconcile did, in words; what it did not do is left out."""
    first = f"{words.count(done.get('batches', 0), 'open batch')} checked"
    rest = [f"{words.count(number, RECONCILED[name][0])} {RECONCILED[name][1]}"
            for name, number in done.items() if name != "batches" and number and name in RECONCILED]  # fmt: skip
    return ", ".join([first, *(rest or ["nothing to do"])])
