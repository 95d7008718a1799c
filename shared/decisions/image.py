"""What may be done to an image, as pure decisions: each answers the new image, or the refusal that says why not.

Every backend runs these inside its own compare-and-set, so they may run more than once and must not have effects.

    who             decision                     needs
    a worker        claim                        the task's round; the holder's heartbeat if someone holds it
    its holder      checkpoint release complete  the fence of its own claim
                    fail cancel, and of a trial:
                    go_alone enter_step pass_trial
    DEAD LETTER     give_up                      no living claim; takes a fence of its own
    an operator     cancel_queued requeue        a queued image; a failed image
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

# A claim is dead this long after its worker's last heartbeat. Heartbeats come every 4 s; two may be lost, and a killed
# worker's images are free before their deliveries' leases of 18 s have ended.
HEARTBEAT_STALE_SECONDS = 13.0
# A living worker may hold an image this long, its waiting for quota not counted: several times the longest way of an
# image (download 60 s, three generations of 120 s, as many verifications), so that only a stuck task is taken over.
CLAIM_CAP_SECONDS = 1800.0
# After two crashes an image is a suspect: the next worker tries it alone.
CRASHES_BEFORE_ALONE = 2
# A trial ends when the photo is prepared: it does no harm, and goes on in company. An image that has passed two, and
# whose workers died all the same, is staged alone to its end.
TRIALS_OF_THE_PHOTO = 2
# A worker lives this long before it tries a suspect. Whatever kills workers one after another, within seconds, then
# finds no image alone.
TRIAL_AFTER_SECONDS = 30.0
# Lone deaths in a row, in one and the same picture step, that are the image's fault. A picture takes about a second of
# its minute in each step: random kills find one image six times in the same step with a probability of 1e-10.
LONE_DEATHS_IN_A_STEP = 6
# Lone deaths anywhere that end a round, so that nothing goes on for ever. Each takes at least the 30 s above. With a
# kill every 20 s six trials of seven end before the picture is paid for, a hundred in a row with a probability of 2e-7.
MAX_LONE_DEATHS = 100


class PictureStep(StrEnum):
    """Where a picture is decoded and written: what a picture does to a worker it does here."""

    PREPARE = "prepare"  # the customer's photo
    FRAME = "frame"  # the photo within bars
    FINISH = "finish"  # the vendor's picture


def _move(image: Image, move: ImageMove, now: float | None = None, **changes: Any) -> Image | Refusal:
    """Apply `move` by the table, raising the revision; an illegal move is refused and changes nothing.

    `now` is noted as the time it moved. None for a checkpoint, which leaves it where it is.
    """
    state = IMAGE_MOVES.get((image.state, move))
    if state is None:
        return Refusal.SETTLED if image.state in SETTLED_STATES else Refusal.ILLEGAL
    if now is not None:
        changes["moved_at"] = now
    return msgspec.structs.replace(image, state=state, revision=image.revision + 1, **changes)


def claim_is_alive(image: Image, holder: Worker | None, now: float) -> bool:
    """Whether the image's claim still stands: its worker's heartbeat is fresh and the claim is below the cap."""
    return heartbeat_is_fresh(holder, now) and not claim_is_capped(image, holder, now)


def heartbeat_is_fresh(holder: Worker | None, now: float) -> bool:
    """Whether a worker has been heard of lately; one that was never heard of, or has said goodbye, has not."""
    return holder is not None and not holder.stopped and now - holder.at < HEARTBEAT_STALE_SECONDS


def claim_is_capped(image: Image, holder: Worker | None, now: float) -> bool:
    """Whether the claim is older than the cap, waiting for quota not counted."""
    if image.claim is None:
        return False
    waited = holder.waited_seconds.get(image_key(image.batch, image.index), 0.0) if holder else 0.0
    return now - image.claim.at - waited >= CLAIM_CAP_SECONDS


def claim(image: Image, *, task_round: int, worker: str, now: float, holder: Worker | None) -> Image | Refusal:
    """Take the image for `worker` with a new fence.

    `holder` is the heartbeat of the worker named in the image's present claim, as far as the caller knows it: without
    it a held image is `HELD`, never taken over. Taking over the claim of a dead worker counts a crash; taking over a
    capped claim of a living one, or what a worker left behind when it stopped, does not. Nothing is concluded from the
    death of a worker that had other images too. Deaths of workers that had this one alone are counted, and when
    `is_to_blame` says so the image fails.
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
    """Count a lone death in a picture step, or elsewhere (`step` is empty), which ends a row of such deaths."""
    in_a_row = 0
    if step:
        in_a_row = known.in_a_row + 1 if step == known.step else 1
    return Trials(deaths=known.deaths + 1, step=step, in_a_row=in_a_row, passed=known.passed)


def is_to_blame(trials: Trials) -> bool:
    """Return whether the lone deaths are the image's own fault: the same step again and again, or too many in all."""
    return trials.in_a_row >= LONE_DEATHS_IN_A_STEP or trials.deaths >= MAX_LONE_DEATHS


def _settled_by_crash(image: Image, crashes: int, trials: Trials, now: float) -> Image | Refusal:
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
    """None if the caller's claim (its fence) is the image's present one."""
    if image.fence != fence:
        return Refusal.STALE_FENCE
    if image.state is not ImageState.PROCESSING:
        return Refusal.SETTLED if image.state in SETTLED_STATES else Refusal.STALE_FENCE
    return None


def checkpoint(image: Image, *, fence: int, checkpoint: Checkpoint, calls: tuple[Call, ...]) -> Image | Refusal:
    """Note paid work. `calls` are all of the image's calls so far, earlier attempts included."""
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
    """Give the image back to the queue, or fail it when this attempt was its last.

    With `spend_attempt` the attempt counts; the image fails with `error` when `max_attempts` are spent.
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
    """Settle as completed."""
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
    """Settle as failed by the image's own fault; the attempt that found it counts."""
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
    """Settle an image in hand as cancelled, because its batch is."""
    return _held(image, fence) or _move(
        image, ImageMove.CANCEL, now, claim=None, error=None, calls=calls, settled_at=now
    )


def cancel_queued(image: Image, *, now: float, holder: Worker | None = None) -> Image | Refusal:
    """Settle an image nobody works on as cancelled, with a fence of its own; what is in hand settles itself.

    `holder` as for `claim`: an image whose worker has died is in nobody's hand.
    """
    if image.claim is not None and (
        holder is None or holder.id != image.claim.worker or claim_is_alive(image, holder, now)
    ):
        return Refusal.HELD
    return _move(image, ImageMove.CANCEL, now, fence=image.fence + 1, claim=None, error=None, settled_at=now)


def go_alone(image: Image, *, fence: int) -> Image | Refusal:
    """Note that the worker holds nothing but this image now: its death from here on is a lone one."""
    return _noted(image, fence, alone=True)


def pass_trial(image: Image, *, fence: int) -> Image | Refusal:
    """Note that the photo was prepared alone: it did not crash those workers, and goes on in company."""
    trials = Trials(deaths=image.trials.deaths, passed=image.trials.passed + 1)
    noted = _noted(image, fence, alone=False, step="")
    return noted if isinstance(noted, Refusal) else msgspec.structs.replace(noted, crashes=0, trials=trials)


def enter_step(image: Image, *, fence: int, step: str) -> Image | Refusal:
    """Note which picture step a worker alone with the image is in; empty: in none any more."""
    return _noted(image, fence, step=step)


def _noted(image: Image, fence: int, **changes: Any) -> Image | Refusal:
    if image.claim is None:
        return Refusal.STALE_FENCE
    noted = msgspec.structs.replace(image.claim, **changes)
    return _held(image, fence) or _move(image, ImageMove.CHECKPOINT, claim=noted)


def is_suspect(image: Image) -> bool:
    """Return whether enough workers have crashed with this image that it must be tried alone."""
    return image.crashes >= CRASHES_BEFORE_ALONE


def is_tried_to_the_end(image: Image) -> bool:
    """Return whether a suspect has to be alone until it is settled, not only until its photo is prepared."""
    return image.trials.passed >= TRIALS_OF_THE_PHOTO


def give_up(
    image: Image, *, letter_round: int, error: Failure, holder: Worker | None, max_attempts: int, now: float
) -> Image | Refusal:
    """DEAD LETTER's decision: settle as failed, with a fence of its own, unless someone can still stage the image.

    Refused: `OTHER_ROUND`, `SETTLED`, `HELD` (by a living claim), `UNCHANGED` (attempts are left: publish a task).
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
    """A replay's decision: a failed image gets a new round, with fresh attempts. Its paid work is kept.

    With a `correction` that makes another photo or another wish of it, there is no paid work to keep.

    `replay` is the replay's number in its batch. One that was killed and is carried on finds images that it has
    requeued and that have failed again: they are left to the next replay, or each kill would buy them once more.

    A picture that failed verification is not kept: verifying the same picture again would reject it again.
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
    """Requeue the image only as it was listed: another replay may have requeued it, and it may have failed again."""
    if image.revision != seen_revision:
        return Refusal.STALE_REVISION
    return requeue(image, replay=replay, now=now, correction=correction)
