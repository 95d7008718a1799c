"""Work on a data folder that no `run` is using: what a command then has to do itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from ops import errors, local, run_notes
from ops.events_file import EventsFile
from shared.assembly import wiring
from shared.errors import RuumError, StillClosing
from shared.messages import ImageChanged, decode
from shared.topology import CHANGES_TOPIC, DEAD_LETTER_DOOR, EVENTS_SUBSCRIPTION

if TYPE_CHECKING:
    from ops.target import Target

AT_ONCE: Final = 200


@asynccontextmanager
async def held(target: Target) -> AsyncIterator[bool]:
    """Hold the data folder if it is free. Yields whether it is held: False on Google, or beside a `run`."""
    if target.data is None:
        yield False
        return
    try:
        async with local.locked(target.data):
            yield True
    except errors.FolderInUse:
        yield False


async def wind_up(target: Target, rooms: wiring.Rooms, batch_id: str) -> None:
    """Do what `run` would do, except staging: count, close, report, write events.jsonl.

    Call it while holding the data folder, after a command that settles images: nobody else would close the batch.
    """
    if target.embedded is None or target.data is None:
        return
    queue = target.embedded.queue
    await target.embedded.store.take_over()
    events = EventsFile(run_notes.results_of(target.data) / "events.jsonl")
    for _ in range(2):  # closing a batch publishes events, which are written in the second turn
        while deliveries := await queue.pull(CHANGES_TOPIC, AT_ONCE, 0.0):
            for delivery in deliveries:
                with suppress(RuumError):
                    await rooms.aggregate.handle(decode(ImageChanged, delivery.data))
            await queue.ack(CHANGES_TOPIC, [delivery.ack_id for delivery in deliveries])
        while letters := await queue.pull(DEAD_LETTER_DOOR, AT_ONCE, 0.0):
            for letter in letters:
                await rooms.dead_letter.handle(letter.data, letter.attributes)
            await queue.ack(DEAD_LETTER_DOOR, [letter.ack_id for letter in letters])
        with suppress(StillClosing):
            await rooms.closer.check(batch_id)
        await rooms.reconcile.run()  # for changes that the queue no longer holds
    await deliver(target, events)


async def deliver(target: Target, events: EventsFile | None = None) -> int:
    """Write the waiting events into events.jsonl. Returns how many."""
    if target.embedded is None or target.data is None:
        return 0
    events = events or EventsFile(run_notes.results_of(target.data) / "events.jsonl")
    queue, written = target.embedded.queue, 0
    while deliveries := await queue.pull(EVENTS_SUBSCRIPTION, AT_ONCE, 0.0):
        for delivery in deliveries:
            await events.handle(delivery)
        await queue.ack(EVENTS_SUBSCRIPTION, [delivery.ack_id for delivery in deliveries])
        written += len(deliveries)
    return written
