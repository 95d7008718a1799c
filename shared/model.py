"""The nouns of the pipeline, and the one table of transitions that every backend uses.

Documents are frozen; a decision makes a new one. Times are seconds since the epoch (UTC) and durations name their unit.
Money is in millionths of a US dollar, so that sums are exact.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of everything stored or sent: immutable, camelCase on the wire, defaults left out."""


class ImageState(StrEnum):
    """State of an image. `queued` and `processing` are open; the other three are settled."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchState(StrEnum):
    """State of a batch.

    Customers read `closed` as completed, completed_with_failures or cancelled (`Batch.outcome`).
    """

    INGESTING = "ingesting"
    PROCESSING = "processing"
    CLOSING = "closing"
    CLOSED = "closed"
    REOPENING = "reopening"
    REJECTED = "rejected"


class Control(StrEnum):
    """What operators want of a batch. Independent of its state."""

    RUN = "run"
    PAUSED = "paused"
    CANCELLING = "cancelling"


class Tier(StrEnum):
    """How urgent a batch is. Each tier has a topic of its own."""

    EXPRESS = "express"
    NORMAL = "normal"
    ECONOMY = "economy"


OPEN_STATES: Final = frozenset({ImageState.QUEUED, ImageState.PROCESSING})
SETTLED_STATES: Final = frozenset(ImageState) - OPEN_STATES


class ImageMove(StrEnum):
    """Everything that can happen to an image."""

    CLAIM = "claim"  # a worker takes it, also from a dead worker
    CHECKPOINT = "checkpoint"  # paid work is recorded
    RELEASE = "release"  # the worker returns it to the queue
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


# The one transition table. A pair that is not in it is illegal and changes nothing.
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
    """Why a decision changes nothing. A decision returns either the new document or one of these."""

    MISSING = "missing"  # no such document
    ILLEGAL = "illegal"  # the table has no such transition
    SETTLED = "settled"  # the image already has its outcome
    OTHER_ROUND = "other_round"  # the task or letter belongs to another round of the image
    HELD = "held"  # a living worker holds the claim
    STALE_FENCE = "stale_fence"  # the caller's claim is no longer the image's
    STALE_REVISION = "stale_revision"  # the document has changed since the caller read it
    UNCHANGED = "unchanged"  # nothing to do: the document is already as requested
    BUSY = "busy"  # another closer or replay holds the lease
    PAUSED = "paused"  # the batch is paused and has to be resumed first
    EXPIRING = "expiring"  # the batch's documents will be deleted soon


class Claim(Document, frozen=True, kw_only=True):
    """Which worker works on an image, and since when.

    `alone` says that the worker holds no other image. `step` is then the picture step (`decisions.image.PictureStep`)
    that it is in; empty between steps.
    """

    worker: str
    at: float
    alone: bool = False
    step: str = ""


class Trials(Document, frozen=True, kw_only=True):
    """The results of an image's lone trials in its round. In a trial its worker holds no other image.

    `deaths` counts workers that died in a trial. The last `in_a_row` of them died in the same picture step, `step`,
    which is empty if the last one died elsewhere. `passed` counts trials that ended well.
    """

    deaths: int = 0
    step: str = ""
    in_a_row: int = 0
    passed: int = 0


class Call(Document, frozen=True, kw_only=True):
    """One paid call to a model: a line of an image's bill.

    `estimated` says that the vendor did not report the usage, so that of a usual call was charged.
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

    `analysis` is the analyse agent's answer as JSON. `picture` names the work object of the generated picture; None
    when only the analysis is known. `defects` are those that the generation was asked to correct. `generations` counts
    the pictures bought in this round, and `refusals` the answers that the vendor's filter refused in it.
    """

    analysis: str | None = None
    picture: str | None = None
    generations: int = 0
    refusals: int = 0
    defects: tuple[str, ...] = ()


class Failure(Document, frozen=True, kw_only=True):
    """Why an image failed, or what ended its last attempt: a code of `ErrorCode`, and a sentence."""

    code: str
    message: str


class Output(Document, frozen=True, kw_only=True):
    """The published files: object names in the results bucket, the picture's sha256 and its size in pixels.

    For the report: `thumbnail` is a small copy of the staged picture, `before` a small copy of the photo, and
    `original` a large copy of the photo in the staged picture's shape.
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
    replay: int = 0  # number of the batch's last replay that requeued it
    revision: int = 1
    fence: int = 0
    attempts: int = 0
    crashes: int = 0  # workers that died while holding it, since the last lone trial that it passed
    trials: Trials = Trials()
    claim: Claim | None = None
    checkpoint: Checkpoint | None = None
    output: Output | None = None
    error: Failure | None = None
    calls: tuple[Call, ...] = ()
    earlier_cost_micro_usd: int = 0  # the part of its cost that was spent in earlier rounds
    durations_ms: dict[str, int] = {}
    prompts: str | None = None  # version of the prompts its picture was made with
    model: str | None = None  # the image model that made it, also where it came from the cache
    cached: bool = False
    created_at: float = 0.0
    touched_at: float = 0.0  # when it was last released or requeued
    moved_at: float = 0.0  # when its state was last written, including claims; reconcile queries by it
    settled_at: float | None = None
    token: str = ""

    @property
    def cost_micro_usd(self) -> int:
        """What all its calls cost, in all rounds."""
        return sum(call.cost_micro_usd for call in self.calls)

    @property
    def estimated_micro_usd(self) -> int:
        """The estimated part of its cost; see `Call.estimated`."""
        return sum(call.cost_micro_usd for call in self.calls if call.estimated)


class ManifestRef(Document, frozen=True, kw_only=True):
    """Identifies the exact bytes that a batch was made from."""

    uri: str
    generation: int
    sha256: str
    base: str  # URI of the folder that relative photo paths start from, ending in "/"


class Lease(Document, frozen=True, kw_only=True):
    """A right that expires by itself at `until`, in case its holder crashes."""

    holder: str
    until: float


class Counts(Document, frozen=True, kw_only=True):
    """How many images are in each state."""

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
        """Return the counts after one image has moved from `before` to `after`."""
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
    """The result of a round: the payload of `batch.completed`, fixed when the batch closes."""

    outcome: str
    counts: Counts
    success_rate: float
    cost_usd: float
    duration_seconds: float
    cached: int = 0  # completed images whose picture came from the cache
    price_usd: float = 0.0  # what the customer pays: the cost times the tier's factor
    estimated_usd: float = 0.0  # the part of the cost that the vendor did not report; see `Call.estimated`
    reports: dict[str, ReportFile]


class FailureThreshold(Document, frozen=True, kw_only=True):
    """Pause the batch when `count` images have failed, or `percent` of the settled ones.

    The percentage applies once `minimum_sample` images have settled; None means the settings' sample.
    """

    count: int | None = None
    percent: float | None = None
    minimum_sample: int | None = None


class ReplayPlan(Document, frozen=True, kw_only=True):
    """What a replay in progress requeues, and which process holds it.

    It covers images that failed with one of `codes` (any code if empty), at or before `failed_before` (any time if
    None), and that this replay, the batch's `number`-th, has not requeued before. `drop` identifies the upload of
    failed.csv that asked for it. The file knows the images and their corrections, so only that drop may resume the
    replay.
    """

    lease: Lease
    number: int
    codes: tuple[str, ...] = ()
    failed_before: float | None = None
    drop: str = ""


class Correction(Document, frozen=True, kw_only=True):
    """What a failed image is to be staged as when it is retried."""

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
    tasks_published: int = 0  # ingest's progress: the tasks of images below this index were published
    created_at: float = 0.0
    closing_at: float | None = None
    closed_at: float | None = None
    closer: Lease | None = None
    completion: Completion | None = None
    announced_round: int = 0
    problems: int = 0  # of a rejected manifest
    cache: bool = True  # whether results may be taken from, and given to, the client's cache
    threshold: FailureThreshold | None = None
    baseline: Counts = Counts()  # the counts when it was last resumed or replayed; the threshold counts from there
    paused_reason: str | None = None
    cancel_reason: str | None = None
    controlled_by: str | None = None  # the person who last paused, resumed or cancelled it; None: the pipeline itself
    controlled_at: float | None = None
    control_announced: str = ""  # the last pause or cancel that was announced by an event
    republished_at: float = 0.0  # when reconcile last published its forgotten images
    epoch_published: int = 0  # the last control epoch whose queued images were published
    replay: ReplayPlan | None = None
    replays: int = 0  # begun so far
    retried: tuple[str, ...] = ()  # the last drops of its failed.csv that were taken
    separator: str | None = None  # of the CSV manifest; the reports use it too, so that they open in columns as well
    progress_announced: int = 0  # the last tenth that was announced by an event
    token: str = ""

    @property
    def batch_id(self) -> str:
        """The batchId of its manifest: the id without the client."""
        return self.id.removeprefix(self.client + ".")

    @property
    def is_open(self) -> bool:
        """Whether anything is left to do for it. Reconcile looks at open batches only."""
        announced = self.state is BatchState.CLOSED and self.announced_round >= self.round
        return self.state is not BatchState.REJECTED and not announced

    @property
    def outcome(self) -> str:
        """The state as customers read it: the outcome of a closed batch instead of `closed`."""
        return self.completion.outcome if self.state is BatchState.CLOSED and self.completion else self.state.value


class Tally(Document, frozen=True, kw_only=True):
    """The exact counts of one shard: for each image, the last revision folded in and its state then.

    An image without an entry is queued at revision 0, so a shard created before its images counts them as open.
    """

    batch: str
    shard: int
    counts: Counts
    entries: dict[int, tuple[int, ImageState]] = {}
    token: str = ""


class Record(Document, frozen=True, kw_only=True):
    """A document outside of batches, found by its own key. `token` names its last write."""

    token: str = ""


class TierEmpty(Record, frozen=True, kw_only=True):
    """When workers last found a tier's subscription empty: the last two times, at least a minute apart."""

    tier: Tier
    seen_at: tuple[float, ...] = ()


class Reconciled(Record, frozen=True, kw_only=True):
    """How far reconcile has read a batch, so that its next run reads only what has moved since.

    `at` is when the last run that counted its images began. `moved_at` is the latest move of an image that a run has
    seen. `swept_at` is when all its images were last read. The record may be deleted at `expires_at`.
    """

    at: float = 0.0
    moved_at: float = 0.0
    swept_at: float = 0.0
    expires_at: float = 0.0


class Worker(Document, frozen=True, kw_only=True):
    """A worker's heartbeat: when it was last alive, and how long each image it holds has waited for quota in all.

    `stopped` marks a clean shutdown: images it still held did not crash it. `halted` is the fault in our configuration
    for which it pulls nothing at present; empty while it works.
    """

    id: str
    at: float
    stopped: bool = False
    halted: str = ""
    waited_seconds: dict[str, float] = {}


def last_moved(image: Image) -> float:
    """Return when the image last moved.

    For an image written before `moved_at` existed, the latest of its other times.
    """
    claimed = image.claim.at if image.claim else 0.0
    return max(image.moved_at, image.created_at, image.touched_at, claimed, image.settled_at or 0.0)


def client_of(batch_id: str) -> str:
    """Return the client of a batch from its id, `<client>.<batchId>`."""
    return batch_id.partition(".")[0]


def image_key(batch: str, index: int) -> str:
    """Return one string that identifies an image across batches."""
    return f"{batch}/{index}"


def image_of(key: str) -> tuple[str, int]:
    """Return the (batch, index) of an image's key."""
    batch, _, index = key.rpartition("/")
    return batch, int(index)


def shards_for(total: int) -> int:
    """Return how many tally shards a batch of `total` images has: max(8, total / 250), at most `total`.

    250 images per shard keep a shard's document small (about 6 KB) and its write rate low. 8 shards keep the writes of
    a small batch from queueing on one document.
    """
    return min(total, max(8, -(-total // 250)))


def shard_sizes(total: int, shards: int) -> list[int]:
    """Return the number of images in each shard. An image's shard is its index modulo the number of shards."""
    return [(total - shard + shards - 1) // shards for shard in range(shards)]


class Usage(msgspec.Struct, frozen=True):
    """What one call used, in the units that its vendor charges by. `reported` says whether the vendor reported it.

    `seconds` are of the vendor's work or of the video it made, as its price list counts them. `credits` are the
    vendor's own.
    """

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    credits: float = 0.0
    pictures: int = 0
    reported: bool = True
