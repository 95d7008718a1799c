"""Faults by seed: processes that die, and ports that fail, answer late, lose replies, repeat and shuffle.

Nothing of the product is touched: a process sees the world through `Port`s only. A killed process has its tasks
cancelled and every further call of its ports refused, so no `finally` of its can write anything.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Final

import msgspec

from shared.errors import ErrorCode, WorldError
from shared.ports import Delivery, Message
from shared.topology import CHANGES_TOPIC, EVENTS_TOPIC
from tests.clocks import EPOCH, VirtualLoop

PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
# The task being handled, and what has happened in that handling.
HAND: ContextVar[Hand | None] = ContextVar("hand", default=None)
# Idle pulls wait this much longer than they are asked to (yet less than the subscriber probes): fewer steps to run.
PULL_STRETCH: Final = 2.4
ECHO_SECONDS: Final = (10.0, 240.0)
# A clock is set right, more or less; once in a while it is set quite wrong.
SMALL_JUMP_SECONDS: Final = 3.0
LARGE_JUMP_SECONDS: Final = 60.0
LARGE_JUMPS: Final = 0.1  # of all jumps
TRACE_CALLS: Final = 5000
NOISE: Final = frozenset({"store.beat", "queue.extend"})
# What keeps a hand from writing down what it has done.
IN_THE_WAY: Final = frozenset({"before", "after", "crash"})
LATE_SECONDS: Final = 75.0  # above the longest stall of a port call

Key = tuple[str, int]  # an image's: batch and index


class Killed(BaseException):
    """The process died here: nothing after this line happens."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How likely each fault is, per call. All zero: none."""

    before: float = 0.0  # an error instead of the call
    after: float = 0.0  # an error although the call did its work
    crash: float = 0.0  # the process dies, before or after the call did its work
    lost_ack: float = 0.0
    duplicate: float = 0.0  # of published messages and change events
    echo: float = 0.0  # a published message comes once more, much later: rounds may have passed
    shuffle: float = 0.0
    delay: float = 0.0  # a change event is put back for a second or more
    slow: float = 0.0  # share of calls that take up to 5 s
    vendor: float = 0.0  # 5xx, time-outs, bad answers
    throttle: float = 0.0
    refuse: float = 0.0  # by safety
    low: float = 0.0  # verification finds the picture bad
    source: float = 0.0
    busy: float = 0.0  # a photo's host answers 429
    misconfigured: float = 0.0
    silent: float = 0.0  # of a heartbeat: none comes through for a while, though the worker lives and works on
    jump: float = 0.0  # the process's clock is set, forwards or back


class Crash(msgspec.Struct, frozen=True, kw_only=True):
    """One planned crash: at the n-th port call of the first process whose name begins so, before or after it."""

    process: str
    call: int
    after: bool


# A schedule's: what is asked before and after every call (process, call, arguments, result, after), and may hold it.
Gate = Callable[["Process", str, tuple[Any, ...], Any, bool], Awaitable[None]]


class Faults:
    """The seed's faults, what they have cost so far, and the trace of port calls."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, rates: Rates, crash: Crash | None = None) -> None:
        self.loop = loop
        self.chance = chance
        self.rates = rates
        self._likely = {name: rate for name, rate in msgspec.structs.asdict(rates).items() if rate}
        self.active = True
        self.crash = crash
        self.gate: Gate | None = None
        self.calls: dict[str, int] = {}  # port calls by process
        # (when, process, call, arguments, outcome), put into words only when somebody asks: results are frozen.
        self.trace: deque[tuple[float, str, str, tuple[Any, ...], Any]] = deque(maxlen=TRACE_CALLS)
        self.injected: dict[str, int] = {}
        self.traced_until = math.inf
        self.leapt_at = -math.inf  # when the backend's own clock was set last
        self._echoes: set[asyncio.Task[None]] = set()

    def happens(self, fault: str) -> bool:
        """Whether the fault strikes now; noted if it does."""
        if not self.active or fault not in self._likely or self.chance.random() >= self._likely[fault]:
            return False
        self.note(fault)
        return True

    def echo(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a queue repeat itself, whoever has died meanwhile."""
        PROCESS.set(None)
        task = self.loop.create_task(work)
        self._echoes.add(task)
        task.add_done_callback(self._echoes.discard)

    def note(self, fault: str) -> None:
        self.injected[fault] = self.injected.get(fault, 0) + 1
        hand, process = HAND.get(), PROCESS.get()
        if fault in IN_THE_WAY and hand is not None:
            hand.faults += 1
        if fault in IN_THE_WAY and process is not None:
            process.faults += 1

    def write(self, what: str, outcome: Any, arguments: tuple[Any, ...] = ()) -> None:
        """Note a call and what came of it."""
        if self.loop.time() > self.traced_until or outcome == [] or (outcome is None and what in NOISE):
            return
        process = PROCESS.get()
        if isinstance(outcome, list):
            outcome = tuple(outcome)  # those who asked for it may shuffle it
        self.trace.append((self.loop.time(), process.name if process else "-", what, arguments, outcome))

    def told(self, last: int) -> str:
        """The last calls, a line each."""
        return "\n".join(
            f"{at:10.3f} {who:12} {f'{what} {_brief(arguments)}':60} {_outcome(outcome)}"
            for at, who, what, arguments, outcome in [*self.trace][-last:]
        )


class Clock:
    """One process's clock: wall time is off by `skew` seconds, until it is set. See `shared.ports.Clock`."""

    def __init__(self, loop: VirtualLoop, name: str, seed: str, skew: float, epoch: float = EPOCH) -> None:
        self._loop, self._name, self._tokens = loop, name, 0
        self.random = random.Random(seed + name)
        self.skew = skew
        self._epoch = epoch
        self._earlier: list[tuple[float, float]] = []  # (until when, skew)

    def jump(self, skew: float) -> None:
        """Be off by so much from now on."""
        self._earlier.append((self._loop.time(), self.skew))
        self.skew = skew

    def fastest(self, since: float) -> float:
        """The most it was ahead at any moment since then."""
        return max([self.skew, *(skew for until, skew in self._earlier if until >= since)])

    def now(self) -> float:
        return self._epoch + self._loop.time() + self.skew

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def token(self) -> str:
        self._tokens += 1
        return f"{self._name}-{self._tokens}"


class Process:
    """Something that can be killed: the tasks started inside it, and whether it is dead."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.kind = name.partition(".")[0]
        self.clock = clock
        self.dead = False
        self.silent_until = 0.0
        self.faults = 0  # that its calls have met
        self.began = clock.monotonic()
        self.doing = ""  # what an operator has started it for
        self.sent: set[Key] = set()  # the images whose tasks it published
        self.halted_at = -math.inf  # a worker's last fault of our configuration, unless it is over
        self.stop: asyncio.Event | None = None  # set when a worker is to stop in good order
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        def start() -> asyncio.Task[Any]:
            PROCESS.set(self)
            return asyncio.get_running_loop().create_task(work)

        return copy_context().run(start)

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self.stop is not None and self.stop.is_set()

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Forget a task of its own that is done."""
        self.tasks.pop(task, None)

    def kill(self) -> None:
        """It does nothing more, in none of its tasks."""
        self.dead = True
        for task in [*self.tasks]:
            task.cancel()

    def check(self) -> None:
        if self.dead:
            raise Killed(self.name)


class Hand:
    """One handling of a task; after a halt the same delivery is in another one.

    `fence` is that of its claim. `faults` are those its calls have met, `bought` the pictures the vendor delivered.
    """

    def __init__(self, process: Process, key: Key, task_round: int, began: float) -> None:
        self.process, self.key, self.round, self.began = process, key, task_round, began
        self.fence: int | None = None
        self.faults = 0
        self.our_fault = False  # a fault of our own configuration: it may cost the image nothing
        self.refused = False  # by the vendor, as the image's own fault
        self.host_refused = False  # its photo's host asked to wait
        self.photo_failed = False  # its photo's host failed otherwise
        self.analysed = False
        self.spent = False  # an attempt
        self.unanswered: tuple[str, float, float, int] | None = (
            None  # the last call: model, begun, failed, faults by then
        )
        self.bought: list[Any] = []


def follow_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let every task know whose it is. Nobody is told of exceptions that dead processes' tasks keep."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        process = PROCESS.get()
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(process.ended)
            if process.dead:
                task.cancel()
        return task

    loop.set_task_factory(make)
    loop.set_exception_handler(lambda loop, context: None)


def _brief(arguments: tuple[Any, ...]) -> str:
    words = []
    for value in arguments:
        if isinstance(value, str | int | float):
            words.append(str(value))
        elif isinstance(value, list):
            words.append(f"{len(value)}x")
        elif isinstance(value, type):
            words.append(value.__name__)
    return " ".join(words)


def _outcome(result: Any) -> str:
    if isinstance(result, str):
        return result
    if isinstance(result, msgspec.Struct) and hasattr(result, "state"):
        fields = ("state", "round", "revision", "fence", "attempts", "control")
        return " ".join(f"{name[:3]}={getattr(result, name)}" for name in fields if hasattr(result, name))
    if isinstance(result, tuple):
        return f"{len(result)}x " + " ".join(d.ack_id for d in result if isinstance(d, Delivery))
    return "" if result is None else str(result)[:60]


class Port:
    """A port as one process sees it."""

    def __init__(self, port: Any, name: str, process: Process, faults: Faults) -> None:
        self._port, self._name, self._process, self._faults = port, name, process, faults
        self._chance = faults.chance

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if inspect.isasyncgenfunction(method):
            wrapped = self._iterated(name, method)
        elif inspect.iscoroutinefunction(method):
            wrapped = self._called(name, method)
        else:
            return method
        self.__dict__[name] = wrapped
        return wrapped

    def _called(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        extra = getattr(self, f"_do_{name}", None)

        what, faults, process = f"{self._name}.{name}", self._faults, self._process
        work = partial(extra, method) if extra else method

        async def call(*args: Any, **options: Any) -> Any:
            number = self._number(what)
            if faults.active:
                await self._before(what, args)
            if faults.gate is not None:
                await faults.gate(process, what, args, None, False)
            try:
                result = await work(*args, **options)
            except Exception as error:
                faults.write(what, f"raised {type(error).__name__}", args)
                self._crash_if_planned(number, after=True, what=what)
                raise
            faults.write(what, result, args)
            if faults.gate is not None:
                await faults.gate(process, what, args, result, True)
            process.check()
            self._crash_if_planned(number, after=True, what=what)
            if faults.active:
                await self._after(what, args)
            return result

        return call

    def _iterated(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        what, faults = f"{self._name}.{name}", self._faults

        async def iterate(*args: Any, **options: Any) -> AsyncIterator[Any]:
            number = self._number(what)
            if faults.active:
                await self._before(what, args)
            faults.write(what, "listed", args)
            async for item in method(*args, **options):
                yield item
            self._process.check()
            self._crash_if_planned(number, after=True, what=what)
            if faults.active:
                await self._after(what, args)

        return iterate

    def _number(self, what: str) -> int:
        """The call's number among those of its kind of process; a dead process makes none."""
        self._process.check()
        calls, kind = self._faults.calls, self._process.kind
        number = calls[kind] = calls.get(kind, 0) + 1
        self._crash_if_planned(number, after=False, what=what)
        return number

    async def _before(self, what: str, arguments: tuple[Any, ...]) -> None:
        faults = self._faults
        await self._pause()
        self._process.check()
        if faults.happens("crash"):
            self._die(what, "CRASH before", arguments)
        if faults.happens("jump"):
            most = LARGE_JUMP_SECONDS if self._chance.random() < LARGE_JUMPS else SMALL_JUMP_SECONDS
            self._process.clock.jump(self._chance.uniform(-most, most))
            faults.write(what, f"CLOCK off by {self._process.clock.skew:+.1f} s", arguments)
        if faults.happens("before"):
            faults.write(what, "FAULT before", arguments)
            raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "injected before")

    async def _after(self, what: str, arguments: tuple[Any, ...]) -> None:
        faults = self._faults
        if faults.happens("crash"):
            self._die(what, "CRASH after", arguments)
        if faults.happens("after"):
            faults.write(what, "FAULT after", arguments)
            raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "injected after")
        if self._chance.random() < 0.3:
            await self._pause()
            self._process.check()

    async def _pause(self) -> None:
        if self._faults.loop.time() < self._process.silent_until and self._chance.random() < 0.2:
            self._faults.note("stall")
            await asyncio.sleep(self._chance.uniform(0, 60))  # what it writes later is stale
        elif self._faults.happens("slow"):
            await asyncio.sleep(self._chance.uniform(0, 5))
        elif self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.uniform(0, 0.05))

    def _crash_if_planned(self, number: int, *, after: bool, what: str) -> None:
        plan = self._faults.crash
        if plan is None or plan.call != number or plan.after is not after or plan.process != self._process.kind:
            return
        self._faults.crash = None
        self._die(what, "CRASH planned " + ("after" if after else "before"))

    def _die(self, what: str, why: str, arguments: tuple[Any, ...] = ()) -> None:
        self._faults.write(what, why, arguments)
        self._process.faults += 1
        self._process.kill()
        raise Killed(self._process.name)

    async def _do_beat(self, method: Any, worker: Any) -> None:
        """A worker that others take for dead while it lives: what fences are for."""
        now = self._faults.loop.time()
        if self._faults.happens("silent"):
            self._process.silent_until = now + self._chance.uniform(15, 60)
        if self._faults.active and now < self._process.silent_until:
            raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "injected silence")
        await method(worker)

    # --- what queues may do

    async def _do_pull(self, method: Any, subscription: str, most: int, wait_seconds: float) -> list[Delivery]:
        found: list[Delivery] = await method(subscription, most, wait_seconds * PULL_STRETCH)
        if subscription != CHANGES_TOPIC or not found:
            return found
        if self._faults.happens("shuffle"):
            self._chance.shuffle(found)
        late = [delivery for delivery in found if self._faults.happens("delay")]
        if late:
            await self._port.nack(subscription, [delivery.ack_id for delivery in late])
        return [d for d in found if d not in late for _ in range(2 if self._faults.happens("duplicate") else 1)]

    async def _do_publish(self, method: Any, topic: str, messages: list[Message]) -> None:
        sent = [m for m in messages for _ in range(2 if self._faults.happens("duplicate") else 1)]
        if self._faults.happens("shuffle"):
            self._chance.shuffle(sent)
        await method(topic, sent)
        late = [m for m in messages if self._faults.happens("echo")] if topic != EVENTS_TOPIC else []
        if late:
            self._faults.loop.call_later(self._chance.uniform(*ECHO_SECONDS), self._echo, method, topic, late)

    def _echo(self, method: Any, topic: str, messages: Sequence[Message]) -> None:
        """Nobody's doing: at least once is at most never."""
        self._faults.write("queue.publish", "ECHO", (topic, *(message.data for message in messages)))
        copy_context().run(self._faults.echo, method(topic, messages))

    async def _do_ack(self, method: Any, subscription: str, ack_ids: list[str]) -> None:
        kept = [ack_id for ack_id in ack_ids if not self._faults.happens("lost_ack")]
        await method(subscription, kept)
