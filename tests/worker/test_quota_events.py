"""`quota.changed`: one event for every change of circuit, epoch, slow mode or spent day, whoever shares the ledger."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from shared import decisions
from shared.assembly import wiring
from shared.decisions.quota import Circuit, Grant, Ledger
from shared.errors import ConfigurationError, DailyQuotaSpent, ErrorCode, WorldError
from shared.model import Refusal, Tier
from shared.settings import Limit
from shared.topology import EVENTS_TOPIC
from shared.worker.quota import QuotaEvents, SharedQuota
from tests.clocks import EPOCH
from tests.harness.world import World, ticks, virtual

MODEL = "image-model"
KIND = "ruum.quota.changed"


class Store:
    """The store with the changes of ledgers written down: what the events are held against.

    `stale` lets every decision run first on the ledger as it was before, as a lost compare-and-set does; `repeat` sends
    each change twice under one token, as an adapter does whose reply was lost.
    """

    def __init__(self, store: Any, *, stale: bool = False, repeat: bool = False) -> None:
        self._store = store
        self._stale = stale
        self._repeat = repeat
        self._earlier: Ledger | None = None
        self.changes: list[tuple[Ledger, Ledger]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def change_record(self, kind: Any, key: str, decide: Any, token: str) -> Any:
        before = await self._store.record(kind, key) or Ledger(id=key)
        if self._stale:
            decide(self._earlier, EPOCH)
        written = await self._store.change_record(kind, key, decide, token)
        if self._repeat:
            written = await self._store.change_record(kind, key, decide, token)
        if not isinstance(written, Refusal):
            self._earlier = before
            self.changes.append((before, written))
        return written

    def worth_telling(self) -> list[str]:
        """The tokens of the writes that changed circuit, epoch, rate, spent day or limit."""

        def told(ledger: Ledger) -> tuple[Any, ...]:
            return ledger.circuit, ledger.epoch, ledger.rate, ledger.day_spent_until, ledger.limit

        return [after.token for before, after in self.changes if told(before) != told(after)]


class Fleet:
    """Several workers on one ledger, each telling of its own changes."""

    def __init__(self, world: World, *, limit: Limit | None = None, workers: int = 3, **store: bool) -> None:
        self.world = world
        self.store = Store(world.store, **store)
        limits = {MODEL: limit or Limit(per_minute=60)}
        self.events = QuotaEvents(world.queue, world.clock, limits)
        self.workers = [
            SharedQuota(self.store, world.clock, limits, f"w{number}", self.events.tell) for number in range(workers)
        ]

    def __getitem__(self, number: int) -> SharedQuota:
        return self.workers[number]

    async def out(self) -> None:
        """Workers tell in tasks of their own: let those that were begun end, and let no time pass but theirs."""
        while telling := [task for worker in self.workers for task in worker._telling]:
            await asyncio.gather(*telling)

    async def told(self) -> list[dict[str, Any]]:
        """The events since the last look, with those that were on their way."""
        await self.out()
        return [event for event in await self.world.events() if event["ce-type"] == KIND]

    async def ledger(self) -> Ledger:
        found = await self.world.store.record(Ledger, MODEL)
        assert found is not None
        return found

    async def close(self) -> None:
        for worker in self.workers:
            worker.close()
        await ticks(3)


async def reserve(worker: SharedQuota, tier: Tier = Tier.NORMAL) -> Grant:
    return await worker.reserve(MODEL, tier)


async def open_circuit(fleet: Fleet) -> None:
    grants = [await reserve(fleet[number % len(fleet.workers)]) for number in range(decisions.quota.FAILURES_TO_OPEN)]
    failing = (fleet[number % len(fleet.workers)].failed(MODEL, grant) for number, grant in enumerate(grants))
    assert await asyncio.gather(*failing) == [True] * len(grants), "all of them are part of the outage"


# --- what is told


@virtual
async def test_ordinary_work_tells_nothing(world: World) -> None:
    fleet = Fleet(world)
    for _ in range(10):
        grant = await reserve(fleet[0])
        await fleet[0].succeeded(MODEL, grant)
    grant = await reserve(fleet[1])
    await fleet[1].failed(MODEL, grant)  # one failure is chance
    assert len(fleet.store.changes) >= 10
    assert await fleet.told() == []


@virtual
async def test_a_circuits_life_is_three_events(world: World) -> None:
    fleet = Fleet(world)
    await open_circuit(fleet)
    (opened,) = await fleet.told()
    assert (opened["data"]["circuitBefore"], opened["data"]["circuit"]) == ("closed", "open")
    probe = await reserve(fleet[1])
    assert probe.probe
    (probing,) = await fleet.told()
    assert (probing["data"]["circuitBefore"], probing["data"]["circuit"]) == ("open", "half_open")
    await fleet[1].succeeded(MODEL, probe)
    (closed,) = await fleet.told()
    assert (closed["data"]["circuitBefore"], closed["data"]["circuit"]) == ("half_open", "closed")
    await reserve(fleet[2])
    assert await fleet.told() == []


@virtual
async def test_a_failing_probe_is_told(world: World) -> None:
    fleet = Fleet(world)
    await open_circuit(fleet)
    probe = await reserve(fleet[0])
    await fleet.told()
    assert await fleet[0].failed(MODEL, probe)
    (event,) = await fleet.told()
    assert (event["data"]["circuitBefore"], event["data"]["circuit"]) == ("half_open", "open")


@virtual
async def test_what_an_event_looks_like(world: World) -> None:
    fleet = Fleet(world)
    grant = await reserve(fleet[0])
    await fleet[0].throttled(MODEL, grant, 5.0)
    (event,) = await fleet.told()
    token = (await fleet.ledger()).token
    assert (event["ce-id"], event["ce-subject"]) == (f"quota/{MODEL}/{token}", MODEL)
    assert event["ce-time"].startswith("2026-03-02T09:00:0")
    assert event["client"] == "~operators"  # no customer's subscription takes it
    assert event["data"] == {
        "model": MODEL, "circuit": "closed", "circuitBefore": "closed", "rate": 0.5, "rateBefore": 1.0, "epoch": 1,
        "perMinute": 60, "concurrent": None, "daySpentUntil": None,
    }  # fmt: skip


@virtual
async def test_a_hundred_429s_of_one_moment_are_one_event(world: World) -> None:
    fleet = Fleet(world, limit=Limit(per_minute=1200), workers=4)
    grants = await asyncio.gather(*(reserve(fleet[number % 4]) for number in range(100)))
    await asyncio.gather(*(fleet[n % 4].throttled(MODEL, grant, None) for n, grant in enumerate(grants)))
    assert len(await fleet.told()) == 1
    later = await reserve(fleet[3])
    await fleet[3].throttled(MODEL, later, None)  # of the next epoch: slower still
    (event,) = await fleet.told()
    assert (event["data"]["epoch"], event["data"]["rate"], event["data"]["rateBefore"]) == (2, 0.25, 0.5)


@virtual
async def test_slow_mode_is_told_step_by_step(world: World) -> None:
    fleet = Fleet(world)
    await fleet[0].throttled(MODEL, await reserve(fleet[0]), 1.0)
    rates = []
    for number in range(12):
        await world.clock.sleep(20)
        await reserve(fleet[number % 3])
        rates.append((await fleet.ledger()).rate)
    steps = [1.0, 0.5, *sorted(set(rates) - {0.5})]
    assert len(steps) > 3
    told = await fleet.told()
    assert [(event["data"]["rateBefore"], event["data"]["rate"]) for event in told] == list(pairwise(steps))


@virtual
async def test_a_spent_day_is_told_once(world: World) -> None:
    fleet = Fleet(world)
    grants = [await reserve(fleet[number]) for number in range(3)]
    await asyncio.gather(*(fleet[number].day_spent(MODEL, grant) for number, grant in enumerate(grants)))
    (event,) = await fleet.told()
    assert event["data"]["daySpentUntil"] == "2026-03-03T08:00:00.000Z"  # midnight in California, in winter
    with pytest.raises(DailyQuotaSpent):
        await reserve(fleet[1])
    assert await fleet.told() == []
    await world.clock.sleep(24 * 3600)
    await fleet[2].day_spent(MODEL, await reserve(fleet[2]))  # and the next day's again
    over, event = await fleet.told()
    assert over["data"]["daySpentUntil"] is None
    assert event["data"]["daySpentUntil"] == "2026-03-04T08:00:00.000Z"


@pytest.mark.parametrize(
    ("seconds", "until"), [(-0.5, "midnight"), (0.0, "soon"), (899.0, "soon"), (901.0, "midnight")]
)
def test_a_refusal_noted_after_midnight_costs_no_second_day(seconds: float, until: str) -> None:
    """It took its time to be noted, or the vendor resets a little late."""
    midnight = 1_772_524_800.0  # 2026-03-03T08:00Z, midnight in California
    now = midnight + seconds
    spent = decisions.quota.day_spent(Ledger(id=MODEL), Grant("g", Tier.NORMAL, now, 0), now).day_spent_until
    next_midnight = midnight if seconds < 0 else midnight + 86_400
    assert spent == (next_midnight if until == "midnight" else now + decisions.quota.LATE_RESET_PAUSE_SECONDS)


@virtual
async def test_operators_limit_is_no_change_of_these(world: World) -> None:
    fleet = Fleet(world)
    await reserve(fleet[0])
    await world.store.change_record(
        Ledger, MODEL, lambda known, _: decisions.quota.set_limit(known, Limit(per_minute=30)), world.clock.token()
    )
    await reserve(fleet[1])
    assert await fleet.told() == []


@virtual
async def test_a_model_without_a_limit_tells_nothing(world: World) -> None:
    fleet = Fleet(world)
    grant = await fleet[0].reserve("other", Tier.NORMAL)
    await fleet[0].throttled("other", grant, 1.0)
    await fleet[0].day_spent("other", grant)
    for _ in range(10):
        await fleet[0].failed("other", grant)
    assert await fleet.told() == []
    assert fleet.store.changes == []


# --- exactly once


async def havoc(fleet: Fleet, chance: random.Random, calls: int) -> None:
    """Calls of all workers at once, each with an outcome of its own."""

    async def call(worker: SharedQuota, outcome: float) -> None:
        try:
            grant = await reserve(worker, chance.choice(list(Tier)))
        except DailyQuotaSpent:
            return
        await fleet.world.clock.sleep(chance.uniform(0, 40))
        if outcome < 0.15:
            await worker.throttled(MODEL, grant, chance.choice([None, 0.0, 7.0]))
        elif outcome < 0.55:
            await worker.failed(MODEL, grant)
        elif outcome < 0.56:
            await worker.day_spent(MODEL, grant)
        else:
            await worker.succeeded(MODEL, grant)

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(call(chance.choice(fleet.workers), chance.random()))
            await fleet.world.clock.sleep(chance.choice([0.0, 0.0, 0.3, 20.0]))


@pytest.mark.parametrize("store", [{}, {"stale": True}, {"repeat": True}], ids=["plain", "contended", "lost replies"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [Limit(per_minute=60), Limit(concurrent=5)], ids=["minute", "slots"])
@virtual
async def test_every_change_is_told_exactly_once(world: World, limit: Limit, seed: int, store: dict[str, bool]) -> None:
    fleet = Fleet(world, limit=limit, workers=4, **store)
    await havoc(fleet, random.Random(seed), 60)
    await fleet.close()
    ids = [event["ce-id"] for event in await fleet.told()]
    expected = [f"quota/{MODEL}/{token}" for token in fleet.store.worth_telling()]
    assert sorted(ids) == sorted(expected)
    assert len(ids) == len(set(ids)) >= 2


@virtual
async def test_a_change_without_an_audience_is_made_all_the_same(world: World) -> None:
    quota = SharedQuota(world.store, world.clock, {MODEL: Limit(per_minute=60)}, "w")
    await quota.throttled(MODEL, await reserve(quota), 1.0)
    ledger = await world.store.record(Ledger, MODEL)
    assert ledger is not None
    assert ledger.rate == 0.5


@virtual
async def test_the_wired_quota_tells_too(world: World) -> None:
    """What workers are given by the wiring, not only what this test puts together."""
    quota = wiring.shared_quota(world.parts.backend, world.clock, world.settings, "w")
    await quota.throttled(MODEL, await quota.reserve(MODEL, Tier.NORMAL), 1.0)
    await asyncio.gather(*quota._telling)
    kinds = [event["ce-type"] for event in await world.events()]
    assert kinds == [KIND]


# --- an event that cannot be published disturbs nothing


def broken(error: Exception) -> Callable[..., Awaitable[None]]:
    async def publish(topic: str, messages: Any) -> None:
        assert topic == EVENTS_TOPIC
        raise error

    return publish


ERRORS = [
    WorldError(ErrorCode.STORAGE_UNAVAILABLE, "pubsub is down"),
    ConfigurationError("no such topic"),
    RuntimeError("an error that the adapter lets through unchanged"),
]


async def disturbed(world: World, publish: Callable[..., Awaitable[None]]) -> None:
    """A circuit's life and a 429 while nothing can be published: all of it happens in its time."""
    fleet = Fleet(world)
    world.queue.publish = publish  # type: ignore[method-assign, assignment]
    async with asyncio.timeout(11):  # ten of them for the failures' verdict
        await open_circuit(fleet)
    assert (await fleet.ledger()).circuit is Circuit.OPEN
    async with asyncio.timeout(60):  # its probe is due after 30 s
        probe = await reserve(fleet[1])
    assert probe.probe
    async with asyncio.timeout(10):
        await fleet[1].succeeded(MODEL, probe)
        assert (await fleet.ledger()).circuit is Circuit.CLOSED
        grant = await reserve(fleet[2])
        await fleet[2].throttled(MODEL, grant, 1.0)
        assert (await fleet.ledger()).epoch == 1
    async with asyncio.timeout(30):
        grant = await reserve(fleet[2])
    assert grant.epoch == 1
    await fleet.close()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@virtual
async def test_a_topic_that_refuses_disturbs_no_reservation(world: World, error: Exception) -> None:
    await disturbed(world, broken(error))


@virtual
async def test_a_topic_that_does_not_answer_disturbs_no_reservation(world: World) -> None:
    """The cloud's adapter tries a minute before it gives up: the fleet's calls may not wait so long for a notice."""

    async def publish(topic: str, messages: Any) -> None:
        await world.clock.sleep(60)
        raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "for 60 s")

    await disturbed(world, publish)


@virtual
async def test_the_end_of_slow_mode_is_a_reservation_that_a_slow_topic_may_not_spoil(world: World) -> None:
    """The change rides on a reservation: its grants are for now, not for when the notice is out."""
    fleet = Fleet(world)
    await fleet[0].throttled(MODEL, await reserve(fleet[0]), 1.0)
    await world.clock.sleep(600)
    published: list[dict[str, Any]] = []

    async def publish(topic: str, messages: Any) -> None:
        await world.clock.sleep(60)
        published.extend(json.loads(message.data) for message in messages)

    world.queue.publish = publish  # type: ignore[method-assign]
    before = world.clock.monotonic()
    await reserve(fleet[0])
    assert world.clock.monotonic() - before < 5
    await world.clock.sleep(120)
    assert [event["rate"] for event in published] == [1.0]
    await fleet.close()


@virtual
async def test_what_could_not_be_published_is_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(world)
    world.queue.publish = broken(ERRORS[0])  # type: ignore[method-assign, assignment]
    await fleet[0].throttled(MODEL, await reserve(fleet[0]), 1.0)
    await fleet.out()
    assert any(MODEL in record.getMessage() and "not published" in record.getMessage() for record in caplog.records)


@virtual
async def test_the_first_change_of_an_unknown_ledger_is_told(world: World) -> None:
    """There is no document yet: what changed is held against a new one."""
    fleet = Fleet(world)
    grant = Grant(id="g", tier=Tier.NORMAL, start=EPOCH, epoch=0)
    await fleet[0].throttled(MODEL, grant, 1.0)
    (event,) = await fleet.told()
    assert (event["data"]["epoch"], event["data"]["rateBefore"]) == (1, 1.0)
    assert msgspec.structs.replace(await fleet.ledger(), token="").rate == 0.5
