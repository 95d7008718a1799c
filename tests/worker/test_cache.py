"""The same photo is bought once, also while it is being bought: whoever leads, waits, fails, dies or is stopped."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest

from shared.decisions.quota import Ledger
from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.model import Batch, Control, Image, ImageState, Refusal
from shared.ports import Photo, Request
from shared.settings import CacheRules, Settings
from shared.vendors import spec_of
from shared.worker.cache import CacheEntry, Lead, ask, key_of, let_go
from shared.worker.disposition import Action
from tests.harness.fakes import BAD, IMAGE, Stall, spec
from tests.harness.world import SETTINGS, STALE_SECONDS, Hand, World, virtual

SAME = "https://example.com/same.jpg"


async def batch(world: World, total: int = 1, name: str = "b1", client: str = "acme", **wishes: Any) -> Batch:
    """A batch of one photo, so many times, with the cache on."""
    made = await world.batch(total, name, cache=True)
    for index in range(total):
        await world.change_image(index, made.id, source=SAME, **wishes)
    return made


async def stage(world: World, hand: Hand, index: int = 0, name: str = "acme.b1") -> Image:
    """The image's task delivered until it is settled, as the queue does: with a pause after each nack."""
    while True:
        image = await world.image(index, name)
        if image.state not in (ImageState.QUEUED, ImageState.PROCESSING):
            return image
        done = await hand.handle(await task_of(world, index, name))
        if done.action is not Action.ACK:
            await world.clock.sleep(10)


async def task_of(world: World, index: int, name: str) -> Any:
    from shared.messages import encode, task_for

    return world.delivery(encode(task_for(await world.image(index, name), 0)))


def buys(world: World) -> list[int]:
    """How often each paid step was asked for."""
    return [world.fakes.bought.count(step) for step in ("analyse", "generate", "verify")]


@virtual
async def test_many_times_in_one_batch_and_in_flight_together(world: World) -> None:
    await batch(world, 20)
    hands = [await world.worker() for _ in range(2)]
    images = await asyncio.gather(*(stage(world, hands[index % 2], index) for index in range(20)))
    assert {image.state for image in images} == {ImageState.COMPLETED}
    assert buys(world) == [1, 1, 1]
    assert sorted(image.cached for image in images) == [False] + [True] * 19
    assert sum(image.cost_micro_usd > 0 for image in images) == 1, "one is billed, the others cost nothing"


@virtual
async def test_in_the_next_batch(world: World) -> None:
    hand = await world.worker()
    for name in ("b1", "b2"):
        await batch(world, name=name)
        await stage(world, hand, name=f"acme.{name}")
    assert buys(world) == [1, 1, 1]
    await batch(world, name="b3", room_type="bedroom")
    await stage(world, hand, name="acme.b3")
    await batch(world, name="b4", design_style="rustic")
    await stage(world, hand, name="acme.b4")
    assert buys(world) == [3, 3, 3], "another room or style is another picture"


@virtual
async def test_not_longer_than_it_is_kept(world: World) -> None:
    world = World(world.clock, msgspec.structs.replace(SETTINGS, cache=CacheRules(keep_seconds=600.0)))
    hand = await world.worker()
    await batch(world)
    await stage(world, hand)
    await batch(world, name="b1b")
    assert (await stage(world, hand, name="acme.b1b")).cached
    await world.clock.sleep(601)
    await batch(world, name="b2")
    assert not (await stage(world, hand, name="acme.b2")).cached


@virtual
async def test_other_prompts_are_another_picture(world: World) -> None:
    hand = await world.worker()
    await batch(world)
    await stage(world, hand)
    world.fakes.model.spec = spec(prompts="v-next")
    fresh = await world.worker()
    await batch(world, name="b2")
    assert not (await stage(world, fresh, name="acme.b2")).cached
    assert buys(world) == [2, 2, 2]


@virtual
async def test_a_leader_that_waits_for_quota_for_long_still_leads(world: World) -> None:
    """An open circuit, slow mode, an economy backlog: those that wait for it must not lose patience and buy too."""
    await batch(world, 2)
    until = world.clock.now() + 2 * 3600
    held = Ledger(id=IMAGE, not_before=until)
    await world.store.change_record(Ledger, IMAGE, lambda known, now: held, world.clock.token())
    hands = [await world.worker() for _ in range(2)]
    await asyncio.gather(*(stage(world, hands[index], index) for index in range(2)))
    assert world.clock.now() >= until
    assert buys(world) == [1, 1, 1]


@virtual
async def test_a_leader_that_failed_to_verify_keeps_its_picture_for_all(world: World) -> None:
    """It has paid for it: its next attempt verifies it, and those that wait do not buy another."""
    await batch(world, 3)
    world.fakes.will("verify", WorldError(ErrorCode.VENDOR_BAD_ANSWER, "what?"))
    hands = [await world.worker() for _ in range(3)]
    images = await asyncio.gather(*(stage(world, hands[index], index) for index in range(3)))
    assert {image.state for image in images} == {ImageState.COMPLETED}
    assert buys(world) == [1, 1, 2]


@virtual
async def test_a_leader_that_failed_for_good_is_followed_by_the_next(world: World) -> None:
    await batch(world, 2)
    world.fakes.will("generate", ImageRejected(ErrorCode.REFUSED_BY_SAFETY, "no"))
    hands = [await world.worker() for _ in range(2)]
    images = await asyncio.gather(*(stage(world, hands[index], index) for index in range(2)))
    assert sorted(image.state.value for image in images) == ["completed", "failed"]


@virtual
async def test_a_leader_whose_pictures_are_all_rejected_is_followed_by_the_next(world: World) -> None:
    await batch(world, 2)
    world.fakes.will("verify", BAD, BAD, BAD)
    hands = [await world.worker() for _ in range(2)]
    images = await asyncio.gather(*(stage(world, hands[index], index) for index in range(2)))
    assert sorted(image.state.value for image in images) == ["completed", "failed"]
    assert buys(world)[1] == 4


@virtual
async def test_a_dead_leader_is_followed_by_the_next(world: World) -> None:
    await batch(world, 2)
    await world.killed_at("generate", await task_of(world, 0, "acme.b1"))
    hand = await world.worker()
    began = world.clock.now()
    assert (await stage(world, hand, 1)).state is ImageState.COMPLETED
    assert world.clock.now() - began < STALE_SECONDS + 5
    assert (await stage(world, hand, 0)).cached


@virtual
async def test_a_leader_that_died_with_its_picture_paid_comes_again_or_is_given_up(world: World) -> None:
    """Its message comes again in seconds; if it is lost, those that wait do not wait for reconcile."""
    await batch(world, 2)
    await world.killed_at("verify", await task_of(world, 0, "acme.b1"))
    hand = await world.worker()
    waiting = asyncio.create_task(stage(world, hand, 1))
    await world.clock.sleep(60)
    assert not waiting.done()
    assert (await stage(world, hand, 0)).state is ImageState.COMPLETED
    assert (await waiting).cached
    assert buys(world)[1] == 1

    await batch(world, 2, "b2", room_type="den")
    await world.killed_at("verify", await task_of(world, 0, "acme.b2"))
    began = world.clock.now()
    assert not (await stage(world, hand, 1, "acme.b2")).cached
    assert 500 < world.clock.now() - began < 700


@pytest.mark.parametrize("control", [Control.PAUSED, Control.CANCELLING])
@pytest.mark.parametrize("step", ["analyse", "generate"])
@virtual
async def test_a_leader_whose_batch_is_stopped_lets_go(world: World, control: Control, step: str) -> None:
    await batch(world)
    await batch(world, name="b2")
    first, second = await world.worker(), await world.worker()
    stall = Stall()
    world.fakes.will(step, stall)
    leading = first.begin(await task_of(world, 0, "acme.b1"))
    await stall.reached.wait()
    await world.change_batch("acme.b1", control=control, control_epoch=1)
    waiting = asyncio.create_task(stage(world, second, 0, "acme.b2"))
    await world.clock.sleep(6)
    stall.go_on.set()
    await leading
    began = world.clock.now()
    assert (await waiting).state is ImageState.COMPLETED
    assert world.clock.now() - began < 10


@virtual
async def test_clients_do_not_see_each_other(world: World) -> None:
    hand = await world.worker()
    await batch(world)
    await stage(world, hand)
    other = await world.batch(1, "b2", cache=True, client="zeta", client_name="Zeta")
    await world.change_image(0, other.id, source=SAME)
    assert not (await stage(world, hand, name=other.id)).cached


@virtual
async def test_off_by_the_manifest(world: World) -> None:
    hand = await world.worker()
    await batch(world)
    await stage(world, hand)
    await world.batch(1, "b2", cache=False)
    await world.change_image(0, "acme.b2", source=SAME)
    assert not (await stage(world, hand, name="acme.b2")).cached
    assert buys(world) == [2, 2, 2]


@virtual
async def test_a_stale_hand_takes_no_lead_back(world: World) -> None:
    """Simulation, seeds 178, 190, 737 and 836: it would buy beside its successor, and let go of what is not its own."""
    rules = {"key": "k", "client": "acme", "dead": None}
    first = ask(None, 0.0, lead=Lead("w1", "acme.b1/0", 1), **rules)
    assert isinstance(first, CacheEntry)
    second = ask(first, 1.0, lead=Lead("w2", "acme.b1/0", 2), **rules)
    assert isinstance(second, CacheEntry), "a later claim of the same image goes on"
    for dead in (None, second.led_by):
        stale = ask(second, 2.0, lead=Lead("w1", "acme.b1/0", 1), **(rules | {"dead": dead}))
        assert stale is Refusal.STALE_FENCE, "not even when its successor seems to be dead"
    assert ask(second, 2.0, lead=Lead("w3", "acme.b1/1", 1), **rules) is Refusal.BUSY
    assert isinstance(
        ask(second, 2.0, lead=Lead("w3", "acme.b1/1", 1), **(rules | {"dead": second.led_by})), CacheEntry
    )
    assert ask(second, 2.0, lead=Lead("w2", "acme.b1/0", 2), **rules) == second, "asked again after a lost reply"
    assert let_go(second, 3.0, lead=Lead("w1", "acme.b1/0", 1)) is Refusal.UNCHANGED


# --- the key


PHOTO = Photo(jpeg=b"", width=4, height=3, sha256="f00d")


@pytest.mark.parametrize(
    "changes",
    [{"text": "another"}, {"image": "another"}, {"prompts": "another"}],
    ids=["text model", "image model", "prompts"],
)
def test_whatever_draws_another_picture_makes_another_key(changes: dict[str, str]) -> None:
    request = Request(room_type="den", design_style="boho")
    assert key_of("acme", PHOTO, request, spec(**changes)) != key_of("acme", PHOTO, request, spec())


def test_the_key_stays_what_it_was() -> None:
    """Every picture that was bought is in the cache under such a key: another way of making it buys all of them again."""
    parts = "acme\nf00d\nden\nboho\nv1\ngemini-3.5-flash-lite\ngemini-nano-banana-2.1"
    request = Request(room_type="den", design_style="boho")
    key = key_of("acme", PHOTO, request, spec_of(Settings()))
    assert key == hashlib.sha256(parts.encode()).hexdigest()
