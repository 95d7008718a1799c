"""What an operator may set, with unit (in the type), default and reason. Only doors and ops read the environment.

What Terraform shares stands in topology.json; numbers of a proof, which must not be turned one by one, stand beside
that proof, as in ledger.py.

A setting is overridden by `RUUM_<GROUP>_<NAME>`, such as `RUUM_MANIFEST_MAX_IMAGES=20000`; docs/settings.md lists all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from shared.errors import BadSetting
from shared.topology import topology

ENVIRONMENT_PREFIX: Final = "RUUM_"
LEASE_SECONDS: Final = topology().policies["stage_image"].ack_deadline_seconds


class Unit(msgspec.Struct, frozen=True):
    """What a setting is counted in, as part of its type. A choice, or true or false, tells its own."""

    name: str


Count = Annotated[int, Meta(ge=1)]
Attempts = Annotated[Count, Unit("attempts")]
Bytes = Annotated[Count, Unit("bytes")]
Characters = Annotated[Count, Unit("characters")]
Images = Annotated[Count, Unit("images")]
AnyImages = Annotated[int, Meta(ge=0), Unit("images")]
Pictures = Annotated[Count, Unit("pictures per image")]
Pixels = Annotated[Count, Unit("pixels")]
Problems = Annotated[Count, Unit("problems")]
Processes = Annotated[Count, Unit("processes")]
Tokens = Annotated[Count, Unit("tokens")]
Quality = Annotated[int, Meta(ge=1, le=95), Unit("JPEG quality, 1 to 95")]
Redirects = Annotated[int, Meta(ge=0), Unit("redirects")]
Workers = Annotated[int, Meta(ge=1, le=100), Unit("workers")]

Seconds = Annotated[float, Meta(gt=0, le=1e9), Unit("seconds")]  # 30 years; keeps infinity out
KeptSeconds = Annotated[float, Meta(ge=7_776_000, le=1e9), Unit("seconds")]  # 90 days: far above a batch's longest run
# A call must end before its slot's lease (180 s) does, and before a probe is given up for lost (150 s): ledger.py.
CallSeconds = Annotated[float, Meta(gt=0, le=140), Unit("seconds")]
LinkSeconds = Annotated[float, Meta(ge=0, le=604_800), Unit("seconds")]  # Cloud Storage signs for a week at most
Share = Annotated[float, Meta(ge=0, le=1), Unit("share, 0 to 1")]
Percent = Annotated[float, Meta(ge=0, le=100), Unit("percent")]
Factor = Annotated[float, Meta(ge=0, le=100), Unit("times the cost")]
MeanPictures = Annotated[float, Meta(gt=0, le=10), Unit("pictures per image")]
Usd = Annotated[float, Meta(ge=0, le=1e6)]
MillionTokens = Annotated[Usd | None, Unit("US dollars per million tokens")]
Each = Annotated[Usd | None, Unit("US dollars each")]

Name = Annotated[str, Unit("name")]
PictureSize = Annotated[str, Unit("1K, 2K or 4K")]
Address = Annotated[str | None, Unit("address")]


class _Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the setting groups."""


class ManifestLimits(_Group, frozen=True, kw_only=True):
    """What a manifest may be."""

    max_images: Images = 10_000  # the product's promise; 100,000 is tried and works
    max_bytes: Bytes = 32 * 1024 * 1024  # 10,000 images of 500 bytes are 5 MB; leaves room for long signed links
    max_url_characters: Characters = 4096  # signed links reach 1,500; browsers and CDNs stop at 8,000
    ingest_seconds: Seconds = 480.0  # then ingest raises and goes on at redelivery: a minute before its function's end
    max_problems: Problems = 1000  # listed in one error report; more would not help


class PhotoLimits(_Group, frozen=True, kw_only=True):
    """What a photo may be, and what is made of it."""

    max_bytes: Bytes = 40 * 1024 * 1024  # a 48 MP JPEG at best quality has 25 MB
    max_pixels: Pixels = 52_000_000  # every camera sold as 50 MP, the largest of which has 51.3; decoded, 156 MB
    min_pixels_side: Pixels = 64  # below that there is no room to see
    max_side_pixels: Pixels = 2048  # "2K", the size the image model works in
    thumbnail_side_pixels: Pixels = 320  # two beside each other on a phone
    jpeg_quality: Quality = 90  # above 95 Pillow only grows the file
    subprocesses: Processes = 2  # one per core of the worker; a codec uses its core fully
    subprocess_bytes: Bytes = (
        1536 * 1024 * 1024
    )  # address space: 150 MB of pixels some copies over, and the interpreter
    job_seconds: Seconds = 60.0  # a 50 MP picture takes 2 s on a slow core


class DownloadLimits(_Group, frozen=True, kw_only=True):
    """How a photo is fetched from its address: for how long at most, and through how many redirects."""

    total_seconds: Seconds = 60.0  # 40 MB at 6 Mbit/s
    connect_seconds: Seconds = 10.0  # three tries of TCP on a slow line
    max_redirects: Redirects = 5  # CDNs use one or two, share links up to four
    max_per_host: Images = 10  # asked of one host at once by a worker; browsers ask six, and hosts expect that
    max_refused_seconds: Seconds = 86_400.0  # a host that refuses for longer is no longer waited for
    contact: Name = "https://ruum.example/contact"  # in the User-Agent, for a host's operator to find us: set your own
    allow_http: bool = False  # plain http can be read and altered on the way
    allow_private_addresses: bool = False  # for tests on loopback only: a private address is our own network


class AttemptLimits(_Group, frozen=True, kw_only=True):
    """How often an image is tried."""

    max_outage_seconds: Seconds = 21_600.0  # a call that only ever fails spends attempts again: it may be the image's
    max_attempts: Attempts = 3  # per round; the queue's 10 deliveries leave room above it for crashes and restarts


class StagingRules(_Group, frozen=True, kw_only=True):
    """Which model stages, and when a generated picture is good enough."""

    model: Literal["gemini", "preview"] = "gemini"  # the preview is never chosen by itself where customers pay
    max_generations: Pictures = 3  # pictures bought for one image in one round before it is quality_rejected
    max_refusals: Attempts = 2  # answers a vendor's filter refuses in one round before the image is refused_by_safety
    min_structure_kept: Share = 0.7  # a changed room misleads buyers: the strictest of the three
    min_realism: Share = 0.5  # below it furniture floats or bends
    min_style_fit: Share = 0.5  # a matter of taste: only clear misses are refused


class ReconcileRules(_Group, frozen=True, kw_only=True):
    """When reconcile takes things into its own hands."""

    untouched_seconds: Seconds = 900.0  # an image is published again after so long without a write: 3 backoffs of 300 s
    every_seconds: Seconds = 1800.0  # and a batch's images at most so often
    stalled_seconds: Seconds = 3600.0  # a running batch in which no image moved for so long is reported as stalled
    work_object_seconds: Seconds = 86_400.0  # a work object older than a day whose image is settled is an orphan


class CacheRules(_Group, frozen=True, kw_only=True):
    """How long results serve again."""

    keep_seconds: Seconds = (
        30 * 86_400.0
    )  # a property is listed for weeks; pictures older than a month are out of style
    poll_seconds: Seconds = 2.0  # between two looks whether the picture others buy is ready


class ThresholdRules(_Group, frozen=True, kw_only=True):
    """When a batch that has no threshold of its own is paused because too many of its images fail."""

    percent: Percent = 50.0  # half of the images failing is no longer chance; 0: never
    minimum_sample: Images = 20  # settled images that a share is taken of; fewer say nothing
    count: AnyImages = 0  # failed images; 0: never, for what is few in a large batch is all of a small one


class WorkerLimits(_Group, frozen=True, kw_only=True):
    """How one worker shares its time."""

    in_flight: Images = 50  # 60 calls a minute of 50 s need 50 in flight
    max_waiting: Images = 1000  # beside those, for their photo's host to let them in; above it nothing more is pulled
    heartbeat_seconds: Seconds = 4.0  # a claim is dead after 13 s: two beats may be lost
    lease_seconds: Seconds = float(LEASE_SECONDS)  # the ack deadline: a killed worker's images come again within it
    control_cache_seconds: Seconds = 5.0  # how late a worker may notice a pause or cancel
    held_seconds: Seconds = 4.0  # first wait of a delivery whose image is held; doubles with each of its 10 deliveries
    halt_seconds: Seconds = 60.0  # pause of pulling after a fault of our configuration
    progress_seconds: Seconds = 3.0  # status.json and progress are refreshed at most so often
    closer_lease_seconds: Seconds = 30.0  # writing the reports of 10,000 images takes about 2 s


class Gemini(_Group, frozen=True, kw_only=True):
    """The vendor's API. Model ids and prices change: look at the vendor's page before trusting them."""

    api_version: Name = "v1"  # google-genai 3 defaults to it; v1beta has previews
    base_url: Address = None  # unset: Google's; tests name a local server
    text_model: Name = "gemini-3.5-flash-lite"  # analyse and verify; the cheapest that sees pictures
    image_model: Name = "gemini-nano-banana-2.1"  # generate; $0.05 for a 2K picture
    image_size: PictureSize = "2K"  # what listings show; 4K costs twice as much
    max_text_tokens: Tokens = 8192  # of one text answer, thinking included; a runaway's 65,536 cost $0.16
    text_seconds: CallSeconds = 60.0  # total deadline of one analyse or verify; 10 s is usual
    image_seconds: CallSeconds = 120.0  # total deadline of one generate; 30 s is usual


class Limit(_Group, frozen=True, kw_only=True):
    """What a vendor allows a model: calls started in any rolling minute, calls at once, or both."""

    per_minute: Annotated[Count | None, Unit("calls a minute")] = None
    concurrent: Annotated[Count | None, Unit("calls at once")] = None


# Per project and model, in the vendors' first paid tiers; Terraform reads the same file. A model that is not here (the
# preview) has no limit.
LIMITS: Final[dict[str, Limit]] = msgspec.convert(topology().limits, dict[str, Limit])
LIMIT_REASONS: Final = {
    "gemini-nano-banana-2.1": "Gemini's first paid tier; called once a picture",
    "gemini-3-pro-image": "as the image model whose place it may take",
    "gemini-3.5-flash-lite": "called twice an image: twice the image model's",
    "gemini-3.8-flash": "as the text model whose place it may take",
    "runway": "Runway's first paid tier; no adapter yet",
    "pixverse": "PixVerse's first paid tier; no adapter yet",
    "shotstack": "ShotStack's first paid tier; no adapter yet",
}


class Price(_Group, frozen=True, kw_only=True):
    """What a model's vendor charges for each unit it counts; units it does not charge for are left out."""

    input_usd: MillionTokens = None
    output_usd: MillionTokens = None
    second_usd: Each = None
    credit_usd: Each = None
    picture_usd: Each = None
    call_usd: Each = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for a price that would make calls free by mistake."""
        if (self.input_usd is None) != (self.output_usd is None):
            raise ValueError("input_usd and output_usd belong together")
        if all(getattr(self, name) is None for name in self.__struct_fields__):
            raise ValueError("names no price; one of 0.0 is free")


PRICES: Final[dict[str, Price]] = {
    "gemini-nano-banana-2.1": Price(input_usd=1.50, output_usd=30.0),
    "gemini-3-pro-image": Price(input_usd=2.00, output_usd=120.0),
    "gemini-3.5-flash-lite": Price(input_usd=0.30, output_usd=2.50),
    "gemini-3.8-flash": Price(input_usd=0.75, output_usd=3.75),
    "preview": Price(input_usd=0.0, output_usd=0.0),
}
PRICE_REASONS: Final = {
    "gemini-nano-banana-2.1": "Google's documentation, November 2026; 1,670 tokens a 2K picture: $0.050",
    "gemini-3-pro-image": "Google's documentation, November 2026; 1,120 tokens a 2K picture: $0.134",
    "gemini-3.5-flash-lite": "Google's documentation, November 2026",
    "gemini-3.8-flash": "Google's documentation, November 2026",
    "preview": "ours and free",
}


class FleetRules(_Group, frozen=True, kw_only=True):
    """How many workers are started, where starting them is ours to do."""

    pool: Name = ""  # projects/<p>/locations/<region>/workerPools/<name>; empty: workers are started by hand
    images_per_instance: Images = 50  # a worker's slots: keep it equal to WORKER_IN_FLIGHT
    max_instances: Workers = 4  # 200 in flight use 240 calls a minute: four times the quota


class TierFactors(_Group, frozen=True, kw_only=True):
    """What a customer pays for a tier, as a multiple of what the work cost."""

    express_factor: Factor = 1.5  # six turns in ten: +50 %
    normal_factor: Factor = 1.0  # the reference
    economy_factor: Factor = 0.7  # what others leave over: -30 %


class Typical(_Group, frozen=True, kw_only=True):
    """What an image takes when nothing better was measured: what `estimate` starts from."""

    image_seconds: Seconds = 50.0  # 10 s analyse, 30 s generate, 10 s verify
    call_seconds: Seconds = 30.0  # the longest of the three: what a vendor's concurrent slot is held for
    text_input_tokens: Tokens = 4000  # both calls of an image: three pictures of 1,120 tokens, and the prompts
    text_output_tokens: Tokens = 800  # both answers as JSON
    image_input_tokens: Tokens = 1500  # one picture and the prompt
    image_output_tokens: Tokens = 1670  # a 2K picture: $0.050 at $30 a million
    generations: MeanPictures = 1.1  # one picture in ten is bought again after its verification


class Google(_Group, frozen=True, kw_only=True):
    """Where in Google Cloud the pipeline lives."""

    project: Name = ""  # empty: GOOGLE_CLOUD_PROJECT
    database: Name = "(default)"  # a project can hold several pipelines, each with a database of its own
    prefix: Name = ""  # of topics and subscriptions, such as "ruum-", for the same reason
    documents_kept_seconds: KeptSeconds = 34_560_000.0  # 400 days: longer than results, which commands find by them


class Buckets(_Group, frozen=True, kw_only=True):
    """Names of the buckets. `work` may equal `results`: work objects live under `work/`."""

    intake: Name = "intake"  # manifests, and photos beside them
    results: Name = "results"  # what customers read
    work: Name = "work"  # checkpoints; deleted after days
    signed_link_seconds: LinkSeconds = 0.0  # of links in events; 0: gs:// only
    source: Name = ""  # photos that manifests may name as gs://source/<client>/…; empty: only those beside the manifest


class Settings(_Group, frozen=True, kw_only=True):
    """All of it."""

    manifest: ManifestLimits = ManifestLimits()
    photo: PhotoLimits = PhotoLimits()
    download: DownloadLimits = DownloadLimits()
    attempts: AttemptLimits = AttemptLimits()
    staging: StagingRules = StagingRules()
    worker: WorkerLimits = WorkerLimits()
    reconcile: ReconcileRules = ReconcileRules()
    cache: CacheRules = CacheRules()
    threshold: ThresholdRules = ThresholdRules()
    gemini: Gemini = Gemini()
    fleet: FleetRules = FleetRules()
    tiers: TierFactors = TierFactors()
    typical: Typical = Typical()
    google: Google = Google()
    buckets: Buckets = Buckets()
    limits: dict[str, Limit] = msgspec.field(default_factory=lambda: dict(LIMITS))
    prices: dict[str, Price] = msgspec.field(default_factory=lambda: dict(PRICES))


TABLES: Final = ("limits", "prices")  # settings that are tables by model: given as JSON


def from_environment(environ: Mapping[str, str]) -> Settings:
    """The settings with every `RUUM_<GROUP>_<NAME>` of `environ` applied. Raises `BadSetting`."""
    groups = {
        field.name: {inner.name for inner in msgspec.structs.fields(field.type)}
        for field in msgspec.structs.fields(Settings)
        if isinstance(field.type, type) and issubclass(field.type, _Group)
    }
    given: dict[str, dict[str, Any]] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name in TABLES:
            given[name] = _table(variable, value)
            continue
        group = next((group for group in groups if name.startswith(group + "_")), None)
        if group is None or name.removeprefix(group + "_") not in groups[group]:
            raise BadSetting(f"{variable} is not a setting; docs/settings.md lists all of them")
        given.setdefault(group, {})[name.removeprefix(group + "_")] = value
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        place = str(error).rpartition("`$.")[2].rstrip("`")
        table = next((table for table in TABLES if place.startswith(table)), None)
        variable = table or place.replace(".", "_")
        raise BadSetting(f"{ENVIRONMENT_PREFIX}{variable.upper()}: {error}") from None


def _table(variable: str, value: str) -> dict[str, Any]:
    """A table given as a JSON object. It is laid over the default: models that are not named keep theirs."""
    try:
        table = msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadSetting(f'{variable} must be a JSON object such as {{"model": {{…}}}}: {error}') from None
    defaults: dict[str, Any] = dict(LIMITS) if variable.endswith("LIMITS") else dict(PRICES)
    return {name: msgspec.to_builtins(default) for name, default in defaults.items()} | table
