"""Workers killed again and again, and pictures that kill their worker: who is blamed. `python -m tests.simulation.kills`

A healthy image may never be; a deadly one is, after so many deaths, and the images beside it are staged.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import sys
from functools import partial
from typing import Any, Final

import msgspec

from shared.errors import ErrorCode
from shared.model import ImageState
from shared.ports import Finished, Photo
from tests.simulation.faults import Process
from tests.simulation.scenarios import Schedule
from tests.simulation.vendor import Pictures
from tests.simulation.world import Plan, Wanted, World, simulate

IMAGES: Final = 60
KILLS: Final = 200
LONGEST_SECONDS: Final = 100_000.0


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """What a world is like: how often workers are killed (a mean, in seconds; 0: never), and what there is to stage.

    `deadly` are images that kill their worker, `at` which step. `one_machine`: each life knows at once that the one
    before is dead. `picture_seconds` is what a picture takes at each step.
    """

    every: float = 0.0
    kills: int = KILLS
    images: int = IMAGES
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
            batches=(Wanted(name="b0", at=0.0, images=self.images),),
            workers=self.workers,
            in_flight=self.in_flight,
            slowness=self.slowness,
            stormy_seconds=LONGEST_SECONDS,
        )


class DeadlyPictures(Pictures):
    """Pictures that take their time, and some that kill the worker that decodes them."""

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
    """See the module."""

    storm = Storm()
    deaths = 0  # of deadly pictures
    kills = 0

    def _seconds(self, step: str) -> float:
        return World._seconds(self, step)

    def pictures(self, process: Process) -> Pictures:
        return DeadlyPictures(self, process)

    async def work(self, process: Process, stop: asyncio.Event) -> None:
        if self.storm.one_machine:
            await self.parts.store.take_over()
            self.checker.taken_over()
        await super().work(process, stop)

    def is_over(self) -> bool:
        return self.batch is not None and self.batch.announced_round > 0

    async def play(self) -> None:
        while self.storm.every and self.kills < self.storm.kills and not self.is_over():
            await asyncio.sleep(self.chance.expovariate(1 / self.storm.every))
            living = [process for process in self.alive if process.kind.startswith("worker") and not process.dead]
            if living:
                self.chance.choice(living).kill()
                self.kills += 1
        await self.until(self.is_over, LONGEST_SECONDS - self.loop.time())
        self.judge()

    def judge(self) -> None:
        for image in self.checker.images.values():
            blamed = image.error is not None and image.error.code == ErrorCode.WORKER_CRASHED
            if blamed is not (image.index in self.storm.deadly):
                self.blame(f"image {image.index} is {image.state}: {image.error}, {image.trials}")
            if not blamed and (image.state is not ImageState.COMPLETED or image.attempts):
                self.blame(f"image {image.index} is {image.state} after {image.attempts} attempts")


def storm_of(seed: int, deadly: int = 0) -> Storm:
    chance = random.Random(f"{seed}/storm")
    one_machine = chance.random() < 0.5
    return Storm(
        every=chance.choice([1.0, 3.0, 8.0, 20.0, 40.0, 80.0]),
        deadly=tuple(random.Random(seed).sample(range(IMAGES), deadly)),
        at=chance.choice(["prepare", "finish"]),
        one_machine=one_machine,
        workers=1 if one_machine else chance.choice([1, 2, 3]),
        in_flight=chance.choice([4, 12, 50]),
        picture_seconds=chance.choice([0.2, 1.0, 3.0]),
        slowness=chance.choice([0.02, 0.2, 1.0]),
    )


def told(seed: int, deadly: int, quiet: bool) -> Any:
    storm = storm_of(seed, deadly)
    if quiet:
        storm = msgspec.structs.replace(storm, every=0.0)
    kind = type("Seeded", (Stormy,), {"storm": storm})
    world = simulate(f"storm {seed}", storm.plan(), kind)
    last = max((image.settled_at or 0) - world.epoch for image in world.checker.images.values())
    healthy = max(
        (image.settled_at or 0) - world.epoch
        for image in world.checker.images.values()
        if image.index not in storm.deadly
    )
    most = max(
        (image.trials.deaths, image.trials.in_a_row)
        for image in world.checker.images.values()
        if image.index not in storm.deadly
    )
    row = max(image.trials.in_a_row for image in world.checker.images.values() if image.index not in storm.deadly)
    return (
        seed,
        storm,
        world.kills,
        world.deaths,
        round(healthy),
        round(last),
        most,
        row,
        world.followed,
        world.checker.violations[:3],
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:20")
    parser.add_argument("--deadly", type=int, default=0)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    first, last = map(int, chosen.seeds.split(":"))
    bad = 0
    with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
        for t in pool.imap(partial(told, deadly=chosen.deadly, quiet=chosen.quiet), range(first, last)):
            s = t[1]
            bad += bool(t[-1]) or not t[-2]
            print(
                t[0],
                f"every={s.every} one={s.one_machine} w={s.workers} inf={s.in_flight} pic={s.picture_seconds} slow={s.slowness} at={s.at} d={s.deadly}",
                "kills",
                t[2],
                "deaths",
                t[3],
                "healthy done",
                t[4],
                "all",
                t[5],
                "most",
                t[6],
                "row",
                t[7],
                t[8],
                t[9],
                flush=True,
            )
    print("bad", bad)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
