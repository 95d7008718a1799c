"""Waiting for quota takes as long as the quota makes it, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from shared.decisions.quota import Circuit, Ledger
from shared.model import Refusal, Tier
from shared.settings import Limit
from shared.worker.quota import SharedQuota
from tests.harness.world import World, virtual

MODEL = "image-model"


@virtual
async def test_who_comes_while_the_ledger_is_asked_waits_no_longer(world: World) -> None:
    """The ask under way is not for it, and is granted whole: it must be asked for at once, and not five seconds later."""

    class SlowStore:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def change_record(self, *given: Any) -> Any:
            await world.clock.sleep(0.05)
            return await world.store.change_record(*given)

    quota = SharedQuota(SlowStore(), world.clock, {MODEL: Limit(per_minute=600)}, "worker-1")  # type: ignore[arg-type]
    waited: list[float] = []

    async def caller(after: float) -> None:
        await world.clock.sleep(after)
        started = world.clock.monotonic()
        grant = await quota.reserve(MODEL, Tier.NORMAL)
        waited.append(world.clock.monotonic() - started)
        await quota.succeeded(MODEL, grant)

    await asyncio.gather(*(caller(number * 0.02) for number in range(100)))
    quota.close()
    assert len(waited) == 100
    assert max(waited) < 0.2, f"100 calls of 600 a minute waited up to {max(waited):.2f} s"


@pytest.mark.parametrize("limit", [Limit(per_minute=600, concurrent=1), Limit(concurrent=1)])
@virtual
async def test_who_gives_up_before_its_call_may_start_leaves_its_slot(world: World, limit: Limit) -> None:
    """A slot that is granted ahead and never used would be missing until its lease ends, three minutes later."""
    until = world.clock.now() + 4.0
    held = Ledger(id=MODEL, not_before=until)
    await world.store.change_record(Ledger, MODEL, lambda known, now: held, world.clock.token())
    quota = SharedQuota(world.store, world.clock, {MODEL: limit}, "worker-1")
    first = asyncio.create_task(quota.reserve(MODEL, Tier.NORMAL))
    await world.clock.sleep(1)
    ledger = await world.store.record(Ledger, MODEL)
    assert ledger is not None
    assert len(ledger.slots) == 1, "granted ahead"
    first.cancel()
    await asyncio.wait([first])
    started = world.clock.monotonic()
    await quota.reserve(MODEL, Tier.NORMAL)
    assert world.clock.monotonic() - started < 6
    quota.close()


def lonely(world: World, per_minute: int = 600, worker: str = "worker-1") -> SharedQuota:
    return SharedQuota(world.store, world.clock, {MODEL: Limit(per_minute=per_minute)}, worker)


async def circuit(world: World) -> Circuit:
    ledger = await world.store.record(Ledger, MODEL)
    assert ledger is not None
    return ledger.circuit


@pytest.mark.parametrize("every", [2, 3, 10])
@virtual
async def test_failures_with_answers_between_them_open_no_circuit(world: World, every: int) -> None:
    """Answers ride on later reservations, and nobody asks for one: a failure tells of those before it."""
    quota = lonely(world)
    grants = await asyncio.gather(*(quota.reserve(MODEL, Tier.NORMAL) for _ in range(100)))
    failing: list[asyncio.Task[bool]] = []
    for number, grant in enumerate(grants):
        await world.clock.sleep(0.1)
        if number % every == every - 1:
            failing.append(asyncio.create_task(quota.failed(MODEL, grant)))
        else:
            await quota.succeeded(MODEL, grant)
    await world.clock.sleep(0.1)
    await quota.succeeded(MODEL, grants[0])
    assert not any(await asyncio.gather(*failing))
    assert await circuit(world) is Circuit.CLOSED
    quota.close()


@virtual
async def test_an_answer_from_before_wipes_no_later_failures(world: World) -> None:
    quota, other = lonely(world), lonely(world, worker="worker-2")
    grants = [await quota.reserve(MODEL, Tier.NORMAL) for _ in range(3)]
    others = [await other.reserve(MODEL, Tier.NORMAL) for _ in range(3)]
    await quota.succeeded(MODEL, grants[0])  # not told yet: nobody waits
    failing = [asyncio.create_task(quota.failed(MODEL, grant)) for grant in grants[1:]]
    await world.clock.sleep(1)
    await quota.reserve(MODEL, Tier.NORMAL)
    failing += [asyncio.create_task(other.failed(MODEL, grant)) for grant in others]
    assert await asyncio.gather(*failing) == [True] * 5
    assert await circuit(world) is Circuit.OPEN
    quota.close()
    other.close()


@virtual
async def test_time_outs_of_an_outage_that_is_over_open_nothing(world: World) -> None:
    """Nine calls hang, five time out and open the circuit, the probe closes it: then the others time out."""
    quota = lonely(world)
    grants = [await quota.reserve(MODEL, Tier.NORMAL) for _ in range(9)]
    assert await asyncio.gather(*(quota.failed(MODEL, grant) for grant in grants[:5])) == [True] * 5
    probe = await quota.reserve(MODEL, Tier.NORMAL)
    assert probe.probe
    await quota.succeeded(MODEL, probe)
    assert await circuit(world) is Circuit.CLOSED
    assert await asyncio.gather(*(quota.failed(MODEL, grant) for grant in grants[5:])) == [True] * 4
    assert await circuit(world) is Circuit.CLOSED
    fresh, answered = await quota.reserve(MODEL, Tier.NORMAL), await quota.reserve(MODEL, Tier.NORMAL)
    failing = asyncio.create_task(quota.failed(MODEL, fresh))
    await world.clock.sleep(1)
    await quota.succeeded(MODEL, answered)
    assert not await failing, "one failure among answers is one failure"
    quota.close()


@virtual
async def test_a_429_calls_back_what_was_granted_ahead(world: World) -> None:
    """It would start in the pause that the vendor asked for, and only be refused."""
    quota = lonely(world, per_minute=3)
    first = [await quota.reserve(MODEL, Tier.NORMAL) for _ in range(3)]
    await world.clock.sleep(57)
    ahead = [asyncio.create_task(quota.reserve(MODEL, Tier.NORMAL)) for _ in range(3)]
    await world.clock.sleep(1)
    ledger = await world.store.record(Ledger, MODEL)
    assert ledger is not None
    assert sum(count for _, count in ledger.grants) == 6, "granted, three seconds ahead"
    ahead[2].cancel()
    await quota.throttled(MODEL, first[0], 20.0)
    paused_until = world.clock.now() + 21.0
    done, _ = await asyncio.wait(ahead[:2], return_when=asyncio.FIRST_COMPLETED)
    assert world.clock.now() >= paused_until
    assert {grant.result().epoch for grant in done} == {1}
    await asyncio.wait(ahead[:2])
    after = await quota.reserve(MODEL, Tier.NORMAL)
    assert after.epoch == 1, "and nobody is left waiting who has given up"
    quota.close()


async def begun(world: World, quota: SharedQuota, stalls: Callable[[], float] = lambda: 0.0) -> float:
    """When a call begins, as CLAIMED does it: who comes too late hands its right back and asks again."""
    while True:
        grant = await quota.reserve(MODEL, Tier.NORMAL)
        await world.clock.sleep(stalls())
        if world.clock.monotonic() <= grant.begin_by:
            await quota.succeeded(MODEL, grant)
            return world.clock.monotonic()
        quota.unused(MODEL, grant)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("where", ["before the reading", "after the reading", "after the decision", "before the call"])
@virtual
async def test_no_call_begins_in_the_next_window_wherever_time_is_lost(world: World, where: str, seed: int) -> None:
    """A slow database, or a worker that stood still: each place by itself, up to four seconds one time in three."""
    random = Random(seed)
    per_minute = 40

    def lost(place: str) -> float:
        return random.uniform(0.5, 4.0) if place == where and random.random() < 1 / 3 else 0.0

    class StallingStore:
        async def change_record(self, kind: type, key: str, decide: Callable[[Any, float], Any], token: str) -> Any:
            await world.clock.sleep(lost("before the reading"))
            while True:
                known, read_at = await world.store.record(Ledger, MODEL), world.clock.now()
                await world.clock.sleep(lost("after the reading"))
                after = decide(known, read_at)
                if isinstance(after, Refusal):
                    return after
                if known == await world.store.record(Ledger, MODEL):
                    await world.store.change_record(kind, key, lambda _known, _now: after, token)
                    await world.clock.sleep(lost("after the decision"))
                    return after

    limits = {MODEL: Limit(per_minute=per_minute)}
    workers = [SharedQuota(StallingStore(), world.clock, limits, f"worker-{n}") for n in range(2)]  # type: ignore[arg-type]
    calls = [begun(world, worker, lambda: lost("before the call")) for _ in range(80) for worker in workers]
    times = sorted(await asyncio.gather(*calls))
    for worker in workers:
        worker.close()
    busiest = max(sum(at <= other < at + 60 for other in times) for at in times)
    assert busiest <= per_minute


@pytest.mark.parametrize("reply_seconds", [0.05, 0.4, 0.6, 1.0, 2.0])
@virtual
async def test_a_slow_database_loses_no_rights(world: World, reply_seconds: float) -> None:
    """Replies that take longer than a right lasts: the first are lost, and then rights begin when the reply is there."""

    class SlowStore:
        async def change_record(self, kind: type, key: str, decide: Callable[[Any, float], Any], token: str) -> Any:
            changed = await world.store.change_record(kind, key, decide, token)
            await world.clock.sleep(reply_seconds)
            return changed

    quota = SharedQuota(SlowStore(), world.clock, {MODEL: Limit(per_minute=600)}, "worker-1")  # type: ignore[arg-type]
    started = world.clock.monotonic()
    for _ in range(20):
        await asyncio.gather(*(begun(world, quota) for _ in range(10)))
    quota.close()
    ledger = await world.store.record(Ledger, MODEL)
    assert ledger is not None
    lost = sum(count for _, count in ledger.grants) - 200
    assert lost <= 10, f"{lost} of 200 rights were granted and not used"
    assert world.clock.monotonic() - started <= 21 * (reply_seconds + 0.1)
