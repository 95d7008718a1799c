"""Schedules: what chance would take thousands of seeds to find, told step by step. `python -m tests.simulation.scenarios`

Each is a world without random faults in which single port calls are held, and processes killed, at the worst moment;
the checker judges it as any other. `mutations.py` shows which rule each of them stands guard over.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from shared.cache import CacheEntry
from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.messages import Task, encode
from shared.model import Batch, BatchState, Image, ImageState, Tier
from shared.ports import Message
from shared.topology import DEAD_LETTER_TOPIC, topic_of
from tests.simulation.faults import Process
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
        super().__init__(world.faults)
        self._troubles = {f"/{index}.jpg": list(codes) for index, codes in troubles.items()}

    async def fetch(self, uri: str, client: str) -> bytes:
        data = await super().fetch(uri, client)
        for name, codes in self._troubles.items():
            if uri.endswith(name) and codes and (code := codes.pop(0)) is not None:
                if code is ErrorCode.SOURCE_UNAVAILABLE:
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

    async def until(self, what: Callable[[], Any]) -> None:
        """Wait until it is so. Raises `NotFollowed`."""
        for _ in range(int(PATIENCE_SECONDS * 2)):
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
    """An image is released with its picture, and the next with the same photo is a suspect: alone in its worker's hands.

    Nobody else can come in meanwhile, not even the image it waits for: the lead of what is paid must run out.
    """

    plan_of_all = msgspec.structs.replace(
        Schedule.plan_of_all,
        batches=(Wanted(name="b0", at=0.0, images=2, cache=True, photos=1),),
        outages=((40.0, 5.0, "5xx"),),  # when the picture is to be verified
    )

    async def play(self) -> None:
        publishing = self.hold(
            "ingest", "queue.publish", fits=lambda arguments, _: arguments[0] == topic_of(Tier.NORMAL)
        )
        await self.reached(publishing)
        suspect = lambda image: msgspec.structs.replace(image, crashes=2, revision=image.revision + 1)
        await self.store.change_image(ID, 1, suspect, "schedule")
        publishing.release()
        await self.until(lambda: (image := self.image(0)) is not None and image.attempts)
        await self.announced(1)


def is_closed(found: Any) -> bool:
    """Whether a batch has just been closed and not announced."""
    return isinstance(found, Batch) and found.state is BatchState.CLOSED and found.announced_round < found.round


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
    QueueThatGivesUp,
    StaleHandAsksForALead,
    SuspectBesideAPaidLead,
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
