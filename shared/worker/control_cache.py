"""A worker's cache of batches: it needs to know whether they are paused or cancelled."""

from __future__ import annotations

from shared.model import Batch
from shared.ports import BatchStore, Clock


class ControlCache:
    """Reads each batch at most once every `seconds`.

    Workers ask at every claim and before every paid call; a read each time would cost more than the calls' bookkeeping.
    """

    def __init__(self, store: BatchStore, clock: Clock, seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._known: dict[str, tuple[float, Batch | None]] = {}

    async def read(self, batch_id: str) -> Batch | None:
        """Return the batch, at most `seconds` old; None if there is no such batch."""
        known = self._known.get(batch_id)
        if known is not None and self._clock.monotonic() - known[0] < self._seconds:
            return known[1]
        return await self.read_now(batch_id)

    async def read_now(self, batch_id: str) -> Batch | None:
        """Read the batch from the store, and drop cached batches that nobody has asked for lately."""
        batch = await self._store.batch(batch_id)
        now = self._clock.monotonic()
        self._known = {name: entry for name, entry in self._known.items() if now - entry[0] < self._seconds}
        self._known[batch_id] = (now, batch)
        return batch
