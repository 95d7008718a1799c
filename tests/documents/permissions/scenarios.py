"""What the doors do, told in scenarios: each reaches some calls that no other does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shared import decisions
from shared.errors import ErrorCode, ImageRejected, Throttled, WorldError
from shared.lifecycle import closing
from shared.messages import ImageChanged, decode
from shared.model import BatchState, Control, Failure, ImageState, Lease, ReplayPlan, Tier, TierEmpty, Trials
from shared.ports import Message
from shared.results import names, report
from shared.topology import DEAD_LETTER_TOPIC, topic_of
from tests.documents.permissions.cloud import Cloud
from tests.harness.fakes import BAD, Stall
from tests.harness.world import STALE_SECONDS

WORLD = WorldError(ErrorCode.VENDOR_BAD_ANSWER, "down")


async def accepted_staged_and_closed(cloud: Cloud) -> None:
    """Photos beside the manifest and in the source bucket, one of them twice: the cache fills and gives."""
    await cloud.manifest("0.jpg", "gs://source/acme/1.jpg", "0.jpg", priority="express")
    cloud.world.fakes.will("verify", BAD)
    await cloud.work()
    await cloud.changes()
    assert (await cloud.world.the_batch()).announced_round == 1


async def rejected(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg", designStyle="nonsense")
    await cloud.ingest("deleted")
    await cloud.world.objects.put("intake", "photos/x.jpg", b"", content_type="image/jpeg")
    await cloud.rooms["ingest"].ingest.handle("intake", "photos/x.jpg")
    await cloud.manifest("0.jpg", name="b2")
    await cloud.manifest("0.jpg", "1.jpg", name="b2")  # the same id for other content
    await cloud.world.objects.put("intake", "manifests/acme/plan.xls", b"x", content_type="x")
    await cloud.rooms["ingest"].ingest.handle("intake", "manifests/acme/plan.xls")


async def a_long_closing_carried_on(cloud: Cloud) -> None:
    """A batch so large that what was gathered of it is kept; here three images are."""
    await cloud.manifest("0.jpg", "1.jpg", "2.jpg", cache=False)
    await cloud.work(60)
    before, closing.PART_IMAGES = closing.PART_IMAGES, 2
    try:
        part = report.RoundReport(await cloud.world.the_batch())
        part.add(await cloud.world.image(0))
        dead = Lease(holder="dead", until=0.0)
        now = cloud.world.clock.now()
        await cloud.settle_quietly()
        await cloud.world.change_batch(state=BatchState.CLOSING, closing_at=now, closer=dead)
        name = names.closing_folder(await cloud.world.the_batch()) + "00000001"
        kept = msgspec.msgpack.encode(part.part())
        await cloud.world.objects.put("results", name, kept, content_type="application/octet-stream")
        objects = cloud.world.objects
        at_once = objects.get

        async def slow(*args: Any) -> Any:  # a third of the lease passes
            await cloud.world.clock.sleep(15)
            return await at_once(*args)

        objects.get = slow  # type: ignore[method-assign]
        await cloud.reconcile()
        del objects.get
        assert (await cloud.world.the_batch()).state is BatchState.CLOSED
    finally:
        closing.PART_IMAGES = before


async def failures_dropped_again(cloud: Cloud) -> None:
    """A round's failed.csv, by the customer's hand; and the same manifest once more."""
    await cloud.manifest("0.jpg", "1.jpg", cache=False)
    await cloud.world.objects.delete("intake", "manifests/acme/1.jpg")
    await cloud.work()
    await cloud.changes()
    results = await cloud.world.kept("results")
    (failed,) = [content for name, (_, content, *_) in results.items() if name.endswith("failed.csv")]
    assert b",1.jpg," in failed, "a path, as the manifest has it"
    # From another folder: the photo is looked for beside it, and where the manifest's own paths begin.
    await cloud.world.objects.put("intake", "manifests/acme/reports/failed.csv", failed, content_type="text/csv")
    await cloud.rooms["ingest"].ingest.handle("intake", "manifests/acme/reports/failed.csv")
    assert (await cloud.world.the_batch()).round == 2
    await cloud.manifest("0.jpg", "1.jpg", cache=False)


async def every_tier(cloud: Cloud) -> None:
    for tier in Tier:
        await cloud.manifest("0.jpg", name=tier.value, priority=tier.value, cache=False)
    await cloud.work(130)
    await cloud.changes()


async def closed_by_ingest(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg")
    await cloud.settle_quietly()
    await cloud.ingest()
    assert (await cloud.world.the_batch()).state is BatchState.CLOSED


async def closed_by_reconcile(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg")
    await cloud.settle_quietly()
    await cloud.reconcile()
    assert (await cloud.world.the_batch()).state is BatchState.CLOSED
    assert cloud.pool.count == 0


async def closed_with_another_closers_files_there(cloud: Cloud) -> None:
    """Reports and status lie there already: they are looked at before they are replaced."""
    for at in ("ingest", "reconcile", "aggregate"):
        name = f"by-{at}"
        await cloud.manifest("0.jpg", name=name)
        folder = f"results/acme/{name}/round-1/"
        for file in ("results.jsonl", "results.csv", "failed.csv", "report.html"):
            await cloud.world.objects.put(
                "results", folder + file, b"", content_type="text/plain", metadata={"fence": "1"}
            )
        if at == "aggregate":
            await cloud.work(20)
            await cloud.changes()
        else:
            await cloud.settle_quietly(f"acme.{name}")
            await (cloud.ingest(name) if at == "ingest" else cloud.reconcile())
        assert (await cloud.world.the_batch(f"acme.{name}")).state is BatchState.CLOSED


async def closed_but_not_announced(cloud: Cloud) -> None:
    """By each door that may find it so."""
    for at in ("ingest", "reconcile"):
        name = f"by-{at}"
        await cloud.manifest("0.jpg", name=name)
        await cloud.settle_quietly(f"acme.{name}")
        await cloud.ingest(name)
        await cloud.world.change_batch(f"acme.{name}", announced_round=0)
        await (cloud.ingest(name) if at == "ingest" else cloud.reconcile())
        assert (await cloud.world.the_batch(f"acme.{name}")).announced_round == 1


async def a_replay_carried_on(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg", "1.jpg")
    await cloud.settle_quietly(state=ImageState.FAILED)
    await cloud.reconcile()
    dead = ReplayPlan(number=1, lease=Lease(holder="dead", until=cloud.world.clock.now() - 1))
    await cloud.world.change_batch(state=BatchState.REOPENING, round=2, replay=dead)
    await cloud.reconcile()
    assert (await cloud.world.image()).state is ImageState.QUEUED
    assert cloud.pool.count == 1


async def too_many_fail(cloud: Cloud) -> None:
    await cloud.manifest(*(f"{index}.jpg" for index in range(8)), cache=False)
    cloud.world.fakes.will("normalise", *[ImageRejected(ErrorCode.NOT_A_PICTURE, "no")] * 4)
    stalls = [Stall() for _ in range(4)]
    cloud.world.fakes.will("analyse", *stalls)
    working = asyncio.create_task(cloud.work(40))
    await cloud.world.clock.sleep(20)
    await cloud.changes()
    assert (await cloud.world.the_batch()).control is Control.PAUSED
    for stall in stalls:
        stall.go_on.set()
    await working
    await cloud.letters()


async def a_quota_changes(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg", cache=False)
    cloud.world.fakes.will("generate", Throttled("slow down", 1.0))
    await cloud.work(90)
    assert any(event["ce-type"] == "ruum.quota.changed" for event in await cloud.world.events())


async def attempts_fail_and_letters_come(cloud: Cloud) -> None:
    """Tasks nacked and at last dead-lettered; one nobody can read; one about nothing."""
    await cloud.manifest("0.jpg", "missing.jpg", cache=False)
    await cloud.world.objects.delete("intake", "manifests/acme/missing.jpg")
    cloud.world.fakes.will("generate", WORLD, WORLD, WORLD)
    ghost = await cloud.world.task(0)
    ghost_body = json.dumps({**json.loads(ghost.data), "index": 99}).encode()
    await cloud.world.published(topic_of(Tier.NORMAL), b"nonsense", ghost_body)
    await cloud.work(1500)
    await cloud.letters()
    assert (await cloud.world.image()).state is ImageState.FAILED


async def a_photo_of_the_web_while_the_vendor_is_away(cloud: Cloud) -> None:
    await cloud.manifest("https://photos.example/0.jpg", cache=False)
    cloud.world.fakes.will("generate", WorldError(ErrorCode.VENDOR_UNAVAILABLE, "down"))
    await cloud.work(90)
    assert (await cloud.world.image()).state is ImageState.COMPLETED


async def the_queue_gives_tasks_up(cloud: Cloud) -> None:
    """One image has attempts left and gets a fresh task, one has none and is settled."""
    await cloud.manifest("0.jpg", "1.jpg")
    error = Failure(code="vendor_unavailable", message="x")
    await cloud.world.change_image(1, attempts=3, error=error)
    bodies = [(await cloud.world.task(index)).data for index in range(2)]
    await cloud.world.tasks()
    await cloud.world.queue.publish(DEAD_LETTER_TOPIC, [Message(body) for body in (*bodies, b"nonsense")])
    await cloud.letters()
    assert [task.index for task in await cloud.world.tasks()] == [0]
    await cloud.world.held_by("worker-living", 0)
    letter = Message(bodies[0])
    await cloud.world.queue.publish(DEAD_LETTER_TOPIC, [letter])
    await cloud.letters()  # its worker left no heartbeat: it is as good as dead


async def others_hold_what_is_delivered(cloud: Cloud) -> None:
    """Held by a living worker, then by a dead one; settled; of a batch that is paused or cancelled."""
    await cloud.manifest("0.jpg", "1.jpg", "2.jpg", cache=False)
    living = await cloud.world.worker()
    await cloud.world.held_by(living.heartbeat.worker, 0)
    trials = Trials(deaths=5, step="prepare", in_a_row=5)
    await cloud.world.held_by("worker-dead", 1, alone=True, step="prepare", trials=trials)
    await cloud.world.change_image(
        2, state=ImageState.FAILED, settled_at=1.0, error=Failure(code="not_a_picture", message="x")
    )
    await cloud.work(40)
    living.fall_silent()
    await cloud.world.clock.sleep(STALE_SECONDS)
    await cloud.work(200)
    await cloud.changes()


async def paused_and_cancelled(cloud: Cloud) -> None:
    for control in (Control.PAUSED, Control.CANCELLING):
        name = control.value
        await cloud.manifest("0.jpg", "1.jpg", name=name, cache=False)
        await cloud.world.change_batch(f"acme.{name}", control=control)
    await cloud.work(20)
    await cloud.manifest("0.jpg", name="in-hand", cache=False)
    stall = Stall()
    cloud.world.fakes.will("analyse", stall)
    working = asyncio.create_task(cloud.work(60))
    await stall.reached.wait()
    await cloud.world.change_batch("acme.in-hand", control=Control.CANCELLING)
    await cloud.world.clock.sleep(6)
    stall.go_on.set()
    await working
    await cloud.changes()


async def reconcile_cancels_resumes_and_publishes_again(cloud: Cloud) -> None:
    world = cloud.world
    await cloud.manifest("0.jpg", name="cancelled")
    await world.change_batch("acme.cancelled", control=Control.CANCELLING)
    await cloud.manifest("0.jpg", name="resumed")
    await world.change_batch("acme.resumed", control_epoch=1)
    await cloud.manifest("0.jpg", name="forgotten")
    await world.tasks()
    await world.held_by("worker-dead", 0, batch="acme.cancelled")
    await world.clock.sleep(7200)
    empty = TierEmpty(tier=Tier.NORMAL, seen_at=(world.clock.now() - 100, world.clock.now()))
    await world.store.change_record(TierEmpty, Tier.NORMAL.value, lambda *_: empty, "t")
    await cloud.reconcile()
    assert sorted(task.batch for task in await world.tasks()) == ["acme.forgotten", "acme.resumed"]
    assert (await world.image(0, "acme.cancelled")).state is ImageState.CANCELLED


async def orphans(cloud: Cloud) -> None:
    await cloud.world.objects.put("work", "work/acme.gone/0/1.1", b"x", content_type="x/y")
    await cloud.world.clock.sleep(2 * 86_400)
    await cloud.reconcile()
    assert await cloud.world.kept("work") == {}


async def the_cache_forgets_and_is_let_go(cloud: Cloud) -> None:
    """A picture whose object is gone; a leader that has none in the end; one that is waited for; one that died."""
    await cloud.manifest("0.jpg")
    await cloud.work(30)
    (entry,) = await cloud.world.kept("work", "cache/")
    await cloud.world.objects.delete("work", entry)
    await cloud.manifest("0.jpg", name="again")
    cloud.world.fakes.will("generate", WORLD)
    stall = Stall()
    cloud.world.fakes.will("analyse", stall)
    working = asyncio.create_task(cloud.work(200))
    await stall.reached.wait()
    await cloud.manifest("0.jpg", name="beside")
    await cloud.world.clock.sleep(10)
    stall.go_on.set()
    await working
    assert (await cloud.world.image(0, "acme.beside")).cached or (await cloud.world.image(0, "acme.again")).cached


async def a_worker_goes_home_with_its_hands_full(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg", cache=False)
    cloud.world.fakes.will("generate", lambda: asyncio.sleep(1000))
    await cloud.work(10)
    assert (await cloud.world.image()).state is ImageState.QUEUED


async def a_checkpoint_is_gone_on_from(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg", cache=False)
    cloud.world.fakes.will("verify", WORLD)
    await cloud.work(60)
    assert cloud.world.fakes.bought.count("generate") == 1


async def two_workers_died_with_it(cloud: Cloud) -> None:
    """A suspect is staged alone."""
    await cloud.manifest("0.jpg", cache=False)
    await cloud.world.change_image(crashes=2)
    await cloud.work(20 + decisions.image.TRIAL_AFTER_SECONDS)
    assert (await cloud.world.image()).state is ImageState.COMPLETED


async def a_picture_is_there_already(cloud: Cloud) -> None:
    """Published by an older fence: looked at, then replaced."""
    await cloud.manifest("0.jpg", cache=False)
    await cloud.work(20)
    await cloud.changes()
    for name, (_, _, metadata) in (await cloud.world.kept("results", "results/acme/b1/images/")).items():
        assert metadata["fence"] == "1"
        await cloud.world.objects.put("results", name, b"old", content_type="image/jpeg", metadata={"fence": "1"})
    await cloud.world.change_image(state=ImageState.QUEUED, round=2)
    await cloud.world.change_batch(state=BatchState.PROCESSING)
    await cloud.world.published(topic_of(Tier.NORMAL), (await cloud.world.task()).data)
    await cloud.work(20)
    assert (await cloud.world.image()).state is ImageState.COMPLETED


async def events_come_again(cloud: Cloud) -> None:
    await cloud.manifest("0.jpg", "1.jpg")
    await cloud.world.change_image(state=ImageState.COMPLETED, settled_at=1.0)
    (delivery,) = await cloud.world.changes()
    for _ in range(2):
        await cloud.rooms["aggregate"].aggregate.handle(decode(ImageChanged, delivery.data))


async def counts_that_do_not_agree(cloud: Cloud) -> None:
    """Never closed with a wrong bill: the closer looks whether a later round explains it, and is loud."""
    await cloud.manifest("0.jpg")
    await cloud.settle_quietly()
    await cloud.world.change_image(state=ImageState.FAILED)
    with pytest.raises(RuntimeError, match="tallies"):
        await cloud.ingest()


async def a_long_replay_and_a_long_resume(cloud: Cloud) -> None:
    """So long that its lease has to be kept; so many that they are published in parts."""
    world = cloud.world
    dead = ReplayPlan(number=1, lease=Lease(holder="dead", until=world.clock.now() - 1))
    await world.batch(101, "replayed", state=BatchState.REOPENING, round=2, replay=dead)
    await cloud.settle_quietly("acme.replayed", ImageState.FAILED)
    await world.batch(501, "resumed", control_epoch=1)
    publish = world.queue.publish

    async def slow(topic: str, messages: Any) -> None:
        await world.clock.sleep(50)
        await publish(topic, messages)

    world.queue.publish = slow  # type: ignore[method-assign]
    await cloud.reconcile()
    assert len(await world.tasks()) == 602


async def a_replay_overtaken(cloud: Cloud) -> None:
    """Another replay, by a clock that is off, requeues an image before this one does: it is counted all the same."""
    world = cloud.world
    dead = ReplayPlan(number=1, lease=Lease(holder="dead", until=world.clock.now() - 1))
    await world.batch(2, "replayed", state=BatchState.REOPENING, round=2, replay=dead)
    await cloud.settle_quietly("acme.replayed", ImageState.FAILED)
    change = world.store.change_image

    async def overtaken(batch: str, index: int, decide: Any, token: str, seen: Any = None) -> Any:
        world.store.change_image = change  # type: ignore[method-assign]
        await change(
            batch, index, lambda image: decisions.image.requeue(image, replay=1, now=world.clock.now()), "another's"
        )
        return await change(batch, index, decide, token, seen)

    world.store.change_image = overtaken  # type: ignore[method-assign]
    await cloud.reconcile()
    assert (await world.store.counts("acme.replayed")).queued == 2


async def a_batch_opens_as_all_are_sent_home(cloud: Cloud) -> None:
    cloud.pool.count = 1
    cloud.pool.at_zero = lambda: cloud.world.batch(1)
    await cloud.reconcile()
    assert cloud.pool.count == 1


SCENARIOS: list[Callable[[Cloud], Awaitable[None]]] = [
    accepted_staged_and_closed, rejected, failures_dropped_again, a_long_closing_carried_on, every_tier, closed_by_ingest, closed_by_reconcile,
    closed_with_another_closers_files_there, closed_but_not_announced, a_replay_carried_on, too_many_fail,
    a_quota_changes, attempts_fail_and_letters_come, a_photo_of_the_web_while_the_vendor_is_away, the_queue_gives_tasks_up, others_hold_what_is_delivered,
    paused_and_cancelled, reconcile_cancels_resumes_and_publishes_again, orphans, the_cache_forgets_and_is_let_go,
    a_worker_goes_home_with_its_hands_full, a_checkpoint_is_gone_on_from, two_workers_died_with_it,
    a_picture_is_there_already, a_replay_overtaken, events_come_again, counts_that_do_not_agree, a_long_replay_and_a_long_resume,
    a_batch_opens_as_all_are_sent_home,
]  # fmt: skip
