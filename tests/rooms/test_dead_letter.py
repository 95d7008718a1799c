"""DEAD LETTER: settled or older round, acked; claim alive, again later; attempts left, a fresh task; otherwise failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shared.errors import ErrorCode, RuumError, StillHeld
from shared.messages import ImageChanged, Letter, Task, decode, encode, letter_message
from shared.model import Failure, ImageState, Tier
from shared.topology import DEAD_LETTER_DOOR, DEAD_LETTER_TOPIC, topic_of
from shared.worker.disposition import Action
from tests.harness.fakes import Stall
from tests.harness.faults import Fuse, Killed, fused, unreachable
from tests.harness.world import STALE_SECONDS, World, virtual

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = ImageState
KINDS = ["letter", "task"]
ERROR = Failure(code="vendor_timeout", message="no answer")


def brought(kind: str, index: int = 0, **changes: Any) -> tuple[bytes, Mapping[str, str]]:
    """A letter of a worker's, or a task that the queue gave up on, as the door is brought it."""
    task = Task(**{"batch": "acme.b1", "index": index, "round": 1, "tier": Tier.NORMAL, "epoch": 2, **changes})
    if kind == "task":
        return encode(task), {"client": "acme"}
    message = letter_message(Letter(code="vendor_timeout", message="no answer", attempts=3, task=task))
    return message.data, message.attributes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [COMPLETED, FAILED, CANCELLED])
@virtual
async def test_settled(world: World, kind: str, state: ImageState) -> None:
    await world.batch()
    before = await world.change_image(state=state, attempts=3, error=ERROR)
    await world.rooms.dead_letter.handle(*brought(kind))
    assert await world.image() == before
    assert await world.tasks() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [QUEUED, PROCESSING, FAILED, COMPLETED])
@virtual
async def test_an_older_round(world: World, kind: str, state: ImageState) -> None:
    await world.batch()
    before = await world.change_image(state=state, round=2, attempts=3)
    await world.rooms.dead_letter.handle(*brought(kind))
    assert await world.image() == before
    assert await world.tasks() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attempts", [0, 1, 3])
@virtual
async def test_a_living_claim(world: World, kind: str, attempts: int) -> None:
    await world.batch()
    hand = await world.worker()
    before = await world.held_by(hand.heartbeat.worker, attempts=attempts)
    for _ in range(3):
        with pytest.raises(StillHeld):
            await world.rooms.dead_letter.handle(*brought(kind))
    assert await world.image() == before
    assert await world.tasks() == []
    assert issubclass(StillHeld, RuumError), "the door raises it: the letter comes again"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attempts", [0, 1, 2])
@pytest.mark.parametrize("tier", Tier)
@virtual
async def test_attempts_are_left(world: World, kind: str, attempts: int, tier: Tier) -> None:
    await world.batch(tier=tier)
    before = await world.change_image(attempts=attempts, error=ERROR if attempts else None)
    await world.rooms.dead_letter.handle(*brought(kind, tier=tier))
    assert await world.image() == before
    assert await world.tasks([tier]) == [Task(batch="acme.b1", index=0, round=1, tier=tier, epoch=2)]
    assert await world.tasks() == []


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_a_dead_claim_with_attempts_left(world: World, kind: str) -> None:
    """The worker died: a fresh task, and whoever gets it takes the claim over and counts the crash."""
    await world.batch()
    first, second = await world.worker(), await world.worker()
    before = await world.held_by(first.heartbeat.worker)
    first.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    await world.rooms.dead_letter.handle(*brought(kind))
    assert await world.image() == before
    (delivery,) = await world.queue.pull(topic_of(Tier.NORMAL), 10, 0)
    assert (await second.handle(delivery)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.crashes) == (COMPLETED, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [None, ERROR])
@virtual
async def test_nothing_is_left_to_try(
    world: World, kind: str, error: Failure | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await world.batch()
    await world.change_image(attempts=3, fence=5, error=error)
    await world.rooms.dead_letter.handle(*brought(kind))
    image = await world.image()
    assert (image.state, image.fence, image.settled_at) == (FAILED, 6, world.clock.now())
    assert image.error is not None
    assert image.error.code == (error.code if error else ErrorCode.DELIVERIES_EXHAUSTED)
    assert await world.tasks() == []
    change = decode(ImageChanged, (await world.changes())[-1].data)
    assert change.state is FAILED, "aggregate is told"
    await world.rooms.dead_letter.handle(*brought(kind))
    assert await world.image() == image
    told = [record.__dict__["fields"]["event"] for record in caplog.records if "fields" in record.__dict__]
    assert told == ["image_settled", "dead_letter"], "once, though the letter came twice: the alert counts these"


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_a_dead_claim_with_nothing_left(world: World, kind: str) -> None:
    await world.batch()
    await world.held_by("ghost", attempts=3)
    await world.rooms.dead_letter.handle(*brought(kind))
    image = await world.image()
    assert (image.state, image.claim, image.fence) == (FAILED, None, 2)


@virtual
async def test_its_fence_shuts_out_the_worker_that_was_thought_dead(world: World) -> None:
    await world.batch()
    await world.change_image(attempts=3)
    hand = await world.worker()
    stall = Stall()
    world.fakes.will("verify", stall)
    work = hand.begin(await world.task())
    await stall.reached.wait()
    hand.fall_silent()
    await world.clock.sleep(STALE_SECONDS)
    await world.rooms.dead_letter.handle(*brought("task"))
    image = await world.image()
    assert (image.state, image.fence) == (FAILED, 2)
    stall.go_on.set()
    assert (await work).action is Action.LET_GO
    assert await world.image() == image


@virtual
async def test_what_a_worker_left_when_it_stopped_is_free(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    await world.held_by(hand.heartbeat.worker)
    hand.fall_silent()
    await hand.heartbeat.stop()
    await world.rooms.dead_letter.handle(*brought("task"))
    assert len(await world.tasks()) == 1


@virtual
async def test_taken_by_another_worker_while_the_letter_is_read(world: World) -> None:
    """The holder looked up is not the holder any more: nothing is concluded from the wrong heartbeat."""
    await world.batch()
    await world.held_by("ghost", attempts=3)
    hand = await world.worker()
    parts = fused(world.parts, Fuse())
    look_up = parts.store.worker

    async def slowly(identity: str) -> Any:
        found = await look_up(identity)
        await world.held_by(hand.heartbeat.worker, attempts=3, fence=2)
        return found

    parts.store.worker = slowly
    with pytest.raises(StillHeld):
        await world.rooms_on(parts).dead_letter.handle(*brought("task"))
    image = await world.image()
    assert (image.state, image.fence) == (PROCESSING, 2)


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        (b"", {}), (b"", {"kind": "letter"}), (b"not json", {}), (b"not json", {"kind": "letter"}), (b"{}", {}), (b"[]", {}),
        (b"{}", {"kind": "letter"}), (b"\xff", {}), (b"\xff", {"kind": "letter"}), (b'{"code": 1, "message": "x"}', {"kind": "letter"}),
        (b'{"code": "x", "message": "x", "task": {"batch": "b"}}', {"kind": "letter"}),
        (letter_message(Letter(code="internal", message="unreadable task", original="?")).data, {"kind": "letter"}),
        (encode(Letter(code="internal", message="x")), {}), (encode(Task(batch="b", index=0, round=1, tier=Tier.NORMAL)), {"kind": "letter"}),
    ],
)  # fmt: skip
@virtual
async def test_what_cannot_be_read_is_logged_and_acked(world: World, data: bytes, attributes: dict[str, str]) -> None:
    await world.batch()
    before = await world.image()
    await world.rooms.dead_letter.handle(data, attributes)
    assert await world.image() == before
    assert await world.tasks() == []


@pytest.mark.parametrize("kind", KINDS)
@virtual
async def test_a_letter_about_nothing(world: World, kind: str) -> None:
    await world.batch()
    for changes in ({"index": 7}, {"batch": "acme.none"}, {"index": -1}):
        await world.rooms.dead_letter.handle(*brought(kind, **changes))
    assert await world.tasks() == []


@pytest.mark.parametrize("error", [Killed, unreachable], ids=["killed", "unreachable"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("attempts", [0, 3])
@virtual
async def test_interrupted_at_every_place(world: World, attempts: int, after: bool, error: Any) -> None:
    """A letter comes again after a kill: a fresh task at least once, or failed exactly once."""
    for at in range(1, 6):
        world = World(world.clock)
        await world.batch()
        await world.change_image(attempts=attempts)
        fuse = Fuse(at, after=after, error=error)
        rooms = world.rooms_on(fused(world.parts, fuse))
        try:
            await rooms.dead_letter.handle(*brought("task"))
        except type(error()):
            pass
        else:
            assert not fuse.blown
            break
        await world.rooms.dead_letter.handle(*brought("task"))
        image = await world.image()
        assert image.state is (FAILED if attempts else QUEUED)
        assert image.fence == (1 if attempts else 0)
        assert bool(await world.tasks()) is (attempts == 0)
    assert at > 2


@virtual
async def test_the_whole_way_of_a_task_that_nobody_answers(world: World) -> None:
    """Delivered ten times without ack or nack: the queue gives it up, the door makes a fresh one, it is staged."""
    await world.batch()
    await world.published(topic_of(Tier.NORMAL), encode(Task(batch="acme.b1", index=0, round=1, tier=Tier.NORMAL)))
    seen = 0
    while not (dead := await world.queue.pull(DEAD_LETTER_DOOR, 1, 0)):
        seen += len(await world.queue.pull(topic_of(Tier.NORMAL), 1, 0))
        await world.clock.sleep(30)
    assert seen == 10
    await world.rooms.dead_letter.handle(dead[0].data, dead[0].attributes)
    await world.queue.ack(DEAD_LETTER_DOOR, [dead[0].ack_id])
    (fresh,) = await world.queue.pull(topic_of(Tier.NORMAL), 1, 0)
    assert fresh.attempt == 1
    hand = await world.worker()
    assert (await hand.handle(fresh)).action is Action.ACK
    assert (await world.image()).state is COMPLETED
    assert await world.drain(DEAD_LETTER_TOPIC) == []
