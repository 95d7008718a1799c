"""What is asked of batches: answers with their types, by no more reads than a question says."""

from __future__ import annotations

import msgspec
import pytest

from shared import decisions
from shared.decisions.quota import Circuit, Ledger
from shared.events import Status
from shared.model import Batch, BatchState, Call, Completion, Control, Counts, Failure, Image, ImageState, Tier
from shared.queries import batches, costs, failures, images, quota
from shared.queries.pipeline import Pipeline
from shared.settings import Limit
from shared.telemetry import trace_id
from tests import builders
from tests.harness.world import SETTINGS, World, virtual

CALLS = (Call(step="generate", model="m", cost_micro_usd=50_000), Call(step="verify", model="m", cost_micro_usd=2_000))


def pipeline(world: World) -> Pipeline:
    return Pipeline(world.parts.backend, world.settings, world.clock)


class Counting:
    """A store that counts what is read of images."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.listed = 0

    def __getattr__(self, name: str) -> object:
        self.listed += name == "images"
        return getattr(self._store, name)


def counted(world: World) -> tuple[Pipeline, Counting]:
    store = Counting(world.store)
    backend = msgspec.structs.replace(pipeline(world).backend, store=store)  # type: ignore[arg-type]
    return Pipeline(backend, world.settings, world.clock), store


async def closed(world: World, **completion: float) -> Batch:
    done = Completion(
        outcome="completed", counts=Counts(completed=1), success_rate=1.0, cost_usd=0.5, price_usd=0.75, cached=0,
        duration_seconds=9.0, reports={}, **completion,  # type: ignore[arg-type]
    )  # fmt: skip
    return await world.change_batch(state=BatchState.CLOSED, completion=done, closed_at=1.0, announced_round=1)


# --- batches


@virtual
async def test_a_list_reads_no_image_unless_it_is_told_to(world: World) -> None:
    """In the cloud each image of an open batch would cost a read."""
    await world.change_image(batch=(await world.batch(3)).id, calls=CALLS)
    asked, store = counted(world)
    row = await batches.listed(asked, await world.the_batch(), read_images=False)
    assert (row.cost_usd, store.listed) == (None, 0)
    row = await batches.listed(asked, await world.the_batch(), read_images=True)
    assert (row.cost_usd, store.listed) == (pytest.approx(0.052), 1)
    assert (row.batch_id, row.total, row.tier, row.state) == ("acme.b1", 3, "normal", "processing")


@virtual
async def test_a_closed_batch_knows_its_cost(world: World) -> None:
    await world.batch(1)
    asked, store = counted(world)
    row = await batches.listed(asked, await closed(world), read_images=True)
    assert (row.cost_usd, store.listed, row.state) == (0.5, 0, "completed")


@virtual
async def test_a_row_is_a_status_with_more(world: World) -> None:
    """Every face shows the same: what `status` says stands in the row too, under the same names."""
    batch = await world.batch(2)
    status = msgspec.to_builtins(await batches.status(pipeline(world), batch))
    row = msgspec.to_builtins(await batches.listed(pipeline(world), batch, read_images=False))
    assert status == {name: row[name] for name in status}
    assert row.keys() - status.keys() == {"tier", "createdAt", "costUsd"}
    assert isinstance(await batches.status(pipeline(world), batch), Status)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"open", "running"}), ({"control": Control.PAUSED}, {"open", "paused"}),
        ({"control": Control.CANCELLING}, {"open", "cancelling"}), ({"state": BatchState.REJECTED}, {"rejected"}),
        ({"state": BatchState.CLOSED}, {"closed"}), ({"state": BatchState.CLOSING}, {"open", "running"}),
    ],
)  # fmt: skip
def test_words_for_a_batch(changes: dict[str, object], expected: set[str]) -> None:
    found = batches.states_of(builders.a_batch(**changes))
    assert found == expected
    assert found <= set(batches.STATES)


# --- costs


@virtual
async def test_costs_of_an_open_batch_are_its_images(world: World) -> None:
    await world.batch(2)
    await world.change_image(0, calls=CALLS, state=ImageState.COMPLETED, settled_at=1.0)
    await world.change_image(1, calls=(msgspec.structs.replace(CALLS[0], estimated=True),))
    found = await costs.of_batch(pipeline(world), await world.the_batch())
    assert (found.cost_usd, found.unfinished_usd, found.estimated_usd) == (0.102, 0.05, 0.05)
    assert found.price_usd == decisions.money.price_usd(SETTINGS.tiers, Tier.NORMAL, 0.102)


@virtual
async def test_costs_of_a_closed_batch_are_what_was_announced(world: World) -> None:
    await world.batch(1)
    found = await costs.of_batch(pipeline(world), await closed(world, estimated_usd=0.25))
    assert (found.cost_usd, found.price_usd, found.estimated_usd, found.unfinished_usd) == (0.5, 0.75, 0.25, 0.0)


def test_clients_are_summed_in_order() -> None:
    row = costs.BatchCosts(
        batch_id="b.1", client="b", tier="normal", created_at="", completed=1, images=2, cost_usd=0.1,
        unfinished_usd=0.01, estimated_usd=0.02, price_usd=0.2,
    )  # fmt: skip
    rows = [row, msgspec.structs.replace(row, client="a"), row]
    assert costs.by_client(rows) == [
        costs.ClientCosts(client="a", batches=1, completed=1, cost_usd=0.1, unfinished_usd=0.01, estimated_usd=0.02,
                          price_usd=0.2),
        costs.ClientCosts(client="b", batches=2, completed=2, cost_usd=0.2, unfinished_usd=0.02, estimated_usd=0.04,
                          price_usd=0.4),
    ]  # fmt: skip


# --- quota


@virtual
async def test_a_models_quota(world: World) -> None:
    model, now = next(iter(world.settings.limits)), world.clock.now()
    (found,) = [one for one in await quota.of_models(pipeline(world)) if one.model == model]
    own = world.settings.limits[model]
    assert (found.per_minute, found.changed, found.used, found.circuit) == (own.per_minute, False, 0, "closed")
    ledger = Ledger(id=model, limit=Limit(per_minute=7), circuit=Circuit.OPEN, open_until=now + 60, rate=0.5)
    await world.store.change_record(Ledger, model, lambda _, __: ledger, "t")
    (found,) = [one for one in await quota.of_models(pipeline(world)) if one.model == model]
    assert (found.per_minute, found.changed, found.circuit) == (7, True, "open")
    assert found.open_until is not None
    assert found.day_spent_until is None


@virtual
async def test_asking_for_a_quota_writes_nothing(world: World) -> None:
    await quota.of_models(pipeline(world))
    assert await world.store.records(Ledger) == []


# --- one image, and those that failed


@virtual
async def test_an_images_story(world: World) -> None:
    batch = await world.batch(2)
    hand = await world.worker()
    await world.held_by(hand.heartbeat.worker, 1)
    found = await images.story(pipeline(world), batch, 1)
    assert found is not None
    assert (found.image.index, found.trace) == (1, trace_id(batch.id, 1))
    assert found.holder is not None
    assert found.holder.id == hand.heartbeat.worker
    assert await images.story(pipeline(world), batch, 2) is None
    assert await images.story(pipeline(world), batch, -1) is None


@virtual
async def test_failed_images_by_code_and_time(world: World) -> None:
    batch = await world.batch(4)
    for index, (code, at) in enumerate([("internal", 10.0), ("source_not_found", 20.0), ("internal", 30.0)]):
        error = Failure(code=code, message=f"no {index}")
        await world.change_image(index, state=ImageState.FAILED, error=error, settled_at=at)
    store = world.store
    assert [one.index for one in await failures.images(store, batch)] == [0, 1, 2]
    assert [one.index for one in await failures.images(store, batch, ["internal"])] == [0, 2]
    assert [one.index for one in await failures.images(store, batch, since=20.0)] == [1, 2]
    assert [one.index for one in await failures.images(store, batch, before=20.0)] == [0, 1]
    (first, second) = await failures.of(store, batch)
    assert (first.code, first.count, second.code) == ("internal", 2, "source_not_found")
    assert second.advice == failures.advice("source_not_found")
    assert isinstance(await world.image(3), Image)
