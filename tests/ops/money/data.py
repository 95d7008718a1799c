"""Data folders whose images have cost something, and manifests of more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ops import local, run_notes
from shared import decisions
from shared.adapters.system_clock import SystemClock
from shared.decisions.quota import Ledger
from shared.model import BatchState, Call, Completion, Counts, ImageState, Tier
from shared.results import names
from shared.settings import Settings
from shared.staging.prompts import VERSION
from tests import builders

EXPRESS, NORMAL, ECONOMY = Tier
TEXT, PICTURE = "gemini-3.5-flash-lite", "gemini-nano-banana-2.1"  # the settings' own
DAY = 86_400.0
BOUGHT = (Call(step="generate", model=PICTURE, cost_micro_usd=60_000),)


def address(name: object) -> str:
    return f"https://example.com/{name}.jpg"


def wish(
    photo: object, state: ImageState = ImageState.COMPLETED, calls: tuple[Call, ...] = BOUGHT, **changes: Any
) -> dict[str, Any]:
    """An image of a batch that is there already."""
    return {"source": address(photo), "state": state, "calls": calls, **changes}


class Data:
    """A data folder in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = time.time()

    def _run(self, work: Callable[[Any], Any]) -> None:
        async def body() -> None:
            embedded = local.open_backend(SystemClock(), self.folder, self.folder)
            try:
                await work(embedded.store)
            finally:
                embedded.database.close()

        asyncio.run(body())

    def batch(
        self, name: str, images: Sequence[dict[str, Any]], *, days_ago: float = 1.0, client: str = "acme",
        closed: bool = True, price_usd: float | None = None, **changes: Any,
    ) -> None:  # fmt: skip
        """A batch with these images, as its rooms would have left it."""
        at = self.now - days_ago * DAY
        counts = Counts()
        for image in images:
            counts += Counts(**{image["state"].value: 1})
        calls = [call for image in images for call in image["calls"]]
        cost = sum(call.cost_micro_usd for call in calls) / 1_000_000
        estimated = sum(call.cost_micro_usd for call in calls if call.estimated) / 1_000_000
        batch = builders.a_batch(
            id=f"{client}.{name}", client=client, client_name=client, tier=changes.pop("tier", NORMAL),
            manifest=builders.a_manifest_ref(uri="memory://m", base="file:///nowhere/"), total=len(images), created_at=at,
            state=BatchState.CLOSED if closed else BatchState.PROCESSING,
        )  # fmt: skip
        if closed:
            factor = {EXPRESS: 1.5, NORMAL: 1.0, ECONOMY: 0.7}[batch.tier]
            completion = Completion(
                outcome="completed", counts=counts, success_rate=1.0, cost_usd=cost, duration_seconds=60.0, reports={},
                cached=sum(image.get("cached", False) for image in images),
                price_usd=round(cost * factor, 6) if price_usd is None else price_usd, estimated_usd=estimated,
            )  # fmt: skip
            batch = msgspec.structs.replace(
                batch, closed_at=at, completion=completion, announced_round=1, tasks_published=len(images)
            )
        batch = msgspec.structs.replace(batch, **changes)
        documents = [
            builders.an_image(
                batch=batch.id, index=index, room_type=image.get("room_type", "living_room"),
                design_style=image.get("design_style", "modern"), tier=batch.tier, shard=index % batch.shards,
                source=image["source"], state=image["state"], calls=image["calls"], created_at=at,
                cached=image.get("cached", False), prompts=image.get("prompts", VERSION),
                model=image.get("model", Settings().gemini.image_model), settled_at=image.get("settled_at", at) if image["state"] in ("completed", "failed") else None,
            )
            for index, image in enumerate(images)
        ]  # fmt: skip

        async def work(store: Any) -> None:
            await store.create_batch(batch)
            tallies = decisions.batch.empty_tallies(batch)
            for document in documents:
                folded = decisions.batch.fold(
                    tallies[document.shard], index=document.index, revision=2, state=document.state
                )
                tallies[document.shard] = folded  # type: ignore[call-overload]
            await store.create_tallies(tallies)
            await store.create_images(documents)

        self._run(work)

    def ledger(self, model: str, **changes: Any) -> None:
        """The ledger of a model as it stands."""
        self._run(
            lambda store: store.change_record(
                Ledger, model, lambda known, _: msgspec.structs.replace(known or Ledger(id=model), **changes), "t"
            )
        )

    def status(self, batch_id: str, speed: float, seconds_ago: float) -> None:
        """The batch's status.json, as AGGREGATE refreshed it a while ago."""

        class Then(SystemClock):
            def now(self) -> float:
                return super().now() - seconds_ago

        async def body() -> None:
            embedded = local.open_backend(Then(), self.folder, run_notes.results_of(self.folder))
            try:
                batch = await embedded.store.batch(batch_id)
                assert batch is not None
                await embedded.objects.put(
                    Settings().buckets.results, names.status_name(batch), b"{}",
                    content_type="application/json", metadata={"pace": json.dumps({"images": speed * 100, "seconds": 100})},
                )  # fmt: skip
            finally:
                embedded.database.close()

        asyncio.run(body())

    def empty(self) -> Data:
        async def work(store: Any) -> None:
            assert await store.batches() == []

        self._run(work)
        return self


def open_images(count: int, prefix: str = "open") -> list[dict[str, Any]]:
    return [wish(f"{prefix}-{index}", ImageState.QUEUED, ()) for index in range(count)]
