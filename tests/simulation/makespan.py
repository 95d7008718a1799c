"""How close a thousand images come to the vendor's own bound. `python -m tests.simulation.makespan` prints all worlds.

The bound: the busiest model's calls divided by its quota, plus one image's way. Everything is the product's own but the
vendor, who enforces the limits exactly.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import msgspec

from shared.model import ImageState
from tests.clocks import VirtualLoop
from tests.simulation.world import Plan, Wanted, World

TEXT_A_MINUTE: Final = 120
IMAGE_A_MINUTE: Final = 60
WAY_SECONDS: Final = 50.0
IN_FLIGHT: Final = 100
LONGEST_SECONDS: Final = 6 * 3600.0


class Figures(msgspec.Struct, frozen=True):
    """What a run came to. `busiest` are the most calls in any rolling minute, by model."""

    images: int
    seconds: float
    bound_seconds: float
    busiest: dict[str, int]
    throttled: int
    failed: int
    attempts: int

    @property
    def ratio(self) -> float:
        return self.seconds / self.bound_seconds


class Factory(World):
    """A world without faults whose vendor's latencies differ by a tenth from call to call."""

    def _seconds(self, step: str) -> float:
        return (30.0 if step == "generate" else 10.0) * self.chance.uniform(0.9, 1.1)

    async def kill(self, slot: int, at: float) -> None:
        """Kill the worker that stands at this place."""
        await asyncio.sleep(at)
        for process in self.alive:
            if process.name.startswith(f"worker{slot}.") and not process.dead:
                process.kill()

    async def halve(self, at: float, seconds: float) -> None:
        """The vendor lets in half for a while."""
        await asyncio.sleep(at)
        usual = dict(self.vendor.limits)
        self.vendor.limits = {model: limit // 2 for model, limit in usual.items()}
        await asyncio.sleep(seconds)
        self.vendor.limits = usual

    async def until_settled(self) -> float:
        """When the batch was announced."""
        while self.loop.time() < LONGEST_SECONDS:
            await asyncio.sleep(0.5)
            batches = list(self.checker.batches.values())
            if batches and all(batch.announced_round for batch in batches):
                break
        return self.loop.time()


def measure(images: int, workers: int = 1, *, kill_at: float | None = None, halve_at: float | None = None) -> Figures:
    """Stage a batch of so many images; optionally kill a worker or halve the vendor's limits for ten minutes."""
    plan = Plan(
        batches=(Wanted(name="b0", at=0.0, images=images),),
        workers=workers,
        in_flight=IN_FLIGHT // workers,
        limits=(TEXT_A_MINUTE, IMAGE_A_MINUTE),
        stormy_seconds=LONGEST_SECONDS,
    )
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def main() -> Figures:
            world = Factory(loop, "makespan", plan)
            world.faults.active = False
            running = asyncio.ensure_future(world.run())
            events = []
            if kill_at is not None:
                events.append(asyncio.ensure_future(world.kill(0, kill_at)))
            if halve_at is not None:
                events.append(asyncio.ensure_future(world.halve(halve_at, 600.0)))
            seconds = await world.until_settled()
            found = world.checker.images.values()
            figures = Figures(
                images=images,
                seconds=seconds,
                bound_seconds=images / IMAGE_A_MINUTE * 60.0 + WAY_SECONDS,
                busiest=dict(world.vendor.busiest),
                throttled=world.vendor.throttled,
                failed=sum(image.state is not ImageState.COMPLETED for image in found),
                attempts=sum(image.attempts for image in found),
            )
            for job in (running, *events):
                job.cancel()
            await asyncio.gather(running, *events, return_exceptions=True)
            return figures

        return runner.run(main())


WORLDS: Final = {
    "one worker": {},
    "four workers": {"workers": 4},
    "four workers, one killed": {"workers": 4, "kill_at": 300.0},
    "vendor halved for ten minutes": {"halve_at": 200.0},
}


def main() -> int:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, options in WORLDS.items():
        found = measure(images, **options)  # type: ignore[arg-type]
        print(
            f"{name}: {images} images in {found.seconds / 60:.2f} min, bound {found.bound_seconds / 60:.2f},"
            f" ratio {found.ratio:.4f}; busiest minute {found.busiest}, 429s {found.throttled},"
            f" failed {found.failed}, attempts {found.attempts}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
