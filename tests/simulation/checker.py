"""Judges a run by what can be seen from outside: documents, objects, published events, the vendor's own log.

It imports no room and no decision: what is allowed is written down here a second time, from the promises.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shared.adapters.embedded.objects import EmbeddedObjects
from shared.adapters.embedded.store import EmbeddedStore
from shared.decisions.quota import Ledger
from shared.messages import Letter, Task, decode, is_letter
from shared.model import Batch, BatchState, Control, Counts, Image, ImageState, Tally, Worker
from shared.ports import Delivery, Message, StoredObject
from shared.topology import EVENTS_TOPIC
from tests.clocks import EPOCH
from tests.simulation.faults import HAND, LATE_SECONDS, PROCESS, Clock, Faults, Hand, Key, Process
from tests.simulation.hosts import Hosts
from tests.simulation.purchases import Purchases
from tests.simulation.tasks import Tasks
from tests.simulation.vendor import Vendor, Witness
from tests.simulation.waiting import Waiting

SETTLED: Final = frozenset({ImageState.COMPLETED, ImageState.FAILED, ImageState.CANCELLED})
BATCH_WAYS: Final = {
    BatchState.INGESTING: {BatchState.PROCESSING},
    BatchState.PROCESSING: {BatchState.CLOSING, BatchState.REOPENING},
    BatchState.CLOSING: {BatchState.CLOSED},
    BatchState.CLOSED: {BatchState.REOPENING},
    BatchState.REOPENING: {BatchState.PROCESSING},
}


# A worker is taken for dead this long after its last heartbeat, and a claim for stuck at this age, on one clock.
DEAD_SECONDS: Final = 13.0
STUCK_SECONDS: Final = 1800.0
CACHED_SECONDS: Final = 5.0  # workers know a batch's control from a look so long ago at most
CONTROL_EVENTS: Final = frozenset({"ruum.batch.paused", "ruum.batch.cancelled"})
KEPT_BEATS: Final = 30  # of each worker: more than come within that time
OURS: Final = "configuration"  # the error code of what is our own fault


class Checker:
    """Sees every write as it happens (`Tap`), and judges what is left at the end. The world began at `epoch`."""

    def __init__(self, faults: Faults, vendor: Vendor, epoch: float = EPOCH) -> None:
        self._faults = faults
        self._epoch = epoch
        # Of each worker the last heartbeats: when it was written, what time it names, whether it is the goodbye.
        self._beats: dict[str, deque[tuple[float, float, bool]]] = {}
        self._vendor = vendor
        self.violations: list[str] = []
        self.images: dict[Key, Image] = {}
        self.states: dict[tuple[str, int], dict[int, ImageState]] = {}
        self.batches: dict[str, Batch] = {}
        # Of each tally the last write's token, its counts, and how many entries it had.
        self.tallies: dict[tuple[str, int], tuple[str, Counts, int]] = {}
        self.fences: dict[str, int] = {}  # of public pictures
        self.sha256: dict[str, str] = {}  # of results
        self.completions: dict[str, tuple[bytes, str]] = {}
        self.malformed: set[str] = set()  # uris of the manifests that nothing may come of
        self.rejections: dict[str, dict[str, tuple[bytes, str]]] = {}  # by manifest, by event id
        self.closed: dict[str, asyncio.Event] = {}  # set when a batch closes, for those who wait for it
        self._stopped: dict[str, float] = {}  # when a batch was last seen paused or cancelling
        self.purchases = Purchases(faults, self.blame, self.images, self._seemed_dead, self._stopped_since, epoch)
        self.waiting = Waiting(faults, self.blame, self._stopped_since)
        self.tasks = Tasks(faults, self.blame, self.images, self.batches, self._stopped_since, epoch)
        self.hosts = Hosts(faults, (), self.blame)
        self.server: Clock | None = None  # the backend's clock, which leases are by
        self.living: Callable[[str], Process | None] = lambda name: None
        vendor.witness = Witnesses(self.purchases, self.waiting)

    def blame(self, text: str) -> None:
        self.violations.append(f"{self._faults.loop.time():.3f}: {text}")
        self._faults.write("CHECKER", text)

    # --- as it happens

    def image(self, now: Image) -> None:
        key = (now.batch, now.index)
        before = self.images.get(key)
        self.images[key] = now
        self.states.setdefault(key, {})[now.revision] = now.state
        if before is None or now == before:
            return
        if now.revision != before.revision + 1:
            self.blame(f"{key}: revision {before.revision} -> {now.revision}")
        if now.fence < before.fence or now.round < before.round:
            self.blame(f"{key}: fence {before.fence} -> {now.fence}, round {before.round} -> {now.round}")
        replayed = before.state is ImageState.FAILED and now.state is ImageState.QUEUED
        if before.state in SETTLED and not (replayed and now.round == before.round + 1):
            self.blame(f"{key}: settled {before.state} became {now.state}, round {before.round} -> {now.round}")
        if now.round > before.round and not replayed:
            self.blame(f"{key}: round {before.round} -> {now.round} without a replay")
        if now.attempts > before.attempts and now.error is None:
            self.blame(f"{key}: an attempt was spent without an error")
        failed = now.state is ImageState.FAILED and before.state is not ImageState.FAILED
        hand = HAND.get()
        ours = (hand is not None and hand.our_fault) or (now.error is not None and now.error.code == OURS)
        if ours and (failed or now.attempts > before.attempts):
            self.blame(f"{key}: our configuration's fault: attempts {before.attempts} -> {now.attempts}, {now.state}")
        if before.state is ImageState.PROCESSING and now.fence > before.fence:
            self._taken_from_the_dead(before, now)
        if now.state is ImageState.PROCESSING and before.state is ImageState.QUEUED and now.fence <= before.fence:
            self.blame(f"{key}: claimed without a new fence")
        if hand is not None and hand.key == key:
            self._by_hand(hand, before, now)
        self.purchases.image(before, now)
        self.tasks.image(before, now)

    def _by_hand(self, hand: Hand, before: Image, now: Image) -> None:
        """A worker wrote its image."""
        if now.state is ImageState.PROCESSING and now.fence > before.fence:
            hand.fence = now.fence
            if hand.round != now.round:
                self.blame(f"{hand.key}: claimed in round {now.round} with a task of round {hand.round}")
        elif hand.fence is not None and hand.fence != before.fence:
            self.blame(f"{hand.key}: {now.state} by a stale hand: its claim's fence {hand.fence}, now {before.fence}")
        if now.attempts > before.attempts:
            hand.spent = True
            self.waiting.spent(hand, now)
            self.hosts.spent(hand, now)

    def ledger(self, before: Ledger | None, now: Ledger) -> None:
        """A quota's document was written, a vendor model's or a photo host's."""
        self.waiting.ledger(before, now)
        if self.server is not None:
            self.hosts.ledger(before, now, self.server.now(), self.living)

    def put_down(self, hand: Hand, action: str, delivery: Delivery) -> None:
        """A worker has answered a delivery."""
        if not hand.process.dead:
            self.purchases.put_down(hand)
            self.tasks.put_down(hand, action)
            self.hosts.put_down(hand, action, delivery, self.images.get(hand.key))

    def _stopped_since(self, batch: str, since: float) -> bool:
        """Whether whoever began then may have found that the batch is not to run."""
        stops = self.batches[batch].control is not Control.RUN
        return stops or self._stopped.get(batch, -math.inf) >= since - CACHED_SECONDS - LATE_SECONDS

    def taken_over(self) -> None:
        """The only process there is has begun: it knows that all others are dead, however lately they were heard of."""
        self._beats.clear()

    def beat(self, worker: Worker) -> None:
        beat = (self._faults.loop.time(), worker.at - self._epoch, worker.stopped)
        self._beats.setdefault(worker.id, deque(maxlen=KEPT_BEATS)).append(beat)

    def _taken_from_the_dead(self, before: Image, now: Image) -> None:
        """Nobody's claim is taken away while he lives by the taker's own clock, but his who is stuck."""
        held, process, at = before.claim, PROCESS.get(), self._faults.loop.time()
        if held is None or (process is not None and held.worker.startswith(f"worker-{process.name}-")):
            return  # a worker that finds what it left behind itself, because a reply was lost
        ahead = process.clock.fastest(at - LATE_SECONDS) if process is not None else 0.0
        stuck = self._epoch + at + ahead - held.at >= STUCK_SECONDS
        if not stuck and not self._seemed_dead(held.worker, at, ahead):
            _, beaten, _ = self._beats[held.worker][-1]
            who = f"{held.worker}, heard of {at - beaten:.1f} s ago, by a clock {ahead:+.1f} s off"
            self.blame(f"{(now.batch, now.index)}: taken from a living worker: {who}")

    def _seemed_dead(self, worker: str, at: float, ahead: float) -> bool:
        """Whether a clock so far ahead found it silent for too long, now or when whoever acts now may have looked."""
        beats = self._beats.get(worker, ())
        if not beats or beats[-1][2]:
            return True
        # What a heartbeat says is the newest there is until the next is written.
        until = [*(written for written, _, _ in beats), at][1:]
        return any(
            end + ahead - beaten >= DEAD_SECONDS
            for (_, beaten, _), end in zip(beats, until, strict=True)
            if end >= at - LATE_SECONDS
        )

    def tally(self, before: Tally, now: Tally) -> None:
        """Each write is judged by the one before, which must be the last that was judged.

        So no tally is kept whole: to compare with 250 entries that have long left the processor's cache was a tenth of
        all that a large batch costs. What the store itself keeps of them is judged at the end.
        """
        key = (now.batch, now.shard)
        size = self.batches[now.batch].total // self.batches[now.batch].shards
        size += now.shard < self.batches[now.batch].total % self.batches[now.batch].shards
        last = self.tallies.get(key, ("", Counts(queued=size), 0))
        if (before.token, before.counts, len(before.entries)) != last:
            self.blame(f"tally {key}: written over {before.token!r}, {before.counts}, where {last} was")
        self.tallies[key] = (now.token, now.counts, len(now.entries))
        # What was carried over is the same object; an equal one is merely looked at once more.
        changed = {index: entry for index, entry in now.entries.items() if before.entries.get(index) is not entry}
        counts = Counter({state: before.counts.of(state) for state in ImageState})
        for index, (revision, state) in changed.items():
            known_revision, known_state = before.entries.get(index, (0, ImageState.QUEUED))
            counts[known_state] -= 1
            counts[state] += 1
            if revision < known_revision:
                self.blame(f"tally {key}: image {index} went back to revision {revision}")
            if self.states.get((now.batch, index), {}).get(revision) is not state:
                self.blame(f"tally {key}: image {index} was never {state} at revision {revision}")
        if not before.entries.keys() <= now.entries.keys():
            self.blame(f"tally {key}: images {sorted(before.entries.keys() - now.entries.keys())} were forgotten")
        if any(now.counts.of(state) != counts[state] for state in ImageState) or len(now.entries) > size:
            self.blame(f"tally {key}: {now.counts} of {size}, where its entries make {dict(counts)}")

    def batch(self, now: Batch) -> None:
        before = self.batches.get(now.id)
        self.batches[now.id] = now
        if before is not None and before.control is not Control.RUN:
            self._stopped[now.id] = self._faults.loop.time()
        if before is None or now == before:
            return
        self.tasks.batch(before, now)
        self._leases_respected(before, now)
        if now.revision != before.revision + 1 or now.round < before.round or now.announced_round > now.round:
            self.blame(f"{now.id}: revision {before.revision} -> {now.revision}, round {before.round} -> {now.round}")
        if now.state is not before.state and now.state not in BATCH_WAYS.get(before.state, ()):
            self.blame(f"{now.id}: {before.state} -> {now.state}")
        if now.round > before.round and now.state is not BatchState.REOPENING:
            self.blame(f"{now.id}: a new round without a replay")
        if now.state is BatchState.CLOSED and before.state is not BatchState.CLOSED:
            self._all_settled(now.id, "closed")
            if now.id in self.closed:
                self.closed[now.id].set()

    def _leases_respected(self, before: Batch, now: Batch) -> None:
        """Neither a closing nor a replay is taken from who has the lease of it."""
        process, at = PROCESS.get(), self._faults.loop.time()
        ahead = process.clock.fastest(at - LATE_SECONDS) if process is not None else 0.0
        leases = [(before.closer, now.closer)]
        if before.replay is not None and now.replay is not None:
            leases.append((before.replay.lease, now.replay.lease))
        for held, taken in leases:
            if held is not None and taken is not None and held.holder != taken.holder:
                left = held.until - (self._epoch + at + ahead)
                if left > 0:
                    self.blame(f"{now.id}: {now.state}, its lease taken from {held.holder} {left:.1f} s too early")

    def _all_settled(self, batch_id: str, what: str) -> Counter[ImageState]:
        found = Counter(image.state for (batch, _), image in self.images.items() if batch == batch_id)
        open_count = sum(count for state, count in found.items() if state not in SETTLED)
        if open_count or sum(found.values()) != self.batches[batch_id].total:
            self.blame(f"{batch_id}: {what} with {open_count} images open of {dict(found)}")
        return found

    def published(self, topic: str, messages: Sequence[Message]) -> None:
        self.tasks.published(topic, messages)
        for message in messages if topic == EVENTS_TOPIC else ():
            if message.attributes["ce-type"] == "ruum.batch.completed":
                self._completed(message)
            elif message.attributes["ce-type"] == "ruum.batch.rejected":
                self._rejected(message)
            elif message.attributes["ce-type"] in CONTROL_EVENTS:
                self.tasks.told(message.attributes["ce-id"])

    def _completed(self, message: Message) -> None:
        identity = message.attributes["ce-id"]
        payload = (message.data, message.attributes["ce-time"])
        if self.completions.setdefault(identity, payload) != payload:
            self.blame(f"{identity}: announced with another payload")
        data = json.loads(message.data)
        for name, file in data["reports"].items():
            if self.sha256.get(file["uri"].removeprefix("memory://")) != file["sha256"]:
                self.blame(f"{identity}: report {name} is not what was announced")
        batch = self.batches[data["batchId"]]
        if identity != f"{batch.id}/{data['round']}":
            self.blame(f"{identity}: names round {data['round']}")
        if data["round"] != batch.round:
            return  # repeated by one who was slow: consumers drop it by its id, which was compared above
        if batch.state not in (BatchState.CLOSED, BatchState.REOPENING):
            self.blame(f"{identity}: announced while {batch.state}")
        found = self._all_settled(batch.id, f"announced as {identity}")
        if any(found[state] != data["counts"][state.value] for state in ImageState):
            self.blame(f"{identity}: announced {data['counts']}, there are {dict(found)}")

    def _rejected(self, message: Message) -> None:
        told = self.rejections.setdefault(json.loads(message.data)["manifest"], {})
        identity, payload = message.attributes["ce-id"], (message.data, message.attributes["ce-time"])
        if told.setdefault(identity, payload) != payload:
            self.blame(f"{identity}: rejected with another payload")

    def stored(self, now: StoredObject, data: bytes) -> None:
        self.purchases.stored(now, data)
        self.sha256[f"{now.bucket}/{now.name}"] = hashlib.sha256(data).hexdigest()
        if now.bucket == "results" and "/images/" in now.name:
            fence = int(now.metadata["fence"])
            if fence < self.fences.get(now.name, 0):
                self.blame(f"{now.name}: fence {self.fences[now.name]} was overwritten by {fence}")
            self.fences[now.name] = fence

    # --- at the end

    async def finally_right(
        self, store: EmbeddedStore, objects: EmbeddedObjects, letters: list[tuple[bytes, dict[str, str]]]
    ) -> None:
        """Everything closed, announced, counted; every picture the one its image names; nothing bought in vain."""
        await self._rejections_right(objects)
        for known in self.batches.values():
            if known.state is BatchState.REJECTED and known.manifest.uri in self.malformed:
                continue
            batch = await store.batch(known.id)
            assert batch is not None
            if batch.state is not BatchState.CLOSED or batch.announced_round != batch.round:
                self.blame(f"{batch.id}: left {batch.state}, round {batch.round}, announced {batch.announced_round}")
                continue
            for done in range(1, batch.round + 1):
                if f"{batch.id}/{done}" not in self.completions:
                    self.blame(f"{batch.id}: round {done} was never announced")
            found = self._all_settled(batch.id, "left closed")
            counts = await store.counts(batch.id)
            if any(counts.of(state) != found[state] for state in ImageState):
                self.blame(f"{batch.id}: tallies {counts}, images {dict(found)}")
            await self._entries_right(batch, store)
            async for image in store.images(batch.id):
                await self._output_right(image, objects)
        for identity, (data, _) in self.completions.items():
            await self._reports_right(identity, json.loads(data), objects)
        self._letters_right(letters)
        self.tasks.finally_right()
        self.purchases.finally_right(lambda batch: self.batches[batch].cache)
        if self._vendor.throttled:
            self.blame(f"{self._vendor.throttled} calls above the vendor's limit")

    async def _entries_right(self, batch: Batch, store: EmbeddedStore) -> None:
        """Every image has its one entry, in its own shard, with the state it ended in."""
        for shard in range(batch.shards):
            tally = await store.tally(batch.id, shard)
            said = {index: state for index, (_, state) in tally.entries.items()} if tally is not None else {}
            ended = {index: self.images[batch.id, index].state for index in range(shard, batch.total, batch.shards)}
            if said != ended:
                wrong = sorted(index for index in said.keys() | ended.keys() if said.get(index) != ended.get(index))
                self.blame(f"tally {(batch.id, shard)}: images {wrong} ended otherwise than it says")

    async def _reports_right(self, identity: str, told: dict[str, Any], objects: EmbeddedObjects) -> None:
        """The reports are still those that were announced, and there is a line for each image of the batch."""
        for name, file in told["reports"].items():
            bucket, _, path = file["uri"].removeprefix("memory://").partition("/")
            got = await objects.get(bucket, path)
            if got is None or hashlib.sha256(got[1]).hexdigest() != file["sha256"]:
                self.blame(f"{identity}: report {name} is no longer what was announced")
            elif name == "results.jsonl":
                lines = [json.loads(line) for line in got[1].splitlines()]
                states = Counter(line["state"] for line in lines)
                if [line["index"] for line in lines] != [*range(told["total"])] or +Counter(told["counts"]) != states:
                    self.blame(f"{identity}: {len(lines)} lines, {dict(states)}, where {told['counts']} was announced")
        if "results.jsonl" not in told["reports"]:
            self.blame(f"{identity}: announced without results")

    async def _rejections_right(self, objects: EmbeddedObjects) -> None:
        """What is malformed is refused once, says why, and is no batch; nothing else is refused."""
        for uri in self.rejections.keys() - self.malformed:
            self.blame(f"{uri}: rejected, and nothing is wrong with it")
        for uri in sorted(self.malformed):
            made = [batch for batch in self.batches.values() if batch.manifest.uri == uri]
            told = list(self.rejections.get(uri, ()))
            if [(batch.state, batch.total) for batch in made] != [(BatchState.REJECTED, 0)]:
                self.blame(f"{uri}: became {[(batch.id, batch.state, batch.total) for batch in made]}")
            elif told != [f"{made[0].id}/rejected"] or any(batch == made[0].id for batch, _ in self.images):
                self.blame(f"{uri}: told as {told} of {made[0].id}")
            name = uri.partition("/intake/")[2] + ".errors.json"
            got = await objects.get("results", name)
            problems = json.loads(got[1])["problems"] if got else []
            if not problems or not all(problem["reason"] for problem in problems):
                self.blame(f"{uri}: rejected for no reason: {problems}")

    async def _output_right(self, image: Image, objects: EmbeddedObjects) -> None:
        key = f"{image.batch}/{image.index}"
        if image.error is not None and image.error.code == OURS:
            self.blame(f"{key}: {image.state}, and what is left is a fault of our configuration")
        # A cancelled image may keep what its last attempt ran into.
        wrong = {ImageState.COMPLETED: image.error is not None, ImageState.FAILED: image.error is None}
        if image.claim is not None or image.settled_at is None or wrong.get(image.state, False):
            self.blame(f"{key}: settled {image.state} with claim {image.claim}, error {image.error}")
        if image.state is not ImageState.COMPLETED:
            return
        assert image.output is not None
        got = await objects.get("results", image.output.picture)
        if got is None or hashlib.sha256(got[1]).hexdigest() != image.output.sha256:
            self.blame(f"{key}: its picture is not the one it names")
        elif int(got[0].metadata["fence"]) != image.fence:
            self.blame(f"{key}: picture of fence {got[0].metadata['fence']}, image of {image.fence}")

    def _letters_right(self, letters: list[tuple[bytes, dict[str, str]]]) -> None:
        told: set[tuple[str, int, int]] = set()
        for data, attributes in letters:
            task = task_of(data, attributes)
            if task is not None:
                told.add((task.batch, task.index, task.round))
        for (batch, index), image in self.images.items():
            if image.state is ImageState.FAILED and (batch, index, image.round) not in told:
                self.blame(f"{batch}/{index}: failed, and no letter says so")


def task_of(data: bytes, attributes: Mapping[str, str]) -> Task | None:
    """The task behind a letter."""
    return decode(Letter, data).task if is_letter(attributes) else decode(Task, data)


class Witnesses(Witness):
    """Each judge hears what is his."""

    def __init__(self, purchases: Purchases, waiting: Waiting) -> None:
        self.asked, self.answered, self.judged = purchases.asked, purchases.answered, purchases.judged
        self.begun, self.ended, self.heard, self.failed = waiting.begun, waiting.ended, waiting.heard, waiting.failed
