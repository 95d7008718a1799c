"""The worker's hands on virtual time: free slots, tiers by weight, leases, stopping, halting."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count, pairwise
from typing import Any

import pytest

from shared.errors import ConfigurationError, RuumError
from shared.messages import Task, encode
from shared.model import ImageState, Tier
from shared.ports import Delivery, Message
from shared.settings import WorkerLimits
from shared.topology import DEAD_LETTER_DOOR, topic_of, topology
from shared.worker.disposition import ACK, NACK, Action, Disposition
from shared.worker.subscriber import (
    GIVE_BACK_SECONDS,
    MAX_HALT_SECONDS,
    PULL_FAILED_SECONDS,
    PULL_SECONDS,
    RELEASE_SECONDS,
    Subscriber,
    consume,
)
from tests.parts import Fuse, Stall, World, fused, ticks, unreachable, virtual

LIMITS = WorkerLimits(in_flight=10)
LEASE = LIMITS.lease_seconds
NORMAL = topic_of(Tier.NORMAL)
TIER_WEIGHTS = {Tier.EXPRESS: 6, Tier.NORMAL: 3, Tier.ECONOMY: 1}
Handler = Callable[[Delivery], Awaitable[Disposition]]


class Crew:
    """A subscriber at work, and what was seen of it."""

    def __init__(
        self, world: World, handle: Handler, limits: WorkerLimits = LIMITS, queue: Any = None, grace: float = 5.0
    ) -> None:
        self.world = world
        self.stop = asyncio.Event()
        self.reports: list[str] = []
        self.begun: list[tuple[float, Tier]] = []
        self.inside = 0
        self.max_inside = 0
        self.max_in_hand = 0
        self._handle = handle
        self.subscriber = Subscriber(queue or world.queue, self._watched, world.clock, limits, self.reports.append)
        self.running = asyncio.create_task(self.subscriber.run(self.stop, grace))

    async def _watched(self, delivery: Delivery) -> Disposition:
        self.inside += 1
        self.max_inside = max(self.max_inside, self.inside)
        self.max_in_hand = max(self.max_in_hand, self.subscriber.in_hand)
        self.begun.append((self.world.clock.monotonic(), Tier(delivery.data.decode().partition(" ")[0])))
        try:
            return await self._handle(delivery)
        finally:
            self.inside -= 1

    async def end(self) -> float:
        """Stop it; how long that took."""
        started = self.world.clock.monotonic()
        self.stop.set()
        await self.running
        return self.world.clock.monotonic() - started


async def fill(world: World, tier: Tier = Tier.NORMAL, count: int = 1) -> None:
    messages = [Message(f"{tier.value} {number}".encode()) for number in range(count)]
    await world.queue.publish(topic_of(tier), messages)


def takes(world: World, seconds: float, jitter: float = 0.0, answer: Disposition = ACK) -> Handler:
    """A handler that works so long."""

    async def handle(delivery: Delivery) -> Disposition:
        await world.clock.sleep(seconds + world.clock.random.uniform(0, jitter))
        return answer

    return handle


async def waiting(world: World, tier: Tier = Tier.NORMAL) -> int:
    return await world.queue.waiting(topic_of(tier))


# --- free slots


@pytest.mark.parametrize("in_flight", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("jitter", [0.0, 9.0])
@virtual
async def test_never_more_than_in_flight(world: World, in_flight: int, jitter: float) -> None:
    for tier in Tier:
        await fill(world, tier, 100)
    crew = Crew(world, takes(world, 1.0, jitter), WorkerLimits(in_flight=in_flight))
    await world.clock.sleep(60)
    assert crew.max_inside <= in_flight
    assert crew.max_in_hand <= in_flight
    assert crew.max_inside == in_flight, "and no slot is left idle"
    await crew.end()


@pytest.mark.parametrize("tiers", [(Tier.EXPRESS,), (Tier.NORMAL,), (Tier.ECONOMY,), (Tier.NORMAL, Tier.ECONOMY)])
@virtual
async def test_nothing_is_wasted_when_a_tier_waits_alone(world: World, tiers: tuple[Tier, ...]) -> None:
    """Idle tiers reserve a slot each while they are asked; the others go to those that have work."""
    for tier in tiers:
        await fill(world, tier, 2000)
    crew = Crew(world, takes(world, 10.0, 5.0), WorkerLimits(in_flight=50))
    await world.clock.sleep(200)
    await crew.end()
    done = len([at for at, _ in crew.begun if at <= 200])
    assert done >= 0.9 * 50 * 200 / 12.5


@virtual
async def test_everything_is_handled_once(world: World) -> None:
    for tier in Tier:
        await fill(world, tier, 30)
    crew = Crew(world, takes(world, 1.0, 3.0))
    await world.clock.sleep(120)
    assert len(crew.begun) == 90
    assert [await waiting(world, tier) for tier in Tier] == [0, 0, 0]
    await crew.end()


@virtual
async def test_what_comes_later_is_begun_at_once(world: World) -> None:
    crew = Crew(world, takes(world, 1.0))
    await world.clock.sleep(100)
    for tier in Tier:
        now = world.clock.monotonic()
        await fill(world, tier)
        await world.clock.sleep(PULL_SECONDS)
        assert crew.begun[-1] == (pytest.approx(now, abs=0.1), tier)
    await crew.end()


# --- tiers by weight


def shares(crew: Crew, since: float, until: float) -> dict[Tier, float]:
    seen = Counter(tier for at, tier in crew.begun if since <= at < until)
    return {tier: seen[tier] / seen.total() for tier in Tier}


@pytest.mark.parametrize("in_flight", [10, 50])
@pytest.mark.parametrize("jitter", [0.0, 20.0])
@virtual
async def test_tiers_by_weight(world: World, in_flight: int, jitter: float) -> None:
    """All have a backlog: of what is begun, 6 parts are express, 3 normal, 1 economy."""
    for tier in Tier:
        await fill(world, tier, 1000)
    crew = Crew(world, takes(world, 10.0, jitter), WorkerLimits(in_flight=in_flight))
    await world.clock.sleep(300)
    await crew.end()
    measured = shares(crew, 60, 300)
    weight = sum(TIER_WEIGHTS.values())
    for tier in Tier:
        assert measured[tier] == pytest.approx(TIER_WEIGHTS[tier] / weight, abs=0.05), measured


@pytest.mark.parametrize("idle", Tier)
@virtual
async def test_two_tiers_by_weight(world: World, idle: Tier) -> None:
    busy = [tier for tier in Tier if tier is not idle]
    for tier in busy:
        await fill(world, tier, 800)
    crew = Crew(world, takes(world, 10.0, 20.0), WorkerLimits(in_flight=30))
    await world.clock.sleep(300)
    await crew.end()
    measured = shares(crew, 60, 300)
    weight = sum(TIER_WEIGHTS[tier] for tier in busy)
    for tier in busy:
        assert measured[tier] == pytest.approx(TIER_WEIGHTS[tier] / weight, abs=0.08), measured


@virtual
async def test_no_tier_starves(world: World) -> None:
    """However much express has to do: what is normal or economy goes on."""
    await fill(world, Tier.EXPRESS, 800)
    await fill(world, Tier.NORMAL, 20)
    await fill(world, Tier.ECONOMY, 5)
    crew = Crew(world, takes(world, 10.0, 20.0), WorkerLimits(in_flight=20))
    await world.clock.sleep(300)
    await crew.end()
    seen = Counter(tier for at, tier in crew.begun if at <= 300)
    assert (seen[Tier.NORMAL], seen[Tier.ECONOMY]) == (20, 5)


# --- leases


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


# --- trouble


@virtual
async def test_a_failing_pull_is_survived(world: World) -> None:
    fuse = Fuse(error=unreachable)
    crew = Crew(world, takes(world, 1.0), queue=fused(world.parts, fuse).queue)
    await world.clock.sleep(10)
    fuse.away = True
    await world.clock.sleep(300)
    fuse.away = False
    now = world.clock.monotonic()
    for tier in Tier:
        await fill(world, tier, 3)
    await world.clock.sleep(PULL_FAILED_SECONDS + PULL_SECONDS + 1)
    assert len(crew.begun) == 9
    assert min(at for at, _ in crew.begun) <= now + PULL_FAILED_SECONDS
    await crew.end()


@virtual
async def test_a_failing_pull_is_not_repeated_at_once(world: World) -> None:
    fuse = Fuse(error=unreachable)
    queue = fused(world.parts, fuse).queue
    pulls: list[float] = []

    async def pull(*arguments: Any) -> list[Delivery]:
        pulls.append(world.clock.monotonic())
        raise unreachable()

    queue.pull = pull
    crew = Crew(world, takes(world, 1.0), queue=queue)
    await world.clock.sleep(60)
    assert len(pulls) <= 3 * (60 / PULL_FAILED_SECONDS + 1)
    await crew.end()


@virtual
async def test_one_tier_that_cannot_be_pulled_does_not_hold_up_the_others(world: World) -> None:
    queue = fused(world.parts, Fuse()).queue
    found = queue.pull

    async def pull(subscription: str, most: int, wait_seconds: float) -> list[Delivery]:
        if subscription == topic_of(Tier.EXPRESS):
            raise unreachable()
        deliveries: list[Delivery] = await found(subscription, most, wait_seconds)
        return deliveries

    queue.pull = pull
    await fill(world, Tier.NORMAL, 50)
    crew = Crew(world, takes(world, 1.0), queue=queue)
    await world.clock.sleep(20)
    assert len(crew.begun) == 50
    await crew.end()


@virtual
async def test_halting(world: World) -> None:
    """Our configuration's fault: one report, no pull for a while; then one delivery tries for all."""
    await fill(world, count=100)
    fault = True

    async def handle(delivery: Delivery) -> Disposition:
        await world.clock.sleep(1.0)
        return Disposition(Action.HALT, reason="the key is not valid") if fault else ACK

    crew = Crew(world, handle)
    await world.clock.sleep(1.5 + LIMITS.halt_seconds - 1)
    assert crew.reports == ["the key is not valid"]
    assert crew.subscriber.halted == "the key is not valid"
    assert max(at for at, _ in crew.begun) <= 1.0, "nothing is pulled while halted"
    first = len(crew.begun)
    await world.clock.sleep(PULL_SECONDS + 1)
    assert [at for at, _ in crew.begun[first:]] == [pytest.approx(1.0 + LIMITS.halt_seconds, abs=0.1)]
    assert len(crew.reports) == 2, "once per pause"
    assert crew.subscriber.halted == "the key is not valid", "also while one delivery tries"
    fault = False
    await world.clock.sleep(600)
    assert await waiting(world) == 0, "nothing of it is lost"
    assert len(crew.reports) == 2
    assert not crew.subscriber.halted
    await crew.end()


@pytest.mark.parametrize(
    ("disposition", "max_tries"),
    [
        (Disposition(Action.HALT, reason="the key is not valid"), 15 * 60 + 10),
        (Disposition(Action.HALT, seconds=15 * 3600.0, reason="the day is spent", fault=False), 15 * 6 + 10),
    ],
    ids=["our own fault", "a spent day"],
)
@virtual
async def test_a_halt_of_many_hours_spends_no_delivery(world: World, disposition: Disposition, max_tries: int) -> None:
    """A healthy image must not be dead-lettered for what it has waited for."""
    await fill(world, count=30)
    attempts: list[int] = []
    over = world.clock.monotonic() + 15 * 3600

    async def handle(delivery: Delivery) -> Disposition:
        attempts.append(delivery.attempt)
        await world.clock.sleep(1.0)
        return disposition if world.clock.monotonic() < over else ACK

    crew = Crew(world, handle)
    await world.clock.sleep(15 * 3600)
    assert len(attempts) <= max_tries, "photos are not fetched again and again meanwhile"
    await world.clock.sleep(MAX_HALT_SECONDS + 60)
    assert await waiting(world) == 0
    assert set(attempts) == {1}, "every task is staged on its first delivery"
    assert await world.drain(DEAD_LETTER_DOOR) == []
    await crew.end()


@virtual
async def test_while_one_tries_for_all_nothing_turns(world: World) -> None:
    """A trial may take a minute; idle tiers are not asked meanwhile, and the loop has nothing to look at."""
    await fill(world, count=3)
    calls, turns = 0, 0

    async def handle(delivery: Delivery) -> Disposition:
        nonlocal calls
        calls += 1
        await world.clock.sleep(1.0 if calls <= 3 else 500.0)
        return Disposition(Action.HALT, reason="x") if calls <= 3 else ACK

    crew = Crew(world, handle)
    start_pulls = crew.subscriber._start_pulls

    def counted() -> None:
        nonlocal turns
        turns += 1
        start_pulls()

    crew.subscriber._start_pulls = counted  # type: ignore[method-assign]
    await world.clock.sleep(LIMITS.halt_seconds + 10)
    before = turns
    await world.clock.sleep(400)
    assert calls == 4
    assert turns - before <= 2
    await crew.end()


@virtual
async def test_who_tried_for_all_may_be_cancelled_or_fail(world: World) -> None:
    """The next one tries then: a halt is never for ever."""
    await fill(world, count=10)
    calls = 0

    async def handle(delivery: Delivery) -> Disposition:
        nonlocal calls
        calls += 1
        await world.clock.sleep(1.0)
        if calls == 11:
            raise RuntimeError("handle never raises; if it did")
        return Disposition(Action.HALT, reason="x") if calls <= 10 else ACK

    crew = Crew(world, handle)
    await world.clock.sleep(600)
    assert await waiting(world) == 0
    await crew.end()


@virtual
async def test_a_pull_that_is_not_allowed_is_a_fault_of_ours(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A missing right, or a missing subscription: told as loudly as any other fault of our configuration."""
    forbidden = True

    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.queue, name)

        async def pull(self, *given: Any) -> Any:
            if forbidden:
                raise ConfigurationError("the worker may not pull")
            return await world.queue.pull(*given)

    await fill(world, count=5)
    crew = Crew(world, takes(world, 1.0), queue=Forbidden())
    await world.clock.sleep(90)
    assert 1 <= len(crew.reports) <= 2, "once per pause, not once per tier and pull"
    assert "may not pull" in crew.reports[0]
    told = [record.__dict__.get("fields", {}).get("event") for record in caplog.records]
    assert "configuration_fault" in told
    forbidden = False
    await world.clock.sleep(120)
    assert await waiting(world) == 0
    await crew.end()


@pytest.mark.parametrize("error", [unreachable(), ConfigurationError("no right")], ids=["away", "forbidden"])
@virtual
async def test_a_pull_that_failed_has_seen_no_empty_tier(world: World, error: RuumError) -> None:
    """Reconcile publishes again what waits in a tier that was seen empty."""

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.queue, name)

        async def pull(self, *given: Any) -> Any:
            raise error

    empty: list[Tier] = []
    stop = asyncio.Event()
    subscriber = Subscriber(Away(), takes(world, 1.0), world.clock, LIMITS, on_empty=empty.append)  # type: ignore[arg-type]
    running = asyncio.create_task(subscriber.run(stop, 5.0))
    await world.clock.sleep(600)
    stop.set()
    await running
    assert empty == []


@virtual
async def test_a_busy_tier_whose_answers_come_late_now_and_then_is_not_seen_empty(world: World) -> None:
    """Each 29th pull finds nothing although much waits: in a day that would be two looks, and all would come twice."""
    await fill(world, Tier.NORMAL, 400)
    pulls = count(1)

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.queue, name)

        async def pull(self, subscription: str, most: int, wait_seconds: float) -> Any:
            if subscription == NORMAL and next(pulls) % 29 == 0:
                await world.clock.sleep(wait_seconds)
                return []
            return await world.queue.pull(subscription, most, wait_seconds)

    empty: list[tuple[Tier, int]] = []
    stop = asyncio.Event()
    subscriber = Subscriber(
        Late(), takes(world, 10.0), world.clock, LIMITS,  # type: ignore[arg-type]
        on_empty=lambda tier: empty.append((tier, left[0])),
    )  # fmt: skip
    left = [400]
    running = asyncio.create_task(subscriber.run(stop, 5.0))
    for _ in range(200):
        await world.clock.sleep(10)
        left[0] = await waiting(world)
    assert next(pulls) > 29 * 3, "it was late several times"
    assert {left for tier, left in empty if tier is Tier.NORMAL} == {0}
    assert any(left for tier, left in empty if tier is not Tier.NORMAL), "the idle tiers were seen empty meanwhile"
    stop.set()
    await running


@pytest.mark.parametrize("fault", [True, False])
@virtual
async def test_only_a_fault_of_ours_alerts(world: World, fault: bool, caplog: pytest.LogCaptureFixture) -> None:
    await fill(world)
    crew = Crew(world, takes(world, 1.0, answer=Disposition(Action.HALT, reason="because", fault=fault)))
    await world.clock.sleep(5)
    await crew.end()
    told = [record.__dict__.get("fields", {}).get("event") for record in caplog.records]
    assert ("configuration_fault" in told) is fault
    assert "because" in caplog.text or fault


@virtual
async def test_halting_does_not_wait_for_long_work(world: World) -> None:
    """Jobs that end one by one while halted, each with a HALT of its own: still one report, and the pause grows."""
    await fill(world, count=100)
    ends = iter(range(10, 110, 5))

    async def handle(delivery: Delivery) -> Disposition:
        await world.clock.sleep(next(ends))
        return Disposition(Action.HALT, reason="x")

    crew = Crew(world, handle)
    await world.clock.sleep(60)
    assert max(at for at, _ in crew.begun) <= 10.0
    assert crew.reports == ["x"]
    await crew.end()


@virtual
async def test_stopping_while_halted(world: World) -> None:
    """What waits for the halt's end has nothing to finish: it is given back at once, and comes to the next worker."""
    await fill(world, count=20)
    crew = Crew(world, takes(world, 1.0, answer=Disposition(Action.HALT, reason="x")))
    await world.clock.sleep(5)
    assert await crew.end() <= 0.1
    assert crew.subscriber.in_hand == 0
    second = Crew(world, takes(world, 1.0))
    await world.clock.sleep(60)
    assert await waiting(world) == 0
    await second.end()


# --- stopping


@virtual
async def test_stopping_with_nothing_to_do(world: World) -> None:
    crew = Crew(world, takes(world, 1.0), grace=8.0)
    await world.clock.sleep(100.5)
    assert await crew.end() <= PULL_SECONDS


@virtual
async def test_what_ends_within_the_grace_is_finished(world: World) -> None:
    await fill(world, count=10)
    crew = Crew(world, takes(world, 10.0), WorkerLimits(in_flight=20), grace=8.0)
    await world.clock.sleep(5)
    await crew.end()
    assert await waiting(world) == 0
    assert len(crew.begun) == 10


@virtual
async def test_stopping_takes_no_longer_than_the_grace(world: World) -> None:
    """Cloud Run kills ten seconds after it has asked: the pulls under way are part of the grace."""
    await fill(world, count=5)
    crew = Crew(world, takes(world, 1000.0), grace=8.0)
    await world.clock.sleep(100.5)
    assert await crew.end() <= 8.1
    assert crew.subscriber.in_hand == 0


@virtual
async def test_stopping_while_pulls_fail(world: World) -> None:
    fuse = Fuse(error=unreachable)
    crew = Crew(world, takes(world, 1.0), queue=fused(world.parts, fuse).queue, grace=3.0)
    await world.clock.sleep(10)
    fuse.away = True
    await world.clock.sleep(PULL_SECONDS + 0.1)
    assert await crew.end() <= 3.1


@virtual
async def test_stopping_while_a_pull_hangs(world: World) -> None:
    """A queue that never answers must not keep the worker from giving back what it has in hand."""
    await fill(world)
    queue = fused(world.parts, Fuse()).queue
    found = queue.pull

    async def pull(subscription: str, most: int, wait_seconds: float) -> list[Delivery]:
        if subscription != NORMAL:
            await world.clock.sleep(100_000)
        deliveries: list[Delivery] = await found(subscription, most, wait_seconds)
        return deliveries

    queue.pull = pull
    crew = Crew(world, takes(world, 1000.0), queue=queue, grace=8.0)
    await world.clock.sleep(10)
    assert await crew.end() <= 8.1


@pytest.mark.parametrize("hangs", ["release", "nack"])
@virtual
async def test_stopping_while_the_database_or_the_queue_hangs(world: World, hangs: str) -> None:
    """Cloud Run kills 10 s after SIGTERM, whoever does not answer: what is not said runs out by itself."""
    await fill(world, count=30)
    queue = fused(world.parts, Fuse()).queue

    async def handle(delivery: Delivery) -> Disposition:
        try:
            await world.clock.sleep(1000)
        finally:
            await world.clock.sleep(100 if hangs == "release" else 0)  # a claim's release, by a database that hangs
        return ACK

    async def nack(subscription: str, ack_ids: list[str]) -> None:
        await world.clock.sleep(100)

    if hangs == "nack":
        queue.nack = nack
    crew = Crew(world, handle, queue=queue, grace=5.0)
    await world.clock.sleep(10)
    assert await crew.end() <= 5.0 + RELEASE_SECONDS + GIVE_BACK_SECONDS + 0.1
    if hangs == "release":
        await world.clock.sleep(13)
        assert len(await world.queue.pull(NORMAL, 100, 0)) == 30, "given back all the same"


@virtual
async def test_what_is_left_is_given_back(world: World) -> None:
    await fill(world, count=30)
    crew = Crew(world, takes(world, 1000.0), grace=5.0)
    await world.clock.sleep(30)
    await crew.end()
    assert crew.inside == 0
    assert await waiting(world) == 30
    await world.clock.sleep(13)
    again = await world.queue.pull(NORMAL, 100, 0)
    assert len(again) == 30, "after the backoff, not after the lease"


@virtual
async def test_what_is_pulled_after_the_stop_is_given_back(world: World) -> None:
    crew = Crew(world, takes(world, 1.0))
    await world.clock.sleep(1)
    crew.stop.set()
    await ticks()
    await fill(world, count=3)
    await crew.running
    assert crew.begun == []
    await world.clock.sleep(13)
    assert len(await world.queue.pull(NORMAL, 10, 0)) == 3


@virtual
async def test_a_worker_that_stops_spends_no_attempts(world: World) -> None:
    """The real room: everything in hand is released, queued again, its attempts and crashes as before."""
    await world.batch(20)
    hand = await world.worker()
    tasks = [encode(Task(batch="acme.b1", index=index, round=1, tier=Tier.NORMAL)) for index in range(20)]
    await world.published(NORMAL, *tasks)
    for step in ("fetch", "analyse", "generate", "verify"):
        world.fakes.will(step, *[lambda: world.clock.sleep(30.0)] * 100)
    stop = asyncio.Event()
    subscriber = Subscriber(world.queue, hand.handle, world.clock, LIMITS)
    running = asyncio.create_task(subscriber.run(stop, 5.0))
    await world.clock.sleep(135)
    stop.set()
    await running
    await hand.heartbeat.stop()
    images = [image async for image in world.store.images("acme.b1")]
    assert {image.state for image in images} <= {ImageState.QUEUED, ImageState.COMPLETED}
    assert sum(image.state is ImageState.COMPLETED for image in images) == 10
    assert {(image.attempts, image.crashes) for image in images} == {(0, 0)}
    assert sum(image.fence for image in images) == 20
    # The next worker goes on.
    world.fakes.source.script.clear()
    world.fakes.model.script.clear()
    crew = Subscriber(world.queue, (await world.worker()).handle, world.clock, LIMITS)
    stop = asyncio.Event()
    running = asyncio.create_task(crew.run(stop, 5.0))
    await world.clock.sleep(30)
    stop.set()
    await running
    states = [image.state async for image in world.store.images("acme.b1")]
    assert states == [ImageState.COMPLETED] * 20


@virtual
async def test_held_by_another_worker_is_let_go_of(world: World) -> None:
    """Neither ack nor nack: extended by `held_seconds`, and again on the next delivery, as long as it is held."""
    await world.batch()
    other = await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    task = await world.task()
    work = other.begin(task)
    await stall.reached.wait()
    await world.published(NORMAL, task.data)
    calls: list[tuple[float, str]] = []
    queue = fused(world.parts, Fuse()).queue
    for method in ("ack", "nack", "extend"):

        async def noted(
            *arguments: Any, method: str = method, real: Any = getattr(world.queue, method), **options: Any
        ) -> Any:
            calls.append((world.clock.monotonic(), method))
            return await real(*arguments, **options)

        setattr(queue, method, noted)
    stop = asyncio.Event()
    running = asyncio.create_task(Subscriber(queue, (await world.worker()).handle, world.clock, LIMITS).run(stop, 1.0))
    await world.clock.sleep(100)
    assert {method for _, method in calls} == {"extend"}
    assert 3 <= len(calls) <= 10
    gaps = [after - before for (before, _), (after, _) in pairwise(calls)]
    assert gaps[0] == pytest.approx(LIMITS.held_seconds, abs=0.1)
    assert gaps == sorted(gaps)
    stall.go_on.set()
    assert (await work).action is Action.ACK
    await world.clock.sleep(gaps[-1] * 3)
    assert calls[-1][1] == "ack"
    stop.set()
    await running


@virtual
async def test_a_worker_that_lost_its_claim_neither_acks_nor_nacks_when_it_stops(world: World) -> None:
    await world.batch()
    hand = await world.worker()
    stall = Stall()
    world.fakes.will("generate", stall)
    await world.published(NORMAL, (await world.task()).data)
    answered: list[str] = []
    queue = fused(world.parts, Fuse()).queue
    for method in ("ack", "nack"):

        async def noted(*arguments: Any, method: str = method, real: Any = getattr(world.queue, method)) -> Any:
            answered.append(method)
            return await real(*arguments)

        setattr(queue, method, noted)
    stop = asyncio.Event()
    running = asyncio.create_task(Subscriber(queue, hand.handle, world.clock, LIMITS).run(stop, 1.0))
    await stall.reached.wait()
    await world.change_image(fence=2)
    stop.set()
    await running
    assert answered == []


# --- the stand-in for Eventarc


@virtual
async def test_consume(world: World) -> None:
    seen: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        seen.append(delivery.data)
        if delivery.data == b"normal 1" and seen.count(b"normal 1") < 3:
            raise ValueError("not now")

    await fill(world, count=3)
    consuming = asyncio.create_task(consume(world.queue, NORMAL, handle, max_messages=2, clock=world.clock))
    await world.clock.sleep(100)
    assert Counter(seen) == {b"normal 0": 1, b"normal 1": 3, b"normal 2": 1}
    assert await waiting(world) == 0
    consuming.cancel()
    await asyncio.wait([consuming])


@pytest.mark.parametrize("method", ["pull", "ack", "nack"])
@virtual
async def test_consume_survives_a_queue_that_is_away_for_a_moment(world: World, method: str) -> None:
    """`ruum-batch run` has one consumer per feed and nobody who starts it again."""
    fails = method == "nack"

    async def handle(delivery: Delivery) -> None:
        nonlocal fails
        if fails:
            fails = False
            raise ValueError("not now")

    await fill(world, count=3)
    queue = fused(world.parts, Fuse(1, on=method, error=unreachable)).queue
    consuming = asyncio.create_task(consume(queue, NORMAL, handle, max_messages=10, clock=world.clock))
    await world.clock.sleep(200)
    assert not consuming.done()
    assert await waiting(world) == 0
    consuming.cancel()
    await asyncio.wait([consuming])


@virtual
async def test_the_queue_gives_up_what_nobody_answers(world: World) -> None:
    """Ten deliveries without an answer: the dead-letter topic has it, and no worker is given it again."""
    await fill(world)
    crew = Crew(world, takes(world, 0.1, answer=Disposition(Action.LET_GO)))
    await world.clock.sleep(LEASE * 12)
    assert len(crew.begun) == 10
    assert len(await world.queue.pull(DEAD_LETTER_DOOR, 10, 0)) == 1
    await crew.end()
    await ticks()


# --- deliveries that wait without a slot


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
