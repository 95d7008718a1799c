"""Schedules about messages that are lost for good, and found by reconcile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from shared.model import BatchState, ImageState, Tier
from shared.topology import CHANGES_TOPIC, topic_of
from tests.simulation.faults import Process
from tests.simulation.plan import Wanted
from tests.simulation.schedules.schedule import PATIENCE_SECONDS, SOON_SECONDS, Schedule


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
