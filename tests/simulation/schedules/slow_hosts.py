"""Schedules about photo hosts that ask to slow down."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from typing import Any, Final

import msgspec

from shared.errors import ErrorCode, WorldError
from shared.model import ImageState
from shared.worker.hosts import HostLedger
from tests.simulation.faults import Process
from tests.simulation.hosts import PhotoHost
from tests.simulation.plan import Wanted
from tests.simulation.schedules.schedule import ID, SOON_SECONDS, Schedule

SLOW: Final = "slow.example"
FREE: Final = "free.example"


class OneHost(Schedule):
    """Forty photos of a host without a limit: what they take beside others in `TwoHosts` is measured by this."""

    IMAGES: Final = 40
    SECONDS: Final = 51.0  # three calls of 50 s in all, and the pull
    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=IMAGES, hosts=(FREE,)),), in_flight=50
    )

    async def play(self) -> None:
        await self.announced(1)
        self.judge()

    def judge(self) -> None:
        """Every image waited at most, and those of the host without a limit took no longer than without the others."""
        self.only_waited()
        self.free_seconds = self.last_settled(FREE)
        if self.free_seconds > self.max_seconds():
            self.blame(f"the last of {FREE} was finished after {self.free_seconds:.1f} s, not {self.max_seconds():.1f}")

    def max_seconds(self) -> float:
        return self.SECONDS

    def last_settled(self, host: str) -> float:
        """When the last image of that host was settled, seconds from the beginning."""
        mine = [image for image in self.checker.images.values() if f"//{host}/" in image.source]
        return max(image.settled_at or math.inf for image in mine) - self.epoch


class TwoHosts(OneHost):
    """Forty photos of a host that lets in three in twelve seconds, and forty of another, in turn."""

    plan_of_all = msgspec.structs.replace(
        OneHost.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=2 * OneHost.IMAGES, hosts=(SLOW, FREE)),),
        hosts=(PhotoHost(name=SLOW, photos=3, seconds=12.0),),
    )
    MAX_SECONDS = 360.0  # 13 times 12 s, a photo's way, and the margins that waits are given

    def max_seconds(self) -> float:
        return 1.1 * self.SECONDS

    async def play(self) -> None:
        await self.announced(1)
        self.judge()
        await self.attempts_as_told()
        self.slow_seconds = self.last_settled(SLOW)
        if self.slow_seconds > self.MAX_SECONDS:
            self.blame(f"the last of {SLOW} was finished after {self.slow_seconds:.1f} s")

    async def attempts_as_told(self) -> None:
        """What customers read: one attempt each."""
        (completion,) = self.checker.completions.values()
        bucket, _, name = (
            json.loads(completion[0])["reports"]["results.jsonl"]["uri"].removeprefix("memory://").partition("/")
        )
        got = await self.parts.objects.get(bucket, name)
        assert got is not None
        told = [json.loads(line)["attempts"] for line in got[1].splitlines()]
        if told != [1] * (2 * self.IMAGES):
            self.blame(f"results.jsonl tells of attempts {told}")


class TwoHostsUnnamed(TwoHosts):
    """The same, of a host that names no wait: ten seconds are tried first, and then twenty."""

    MAX_SECONDS = 500.0

    plan_of_all = msgspec.structs.replace(
        TwoHosts.plan_of_all, hosts=(PhotoHost(name=SLOW, photos=3, seconds=12.0, says="nothing"),)
    )


class TwoHostsFourWorkers(TwoHosts):
    """The same, with four workers."""

    plan_of_all = msgspec.structs.replace(TwoHosts.plan_of_all, workers=4, in_flight=13)


class HostsWaitIsEverybodys(OneHost):
    """One worker is refused and told to wait for two minutes; another that comes later keeps to it as well."""

    plan_of_all = msgspec.structs.replace(
        OneHost.plan_of_all,
        batches=(
            Wanted(name="b0", at=0.0, images=6, hosts=(SLOW,)),
            Wanted(name="b1", at=45.0, images=12, hosts=(SLOW, FREE)),
        ),
        hosts=(PhotoHost(name=SLOW, photos=4, seconds=120.0),),
        workers=2,
        in_flight=6,
    )

    def max_seconds(self) -> float:
        return 45.0 + 1.1 * self.SECONDS

    async def play(self) -> None:
        late = self.hold("worker1", "queue.pull", every=True)
        await self.until(lambda: self.loop.time() >= 40.0)
        late.release()
        await self.until(lambda: len(self.checker.batches) == 2)
        await self.until(lambda: all(batch.announced_round for batch in self.checker.batches.values()))
        self.judge()


class StoreAwayWhenAHostRefuses(OneHost):
    """The fleet cannot be told of a host's refusals for a minute: they are kept to all the same, at no attempt."""

    AWAY_SECONDS: Final = 60.0
    plan_of_all = msgspec.structs.replace(
        OneHost.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=40, hosts=(SLOW,)),),
        hosts=(PhotoHost(name=SLOW, photos=3, seconds=12.0),),
    )

    def max_seconds(self) -> float:
        return math.inf

    def last_settled(self, host: str) -> float:
        return super().last_settled(SLOW)

    async def _gate(self, process: Process, call: str, arguments: tuple[Any, ...], result: Any, after: bool) -> None:
        await super()._gate(process, call, arguments, result, after)
        if call == "store.change_record" and arguments[0] is HostLedger and self.loop.time() < self.AWAY_SECONDS:
            raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "as the schedule has it")


class TurnThatCannotBeUsed(OneHost):
    """All slots are taken by images that wait for the vendor, and a host's turn comes: it is given back in time."""

    plan_of_all = msgspec.structs.replace(
        OneHost.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=40, hosts=(SLOW, FREE)),),
        hosts=(PhotoHost(name=SLOW, photos=2, seconds=20.0),),
        in_flight=6,
        outages=((0.0, 400.0, "5xx"),),
    )

    def max_seconds(self) -> float:
        return math.inf


class Parked(OneHost):
    """Thirty images wait for their host, which lets in five in twenty seconds."""

    PARKED: Final = 30
    plan_of_all = msgspec.structs.replace(
        OneHost.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=PARKED + 5, hosts=(SLOW,)),),
        hosts=(PhotoHost(name=SLOW, photos=5, seconds=20.0),),
        in_flight=50,
    )

    def max_seconds(self) -> float:
        return math.inf

    async def all_wait(self) -> Process:
        """Wait until thirty images are parked; the worker that keeps them."""
        await self.until(lambda: self.hosts.parked >= self.PARKED)
        return next(process for process in self.alive if process.kind == "worker0" and not process.dead)

    async def all_staged(self, seconds: float) -> None:
        """Every image is staged, and in time."""
        await self.announced(1)
        self.only_waited()
        if any(image.crashes for image in self.checker.images.values() if image.index >= 5):
            self.blame("what only waited was counted as a crash")
        if self.loop.time() > seconds:
            self.blame(f"finished after {self.loop.time():.0f} s")


class KilledWhileImagesWait(Parked):
    """Their worker is killed."""

    async def play(self) -> None:
        (await self.all_wait()).kill()
        await self.all_staged(500.0)


class StoppedWhileImagesWait(Parked):
    """Their worker is stopped in good order."""

    async def play(self) -> None:
        worker = await self.all_wait()
        assert worker.stop is not None
        worker.stop.set()
        await self.all_staged(500.0)


class PausedWhileImagesWait(Parked):
    """Their batch is paused, for shorter than they wait, or for longer."""

    async def play(self) -> None:
        await self.all_wait()
        for seconds in (3.0, 90.0):
            await self.operator(lambda rooms: rooms.operator.pause(ID))
            await asyncio.sleep(seconds)
            await self.operator(lambda rooms: rooms.operator.resume(ID))
            await asyncio.sleep(3.0)
        await self.all_staged(600.0)


class CancelledWhileImagesWait(Parked):
    """Their batch is cancelled: it closes at once, and their messages are gone when their turns come."""

    async def play(self) -> None:
        await self.all_wait()
        cancelled_at = self.loop.time()
        await self.operator(lambda rooms: rooms.operator.cancel(ID))
        await self.announced(1)
        if self.loop.time() > cancelled_at + SOON_SECONDS:
            self.blame(f"closed {self.loop.time() - cancelled_at:.0f} s after it was cancelled")
        states = Counter(image.state for image in self.checker.images.values())
        if states[ImageState.CANCELLED] < self.PARKED:
            self.blame(f"cancelled while {self.PARKED} images waited, and became {dict(states)}")


class ReplayedWhileImagesWait(Parked):
    """A batch is replayed while the images of another wait for the host of both."""

    plan_of_all = msgspec.structs.replace(
        Parked.plan_of_all,
        batches=(
            Wanted(name="b0", at=0.0, images=2, hosts=(SLOW,)),
            Wanted(name="b1", at=0.5, images=Parked.PARKED + 5, hosts=(SLOW,)),
        ),
    )
    troubles = {0: [ErrorCode.SOURCE_NOT_FOUND], 1: [ErrorCode.SOURCE_NOT_FOUND]}

    async def play(self) -> None:
        await self.all_wait()
        await self.announced(1)
        await self.replay()
        await self.announced(2)
        await self.until(lambda: all(batch.announced_round for batch in self.checker.batches.values()))
