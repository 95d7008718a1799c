"""Who may claim an image: whether a claim is alive, and whose fault it was when a holder died."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.model import SETTLED_STATES, Claim, Image, Refusal, Trials, Worker
from shared.settings import WorkerLimits
from tests.decisions.claims.parts import (
    ALIVE,
    BOUGHT,
    CAP,
    HOLDERS,
    KEY,
    NOW,
    PAID,
    PICTURE_STEPS,
    STALE,
    WORLDS_FAULT,
    S,
    a_worker,
    an_image,
    held,
    moved,
    take,
)

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
