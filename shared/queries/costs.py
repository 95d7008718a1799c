"""What batches have cost us, and what their clients pay."""

from __future__ import annotations

from collections.abc import Iterable

from shared import decisions
from shared.events import Public, iso
from shared.model import Batch, BatchState
from shared.queries.pipeline import Pipeline


class BatchCosts(Public, frozen=True, kw_only=True):
    """What a batch has cost so far, in US dollars.

    `unfinished_usd` is the part spent on images that are not settled yet. `estimated_usd` is the part whose usage the
    vendor did not report. `price_usd` is what the client pays.
    """

    batch_id: str
    client: str
    tier: str
    created_at: str  # RFC 3339, UTC
    completed: int
    images: int
    cost_usd: float
    unfinished_usd: float
    estimated_usd: float
    price_usd: float


class ClientCosts(Public, frozen=True, kw_only=True):
    """The sums of a client's batches."""

    client: str
    batches: int = 0
    completed: int = 0
    cost_usd: float = 0.0
    unfinished_usd: float = 0.0
    estimated_usd: float = 0.0
    price_usd: float = 0.0


async def of_batch(pipeline: Pipeline, batch: Batch) -> BatchCosts:
    """Return a batch's costs.

    A closed batch knows its sums, and its price is the announced one. For any other batch, every image is read.
    """
    store, micro, unfinished, estimated = pipeline.backend.store, 0, 0, 0
    if batch.state is BatchState.CLOSED and batch.completion:
        done = batch.completion
        completed, cost, price = done.counts.completed, done.cost_usd, done.price_usd
        estimated_usd = done.estimated_usd
    else:
        completed = (await store.counts(batch.id)).completed
        async for image in store.images(batch.id):
            micro += image.cost_micro_usd
            estimated += image.estimated_micro_usd
            unfinished += image.cost_micro_usd if image.settled_at is None else 0
        cost, estimated_usd = decisions.money.usd(micro), decisions.money.usd(estimated)
        price = decisions.money.price_usd(pipeline.settings.tiers, batch.tier, cost)
    return BatchCosts(
        batch_id=batch.id,
        client=batch.client,
        tier=batch.tier.value,
        created_at=iso(batch.created_at),
        completed=completed,
        images=batch.total,
        cost_usd=round(cost, 6),
        unfinished_usd=round(decisions.money.usd(unfinished), 6),
        estimated_usd=round(estimated_usd, 6),
        price_usd=round(price, 6),
    )


def by_client(rows: Iterable[BatchCosts]) -> list[ClientCosts]:
    """Return the sums of each client, in order of name."""
    found: dict[str, ClientCosts] = {}
    for row in rows:
        total = found.get(row.client, ClientCosts(client=row.client))
        found[row.client] = ClientCosts(
            client=row.client,
            batches=total.batches + 1,
            completed=total.completed + row.completed,
            cost_usd=round(total.cost_usd + row.cost_usd, 6),
            unfinished_usd=round(total.unfinished_usd + row.unfinished_usd, 6),
            estimated_usd=round(total.estimated_usd + row.estimated_usd, 6),
            price_usd=round(total.price_usd + row.price_usd, 6),
        )
    return [found[client] for client in sorted(found)]
