"""The store's fences: whoever lost its claim or its lease writes nothing."""

from __future__ import annotations

from collections.abc import Callable

from shared import decisions
from shared.decisions.image import HEARTBEAT_STALE_SECONDS
from shared.model import Call, Checkpoint, Image, ImageState, Refusal, Worker
from tests.contract.backends import Backend
from tests.contract.store.parts import FAILURE, OUTPUT, an_image, bump


def test_a_stale_worker_changes_nothing(backend: Backend) -> None:
    async def case() -> None:
        batch_id = backend.unique("batch")
        old, new = backend.unique("worker"), backend.unique("worker")
        store, clock = backend.store, backend.clock
        await store.create_images([an_image(batch_id)])
        await store.beat(Worker(id=old, at=clock.now() - HEARTBEAT_STALE_SECONDS - 1))

        async def claim(worker: str, holder: Worker | None) -> Image | Refusal:
            return await store.change_image(
                batch_id,
                0,
                lambda image: decisions.image.claim(image, task_round=1, worker=worker, now=clock.now(), holder=holder),
                clock.token(),
            )

        mine = await claim(old, None)
        assert isinstance(mine, Image) and mine.fence == 1
        await store.beat(Worker(id=new, at=clock.now()))
        assert await claim(new, None) is Refusal.HELD  # without the holder's heartbeat
        theirs = await claim(new, await store.worker(old))
        assert isinstance(theirs, Image)
        assert (theirs.fence, theirs.crashes) == (2, 1) and theirs.claim is not None and theirs.claim.worker == new

        call = (Call(step="analyse", model="preview"),)
        late: dict[str, Callable[[Image], Image | Refusal]] = {
            "checkpoint": lambda i: decisions.image.checkpoint(
                i, fence=1, checkpoint=Checkpoint(analysis="{}"), calls=call
            ),
            "release": lambda i: decisions.image.release(i, fence=1, calls=call, error=FAILURE),
            "complete": lambda i: decisions.image.complete(
                i, fence=1, output=OUTPUT, calls=call, durations_ms={}, prompts="1", now=1.0
            ),
            "fail": lambda i: decisions.image.fail(i, fence=1, error=FAILURE, calls=call, now=1.0),
            "cancel": lambda i: decisions.image.cancel(i, fence=1, calls=call, now=1.0),
        }

        async def refused_all(now_there: Image) -> None:
            for name, decide in late.items():
                for seen in (None, mine, now_there):  # also as the stale worker last knew it
                    answer = await store.change_image(batch_id, 0, decide, clock.token(), seen)
                    assert answer is Refusal.STALE_FENCE, f"{name}: {answer}"
                    assert await store.image(batch_id, 0) == now_there, name

        await refused_all(theirs)
        released = await store.change_image(
            batch_id, 0, lambda i: decisions.image.release(i, fence=2, calls=()), clock.token(), theirs
        )
        assert isinstance(released, Image) and released.state is ImageState.QUEUED
        await refused_all(released)
        again = await claim(new, None)
        assert isinstance(again, Image) and again.fence == 3
        done = await store.change_image(
            batch_id,
            0,
            lambda i: decisions.image.complete(
                i, fence=3, output=OUTPUT, calls=(), durations_ms={}, prompts="1", now=1.0
            ),
            clock.token(),
            again,
        )
        assert isinstance(done, Image) and done.state is ImageState.COMPLETED
        await refused_all(done)

    backend.run(case)


def test_what_the_caller_last_saw_never_decides_when_it_is_stale(backend: Backend) -> None:
    async def case() -> None:
        batch_id, store, clock = backend.unique("batch"), backend.store, backend.clock
        await store.create_images([an_image(batch_id)])
        first = await store.image(batch_id, 0)
        assert first is not None
        second = await store.change_image(batch_id, 0, bump, clock.token(), first)  # current: no read is needed
        assert isinstance(second, Image) and (second.attempts, second.revision) == (1, 2)
        third = await store.change_image(batch_id, 0, bump, clock.token(), first)  # stale now
        assert isinstance(third, Image) and (third.attempts, third.revision) == (2, 3)

        def only_at(revision: int) -> Callable[[Image], Image | Refusal]:
            return lambda image: bump(image) if image.revision == revision else Refusal.STALE_REVISION

        # A refusal of what was seen is no refusal of what is there; a consent is no consent either.
        fourth = await store.change_image(batch_id, 0, only_at(3), clock.token(), first)
        assert isinstance(fourth, Image) and fourth.revision == 4
        assert await store.change_image(batch_id, 0, only_at(1), clock.token(), first) is Refusal.STALE_REVISION
        assert await store.image(batch_id, 0) == fourth
        # Answered documents can be used as `seen` at once, on any process.
        fifth = await backend.second.store.change_image(batch_id, 0, bump, clock.token(), fourth)
        assert isinstance(fifth, Image) and fifth.revision == 5
        # A claim that was held when it was seen, and is free now.
        held = await store.change_image(
            batch_id,
            0,
            lambda i: decisions.image.claim(i, task_round=1, worker="w", now=1.0, holder=None),
            clock.token(),
            fifth,
        )
        assert isinstance(held, Image)
        await store.change_image(
            batch_id, 0, lambda i: decisions.image.release(i, fence=1, calls=()), clock.token(), held
        )
        granted = await store.change_image(
            batch_id,
            0,
            lambda i: decisions.image.claim(i, task_round=1, worker="v", now=1.0, holder=None),
            clock.token(),
            held,
        )
        assert isinstance(granted, Image) and granted.fence == 2

    backend.run(case)
