"""A worker's slots, in every order of taking, leaving, waiting outside and giving up."""

from __future__ import annotations

import asyncio

import pytest

from shared.worker.slots import Slots
from tests.clocks import VirtualClock, run_virtual
from tests.harness.world import ticks

STEPS = ("take", "leave", "park", "ready", "fail", "cancel oldest", "cancel newest")
LENGTH = 7
REST = 8  # steps of the loop, after which nothing more happens by itself


class Holder:
    """An image with a slot: it works, waits outside, comes back, and leaves its slot at its end, however it ends."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.orders: asyncio.Queue[str] = asyncio.Queue()
        self.ready = asyncio.Event()
        self.fails = False
        self.state = "inside"
        slots.take()
        self.task = asyncio.ensure_future(self.live())
        self.task.add_done_callback(lambda task: self.end())

    async def live(self) -> None:
        while await self.orders.get() == "park":
            self.ready.clear()
            self.state = "outside"
            async with self.slots.outside():
                await self.ready.wait()
                if self.fails:
                    raise ValueError("what it waited for has failed")
                self.state = "coming back"
            self.state = "inside"

    def end(self) -> None:
        self.state = "gone"
        self.slots.leave()
        if not self.task.cancelled():
            self.task.exception()


class Crew:
    """Holders, and the steps that may be taken with them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.slots = Slots(most)
        self.holders: list[Holder] = []

    def those(self, state: str) -> list[Holder]:
        return [holder for holder in self.holders if holder.state == state]

    def step(self, what: str) -> bool:
        """Take the step; False when it makes no sense now."""
        inside, outside, back = self.those("inside"), self.those("outside"), self.those("coming back")
        match what:
            case "take":
                if not self.slots.free:
                    return False
                self.holders.append(Holder(self.slots))
            case "leave" | "park":
                if not inside:
                    return False
                inside[0].orders.put_nowait(what)
            case "ready" | "fail":
                if not outside:
                    return False
                outside[0].fails = what == "fail"
                outside[0].ready.set()
            case _:
                waiting = back or outside
                if not waiting:
                    return False
                waiting[0 if what == "cancel oldest" else -1].task.cancel()
        return True

    def check(self) -> None:
        """At rest: what is taken is what is inside, and nobody waits while a slot is free."""
        inside, outside, back = self.those("inside"), self.those("outside"), self.those("coming back")
        assert self.slots.taken == len(inside)
        assert 0 <= self.slots.taken <= self.most
        assert self.slots.waiting == len(outside) + len(back)
        assert not back or self.slots.taken == self.most, "one waits for a slot, and one is free"
        assert self.slots.free == (0 if back else self.most - len(inside))


async def explore(most: int, gap: int) -> int:
    """Take every sequence of steps that makes sense, with `gap` steps of the loop in between; how many there were."""
    count = 0
    frontier: list[tuple[str, ...]] = [()]
    while frontier:
        prefix = frontier.pop()
        for what in STEPS:
            crew = Crew(most)
            for earlier in prefix:
                assert crew.step(earlier)
                await ticks(gap)
            if not crew.step(what):
                sensible = False
            else:
                sensible = True
                await ticks(REST)
                crew.check()
                count += 1
            for holder in crew.holders:
                holder.task.cancel()
            await ticks(REST)
            assert crew.slots.taken == 0 and crew.slots.waiting == 0, "all have left"
            if sensible and len(prefix) + 1 < LENGTH:
                frontier.append((*prefix, what))
    return count


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("gap", [0, 1, 2, REST])
def test_every_order_of_steps(most: int, gap: int) -> None:
    async def main(clock: VirtualClock) -> None:
        assert await explore(most, gap) > 100

    run_virtual(main)


@pytest.mark.parametrize("gap", range(5))
def test_one_that_is_given_a_slot_and_cancelled_in_the_same_moment(gap: int) -> None:
    """However few steps of the loop lie between the two, the slot goes to the next who waits."""

    async def main(clock: VirtualClock) -> None:
        crew = Crew(1)
        assert crew.step("take") and not crew.step("take")
        for _ in range(2):
            crew.step("park")
            await ticks(REST)
            if crew.slots.free:
                crew.step("take")
            await ticks(REST)
        first, second = crew.those("outside")
        first.ready.set()
        second.ready.set()
        await ticks(REST)
        crew.check()
        assert len(crew.those("coming back")) == 2
        (holder,) = crew.those("inside")
        holder.orders.put_nowait("leave")
        await ticks(gap)
        first.task.cancel()
        await ticks(REST)
        crew.check()
        assert second.state == "inside" or first.state == "inside"

    run_virtual(main)


def test_those_who_come_back_go_before_new_ones() -> None:
    async def main(clock: VirtualClock) -> None:
        crew = Crew(1)
        crew.step("take")
        crew.step("park")
        await ticks(REST)
        crew.step("take")
        crew.step("ready")
        await ticks(REST)
        crew.step("leave")
        assert crew.slots.free == 0, "not even before the one that comes back has run"
        await ticks(REST)
        assert [holder.state for holder in crew.holders] == ["inside", "gone"]

    run_virtual(main)
