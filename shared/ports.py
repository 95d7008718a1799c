"""What the pipeline needs of the outside world, as protocols.

Two backends implement each port. One contract suite (tests/contract) holds both to these words.
"""

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
    """The only source of time and chance, so that tests and the simulation can make both virtual."""

    def now(self) -> float:
        """Return seconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go back. Only differences are meaningful."""

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""

    @property
    def random(self) -> random.Random:
        """The source of jitter."""

    def token(self) -> str:
        """Return a unique name, for worker ids and write tokens."""


class BatchStore(Protocol):
    """Batches, images, tallies and workers. Every change is one compare-and-set of one document.

    A `change_*` method reads the document, calls the decision, and writes what it returns, unless the document has
    changed meanwhile; then it reads and decides again. It returns the document as written, or the decision's refusal
    with nothing written. It returns `Refusal.MISSING` when there is no document.

    `token` identifies the change. If the last write already has this token, that document is returned and nothing is
    written, so a caller that lost the reply can repeat the call. Raises `WorldError` when the store cannot be reached.
    """

    async def create_batch(self, batch: Batch) -> Batch:
        """Create the batch; return the existing one if its id is taken."""

    async def batch(self, batch_id: str) -> Batch | None: ...

    async def batches(self, *, open_only: bool = False) -> list[Batch]:
        """Return all batches, or only those with work left, newest first."""

    async def change_batch(self, batch_id: str, decide: Decision[Batch], token: str) -> Batch | Refusal:
        """Change a batch. The decision raises its `revision`, as it does for an image."""

    async def create_tallies(self, tallies: Sequence[Tally]) -> None:
        """Create tallies; existing ones are left as they are."""

    async def tally(self, batch_id: str, shard: int) -> Tally | None: ...

    async def change_tally(self, batch_id: str, shard: int, decide: Decision[Tally], token: str) -> Tally | Refusal: ...

    async def open_images(self, batch_id: str) -> tuple[int, int]:
        """Return (sum of the open counts over all shards, number of shards)."""

    async def counts(self, batch_id: str) -> Counts:
        """Return the sum of the counts over all shards."""

    async def create_images(self, images: Sequence[Image]) -> None:
        """Create images; existing ones are left as they are."""

    async def image(self, batch_id: str, index: int) -> Image | None: ...

    def images(self, batch_id: str, state: ImageState | None = None, start: int = 0) -> AsyncIterator[Image]:
        """Yield the images from index `start` on, in order; all, or those in one state.

        They are read in pages, so that memory does not grow with the batch.
        """

    def moved_images(
        self, batch_id: str, states: Collection[ImageState], *, since: float = 0.0, before: float = math.inf
    ) -> AsyncIterator[Image]:
        """Yield the images in these states that moved at `since` or later and before `before`, earliest first.

        Only these are read, so the cost does not grow with the batch. An image that moves meanwhile may come twice or,
        if it leaves the range, not at all. Images written before `moved_at` existed are not included.
        """

    async def change_image(
        self, batch_id: str, index: int, decide: Decision[Image], token: str, seen: Image | None = None
    ) -> Image | Refusal:
        """Change an image.

        `seen` is the image as the caller last knew it; while it is still current, no read is needed.
        """

    async def record(self, kind: type[R], key: str) -> R | None:
        """Return the record of this kind and key: a quota's ledger, a cache entry. None if there is none."""

    async def records(self, kind: type[R]) -> list[R]:
        """Return all records of a kind, in order of key."""

    async def change_record(
        self, kind: type[R], key: str, decide: Callable[[R | None, float], R | Refusal], token: str
    ) -> R | Refusal:
        """Change a record. Like the other changes, but a missing record is created.

        The decision gets None for a missing record, and the server's time: callers' clocks may differ.
        """

    async def beat(self, worker: Worker) -> None:
        """Write a worker's heartbeat."""

    async def worker(self, worker_id: str) -> Worker | None: ...


class Message(msgspec.Struct, frozen=True):
    """A message to publish: a JSON body and string attributes."""

    data: bytes
    attributes: Mapping[str, str] = {}


class Delivery(msgspec.Struct, frozen=True):
    """One delivery of a message.

    `attempt` counts its deliveries on this subscription, from 1. `published_at` is in seconds since the epoch.
    """

    ack_id: str
    message_id: str
    data: bytes
    attributes: Mapping[str, str]
    attempt: int
    published_at: float


class Queue(Protocol):
    """At-least-once messages with leases. A delivery that is not acked before its lease ends is redelivered."""

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        """Publish messages; returns when all are stored. A failure may leave some of them published."""

    async def pull(self, subscription: str, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """Return at most `max_messages` deliveries, as soon as there is at least one.

        After `wait_seconds` without one, the list is empty. That does not prove that nothing waits: the answer may have
        come too late.
        """

    async def extend(self, subscription: str, ack_ids: Sequence[str], seconds: float) -> None:
        """Let the leases end `seconds` from now, at most 600. A lease that has ended is left as it is."""

    async def ack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Mark deliveries as done. If a lease has ended, its message is redelivered all the same."""

    async def nack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        """Return deliveries to the queue, which redelivers them after the subscription's backoff."""


class StoredObject(msgspec.Struct, frozen=True):
    """An object without its content. `metadata` are small strings stored with it; `bytes` is its size."""

    bucket: str
    name: str
    generation: int
    bytes: int
    metadata: Mapping[str, str]
    updated_at: float


class ObjectStore(Protocol):
    """Buckets of named bytes. An object's generation grows with every write of its name."""

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
        """Write an object.

        `if_generation` 0 only creates; n only replaces generation n. Raises `PreconditionFailed` if that does not hold.
        """

    async def get(self, bucket: str, name: str, max_bytes: int | None = None) -> tuple[StoredObject, bytes] | None:
        """Return the object and its content, or None. Content stored compressed (Content-Encoding) is unpacked.

        Raises `ObjectTooLarge` when it has more than `max_bytes`, without ever holding more in memory, and
        `ObjectDamaged` when it cannot be unpacked.
        """

    async def stat(self, bucket: str, name: str) -> StoredObject | None: ...

    def list(self, bucket: str, prefix: str) -> AsyncIterator[StoredObject]:
        """Yield the objects whose names begin with `prefix`, in order of name."""

    async def delete(self, bucket: str, name: str) -> None:
        """Delete an object. It is no error if there is none."""

    def uri(self, bucket: str, name: str) -> str:
        """Return the address at which a person or program finds the object."""

    async def link(self, bucket: str, name: str, seconds: float) -> str:
        """Return a link that opens the object for `seconds` without an account.

        Where the store cannot sign links, this is the plain URI.
        """


class Fleet(Protocol):
    """The workers that stage images. All are alike."""

    async def instances(self) -> int:
        """Return the desired number of workers."""

    async def scale(self, instances: int) -> None:
        """Set the desired number of workers; returns before they have started or stopped."""


class ImageSource(Protocol):
    """Fetches a photo's bytes from the address in the manifest."""

    async def fetch(self, uri: str, client: str) -> bytes:
        """Return the photo's bytes.

        Raises `ImageRejected` (the image's own fault), `WorldError` (the host's), or `HostBusy` (the host asks to
        wait).
        """


class Photo(msgspec.Struct, frozen=True):
    """A customer's photo made safe: an upright RGB JPEG without metadata, its size in pixels, and its sha256."""

    jpeg: bytes
    width: int
    height: int
    sha256: str


class Finished(msgspec.Struct, frozen=True):
    """A staged picture ready to publish, with thumbnails of it and of its photo.

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
    """Decodes and encodes pictures, away from the event loop and within limits of time and memory."""

    async def normalise(self, data: bytes) -> Photo:
        """Return the photo made safe. Raises `ImageRejected` when it is not a picture that we accept."""

    async def framed(self, photo: Photo) -> Photo:
        """Return the photo with bars around it if models do not draw its shape; else the photo itself."""

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        """Check a model's picture and encode it in the photo's aspect ratio.

        Raises `WorldError` when it is damaged, `WrongShape` when the photo's shape cannot be cut from it.
        """


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """An agent's answer, and what the call used."""

    value: T
    usage: Usage


class Request(msgspec.Struct, frozen=True):
    """What the customer wants of one photo."""

    room_type: str
    design_style: str


class Step(msgspec.Struct, frozen=True):
    """One paid call that a staging model makes for an image.

    `usual` is what such a call usually uses; its `model` is the one whose quota and price apply. `times` is how often
    an image needs the call on average.
    """

    name: str  # analyse, generate, verify
    usual: Usage
    times: float = 1.0


class ModelSpec(msgspec.Struct, frozen=True):
    """The calls that a staging model makes for one image, known without creating the model."""

    name: str  # its value in the setting RUUM_STAGING_MODEL
    prompts: str  # version of its agents' prompts
    steps: tuple[Step, ...]
    free: bool = False  # its calls cost nothing
    local: bool = False  # it works in our own processes: no vendor limits it or can fail

    def step(self, name: str) -> Step:
        """Return the step of that name."""
        return next(step for step in self.steps if step.name == name)

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of its models, each once, in the order of its steps."""
        return tuple(dict.fromkeys(step.usual.model for step in self.steps))


class StagingModel(Protocol):
    """The three agents.

    Each raises `ImageRejected`, `WorldError`, `Throttled` or `ConfigurationError`; see errors.
    """

    @property
    def spec(self) -> ModelSpec:
        """Its calls, what they usually use, and the version of its prompts."""

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]: ...

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        """Return the furnished picture, encoded. `defects` are those of an earlier picture, to be avoided."""

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]: ...

    async def aclose(self) -> None:
        """Close its connections."""


class Backend(msgspec.Struct, frozen=True):
    """The stores, the queue and the fleet of one installation."""

    store: BatchStore
    queue: Queue
    objects: ObjectStore
    fleet: Fleet | None = None  # None: we do not start the workers
    kept_seconds: float = math.inf  # how long a batch's documents are kept after they were created
