"""The Queue, used by several in any order: no message is lost, none is held by two."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from shared.ports import Delivery, Message
from tests.contract.backends import Backend
from tests.contract.queue.parts import KEPT, KEPT_TOPIC, ids, nothing


class Holder:
    """What the walk knows of one message."""

    def __init__(self) -> None:
        self.ack_id: str | None = None  # of its newest delivery
        self.leased_until = 0.0
        self.free_from = 0.0  # not before this it may come
        self.attempts = 0
        self.done = False


@pytest.mark.parametrize("seed", range(6))
def test_a_random_walk_keeps_every_promise(backend: Backend, seed: int) -> None:
    """Publish, pull, ack, nack, extend and wait at random, also with ended leases, against a model of the words."""
    backend.needs("virtual")

    async def case() -> None:
        chance, clock, policy = random.Random(seed), backend.clock, backend.policy(KEPT)
        known: dict[bytes, Holder] = {}
        given: list[tuple[bytes, str]] = []  # every ack id ever given

        def receive(deliveries: Sequence[Delivery]) -> None:
            now = clock.monotonic()
            for delivery in deliveries:
                holder = known[delivery.data]
                assert not holder.done, "acked within its lease, and yet it came"
                assert now >= holder.free_from - 0.01, "it came while it was leased or backing off"
                holder.attempts += 1
                assert delivery.attempt == holder.attempts
                holder.ack_id = delivery.ack_id
                holder.leased_until = holder.free_from = now + policy.ack_deadline_seconds
                given.append((delivery.data, delivery.ack_id))

        def held(holder: Holder, ack_id: str) -> bool:
            return holder.ack_id == ack_id and clock.monotonic() < holder.leased_until and not holder.done

        for _ in range(600):
            queue = chance.choice([backend.queue, backend.second.queue])
            step = chance.choice(["publish", "pull", "pull", "ack", "ack", "nack", "extend", "wait"])
            some = [
                (body, ack_id)
                for body, ack_id in chance.sample(given, min(len(given), chance.randrange(4)))
                # An ack or nack after its lease, before the next one, is free to work or not: not walked into.
                if step == "extend" or known[body].ack_id != ack_id or held(known[body], ack_id)
            ]
            if step == "publish" and len(known) < 200:
                bodies_now = [b"%d" % (len(known) + n) for n in range(chance.randrange(1, 6))]
                known.update({body: Holder() for body in bodies_now})
                await queue.publish(KEPT_TOPIC, [Message(body) for body in bodies_now])
            elif step == "pull":
                receive(await queue.pull(KEPT, chance.randrange(1, 6), chance.choice([0.0, 0.3, 5.0, 20.0])))
            elif step == "wait":
                await backend.advance(chance.choice([0.1, 5, 15, 61]))
            elif step == "extend":
                seconds = chance.choice([1, 30, 200])
                for body, ack_id in some:
                    if held(known[body], ack_id):
                        known[body].leased_until = known[body].free_from = clock.monotonic() + seconds
                await queue.extend(KEPT, [ack_id for _, ack_id in some], seconds)
            elif step in {"ack", "nack"}:
                for body, ack_id in some:
                    holder = known[body]
                    if held(holder, ack_id):
                        holder.done = step == "ack"
                        holder.ack_id = None
                        holder.free_from = clock.monotonic() + (policy.retry_minimum_seconds if step == "nack" else 0)
                await (queue.ack if step == "ack" else queue.nack)(KEPT, [ack_id for _, ack_id in some])
        # Whatever was not acked comes, and comes soon enough.
        left = {body for body, holder in known.items() if not holder.done}
        assert left, "the walk should leave something"
        await backend.advance(600 + policy.retry_maximum_seconds * 2)
        last: list[Delivery] = []
        while deliveries := await backend.queue.pull(KEPT, 7, 1.0):
            receive(deliveries)
            last += deliveries
            await backend.queue.ack(KEPT, ids(deliveries))
        assert sorted(delivery.data for delivery in last) == sorted(left)
        await nothing(backend, KEPT, 1000)

    backend.run(case)
