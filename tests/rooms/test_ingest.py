"""INGEST: idempotent and resumable, whatever is killed when; bad manifests rejected whole, under one event id."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from shared import decisions
from shared.manifest.fields import FIELDS
from shared.messages import ImageChanged, decode
from shared.model import BatchState, Counts, FailureThreshold, Image, ImageState, Tier
from shared.rooms import ingest
from shared.topology import topic_of
from tests.harness.faults import Fuse, Killed, fused, unreachable
from tests.harness.world import World, virtual

NAME = "manifests/acme/batch.json"
HEADER = {"clientName": "Acme", "batchId": "b1", "designStyle": "modern", "roomType": "living_room"}


def manifest(count: int = 3, **header: Any) -> bytes:
    images = [{"url": f"https://example.com/{index}.jpg", "propertyCode": f"APT {index}"} for index in range(count)]
    return json.dumps({**HEADER, **header, "images": images}).encode()


async def put(world: World, content: bytes, name: str = NAME) -> None:
    await world.objects.put("intake", name, content, content_type="application/json")


async def all_images(world: World, batch: str = "acme.b1") -> list[Image]:
    return [image async for image in world.store.images(batch)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two, so that a small manifest has several."""
    monkeypatch.setattr(ingest, "CHUNK", 2)


# --- what is made


@virtual
async def test_a_manifest_becomes_a_batch(world: World) -> None:
    await put(world, manifest(3, priority="high"))
    batch = await world.rooms.ingest.handle("intake", NAME)
    assert batch is not None
    assert (batch.id, batch.client, batch.client_name, batch.tier) == ("acme.b1", "acme", "Acme", Tier.EXPRESS)
    assert (batch.state, batch.total, batch.shards, batch.round) == (BatchState.PROCESSING, 3, 3, 1)
    assert batch.manifest.uri == "memory://intake/manifests/acme/batch.json"
    assert batch.manifest.generation == 1
    assert batch == await world.the_batch()
    images = await all_images(world)
    assert [(image.index, image.shard, image.state, image.revision) for image in images] == [
        (index, index, ImageState.QUEUED, 1) for index in range(3)
    ]
    assert [image.source for image in images] == [f"https://example.com/{index}.jpg" for index in range(3)]
    assert [(image.room_type, image.design_style, image.property_code) for image in images] == [
        ("living_room", "modern", f"APT {index}") for index in range(3)
    ]
    assert await world.store.counts("acme.b1") == Counts(queued=3)
    assert await world.store.open_images("acme.b1") == (3, 3)
    tasks = await world.tasks([Tier.EXPRESS])
    assert [(task.batch, task.index, task.round, task.tier) for task in tasks] == [
        ("acme.b1", index, 1, Tier.EXPRESS) for index in range(3)
    ]
    assert await world.tasks() == []
    (event,) = await world.events()
    assert (event["ce-id"], event["ce-type"], event["client"]) == ("acme.b1/accepted", "ruum.batch.accepted", "acme")
    assert event["data"]["total"] == 3
    assert await world.kept("intake") != {}, "nothing is taken from the intake bucket"
    assert set(await world.kept("intake")) == {NAME}, "and nothing is written into it"


@virtual
async def test_tasks_name_their_client(world: World) -> None:
    await put(world, manifest(1))
    await world.rooms.ingest.handle("intake", NAME)
    (delivery,) = await world.drain(topic_of(Tier.NORMAL))
    assert delivery.attributes == {"client": "acme"}


@pytest.mark.parametrize("total", [1, 7, 8, 9, 499, 500, 501, 1001])
@virtual
async def test_chunks_and_shards_of_any_size(world: World, total: int) -> None:
    await put(world, manifest(total))
    batch = await world.rooms.ingest.handle("intake", NAME)
    assert batch is not None
    images = await all_images(world)
    assert [image.index for image in images] == list(range(total))
    assert await world.store.open_images("acme.b1") == (total, batch.shards)
    per_shard = Counter(image.shard for image in images)
    for shard in range(batch.shards):
        tally = await world.store.tally("acme.b1", shard)
        assert tally is not None
        assert tally.counts.queued == per_shard[shard]
    assert sorted(task.index for task in await world.tasks()) == list(range(total))
    assert batch.tasks_published == total


@virtual
async def test_without_a_batch_id_the_content_names_the_batch(world: World) -> None:
    content = manifest(2, batchId=None)
    await put(world, content)
    first = await world.rooms.ingest.handle("intake", NAME)
    await put(world, content, "manifests/acme/again.json")
    second = await world.rooms.ingest.handle("intake", "manifests/acme/again.json")
    assert first is not None
    assert second is not None
    assert first.id == second.id
    await put(world, manifest(3, batchId=None), "manifests/acme/other.json")
    third = await world.rooms.ingest.handle("intake", "manifests/acme/other.json")
    assert third is not None
    assert third.id != first.id
    assert len(await world.store.batches()) == 2


# --- again


@virtual
async def test_the_same_object_again_changes_nothing(world: World) -> None:
    await put(world, manifest())
    batch = await world.rooms.ingest.handle("intake", NAME)
    images = await all_images(world)
    await world.tasks()
    await world.events()
    for _ in range(3):
        assert await world.rooms.ingest.handle("intake", NAME) == batch
    assert await all_images(world) == images
    assert await world.tasks() == []
    assert await world.events() == []


@virtual
async def test_again_when_work_has_begun(world: World) -> None:
    """Nothing is wiped: not an image that was staged, not a tally that counted it."""
    await put(world, manifest())
    await world.rooms.ingest.handle("intake", NAME)
    await world.change_image(1, state=ImageState.COMPLETED)
    for delivery in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))
    images, counts = await all_images(world), await world.store.counts("acme.b1")
    assert counts == Counts(queued=2, completed=1)
    await world.rooms.ingest.handle("intake", NAME)
    assert await all_images(world) == images
    assert await world.store.counts("acme.b1") == counts


@virtual
async def test_two_at_once(world: World) -> None:
    """Two deliveries of the same object, step by step beside each other."""
    await put(world, manifest(5))
    await asyncio.gather(*[world.rooms.ingest.handle("intake", NAME) for _ in range(4)])
    assert len(await all_images(world)) == 5
    assert await world.store.open_images("acme.b1") == (5, 5)
    assert {task.index for task in await world.tasks()} == set(range(5))
    assert {event["ce-id"] for event in await world.events()} == {"acme.b1/accepted"}


@virtual
async def test_a_closed_batch_again(world: World) -> None:
    await put(world, manifest(1))
    await world.rooms.ingest.handle("intake", NAME)
    await world.change_image(0, state=ImageState.CANCELLED)
    for delivery in await world.changes():
        await world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))
    closed = await world.the_batch()
    assert closed.state is BatchState.CLOSED
    await world.tasks()
    await world.events()
    assert await world.rooms.ingest.handle("intake", NAME) == closed
    assert await world.tasks() == []
    assert await world.events() == []


@virtual
async def test_the_same_batch_id_with_other_content_is_rejected(world: World) -> None:
    await put(world, manifest(3))
    first = await world.rooms.ingest.handle("intake", NAME)
    await world.tasks()
    await world.events()
    for name in (NAME, "manifests/acme/other.json"):
        await put(world, manifest(2), name)
        rejected = await world.rooms.ingest.handle("intake", name)
        assert rejected is not None
        assert rejected.state is BatchState.REJECTED
        assert rejected.id != "acme.b1"
        problems = json.loads((await world.kept("results"))[name + ".errors.json"][1])["problems"]
        assert [problem["field"] for problem in problems] == ["batchId"]
        (event,) = await world.events()
        assert event["ce-type"] == "ruum.batch.rejected"
    assert await world.the_batch() == first
    assert len(await all_images(world)) == 3
    assert await world.tasks() == []


# --- rejected


@virtual
async def test_a_bad_manifest_is_rejected_whole(world: World) -> None:
    await put(world, manifest(3, roomType="livng room", designStyle="moderrn"))
    batch = await world.rooms.ingest.handle("intake", NAME)
    assert batch is not None
    assert (batch.state, batch.outcome, batch.total) == (BatchState.REJECTED, "rejected", 0)
    assert batch.problems == 2
    written = await world.kept("results")
    assert set(written) == {NAME + ".errors.json"}
    report = json.loads(written[NAME + ".errors.json"][1])
    assert report["manifest"] == NAME
    assert {problem["field"] for problem in report["problems"]} == {"designStyle", "roomType"}
    (event,) = await world.events()
    assert (event["ce-type"], event["client"]) == ("ruum.batch.rejected", "acme")
    assert event["ce-id"] == f"{batch.id}/rejected"
    assert event["data"]["problems"] == 2
    assert event["data"]["errors"] == "memory://results/" + NAME + ".errors.json"
    assert await world.tasks() == []
    assert await all_images(world) == []


@virtual
async def test_rejected_again_is_the_same_event(world: World) -> None:
    await put(world, b"{}")
    batches = [await world.rooms.ingest.handle("intake", NAME) for _ in range(3)]
    assert batches[0] == batches[1] == batches[2]
    events = await world.events()
    assert events
    assert len({event["ce-id"] for event in events}) == 1
    assert all(event == events[0] for event in events), "the same id must carry the same words"
    await put(world, b"{}")  # written anew: another generation, another rejection
    await world.rooms.ingest.handle("intake", NAME)
    (event,) = await world.events()
    assert event["ce-id"] != events[0]["ce-id"]


@virtual
async def test_the_folder_must_be_the_client(world: World) -> None:
    await put(world, manifest(), "manifests/other/batch.json")
    batch = await world.rooms.ingest.handle("intake", "manifests/other/batch.json")
    assert batch is not None
    assert batch.state is BatchState.REJECTED
    assert batch.client == "other", "the event must not go to a client who has nothing to do with it"
    (event,) = await world.events()
    assert event["client"] == "other"
    problems = json.loads((await world.kept("results"))["manifests/other/batch.json.errors.json"][1])["problems"]
    allowed = "the folder manifests/acme/, or clientName other"
    assert [(problem["field"], problem["allowed"]) for problem in problems] == [("clientName", allowed)]
    assert await world.store.batch("acme.b1") is None
    local = world.rooms_on(world.parts, folder_is_client=False)
    accepted = await local.ingest.handle("intake", "manifests/other/batch.json")
    assert accepted is not None
    assert accepted.state is BatchState.PROCESSING


@virtual
async def test_a_folder_of_any_name(world: World) -> None:
    for folder in ("ação", "...", "..a", "a b", "ACME", "~"):  # ".." is no name that the embedded store takes
        name = f"manifests/{folder}/x.json"
        await put(world, b"nonsense", name)
        batch = await world.rooms.ingest.handle("intake", name)
        assert batch is not None
        assert batch.state is BatchState.REJECTED


@virtual
async def test_too_large_to_be_read(world: World) -> None:
    limits = msgspec.structs.replace(world.settings.manifest, max_bytes=100)
    world.settings = msgspec.structs.replace(world.settings, manifest=limits)
    world.rooms = world.rooms_on(world.parts)
    await put(world, manifest(20))
    batch = await world.rooms.ingest.handle("intake", NAME)
    assert batch is not None
    assert (batch.state, batch.problems) == (BatchState.REJECTED, 1)


@pytest.mark.parametrize(
    "name",
    [
        "manifests/acme/photo.jpg", "manifests/acme/flats/Sala 1.HEIC", "manifests/batch.json", "batch.json",
        "manifests//batch.json", "photos/acme/batch.json", "manifests/acme/.json", "manifests/acme/", "manifests/acme/a/",
        "results/manifests/acme/batch.json", "", "manifests/acme/.DS_Store", "manifests/acme/~$plan.xlsx",
        "manifests/acme/Thumbs.db", "manifests/acme/film.mp4", "manifests/plan.xlsx",
    ],
)  # fmt: skip
@virtual
async def test_what_is_no_manifest_by_its_name_is_ignored(world: World, name: str) -> None:
    if all(name.split("/")):  # others the embedded store does not take: they are ignored before anything is read
        await put(world, manifest(), name)
    assert await world.rooms.ingest.handle("intake", name) is None
    assert await world.store.batches() == []
    assert await world.events() == []
    assert await world.kept("results") == {}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("plan.xls", "save it as .xlsx, .ods or CSV"), ("plan.txt", "name it .csv"), ("plan.tsv", "name it .csv"), ("plan", ".jsonl"),
        ("plan.numbers", "export it"), ("plan.zip", "unpack it"), ("plan.csv.gz", "unpack it"), ("a/plan.pdf", ".csv"),
        ("plan.ndjson", ".jsonl"), ("json", ".json"), ("batch.json.errors.json.txt", "name it .csv"),
    ],
)  # fmt: skip
@virtual
async def test_a_client_that_drops_what_is_no_manifest_is_told(world: World, name: str, advice: str) -> None:
    await put(world, manifest(), f"manifests/acme/{name}")
    batch = await world.rooms.ingest.handle("intake", f"manifests/acme/{name}")
    assert batch is not None
    (event,) = await world.events()
    assert (event["ce-type"], event["client"]) == ("ruum.batch.rejected", "acme")
    written = json.loads((await world.kept("results"))[f"manifests/acme/{name}.errors.json"][1])
    assert advice in written["problems"][0]["allowed"]


@virtual
async def test_the_same_content_dropped_again_is_answered(world: World) -> None:
    """A client that sends again after a crash waits for events: they come again, under the ids they had."""
    await put(world, manifest())
    first = await world.rooms.ingest.handle("intake", NAME)
    assert first is not None
    told = await world.events()
    assert await world.rooms.ingest.handle("intake", NAME) is not None
    assert await world.events() == [], "the event of the same object come twice is no second drop"
    for name in (NAME, "manifests/acme/again.json"):
        await put(world, manifest(), name)
        again = await world.rooms.ingest.handle("intake", name)
        assert again is not None
        assert again.id == first.id
        assert await world.events() == told


@virtual
async def test_a_manifest_deleted_before_it_was_read_is_ignored(world: World) -> None:
    assert await world.rooms.ingest.handle("intake", NAME) is None
    assert await world.events() == []
    fuse = Fuse()
    parts = fused(world.parts, fuse)
    await put(world, manifest())
    found = parts.objects.get

    async def deleted(bucket: str, name: str, *more: Any) -> Any:
        await world.objects.delete(bucket, name)
        return await found(bucket, name, *more)

    parts.objects.get = deleted
    assert await world.rooms_on(parts).ingest.handle("intake", NAME) is None
    assert await world.events() == []
    assert await world.kept("results") == {}


@virtual
async def test_a_manifest_replaced_while_it_is_read(world: World) -> None:
    """What the batch was made of and what it says it was made of are the same bytes."""
    await put(world, manifest(2))
    parts = fused(world.parts, Fuse())
    found = parts.objects.get

    async def replaced(bucket: str, name: str, *more: Any) -> Any:
        await put(world, manifest(3))
        return await found(bucket, name, *more)

    parts.objects.get = replaced
    batch = await world.rooms_on(parts).ingest.handle("intake", NAME)
    assert batch is not None
    got = await world.objects.get("intake", NAME)
    assert got is not None
    expected = {2: 1, 3: got[0].generation}
    assert batch.manifest.generation == expected[batch.total]


# --- killed at every place


async def check_final(world: World, total: int) -> None:
    """The one state that every interrupted ingest ends in."""
    batch = await world.the_batch()
    assert (batch.state, batch.total, batch.tasks_published) == (BatchState.PROCESSING, total, total)
    images = await all_images(world)
    assert [image.index for image in images] == list(range(total))
    assert {image.state for image in images} == {ImageState.QUEUED}
    assert {image.revision for image in images} == {1}
    assert await world.store.open_images(batch.id) == (total, batch.shards)
    assert await world.store.counts(batch.id) == Counts(queued=total)
    tallies = [await world.store.tally(batch.id, shard) for shard in range(batch.shards)]
    assert [tally and tally.counts for tally in tallies] == [
        tally.counts for tally in decisions.batch.empty_tallies(batch)
    ]
    tasks = await world.tasks()
    assert {task.index for task in tasks} == set(range(total)), "every image has at least one task"
    assert {(task.batch, task.round, task.tier) for task in tasks} == {(batch.id, 1, Tier.NORMAL)}
    events = await world.events()
    assert {event["ce-id"] for event in events} == {"acme.b1/accepted"}
    assert all(event == events[0] for event in events), "the same id must carry the same words"


async def calls_of(world: World, content: bytes) -> int:
    fuse = Fuse()
    await put(world, content)
    await world.rooms_on(fused(world.parts, fuse)).ingest.handle("intake", NAME)
    return len(fuse.calls)


@pytest.mark.parametrize("error", [Killed, unreachable], ids=["killed", "unreachable"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.usefixtures("small_chunks")
@virtual
async def test_interrupted_at_every_place(world: World, after: bool, error: Any) -> None:
    count = await calls_of(world, manifest(5))
    assert count >= 14
    for at in range(1, count + 1):
        world = World(world.clock)
        await put(world, manifest(5))
        fuse = Fuse(at, after=after, error=error)
        with pytest.raises(type(error())):
            await world.rooms_on(fused(world.parts, fuse)).ingest.handle("intake", NAME)
        await world.clock.sleep(30)
        await world.rooms.ingest.handle("intake", NAME)
        await check_final(world, 5)


@pytest.mark.usefixtures("small_chunks")
@virtual
async def test_interrupted_twice_at_every_two_places(world: World) -> None:
    count = await calls_of(world, manifest(3))
    for first in range(1, count + 1):
        for second in range(1, count + 1):
            world = World(world.clock)
            await put(world, manifest(3))
            for at in (first, second):
                fuse = Fuse(at, after=(first + second) % 2 == 0)
                try:
                    await world.rooms_on(fused(world.parts, fuse)).ingest.handle("intake", NAME)
                except Killed:
                    pass
            await world.rooms.ingest.handle("intake", NAME)
            await check_final(world, 3)


@pytest.mark.usefixtures("small_chunks")
@virtual
async def test_all_is_staged_before_an_interrupted_ingest_goes_on(world: World) -> None:
    """Workers do not wait for ingest: it finds everything settled, and closes the batch itself at its end."""
    count = await calls_of(world, manifest(5))
    for at in range(1, count + 1):
        world = World(world.clock)
        await put(world, manifest(5))
        with pytest.raises(Killed):
            await world.rooms_on(fused(world.parts, Fuse(at))).ingest.handle("intake", NAME)

        async def settle(world: World = world) -> None:
            for task in await world.tasks():
                image = await world.store.image(task.batch, task.index)
                if image is not None and image.state is ImageState.QUEUED:
                    await world.change_image(task.index, state=ImageState.CANCELLED)
            for delivery in await world.changes():
                await world.rooms.aggregate.handle(decode(ImageChanged, delivery.data))

        await settle()
        await world.rooms.ingest.handle("intake", NAME)
        await settle()
        batch = await world.the_batch()
        assert batch.state is BatchState.CLOSED, at
        assert await world.store.counts("acme.b1") == Counts(cancelled=5)
        ids = [event["ce-id"] for event in await world.events() if event["ce-type"] != "ruum.batch.progress"]
        assert set(ids) == {"acme.b1/accepted", "acme.b1/1"}
        assert ids.count("acme.b1/1") == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@virtual
async def test_a_rejection_interrupted_at_every_place(world: World, after: bool) -> None:
    count = await calls_of(world, b"{}")
    for at in range(1, count + 1):
        world = World(world.clock)
        await put(world, b"{}")
        with pytest.raises(Killed):
            await world.rooms_on(fused(world.parts, Fuse(at, after=after))).ingest.handle("intake", NAME)
        await world.clock.sleep(30)
        batch = await world.rooms.ingest.handle("intake", NAME)
        assert batch is not None
        assert batch.state is BatchState.REJECTED
        assert len(await world.store.batches()) == 1
        events = await world.events()
        assert {event["ce-id"] for event in events} == {f"{batch.id}/rejected"}
        assert all(event == events[0] for event in events)
        assert set(await world.kept("results")) == {NAME + ".errors.json"}


@virtual
async def test_what_the_header_says_of_the_batch_reaches_it(world: World) -> None:
    """Each field that `of_batch` declares, with another value than its default."""
    header = {"clientName": "acme", "priority": "express", "cache": False, "failureThreshold": "7"}
    declared = {field.attribute for field in FIELDS if field.of_batch}
    await put(world, manifest(1, **header))
    batch = await world.rooms.ingest.handle("intake", NAME)
    assert batch is not None
    wanted = {
        "client_name": "acme", "tier": Tier.EXPRESS, "cache": False, "threshold": FailureThreshold(count=7),
    }  # fmt: skip
    assert wanted.keys() == declared, "a new field wants its value here"
    assert {name: getattr(batch, name) for name in declared} == wanted
