"""Schedules about vendors: away, slow, hanging, spent for the day."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from shared.model import Image
from shared.settings import WorkerLimits
from tests.simulation.faults import Process
from tests.simulation.plan import Wanted
from tests.simulation.schedules.schedule import ID, Schedule
from tests.simulation.world import World


class DaysQuotaSpent(Schedule):
    """The vendor's day is spent with the first picture: the other images wait until midnight, at no attempt."""

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=3),), workers=2, daily=1, midnight=600.0
    )

    async def play(self) -> None:
        await self.until(lambda: self.loop.time() >= self.plan.midnight)
        if self.vendor.answered_steps("generate") != self.plan.daily:
            self.checker.blame(f"{self.vendor.answered_steps('generate')} pictures were bought in a day")
        await self.announced(1)
        self.only_waited()


class PauseAmidAnOutage(Schedule):
    """The vendor fails for minutes, and the batch is paused before the probe is due: it is granted, and not made."""

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=8),), outages=((0.0, 240.0, "5xx"),)
    )

    async def play(self) -> None:
        await self.until(lambda: self.checker.waiting.open_since)
        await self.operator(lambda rooms: rooms.operator.pause(ID))
        await asyncio.sleep(90.0)
        await self.operator(lambda rooms: rooms.operator.resume(ID))
        await self.announced(1)
        self.only_waited()


class VendorThatHangs(Schedule):
    """The vendor lets every call hang until it times out, for minutes; two workers wait for the end of it."""

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=12),),
        workers=2,
        outages=((0.0, 200.0, "hang"),),
    )

    async def play(self) -> None:
        await self.until(lambda: self.checker.waiting.open_since)
        await self.announced(1)
        self.only_waited()


class TimeOutsAfterTheEnd(Schedule):
    """Calls that hang in an outage time out when it is over, and others have been answered: they only wait as well."""

    MAX_SECONDS: Final = 300.0  # the outage, a probe, and the usual way
    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=12), Wanted(name="b1", at=50.0, images=6)),
        in_flight=24,
        outages=((0.0, 65.0, "hang"),),
    )

    def _seconds(self, step: str) -> float:
        return World._seconds(self, step)

    async def play(self) -> None:
        await self.until(lambda: len(self.checker.batches) == 2)
        await self.until(lambda: all(batch.announced_round for batch in self.checker.batches.values()))
        self.only_waited()
        if self.loop.time() > self.MAX_SECONDS:
            self.blame(f"finished after {self.loop.time():.0f} s: the outage was prolonged by those that it had met")


class OneImageThroughAnOutage(Schedule):
    """The vendor fails for a minute and a half, and one image is all there is: too few calls to open the circuit."""

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=1),), outages=((0.0, 90.0, "5xx"),)
    )

    async def play(self) -> None:
        await self.announced(1)
        self.only_waited()


class AnswerToldLate(Schedule):
    """A worker tells of an answer from before an outage in the midst of it: that answers no failure since."""

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=1), Wanted(name="b1", at=35.0, images=1)),
        workers=2,
        in_flight=1,
        outages=((30.0, 60.0, "5xx"),),
    )

    async def play(self) -> None:
        await self.until(lambda: len(self.checker.batches) == 2)
        await self.until(lambda: all(batch.announced_round for batch in self.checker.batches.values()))
        self.only_waited()


class OnePhotoTheVendorCannotDraw(Schedule):
    """One photo's call fails whenever it is made, and those of another worker are answered: that is no outage."""

    IMAGES: Final = 300
    SECONDS: Final = 120.0
    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=IMAGES),), workers=2, in_flight=50
    )

    def _seconds(self, step: str) -> float:
        return World._seconds(self, step)  # else they would all be answered at one moment of every minute

    def worker_limits(self, process: Process) -> WorkerLimits:
        """The photo's worker has nothing else, and gets no answer of its own."""
        limits = super().worker_limits(process)
        return msgspec.structs.replace(limits, in_flight=1) if process.kind == "worker0" else limits

    def lonely(self) -> Image | None:
        """The image that `worker0` has claimed."""
        images = self.checker.images.values()
        return next((i for i in images if i.claim is not None and i.claim.worker.startswith("worker-worker0.")), None)

    async def play(self) -> None:
        await self.until(self.lonely)
        image = self.lonely()
        assert image is not None
        self.vendor.spoilt = {b"b0-%d" % image.index}
        await self.until(lambda: self.vendor.answered_steps("generate"))
        await asyncio.sleep(self.SECONDS)
        found = self.image(image.index)
        assert found is not None
        if not found.attempts:
            self.blame(f"image {found.index} is {found.state}, no attempt spent, and its call has only ever failed")
        self.vendor.spoilt = set()  # alone at the end, it would be retried for hours, as in an outage
        await self.announced(1)


class CreditsSpentForADay(Schedule):
    """The vendor's credits are spent for a day: pulling halts, operators are told all the time, and it goes on by itself."""

    DAY: Final = 86_400.0
    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=20),),
        outages=((0.0, DAY, "credits"),),
        stormy_seconds=DAY + 4000.0,
    )

    async def play(self) -> None:
        await self.until(lambda: self.loop.time() >= self.DAY, self.DAY + 10.0)
        told, pauses = self.bugs.told["configuration_fault"], self.DAY / self.settings.worker.halt_seconds
        if not 0.9 * pauses <= told <= 1.1 * pauses:
            self.blame(f"{told} lines tell of the fault, where there were {pauses:.0f} pauses")
        if self.vendor.answers:
            self.blame(f"{self.vendor.answers} calls were answered without credits")
        await self.announced(1)
        self.only_waited()
        if self.loop.time() > self.DAY + 240.0:
            self.blame(f"finished {self.loop.time() - self.DAY:.0f} s after there were credits again")
