"""What may be done to an image: every decision cell by cell, and what holds after any number of them in any order."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.model import (
    SETTLED_STATES,
    Call,
    Checkpoint,
    Claim,
    Failure,
    Image,
    ImageState,
    Output,
    Refusal,
    Tier,
    Trials,
    Worker,
    image_key,
)
from shared.settings import WorkerLimits

S = ImageState
NOW = 1_000_000.0
STALE = decisions.image.HEARTBEAT_STALE_SECONDS
CAP = decisions.image.CLAIM_CAP_SECONDS
OUTPUT = Output(picture="p.jpg", thumbnail="t.jpg", before="b.jpg", sha256="0" * 64, width=4, height=3)
WORLDS_FAULT = Failure(code="vendor_timeout", message="no answer in 120 s")
REJECTED = Failure(code="quality_rejected", message="a wall is gone")
LETTERS_ERROR = Failure(code="deliveries_exhausted", message="delivered too often")
BOUGHT = (Call(step="generate", model="m", cost_micro_usd=50_000),)
PAID = Checkpoint(analysis="{}", picture="work/acme.a/7/3-2", generations=2, defects=("door gone",))
KEY = image_key("acme.a", 7)


def an_image(state: ImageState = S.QUEUED, **changes: Any) -> Image:
    known: dict[str, Any] = {
        "batch": "acme.a", "index": 7, "source": "https://x.example/a.jpg", "room_type": "den", "design_style": "boho",
        "tier": Tier.NORMAL, "shard": 0, "state": state, "revision": 5, "fence": 3, "round": 2,
    }  # fmt: skip
    if state is S.PROCESSING:
        known["claim"] = Claim(worker="w1", at=NOW - 100)
    if state in SETTLED_STATES:
        known["settled_at"] = NOW - 1
    return Image(**(known | changes))


def a_worker(since: float = 0.0, **changes: Any) -> Worker:
    return Worker(**({"id": "w1", "at": NOW - since} | changes))


ALIVE, DEAD, STOPPED = a_worker(), a_worker(since=STALE), a_worker(stopped=True)
HOLDERS = {
    "fresh": ALIVE,
    "stale": DEAD,
    "stopped": STOPPED,
    "stopped long ago": a_worker(since=1000, stopped=True),
    "never heard of": Worker(id="w1", at=0.0),
    "unknown": None,
    "another worker": a_worker(since=1000, id="w9"),
    "fresh, waiting for quota": a_worker(waited_seconds={KEY: CAP}),
}


def moved(image: Image, **changes: Any) -> Image:
    """The image after a move: whatever moves it notes when, and nothing else does."""
    return msgspec.structs.replace(image, moved_at=NOW, **changes)


# --- is a claim alive -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "fresh"), [(-5.0, True), (0.0, True), (STALE - 0.001, True), (STALE, False), (1e9, False)]
)
def test_a_heartbeat_is_fresh_until_it_is_stale(since: float, fresh: bool):
    assert decisions.image.heartbeat_is_fresh(a_worker(since=since), NOW) is fresh
    assert decisions.image.heartbeat_is_fresh(a_worker(since=since, stopped=True), NOW) is False


def test_a_few_lost_heartbeats_kill_nobody_and_the_dead_are_soon_replaced():
    assert 3 * WorkerLimits().heartbeat_seconds < STALE < 20


def test_who_was_never_heard_of_has_no_fresh_heartbeat():
    assert decisions.image.heartbeat_is_fresh(None, NOW) is False


@pytest.mark.parametrize(
    ("age", "waited", "capped"),
    [
        (0, {}, False),
        (CAP - 0.001, {}, False),
        (CAP, {}, True),
        (CAP * 3, {}, True),
        (CAP * 3, {KEY: CAP * 2 + 1}, False),
        (CAP * 3, {KEY: CAP * 2}, True),
        (CAP, {"acme.a/70": CAP}, True),
    ],
    ids=["new", "almost", "at the cap", "old", "old, has waited", "old, has waited too little", "another has waited"],
)
def test_a_claim_is_capped_when_it_has_worked_for_too_long(age, waited, capped):
    image = an_image(S.PROCESSING, claim=Claim(worker="w1", at=NOW - age))
    holder = a_worker(waited_seconds=waited)
    assert decisions.image.claim_is_capped(image, holder, NOW) is capped
    assert decisions.image.claim_is_alive(image, holder, NOW) is not capped
    assert decisions.image.claim_is_alive(image, a_worker(since=STALE, waited_seconds=waited), NOW) is False


def test_an_unclaimed_image_is_not_capped():
    assert decisions.image.claim_is_capped(an_image(), ALIVE, NOW) is False
    assert decisions.image.claim_is_capped(an_image(S.PROCESSING, claim=Claim(worker="w1", at=0.0)), None, NOW) is True


# --- claim ------------------------------------------------------------------------------------------------------------


def take(image: Image, holder: Worker | None = None, task_round: int = 2) -> Image | Refusal:
    return decisions.image.claim(image, task_round=task_round, worker="w2", now=NOW, holder=holder)


@pytest.mark.parametrize(("state", "task_round", "holder"), list(itertools.product(S, (1, 2, 3), HOLDERS)))
def test_claims_of_another_round_or_a_settled_image_are_refused(state, task_round, holder):
    answer = take(an_image(state), HOLDERS[holder], task_round)
    if task_round != 2:
        assert answer is Refusal.OTHER_ROUND
    elif state in SETTLED_STATES:
        assert answer is Refusal.SETTLED
    elif state is S.QUEUED:
        assert isinstance(answer, Image)
    elif holder in ("unknown", "another worker", "fresh", "fresh, waiting for quota"):
        assert answer is Refusal.HELD
    else:
        assert isinstance(answer, Image)


@pytest.mark.parametrize("crashes", [0, 1, 2, 5])
def test_a_queued_image_is_claimed_with_a_new_fence(crashes: int):
    image = an_image(crashes=crashes, attempts=1, checkpoint=PAID, calls=BOUGHT, error=WORLDS_FAULT)
    claimed = take(image)
    assert claimed == moved(
        image, state=S.PROCESSING, fence=4, revision=6, claim=Claim(worker="w2", at=NOW, alone=False)
    )
    assert decisions.image.is_suspect(claimed) is (crashes >= 2)


# (holder, claimed for, waited) -> taken over, and is it a crash. A crash needs a worker that fell silent.
TAKE_OVERS = {
    ("fresh", 100, 0): (False, 0),
    ("fresh", CAP, 0): (True, 0),
    ("fresh", CAP, 1): (False, 0),
    ("stale", 100, 0): (True, 1),
    ("stale", CAP, 0): (True, 1),
    ("stale", CAP, 1): (True, 1),
    ("stopped", 100, 0): (True, 0),
    ("stopped", CAP, 0): (True, 0),
    ("stopped, long ago", 100, 0): (True, 0),
    ("never heard of", 100, 0): (True, 1),
    ("never heard of", CAP, 0): (True, 1),
    ("unknown", 100, 0): (False, 0),
    ("unknown", CAP, 0): (False, 0),
    ("another", 100, 0): (False, 0),
    ("another", CAP, 0): (False, 0),
}
AT = {
    "fresh": {}, "stale": {"since": STALE}, "stopped": {"stopped": True},
    "stopped, long ago": {"since": 1000, "stopped": True}, "never heard of": {"since": NOW},
    "another": {"since": 1000, "id": "w9"},
}  # fmt: skip


# What is known of an image's trials -> what the next lone death in the step "prepare" makes of them.
SO_FAR = {
    "nothing": (Trials(), Trials(deaths=1, step="prepare", in_a_row=1)),
    "a death elsewhere": (Trials(deaths=1, passed=1), Trials(deaths=2, step="prepare", in_a_row=1, passed=1)),
    "a death in another step": (Trials(deaths=9, step="finish", in_a_row=5), Trials(deaths=10, step="prepare", in_a_row=1)),
    "a row": (Trials(deaths=4, step="prepare", in_a_row=4), Trials(deaths=5, step="prepare", in_a_row=5)),
    "almost a full row": (Trials(deaths=5, step="prepare", in_a_row=5), Trials(deaths=6, step="prepare", in_a_row=6)),
    "almost too many": (Trials(deaths=99, passed=2), Trials(deaths=100, step="prepare", in_a_row=1, passed=2)),
}  # fmt: skip
BLAMED = ("almost a full row", "almost too many")


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("crashes", [0, 1, 2, 200])
@pytest.mark.parametrize("so_far", list(SO_FAR))
@pytest.mark.parametrize("case", list(TAKE_OVERS), ids=str)
def test_taking_a_claim_over(case, so_far: str, crashes: int, alone: bool):
    """Only the death of a worker that had it alone says anything about the image."""
    (who, age, waited), (taken, crash), (known, then) = case, TAKE_OVERS[case], SO_FAR[so_far]
    holder = None if who == "unknown" else a_worker(waited_seconds={KEY: waited}, **AT[who])
    claim = Claim(worker="w1", at=NOW - age, alone=alone, step="prepare" if alone else "")
    image = an_image(
        S.PROCESSING, claim=claim, crashes=crashes, trials=known, attempts=1, checkpoint=PAID, calls=BOUGHT
    )
    answer = take(image, holder)
    trials = then if crash and alone else known
    if not taken:
        assert answer is Refusal.HELD
    elif crash and alone and so_far in BLAMED:
        assert isinstance(answer, Image)
        assert answer.error is not None
        assert answer.error.code == "worker_crashed"
        assert f"{trials.deaths} workers died" in answer.error.message
        assert answer == moved(
            image, state=S.FAILED, fence=4, revision=6, crashes=crashes + 1, trials=trials, claim=None, settled_at=NOW,
            error=answer.error,
        )  # fmt: skip
    else:
        assert answer == moved(
            image, fence=4, revision=6, crashes=crashes + crash, trials=trials, claim=Claim(worker="w2", at=NOW),
        )  # fmt: skip


# --- whose fault it is ------------------------------------------------------------------------------------------------

PICTURE_STEPS = [step.value for step in decisions.image.PictureStep]


def after_deaths(steps: list[str]) -> Trials:
    trials = Trials()
    for step in steps:
        trials = decisions.image.died_alone(trials, step)
    return trials


@pytest.mark.parametrize("length", range(9))
def test_six_lone_deaths_in_a_row_in_one_step_are_the_images_fault(length: int):
    """Every sequence of lone deaths, by another way of counting."""
    for steps in itertools.product(["", "prepare", "finish"], repeat=length):
        last_row = [(step, len([*row])) for step, row in itertools.groupby(steps)][-1:]
        blamed = any(step and row >= 6 for step, row in last_row)
        trials = after_deaths([*steps])
        assert decisions.image.is_to_blame(trials) is blamed, steps
        assert (trials.deaths, trials.step) == (length, steps[-1] if steps else "")


@pytest.mark.parametrize("step", PICTURE_STEPS)
def test_every_picture_step_is_judged_alike(step: str):
    assert [decisions.image.is_to_blame(after_deaths([step] * deaths)) for deaths in (5, 6, 7)] == [False, True, True]


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(steps=st.lists(st.sampled_from(["", *PICTURE_STEPS]), max_size=110))
def test_a_hundred_lone_deaths_end_it_wherever_they_were(steps: list[str]):
    rows = [len([*row]) for step, row in itertools.groupby(steps) if step]
    if max(rows, default=0) < 6:
        assert decisions.image.is_to_blame(after_deaths(steps)) is (len(steps) >= 100)
    assert decisions.image.is_to_blame(after_deaths(["", *steps, "", *[""] * 100]))


def test_a_death_that_came_before_the_step_ends_the_row():
    assert not decisions.image.is_to_blame(after_deaths([*["prepare"] * 5, "", *["prepare"] * 5]))


def test_a_photo_that_was_prepared_alone_is_no_suspect_any_more():
    image = held(
        claim=Claim(worker="w1", at=NOW - 100, alone=True, step="prepare"),
        trials=Trials(deaths=7, step="prepare", in_a_row=5, passed=1),
    )
    after = decisions.image.pass_trial(msgspec.structs.replace(image, crashes=4), fence=3)
    assert after == msgspec.structs.replace(
        image, revision=6, crashes=0, trials=Trials(deaths=7, passed=2), claim=Claim(worker="w1", at=NOW - 100)
    )
    assert not decisions.image.is_suspect(after)
    assert decisions.image.is_tried_to_the_end(after)


@pytest.mark.parametrize(("passed", "to_the_end"), [(0, False), (1, False), (2, True), (3, True)])
def test_who_passes_twice_and_is_a_suspect_again_is_alone_to_the_end(passed: int, to_the_end: bool):
    assert decisions.image.is_tried_to_the_end(an_image(trials=Trials(passed=passed))) is to_the_end


OLD_CLAIMS = ['{"worker":"w1","at":1.0}', '{"worker":"w1","at":1.0,"alone":true}']


@pytest.mark.parametrize("claim", OLD_CLAIMS)
def test_documents_of_earlier_versions_say_nothing_of_trials(claim: str):
    """A worker of an earlier version died alone with it, and did not say where."""
    old = msgspec.json.encode(an_image(S.PROCESSING)).replace(b'{"worker":"w1","at":999900.0}', claim.encode())
    image = msgspec.json.decode(old, type=Image)
    assert (image.trials, image.claim.step) == (Trials(), "")
    after = take(image, a_worker(since=STALE))
    assert (after.state, after.crashes, after.trials) == (S.PROCESSING, 1, Trials(deaths=int("alone" in claim)))


def third_claim() -> Image:
    """The image as the third worker has it, before that worker is alone with it; two have died holding it."""
    image = an_image(round=1, fence=0)
    suspect = []
    for worker in ("a", "b", "c"):
        holder = Worker(id=image.claim.worker, at=0.0) if image.claim else None
        image = decisions.image.claim(image, task_round=1, worker=worker, now=NOW, holder=holder)
        assert image.claim.alone is False
        suspect.append(decisions.image.is_suspect(image))
    assert suspect == [False, False, True]
    return image


def test_the_third_worker_is_to_go_alone_and_its_death_is_counted():
    image = decisions.image.go_alone(third_claim(), fence=3)
    assert image.claim == Claim(worker="c", at=NOW, alone=True)
    image = decisions.image.enter_step(image, fence=3, step="prepare")
    assert image.claim == Claim(worker="c", at=NOW, alone=True, step="prepare")
    after = decisions.image.claim(image, task_round=1, worker="d", now=NOW, holder=Worker(id="c", at=0.0))
    assert (after.state, after.crashes, after.fence, after.attempts) == (S.PROCESSING, 3, 4, 0)
    assert after.trials == Trials(deaths=1, step="prepare", in_a_row=1)
    assert decisions.image.is_suspect(after)


def test_the_death_of_a_worker_that_was_not_yet_alone_says_nothing():
    after = decisions.image.claim(third_claim(), task_round=1, worker="d", now=NOW, holder=Worker(id="c", at=0.0))
    assert (after.state, after.crashes, after.claim.worker, after.claim.alone) == (S.PROCESSING, 3, "d", False)
    assert decisions.image.is_suspect(after)
    assert after.trials == Trials()


def test_deaths_in_company_never_blame_however_many():
    image = an_image(round=1, fence=0)
    for life in range(200):
        holder = Worker(id=image.claim.worker, at=0.0) if image.claim else None
        image = decisions.image.claim(image, task_round=1, worker=f"w{life}", now=NOW, holder=holder)
    assert (image.state, image.crashes, image.trials) == (S.PROCESSING, 199, Trials())


# --- what the holder does ---------------------------------------------------------------------------------------------

HOLDER_DECISIONS = {
    "checkpoint": lambda image, fence: decisions.image.checkpoint(image, fence=fence, checkpoint=PAID, calls=BOUGHT),
    "release": lambda image, fence: decisions.image.release(image, fence=fence, calls=BOUGHT),
    "release, attempt spent": lambda image, fence: decisions.image.release(
        image, fence=fence, calls=BOUGHT, error=WORLDS_FAULT, spend_attempt=True, max_attempts=3, now=NOW
    ),
    "complete": lambda image, fence: decisions.image.complete(
        image, fence=fence, output=OUTPUT, calls=BOUGHT, durations_ms={"generate": 9}, prompts="7", now=NOW
    ),
    "fail": lambda image, fence: decisions.image.fail(image, fence=fence, error=REJECTED, calls=BOUGHT, now=NOW),
    "cancel": lambda image, fence: decisions.image.cancel(image, fence=fence, calls=BOUGHT, now=NOW),
    "go alone": lambda image, fence: decisions.image.go_alone(image, fence=fence),
    "enter a step": lambda image, fence: decisions.image.enter_step(image, fence=fence, step="prepare"),
    "pass the trial": lambda image, fence: decisions.image.pass_trial(image, fence=fence),
}
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


def held(**changes: Any) -> Image:
    return an_image(S.PROCESSING, attempts=1, crashes=1, **changes)


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


# --- anything in any order --------------------------------------------------------------------------------------------

MAX_ATTEMPTS = 3
# Fences and rounds are given relative to the image's: mostly the present one, or one that has passed.
BEHIND = st.sampled_from([0, 0, 0, 1, 2])
HOLDER_STATES = st.sampled_from(["fresh", "stale", "stopped", "unknown", "another worker"])
ACTS = st.one_of(
    st.tuples(st.just("claim"), BEHIND, HOLDER_STATES),
    st.tuples(st.sampled_from([*HOLDER_DECISIONS, "release, attempt spent"]), BEHIND, st.none()),
    st.tuples(st.just("give up"), BEHIND, HOLDER_STATES),
    st.tuples(st.just("cancel queued"), st.just(0), HOLDER_STATES),
    st.tuples(st.just("requeue"), st.just(0), st.none()),
)


def act(image: Image, name: str, behind: int, holder: str | None, now: float) -> Image | Refusal:
    calls = (*image.calls, Call(step="generate", model="m", cost_micro_usd=1))
    fence = image.fence - behind
    known = None
    if holder not in (None, "unknown"):
        named = image.claim.worker if image.claim and holder != "another worker" else "nobody"
        known = Worker(id=named, at=now if holder in ("fresh", "stopped") else now - STALE, stopped=holder == "stopped")
    match name:
        case "claim":
            return decisions.image.claim(
                image, task_round=image.round - behind, worker=f"w{now}", now=now, holder=known
            )
        case "give up":
            return decisions.image.give_up(
                image, letter_round=image.round - behind, error=LETTERS_ERROR, holder=known,
                max_attempts=MAX_ATTEMPTS, now=now,
            )  # fmt: skip
        case "cancel queued":
            return decisions.image.cancel_queued(image, now=now, holder=known)
        case "requeue":
            return decisions.image.requeue(image, replay=image.replay + 1, now=now)
        case "go alone" | "enter a step" | "pass the trial":
            return HOLDER_DECISIONS[name](image, fence)
        case "checkpoint":
            return decisions.image.checkpoint(image, fence=fence, checkpoint=PAID, calls=calls)
        case "release":
            return decisions.image.release(image, fence=fence, calls=calls, max_attempts=MAX_ATTEMPTS, now=now)
        case "release, attempt spent":
            return decisions.image.release(
                image, fence=fence, calls=calls, error=WORLDS_FAULT, spend_attempt=True, max_attempts=MAX_ATTEMPTS,
                now=now,
            )  # fmt: skip
        case "complete":
            return decisions.image.complete(
                image, fence=fence, output=OUTPUT, calls=calls, durations_ms={}, prompts="7", now=now
            )
        case "fail":
            return decisions.image.fail(image, fence=fence, error=REJECTED, calls=calls, now=now)
        case "cancel":
            return decisions.image.cancel(image, fence=fence, calls=calls, now=now)
    raise AssertionError(name)


@settings(max_examples=600, deadline=None, database=None, derandomize=True)
@given(acts=st.lists(ACTS, min_size=5, max_size=60))
def test_whatever_happens_in_whatever_order(acts):
    image = an_image(revision=1, fence=0, round=1)
    granted: list[int] = []
    for turn, (name, behind, holder) in enumerate(acts):
        before, now = image, NOW + turn
        written = msgspec.json.encode(before)
        after = act(before, name, behind, holder, now)
        assert msgspec.json.encode(before) == written
        if isinstance(after, Refusal):
            continue
        image = after
        held_before = before.state is S.PROCESSING
        # Nothing stale, nothing settled is ever written.
        assert not behind
        assert before.state not in SETTLED_STATES or (before.state is S.FAILED and name == "requeue")
        assert name not in HOLDER_DECISIONS or held_before
        # Numbers only grow, and only by their own cause.
        assert after.revision == before.revision + 1
        assert after.fence - before.fence == (name in ("claim", "give up", "cancel queued"))
        assert after.round - before.round == (name == "requeue")
        assert after.cost_micro_usd >= before.cost_micro_usd
        if name in ("release", "release, attempt spent", "requeue"):
            assert after.touched_at == now
        else:
            assert after.touched_at == before.touched_at
        # What a living worker holds is taken from it by nobody.
        if held_before and name in ("claim", "give up", "cancel queued"):
            assert holder in ("stale", "stopped")
        if name == "requeue":
            assert (after.attempts, after.crashes, after.trials) == (0, 0, Trials())
        elif name == "pass the trial":
            assert (after.crashes, after.trials) == (
                0,
                Trials(deaths=before.trials.deaths, passed=before.trials.passed + 1),
            )
        else:
            died = name == "claim" and held_before and holder == "stale"
            assert after.attempts - before.attempts == (name in ("release, attempt spent", "fail"))
            assert after.crashes - before.crashes == died
            assert after.trials.deaths - before.trials.deaths == (died and before.claim.alone)
            assert after.trials.passed == before.trials.passed
        # What goes together goes together.
        assert (after.claim is not None) == (after.state is S.PROCESSING)
        assert (after.settled_at is not None) == (after.state in SETTLED_STATES)
        assert (after.output is not None) == (after.state is S.COMPLETED)
        assert after.state is not S.FAILED or after.error is not None
        assert after.state in SETTLED_STATES or after.attempts < MAX_ATTEMPTS
        if name == "claim" and after.state is S.PROCESSING:
            granted.append(after.fence)
            assert after.claim == Claim(worker=f"w{now}", at=now, alone=False)
        elif name == "go alone":
            assert after.claim == msgspec.structs.replace(before.claim, alone=True)
        # Only lone deaths fail an image at its claim, and not the first five.
        if name == "claim" and after.state is S.FAILED:
            assert held_before
            assert holder == "stale"
            assert before.claim.alone
            assert after.trials.deaths >= 6
        for fence in granted[:-1]:  # no earlier claim can still write
            assert all(decide(after, fence) is Refusal.STALE_FENCE for decide in HOLDER_DECISIONS.values())
    assert granted == sorted(set(granted))


# Where the workers of an image die, and after how many deaths it is failed, with nobody stopping politely: two in
# company, then lone ones. What passes its trial takes two others along before the next.
BOUNDS = {"prepare": 2 + 6, "frame": 3 * 2 + 6, "finish": 3 * 2 + 6, "download": 2 + 100, "generate": 3 * 2 + 100}


@pytest.mark.parametrize("where", list(BOUNDS))
def test_an_image_that_kills_every_worker_fails_within_a_bound(where: str):
    image, deaths = an_image(round=1, fence=0), -1
    while image.state is not S.FAILED:
        deaths += 1
        holder = Worker(id=image.claim.worker, at=0.0) if image.claim else None
        image = decisions.image.claim(image, task_round=1, worker=f"w{deaths}", now=NOW, holder=holder)
        if image.state is S.PROCESSING and decisions.image.is_suspect(image):
            image = decisions.image.go_alone(image, fence=image.fence)
            if where in ("prepare", "download"):
                image = decisions.image.enter_step(
                    image, fence=image.fence, step="prepare" if where == "prepare" else ""
                )
            elif decisions.image.is_tried_to_the_end(image):
                image = decisions.image.enter_step(image, fence=image.fence, step="" if where == "generate" else where)
            else:
                image = decisions.image.pass_trial(image, fence=image.fence)
    assert deaths == BOUNDS[where]
    assert (image.error.code, image.fence) == ("worker_crashed", deaths + 1)
