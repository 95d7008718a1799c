"""`python -m tests.simulation.run --seeds 0:10000`, or `--seed N --trace`: many worlds, or one with all its port calls.

Many worlds are run by as many processes as there are cores (`--processes`): a seed's world does not depend on others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from typing import Final

import msgspec

from shared.model import ImageState
from tests.simulation.faults import TRACE_CALLS
from tests.simulation.seeds import no_failure_allowed, plan_of
from tests.simulation.world import World, simulate

TRACED: Final = 60
CHUNK: Final = 5  # seeds handed to a process at once
SHOWN: Final = 50  # failed seeds named at the end
EXPLAINED: Final = 3  # failed seeds that are told with their last port calls; of the others, how to see them


class Told(msgspec.Struct, frozen=True):
    """What a seed came to, as one process tells another."""

    seed: int
    virtual_seconds: float
    injected: int
    violations: tuple[str, ...]
    explanation: str


def run_seed(seed: int) -> World:
    """The seed's world, run and judged."""
    world = simulate(str(seed), plan_of(seed))
    if no_failure_allowed(seed):
        for key, image in world.checker.images.items():
            if image.state is ImageState.FAILED or image.attempts:
                world.checker.blame(f"{key}: {image.state} after {image.attempts} attempts, though only throttled")
    return world


def told(seed: int) -> Told:
    """`run_seed` for another process."""
    world = run_seed(seed)
    injected = sum(world.faults.injected.values())
    explanation = explained(seed, world) if world.checker.violations else ""
    return Told(seed, world.loop.time(), injected, tuple(world.checker.violations), explanation)


def explained(seed: int, world: World, last: int = TRACED) -> str:
    """What went wrong, the last port calls, and how to see it again."""
    wrong = "\n".join(world.checker.violations[:20])
    return f"seed {seed}:\n{wrong}\n\n{world.faults.told(last)}\n\n{again(seed)}"


def again(seed: int) -> str:
    """The command that runs the seed again, with all its port calls."""
    return f"python -m tests.simulation.run --seed {seed} --trace"


def run_many(first: int, last: int, processes: int) -> int:
    """Run the seeds; the exit code."""
    failed: list[int] = []
    began, virtual, injected = time.monotonic(), 0.0, 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for count, done in enumerate(pool.imap_unordered(told, range(first, last), CHUNK), 1):
            if count % max(1, (last - first) // 10) == 0:
                print(f"{count} of {last - first} seeds, {len(failed)} failed", file=sys.stderr, flush=True)
            virtual += done.virtual_seconds
            injected += done.injected
            if done.violations:
                failed.append(done.seed)
                print(f"seed {done.seed} FAILED: {done.violations[0]}", flush=True)
                print(done.explanation if len(failed) <= EXPLAINED else f"  {again(done.seed)}", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{last - first} seeds in {seconds:.0f} s, {(last - first) / seconds:.1f} a second on {processes} processes,"
        f" {virtual / 3600:.0f} virtual hours, {injected} faults; failed: {len(failed)} {sorted(failed)[:SHOWN]}"
    )
    return bool(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:300", help="first:last, the last not included")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--trace", action="store_true")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        world = run_seed(chosen.seed)
        print(plan_of(chosen.seed), world.faults.injected)
        print(explained(chosen.seed, world, TRACE_CALLS if chosen.trace else TRACED))
        return bool(world.checker.violations)
    first, last = (int(part) for part in chosen.seeds.split(":"))
    return run_many(first, last, chosen.processes)


if __name__ == "__main__":
    sys.exit(main())
