"""What happens in a simulated world: its batches, its faults, what vendors and hosts allow."""

from __future__ import annotations

from typing import Final

import msgspec

from shared.model import Tier
from shared.settings import Limit
from tests.simulation.faults import Crash, Rates
from tests.simulation.hosts import PhotoHost
from tests.simulation.vendor import IMAGE, TEXT

# What somebody drops beside good manifests: names of good batches in some, and photos nobody may fetch.
MALFORMED: Final[dict[str, bytes]] = {
    "torn.json": b'{"batchId": "b0", "clientName": "acme", "images": [{"url": "https://x.example/b0-0/0.jpg"',
    "deep.json": b"[" * 20_000,
    "number.json": b'{"clientName": ' + b"9" * 5_000 + b', "images": []}',
    "list.json": b'["acme", null]',
    "utf16.json": '{"clientName": "acme", "images": []}'.encode("utf-16"),
    "empty.json": b'{"batchId": "b0", "clientName": "acme", "roomType": "attic", "designStyle": "modern", "images": []}',
    "foreign.json": b'{"batchId": "b0", "clientName": "other", "designStyle": "modern", "roomType": "attic",'
    b' "images": [{"url": "https://x.example/b0-0/0.jpg"}]}',
    "fields.jsonl": b'{"batchId": "b0", "clientName": "acme", "designStyle": 7, "roomType": "dungeon", "prio": 1}\n'
    b'{"uri": "https://x.example/b0-0/0.jpg"}\n5\n{\n',
    "urls.csv": b"clientName;url;roomType;designStyle\nacme;file:///etc/passwd;attic;modern\n"
    b'acme;../../other/0.jpg;attic;modern\nacme;gs://other/0.jpg;attic;modern\nacme;http://169.254.169.254/;\xe1;"\n',
}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One batch to be dropped: when, how many images, from which hosts, and whether some show the same photo."""

    name: str
    at: float
    images: int
    tier: Tier = Tier.NORMAL
    cache: bool = False
    photos: int = 0  # different photos; 0: each image its own
    hosts: tuple[str, ...] = ("x.example",)  # where its photos come from, in turn


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What happens in a world. `operations` are (when, what, batch)."""

    rates: Rates = Rates()
    batches: tuple[Wanted, ...] = (Wanted(name="b1", at=0.0, images=2),)
    workers: int = 1
    in_flight: int = 6
    consumers: int = 1
    operations: tuple[tuple[float, str, str], ...] = ()
    stormy_seconds: float = 120.0
    skew: float = 0.0
    limits: tuple[int, int] = (120, 60)
    minimum_sample: int = 20
    slowness: float = 1.0
    crash: Crash | None = None
    rejected: int = 0  # of each batch, so many of the first photos cannot be found at first
    eager: int = 0  # an operator replays a batch the moment it closes, so many times
    malformed: tuple[tuple[float, str], ...] = ()  # (when, which of `MALFORMED`) is dropped beside the batches
    leaps: tuple[tuple[float, float], ...] = ()  # (when, by how much from then on) the backend's own clock is wrong
    daily: int = 0  # calls of the image model until midnight, seconds from the beginning; 0: no such limit
    midnight: float = 0.0
    at_once: tuple[int, int] | None = None  # calls at a time, beside `limits`, or instead of them if not `rated`
    rated: bool = True
    outages: tuple[tuple[float, float, str], ...] = ()  # (from when, for how long, what: see `Vendor`): for everybody
    hosts: tuple[PhotoHost, ...] = ()  # that let in a few photos at a time; all others let in any number

    def limits_of(self) -> dict[str, Limit]:
        """What the vendor allows, by model."""
        at_once = self.at_once or (None, None)
        minute = self.limits if self.rated or self.at_once is None else (None, None)
        return {
            model: Limit(per_minute=a_minute, concurrent=most)
            for model, a_minute, most in zip((TEXT, IMAGE), minute, at_once, strict=True)
        }
