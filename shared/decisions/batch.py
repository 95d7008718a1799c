"""Everything that may happen to a batch, as pure functions: each answers the new document, or a `Refusal`.

`_changed` is the only place that makes a changed batch, and it raises the revision. The closing check depends on that:
it closes a batch only if the revision is still the one it read before it counted. tests/worlds explores these functions
exhaustively, beside one another.
"""

from __future__ import annotations

import math
from typing import Final, TypedDict, Unpack

import msgspec

from shared.model import (
    BATCH_MOVES,
    Batch,
    BatchMove,
    BatchState,
    Completion,
    Control,
    Counts,
    FailureThreshold,
    ImageState,
    Lease,
    Reconciled,
    Refusal,
    ReplayPlan,
    Tally,
    TierEmpty,
    shard_sizes,
)
from shared.settings import ReconcileRules

FINAL_STATES: Final = frozenset({BatchState.CLOSED, BatchState.REJECTED})
DROP_SECONDS: Final = 86_400.0  # Eventarc brings an event again for a day
MAX_DROPS: Final = 50  # remembered of a batch: far more than anybody drops within that day
# No replay begins when its batch's documents are deleted within this time: what it requeues may be paused, or wait for
# a daily quota, and an image that is deleted under way is lost. A queue keeps a task for 31 days at most.
LAST_SECONDS: Final = 30 * 86_400.0
RECORD_KEPT_SECONDS: Final = 30 * 86_400.0  # a batch's record, after reconcile's last look at it


class Changes(TypedDict, total=False):
    """The fields of a batch that a decision may set. Whatever is not listed here never changes once it is created."""

    state: BatchState
    control: Control
    control_epoch: int
    round: int
    tasks_published: int
    closing_at: float | None
    closed_at: float | None
    closer: Lease | None
    completion: Completion | None
    announced_round: int
    baseline: Counts
    paused_reason: str | None
    cancel_reason: str | None
    controlled_by: str | None
    controlled_at: float | None
    control_announced: str
    republished_at: float
    epoch_published: int
    replay: ReplayPlan | None
    replays: int
    retried: tuple[str, ...]
    progress_announced: int


def _changed(batch: Batch, **changes: Unpack[Changes]) -> Batch:
    """Return the batch with these changes, at the next revision."""
    return msgspec.structs.replace(batch, revision=batch.revision + 1, **changes)


# --- counting


def empty_tallies(batch: Batch) -> list[Tally]:
    """The shards of a new batch: every image of theirs open, none folded in yet."""
    sizes = shard_sizes(batch.total, batch.shards)
    return [Tally(batch=batch.id, shard=shard, counts=Counts(queued=size)) for shard, size in enumerate(sizes)]


def fold(tally: Tally, *, index: int, revision: int, state: ImageState) -> Tally | Refusal:
    """Count an image's newest state; an older or repeated revision changes nothing."""
    known_revision, known_state = tally.entries.get(index, (0, ImageState.QUEUED))
    if revision <= known_revision:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(
        tally,
        counts=tally.counts.moved(known_state, state),
        entries={**tally.entries, index: (revision, state)},
    )


# --- moving


def move(batch: Batch, move: BatchMove, **changes: Unpack[Changes]) -> Batch | Refusal:
    """Apply a batch's move by the table of transitions, with what else changes; `ILLEGAL` where the table has none."""
    state = BATCH_MOVES.get((batch.state, move))
    if state is None:
        return Refusal.ILLEGAL
    changes["state"] = state
    return _changed(batch, **changes)


def note_taken_in(batch: Batch, *, place: int) -> Batch | Refusal:
    """Remember that the images below `place` exist and that their tasks were published."""
    return Refusal.UNCHANGED if batch.tasks_published >= place else _changed(batch, tasks_published=place)


# --- closing


def begin_closing(batch: Batch, *, seen_revision: int, lease: Lease, now: float) -> Batch | Refusal:
    """From processing to closing, only if the batch is still the one that was read before the sum."""
    if batch.revision != seen_revision:
        return Refusal.STALE_REVISION
    return move(batch, BatchMove.BEGIN_CLOSING, closer=lease, closing_at=now)


def take_closer(batch: Batch, *, lease: Lease, now: float) -> Batch | Refusal:
    """Carry on an interrupted closing once its closer's lease has run out."""
    if batch.state is not BatchState.CLOSING:
        return Refusal.ILLEGAL
    if batch.closer and batch.closer.until > now:
        return Refusal.BUSY
    return _changed(batch, closer=lease)


def renew_closer(batch: Batch, *, lease: Lease) -> Batch | Refusal:
    """Keep the lease while the reports are written; refused when another closer has taken over."""
    if batch.state is not BatchState.CLOSING or batch.closer is None or batch.closer.holder != lease.holder:
        return Refusal.STALE_FENCE
    return _changed(batch, closer=lease)


def free_closer(batch: Batch) -> Batch | Refusal:
    """End the closer's lease before its time: its holder is known to be dead."""
    return Refusal.UNCHANGED if batch.closer is None else _changed(batch, closer=None)


def close(batch: Batch, *, holder: str, completion: Completion, now: float) -> Batch | Refusal:
    """From closing to closed, with the payload of the round's completion event; by the lease's holder only.

    A closer that stalled beyond its lease may find a later round closing: its completion is not that round's.
    """
    if batch.closer is None or batch.closer.holder != holder:
        return Refusal.STALE_FENCE if batch.state is BatchState.CLOSING else Refusal.ILLEGAL
    return move(batch, BatchMove.CLOSE, completion=completion, closer=None, closed_at=now)


def note_announced(batch: Batch, *, round_announced: int) -> Batch | Refusal:
    """Remember that a round's completion event has been published."""
    if batch.announced_round >= round_announced:
        return Refusal.UNCHANGED
    return _changed(batch, announced_round=round_announced)


def note_progress(batch: Batch, *, round_now: int, tenth: int) -> Batch | Refusal:
    """Remember which tenth of the round was announced."""
    if batch.round != round_now or batch.progress_announced >= tenth:
        return Refusal.UNCHANGED
    return _changed(batch, progress_announced=tenth)


# --- what operators ask for


class By(msgspec.Struct, frozen=True):
    """Who asked for a change of control, and when. `person` is None when the pipeline itself did."""

    person: str | None
    at: float

    def note(self, batch: Batch | Refusal) -> Batch | Refusal:
        """The changed batch with its author."""
        if isinstance(batch, Refusal):
            return batch
        return msgspec.structs.replace(batch, controlled_by=self.person, controlled_at=self.at)


def pause(batch: Batch, *, reason: str, seen: Batch | None = None) -> Batch | Refusal:
    """From run to paused, with the reason that people will read.

    `seen`: the batch whose counts were the reason; resumed or replayed since, they are a reason no more.
    """
    if batch.state in FINAL_STATES:
        return Refusal.ILLEGAL
    if seen is not None and (seen.control_epoch, seen.replays) != (batch.control_epoch, batch.replays):
        return Refusal.STALE_REVISION
    if batch.control is not Control.RUN:
        return Refusal.UNCHANGED if batch.control is Control.PAUSED else Refusal.ILLEGAL
    return _changed(batch, control=Control.PAUSED, paused_reason=reason)


def resume(batch: Batch, *, counts: Counts) -> Batch | Refusal:
    """From paused to run at a higher epoch: tasks that workers forgot while it was paused are older.

    The failure threshold counts from here: `counts` are the batch's own now.
    """
    if batch.control is Control.CANCELLING or batch.state in FINAL_STATES:
        return Refusal.ILLEGAL
    if batch.control is Control.RUN:
        return Refusal.UNCHANGED
    return _changed(
        batch,
        control=Control.RUN,
        paused_reason=None,
        control_epoch=batch.control_epoch + 1,
        baseline=counts,
    )


def note_published(batch: Batch, *, epoch: int) -> Batch | Refusal:
    """Remember that the queued images of this epoch have been published."""
    if batch.epoch_published >= epoch:
        return Refusal.UNCHANGED
    return _changed(batch, epoch_published=epoch)


def begin_cancel(batch: Batch, *, reason: str | None = None) -> Batch | Refusal:
    """Cancel for good: there is no way back to run."""
    if batch.state in FINAL_STATES or batch.state is BatchState.CLOSING:
        return Refusal.ILLEGAL
    if batch.control is Control.CANCELLING:
        return Refusal.UNCHANGED
    return _changed(batch, control=Control.CANCELLING, cancel_reason=reason)


def note_control_announced(batch: Batch, *, name: str) -> Batch | Refusal:
    """Remember that the event of this pause or cancel has been published."""
    if batch.control_announced == name:
        return Refusal.UNCHANGED
    return _changed(batch, control_announced=name)


def threshold_passed(threshold: FailureThreshold, minimum_sample: int, baseline: Counts, counts: Counts) -> bool:
    """Whether too many images have failed since the baseline. A share is taken of at least the minimum sample.

    `minimum_sample` is the settings', for a threshold without one of its own; a number of failures needs none.
    """
    failed, settled = counts.failed - baseline.failed, counts.settled - baseline.settled
    if threshold.count is not None and failed >= threshold.count:
        return True
    sample = minimum_sample if threshold.minimum_sample is None else threshold.minimum_sample
    return threshold.percent is not None and settled >= sample and failed * 100 >= threshold.percent * settled


# --- replaying


def begin_replay(
    batch: Batch,
    *,
    codes: tuple[str, ...],
    lease: Lease,
    counts: Counts,
    now: float,
    failed_before: float | None = None,
    drop: str = "",
    kept_seconds: float = math.inf,
) -> Batch | Refusal:
    """To reopening: a new round if the batch was closed; the same plan if a replay was interrupted.

    A new one is refused in the last `LAST_SECONDS` before the batch's documents are deleted, `kept_seconds` after it
    was created. One that a failed.csv asked for is carried on by that `drop` of it; when it has not come for a day, by
    anybody.

    From here on the failure threshold counts what fails anew: `counts` are the batch's own now.
    """
    if batch.state is BatchState.REOPENING and batch.replay is not None:
        if batch.replay.lease.until > now or not may_carry_on(batch.replay, drop, now):
            return Refusal.BUSY
        taken = msgspec.structs.replace(batch.replay, lease=lease)
        return _changed(batch, replay=taken)
    if now > batch.created_at + kept_seconds - LAST_SECONDS:
        return Refusal.EXPIRING
    if batch.control is Control.CANCELLING:
        return Refusal.ILLEGAL
    number = batch.replays + 1
    plan = ReplayPlan(number=number, codes=codes, lease=lease, failed_before=failed_before, drop=drop)
    changes = Changes(replay=plan, replays=number, baseline=counts)
    if drop:
        changes["retried"] = (*batch.retried, drop)[-MAX_DROPS:]
    if batch.state is not BatchState.CLOSED:
        if batch.control is Control.PAUSED:
            return Refusal.PAUSED  # it would be queued again and not run
        return move(batch, BatchMove.REOPEN, **changes)
    if batch.announced_round < batch.round:
        return Refusal.BUSY  # announce first
    changes |= Changes(round=batch.round + 1, progress_announced=0)
    if batch.control is Control.PAUSED:  # it closed while paused: that pause is over, or nothing of the new round runs
        epoch = batch.control_epoch + 1
        changes |= Changes(control=Control.RUN, paused_reason=None, control_epoch=epoch, epoch_published=epoch)
    return move(batch, BatchMove.REOPEN, **changes)


def may_carry_on(plan: ReplayPlan, drop: str, now: float) -> bool:
    """Whether who holds `drop` (none: an operator, or reconcile) may take up an interrupted replay."""
    return plan.drop in ("", drop) or plan.lease.until + DROP_SECONDS < now


def renew_replay(batch: Batch, *, lease: Lease) -> Batch | Refusal:
    """Keep the lease; refused when another replay has taken over."""
    if batch.state is not BatchState.REOPENING or batch.replay is None or batch.replay.lease.holder != lease.holder:
        return Refusal.BUSY
    return _changed(batch, replay=msgspec.structs.replace(batch.replay, lease=lease))


def end_replay(batch: Batch, *, holder: str, requeued: int) -> Batch | Refusal:
    """Back to processing, by the holder of the replay's lease only. The images requeued are failures no more."""
    if batch.replay is None or batch.replay.lease.holder != holder:
        return Refusal.BUSY
    left = msgspec.structs.replace(batch.baseline, failed=max(0, batch.baseline.failed - requeued))
    return move(batch, BatchMove.RESUME, replay=None, baseline=left)


# --- reconciling


def note_republished(batch: Batch, *, now: float) -> Batch:
    """Remember when reconcile last published forgotten images of the batch again."""
    return _changed(batch, republished_at=now)


def forgotten_before(batch: Batch, emptied: TierEmpty | None, now: float, rules: ReconcileRules) -> float | None:
    """Return the time before which an open image must have moved last to be forgotten; None: none is to be published.

    A pull does not show messages that are leased or backing off, so one empty look at a tier is not enough. Workers
    note when they found it empty. It must have been twice since the image moved, and twice since the batch was last
    published again: otherwise a queue that seemed empty once would be filled every half hour.
    """
    if emptied is None or len(emptied.seen_at) < 2:
        return None
    if now - batch.republished_at < rules.every_seconds or emptied.seen_at[0] <= batch.republished_at:
        return None
    # Up to and including untouched_seconds ago, and before the first of the two looks.
    return min(emptied.seen_at[0], math.nextafter(now - rules.untouched_seconds, math.inf))


def note_run(known: Reconciled | None, server_now: float, *, at: float, moved_at: float, swept: bool) -> Reconciled:
    """Return the record after a run that began `at`. Of two runs at once the later one counts.

    Never later than the server's own time: a clock that is ahead must not hide what moves until then.
    """
    known = known or Reconciled()
    began = min(at, server_now)
    return Reconciled(
        at=max(known.at, began),
        moved_at=max(known.moved_at, moved_at),
        swept_at=max(known.swept_at, began) if swept else known.swept_at,
        expires_at=server_now + RECORD_KEPT_SECONDS,
    )
