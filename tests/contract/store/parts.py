"""What the store's suite is made with: a batch, an image, a tally, and the smallest change to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shared.decisions.quota import Ledger
from shared.model import Batch, BatchState, Counts, Failure, Image, Output, Tally
from shared.ports import BatchStore
from tests import builders
from tests.contract.backends import Backend

OUTPUT = Output(picture="p.jpg", thumbnail="t.jpg", before="b.jpg", sha256="0" * 64, width=640, height=480)
FAILURE = Failure(code="not_a_picture", message="no")


def a_batch(batch_id: str, total: int = 1, **changes: Any) -> Batch:
    return builders.a_batch(**{"id": batch_id, "total": total, "state": BatchState.PROCESSING} | changes)


def an_image(batch_id: str, index: int = 0, **changes: Any) -> Image:
    known = {"source": f"https://x.example/{index}.jpg", "shard": index % 8}
    return builders.an_image(**{"batch": batch_id, "index": index} | known | changes)


def a_tally(batch_id: str, shard: int = 0, **counts: int) -> Tally:
    return Tally(batch=batch_id, shard=shard, counts=Counts(**counts))


def bump(image: Image) -> Image:
    return msgspec.structs.replace(image, revision=image.revision + 1, attempts=image.attempts + 1)


def bump_batch(batch: Batch) -> Batch:
    return msgspec.structs.replace(batch, revision=batch.revision + 1, problems=batch.problems + 1)


def bump_tally(tally: Tally) -> Tally:
    return msgspec.structs.replace(tally, counts=msgspec.structs.replace(tally.counts, queued=tally.counts.queued + 1))


def bump_record(ledger: Ledger) -> Ledger:
    return msgspec.structs.replace(ledger, failures=ledger.failures + 1)


class Subject:
    """One document of any kind, changed and read alike."""

    def __init__(self, kind: str, backend: Backend, store: BatchStore | None = None) -> None:
        self.kind = kind
        self.backend = backend
        self.store = store or backend.store
        self.batch_id = backend.unique("batch")

    async def create(self) -> None:
        if self.kind == "batch":
            await self.store.create_batch(a_batch(self.batch_id))
        elif self.kind == "tally":
            await self.store.create_tallies([a_tally(self.batch_id, 3)])
        elif self.kind == "record":
            await self.store.change_record(Ledger, self.batch_id, lambda known, now: Ledger(id="x"), "made")
        else:
            await self.store.create_images([an_image(self.batch_id, 3)])

    async def read(self) -> Any:
        if self.kind == "batch":
            return await self.store.batch(self.batch_id)
        if self.kind == "tally":
            return await self.store.tally(self.batch_id, 3)
        if self.kind == "record":
            return await self.store.record(Ledger, self.batch_id)
        return await self.store.image(self.batch_id, 3)

    async def change(self, decide: Callable[[Any], Any], token: str, store: BatchStore | None = None) -> Any:
        store = store or self.store
        if self.kind == "batch":
            return await store.change_batch(self.batch_id, decide, token)
        if self.kind == "tally":
            return await store.change_tally(self.batch_id, 3, decide, token)
        if self.kind == "record":
            return await store.change_record(Ledger, self.batch_id, lambda known, now: decide(known), token)
        return await store.change_image(self.batch_id, 3, decide, token)

    def bump(self, document: Any) -> Any:
        bumps = {"batch": bump_batch, "tally": bump_tally, "image": bump, "record": bump_record}
        return bumps[self.kind](document)

    def level(self, document: Any) -> int:
        """How often the document was bumped."""
        names = {"batch": "problems", "image": "attempts", "record": "failures"}
        level: int = document.counts.queued if self.kind == "tally" else getattr(document, names[self.kind])
        return level


KINDS = pytest.mark.parametrize("kind", ["image", "batch", "tally", "record"])
