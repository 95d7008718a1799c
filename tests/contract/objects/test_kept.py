"""What the ObjectStore keeps of an object, and lists of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.errors import PreconditionFailed
from tests.contract.backends import BUCKETS, Backend
from tests.contract.objects.parts import BUCKET, KIND, NAMES, content, listed, put

# --- what is kept


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_only_a_name(backend: Backend, name: str) -> None:
    async def case() -> None:
        objects, folder = backend.objects, backend.unique("names") + "/"
        full = folder + name
        assert await objects.get(BUCKET, full) is None
        stored = await put(objects, full, name.encode())
        assert (stored.bucket, stored.name, stored.bytes) == (BUCKET, full, len(name.encode()))
        assert await objects.get(BUCKET, full) == (stored, name.encode())
        assert await objects.stat(BUCKET, full) == stored
        assert [known async for known in objects.list(BUCKET, folder)] == [stored]
        assert await listed(objects, full) == [full]
        assert await listed(objects, full + "/") == []
        with pytest.raises(PreconditionFailed):
            await put(objects, full, b"other", if_generation=0)
        await put(objects, full, b"other", if_generation=stored.generation)
        assert await content(backend.second.objects, full) == b"other"
        await objects.delete(BUCKET, full)
        assert await objects.get(BUCKET, full) is None
        assert await listed(objects, folder) == []

    backend.run(case)


def test_names_that_look_alike_are_different_objects(backend: Backend) -> None:
    alike = ["a b", "a%20b", "a+b", "a_b", "A b", "a  b", "cafe\u0301", "café", "a#b", "a", "a?b", "aébc", "a.b"]

    async def case() -> None:
        objects, folder = backend.objects, backend.unique("alike") + "/"
        for number, name in enumerate(alike):
            await put(objects, folder + name, b"%d" % number, if_generation=0)
        for number, name in enumerate(alike):
            assert await content(objects, folder + name) == b"%d" % number
        assert len({objects.uri(BUCKET, folder + name) for name in alike}) == len(alike)
        assert await listed(objects, folder) == sorted(folder + name for name in alike)

    backend.run(case)


def test_a_segment_of_a_name_may_be_250_bytes_long(backend: Backend) -> None:
    async def case() -> None:
        name = backend.unique("n") + "/" + "x" * 250
        await put(backend.objects, name, b"long")
        assert await content(backend.objects, name) == b"long"

    backend.run(case)


def test_a_name_may_be_the_folder_of_another(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("folder")
        await put(objects, name, b"itself")
        await put(objects, name + "/inner", b"inner")
        assert await content(objects, name) == b"itself"
        assert await content(objects, name + "/inner") == b"inner"
        assert await listed(objects, name) == [name, name + "/inner"]

    backend.run(case)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "", ".", "..", "a/..", "a/../../x", "a/./b", "a/", "a\\..\\b"])
def test_names_that_would_leave_their_folder_are_refused(backend: Backend, name: str) -> None:
    backend.needs("checked_names")

    async def case() -> None:
        objects = backend.objects
        attempts: list[Callable[[], Awaitable[Any]]] = [
            lambda: put(objects, name, b"escaped"),
            lambda: put(objects, name, b"escaped", if_generation=0),
            lambda: objects.delete(BUCKET, name),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError):
                await attempt()
        for look in (objects.get, objects.stat):
            try:
                assert await look(BUCKET, name) is None
            except ValueError:
                pass  # either is an answer
        assert await listed(objects, "") == []
        if backend.folders:
            root = backend.folders[BUCKET].parent
            assert [path for path in root.rglob("*") if path.is_file() and not path.name.startswith("ruum.db")] == []

    backend.run(case)


def test_what_is_kept_with_an_object(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("kept")
        before = backend.clock.now()
        given = {"fence": "7", "order": "[1,false,3]", "text": "a b c", "empty": ""}
        stored = await put(objects, name, b"12345", metadata=given)
        assert stored.metadata.items() >= given.items()
        assert stored.bytes == 5
        assert abs(stored.updated_at - before) <= backend.slack_seconds
        got = await objects.get(BUCKET, name)
        assert got == (stored, b"12345")
        assert await objects.stat(BUCKET, name) == stored
        assert [known async for known in objects.list(BUCKET, name)] == [stored]
        await backend.advance(0.1)
        replaced = await put(objects, name, b"", metadata={"fence": "8"})
        assert (replaced.metadata["fence"], replaced.bytes, "order" in replaced.metadata) == ("8", 0, False)
        assert replaced.updated_at > stored.updated_at
        assert await backend.second.objects.get(BUCKET, name) == (replaced, b"")
        assert "fence" not in (await put(objects, name, b"bare")).metadata

    backend.run(case)


def test_metadata_keep_every_character(backend: Backend) -> None:
    async def case() -> None:
        given = {"client": "São Paulo 東京 🏠", "quotes": "' \" \\ %", "long": "x" * 1000}
        name = backend.unique("metadata")
        await put(backend.objects, name, b"x", metadata=given)
        stored = await backend.objects.stat(BUCKET, name)
        assert stored is not None and stored.metadata.items() >= given.items()

    backend.run(case)


@pytest.mark.parametrize("given", [None, {"fence": "7"}, {"contentType": "mine"}], ids=["none", "some", "contentType"])
def test_metadata_are_what_was_given_and_nothing_else(backend: Backend, given: dict[str, str] | None) -> None:
    async def case() -> None:
        name = backend.unique("metadata")
        stored = await put(backend.objects, name, metadata=given)
        assert dict(stored.metadata) == (given or {})
        assert await backend.objects.stat(BUCKET, name) == stored

    backend.run(case)


def test_large_and_odd_bytes_come_back(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("large")
        for data in (random.Random(10).randbytes(8 * 1024 * 1024), b"", b"\r\n\x1a\x00", b"\xff" * 70_000):
            stored = await put(objects, name, data)
            assert stored.bytes == len(data)
            assert await content(objects, name) == data

    backend.run(case)


def test_buckets_do_not_mix(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("bucket")
        for bucket in BUCKETS:
            await objects.put(bucket, name, bucket.encode(), content_type=KIND, if_generation=0)
        await objects.delete("work", name)
        assert await objects.get("work", name) is None
        for bucket in ("intake", "results"):
            got = await objects.get(bucket, name)
            assert got is not None and (got[0].bucket, got[1]) == (bucket, bucket.encode())
            assert await listed(objects, name, bucket) == [name]

    backend.run(case)


def test_absent_objects_are_none_and_may_be_deleted(backend: Backend) -> None:
    async def case() -> None:
        objects, name = backend.objects, backend.unique("absent")
        for _ in range(2):
            await objects.delete(BUCKET, name)
            await objects.delete(BUCKET, name + "/deep/down")
            assert await objects.get(BUCKET, name) is None
            assert await objects.stat(BUCKET, name) is None
            assert await listed(objects, name) == []
            await put(objects, name)

    backend.run(case)


# --- listing


def test_listing_takes_prefixes_literally_and_keeps_order(backend: Backend) -> None:
    names = [
        "10", "2", "A/1", "B", "_/1", "a%/1", "a%b", "a*/1", "a-1", "a/1", "a/10", "a/1x/x", "a/2", "a/B", "aXb",
        "a_/1", "a_b", "ab", "b", "é", "東京/1", "東京/2", "🏠/1", "🏡",
    ]  # fmt: skip

    async def case() -> None:
        objects, folder = backend.objects, backend.unique("prefix") + "/"
        for name in random.Random(11).sample(names, len(names)):
            await put(objects, folder + name)
            if backend.virtual:
                await backend.advance(0.01)  # so that no two were written at the same time
        prefixes = {name[:length] for name in names for length in range(len(name) + 1)}
        for prefix in sorted(prefixes) + ["%", "_", "a%%", "a_%", "?", "a/1/x/", "zzz", "*", "\\"]:
            expected = sorted(folder + name for name in names if name.startswith(prefix))
            assert await listed(objects, folder + prefix) == expected, f"prefix {prefix!r}"
        everything = await listed(objects, "")
        assert everything == sorted(everything) and set(everything) >= {folder + name for name in names}
        assert await listed(objects, folder.rstrip("/") + "0") == []

    backend.run(case)


def test_the_last_character_there_is_hides_no_name(backend: Backend) -> None:
    async def case() -> None:
        objects, folder = backend.objects, backend.unique("last") + "/"
        names = [folder + name for name in ("a", "a\U0010fffe", "a\U0010ffff", "a\U0010ffff.jpg")]
        for name in names:
            await put(objects, name)
        assert await listed(objects, folder + "a") == names

    backend.run(case)


def test_more_than_a_thousand_objects_are_listed(backend: Backend) -> None:
    async def case() -> None:
        objects, folder = backend.objects, backend.unique("many") + "/"
        for start in range(0, 1203, 100):
            numbers = range(start, min(start + 100, 1203))
            await asyncio.gather(*(put(objects, f"{folder}{number:05}") for number in numbers))
        assert await listed(objects, folder) == [f"{folder}{number:05}" for number in range(1203)]
        # What is deleted and written while it is listed: the others are not missed, nothing is doubled.
        seen = []
        async for stored in objects.list(BUCKET, folder):
            seen.append(int(stored.name.removeprefix(folder)))
            if seen[-1] % 50 == 0:
                await objects.delete(BUCKET, stored.name)
                await put(objects, f"{folder}{max(0, seen[-1] - 7):05}", b"again")
        assert seen == list(range(1203))

    backend.run(case)
