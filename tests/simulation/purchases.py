"""Promise 6, judged: paid work is kept. Every picture and every analysis is followed from its answer to its document.

A picture that was bought is kept in its image's checkpoint, judged bad, or lost to something that really happened
between the two: a crash, a fault or a stop in that very handling, a claim that was taken away. What is kept and not
judged bad is not bought again; where the batch uses the cache, not for another image with the same photo either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

import msgspec

from shared.model import Image, ImageState
from shared.ports import StoredObject
from shared.worker.cache import CacheEntry
from tests.simulation.faults import HAND, LATE_SECONDS, PROCESS, Faults, Hand, Key

WORK: Final = "work"
PAID_LEAD_SECONDS: Final = 600.0  # an image that was released with its picture leads its cache entry so long
SETTLED: Final = frozenset({ImageState.COMPLETED, ImageState.FAILED, ImageState.CANCELLED})


class Purchase(msgspec.Struct):
    """One picture that the vendor delivered; `faults` are those its hand had met by then."""

    picture: bytes
    photo: bytes
    key: Key
    faults: int
    kept: bool = False


class Purchases:
    """Follows paid work. `images` are the documents as last written, `seems_dead` tells of a worker and a clock's lead.

    `stopped_since` tells of a batch whether who began at a time may have found that it is not to run.
    """

    def __init__(
        self,
        faults: Faults,
        blame: Callable[[str], None],
        images: dict[Key, Image],
        seems_dead: Callable[[str, float, float], bool],
        stopped_since: Callable[[str, float], bool],
        epoch: float,
    ) -> None:
        self._faults, self._blame, self._images, self._epoch = faults, blame, images, epoch
        self._seems_dead, self._stopped_since = seems_dead, stopped_since
        self._works: dict[str, bytes] = {}  # the work bucket
        self._kept: dict[Key, str] = {}  # the last picture that an image's document named
        self._names: dict[str, Key] = {}  # whose pictures they were
        self._kept_at: dict[Key, float] = {}  # when it came to name it
        self._analysed: set[Key] = set()
        self._bought: dict[bytes, Purchase] = {}  # by picture: each is another one
        self._bad: set[bytes] = set()
        self._forgone: Counter[bytes] = Counter()  # by photo: pictures that who waited had no reason to wait for

    # --- what the vendor sells

    def asked(self, step: str) -> None:
        """A paid call begins. A hand whose claim was taken away may go on until its next write."""
        hand = HAND.get()
        image = self._images.get(hand.key) if hand else None
        if hand is None or image is None or hand.fence != image.fence:
            return
        if step == "generate" and self._good(hand.key):
            self._blame(f"{hand.key}: a picture is bought, and {self._kept[hand.key]} is there and was not found bad")
        if step == "analyse" and hand.key in self._analysed:
            self._blame(f"{hand.key}: an analysis is bought that was kept")

    def answered(self, step: str, photo: bytes, picture: bytes = b"") -> None:
        """The vendor has delivered."""
        hand = HAND.get()
        if hand is None:
            return
        if step == "analyse":
            hand.analysed = True
        elif step == "generate":
            purchase = self._bought[picture] = Purchase(picture, photo, hand.key, hand.faults)
            hand.bought.append(purchase)

    def judged(self, picture: bytes, *, bad: bool) -> None:
        """A finished picture was verified."""
        if bad:
            self._bad.add(picture.removeprefix(b"finished "))

    def _good(self, key: Key) -> bool:
        """Whether the image has a picture that can be gone on from."""
        picture = self._works.get(self._kept.get(key, ""))
        return picture is not None and picture not in self._bad

    # --- where it is kept

    def stored(self, now: StoredObject, data: bytes) -> None:
        if now.bucket == WORK:
            self._works[now.name] = data

    def deleted(self, bucket: str, name: str) -> None:
        if bucket != WORK:
            return
        key = self._names.get(name)
        if key is not None and self._kept[key] == name and self._good(key):
            state = self._images[key].state
            if state not in (ImageState.COMPLETED, ImageState.CANCELLED):
                self._blame(f"{key}: its picture {name} is deleted while it is {state}")
        self._works.pop(name, None)

    def image(self, before: Image, now: Image) -> None:
        """A document was written."""
        key, hand = (now.batch, now.index), HAND.get()
        checkpoint = now.checkpoint
        if checkpoint is not before.checkpoint and checkpoint is not None:
            if checkpoint.analysis is not None:
                self._analysed.add(key)
            if checkpoint.picture is not None and checkpoint.picture != self._kept.get(key):
                self._keep(key, checkpoint.picture)
        given_up = before.state is ImageState.PROCESSING and now.state in (ImageState.QUEUED, ImageState.FAILED)
        mine = hand is not None and hand.key == key and hand.fence == now.fence
        if given_up and mine and hand is not None and hand.analysed and not hand.process.stopping:
            if checkpoint is None or checkpoint.analysis is None:
                self._blame(f"{key}: given back without the analysis that was bought for it")

    def _keep(self, key: Key, name: str) -> None:
        picture = self._works.get(name)
        if picture is None:
            self._blame(f"{key}: names picture {name}, which is not there")
            return
        self._kept[key], self._kept_at[key], self._names[name] = name, self._faults.loop.time(), key
        if picture in self._bought:
            self._bought[picture].kept = True

    def put_down(self, hand: Hand) -> None:
        """A hand has answered its delivery: what it bought is kept, or there is a reason."""
        for purchase in hand.bought:
            lost = hand.faults > purchase.faults or hand.process.stopping or self._images[hand.key].fence != hand.fence
            if not purchase.kept and not lost:
                self._blame(f"{hand.key}: {purchase.picture!r} was bought and not kept, for no reason")

    # --- the cache

    def entry(self, before: CacheEntry | None, now: CacheEntry) -> None:
        """A cache entry was written: whoever lost its lead to another image had lost the right to it."""
        if before is None or before.led_by is None or before.led_by == now.led_by:
            return
        worker, key, fence = _read(before.led_by)
        if now.led_by is None:
            if now.picture is None:
                self._let_go(key)
            return
        _, successor, later = _read(now.led_by)
        if successor != key:
            self._passed_on(worker, key, fence)
        elif later < fence:
            self._blame(f"{key}: the lead of its cache entry is taken from fence {fence} by the stale fence {later}")

    def _photo(self, key: Key) -> bytes:
        return self._images[key].source.split("/")[-2].encode()

    def _let_go(self, key: Key) -> None:
        """Only who was stopped or refused leaves to others what it has paid for."""
        if not self._good(key):
            return
        hand = HAND.get()
        self._forgone[self._photo(key)] += 1
        if hand is None or not (hand.refused or self._stopped_since(key[0], hand.began)):
            self._blame(f"{key}: the lead of a cache entry is let go of, and its picture is there")

    def _passed_on(self, worker: str, key: Key, fence: int) -> None:
        """A lead was taken over: its claim no longer stood, and no picture was to be expected of its image."""
        image = self._images[key]
        may_still_buy = image.state is ImageState.PROCESSING and image.fence == fence
        if (self._good(key) and image.state is not ImageState.COMPLETED) or may_still_buy:
            self._forgone[self._photo(key)] += 1
        process, at = PROCESS.get(), self._faults.loop.time()
        if image.state in SETTLED:
            return
        ahead = process.clock.fastest(at - LATE_SECONDS) if process is not None else 0.0
        dead = self._seems_dead(worker, at, ahead)
        if may_still_buy:
            if not dead:
                self._blame(f"{key}: the lead of its cache entry is taken from {worker}, who lives")
            return
        paid = image.checkpoint is not None and image.checkpoint.picture is not None
        # Whoever takes the lead now may have looked before the picture was there, if its buyer seemed dead then.
        looked_before = dead and at - self._kept_at.get(key, 0.0) < LATE_SECONDS
        if paid and not looked_before and self._epoch + at + ahead - image.touched_at < PAID_LEAD_SECONDS:
            self._blame(f"{key}: the lead of its cache entry is taken, and its picture is there")

    # --- at the end

    def finally_right(self, cached: Callable[[str], bool]) -> None:
        """Of a photo whose batch uses the cache one picture is kept, and those that others gave up."""
        kept: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for purchase in self._bought.values():
            if cached(purchase.key[0]) and purchase.kept and purchase.picture not in self._bad:
                kept[purchase.photo].append(purchase.picture)
        for photo, pictures in kept.items():
            if len(pictures) > 1 + self._forgone[photo]:
                self._blame(f"{photo!r}: bought as {pictures}, where {self._forgone[photo]} were given up")


def _read(led_by: str) -> tuple[str, Key, int]:
    """Worker, image and fence of a lead as it stands in an entry."""
    worker, image, fence = led_by.split(" ")
    batch, _, index = image.rpartition("/")
    return worker, (batch, int(index)), int(fence)
