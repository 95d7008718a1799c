"""The product's own rules over numbered documents: what the small worlds are made of.

A world's state is made of numbers, of documents on a shelf, so that states are small and quickly compared. Each rule is
the product's (`shared.lifecycle.closing`, `shared.lifecycle.replay`, `shared.lifecycle.commands`, `shared.decisions.image`), asked once per question. The
rules named "wrong" are broken on purpose, for the mutations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shared import decisions, messages
from shared.model import (
    Batch,
    BatchMove,
    BatchState,
    Completion,
    Counts,
    Document,
    Failure,
    Image,
    ImageState,
    Lease,
    Output,
    Refusal,
    ReportFile,
    Tally,
    Worker,
)
from shared.results import report
from tests import builders

TOTAL = 2
NEW_BATCH = builders.a_batch(client_name="acme", total=TOTAL)
OUTPUT = Output(picture="p", thumbnail="t", before="b", sha256="0" * 64, width=1, height=1)
OPEN = (ImageState.QUEUED, ImageState.PROCESSING)

# --- documents and rules ----------------------------------------------------------------------------------------------


class Shelf:
    """Documents by number, so that states are small and quickly compared; a pure rule is asked once per question."""

    def __init__(self) -> None:
        self._documents: list[Any] = [None]
        self._numbers: dict[bytes, int] = {}
        self._answers: dict[tuple[Any, ...], Any] = {}

    def number(self, document: Document) -> int:
        key = type(document).__name__.encode() + msgspec.json.encode(document)
        if key not in self._numbers:
            self._numbers[key] = len(self._documents)
            self._documents.append(document)
        return self._numbers[key]

    def __getitem__(self, number: int) -> Any:
        return self._documents[number]

    def ask(self, rule: Callable[..., Any], number: int, *args: Any) -> int | Refusal:
        """The number of the document that `rule` makes of this one, or its refusal: a store's `change_*`."""
        if not number:
            return Refusal.MISSING
        key = (rule, number, *args)
        answer = self._answers.get(key)
        if answer is None:
            decided = rule(self._documents[number], *args)
            answer = self._answers[key] = decided if isinstance(decided, Refusal) else self.number(decided)
        return answer

    def tell(self, question: Callable[..., Any], *args: Any) -> Any:
        """What `question` says of its arguments, remembered."""
        key = (question, *args)
        if key not in self._answers:
            self._answers[key] = question(*args)
        return self._answers[key]


SHELF = Shelf()


def fold(tally: Tally, event: int) -> Tally | Refusal:
    change = SHELF[event]
    return decisions.batch.fold(tally, index=change.index, revision=change.revision, state=change.state)


def fold_image(tally: Tally, number: int) -> Tally | Refusal:
    image = SHELF[number]
    return decisions.batch.fold(tally, index=image.index, revision=image.revision, state=image.state)


def believe(tally: Tally, event: int) -> Tally | Refusal:
    """A wrong fold: whatever comes last is believed."""
    change = SHELF[event]
    known = tally.entries.get(change.index, (0, ImageState.QUEUED))[1]
    return msgspec.structs.replace(
        tally, counts=tally.counts.moved(known, change.state), entries={change.index: (change.revision, change.state)}
    )


def set_image(tally: Tally, number: int) -> Tally | Refusal:
    """A wrong fold: the image as it was listed is believed, whatever has been folded since."""
    image = SHELF[number]
    known = tally.entries.get(image.index, (0, ImageState.QUEUED))[1]
    entries = tally.entries | {image.index: (image.revision, image.state)}
    return msgspec.structs.replace(tally, counts=tally.counts.moved(known, image.state), entries=entries)


def note_place(batch: Batch) -> Batch | Refusal:
    if batch.tasks_published >= TOTAL:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(batch, tasks_published=TOTAL, revision=batch.revision + 1)


def open_batch(batch: Batch) -> Batch | Refusal:
    return decisions.batch.apply(batch, BatchMove.OPEN)


def lease_of(batch: Batch) -> Lease:
    """A lease as nobody else has it. It runs out at 1: the time is 0 before and 2 after."""
    return Lease(holder=f"closer {batch.revision}", until=1.0)


def begin(batch: Batch, seen: int) -> Batch | Refusal:
    # The revision stands for the time: two closings never begin at the same one.
    return decisions.batch.begin_closing(batch, seen_revision=seen, lease=lease_of(batch), now=float(batch.revision))


def begin_whatever(batch: Batch, seen: int) -> Batch | Refusal:
    """A wrong start: nothing is compared."""
    return begin(batch, batch.revision)


def take(batch: Batch, lease_is_over: bool) -> Batch | Refusal:
    return decisions.batch.take_closer(batch, lease=lease_of(batch), now=2.0 if lease_is_over else 0.0)


def close(batch: Batch, completion: int, taken: int) -> Batch | Refusal:
    """By the closer that took the lease with which the batch stands in `taken`."""
    lease = SHELF[taken].closer
    return decisions.batch.close(
        batch, holder=lease.holder, completion=SHELF[completion], now=SHELF[completion].duration_seconds
    )


def close_whoever(batch: Batch, completion: int, taken: int) -> Batch | Refusal:
    """A wrong closing: whoever has the lease."""
    holder = batch.closer.holder if batch.closer else ""
    return decisions.batch.close(
        batch, holder=holder, completion=SHELF[completion], now=SHELF[completion].duration_seconds
    )


def close_at_once(batch: Batch, completion: int, taken: int) -> Batch | Refusal:
    """A wrong closing: from processing, without the state in between."""
    if batch.state is not BatchState.PROCESSING:
        return Refusal.ILLEGAL
    state = BatchState.CLOSED
    return msgspec.structs.replace(batch, state=state, completion=SHELF[completion], revision=batch.revision + 1)


def note(batch: Batch, announced: int) -> Batch | Refusal:
    return decisions.batch.note_announced(batch, round_announced=announced)


def control(batch: Batch) -> Batch:
    return msgspec.structs.replace(batch, control_epoch=batch.control_epoch + 1, revision=batch.revision + 1)


def lease_of_replay(batch: Batch) -> Lease:
    """As `lease_of`, for a replay."""
    return Lease(holder=f"replay {batch.revision}", until=1.0)


def reopen(batch: Batch, lease_is_over: bool) -> Batch | Refusal:
    now = 2.0 if lease_is_over else 0.0
    return decisions.batch.begin_replay(batch, codes=(), lease=lease_of_replay(batch), counts=Counts(), now=now)


def reopen_whatever(batch: Batch, lease_is_over: bool) -> Batch | Refusal:
    """A wrong start of a replay: the closed round need not have been announced."""
    return reopen(msgspec.structs.replace(batch, announced_round=batch.round), lease_is_over)


def end_replay(batch: Batch, begun: int) -> Batch | Refusal:
    """By the replay that began (or took over) the plan as it stands in `begun`."""
    return decisions.batch.end_replay(batch, holder=SHELF[begun].replay.lease.holder, requeued=0)


def requeue(image: Image, seen: int, begun: int) -> Image | Refusal:
    number = SHELF[begun].replay.number
    return decisions.image.requeue_seen(image, seen_revision=SHELF[seen].revision, replay=number, now=0.0)


def holder_of(image: Image, dead: bool) -> Worker | None:
    """The heartbeat of who holds the image: fresh at 0, where everything is told, or long past."""
    return Worker(id=image.claim.worker, at=-1000.0 if dead else 0.0) if image.claim else None


def claim(image: Image, dead: bool) -> Image | Refusal:
    worker = f"worker {image.fence + 1}"
    return decisions.image.claim(image, task_round=image.round, worker=worker, now=0.0, holder=holder_of(image, dead))


def settle(image: Image) -> Image | Refusal:
    """Image 0 completes; image 1 fails at first and completes replayed."""
    if image.index == 1 and image.round == 1:
        wrong = Failure(code="not_a_picture", message="")
        return decisions.image.fail(image, fence=image.fence, error=wrong, calls=(), now=0.0)
    return decisions.image.complete(
        image, fence=image.fence, output=OUTPUT, calls=(), durations_ms={}, prompts="", now=0.0
    )


def cancel_in_hand(image: Image) -> Image | Refusal:
    return decisions.image.cancel(image, fence=image.fence, calls=(), now=0.0)


def cancel_queued(image: Image, dead: bool) -> Image | Refusal:
    return decisions.image.cancel_queued(image, now=0.0, holder=holder_of(image, dead))


def cancel_unseen(image: Image, listed: int) -> Image | Refusal:
    """A wrong cancel: what was listed is written over whatever is there now."""
    return cancel_queued(SHELF[listed], dead=False)


def changed(before: int, after: int) -> int:
    """The change event of a write, by numbers."""
    return SHELF.number(messages.changed(SHELF[before], SHELF[after]))


def images_made() -> tuple[int, ...]:
    return tuple(
        SHELF.number(builders.an_image(batch=NEW_BATCH.id, index=index, source="s", shard=index % NEW_BATCH.shards))
        for index in range(TOTAL)
    )


def open_in(tallies: tuple[int, ...]) -> tuple[int, int]:
    there = [SHELF[number] for number in tallies if number]
    return sum(tally.counts.open for tally in there), len(there)


def news(image: int, tally: int) -> bool:
    """Whether reconcile would fold the image as it was listed, as `Reconcile._fold_all`."""
    document: Image = SHELF[image]
    revision, state = SHELF[tally].entries.get(document.index, (0, ImageState.QUEUED))
    return revision < document.revision and state is not document.state


def told(images: tuple[int, ...], tallies: tuple[int, ...]) -> bool:
    """Whether every image is settled and the newest of each is in its tally: no fold can change a tally then."""
    if not all(images) or any(SHELF[number].state in OPEN for number in images):
        return False
    entries = [SHELF[tally].entries.get(index) for index, tally in enumerate(tallies)]
    return entries == [(SHELF[number].revision, SHELF[number].state) for number in images]


def gathered(batch: int, images: tuple[int, ...], tallies: tuple[int, ...], own_time: float | None) -> int | str:
    """The completion that a closer writes its reports for, as `Closer._write_reports`; a text where they mismatch."""
    document: Batch = SHELF[batch]
    states = [SHELF[number].state for number in images]
    counts = sum((Counts(**{state.value: 1}) for state in states), Counts())
    counted = sum((SHELF[number].counts for number in tallies), Counts())
    if counts != counted or counted.open:
        return f"a closer finds other images than tallies: {' '.join(states)}"
    at = document.closing_at if own_time is None else own_time
    content = f"{' '.join(states)} at {at}"
    return SHELF.number(
        Completion(
            outcome=report.outcome(counts),
            counts=counts,
            success_rate=counts.completed / counts.total,
            cost_usd=0.0,
            duration_seconds=at or 0.0,
            reports={"results.jsonl": ReportFile(name=str(document.round), sha256=content, bytes=len(content))},
        )
    )


def miscounted(tallies: tuple[int, ...]) -> str | None:
    """What is wrong with the shards: each must count one image, in the state that was folded in last."""
    for index, number in enumerate(tallies):
        if number:
            tally: Tally = SHELF[number]
            state = tally.entries.get(index, (0, ImageState.QUEUED))[1]
            if tally.counts != Counts(**{state.value: 1}):
                return f"a shard of one image, {state}, counts {tally.counts}"
    return None
