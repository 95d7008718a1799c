"""`health`: one screen for an operator at night."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import typer

from ops import show, words
from ops.cli_common import OK, SOME_FAILED, DataOption, JsonFlag, ProjectOption, with_target

if TYPE_CHECKING:
    from ops.target import Target
    from ops.waiting import Wait
    from shared.model import Batch

LOOK_BACK_SECONDS: Final = 3600.0
MANY_FAILED: Final = 20  # images of one client with the same photo fault: fewer are normal, as in the threshold


class Health(msgspec.Struct, rename="camel"):
    """What `health` shows. `trouble` is what needs a person."""

    where: str
    workers: list[dict[str, Any]]
    waits: list[Any]
    batches: dict[str, int]
    open_images: int
    in_progress: int
    oldest: dict[str, Any] | None
    failures: list[dict[str, Any]]
    trouble: list[str]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example: ruum-batch health --project my-project")(health)


def health(data: DataOption = None, project: ProjectOption = None, as_json: JsonFlag = False) -> None:
    """Show on one screen whether anything needs attention.

    Lists workers, waits, batches by state, the oldest open image and the failures of the last hour. Exit code 0: all is
    well. 3: something needs a person; the last lines say what.
    """

    async def work(target: Target) -> int:
        found = await look(target)
        if as_json:
            show.as_json(msgspec.to_builtins(found))
        else:
            for line in _lines(found):
                show.out.print(line)
        return SOME_FAILED if found.trouble else OK

    with_target(work, data, project)


async def look(target: Target) -> Health:
    """Gather everything that `health` shows. Reads a few documents per open batch."""
    from ops import waiting, workers

    store, now = target.backend.store, target.clock.now()
    known = await store.batches()
    alive = await workers.living(target)
    waits = await waiting.of_models(store, target.settings, now, models=target.settings.limits)
    waits = waiting.of_workers(alive) + waits
    is_open = [batch for batch in known if batch.is_open]
    counts = {batch.id: await store.counts(batch.id) for batch in is_open}
    found = Health(
        where=target.where,
        workers=[{"id": worker.id, "secondsAgo": round(now - worker.at, 1)} for worker in alive],
        waits=waits,
        batches=_by_state(known),
        open_images=sum(count.open for count in counts.values()),
        in_progress=sum(count.processing for count in counts.values()),
        oldest=await _oldest(target, is_open, now),
        failures=await _failures(target, known, now - LOOK_BACK_SECONDS),
        trouble=[],
    )  # fmt: skip
    found.trouble.extend(await _trouble(target, found, is_open, waits, now))
    return found


def _by_state(known: list[Batch]) -> dict[str, int]:
    from shared.queries.batches import states_of

    counted = Counter(state for batch in known for state in states_of(batch))
    order = ("running", "paused", "cancelling", "closed", "failed", "rejected")
    return {state: counted[state] for state in order if counted[state]}


async def _oldest(target: Target, is_open: list[Batch], now: float) -> dict[str, Any] | None:
    """Return the open image that has not moved for longest. Reads the first of each batch and state only."""
    from shared.model import Control, ImageState

    found: list[tuple[float, dict[str, Any]]] = []
    for batch in is_open:
        if batch.control is Control.PAUSED:
            continue
        for state in (ImageState.QUEUED, ImageState.PROCESSING):
            async for image in target.backend.store.images(batch.id, state):
                moved = max(image.created_at, image.touched_at, image.claim.at if image.claim else 0.0)
                found.append((moved, {"batch": batch.id, "index": image.index, "state": state.value,
                                      "secondsStill": round(now - moved)}))  # fmt: skip
                break
    return min(found, key=lambda pair: pair[0])[1] if found else None


async def _failures(target: Target, known: list[Batch], since: float) -> list[dict[str, Any]]:
    """Failures by client and code. Of closed batches only those closed since then are read."""
    from shared.model import BatchState, ImageState

    counted: Counter[tuple[str, str]] = Counter()
    for batch in known:
        recent = batch.is_open or (batch.closed_at or 0.0) >= since
        if batch.state is BatchState.REJECTED or not recent:
            continue
        async for image in target.backend.store.images(batch.id, ImageState.FAILED):
            if (image.settled_at or 0.0) >= since:
                counted[batch.client, image.error.code if image.error else "unknown"] += 1
    return [{"client": client, "code": code, "images": number} for (client, code), number in counted.most_common()]


def _failed_lines(found: Health, options: str) -> list[str]:
    """Return the failures that need a person: all that are not a photo's fault, and many of one client's photos."""
    from shared.queries import failures

    lines = []
    for row in found.failures:
        client, code = row["client"], row["code"]
        failed = f"{words.count(row['images'], 'image')} of {client} failed with {code} in the last hour"
        if code not in set(failures.OF_THE_PHOTO):
            replay = f"ruum-batch replay --client {client} --code {code}{options}"
            lines.append(f"{failed} ({failures.advice(code)}). When the cause is gone: {replay}")
        elif row["images"] >= MANY_FAILED:
            listed = f"ruum-batch dead-letters list --client {client}{options}"
            lines.append(f"{failed}. The client can {failures.advice(code)}: {listed}")
    return lines


async def _trouble(target: Target, found: Health, is_open: list[Batch], waits: list[Wait], now: float) -> list[str]:
    from ops import waiting
    from shared.model import Control

    lines = [wait.sentence for wait in waits if wait.serious or wait.kind == "halt"]
    for batch in is_open:
        if batch.control is Control.PAUSED:
            since = f" for {words.ago(now - batch.controlled_at)}" if batch.controlled_at else ""
            lines.append(f"{batch.id} is paused{since}: {waiting.reason_of(batch)}. "
                         f"ruum-batch status {batch.id}{target.options}")  # fmt: skip
    running = [batch for batch in is_open if batch.control is not Control.PAUSED]
    if running and target.data is not None and not target.somebody_works():
        lines.append(waiting.nobody(target, running[0]))
    elif running and not found.workers:
        lines.append(f"No worker is alive, and {words.count(found.open_images, 'image')} "
                     f"{words.are(found.open_images)} open")  # fmt: skip
    lines += _failed_lines(found, target.options)
    stalled = target.settings.reconcile.stalled_seconds
    if found.oldest and found.oldest["secondsStill"] >= stalled:
        still, oldest = words.ago(found.oldest["secondsStill"]), found.oldest
        lines.append(f"{oldest['batch']} image {oldest['index']} has not moved for {still}: "
                     f"ruum-batch image {oldest['batch']} {oldest['index']}{target.options}")  # fmt: skip
    return lines


def _lines(found: Health) -> list[str]:
    lines = [f"workers    {len(found.workers) or 'none'} alive"]
    lines += [f"           {worker['id']}, last heartbeat {words.ago(worker['secondsAgo'])} ago"
              for worker in found.workers[:10]]  # fmt: skip
    shown = {"failed": "of them with failures"}
    states = ", ".join(f"{number} {shown.get(state, state)}" for state, number in found.batches.items()) or "none"
    lines.append(f"batches    {states}")
    lines.append(f"images     {found.open_images} open, {found.in_progress} of them in progress")
    if found.oldest:
        oldest = found.oldest
        lines.append(f"oldest     {oldest['batch']} image {oldest['index']}, {oldest['state']}, "
                     f"not moved for {words.ago(oldest['secondsStill'])}")  # fmt: skip
    lines += [f"waits      {wait.sentence}" for wait in found.waits] or ["waits      nothing is waiting for a vendor"]
    failed = [f"failures   {row['images']} {row['code']} of {row['client']} in the last hour" for row in found.failures]
    lines += failed or ["failures   none in the last hour"]
    well = f"nothing else needs a person in {found.where}" if found.failures else f"all is well in {found.where}"
    lines += [f"LOOK       {line}" for line in found.trouble] or [well]
    return lines
