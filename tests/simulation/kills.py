"""Workers killed again and again, and photos that kill them: who is blamed. `python -m tests.simulation.kills --seeds 0:100`

A healthy image may never be blamed, whatever kills its workers. A deadly one is, after at most so many deaths, and the
images beside it are staged. Photos and pictures take their time here, so that kills meet them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import sys
from typing import Final

import msgspec

from shared.errors import ErrorCode
from shared.model import Image, ImageState
from shared.ports import Finished, Photo
from tests.simulation.faults import Process
from tests.simulation.loop import SimulationLoop
from tests.simulation.plan import Plan, Wanted
from tests.simulation.schedules.schedule import Schedule
from tests.simulation.vendor import Pictures
from tests.simulation.world import World, simulate

IMAGES: Final = 60
KILLS: Final = 200
MAX_SECONDS: Final = 100_000.0
# Until a deadly picture is blamed, by the step it kills at; no kill of another cause beside it.
MAX_DEATHS: Final = {"prepare": 8, "finish": 12}


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """What happens: a kill `every` so many seconds (in the mean; 0: never), and images that are `deadly` at a step.

    `one_machine`: as `ruum-batch run` has it, each life knows at once that the one before is dead; else several workers
    may live side by side, and are taken for dead by their heartbeats. `picture_seconds` are those of each picture step.
    """

    every: float = 0.0
    deadly: tuple[int, ...] = ()
    at: str = "prepare"
    one_machine: bool = False
    workers: int = 1
    in_flight: int = 12
    picture_seconds: float = 0.5
    slowness: float = 1.0

    def plan(self) -> Plan:
        return msgspec.structs.replace(
            Schedule.plan_of_all,
            batches=(Wanted(name="b0", at=0.0, images=IMAGES),),
            workers=self.workers,
            in_flight=self.in_flight,
            slowness=self.slowness,
            stormy_seconds=MAX_SECONDS,
            minimum_sample=2 * IMAGES,  # many failures must not pause the batch: they are to be seen
        )


class SlowPictures(Pictures):
    """Pictures that take their time, and those that kill the worker that decodes them."""

    def __init__(self, world: Stormy, process: Process) -> None:
        self._world, self._process = world, process

    async def _decode(self, photo: bytes, step: str) -> None:
        storm = self._world.storm
        await asyncio.sleep(storm.picture_seconds)
        if step == storm.at and int(photo.rpartition(b"-")[2]) in storm.deadly:
            self._world.deaths += 1
            self._process.kill()
            self._process.check()

    async def normalise(self, data: bytes) -> Photo:
        await self._decode(data, "prepare")
        return await super().normalise(data)

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        await self._decode(photo.jpeg, "finish")
        return await super().finish(picture, photo)


class Stormy(Schedule):
    """One batch of sixty images, until it is closed; see the module."""

    storm = Storm()

    def __init_subclass__(cls) -> None:
        cls.plan_of_all = cls.storm.plan()

    def __init__(self, loop: SimulationLoop, seed: str, plan: Plan) -> None:
        super().__init__(loop, seed, plan)
        self.kills = 0
        self.deaths = 0  # by deadly pictures

    def _seconds(self, step: str) -> float:
        return World._seconds(self, step)

    def pictures(self, process: Process) -> Pictures:
        return SlowPictures(self, process)

    async def work(self, process: Process, stop: asyncio.Event) -> None:
        if self.storm.one_machine:
            await self.parts.store.take_over()
            self.checker.taken_over()
        await super().work(process, stop)

    def is_over(self) -> bool:
        return self.batch is not None and self.batch.announced_round > 0

    async def play(self) -> None:
        while self.storm.every and self.kills < KILLS and not self.is_over():
            await asyncio.sleep(self.chance.expovariate(1 / self.storm.every))
            living = [process for process in self.alive if process.kind.startswith("worker") and not process.dead]
            if living:
                self.chance.choice(living).kill()
                self.kills += 1
        await self.until(self.is_over, MAX_SECONDS - self.loop.time())
        self.judge()

    def judge(self) -> None:
        """The deadly are blamed, after as many deaths as is said; all others are staged, and no attempt was spent."""
        for image in self.checker.images.values():
            blamed = image.error is not None and image.error.code == ErrorCode.WORKER_CRASHED
            if blamed is not (image.index in self.storm.deadly):
                self.blame(f"image {image.index} is {image.state}: {image.error}, {image.trials}")
            elif not blamed and (image.state is not ImageState.COMPLETED or image.attempts):
                self.blame(
                    f"image {image.index} is {image.state} after {image.attempts} attempts: its workers only died"
                )
        if not self.storm.every and self.deaths > MAX_DEATHS[self.storm.at] * len(self.storm.deadly):
            self.blame(f"{self.deaths} workers died until {len(self.storm.deadly)} images were blamed")

    def healthy(self) -> list[Image]:
        return [image for image in self.checker.images.values() if image.index not in self.storm.deadly]

    def seconds(self, images: list[Image]) -> float:
        """When the last of them was settled."""
        return max(image.settled_at or 0.0 for image in images) - self.epoch


class TwoHundredKills(Stormy):
    """Every 20 s: time enough for trials, and not enough to end most of them."""

    storm = Storm(every=20.0, one_machine=True)


class TwoHundredKillsWithinMinutes(Stormy):
    """Every second, as it happened on a loaded machine: a photo is prepared for most of the time that a worker lives."""

    storm = Storm(every=1.0, one_machine=True, picture_seconds=1.0)


class TwoHundredKillsOfAFleet(Stormy):
    """Three workers, any of which is killed."""

    storm = Storm(every=10.0, workers=3, in_flight=12)


class Undisturbed(Stormy):
    """Nothing dies: what the images beside a deadly one take in `DeadlyPhoto` is measured by this."""

    storm = Storm(in_flight=50)


class DeadlyPhoto(Stormy):
    """A photo kills whoever decodes it, fifty images beside it at first. It fails alone; the others are staged."""

    storm = Storm(in_flight=50, deadly=(20,))
    HEALTHY_SECONDS: Final = 4 * 105.0  # four times what it takes undisturbed: two lives are lost with all they had
    MAX_SECONDS: Final = 600.0

    def judge(self) -> None:
        super().judge()
        healthy, all_of_them = self.seconds(self.healthy()), self.seconds([*self.checker.images.values()])
        if healthy > self.HEALTHY_SECONDS or all_of_them > self.MAX_SECONDS:
            self.blame(f"the healthy images took {healthy:.0f} s, all of them {all_of_them:.0f} s")


class DeadlyPicture(DeadlyPhoto):
    """The vendor's picture of it kills whoever finishes it: its photo passes two trials before it is alone to the end."""

    storm = Storm(in_flight=50, deadly=(20,), at="finish")
    HEALTHY_SECONDS: Final = 6 * 105.0
    MAX_SECONDS: Final = 1200.0


class DeadlyPhotoAmidKills(Stormy):
    """Both at once, in a fleet of two."""

    storm = Storm(every=30.0, workers=2, deadly=(7,))


STORMS: Final[tuple[type[Stormy], ...]] = (
    TwoHundredKills,
    TwoHundredKillsWithinMinutes,
    TwoHundredKillsOfAFleet,
    Undisturbed,
    DeadlyPhoto,
    DeadlyPicture,
    DeadlyPhotoAmidKills,
)


# --- storms by seed


def storm_of(seed: int) -> Storm:
    """Every third seed's storm has a deadly picture too, and every ninth's nothing else."""
    chance = random.Random(f"{seed}/storm")
    one_machine = chance.random() < 0.5
    return Storm(
        every=0.0 if seed % 9 == 0 else chance.choice([1.0, 3.0, 8.0, 20.0, 40.0, 80.0]),
        one_machine=one_machine,
        workers=1 if one_machine else chance.choice([1, 2, 3]),
        in_flight=chance.choice([4, 12, 50]),
        picture_seconds=chance.choice([0.2, 1.0, 3.0]),
        slowness=chance.choice([0.02, 0.2, 1.0]),
        at=chance.choice(["prepare", "finish"]),
        deadly=(chance.randrange(IMAGES),) if seed % 3 == 0 else (),
    )


def blow(seed: int) -> Stormy:
    """The seed's storm, played and judged."""
    kind: type[Stormy] = type("Seeded", (Stormy,), {"storm": storm_of(seed)})
    world = simulate(f"storm {seed}", kind.plan_of_all, kind)
    if not world.followed:
        world.blame("the storm did not come to its end")
    return world


class Told(msgspec.Struct, frozen=True):
    """What a storm came to, as one process tells another."""

    seed: int
    kills: int
    deaths: int
    healthy_seconds: float
    lone_deaths: int  # of the healthy image that had most
    in_a_row: int
    violations: tuple[str, ...]


def told(seed: int) -> Told:
    """`blow` for another process."""
    world = blow(seed)
    healthy = world.healthy()
    return Told(
        seed,
        world.kills,
        world.deaths,
        world.seconds(healthy),
        max(image.trials.deaths for image in healthy),
        max(image.trials.in_a_row for image in healthy),
        tuple(world.checker.violations),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="first:last, the last not included")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    first, last = (int(part) for part in chosen.seeds.split(":"))
    done: list[Told] = []
    with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
        for storm in pool.imap(told, range(first, last)):
            done.append(storm)
            said = "; ".join(storm.violations[:3]) or "well"
            print(f"{storm.seed} {storm_of(storm.seed)}: {storm.kills} kills, {storm.deaths} deaths by pictures,"
                  f" healthy images staged after {storm.healthy_seconds:.0f} s, at most {storm.lone_deaths} lone deaths,"
                  f" {storm.in_a_row} in a row: {said}", flush=True)  # fmt: skip
    failed = [storm.seed for storm in done if storm.violations]
    print(f"{len(done)} storms, {sum(storm.kills for storm in done)} kills, {sum(storm.kills == KILLS for storm in done)}"
          f" with all {KILLS}; of a healthy image at most {max(storm.lone_deaths for storm in done)} lone deaths,"
          f" {max(storm.in_a_row for storm in done)} in a row; failed: {failed}")  # fmt: skip
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
