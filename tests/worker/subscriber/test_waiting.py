"""Deliveries that wait without a slot: others work meanwhile, and their leases are kept."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from shared.model import Tier
from shared.ports import Delivery
from shared.settings import WorkerLimits
from shared.worker.disposition import ACK, Action, Disposition
from shared.worker.subscriber import PULL_SECONDS, Subscriber
from tests.harness.world import World, virtual
from tests.worker.subscriber.parts import LIMITS, NORMAL, Crew, fill, takes, waiting


class Host:
    """What parked deliveries wait for: `opens` lets all of them go on; `parked` counts how often each asked to wait."""

    def __init__(self, world: World, seconds: float = 1.0) -> None:
        self.world, self.seconds = world, seconds
        self.opens = asyncio.Event()
        self.parked: Counter[bytes] = Counter()
        self.done: list[tuple[float, bytes]] = []
        self.after: Disposition = ACK  # what becomes of a delivery that has waited

    def wait(self) -> Disposition:
        async def until_open() -> None:
            await self.opens.wait()

        return Disposition(Action.WAIT, reason="its host asks to wait", wait=until_open)

    async def handle(self, delivery: Delivery) -> Disposition:
        """Normal deliveries wait for the host, once; others are worked on."""
        if delivery.data.startswith(b"normal") and not self.opens.is_set():
            self.parked[delivery.data] += 1
            return self.wait()
        await self.world.clock.sleep(self.seconds)
        self.done.append((self.world.clock.monotonic(), delivery.data))
        return self.after


@virtual
async def test_what_waits_holds_no_slot_and_the_rest_goes_on(world: World) -> None:
    host = Host(world)
    await fill(world, Tier.NORMAL, 30)
    await fill(world, Tier.ECONOMY, 30)
    crew = Crew(world, host.handle, WorkerLimits(in_flight=4))
    await world.clock.sleep(60)
    assert len(host.done) == 30 and crew.subscriber.waiting == 30 and crew.subscriber.in_hand == 0
    assert crew.max_inside <= 4
    await world.clock.sleep(3600)
    assert await waiting(world) == 30
    assert set(host.parked.values()) == {1}, "their leases are kept: none comes a second time"
    host.opens.set()
    await world.clock.sleep(30 / 4 + 5)
    assert await waiting(world) == 0 and len(host.done) == 60
    assert crew.max_inside <= 4 and crew.max_in_hand <= 4
    assert {at for at, _ in crew.begun if at > 3600} != set()
    await crew.end()


@virtual
async def test_what_has_waited_goes_before_what_is_new(world: World) -> None:
    host = Host(world, 5.0)
    await fill(world, Tier.NORMAL, 3)
    crew = Crew(world, host.handle, WorkerLimits(in_flight=2))
    await world.clock.sleep(30)
    await fill(world, Tier.ECONOMY, 50)
    await world.clock.sleep(20)
    host.opens.set()
    opened = world.clock.monotonic()
    await world.clock.sleep(15.5)
    ended = [data for at, data in host.done if at > opened]
    assert sum(data.startswith(b"normal") for data in ended) == 3, ended
    await crew.end()


@pytest.mark.parametrize("grace", [0.5, 8.0])
@virtual
async def test_stopping_gives_back_what_waits(world: World, grace: float) -> None:
    """At once: nothing of it can be finished. The next worker has it after the queue's backoff, at no lost time."""
    host = Host(world)
    await fill(world, Tier.NORMAL, 20)
    crew = Crew(world, host.handle, WorkerLimits(in_flight=4), grace=grace)
    await world.clock.sleep(30.3)
    assert crew.subscriber.waiting == 20
    assert await crew.end() <= PULL_SECONDS + 0.1
    assert crew.subscriber.waiting == 0 and crew.subscriber.in_hand == 0
    assert await waiting(world) == 20
    host.opens.set()
    second = Crew(world, host.handle, WorkerLimits(in_flight=50))
    await world.clock.sleep(20)
    assert await waiting(world) == 0
    await second.end()


@virtual
async def test_what_comes_to_wait_while_the_worker_stops_is_given_back(world: World) -> None:
    """It must not use up the grace by waiting in it."""
    await fill(world, Tier.NORMAL, 5)
    host = Host(world)

    async def handle(delivery: Delivery) -> Disposition:
        await world.clock.sleep(3.0)
        return host.wait()

    crew = Crew(world, handle, grace=8.0)
    await world.clock.sleep(1.0)
    assert crew.inside == 5
    assert await crew.end() <= 3.0
    await world.clock.sleep(13)
    assert len(await world.queue.pull(NORMAL, 10, 0)) == 5


@virtual
async def test_what_may_go_on_while_the_worker_stops_is_not_begun(world: World) -> None:
    await fill(world, Tier.NORMAL, 5)
    await fill(world, Tier.ECONOMY, 1)
    host = Host(world, 6.0)
    crew = Crew(world, host.handle, grace=8.0)
    await world.clock.sleep(3.0)
    assert crew.subscriber.waiting == 5
    crew.stop.set()
    await world.clock.sleep(1.0)
    host.opens.set()
    await crew.running
    assert [data for _, data in host.done] == [b"economy 0"], "what was begun is finished, and nothing else"
    await world.clock.sleep(13)
    assert len(await world.queue.pull(NORMAL, 10, 0)) == 5


@virtual
async def test_a_tier_is_not_empty_while_one_of_its_deliveries_waits(world: World) -> None:
    """Reconcile would publish it again."""
    host = Host(world)
    await fill(world, Tier.NORMAL, 2)
    empty: list[tuple[float, Tier]] = []
    stop = asyncio.Event()
    note = lambda tier: empty.append((world.clock.monotonic(), tier))
    subscriber = Subscriber(world.queue, host.handle, world.clock, LIMITS, on_empty=note)
    running = asyncio.create_task(subscriber.run(stop, 5.0))
    await world.clock.sleep(600)
    assert subscriber.waiting == 2
    assert {tier for _, tier in empty} == {Tier.EXPRESS, Tier.ECONOMY}
    host.opens.set()
    await world.clock.sleep(60)
    assert subscriber.waiting == 0
    assert Tier.NORMAL in {tier for _, tier in empty}
    assert min(at for at, tier in empty if tier is Tier.NORMAL) >= 600
    stop.set()
    await running


@virtual
async def test_no_more_is_pulled_than_may_wait(world: World) -> None:
    host = Host(world)
    await fill(world, Tier.NORMAL, 100)
    limits = WorkerLimits(in_flight=4, max_waiting=20)
    crew = Crew(world, host.handle, limits)
    await world.clock.sleep(600)
    assert 20 <= crew.subscriber.waiting < 20 + limits.in_flight
    free = await world.queue.pull(NORMAL, 200, 0)
    assert len(free) == 100 - crew.subscriber.waiting, "the rest is anybody's"
    await world.queue.nack(NORMAL, [delivery.ack_id for delivery in free])
    host.opens.set()
    await world.clock.sleep(120)
    assert await waiting(world) == 0, "and it goes on as soon as fewer wait"
    await crew.end()


@pytest.mark.parametrize("opens_at", [30.0, 300.0])
@virtual
async def test_a_halt_while_deliveries_wait(world: World, opens_at: float) -> None:
    """Those that come back meanwhile meet the fault once, and wait for its end like all others; none is lost."""
    host = Host(world)
    await fill(world, Tier.NORMAL, 30)
    crew = Crew(world, host.handle, WorkerLimits(in_flight=4))
    await world.clock.sleep(20)
    assert crew.subscriber.waiting == 30
    host.after = Disposition(Action.HALT, reason="the key is not valid")
    await fill(world, Tier.ECONOMY, 1)
    await world.clock.sleep(opens_at)
    assert crew.reports
    host.opens.set()
    await world.clock.sleep(600)
    tries = Counter(data for _, data in host.done)
    assert len(tries) <= 1 + 4, "no more than have a slot"
    host.after = ACK
    await world.clock.sleep(LIMITS.halt_seconds + 30 / 4 + 60)
    assert await waiting(world) == 0 and await waiting(world, Tier.ECONOMY) == 0
    assert crew.subscriber.waiting == 0 and crew.subscriber.in_hand == 0
    assert len(crew.reports) < 15
    await crew.end()


@virtual
async def test_a_wait_that_fails_is_one_deliverys_own(world: World) -> None:
    """It never should; if it did, the delivery comes again when its lease ends, and no slot is lost."""
    await fill(world, Tier.NORMAL, 10)
    seen: Counter[bytes] = Counter()

    async def broken() -> None:
        await world.clock.sleep(1.0)
        raise RuntimeError("the wait is broken")

    async def handle(delivery: Delivery) -> Disposition:
        seen[delivery.data] += 1
        return Disposition(Action.WAIT, wait=broken) if seen[delivery.data] == 1 else ACK

    crew = Crew(world, handle, WorkerLimits(in_flight=2))
    await world.clock.sleep(120)
    assert set(seen.values()) == {2}
    assert await waiting(world) == 0
    assert crew.subscriber._slots.taken <= 2 and crew.subscriber.waiting == 0
    await crew.end()


@virtual
async def test_a_fault_of_ours_is_told_while_the_worker_stops(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await fill(world, Tier.NORMAL, 5)
    crew = Crew(world, takes(world, 3.0, answer=Disposition(Action.HALT, reason="the key is not valid")), grace=8.0)
    await world.clock.sleep(1.0)
    assert await crew.end() <= 3.0
    told = [record.__dict__.get("fields", {}).get("event") for record in caplog.records]
    assert told.count("configuration_fault") == 1
    assert crew.reports == ["the key is not valid"]
    await world.clock.sleep(13)
    assert len(await world.queue.pull(NORMAL, 10, 0)) == 5
