"""Three hundred seeds, and a crash at every port call of every kind of process on one image's way."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from shared.model import Counts, ImageState, Tally, Tier
from tests.simulation.faults import Crash, Rates
from tests.simulation.kills import STORMS, blow
from tests.simulation.plan import Plan, Wanted
from tests.simulation.run import explained, run_seed
from tests.simulation.scenarios import SCENARIOS, play
from tests.simulation.world import World, simulate

SEEDS, CHUNK = 300, 25
STORM_SEEDS, STORM_CHUNK = 27, 9
# One image's way, with a replay of another that fails: every process has a part in it. The pause outlasts what workers
# remember of the batch's control, so that the image is released with its picture and claimed again.
WAY = Plan(
    batches=(Wanted(name="b0", at=0.0, images=2),),
    operations=((1.0, "pause", "b0"), (14.0, "resume", "b0"), (24.0, "replay", "b0")),
    stormy_seconds=36.0,
    slowness=0.2,
)
KINDS = ("worker0", "aggregate", "deadletter", "ingest", "operator")


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds_keep_every_promise(first: int) -> None:
    for seed in range(first, first + CHUNK):
        world = run_seed(seed)
        assert not world.checker.violations, explained(seed, world)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_worst_schedules_keep_every_promise(scenario) -> None:
    world = play(scenario)
    assert not world.checker.violations, f"{world.checker.violations}\n{world.faults.told(200)}"
    assert world.followed, world.faults.told(200)


@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.__name__)
def test_kills_blame_no_healthy_image_and_deadly_ones_fail_alone(storm) -> None:
    world: Any = play(storm)
    assert not world.checker.violations, f"{world.checker.violations}\n{world.faults.told(200)}"
    assert world.followed, world.faults.told(200)
    assert world.kills >= 50 or not storm.storm.every


@pytest.mark.parametrize("first", range(0, STORM_SEEDS, STORM_CHUNK))
def test_storms_by_seed_blame_no_healthy_image(first: int) -> None:
    for seed in range(first, first + STORM_CHUNK):
        world = blow(seed)
        assert not world.checker.violations, f"storm {seed}: {world.checker.violations}\n{world.faults.told(100)}"


def test_photo_hosts_refuse_in_a_good_share_of_the_seeds() -> None:
    worlds = [run_seed(seed) for seed in range(60)]
    assert sum(world.hosts.refusals.total() > 0 for world in worlds) >= 12
    assert sum(world.hosts.max_parked > 0 for world in worlds) >= 12


def test_one_seed_gives_one_and_the_same_run() -> None:
    told = {run_seed(11).faults.told(5000) for _ in range(2)}
    assert len(told) == 1


def test_a_worker_with_two_slots_serves_every_tier() -> None:
    plan = Plan(batches=(Wanted(name="b0", at=0.0, images=1, tier=Tier.ECONOMY),), in_flight=2, stormy_seconds=10.0)
    assert not simulate("two slots", plan).checker.violations


def way(crash: Crash | None) -> World:
    """The way with one crash. One image always fails at first, so that there is something to replay."""
    return simulate("way", msgspec.structs.replace(WAY, crash=crash, rejected=1))


def released_for_the_pause(world: World) -> bool:
    states = world.checker.states["acme.b0", 1]
    return ImageState.QUEUED in [states[revision] for revision in sorted(states)][1:]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_every_port_call_is_recovered_from(kind: str, after: bool) -> None:
    undisturbed = way(None)
    assert not undisturbed.checker.violations, undisturbed.faults.told(200)
    assert released_for_the_pause(undisturbed), undisturbed.faults.told(200)
    calls = undisturbed.calm_calls[kind]
    assert calls > 5
    for call in range(1, calls + 1):
        world = way(Crash(process=kind, call=call, after=after))
        assert world.faults.crash is None, f"call {call} was not reached"
        assert not world.checker.violations, f"call {call}: {world.checker.violations}\n{world.faults.told(150)}"


def test_the_checker_is_awake() -> None:
    """A write that breaks three rules at once is blamed for each."""
    plan = Plan(rates=Rates(source=1.0), stormy_seconds=60.0, batches=(Wanted(name="b0", at=0.0, images=1),))
    world = simulate("hopeless", plan)
    assert not world.checker.violations
    image = world.checker.images["acme.b0", 0]
    world.checker.image(msgspec.structs.replace(image, revision=image.revision + 2, fence=image.fence - 1))
    assert len(world.checker.violations) == 3


HALF: Final = Tally(
    batch="acme.b0", shard=0, counts=Counts(queued=1, completed=1), entries={0: (2, ImageState.COMPLETED)}, token="two"
)
DONE: Final = {0: (2, ImageState.COMPLETED), 8: (2, ImageState.COMPLETED)}


def nine_done() -> World:
    """Nine images in eight shards, all done: in shard 0 lie images 0 and 8."""
    plan = Plan(stormy_seconds=10.0, batches=(Wanted(name="b0", at=0.0, images=9),))
    return simulate("nine", plan)


@pytest.mark.parametrize(
    ("before", "after", "blamed"),
    [
        pytest.param({}, {}, None, id="right"),
        pytest.param({"token": "one"}, {}, "written over 'one'", id="over another write"),
        pytest.param({"counts": Counts(queued=2)}, {"counts": Counts(queued=1, completed=1)}, "written over 'two'", id="over other counts"),
        pytest.param({"entries": {}}, {"entries": {8: DONE[8]}}, "written over 'two'", id="over other entries"),
        pytest.param({}, {"entries": {8: DONE[8]}}, "images [0] were forgotten", id="forgets"),
        pytest.param({}, {"entries": {**DONE, 0: (1, ImageState.PROCESSING)}, "counts": Counts(processing=1, completed=1)}, "image 0 went back to revision 1", id="goes back"),
        pytest.param({}, {"entries": {**DONE, 8: (2, ImageState.FAILED)}, "counts": Counts(completed=1, failed=1)}, "image 8 was never failed", id="never was"),
        pytest.param({}, {"counts": Counts(queued=1, completed=1)}, "where its entries make", id="counts something else"),
    ],
)  # fmt: skip
def test_the_checker_sees_a_tally_go_wrong(before: dict[str, Any], after: dict[str, Any], blamed: str | None) -> None:
    checker = nine_done().checker
    assert not checker.violations
    for index in (0, 8):
        checker.states["acme.b0", index] = {1: ImageState.PROCESSING, 2: ImageState.COMPLETED}
    checker.tallies["acme.b0", 0] = (HALF.token, HALF.counts, len(HALF.entries))
    done = msgspec.structs.replace(HALF, counts=Counts(completed=2), entries=DONE, token="three")
    checker.tally(msgspec.structs.replace(HALF, **before), msgspec.structs.replace(done, **after))
    assert [blamed in violation for violation in checker.violations] == ([True] if blamed else [])


def test_the_checker_reads_the_tallies_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store loses behind the checker's back, with the counts kept, is seen at the end."""
    letters = World._letters

    def lose(tally: Tally) -> Tally:
        return msgspec.structs.replace(tally, entries={0: tally.entries[0]})

    async def last(world: World) -> list[tuple[bytes, dict[str, str]]]:
        await world.parts.store.change_tally("acme.b0", 0, lose, "lost")
        return await letters(world)

    monkeypatch.setattr(World, "_letters", last)
    violations = nine_done().checker.violations
    assert ["images [8] ended otherwise" in violation for violation in violations] == [True]
