"""status.json: no older news over newer, whoever writes when."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import events
from shared.assembly.wiring import embedded
from shared.model import SETTLED_STATES, Batch, BatchState, Counts
from shared.results import names
from shared.results.status import status_of, write_status
from tests.lifecycle.closing_parts import NOW, B, Clock, a_batch, a_completion

NEWS = st.tuples(
    st.integers(1, 3), st.sampled_from([B.PROCESSING, B.CLOSING, B.CLOSED]), st.integers(0, 2)
)  # round, state, settled images


def told(news: tuple[int, BatchState, int]) -> tuple[Batch, Counts]:
    round_, state, settled = news
    if state is B.CLOSED:
        settled = 2
    counts = Counts(queued=2 - settled, completed=settled)
    completion = a_completion(completed=2) if state is B.CLOSED else None
    return a_batch(state, round=round_, completion=completion), counts


def age(status: dict[str, Any]) -> tuple[int, bool, int]:
    return (status["round"], status["state"] == "completed", status["completed"])


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(news=st.lists(NEWS, min_size=1, max_size=12))
def test_the_status_never_goes_back(news):
    async def run() -> None:
        parts = embedded(Clock())
        shown: list[tuple[int, bool, int]] = []
        for place, item in enumerate(news):
            batch, counts = told(item)
            await write_status(parts.objects, "results", batch, counts, NOW + place)
            found = await parts.objects.get("results", names.status_name(batch))
            assert found is not None
            shown.append(age(msgspec.json.decode(found[1])))
            assert shown[-1] == max(age(status_of(*told(known), NOW)) for known in news[: place + 1])
        assert shown == sorted(shown)

    asyncio.run(run())


class Yielding:
    """Objects with a pause before each look and each write, so that writers get between one another's."""

    def __init__(self, inner: Any, chance: random.Random) -> None:
        self._inner, self._chance = inner, chance

    async def _pause(self) -> None:
        for _ in range(self._chance.randrange(3)):
            await asyncio.sleep(0)

    async def stat(self, *args: Any) -> Any:
        await self._pause()
        return await self._inner.stat(*args)

    async def put(self, *args: Any, **options: Any) -> Any:
        await self._pause()
        return await self._inner.put(*args, **options)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(news=st.lists(NEWS, min_size=2, max_size=3), chance=st.randoms(use_true_random=False))
def test_the_newest_status_stays_when_three_write_at_once(news, chance: random.Random):
    async def run() -> None:
        parts = embedded(Clock())
        objects: Any = Yielding(parts.objects, chance)
        writes = [write_status(objects, "results", *told(item), NOW) for item in news]
        await asyncio.gather(*writes)
        found = await parts.objects.get("results", names.status_name(a_batch()))
        assert found is not None
        newest = max(age(status_of(*told(item), NOW)) for item in news)
        assert age(msgspec.json.decode(found[1])) == newest

    asyncio.run(run())


def test_the_same_news_again_refreshes_the_status():
    async def run() -> None:
        parts = embedded(Clock())
        batch, counts = told((1, B.PROCESSING, 1))
        for at in (NOW, NOW + 5):
            await write_status(parts.objects, "results", batch, counts, at)
        found = await parts.objects.get("results", names.status_name(batch))
        assert found is not None
        assert msgspec.json.decode(found[1])["updatedAt"] == events.iso(NOW + 5)

    asyncio.run(run())


LATER = {"counts": (1, B.PROCESSING, 2), "closed": (1, B.CLOSED, 2), "round": (2, B.PROCESSING, 1)}


@pytest.mark.parametrize(
    ("news", "later", "at_once", "written"),
    [
        ("counts", 0.0, False, False),
        ("counts", 0.999, False, False),
        ("counts", 1.0, False, True),
        ("counts", 60.0, False, True),
        ("counts", -0.5, False, False),  # our clock is behind the store's
        ("counts", -1.0, False, True),  # it is wrong: nothing can be told from it
        ("counts", 0.0, True, True),
        ("closed", 0.0, False, True),
        ("round", 0.0, False, True),
    ],
)
def test_a_status_written_a_moment_ago_is_left_alone(news: str, later: float, at_once: bool, written: bool):
    """Cloud Storage takes one write a second to one name. A new round and the end are always written."""

    async def run() -> None:
        clock = Clock()
        parts = embedded(clock)
        await write_status(parts.objects, "results", *told((1, B.PROCESSING, 1)), clock.now())
        before = await parts.objects.stat("results", names.status_name(a_batch()))
        batch, counts = told(LATER[news])
        await write_status(parts.objects, "results", batch, counts, clock.now() + later, at_once=at_once)
        after = await parts.objects.stat("results", names.status_name(a_batch()))
        assert before is not None and after is not None
        assert (after.generation > before.generation) is written

    asyncio.run(run())


def test_a_status_tells_the_batch_in_plain_words():
    batch = a_batch(B.CLOSING, round=2, total=8)
    assert status_of(batch, Counts(queued=1, processing=1, completed=3, failed=2, cancelled=1), NOW) == {
        "batchId": "acme.a", "client": "acme", "state": "closing", "control": "run", "round": 2, "total": 8,
        "pausedReason": None,
        "queued": 1, "processing": 1, "completed": 3, "failed": 2, "cancelled": 1, "progress": 0.75,
        "imagesPerMinute": None, "etaSeconds": None, "updatedAt": events.iso(NOW),
    }  # fmt: skip
    assert status_of(msgspec.structs.replace(batch, total=0), Counts(), NOW)["progress"] == 0.0
    assert {state.value for state in SETTLED_STATES} == {"completed", "failed", "cancelled"}
