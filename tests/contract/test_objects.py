"""The ObjectStore held to the words of its port, and the fences on top of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pytest

from shared.errors import LostClaim, PreconditionFailed, WorldError
from shared.ports import ObjectStore, StoredObject
from shared.results.fenced import put_fenced
from tests.contract.backends import BUCKETS, Backend, Unsteady

BUCKET: Final = "results"
KIND: Final = "application/octet-stream"
NAMES: Final = [
    "plain.jpg",
    "with spaces and  two.jpg",
    " leading and trailing ",
    "São Paulo/Ångström cafe\u0301 café/東京/🏠👩‍👩‍👧.jpg",
    "hash#tag#.jpg",
    "question?mark=1&b=2.jpg",
    "100%/%20/%2F/%s_%d.jpg",
    "quotes ' \" `/semi;colon:pipe|star*<>.jpg",
    "[brackets]/{braces}/$HOME/~/!bang",
    "UPPER/lower",
    "upper/LOWER",
    ".hidden/..double/trailing./...",
    "a/very/deep/folder/" + "/".join(["x"] * 60),
    "folders" + ("/" + "y" * 100) * 9,
    "segment-" + "z" * 190,
    "é" * 100,
]


async def put(objects: ObjectStore, name: str, data: bytes = b"x", **options: Any) -> StoredObject:
    return await objects.put(BUCKET, name, data, content_type=KIND, **options)


async def listed(objects: ObjectStore, prefix: str, bucket: str = BUCKET) -> list[str]:
    return [stored.name async for stored in objects.list(bucket, prefix)]


async def content(objects: ObjectStore, name: str) -> bytes | None:
    got = await objects.get(BUCKET, name)
    return got[1] if got else None


# --- races and conditions


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


# --- fences


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


# --- files


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


# --- anything, in any order


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_agrees_with_a_dictionary(backend: Backend, seed: int) -> None:
    async def case() -> None:
        chance, folder = random.Random(seed), backend.unique("walk") + "/"
        names = [folder + name for name in ("a", "a_", "a%", "b c", "d/e", "d/f", "d/é")]
        known: dict[str, tuple[StoredObject, bytes]] = {}
        newest = dict.fromkeys(names, 0)
        for _ in range(400 if backend.virtual else 100):
            objects, name = chance.choice([backend, backend.second]).objects, chance.choice(names)
            step = chance.choice(["put", "put", "if", "if", "delete", "get", "stat", "list"])
            if step in {"put", "if"}:
                data, metadata = chance.randbytes(chance.randrange(50)), {"m": str(chance.random())}
                condition = chance.choice([0, newest[name]]) if step == "if" else None
                there = known[name][0].generation if name in known else 0
                if condition is not None and condition != there:
                    with pytest.raises(PreconditionFailed):
                        await put(objects, name, data, metadata=metadata, if_generation=condition)
                    continue
                stored = await put(objects, name, data, metadata=metadata, if_generation=condition)
                assert stored.generation > newest[name]
                assert (stored.bytes, stored.metadata["m"]) == (len(data), metadata["m"])
                known[name], newest[name] = (stored, data), stored.generation
            elif step == "delete":
                await objects.delete(BUCKET, name)
                known.pop(name, None)
            elif step == "get":
                assert await objects.get(BUCKET, name) == known.get(name)
            elif step == "stat":
                assert await objects.stat(BUCKET, name) == (known[name][0] if name in known else None)
            else:
                prefix = name[: chance.randrange(len(folder), len(name) + 1)]
                expected = [known[each][0] for each in sorted(known) if each.startswith(prefix)]
                assert [stored async for stored in objects.list(BUCKET, prefix)] == expected

    backend.run(case)


def test_a_link_is_signed_by_the_service_account() -> None:
    """Without a network: a key made here signs; the emulator has no accounts."""
    import json

    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from google.cloud import storage  # type: ignore[attr-defined]
    from google.oauth2 import service_account

    from shared.adapters.google.objects import CloudObjects
    from shared.adapters.system_clock import SystemClock

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    info = {"client_email": "x@y.iam.gserviceaccount.com", "private_key": pem, "token_uri": "https://oauth2.example/t"}
    credentials = service_account.Credentials.from_service_account_info(json.loads(json.dumps(info)))
    objects = CloudObjects(storage.Client(project="p", credentials=credentials), SystemClock())
    link = asyncio.run(objects.link("results", "a b/c.jpg", 600))
    objects.close()
    assert link.startswith("https://storage.googleapis.com/results/a%20b/c.jpg?")
    assert "X-Goog-Expires=600" in link
    assert "X-Goog-Signature=" in link
