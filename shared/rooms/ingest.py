"""INGEST: a manifest comes in; a batch, its images and one task per image go out.

Idempotent and resumable. The same object again is the same batch, and a run that was killed continues from the place
recorded in the batch. Nothing of a manifest is staged before all of it has been found valid.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from shared import decisions
from shared.errors import ManifestRejected, ObjectDamaged, ObjectTooLarge, OutOfTime, Problem
from shared.events import BatchAccepted, BatchRejected
from shared.lifecycle import closing
from shared.lifecycle.fleet import Scaling
from shared.lifecycle.retries import Retries
from shared.manifest import reader
from shared.manifest.fields import OF_BATCH
from shared.manifest.model import Manifest, rejected_id
from shared.manifest.problems import in_words
from shared.manifest.sources import SourceRules
from shared.messages import batch_event, task_message
from shared.model import Batch, BatchMove, BatchState, Image, ManifestRef, Refusal, Tier, shards_for
from shared.ports import BatchStore, Clock, ObjectStore, Queue, StoredObject
from shared.results import names, report
from shared.settings import Settings
from shared.telemetry import LogEvent, bound, tell
from shared.topology import EVENTS_TOPIC, topic_of
from shared.untrusted.text import client_slug

log = logging.getLogger(__name__)

# Images created and published before the place is recorded again. Firestore commits at most 500 writes at once.
CHUNK: Final = 500
_NAME = re.compile(r"manifests/(?P<client>[^/]+)/(?P<path>.+\.(json|jsonl|csv|xlsx|ods))", re.IGNORECASE)
_OTHER = re.compile(r"manifests/(?P<client>[^/]+)/(?:.*/)?(?P<name>[^/]+)")
# Other files that may lie beside manifests: photos of any kind, folder markers, files that operating systems leave.
_BESIDE = re.compile(
    r".*\.(jpe?g|png|webp|hei[cf]|gif|bmp|tiff?|avif|dng|raw|cr2|nef|arw|mp4|mov)|\..*|~\$.*|thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)


class Ingest:
    """Turns uploaded manifests into batches. `rules_of` returns which addresses a manifest object may name.

    With `folder_is_client`, the folder below manifests/ must be the manifest's client. That is required in the cloud,
    where a client's key may write only to its own folder.
    """

    def __init__(
        self,
        store: BatchStore,
        queue: Queue,
        objects: ObjectStore,
        closer: closing.Closer,
        scaling: Scaling,
        clock: Clock,
        settings: Settings,
        rules_of: Callable[[StoredObject], SourceRules],
        retries: Retries,
        *,
        folder_is_client: bool,
    ) -> None:
        self._store = store
        self._queue = queue
        self._objects = objects
        self._closer = closer
        self._scaling = scaling
        self._clock = clock
        self._settings = settings
        self._rules_of = rules_of
        self._retries = retries
        self._folder_is_client = folder_is_client

    async def handle(self, bucket: str, name: str) -> Batch | None:
        """Ingest one object. Return its batch (possibly `rejected`), or None if it is not ours to read.

        The same content uploaded again is the same batch, and that batch's events are published again: a client that
        sends twice after a crash waits for them. A round's failed.csv gives its images a new round.

        Raises what the stores raise. The caller retries, and nothing is done twice.
        """
        match = _NAME.fullmatch(name)
        if match is None or _BESIDE.fullmatch(name.rpartition("/")[2]):
            return await self._no_manifest(bucket, name)
        stored = await self._objects.stat(bucket, name)
        if stored is None:
            log.warning("ignored %s/%s: deleted before it was read", bucket, name)
            return None
        folder = match["client"]
        try:
            read = await self._read(stored, folder)
        except ManifestRejected as error:
            return await self._reject(stored, folder, error.problems)
        if read is None:
            log.warning("ignored %s/%s: deleted before it was read", bucket, name)
            return None
        stored, found = read
        if found.is_retry:
            return await self._try_again(stored, folder, found)
        batch = await self._store.create_batch(self._new_batch(stored, found))
        if batch.manifest.sha256 != found.sha256:
            problem = Problem(
                "was used for other content before", field="batchId", value=found.batch_id, allowed="a new batchId"
            )
            return await self._reject(stored, folder, (problem,))
        now_there = await self._carry_on(batch, found)
        if batch.manifest.uri != self._objects.uri(stored.bucket, stored.name) or (
            batch.manifest.generation != stored.generation
        ):
            await self._tell_again(now_there)
        return now_there

    async def _no_manifest(self, bucket: str, name: str) -> Batch | None:
        """Reject a file that looks like a manifest of an unknown kind; ignore files that may lie beside manifests.

        A client that uploads something unreadable would otherwise never hear of it.
        """
        match = _OTHER.fullmatch(name)
        if match is None or _BESIDE.fullmatch(match["name"]):
            log.info("ignored %s/%s: no manifest in a client's folder", bucket, name)
            return None
        stored = await self._objects.stat(bucket, name)
        if stored is None:
            return None
        return await self._reject(stored, match["client"], (reader.wrong_name(match["name"]),))

    async def _try_again(self, stored: StoredObject, folder: str, found: Manifest) -> Batch:
        """Retry a round's failed images from its failed.csv; see `lifecycle.retries`.

        If nothing has failed, the batch's events are published again instead.
        """
        drop = hashlib.sha256(f"{stored.bucket}/{stored.name} {stored.generation}".encode()).hexdigest()[:16]
        try:
            batch = await self._retries.take(drop, found)
        except ManifestRejected as error:
            return await self._reject(stored, folder, error.problems)
        if drop not in batch.retried:
            await self._tell_again(batch)
        return batch

    async def _tell_again(self, batch: Batch) -> None:
        """Publish the events of a known batch again, under their old ids, so that no receiver counts them twice."""
        if batch.state is BatchState.INGESTING:
            return  # they are published when ingest has finished
        await self._announce_acceptance(batch)
        if batch.state is BatchState.CLOSED and batch.completion is not None:
            await self._closer.announce(batch, again=True)

    async def _read(self, stored: StoredObject, folder: str) -> tuple[StoredObject, Manifest] | None:
        """Read and check the manifest; None if it was deleted. Raises `ManifestRejected`.

        Returns the object that was actually read, which may have replaced the one in the event.
        """
        limit = self._settings.manifest.max_bytes
        try:
            got = await self._objects.get(stored.bucket, stored.name, limit)
        except ObjectTooLarge:
            problem = Problem(f"is larger than {limit} bytes", allowed=f"at most {limit} bytes")
            raise ManifestRejected([problem]) from None
        except ObjectDamaged as error:
            raise ManifestRejected([Problem(str(error), allowed="gzip that can be unpacked, or none")]) from None
        if got is None:
            return None
        stored, content = got  # describes the content that was read, in case the object was replaced since
        found = reader.read(io.BytesIO(content), stored.name, self._settings.manifest, self._rules_of(stored))
        if self._folder_is_client and found.client != folder:
            raise ManifestRejected([_wrong_folder(folder, found)])
        return stored, found

    def _ref(self, stored: StoredObject, sha256: str) -> ManifestRef:
        uri = self._objects.uri(stored.bucket, stored.name)
        return ManifestRef(uri=uri, generation=stored.generation, sha256=sha256, base=self._rules_of(stored).base)

    def _new_batch(self, stored: StoredObject, found: Manifest) -> Batch:
        return Batch(
            id=found.batch,
            client=found.client,
            manifest=self._ref(stored, found.sha256),
            total=len(found.images),
            shards=shards_for(len(found.images)),
            created_at=self._clock.now(),
            separator=found.separator,
            **{name: getattr(found, name) for name in OF_BATCH},
        )

    async def _carry_on(self, batch: Batch, found: Manifest) -> Batch:
        """Take in what is left of the manifest, then close the batch if nothing of it is open. Return the batch."""
        if batch.state is BatchState.INGESTING:
            await self._store.create_tallies(decisions.batch.empty_tallies(batch))
            stop_at = self._clock.monotonic() + self._settings.manifest.ingest_seconds
            for start in range(batch.tasks_published, batch.total, CHUNK):
                if self._clock.monotonic() > stop_at:
                    raise OutOfTime(f"{batch.id}: {start} of {batch.total} images taken in")
                await self._take_in(batch, found, start)
            opened = await self._open(batch)
            with bound(batch=batch.id, client=batch.client, tier=batch.tier.value):
                tell(log, LogEvent.BATCH_ACCEPTED, images=batch.total)
            batch = opened if isinstance(opened, Batch) else batch
            await self._scaling.wake()
        await self._closer.check(batch.id)  # raises while another closer works on it: the event is redelivered
        return await self._store.batch(batch.id) or batch

    async def _take_in(self, batch: Batch, found: Manifest, start: int) -> None:
        """Create and publish one chunk of images, then record the place."""
        images = [self._image(batch, found, i) for i in range(start, min(start + CHUNK, batch.total))]
        await self._store.create_images(images)
        tasks = [task_message(image, batch.control_epoch) for image in images]
        await self._queue.publish(topic_of(batch.tier), tasks)
        for image in images:  # where an image's trace begins
            with bound(batch=batch.id, image=image.index, client=batch.client, round=image.round):
                tell(log, LogEvent.IMAGE_QUEUED, tier=image.tier.value)
        note = partial(decisions.batch.note_taken_in, place=start + len(images))
        await self._store.change_batch(batch.id, note, self._clock.token())

    def _image(self, batch: Batch, found: Manifest, index: int) -> Image:
        wanted = found.images[index]
        return Image(
            batch=batch.id,
            index=index,
            source=wanted.source,
            room_type=wanted.room_type,
            design_style=wanted.design_style,
            tier=batch.tier,
            shard=index % batch.shards,
            property_code=wanted.property_code,
            created_at=batch.created_at,
            moved_at=batch.created_at,
        )

    async def _open(self, batch: Batch) -> Batch | Refusal:
        """Announce acceptance, then open the batch.

        A crash in between repeats the announcement under the same id.
        """
        await self._announce_acceptance(batch)
        return await self._store.change_batch(
            batch.id, lambda known: decisions.batch.apply(known, BatchMove.OPEN), self._clock.token()
        )

    async def _announce_acceptance(self, batch: Batch) -> None:
        data = BatchAccepted(
            batch_id=batch.id,
            client=batch.client,
            total=batch.total,
            tier=batch.tier.value,
            manifest=batch.manifest.uri,
        )
        event = batch_event(batch, f"{batch.id}/accepted", batch.created_at, data)
        await self._queue.publish(EVENTS_TOPIC, [event.message()])

    async def _reject(self, stored: StoredObject, folder: str, problems: tuple[Problem, ...]) -> Batch:
        """Write the problems beside the results, announce them, and remember them.

        Repeating this changes nothing.
        """
        name = names.errors_name(stored.name)
        listed = [dict(msgspec.to_builtins(problem)) for problem in problems]
        bucket = self._settings.buckets.results
        await self._objects.put(bucket, name, report.rejection(stored.name, listed), content_type="application/json")
        client = client_slug(folder) or "unknown"
        identity = rejected_id(client, stored.name, stored.generation)
        batch = await self._store.create_batch(
            Batch(
                id=identity,
                client=client,
                client_name=folder,
                tier=Tier.NORMAL,
                manifest=self._ref(stored, ""),
                total=0,
                shards=0,
                state=BatchState.REJECTED,
                created_at=self._clock.now(),
                problems=len(problems),
            )
        )
        data = BatchRejected(
            batch_id=identity,
            client=client,
            manifest=self._objects.uri(stored.bucket, stored.name),
            problems=len(problems),
            first_problems=tuple(sentence for sentence, _ in in_words(problems)[:10]),
            errors=self._objects.uri(bucket, name),
        )
        event = batch_event(batch, f"{identity}/rejected", batch.created_at, data)
        await self._queue.publish(EVENTS_TOPIC, [event.message()])
        with bound(batch=identity, client=client):
            tell(log, LogEvent.BATCH_REJECTED, level=logging.WARNING, problems=len(problems))
        return batch


def _wrong_folder(folder: str, found: Manifest) -> Problem:
    """Return the problem of a manifest in the wrong folder, naming the right one."""
    reason = f"does not belong in the folder manifests/{folder}/: this client's folder is manifests/{found.client}/"
    named = client_slug(folder)
    allowed = f"the folder manifests/{found.client}/"
    if named != found.client:
        allowed += f", or clientName {named}" if named else ""
    return Problem(reason, field="clientName", value=found.client_name, allowed=allowed)
