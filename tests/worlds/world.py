"""The small world of the closing check: two images in two shards, and everyone who can close, reopen or cancel.

INGEST (run once or twice at once), two AGGREGATE handlers, an operator's replay or cancel and the scheduled reconcile
go on one step at a time, a step being one read or one compare-and-set. A crash can come before any step and brings the
event again (ingest's is the manifest's; an operator does not come again, reconcile carries on); change events come in
any order, one of them twice, one perhaps never; the leases of closers and replays can run out. Who finds another closer
at work, or has looked as often as it may at a batch that moved on, raises `StillClosing`: its event comes again. What
is written is decided by the product's own rules (`rules`); only the order of the steps is told again here, from
`closing.Closer.check`, `aggregate.Aggregate.handle`, `ingest.Ingest`, `replay.Replay.run`, `operator.Operator.cancel`
and `reconcile.Reconcile`. A closing check looks as often as it likes, or once (`one_look`): the product's five lie
between.

Steps that nobody could tell apart are one: taking an event in hand and folding it; creating images and publishing their
tasks; and, unless `claims_show`, an image's claim and its outcome (both events are sent). status.json is not told.

How the walk is kept short, and why nothing is lost by it:

- What everyone sees, and where each process stands, are numbers; a process's step is worked out once for each pair.
- The two handlers are alike, so their order is not kept; nor is that of events.
- News that a tally knows is an old event of its shard, whatever it was (`_pooled`).
- A step that changes nothing for anybody, and that nothing can change, is taken at once (`_settled`, `_sure`).
- A read that commutes with all that can come before the next step is one with that step (`_read`, `_folded`).
- A batch that is done for good has no loose ends (`_over`).

A `plain` walk does without all but the first two; the tests compare what is seen on both. No mutation relies on a
reason that it takes away.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import msgspec

from shared import decisions
from shared.model import Batch, BatchState, Completion, Control, ImageState, Refusal
from tests.worlds import rules
from tests.worlds.explorer import Found, Step, explore
from tests.worlds.rules import NEW_BATCH, OPEN, SHELF, TOTAL

LIMIT = 400_000  # states; a world that has more is too large to be small

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


class World(msgspec.Struct, frozen=True):
    """What can happen, and how often at most. `mutation` names the one rule that is broken on purpose."""

    ingests: int = 1  # 0: begins with the batch open
    crashes: int = 0
    repeats: int = 0
    losses: int = 0  # events that never come
    replays: int = 0
    cancels: int = 0
    controls: int = 0  # an operator pauses or resumes the batch: its revision moves, nothing else
    reconciles: int = 0  # come whenever they like
    reconcile: bool = True  # comes when all is quiet and something is missing
    slow_closers: bool = False  # a lease also runs out under the hands of a closer that lives
    one_look: bool = False  # a closing check that finds the batch moved on gives up at once, not after five looks
    claim_events: bool = True  # besides those of outcomes
    claims_show: bool = False  # a claim is a step of its own; a worker can die with the image in hand
    plain: bool = False  # nothing is left out of the walk: for the proof that nothing is lost by it
    mutation: str = ""
    only: str = ""  # watch this promise alone

    def explore(self) -> Found:
        """Walk through all of it; the same world is walked through once."""
        return _explored(self)


@functools.cache
def _explored(world: World) -> Found:
    walk = Walk(world)
    gc.disable()  # millions of tuples and no circle among them
    try:
        found = explore(walk.start(), walk.steps, broken=walk.broken, missing=walk.missing, max_states=LIMIT)
    finally:
        gc.enable()
    print(found)
    return found


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


class Walk:
    """One world's steps. What depends on few numbers only is worked out once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.mutation = world.mutation
        self._shared = Numbers()
        self._actors = Numbers()
        self._left = Numbers()
        self._last = {kind: self._actors.of(actor) for kind, actor in LAST.items()}
        self._crashed = {kind: self._actors.of(actor) for kind, actor in AFTER_A_CRASH.items()}
        self._resting = {self._actors.of(actor) for actor in AT_REST}
        self._surveying = self._actors.of(Actor("survey"))
        self._requests = {
            "replay": self._actors.of(Actor("read", then="reopen")),
            "cancel": self._actors.of(Actor("cancel")),
        }
        self._moves = functools.cache(self._moves)
        self._taken = functools.cache(self._taken)
        self._images_go_on = functools.cache(self._images_go_on)
        self._settled = functools.cache(self._settled)
        self._pooled = functools.cache(self._pooled)
        self._any_at = functools.cache(self._any_at)
        self._over = functools.cache(self._over)
        self._tied_up = functools.cache(self._tied_up)
        self._wrong = functools.cache(self._wrong)
        self._missing = functools.cache(self._missing)
        # Under a mutation, what one of its steps may still do is not what the reductions say.
        self._at_once = self.mutation in ("no closing state", "reports after the announcement")
        sets_back = ("any event is the newest", "shards are set", "reconcile sets")  # a tally can forget what it knew
        self._news_stays = world.plain or self.mutation in sets_back
        self._looks_again = not world.one_look and self.mutation != "nobody looks again"
        self._one_step = self._looks_again and not world.plain and self.mutation != "sum before the batch is read"

    def start(self) -> State:
        shared = Shared()
        if not self.world.ingests:
            opened = msgspec.structs.replace(NEW_BATCH, tasks_published=TOTAL)
            shared = shared._replace(
                batch=SHELF.ask(rules.open_batch, SHELF.number(opened)),
                tallies=tuple(SHELF.number(tally) for tally in decisions.batch.empty_tallies(NEW_BATCH)),
                images=rules.images_made(),
                tasks=(True,) * TOTAL,
            )
        left = Left(*(getattr(self.world, name) for name in Left._fields))
        ingests, handlers = (self._actors.of(CREATE),) * self.world.ingests, (self._last["handler"],) * 2
        return (self._shared.of(shared), (), (), ingests, handlers, (), (self._last["reconcile"],), self._left.of(left))

    def seen(self, state: State) -> Shared:
        """What everyone can see in it."""
        return self._shared.values[state[0]]

    def broken(self, state: State) -> str | None:
        wrong = self._wrong(state[0])
        return wrong if wrong and self.world.only in wrong else None

    def missing(self, state: State) -> str | None:
        wrong = self._missing(state[0])
        return wrong if wrong and self.world.only in wrong else None

    # --- everything that can happen next

    def steps(self, state: State) -> list[Step[State]]:
        ways: list[Any] = []
        shared, events, left = state[0], state[1], self._left.values[state[7]]
        for kind, place in KINDS.items():
            actors = state[place]
            before = -1
            for at, actor in enumerate(actors):
                if actor == before:
                    continue  # its twin does the same
                before = actor
                others = actors[:at] + actors[at + 1 :]
                for label, after, goes_to, fed, nacked in self._moves(kind, shared, actor):
                    ways.append(
                        (
                            label,
                            self._next(state, place, others, after, goes_to, events + fed if fed else events, nacked),
                            True,
                        )
                    )
                if place == 4 and actor == self._last["handler"]:
                    ways.extend(self._deliveries(state, others))
                if left.crashes and actor not in self._resting:
                    ways.append(self._crash(state, kind, place, others, actor))
        for label, after, fed, fair in self._images_go_on(shared):
            if fair or left.crashes:
                spent = -1 if fair else self._spent(left, "crashes")
                ways.append((label, self._next(state, 0, (), after, -1, events + fed, (), spent), fair))
        after = self._leases(state)
        if after:
            ways.append(after)
        rests = not any(way[2] for way in ways)
        if left != NOTHING_LEFT:
            ways.extend(self._requested(state))
        if rests and self.world.reconcile and self._missing(shared):
            ways.append(("reconcile comes by", self._next(state, 6, (), shared, self._surveying, events, ()), True))
        return ways

    def _next(
        self,
        state: State,
        place: int,
        others: Ints,
        shared: int,
        goes_to: int,
        events: Ints,
        nacked: Ints,
        left: int = -1,
    ) -> State:
        """The state in which one actor has gone on (none at place 0), freed from what makes no difference."""
        before, known, waiting, ingests, handlers, operators, reconciles, still = state
        moved = (*others, goes_to)
        if place == 3:
            ingests = moved
        elif place == 4:
            handlers = moved
        elif place == 5:
            operators = moved
        elif place == 6:
            reconciles = moved
        if left < 0:
            left = still
        hold = self._left.values[left].crashes > 0
        news = shared != before or left != still
        if news or place == 3:
            ingests = self._settled("ingest", shared, ingests, hold)
        if news or place == 4:
            handlers = self._settled("handler", shared, handlers, hold)
        if news or place == 5:
            operators = self._settled("operator", shared, operators, hold)
        if news or place == 6:
            reconciles = self._settled("reconcile", shared, reconciles, hold)
        if news or nacked or events is not known:
            events, waiting = self._pooled(shared, events, waiting + nacked)
        if self._over(shared) and not self._left.values[left].replays:
            sides = (ingests, handlers, operators, reconciles)
            if not any(self._tied_up(side) for side in sides):
                last = [self._at_last(kind, side) for kind, side in zip(KINDS, sides, strict=True)]
                return (shared, (), (), *last, self._left.of(NOTHING_LEFT))
        return (shared, events, waiting, ingests, handlers, operators, reconciles, left)

    def _deliveries(self, state: State, others: Ints) -> Iterator[tuple[str, State, bool]]:
        """An idle handler gets any of the events; it may come again, or never."""
        shared, events, left = state[0], state[1], self._left.values[state[7]]
        before = 0
        for place, event in enumerate(events):
            if event == before:
                continue
            before = event
            label, after, goes_to, _, _ = self._taken(shared, event)
            rest = events[:place] + events[place + 1 :]
            yield label, self._next(state, 4, others, after, goes_to, rest, ()), True
            if left.repeats:
                again = self._spent(left, "repeats")
                label = f"{label}, which will come again"
                yield label, self._next(state, 4, others, after, goes_to, events, (), again), True
            if left.losses:
                lost = self._spent(left, "losses")
                yield f"lost is {self._of(event)}", self._next(state, 0, (), shared, -1, rest, (), lost), False

    def _crash(self, state: State, kind: str, place: int, others: Ints, actor: int) -> tuple[str, State, bool]:
        died: Actor = self._actors.values[actor]
        events = (*state[1], died.event) if died.event else state[1]
        left = self._spent(self._left.values[state[7]], "crashes")
        after = self._next(state, place, others, state[0], self._crashed[kind], events, (), left)
        return f"{kind} dies before: {died.at}", after, False

    def _leases(self, state: State) -> tuple[str, State, bool] | None:
        """A lease runs out when its holder is dead (a slow closer's at any time)."""
        shared: Shared = self._shared.values[state[0]]
        batch: Batch | None = SHELF[shared.batch]
        if batch is None:
            return None
        everyone = state[3] + state[4] + state[5] + state[6]
        if batch.state is BatchState.CLOSING and not shared.lease_is_over:
            if self.world.slow_closers or not self._any_at(AT_WORK, everyone):
                over = self._shared.of(shared._replace(lease_is_over=True))
                return "the closer's lease runs out", self._next(state, 0, (), over, -1, state[1], ()), True
        elif batch.state is BatchState.REOPENING and not shared.replay_is_over:
            if not self._any_at(REPLAYING, everyone):
                over = self._shared.of(shared._replace(replay_is_over=True))
                return "the replay's lease runs out", self._next(state, 0, (), over, -1, state[1], ()), True
        return None

    def _requested(self, state: State) -> Iterator[tuple[str, State, bool]]:
        """What people and the schedule may ask for."""
        shared: Shared = self._shared.values[state[0]]
        left = self._left.values[state[7]]
        if not shared.batch:
            return
        for name, wanted in self._requests.items():
            still = getattr(left, f"{name}s")
            if still and (
                name == "cancel" or (shared.images[1] and SHELF[shared.images[1]].state is ImageState.FAILED)
            ):
                spent = self._spent(left, f"{name}s")
                after = self._next(state, 5, state[5], state[0], wanted, state[1], (), spent)
                yield f"an operator asks for a {name}", after, False
        if left.controls:
            spent = self._spent(left, "controls")
            number = self._shared.of(shared._replace(batch=SHELF.ask(rules.control, shared.batch)))
            after = self._next(state, 0, (), number, -1, state[1], (), spent)
            yield "an operator changes the batch's control", after, False
        if left.reconciles and state[6] == (self._last["reconcile"],):
            spent = self._spent(left, "reconciles")
            after = self._next(state, 6, (), state[0], self._surveying, state[1], (), spent)
            yield "reconcile comes by early", after, False

    def _spent(self, left: Left, what: str) -> int:
        """One of these has happened."""
        return self._left.of(left._replace(**{what: getattr(left, what) - 1}))

    # --- what makes no difference

    def _pooled(self, shared: int, events: Ints, nacked: Ints) -> tuple[Ints, Ints]:
        """The events as handlers could tell them apart.

        What a tally knows already is refused by the fold, now and for ever (revisions only grow), so that nothing but
        its shard matters. Nacked events join the others as soon as no closer's lease is in their way: to be there does
        not mean to be delivered, and delivered too early they would only be nacked again.
        """
        if nacked and not self._is_being_closed(self._shared.values[shared]):
            events, nacked = events + nacked, ()
        if not self._news_stays:
            tallies = self._shared.values[shared].tallies
            events = tuple(self._known(tallies, event) for event in events)
            nacked = tuple(self._known(tallies, event) for event in nacked)
        return tuple(sorted(events)), tuple(sorted(nacked))

    def _known(self, tallies: Ints, event: int) -> int:
        if event <= 0 or not tallies[SHELF[event].shard]:
            return event
        change = SHELF[event]
        revision, _ = SHELF[tallies[change.shard]].entries.get(change.index, (0, None))
        return -1 - change.shard if change.revision <= revision else event

    def _settled(self, kind: str, shared: int, actors: Ints, hold: bool) -> Ints:
        """The actors in order, each after the steps that change nothing for anybody and that nothing can change.

        Such a step is only its actor's own: what others do before it they can as well do after it, and a crash before
        it leaves what a crash after it leaves. `hold`: events must be kept, as a crash can bring them again.
        """
        seen: Shared = self._shared.values[shared]
        after = [self._settled_actor(kind, seen, self._actors.values[actor]) for actor in actors]
        if not hold and not self.world.plain and self.mutation != "no closing state":
            # Its event cannot come again once the closing is the actor's.
            after = [a._replace(event=0) if a.at in (*AT_WORK, "publish", "note") else a for a in after]
        if kind == "operator":
            after = [actor for actor in after if actor != DONE]
        return tuple(sorted(self._actors.of(actor) for actor in after))

    def _settled_actor(self, kind: str, shared: Shared, actor: Actor) -> Actor:
        if actor.event > 0 and not self._news_stays:
            actor = actor._replace(event=self._known(shared.tallies, actor.event))
        while not self.world.plain or actor.at == "nacked":
            goes_to = self._sure(shared, actor)
            if goes_to is None:
                return actor
            actor = self._goes_home(kind, actor) if goes_to is DONE else goes_to
        return actor

    def _sure(self, shared: Shared, actor: Actor) -> Actor | None:
        """Where a step leads that only its actor can notice, if that is sure already."""
        batch: Batch | None = SHELF[shared.batch]
        match actor.at:
            case "nacked":  # as nacked events
                return None if self._is_being_closed(shared) else CREATE
            case "begin":  # the batch moved on, and its revision never comes back: it will look again
                if self.mutation in ("nothing is compared", "sum before the batch is read") or not self._looks_again:
                    return None
                return self._check(actor) if SHELF[actor.batch].revision != batch.revision else None
            case "gather":
                # Its lease cannot run out, and while the batch is closing nobody requeues; every image is settled and
                # told: nothing that it reads can change before it is done.
                if self.mutation or self.world.slow_closers or shared.lease_is_over:
                    return None
                if batch.closer != SHELF[actor.batch].closer or not SHELF.tell(
                    rules.told, shared.images, shared.tallies
                ):
                    return None
                found = SHELF.tell(rules.gathered, actor.batch, shared.images, shared.tallies, None)
                return None if isinstance(found, str) else actor._replace(at="put", found=found)
            case "doubt":  # a lease that is lost is lost: no two have the same holder
                return DONE if batch.closer != SHELF[actor.batch].closer else None
            case "put":  # fences only grow
                file = SHELF[actor.found].reports["results.jsonl"]
                there = shared.reports[int(file.name) - 1][0]
                newer = there > SHELF[actor.batch].revision and self.mutation != "reports have no fence"
                return DONE if newer else None
            case "close":  # as "doubt"
                if self.mutation == "anybody closes" or self._at_once:
                    return None
                return DONE if batch.closer != SHELF[actor.batch].closer else None
            case "publish":  # what is announced stays announced
                number = actor.found or SHELF.number(SHELF[actor.batch].completion)
                known = shared.announced[SHELF[actor.batch].round - 1] == number
                return actor._replace(at="note", found=0) if known and not self._at_once else None
            case "note":  # as "publish"
                return DONE if batch.announced_round >= SHELF[actor.batch].round else None
            case _:
                return None

    def _over(self, shared: int) -> bool:
        """Whether the batch is done for good, if nobody replays it: whatever is still under way comes to nothing.

        It is closed and announced, every image is settled and told. Events are refused by the folds, checks go home
        from the closed batch, ingest finds everything there, a cancel is refused, reconcile has no news: no document
        changes any more but by a control's revision, and nobody compares that now. So it makes no difference whether
        they are still under way, or who of them dies. Only closers that outlived their leases go on (`_tied_up`).
        """
        seen: Shared = self._shared.values[shared]
        if self.mutation or self.world.plain or not seen.batch or seen.wrong or self._missing(shared):
            return False
        return bool(SHELF.tell(rules.told, seen.images, seen.tallies))

    def _tied_up(self, actors: Ints) -> bool:
        """Whether one of them may still replay the batch, or outlived its lease as a closer and can still do harm."""
        at = (*AT_WORK, "publish", "note", "reopen", *REPLAYING)
        return self._any_at(at, actors) or any(self._actors.values[a].then == "reopen" for a in actors)

    def _at_last(self, kind: str, actors: Ints) -> Ints:
        return () if kind == "operator" else (self._last[kind],) * len(actors)

    def _any_at(self, places: tuple[str, ...], actors: Ints) -> bool:
        return any(self._actors.values[actor].at in places for actor in actors)

    # --- images and their workers

    def _images_go_on(self, number: int) -> tuple[tuple[str, int, Ints, bool], ...]:
        """Workers claim, settle, cancel, and die: what happens, what is then, its events, and whether it must be."""
        shared: Shared = self._shared.values[number]
        ways = []
        for index, image in enumerate(shared.images):
            if not image or not shared.tasks[index]:
                continue
            document = SHELF[image]
            cancelling = SHELF[shared.batch].control is Control.CANCELLING
            held = document.state is ImageState.PROCESSING
            # A worker may not have seen yet that the batch is cancelled.
            if not held and cancelling:
                ways.append(self._written(shared, index, (SHELF.ask(rules.cancel_queued, image, False),)))
            if not held or shared.dead[index]:
                claimed = SHELF.ask(rules.claim, image, shared.dead[index])
                after = (claimed,) if self.world.claims_show else (claimed, SHELF.ask(rules.settle, claimed))
                ways.append(self._written(shared, index, after))
            else:
                ways.append(self._written(shared, index, (SHELF.ask(rules.settle, image),)))
                if cancelling:
                    ways.append(self._written(shared, index, (SHELF.ask(rules.cancel_in_hand, image),)))
                dead = tuple(place == index or known for place, known in enumerate(shared.dead))
                ways.append(
                    (f"the worker of image {index} dies", self._shared.of(shared._replace(dead=dead)), (), False)
                )
        return tuple(ways)

    def _written(self, shared: Shared, index: int, writes: tuple[Any, ...]) -> tuple[str, int, Ints, bool]:
        after, events = self._with_image(shared, index, writes)
        return f"image {index} is {SHELF[writes[-1]].state}", self._shared.of(after), events, True

    def _with_image(self, shared: Shared, index: int, writes: Ints) -> tuple[Shared, Ints]:
        """The image after these writes, and the events of those that changed its state."""
        events = []
        for before, after in zip((shared.images[index], *writes), writes):
            shown = SHELF[before].state is not SHELF[after].state
            if shown and (self.world.claim_events or SHELF[after].state is not ImageState.PROCESSING):
                events.append(rules.changed(before, after))
        last = writes[-1]
        open_still = SHELF[last].state in OPEN
        return shared._replace(
            images=_put(shared.images, index, last),
            tasks=_put(shared.tasks, index, shared.tasks[index] and open_still),
            dead=_put(shared.dead, index, False),
        ), tuple(events)

    # --- one actor's next step

    def _moves(self, kind: str, shared: int, number: int) -> tuple[tuple[Any, ...], ...]:
        actor: Actor = self._actors.values[number]
        if actor in AT_REST and actor != CREATE:
            return ()
        move: Move = getattr(self, f"_{actor.at}")(self._shared.values[shared], actor)
        goes_to = self._goes_home(kind, actor) if move.actor is DONE else move.actor
        if goes_to is NACKED and kind != "ingest":
            goes_to = self._goes_home(kind, actor)
        after = self._shared.of(move.shared)
        return ((f"{kind} {move.label}", after, self._actors.of(goes_to), move.events, move.nacked),)

    def _goes_home(self, kind: str, actor: Actor) -> Actor:
        """Where it goes when there is nothing more to do: on to what the check was for, or to its rest."""
        return Actor(actor.then) if actor.then else LAST[kind]

    def _of(self, event: int) -> str:
        if event < 0:
            return f"an old event of image {-1 - event}"
        return f"the event of image {SHELF[event].index}: {SHELF[event].state}"

    def _taken(self, number: int, event: int) -> tuple[Any, ...]:
        """An idle handler takes an event and folds it."""
        shared: Shared = self._shared.values[number]
        if self.mutation == "sum before the fold":
            return f"handler takes {self._of(event)}", number, self._actors.of(Actor("early", event)), (), ()
        after, goes_to = self._folded(shared, event)
        return f"handler folds {self._of(event)}", self._shared.of(after), self._actors.of(goes_to), (), ()

    def _folded(self, shared: Shared, event: int, open_before: int = -1) -> tuple[Shared, Actor]:
        refused = LAST["handler"] if self.mutation == "no check on a repeated event" else Actor("look", event)
        if event < 0:
            # The fold changes nothing, so it can as well be done when the shard is looked at: one step.
            return shared, self._look(shared, refused).actor if refused.at == "look" else refused
        shard = SHELF[event].shard
        rule = rules.believe if self.mutation == "any event is the newest" else rules.fold
        answer = SHELF.ask(rule, shared.tallies[shard], event)
        if isinstance(answer, Refusal):
            return shared, refused
        after = shared._replace(tallies=_put(shared.tallies, shard, answer))
        return after, IDLE if SHELF[answer].counts.open else self._check(Actor("", event), open_before)

    def _check(self, actor: Actor, open_before: int = -1) -> Actor:
        """Where the closing check begins."""
        if self.mutation == "sum before the batch is read":
            return Actor("sum", actor.event, then=actor.then)
        return Actor("read", actor.event, open=open_before, then=actor.then)

    def _early(self, shared: Shared, actor: Actor) -> Move:
        total, _ = SHELF.tell(rules.open_in, shared.tallies)
        return Move("sums before it folds", shared, Actor("fold_late", actor.event, open=total))

    def _fold_late(self, shared: Shared, actor: Actor) -> Move:
        return Move("folds", *self._folded(shared, actor.event, actor.open))

    def _look(self, shared: Shared, actor: Actor) -> Move:
        shard = -1 - actor.event if actor.event < 0 else SHELF[actor.event].shard
        is_open = SHELF[shared.tallies[shard]].counts.open
        return Move("looks at its shard", shared, IDLE if is_open else self._check(actor))

    # --- the closing check, as everyone runs it

    def _read(self, shared: Shared, actor: Actor) -> Move:
        batch: Batch = SHELF[shared.batch]
        goes_to = DONE
        if batch.state is BatchState.PROCESSING:
            goes_to = actor._replace(at="sum", batch=shared.batch)
            if self.mutation == "sum before the batch is read":
                goes_to = actor._replace(at="begin", batch=shared.batch)
            elif actor.open >= 0:  # it has its sum already
                goes_to = DONE if actor.open else actor._replace(at="begin", batch=shared.batch, open=-1)
            elif self._one_step:
                # Had the batch moved on between look and sum, it would look again, or go home from an open image: as if
                # it had looked at the time of the sum. Only to a batch that is closing with an open image it would make
                # a difference, and that is a broken promise by itself.
                return self._sum(shared, goes_to)
        elif batch.state is BatchState.CLOSING and self.mutation != "nobody carries a closing on":
            goes_to = actor._replace(at="take", batch=0, open=-1)
            if self._one_step:
                # The lease is decided by the batch as it is then. Had it moved on since the look, the actor would look
                # again: as if it had looked then only. So the look and the lease can be one step.
                return self._take(shared, goes_to)
        elif batch.state is BatchState.CLOSED and batch.announced_round < batch.round:
            goes_to = actor._replace(at="publish", batch=shared.batch, open=-1)
        return Move(f"reads the batch: {batch.state}", shared, goes_to)

    def _sum(self, shared: Shared, actor: Actor) -> Move:
        total, shards = SHELF.tell(rules.open_in, shared.tallies)
        goes_to = actor._replace(at="begin")
        if total or shards != NEW_BATCH.shards:
            goes_to = DONE
        elif self.mutation == "sum before the batch is read":
            goes_to = actor._replace(at="read")
        elif self._at_once:
            goes_to = actor._replace(at="gather")
        return Move(f"sums {total} open", shared, goes_to)

    def _begin(self, shared: Shared, actor: Actor) -> Move:
        rule = rules.begin_whatever if self.mutation == "nothing is compared" else rules.begin
        answer = SHELF.ask(rule, shared.batch, SHELF[actor.batch].revision)
        if isinstance(answer, Refusal):
            return self._again(f"cannot begin to close: {answer}", shared, actor)
        after = shared._replace(batch=answer, lease_is_over=False)
        return Move("begins to close", after, actor._replace(at="gather", batch=answer))

    def _take(self, shared: Shared, actor: Actor) -> Move:
        answer = SHELF.ask(rules.take, shared.batch, shared.lease_is_over)
        if answer is Refusal.BUSY:
            return self._still_closing("finds another closer at work", shared, actor)
        if isinstance(answer, Refusal):
            return self._again(f"cannot carry the closing on: {answer}", shared, actor)
        after = shared._replace(batch=answer, lease_is_over=False)
        return Move("carries the closing on", after, actor._replace(at="gather", batch=answer))

    def _again(self, label: str, shared: Shared, actor: Actor) -> Move:
        """The batch moved on between the look and the lease: look again; after the last look raise `StillClosing`."""
        if self.mutation == "nobody looks again":
            return Move(label, shared, DONE)
        if self.world.one_look:
            return self._still_closing(label, shared, actor)
        return Move(label, shared, self._check(actor))

    def _still_closing(self, label: str, shared: Shared, actor: Actor) -> Move:
        """Raised: an event, also the manifest's, comes again later; operators and reconcile let the other one do it."""
        if self.mutation == "who finds a closer at work goes home":
            return Move(label, shared, DONE)
        goes_to = NACKED if not actor.then else DONE
        return Move(label, shared, goes_to, nacked=(actor.event,) if actor.event else ())

    def _gather(self, shared: Shared, actor: Actor) -> Move:
        own_time = float(actor.event) if self.mutation == "no closing state" else None
        found = SHELF.tell(rules.gathered, actor.batch, shared.images, shared.tallies, own_time)
        if isinstance(found, str):
            return Move("reads images that the tallies do not tell of", shared, actor._replace(at="doubt", found=0))
        goes_to = "publish" if self.mutation == "reports after the announcement" else "put"
        return Move("reads the images", shared, actor._replace(at=goes_to, found=found))

    def _doubt(self, shared: Shared, actor: Actor) -> Move:
        """Is it a later round's doing? To the lease's true holder a mismatch is a bug."""
        if SHELF[shared.batch].closer != SHELF[actor.batch].closer:
            return Move("finds its lease lost", shared, DONE)
        return Move("is sure of its lease", shared._replace(wrong="a closer finds other images than tallies"), DONE)

    def _put(self, shared: Shared, actor: Actor) -> Move:
        file = SHELF[actor.found].reports["results.jsonl"]
        place = int(file.name) - 1
        fence = SHELF[actor.batch].revision  # as it was when the lease was taken
        if shared.reports[place][0] > fence and self.mutation != "reports have no fence":
            return Move(f"finds a newer closer's report of round {file.name}", shared, DONE)
        after = shared._replace(reports=_put(shared.reports, place, (fence, file.sha256)))
        goes_to = "publish" if self.mutation == "no closing state" else "close"
        return Move(f"writes the report of round {file.name}", after, actor._replace(at=goes_to))

    def _close(self, shared: Shared, actor: Actor) -> Move:
        whoever = self.mutation == "anybody closes"
        rule = rules.close_whoever if whoever else rules.close_at_once if self._at_once else rules.close
        answer = SHELF.ask(rule, shared.batch, actor.found, actor.batch)
        if isinstance(answer, Refusal):
            return Move(f"cannot close: {answer}", shared, DONE)
        after = shared._replace(batch=answer, lease_is_over=False)
        goes_to = Actor("note" if self._at_once else "publish", actor.event, batch=answer, then=actor.then)
        return Move("closes", after, goes_to)

    def _publish(self, shared: Shared, actor: Actor) -> Move:
        batch: Batch = SHELF[actor.batch]
        number = actor.found or SHELF.number(batch.completion)
        completion: Completion = SHELF[number]
        place = batch.round - 1
        file = completion.reports["results.jsonl"]
        before = shared.announced[place]
        wrong = ""
        if before and before != number:
            wrong = f"round {batch.round} is announced twice, and differently"
        elif not before and (file.name != str(batch.round) or shared.reports[place][1] != file.sha256):
            wrong = f"round {batch.round} is announced without its report"
        elif not before and (completion.counts.open or any(SHELF[number].state in OPEN for number in shared.images)):
            wrong = f"round {batch.round} is announced while an image is open"
        after = shared._replace(announced=_put(shared.announced, place, number), wrong=wrong)
        goes_to = actor._replace(at="close") if self._at_once else actor._replace(at="note", found=0)
        return Move(f"announces round {batch.round}", after, goes_to)

    def _note(self, shared: Shared, actor: Actor) -> Move:
        answer = SHELF.ask(rules.note, shared.batch, SHELF[actor.batch].round)
        after = shared if isinstance(answer, Refusal) else shared._replace(batch=answer)
        return Move("notes that it is announced", after, DONE)

    # --- ingest

    def _create(self, shared: Shared, actor: Actor) -> Move:
        number = shared.batch or SHELF.number(NEW_BATCH)
        is_new = SHELF[number].state is BatchState.INGESTING
        goes_to = Actor("tallies", batch=number) if is_new else self._check(actor)
        return Move("creates the batch or finds it", shared._replace(batch=number), goes_to)

    def _tallies(self, shared: Shared, actor: Actor) -> Move:
        fresh = tuple(SHELF.number(tally) for tally in decisions.batch.empty_tallies(SHELF[actor.batch]))
        if self.mutation != "shards are set":
            fresh = tuple(known or new for known, new in zip(shared.tallies, fresh, strict=True))
        goes_to = Actor("open" if SHELF[actor.batch].tasks_published else "images")
        return Move("creates the shards", shared._replace(tallies=fresh), goes_to)

    def _images(self, shared: Shared, actor: Actor) -> Move:
        images = tuple(known or new for known, new in zip(shared.images, rules.images_made(), strict=True))
        tasks = tuple(SHELF[number].state in OPEN for number in images)
        after = shared._replace(images=images, tasks=tasks)
        return Move("creates the images and publishes their tasks", after, Actor("place"))

    def _place(self, shared: Shared, actor: Actor) -> Move:
        answer = SHELF.ask(rules.note_place, shared.batch)
        after = shared if isinstance(answer, Refusal) else shared._replace(batch=answer)
        return Move("notes its place", after, Actor("open"))

    def _open(self, shared: Shared, actor: Actor) -> Move:
        answer = SHELF.ask(rules.open_batch, shared.batch)
        after = shared if isinstance(answer, Refusal) else shared._replace(batch=answer)
        goes_to = DONE if self.mutation == "ingest does not check" else self._check(actor)
        return Move("opens the batch", after, goes_to)

    # --- replay: an operator's, or one that reconcile carries on; its first check is under way already

    def _reopen(self, shared: Shared, actor: Actor) -> Move:
        announced = self.mutation != "a replay does not announce first"
        rule = rules.reopen if announced else rules.reopen_whatever
        answer = SHELF.ask(rule, shared.batch, shared.replay_is_over)
        if isinstance(answer, Refusal):
            return Move(f"cannot reopen: {answer}", shared, DONE)
        first = "list_failed" if self.mutation == "a replay takes up nothing" else "list_queued"
        after = shared._replace(batch=answer, replay_is_over=False)
        return Move("reopens the batch", after, Actor(first, batch=answer))

    def _list_queued(self, shared: Shared, actor: Actor) -> Move:
        """What an interrupted replay may have requeued without counting or publishing it."""
        queued = tuple(number for number in shared.images if SHELF[number].state is ImageState.QUEUED)
        then = "list_failed"
        goes_to = actor._replace(at="fold_back", done=queued, then=then) if queued else actor._replace(at=then)
        return Move(f"lists {len(queued)} queued", shared, goes_to)

    def _list_failed(self, shared: Shared, actor: Actor) -> Move:
        """What it has not requeued before, and nothing once the batch is being cancelled."""
        replay = SHELF[actor.batch].replay.number
        failed = tuple(
            number
            for number in shared.images
            if SHELF[number].state is ImageState.FAILED and SHELF[number].replay < replay
        )
        if SHELF[shared.batch].control is Control.CANCELLING:
            failed = ()
        goes_to = actor._replace(at="requeue" if failed else "resume", seen=failed, done=(), then="")
        return Move(f"lists {len(failed)} failed", shared, goes_to)

    def _requeue(self, shared: Shared, actor: Actor) -> Move:
        seen, rest = actor.seen[0], actor.seen[1:]
        index = SHELF[seen].index
        answer = SHELF.ask(rules.requeue, shared.images[index], seen, actor.batch)
        done = actor.done if isinstance(answer, Refusal) else (*actor.done, answer)
        goes_to = actor._replace(seen=rest, done=done)
        if not rest:
            folds = "hand_out" if self.mutation == "a replay does not fold" else "fold_back"
            goes_to = goes_to._replace(at=folds if done else "resume", then="resume" if done else "")
        if isinstance(answer, Refusal):
            return Move(f"finds image {index} changed: {answer}", shared, goes_to)
        after, events = self._with_image(shared, index, (answer,))
        return Move(f"requeues image {index}", after, goes_to, events)

    def _fold_back(self, shared: Shared, actor: Actor) -> Move:
        """Every image that it has in hand into its shard, one at a time; then their tasks."""
        place = actor.open + 1
        image = actor.done[place]
        shard = SHELF[image].shard
        answer = SHELF.ask(rules.fold_image, shared.tallies[shard], image)
        after = shared if isinstance(answer, Refusal) else shared._replace(tallies=_put(shared.tallies, shard, answer))
        last = place + 1 == len(actor.done)
        goes_to = actor._replace(at="hand_out", open=-1) if last else actor._replace(open=place)
        return Move(f"folds image {shard} as {SHELF[image].state}", after, goes_to)

    def _hand_out(self, shared: Shared, actor: Actor) -> Move:
        wanted = {SHELF[number].index for number in actor.done}
        goes_to = actor._replace(at=actor.then, then="", seen=(), done=())
        return Move("publishes tasks", self._published(shared, wanted), goes_to)

    def _published(self, shared: Shared, wanted: set[int]) -> Shared:
        """A task changes nothing where its image is settled: it is acked."""
        known = zip(shared.tasks, shared.images, strict=True)
        tasks = tuple(
            task or (index in wanted and SHELF[image].state in OPEN) for index, (task, image) in enumerate(known)
        )
        return shared._replace(tasks=tasks)

    def _resume(self, shared: Shared, actor: Actor) -> Move:
        answer = SHELF.ask(rules.end_replay, shared.batch, actor.batch)
        if isinstance(answer, Refusal):
            return Move(f"cannot resume: {answer}", shared, DONE)
        return Move("resumes the batch", shared._replace(batch=answer, replay_is_over=False), self._check(Actor("")))

    # --- cancel: an operator's, or one that reconcile carries on (from "cancel_list")

    def _cancel(self, shared: Shared, actor: Actor) -> Move:
        answer = SHELF.ask(decisions.batch.begin_cancel, shared.batch)
        if answer is Refusal.UNCHANGED:
            return Move("carries a cancel on", shared, Actor("cancel_list"))
        if isinstance(answer, Refusal):
            return Move(f"cannot cancel: {answer}", shared, DONE)
        return Move("begins to cancel", shared._replace(batch=answer), Actor("cancel_list"))

    def _cancel_list(self, shared: Shared, actor: Actor) -> Move:
        """The queued images at first (`found` 0), then those in hand, whose worker may be dead."""
        state = (ImageState.QUEUED, ImageState.PROCESSING)[actor.found]
        listed = tuple(number for number in shared.images if number and SHELF[number].state is state)
        goes_to = actor._replace(at="cancel_one", seen=listed) if listed else self._cancelled(actor)
        return Move(f"lists {len(listed)} {state}", shared, goes_to)

    def _cancelled(self, actor: Actor) -> Actor:
        if not actor.found:
            return actor._replace(at="cancel_list", found=1, seen=())
        if self.mutation == "a cancel closes the batch":
            return Actor("close_by_hand", then=actor.then)
        return self._check(actor._replace(event=0))

    def _cancel_one(self, shared: Shared, actor: Actor) -> Move:
        seen, rest = actor.seen[0], actor.seen[1:]
        index = SHELF[seen].index
        goes_to = actor._replace(seen=rest) if rest else self._cancelled(actor)
        blind = self.mutation == "a cancel is not compared"
        rule, argument = (rules.cancel_unseen, seen) if blind else (rules.cancel_queued, shared.dead[index])
        answer = SHELF.ask(rule, shared.images[index], argument)
        if isinstance(answer, Refusal):
            return Move(f"cannot cancel image {index}: {answer}", shared, goes_to)
        after, events = self._with_image(shared, index, (answer,))
        return Move(f"cancels image {index}", after, goes_to, events)

    def _close_by_hand(self, shared: Shared, actor: Actor) -> Move:
        """A wrong end of a cancel: nobody sums what is open."""
        answer = SHELF.ask(rules.begin_whatever, shared.batch, 0)
        if isinstance(answer, Refusal):
            return Move(f"cannot close: {answer}", shared, DONE)
        after = shared._replace(batch=answer, lease_is_over=False)
        return Move("closes the batch by hand", after, Actor("gather", batch=answer, then=actor.then))

    # --- reconcile

    def _survey(self, shared: Shared, actor: Actor) -> Move:
        batch: Batch = SHELF[shared.batch]
        goes_to = self._check(Actor(""))
        if batch.state is BatchState.CLOSED and batch.announced_round >= batch.round:
            goes_to = DONE
        elif batch.state is BatchState.REOPENING:
            goes_to = self._check(Actor("", then="reopen")) if shared.replay_is_over else DONE
        elif batch.state is BatchState.PROCESSING:
            goes_to = Actor("list", batch=shared.batch)
        return Move(f"surveys the batch: {batch.state}", shared, goes_to)

    def _list(self, shared: Shared, actor: Actor) -> Move:
        """The images whose news has not arrived are folded; then it looks after those that are queued."""
        if self.mutation == "reconcile does not fold":
            return Move("lists nothing", shared, Actor("look_after", batch=actor.batch))
        goes_to = Actor("fold_news", batch=actor.batch, seen=shared.images)
        return Move("lists the images", shared, goes_to)

    def _fold_news(self, shared: Shared, actor: Actor) -> Move:
        seen, rest = actor.seen[0], actor.seen[1:]
        shard = SHELF[seen].shard
        goes_to = actor._replace(seen=rest) if rest else Actor("look_after", batch=actor.batch)
        if actor.found == 0 and not SHELF.tell(rules.news, seen, shared.tallies[shard]):
            return Move(f"has no news of image {shard}", shared, goes_to)
        if self.mutation == "reconcile sets" and actor.found == 0:
            return Move(f"has news of image {shard}", shared, actor._replace(found=1))
        rule = rules.set_image if self.mutation == "reconcile sets" else rules.fold_image
        answer = SHELF.ask(rule, shared.tallies[shard], seen)
        after = shared if isinstance(answer, Refusal) else shared._replace(tallies=_put(shared.tallies, shard, answer))
        return Move(f"folds image {shard} as {SHELF[seen].state}", after, goes_to._replace(found=0))

    def _look_after(self, shared: Shared, actor: Actor) -> Move:
        if SHELF[actor.batch].control is Control.CANCELLING:
            return Move("goes on to cancel", shared, Actor("cancel_list", then="read"))
        return Move("publishes what seems forgotten", self._published(shared, {0, 1}), self._check(Actor("")))

    # --- what is promised

    def _is_being_closed(self, shared: Shared) -> bool:
        """Whether a closing check would find another closer's lease."""
        return bool(shared.batch) and SHELF[shared.batch].state is BatchState.CLOSING and not shared.lease_is_over

    def _wrong(self, number: int) -> str | None:
        """Promises that hold in every state."""
        shared: Shared = self._shared.values[number]
        if shared.wrong:
            return shared.wrong
        for place, known in enumerate(shared.announced):
            if known and SHELF[known].reports["results.jsonl"].sha256 != shared.reports[place][1]:
                return f"the announced report of round {place + 1} has been overwritten"
        if shared.batch and not all(shared.announced[: SHELF[shared.batch].round - 1]):
            return "a round was left without its announcement"
        if shared.batch and SHELF[shared.batch].state in (BatchState.CLOSING, BatchState.CLOSED):
            if SHELF.tell(rules.open_in, shared.tallies)[0]:
                return "the batch is closing while a shard counts an open image"
        return SHELF.tell(rules.miscounted, shared.tallies)

    def _missing(self, number: int) -> str | None:
        """What must be done where nothing more is bound to happen."""
        shared: Shared = self._shared.values[number]
        batch: Batch | None = SHELF[shared.batch]
        if batch is None or batch.state is not BatchState.CLOSED:
            return f"the batch is left {batch.state if batch else 'out'}"
        if batch.announced_round != batch.round or not shared.announced[batch.round - 1]:
            return "the batch is closed and never announced"
        states = [SHELF[number].state for number in shared.images]
        folded = [SHELF[tally].entries.get(index, (0, None))[1] for index, tally in enumerate(shared.tallies)]
        return None if states == folded else f"the tallies say {folded}, the images {states}"


def _put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])
