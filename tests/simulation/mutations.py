"""Rules left out on purpose, and which seed notices: `python -m tests.simulation.mutations [seeds]`.

A mutation that no seed catches is a hole in the checker or a rule that another rule covers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from shared import claims, closing, replay, stage_image
from shared.model import BatchMove, BatchState, ImageState, Refusal
from tests.simulation.run import run_seed

Patch = tuple[Any, str, Any]
_begin, _fold, _claim, _put_fenced = replay.begin, closing.fold, claims.claim, stage_image.put_fenced


def _fold_anything(tally: Any, *, index: int, revision: int, state: ImageState) -> Any:
    _, known_state = tally.entries.get(index, (0, ImageState.QUEUED))
    entries = {**tally.entries, index: (revision, state)}
    return msgspec.structs.replace(tally, counts=tally.counts.moved(known_state, state), entries=entries)


def _claim_any_round(image: Any, *, task_round: int, **more: Any) -> Any:
    return _claim(image, task_round=image.round, **more)


def _begin_unannounced(batch: Any, **more: Any) -> Any:
    return _begin(msgspec.structs.replace(batch, announced_round=batch.round), **more)


def _begin_closing_anyhow(batch: Any, *, seen_revision: int, lease: Any, now: float) -> Any:
    return closing.move(batch, BatchMove.BEGIN_CLOSING, closer=lease, closing_at=now)


async def _put_always(objects: Any, bucket: str, name: str, data: bytes, *, content_type: str, fence: int) -> Any:
    return await objects.put(bucket, name, data, content_type=content_type, metadata={"fence": str(fence)})


async def _check_closed_is_done(self: Any, batch_id: str) -> None:
    batch = await self._store.batch(batch_id)
    if batch is not None and batch.state is not BatchState.CLOSED:
        await _check(self, batch_id)


_check = closing.Closer.check


async def _no_check(self: Any, batch_id: str) -> None:
    """Replay begins without looking."""


async def _no_fold(store: Any, image: Any, clock: Any) -> Refusal:
    return Refusal.UNCHANGED


MUTATIONS: Final[dict[str, list[Patch]]] = {
    "claims._held checks no fence": [(claims, "_held", lambda image, fence: None)],
    "put_fenced always overwrites": [(stage_image, "put_fenced", _put_always)],
    "closing.fold ignores the revision": [(closing, "fold", _fold_anything)],
    "claim ignores the round": [(claims, "claim", _claim_any_round)],
    "check of a closed, unannounced batch does nothing": [(closing.Closer, "check", _check_closed_is_done)],
    "replay does not announce first": [
        (replay.Replay, "_checked", _no_check),
        (replay, "begin", _begin_unannounced),
    ],
    "replay does not fold": [(replay, "fold_image", _no_fold)],
    "begin_closing ignores the revision seen": [(closing, "begin_closing", _begin_closing_anyhow)],
    "HELD nacks": [(stage_image.StageImage, "_held", lambda self, deliveries: stage_image.NACK)],
    "HELD acks": [(stage_image.StageImage, "_held", lambda self, deliveries: stage_image.ACK)],
    "claims never die": [(claims, "claim_is_alive", lambda image, holder, now: True)],
    "claims are always dead": [(claims, "claim_is_alive", lambda image, holder, now: False)],
}


@contextmanager
def patched(patches: list[Patch]) -> Iterator[None]:
    """The product without its rule."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def caught_by(patches: list[Patch], seeds: range) -> tuple[int, str] | None:
    """The first seed that notices, and what it says."""
    with patched(patches):
        for seed in seeds:
            if violations := run_seed(seed).checker.violations:
                return seed, violations[0]
    return None


def main(show: Callable[[str], None] = lambda text: print(text, flush=True)) -> int:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    missed = 0
    for name, patches in MUTATIONS.items():
        found = caught_by(patches, seeds)
        missed += found is None
        show(
            f"{name}: {f'caught by seed {found[0]}: {found[1][:150]}' if found else f'NOT caught by {len(seeds)} seeds'}"
        )
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
