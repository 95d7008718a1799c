"""What the rooms need of the world. Two backends implement each port; one contract suite holds both to these words."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from shared.answers import Analysis, Verdict
from shared.model import Batch, Counts, Image, ImageState, Record, Refusal, Tally, Usage, Worker

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Decision = Callable[[T], T | Refusal]


class Clock(Protocol):
    """The only source of time and chance, so that both can be virtual."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""

    @property
    def random(self) -> random.Random:
        """The source of jitter."""

    def token(self) -> str:
        """A name nobody else has: worker ids, write tokens."""


class BatchStore(Protocol):
    """Batches, images, tallies and workers; every change is one compare-and-set of one document.

    A `change_*` reads the document, asks the decision, and writes what it answers unless the document moved in between
    (then it reads and asks again). It returns the document as written, or the decision's refusal with nothing written;
    `Refusal.MISSING` when there is no document. `token` names this change: asked again with the token of the last
    write, it answers that document and writes nothing, so a lost reply can be repeated. Raises `WorldError` when the
    store cannot be reached.
    """

    async def create_batch(self, batch: Batch) -> Batch:
        """Create the batch, or answer the one that exists under its id."""

    async def batch(self, batch_id: str) -> Batch | None: ...

    async def batches(self, *, open_only: bool = False) -> list[Batch]:
        """All batches, or those that something is left to do for; newest first."""

    async def change_batch(self, batch_id: str, decide: Decision[Batch], token: str) -> Batch | Refusal:
        """A written batch's `revision` is raised by the decision, as an image's is."""

    async def create_tallies(self, tallies: Sequence[Tally]) -> None:
        """Create-only: a tally that exists is left as it is."""

    async def tally(self, batch_id: str, shard: int) -> Tally | None: ...

    async def change_tally(self, batch_id: str, shard: int, decide: Decision[Tally], token: str) -> Tally | Refusal: ...

    async def open_images(self, batch_id: str) -> tuple[int, int]:
        """(SUM of the open counts over all shards, COUNT of the shards)."""

    async def counts(self, batch_id: str) -> Counts:
        """The sum of the counts over all shards."""

    async def create_images(self, images: Sequence[Image]) -> None:
        """Create-only: an image that exists is left as it is."""

    async def image(self, batch_id: str, index: int) -> Image | None: ...

    def images(self, batch_id: str, state: ImageState | None = None, start: int = 0) -> AsyncIterator[Image]:
        """The images from index `start` on in order, all or those in one state; read in pages, so memory stays flat."""

    def moved_images(
        self, batch_id: str, states: Collection[ImageState], *, since: float = 0.0, before: float = math.inf
    ) -> AsyncIterator[Image]:
        """The images in these states that last moved at `since` or later and before `before`, the earliest first.

        Only these are read, so that the cost does not grow with the batch. An image that moves meanwhile may come twice
        or, if it leaves the range, not at all. Images written before `moved_at` existed are not among them.
        """

    async def change_image(
        self, batch_id: str, index: int, decide: Decision[Image], token: str, seen: Image | None = None
    ) -> Image | Refusal:
        """`seen` is the image as the caller last knew it: while it is still current no read is needed."""

    async def record(self, kind: type[R], key: str) -> R | None:
        """A record that stands for itself: a quota's ledger, a cache entry."""

    async def records(self, kind: type[R]) -> list[R]:
        """All records of a kind, in order of key."""

    async def change_record(
        self, kind: type[R], key: str, decide: Callable[[R | None, float], R | Refusal], token: str
    ) -> R | Refusal:
        """As the other changes, but the record is made if there is none, and the decision is told the server's time."""

    async def beat(self, worker: Worker) -> None:
        """Write a worker's heartbeat."""

    async def worker(self, worker_id: str) -> Worker | None: ...


class Message(msgspec.Struct, frozen=True):
    """One message to publish: a JSON body and string attributes."""

    data: bytes
    attributes: Mapping[str, str] = {}


class Delivery(msgspec.Struct, frozen=True):
    """One message in hand. `attempt` counts its deliveries on this subscription from 1; `published_at` in seconds."""

    ack_id: str
    message_id: str
    data: bytes
    attributes: Mapping[str, str]
    attempt: int
    published_at: float


class Queue(Protocol):
    """At-least-once messages with leases. A delivery not acked before its lease ends comes again."""

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """Returns when all of them are stored; a failure may leave some of them published."""

    async def pull(self, subscription: str, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """At most `most` deliveries, as soon as there is one; an empty list after `wait_seconds` without.

        An empty list does not prove that nothing waits: the answer may have come too late.
        """

    async def extend(self, subscription: str, ack_ids: Sequence[str], seconds: float) -> None:
        """Let the leases end `seconds` from now (at most 600); an ended lease is left alone."""

    async def ack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Done with them. An ended lease is left alone: the message comes again."""

    async def nack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Come again after the subscription's backoff."""


class StoredObject(msgspec.Struct, frozen=True):
    """An object without its bytes. `metadata` are small strings kept with it; `bytes` is its size."""

    bucket: str
    name: str
    generation: int
    bytes: int
    metadata: Mapping[str, str]
    updated_at: float


class ObjectStore(Protocol):
    """Buckets of named bytes. Generations grow with every write of a name."""

    async def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        if_generation: int | None = None,
    ) -> StoredObject:
        """Write. `if_generation` 0 creates only; n replaces only generation n; else raises `PreconditionFailed`."""

    async def get(self, bucket: str, name: str, max_bytes: int | None = None) -> tuple[StoredObject, bytes] | None:
        """The object and its bytes, unpacked when it was stored compressed (Content-Encoding).

        Raises `ObjectTooLarge` when they are more than `max_bytes`, without ever holding more; `ObjectDamaged`.
        """

    async def stat(self, bucket: str, name: str) -> StoredObject | None: ...

    def list(self, bucket: str, prefix: str) -> AsyncIterator[StoredObject]:
        """In order of name."""

    async def delete(self, bucket: str, name: str) -> None:
        """Deleting what is not there is no error."""

    def uri(self, bucket: str, name: str) -> str:
        """Where a person or program finds the object."""

    async def link(self, bucket: str, name: str, seconds: float) -> str:
        """An address that opens the object for so long, without an account; the uri where there is no such thing."""


class Fleet(Protocol):
    """The workers that stage images, all alike."""

    async def instances(self) -> int:
        """How many are wanted now."""

    async def scale(self, instances: int) -> None:
        """Want so many; returns before they have started or stopped."""


class ImageSource(Protocol):
    """Fetches a photo's bytes from where the manifest said."""

    async def fetch(self, uri: str, client: str) -> bytes:
        """Raises `ImageRejected` (the image's own fault), `WorldError` (the host's), `HostBusy` (it asks to wait)."""


class Photo(msgspec.Struct, frozen=True):
    """A customer's photo made safe: upright RGB JPEG without metadata, its size in pixels, its sha256."""

    jpeg: bytes
    width: int
    height: int
    sha256: str


class Finished(msgspec.Struct, frozen=True):
    """A staged picture ready to publish, with thumbnails of it and of the photo it was made from.

    `original` is that photo, large enough to be compared with the picture.
    """

    jpeg: bytes
    thumbnail: bytes
    before: bytes
    width: int
    height: int
    sha256: str
    original: bytes = b""


class Pictures(Protocol):
    """Decoding and encoding, away from the event loop and within limits."""

    async def normalise(self, data: bytes) -> Photo:
        """Raises `ImageRejected` when it is not a picture we take."""

    async def framed(self, photo: Photo) -> Photo:
        """The photo within bars, when models do not draw its shape; else itself."""

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        """Check and encode a model's picture in the photo's aspect ratio.

        Raises `WorldError` when it is damaged, `WrongShape` when the photo's shape cannot be cut from it.
        """


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """What an agent said, and what it cost."""

    value: T
    usage: Usage


class Request(msgspec.Struct, frozen=True):
    """What the customer wants of one photo."""

    room_type: str
    design_style: str


class Step(msgspec.Struct, frozen=True):
    """One paid call that a staging model makes for an image.

    `usual` is what such a call usually uses; its `model` is what quota and prices are counted by. `times` is how often
    an image needs the call on average.
    """

    name: str  # analyse, generate, verify
    usual: Usage
    times: float = 1.0


class ModelSpec(msgspec.Struct, frozen=True):
    """What a staging model calls for one image, and in which words: known without making the model."""

    name: str  # as the setting RUUM_STAGING_MODEL has it
    prompts: str  # version of the words its agents are given
    steps: tuple[Step, ...]
    free: bool = False  # its calls cost nothing
    local: bool = False  # it works in our own processes: no vendor limits it, and none can fail

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of its models, each once, in the order of its steps."""
        return tuple(dict.fromkeys(step.usual.model for step in self.steps))


class StagingModel(Protocol):
    """The three agents. Each raises `ImageRejected`, `WorldError`, `Throttled` or `ConfigurationError`; see errors."""

    @property
    def spec(self) -> ModelSpec:
        """What it calls, what that usually uses, and the version of its prompts."""

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]: ...

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        """The furnished picture, encoded; `defects` are those of an earlier picture, to be avoided."""

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]: ...

    async def aclose(self) -> None:
        """Close what it holds open."""


class Backend(msgspec.Struct, frozen=True):
    """Where state, messages and objects are."""

    store: BatchStore
    queue: Queue
    objects: ObjectStore
    fleet: Fleet | None = None  # None: the workers are somebody else's to start
    kept_seconds: float = math.inf  # how long a batch's documents are kept after they were created
