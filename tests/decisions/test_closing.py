"""Counting and closing, rule by rule: exact counts whatever comes when, and one way through closing."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions
from shared.model import (
    Batch,
    BatchMove,
    BatchState,
    Counts,
    Failure,
    Image,
    ImageState,
    Lease,
    Refusal,
    Tally,
    shards_for,
)
from tests import builders
from tests.lifecycle.closing_parts import NOW, OUTPUT, B, S, a_batch, a_completion

LEASE = Lease(holder="me", until=NOW + 30)


# --- fold -------------------------------------------------------------------------------------------------------------


def a_tally(images: int) -> Tally:
    return Tally(batch="acme.a", shard=0, counts=Counts(queued=images))


def folded(tally: Tally, event: tuple[int, int, ImageState]) -> Tally:
    index, revision, state = event
    before = msgspec.json.encode(tally)
    after = decisions.batch.fold(tally, index=index, revision=revision, state=state)
    assert msgspec.json.encode(tally) == before  # a decision may run twice: it must not touch what it was given
    if isinstance(after, Refusal):
        assert after is Refusal.UNCHANGED
        return tally
    return after


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, ImageState]]]:
    """How many images a shard has, and the events of what happened to them, by the product's own image rules."""
    count = draw(st.integers(1, 5))
    events: list[tuple[int, int, ImageState]] = []
    for index in range(count):
        image = builders.an_image(index=index)
        for choice in draw(st.lists(st.integers(0, 5), max_size=8)):
            fence = image.fence
            after = [
                lambda: decisions.image.claim(image, task_round=image.round, worker="w", now=NOW, holder=None),
                lambda: decisions.image.release(image, fence=fence, calls=()),
                lambda: decisions.image.complete(
                    image, fence=fence, output=OUTPUT, calls=(), durations_ms={}, prompts="", now=NOW
                ),
                lambda: decisions.image.fail(
                    image, fence=fence, error=Failure(code="x", message=""), calls=(), now=NOW
                ),
                lambda: decisions.image.cancel_queued(image, now=NOW),
                lambda: decisions.image.requeue(image, replay=image.replay + 1, now=NOW),
            ][choice]()
            if isinstance(after, Image):
                image = after
                events.append((index, image.revision, image.state))
    return count, events


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(history=histories(), chance=st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_of_events_counts_the_same(history, chance: random.Random):
    count, events = history
    shuffled = events + [event for event in events if chance.random() < 0.5]
    chance.shuffle(shuffled)
    tally = a_tally(count)
    for event in shuffled:
        tally = folded(tally, event)
        assert tally.counts.total == count
        assert min(tally.counts.of(state) for state in S) >= 0
    newest = {index: state for index, _, state in events}  # in order of revision per image
    assert tally.counts == sum((Counts(**{newest.get(index, S.QUEUED).value: 1}) for index in range(count)), Counts())
    assert {index: state for index, (_, state) in tally.entries.items()} == newest


def test_every_order_of_one_images_life_counts_the_same():
    life = [(0, 2, S.PROCESSING), (0, 3, S.QUEUED), (0, 4, S.PROCESSING), (0, 5, S.FAILED), (0, 6, S.QUEUED)]
    for order in itertools.permutations(life):
        tally = a_tally(2)
        for event in (*order, *order):
            tally = folded(tally, event)
        assert tally.counts == Counts(queued=2)
        assert tally.entries == {0: (6, S.QUEUED)}


@pytest.mark.parametrize(("known", "revision", "counts"), [(3, 2, False), (3, 3, False), (3, 4, True), (0, 1, True)])
def test_only_a_newer_revision_counts(known: int, revision: int, counts: bool):
    tally = Tally(batch="acme.a", shard=0, counts=Counts(processing=1, queued=1), entries={0: (known, S.PROCESSING)})
    after = decisions.batch.fold(tally, index=0, revision=revision, state=S.FAILED)
    if counts:
        assert after == msgspec.structs.replace(
            tally, counts=Counts(queued=1, failed=1), entries={0: (revision, S.FAILED)}
        )
    else:
        assert after is Refusal.UNCHANGED


@pytest.mark.parametrize("total", [1, 2, 8, 9, 2001, 10_000])
def test_empty_tallies_count_every_image_as_open(total: int):
    batch = a_batch(total=total, shards=shards_for(total))
    tallies = decisions.batch.empty_tallies(batch)
    assert [tally.shard for tally in tallies] == list(range(batch.shards))
    assert sum((tally.counts for tally in tallies), Counts()) == Counts(queued=total)
    assert {tally.batch for tally in tallies} == {batch.id}
    assert all(tally.entries == {} for tally in tallies)


# --- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(B))
@pytest.mark.parametrize("seen", [4, 5, 6])
def test_closing_begins_only_on_the_revision_seen_and_only_from_processing(state: BatchState, seen: int):
    batch = a_batch(state)
    answer = decisions.batch.begin_closing(batch, seen_revision=seen, lease=LEASE, now=NOW)
    if seen != 5:
        assert answer is Refusal.STALE_REVISION
    elif state is B.PROCESSING:
        assert answer == msgspec.structs.replace(batch, state=B.CLOSING, revision=6, closer=LEASE, closing_at=NOW)
    else:
        assert answer is Refusal.ILLEGAL


@pytest.mark.parametrize("state", list(B))
@pytest.mark.parametrize(
    ("closer", "busy"),
    [
        (None, False),
        (Lease(holder="other", until=NOW + 0.001), True),
        (Lease(holder="other", until=NOW), False),
        (Lease(holder="other", until=NOW - 1), False),
    ],
    ids=["nobody's", "living", "ends now", "over"],
)
def test_a_closing_is_carried_on_when_its_lease_is_over(state, closer, busy):
    batch = a_batch(state, closer=closer, closing_at=NOW - 40)
    answer = decisions.batch.take_closer(batch, lease=LEASE, now=NOW)
    if state is not B.CLOSING:
        assert answer is Refusal.ILLEGAL
    elif busy:
        assert answer is Refusal.BUSY
    else:  # the time it began stays: the reports depend on it
        assert answer == msgspec.structs.replace(batch, closer=LEASE, revision=6)


def test_a_closed_batch_has_its_completion_and_no_closer():
    batch = a_batch(B.CLOSING, closer=LEASE)
    completion = a_completion(completed=2)
    assert decisions.batch.close(batch, holder="me", completion=completion, now=NOW) == msgspec.structs.replace(
        batch, state=B.CLOSED, revision=6, completion=completion, closer=None, closed_at=NOW
    )


@pytest.mark.parametrize("state", list(B))
@pytest.mark.parametrize("closer", [None, LEASE, Lease(holder="other", until=NOW - 1)], ids=["nobody", "me", "other"])
def test_only_the_leases_holder_closes_and_only_what_is_closing(state: BatchState, closer: Lease | None):
    answer = decisions.batch.close(
        a_batch(state, closer=closer), holder="me", completion=a_completion(completed=2), now=NOW
    )
    if state is not B.CLOSING:
        assert answer is Refusal.ILLEGAL
    elif closer is LEASE:
        assert isinstance(answer, Batch)
    else:
        assert answer is Refusal.STALE_FENCE


@pytest.mark.parametrize(("known", "noted", "changes"), [(0, 1, True), (1, 1, False), (2, 1, False), (1, 2, True)])
def test_an_announcement_is_noted_once_and_never_taken_back(known: int, noted: int, changes: bool):
    batch = a_batch(B.CLOSED, round=2, announced_round=known)
    answer = decisions.batch.note_announced(batch, round_announced=noted)
    if changes:
        assert answer == msgspec.structs.replace(batch, announced_round=noted, revision=6)
    else:
        assert answer is Refusal.UNCHANGED


def test_closing_moves_raise_the_revision_so_that_a_replay_in_between_is_seen():
    batch = a_batch()
    reopened = decisions.batch.apply(batch, BatchMove.REOPEN)
    resumed = decisions.batch.apply(reopened, BatchMove.RESUME)
    assert resumed.state is B.PROCESSING
    assert decisions.batch.begin_closing(resumed, seen_revision=5, lease=LEASE, now=NOW) is Refusal.STALE_REVISION
