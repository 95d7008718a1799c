"""Results by content: the same photo with the same wishes is bought once, also while it is being bought.

An entry is led by the claim that buys the picture, for as long as the claim stands: it may wait for quota for long, and
nobody else buys the same picture meanwhile. Keys include the client: nobody sees that somebody else has staged the
same photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from shared import decisions
from shared.errors import LostClaim
from shared.model import SETTLED_STATES, Image, ImageState, Record, Refusal, Worker, image_of
from shared.ports import BatchStore, Clock, ModelSpec, ObjectStore, Photo, Request
from shared.settings import Settings

# An image that was released with its picture leads so long: two backoffs of the queue, which are 300 s at most.
PAID_LEAD_SECONDS: Final = 600.0


class CacheEntry(Record, frozen=True, kw_only=True):
    """`picture` names the generated picture in the work bucket once there is one; `led_by` tells who buys it."""

    key: str
    client: str
    picture: str | None = None
    expires_at: float = 0.0
    led_by: str | None = None


def key_of(client: str, photo: Photo, request: Request, spec: ModelSpec) -> str:
    """The entry's key: everything that decides what the picture looks like, and whose it is."""
    models = (step.usual.model for step in spec.steps if step.name != "verify")
    parts = (client, photo.sha256, request.room_type, request.design_style, spec.prompts, *models)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def object_name(key: str) -> str:
    """Where the entry's picture lies in the work bucket."""
    return f"cache/{key[:2]}/{key}"


class Lead(msgspec.Struct, frozen=True):
    """Who buys an entry's picture: an image in a worker's hands, by its fence."""

    worker: str
    image: str
    fence: int

    def __str__(self) -> str:
        """As it stands in the entry."""
        return f"{self.worker} {self.image} {self.fence}"

    @classmethod
    def read(cls, text: str) -> Lead:
        """The lead that stands in an entry."""
        worker, image, fence = text.split(" ")
        return cls(worker, image, int(fence))


# --- pure decisions


def ask(
    entry: CacheEntry | None, now: float, *, key: str, client: str, lead: Lead, dead: str | None
) -> CacheEntry | Refusal:
    """Take the lead. `UNCHANGED`: there is a picture to use. `BUSY`: somebody else leads.

    A lead passes to a later claim of its own image (`STALE_FENCE` to an earlier one, whose hand is stale), and to other
    images from a claim known to be `dead`.
    """
    if entry is not None and entry.picture is not None and entry.expires_at > now:
        return Refusal.UNCHANGED
    if entry is not None and entry.led_by is not None:
        known = Lead.read(entry.led_by)
        if known.image == lead.image and known.fence > lead.fence:
            return Refusal.STALE_FENCE
        if known.image != lead.image and entry.led_by != dead:
            return Refusal.BUSY
    return CacheEntry(key=key, client=client, led_by=str(lead))


def leads(image: Image, lead: Lead, holder: Worker | None, now: float) -> bool:
    """Whether a picture is to be expected of a lead: its claim stands, or its image has paid for one and comes again.

    An image that has its picture and waits for another attempt, to verify it, keeps the lead for a while: what it has
    paid for is not bought again by those that wait.
    """
    if image.state in SETTLED_STATES:
        return False
    if (
        image.state is ImageState.PROCESSING
        and image.fence == lead.fence
        and decisions.image.heartbeat_is_fresh(holder, now)
    ):
        return True
    paid = image.checkpoint is not None and image.checkpoint.picture is not None
    # Its worker's life counts only while that has it in hand: given back, it may have to wait for that very worker,
    # which a suspect has to itself and waits in, for this lead.
    died = image.state is ImageState.PROCESSING and image.fence == lead.fence
    last_seen = max(image.touched_at, holder.at if holder and died else 0.0)
    return paid and now - last_seen < PAID_LEAD_SECONDS


def fill(_: CacheEntry | None, now: float, *, key: str, client: str, keep_seconds: float) -> CacheEntry:
    """There is a picture now."""
    return CacheEntry(key=key, client=client, picture=object_name(key), expires_at=now + keep_seconds)


def let_go(entry: CacheEntry | None, _: float, *, lead: Lead) -> CacheEntry | Refusal:
    """The leader has no picture after all: the next one leads."""
    if entry is None or entry.led_by != str(lead):
        return Refusal.UNCHANGED
    return msgspec.structs.replace(entry, led_by=None)


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
        Raises `LostClaim` when the image's own next claim leads.
        """
        dead: str | None = None
        while True:
            decide = partial(ask, key=key, client=client, lead=lead, dead=dead)
            answer = await self._store.change_record(CacheEntry, key, decide, self._clock.token())
            if isinstance(answer, CacheEntry):
                return None
            if answer is Refusal.STALE_FENCE:
                raise LostClaim(f"fence {lead.fence}: a later claim of {lead.image} buys its picture")
            if answer is Refusal.UNCHANGED:
                found = await self._objects.get(self._bucket, object_name(key))
                if found is not None:
                    return found[1]
                await self._store.change_record(CacheEntry, key, self._gone, self._clock.token())
                continue
            await self._clock.sleep(self._rules.poll_seconds)
            await check()
            dead = await self._dead_lead(key)

    async def _dead_lead(self, key: str) -> str | None:
        """The lead, if nothing is to be expected of it any more."""
        entry = await self._store.record(CacheEntry, key)
        if entry is None or entry.led_by is None:
            return None
        lead = Lead.read(entry.led_by)
        image = await self._store.image(*image_of(lead.image))
        holder = await self._store.worker(lead.worker)
        return None if image is not None and leads(image, lead, holder, self._clock.now()) else entry.led_by

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
