"""Rules left out on purpose, and what notices: `make mutation-proof`, or `python -m tests.simulation.mutations [seeds [words]]`.

Every rule is taken out of the product by itself (with words, those whose name has one of them). First the schedules of
`scenarios.py` are played without it (for a rule about blame: those of `kills.py`), then seeds, until one of them breaks
a promise. A mutation that nothing notices is a hole in the checker, or a rule that another rule covers: the exit code
is 1.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from tests.simulation.kills import STORMS
from tests.simulation.left_out import MUTATIONS, Patch
from tests.simulation.run import run_seed
from tests.simulation.scenarios import SCENARIOS, play

SEEDS: Final = 120
SHOWN: Final = 110  # characters of a violation
MAX_NAMED: Final = 2


@contextmanager
def patched(patches: list[Patch]) -> Iterator[None]:
    """The product without its rule."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


class Caught(msgspec.Struct, frozen=True):
    """What noticed a mutation: every schedule that does, the first seed, and what was said first."""

    name: str
    schedules: tuple[str, ...]
    seed: int | None
    told: str

    @property
    def by(self) -> str:
        shown, more = self.schedules[:MAX_NAMED], len(self.schedules) - MAX_NAMED
        found = [
            *shown,
            *([f"{more} more"] if more > 0 else []),
            *([f"seed {self.seed}"] if self.seed is not None else []),
        ]
        return ", ".join(found) or "NOTHING"


def attempt(job: tuple[str, int]) -> Caught:
    """Take one rule out; play every schedule, then seeds until one notices."""
    name, seeds = job
    told: list[str] = []
    schedules: list[str] = []
    noticed = None
    with patched(MUTATIONS[name]):
        for scenario in STORMS if " blame" in name else SCENARIOS:
            if violations := play(scenario).checker.violations:
                schedules.append(scenario.__name__)
                told += violations[:1]
        for seed in range(seeds):
            if violations := run_seed(seed).checker.violations:
                noticed = seed
                told += violations[:1]
                break
    return Caught(name, tuple(schedules), noticed, told[0] if told else "")


def main(show: Callable[[str], None] = lambda text: print(text, flush=True)) -> int:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    wanted = [name for name in MUTATIONS if not sys.argv[2:] or any(word in name for word in sys.argv[2:])]
    began = time.monotonic()
    sound = [scenario.__name__ for scenario in (*SCENARIOS, *STORMS) if not well(scenario)]
    for name in sound:
        show(f"{name} is not well with every rule in place")
    missed = 0
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for found in pool.imap(attempt, [(name, seeds) for name in wanted]):
            missed += found.by == "NOTHING"
            show(f"{found.name:44} {found.by}\n{'':44}   {found.told[:SHOWN]}")
    show(f"{len(wanted) - missed} of {len(wanted)} caught, in {time.monotonic() - began:.0f} s")
    return bool(missed or sound)


def well(scenario: Any) -> bool:
    """Whether the schedule is followed to its end, and breaks nothing, while every rule is in place."""
    world = play(scenario)
    return world.followed and not world.checker.violations


if __name__ == "__main__":
    sys.exit(main())
