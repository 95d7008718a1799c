"""What the vendors allow, and how much of it is in use."""

from __future__ import annotations

from shared import decisions
from shared.decisions.quota import Ledger
from shared.events import Public, iso
from shared.model import Refusal
from shared.queries.pipeline import Pipeline


class ModelQuota(Public, frozen=True, kw_only=True):
    """A model's limit and its use. `changed` says that an operator's limit replaces that of the settings.

    `used` counts calls started in the last minute, or calls in progress if only those are limited. `rate` is the share
    of the limit in use after refusals (1.0 is all of it).
    """

    model: str
    per_minute: int | None
    concurrent: int | None
    changed: bool
    used: int
    waiting: int
    rate: float
    circuit: str  # closed, open, half_open
    open_until: str | None  # RFC 3339, UTC
    day_spent_until: str | None  # RFC 3339, UTC


async def of_models(pipeline: Pipeline) -> list[ModelQuota]:
    """Return the quota of every model that has a limit. Reads a ledger each."""
    return [_of(pipeline, *await ledger_now(pipeline, model)) for model in pipeline.settings.limits]


async def ledger_now(pipeline: Pipeline, model: str) -> tuple[Ledger, float]:
    """Return a ledger and the server's time, in which its times are: this machine's clock may be wrong."""
    seen: list[tuple[Ledger, float]] = []

    def look(known: Ledger | None, now: float) -> Refusal:
        seen[:] = [(known or Ledger(id=model), now)]
        return Refusal.UNCHANGED

    await pipeline.backend.store.change_record(Ledger, model, look, pipeline.clock.token())
    return seen[0]


def _of(pipeline: Pipeline, ledger: Ledger, now: float) -> ModelQuota:
    ledger = decisions.quota.recovered(ledger, now)
    limit = ledger.limit or pipeline.settings.limits[ledger.id]
    under_way = sum(slot.until > now for slot in ledger.slots)
    return ModelQuota(
        model=ledger.id,
        per_minute=limit.per_minute,
        concurrent=limit.concurrent,
        changed=ledger.limit is not None,
        used=decisions.quota.used(ledger, now) if limit.per_minute else under_way,
        waiting=sum(waiter.count for waiter in ledger.waiters.values() if waiter.until > now),
        rate=ledger.rate,
        circuit=ledger.circuit.value,
        open_until=iso(ledger.open_until) if ledger.open_until > now else None,
        day_spent_until=iso(ledger.day_spent_until) if ledger.day_spent_until > now else None,
    )
