"""Say in sentences why nothing moves, and what to do: quota, open circuit, spent day, pause, no worker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from ops import words
from shared import decisions
from shared.decisions.forecast import calls_by_model
from shared.decisions.quota import Circuit, Ledger
from shared.model import Batch, BatchState, Control, Worker
from shared.settings import Limit, Settings
from shared.worker.hosts import HostLedger

if TYPE_CHECKING:
    from ops.target import Target
    from shared.ports import BatchStore

VENDORS: Final = {"gemini": "Gemini"}  # the vendor's name by the first word of a model's id
SLOW: Final = 0.999


class Wait(msgspec.Struct, frozen=True, rename="camel"):
    """One reason to wait. `serious`: nothing moves until it is over. `short` fits beside a number."""

    kind: str  # circuit, day, pause, quota, host, halt, paused, nobody
    sentence: str
    short: str
    serious: bool = True
    model: str | None = None
    until: float | None = None

    @property
    def about(self) -> tuple[object, ...]:
        """Return what identifies the wait. The number of waiting calls is left out: it may change."""
        return (self.kind, self.model, self.until and round(self.until))


async def of_models(
    store: BatchStore, settings: Settings, now: float, *, fault: str | None = None, models: Iterable[str] | None = None
) -> list[Wait]:
    """Return what the calls of the staging models (or of `models`) and the photos of slow hosts are waiting for.

    `fault` is what the vendor said last.
    """
    found: list[Wait] = []
    for model in models if models is not None else calls_by_model(settings):
        ledger = await store.record(Ledger, model)
        if ledger is not None:
            found.extend(of_ledger(ledger, settings.limits.get(model) or Limit(), now, fault))
    found.extend(of_host(ledger, now) for ledger in await store.records(HostLedger) if ledger.not_before > now + 1)
    return sorted(found, key=lambda wait: not wait.serious)


def of_ledger(ledger: Ledger, own: Limit, now: float, fault: str | None = None) -> list[Wait]:
    """Return what the calls of one model are waiting for."""
    ledger = decisions.quota.recovered(ledger, now)
    limit, model = ledger.limit or own, ledger.id
    vendor = VENDORS.get(model.partition("-")[0], "the vendor")
    waiting = sum(waiter.count for waiter in ledger.waiters.values() if waiter.until > now)
    calls = f" {words.count(waiting, 'call')} {'waits' if waiting == 1 else 'wait'}." if waiting else ""
    said = f" ({fault})" if fault and model in fault else f" ({model}: {fault})" if fault else f" ({model})"
    if ledger.day_spent_until > now:
        at = words.clock_time(ledger.day_spent_until, now)
        sentence = (
            f"The daily quota of {model} is used up until {at}. The work then continues by itself; nothing is lost."
        )
        return [Wait("day", sentence, f"daily quota used up until {at}", model=model, until=ledger.day_spent_until)]
    if ledger.circuit is not Circuit.CLOSED:
        again, until = _next_test_call(ledger, now)
        sentence = f"{vendor} does not answer{said}.{calls} {again}; nothing is lost."
        return [Wait("circuit", sentence, f"{vendor} does not answer", model=model, until=until)]
    found: list[Wait] = []
    slow = f", slowed to {ledger.rate:.0%} after refusals" if ledger.rate < SLOW else ""
    if ledger.not_before > now + 1:
        at = words.clock_time(ledger.not_before, now)
        sentence = f"{vendor} asked for a pause of {model} until {at}{slow}.{calls}"
        found.append(Wait("pause", sentence, f"pause until {at}", model=model, until=ledger.not_before))
    elif waiting:
        allowed = f"{limit.per_minute} a minute" if limit.per_minute else f"{limit.concurrent} at once"
        verb = "waits" if waiting == 1 else "wait"
        sentence = f"{words.count(waiting, 'call')} {verb} for the quota of {model} ({allowed}{slow})."
        found.append(Wait("quota", sentence, f"{waiting} {verb} for quota", serious=False, model=model))
    return found


def of_host(ledger: HostLedger, now: float) -> Wait:
    """Return the wait of the images whose photos are on a host that asked us to slow down."""
    host, at = ledger.id.removeprefix("host:"), words.clock_time(ledger.not_before, now)
    sentence = f"{host} asked us to wait until {at}. Its photos wait and spend no attempt; the others continue."
    return Wait("host", sentence, f"{host} waits until {at}", serious=False, model=host, until=ledger.not_before)


def _next_test_call(ledger: Ledger, now: float) -> tuple[str, float | None]:
    if ledger.circuit is Circuit.OPEN and ledger.open_until > now:
        return f"The next test call is at {words.clock_time(ledger.open_until, now)}", ledger.open_until
    if ledger.circuit is Circuit.OPEN:
        return "The next test call starts with the next image", None
    return "A test call is in progress", None


async def of_batch(target: Target, batch: Batch) -> list[Wait]:
    """Return what an open batch is waiting for; nothing for a finished one."""
    if not batch.is_open:
        return []
    if batch.control is Control.PAUSED:
        return [Wait("paused", f"{batch.id} is paused: {reason_of(batch)}.", "paused")]
    if not target.somebody_works():
        return [Wait("nobody", nobody(target, batch), "nothing is working on it")]
    found = await of_models(target.backend.store, target.settings, target.clock.now())
    return sorted(await _workers(target, batch) + found, key=lambda wait: not wait.serious)


def of_workers(living: Sequence[Worker]) -> list[Wait]:
    """Return a wait if workers have stopped pulling because our configuration is wrong."""
    halted = [worker for worker in living if worker.halted]
    if not halted:
        return []
    every = len(halted) == len(living)
    who = "The workers have" if every else f"{len(halted)} of {words.count(len(living), 'worker')} have"
    sentence = (
        f"{who} stopped taking images, because our configuration is wrong: {halted[0].halted.rstrip('.')}. "
        "Fix it; they retry by themselves, and nothing is lost."
    )
    return [Wait("halt", sentence, "our configuration is wrong", serious=every)]


async def _workers(target: Target, batch: Batch) -> list[Wait]:
    """Return a wait if no worker is alive, or if the workers have stopped."""
    from ops import workers

    if batch.state is not BatchState.PROCESSING:
        return []
    known = await workers.living(target)
    if known or target.data is not None:
        return of_workers(known)
    start = "Start it again: ruum-batch up" if target.local_stack else "See: ruum-batch health" + target.options
    return [Wait("nobody", f"No worker is alive. {start}, or wait for one to start.", "no worker is alive")]


def nobody(target: Target, batch: Batch) -> str:
    """Return the sentence for a data folder in which nothing is running, with the command that continues."""
    from ops import run_notes

    if target.data is None:
        return "No worker is alive."
    return f"Nothing is running in {target.data}. To continue: {run_notes.run_command(target.data, batch)}"


def reason_of(batch: Batch) -> str:
    """Return why a batch is paused, and who paused it if that is known."""
    by = f" ({batch.controlled_by})" if batch.controlled_by and batch.control is not Control.RUN else ""
    return (batch.paused_reason or "no reason was given") + by


def paused_lines(target_options: str, batch: Batch, *, goes_on: str | None = None) -> list[str]:
    """Return the commands for a paused batch, one a line. `goes_on`: what to run after `resume`.

    Its failures explain the pause only if they caused it. So `see why` is left out when a person paused it.
    """
    then = f", and then: {goes_on}" if goes_on else ""
    see_why = [f"  see why:  ruum-batch dead-letters list --batch {batch.id}{target_options}"]
    return [
        *([] if batch.controlled_by else see_why),
        f"  resume:   ruum-batch resume {batch.id}{target_options}{then}",
        f"  cancel:   ruum-batch cancel {batch.id}{target_options}",
    ]
