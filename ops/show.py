"""How the command line shows things: progress, problems, summaries. All but results goes to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from shared.forecast import Estimate
from shared.manifest import Problem
from shared.model import Batch, BatchState, Control, Counts

MOST_PROBLEMS_SHOWN: Final = 50  # on a terminal; the file has all of them
CONTROLS: Final = {Control.RUN: "runs again", Control.PAUSED: "is paused", Control.CANCELLING: "is being cancelled"}
PLAIN_SECONDS: Final = 5.0  # between two lines of progress where there is no terminal

err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
out = Console(highlight=False, markup=False, soft_wrap=True)


def problems(name: str, found: Sequence[Problem], written_to: str | None) -> None:
    """A rejected manifest's problems, one a line."""
    err.print(f"{name}: rejected, {len(found)} problem{'s' if len(found) != 1 else ''}")
    for problem in found[:MOST_PROBLEMS_SHOWN]:
        err.print(f"  {problem}")
    if len(found) > MOST_PROBLEMS_SHOWN:
        err.print(f"  … and {len(found) - MOST_PROBLEMS_SHOWN} more")
    if written_to:
        err.print(f"All of them as JSON: {written_to}")


def as_json(document: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def status(found: dict[str, Any]) -> None:
    """One batch's status, a few lines."""
    control = f", {found['control']}" if found["state"] in ("ingesting", "processing", "reopening") else ""
    out.print(f"{found['batchId']}: {found['state'].replace('_', ' ')}{control}, round {found['round']}")
    if control and found["pausedReason"]:
        out.print(f"  {found['pausedReason']}")
    settled = found["completed"] + found["failed"] + found["cancelled"]
    pace = f", {found['imagesPerMinute']:.1f} a minute" if found["imagesPerMinute"] else ""
    left = f", {duration(found['etaSeconds'])} left" if found["etaSeconds"] else ""
    out.print(f"  {settled} of {found['total']} settled ({found['progress']:.0%}){pace}{left}")
    for state in ("queued", "processing", "completed", "failed", "cancelled"):
        out.print(f"  {state:<10} {found[state]}")


def duration(seconds: float) -> str:
    """Seconds as people say them: to the minute above an hour, to the second below."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def estimate(found: Estimate) -> None:
    """What a batch would take, in a few lines and a line per tier."""
    kept = f", {found.repeated} repeated and {found.already_staged} already staged" if found.cached_share else ""
    basis = "measured" if found.cost_measured else "typical"
    out.print(f"{found.images} images{kept}: {found.to_buy} to buy, ${found.cost_usd:.2f} ({basis})")
    pace = f"{found.images_per_minute:g} images a minute"
    waiting = sum(found.backlog.values())
    standing = f", standing still for {duration(found.blocked_seconds)}" if found.blocked_seconds else ""
    out.print(f"  {pace}, bound by {found.limited_by}; {waiting} images waiting before it{standing}")
    for name, tier in found.tiers.items():
        chosen = "  <- the manifest's" if name == found.tier else ""
        out.print(f"  {name:<8} ${tier.price_usd:>9.2f}   done in {duration(tier.seconds)}{chosen}")


def batches(found: list[dict[str, Any]]) -> None:
    """A line per batch."""
    for batch in found:
        state = batch["state"].replace("_", " ") + (" (paused)" if batch["pausedReason"] else "")
        out.print(
            f"{batch['batchId']:<40} {state:<24} {batch['completed']:>6} of {batch['total']}, {batch['failed']} failed"
        )
    if not found:
        out.print("no batches")


def summary(done: dict[str, Any]) -> None:
    """What a batch came to, in a line."""
    cost = f", ${done['costUsd']:.2f}" if done["costUsd"] else ""
    out.print(
        f"{done['batchId']}: {done['state'].replace('_', ' ')}: {done['completed']} of {done['total']} completed, "
        f"{done['failed']} failed{cost}"
    )


class BatchProgress:
    """A bar with counts and time left on a terminal, a line every few seconds elsewhere. A context manager."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._printed_at = 0.0
        self._printed = -1
        self._control = Control.RUN

    def __enter__(self) -> Self:
        if err.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=err,
            )
            self._task = self._bar.add_task("staging", total=None, detail="")
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, batch: Batch, counts: Counts) -> None:
        """Called often; shows what changed."""
        if batch.control is not self._control and batch.state is not BatchState.CLOSED:
            self._control = batch.control
            reason = f": {batch.paused_reason}" if batch.control is Control.PAUSED and batch.paused_reason else ""
            err.print(f"{batch.id}: {CONTROLS[batch.control]}{reason}")
        detail = f"{counts.failed} failed" if counts.failed else ""
        if self._bar:
            self._bar.update(
                self._task, description=batch.state.value, total=batch.total, completed=counts.settled, detail=detail
            )
            return
        now = time.monotonic()
        finished = counts.settled == batch.total
        if counts.settled != self._printed and (finished or now - self._printed_at >= PLAIN_SECONDS):
            self._printed, self._printed_at = counts.settled, now
            err.print(f"{batch.id}: {counts.settled} of {batch.total} settled, {counts.failed} failed")
