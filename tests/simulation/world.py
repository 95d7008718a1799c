"""One seed's world: processes on the real rooms and the in-memory backend, first with faults, then without."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from shared import messages
from shared.assembly import wiring
from shared.assembly.worker import EmptyTiers
from shared.decisions.quota import Ledger
from shared.errors import RuumError
from shared.manifest.sources import SourceRules
from shared.model import OPEN_STATES, Batch, BatchState, Control, Tier
from shared.ports import Backend, Delivery
from shared.settings import CacheRules, Price, Settings, ThresholdRules, WorkerLimits
from shared.topology import CHANGES_TOPIC, DEAD_LETTER_DOOR, DEAD_LETTER_KEPT, topic_of
from shared.worker.heartbeat import Heartbeat
from shared.worker.hosts import HostLedger
from shared.worker.subscriber import Subscriber, consume
from tests.clocks import EPOCH
from tests.simulation.checker import Checker, task_of
from tests.simulation.faults import HAND, Clock, Faults, Hand, Killed, Port, Process, follow_tasks
from tests.simulation.hosts import END_SECONDS, Hosts
from tests.simulation.loop import SimulationLoop
from tests.simulation.plan import MALFORMED, Plan, Wanted
from tests.simulation.taps import TappedObjects, TappedQueue, TappedStore
from tests.simulation.vendor import IMAGE, TEXT, Model, Pictures, Source, Vendor

RECONCILE_SECONDS: Final = 900.0
MAX_LIVENESS_SECONDS: Final = 4 * 3600.0
LOOK_SECONDS: Final = 10.0
UNLIMITED: Final = 1_000_000  # calls a minute
ENOUGH_VIOLATIONS: Final = 20  # of a world that is thoroughly broken nothing more is to be learnt
TRACED_CALM_SECONDS: Final = 2000.0  # who is stuck by then does nothing new
MIDNIGHT: Final = EPOCH + 23 * 3600.0  # in California, where the vendor's days end
OWED: Final = (*(topic_of(tier) for tier in Tier), CHANGES_TOPIC, DEAD_LETTER_DOOR)


class Bugs(logging.Handler):
    """Tells the checker of exceptions that the product logged and that nobody meant; counts the loud lines by event."""

    def __init__(self, blame: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._blame = blame
        self.told: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.told[str(record.__dict__.get("fields", {}).get("event", ""))] += 1
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, (RuumError, Killed)):
            self._blame(f"bug logged: {record.getMessage()}: {error!r}")


class World:
    """See the module. `run` answers the checker's violations."""

    def __init__(self, loop: SimulationLoop, seed: str, plan: Plan) -> None:
        self.seed, self.plan, self.loop = seed, plan, loop
        self.chance = random.Random(f"{seed}/world")
        self.faults = Faults(loop, random.Random(f"{seed}/faults"), plan.rates, plan.crash)
        limits = plan.limits_of()
        a_minute = {model: limit.per_minute or UNLIMITED for model, limit in limits.items()}
        at_once = {model: limit.concurrent for model, limit in limits.items() if limit.concurrent}
        self.vendor = Vendor(
            self.faults, a_minute, self._seconds, plan.daily, plan.midnight, at_once, outages=plan.outages
        )
        self.bugs = Bugs(self.blame)
        self.epoch = MIDNIGHT - plan.midnight if plan.daily else EPOCH
        self.checker = Checker(self.faults, self.vendor, self.epoch)
        self.hosts = self.checker.hosts = Hosts(self.faults, plan.hosts, self.checker.blame)
        self.checker.living = self.living
        self.settings = Settings(
            limits=limits,
            prices=dict.fromkeys((TEXT, IMAGE), Price(input_usd=1.0, output_usd=1.0)),
            worker=WorkerLimits(in_flight=plan.in_flight),
            threshold=ThresholdRules(minimum_sample=plan.minimum_sample),
            cache=CacheRules(poll_seconds=5.0),
        )
        # Leases, backoff and quotas are by the backend's clock; claims and the leases in documents by the processes'.
        self.server = Clock(loop, "server", seed, 0.0, self.epoch)
        self.checker.server = self.server
        self.parts = wiring.embedded(self.server)
        self.store = TappedStore(self.parts.store, self.checker)
        self.queue = TappedQueue(self.parts.queue, self.checker)
        self.objects = TappedObjects(self.parts.objects, self.checker)
        self.calm = asyncio.Event()
        self.over = asyncio.Event()
        self.may_end = asyncio.Event()  # the storm, before its time
        self._names: dict[str, int] = {}
        self._taken_in: set[str] = set()
        self.closed_after = 0.0
        self.calm_calls: dict[str, int] = {}  # port calls by kind of process until the calm
        self.alive: list[Process] = []
        self.source = Source(self.faults, self.hosts, plan.rejected)

    def blame(self, text: str) -> None:
        """Something is wrong."""
        self.checker.blame(text)

    def _seconds(self, step: str) -> float:
        usual = 30.0 if step == "generate" else 10.0
        return usual * self.plan.slowness * self.chance.uniform(0.5, 1.5)

    # --- processes

    def process(self, kind: str) -> Process:
        number = self._names[kind] = self._names.get(kind, 0) + 1
        name = f"{kind}.{number}"
        skew = self.chance.uniform(-self.plan.skew, self.plan.skew)
        return Process(name, Clock(self.loop, name, self.seed, skew, self.epoch))

    def backend(self, process: Process) -> Backend:
        named = {"store": self.store, "queue": self.queue, "objects": self.objects}
        return Backend(**{name: Port(port, name, process, self.faults) for name, port in named.items()})

    def rooms(self, process: Process) -> wiring.Rooms:
        rules = lambda stored: SourceRules(base="gs://intake/" + stored.name.rpartition("/")[0] + "/")
        return wiring.rooms(self.backend(process), process.clock, self.settings, rules, folder_is_client=True)

    async def once(self, kind: str, work: Callable[[Process], Coroutine[Any, Any, Any]]) -> bool:
        """Run something in a process of its own; whether it came to its end. A bug of the product is noted."""
        process = self.process(kind)
        self.alive = [*(known for known in self.alive if not known.dead), process]
        job = process.spawn(work(process))
        await asyncio.wait({job})
        died, process.dead = process.dead, True
        process.kill()
        if job.cancelled():
            return False
        error = job.exception()
        if error is not None and not isinstance(error, (RuumError, Killed)):
            self.checker.blame(f"{process.name} raised {error!r}")
        return error is None and not died

    async def keep_alive(self, kind: str, work: Callable[[Process], Coroutine[Any, Any, Any]]) -> None:
        while not self.over.is_set():
            await self.once(kind, work)
            await asyncio.sleep(self.chance.uniform(1, 40) if self.faults.active else 1.0)

    # --- what the processes do

    async def work(self, process: Process, stop: asyncio.Event) -> None:
        """As `shared.assembly.worker.work`, with fakes for what is outside."""
        process.stop = stop
        backend = self.backend(process)
        heartbeat = Heartbeat(backend.store, process.clock, self.settings.worker.heartbeat_seconds)
        room = wiring.stage_image(
            backend,
            process.clock,
            self.settings,
            heartbeat=heartbeat,
            source=self.source,
            pictures=self.pictures(process),
            model=Model(self.vendor, self.faults),
        )

        async def handle(delivery: Delivery) -> Any:
            task = messages.decode(messages.Task, delivery.data)
            hand = Hand(process, (task.batch, task.index), task.round, self.loop.time())
            HAND.set(hand)
            self.hosts.handled(delivery)
            answer = await room.handle(delivery)
            self.checker.put_down(hand, answer.action.value, delivery)
            self.faults.write(f"handled {delivery.ack_id} {task.batch}/{task.index}", str(answer.action.value))
            return answer

        empties = EmptyTiers(backend.store, process.clock)
        subscriber = Subscriber(
            backend.queue, handle, process.clock, self.worker_limits(process), lambda reason: None, empties.note
        )
        await heartbeat.beat()
        background = [asyncio.create_task(heartbeat.run()), asyncio.create_task(empties.run())]
        try:
            await subscriber.run(stop, 5.0)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await heartbeat.stop()

    def pictures(self, process: Process) -> Pictures:
        """What a worker decodes and writes pictures with."""
        return Pictures()

    def worker_limits(self, process: Process) -> WorkerLimits:
        """How a worker shares its time: all the same, but where a schedule has it otherwise."""
        return self.settings.worker

    async def worker(self, slot: int) -> None:
        """A worker's place: killed or stopped workers are followed by new ones."""
        while not self.over.is_set() and not (slot and self.calm.is_set()):
            stop = asyncio.Event()
            ends = [asyncio.ensure_future(self._stop_some_time(stop, slot))]
            await self.once(f"worker{slot}", partial(self.work, stop=stop))
            ends[0].cancel()
            await asyncio.sleep(self.chance.uniform(1, 40) if self.faults.active else 1.0)

    async def _stop_some_time(self, stop: asyncio.Event, slot: int) -> None:
        """Some workers are stopped in good order; when the storm is over one worker is enough."""
        if self.plan.rates.crash and self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.uniform(10, 90))
        elif slot:
            await self.calm.wait()
        else:
            return
        stop.set()

    async def aggregate(self, process: Process) -> None:
        rooms = self.rooms(process)

        async def handle(delivery: Delivery) -> None:
            await rooms.aggregate.handle(messages.decode(messages.ImageChanged, delivery.data))

        await consume(self.backend(process).queue, CHANGES_TOPIC, handle, clock=process.clock, max_messages=8)

    async def dead_letter(self, process: Process) -> None:
        rooms = self.rooms(process)

        async def handle(delivery: Delivery) -> None:
            process.sent.clear()
            await rooms.dead_letter.handle(delivery.data, delivery.attributes)
            task = task_of(delivery.data, delivery.attributes)
            if task is not None:
                self.checker.tasks.letter(process, (task.batch, task.index), task.round)

        await consume(self.backend(process).queue, DEAD_LETTER_DOOR, handle, clock=process.clock, max_messages=4)

    async def ingest(self, wanted: Wanted) -> None:
        """A manifest is dropped; its event comes until it was handled, and now and then once more."""
        await asyncio.sleep(wanted.at)
        photos = [index % wanted.photos if wanted.photos else index for index in range(wanted.images)]
        manifest = {
            "batchId": wanted.name,
            "clientName": "acme",
            "designStyle": "modern",
            "roomType": "bedroom",
            "priority": wanted.tier.value,
            "cache": wanted.cache,
            "images": [
                {"url": f"https://{wanted.hosts[i % len(wanted.hosts)]}/{wanted.name}-{p}/{i}.jpg"}
                for i, p in enumerate(photos)
            ],
        }
        await self._drop(f"manifests/acme/{wanted.name}.json", json.dumps(manifest).encode())

    async def ingest_malformed(self, at: float, which: str) -> None:
        """Nothing may come of it but one rejection."""
        await asyncio.sleep(at)
        name = f"manifests/acme/{which}"
        self.checker.malformed.add(self.parts.objects.uri("intake", name))
        await self._drop(name, MALFORMED[which])

    async def _drop(self, name: str, content: bytes) -> None:
        await self.parts.objects.put("intake", name, content, content_type="application/json")
        handle = lambda process: self.rooms(process).ingest.handle("intake", name)
        while not await self.once("ingest", handle):
            await asyncio.sleep(self.chance.uniform(1, 20))
        if self.faults.happens("duplicate"):
            await self.once("ingest", handle)
        self._taken_in.add(name)

    async def leap(self, at: float, skew: float) -> None:
        """The backend's clock is set: everything it leased runs out early or late."""
        await asyncio.sleep(at)
        self.server.jump(skew)
        self.faults.leapt_at = self.loop.time()
        self.faults.write("SERVER", f"CLOCK off by {skew:+.1f} s")

    async def operation(self, at: float, what: str, batch: str) -> None:
        await asyncio.sleep(at)

        def work(process: Process) -> Coroutine[Any, Any, Any]:
            process.doing = what
            return self.operate(self.rooms(process), what, f"acme.{batch}")

        await self.once("operator", work)

    async def replay_eagerly(self, name: str) -> None:
        """An operator who waits for the batch to close, and does not wait for its announcement."""
        for _ in range(self.plan.eager):
            closed = self.checker.closed.setdefault(f"acme.{name}", asyncio.Event())
            await closed.wait()
            closed.clear()
            if not self.calm.is_set():
                await self.operation(self.chance.choice([0.0, self.chance.uniform(0.0, 2.0)]), "replay", name)

    async def operate(self, rooms: wiring.Rooms, what: str, batch: str) -> Any:
        """What operators start; a batch that is not there yet, or may not be replayed now, refuses."""
        actions: dict[str, Callable[[], Awaitable[Any]]] = {
            "pause": lambda: rooms.operator.pause(batch),
            "resume": lambda: rooms.operator.resume(batch),
            "cancel": lambda: rooms.operator.cancel(batch),
            "replay": lambda: rooms.replay.run(batch),
            "drain": rooms.replay.drain_letters,
            "reconcile": rooms.reconcile.run,
        }
        if await self.parts.store.batch(batch) is None and what in ("replay", "resume"):
            return None
        return await actions[what]()

    # --- the run

    async def run(self) -> list[str]:
        """The storm, then calm until everything is done, then judgement."""
        follow_tasks(self.loop)
        plan, log = self.plan, logging.getLogger("shared")
        level, propagate = log.level, log.propagate
        log.addHandler(self.bugs)
        log.setLevel(logging.ERROR)
        log.propagate = False
        lives = [self.worker(slot) for slot in range(plan.workers)]
        lives += [self.keep_alive("aggregate", self.aggregate) for _ in range(plan.consumers)]
        lives += [self.keep_alive("deadletter", self.dead_letter)]
        lives += [self.ingest(wanted) for wanted in plan.batches]
        lives += [self.ingest_malformed(*malformed) for malformed in plan.malformed]
        lives += [self.leap(*leap) for leap in plan.leaps]
        lives += [self.operation(*operation) for operation in plan.operations]
        lives += [self.replay_eagerly(wanted.name) for wanted in plan.batches if plan.eager]
        jobs = [asyncio.create_task(life) for life in [*lives, self.script()]]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(plan.stormy_seconds):
                    await self.may_end.wait()
            self.faults.active = False
            self.calm_calls = dict(self.faults.calls)
            self.calm.set()
            self.faults.write("CALM", "no more faults")
            self.faults.traced_until = self.loop.time() + TRACED_CALM_SECONDS
            await self._until_done()
            await self._slots_free()
            await self.checker.finally_right(self.parts.store, self.parts.objects, await self._letters())
        finally:
            self.over.set()
            for process in self.alive:
                process.kill()
            for job in jobs:
                job.cancel()
            log.removeHandler(self.bugs)
            log.setLevel(level)
            log.propagate = propagate
        for job in jobs:
            if job.done() and not job.cancelled() and job.exception() is not None:
                raise job.exception() or RuntimeError
        self.parts.database.close()
        return self.checker.violations

    async def script(self) -> None:
        """What else happens, in worlds that follow a schedule."""

    async def _letters(self) -> list[tuple[bytes, dict[str, str]]]:
        """The kept letters, also those an operator's drain has leased just now: no pull would show them."""
        query = "SELECT data, attributes FROM messages WHERE subscription = ?"
        read = lambda connection: connection.execute(query, (DEAD_LETTER_KEPT,)).fetchall()
        rows = await self.parts.database.read("letters", read)
        return [(data, json.loads(attributes or "{}")) for data, attributes in rows]

    async def _until_done(self) -> None:
        """Paused batches are resumed; reconcile runs every quarter of an hour; all must end within the bound."""
        calm_at = self.loop.time()
        next_reconcile = calm_at + RECONCILE_SECONDS
        while self.loop.time() - calm_at < MAX_LIVENESS_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            if len(self.checker.violations) >= ENOUGH_VIOLATIONS:
                return
            if await self._is_done():
                self.closed_after = self.loop.time() - calm_at
                return
            for batch in await self.parts.store.batches():
                if batch.control is Control.PAUSED and batch.state is not BatchState.CLOSED:
                    await self.operation(0.0, "resume", batch.id.removeprefix("acme."))
            if self.loop.time() >= next_reconcile:
                next_reconcile += RECONCILE_SECONDS
                await self.operation(0.0, "reconcile", "")
        waiting = {name: await self.parts.queue.waiting(name) for name in OWED}
        batches = {
            b.id: f"{b.state} {b.control} round {b.round} epoch {b.control_epoch}"
            for b in await self.parts.store.batches()
        }
        still = {key: f"{i.state} round {i.round}" for key, i in self.checker.images.items() if i.state in OPEN_STATES}
        self.checker.blame(
            f"not done {MAX_LIVENESS_SECONDS:.0f} s after the last fault; waiting: {waiting}; {batches}; open: {still}"
        )

    async def _slots_free(self) -> None:
        """A while after the end nobody who lives holds a right to a call."""
        if self.hosts.limited or self.plan.at_once is not None:
            await asyncio.sleep(END_SECONDS)
            ledgers = [*await self.parts.store.records(Ledger), *await self.parts.store.records(HostLedger)]
            self.hosts.finally_free(ledgers, self.server.now(), self.living)

    def living(self, name: str) -> Process | None:
        """The process of that name, if it lives."""
        return next((process for process in self.alive if process.name == name and not process.dead), None)

    async def _is_done(self) -> bool:
        batches = await self.parts.store.batches()
        dropped = len(self.plan.batches) + len(self.plan.malformed)
        if len(self._taken_in) < dropped or not all(_is_done(batch) for batch in batches):
            return False
        return not any([await self.parts.queue.waiting(name) for name in OWED])


def _is_done(batch: Batch) -> bool:
    closed = batch.state is BatchState.CLOSED and batch.announced_round == batch.round
    return closed or batch.state is BatchState.REJECTED


W = TypeVar("W", bound=World)


def simulate(seed: str, plan: Plan, kind: Callable[[SimulationLoop, str, Plan], W] = World) -> W:
    """Run the world to its end; its checker knows what was wrong."""
    loop = SimulationLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def main() -> W:
            world = kind(loop, seed, plan)
            try:
                await world.run()
            except Exception as error:
                world.checker.blame(f"the run broke: {error!r}")
            return world

        return runner.run(main())
