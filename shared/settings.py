"""Everything that an operator may set, with unit (in the type), default and reason.

Only doors and ops read the environment.

Values that Terraform shares are in topology.json. Numbers that belong to a proof must not be changed one by one; they
stand beside that proof, as in decisions/quota.py.

A setting is overridden by `RUUM_<GROUP>_<NAME>`, such as `RUUM_MANIFEST_MAX_IMAGES=20000`. docs/settings.md lists all
of them; it prints the comments behind the settings as their reasons.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from shared.errors import BadSetting
from shared.topology import topology

ENVIRONMENT_PREFIX: Final = "RUUM_"
LEASE_SECONDS: Final = topology().policies["stage_image"].ack_deadline_seconds


class Unit(msgspec.Struct, frozen=True):
    """What a setting is counted in, as part of its type. Choices and booleans need none."""

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
# A call must end before its slot's lease does (180 s), and before its probe counts as lost (150 s); see
# decisions/quota.py.
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

    max_images: Images = 10_000  # the product's promise; 100,000 was tested and works
    max_bytes: Bytes = 32 * 1024 * 1024  # 10,000 images of 500 bytes are 5 MB; leaves room for long signed links
    max_url_characters: Characters = 4096  # signed links reach 1,500; browsers and CDNs stop at 8,000
    ingest_seconds: Seconds = 480.0  # then ingest stops and continues at redelivery; a minute below its function's own
    max_problems: Problems = 1000  # listed in one error report; nobody reads more


class PhotoLimits(_Group, frozen=True, kw_only=True):
    """What a photo may be, and what is made of it."""

    max_bytes: Bytes = 40 * 1024 * 1024  # a 48 MP JPEG at best quality has 25 MB
    max_pixels: Pixels = 52_000_000  # every camera sold as 50 MP, the largest of which has 51.3; decoded, 156 MB
    min_pixels_side: Pixels = 64  # a smaller picture shows no recognisable room
    max_side_pixels: Pixels = 2048  # "2K", the size the image model works in
    thumbnail_side_pixels: Pixels = 320  # two beside each other on a phone
    jpeg_quality: Quality = 90  # above 95 the file grows without looking better, says Pillow
    subprocesses: Processes = 2  # one per core of the worker, because a codec uses its core fully
    subprocess_bytes: Bytes = (
        1536 * 1024 * 1024
    )  # address space: several copies of 150 MB of pixels, and the interpreter
    job_seconds: Seconds = 60.0  # a 50 MP picture takes 2 s on a slow core


class DownloadLimits(_Group, frozen=True, kw_only=True):
    """How photos are fetched: time limits, redirects, and politeness to their hosts."""

    total_seconds: Seconds = 60.0  # 40 MB at 6 Mbit/s
    connect_seconds: Seconds = 10.0  # three TCP attempts on a slow line
    max_redirects: Redirects = 5  # CDNs use one or two, share links up to four
    max_per_host: Images = 10  # requests of one worker to one host at once; browsers make six, and hosts expect that
    max_refused_seconds: Seconds = 86_400.0  # images stop waiting for a host that has refused for longer than a day
    contact: Name = "https://ruum.example/contact"  # in the User-Agent, for hosts' operators to reach you: set your own
    allow_http: bool = False  # plain http can be read and altered on the way
    allow_private_addresses: bool = False  # for tests on loopback only: a private address is our own network


class AttemptLimits(_Group, frozen=True, kw_only=True):
    """How often an image is tried."""

    max_outage_seconds: Seconds = 21_600.0  # a call that fails for longer spends attempts: the image may be at fault
    max_attempts: Attempts = 3  # per round; the queue's 10 deliveries leave room above it for crashes and restarts


class StagingRules(_Group, frozen=True, kw_only=True):
    """Which model stages, and when a generated picture is good enough."""

    model: Literal["gemini", "preview"] = "gemini"  # the preview must be chosen on purpose: customers would pay for it
    max_generations: Pictures = 3  # pictures bought for one image in one round before it fails as quality_rejected
    max_refusals: Attempts = 2  # answers a vendor's filter may refuse in one round before refused_by_safety
    min_structure_kept: Share = 0.7  # the strictest of the three, because a changed room misleads buyers
    min_realism: Share = 0.5  # below it furniture floats or bends
    min_style_fit: Share = 0.5  # a matter of taste: only clear misses are refused


class ReconcileRules(_Group, frozen=True, kw_only=True):
    """When reconcile intervenes."""

    untouched_seconds: Seconds = 900.0  # an image is republished after this long without a write: 3 backoffs of 300 s
    every_seconds: Seconds = 1800.0  # minimum interval between two republishings of one batch
    stalled_seconds: Seconds = 3600.0  # a running batch is reported as stalled after this long without a moving image
    work_object_seconds: Seconds = 86_400.0  # a work object older than a day whose image is settled is an orphan


class CacheRules(_Group, frozen=True, kw_only=True):
    """How long a client's results are reused."""

    keep_seconds: Seconds = (
        30 * 86_400.0
    )  # a property is listed for weeks; pictures older than a month are out of style
    poll_seconds: Seconds = 2.0  # how often an image checks for the picture that another one is buying


class ThresholdRules(_Group, frozen=True, kw_only=True):
    """When a batch that has no threshold of its own is paused because too many of its images fail."""

    percent: Percent = 50.0  # when half of the images fail, that is no coincidence; 0: never
    minimum_sample: Images = 20  # settled images before a percentage is judged; fewer prove little
    count: AnyImages = 0  # failed images; 0: never, since no number fits both small and large batches


class WorkerLimits(_Group, frozen=True, kw_only=True):
    """How much one worker does at once, and its intervals and leases."""

    in_flight: Images = 50  # 60 calls a minute of 50 s need 50 in flight
    max_waiting: Images = 1000  # further images that wait for their photo's host; above it nothing more is pulled
    heartbeat_seconds: Seconds = 4.0  # a claim is dead after 13 s, so two heartbeats may be lost
    lease_seconds: Seconds = float(LEASE_SECONDS)  # the ack deadline, after it a killed worker's images come again
    control_cache_seconds: Seconds = 5.0  # how late a worker may notice a pause or cancel
    held_seconds: Seconds = 4.0  # first wait of a delivery whose image is held; doubles with each of its 10 deliveries
    halt_seconds: Seconds = 60.0  # how long pulling pauses after a fault in our configuration
    progress_seconds: Seconds = 3.0  # minimum interval between refreshes of status.json and progress
    closer_lease_seconds: Seconds = 30.0  # writing the reports of 10,000 images takes about 2 s


class Gemini(_Group, frozen=True, kw_only=True):
    """The vendor's API. Model ids and prices change: check the vendor's page before relying on them."""

    api_version: Name = "v1"  # google-genai 3 defaults to it; v1beta has previews
    base_url: Address = None  # unset: Google's; tests set a local server
    text_model: Name = "gemini-3.5-flash-lite"  # analyse and verify; the cheapest model that reads pictures
    image_model: Name = "gemini-nano-banana-2.1"  # generate; $0.05 for a 2K picture
    image_size: PictureSize = "2K"  # what listings show; 4K costs twice as much
    max_text_tokens: Tokens = 8192  # per text answer, thinking included; a runaway answer of 65,536 costs $0.16
    text_seconds: CallSeconds = 60.0  # total deadline of one analyse or verify call; 10 s is usual
    image_seconds: CallSeconds = 120.0  # total deadline of one generate call; 30 s is usual


class Limit(_Group, frozen=True, kw_only=True):
    """What a vendor allows for a model: calls started in any rolling minute, concurrent calls, or both."""

    per_minute: Annotated[Count | None, Unit("calls a minute")] = None
    concurrent: Annotated[Count | None, Unit("calls at once")] = None


# Per project and model, in the vendors' first paid tiers. Terraform reads the same file. A model that is not listed
# (the preview) has no limit.
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
    """What a vendor charges for each unit that it counts. Units that it does not charge for are left out."""

    input_usd: MillionTokens = None
    output_usd: MillionTokens = None
    second_usd: Each = None
    credit_usd: Each = None
    picture_usd: Each = None
    call_usd: Each = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for a price that would make calls free by mistake."""
        if (self.input_usd is None) != (self.output_usd is None):
            raise ValueError("input_usd and output_usd must be given together")
        if all(getattr(self, name) is None for name in self.__struct_fields__):
            raise ValueError("it has no price (for a free model write a price of 0)")


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
    """How many workers are started, if we start them at all."""

    pool: Name = ""  # projects/<p>/locations/<region>/workerPools/<name>; empty: workers are started by hand
    images_per_instance: Images = 50  # a worker's slots: keep it equal to WORKER_IN_FLIGHT
    max_instances: Workers = 4  # 200 in flight use 240 calls a minute: four times the quota


class TierFactors(_Group, frozen=True, kw_only=True):
    """What a customer pays in each tier, as a multiple of the work's cost."""

    express_factor: Factor = 1.5  # +50 %, for six turns in ten
    normal_factor: Factor = 1.0  # the reference
    economy_factor: Factor = 0.7  # -30 %, for the turns that others leave


class Typical(_Group, frozen=True, kw_only=True):
    """What an image usually needs. `estimate` starts from this when nothing was measured yet."""

    image_seconds: Seconds = 50.0  # 10 s analyse, 30 s generate, 10 s verify
    call_seconds: Seconds = 30.0  # the longest of the three; how long a vendor's concurrent slot is held
    text_input_tokens: Tokens = 4000  # both calls of an image: three pictures of 1,120 tokens, and the prompts
    text_output_tokens: Tokens = 800  # both answers as JSON
    image_input_tokens: Tokens = 1500  # one picture and the prompt
    image_output_tokens: Tokens = 1670  # a 2K picture: $0.050 at $30 a million
    generations: MeanPictures = 1.1  # one picture in ten fails verification and is bought again


class Google(_Group, frozen=True, kw_only=True):
    """Where in Google Cloud the pipeline runs."""

    project: Name = ""  # empty: GOOGLE_CLOUD_PROJECT
    database: Name = "(default)"  # a project can hold several pipelines, each with a database of its own
    prefix: Name = ""  # of topics and subscriptions, such as "ruum-", for the same reason
    documents_kept_seconds: KeptSeconds = 34_560_000.0  # 400 days: longer than results, which commands find by them


class Buckets(_Group, frozen=True, kw_only=True):
    """Names of the buckets. `work` may equal `results`: work objects live under `work/`."""

    intake: Name = "intake"  # manifests, and photos beside them
    results: Name = "results"  # what customers read
    work: Name = "work"  # checkpoints and cached pictures; deleted after 30 and 31 days
    signed_link_seconds: LinkSeconds = 0.0  # validity of links in events; 0: gs:// addresses only
    source: Name = ""  # photos that manifests may name as gs://source/<client>/…; empty: only those beside the manifest


class Settings(_Group, frozen=True, kw_only=True):
    """All groups of settings. `from_environment` makes one; parts are given the group that they need."""

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


TABLES: Final = ("limits", "prices")  # tables by model, set as JSON


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Return the settings with every `RUUM_<GROUP>_<NAME>` of `environ` applied. Raises `BadSetting`."""
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
            raise BadSetting(
                f"{variable} is not a setting{_meant(variable, groups)}; docs/settings.md lists all of them"
            )
        given.setdefault(group, {})[name.removeprefix(group + "_")] = value
    try:
        return msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        group, _, name = place.rstrip("`").partition(".")
        variable = f"{ENVIRONMENT_PREFIX}{group}_{name}".upper()
        raise BadSetting(f"{variable}: {reason}{_choices(group, name)}") from None


def _meant(variable: str, groups: Mapping[str, set[str]]) -> str:
    """Return ` (did you mean …?)` for a name that is nearly a setting's, such as one of an earlier version."""
    known = [f"{ENVIRONMENT_PREFIX}{group}_{name}".upper() for group, names in groups.items() for name in names]
    near = difflib.get_close_matches(variable, known, 1, 0.8)
    return f" (did you mean {near[0]}?)" if near else ""


def _choices(group: str, name: str) -> str:
    """Return ` (allowed: …)` for a setting that is a choice."""
    (kind,) = (field.type for field in msgspec.structs.fields(Settings) if field.name == group)
    (choice,) = (field.type for field in msgspec.structs.fields(kind) if field.name == name)
    return f" (allowed: {', '.join(get_args(choice))})" if get_origin(choice) is Literal else ""


def _table(variable: str, value: str) -> dict[str, Any]:
    """Return a table given as a JSON object, laid over the default: models that it does not name keep theirs."""
    try:
        table = msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadSetting(f'{variable} must be a JSON object such as {{"model": {{…}}}}: {error}') from None
    kind, defaults = (Limit, dict[str, Any](LIMITS)) if variable.endswith("LIMITS") else (Price, dict[str, Any](PRICES))
    for model, row in table.items():
        try:
            msgspec.convert(row, kind, strict=False)
        except msgspec.ValidationError as error:
            reason, _, place = str(error).partition(" - at `$.")
            raise BadSetting(f"{variable}: model {model}{place and ', ' + place.rstrip('`')}: {reason}") from None
    return {name: msgspec.to_builtins(default) for name, default in defaults.items()} | table
