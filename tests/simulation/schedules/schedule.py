"""What a schedule is made of: a world in which single port calls are held, and processes killed, as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.messages import Task, encode
from shared.model import Batch, Image, ImageState, Tier
from shared.ports import Message
from shared.topology import topic_of
from tests.simulation.faults import Process
from tests.simulation.loop import SimulationLoop
from tests.simulation.plan import Plan, Wanted
from tests.simulation.vendor import Source
from tests.simulation.world import World

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
