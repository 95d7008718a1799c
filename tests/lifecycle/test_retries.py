"""A round's failed.csv dropped again: its own batch, a new round, what was corrected in it; killed at every place."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shared.model import Batch, BatchState, Checkpoint, Control, Failure, ImageState
from shared.results.names import round_folder
from shared.results.report import RoundReport
from tests.harness.faults import Fuse, Killed, fused
from tests.harness.world import World, virtual
from tests.rooms.test_ingest import put

DROP = "manifests/acme/failed.csv"
PHOTO = "gs://intake/manifests/acme/photos/{}.jpg"


async def closed_batch(world: World, total: int = 6, failed: tuple[int, ...] = (1, 3, 4)) -> Batch:
    """A batch that is over: its round has failures, its reports are written and announced."""
    await world.batch(total)
    for index in range(total):
        failure = Failure(code="source_not_found", message="no such object")
        changes: dict[str, Any] = {"state": ImageState.COMPLETED, "settled_at": world.clock.now()}
        if index in failed:
            changes |= {"state": ImageState.FAILED, "error": failure, "attempts": 1, "source": PHOTO.format(index)}
        await world.change_image(index, **changes)
    await world.rooms.reconcile.run()
    batch = await world.the_batch()
    assert (batch.state, batch.round) == (BatchState.CLOSED, 1)
    await world.events()
    return batch


async def failed_csv(world: World, batch: Batch) -> list[dict[str, str]]:
    raw = (await world.kept("results"))[round_folder(batch) + "failed.csv"][1].decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(raw)))


def written(rows: list[dict[str, str]], separator: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


async def dropped(world: World, content: bytes, name: str = DROP) -> Batch:
    await put(world, content, name)
    batch = await world.rooms.ingest.handle("intake", name)
    assert batch is not None
    return batch


async def states(world: World, total: int = 6) -> list[tuple[str, int]]:
    images = [await world.image(index) for index in range(total)]
    return [(image.state.value, image.round) for image in images]


def queued(*indexes: int, total: int = 6, failed: tuple[int, ...] = (1, 3, 4)) -> list[tuple[str, int]]:
    return [
        ("queued", 2) if index in indexes else ("failed" if index in failed else "completed", 1)
        for index in range(total)
    ]


@virtual
async def test_it_names_its_batch_and_what_is_wrong(world: World) -> None:
    batch = await closed_batch(world)
    rows = await failed_csv(world, batch)
    assert [(row["batchId"], row["index"], row["errorCode"]) for row in rows] == [
        ("b1", index, "source_not_found") for index in "134"
    ]
    assert rows[0]["errorMessage"] == "no such object"
    assert rows[0]["url"] == PHOTO.format(1)


@virtual
async def test_its_images_get_a_new_round_of_their_own_batch(world: World) -> None:
    batch = await closed_batch(world)
    again = await dropped(world, written(await failed_csv(world, batch)))
    assert (again.id, again.state, again.round) == (batch.id, BatchState.PROCESSING, 2)
    assert await states(world) == queued(1, 3, 4)
    assert sorted(task.index for task in await world.tasks()) == [1, 3, 4]
    assert [batch.id for batch in await world.store.batches()] == [batch.id], "and no other batch is made"


@virtual
async def test_the_same_bytes_dropped_again_are_another_try(world: World) -> None:
    batch = await closed_batch(world)
    content = written(await failed_csv(world, batch))
    for number, name in enumerate((DROP, DROP, "manifests/acme/other.csv"), start=2):
        await dropped(world, content, name)
        assert sorted(task.index for task in await world.tasks()) == [1, 3, 4]
        assert await world.rooms.ingest.handle("intake", name) is not None
        assert await world.tasks() == [], "the event of one drop come twice is no second try"
        assert (await world.the_batch()).round == number
        for index in (1, 3, 4):
            await world.change_image(index, state=ImageState.FAILED, error=Failure(code="x", message="y"), attempts=3)
        await world.rooms.reconcile.run()
        assert (await world.the_batch()).state is BatchState.CLOSED


@virtual
async def test_corrected_addresses_are_taken_and_only_for_the_images_that_are_left_in_it(world: World) -> None:
    batch = await closed_batch(world)
    paid = Checkpoint(analysis="{}", picture="work/1", generations=1)
    for index in (1, 4):
        await world.change_image(index, checkpoint=paid)
    first, _, third = await failed_csv(world, batch)
    first["url"] = "https://photos.example/right.jpg"
    first["roomType"] = "quarto"
    await dropped(world, written([first, third], ";"))
    assert await states(world) == queued(1, 4)
    changed, same = await world.image(1), await world.image(4)
    assert (changed.source, changed.room_type) == ("https://photos.example/right.jpg", "bedroom")
    assert changed.checkpoint is None, "another photo has no picture that is paid for"
    assert same.source == PHOTO.format(4)
    assert same.checkpoint is not None
    assert same.checkpoint.picture == "work/1"


@pytest.mark.parametrize("found", ["file:///elsewhere/1.jpg", "gs://other/1.jpg", "C:/1.jpg"])
@virtual
async def test_an_address_that_was_allowed_once_stays_allowed_to_its_image_alone(world: World, found: str) -> None:
    """On one machine failed.csv lies in another folder than the photos it names."""
    await closed_batch(world)
    await world.change_image(1, source=found)
    batch = await world.the_batch()
    rows = await failed_csv(world, batch)
    rows[0]["url"] = found
    again = await dropped(world, written(rows[:1]))
    assert again.state is BatchState.PROCESSING
    assert (await world.image(1)).source == found
    rows[1]["url"] = found
    refused = await dropped(world, written(rows[1:2]), "manifests/acme/b.csv")
    assert refused.state is BatchState.REJECTED
    assert (await world.image(3)).state is ImageState.FAILED


BAD: list[tuple[Callable[[dict[str, str]], Any], str]] = [
    (lambda row: row.update(batchId="unknown"), "names no batch"),
    (lambda row: row.update(index="6"), "is no image of the batch"),
    (lambda row: row.update(index="x"), "is no image's number"),
    (lambda row: row.update(index=""), "is no image's number"),
    (lambda row: row.update(roomType="qqq"), "is not known"),
    (lambda row: row.update(url="http://plain.example/x.jpg"), "plain http"),
    (lambda row: row.update(clientName="Other"), "does not belong in the folder"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD)
@virtual
async def test_one_that_cannot_be_is_rejected_whole(
    world: World, spoil: Callable[[dict[str, str]], Any], reason: str
) -> None:
    batch = await closed_batch(world)
    rows = await failed_csv(world, batch)
    for row in rows if reason in ("names no batch", BAD[-1][1]) else rows[:1]:  # which all rows must have alike
        spoil(row)
    refused = await dropped(world, written(rows))
    assert refused.state is BatchState.REJECTED
    (event,) = await world.events()
    assert any(reason in problem for problem in event["data"]["firstProblems"]), event
    assert await states(world) == queued()


@virtual
async def test_one_without_anything_left_to_try_is_answered_with_what_is_known(world: World) -> None:
    batch = await closed_batch(world)
    content = written(await failed_csv(world, batch))
    for index in (1, 3, 4):
        await world.change_image(index, state=ImageState.COMPLETED, error=None)
    again = await dropped(world, content)
    assert again.round == 1
    assert [event["ce-type"] for event in await world.events()] == ["ruum.batch.accepted", "ruum.batch.completed"]


@virtual
async def test_a_batch_whose_documents_expire_says_so(world: World) -> None:
    """Tried for a day, the drop would be given up and nobody told."""
    batch = await closed_batch(world)
    content = written(await failed_csv(world, batch))
    await world.clock.sleep(3600)
    world.rooms = world.rooms_on(world.parts, kept_seconds=30 * 86_400.0 + 3599.0)
    refused = await dropped(world, content)
    assert refused.state is BatchState.REJECTED
    (event,) = await world.events()
    assert "its documents are deleted within 30 days; submit the failed photos" in event["data"]["firstProblems"][0]
    assert "a batch whose documents are kept for 30 more days" in event["data"]["firstProblems"][0]


@virtual
async def test_a_paused_batch_says_so(world: World) -> None:
    batch = await closed_batch(world)
    content = written(await failed_csv(world, batch))
    again = await dropped(world, content, "manifests/acme/first.csv")
    assert again.state is BatchState.PROCESSING
    await world.change_image(1, state=ImageState.FAILED, error=Failure(code="x", message="y"))
    await world.change_batch(control=Control.PAUSED, control_epoch=1)
    await world.events()
    refused = await dropped(world, content)
    assert refused.state is BatchState.REJECTED
    (event,) = await world.events()
    assert "paused" in event["data"]["firstProblems"][0]


@virtual
async def test_killed_at_every_place_the_same_drop_ends_it_right(world: World) -> None:
    """Every call to the store, the queue and the objects is the last once; the event comes again, as Eventarc brings it."""
    batch = await closed_batch(world)
    rows = await failed_csv(world, batch)
    rows[0]["url"] = "https://photos.example/right.jpg"
    content = written(rows)
    place = 0
    while True:
        place += 1
        fresh = World(world.clock)
        again = await closed_batch(fresh)
        await put(fresh, content, DROP)
        fuse = Fuse(place)
        try:
            await fresh.rooms_on(fused(fresh.parts, fuse)).ingest.handle("intake", DROP)
        except Killed:
            pass
        else:
            break
        await fresh.clock.sleep(130)  # the replay's lease is over
        await fresh.rooms.reconcile.run()  # which must not carry it on without what was corrected
        await fresh.rooms.ingest.handle("intake", DROP)
        ended = await fresh.the_batch()
        assert (ended.id, ended.round, ended.state) == (again.id, 2, BatchState.PROCESSING), place
        assert await states(fresh) == queued(1, 3, 4), place
        assert (await fresh.image(1)).source == "https://photos.example/right.jpg", place
        assert {task.index for task in await fresh.tasks()} == {1, 3, 4}, place
    assert place > 10


@virtual
async def test_a_drop_that_never_comes_again_is_ended_after_a_day(world: World) -> None:
    batch = await closed_batch(world)
    content = written(await failed_csv(world, batch))
    await put(world, content, DROP)
    with pytest.raises(Killed):
        await world.rooms_on(fused(world.parts, Fuse(12))).ingest.handle("intake", DROP)
    if (await world.the_batch()).state is not BatchState.REOPENING:
        pytest.fail("the place of the kill has moved: choose one while the batch is reopening")
    await world.clock.sleep(90_000)
    await world.rooms.reconcile.run()
    assert (await world.the_batch()).state is not BatchState.REOPENING


# --- a path, corrected in a folder of reports


@pytest.mark.parametrize(
    ("there", "source"),
    [
        ((), "gs://intake/manifests/acme/new/7.jpg"),  # nowhere: the error names the place that was meant
        (("manifests/acme/new/7.jpg",), "gs://intake/manifests/acme/new/7.jpg"),
        (("manifests/acme/retries/new/7.jpg",), "gs://intake/manifests/acme/retries/new/7.jpg"),
        (
            ("manifests/acme/new/7.jpg", "manifests/acme/retries/new/7.jpg"),
            "gs://intake/manifests/acme/retries/new/7.jpg",
        ),
    ],
)
@virtual
async def test_a_path_is_looked_for_beside_the_file_and_then_beside_the_manifest(
    world: World, there: tuple[str, ...], source: str
) -> None:
    batch = await closed_batch(world)
    await world.change_batch(
        batch.id, manifest=msgspec.structs.replace(batch.manifest, base="gs://intake/manifests/acme/")
    )
    for name in there:
        await put(world, b"photo", name)
    rows = await failed_csv(world, batch)
    rows[0]["url"] = "new/7.jpg"
    rows[1]["url"] = "https://example.com/other.jpg"
    await dropped(world, written(rows), "manifests/acme/retries/failed.csv")
    assert await states(world) == queued(1, 3, 4)
    assert [(await world.image(index)).source for index in (1, 3, 4)] == [
        source, "https://example.com/other.jpg", PHOTO.format(4)
    ]  # fmt: skip


@virtual
async def test_a_path_that_climbs_is_no_correction(world: World) -> None:
    batch = await closed_batch(world)
    rows = await failed_csv(world, batch)
    rows[0]["url"] = "../globex/1.jpg"
    refused = await dropped(world, written(rows), "manifests/acme/retries/failed.csv")
    assert refused.state is BatchState.REJECTED
    assert await states(world) == queued()


@pytest.mark.parametrize(
    ("there", "source"),
    [
        ((), "gs://intake/manifests/acme/1f/photos/1.jpg"),
        (("1f/photos/1.jpg",), "gs://intake/manifests/acme/1f/photos/1.jpg"),
        (("photos/1.jpg",), "gs://intake/manifests/acme/photos/1.jpg"),
        (("1f/photos/1.jpg", "photos/1.jpg"), "gs://intake/manifests/acme/1f/photos/1.jpg"),
    ],
)
@virtual
async def test_a_path_that_was_not_corrected_is_its_own_photo(
    world: World, there: tuple[str, ...], source: str
) -> None:
    """failed.csv names a photo by its path: another manifest's photo of that path may lie beside the drop."""
    batch = await closed_batch(world, failed=())
    base = "gs://intake/manifests/acme/1f/"
    await world.change_batch(batch.id, manifest=msgspec.structs.replace(batch.manifest, base=base))
    failure = Failure(code="source_not_found", message="no such object")
    await world.change_image(1, state=ImageState.FAILED, error=failure, source=base + "photos/1.jpg")
    report = RoundReport(await world.the_batch())
    report.add(await world.image(1))
    content = dict(report.files())["failed.csv"]
    assert b",photos/1.jpg," in content
    for name in there:
        await put(world, b"photo", f"manifests/acme/{name}")
    again = await dropped(world, content)
    assert again.round == 2
    assert (await world.image(1)).source == source
