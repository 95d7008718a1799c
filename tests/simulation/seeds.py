"""From a seed to a plan: mostly small and short worlds, each with its own mixture of faults."""

from __future__ import annotations

import random
from typing import Final

import msgspec

from shared.model import Tier
from tests.simulation.faults import Rates
from tests.simulation.hosts import PhotoHost
from tests.simulation.plan import MALFORMED, Plan, Wanted

# Per fault: the rates to choose from. Most worlds have most faults, few have all.
CHOICES: Final[dict[str, tuple[float, ...]]] = {
    "before": (0.0, 0.0, 0.003, 0.02),
    "after": (0.0, 0.0, 0.003, 0.02),
    "crash": (0.0, 0.001, 0.004, 0.012),
    "lost_ack": (0.0, 0.1),
    "duplicate": (0.0, 0.05, 0.3),
    "shuffle": (0.0, 0.5),
    "delay": (0.0, 0.1, 0.3),
    "slow": (0.0, 0.0, 0.02),
    "vendor": (0.0, 0.0, 0.05, 0.3),
    "throttle": (0.0, 0.0, 0.1),
    "refuse": (0.0, 0.0, 0.03),
    "low": (0.0, 0.1, 0.4),
    "source": (0.0, 0.0, 0.1),
    "misconfigured": (0.0, 0.0, 0.0, 0.02),
}
OPERATIONS: Final = (
    "pause",
    "resume",
    "resume",
    "cancel",
    "replay",
    "replay",
    "replay",
    "drain",
    "reconcile",
    "reconcile",
)


def plan_of(seed: int) -> Plan:
    """The seed's plan. Every eighth seed has throttling as its only fault: then no image may fail."""
    chance = random.Random(f"{seed}/plan")
    rates = Rates(**{name: chance.choice(choices) for name, choices in CHOICES.items()})
    if random.Random(f"{seed}/silent").random() < 0.4:
        rates = msgspec.structs.replace(rates, silent=0.1)
    # What came later has a chance of its own: the other choices of a seed stay as they were.
    late = random.Random(f"{seed}/late")
    rates = msgspec.structs.replace(rates, echo=late.choice([0.0, 0.0, 0.1, 0.4]))
    clocks = random.Random(f"{seed}/clocks")
    rates = msgspec.structs.replace(rates, jump=clocks.choice([0.0, 0.0, 0.005, 0.03]))
    leaps = [(clocks.uniform(1, 90), clocks.choice([2.0, 60.0]) * clocks.uniform(-1, 1)) for _ in range(2)]
    odd = random.Random(f"{seed}/odd")
    malformed = odd.sample(sorted(MALFORMED), odd.choice([0, 0, 0, 1, 2]))
    daily = odd.choice([1, 2, 4]) if odd.random() < 0.06 else 0
    operations: list[tuple[float, str, str]] = []
    batches = [
        Wanted(
            name=f"b{number}",
            at=chance.choice([0.0, chance.uniform(0, 60)]),
            images=chance.choice([1, 2, 2, 3, 5, 8, 12]) if number == 0 else chance.choice([1, 2, 3]),
            tier=chance.choice([*Tier]),
            cache=chance.random() < 0.3,
            photos=chance.choice([0, 0, 1, 2]),
        )
        for number in range(chance.choice([1, 1, 1, 2]))
    ]
    stormy = chance.choice([90.0, 150.0, 300.0])
    if seed % 8 == 0:
        rates = Rates(throttle=0.2, duplicate=0.1, shuffle=0.5)
    else:
        for _ in range(chance.choice([0, 1, 2, 4, 6])):
            what = chance.choice(OPERATIONS)
            operations.append((chance.uniform(1, stormy), what, chance.choice(batches).name))
    trouble = random.Random(f"{seed}/outage")
    outages = [
        (trouble.uniform(1, 0.7 * stormy), trouble.choice([20.0, 60.0, 120.0, 300.0]), trouble.choice(["5xx", "hang"]))
        for _ in range(trouble.choice([0, 0, 0, 1, 2]))
    ]
    crowd = random.Random(f"{seed}/hosts")
    hosts = [
        PhotoHost(
            name=f"slow{number}.example",
            photos=crowd.choice([1, 2, 3, 5]),
            seconds=crowd.choice([6.0, 12.0, 60.0]),
            says=crowd.choice(["left", "left", "nothing", 20.0, 60.0]),
        )
        for number in range(crowd.choice([0, 0, 0, 1, 1, 2]))
    ]
    if seed % 8:
        rates = msgspec.structs.replace(rates, busy=crowd.choice([0.0, 0.0, 0.0, 0.03, 0.2]))
    if hosts:
        asked = crowd.sample([*(host.name for host in hosts), "x.example"], crowd.randint(1, len(hosts) + 1))
        batches = [msgspec.structs.replace(batch, hosts=tuple(asked)) for batch in batches]
    at_once = (trouble.choice([1, 3, 10]), trouble.choice([1, 2, 5])) if trouble.random() < 0.2 else None
    return Plan(
        rates=rates,
        batches=tuple(batches),
        workers=chance.choice([1, 2, 2, 3]),
        in_flight=chance.choice([4, 6, 12]),
        consumers=chance.choice([1, 2]),
        operations=tuple(operations),
        stormy_seconds=stormy,
        skew=chance.choice([0.0, 2.0]),
        limits=chance.choice([(120, 60), (120, 60), (20, 10), (6, 4)]),
        eager=late.choice([0, 0, 1, 3]) if seed % 8 else 0,
        minimum_sample=chance.choice([3, 20]),
        malformed=tuple((odd.uniform(0, 60), which) for which in malformed),
        # The ledger's midnight is the backend's: ahead of the vendor's, the next refusal would cost another day.
        leaps=tuple(leaps) if seed % 8 and not daily and clocks.random() < 0.15 else (),
        daily=daily,
        midnight=odd.uniform(150, 900),
        at_once=at_once,
        rated=at_once is None or trouble.random() < 0.5,
        outages=tuple(outages) if seed % 8 else (),
        hosts=tuple(hosts),
        slowness=chance.choice([0.1, 0.5, 1.0]),
    )


def no_failure_allowed(seed: int) -> bool:
    """Whether the seed's only vendor fault is throttling."""
    return seed % 8 == 0
