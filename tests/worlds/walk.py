"""The walk through a small world (see `world`): everything that can happen next in each state.

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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from shared import decisions
from shared.model import Batch, BatchState, Control, ImageState
from tests.worlds import rules
from tests.worlds.explorer import Step
from tests.worlds.moves import Moves
from tests.worlds.rules import NEW_BATCH, SHELF, TOTAL
from tests.worlds.state import (
    AFTER_A_CRASH,
    AT_REST,
    AT_WORK,
    CREATE,
    DONE,
    KINDS,
    LAST,
    NACKED,
    NOTHING_LEFT,
    REPLAYING,
    Actor,
    Ints,
    Left,
    Move,
    Numbers,
    Shared,
    State,
)

if TYPE_CHECKING:
    from tests.worlds.world import World


class Walk(Moves):
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
