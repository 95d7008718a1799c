"""The one place where ports and backends meet. Doors and ops ask it for rooms; tests ask it with their own parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from shared.adapters.embedded.database import Database
from shared.adapters.embedded.objects import EmbeddedObjects
from shared.adapters.embedded.queue import EmbeddedQueue
from shared.adapters.embedded.store import EmbeddedStore
from shared.aggregate import Aggregate
from shared.closing import Closer
from shared.dead_letter import DeadLetter
from shared.heartbeat import Heartbeat
from shared.ingest import Ingest
from shared.ports import BatchStore, Clock, ImageSource, ObjectStore, Pictures, Queue, StagingModel, StoredObject
from shared.quota import PauseOnThrottle, Quota
from shared.settings import Settings
from shared.sources import SourceRules
from shared.stage_image import StageImage, Tools
from shared.staging.agents import Agents
from shared.topology import topology


class Backend(msgspec.Struct, frozen=True):
    """Where state, messages and objects are."""

    store: BatchStore
    queue: Queue
    objects: ObjectStore


class Embedded(msgspec.Struct, frozen=True):
    """The embedded backend's parts by their own types, for what only one machine can do."""

    database: Database
    store: EmbeddedStore
    queue: EmbeddedQueue
    objects: EmbeddedObjects

    @property
    def backend(self) -> Backend:
        return Backend(self.store, self.queue, self.objects)


class Rooms(msgspec.Struct, frozen=True):
    """The rooms that need no staging model."""

    closer: Closer
    ingest: Ingest
    aggregate: Aggregate
    dead_letter: DeadLetter


def embedded(clock: Clock, database: Path | None = None, folders: Mapping[str, Path] | None = None) -> Embedded:
    """The embedded backend on a database file and a folder per bucket; without them, in memory."""
    opened = Database(database, clock)
    queue = EmbeddedQueue(opened, clock, topology())
    return Embedded(opened, EmbeddedStore(opened, queue), queue, EmbeddedObjects(opened, clock, folders))


def rooms(
    backend: Backend,
    clock: Clock,
    settings: Settings,
    rules_of: Callable[[StoredObject], SourceRules],
    *,
    folder_is_client: bool,
) -> Rooms:
    """Everything but the staging of images. `rules_of` and `folder_is_client`: see `shared.ingest.Ingest`."""
    closer = Closer(backend.store, backend.queue, backend.objects, clock, settings)
    return Rooms(
        closer=closer,
        ingest=Ingest(
            backend.store,
            backend.queue,
            backend.objects,
            closer,
            clock,
            settings,
            rules_of,
            folder_is_client=folder_is_client,
        ),
        aggregate=Aggregate(backend.store, backend.objects, closer, clock, settings),
        dead_letter=DeadLetter(backend.store, backend.queue, clock, settings),
    )


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
    """One worker's room for staging images."""
    return StageImage(
        Tools(
            store=backend.store,
            queue=backend.queue,
            objects=backend.objects,
            source=source,
            pictures=pictures,
            agents=Agents(model, pictures, settings.staging),
            quota=quota or PauseOnThrottle(clock),
            heartbeat=heartbeat,
            clock=clock,
            settings=settings,
        )
    )
