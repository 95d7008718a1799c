"""Announces to customers that a batch was paused or cancelled."""

from __future__ import annotations

from functools import partial

from shared import decisions
from shared.events import BatchCancelled, BatchPaused, Public
from shared.messages import batch_event
from shared.model import Batch, Control
from shared.ports import BatchStore, Clock, Queue
from shared.topology import EVENTS_TOPIC


async def announce_control(store: BatchStore, queue: Queue, clock: Clock, batch: Batch) -> None:
    """Publish the event of the batch's pause or cancel, unless it has been published.

    Any process that finds it unannounced publishes it; the one that paused the batch may have crashed. A duplicate has
    the same event id.
    """
    data: Public
    if batch.control is Control.PAUSED:
        name = f"paused/{batch.control_epoch}"
        data = BatchPaused(
            batch_id=batch.id, client=batch.client, control=batch.control.value, reason=batch.paused_reason or ""
        )
    elif batch.control is Control.CANCELLING:
        name = "cancelled"
        data = BatchCancelled(batch_id=batch.id, client=batch.client, control=batch.control.value)
    else:
        return
    if batch.control_announced != name:
        event = batch_event(batch, f"{batch.id}/{name}", clock.now(), data)
        await queue.publish(EVENTS_TOPIC, [event.message()])
        await store.change_batch(batch.id, partial(decisions.batch.note_control_announced, name=name), clock.token())
