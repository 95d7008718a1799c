"""STAGE IMAGE and letters: what cannot be read is told in one, and one is what it is on the wire."""

from __future__ import annotations

import json

import pytest

from shared.errors import ErrorCode
from shared.messages import Letter, decode, encode
from shared.ports import Message
from shared.worker.disposition import Action
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import World, virtual
from tests.rooms.stage_image.parts import rejected

# --- row: unreadable message


UNREADABLE = [b"", b"{}", b"not json", b"\xff\xfe\x00", b"[]", b"null", b"7", b'{"batch": 7, "index": 0, "round": 1, "tier": "normal"}',
              b'{"batch": "acme.b1", "index": "0", "round": 1, "tier": "normal"}',
              b'{"batch": "acme.b1", "index": 0, "round": 1, "tier": "vip"}', b'{"batch": "acme.b1"', b"[" * 100_000,
              b"x" * 1_000_000]  # fmt: skip


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:20]))
@virtual
async def test_an_unreadable_message(world: World, body: bytes) -> None:
    hand = await world.worker()
    assert (await hand.handle(world.delivery(body))).action is Action.ACK
    (letter,) = await world.letters()
    assert letter.task is None
    assert letter.code == ErrorCode.INTERNAL
    assert "unreadable" in letter.message
    assert len(letter.original) <= 500
    assert letter.original[:20] == body[:20].decode("utf-8", "replace")


@virtual
async def test_an_unreadable_message_while_the_queue_is_away(world: World) -> None:
    """`handle` never raises; a letter that was not written is written when the message comes again."""
    hand = await world.worker(fused(world.parts, Fuse(1, on="publish", error=unreachable)))
    delivery = world.delivery(b"not json")
    assert (await hand.handle(delivery)).action is Action.NACK
    assert (await hand.handle(delivery)).action is Action.ACK
    assert len(await world.letters()) == 1


# --- letters on the wire


@virtual
async def test_a_letter_can_be_read_by_others(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    world.fakes.will("fetch", rejected())
    await hand.handle(await world.task(epoch=3))
    (delivery,) = await world.drain("dead-letter-operators")
    body = json.loads(delivery.data)
    assert body == {
        "code": "not_a_picture", "message": "look at this", "attempts": 1,
        "task": {"batch": "acme.b1", "index": 0, "round": 1, "tier": "normal", "epoch": 3},
    }  # fmt: skip
    assert decode(Letter, encode(decode(Letter, delivery.data))) == decode(Letter, delivery.data)
    assert Message(delivery.data, delivery.attributes).attributes == {"kind": "letter"}
