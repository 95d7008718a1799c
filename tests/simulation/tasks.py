"""Promise 1, judged where it is kept, and not only by what reconcile mends in the end: no task is dropped that is needed.

Whoever takes a message away leaves its image settled, in another round, or to somebody who will publish it again.
Beside these stand what is told of a pause or cancel, and what a halt and reconcile must leave alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from shared.messages import Task, decode
from shared.model import Batch, BatchState, Control, Image, ImageState, Tier, TierEmpty
from shared.ports import Message
from shared.topology import topic_of
from tests.simulation.faults import LATE_SECONDS, PROCESS, Faults, Hand, Key, Process
from tests.simulation.waiting import TASKS

OPEN: Final = frozenset({ImageState.QUEUED, ImageState.PROCESSING})
MAX_ATTEMPTS: Final = 3
# Errors of the world and bugs: another attempt may do. All others are the image's own.
PASSING: Final = frozenset({
    "source_unavailable", "vendor_unavailable", "vendor_timeout", "vendor_bad_answer", "storage_unavailable", "internal",
})  # fmt: skip
UNTOUCHED_SECONDS: Final = 900.0
HALT_SECONDS: Final = 60.0
PULLS_IN_VAIN: Final = 12  # in a row, until a worker may say that a tier is empty
UNDER_WAY_SECONDS: Final = 5.5  # a pull that was begun before a halt reaches the queue so late


class Tasks:
    """Follows messages and what is told of batches. `stopped_since` tells of a batch and a time."""

    def __init__(
        self,
        faults: Faults,
        blame: Callable[[str], None],
        images: dict[Key, Image],
        batches: dict[str, Batch],
        stopped_since: Callable[[str, float], bool],
        epoch: float,
    ) -> None:
        self._faults, self._blame, self._images, self._batches = faults, blame, images, batches
        self._stopped_since, self._epoch = stopped_since, epoch
        self._left_queue: dict[Key, float] = {}  # when an image was last queued
        self._written: dict[Key | str, float] = {}  # when an image, or a batch's epochs and state, were last written
        self._empty: dict[str, TierEmpty] = {}
        self._owed: dict[str, tuple[float, Process | None]] = {}  # events of pauses and cancels, by whom since when
        self._known: set[str] = set()
        # Of each process and subscription: pulls that brought nothing, in a row; the most of them since it was last told.
        self._in_vain: dict[tuple[Process, str], tuple[int, int]] = {}

    # --- images and who has them

    def image(self, before: Image, now: Image) -> None:
        """A document was written."""
        key, at = (now.batch, now.index), self._faults.loop.time()
        self._written[key] = at
        if before.state is ImageState.QUEUED:
            self._left_queue[key] = at
        code = now.error.code if now.error is not None else None
        early = now.state is ImageState.FAILED and before.state in OPEN and now.attempts < MAX_ATTEMPTS
        if early and code in PASSING:
            self._blame(f"{key}: failed with {code} after {now.attempts} attempts")

    def put_down(self, hand: Hand, action: str) -> None:
        """A worker has answered a delivery."""
        at, process = self._faults.loop.time(), hand.process
        if action == "halt":
            process.halted_at = at
        elif hand.began > process.halted_at:
            process.halted_at = -math.inf  # the fault is over
        image = self._images.get(hand.key)
        if action != "ack" or image is None or image.round != hand.round or image.state not in OPEN:
            return
        queued = image.state is ImageState.QUEUED or self._left_queue.get(hand.key, -math.inf) >= hand.began
        if not queued or not self._stopped_since(hand.key[0], hand.began):
            self._blame(f"{hand.key}: its task is acked while it is {image.state}, round {image.round}")

    def pulled(self, subscription: str) -> None:
        """A worker asks for more: not after a fault of our own."""
        process = PROCESS.get()
        if subscription not in TASKS or process is None or process.silent_until:
            return
        if UNDER_WAY_SECONDS < self._faults.loop.time() - process.halted_at < HALT_SECONDS:
            self._blame(f"{process.name} pulls, {self._faults.loop.time() - process.halted_at:.1f} s after a halt")

    def brought(self, subscription: str, count: int) -> None:
        """A pull has come to its end."""
        process = PROCESS.get()
        if subscription in TASKS and process is not None:
            row, most = self._in_vain.get((process, subscription), (0, 0))
            row = 0 if count else row + 1
            self._in_vain[process, subscription] = (row, max(row, most))

    def letter(self, process: Process, key: Key, task_round: int) -> None:
        """DEAD LETTER has taken a letter away."""
        image = self._images.get(key)
        if image is not None and image.round == task_round and image.state in OPEN and key not in process.sent:
            self._blame(f"{key}: its letter is acked while it is {image.state} with {image.attempts} attempts spent")

    # --- what is published

    def published(self, topic: str, messages: Sequence[Message]) -> None:
        process = PROCESS.get()
        if topic not in TASKS or process is None:
            return
        for message in messages:
            task = decode(Task, message.data)
            process.sent.add((task.batch, task.index))
            if process.doing == "reconcile":
                self._forgotten(process, (task.batch, task.index))

    def emptied(self, now: TierEmpty) -> None:
        """A tier was found empty, by a process that has pulled in vain often enough."""
        self._empty[now.tier.value] = now
        process = PROCESS.get()
        if process is None:
            return
        row, most = self._in_vain.get((process, topic_of(now.tier)), (0, 0))
        self._in_vain[process, topic_of(now.tier)] = (row, 0)
        if most < PULLS_IN_VAIN:
            self._blame(f"{process.name} found {now.tier.value} empty after {most} pulls in vain")

    def looks(self, tier: Tier) -> tuple[float, ...]:
        """When the tier was last found empty."""
        known = self._empty.get(tier.value)
        return known.seen_at if known is not None else ()

    def _forgotten(self, process: Process, key: Key) -> None:
        """Reconcile publishes what nothing has touched for long and nobody found in the queue, twice since then.

        And twice since the batch was last published again: that filled the queue.
        """
        image, batch = self._images[key], self._batches[key[0]]
        carried_on = batch.state is BatchState.REOPENING or batch.epoch_published < batch.control_epoch
        moved = max(self._written.get(key, -math.inf), self._written.get(batch.id, -math.inf)) >= process.began
        if carried_on or moved:
            return
        touched = max(image.touched_at, image.created_at, image.claim.at if image.claim else 0.0)
        untouched = self._epoch + self._faults.loop.time() + process.clock.fastest(process.began) - touched
        empty = self._empty.get(batch.tier.value)
        since = max(touched, batch.republished_at)
        if untouched < UNTOUCHED_SECONDS or empty is None or len(empty.seen_at) < 2 or empty.seen_at[0] <= since:
            self._blame(f"{key}: published again {untouched:.0f} s after it was touched, queue {empty}")

    # --- what is told of a batch

    def batch(self, before: Batch, now: Batch) -> None:
        """A document was written: a pause or a cancel is owed an event."""
        at = self._faults.loop.time()
        marks = lambda batch: (batch.state, batch.control_epoch, batch.epoch_published)
        if marks(before) != marks(now):
            self._written[now.id] = at
        if now.control is before.control:
            return
        name = _told_of(now)
        if name is not None:
            self._owed[name] = (at, PROCESS.get())
            self._known.add(name)
        over = _told_of(before)
        if over is not None and over in self._owed:
            since, process = self._owed.pop(over)
            hindered = process is not None and process.faults
            if not hindered and at - since > LATE_SECONDS:
                self._blame(f"{over}: was never told, and the batch is {now.control}")

    def told(self, identity: str) -> None:
        """An event of a pause or cancel."""
        self._owed.pop(identity, None)
        if identity not in self._known:
            self._blame(f"{identity}: told, and never was")

    def finally_right(self) -> None:
        for name in self._owed:
            self._blame(f"{name}: was never told")


def _told_of(batch: Batch) -> str | None:
    """The id of the event that tells of the batch's control."""
    names = {Control.PAUSED: f"{batch.id}/paused/{batch.control_epoch}", Control.CANCELLING: f"{batch.id}/cancelled"}
    return names.get(batch.control)
