"""The worker's hands in trouble: a queue that fails or is slow, a handler that breaks."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from shared.errors import ConfigurationError, RuumError
from shared.model import Tier
from shared.ports import Delivery
from shared.topology import DEAD_LETTER_DOOR, topic_of
from shared.worker.disposition import ACK, Action, Disposition
from shared.worker.subscriber import MAX_HALT_SECONDS, PULL_FAILED_SECONDS, PULL_SECONDS, Subscriber
from tests.harness.faults import Fuse, fused, unreachable
from tests.harness.world import World, virtual
from tests.worker.subscriber.parts import LIMITS, NORMAL, Crew, fill, takes, waiting


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
