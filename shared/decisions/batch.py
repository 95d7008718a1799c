"""Everything that may happen to a batch, as pure functions: each returns the new document, or a `Refusal`.

`_changed` is the only place that makes a changed batch, and it raises the revision. The closing check depends on that:
it closes a batch only if the revision is still the one that it read before counting. tests/worlds runs these functions
in every order that concurrent callers can produce.
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
DROP_SECONDS: Final = 86_400.0  # Eventarc redelivers an event for one day
MAX_DROPS: Final = 50  # drops remembered per batch: far more than anyone uploads within that day
# No replay begins when its batch's documents will be deleted within this time. The images it requeues may be paused, or
# wait for a daily quota, and an image whose document is deleted meanwhile is lost. A queue keeps a task for at most 31
# days.
LAST_SECONDS: Final = 30 * 86_400.0
RECORD_KEPT_SECONDS: Final = 30 * 86_400.0  # a batch's record, after reconcile's last look at it


class Changes(TypedDict, total=False):
    """The fields of a batch that a decision may set. Every other field is fixed when the batch is created."""

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
    """Return the shards of a new batch, with every image queued and none folded in yet."""
    sizes = shard_sizes(batch.total, batch.shards)
    return [Tally(batch=batch.id, shard=shard, counts=Counts(queued=size)) for shard, size in enumerate(sizes)]


def fold(tally: Tally, *, index: int, revision: int, state: ImageState) -> Tally | Refusal:
    """Count an image's newest state in its shard's tally.

    Events arrive late and more than once. A revision that is not newer than the one already counted changes nothing.
    """
    known_revision, known_state = tally.entries.get(index, (0, ImageState.QUEUED))
    if revision <= known_revision:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(
        tally,
        counts=tally.counts.moved(known_state, state),
        entries={**tally.entries, index: (revision, state)},
    )


# --- moving


def apply(batch: Batch, move: BatchMove, **changes: Unpack[Changes]) -> Batch | Refusal:
    """Apply `move` by the transition table together with `changes`.

    Refuses with `ILLEGAL` where the table has no entry.
    """
    state = BATCH_MOVES.get((batch.state, move))
    if state is None:
        return Refusal.ILLEGAL
    changes["state"] = state
    return _changed(batch, **changes)


def note_taken_in(batch: Batch, *, place: int) -> Batch | Refusal:
    """Record that the images below index `place` exist and that their tasks were published.

    Ingest resumes from there after a crash.
    """
    return Refusal.UNCHANGED if batch.tasks_published >= place else _changed(batch, tasks_published=place)


# --- closing


def begin_closing(batch: Batch, *, seen_revision: int, lease: Lease, now: float) -> Batch | Refusal:
    """Move from processing to closing, under `lease`, if the batch is still at `seen_revision`.

    The caller read that revision before it summed the shards. A higher one means that the sum may be out of date, for
    example because a replay has begun.
    """
    if batch.revision != seen_revision:
        return Refusal.STALE_REVISION
    return apply(batch, BatchMove.BEGIN_CLOSING, closer=lease, closing_at=now)


def take_closer(batch: Batch, *, lease: Lease, now: float) -> Batch | Refusal:
    """Take over an interrupted closing once its closer's lease has run out. Refuses with `BUSY` before that."""
    if batch.state is not BatchState.CLOSING:
        return Refusal.ILLEGAL
    if batch.closer and batch.closer.until > now:
        return Refusal.BUSY
    return _changed(batch, closer=lease)


def renew_closer(batch: Batch, *, lease: Lease) -> Batch | Refusal:
    """Extend the lease while the reports are written. Refuses when another closer has taken over."""
    if batch.state is not BatchState.CLOSING or batch.closer is None or batch.closer.holder != lease.holder:
        return Refusal.STALE_FENCE
    return _changed(batch, closer=lease)


def free_closer(batch: Batch) -> Batch | Refusal:
    """End the closer's lease early. For callers that know its holder is dead."""
    return Refusal.UNCHANGED if batch.closer is None else _changed(batch, closer=None)


def close(batch: Batch, *, holder: str, completion: Completion, now: float) -> Batch | Refusal:
    """Move from closing to closed, with the payload of the round's completion event. Only the lease's holder may.

    A closer that stalled beyond its lease may find that a later round is closing. Its completion describes the earlier
    one.
    """
    if batch.closer is None or batch.closer.holder != holder:
        return Refusal.STALE_FENCE if batch.state is BatchState.CLOSING else Refusal.ILLEGAL
    return apply(batch, BatchMove.CLOSE, completion=completion, closer=None, closed_at=now)


def note_announced(batch: Batch, *, round_announced: int) -> Batch | Refusal:
    """Record that the completion event of `round_announced` has been published."""
    if batch.announced_round >= round_announced:
        return Refusal.UNCHANGED
    return _changed(batch, announced_round=round_announced)


def note_progress(batch: Batch, *, round_now: int, tenth: int) -> Batch | Refusal:
    """Record that `batch.progress` was published for this tenth of round `round_now`."""
    if batch.round != round_now or batch.progress_announced >= tenth:
        return Refusal.UNCHANGED
    return _changed(batch, progress_announced=tenth)


# --- what operators ask for


class By(msgspec.Struct, frozen=True):
    """Who asked for a change of control, and when. `person` is None when the pipeline itself did.

    `at` is in seconds since the epoch.
    """

    person: str | None
    at: float


def _signed(changes: Changes, by: By | None) -> Changes:
    """Return the changes of control with their author, if there is one to record."""
    return changes if by is None else changes | Changes(controlled_by=by.person, controlled_at=by.at)


def pause(batch: Batch, *, reason: str, seen: Batch | None = None, by: By | None = None) -> Batch | Refusal:
    """Move from run to paused, with a `reason` for people to read.

    `seen` is the batch whose counts were the reason (the failure threshold). If it was resumed or replayed since, those
    counts no longer justify a pause, and the decision refuses with `STALE_REVISION`.
    """
    if batch.state in FINAL_STATES:
        return Refusal.ILLEGAL
    if seen is not None and (seen.control_epoch, seen.replays) != (batch.control_epoch, batch.replays):
        return Refusal.STALE_REVISION
    if batch.control is not Control.RUN:
        return Refusal.UNCHANGED if batch.control is Control.PAUSED else Refusal.ILLEGAL
    return _changed(batch, **_signed(Changes(control=Control.PAUSED, paused_reason=reason), by))


def resume(batch: Batch, *, counts: Counts, by: By | None = None) -> Batch | Refusal:
    """Move from paused to run, at a higher control epoch, and count failures for the threshold from `counts` on.

    Workers drop the tasks of a paused batch. The epoch shows that its queued images have to be published again. Without
    the new baseline, the failures that caused the pause would pause the batch again at once.
    """
    if batch.control is Control.CANCELLING or batch.state in FINAL_STATES:
        return Refusal.ILLEGAL
    if batch.control is Control.RUN:
        return Refusal.UNCHANGED
    changes = Changes(control=Control.RUN, paused_reason=None, control_epoch=batch.control_epoch + 1, baseline=counts)
    return _changed(batch, **_signed(changes, by))


def note_published(batch: Batch, *, epoch: int) -> Batch | Refusal:
    """Record that the queued images were published again for control epoch `epoch`."""
    if batch.epoch_published >= epoch:
        return Refusal.UNCHANGED
    return _changed(batch, epoch_published=epoch)


def begin_cancel(batch: Batch, *, reason: str | None = None, by: By | None = None) -> Batch | Refusal:
    """Cancel for good: a cancelling batch cannot run again."""
    if batch.state in FINAL_STATES or batch.state is BatchState.CLOSING:
        return Refusal.ILLEGAL
    if batch.control is Control.CANCELLING:
        return Refusal.UNCHANGED
    return _changed(batch, **_signed(Changes(control=Control.CANCELLING, cancel_reason=reason), by))


def note_control_announced(batch: Batch, *, name: str) -> Batch | Refusal:
    """Record that the event `name` of this pause or cancel has been published."""
    if batch.control_announced == name:
        return Refusal.UNCHANGED
    return _changed(batch, control_announced=name)


def threshold_passed(threshold: FailureThreshold, minimum_sample: int, baseline: Counts, counts: Counts) -> bool:
    """Return whether too many images have failed since `baseline`.

    A percentage is judged only once `minimum_sample` images have settled: three failures of the first four say little.
    The argument is the default from the settings, for a threshold without its own. An absolute count needs no sample.
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
    """Move to reopening: into a new round if the batch was closed, or with the same plan if a replay was interrupted.

    A new replay is refused (`EXPIRING`) within `LAST_SECONDS` of the deletion of the batch's documents, which happens
    `kept_seconds` after its creation. A replay requested by a failed.csv is resumed by the same `drop` of that file,
    because only the file knows the corrections. If the drop has not come back for a day, any process may resume it.

    `counts` are the batch's counts now; the failure threshold counts new failures from there.
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
            return Refusal.PAUSED  # the images would be queued but not run
        return apply(batch, BatchMove.REOPEN, **changes)
    if batch.announced_round < batch.round:
        return Refusal.BUSY  # the finished round must be announced first
    changes |= Changes(round=batch.round + 1, progress_announced=0)
    if (
        batch.control is Control.PAUSED
    ):  # it closed while paused; clear the pause, or nothing in the new round would run
        epoch = batch.control_epoch + 1
        changes |= Changes(control=Control.RUN, paused_reason=None, control_epoch=epoch, epoch_published=epoch)
    return apply(batch, BatchMove.REOPEN, **changes)


def may_carry_on(plan: ReplayPlan, drop: str, now: float) -> bool:
    """Return whether a process that holds `drop` may resume an interrupted replay.

    An empty `drop` stands for an operator or reconcile.
    """
    return plan.drop in ("", drop) or plan.lease.until + DROP_SECONDS < now


def renew_replay(batch: Batch, *, lease: Lease) -> Batch | Refusal:
    """Extend the replay's lease. Refuses when another process has taken the replay over."""
    if batch.state is not BatchState.REOPENING or batch.replay is None or batch.replay.lease.holder != lease.holder:
        return Refusal.BUSY
    return _changed(batch, replay=msgspec.structs.replace(batch.replay, lease=lease))


def end_replay(batch: Batch, *, holder: str, requeued: int) -> Batch | Refusal:
    """Move back to processing. Only the holder of the replay's lease may.

    `requeued` images are no longer failures, so the threshold's baseline drops by that number.
    """
    if batch.replay is None or batch.replay.lease.holder != holder:
        return Refusal.BUSY
    left = msgspec.structs.replace(batch.baseline, failed=max(0, batch.baseline.failed - requeued))
    return apply(batch, BatchMove.RESUME, replay=None, baseline=left)


# --- reconciling


def note_republished(batch: Batch, *, now: float) -> Batch:
    """Record when reconcile last republished forgotten images of the batch."""
    return _changed(batch, republished_at=now)


def forgotten_before(batch: Batch, emptied: TierEmpty | None, now: float, rules: ReconcileRules) -> float | None:
    """Return the time before which an open image must last have moved to count as forgotten.

    None means that nothing may be republished now. A pull does not show messages that are leased or backing off, so one
    empty look at a tier proves little. Workers record when they find a tier empty. Two such looks must lie after the
    image's last move and after the last republishing; otherwise a queue that once seemed empty would be filled every
    half hour.
    """
    if emptied is None or len(emptied.seen_at) < 2:
        return None
    if now - batch.republished_at < rules.every_seconds or emptied.seen_at[0] <= batch.republished_at:
        return None
    # Two limits: up to and including `untouched_seconds` ago, and before the first of the two looks.
    return min(emptied.seen_at[0], math.nextafter(now - rules.untouched_seconds, math.inf))


def note_run(known: Reconciled | None, server_now: float, *, at: float, moved_at: float, swept: bool) -> Reconciled:
    """Return the record after a run that began at `at`. When two runs overlap, the later one counts.

    The recorded time is never later than the server's own. Otherwise a caller whose clock runs ahead would hide the
    images that move until then.
    """
    known = known or Reconciled()
    began = min(at, server_now)
    return Reconciled(
        at=max(known.at, began),
        moved_at=max(known.moved_at, moved_at),
        swept_at=max(known.swept_at, began) if swept else known.swept_at,
        expires_at=server_now + RECORD_KEPT_SECONDS,
    )
