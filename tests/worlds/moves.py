"""Each actor's next step in the small world: the closing check, ingest, replay, cancel and reconcile, told in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import decisions
from shared.model import Batch, BatchState, Completion, Control, ImageState, Refusal
from tests.worlds import rules
from tests.worlds.rules import NEW_BATCH, OPEN, SHELF
from tests.worlds.state import DONE, IDLE, LAST, NACKED, Actor, Ints, Move, Shared, put

if TYPE_CHECKING:
    from tests.worlds.world import World


class Moves:
    """The steps, by where an actor stands; what is broken on purpose is broken here."""

    world: World
    mutation: str
    _at_once: bool
    _one_step: bool

    def _goes_home(self, kind: str, actor: Actor) -> Actor:
        """Where it goes when there is nothing more to do: on to what the check was for, or to its rest."""
        return Actor(actor.then) if actor.then else LAST[kind]

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
            images=put(shared.images, index, last),
            tasks=put(shared.tasks, index, shared.tasks[index] and open_still),
            dead=put(shared.dead, index, False),
        ), tuple(events)

    # --- a handler, from an event to the closing check

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
        after = shared._replace(tallies=put(shared.tallies, shard, answer))
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
        after = shared._replace(reports=put(shared.reports, place, (fence, file.sha256)))
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
        after = shared._replace(announced=put(shared.announced, place, number), wrong=wrong)
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
        after = shared if isinstance(answer, Refusal) else shared._replace(tallies=put(shared.tallies, shard, answer))
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
        after = shared if isinstance(answer, Refusal) else shared._replace(tallies=put(shared.tallies, shard, answer))
        return Move(f"folds image {shard} as {SHELF[seen].state}", after, goes_to._replace(found=0))

    def _look_after(self, shared: Shared, actor: Actor) -> Move:
        if SHELF[actor.batch].control is Control.CANCELLING:
            return Move("goes on to cancel", shared, Actor("cancel_list", then="read"))
        return Move("publishes what seems forgotten", self._published(shared, {0, 1}), self._check(Actor("")))
