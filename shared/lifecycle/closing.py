"""Summing a batch's tallies, and closing the batch exactly once per round.

The closing check is correct because of its order. The caller's own shard is committed first. Then the batch is read,
the open counts are summed, and the batch is compared-and-set to `closing`. A replay in between raises the batch's
revision, and the compare-and-set fails. See docs/architecture.md, "Closing".
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from typing import Final

import msgspec

from shared import decisions
from shared.decisions.forecast import Capacity
from shared.errors import LostClaim, StillClosing
from shared.events import BatchCompleted, ReportLink, StateCounts
from shared.lifecycle import fleet
from shared.lifecycle.announce import announce_control
from shared.messages import batch_event
from shared.model import (
    Batch,
    BatchState,
    Completion,
    Counts,
    ImageState,
    Lease,
    Refusal,
    ReportFile,
)
from shared.ports import BatchStore, Clock, ObjectStore, Queue
from shared.results import names, report
from shared.results.fenced import put_fenced
from shared.results.status import known_speed, progress_of, write_status
from shared.settings import Settings
from shared.telemetry import LogEvent, bound, tell
from shared.topology import EVENTS_TOPIC

log = logging.getLogger(__name__)

# Closing checks of a batch that changes during each of them. People pause and resume, so a second check mostly
# succeeds.
CHECK_TRIES: Final = 5
# The gathered results are stored after every this many images. A closing that crashes, or whose caller hangs up,
# continues from there.
PART_IMAGES: Final = 5000
PAGE_IMAGES: Final = 500  # images between two checks of the lease: one page of the store


class Closer:
    """Runs the closing check and finishes a closing: write reports, close, announce, record the announcement."""

    def __init__(self, store: BatchStore, queue: Queue, objects: ObjectStore, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._queue = queue
        self._objects = objects
        self._clock = clock
        self._settings = settings

    async def check(self, batch_id: str) -> None:
        """Close the batch if none of its images is open, and finish what an earlier closer left undone.

        Safe to call at any time and any number of times. The caller must have committed its own shard before. Raises
        `StillClosing` while another closer works on it, or when the batch keeps changing. A caller that was triggered
        by an event lets it be redelivered, in case nobody else closes the batch.
        """
        for _ in range(CHECK_TRIES):
            batch = await self._store.batch(batch_id)
            if batch is None:
                return
            if batch.state is BatchState.CLOSED and batch.announced_round < batch.round:
                await self.announce(batch)
            if batch.state not in (BatchState.PROCESSING, BatchState.CLOSING):
                return
            if batch.state is BatchState.PROCESSING and await self._anything_open(batch):
                return
            taken = await self._take(batch)
            if isinstance(taken, Batch):
                await self._finish(taken)
                return
            if taken is Refusal.BUSY:
                raise StillClosing(f"{batch_id} is being closed by another closer")
            # The batch changed between the check and the lease (a pause, a resume): check again.
        raise StillClosing(f"{batch_id} changed during each of {CHECK_TRIES} closing checks")

    async def _anything_open(self, batch: Batch) -> bool:
        """Return whether an image is open, or a shard is missing and its images cannot be counted."""
        open_count, shards = await self._store.open_images(batch.id)
        return bool(open_count) or shards != batch.shards

    async def _take(self, batch: Batch) -> Batch | Refusal:
        """Take the lease to close. From processing only if the batch is still as it was read before the sum."""
        lease, now, seen = self._lease(), self._clock.now(), batch.revision

        def decide(known: Batch) -> Batch | Refusal:
            if batch.state is BatchState.PROCESSING:
                return decisions.batch.begin_closing(known, seen_revision=seen, lease=lease, now=now)
            return decisions.batch.take_closer(known, lease=lease, now=now)

        return await self._store.change_batch(batch.id, decide, self._clock.token())

    def _lease(self, holder: str | None = None) -> Lease:
        """Return a lease from now on, for `holder` or for a new one."""
        until = self._clock.now() + self._settings.worker.closer_lease_seconds
        return Lease(holder=holder or self._clock.token(), until=until)

    async def _renewed(self, batch: Batch, lease: Lease) -> Lease:
        """Return the lease, renewed once a third of it has passed. Raises `LostClaim` when another closer has it."""
        longer = self._lease(lease.holder)
        if longer.until - lease.until < self._settings.worker.closer_lease_seconds / 3:
            return lease
        kept = await self._store.change_batch(
            batch.id, lambda b: decisions.batch.renew_closer(b, lease=longer), self._clock.token()
        )
        if isinstance(kept, Refusal):
            raise LostClaim(f"another closer has taken over {batch.id}")
        return longer

    async def _finish(self, batch: Batch) -> None:
        """Write the reports, close, announce. A closer that has lost its lease changes nothing and stops."""
        if batch.closer is None:
            raise RuntimeError(f"{batch.id} is closing without a lease")
        holder = batch.closer.holder
        await self._tell_progress(batch, await self._store.counts(batch.id), None)
        try:
            completion = await self._write_reports(batch, batch.closer)
        except LostClaim as error:
            log.warning("lost the closing of %s: %s", batch.id, error)
            return
        now = self._clock.now()
        closed = await self._store.change_batch(
            batch.id,
            lambda b: decisions.batch.close(b, holder=holder, completion=completion, now=now),
            self._clock.token(),
        )
        if isinstance(closed, Batch):
            with bound(batch=closed.id, client=closed.client, round=closed.round):
                tell(log, LogEvent.BATCH_CLOSED, state=completion.outcome, images=completion.counts.total,
                     failed=completion.counts.failed, costUsd=completion.cost_usd,
                     durationMs=round(completion.duration_seconds * 1000))  # fmt: skip
            await self.announce(closed)
            await self._forget_parts(batch)

    async def _gathered(self, batch: Batch, lease: Lease) -> tuple[report.RoundReport, Lease]:
        """Return all images of the round, and the lease as renewed meanwhile.

        Parts that an earlier closer has stored are read first, so that a closing of many images makes progress over
        crashes.
        """
        gathered, bucket, folder = (
            report.RoundReport(batch),
            self._settings.buckets.results,
            names.closing_folder(batch),
        )
        if batch.total > PART_IMAGES:
            async for stored in self._objects.list(bucket, folder):
                found = await self._objects.get(bucket, stored.name)
                if found is None or not gathered.absorb(msgspec.msgpack.decode(found[1], type=report.Part)):
                    break
                lease = await self._renewed(batch, lease)
        async for image in self._store.images(batch.id, start=gathered.end):
            gathered.add(image)
            if gathered.pending >= PART_IMAGES:
                name = f"{folder}{gathered.end:08}"
                part = msgspec.msgpack.encode(gathered.part())
                await self._objects.put(bucket, name, part, content_type="application/octet-stream")
            if gathered.end % PAGE_IMAGES == 0:
                lease = await self._renewed(batch, lease)
        return gathered, lease

    async def _forget_parts(self, batch: Batch) -> None:
        """Delete the stored parts. If this is interrupted, the bucket's lifecycle rule deletes the rest."""
        if batch.total > PART_IMAGES:
            bucket = self._settings.buckets.results
            async for stored in self._objects.list(bucket, names.closing_folder(batch)):
                await self._objects.delete(bucket, stored.name)

    async def _write_reports(self, batch: Batch, lease: Lease) -> Completion:
        """Write the round's files, each fenced by the revision at which the lease was taken. Raises `LostClaim`."""
        gathered, lease = await self._gathered(batch, lease)
        counted = await self._store.counts(batch.id)
        if gathered.counts != counted or counted.open:
            now_there = await self._store.batch(batch.id)
            if now_there is None or now_there.closer is None or now_there.closer.holder != lease.holder:
                raise LostClaim("images changed: a later round is under way")
            # Should be impossible: every settled image was folded before the sum was zero. Fail rather than write a
            # wrong bill.
            raise RuntimeError(f"{batch.id}: images count {gathered.counts}, tallies {counted}")
        files: dict[str, ReportFile] = {}
        for name, data in gathered.files():
            lease = await self._renewed(batch, lease)
            full = names.round_folder(batch) + name
            bucket, kind = self._settings.buckets.results, report.content_type(name)
            await put_fenced(self._objects, bucket, full, data, content_type=kind, fence=batch.revision)
            files[name] = ReportFile(name=full, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        counts = gathered.counts
        return Completion(
            outcome=report.outcome(counts),
            counts=counts,
            success_rate=round(counts.completed / counts.total, 4),
            cost_usd=decisions.money.usd(gathered.cost_micro_usd),
            estimated_usd=decisions.money.usd(gathered.estimated_micro_usd),
            cached=gathered.cached,
            price_usd=decisions.money.price_usd(
                self._settings.tiers, batch.tier, decisions.money.usd(gathered.cost_micro_usd)
            ),
            duration_seconds=round((batch.closing_at or batch.created_at) - batch.created_at, 3),
            reports=files,
        )

    async def show_progress(self, batch_id: str, *, at_once: bool = False) -> tuple[Batch, Counts] | None:
        """Refresh status.json and announce the latest tenth; return what was read, None if there is nothing to show.

        Without `at_once`, a status.json written a moment ago is left as it is, because the next change refreshes it.
        Callers after whom no change may come (a pause, for example) pass `at_once`.
        """
        batch = await self._store.batch(batch_id)
        if batch is None or batch.state in (BatchState.CLOSED, BatchState.REJECTED):
            return None
        counts, now = await self._store.counts(batch_id), self._clock.now()
        capacity = await fleet.capacity_now(self._store, self._settings, now, with_slots=False)
        bucket = self._settings.buckets.results
        await write_status(self._objects, bucket, batch, counts, now, capacity, at_once=at_once)
        await self._tell_progress(batch, counts, capacity)
        return batch, counts

    async def _tell_progress(self, batch: Batch, counts: Counts, capacity: Capacity | None) -> None:
        """Publish one event for the latest tenth, however many tenths have passed since the last one.

        Several events with the same counts at the same moment would tell a customer nothing. A repeated event has the
        same id.
        """
        tenth = min(9, counts.settled * 10 // batch.total if batch.total else 0)  # batch.completed announces the tenth
        if tenth <= batch.progress_announced:
            return
        now = self._clock.now()
        status = await self._objects.stat(self._settings.buckets.results, names.status_name(batch))
        data = progress_of(batch, counts, now, known_speed(status), capacity)
        event = batch_event(batch, f"{batch.id}/{batch.round}/progress/{tenth}", now, data)
        await self._queue.publish(EVENTS_TOPIC, [event.message()])
        decide = partial(decisions.batch.note_progress, round_now=batch.round, tenth=tenth)
        await self._store.change_batch(batch.id, decide, self._clock.token())

    async def announce(self, batch: Batch, *, again: bool = False) -> None:
        """Publish the round's completion event and record that.

        A crash in between repeats the event under the same id.

        `again` is for a client that has submitted the same manifest again: the event is repeated, status.json is up to
        date.
        """
        completion = batch.completion
        if completion is None or batch.closed_at is None:
            raise RuntimeError(f"{batch.id} is {batch.state} and has no completion to announce")
        await announce_control(self._store, self._queue, self._clock, batch)  # an earlier pause or cancel goes first
        bucket, counts = self._settings.buckets.results, completion.counts
        if not again:
            await write_status(self._objects, bucket, batch, counts, batch.closed_at)  # for clients that poll
        seconds, objects = self._settings.buckets.signed_link_seconds, self._objects
        links = {
            name: await objects.link(bucket, file.name, seconds) if seconds else objects.uri(bucket, file.name)
            for name, file in completion.reports.items()
        }
        data = BatchCompleted(
            batch_id=batch.id,
            client=batch.client,
            round=batch.round,
            outcome=completion.outcome,
            total=batch.total,
            counts=StateCounts(**{state.value: counts.of(state) for state in ImageState}),
            success_rate=completion.success_rate,
            cost_usd=completion.cost_usd,
            price_usd=completion.price_usd,
            cached=completion.cached,
            duration_seconds=completion.duration_seconds,
            reports={
                name: ReportLink(uri=links[name], sha256=file.sha256, bytes=file.bytes)
                for name, file in completion.reports.items()
            },
        )
        event = batch_event(batch, f"{batch.id}/{batch.round}", batch.closed_at, data)
        await self._queue.publish(EVENTS_TOPIC, [event.message()])
        announced = batch.round
        await self._store.change_batch(
            batch.id, lambda b: decisions.batch.note_announced(b, round_announced=announced), self._clock.token()
        )
