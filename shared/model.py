"""The nouns, and the one table of transitions that every backend uses.

Documents are frozen: a decision makes a new one. Times are seconds since the epoch (UTC), durations name their unit,
money is in millionths of a US dollar so that sums are exact.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of everything stored or sent: immutable, camelCase on the wire, defaults left out."""


class ImageState(StrEnum):
    """Where an image stands. `queued` and `processing` are open; the other three are settled."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchState(StrEnum):
    """Where a batch stands. `closed` reads completed, completed_with_failures or cancelled (`Batch.outcome`)."""

    INGESTING = "ingesting"
    PROCESSING = "processing"
    CLOSING = "closing"
    CLOSED = "closed"
    REOPENING = "reopening"
    REJECTED = "rejected"


class Control(StrEnum):
    """What operators want of a batch; stands beside its state."""

    RUN = "run"
    PAUSED = "paused"
    CANCELLING = "cancelling"


class Tier(StrEnum):
    """How urgent a batch is. One topic each."""

    EXPRESS = "express"
    NORMAL = "normal"
    ECONOMY = "economy"


OPEN_STATES: Final = frozenset({ImageState.QUEUED, ImageState.PROCESSING})
SETTLED_STATES: Final = frozenset(ImageState) - OPEN_STATES


class ImageMove(StrEnum):
    """Everything that can happen to an image."""

    CLAIM = "claim"  # a worker takes it (also: takes it over from a dead claim)
    CHECKPOINT = "checkpoint"  # paid work is noted
    RELEASE = "release"  # the worker gives it back to the queue
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    REQUEUE = "requeue"  # a replay: the only way back from failed


class BatchMove(StrEnum):
    """Everything that can happen to a batch's state."""

    OPEN = "open"  # ingest has created and published everything
    REJECT = "reject"
    BEGIN_CLOSING = "begin_closing"
    CLOSE = "close"
    REOPEN = "reopen"  # a replay begins
    RESUME = "resume"  # a replay has requeued everything


# The one transition table: a pair that is not here is illegal and changes nothing.
IMAGE_MOVES: Final[dict[tuple[ImageState, ImageMove], ImageState]] = {
    (ImageState.QUEUED, ImageMove.CLAIM): ImageState.PROCESSING,
    (ImageState.PROCESSING, ImageMove.CLAIM): ImageState.PROCESSING,
    (ImageState.PROCESSING, ImageMove.CHECKPOINT): ImageState.PROCESSING,
    (ImageState.PROCESSING, ImageMove.RELEASE): ImageState.QUEUED,
    (ImageState.PROCESSING, ImageMove.COMPLETE): ImageState.COMPLETED,
    (ImageState.PROCESSING, ImageMove.FAIL): ImageState.FAILED,
    (ImageState.PROCESSING, ImageMove.CANCEL): ImageState.CANCELLED,
    (ImageState.QUEUED, ImageMove.FAIL): ImageState.FAILED,
    (ImageState.QUEUED, ImageMove.CANCEL): ImageState.CANCELLED,
    (ImageState.FAILED, ImageMove.REQUEUE): ImageState.QUEUED,
}
BATCH_MOVES: Final[dict[tuple[BatchState, BatchMove], BatchState]] = {
    (BatchState.INGESTING, BatchMove.OPEN): BatchState.PROCESSING,
    (BatchState.INGESTING, BatchMove.REJECT): BatchState.REJECTED,
    (BatchState.PROCESSING, BatchMove.BEGIN_CLOSING): BatchState.CLOSING,
    (BatchState.CLOSING, BatchMove.CLOSE): BatchState.CLOSED,
    (BatchState.CLOSED, BatchMove.REOPEN): BatchState.REOPENING,
    (BatchState.PROCESSING, BatchMove.REOPEN): BatchState.REOPENING,
    (BatchState.REOPENING, BatchMove.RESUME): BatchState.PROCESSING,
}


class Refusal(StrEnum):
    """Why a decision changes nothing. A decision answers either the new document or one of these."""

    MISSING = "missing"  # no such document
    ILLEGAL = "illegal"  # the table has no such transition
    SETTLED = "settled"  # the image has its outcome already
    OTHER_ROUND = "other_round"  # the task or letter belongs to another round of the image
    HELD = "held"  # a living worker holds the claim
    STALE_FENCE = "stale_fence"  # the caller's claim is no longer the image's
    STALE_REVISION = "stale_revision"  # the document moved on since the caller read it
    UNCHANGED = "unchanged"  # nothing to do: it is as wanted already
    BUSY = "busy"  # another closer or replay holds its lease
    PAUSED = "paused"  # the batch is: resume it first
    EXPIRING = "expiring"  # the batch's documents are deleted soon


class Claim(Document, frozen=True, kw_only=True):
    """Who works on an image, since when; `alone` when nothing else is in that worker's hands.

    `step` is the picture step (`claims.PictureStep`) that a worker alone with the image is in; empty between them.
    """

    worker: str
    at: float
    alone: bool = False
    step: str = ""


class Trials(Document, frozen=True, kw_only=True):
    """What became of an image's lone trials in its round, for which a worker has nothing else in its hands.

    `deaths` of workers in all. The last `in_a_row` of them were in one and the same picture step, `step`; it is empty
    when the last one was elsewhere. `passed` counts the trials that ended well.
    """

    deaths: int = 0
    step: str = ""
    in_a_row: int = 0
    passed: int = 0


class Call(Document, frozen=True, kw_only=True):
    """One paid call to a model: what the bill is made of.

    `estimated`: the vendor did not say what the call used, so what such a call usually uses was counted.
    """

    step: str  # analyse, generate, verify
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    credits: float = 0.0
    pictures: int = 0
    cost_micro_usd: int = 0
    duration_ms: int = 0
    estimated: bool = False


class Checkpoint(Document, frozen=True, kw_only=True):
    """Paid work that a later attempt does not buy again.

    `analysis` is the analyse agent's answer as JSON. `picture` names the work object of the generated picture (None
    when only the analysis is known); `defects` are those the generation was asked to correct; `generations` counts the
    pictures bought in this round, `refusals` the answers that the vendor's filter refused in it.
    """

    analysis: str | None = None
    picture: str | None = None
    generations: int = 0
    refusals: int = 0
    defects: tuple[str, ...] = ()


class Failure(Document, frozen=True, kw_only=True):
    """Why an image failed, or what its last attempt ran into."""

    code: str
    message: str


class Output(Document, frozen=True, kw_only=True):
    """What was made: object names in the results bucket, the picture's sha256 and its size in pixels.

    For the report: `thumbnail` is a small copy of the staged picture, `before` one of the photo, and `original` a
    large copy of the photo in the staged picture's shape.
    """

    picture: str
    thumbnail: str
    before: str
    sha256: str
    width: int
    height: int
    original: str | None = None


class Image(Document, frozen=True, kw_only=True):
    """One photo of a batch. `revision`, `fence` and `round` only grow; see docs/architecture.md, "Numbers"."""

    batch: str
    index: int
    source: str
    room_type: str
    design_style: str
    tier: Tier
    shard: int
    property_code: str | None = None
    state: ImageState = ImageState.QUEUED
    round: int = 1
    replay: int = 0  # the last of its batch's replays that requeued it
    revision: int = 1
    fence: int = 0
    attempts: int = 0
    crashes: int = 0  # since the last lone trial that it passed
    trials: Trials = Trials()
    claim: Claim | None = None
    checkpoint: Checkpoint | None = None
    output: Output | None = None
    error: Failure | None = None
    calls: tuple[Call, ...] = ()
    earlier_cost_micro_usd: int = 0  # of its calls, what was spent in earlier rounds
    durations_ms: dict[str, int] = {}
    prompts: str | None = None  # version of the prompts its picture was made with
    model: str | None = None  # the image model that made it, also where it came from the cache
    cached: bool = False
    created_at: float = 0.0
    touched_at: float = 0.0  # when it was last released or requeued
    moved_at: float = 0.0  # when its state was last written, claims included: what reconcile goes by
    settled_at: float | None = None
    token: str = ""

    @property
    def cost_micro_usd(self) -> int:
        """What its calls cost, all rounds together."""
        return sum(call.cost_micro_usd for call in self.calls)

    @property
    def estimated_micro_usd(self) -> int:
        """The part of its cost that was estimated: see `Call.estimated`."""
        return sum(call.cost_micro_usd for call in self.calls if call.estimated)


class ManifestRef(Document, frozen=True, kw_only=True):
    """The very bytes a batch was made from."""

    uri: str
    generation: int
    sha256: str
    base: str  # URI of the folder that relative photo paths start from, ending in "/"


class Lease(Document, frozen=True, kw_only=True):
    """A right that runs out by itself."""

    holder: str
    until: float


class Counts(Document, frozen=True, kw_only=True):
    """How many images stand in each state."""

    queued: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def open(self) -> int:
        return self.queued + self.processing

    @property
    def settled(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def total(self) -> int:
        return self.open + self.settled

    def of(self, state: ImageState) -> int:
        value: int = getattr(self, state.value)
        return value

    def moved(self, before: ImageState, after: ImageState) -> Counts:
        """The counts after one image has gone from `before` to `after`."""
        if before is after:
            return self
        changed = {before.value: self.of(before) - 1, after.value: self.of(after) + 1}
        return msgspec.structs.replace(self, **changed)

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{state.value: self.of(state) + other.of(state) for state in ImageState})

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{state.value: self.of(state) - other.of(state) for state in ImageState})


class ReportFile(Document, frozen=True, kw_only=True):
    """One file of a round's report: its object name in the results bucket, sha256, and size in bytes."""

    name: str
    sha256: str
    bytes: int


class Completion(Document, frozen=True, kw_only=True):
    """What a round came to; the payload of `batch.completed`, fixed when the batch closes."""

    outcome: str
    counts: Counts
    success_rate: float
    cost_usd: float
    duration_seconds: float
    cached: int = 0  # completed images whose picture came from the cache
    price_usd: float = 0.0  # what the customer pays: the cost by the tier's factor
    estimated_usd: float = 0.0  # the part of the cost that the vendor did not tell; see `Call.estimated`
    reports: dict[str, ReportFile]


class FailureThreshold(Document, frozen=True, kw_only=True):
    """Pause the batch when `count` images have failed, or `percent` of the settled ones.

    The percentage counts once `minimum_sample` images have settled; None: the settings' sample.
    """

    count: int | None = None
    percent: float | None = None
    minimum_sample: int | None = None


class ReplayPlan(Document, frozen=True, kw_only=True):
    """What a replay under way requeues, and whose it is.

    Images that failed with these codes (all when none is named), at `failed_before` at the latest (None: whenever), and
    that this very replay, the batch's `number`-th, has not requeued before. `drop` names the failed.csv that asked for
    it, which knows the images and what was corrected in them: only that drop carries it on.
    """

    lease: Lease
    number: int
    codes: tuple[str, ...] = ()
    failed_before: float | None = None
    drop: str = ""


class Correction(Document, frozen=True, kw_only=True):
    """What a failed image is to be staged as when it is tried again."""

    source: str
    room_type: str
    design_style: str
    property_code: str | None = None


class Batch(Document, frozen=True, kw_only=True):
    """One manifest's worth of images."""

    id: str
    client: str
    client_name: str
    tier: Tier
    manifest: ManifestRef
    total: int
    shards: int
    state: BatchState = BatchState.INGESTING
    control: Control = Control.RUN
    control_epoch: int = 0
    round: int = 1
    revision: int = 1
    tasks_published: int = 0  # ingest's place: tasks below this index were published
    created_at: float = 0.0
    closing_at: float | None = None
    closed_at: float | None = None
    closer: Lease | None = None
    completion: Completion | None = None
    announced_round: int = 0
    problems: int = 0  # of a rejected manifest
    cache: bool = True  # whether results may be taken from, and given to, the client's cache
    threshold: FailureThreshold | None = None
    baseline: Counts = Counts()  # the counts when it was last resumed or replayed: the threshold counts from here
    paused_reason: str | None = None
    cancel_reason: str | None = None
    controlled_by: str | None = None  # the person who last paused, resumed or cancelled it; None: the pipeline itself
    controlled_at: float | None = None
    control_announced: str = ""  # the last pause or cancel that an event told of
    republished_at: float = 0.0  # when reconcile last published its forgotten images
    epoch_published: int = 0  # the last control epoch whose queued images were published
    replay: ReplayPlan | None = None
    replays: int = 0  # begun so far
    retried: tuple[str, ...] = ()  # the last drops of its failed.csv that were taken
    separator: str | None = None  # of the CSV it came as: reports open in columns where that did
    progress_announced: int = 0  # the last tenth that an event told of
    token: str = ""

    @property
    def batch_id(self) -> str:
        """The batchId of its manifest: its id without the client."""
        return self.id.removeprefix(self.client + ".")

    @property
    def is_open(self) -> bool:
        """Whether anything is left to do for it: what reconcile looks at."""
        announced = self.state is BatchState.CLOSED and self.announced_round >= self.round
        return self.state is not BatchState.REJECTED and not announced

    @property
    def outcome(self) -> str:
        """The state as customers read it: a closed batch reads as what it came to."""
        return self.completion.outcome if self.state is BatchState.CLOSED and self.completion else self.state.value


class Tally(Document, frozen=True, kw_only=True):
    """The exact counts of one shard: per image the last revision folded in and the state it had then.

    An image without an entry is queued at revision 0, so a shard made before its images counts them as open.
    """

    batch: str
    shard: int
    counts: Counts
    entries: dict[int, tuple[int, ImageState]] = {}
    token: str = ""


class Record(Document, frozen=True, kw_only=True):
    """A document that stands for itself, outside of batches: `token` names its last write."""

    token: str = ""


class TierEmpty(Record, frozen=True, kw_only=True):
    """When workers last found a tier's subscription empty: the last two times, a minute apart at least."""

    tier: Tier
    seen_at: tuple[float, ...] = ()


class Reconciled(Record, frozen=True, kw_only=True):
    """How far reconcile has looked at a batch, so that its next run reads only what has moved since.

    `at`: when the last run that counted its images began. `moved_at`: when an image of it last moved, as far as runs
    have seen. `swept_at`: when all of its images were last read. `expires_at`: when this record may be deleted.
    """

    at: float = 0.0
    moved_at: float = 0.0
    swept_at: float = 0.0
    expires_at: float = 0.0


class Worker(Document, frozen=True, kw_only=True):
    """A worker's heartbeat: when it last lived, and per image in hand how long it has waited for quota in all.

    `stopped` is its last word: it went of its own accord, so what it may have left in hand was not its murderer.
    `halted` is the fault of our configuration for which it pulls nothing at present; empty while it works.
    """

    id: str
    at: float
    stopped: bool = False
    halted: str = ""
    waited_seconds: dict[str, float] = {}


def last_moved(image: Image) -> float:
    """Return when the image last moved; for one written before `moved_at` existed, by its other times."""
    claimed = image.claim.at if image.claim else 0.0
    return max(image.moved_at, image.created_at, image.touched_at, claimed, image.settled_at or 0.0)


def client_of(batch_id: str) -> str:
    """The client of a batch, by its id: `<client>.<batchId>`."""
    return batch_id.partition(".")[0]


def image_key(batch: str, index: int) -> str:
    """One string that names an image across batches."""
    return f"{batch}/{index}"


def image_of(key: str) -> tuple[str, int]:
    """The (batch, index) of an image's key."""
    batch, _, index = key.rpartition("/")
    return batch, int(index)


def shards_for(total: int) -> int:
    """How many tally shards a batch of `total` images has: max(8, total / 250), at most the total.

    250 images a shard keeps a shard's document small (about 6 KB) and its write rate low; 8 keep small batches from
    queueing on one document.
    """
    return min(total, max(8, -(-total // 250)))


def shard_sizes(total: int, shards: int) -> list[int]:
    """Images in each shard when an image's shard is its index modulo the number of shards."""
    return [(total - shard + shards - 1) // shards for shard in range(shards)]


class Usage(msgspec.Struct, frozen=True):
    """What one call used, in the units its vendor charges by. `told`: whether the vendor said so at all.

    `seconds` are of the vendor's work or of the film it made, as its price list counts them; `credits` are its own.
    """

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    credits: float = 0.0
    pictures: int = 0
    told: bool = True
