"""Photo hosts that ask to slow down, as workers meet them: who asks when, who waits, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shared.decisions.quota import SLOT_SECONDS
from shared.errors import ErrorCode, HostBusy, ImageRejected, RuumError, WorldError
from shared.model import ImageState, Tier
from shared.settings import DownloadLimits
from shared.worker.disposition import Action
from shared.worker.hosts import CALM_SECONDS, KNOWN_SECONDS, TURN_SECONDS, HostLedger, Hosts, key_of
from tests.harness.faults import unreachable
from tests.harness.world import World, ticks, virtual

HOST = "slow.example"
LIMITS = DownloadLimits()


class Door:
    """A host and a worker's visits to it: `refusing` names a wait while it refuses; requests are noted."""

    def __init__(self, world: World, hosts: Hosts, requests: list[float] | None = None) -> None:
        self.world, self.hosts = world, hosts
        self.refusing: bool = False
        self.seconds: float | None = 30.0
        self.takes = 0.2
        self.requests: list[float] = [] if requests is None else requests

    async def ask(self, image: int | str = 0, error: Exception | None = None) -> str:
        """What becomes of one image's request: let in, refused, waits (it did not ask), or the name of an error."""
        before = len(self.requests)
        try:
            async with self.hosts.visit(f"https://{HOST}/{image}.jpg", str(image)):
                self.requests.append(self.world.clock.monotonic())
                refusing = self.refusing
                await self.world.clock.sleep(self.takes)
                if error is not None:
                    raise error
                if refusing:
                    raise HostBusy(HOST, self.seconds)
        except HostBusy:
            return "refused" if len(self.requests) > before else "waits"
        except WorldError as raised:
            return raised.code.value
        except ImageRejected:
            return "rejected"
        return "let in"

    async def turn(self, image: int | str = 0) -> None:
        await self.hosts.turn(HOST, str(image), Tier.NORMAL)

    async def slots(self) -> int:
        """Slots in the ledger whose leases run."""
        ledger = await self.world.store.record(HostLedger, key_of(HOST))
        return 0 if ledger is None else sum(slot.until > self.world.clock.now() for slot in ledger.slots)


def door(world: World, worker: str = "w1", store: Any = None, limits: DownloadLimits = LIMITS) -> Door:
    return Door(world, Hosts(store or world.store, world.clock, limits, worker))


class Unsteady:
    """A store that cannot be written, or not be read, for a while."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.error: Callable[[], RuumError] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.store, name)

    async def change_record(self, *given: Any) -> Any:
        if self.error is not None:
            raise self.error()
        return await self._world.store.change_record(*given)

    async def record(self, *given: Any) -> Any:
        if self.error is not None:
            raise self.error()
        return await self._world.store.record(*given)


@virtual
async def test_a_host_that_refuses_nothing_is_asked_freely_and_nothing_is_written(world: World) -> None:
    host = door(world)
    assert set(await asyncio.gather(*(host.ask(image) for image in range(100)))) == {"let in"}
    assert await world.store.record(HostLedger, key_of(HOST)) is None
    assert world.clock.monotonic() == pytest.approx(2.0), "ten at a time"


@virtual
async def test_those_behind_a_refusal_do_not_ask(world: World) -> None:
    """Fifty photos of one host are wanted at once: ten are asked for, are refused, and no other is."""
    host = door(world)
    host.refusing = True
    answers = await asyncio.gather(*(host.ask(image) for image in range(50)))
    assert answers.count("refused") == LIMITS.max_per_host
    assert answers.count("waits") == 50 - LIMITS.max_per_host
    assert len(host.requests) == LIMITS.max_per_host


@virtual
async def test_a_refusal_holds_from_its_very_moment(world: World) -> None:
    """Also while the fleet is being told, and while another request of the same worker looks the host up."""

    class Slow(Unsteady):
        async def change_record(self, *given: Any) -> Any:
            await world.clock.sleep(3.0)
            return await super().change_record(*given)

    host = door(world, store=Slow(world))
    host.refusing = True
    first = asyncio.create_task(host.ask(0))
    await world.clock.sleep(1.0)
    assert await host.ask(1) == "waits"
    assert await first == "refused"
    assert await host.ask(2) == "waits"


@virtual
async def test_an_image_waits_for_its_turn_and_then_asks(world: World) -> None:
    host = door(world)
    host.refusing = True
    assert await host.ask() == "refused"
    host.refusing = False
    await host.turn()
    assert 30.0 <= world.clock.monotonic() <= 32.0
    assert await host.ask(1) == "waits", "it is not its turn"
    assert await host.slots() == 1
    assert await host.ask(0) == "let in"
    await world.clock.sleep(1.0)
    assert await host.slots() == 0


@virtual
async def test_a_turn_does_not_outlive_another_refusal(world: World) -> None:
    """Two have a turn; the first is refused, and the second, whose worker was busy, does not ask any more."""
    host, other = door(world), door(world, "w2")
    host.refusing = True
    await host.ask()
    await asyncio.gather(host.turn(0), host.turn(1), other.turn(2))
    assert await host.ask(0) == "refused"
    assert await host.ask(1) == "waits"
    await world.clock.sleep(KNOWN_SECONDS)
    assert await other.ask(2) == "waits", "the other worker has looked"
    for each in (host, other):
        for image in range(3):
            each.hosts.forget(str(image))
    await world.clock.sleep(5.0)
    assert await host.slots() == 0


@virtual
async def test_the_fleet_keeps_a_hosts_wait(world: World) -> None:
    host, other = door(world), door(world, "w2")
    assert await other.ask() == "let in"
    host.refusing = other.refusing = True
    host.seconds = other.seconds = 300.0
    await host.ask()
    await world.clock.sleep(KNOWN_SECONDS)
    assert await other.ask() == "waits"
    assert len(other.requests) == 1
    await other.turn()
    assert world.clock.monotonic() >= 300.0


@pytest.mark.parametrize("seconds", [None, 20.0])
@virtual
async def test_a_refusal_that_cannot_be_noted_costs_nothing(world: World, seconds: float | None) -> None:
    """It is kept to by this worker all the same, and met again."""
    store = Unsteady(world)
    host = door(world, store=store)
    host.refusing, host.seconds = True, seconds
    store.error = unreachable
    assert await host.ask() == "refused"
    assert await host.ask(1) == "waits"
    store.error = None
    began = world.clock.monotonic()
    await host.turn()
    assert world.clock.monotonic() - began >= (seconds or 10.0)
    assert await host.ask() == "refused"
    assert await world.store.record(HostLedger, key_of(HOST)) is not None


@pytest.mark.parametrize("outcome", ["let in", "refused", "source_unavailable", "rejected", "too long", "unnoted", "cancelled", "forgotten", "unused"])  # fmt: skip
@virtual
async def test_every_outcome_gives_the_turn_back(world: World, outcome: str) -> None:
    store = Unsteady(world)
    host = door(world, store=store)
    host.refusing = True
    await host.ask()
    host.refusing = False
    await host.turn()
    await world.clock.sleep(1.0)
    assert await host.slots() == 1
    match outcome:
        case "let in":
            await host.ask()
        case "refused":
            host.refusing = True
            await host.ask()
        case "too long":
            host.refusing, host.seconds = True, 2 * LIMITS.max_refused_seconds
            assert await host.ask() == "source_unavailable"
        case "unnoted":
            await host.ask(1)  # it has just been looked up
            host.refusing, store.error = True, unreachable
            assert await host.ask() == "refused"
            store.error = None
        case "source_unavailable":
            assert await host.ask(error=WorldError(ErrorCode.SOURCE_UNAVAILABLE, "502")) == outcome
        case "rejected":
            assert await host.ask(error=ImageRejected(ErrorCode.SOURCE_NOT_FOUND, "404")) == outcome
        case "cancelled":
            asking = asyncio.create_task(host.ask())
            await ticks()
            asking.cancel()
        case "forgotten":
            host.hosts.forget("0")
        case "unused":
            await world.clock.sleep(TURN_SECONDS)
    await world.clock.sleep(5.0)
    assert await host.slots() == 0
    assert world.clock.monotonic() < SLOT_SECONDS, "not because its lease ran out"


@virtual
async def test_who_gives_up_waiting_for_a_turn_leaves_nothing(world: World) -> None:
    host = door(world)
    host.refusing = True
    await host.ask()
    waiting = [asyncio.create_task(host.turn(image)) for image in range(20)]
    for after in (1.0, 28.0, 0.5, 0.5, 0.5, 0.5, 0.5):
        await world.clock.sleep(after)
        waiting.pop().cancel()
    for task in waiting:
        task.cancel()
    for image in range(20):
        host.hosts.forget(str(image))
    await world.clock.sleep(10.0)
    assert await host.slots() == 0


@virtual
async def test_after_a_calm_the_host_is_asked_freely(world: World) -> None:
    host = door(world)
    host.refusing = True
    await host.ask()
    host.refusing = False
    await world.clock.sleep(31.0 + CALM_SECONDS + KNOWN_SECONDS)
    assert await host.ask() == "let in"
    assert await host.slots() == 0


@virtual
async def test_a_host_that_refuses_now_and_then_is_waited_for_each_time(world: World) -> None:
    """Its photos of days are not all refused, only because nobody noted those it let in."""
    host = door(world)
    for _ in range(4):
        host.refusing = True
        assert await host.ask() == "refused"
        host.refusing = False
        await world.clock.sleep(40_000.0)
        assert await host.ask() == "let in"


@pytest.mark.slow
@virtual
async def test_a_host_that_refuses_everything_for_a_day_is_no_longer_waited_for(world: World) -> None:
    host = door(world)
    host.refusing, host.seconds = True, None
    answers: list[str] = []
    while not answers or answers[-1] == "refused":
        answers.append(await host.ask())
        assert world.clock.monotonic() < LIMITS.max_refused_seconds + 2000.0
        await host.turn()
    assert answers[-1] == "source_unavailable"
    assert world.clock.monotonic() >= LIMITS.max_refused_seconds
    assert len(answers) < 120, "a quarter of an hour lies between two requests"


@virtual
async def test_a_wait_beyond_all_patience_is_the_hosts_failure(world: World) -> None:
    """Each image is told so, at its own attempts: it does not wait for days behind the first."""
    host = door(world)
    host.refusing, host.seconds = True, 2 * LIMITS.max_refused_seconds
    assert [await host.ask(image) for image in range(3)] == ["source_unavailable"] * 3


@virtual
async def test_an_answer_is_known_before_the_refusal_that_follows_it(world: World) -> None:
    """Though both are told of later: else a host that lets in three and refuses the fourth is left for ever longer."""
    host = door(world)
    host.seconds = None
    host.refusing = True
    await host.ask()
    for _ in range(6):
        await asyncio.gather(host.turn(0), host.turn(1))
        host.refusing = False
        asking = asyncio.create_task(host.ask(0))
        await ticks()
        host.refusing = True
        assert await asyncio.gather(asking, host.ask(1)) == ["let in", "refused"]
        ledger = await world.store.record(HostLedger, key_of(HOST))
        assert ledger is not None and ledger.refusals == 1


# --- in the room


@virtual
async def test_a_refused_image_is_released_at_no_attempt_and_waits(world: World) -> None:
    await world.batch(1)
    hand = await world.worker()
    world.fakes.will("fetch", HostBusy("example.com", 30.0))
    delivery = await world.task()
    answer = await hand.handle(delivery)
    assert (answer.action, answer.wait is not None) == (Action.WAIT, True)
    image = await world.image()
    assert (image.state, image.attempts, image.claim, image.error) == (ImageState.QUEUED, 0, None, None)
    assert answer.wait is not None
    await answer.wait()
    assert world.clock.monotonic() >= 30.0
    assert (await hand.handle(delivery)).action is Action.ACK
    image = await world.image()
    assert (image.state, image.attempts, image.crashes) == (ImageState.COMPLETED, 0, 0)


@virtual
async def test_a_duplicate_that_is_handled_first_takes_no_turn_away_for_ever(world: World) -> None:
    """Two deliveries of one image wait: whichever is handled stages it, and no slot of the host is left taken."""
    await world.batch(1)
    hand = await world.worker()
    world.fakes.will("fetch", HostBusy("example.com", 30.0))
    first, second = await world.task(), await world.task()
    waits = [(await hand.handle(delivery)).wait for delivery in (first, second)]
    await asyncio.gather(*(wait() for wait in waits if wait is not None))
    actions = [(await hand.handle(delivery)).action for delivery in (second, first)]
    assert actions[0] is Action.ACK and Action.ACK in actions
    assert (await world.image()).state is ImageState.COMPLETED
    await world.clock.sleep(5.0)
    ledger = await world.store.record(HostLedger, key_of("example.com"))
    assert ledger is not None and not ledger.slots


@virtual
async def test_photos_of_no_host_never_wait(world: World) -> None:
    hosts = Hosts(world.store, world.clock, msgspec.structs.replace(LIMITS, max_per_host=1), "w")
    async with hosts.visit("gs://bucket/a.jpg", "a"), hosts.visit("file:///a.jpg", "b"):
        pass
