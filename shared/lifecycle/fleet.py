"""Sets the number of workers: none while nothing is open, else as many as the backlog and the quota can use.

Ingest, replay and resume start them. Reconcile stops them all when nothing is open, on its schedule and at once when a
batch has closed. If starting them fails, they only start late: the schedule does it.
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
    """Keeps the fleet's size. Without a fleet (one machine, the local stack) it does nothing."""

    def __init__(self, store: BatchStore, fleet: Fleet | None, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._settings = settings

    async def wake(self) -> None:
        """Start the workers that the open batches need; never stop any.

        Never raises, because the schedule repairs a failure. A fault in our configuration is logged for the operators'
        alert.
        """
        if self._fleet is None:
            return
        try:
            wanted = await self._wanted()
            if wanted > await self._fleet.instances():
                await self._set(self._fleet, wanted)
        except ConfigurationError as error:  # the schedule will fail in the same way, so somebody has to be alerted
            tell(log, LogEvent.CONFIGURATION_FAULT, level=logging.ERROR, reason=f"workers not woken: {error}")
        except RuumError as error:
            log.warning("workers not woken, the schedule will: %s", error)

    async def settle(self) -> int | None:
        """Start missing workers, or stop all of them when nothing is open. Return the number; None without a fleet.

        The number is never lowered while images are open. The platform would stop any of the workers within seconds,
        and the calls in progress would be paid for and lost ($1.50 with 50 images in flight). A worker that idles until
        the last image has settled costs cents.
        """
        if self._fleet is None:
            return None
        wanted, there = await self._wanted(), await self._fleet.instances()
        if wanted > there or (there and not wanted):
            return await self._set(self._fleet, wanted)
        return there

    async def _set(self, fleet: Fleet, wanted: int) -> int:
        """Set the number, and set it again while more workers are wanted than that.

        A batch may open between the count and the setting, while its own `wake` still saw the old number. The last one
        to set the number therefore counts again.
        """
        while True:
            await fleet.scale(wanted)
            tell(log, LogEvent.SCALED, instances=wanted)
            now = await self._wanted()
            if now <= wanted:
                return wanted
            wanted = now

    async def _wanted(self) -> int:
        """Return how many workers the open images of all running batches need."""
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
    """Return the capacity by the ledgers as they are now. Reads one record per model."""
    models = decisions.forecast.calls_by_model(settings)
    ledgers = {model: await store.record(Ledger, model) for model in models}
    return decisions.forecast.capacity(
        settings, {model: ledger for model, ledger in ledgers.items() if ledger}, models, now, with_slots=with_slots
    )
