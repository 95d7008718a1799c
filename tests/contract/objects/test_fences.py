"""The fences on top of the ObjectStore: an older writer never replaces a newer one."""

from __future__ import annotations

import asyncio
import random

import pytest

from shared.errors import LostClaim
from shared.ports import StoredObject
from shared.results.fenced import put_fenced
from tests.contract.backends import Backend, Unsteady
from tests.contract.objects.parts import BUCKET, KIND, content, put


def test_a_lower_fence_loses_and_a_higher_one_wins(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("fenced")

        async def write(fence: int, data: bytes) -> StoredObject:
            return await put_fenced(objects, BUCKET, name, data, content_type=KIND, fence=fence)

        await write(9, b"nine")
        for fence in (1, 8, -1):  # and "10" is no less than "9"
            with pytest.raises(LostClaim):
                await write(fence, b"late")
        assert await content(objects, name) == b"nine"
        await write(9, b"nine again")
        assert await content(objects, name) == b"nine again"
        await write(10, b"ten")
        with pytest.raises(LostClaim):
            await write(9, b"late")
        stored = await objects.stat(BUCKET, name)
        assert stored is not None and stored.metadata["fence"] == "10"
        assert await content(objects, name) == b"ten"
        await objects.delete(BUCKET, name)
        await write(3, b"anew")
        # An object without a fence is anybody's.
        await put(objects, name, b"bare")
        await write(1, b"mine")
        assert await content(objects, name) == b"mine"

    backend.run(case)


def test_of_two_fences_at_once_the_higher_stands_in_the_end(backend: Backend) -> None:
    async def race(seed: int) -> None:
        name, chance = backend.unique("fenced"), random.Random(seed)

        async def writer(fence: int) -> bool:
            objects = Unsteady((backend, backend.second)[fence % 2].objects, backend.clock, chance)
            try:
                await put_fenced(objects, BUCKET, name, b"%d" % fence, content_type=KIND, fence=fence)
            except LostClaim:
                return False
            return True

        _, higher = await asyncio.gather(writer(4), writer(5))
        assert higher
        stored = await backend.objects.stat(BUCKET, name)
        assert stored is not None and stored.metadata["fence"] == "5"
        assert await content(backend.objects, name) == b"5"

    async def case() -> None:
        for seed in [*backend.seeds, *(seed + 100 for seed in backend.seeds)]:
            await race(seed)

    backend.run(case)
