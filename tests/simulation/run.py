"""`python -m tests.simulation.run --seeds 0:10000`, or `--seed N --trace`: many worlds, or one with all its port calls."""

from __future__ import annotations

import argparse
import sys
import time

from shared.model import ImageState
from tests.simulation.seeds import no_failure_allowed, plan_of
from tests.simulation.world import World, simulate

TRACED: int = 60


def run_seed(seed: int) -> World:
    """The seed's world, run and judged."""
    world = simulate(str(seed), plan_of(seed))
    if no_failure_allowed(seed):
        for key, image in world.checker.images.items():
            if image.state is ImageState.FAILED or image.attempts:
                world.checker.blame(f"{key}: {image.state} after {image.attempts} attempts, though only throttled")
    return world


def explained(seed: int, world: World, last: int = TRACED) -> str:
    """What went wrong, the last port calls, and how to see it again."""
    wrong = "\n".join(world.checker.violations[:20])
    return f"seed {seed}:\n{wrong}\n\n{world.faults.told(last)}\n\npython -m tests.simulation.run --seed {seed} --trace"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:300", help="first:last, the last not included")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--trace", action="store_true")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        world = run_seed(chosen.seed)
        print(plan_of(chosen.seed), world.faults.injected)
        print(explained(chosen.seed, world, 5000 if chosen.trace else TRACED))
        return bool(world.checker.violations)
    first, last = (int(part) for part in chosen.seeds.split(":"))
    failed: dict[int, str] = {}
    began, virtual, injected = time.monotonic(), 0.0, 0
    for seed in range(first, last):
        world = run_seed(seed)
        virtual += world.loop.time()
        injected += sum(world.faults.injected.values())
        if world.checker.violations:
            failed[seed] = world.checker.violations[0]
            print(f"seed {seed} FAILED: {world.checker.violations[0]}", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{last - first} seeds, {(last - first) / seconds:.1f} a second, {virtual / 3600:.0f} virtual hours,"
        f" {injected} faults; failed: {len(failed)} {sorted(failed)[:50]}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
