"""Everything that may happen to an image, as pure functions.

Each function returns the new image, or the `Refusal` that says why nothing changes. Every backend runs it inside its
own compare-and-set, which may run it again after a lost race. A decision must therefore have no side effects.

    caller             decision                     needs
    a worker           claim                        the task's round; the holder's heartbeat if a worker holds the image
    the image's        checkpoint release complete  the fence of its own claim
    holder             fail cancel, and in a trial:
                       go_alone enter_step pass_trial
    DEAD LETTER        give_up                      no living claim; the decision raises the fence
    an operator        cancel_queued requeue        a queued image; a failed image
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from shared.model import (
    IMAGE_MOVES,
    SETTLED_STATES,
    Call,
    Checkpoint,
    Claim,
    Correction,
    Failure,
    Image,
    ImageMove,
    ImageState,
    Output,
    Refusal,
    Trials,
    Worker,
    image_key,
)

# A claim is dead this long after its worker's last heartbeat. Heartbeats come every 4 s, so two may be lost. A killed
# worker's images are free before the leases of their deliveries (18 s) run out, so the next delivery can claim them.
HEARTBEAT_STALE_SECONDS = 13.0
# A living worker may hold an image this long, not counting the time it waits for quota. That is several times an
# image's longest path (download 60 s, three generations of 120 s, three verifications), so that another worker takes
# over only from a task that is stuck.
CLAIM_CAP_SECONDS = 1800.0
# After two crashes an image is a suspect: the next worker tries it alone.
CRASHES_BEFORE_ALONE = 2
# A trial ends once the photo is prepared: it has done no harm, so the image continues beside others. If an image passes
# two trials and its workers still die, it is staged alone until it settles.
TRIALS_OF_THE_PHOTO = 2
# A worker must have run this long before it tries a suspect. If something else kills workers within seconds of their
# start, no image is alone in them, and none is blamed.
TRIAL_AFTER_SECONDS = 30.0
# After this many lone deaths in a row, all in the same picture step, the image is at fault. A picture spends about one
# second of its minute in each step. Random kills would hit one image six times in the same step with a probability of
# 1e-10.
LONE_DEATHS_IN_A_STEP = 6
# Lone deaths, in any step, after which the image fails, so that no image is tried for ever. Each takes at least the
# 30 s above. With a kill every 20 s, six of seven trials end before the picture is paid for; a hundred in a row have a
# probability of 2e-7.
MAX_LONE_DEATHS = 100


class PictureStep(StrEnum):
    """The steps in which a picture is decoded or encoded.

    A malformed picture can crash a worker only in one of these. Lone deaths are therefore counted by step.
    """

    PREPARE = "prepare"  # the customer's photo
    FRAME = "frame"  # the photo within bars
    FINISH = "finish"  # the vendor's picture


def _move(image: Image, move: ImageMove, now: float | None = None, **changes: Any) -> Image | Refusal:
    """Apply `move` by the transition table and raise the revision.

    An illegal move is refused and changes nothing. `now` becomes the image's `moved_at`; None (a checkpoint) leaves it.
    """
    state = IMAGE_MOVES.get((image.state, move))
    if state is None:
        return Refusal.SETTLED if image.state in SETTLED_STATES else Refusal.ILLEGAL
    if now is not None:
        changes["moved_at"] = now
    return msgspec.structs.replace(image, state=state, revision=image.revision + 1, **changes)


def claim_is_alive(image: Image, holder: Worker | None, now: float) -> bool:
    """Return whether the image's claim still holds: a fresh heartbeat, and a claim below the cap."""
    return heartbeat_is_fresh(holder, now) and not claim_is_capped(image, holder, now)


def heartbeat_is_fresh(holder: Worker | None, now: float) -> bool:
    """Return whether the worker's last heartbeat is recent enough to count it as alive.

    False for a worker that never wrote one (None) and for one that has stopped.
    """
    return holder is not None and not holder.stopped and now - holder.at < HEARTBEAT_STALE_SECONDS


def claim_is_capped(image: Image, holder: Worker | None, now: float) -> bool:
    """Return whether the claim is older than `CLAIM_CAP_SECONDS`, not counting time spent waiting for quota.

    A vendor's outage can make an image wait for hours. That must not look like a stuck task.
    """
    if image.claim is None:
        return False
    waited = holder.waited_seconds.get(image_key(image.batch, image.index), 0.0) if holder else 0.0
    return now - image.claim.at - waited >= CLAIM_CAP_SECONDS


def claim(image: Image, *, task_round: int, worker: str, now: float, holder: Worker | None) -> Image | Refusal:
    """Claim the image for `worker` with a new fence, or fail it if its photo has killed too many workers.

    `holder` is the heartbeat of the worker named in the image's current claim. Without it the decision cannot know that
    this worker is dead, and refuses with `HELD`. `task_round` is the round named in the task; a task of an earlier
    round is refused with `OTHER_ROUND`.

    Taking over from a dead worker counts a crash. Taking over a capped claim from a living worker does not, nor does
    taking what a worker left behind when it stopped. If the dead worker held other images too, its death says nothing
    about this one. A lone death (the worker held only this image) counts as a trial; `is_to_blame` decides when those
    fail the image.
    """
    if image.round != task_round:
        return Refusal.OTHER_ROUND
    if image.state in SETTLED_STATES:
        return Refusal.SETTLED
    crashes, trials = image.crashes, image.trials
    if image.state is ImageState.PROCESSING and image.claim is not None:
        if holder is None or holder.id != image.claim.worker or claim_is_alive(image, holder, now):
            return Refusal.HELD
        if not heartbeat_is_fresh(holder, now) and not holder.stopped:
            crashes += 1
            if image.claim.alone:
                trials = died_alone(trials, image.claim.step)
                if is_to_blame(trials):
                    return _settled_by_crash(image, crashes, trials, now)
    return _move(
        image,
        ImageMove.CLAIM,
        now,
        fence=image.fence + 1,
        crashes=crashes,
        trials=trials,
        claim=Claim(worker=worker, at=now),
    )


def died_alone(known: Trials, step: str) -> Trials:
    """Return the trials with one more lone death, in the picture step `step`.

    An empty `step` means that the worker died outside of the picture steps. That ends a row of deaths in one step.
    """
    in_a_row = 0
    if step:
        in_a_row = known.in_a_row + 1 if step == known.step else 1
    return Trials(deaths=known.deaths + 1, step=step, in_a_row=in_a_row, passed=known.passed)


def is_to_blame(trials: Trials) -> bool:
    """Return whether the lone deaths are the image's own fault: the same step again and again, or too many in all."""
    return trials.in_a_row >= LONE_DEATHS_IN_A_STEP or trials.deaths >= MAX_LONE_DEATHS


def _settled_by_crash(image: Image, crashes: int, trials: Trials, now: float) -> Image | Refusal:
    """Fail the image: its lone deaths have shown that it kills workers."""
    message = f"{trials.deaths} workers died while they held only this image"
    if trials.in_a_row >= LONE_DEATHS_IN_A_STEP:
        message += f", the last {trials.in_a_row} of them at the step {trials.step}"
    return _move(
        image,
        ImageMove.FAIL,
        now,
        fence=image.fence + 1,
        crashes=crashes,
        trials=trials,
        claim=None,
        error=Failure(code="worker_crashed", message=message),
        settled_at=now,
    )


def _held(image: Image, fence: int) -> Refusal | None:
    """Return None if `fence` is that of the image's current claim, else why the caller may not change the image."""
    if image.fence != fence:
        return Refusal.STALE_FENCE
    if image.state is not ImageState.PROCESSING:
        return Refusal.SETTLED if image.state in SETTLED_STATES else Refusal.STALE_FENCE
    return None


def checkpoint(image: Image, *, fence: int, checkpoint: Checkpoint, calls: tuple[Call, ...]) -> Image | Refusal:
    """Record paid work. `calls` are all of the image's calls so far, including those of earlier attempts."""
    return _held(image, fence) or _move(image, ImageMove.CHECKPOINT, checkpoint=checkpoint, calls=calls)


def release(
    image: Image,
    *,
    fence: int,
    calls: tuple[Call, ...],
    checkpoint: Checkpoint | None = None,
    error: Failure | None = None,
    spend_attempt: bool = False,
    max_attempts: int = 1,
    now: float = 0.0,
) -> Image | Refusal:
    """Return the image to the queue, or fail it when this was its last attempt.

    `calls` are all of the image's calls so far. With `spend_attempt` the attempt counts, and the image fails with
    `error` once `max_attempts` are spent. Without it (a pause, a spent quota, our own fault) the image may return any
    number of times. Work that is already paid for (`checkpoint`) is kept either way.
    """
    refusal = _held(image, fence)
    if refusal:
        return refusal
    attempts = image.attempts + 1 if spend_attempt else image.attempts
    changes: dict[str, Any] = {
        "attempts": attempts,
        "claim": None,
        "calls": calls,
        "checkpoint": checkpoint or image.checkpoint,
        "error": error or image.error,
        "touched_at": now,
    }
    if spend_attempt and attempts >= max_attempts:
        return _move(image, ImageMove.FAIL, now, settled_at=now, **changes)
    return _move(image, ImageMove.RELEASE, now, **changes)


def complete(
    image: Image,
    *,
    fence: int,
    output: Output,
    calls: tuple[Call, ...],
    durations_ms: dict[str, int],
    prompts: str,
    model: str | None = None,
    cached: bool = False,
    now: float,
) -> Image | Refusal:
    """Settle the image as completed.

    `durations_ms` is by step. `prompts` and `model` name the versions that made the picture, also when it was `cached`.
    """
    return _held(image, fence) or _move(
        image,
        ImageMove.COMPLETE,
        now,
        claim=None,
        error=None,
        output=output,
        calls=calls,
        durations_ms=durations_ms,
        prompts=prompts,
        model=model,
        cached=cached,
        settled_at=now,
    )


def fail(
    image: Image,
    *,
    fence: int,
    error: Failure,
    calls: tuple[Call, ...],
    checkpoint: Checkpoint | None = None,
    now: float,
) -> Image | Refusal:
    """Settle as failed through the image's own fault. The attempt that found the fault counts."""
    return _held(image, fence) or _move(
        image,
        ImageMove.FAIL,
        now,
        claim=None,
        error=error,
        calls=calls,
        checkpoint=checkpoint or image.checkpoint,
        attempts=image.attempts + 1,
        settled_at=now,
    )


def cancel(image: Image, *, fence: int, calls: tuple[Call, ...], now: float) -> Image | Refusal:
    """Settle an image that a worker holds as cancelled, because its batch was cancelled."""
    return _held(image, fence) or _move(
        image, ImageMove.CANCEL, now, claim=None, error=None, calls=calls, settled_at=now
    )


def cancel_queued(image: Image, *, now: float, holder: Worker | None = None) -> Image | Refusal:
    """Settle an image that no living worker holds as cancelled, and raise its fence.

    Refuses with `HELD` while a living worker holds it: that worker cancels it itself. `holder` as for `claim`; an image
    whose worker has died counts as free.
    """
    if image.claim is not None and (
        holder is None or holder.id != image.claim.worker or claim_is_alive(image, holder, now)
    ):
        return Refusal.HELD
    return _move(image, ImageMove.CANCEL, now, fence=image.fence + 1, claim=None, error=None, settled_at=now)


def go_alone(image: Image, *, fence: int) -> Image | Refusal:
    """Record that the worker now holds only this image: if it dies from here on, that is a lone death."""
    return _noted(image, fence, alone=True)


def pass_trial(image: Image, *, fence: int) -> Image | Refusal:
    """Record that the photo was prepared alone without killing the worker.

    The photo did not cause the earlier crashes. They are forgotten, and the image continues beside others.
    """
    trials = Trials(deaths=image.trials.deaths, passed=image.trials.passed + 1)
    noted = _noted(image, fence, alone=False, step="")
    return noted if isinstance(noted, Refusal) else msgspec.structs.replace(noted, crashes=0, trials=trials)


def enter_step(image: Image, *, fence: int, step: str) -> Image | Refusal:
    """Record which picture step a worker alone with the image has entered; an empty `step` means it has left it."""
    return _noted(image, fence, step=step)


def _noted(image: Image, fence: int, **changes: Any) -> Image | Refusal:
    """Change the image's current claim. Refused when `fence` is not that claim's."""
    if image.claim is None:
        return Refusal.STALE_FENCE
    noted = msgspec.structs.replace(image.claim, **changes)
    return _held(image, fence) or _move(image, ImageMove.CHECKPOINT, claim=noted)


def is_suspect(image: Image) -> bool:
    """Return whether enough workers have crashed on this image that it must be tried alone."""
    return image.crashes >= CRASHES_BEFORE_ALONE


def is_tried_to_the_end(image: Image) -> bool:
    """Return whether a suspect must stay alone until it settles, and not only until its photo is prepared."""
    return image.trials.passed >= TRIALS_OF_THE_PHOTO


def give_up(
    image: Image, *, letter_round: int, error: Failure, holder: Worker | None, max_attempts: int, now: float
) -> Image | Refusal:
    """Settle a dead-lettered image as failed and raise its fence, unless it can still be staged.

    Refuses with `OTHER_ROUND`, `SETTLED`, `HELD` (by a living claim) or `UNCHANGED` (attempts are left, so the caller
    publishes a new task). `error` is recorded only if no attempt has left its own.
    """
    if image.round != letter_round:
        return Refusal.OTHER_ROUND
    if image.state in SETTLED_STATES:
        return Refusal.SETTLED
    if image.claim is not None and (
        holder is None or holder.id != image.claim.worker or claim_is_alive(image, holder, now)
    ):
        return Refusal.HELD
    if image.attempts < max_attempts:
        return Refusal.UNCHANGED
    error = image.error or error
    return _move(image, ImageMove.FAIL, now, fence=image.fence + 1, claim=None, error=error, settled_at=now)


_WISHED: Final = ("source", "room_type", "design_style")


def requeue(image: Image, *, replay: int, now: float = 0.0, correction: Correction | None = None) -> Image | Refusal:
    """Give a failed image a new round with fresh attempts, for a replay. Paid work is kept, except in two cases.

    A picture that failed verification is not kept, since verifying the same picture again would reject it again. With a
    `correction` that changes the photo, the room type or the style, the old work no longer fits.

    `replay` is the replay's number in its batch. When a crashed replay is resumed, it may meet images that it has
    requeued before and that have failed again. It leaves them to the next replay; otherwise every crash would buy them
    once more.
    """
    if image.state is not ImageState.FAILED or image.replay >= replay:
        return Refusal.ILLEGAL
    kept = image.checkpoint
    if kept and image.error and image.error.code == "quality_rejected":
        kept = Checkpoint(analysis=kept.analysis)
    elif kept:
        kept = msgspec.structs.replace(kept, generations=1 if kept.picture else 0, refusals=0)
    changes: dict[str, Any] = msgspec.structs.asdict(correction) if correction else {}
    if any(changes.get(name, getattr(image, name)) != getattr(image, name) for name in _WISHED):
        kept = None
    return _move(
        image,
        ImageMove.REQUEUE,
        now,
        **changes,
        round=image.round + 1,
        replay=replay,
        earlier_cost_micro_usd=image.cost_micro_usd,
        attempts=0,
        crashes=0,
        trials=Trials(),
        claim=None,
        error=None,
        settled_at=None,
        touched_at=now,
        checkpoint=kept,
    )


def requeue_seen(
    image: Image, *, seen_revision: int, replay: int, now: float, correction: Correction | None = None
) -> Image | Refusal:
    """Requeue the image only if its revision is still `seen_revision`, the one at which it was listed.

    Another replay may have requeued it since, and it may have failed again.
    """
    if image.revision != seen_revision:
        return Refusal.STALE_REVISION
    return requeue(image, replay=replay, now=now, correction=correction)
