"""What a state of the small world is made of: what everyone can see, the actors, and what may still happen."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from tests.worlds.rules import NEW_BATCH, TOTAL

Ints = tuple[int, ...]


class Shared(NamedTuple):
    """What everyone can see. Numbers are those of documents on the shelf, 0 for none."""

    batch: int = 0
    tallies: Ints = (0,) * NEW_BATCH.shards
    images: Ints = (0,) * TOTAL
    tasks: tuple[bool, ...] = (False,) * TOTAL  # whether an open image's task has been published
    dead: tuple[bool, ...] = (False,) * TOTAL  # whether the worker that holds it has died
    lease_is_over: bool = False  # the closer's
    replay_is_over: bool = False  # the replay's lease
    reports: tuple[tuple[int, str], ...] = ((0, ""), (0, ""))  # by round, the fence and the content
    announced: Ints = (0, 0)  # by round, the completion that was published
    wrong: str = ""


class Actor(NamedTuple):
    """A process: where it stands, and what it has in hand: an event, a batch as it read it, a completion, a sum."""

    at: str
    event: int = 0  # a document's number; or, below 0, old news of shard -1 - event
    batch: int = 0
    found: int = 0
    open: int = -1
    then: str = ""  # where it goes when its closing check has come to its end
    seen: Ints = ()  # images as they were listed
    done: Ints = ()  # images as it has requeued them


class Move(NamedTuple):
    """An actor's next step: what is seen then, where it goes, and the events it sets free or leaves for later."""

    label: str
    shared: Shared
    actor: Actor
    events: Ints = ()
    nacked: Ints = ()


class Left(NamedTuple):
    """How often what need not happen may still happen."""

    crashes: int = 0
    repeats: int = 0
    losses: int = 0
    replays: int = 0
    cancels: int = 0
    controls: int = 0
    reconciles: int = 0


# Everything, by the numbers of a walk: what is shared; the events still to be delivered, and those that found another
# closer at work and come again when it lets them; in order the actors of each kind; what may still happen.
State = tuple[int, Ints, Ints, Ints, Ints, Ints, Ints, int]

KINDS = {"ingest": 3, "handler": 4, "operator": 5, "reconcile": 6}  # where each is in the state
NOTHING_LEFT = Left()
IDLE = Actor("idle")
DONE = Actor("done")
READY = Actor("ready")
CREATE = Actor("create")
NACKED = Actor("nacked")  # ingest, until the manifest's event comes again
LAST = {"ingest": DONE, "handler": IDLE, "operator": DONE, "reconcile": READY}
AFTER_A_CRASH = LAST | {"ingest": CREATE}
AT_REST = (IDLE, DONE, READY, CREATE, NACKED)
AT_WORK = ("gather", "doubt", "put", "close")  # a closer that has its lease
REPLAYING = ("list_queued", "list_failed", "requeue", "fold_back", "hand_out", "resume")  # a replay that has its lease
CHECKING = ("look", "read", "sum", "begin", "take")


class Numbers:
    """Numbers for values, and back."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def of(self, value: Hashable) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


def put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])
