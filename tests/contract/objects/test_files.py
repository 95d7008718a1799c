"""The ObjectStore whose buckets are folders: files of people, and whatever else lies there."""

from __future__ import annotations

import asyncio
import random
from urllib.parse import unquote, urlsplit

import pytest

from shared.errors import PreconditionFailed, WorldError
from tests.contract.backends import Backend
from tests.contract.objects.parts import BUCKET, NAMES, listed, put


def test_a_file_deleted_by_hand_is_gone(backend: Backend) -> None:
    backend.needs("folders")

    async def case() -> None:
        assert backend.folders is not None
        objects, folder = backend.objects, backend.unique("hand")
        name = f"{folder}/a.jpg"
        first = await put(objects, name, b"first")
        await put(objects, f"{folder}/b.jpg")
        (backend.folders[BUCKET] / name).unlink()
        assert await objects.stat(BUCKET, name) is None
        assert await objects.get(BUCKET, name) is None
        with pytest.raises(PreconditionFailed):
            await put(objects, name, b"again", if_generation=first.generation)
        again = await put(objects, name, b"again", if_generation=0)
        assert again.generation > first.generation
        (backend.folders[BUCKET] / name).unlink()
        await objects.delete(BUCKET, name)  # as if it were there
        await put(objects, name)
        await objects.delete(BUCKET, name)
        assert not (backend.folders[BUCKET] / name).exists()
        assert await listed(objects, folder) == [f"{folder}/b.jpg"]

    backend.run(case)


def test_a_file_deleted_by_hand_is_not_listed(backend: Backend) -> None:
    backend.needs("folders")

    async def case() -> None:
        assert backend.folders is not None
        objects, folder = backend.objects, backend.unique("hand")
        for name in "abc":
            await put(objects, f"{folder}/{name}")
        (backend.folders[BUCKET] / folder / "b").unlink()
        assert await listed(objects, folder) == [f"{folder}/a", f"{folder}/c"]

    backend.run(case)


def test_a_uri_leads_to_the_file(backend: Backend) -> None:
    backend.needs("folders")

    async def case() -> None:
        for name in NAMES:
            await put(backend.objects, name, name.encode())
            parts = urlsplit(backend.objects.uri(BUCKET, name))
            assert (parts.scheme, parts.query, parts.fragment) == ("file", "", "")
            with open(unquote(parts.path), "rb") as file:
                assert file.read() == name.encode()

    backend.run(case)


@pytest.mark.parametrize("if_generation", [0, None])
def test_writers_that_wait_for_a_lock_do_not_mix_their_bytes(backend: Backend, if_generation: int | None) -> None:
    backend.needs("database")

    async def case() -> None:
        for seed in backend.seeds:
            objects, name = backend.objects, backend.unique("lock/mixed")
            data = [b"%d" % number * (number + 1) for number in range(6)]
            async with backend.locked():
                writers = [
                    asyncio.create_task(
                        put(objects, name, data[n], metadata={"n": str(n)}, if_generation=if_generation)
                    )
                    for n in random.Random(seed).sample(range(6), 6)
                ]
                await backend.advance(1)
            answers = await asyncio.gather(*writers, return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            assert all(isinstance(answer, PreconditionFailed) for answer in failed), failed
            assert len(failed) == (5 if if_generation == 0 else 0)
            got = await objects.get(BUCKET, name)
            assert got is not None
            stored, there = got
            assert (stored.bytes, there) == (len(there), data[int(stored.metadata["n"])])

    backend.run(case)


def test_a_database_that_stays_locked_writes_no_object(backend: Backend) -> None:
    backend.needs("database")

    async def case() -> None:
        assert backend.folders is not None
        objects, folder = backend.objects, backend.unique("lock")
        stored = await put(objects, f"{folder}/a", b"before")
        async with backend.locked():
            with pytest.raises(WorldError):
                await put(objects, f"{folder}/a", b"after")
            with pytest.raises(WorldError):
                await put(objects, f"{folder}/b", b"new")
            with pytest.raises(WorldError):
                await objects.delete(BUCKET, f"{folder}/a")
            assert await objects.get(BUCKET, f"{folder}/a") == (stored, b"before")
        assert await listed(objects, folder) == [f"{folder}/a"]
        assert [path.name for path in (backend.folders[BUCKET] / folder).iterdir()] == ["a"]

    backend.run(case)
