"""Send a batch's latest event again, unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops import remote
from shared.errors import RuumError
from shared.events import BatchAccepted, BatchCancelled, BatchPaused, BatchRejected, Public
from shared.messages import Event, batch_event
from shared.model import Batch, BatchState, Control
from shared.topology import EVENTS_TOPIC

if TYPE_CHECKING:
    from ops.target import Target
    from shared.assembly import wiring


async def latest(target: Target, rooms: wiring.Rooms, batch: Batch) -> tuple[str, str]:
    """Send the latest event. Returns its (type, id). Raises `RuumError` when there is none."""
    if batch.state is BatchState.CLOSED:
        await rooms.closer.announce(batch)
        return "ruum.batch.completed", f"{batch.id}/{batch.round}"
    event = await _rejected(target, batch) if batch.state is BatchState.REJECTED else _of_open(target, batch)
    await target.backend.queue.publish(EVENTS_TOPIC, [event.message()])
    return event.type, event.id


def _of_open(target: Target, batch: Batch) -> Event:
    """Return the event of a pause or cancel, else of the acceptance. Ids match those of the first publication."""
    if batch.state is BatchState.INGESTING:
        raise RuumError(f"{batch.id} is still being read: it has no event yet")
    now = target.clock.now()
    data: Public
    if batch.control is Control.PAUSED:
        data = BatchPaused(batch_id=batch.id, client=batch.client, control="paused", reason=batch.paused_reason or "")
        return batch_event(batch, f"{batch.id}/paused/{batch.control_epoch}", now, data)
    if batch.control is Control.CANCELLING:
        data = BatchCancelled(batch_id=batch.id, client=batch.client, control="cancelling")
        return batch_event(batch, f"{batch.id}/cancelled", now, data)
    data = BatchAccepted(
        batch_id=batch.id, client=batch.client, total=batch.total, tier=batch.tier.value, manifest=batch.manifest.uri
    )
    return batch_event(batch, f"{batch.id}/accepted", batch.created_at, data)


async def _rejected(target: Target, batch: Batch) -> Event:
    listed = await remote.first_problems(target, batch)
    if listed is None:
        raise RuumError(f"the problems of {batch.id} are no longer stored: drop the manifest again")
    problems, where = listed
    data = BatchRejected(
        batch_id=batch.id,
        client=batch.client,
        manifest=batch.manifest.uri,
        problems=batch.problems,
        first_problems=tuple(problems[:10]),
        errors=where,
    )
    return batch_event(batch, f"{batch.id}/rejected", batch.created_at, data)
