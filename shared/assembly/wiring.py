"""The one place where ports meet backends. Doors and ops ask it for rooms; tests do so with their own parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from shared.adapters.embedded.database import Database
from shared.adapters.embedded.objects import EmbeddedObjects
from shared.adapters.embedded.queue import EmbeddedQueue
from shared.adapters.embedded.store import EmbeddedStore
from shared.adapters.system_clock import SystemClock
from shared.decisions.quota import Ledger
from shared.errors import ConfigurationError
from shared.lifecycle.closing import Closer
from shared.lifecycle.commands import Operator
from shared.lifecycle.fleet import Scaling
from shared.lifecycle.reconcile import Reconcile
from shared.lifecycle.replay import Replay
from shared.lifecycle.retries import Retries
from shared.manifest.sources import SourceRules
from shared.ports import (
    Backend,
    BatchStore,
    Clock,
    Fleet,
    ImageSource,
    ObjectStore,
    Pictures,
    Queue,
    StagingModel,
    StoredObject,
)
from shared.rooms.aggregate import Aggregate
from shared.rooms.dead_letter import DeadLetter
from shared.rooms.ingest import Ingest
from shared.rooms.stage_image import StageImage
from shared.settings import Settings, from_environment
from shared.staging.agents import Agents
from shared.staging.pool import PicturePool
from shared.topology import topology
from shared.vendors import PREVIEW
from shared.worker.claimed_image import Tools
from shared.worker.heartbeat import Heartbeat
from shared.worker.hosts import Hosts
from shared.worker.quota import Quota, QuotaEvents, SharedQuota

ModelMaker = Callable[[Settings, PicturePool], StagingModel]


class Embedded(msgspec.Struct, frozen=True):
    """The embedded backend's parts by their own types, for operations that only one machine has."""

    database: Database
    store: EmbeddedStore
    queue: EmbeddedQueue
    objects: EmbeddedObjects

    @property
    def backend(self) -> Backend:
        return Backend(self.store, self.queue, self.objects)


class Rooms(msgspec.Struct, frozen=True):
    """The rooms that need no staging model, and what operators run."""

    closer: Closer
    ingest: Ingest
    aggregate: Aggregate
    dead_letter: DeadLetter
    operator: Operator
    replay: Replay
    reconcile: Reconcile


def embedded(clock: Clock, database: Path | None = None, folders: Mapping[str, Path] | None = None) -> Embedded:
    """Return the embedded backend on a database file and a folder per bucket; in memory without them."""
    opened = Database(database, clock)
    queue = EmbeddedQueue(opened, clock, topology())
    return Embedded(opened, EmbeddedStore(opened, queue, clock), queue, EmbeddedObjects(opened, clock, folders))


class OnGoogle(msgspec.Struct, frozen=True):
    """The Google backend. Call `aclose` at the end."""

    store: BatchStore
    queue: Queue
    objects: ObjectStore
    fleet: Fleet | None
    kept_seconds: float
    aclose: Callable[[], Awaitable[None]]

    @property
    def backend(self) -> Backend:
        return Backend(self.store, self.queue, self.objects, self.fleet, self.kept_seconds)


def google(clock: Clock, settings: Settings, environ: Mapping[str, str]) -> OnGoogle:
    """Return the backend on Firestore, Pub/Sub and Cloud Storage, or on the emulators that Google's variables name.

    Must be called on the event loop that will use it. Google's libraries are imported only here: they take half a
    second, which the embedded backend need not pay. Raises `ConfigurationError` without a project.
    """
    from shared.adapters.google import clients
    from shared.adapters.google.objects import CloudObjects
    from shared.adapters.google.queue import PubSubQueue
    from shared.adapters.google.store import FirestoreStore

    project = settings.google.project or environ.get("GOOGLE_CLOUD_PROJECT", "")
    if not project:
        raise ConfigurationError("no project: set GOOGLE_CLOUD_PROJECT")
    firestore = clients.firestore_client(project, settings.google.database, environ)
    publisher, subscriber = clients.pubsub_clients(environ)
    objects = CloudObjects(clients.storage_client(project, environ), clock)

    async def aclose() -> None:
        await publisher.transport.close()  # type: ignore[no-untyped-call]
        await subscriber.transport.close()  # type: ignore[no-untyped-call]
        firestore.close()  # type: ignore[no-untyped-call]
        objects.close()

    kept_seconds = settings.google.documents_kept_seconds
    store, queue = (
        FirestoreStore(firestore, clock, kept_seconds),
        PubSubQueue(publisher, subscriber, project, clock, settings.google.prefix),
    )
    return OnGoogle(store, queue, objects, _fleet(settings.fleet.pool, clock), kept_seconds, aclose)


def _fleet(pool: str, clock: Clock) -> Fleet | None:
    """Return the worker pool of that name; its library is imported only if there is one."""
    if not pool:
        return None
    from shared.adapters.google.fleet import WorkerPoolFleet, worker_pools_client

    return WorkerPoolFleet(worker_pools_client(), pool, clock)


def google_rules(settings: Settings) -> Callable[[StoredObject], SourceRules]:
    """Return the rules for manifests in the intake bucket: photos in the client's own folders, and on the web."""

    def rules_of(stored: StoredObject) -> SourceRules:
        folder = "/".join(stored.name.split("/")[:2])  # manifests/<client>
        client = folder.partition("/")[2]
        prefixes = [f"gs://{stored.bucket}/{folder}/"]
        if settings.buckets.source:
            prefixes.append(f"gs://{settings.buckets.source}/{client}/")
        base = f"gs://{stored.bucket}/{stored.name.rpartition('/')[0]}/"
        return SourceRules(base=base, allow_http=settings.download.allow_http, gs_prefixes=tuple(prefixes))

    return rules_of


async def google_rooms(environ: Mapping[str, str]) -> Rooms:
    """Return the rooms of a door in the cloud. Must be awaited on the loop that will run them."""
    clock = SystemClock()
    settings = from_environment(environ)
    return rooms(
        google(clock, settings, environ).backend, clock, settings, google_rules(settings), folder_is_client=True
    )


def _preview(_: str | None) -> ModelMaker:
    from shared.staging.preview import PreviewModel  # numpy takes longer to import than most commands run

    return lambda _, pool: PreviewModel(pool)


def _gemini(key: str | None) -> ModelMaker:
    if not key:
        raise ConfigurationError("Gemini needs a key: set GEMINI_API_KEY")

    def gemini(settings: Settings, _: PicturePool) -> StagingModel:
        from shared.adapters.google.gemini import GeminiModel

        return GeminiModel(key, settings)

    return gemini


MAKERS: Final[Mapping[str, Callable[[str | None], ModelMaker]]] = {"gemini": _gemini, PREVIEW: _preview}


def model_maker(name: str, key: str | None) -> ModelMaker:
    """Return a function that creates the model of that name, one of `MAKERS`.

    Raises `ConfigurationError` when its key is missing.
    """
    return MAKERS[name](key)


def rooms(
    backend: Backend,
    clock: Clock,
    settings: Settings,
    rules_of: Callable[[StoredObject], SourceRules],
    *,
    folder_is_client: bool,
) -> Rooms:
    """Return everything but the staging of images.

    `rules_of` and `folder_is_client` are explained at `shared.rooms.ingest.Ingest`.
    """
    closer = Closer(backend.store, backend.queue, backend.objects, clock, settings)
    scaling = Scaling(backend.store, backend.fleet, clock, settings)
    operator = Operator(backend.store, backend.queue, closer, scaling, clock)
    replay = Replay(backend.store, backend.queue, closer, scaling, clock, backend.kept_seconds)
    return Rooms(
        closer=closer,
        ingest=Ingest(
            backend.store,
            backend.queue,
            backend.objects,
            closer,
            scaling,
            clock,
            settings,
            rules_of,
            Retries(backend.store, backend.objects, replay),
            folder_is_client=folder_is_client,
        ),
        aggregate=Aggregate(backend.store, closer, operator, clock, settings),
        dead_letter=DeadLetter(backend.store, backend.queue, clock, settings),
        operator=operator,
        replay=replay,
        reconcile=Reconcile(backend, closer, operator, replay, scaling, clock, settings),
    )


def shared_quota(backend: Backend, clock: Clock, settings: Settings, worker: str) -> SharedQuota[Ledger]:
    """Return a worker's side of the fleet's quotas, which reports every change to operators."""
    events = QuotaEvents(backend.queue, clock, settings.limits)
    return SharedQuota(backend.store, clock, settings.limits, worker, events.tell)


def stage_image(
    backend: Backend,
    clock: Clock,
    settings: Settings,
    *,
    heartbeat: Heartbeat,
    source: ImageSource,
    pictures: Pictures,
    model: StagingModel,
    quota: Quota | None = None,
) -> StageImage:
    """Return one worker's room for staging images."""
    return StageImage(
        Tools(
            store=backend.store,
            queue=backend.queue,
            objects=backend.objects,
            source=source,
            pictures=pictures,
            agents=Agents(model, pictures, settings.staging),
            quota=quota or shared_quota(backend, clock, settings, heartbeat.worker),
            hosts=Hosts(backend.store, clock, settings.download, heartbeat.worker),
            heartbeat=heartbeat,
            clock=clock,
            settings=settings,
        )
    )
