"""How many workers there are: none while nothing is open, as many as the backlog and the quota can use.

Ingest, replay and resume start them. Reconcile stops them all when nothing is open: by its schedule, and at once when a
batch has closed. A wake-up that fails is only late: the schedule repairs it.
"""

from __future__ import annotations

import logging

from shared import decisions
from shared.decisions.forecast import Capacity
from shared.decisions.quota import Ledger
from shared.errors import ConfigurationError, RuumError
from shared.model import Batch, BatchState, Control
from shared.ports import BatchStore, Clock, Fleet
from shared.settings import Settings
from shared.telemetry import LogEvent, tell

log = logging.getLogger(__name__)


class Scaling:
    """Keeps the fleet's size. Without a fleet (one machine, the local stack) there is nothing to do."""

    def __init__(self, store: BatchStore, fleet: Fleet | None, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._settings = settings

    async def wake(self) -> None:
        """Start the workers that the open batches need; never stops any. Never raises: the schedule comes after it."""
        if self._fleet is None:
            return
        try:
            wanted = await self._wanted()
            if wanted > await self._fleet.instances():
                await self._set(self._fleet, wanted)
        except ConfigurationError as error:  # the schedule will not be allowed to either
            tell(log, LogEvent.CONFIGURATION_FAULT, level=logging.ERROR, reason=f"workers not woken: {error}")
        except RuumError as error:
            log.warning("workers not woken, the schedule will: %s", error)

    async def settle(self) -> int | None:
        """Start the workers that are missing, or stop all of them when nothing is open; return the number.

        None without a fleet. A smaller number than there is, but not none, is not set: the platform would stop any of
        the workers, within seconds, and the calls it is making are paid for and lost ($1.50 with 50 images in flight).
        One that idles until the last image is settled costs cents.
        """
        if self._fleet is None:
            return None
        wanted, there = await self._wanted(), await self._fleet.instances()
        if wanted > there or (there and not wanted):
            return await self._set(self._fleet, wanted)
        return there

    async def _set(self, fleet: Fleet, wanted: int) -> int:
        """Set the number, and again while more is wanted than was set.

        A batch may open between the count and the setting, and its own wake-up still have seen the old number. Whoever
        sets last counts last.
        """
        while True:
            await fleet.scale(wanted)
            tell(log, LogEvent.SCALED, instances=wanted)
            now = await self._wanted()
            if now <= wanted:
                return wanted
            wanted = now

    async def _wanted(self) -> int:
        backlog = 0
        for batch in await self._store.batches(open_only=True):
            if _needs_workers(batch):
                backlog += (await self._store.counts(batch.id)).open
        capacity = await capacity_now(self._store, self._settings, self._clock.now())
        typical, rules = self._settings.typical, self._settings.fleet
        return decisions.forecast.instances_wanted(backlog, capacity, typical.image_seconds, rules)


def _needs_workers(batch: Batch) -> bool:
    return batch.control is not Control.PAUSED and batch.state is not BatchState.CLOSED


async def capacity_now(store: BatchStore, settings: Settings, now: float, *, with_slots: bool = True) -> Capacity:
    """The capacity by the ledgers as they stand: one read per model."""
    models = decisions.forecast.calls_by_model(settings)
    ledgers = {model: await store.record(Ledger, model) for model in models}
    return decisions.forecast.capacity(
        settings, {model: ledger for model, ledger in ledgers.items() if ledger}, models, now, with_slots=with_slots
    )
