"""Schedules: what chance would take thousands of seeds to find, told step by step. `python -m tests.simulation.scenarios`

Each is a world without random faults in which single port calls are held, and processes killed, at the worst moment;
the checker judges it as any other. `mutations.py` shows which rule each of them stands guard over.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from shared.decisions.quota import Ledger
from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.messages import Task, encode
from shared.model import Batch, BatchState, Image, ImageState, Tier, Trials
from shared.ports import Message
from shared.settings import WorkerLimits
from shared.topology import CHANGES_TOPIC, DEAD_LETTER_TOPIC, topic_of
from shared.worker.cache import CacheEntry
from shared.worker.hosts import HostLedger
from tests.simulation.faults import Process
from tests.simulation.hosts import PhotoHost
from tests.simulation.loop import SimulationLoop
from tests.simulation.vendor import Source
from tests.simulation.world import Plan, Wanted, World, simulate

ID: Final = "acme.b0"
PATIENCE_SECONDS: Final = 900.0  # what a schedule waits for at most: under a mutation it may never come
SOON_SECONDS: Final = 60.0  # a message comes again within it; reconcile, which finds what has none, takes far longer

Fits = Callable[[tuple[Any, ...], Any], bool]


class NotFollowed(Exception):
    """What the schedule waits for does not happen."""


class Held:
    """A port call that waits, before or after it did its work, until it is released or its process killed."""

    def __init__(self, kind: str, call: str, *, after: bool, fits: Fits, every: bool) -> None:
        self.kind, self.call, self.after, self.fits, self.every = kind, call, after, fits, every
        self.reached, self._released = asyncio.Event(), asyncio.Event()
        self.processes: list[Process] = []

    async def wait(self, process: Process) -> None:
        self.processes.append(process)
        self.reached.set()
        await self._released.wait()

    @property
    def open(self) -> bool:
        """Whether the next such call is to be held."""
        return not self._released.is_set() and (self.every or not self.processes)

    def release(self) -> None:
        self._released.set()

    def kill(self) -> None:
        """Whoever waits here dies at this very place."""
        for process in self.processes:
            process.kill()
        self.release()


class Photos(Source):
    """Photos that cannot be had in certain rounds: `troubles` are the errors of an index's fetches, one after another."""

    def __init__(self, world: World, troubles: dict[int, list[ErrorCode | None]]) -> None:
        super().__init__(world.faults, world.hosts)
        self._troubles = {f"/{index}.jpg": list(codes) for index, codes in troubles.items()}

    async def fetch(self, uri: str, client: str) -> bytes:
        data = await super().fetch(uri, client)
        for name, codes in self._troubles.items():
            if uri.endswith(name) and codes and (code := codes.pop(0)) is not None:
                if code is ErrorCode.SOURCE_UNAVAILABLE:
                    self._hosts.failed()
                    raise WorldError(code, "as the schedule has it")
                raise ImageRejected(code, "as the schedule has it")
        return data


class Schedule(World):
    """A world without random faults; `script` is what happens, `followed` whether it came to its end."""

    plan_of_all = Plan(stormy_seconds=4000.0, batches=(Wanted(name="b0", at=0.0, images=2),), consumers=2, in_flight=12)
    troubles: dict[int, list[ErrorCode | None]] = {}

    def __init__(self, loop: SimulationLoop, seed: str, plan: Plan) -> None:
        super().__init__(loop, seed, plan)
        self.faults.active = False
        self.faults.gate = self._gate
        self.source = Photos(self, self.troubles)
        self._held: list[Held] = []
        self.followed = False

    def _seconds(self, step: str) -> float:
        return (30.0 if step == "generate" else 10.0) * self.plan.slowness

    async def _gate(self, process: Process, call: str, arguments: tuple[Any, ...], result: Any, after: bool) -> None:
        for held in self._held:
            if held.open and (held.kind, held.call, held.after) == (process.kind, call, after):
                if held.fits(arguments, result):
                    await held.wait(process)
                    process.check()

    def hold(
        self,
        kind: str,
        call: str,
        *,
        after: bool = False,
        fits: Fits = lambda arguments, result: True,
        every: bool = False,
    ) -> Held:
        """Hold the next such call of that kind of process, or every one until the release."""
        self._held.append(Held(kind, call, after=after, fits=fits, every=every))
        return self._held[-1]

    async def until(self, what: Callable[[], Any], patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until it is so. Raises `NotFollowed`."""
        for _ in range(int(patience_seconds * 2)):
            if what():
                return
            await asyncio.sleep(0.5)
        raise NotFollowed

    async def reached(self, held: Held) -> None:
        """Wait until somebody waits there. Raises `NotFollowed`."""
        await self.until(held.reached.is_set)

    async def announced(self, round_announced: int) -> None:
        await self.until(lambda: self.batch is not None and self.batch.announced_round >= round_announced)

    @property
    def batch(self) -> Batch | None:
        return self.checker.batches.get(ID)

    def image(self, index: int = 0) -> Image | None:
        return self.checker.images.get((ID, index))

    async def operator(self, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> bool:
        """Something an operator starts, to its end; whether it came to it."""
        return await self.once("operator", lambda process: work(self.rooms(process)))

    async def replay(self, *codes: str) -> bool:
        return await self.operator(lambda rooms: rooms.replay.run(ID, codes))

    async def deliver(self, index: int, task_round: int) -> None:
        """The task of that round once more, out of the blue."""
        task = Task(batch=ID, index=index, round=task_round, tier=Tier.NORMAL)
        await self.parts.queue.publish(topic_of(Tier.NORMAL), [Message(encode(task))])

    def only_waited(self) -> None:
        """Waiting is never failing."""
        for image in self.checker.images.values():
            if image.state is not ImageState.COMPLETED or image.attempts:
                told = f"image {image.index} is {image.state} after {image.attempts} attempts: it only waited"
                self.checker.blame(told)

    async def script(self) -> None:
        try:
            await self.play()
            self.followed = True
        except NotFollowed:
            self.faults.write("SCHEDULE", "cannot be followed")
        for held in self._held:
            held.release()
        self.may_end.set()

    async def play(self) -> None:
        """What happens, in order. Raises `NotFollowed` when the world takes another turn."""
        raise NotImplementedError("each schedule says what happens")


FAILS_ONCE: Final = {0: [ErrorCode.SOURCE_NOT_FOUND]}


class OldTaskAmidAReplay(Schedule):
    """A replay of one error code dies before it publishes; then the task of the older round comes once more.

    Claimed with it, the image would fail in the new round with another code, and its letter would name the old one: no
    letter would tell of the failure, for the replay carried on has no reason to requeue it.
    """

    troubles = {0: [ErrorCode.SOURCE_NOT_FOUND, ErrorCode.NOT_A_PICTURE]}

    async def play(self) -> None:
        await self.announced(1)
        publishing = self.hold("operator", "queue.publish")
        replaying = asyncio.ensure_future(self.replay(ErrorCode.SOURCE_NOT_FOUND.value))
        await self.reached(publishing)
        publishing.kill()
        await replaying
        await self.deliver(0, task_round=1)
        await asyncio.sleep(150.0)  # the dead replay's lease is over
        await self.replay(ErrorCode.SOURCE_NOT_FOUND.value)
        await self.announced(2)


class CloserAsleepAfterItsSum(Schedule):
    """A closer that found nothing open sleeps while another closes the batch and a replay opens it again."""

    troubles = FAILS_ONCE

    async def play(self) -> None:
        summed = self.hold("aggregate", "store.open_images", after=True, fits=lambda _, found: found[0] == 0)
        await self.reached(summed)
        await self.operator(lambda rooms: rooms.reconcile.run())
        await self.announced(1)
        await self.replay()
        summed.release()
        await self.announced(2)


class ReplayAmidAClosing(Schedule):
    """A replay is started while the reports are being written: it has to come again when the batch is closed."""

    troubles = FAILS_ONCE

    async def play(self) -> None:
        writing = self.hold("aggregate", "objects.put", fits=lambda arguments, _: "/round-1/" in arguments[1])
        await self.reached(writing)
        await self.replay()
        writing.release()
        await self.announced(1)
        await self.replay()
        await self.announced(2)


class CloserDeadBeforeItAnnounces(Schedule):
    """The closer dies between closed and announced, and nobody does anything: the event it was at comes again."""

    async def play(self) -> None:
        closing = self.hold("aggregate", "store.change_batch", after=True, fits=lambda _, batch: is_closed(batch))
        await self.reached(closing)
        closing.kill()
        await self.announced(1)


class ReplayOfWhatIsNotAnnounced(Schedule):
    """The closer dies between closed and announced, and an operator replays the batch at once."""

    troubles = FAILS_ONCE

    async def play(self) -> None:
        closing = self.hold("aggregate", "store.change_batch", after=True, fits=lambda _, batch: is_closed(batch))
        await self.reached(closing)
        closing.kill()
        await self.replay()
        await self.announced(2)


class ReplayWithLateEvents(Schedule):
    """A replay comes to its end before AGGREGATE hears of any of its requeues."""

    troubles = FAILS_ONCE

    async def play(self) -> None:
        await self.announced(1)
        late = self.hold("aggregate", "queue.pull", every=True)
        await self.reached(late)
        await asyncio.sleep(5.0)  # both consumers wait there
        await self.replay()
        await asyncio.sleep(1.0)
        late.release()
        await self.announced(2)


class ReplayCarriedOnWithLateEvents(Schedule):
    """A replay dies after its first requeue, and is carried on before AGGREGATE hears of that."""

    troubles = {0: [ErrorCode.SOURCE_NOT_FOUND], 1: [ErrorCode.SOURCE_NOT_FOUND]}

    async def play(self) -> None:
        await self.announced(1)
        late = self.hold("aggregate", "queue.pull", every=True)
        await self.reached(late)
        await asyncio.sleep(5.0)
        requeued = self.hold("operator", "store.change_image", after=True)
        replaying = asyncio.ensure_future(self.replay())
        await self.reached(requeued)
        requeued.kill()
        await replaying
        await asyncio.sleep(150.0)
        await self.replay()
        await asyncio.sleep(1.0)
        late.release()
        await self.announced(2)


class Workers(Schedule):
    """Two workers, of which the first can be made to seem dead while it lives."""

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all, workers=2, batches=(Wanted(name="b0", at=0.0, images=1),)
    )

    def holder(self) -> str:
        """The kind of process that holds the image."""
        image = self.image()
        assert image is not None and image.claim is not None
        return image.claim.worker.split("-")[1].partition(".")[0]

    def silence(self, kind: str) -> tuple[Held, Held]:
        """From now on neither its heartbeats nor its extensions come through."""
        return self.hold(kind, "store.beat", every=True), self.hold(kind, "queue.extend", every=True)

    async def claimed(self, fence: int) -> str:
        """Wait for the claim with that fence; whose it is."""
        await self.until(lambda: (image := self.image()) is not None and image.claim and image.fence >= fence)
        return self.holder()


class StaleWriterOfADocument(Workers):
    """A worker taken for dead settles its image while its successor is at it."""

    async def play(self) -> None:
        first = await self.claimed(1)
        # its last write, when the picture is public
        settling = self.hold(first, "store.change_image", fits=lambda *_: self.vendor.answered_steps("verify") > 0)
        await self.reached(settling)
        silent, deaf = self.silence(first)
        await self.claimed(2)
        settling.release()
        await asyncio.sleep(5.0)
        silent.release()
        deaf.release()
        await self.announced(1)


class StaleWriterOfAnObject(Workers):
    """A worker taken for dead writes its picture when its successor has settled the image with another."""

    async def play(self) -> None:
        first = await self.claimed(1)
        writing = self.hold(first, "objects.put", fits=lambda arguments, _: "/images/" in arguments[1])
        await self.reached(writing)
        silent, deaf = self.silence(first)
        await self.announced(1)
        writing.release()
        await asyncio.sleep(5.0)
        silent.release()
        deaf.release()


class HolderDiesAfterItsMessageCameAgain(Workers):
    """The message of an image in hand comes to another worker too, and then the holder dies: it must come again."""

    async def play(self) -> None:
        first = await self.claimed(1)
        working = self.hold(first, "store.change_image", fits=lambda *_: self.vendor.answered_steps("verify") > 0)
        deaf = self.hold(first, "queue.extend", every=True)
        await self.reached(working)
        await asyncio.sleep(25.0)  # its lease has run out, and the other worker has found the image held
        working.kill()
        deaf.release()
        died = self.loop.time()
        await self.until(lambda: self.loop.time() >= died + SOON_SECONDS)
        if (image := self.image()) is not None and image.fence < 2:
            self.checker.blame(f"{SOON_SECONDS:.0f} s after its holder died nobody has taken the image")
        await self.announced(1)


class LongWaitBesideADuplicate(Schedule):
    """Images wait for quota for two thirds of an hour while copies of their tasks come again and again."""

    IMAGES: Final = 40
    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=IMAGES),),
        limits=(6, 1),
        in_flight=2 * IMAGES,
        stormy_seconds=8000.0,
    )

    async def play(self) -> None:
        await self.until(
            lambda: sum(i.state is ImageState.PROCESSING for i in self.checker.images.values()) == self.IMAGES
        )
        for index in range(self.IMAGES):
            await self.deliver(index, task_round=1)
        for _ in range(4):
            try:
                await self.announced(1)
                break
            except NotFollowed:
                continue
        self.only_waited()


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


class GrantedToAWorkerThatStandsStill(Schedule):
    """The answer with a whole minute's rights is four seconds late: calls would count in the next minute, with its own."""

    A_MINUTE: Final = 4
    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=4 * A_MINUTE),),
        workers=2,
        limits=(600, A_MINUTE),
    )

    async def play(self) -> None:
        def all_granted(arguments: tuple[Any, ...], result: Any) -> bool:
            return isinstance(result, Ledger) and sum(count for _, count in result.grants) == self.A_MINUTE

        late = [self.hold(kind, "store.change_record", after=True, fits=all_granted) for kind in ("worker0", "worker1")]
        await self.until(lambda: any(held.reached.is_set() for held in late))
        await asyncio.sleep(4.0)
        for held in late:
            held.release()
        await self.announced(1)
        self.only_waited()


class QueueThatGivesUp(Schedule):
    """The queue has delivered a task too often while its image has attempts left: DEAD LETTER sends a fresh one."""

    troubles = {0: [ErrorCode.SOURCE_UNAVAILABLE]}

    async def play(self) -> None:
        await self.until(lambda: (image := self.image()) is not None and image.attempts)
        task = Task(batch=ID, index=0, round=1, tier=Tier.NORMAL)
        await self.parts.queue.publish(DEAD_LETTER_TOPIC, [Message(encode(task))])
        await self.announced(1)


class StaleHandAsksForALead(Workers):
    """A worker taken for dead asks for its image's cache entry when its successor leads it: the lead stays there."""

    plan_of_all = msgspec.structs.replace(
        Workers.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=1, cache=True),)
    )

    async def play(self) -> None:
        asking = {
            kind: self.hold(kind, "store.change_record", fits=lambda arguments, _: arguments[0] is CacheEntry)
            for kind in ("worker0", "worker1")
        }
        first = await self.claimed(1)
        for kind in asking.keys() - {first}:
            asking[kind].release()
        await self.reached(asking[first])
        silent, deaf = self.silence(first)
        await self.claimed(2)
        await asyncio.sleep(5.0)
        asking[first].release()
        await asyncio.sleep(5.0)
        silent.release()
        deaf.release()
        await self.announced(1)


class SuspectBesideAPaidLead(Schedule):
    """An image is released with its picture, and the next with the same photo is a suspect, alone to its end.

    Nobody else can come in meanwhile, not even the image it waits for: the lead of what is paid must run out.
    """

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=2, cache=True, photos=1),),
        outages=((40.0, 5.0, "bad"),),  # when the picture is to be verified
    )

    async def play(self) -> None:
        publishing = self.hold(
            "ingest", "queue.publish", fits=lambda arguments, _: arguments[0] == topic_of(Tier.NORMAL)
        )
        await self.reached(publishing)
        suspect = lambda image: msgspec.structs.replace(
            image, crashes=2, trials=Trials(passed=2), revision=image.revision + 1
        )
        await self.store.change_image(ID, 1, suspect, "schedule")
        publishing.release()
        await self.until(lambda: (image := self.image(0)) is not None and image.attempts)
        await self.announced(1)


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


# --- photo hosts that ask to slow down

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


def is_closed(found: Any) -> bool:
    """Whether a batch has just been closed and not announced."""
    return isinstance(found, Batch) and found.state is BatchState.CLOSED and found.announced_round < found.round


class Forgotten(Schedule):
    """One image, and a thief who takes messages away for good, as a queue does that loses them."""

    plan_of_all = msgspec.structs.replace(Schedule.plan_of_all, batches=(Wanted(name="b0", at=0.0, images=1),))

    async def steal(self, subscription: str) -> int:
        """Take away all that waits there; how many messages it was."""
        taken = await self.parts.queue.pull(subscription, 100, 0.0)
        await self.parts.queue.ack(subscription, [delivery.ack_id for delivery in taken])
        return len(taken)

    async def reconcile(self) -> None:
        def work(process: Process) -> Coroutine[Any, Any, Any]:
            process.doing = "reconcile"
            return self.rooms(process).reconcile.run()

        await self.once("operator", work)


class PublishedAgainAndNobodyLooks(Forgotten):
    """A task is lost and published again, and its worker does not look into the queue for an hour."""

    async def play(self) -> None:
        asleep = self.hold("worker0", "queue.pull", every=True)
        await self.until(lambda: self.batch is not None and self.batch.state is BatchState.PROCESSING)
        await asyncio.sleep(60.0)
        assert await self.steal(topic_of(Tier.NORMAL)) == 1
        asleep.release()
        looks = lambda: self.checker.tasks.looks(Tier.NORMAL)
        await self.until(lambda: len(looks()) == 2 and looks()[0] > self.epoch + 60.0)
        asleep = self.hold("worker0", "queue.pull", every=True)
        await asyncio.sleep(PATIENCE_SECONDS)
        await self.reconcile()
        if await self.parts.queue.waiting(topic_of(Tier.NORMAL)) != 1:
            self.checker.blame("the lost task was not published again")
        await asyncio.sleep(2 * PATIENCE_SECONDS)
        await self.reconcile()  # half an hour later: the task waits, and nobody has looked
        asleep.release()
        await self.announced(1)


class NewsLostBehindARun(Forgotten):
    """A worker's last write is slow: a run of reconcile begins after its time and before it is seen; its event is lost."""

    async def play(self) -> None:
        settling = self.hold("worker0", "store.change_image", fits=lambda *_: self.vendor.answered_steps("verify") > 0)
        await self.reached(settling)
        deaf = self.hold("aggregate", "queue.pull", every=True)
        await asyncio.sleep(20.0)  # AGGREGATE has folded what came before
        await self.reconcile()
        settling.release()
        await self.until(lambda: (image := self.image()) is not None and image.state is ImageState.COMPLETED)
        await self.steal(CHANGES_TOPIC)
        deaf.release()
        await asyncio.sleep(SOON_SECONDS)
        await self.reconcile()
        if self.batch is None or self.batch.state is not BatchState.CLOSED:
            self.checker.blame("reconcile did not find what moved just before its last run")
        await self.announced(1)


SCENARIOS: Final[tuple[type[Schedule], ...]] = (
    OldTaskAmidAReplay,
    CloserAsleepAfterItsSum,
    ReplayAmidAClosing,
    CloserDeadBeforeItAnnounces,
    ReplayOfWhatIsNotAnnounced,
    ReplayWithLateEvents,
    ReplayCarriedOnWithLateEvents,
    StaleWriterOfADocument,
    StaleWriterOfAnObject,
    HolderDiesAfterItsMessageCameAgain,
    LongWaitBesideADuplicate,
    DaysQuotaSpent,
    PauseAmidAnOutage,
    VendorThatHangs,
    TimeOutsAfterTheEnd,
    GrantedToAWorkerThatStandsStill,
    QueueThatGivesUp,
    StaleHandAsksForALead,
    SuspectBesideAPaidLead,
    OneImageThroughAnOutage,
    AnswerToldLate,
    OnePhotoTheVendorCannotDraw,
    CreditsSpentForADay,
    OneHost,
    TwoHosts,
    TwoHostsUnnamed,
    TwoHostsFourWorkers,
    HostsWaitIsEverybodys,
    StoreAwayWhenAHostRefuses,
    TurnThatCannotBeUsed,
    KilledWhileImagesWait,
    StoppedWhileImagesWait,
    PausedWhileImagesWait,
    CancelledWhileImagesWait,
    ReplayedWhileImagesWait,
    PublishedAgainAndNobodyLooks,
    NewsLostBehindARun,
)


def play(scenario: type[Schedule]) -> Schedule:
    """The schedule played and judged."""
    return simulate(scenario.__name__, scenario.plan_of_all, scenario)


def main() -> int:
    wrong = 0
    for scenario in SCENARIOS:
        world = play(scenario)
        wrong += bool(world.checker.violations) or not world.followed
        told = world.checker.violations or ["well" if world.followed else "NOT FOLLOWED"]
        print(f"{scenario.__name__}: {told[0]}", flush=True)
        if "--trace" in sys.argv and told != ["well"]:
            print(world.faults.told(400))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
