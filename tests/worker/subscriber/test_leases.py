"""The worker's hands keep the leases of what they hold, and no longer."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model import Tier
from shared.ports import Delivery
from shared.topology import topic_of, topology
from shared.worker.disposition import ACK, NACK, Action, Disposition
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import World, virtual
from tests.worker.subscriber.parts import LEASE, NORMAL, Crew, fill, takes, waiting


@virtual
async def test_leases_are_kept_during_long_work(world: World) -> None:
    """An hour of work on one message: nobody else ever gets it, whatever the lease."""
    await fill(world)
    crew = Crew(world, takes(world, 3600.0))
    await world.clock.sleep(1)
    while world.clock.monotonic() < 3500:
        assert await world.queue.pull(NORMAL, 10, 0) == []
        await world.clock.sleep(7)
    await world.clock.sleep(200)
    assert len(crew.begun) == 1
    assert await waiting(world) == 0
    await crew.end()


@pytest.mark.parametrize("pulled_at", [0.0, 3.0])
@virtual
async def test_two_failed_rounds_of_the_keeper_do_no_harm(world: World, pulled_at: float) -> None:
    """Two in a row, whenever the message was pulled between two rounds, and with 0.1 s for the way to the queue."""
    queue = fused(world.parts, Fuse()).queue
    extend, rounds = world.queue.extend, 0

    async def unsteady(*arguments: Any) -> None:
        nonlocal rounds
        rounds += 1
        await world.clock.sleep(0.1)
        if rounds % 3:
            raise unreachable()
        await extend(*arguments)

    queue.extend = unsteady
    crew = Crew(world, takes(world, 20 * LEASE), queue=queue)
    await world.clock.sleep(pulled_at)
    await fill(world)
    await world.clock.sleep(21 * LEASE)
    assert len(crew.begun) == 1
    assert await waiting(world) == 0
    await crew.end()


@virtual
async def test_the_lease_is_the_subscriptions(world: World) -> None:
    """The setting repeats what topology.json says; the first lease is the subscription's own."""
    for tier in Tier:
        (policy,) = topology().subscriptions(topic_of(tier)).values()
        assert policy.ack_deadline_seconds == LEASE


@virtual
async def test_dispositions(world: World) -> None:
    """ack: gone. nack: again after the backoff. Let go of: neither, extended once by the seconds given, then again."""
    answers = {
        b"normal 0": ACK,
        b"normal 1": NACK,
        b"normal 2": Disposition(Action.LET_GO, seconds=40.0),
        b"normal 3": Disposition(Action.LET_GO),
    }
    seen: dict[bytes, list[float]] = {}

    async def handle(delivery: Delivery) -> Disposition:
        seen.setdefault(delivery.data, []).append(world.clock.monotonic())
        return answers[delivery.data] if len(seen[delivery.data]) == 1 else ACK

    await fill(world, count=4)
    crew = Crew(world, handle)
    await world.clock.sleep(120)
    again = {data: times[1] - times[0] for data, times in seen.items() if len(times) > 1}
    assert set(again) == {b"normal 1", b"normal 2", b"normal 3"}
    assert 10.0 <= again[b"normal 1"] <= 12.6
    assert again[b"normal 2"] == pytest.approx(40.0, abs=0.1)
    assert again[b"normal 3"] == pytest.approx(LEASE, abs=0.1), "left to its lease"
    await crew.end()


@virtual
async def test_a_long_let_go_is_not_shortened_by_the_keeper(world: World) -> None:
    await fill(world)
    first = True

    async def handle(delivery: Delivery) -> Disposition:
        nonlocal first
        answer, first = (Disposition(Action.LET_GO, seconds=300.0) if first else ACK), False
        return answer

    crew = Crew(world, handle)
    await world.clock.sleep(299)
    assert len(crew.begun) == 1
    await world.clock.sleep(5)
    assert len(crew.begun) == 2
    await crew.end()


@pytest.mark.parametrize("method", ["ack", "nack", "extend"])
@virtual
async def test_an_answer_that_could_not_be_given_brings_the_message_again(world: World, method: str) -> None:
    await fill(world)
    answer = {"ack": ACK, "nack": NACK, "extend": Disposition(Action.LET_GO, seconds=5.0)}[method]
    answers = [answer, ACK]

    async def handle(delivery: Delivery) -> Disposition:
        return answers.pop(0)

    crew = Crew(world, handle, queue=fused(world.parts, Fuse(1, on=method, error=unreachable)).queue)
    await world.clock.sleep(70)
    assert len(crew.begun) == 2
    assert crew.subscriber.in_hand == 0
    await crew.end()
