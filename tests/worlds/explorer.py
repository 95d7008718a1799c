"""A small explicit-state model checker: visits every state that can be reached, breadth first.

A world answers the steps out of a state; states are hashable values. A step is fair (it happens sooner or later if it
stays possible) or not (a crash, a repetition: it may never happen). Two things are asked of every state: is a promise
broken in it, and, where no fair step is left, is something still missing. The first answer ends the search, and as the
search goes breadth first its trace is a shortest one.

Where nothing but unfair steps leads out of a state the world may rest there for good. A world must have no cycle of
fair steps, or it could go round for ever without being asked what is missing: `explore` refuses such a world.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple, Generic[S]):
    """One way on: what happens, what is then, and whether it is bound to happen."""

    label: str
    state: S
    fair: bool = True


class Found(NamedTuple):
    """What the search has seen; `broken` is None when every state was visited and is well."""

    states: int
    steps: int
    rests: int  # states without a fair step
    seconds: float
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Everything a reader of a failed assertion wants to know."""
        seen = f"{self.states} states, {self.steps} steps, {self.rests} rests, {self.seconds:.1f} s"
        if self.broken is None:
            return f"clean: {seen}"
        way = "\n".join(f"  {place:2} {label}" for place, label in enumerate(self.trace, 1))
        return f"{self.broken} ({seen}) after\n{way}"


def explore(
    start: S,
    steps: Callable[[S], Iterable[tuple[str, S, bool]]],  # Steps, or tuples like them
    *,
    broken: Callable[[S], str | None],
    missing: Callable[[S], str | None],
    max_states: int = 1_000_000,
) -> Found:
    """Visit everything reachable from `start`, or stop at the first state that is not well."""
    began = time.perf_counter()
    numbers: dict[S, int] = {start: 0}
    states = [start]
    came_from: list[tuple[int, str]] = [(-1, "")]
    fair_ways: list[list[int]] = []
    taken = rests = 0

    def found(wrong: str | None, at: int = -1) -> Found:
        trace: list[str] = []
        while at > 0:
            at, label = came_from[at]
            trace.append(label)
        spent = time.perf_counter() - began
        return Found(len(states), taken, rests, spent, wrong, tuple(reversed(trace)))

    wrong = broken(start)
    if wrong:
        return found(wrong, 0)
    at = 0
    while at < len(states):
        fair: list[int] = []
        for label, after, is_fair in steps(states[at]):
            taken += 1
            number = numbers.setdefault(after, len(states))
            if number == len(states):
                states.append(after)
                came_from.append((at, label))
                wrong = broken(after)
                if wrong:
                    return found(wrong, number)
                if number >= max_states:
                    return found(f"more than {max_states} states", number)
            if is_fair:
                fair.append(number)
        if not fair:
            rests += 1
            wrong = missing(states[at])
            if wrong:
                return found(wrong, at)
        fair_ways.append(fair)
        at += 1
    circle = _on_a_circle(fair_ways)
    return found(None) if circle is None else found("can go round for ever", circle)


def _on_a_circle(ways: list[list[int]]) -> int | None:
    """A state from which the ways lead back to itself, if there is one: what is left when the ends are peeled off."""
    into = [0] * len(ways)
    for way in ways:
        for after in way:
            into[after] += 1
    free = [state for state, count in enumerate(into) if not count]
    for state in free:
        for after in ways[state]:
            into[after] -= 1
            if not into[after]:
                free.append(after)
    return next((state for state, count in enumerate(into) if count), None)
