"""One change of the store: its token, its refusal, what is missing, and the events it leaves on the queue."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from shared import decisions, messages
from shared.model import Checkpoint, Counts, Image, ImageState, Refusal
from shared.topology import CHANGES_TOPIC
from tests.contract.backends import Backend, Unsteady, drain
from tests.contract.store.parts import FAILURE, KINDS, Subject, a_batch, a_tally, an_image, bump, bump_tally

# --- tokens, refusals, missing documents


@KINDS
def test_a_repeated_token_applies_once(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        written = await subject.change(subject.bump, "token-1")
        assert subject.level(written) == 1 and await subject.read() == written
        assert await subject.change(subject.bump, "token-1") == written
        assert await subject.change(subject.bump, "token-1", backend.second.store) == written
        # Its own success is recognised even when the decision would refuse what it now finds.
        assert await subject.change(lambda document: Refusal.STALE_REVISION, "token-1") == written
        assert await subject.read() == written

    backend.run(case)


def test_a_repeated_token_applies_once_with_the_image_as_seen_before(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_images([an_image(batch_id)])
        seen = await store.image(batch_id, 0)
        written = await store.change_image(batch_id, 0, bump, "token-1", seen)
        assert await store.change_image(batch_id, 0, bump, "token-1", seen) == written
        assert isinstance(written, Image)
        assert await store.change_image(batch_id, 0, bump, "token-1", written) == written
        assert await store.image(batch_id, 0) == written

    backend.run(case)


@KINDS
def test_the_token_of_an_older_write_decides_again(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        for level, token in enumerate(["token-1", "token-2", "token-1"], 1):
            assert subject.level(await subject.change(subject.bump, token)) == level
        assert await subject.change(lambda document: Refusal.UNCHANGED, "token-2") is Refusal.UNCHANGED
        assert subject.level(await subject.read()) == 3

    backend.run(case)


@KINDS
def test_a_refusal_writes_nothing(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        before = await subject.read()
        for refusal in Refusal:
            assert await subject.change(lambda document, r=refusal: r, "token-1") is refusal
            assert await subject.read() == before
        # The refused token was not kept: asked again it decides.
        assert subject.level(await subject.change(subject.bump, "token-1")) == 1

    backend.run(case)


@KINDS
def test_a_decision_that_raises_writes_nothing_and_harms_nothing(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject = Subject(kind, backend)
        await subject.create()
        before = await subject.read()

        def broken(document: Any) -> Any:
            raise ZeroDivisionError

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await subject.change(broken, "token-1")
            assert await subject.read() == before
        assert subject.level(await subject.change(subject.bump, "token-1")) == 1
        assert subject.level(await subject.change(subject.bump, "token-2", backend.second.store)) == 2

    backend.run(case)


@pytest.mark.parametrize("kind", ["image", "batch", "tally"])
def test_what_is_not_there_is_missing(backend: Backend, kind: str) -> None:
    async def case() -> None:
        subject, asked = Subject(kind, backend), []
        assert await subject.read() is None
        assert await subject.change(asked.append, "token-1") is Refusal.MISSING
        assert asked == [] and await subject.read() is None

    backend.run(case)


def test_unknown_ids_are_empty_everywhere(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store = backend.unique("batch"), backend.store
        await store.create_batch(a_batch(batch_id, total=4))
        await store.create_images([an_image(batch_id, 1)])
        await store.create_tallies([a_tally(batch_id, 1)])
        assert await store.image(batch_id, 0) is None
        assert await store.image(batch_id, 11) is None
        assert await store.tally(batch_id, 0) is None
        assert await store.change_image(batch_id, 11, bump, "t") is Refusal.MISSING
        assert await store.change_image(batch_id, 11, bump, "t", an_image(batch_id, 11)) is Refusal.MISSING
        assert await store.change_tally(batch_id, 11, bump_tally, "t") is Refusal.MISSING
        unknown = backend.unique("nobody")
        assert [image async for image in store.images(unknown)] == []
        assert [image async for image in store.images(unknown, ImageState.QUEUED)] == []
        assert await store.open_images(unknown) == (0, 0)
        assert await store.counts(unknown) == Counts()
        assert await store.worker(unknown) is None

    backend.run(case)


# --- the change feed on the queue


def test_each_write_that_changes_a_state_is_told_once(backend: Backend) -> None:
    backend.needs("change_feed")

    async def case() -> None:
        batch_id, store, clock = backend.unique("batch"), backend.store, backend.clock
        await store.create_images([an_image(batch_id, index) for index in range(20)])
        assert await drain(backend, CHANGES_TOPIC) == []

        def claim(image: Image) -> Image | Refusal:
            return decisions.image.claim(image, task_round=1, worker="w", now=1.0, holder=None)

        steps: list[tuple[Callable[[Image], Image | Refusal], str]] = [
            (claim, "a"),
            (claim, "a"),  # repeated
            (claim, "b"),  # HELD
            (lambda i: decisions.image.checkpoint(i, fence=1, checkpoint=Checkpoint(), calls=()), "c"),
            (lambda i: decisions.image.release(i, fence=9, calls=()), "d"),  # STALE_FENCE
            (lambda i: decisions.image.release(i, fence=1, calls=()), "e"),
            (claim, "f"),
            (lambda i: decisions.image.fail(i, fence=2, error=FAILURE, calls=(), now=1.0), "g"),
            (lambda image: decisions.image.requeue(image, replay=1), "h"),
            (lambda i: decisions.image.cancel_queued(i, now=1.0), "i"),
            (lambda i: decisions.image.cancel_queued(i, now=1.0), "j"),  # SETTLED
        ]

        async def go_through(index: int) -> None:
            steady = Unsteady(store, clock, random.Random(index))
            for decide, token in steps:
                await steady.change_image(batch_id, index, decide, token)

        await asyncio.gather(*(go_through(index) for index in range(20)))
        told = [messages.decode(messages.ImageChanged, d.data) for d in await drain(backend, CHANGES_TOPIC)]
        q, p, f, c = ImageState.QUEUED, ImageState.PROCESSING, ImageState.FAILED, ImageState.CANCELLED
        expected = [(2, q, p), (4, p, q), (5, q, p), (6, p, f), (7, f, q), (8, q, c)]
        for index in range(20):
            changes = [e for e in told if e.index == index and e.before is not e.state]
            assert sorted((e.revision, e.before, e.state) for e in changes) == expected
            assert {(e.batch, e.shard) for e in changes} == {(batch_id, index % 8)}
        assert len(told) <= 20 * 7  # and nothing for refusals and repetitions: the checkpoint is the seventh write

    backend.run(case)


def test_a_change_wakes_the_one_who_waits_for_it(backend: Backend) -> None:
    backend.needs("change_feed")

    async def case() -> None:
        batch_id = backend.unique("batch")
        await backend.store.create_images([an_image(batch_id)])
        pull = asyncio.create_task(backend.queue.pull(CHANGES_TOPIC, 10, 50.0))
        await backend.advance(5)
        assert not pull.done()
        changed_at = backend.clock.monotonic()
        await backend.store.change_image(batch_id, 0, bump, "token-1")
        assert len(await pull) == 1
        assert backend.clock.monotonic() - changed_at <= backend.slack_seconds

    backend.run(case)
