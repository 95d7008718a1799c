"""How free slots are shared among the tiers: exhaustively for one allotment, and what comes of it over many."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.assembly.wiring import embedded
from shared.decisions.fairness import TIER_WEIGHTS
from shared.model import Tier
from shared.ports import Delivery, Message
from shared.settings import WorkerLimits
from shared.topology import topic_of
from shared.worker.disposition import ACK, Disposition
from shared.worker.subscriber import PROBE_EVERY_SECONDS, PROBE_SECONDS, PULL_SECONDS, Subscriber, TierSchedule
from tests.clocks import VirtualClock, run_virtual

EXPRESS, NORMAL, ECONOMY = Tier.EXPRESS, Tier.NORMAL, Tier.ECONOMY
MAX = 60
START = 1000.0
SUBSETS = [tiers for size in range(4) for tiers in itertools.combinations(Tier, size)]
# Who has work waiting, and who is being asked already.
SITUATIONS = [(busy, asked) for busy in SUBSETS for asked in SUBSETS]


def after_pulls(busy: Collection[Tier]) -> TierSchedule:
    """TierSchedule whose last pulls, at START, found work for these tiers and none for the others."""
    schedule = TierSchedule()
    for tier in Tier:
        schedule.pulled(tier, 1 if tier in busy else 0, START)
    return schedule


def test_the_weights_are_the_designs():
    assert TIER_WEIGHTS == {EXPRESS: 6, NORMAL: 3, ECONOMY: 1}
    assert len(SITUATIONS) == 64


# --- one allotment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("since", [0.0, PROBE_EVERY_SECONDS - 0.01, PROBE_EVERY_SECONDS, 1000.0])
def test_every_allotment(since: float):
    for free, (busy, asked) in itertools.product(range(MAX + 1), SITUATIONS):
        schedule = after_pulls(busy)
        asks = schedule.allot(free, asked, START + since)
        case = (free, busy, asked, asks)
        assert sum(asks.values()) <= free, case
        assert all(ask >= 1 for ask in asks.values()), case
        assert not set(asks) & set(asked), case
        assert all(asks[tier] == 1 for tier in asks if tier not in busy), case
        may_ask = [tier for tier in Tier if tier not in asked]
        idle = [tier for tier in may_ask if tier not in busy]
        probed = idle if not busy or since >= PROBE_EVERY_SECONDS else []
        assert len([tier for tier in asks if tier not in busy]) == min(free, len(probed)), case
        if set(may_ask) & set(busy):
            assert sum(asks.values()) == free, case  # no slot is left over while a tier has work
        if free >= len(probed) + 20:  # two whole schedule: one may still be owed
            assert set(asks) == set(probed) | (set(may_ask) & set(busy)), case


def test_an_allotment_changes_nothing():
    schedule = after_pulls((EXPRESS, ECONOMY))
    first = [schedule.allot(free, (), START + 9) for free in range(30)]
    assert [schedule.allot(free, (), START + 9) for free in range(30)] == first


def test_a_new_worker_asks_every_tier_for_one():
    assert TierSchedule().allot(50, (), START) == dict.fromkeys(Tier, 1)
    assert TierSchedule().allot(50, (), 0.0) == dict.fromkeys(Tier, 1)
    assert TierSchedule().allot(1, (), START) == {EXPRESS: 1}
    assert TierSchedule().allot(0, (), START) == {}


@pytest.mark.parametrize("alone", list(Tier))
def test_a_tier_that_waits_alone_gets_everything_but_the_probes(alone: Tier):
    for free in range(3, MAX):
        assert after_pulls((alone,)).allot(free, (), START + 1) == {alone: free}
        probing = after_pulls((alone,)).allot(free, (), START + PROBE_EVERY_SECONDS)
        assert probing == {tier: free - 2 if tier is alone else 1 for tier in Tier}


@pytest.mark.parametrize("tiers", [tiers for tiers in SUBSETS if len(tiers) > 1], ids=str)
def test_many_slots_are_shared_by_weight_within_rounding(tiers: tuple[Tier, ...]):
    weight = sum(TIER_WEIGHTS[tier] for tier in tiers)
    _, schedule = served([10] * 200, dict.fromkeys(tiers, 10**6))  # nobody is owed anything
    now = START + 20
    for tier in set(Tier) - set(tiers):
        schedule.pulled(tier, 0, now)
    for free in (10, 20, 37, 50, 100, 500, 1000):
        asks = schedule.allot(free, (), now)
        assert set(asks) == set(tiers)
        for tier in tiers:
            assert abs(asks.get(tier, 0) - free * TIER_WEIGHTS[tier] / weight) <= 2, (free, asks)


# --- how long, and when again -----------------------------------------------------------------------------------------


def test_an_idle_tier_beside_a_busy_one_is_asked_shortly():
    for busy in SUBSETS:
        schedule = after_pulls(busy)
        for tier in Tier:
            short = tier not in busy and bool(busy)
            assert schedule.wait_seconds(tier) == (PROBE_SECONDS if short else PULL_SECONDS), (busy, tier)


def test_beside_busy_tiers_an_idle_one_is_asked_every_few_seconds():
    schedule = after_pulls((EXPRESS,))
    asked: list[tuple[float, Tier]] = []
    for tick in range(1000):
        now = START + tick / 10
        for tier, ask in schedule.allot(5, (), now).items():
            if tier is not EXPRESS:
                assert ask == 1
                asked.append((now, tier))
                schedule.pulled(tier, 0, now)
        schedule.pulled(EXPRESS, 1, now)
    for tier in (NORMAL, ECONOMY):
        times = [at for at, which in asked if which is tier]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        assert len(times) >= 90 / (PROBE_EVERY_SECONDS + 0.1)
        assert all(PROBE_EVERY_SECONDS - 1e-6 <= gap <= PROBE_EVERY_SECONDS + 0.11 for gap in gaps), gaps


def test_the_next_probe_is_when_the_first_idle_tier_is_due():
    schedule = TierSchedule()
    schedule.pulled(EXPRESS, 1, START)
    schedule.pulled(NORMAL, 0, START)
    schedule.pulled(ECONOMY, 0, START + 2)
    for tier in (EXPRESS, NORMAL, ECONOMY):
        schedule.pulled(tier, 0, START if tier is not ECONOMY else START + 2)
    assert schedule.next_probe_seconds((), START + 1) == pytest.approx(PROBE_EVERY_SECONDS - 1)
    assert schedule.next_probe_seconds((), START + 1000) > 0, "no loop without a pause"
    # Whoever waits this long finds the tier due.
    schedule.pulled(EXPRESS, 1, START + 2)
    pause = schedule.next_probe_seconds((), START + 2)
    assert NORMAL in schedule.allot(50, (), START + 2 + pause)


def test_only_idle_tiers_that_wait_to_be_asked_wake_the_worker():
    """A busy tier's pull wakes by its messages: counting it made a worker with free slots turn 20 times a second."""
    schedule = TierSchedule()
    for tier in (NORMAL, ECONOMY):
        schedule.pulled(tier, 0, START)
    schedule.pulled(EXPRESS, 1, START)
    assert schedule.next_probe_seconds((), START) == pytest.approx(PROBE_EVERY_SECONDS)
    assert schedule.next_probe_seconds((NORMAL,), START) == pytest.approx(PROBE_EVERY_SECONDS)
    assert schedule.next_probe_seconds((NORMAL, ECONOMY), START) is None
    for tier in (NORMAL, ECONOMY):
        schedule.pulled(tier, 1, START)
    assert schedule.next_probe_seconds((), START + 100) is None


# --- over many allotments, each tier with its own backlog -------------------------------------------------------------


def served(
    sizes: list[int],
    backlog: dict[Tier, int],
    schedule: TierSchedule | None = None,
    start: float = START,
    seconds: float = 0.1,
) -> tuple[Counter[Tier], TierSchedule]:
    """What the tiers were given when so many slots became free each time; the backlog is worked off."""
    schedule = schedule or TierSchedule()
    given: Counter[Tier] = Counter()
    for turn, free in enumerate(sizes):
        now = start + turn * seconds
        for tier, ask in schedule.allot(free, (), now).items():
            count = min(ask, backlog.get(tier, 0))
            schedule.pulled(tier, count, now)
            given[tier] += count
            if tier in backlog:
                backlog[tier] -= count
    return given, schedule


FREE_SIZES = {
    **{f"always {free}": [free] * (6000 // free) for free in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 50)},
    "1 and 49": [1, 49] * 120,
    "random": random.Random(1).choices(range(51), k=240),
}


@pytest.mark.parametrize("sizes", list(FREE_SIZES.values()), ids=list(FREE_SIZES))
@pytest.mark.parametrize("tiers", [tiers for tiers in SUBSETS if tiers], ids=lambda tiers: "+".join(tiers))
def test_in_the_long_run_waiting_tiers_share_by_weight(tiers: tuple[Tier, ...], sizes: list[int]):
    given, _ = served(sizes, dict.fromkeys(tiers, 10**6))
    total, weight = sum(given.values()), sum(TIER_WEIGHTS[tier] for tier in tiers)
    assert total > 0.95 * sum(sizes), "little is lost to probes"
    for tier in tiers:
        share = TIER_WEIGHTS[tier] / weight
        # What is given before a tier is first known to wait, and what is under way at the end, is not shared.
        assert abs(given[tier] - total * share) <= 0.01 * total + max(sizes), (given, sizes[:3])


@pytest.mark.parametrize("free", [1, 2, 3, 7, 10, 50])
def test_no_waiting_tier_goes_without_for_long(free: int):
    """Of any twenty slots in a row economy has one, whatever the others want."""
    schedule = TierSchedule()
    served([10] * 20, dict.fromkeys(Tier, 10**6), schedule)  # everybody is known to wait
    without = dict.fromkeys(Tier, 0)
    for turn in range(2000 // free):
        asks = schedule.allot(free, (), START + 100 + turn * 0.1)
        for tier in Tier:
            schedule.pulled(tier, asks[tier], START + 100) if tier in asks else None
            without[tier] = 0 if tier in asks else without[tier] + free
            assert without[tier] <= 20 * 6 / TIER_WEIGHTS[tier], (tier, turn)


@pytest.mark.parametrize("idle", list(Tier))
@pytest.mark.parametrize("free", [1, 3, 10])
def test_a_tier_that_was_idle_is_paid_nothing_back(idle: Tier, free: int):
    others = [tier for tier in Tier if tier is not idle]
    backlog = dict.fromkeys(others, 10**6)
    _, schedule = served([free] * 2000, backlog)
    backlog[idle] = 10**6
    given, _ = served([free] * (1000 // free), backlog, schedule, start=START + 300, seconds=0.5)
    total = sum(given.values())
    fair = total * TIER_WEIGHTS[idle] / 10
    late = PROBE_EVERY_SECONDS / 0.5 * free  # before it is asked again
    assert given[idle] <= fair + free + 10, given
    assert given[idle] >= fair - late - free - 10, given


def test_a_tier_that_was_alone_owes_nothing():
    """Economy worked through the night alone; in the morning it has its share all the same."""
    backlog = {ECONOMY: 10**6}
    _, schedule = served([10] * 2000, backlog)
    backlog |= {EXPRESS: 10**6, NORMAL: 10**6}
    given, _ = served([10] * 200, backlog, schedule, start=START + 1000)
    assert given[ECONOMY] >= 150, given
    assert given[EXPRESS] > given[NORMAL] > given[ECONOMY]


# --- what comes of it: a worker whose slots become free one at a time -------------------------------------------------


def started(first: tuple[Tier, ...], late: tuple[Tier, ...] = (), seconds: float = 600.0) -> list[tuple[float, Tier]]:
    """When which tier's tasks were begun by a worker of ten slots, each task taking 30 to 70 s.

    `first` tiers have more waiting than can be done; after 100 s `late` ones get ten tasks each. Times count from then.
    """
    begun: list[tuple[float, Tier]] = []

    async def main(clock: VirtualClock) -> None:
        queue = embedded(clock).queue

        async def handle(delivery: Delivery) -> Disposition:
            begun.append((clock.monotonic() - 100.0, Tier(delivery.data.decode())))
            await clock.sleep(clock.random.uniform(30, 70))
            return ACK

        async def publish(tiers: tuple[Tier, ...], count: int) -> None:
            for tier in tiers:
                await queue.publish(topic_of(tier), [Message(tier.value.encode())] * count)

        stop: Any = asyncio.Event()
        await publish(first, 400)
        worker = asyncio.create_task(Subscriber(queue, handle, clock, WorkerLimits(in_flight=10)).run(stop, 0))
        await clock.sleep(100)
        await publish(late, 10)
        await clock.sleep(seconds)
        stop.set()
        await worker

    run_virtual(main)
    return begun


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("tier", list(Tier))
def test_a_worker_of_few_slots_looks_at_every_tier(tier: Tier, in_flight: int):
    """Nothing waits anywhere at first: each tier must still be asked now and then, also when there are more than slots."""
    begun: list[float] = []

    async def main(clock: VirtualClock) -> None:
        queue = embedded(clock).queue

        async def handle(delivery: Delivery) -> Disposition:
            begun.append(clock.monotonic())
            return ACK

        stop: Any = asyncio.Event()
        worker = asyncio.create_task(Subscriber(queue, handle, clock, WorkerLimits(in_flight=in_flight)).run(stop, 0))
        await clock.sleep(20)
        await queue.publish(topic_of(tier), [Message(b"")])
        await clock.sleep(60)
        stop.set()
        await worker

    run_virtual(main)
    assert begun, f"{tier.value} was not begun within 60 s"


@pytest.mark.parametrize(("first", "late"), list(itertools.permutations(Tier, 2)))
def test_new_work_of_an_idle_tier_is_begun_although_another_keeps_all_slots_busy(first: Tier, late: Tier):
    times = [at for at, tier in started((first,), (late,)) if tier is late]
    assert times, f"{late.value} was not begun within 600 s"
    # A slot becomes free every 5 s, and of ten even economy is due one.
    assert times[0] <= 50 + PULL_SECONDS, f"{late.value} was begun after {times[0]:.0f} s"


def test_over_time_every_waiting_tier_gets_its_share():
    counts = Counter(tier for at, tier in started(tuple(Tier), seconds=1500) if at > 0)
    total = sum(counts.values())
    shares = {tier: counts[tier] / total for tier in Tier}
    assert all(abs(shares[tier] - TIER_WEIGHTS[tier] / 10) < 0.1 for tier in Tier), shares


@given(st.lists(st.tuples(st.sampled_from(Tier), st.integers(0, 3)), max_size=200))
def test_a_tier_seems_empty_after_twelve_pulls_in_vain_and_not_before(pulls: list[tuple[Tier, int]]) -> None:
    """Pub/Sub never answers a short pull of an empty subscription, and answers one of a full one late now and then."""
    schedule = TierSchedule()
    since: dict[Tier, int] = dict.fromkeys(Tier, 0)
    for tier, count in pulls:
        since[tier] = 0 if count else since[tier] + 1
        assert schedule.shows_empty(tier, count) is (since[tier] == 12)
        since[tier] %= 12


def test_each_tier_is_looked_at_by_itself() -> None:
    schedule = TierSchedule()
    looks = [(tier, schedule.shows_empty(tier, 0)) for _ in range(24) for tier in Tier]
    assert [tier for tier, empty in looks if empty] == [*Tier, *Tier]
