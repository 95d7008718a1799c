"""What reconcile decides, without its world: which images are forgotten, and how far a run has come."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decisions.batch import RECORD_KEPT_SECONDS, forgotten_before, note_run
from shared.lifecycle.reconcile import ORPHANS_KEY, OVERLAP_SECONDS
from shared.model import Batch, BatchState, Reconciled, Tier, TierEmpty, last_moved
from shared.settings import ReconcileRules
from tests import builders

RULES = ReconcileRules()
NOW = 1_000_000.0
MINUTE = 60.0


def a_batch(republished_at: float = 0.0) -> Batch:
    return builders.a_batch(state=BatchState.PROCESSING, republished_at=republished_at)


def empty(*minutes_ago: float) -> TierEmpty:
    return TierEmpty(tier=Tier.NORMAL, seen_at=tuple(NOW - ago * MINUTE for ago in minutes_ago))


# --- what is forgotten

AGES = [0, 14.9, 15, 20, 31, 40, 61, 120]  # minutes
LOOKS = [None, (), (1,), *((first, second) for first, second in itertools.product(AGES, AGES) if first > second)]


@pytest.mark.parametrize("looks", LOOKS, ids=str)
@pytest.mark.parametrize("republished", [None, 10, 29.9, 30, 45, 100])
def test_forgotten_is_what_nobody_moved_and_two_looks_did_not_see(looks: tuple[float, ...] | None, republished: float):
    """By the words of the rule, for each age of an image's last move."""
    batch = a_batch(NOW - republished * MINUTE if republished is not None else 0.0)
    emptied = None if looks is None else empty(*looks)
    before = forgotten_before(batch, emptied, NOW, RULES)
    for moved in AGES:
        found = before is not None and NOW - moved * MINUTE < before
        twice_since_moved = looks is not None and len(looks) == 2 and all(ago < moved for ago in looks)
        since_published = republished is None or (republished >= 30 and all(ago < republished for ago in looks or ()))
        assert found is (twice_since_moved and since_published and moved >= 15), moved


# --- how far a run has come


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.booleans()), min_size=1, max_size=10)
)
def test_a_note_only_grows_and_is_never_ahead_of_the_server(runs: list[tuple[float, float, float, bool]]):
    known: Reconciled | None = None
    for at, server_now, moved_at, swept in runs:
        after = note_run(known, server_now, at=at, moved_at=moved_at, swept=swept)
        before = known or Reconciled()
        assert after.at == max(before.at, min(at, server_now))
        assert after.moved_at == max(before.moved_at, moved_at)
        assert after.swept_at == (max(before.swept_at, min(at, server_now)) if swept else before.swept_at)
        assert after.expires_at == server_now + RECORD_KEPT_SECONDS
        known = after


def test_a_note_outlives_what_lies_between_two_runs_and_the_stall() -> None:
    assert RECORD_KEPT_SECONDS > 100 * RULES.stalled_seconds
    assert OVERLAP_SECONDS < RULES.untouched_seconds
    assert "." not in ORPHANS_KEY, "a batch's id has a dot"


@pytest.mark.parametrize("name", ["moved_at", "created_at", "touched_at", "settled_at"])
def test_an_image_without_a_noted_move_has_its_other_times(name: str) -> None:
    image = builders.an_image()
    assert last_moved(image) == 0.0
    assert last_moved(msgspec.structs.replace(image, **{name: 7.5})) == 7.5
