"""An image, its holders, and what they may do to it."""

from __future__ import annotations

from typing import Any

import msgspec

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
    Worker,
    image_key,
)
from tests import builders

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
        "index": 7, "state": state, "revision": 5, "fence": 3, "round": 2,
    }  # fmt: skip
    if state is S.PROCESSING:
        known["claim"] = Claim(worker="w1", at=NOW - 100)
    if state in SETTLED_STATES:
        known["settled_at"] = NOW - 1
    return builders.an_image(**known | changes)


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


def take(image: Image, holder: Worker | None = None, task_round: int = 2) -> Image | Refusal:
    return decisions.image.claim(image, task_round=task_round, worker="w2", now=NOW, holder=holder)


PICTURE_STEPS = [step.value for step in decisions.image.PictureStep]

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


def held(**changes: Any) -> Image:
    return an_image(S.PROCESSING, attempts=1, crashes=1, **changes)
