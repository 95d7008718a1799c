"""The ObjectStore's conditions, and who wins when several write at once."""

from __future__ import annotations

import asyncio
import random

import pytest

from shared.errors import PreconditionFailed
from shared.ports import StoredObject
from tests.contract.backends import Backend, Unsteady
from tests.contract.objects.parts import BUCKET, content, listed, put


def test_of_twenty_creators_one_wins(backend: Backend) -> None:
    async def race(seed: int) -> None:
        name, chance = backend.unique("race/create"), random.Random(seed)

        async def creator(number: int) -> StoredObject | None:
            objects = Unsteady((backend, backend.second)[number % 2].objects, backend.clock, chance)
            try:
                return await put(
                    objects, name, b"%d" % number * (number + 1), metadata={"n": str(number)}, if_generation=0
                )
            except PreconditionFailed:
                return None

        answers = await asyncio.gather(*(creator(number) for number in range(20)))
        (won,) = [(number, answer) for number, answer in enumerate(answers) if answer is not None]
        number, stored = won
        assert await backend.objects.get(BUCKET, name) == (stored, b"%d" % number * (number + 1))
        assert stored.metadata["n"] == str(number)

    async def case() -> None:
        for seed in backend.seeds:
            await race(seed)

    backend.run(case)


def test_of_twenty_replacers_of_one_generation_one_wins(backend: Backend) -> None:
    async def race(seed: int) -> None:
        name, chance = backend.unique("race/replace"), random.Random(seed)
        first = await put(backend.objects, name, b"first")

        async def replacer(number: int) -> StoredObject | None:
            objects = Unsteady((backend, backend.second)[number % 2].objects, backend.clock, chance)
            try:
                return await put(objects, name, b"%d" % number, if_generation=first.generation)
            except PreconditionFailed:
                return None

        answers = await asyncio.gather(*(replacer(number) for number in range(20)))
        (won,) = [(number, answer) for number, answer in enumerate(answers) if answer is not None]
        assert won[1].generation > first.generation
        assert await backend.objects.get(BUCKET, name) == (won[1], b"%d" % won[0])

    async def case() -> None:
        for seed in backend.seeds:
            await race(seed)

    backend.run(case)


def test_counters_kept_by_generation_lose_no_step(backend: Backend) -> None:
    """Read, add one, write if nobody wrote: what status.json and the fences rely on."""

    async def case() -> None:
        name, chance = backend.unique("race/count"), random.Random(9)

        async def adder(number: int) -> None:
            objects = Unsteady((backend, backend.second)[number % 2].objects, backend.clock, chance)
            for _ in range(3):
                while True:
                    got = await objects.get(BUCKET, name)
                    data, generation = (int(got[1]), got[0].generation) if got else (0, 0)
                    try:
                        await put(objects, name, b"%d" % (data + 1), if_generation=generation)
                    except PreconditionFailed:
                        continue
                    break

        await asyncio.gather(*(adder(number) for number in range(8)))
        assert await content(backend.objects, name) == b"24"

    backend.run(case)


def test_a_refused_write_leaves_everything_as_it_was(backend: Backend) -> None:
    async def case() -> None:
        objects, folder = backend.objects, backend.unique("refused")
        name = f"{folder}/a"
        first = await put(objects, name, b"first", metadata={"k": "1"})
        second = await put(objects, name, b"second", metadata={"k": "2"}, if_generation=first.generation)
        for generation in (0, first.generation, second.generation + 1):
            with pytest.raises(PreconditionFailed):
                await put(objects, name, b"refused", metadata={"k": "3"}, if_generation=generation)
        with pytest.raises(PreconditionFailed):
            await put(objects, f"{folder}/absent", b"refused", if_generation=second.generation)
        assert await objects.get(BUCKET, name) == (second, b"second")
        assert await listed(objects, folder) == [name]
        assert await objects.stat(BUCKET, f"{folder}/absent") is None
        if backend.folders:
            assert [path.name for path in (backend.folders[BUCKET] / folder).iterdir()] == ["a"]

    backend.run(case)


def test_generations_grow_also_beyond_a_deletion(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("generations")
        generations = [(await put(objects, name, b"%d" % number)).generation for number in range(3)]
        for _ in range(3):
            await objects.delete(BUCKET, name)
            with pytest.raises(PreconditionFailed):
                await put(objects, name, b"back", if_generation=generations[-1])
            generations.append((await put(objects, name, b"new", if_generation=0)).generation)
            generations.append((await put(backend.second.objects, name, b"newer")).generation)
        assert generations == sorted(set(generations)) and generations[0] > 0
        stored = await objects.stat(BUCKET, name)
        assert stored is not None and stored.generation == generations[-1]

    backend.run(case)
