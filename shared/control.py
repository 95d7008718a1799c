"""What operators want of a batch: as customers are told of it, and as the workers see it."""

from __future__ import annotations

from functools import partial

import msgspec

from shared.events import BatchCancelled, BatchPaused, Public
from shared.messages import batch_event
from shared.model import Batch, Control, Refusal
from shared.ports import BatchStore, Clock, Message, Queue
from shared.topology import EVENTS_TOPIC


def note_control_announced(batch: Batch, *, name: str) -> Batch | Refusal:
    """Remember that the event of this pause or cancel has been published."""
    if batch.control_announced == name:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(batch, control_announced=name, revision=batch.revision + 1)


async def announce_control(store: BatchStore, queue: Queue, clock: Clock, batch: Batch) -> None:
    """Publish the event of the batch's pause or cancel, if there is one that has not been.

    Any process that finds it unannounced announces it: the one that paused the batch may have been killed. A second
    announcement has the same id.
    """
    told: Public
    if batch.control is Control.PAUSED:
        name = f"paused/{batch.control_epoch}"
        told = BatchPaused(
            batch_id=batch.id, client=batch.client, control=batch.control.value, reason=batch.paused_reason or ""
        )
    elif batch.control is Control.CANCELLING:
        name = "cancelled"
        told = BatchCancelled(batch_id=batch.id, client=batch.client, control=batch.control.value)
    else:
        return
    if batch.control_announced != name:
        event = batch_event(batch, f"{batch.id}/{name}", clock.now(), told)
        await queue.publish(EVENTS_TOPIC, [Message(event.body(), event.attributes())])
        await store.change_batch(batch.id, partial(note_control_announced, name=name), clock.token())


class ControlCache:
    """Reads a batch at most every few seconds: workers ask at each claim and before each paid call."""

    def __init__(self, store: BatchStore, clock: Clock, seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._known: dict[str, tuple[float, Batch | None]] = {}

    async def read(self, batch_id: str) -> Batch | None:
        """The batch, at most the cache's seconds old."""
        known = self._known.get(batch_id)
        if known is not None and self._clock.monotonic() - known[0] < self._seconds:
            return known[1]
        return await self.read_now(batch_id)

    async def read_now(self, batch_id: str) -> Batch | None:
        """The batch as it is now; what is known of batches not asked for lately is forgotten."""
        batch = await self._store.batch(batch_id)
        now = self._clock.monotonic()
        self._known = {name: entry for name, entry in self._known.items() if now - entry[0] < self._seconds}
        self._known[batch_id] = (now, batch)
        return batch
