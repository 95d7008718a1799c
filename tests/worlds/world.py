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
"""

from __future__ import annotations

import functools
import gc

import msgspec

from tests.worlds.explorer import Found, explore
from tests.worlds.walk import Walk

LIMIT = 400_000  # states; a world that has more is too large to be small


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
