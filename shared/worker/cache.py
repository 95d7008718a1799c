"""A client's cache of results: the same photo with the same wishes is bought only once.

That holds even for images that are staged at the same time. The claim that buys an entry's picture leads the entry.
Other images with the same key wait for it as long as that claim is alive, even if it waits for quota. Keys include the
client, so that nobody learns that another client has staged the same photo.
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

# How long a released image that has paid for its picture keeps the lead: two backoffs of the queue, each at most 300 s.
PAID_LEAD_SECONDS: Final = 600.0


class CacheEntry(Record, frozen=True, kw_only=True):
    """One picture of a client's cache.

    `picture` names the generated picture in the work bucket once there is one. `led_by` is the `Lead` that buys it, as
    text.
    """

    key: str
    client: str
    picture: str | None = None
    expires_at: float = 0.0
    led_by: str | None = None


def key_of(client: str, photo: Photo, request: Request, spec: ModelSpec) -> str:
    """Return the entry's key: a hash of everything that decides what the picture looks like, and of its owner.

    The model that verifies is left out, because it does not change the picture.
    """
    models = (step.usual.model for step in spec.steps if step.name != "verify")
    parts = (client, photo.sha256, request.room_type, request.design_style, spec.prompts, *models)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def object_name(key: str) -> str:
    """Return the name of the entry's picture in the work bucket."""
    return f"cache/{key[:2]}/{key}"


class Lead(msgspec.Struct, frozen=True):
    """The right to buy an entry's picture: held by one claim of an image, identified by worker and fence."""

    worker: str
    image: str
    fence: int

    def __str__(self) -> str:
        """Return the form in which it is stored in the entry."""
        return f"{self.worker} {self.image} {self.fence}"

    @classmethod
    def read(cls, text: str) -> Lead:
        """Parse the stored form."""
        worker, image, fence = text.split(" ")
        return cls(worker, image, int(fence))


# --- pure decisions


def ask(
    entry: CacheEntry | None, now: float, *, key: str, client: str, lead: Lead, dead: str | None
) -> CacheEntry | Refusal:
    """Take the lead, unless there is a picture to use (`UNCHANGED`) or another image leads (`BUSY`).

    A lead passes to a later claim of its own image. An earlier claim of that image is refused with `STALE_FENCE`, since
    its task is stale. Other images may take the lead from a claim known to be `dead`.
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
    """Return whether a lead can still be expected to deliver a picture.

    It can while its claim is alive. An image that has paid for its picture and waits for another attempt to verify it
    keeps the lead for `PAID_LEAD_SECONDS`, so that the images waiting for it do not buy the same picture again.
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
    # Count the worker as alive only while it holds the image. A released image may be queued behind a suspect that
    # occupies that worker alone and is itself waiting for this lead: a deadlock.
    died = image.state is ImageState.PROCESSING and image.fence == lead.fence
    last_seen = max(image.touched_at, holder.at if holder and died else 0.0)
    return paid and now - last_seen < PAID_LEAD_SECONDS


def fill(_: CacheEntry | None, now: float, *, key: str, client: str, keep_seconds: float) -> CacheEntry:
    """Record that the picture exists. It expires after `keep_seconds`."""
    return CacheEntry(key=key, client=client, picture=object_name(key), expires_at=now + keep_seconds)


def let_go(entry: CacheEntry | None, _: float, *, lead: Lead) -> CacheEntry | Refusal:
    """Give up the lead without a picture, so that the next image takes it."""
    if entry is None or entry.led_by != str(lead):
        return Refusal.UNCHANGED
    return msgspec.structs.replace(entry, led_by=None)


# --- the steps


class Cache:
    """One worker's access to the cache entries."""

    def __init__(self, store: BatchStore, objects: ObjectStore, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._objects = objects
        self._clock = clock
        self._rules = settings.cache
        self._bucket = settings.buckets.work

    async def picture_or_lead(
        self, key: str, client: str, lead: Lead, check: Callable[[], Awaitable[None]]
    ) -> bytes | None:
        """Return the picture, or None if the caller now leads.

        A leader must buy the picture and then call `fill` or `let_go`. Waits while another image leads, and calls
        `check` before each look so that a pause ends the wait. An entry whose object is gone counts as empty. Raises
        `LostClaim` when a later claim of the same image leads.
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
        """Return the entry's lead if no picture can be expected of it any more; else None."""
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
        """Store the picture, then the entry: an entry must never name an object that does not exist."""
        await self._objects.put(self._bucket, object_name(key), picture, content_type="application/octet-stream")
        decide = partial(fill, key=key, client=client, keep_seconds=self._rules.keep_seconds)
        await self._store.change_record(CacheEntry, key, decide, self._clock.token())

    async def let_go(self, key: str, lead: Lead) -> None:
        """Give up the lead."""
        await self._store.change_record(CacheEntry, key, partial(let_go, lead=lead), self._clock.token())
