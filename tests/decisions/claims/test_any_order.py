"""What holds of an image after any number of decisions in any order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.model import SETTLED_STATES, Call, Claim, Image, Refusal, Trials, Worker
from tests.decisions.claims.parts import (
    HOLDER_DECISIONS,
    LETTERS_ERROR,
    NOW,
    OUTPUT,
    PAID,
    REJECTED,
    STALE,
    WORLDS_FAULT,
    S,
    an_image,
)

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
