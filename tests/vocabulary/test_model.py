"""The nouns: the transition tables cell by cell through the decisions, counting, sharding, documents as JSON."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import decisions, messages, model
from shared.model import (
    BATCH_MOVES,
    IMAGE_MOVES,
    OPEN_STATES,
    SETTLED_STATES,
    Batch,
    BatchMove,
    BatchState,
    Call,
    Checkpoint,
    Claim,
    Completion,
    Control,
    Counts,
    Document,
    Failure,
    Image,
    ImageMove,
    ImageState,
    Lease,
    ManifestRef,
    Output,
    Refusal,
    ReportFile,
    Tally,
    Tier,
    Trials,
    Worker,
    shard_sizes,
    shards_for,
)
from tests import builders

FUZZ = settings(max_examples=100, deadline=None, database=None, derandomize=True)
S, M, B, V = ImageState, ImageMove, BatchState, BatchMove
NOW = 1_000_000.0
FAILURE = Failure(code="source_not_found", message="404")
OUTPUT = Output(picture="p.jpg", thumbnail="t.jpg", before="b.jpg", sha256="0" * 64, width=4, height=3)
COMPLETION = Completion(
    outcome="completed", counts=Counts(completed=1), success_rate=1.0, cost_usd=0.1, duration_seconds=1.0, reports={}
)


def an_image(state: ImageState = S.QUEUED, **changes: Any) -> Image:
    """An image of which everything fits its state; attempts are spent, so that DEAD LETTER may settle it."""
    known: dict[str, Any] = {
        "index": 7, "state": state, "revision": 5, "fence": 3, "attempts": 3,
    }  # fmt: skip
    if state is S.PROCESSING:
        known["claim"] = Claim(worker="w1", at=NOW - 100)
    if state in SETTLED_STATES:
        known["settled_at"] = NOW - 1
    if state is S.FAILED:
        known["error"] = FAILURE
    if state is S.COMPLETED:
        known["output"] = OUTPUT
    return builders.an_image(**known | changes)


def a_batch(state: BatchState = B.INGESTING, **changes: Any) -> Batch:
    known: dict[str, Any] = {
        "total": 10, "state": state, "revision": 5,
    }  # fmt: skip
    if state is B.CLOSING:
        known["closer"] = Lease(holder="c", until=NOW + 30)
    if state is B.CLOSED:
        known["completion"] = COMPLETION
    return builders.a_batch(**known | changes)


# --- the tables, from the words of the design -------------------------------------------------------------------------

# "queued -> processing -> completed | failed | cancelled; processing -> queued (released); failed -> queued only by
# replay; queued -> failed | cancelled by DEAD LETTER or cancel". A dead claim is taken over; a checkpoint stays within
# processing; DEAD LETTER settles what a dead worker left in processing.
EXPECTED_IMAGES = {
    (S.QUEUED, M.CLAIM): S.PROCESSING,
    (S.QUEUED, M.FAIL): S.FAILED,
    (S.QUEUED, M.CANCEL): S.CANCELLED,
    (S.PROCESSING, M.CLAIM): S.PROCESSING,
    (S.PROCESSING, M.CHECKPOINT): S.PROCESSING,
    (S.PROCESSING, M.RELEASE): S.QUEUED,
    (S.PROCESSING, M.COMPLETE): S.COMPLETED,
    (S.PROCESSING, M.FAIL): S.FAILED,
    (S.PROCESSING, M.CANCEL): S.CANCELLED,
    (S.FAILED, M.REQUEUE): S.QUEUED,
}
# "ingesting -> processing -> closing -> closed; closed | processing -> reopening -> processing by replay; or rejected".
EXPECTED_BATCHES = {
    (B.INGESTING, V.OPEN): B.PROCESSING,
    (B.INGESTING, V.REJECT): B.REJECTED,
    (B.PROCESSING, V.BEGIN_CLOSING): B.CLOSING,
    (B.PROCESSING, V.REOPEN): B.REOPENING,
    (B.CLOSING, V.CLOSE): B.CLOSED,
    (B.CLOSED, V.REOPEN): B.REOPENING,
    (B.REOPENING, V.RESUME): B.PROCESSING,
}
DEAD = Worker(id="w1", at=NOW - 1000)


def try_move(image: Image, move: ImageMove) -> list[Image | Refusal]:
    """Every decision that makes this move, asked with everything else in order: right round, right fence, dead holder."""
    fence = image.fence
    answers: dict[ImageMove, list[Any]] = {
        M.CLAIM: [lambda: decisions.image.claim(image, task_round=image.round, worker="w2", now=NOW, holder=DEAD)],
        M.CHECKPOINT: [
            lambda: decisions.image.checkpoint(image, fence=fence, checkpoint=Checkpoint(picture="p"), calls=())
        ],
        M.RELEASE: [lambda: decisions.image.release(image, fence=fence, calls=())],
        M.COMPLETE: [
            lambda: decisions.image.complete(
                image, fence=fence, output=OUTPUT, calls=(), durations_ms={}, prompts="1", now=NOW
            )
        ],
        M.FAIL: [
            lambda: decisions.image.fail(image, fence=fence, error=FAILURE, calls=(), now=NOW),
            lambda: decisions.image.release(image, fence=fence, calls=(), spend_attempt=True, max_attempts=3, now=NOW),
            lambda: decisions.image.give_up(image, letter_round=1, error=FAILURE, holder=DEAD, max_attempts=3, now=NOW),
        ],
        M.CANCEL: [
            lambda: decisions.image.cancel(image, fence=fence, calls=(), now=NOW),
            lambda: decisions.image.cancel_queued(image, now=NOW),
        ],
        M.REQUEUE: [lambda: decisions.image.requeue(image, replay=1)],
    }
    return [decide() for decide in answers[move]]


@pytest.mark.parametrize(("state", "move"), list(itertools.product(S, M)))
def test_every_image_move_leads_where_the_design_says_or_is_refused(state: ImageState, move: ImageMove):
    image = an_image(state)
    before = msgspec.json.encode(image)
    answers = try_move(image, move)
    assert msgspec.json.encode(image) == before
    made = [answer for answer in answers if isinstance(answer, Image)]
    expected = EXPECTED_IMAGES.get((state, move))
    if expected is None:
        assert made == []
        assert all(isinstance(answer, Refusal) for answer in answers)
    else:
        assert made
        assert {after.state for after in made} == {expected}
        assert {after.revision for after in made} == {image.revision + 1}


# Who may fail or cancel what: the holder what it holds, DEAD LETTER both, an operator only what is queued.
@pytest.mark.parametrize(
    ("state", "fail", "release", "give_up", "cancel", "cancel_queued"),
    [
        (S.QUEUED, Refusal.STALE_FENCE, Refusal.STALE_FENCE, S.FAILED, Refusal.STALE_FENCE, S.CANCELLED),
        (S.PROCESSING, S.FAILED, S.FAILED, S.FAILED, S.CANCELLED, Refusal.HELD),
        *((state, *[Refusal.SETTLED] * 5) for state in (S.COMPLETED, S.FAILED, S.CANCELLED)),
    ],
)
def test_who_may_settle_what(state, fail, release, give_up, cancel, cancel_queued):
    said = [
        getattr(answer, "state", answer) for move in (M.FAIL, M.CANCEL) for answer in try_move(an_image(state), move)
    ]
    assert said == [fail, release, give_up, cancel, cancel_queued]


def test_the_image_table_is_the_designs():
    assert IMAGE_MOVES == EXPECTED_IMAGES


def try_batch_move(batch: Batch, move: BatchMove) -> list[Batch | Refusal]:
    lease = Lease(holder="d", until=NOW + 30)
    answers = [decisions.batch.apply(batch, move)]
    if move is V.BEGIN_CLOSING:
        answers.append(decisions.batch.begin_closing(batch, seen_revision=batch.revision, lease=lease, now=NOW))
    if move is V.CLOSE:
        held = msgspec.structs.replace(batch, closer=lease)
        answers.append(decisions.batch.close(held, holder=lease.holder, completion=COMPLETION, now=NOW))
    return answers


@pytest.mark.parametrize(("state", "move"), list(itertools.product(B, V)))
def test_every_batch_move_leads_where_the_design_says_or_is_refused(state: BatchState, move: BatchMove):
    batch = a_batch(state)
    before = msgspec.json.encode(batch)
    answers = try_batch_move(batch, move)
    assert msgspec.json.encode(batch) == before
    expected = EXPECTED_BATCHES.get((state, move))
    if expected is None:
        assert answers == [Refusal.ILLEGAL] * len(answers)
    else:
        assert [(after.state, after.revision) for after in answers if isinstance(after, Batch)] == [
            (expected, batch.revision + 1)
        ] * len(answers)


def test_the_batch_table_is_the_designs():
    assert BATCH_MOVES == EXPECTED_BATCHES


def test_open_and_settled_states():
    assert {S.QUEUED, S.PROCESSING} == OPEN_STATES
    assert {S.COMPLETED, S.FAILED, S.CANCELLED} == SETTLED_STATES


@pytest.mark.parametrize("state", list(B))
def test_a_batch_reads_as_its_outcome_only_when_closed(state: BatchState):
    completion = msgspec.structs.replace(COMPLETION, outcome="completed_with_failures")
    batch = a_batch(state, completion=completion)
    assert batch.outcome == ("completed_with_failures" if state is B.CLOSED else state.value)


# --- counts -----------------------------------------------------------------------------------------------------------

COUNTS = st.builds(Counts, **{state.value: st.integers(0, 10**9) for state in S})


@FUZZ
@given(counts=COUNTS)
def test_counts_are_open_and_settled(counts: Counts):
    assert counts.open == counts.queued + counts.processing
    assert counts.settled == counts.completed + counts.failed + counts.cancelled
    assert counts.total == counts.open + counts.settled == sum(counts.of(state) for state in S)


@FUZZ
@given(one=COUNTS, other=COUNTS)
def test_counts_add_up_state_by_state(one: Counts, other: Counts):
    both = one + other
    assert all(both.of(state) == one.of(state) + other.of(state) for state in S)
    assert both.total == one.total + other.total
    assert both == other + one
    assert one + Counts() == one


@FUZZ
@given(counts=COUNTS, before=st.sampled_from(S), after=st.sampled_from(S))
def test_a_moved_image_leaves_one_state_and_enters_another(counts: Counts, before: ImageState, after: ImageState):
    moved = counts.moved(before, after)
    assert moved.total == counts.total
    assert moved.moved(after, before) == counts
    for state in S:
        assert moved.of(state) - counts.of(state) == (state is after) - (state is before)


# --- shards -----------------------------------------------------------------------------------------------------------


def test_shards_are_a_250th_of_the_images_at_least_8_at_most_one_each():
    assert [shards_for(total) for total in (0, 1, 2, 7, 8, 9, 250)] == [0, 1, 2, 7, 8, 8, 8]
    assert [shards_for(total) for total in (2000, 2001, 2250, 10_000, 100_000)] == [8, 9, 9, 40, 400]
    known = 0
    for total in range(1, 100_001):
        shards = shards_for(total)
        assert max(8, total / 250) <= shards < max(8, total / 250) + 1 or shards == total < 8
        assert known <= shards
        known = shards


@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 15, 16, 17, 250, 1999, 2000, 2001, 10_000, 99_999, 100_000])
def test_shard_sizes_count_the_indexes(total: int):
    shards = shards_for(total)
    counted = [0] * shards
    for index in range(total):
        counted[index % shards] += 1
    assert shard_sizes(total, shards) == counted


@FUZZ
@given(total=st.integers(1, 100_000))
def test_shards_are_even_small_and_never_empty(total: int):
    sizes = shard_sizes(total, shards_for(total))
    assert sum(sizes) == total
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
    assert max(sizes) <= 250
    assert sizes == sorted(sizes, reverse=True)


# --- documents as JSON ------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=8)
WHOLE = st.integers(0, 2**53)
TIMES = st.floats(0, 4e9)
MAYBE = lambda values: st.none() | values
COUNTED = st.builds(Counts, **{state.value: st.integers(0, 10) for state in S})
CALLS = st.builds(
    Call, step=WORDS, model=WORDS, input_tokens=WHOLE, output_tokens=WHOLE, cost_micro_usd=WHOLE, duration_ms=WHOLE
)
CHECKPOINTS = st.builds(
    Checkpoint,
    analysis=MAYBE(WORDS),
    picture=MAYBE(WORDS),
    generations=WHOLE,
    defects=st.lists(WORDS, max_size=3).map(tuple),
)
OUTPUTS = st.builds(Output, picture=WORDS, thumbnail=WORDS, before=WORDS, sha256=WORDS, width=WHOLE, height=WHOLE)
FAILURES = st.builds(Failure, code=WORDS, message=WORDS)
COMPLETIONS = st.builds(
    Completion,
    outcome=WORDS,
    counts=COUNTED,
    success_rate=st.floats(0, 1),
    cost_usd=TIMES,
    duration_seconds=TIMES,
    reports=st.dictionaries(WORDS, st.builds(ReportFile, name=WORDS, sha256=WORDS, bytes=WHOLE), max_size=2),
)
IMAGES = st.builds(
    Image,
    batch=WORDS,
    index=WHOLE,
    source=WORDS,
    room_type=WORDS,
    design_style=WORDS,
    tier=st.sampled_from(Tier),
    shard=WHOLE,
    property_code=MAYBE(WORDS),
    state=st.sampled_from(S),
    round=WHOLE,
    revision=WHOLE,
    fence=WHOLE,
    attempts=WHOLE,
    crashes=WHOLE,
    claim=MAYBE(st.builds(Claim, worker=WORDS, at=TIMES, alone=st.booleans(), step=WORDS)),
    trials=st.builds(Trials, deaths=WHOLE, step=WORDS, in_a_row=WHOLE, passed=WHOLE),
    checkpoint=MAYBE(CHECKPOINTS),
    output=MAYBE(OUTPUTS),
    error=MAYBE(FAILURES),
    calls=st.lists(CALLS, max_size=3).map(tuple),
    durations_ms=st.dictionaries(WORDS, WHOLE, max_size=3),
    prompts=MAYBE(WORDS),
    cached=st.booleans(),
    created_at=TIMES,
    settled_at=MAYBE(TIMES),
    token=WORDS,
)
BATCHES = st.builds(
    Batch,
    id=WORDS,
    client=WORDS,
    client_name=WORDS,
    tier=st.sampled_from(Tier),
    manifest=st.builds(ManifestRef, uri=WORDS, generation=WHOLE, sha256=WORDS, base=WORDS),
    total=WHOLE,
    shards=WHOLE,
    state=st.sampled_from(B),
    control=st.sampled_from(Control),
    control_epoch=WHOLE,
    round=WHOLE,
    revision=WHOLE,
    tasks_published=WHOLE,
    created_at=TIMES,
    closing_at=MAYBE(TIMES),
    closed_at=MAYBE(TIMES),
    closer=MAYBE(st.builds(Lease, holder=WORDS, until=TIMES)),
    completion=MAYBE(COMPLETIONS),
    announced_round=WHOLE,
    problems=WHOLE,
    token=WORDS,
)
TALLIES = st.builds(
    Tally,
    batch=WORDS,
    shard=WHOLE,
    counts=COUNTED,
    entries=st.dictionaries(WHOLE, st.tuples(WHOLE, st.sampled_from(S)), max_size=4),
    token=WORDS,
)
WORKERS = st.builds(
    Worker, id=WORDS, at=TIMES, stopped=st.booleans(), waited_seconds=st.dictionaries(WORDS, TIMES, max_size=3)
)


@FUZZ
@given(document=st.one_of(IMAGES, BATCHES, TALLIES, WORKERS))
def test_a_document_survives_json(document: Document):
    body = msgspec.json.encode(document)
    assert msgspec.json.decode(body, type=type(document)) == document
    # What stands at its default is left out, and nothing else; and names are camelCase.
    sent = msgspec.json.decode(body)
    for field in msgspec.structs.fields(document):
        value = getattr(document, field.name)
        if field.required:
            assert field.encode_name in sent
        elif field.encode_name not in sent:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            assert value == default
        assert "_" not in field.encode_name
    assert set(sent) <= {field.encode_name for field in msgspec.structs.fields(document)}


def test_a_new_image_is_small_on_the_wire():
    image = Image(batch="acme.a", index=7, source="s", room_type="den", design_style="boho", tier=Tier.NORMAL, shard=0)
    assert msgspec.json.decode(msgspec.json.encode(image)) == {
        "batch": "acme.a", "index": 7, "source": "s", "roomType": "den", "designStyle": "boho", "tier": "normal",
        "shard": 0,
    }  # fmt: skip


def kinds(base: type[Document] = Document) -> list[type[Document]]:
    return [kind for below in base.__subclasses__() for kind in (below, *kinds(below))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_documents_are_immutable(kind: type[Document]):
    document = kind(**{
        field.name: EXAMPLES.get((kind.__name__, field.name), "x") for field in msgspec.structs.fields(kind) if field.required
    })  # fmt: skip
    for field in msgspec.structs.fields(kind):
        with pytest.raises(AttributeError):
            setattr(document, field.name, getattr(document, field.name))
    with pytest.raises(AttributeError):
        document.other = 1  # type: ignore[attr-defined]


EXAMPLES: dict[tuple[str, str], Any] = {("Tally", "counts"): Counts(), ("Event", "data"): {}}


def test_the_messages_are_documents_too():
    assert {messages.Task, messages.Letter, messages.ImageChanged, messages.Event} <= set(kinds())
    assert {Image, Batch, Tally, Worker, model.Counts} <= set(kinds())


@pytest.mark.parametrize("kind", [Image, Worker, Tally])
def test_defaults_are_not_shared_between_documents(kind):
    makers = {
        Image: an_image,
        Worker: lambda: Worker(id="w", at=0.0),
        Tally: lambda: Tally(batch="b", shard=0, counts=Counts()),
    }
    field = {Image: "durations_ms", Worker: "waited_seconds", Tally: "entries"}[kind]
    one, other = makers[kind](), makers[kind]()
    assert getattr(one, field) is not getattr(other, field)


def test_an_image_costs_what_its_calls_cost():
    calls = tuple(Call(step="generate", model="m", cost_micro_usd=cost) for cost in (50_000, 1, 0))
    assert an_image(calls=calls).cost_micro_usd == 50_001
    assert an_image().cost_micro_usd == 0
