"""What may be done to an image, cell by cell: by its holder, and by others."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from shared import decisions
from shared.model import SETTLED_STATES, Checkpoint, Claim, Failure, Image, ImageState, Refusal, Trials
from tests.decisions.claims.parts import (
    BOUGHT,
    DEAD,
    HOLDER_DECISIONS,
    HOLDERS,
    LETTERS_ERROR,
    NOW,
    OUTPUT,
    PAID,
    PICTURE_STEPS,
    REJECTED,
    WORLDS_FAULT,
    S,
    an_image,
    held,
    moved,
    take,
)

# --- what the holder does ---------------------------------------------------------------------------------------------

# Who has no claim at all hears it in other words.
UNCLAIMED = dict.fromkeys(("go alone", "enter a step", "pass the trial"), Refusal.STALE_FENCE)


@pytest.mark.parametrize("name", list(HOLDER_DECISIONS))
@pytest.mark.parametrize(("state", "fence"), list(itertools.product(S, (0, 2, 3, 4))))
def test_only_the_present_claim_may_write(name: str, state: ImageState, fence: int):
    answer = HOLDER_DECISIONS[name](an_image(state), fence)
    if fence != 3:
        assert answer is Refusal.STALE_FENCE
    elif state is S.PROCESSING:
        assert isinstance(answer, Image)
        assert (answer.revision, answer.fence, answer.round) == (6, 3, 2)
    elif name in UNCLAIMED:
        assert answer is UNCLAIMED[name]
    else:
        assert answer is (Refusal.SETTLED if state in SETTLED_STATES else Refusal.STALE_FENCE)


@pytest.mark.parametrize("known", [None, Checkpoint(analysis="{}")])
def test_a_checkpoint_keeps_the_claim(known):
    image = held(checkpoint=known)
    after = decisions.image.checkpoint(image, fence=3, checkpoint=PAID, calls=BOUGHT)
    assert after == msgspec.structs.replace(image, revision=6, checkpoint=PAID, calls=BOUGHT)


@pytest.mark.parametrize("alone", [False, True])
def test_going_alone_is_noted_in_the_claim_and_changes_nothing_else(alone: bool):
    image = held(claim=Claim(worker="w1", at=NOW - 100, alone=alone), checkpoint=PAID, calls=BOUGHT)
    after = decisions.image.go_alone(image, fence=3)
    assert after == msgspec.structs.replace(image, revision=6, claim=Claim(worker="w1", at=NOW - 100, alone=True))


@pytest.mark.parametrize("step", ["", *PICTURE_STEPS])
@pytest.mark.parametrize("known", ["", "prepare"])
def test_a_step_is_noted_in_the_claim_and_changes_nothing_else(known: str, step: str):
    image = held(claim=Claim(worker="w1", at=NOW - 100, alone=True, step=known), checkpoint=PAID, calls=BOUGHT)
    after = decisions.image.enter_step(image, fence=3, step=step)
    assert after == msgspec.structs.replace(
        image, revision=6, claim=Claim(worker="w1", at=NOW - 100, alone=True, step=step)
    )


@pytest.mark.parametrize("attempts", [0, 1, 2, 3])
@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("spend", [False, True])
@pytest.mark.parametrize("error", [None, WORLDS_FAULT])
@pytest.mark.parametrize("note", [None, PAID])
@pytest.mark.parametrize("known", [None, Checkpoint(analysis="{}")])
def test_a_release(attempts, most, spend, error, note, known):
    image = an_image(S.PROCESSING, attempts=attempts, checkpoint=known, error=REJECTED)
    after = decisions.image.release(
        image, fence=3, calls=BOUGHT, checkpoint=note, error=error, spend_attempt=spend, max_attempts=most, now=NOW
    )
    last = spend and attempts + 1 >= most
    assert after == moved(
        image,
        state=S.FAILED if last else S.QUEUED,
        revision=6,
        attempts=attempts + spend,
        claim=None,
        calls=BOUGHT,
        checkpoint=note or known,
        error=error or REJECTED,
        touched_at=NOW,
        settled_at=NOW if last else None,
    )


def test_waiting_and_our_own_faults_never_fail_an_image_however_often_it_is_released():
    image = an_image(round=1, fence=0)
    for turn in range(50):
        image = decisions.image.claim(image, task_round=1, worker="w", now=NOW, holder=None)
        image = decisions.image.release(image, fence=turn + 1, calls=(), max_attempts=1)
        assert (image.state, image.attempts, image.crashes) == (S.QUEUED, 0, 0)


def test_the_third_failed_attempt_is_the_last():
    image = an_image(round=1, fence=0)
    states = []
    for turn in range(3):
        image = decisions.image.claim(image, task_round=1, worker="w", now=NOW, holder=None)
        image = decisions.image.release(
            image, fence=turn + 1, calls=(), error=WORLDS_FAULT, spend_attempt=True, max_attempts=3, now=NOW
        )
        states.append(image.state)
    assert states == [S.QUEUED, S.QUEUED, S.FAILED]
    assert (image.attempts, image.error, image.settled_at) == (3, WORLDS_FAULT, NOW)


def test_a_completed_image_has_its_output_and_no_error():
    image = held(error=WORLDS_FAULT, checkpoint=PAID)
    assert HOLDER_DECISIONS["complete"](image, 3) == moved(
        image, state=S.COMPLETED, revision=6, claim=None, error=None, output=OUTPUT, calls=BOUGHT,
        durations_ms={"generate": 9}, prompts="7", settled_at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize("note", [None, PAID])
def test_an_image_fails_by_its_own_fault_at_once(note):
    image = held(error=WORLDS_FAULT, checkpoint=Checkpoint(analysis="{}"))
    after = decisions.image.fail(image, fence=3, error=REJECTED, calls=BOUGHT, checkpoint=note, now=NOW)
    assert after == moved(
        image, state=S.FAILED, revision=6, claim=None, error=REJECTED, calls=BOUGHT, attempts=2, settled_at=NOW,
        checkpoint=note or image.checkpoint,
    )  # fmt: skip


@pytest.mark.parametrize("error", [None, WORLDS_FAULT])
def test_a_cancelled_image_keeps_its_bill_and_no_error(error):
    image = held(checkpoint=PAID, error=error)
    after = decisions.image.cancel(image, fence=3, calls=BOUGHT, now=NOW)
    assert after == moved(image, state=S.CANCELLED, revision=6, claim=None, error=None, calls=BOUGHT, settled_at=NOW)


# --- what others do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, WORLDS_FAULT])
@pytest.mark.parametrize(("state", "holder"), list(itertools.product(S, HOLDERS)))
def test_only_what_nobody_works_on_is_cancelled_from_outside(state, holder, error):
    image = an_image(state, error=error, attempts=1, calls=BOUGHT, checkpoint=PAID)
    answer = decisions.image.cancel_queued(image, now=NOW, holder=HOLDERS[holder])
    if state in SETTLED_STATES:
        assert answer is Refusal.SETTLED
    elif state is S.PROCESSING and holder in ("unknown", "another worker", "fresh", "fresh, waiting for quota"):
        assert answer is Refusal.HELD
    else:
        assert answer == moved(image, state=S.CANCELLED, fence=4, revision=6, claim=None, error=None, settled_at=NOW)


@pytest.mark.parametrize("state", list(S))
def test_who_knows_no_holder_cancels_queued_images_only(state):
    answer = decisions.image.cancel_queued(an_image(state), now=NOW)
    if state is S.QUEUED:
        assert isinstance(answer, Image)
    else:
        assert answer is (Refusal.HELD if state is S.PROCESSING else Refusal.SETTLED)


def test_a_dead_worker_cannot_write_to_what_was_cancelled_from_under_it():
    image = decisions.image.cancel_queued(an_image(S.PROCESSING), now=NOW, holder=DEAD)
    assert all(decide(image, 3) is Refusal.STALE_FENCE for decide in HOLDER_DECISIONS.values())


@pytest.mark.parametrize("error", [None, WORLDS_FAULT])
@pytest.mark.parametrize("attempts", [0, 2, 3, 4])
@pytest.mark.parametrize(("state", "letter_round", "holder"), list(itertools.product(S, (1, 2, 3), HOLDERS)))
def test_dead_letter_gives_up_only_what_nobody_can_stage_any_more(state, letter_round, holder, attempts, error):
    image = an_image(state, attempts=attempts, error=error, crashes=1, calls=BOUGHT, checkpoint=PAID)
    answer = decisions.image.give_up(
        image, letter_round=letter_round, error=LETTERS_ERROR, holder=HOLDERS[holder], max_attempts=3, now=NOW
    )
    if letter_round != 2:
        assert answer is Refusal.OTHER_ROUND
    elif state in SETTLED_STATES:
        assert answer is Refusal.SETTLED
    elif state is S.PROCESSING and holder in ("unknown", "another worker", "fresh", "fresh, waiting for quota"):
        assert answer is Refusal.HELD
    elif attempts < 3:
        assert answer is Refusal.UNCHANGED
    else:
        assert answer == moved(
            image, state=S.FAILED, fence=4, revision=6, claim=None, error=error or LETTERS_ERROR, settled_at=NOW
        )


@pytest.mark.parametrize("state", list(S))
def test_only_failed_images_are_requeued(state):
    answer = decisions.image.requeue(an_image(state), replay=1)
    assert isinstance(answer, Image) == (state is S.FAILED)


KEPT = {
    "nothing was paid": (None, "source_not_found", None),
    "only the analysis": (Checkpoint(analysis="{}"), "vendor_timeout", Checkpoint(analysis="{}")),
    "a picture": (PAID, "vendor_timeout", msgspec.structs.replace(PAID, generations=1)),
    "pictures bought and lost": (Checkpoint(analysis="{}", generations=2), "internal", Checkpoint(analysis="{}")),
    "a rejected picture": (PAID, "quality_rejected", Checkpoint(analysis="{}")),
    "a rejected picture without analysis": (Checkpoint(picture="p", generations=3), "quality_rejected", Checkpoint()),
    "no error noted": (PAID, None, msgspec.structs.replace(PAID, generations=1)),
}


@pytest.mark.parametrize(("paid", "code", "kept"), list(KEPT.values()), ids=list(KEPT))
def test_a_requeued_image_keeps_its_paid_work_but_no_rejected_picture(paid, code, kept):
    error = Failure(code=code, message="") if code else None
    trials = Trials(deaths=6, step="prepare", in_a_row=6, passed=2)
    image = an_image(S.FAILED, attempts=3, crashes=2, trials=trials, error=error, checkpoint=paid, calls=BOUGHT)
    assert decisions.image.requeue(image, replay=3, now=NOW) == moved(
        image, state=S.QUEUED, round=3, revision=6, attempts=0, crashes=0, trials=Trials(), error=None, settled_at=None,
        checkpoint=kept, touched_at=NOW, earlier_cost_micro_usd=image.cost_micro_usd, replay=3,
    )  # fmt: skip


def test_a_replay_requeues_an_image_once():
    """Killed and carried on it finds it failed again: that is for the next replay."""
    image = decisions.image.requeue(an_image(S.FAILED), replay=2)
    again = msgspec.structs.replace(image, state=S.FAILED, error=Failure(code="x", message=""))
    assert decisions.image.requeue(again, replay=2) is Refusal.ILLEGAL
    assert decisions.image.requeue(again, replay=1) is Refusal.ILLEGAL
    assert decisions.image.requeue(again, replay=3).replay == 3


def test_a_requeued_image_does_not_belong_to_its_last_holder():
    image = decisions.image.requeue(an_image(S.FAILED), replay=1)
    for decide in HOLDER_DECISIONS.values():
        assert decide(image, 3) is Refusal.STALE_FENCE
    claimed = decisions.image.claim(image, task_round=3, worker="w1", now=NOW, holder=None)
    assert claimed.fence == 4
    for decide in HOLDER_DECISIONS.values():
        assert decide(claimed, 3) is Refusal.STALE_FENCE
    assert take(image) is Refusal.OTHER_ROUND
