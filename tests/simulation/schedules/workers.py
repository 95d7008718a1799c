"""Schedules about workers: stale ones, dead ones, and those that stand still with something in hand."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from shared.decisions.quota import Ledger
from shared.errors import ErrorCode
from shared.messages import Task, encode
from shared.model import ImageState, Tier, Trials
from shared.ports import Message
from shared.topology import DEAD_LETTER_TOPIC, topic_of
from shared.worker.cache import CacheEntry
from tests.simulation.plan import Wanted
from tests.simulation.schedules.schedule import ID, SOON_SECONDS, Held, NotFollowed, Schedule


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
