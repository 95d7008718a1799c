"""Schedules about rounds: closers and replays that sleep, die and meet."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.errors import ErrorCode
from shared.model import Batch, BatchState
from tests.simulation.schedules.schedule import FAILS_ONCE, Schedule


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


def is_closed(found: Any) -> bool:
    """Whether a batch has just been closed and not announced."""
    return isinstance(found, Batch) and found.state is BatchState.CLOSED and found.announced_round < found.round
