"""Replay: failed images of a batch get a new round. Announce, reopen, requeue, fold, publish, process, check.

This order keeps completion events correct. A closed round is announced before the batch leaves it. The batch is
`reopening` while images are requeued, so that no closing check can act on a sum taken in between. Every requeue is
folded into its shard before the batch may close again. After a crash, running it again resumes the same plan.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from shared import decisions, errors
from shared.errors import Busy, Unreadable
from shared.lifecycle import closing
from shared.lifecycle.fleet import Scaling
from shared.messages import Letter, decode, is_letter, task_message
from shared.model import (
    Batch,
    BatchState,
    Control,
    Correction,
    Image,
    ImageState,
    Lease,
    Refusal,
    ReplayPlan,
    Tally,
)
from shared.ports import BatchStore, Clock, Queue
from shared.topology import DEAD_LETTER_KEPT, topic_of

# How long after a crash another process may take over a replay. Far above the 30 s that a single write may take, so
# that a replay that has lost its lease cannot have a write in progress.
LEASE_SECONDS: Final = 120.0
RENEW_SECONDS: Final = 40.0
SLICE_SECONDS: Final = 1.0  # pauses are slept in slices of this: how late a replay notices that it should stop
CHUNK: Final = 100  # images requeued, folded and published together
LETTERS_AT_ONCE: Final = 100
# Letters of images that are still failed stay in the operators' subscription, so a pass stops when it sees them again.
# This limit bounds one pass, whose seen ids are kept in memory.
MAX_LETTERS: Final = 100_000


WHY_NOT: Final = {
    Refusal.PAUSED: "it is paused; resume it first",
    Refusal.ILLEGAL: "its manifest is still being read, or it is being closed, or it was cancelled",
    Refusal.BUSY: "another replay is in progress, or its last round is still being announced",
    Refusal.MISSING: "there is no such batch",
    Refusal.EXPIRING: "its documents are deleted within 30 days; submit the failed photos as a new batch",
}


class Plan(msgspec.Struct, frozen=True):
    """What a replay of one batch would do: the number of failed images by error code.

    `interrupted` says that it would resume an interrupted replay.
    """

    batch: str
    client: str
    codes: dict[str, int]
    interrupted: bool = False

    @property
    def images(self) -> int:
        return sum(self.codes.values())


class Replay:
    """Requeues the failed images of a batch. The operators' command, an uploaded failed.csv and reconcile run it.

    `kept_seconds` is how long a batch's documents are kept after its creation.
    """

    def __init__(
        self,
        store: BatchStore,
        queue: Queue,
        closer: closing.Closer,
        scaling: Scaling,
        clock: Clock,
        kept_seconds: float = math.inf,
    ) -> None:
        self._store = store
        self._queue = queue
        self._closer = closer
        self._scaling = scaling
        self._clock = clock
        self._kept_seconds = kept_seconds

    async def plan(self, batch: Batch, codes: tuple[str, ...] = (), older_than_seconds: float = 0.0) -> Plan:
        """Return what `run` would requeue; images of all codes when none is given.

        An interrupted replay keeps its own plan.
        """
        kept = batch.replay if batch.state is BatchState.REOPENING else None
        before = self._clock.now() - older_than_seconds if older_than_seconds else None
        found: Counter[str] = Counter()
        chosen = kept or ReplayPlan(lease=self._lease(), number=batch.replays + 1, codes=codes, failed_before=before)
        async for image in self._failed(batch.id, chosen):
            found[image.error.code if image.error else "unknown"] += 1
        return Plan(batch.id, batch.client, dict(found), interrupted=kept is not None)

    async def _failed(
        self, batch_id: str, plan: ReplayPlan, wanted: Mapping[int, Correction] | None = None
    ) -> AsyncIterator[Image]:
        """Yield the failed images that the plan covers and that this replay has not requeued yet."""
        async for image in self._store.images(batch_id, ImageState.FAILED):
            coded = not plan.codes or (image.error is not None and image.error.code in plan.codes)
            early = plan.failed_before is None or (image.settled_at or 0.0) <= plan.failed_before
            meant = wanted is None or image.index in wanted
            if coded and early and meant and image.replay < plan.number:
                yield image

    async def run(
        self,
        batch_id: str,
        codes: tuple[str, ...] = (),
        *,
        older_than_seconds: float = 0.0,
        images_per_second: float | None = None,
        progress: Callable[[int], None] = lambda requeued: None,
        stop: asyncio.Event | None = None,
        wanted: Mapping[int, Correction] | None = None,
        drop: str = "",
    ) -> int:
        """Requeue failed images, optionally filtered by code and age. Return how many. Raises `Busy`.

        `wanted` limits the replay to these images, by index, and says what each is to be staged as; None means all of
        them, unchanged. `images_per_second` limits the rate.

        Once `stop` is set, it ends in an orderly way: requeued images run, and the rest stay failed for the next
        replay. If it is killed, the batch stays `reopening` until the replay is run again or reconcile resumes it.
        """
        await self._checked(batch_id)  # announces the last round and finishes an interrupted closing
        lease = self._lease()
        now = self._clock.now()
        before = now - older_than_seconds if older_than_seconds else None
        counts = await self._store.counts(batch_id)
        decide = partial(
            decisions.batch.begin_replay,
            codes=codes,
            lease=lease,
            counts=counts,
            now=now,
            failed_before=before,
            drop=drop,
            kept_seconds=self._kept_seconds,
        )
        begun = await self._store.change_batch(batch_id, decide, self._clock.token())
        if isinstance(begun, Refusal) or begun.replay is None:
            why = WHY_NOT.get(begun, str(begun)) if isinstance(begun, Refusal) else "it has no plan"
            refusal = begun if isinstance(begun, Refusal) else None
            raise Busy(f"{batch_id} cannot be replayed now: {why}", refusal)
        stop = stop or asyncio.Event()
        if wanted is None and begun.replay.drop:
            wanted = {}  # its drop was never redelivered: what it has requeued runs, the rest stays failed
        requeued = await self._requeue(begun, lease, begun.replay, images_per_second, progress, stop, wanted)
        ended = await self._store.change_batch(
            batch_id,
            lambda b: decisions.batch.end_replay(b, holder=lease.holder, requeued=requeued),
            self._clock.token(),
        )
        if isinstance(ended, Refusal):
            raise Busy(f"another replay of {batch_id} has taken over")
        await self._checked(batch_id)
        await self._scaling.wake()
        return requeued

    async def _checked(self, batch_id: str) -> None:
        """Run the closing check. If another closer is at work, that is fine."""
        with suppress(errors.StillClosing):
            await self._closer.check(batch_id)

    def _lease(self, holder: str | None = None) -> Lease:
        return Lease(holder=holder or self._clock.token(), until=self._clock.now() + LEASE_SECONDS)

    async def _requeue(
        self,
        batch: Batch,
        lease: Lease,
        plan: ReplayPlan,
        images_per_second: float | None,
        progress: Callable[[int], None],
        stop: asyncio.Event,
        wanted: Mapping[int, Correction] | None,
    ) -> int:
        """Requeue, fold and publish the images in chunks, at most `images_per_second`. Return how many."""
        # An interrupted replay may have requeued these without folding or publishing them.
        renewed_at, requeued = self._clock.monotonic(), 0
        async for images in _chunked(self._store.images(batch.id, ImageState.QUEUED), CHUNK):
            await self._fold_and_publish(batch, images)
            renewed_at = await self._renew(batch.id, lease, renewed_at)
        # A slow rate needs small chunks: a pause after each keeps it even, instead of 100 images and then a long pause.
        size = CHUNK if images_per_second is None else max(1, min(CHUNK, int(images_per_second)))
        pause = 0.0
        async for images in _chunked(self._failed(batch.id, plan, wanted), size):
            while pause > 0 and not stop.is_set():  # sleeps in slices, so that a slow replay keeps its lease
                await self._clock.sleep(min(pause, SLICE_SECONDS))
                pause -= SLICE_SECONDS
                renewed_at = await self._renew(batch.id, lease, renewed_at)
            if stop.is_set() or await self._cancelled(batch.id):
                break  # images not requeued yet stay failed: a cancel keeps what is settled
            renewed_at = await self._renew(batch.id, lease, renewed_at)
            tried = [await self._requeue_one(image, plan, (wanted or {}).get(image.index)) for image in images]
            done = [image for image in tried if image is not None]
            await self._fold_and_publish(batch, done)
            if done and not requeued:
                await self._scaling.wake()  # a slow replay runs for long, so do not wait for its end
            requeued += len(done)
            progress(requeued)
            pause = len(done) / images_per_second if images_per_second else 0.0
        return requeued

    async def _cancelled(self, batch_id: str) -> bool:
        batch = await self._store.batch(batch_id)
        return batch is None or batch.control is Control.CANCELLING

    async def _renew(self, batch_id: str, lease: Lease, renewed_at: float) -> float:
        """Renew the lease when it is due; return when it was last renewed.

        Raises `Busy` when another process has it.
        """
        if self._clock.monotonic() - renewed_at < RENEW_SECONDS:
            return renewed_at
        longer = self._lease(lease.holder)
        kept = await self._store.change_batch(
            batch_id, lambda b: decisions.batch.renew_replay(b, lease=longer), self._clock.token()
        )
        if isinstance(kept, Refusal):
            raise Busy(f"another replay of {batch_id} has taken over")
        return self._clock.monotonic()

    async def _requeue_one(self, image: Image, plan: ReplayPlan, correction: Correction | None) -> Image | None:
        """Requeue one image; return it, or None if it has changed since it was listed."""
        decide = partial(
            decisions.image.requeue_seen,
            seen_revision=image.revision,
            replay=plan.number,
            now=self._clock.now(),
            correction=correction,
        )
        changed = await self._store.change_image(image.batch, image.index, decide, self._clock.token(), seen=image)
        if isinstance(changed, Image):
            return changed
        # Another replay requeued it: one of the two clocks is off. It must be folded before the batch may close.
        now = await self._store.image(image.batch, image.index)
        if now is not None:
            await fold_image(self._store, now, self._clock)
        return None

    async def _fold_and_publish(self, batch: Batch, images: list[Image]) -> None:
        """Fold, then publish: once folded, the batch cannot close without these images."""
        for image in images:
            await fold_image(self._store, image, self._clock)
        tasks = [task_message(image, batch.control_epoch) for image in images]
        if tasks:
            await self._queue.publish(topic_of(batch.tier), tasks)

    async def drain_letters(self, stop: asyncio.Event | None = None) -> int:
        """Ack every kept letter whose image is no longer failed, until `stop` is set. Return how many."""
        drained, seen = 0, set[str]()
        while len(seen) < MAX_LETTERS and not (stop is not None and stop.is_set()):
            deliveries = await self._queue.pull(DEAD_LETTER_KEPT, LETTERS_AT_ONCE, 1.0)
            fresh = [delivery for delivery in deliveries if delivery.message_id not in seen]
            seen.update(delivery.message_id for delivery in fresh)
            stand = await asyncio.gather(*(self._stands(d.data, d.attributes) for d in fresh))
            done = [d.ack_id for d, stands in zip(fresh, stand, strict=True) if not stands]
            if done:
                await self._queue.ack(DEAD_LETTER_KEPT, done)
                drained += len(done)
            if not fresh:
                break
        return drained

    async def _stands(self, data: bytes, attributes: object) -> bool:
        """Return whether the letter's image is still failed in the same round."""
        try:
            letter = decode(Letter, data) if isinstance(attributes, dict) and is_letter(attributes) else None
        except Unreadable:
            return False
        if letter is None or letter.task is None:
            return False
        image = await self._store.image(letter.task.batch, letter.task.index)
        return image is not None and image.state is ImageState.FAILED and image.round == letter.task.round


async def fold_image(store: BatchStore, image: Image, clock: Clock) -> Tally | Refusal:
    """Count an image's current state in its shard, by the same decision as AGGREGATE."""
    fold = partial(decisions.batch.fold, index=image.index, revision=image.revision, state=image.state)
    return await store.change_tally(image.batch, image.shard, fold, clock.token())


async def _chunked(images: AsyncIterator[Image], size: int) -> AsyncIterator[list[Image]]:
    chunk: list[Image] = []
    async for image in images:
        chunk.append(image)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
