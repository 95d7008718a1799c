"""The closing of a batch, in every order in which it can happen: design section 4, promises 1 to 3. See `world`."""

from __future__ import annotations

import msgspec
import pytest

from tests.worlds.explorer import Step, explore
from tests.worlds.walk import Walk
from tests.worlds.world import World

REPLAYED = {"ingests": 0, "replays": 1}
EVERYTHING = {"ingests": 0, "crashes": 1, "repeats": 1}  # a crash at every step and an event twice
CANCELLED = EVERYTHING | {"cancels": 1, "claims_show": True, "claim_events": False}
RECONCILED = EVERYTHING | {"reconciles": 1, "losses": 1, "claims_show": True, "claim_events": False}

# Those without reconcile show that where nobody dies nobody needs it.
CLEAN = {
    "everything once": World(),
    "ingest twice at once, an event twice": World(ingests=2, repeats=1, reconcile=False),
    "a crash": World(crashes=1),
    "a crash, an event twice": World(crashes=1, repeats=1),
    "a crash, ingest twice at once": World(ingests=2, crashes=1),
    "closers slower than their lease": World(crashes=1, repeats=1, slow_closers=True, claim_events=False),
    "closers that look once": World(crashes=1, repeats=1, controls=1, one_look=True, claim_events=False),
    "a replay": World(**REPLAYED),
    "a replay during ingest": World(replays=1),
    "a replay during ingest, a crash": World(replays=1, crashes=1, claim_events=False),
    "a replay, an event twice": World(**REPLAYED, repeats=1, reconcile=False),
    "a replay, a crash, an event twice": World(**EVERYTHING, replays=1),
    "a replay, the control changes": World(**REPLAYED, controls=1),
    # Promise 5 for closers: one that lost its lease, and slept through a replay, changes nothing.
    "a replay, closers slower than their lease": World(**REPLAYED, slow_closers=True),
    "a cancel, a crash, an event twice": World(**CANCELLED),
    "a cancel, a replay, a crash": World(**REPLAYED, cancels=1, crashes=1, claim_events=False),
    "a reconcile, a crash, an event twice, one lost": World(**RECONCILED),
    "a reconcile, a replay, a crash": World(**REPLAYED, reconciles=1, crashes=1, claim_events=False),
    "a reconcile, a cancel": World(ingests=0, reconciles=1, cancels=1, claims_show=True, claim_events=False),
}


@pytest.mark.parametrize("world", list(CLEAN.values()), ids=list(CLEAN))
def test_a_batch_closes_once_per_round_whatever_happens_when(world: World):
    found = world.explore()
    assert found.broken is None, str(found)
    assert found.states > 900, str(found)
    assert found.rests, str(found)


NO_NET = {"reconcile": False, "claim_events": False}
# Reconcile that comes again and again in vain is a world that goes round for ever.
CAUGHT = {
    "sum before the fold": (NO_NET, "the batch is left processing"),
    # The closer that begins in spite of an open image finds it out when it gathers.
    "sum before the batch is read": (REPLAYED | {"only": "a closer"}, "a closer finds other images than tallies"),
    "nothing is compared": (REPLAYED | {"only": "a closer"}, "a closer finds other images than tallies"),
    "a replay does not fold": (REPLAYED | {"only": "a closer"}, "a closer finds other images than tallies"),
    "no closing state": ({"crashes": 1, "only": "differently"}, "is announced twice, and differently"),
    "reports after the announcement": ({}, "announced without its report"),
    "shards are set": (NO_NET | {"crashes": 1}, "the batch is left processing"),  # reconcile would fold it all again
    "any event is the newest": ({"only": "a closer"}, "a closer finds other images than tallies"),
    "nobody carries a closing on": ({"crashes": 1}, "can go round for ever"),
    "no check on a repeated event": (NO_NET | {"crashes": 1, "only": "processing"}, "the batch is left processing"),
    "ingest does not check": (NO_NET, "the batch is left processing"),
    "nobody looks again": (NO_NET | {"controls": 1}, "the batch is left processing"),
    "who finds a closer at work goes home": (NO_NET | {"crashes": 1}, "the batch is left closing"),
    "reports have no fence": (REPLAYED | {"slow_closers": True, "only": "overwritten"}, "has been overwritten"),
    "anybody closes": (REPLAYED | {"slow_closers": True, "only": "without"}, "is announced without its report"),
    "a replay does not announce first": (REPLAYED | {"crashes": 1}, "left without its announcement"),
    "a replay takes up nothing": (
        REPLAYED | {"crashes": 1, "reconciles": 1, "claim_events": False, "only": "a closer"},
        "a closer finds other images than tallies",
    ),
    "a cancel is not compared": (CANCELLED, "a closer finds other images than tallies"),
    "a cancel closes the batch": (CANCELLED, "the batch is closing while a shard counts an open image"),
    "reconcile does not fold": (RECONCILED, "can go round for ever"),
    "reconcile sets": (RECONCILED, "the batch is closing while a shard counts an open image"),
}


@pytest.mark.parametrize(
    ("mutation", "options", "promise"), [(name, *rest) for name, rest in CAUGHT.items()], ids=CAUGHT
)
def test_leaving_out_a_rule_breaks_a_promise(mutation, options, promise):
    found = World(mutation=mutation, **options).explore()
    assert found.broken is not None, f"not caught: {mutation}; {found}"
    assert promise in found.broken, str(found)
    sound = World(**(options | {"only": ""})).explore()
    assert sound.broken is None, f"not the mutation's fault: {sound}"


@pytest.mark.parametrize(
    "options",
    [
        {"ingests": 0, "crashes": 1},
        {"crashes": 1},
        {"ingests": 0, "crashes": 1, "slow_closers": True},
        {"controls": 1},
        {"controls": 1, "one_look": True},
    ],
    ids=[
        "a closer dies and its event comes again within its lease",
        "a closer dies, which may be ingest",
        "closers slower than their lease, and one dies",
        "the control changes between read and begin",
        "the control changes once more than a closer looks",
    ],
)
def test_these_closings_need_no_reconcile(options):
    found = World(**NO_NET, **options).explore()
    assert found.broken is None, str(found)
    assert found.rests, str(found)


# --- what is left out of a walk


@pytest.mark.parametrize(
    "options",
    [
        {"ingests": 1},
        {"repeats": 1, "claim_events": True},
        {"crashes": 1, "repeats": 1},
        {"crashes": 1, "slow_closers": True},
        {"controls": 1},
        {"replays": 1, "reconcile": False},
        {"cancels": 1, "claims_show": True},
        {"reconciles": 1, "losses": 1},
    ],
    ids=lambda options: ", ".join(options),
)
def test_nothing_is_left_out_of_a_walk_that_anybody_could_see(options):
    """Documents, reports and announcements are seen in the same combinations where every single step is told."""
    world = World(**({"ingests": 0, "claim_events": False} | options))
    assert seen_in(world) == seen_in(msgspec.structs.replace(world, plain=True))


def seen_in(world: World) -> set:
    walk, seen = Walk(world), set()

    def broken(state):
        seen.add(walk.seen(state))
        return walk.broken(state)

    found = explore(walk.start(), walk.steps, broken=broken, missing=walk.missing)
    assert found.broken is None, str(found)
    return seen


# --- the explorer itself


def test_the_explorer_finds_the_shortest_way_to_what_is_broken():
    steps = lambda n: [Step("add one", n + 1), Step("double", n * 2)]
    found = explore(1, steps, broken=lambda n: "ten" if n == 10 else None, missing=lambda n: None)
    assert found.broken == "ten"
    assert len(found.trace) == 4  # 1 2 4 5 10


def test_the_explorer_asks_what_is_missing_only_where_nothing_is_bound_to_happen():
    steps = lambda n: [Step("on", n + 1)] if n < 3 else [Step("perhaps", 9, fair=False)] if n == 3 else []
    found = explore(0, steps, broken=lambda n: None, missing=lambda n: f"rests at {n}" if n < 9 else None)
    assert (found.broken, found.trace) == ("rests at 3", ("on", "on", "on"))
    assert explore(0, steps, broken=lambda n: None, missing=lambda n: None).states == 5


def test_the_explorer_refuses_a_world_that_can_go_round_for_ever():
    steps = lambda n: [Step("on", (n + 1) % 4)]
    assert explore(0, steps, broken=lambda n: None, missing=lambda n: None).broken == "can go round for ever"
    there_and_back = lambda n: [Step("perhaps", 1 - n, fair=False)]
    assert explore(0, there_and_back, broken=lambda n: None, missing=lambda n: None).broken is None


def test_the_explorer_stops_at_its_limit():
    found = explore(0, lambda n: [Step("on", n + 1)], broken=lambda n: None, missing=lambda n: None, max_states=50)
    assert found.broken == "more than 50 states"
