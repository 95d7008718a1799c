"""Results by content: the same photo with the same wishes is bought once, also while it is being bought.

An entry is led by the worker that buys the picture, until its lease runs out; others wait for it. Keys include the
client: nobody sees that somebody else has staged the same photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from shared.claims import heartbeat_is_fresh
from shared.model import Lease, Record, Refusal
from shared.ports import BatchStore, Clock, ObjectStore, Photo, Request
from shared.settings import Settings


class CacheEntry(Record, frozen=True, kw_only=True):
    """`picture` names the generated picture in the work bucket once there is one; `lead` is who buys it now."""

    key: str
    client: str
    picture: str | None = None
    expires_at: float = 0.0
    lead: Lease | None = None


def key_of(client: str, photo: Photo, request: Request, prompts: str, models: tuple[str, str]) -> str:
    """The entry's key: everything that decides what the picture looks like, and whose it is."""
    parts = (client, photo.sha256, request.room_type, request.design_style, prompts, *models)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def object_name(key: str) -> str:
    """Where the entry's picture lies in the work bucket."""
    return f"cache/{key[:2]}/{key}"


class Lead(msgspec.Struct, frozen=True):
    """Who buys an entry's picture: an image in a worker's hands, by its fence."""

    worker: str
    image: str
    fence: int

    @property
    def holder(self) -> str:
        """As it stands in the entry's lease."""
        return f"{self.worker} {self.image} {self.fence}"


# --- pure decisions


def ask(
    entry: CacheEntry | None, now: float, *, key: str, client: str, lead: Lead, until: float, dead: str | None
) -> CacheEntry | Refusal:
    """Take the lead. `UNCHANGED`: there is a picture to use. `BUSY`: somebody else leads.

    A lead passes to a later claim of its own image, and from a worker known to be `dead`.
    """
    if entry is not None and entry.picture is not None and entry.expires_at > now:
        return Refusal.UNCHANGED
    if entry is not None and entry.lead is not None and entry.lead.until > now:
        worker, image, _ = entry.lead.holder.split(" ")
        if worker != dead and image != lead.image:
            return Refusal.BUSY
    return CacheEntry(key=key, client=client, lead=Lease(holder=lead.holder, until=until))


def fill(_: CacheEntry | None, now: float, *, key: str, client: str, keep_seconds: float) -> CacheEntry:
    """There is a picture now."""
    return CacheEntry(key=key, client=client, picture=object_name(key), expires_at=now + keep_seconds)


def let_go(entry: CacheEntry | None, _: float, *, lead: Lead) -> CacheEntry | Refusal:
    """The leader has no picture after all: the next one leads."""
    if entry is None or entry.lead is None or entry.lead.holder != lead.holder:
        return Refusal.UNCHANGED
    return msgspec.structs.replace(entry, lead=None)


# --- the steps


class Cache:
    """One worker's way to the entries."""

    def __init__(self, store: BatchStore, objects: ObjectStore, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._objects = objects
        self._clock = clock
        self._rules = settings.cache
        self._bucket = settings.buckets.work

    async def picture_or_lead(
        self, key: str, client: str, lead: Lead, check: Callable[[], Awaitable[None]]
    ) -> bytes | None:
        """The picture; or None, and the caller leads: it buys the picture and then calls `fill` or `let_go`.

        Waits while somebody else leads, calling `check` before each look. A picture whose object is gone is none.
        """
        dead: str | None = None
        while True:
            until = self._clock.now() + self._rules.lead_seconds
            decide = partial(ask, key=key, client=client, lead=lead, until=until, dead=dead)
            answer = await self._store.change_record(CacheEntry, key, decide, self._clock.token())
            if isinstance(answer, CacheEntry):
                return None
            if answer is Refusal.UNCHANGED:
                found = await self._objects.get(self._bucket, object_name(key))
                if found is not None:
                    return found[1]
                await self._store.change_record(CacheEntry, key, self._gone, self._clock.token())
                continue
            await self._clock.sleep(self._rules.poll_seconds)
            await check()
            dead = await self._dead_leader(key)

    async def _dead_leader(self, key: str) -> str | None:
        """The leading worker, if it is dead."""
        entry = await self._store.record(CacheEntry, key)
        if entry is None or entry.lead is None:
            return None
        worker = entry.lead.holder.partition(" ")[0]
        alive = heartbeat_is_fresh(await self._store.worker(worker), self._clock.now())
        return None if alive else worker

    @staticmethod
    def _gone(entry: CacheEntry | None, _: float) -> CacheEntry | Refusal:
        return Refusal.UNCHANGED if entry is None else msgspec.structs.replace(entry, picture=None)

    async def fill(self, key: str, client: str, picture: bytes) -> None:
        """Keep the picture: the object first, so that an entry never names what is not there."""
        await self._objects.put(self._bucket, object_name(key), picture, content_type="application/octet-stream")
        decide = partial(fill, key=key, client=client, keep_seconds=self._rules.keep_seconds)
        await self._store.change_record(CacheEntry, key, decide, self._clock.token())

    async def let_go(self, key: str, lead: Lead) -> None:
        """Leave the lead to the next."""
        await self._store.change_record(CacheEntry, key, partial(let_go, lead=lead), self._clock.token())
