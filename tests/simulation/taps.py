"""The ports as the simulation's processes have them: real, and the checker told of whatever they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.decisions.quota import Ledger
from shared.model import Batch, Image, Record, Refusal, Tally, TierEmpty, Worker
from shared.ports import Decision, Delivery, Message, StoredObject
from shared.worker.cache import CacheEntry
from tests.simulation.checker import Checker


class Tap:
    """The real port, and the checker told of what it did: at once, before anybody else runs."""

    def __init__(self, port: Any, checker: Checker) -> None:
        self._port, self._checker = port, checker

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._port, name)
        self.__dict__[name] = value
        return value


class TappedStore(Tap):
    """A store whose documents are seen."""

    async def beat(self, worker: Worker) -> None:
        await self._port.beat(worker)
        self._checker.beat(worker)

    async def create_batch(self, batch: Batch) -> Batch:
        made = await self._port.create_batch(batch)
        self._checker.batch(made)
        return made

    async def change_batch(self, batch_id: str, *more: Any) -> Batch | Refusal:
        made = await self._port.change_batch(batch_id, *more)
        if isinstance(made, Batch):
            self._checker.batch(made)
        return made

    async def change_tally(self, batch_id: str, shard: int, decide: Decision[Tally], token: str) -> Tally | Refusal:
        seen: list[Tally] = []

        def watched(before: Tally) -> Tally | Refusal:
            seen[:] = [before]
            return decide(before)

        made = await self._port.change_tally(batch_id, shard, watched, token)
        if isinstance(made, Tally) and seen:  # without a look at it, this very change was written before
            self._checker.tally(seen[0], made)
        return made

    async def create_images(self, images: Sequence[Image]) -> None:
        await self._port.create_images(images)
        for image in images:
            self._checker.images.setdefault((image.batch, image.index), image)
            self._checker.states.setdefault((image.batch, image.index), {}).setdefault(image.revision, image.state)

    async def change_image(self, batch_id: str, index: int, *more: Any, **options: Any) -> Image | Refusal:
        made = await self._port.change_image(batch_id, index, *more, **options)
        if isinstance(made, Image):
            self._checker.image(made)
        return made

    async def change_record(self, kind: type[Record], key: str, decide: Any, token: str) -> Record | Refusal:
        seen: list[Any] = []

        def watched(before: Any, now: float) -> Any:
            seen[:] = [before]
            return decide(before, now)

        made: Record | Refusal = await self._port.change_record(kind, key, watched, token)
        if isinstance(made, CacheEntry) and seen:
            self._checker.purchases.entry(seen[0], made)
        elif isinstance(made, Ledger) and seen:
            self._checker.ledger(seen[0], made)
        elif isinstance(made, TierEmpty):
            self._checker.tasks.emptied(made)
        return made


class TappedQueue(Tap):
    """A queue whose messages are seen."""

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        await self._port.publish(topic, messages)
        self._checker.published(topic, messages)

    async def pull(self, subscription: str, most: int, wait_seconds: float) -> list[Delivery]:
        self._checker.tasks.pulled(subscription)
        found: list[Delivery] = await self._port.pull(subscription, most, wait_seconds)
        self._checker.tasks.brought(subscription, len(found))
        self._checker.hosts.pulled(found)
        return found

    async def nack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        self._checker.waiting.nacked(subscription)
        await self._port.nack(subscription, ack_ids)


class TappedObjects(Tap):
    """An object store whose objects are seen."""

    async def put(self, bucket: str, name: str, data: bytes, **options: Any) -> StoredObject:
        made: StoredObject = await self._port.put(bucket, name, data, **options)
        self._checker.stored(made, data)
        return made

    async def delete(self, bucket: str, name: str) -> None:
        await self._port.delete(bucket, name)
        self._checker.purchases.deleted(bucket, name)
