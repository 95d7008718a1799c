"""How close a batch comes to the vendor's own bound, and what it costs: `python -m tests.simulation.makespan --images N`.

The bound: the busiest model's calls (what is bought again for a killed worker among them) divided by its quota, plus
one image's way; where the vendor lets in half for a while, what it withholds is added. Everything is the product's own but the vendor, who enforces the limits exactly: image
model 60 a minute, text model 120 a minute (two calls an image), 100 in flight, calls of 10 s, 30 s and 10 s. Nothing is
scaled: ten times the images take ten times the virtual time. CPU time is the whole process's, the checker included. A
machine whose cores are shared is half as fast again in one minute as in another, so the batch of 1,000 that a larger
one is compared with is staged twenty times in between, at even distances of the large one's time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from shared.model import ImageState
from shared.settings import ManifestLimits
from tests.simulation.loop import SimulationLoop
from tests.simulation.plan import Plan, Wanted
from tests.simulation.vendor import IMAGE, Witness
from tests.simulation.world import World

TEXT_A_MINUTE: Final = 120
IMAGE_A_MINUTE: Final = 60
WAY_SECONDS: Final = 50.0
IN_FLIGHT: Final = 100
HALVED_SECONDS: Final = 600.0
MAX_RATIO: Final = 1.03
BESIDE: Final = 1000  # a batch of so many is what larger ones are compared with,
BESIDE_TIMES: Final = 20  # so often: a fifth of what 100,000 cost, and a mean that is sure to two or three percent
MEBIBYTE: Final = 1024 * 1024


class Figures(msgspec.Struct, frozen=True):
    """What a run came to. `busiest` are the most calls that arrived in any rolling minute, refused ones too, by model."""

    images: int
    seconds: float
    bound_seconds: float
    bought_again: int
    busiest: dict[str, int]
    throttled: int
    failed: int
    attempts: int
    cpu_seconds: float
    operations: dict[str, int]
    beside: tuple[Figures, ...] = ()

    @property
    def ratio(self) -> float:
        return self.seconds / self.bound_seconds

    @property
    def tight_ratio(self) -> float:
        """Against what no scheduler can beat: the first minute's quota may be spent at once."""
        spent_at_once = (IMAGE_A_MINUTE - (-self.images % IMAGE_A_MINUTE)) / IMAGE_A_MINUTE * 60.0
        return self.seconds / (self.bound_seconds - spent_at_once)

    @property
    def cpu_ms(self) -> float:
        """An image's, the harness included."""
        return self.cpu_seconds / self.images * 1000

    @property
    def operations_an_image(self) -> float:
        return sum(self.operations.values()) / self.images


class Unasked:
    """Follows nothing: without faults there is no purchase and no task to be judged, and books of them would only grow.

    What is bought twice is seen all the same, in the vendor's count.
    """

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: None


class Factory(World):
    """A world without faults whose vendor's latencies differ by a tenth from call to call."""

    def __init__(self, loop: SimulationLoop, seed: str, plan: Plan) -> None:
        super().__init__(loop, seed, plan)
        most = max(wanted.images for wanted in plan.batches)
        limits = ManifestLimits(max_images=most, max_bytes=500 * most + MEBIBYTE)
        self.settings = msgspec.structs.replace(self.settings, manifest=limits)
        self.checker.purchases = self.checker.tasks = Unasked()  # type: ignore[assignment]
        self.vendor.witness = Witness()
        self.faults.active = False
        self.faults.traced_until = -1.0

    def _seconds(self, step: str) -> float:
        return (30.0 if step == "generate" else 10.0) * self.chance.uniform(0.9, 1.1)

    async def kill(self, slot: int, at: float) -> None:
        """Kill the worker that stands at this place."""
        await asyncio.sleep(at)
        for process in self.alive:
            if process.name.startswith(f"worker{slot}.") and not process.dead:
                process.kill()

    async def halve(self, at: float) -> None:
        """The vendor lets in half for a while."""
        await asyncio.sleep(at)
        usual = dict(self.vendor.limits)
        self.vendor.limits = {model: limit // 2 for model, limit in usual.items()}
        await asyncio.sleep(HALVED_SECONDS)
        self.vendor.limits = usual

    async def until_settled(self, max_seconds: float) -> float:
        """When the batch was announced."""
        while self.loop.time() < max_seconds:
            await asyncio.sleep(0.5)
            batches = list(self.checker.batches.values())
            if batches and all(batch.announced_round for batch in batches):
                break
        return self.loop.time()


def bound_of(images: int) -> float:
    return images / IMAGE_A_MINUTE * 60.0 + WAY_SECONDS


async def in_between(every: float, found: list[Figures], **options: Any) -> None:
    """Stage the batches to compare with, each on a loop and a thread of its own; the caller's time stands still."""
    while len(found) < BESIDE_TIMES:
        await asyncio.sleep(every)
        staging = threading.Thread(target=lambda: found.append(measure(BESIDE, **options)))
        staging.start()
        staging.join()


def measure(
    images: int,
    workers: int = 1,
    *,
    kill_at: float | None = None,
    halve_at: float | None = None,
    compared: bool = False,
    seed: str = "makespan",
) -> Figures:
    """Stage a batch of so many images; `compared`, with batches of `BESIDE` in between, whose time is not counted.

    Optionally a worker is killed, or the vendor's limits are halved for ten minutes, when that share of the bound has
    passed.
    """
    longest = 2 * bound_of(images) + 3600.0
    plan = Plan(
        batches=(Wanted(name="b0", at=0.0, images=images),),
        workers=workers,
        in_flight=IN_FLIGHT // workers,
        limits=(TEXT_A_MINUTE, IMAGE_A_MINUTE),
        stormy_seconds=longest,
    )
    loop = SimulationLoop()
    began = time.process_time()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def main() -> Figures:
            world = Factory(loop, seed, plan)
            running = asyncio.ensure_future(world.run())
            beside: list[Figures] = []
            events, withheld = [], 0.0
            if compared:
                options = {"workers": workers, "kill_at": kill_at, "halve_at": halve_at}
                every = bound_of(images) / (BESIDE_TIMES + 1)
                events.append(asyncio.ensure_future(in_between(every, beside, **options)))
            if kill_at is not None:
                events.append(asyncio.ensure_future(world.kill(0, kill_at * bound_of(images))))
            if halve_at is not None:
                events.append(asyncio.ensure_future(world.halve(halve_at * bound_of(images))))
                withheld = HALVED_SECONDS / 2
            seconds = await world.until_settled(longest)
            spent = time.process_time() - began - sum(other.cpu_seconds for other in beside)
            found = world.checker.images.values()
            again = world.vendor.calls[IMAGE] - images
            figures = Figures(
                images=images,
                seconds=seconds,
                bound_seconds=bound_of(images + again) + withheld,
                bought_again=again,
                busiest=dict(world.vendor.busiest),
                throttled=world.vendor.throttled,
                failed=sum(image.state is not ImageState.COMPLETED for image in found),
                attempts=sum(image.attempts for image in found),
                cpu_seconds=spent,
                operations=dict(world.parts.database.operations),
                beside=tuple(beside),
            )
            for job in (running, *events):
                job.cancel()
            await asyncio.gather(running, *events, return_exceptions=True)
            return figures

        return runner.run(main())


WORLDS: Final = {
    "one worker": {},
    "four workers": {"workers": 4},
    "four workers, one killed": {"workers": 4, "kill_at": 0.5},
    "vendor halved for ten minutes": {"halve_at": 0.2},
}
# What happens in the middle of a batch, and when it does, decides how much it costs: shares of the bound.
MOMENTS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SEEDS: Final = ("makespan", "b", "c")


def worst_of(images: int, options: dict[str, Any]) -> Figures:
    """The worst of the runs at all moments and seeds; without anything that happens, of all seeds."""
    when = next((name for name in options if name.endswith("_at")), None)
    # A vendor that is halved until after the last call withholds less than the bound counts.
    last = 1 - (HALVED_SECONDS / 2 + 2 * WAY_SECONDS) / bound_of(images) if when == "halve_at" else 1.0
    cases = [options | ({when: moment} if when else {}) for moment in (MOMENTS if when else (0.0,)) if moment <= last]
    runs = [measure(images, **case, seed=seed) for case in cases for seed in SEEDS]
    return max(runs, key=lambda found: (found.failed, found.ratio))


def told(name: str, found: Figures) -> str:
    """A run in a few lines."""
    kinds = sorted(found.operations.items(), key=lambda kind: -kind[1])
    lines = [
        f"{name}: {found.images} images in {found.seconds / 60:.2f} min, bound {found.bound_seconds / 60:.2f} min",
        f"  makespan/bound {found.ratio:.4f}; were the first minute's quota spent at once {found.tight_ratio:.4f}",
        f"  busiest minute {found.busiest}, 429s {found.throttled}, failed {found.failed}, attempts {found.attempts}",
        f"  CPU {found.cpu_ms:.2f} ms an image; {found.operations_an_image:.1f} database operations an image",
        "  " + ", ".join(f"{kind} {count / found.images:.2f}" for kind, count in kinds if count >= found.images / 100),
    ]
    if found.beside:
        costs = sorted(other.cpu_ms for other in found.beside)
        mean = statistics.fmean(costs)
        operations = found.operations_an_image / found.beside[0].operations_an_image
        lines.append(
            f"  beside {len(costs)} batches of {BESIDE}, {mean:.2f} ms ({costs[0]:.2f} to {costs[-1]:.2f}):"
            f" CPU x {found.cpu_ms / mean:.3f}, operations x {operations:.3f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=BESIDE)
    parser.add_argument("--world", choices=list(WORLDS), help="only this one")
    parser.add_argument(
        "--worst", action="store_true", help=f"the worst of {len(MOMENTS)} moments and {len(SEEDS)} seeds"
    )
    parser.add_argument("--json", action="store_true", help="print figures and ratio by world instead")
    chosen = parser.parse_args()
    wrong, figures = False, {}
    for name, options in WORLDS.items():
        if chosen.world not in (None, name):
            continue
        if chosen.worst:
            found = worst_of(chosen.images, options)
        else:
            found = measure(chosen.images, compared=chosen.images > BESIDE, **options)  # type: ignore[arg-type]
        if chosen.json:
            figures[name] = msgspec.to_builtins(found) | {"ratio": found.ratio}
        else:
            print(told(name, found), flush=True)
        wrong = wrong or bool(found.failed) or (found.ratio > MAX_RATIO and not chosen.json)
    if chosen.json:
        print(json.dumps(figures))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
