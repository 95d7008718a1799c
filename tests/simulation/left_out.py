"""The product's rules, each left out or broken on purpose: what `mutations.py` tries one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import msgspec

from shared import decisions
from shared.decisions.quota import Circuit
from shared.errors import ErrorCode, HostBusy, Throttled, WorkStopped, WorldError
from shared.lifecycle import closing, reconcile, replay
from shared.lifecycle import commands as operator
from shared.model import Batch, BatchMove, BatchState, Checkpoint, Control, ImageState, Refusal
from shared.results import names, report
from shared.rooms import ingest, stage_image
from shared.worker import cache, disposition, hosts, quota, slots, subscriber
from shared.worker import claimed_image as claimed
from tests.simulation import checker
from tests.simulation.faults import PROCESS

Patch = tuple[Any, str, Any]  # of whom, which attribute, what it is instead

_begin, _claim, _check, _close = (
    decisions.batch.begin_replay,
    decisions.image.claim,
    closing.Closer.check,
    decisions.batch.close,
)
_release, _requeue, _give_up = decisions.image.release, decisions.image.requeue, decisions.image.give_up
_ask, _leads = cache.ask, cache.leads
_buy = claimed.ClaimedImage.buy


def _fold_anything(tally: Any, *, index: int, revision: int, state: ImageState) -> Any:
    _, known_state = tally.entries.get(index, (0, ImageState.QUEUED))
    entries = {**tally.entries, index: (revision, state)}
    return msgspec.structs.replace(tally, counts=tally.counts.moved(known_state, state), entries=entries)


def _claim_any_round(image: Any, *, task_round: int, **more: Any) -> Any:
    return _claim(image, task_round=image.round, **more)


def _begin_unannounced(batch: Any, **more: Any) -> Any:
    return _begin(msgspec.structs.replace(batch, announced_round=batch.round), **more)


def _begin_closing_anyhow(batch: Any, *, seen_revision: int, lease: Any, now: float) -> Any:
    return decisions.batch.apply(batch, BatchMove.BEGIN_CLOSING, closer=lease, closing_at=now)


def _begin_without_a_state(batch: Any, *, seen_revision: int, lease: Any, now: float) -> Any:
    if batch.revision != seen_revision or batch.state is not BatchState.PROCESSING:
        return Refusal.STALE_REVISION
    if batch.closer and batch.closer.until > now:
        return Refusal.BUSY
    return msgspec.structs.replace(batch, closer=lease, closing_at=now, revision=batch.revision + 1)


def _close_from_processing(batch: Any, *, holder: str, completion: Any, now: float) -> Any:
    if batch.state is BatchState.PROCESSING:
        batch = msgspec.structs.replace(batch, state=BatchState.CLOSING)
    return _close(batch, holder=holder, completion=completion, now=now)


_WAYS_WITHOUT_CLOSING: Final = {
    **checker.BATCH_WAYS,
    BatchState.PROCESSING: {BatchState.CLOSED, BatchState.REOPENING},
}


async def _put_always(objects: Any, bucket: str, name: str, data: bytes, *, content_type: str, fence: int) -> Any:
    return await objects.put(bucket, name, data, content_type=content_type, metadata={"fence": str(fence)})


async def _check_closed_is_done(self: Any, batch_id: str) -> None:
    batch = await self._store.batch(batch_id)
    if batch is not None and batch.state is not BatchState.CLOSED:
        await _check(self, batch_id)


async def _sum_first(self: Any, batch_id: str) -> None:
    """`Closer.check` with the sum taken before the batch is read."""
    open_count, shards = await self._store.open_images(batch_id)
    batch = await self._store.batch(batch_id)
    if batch is None or batch.state is not BatchState.PROCESSING:
        await _check(self, batch_id)
    elif not open_count and shards == batch.shards:
        taken = await self._take(batch)
        if isinstance(taken, Batch):
            await self._finish(taken)


async def _no_check(self: Any, batch_id: str) -> None:
    """Replay begins without looking."""


async def _no_fold(store: Any, image: Any, clock: Any) -> Refusal:
    return Refusal.UNCHANGED


def _release_and_spend(image: Any, *, error: Any = None, spend_attempt: bool = False, **more: Any) -> Any:
    ours = error is not None and error.code == ErrorCode.CONFIGURATION
    return _release(image, error=error, spend_attempt=spend_attempt or ours, **more)


# --- promise 4: waiting is never failing

_probe, _heard = decisions.quota._probe, decisions.quota.heard
_disposition = disposition.Disposition


async def _buy_or_nack(self: Any, step: Any, call: Any) -> Any:
    async def refused() -> Any:
        try:
            return await call()
        except Throttled as error:
            raise WorkStopped from error

    return await _buy(self, step, refused)


async def _buy_or_fail(self: Any, step: Any, call: Any) -> Any:
    async def refused() -> Any:
        try:
            return await call()
        except Throttled as error:
            raise WorldError(ErrorCode.VENDOR_BAD_ANSWER, "429") from error

    return await _buy(self, step, refused)


def _probe_for_everybody(known: Any, queues: Any, limit: Any, now: float) -> Any:
    if known.circuit is Circuit.HALF_OPEN:
        known = msgspec.structs.replace(known, probe_until=now)
    return _probe(known, queues, limit, now)


def _heard_of_what_was_not_made(known: Any, ask: Any, now: float) -> Any:
    return _heard(known, msgspec.structs.replace(ask, probe_succeeded=ask.probe_succeeded or ask.probe_unused), now)


_failed, _refused, _photo, _key_of = decisions.quota.failed, hosts.refused, claimed.ClaimedImage.photo, hosts.key_of
_told, _after_wait = hosts.Hosts._refused, subscriber.Subscriber._after_wait


def _heard_without_answers(known: Any, ask: Any, now: float) -> Any:
    return msgspec.structs.replace(_heard(known, ask, now), answered_at=known.answered_at)


def _failed_without_answers(known: Any, grant: Any, now: float, **more: Any) -> Any:
    return msgspec.structs.replace(_failed(known, grant, now, **more), answered_at=known.answered_at)


def _heard_only_now(known: Any, ask: Any, now: float) -> Any:
    return _heard(known, msgspec.structs.replace(ask, answered_seconds_ago=0.0), now)


async def _photo_or_fail(self: Any) -> Any:
    try:
        return await _photo(self)
    except HostBusy as error:
        raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, "429") from error


@asynccontextmanager
async def _wait_inside(self: Any) -> AsyncIterator[None]:
    yield


async def _wait_without_a_lease(self: Any, disposition: Any, subscription: str, delivery: Any) -> Any:
    self._kept[subscription].discard(delivery.ack_id)
    return await _after_wait(self, disposition, subscription, delivery)


def _refused_without_a_wait(known: Any, *more: Any) -> Any:
    return msgspec.structs.replace(_refused(known, *more), not_before=known.not_before)


def _key_of_ones_own(host: str) -> str:
    process = PROCESS.get()
    return f"{_key_of(host)} {process.name if process else ''}"


async def _tell_or_fail(self: Any, host: str, grant: Any, busy: Any) -> bool:
    if not await _told(self, host, grant, busy):
        raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, "not noted")
    return True


# --- promise 6: paid work is kept


async def _no_picture(self: Any) -> None:
    """`ClaimedImage.kept_picture` that never finds one."""


def _release_without_checkpoint(image: Any, **more: Any) -> Any:
    released = _release(image, **more)
    return released if isinstance(released, Refusal) else msgspec.structs.replace(released, checkpoint=None)


async def _fill_nothing(self: Any, key: str, client: str, picture: bytes) -> None:
    """`Cache.fill` that keeps nothing."""


def _ask_without_lead(entry: Any, now: float, *, key: str, client: str, lead: Any, dead: Any) -> Any:
    if entry is not None and entry.picture is not None:
        return Refusal.UNCHANGED
    return cache.CacheEntry(key=key, client=client, led_by=str(lead))


def _ask_of_whatever_fence(entry: Any, now: float, *, lead: Any, **more: Any) -> Any:
    led_by = entry.led_by if entry is not None else None
    mine = led_by is not None and cache.Lead.read(led_by).image == lead.image
    return _ask(msgspec.structs.replace(entry, led_by=None) if mine else entry, now, lead=lead, **more)


def _leads_while_its_worker_lives(image: Any, lead: Any, holder: Any, now: float) -> bool:
    touched = max(image.touched_at, holder.at if holder else 0.0)
    return _leads(msgspec.structs.replace(image, touched_at=touched), lead, holder, now)


async def _buy_and_drop(self: Any, step: Any, call: Any) -> Any:
    try:
        return await _buy(self, step, call)
    except WorldError:
        if step.name == "verify":
            self.checkpoint = msgspec.structs.replace(self.checkpoint, picture=None)
        raise


def _requeue_without_picture(image: Any, **more: Any) -> Any:
    requeued = _requeue(image, **more)
    if isinstance(requeued, Refusal) or requeued.checkpoint is None:
        return requeued
    return msgspec.structs.replace(requeued, checkpoint=Checkpoint(analysis=requeued.checkpoint.analysis))


async def _keep_in_mind(self: Any, checkpoint: Any, picture: Any) -> None:
    self.checkpoint = checkpoint


# --- promise 1, and what workers and operators must leave alone

_start_pulls, _stopped = subscriber.Subscriber._start_pulls, stage_image.StageImage._stopped
_begin_replay, _forgotten = decisions.batch.begin_replay, decisions.batch.forgotten_before


def _pull_on(self: Any) -> None:
    kept, self._halting = self._halting, set()
    until, self._halted_until = self._halted_until, 0.0
    _start_pulls(self)
    self._halting, self._halted_until = kept, until


async def _ack_whatever(self: Any, task: Any, deliveries: int) -> Any:
    batch = await self._tools.store.batch(task.batch)
    paused = batch is not None and batch.control is Control.PAUSED and batch.control_epoch >= task.epoch
    return disposition.ACK if paused else await _stopped(self, task, deliveries)


def _forgotten_by_old_looks(batch: Any, emptied: Any, now: float, rules: Any) -> Any:
    """`forgotten_before` that takes looks from before the batch was last published again."""
    if now - batch.republished_at >= rules.every_seconds:
        batch = msgspec.structs.replace(batch, republished_at=0.0)
    return _forgotten(batch, emptied, now, rules)


async def _publish_backlog(self: Any, batch: Any, unmarked: Any) -> int:
    return await self._operator.publish_queued(batch)


async def _say_nothing(store: Any, queue: Any, clock: Any, batch: Any) -> None:
    """`announce_control` that tells nobody."""


def _take_closer(batch: Any, *, lease: Any, now: float) -> Any:
    if batch.state is not BatchState.CLOSING:
        return Refusal.ILLEGAL
    return msgspec.structs.replace(batch, closer=lease, revision=batch.revision + 1)


def _begin_any_replay(batch: Any, *, now: float, **more: Any) -> Any:
    lease = batch.replay.lease if batch.replay is not None else None
    return _begin_replay(batch, now=max(now, lease.until) if lease is not None else now, **more)


def _give_up_quietly(image: Any, **more: Any) -> Any:
    refusal = _give_up(image, **more)
    return Refusal.SETTLED if refusal is Refusal.UNCHANGED else refusal


# --- no healthy image is blamed for a kill

_died_alone = decisions.image.died_alone


def _claim_as_if_alone(image: Any, **more: Any) -> Any:
    if image.claim is not None:
        image = msgspec.structs.replace(image, claim=msgspec.structs.replace(image.claim, alone=True, step="prepare"))
    return _claim(image, **more)


# --- promise 3: one completion a round

_files = report.RoundReport.files


def _files_without_results(self: Any) -> Iterator[tuple[str, bytes]]:
    for name, data in _files(self):
        yield name, b"" if name == "results.jsonl" else data


_numbers: Final = count()


MUTATIONS: Final[dict[str, list[Patch]]] = {
    "no fence": [(decisions.image, "_held", lambda image, fence: None)],
    "no object fence": [(claimed, "put_fenced", _put_always)],
    "no revision check in the fold": [(decisions.batch, "fold", _fold_anything)],
    "no round check in the claim": [(decisions.image, "claim", _claim_any_round)],
    "no repeated announcement": [(closing.Closer, "check", _check_closed_is_done)],
    "replay does not announce first": [
        (replay.Replay, "_checked", _no_check),
        (decisions.batch, "begin_replay", _begin_unannounced),
    ],
    "replay does not fold": [(replay, "fold_image", _no_fold)],
    "no `closing` state": [
        (decisions.batch, "begin_closing", _begin_without_a_state),
        (decisions.batch, "close", _close_from_processing),
        (checker, "BATCH_WAYS", _WAYS_WITHOUT_CLOSING),  # what comes of it counts, not that it looks otherwise
    ],
    "closing check sums before it reads": [(closing.Closer, "check", _sum_first)],
    "closing begins at any revision": [(decisions.batch, "begin_closing", _begin_closing_anyhow)],
    "HELD nacks": [(stage_image.StageImage, "_held", lambda self, deliveries: disposition.NACK)],
    "HELD acks": [(stage_image.StageImage, "_held", lambda self, deliveries: disposition.ACK)],
    "claims never die": [(decisions.image, "claim_is_alive", lambda image, holder, now: True)],
    "configuration spends an attempt": [(decisions.image, "release", _release_and_spend)],
    "rejections are told anew": [
        (ingest, "rejected_id", lambda client, name, generation: f"{client}.rejected~{next(_numbers)}")
    ],
    "a 429 nacks": [(claimed.ClaimedImage, "buy", _buy_or_nack)],
    "a 429 spends an attempt": [(claimed.ClaimedImage, "buy", _buy_or_fail)],
    "slots are not counted": [(decisions.quota, "slots_now", lambda limit, rate: None)],
    "the rolling minute is not kept": [(decisions.quota, "WINDOW_SECONDS", 30.0)],
    "a late call is made anyway": [(quota.ServerTime, "earliest", lambda self, at: float("inf"))],
    "an open circuit spends an attempt": [(decisions.quota, "is_of_outage", lambda known, grant: False)],
    "a failure waits for no verdict": [(quota, "VERDICT_SECONDS", 0.0)],
    "a lone failure spends an attempt": [(decisions.quota, "may_be_outage", lambda known, failed_at: False)],
    "answers are not noted": [
        (decisions.quota, "heard", _heard_without_answers),
        (decisions.quota, "failed", _failed_without_answers),
    ],
    "an answer counts from when it is told": [(decisions.quota, "heard", _heard_only_now)],
    "waiting for a host spends an attempt": [(claimed.ClaimedImage, "photo", _photo_or_fail)],
    "a refusal of a host that is not noted spends an attempt": [(hosts.Hosts, "_refused", _tell_or_fail)],
    "a parked image keeps its slot": [(slots.Slots, "outside", _wait_inside)],
    "a parked image is nacked": [
        (
            stage_image,
            "Disposition",
            lambda *given, wait=None, **more: disposition.NACK if wait else _disposition(*given, **more),
        )
    ],
    "a parked image's lease is not kept": [(subscriber.Subscriber, "_after_wait", _wait_without_a_lease)],
    "a host's wait is not kept": [
        (hosts, "refused", _refused_without_a_wait),
        (hosts.Hosts, "_leave_alone", lambda self, host, seconds: None),
    ],
    "a host's wait is kept by new turns only": [(hosts.Hosts, "_leave_alone", lambda self, host, seconds: None)],
    "a host's ledger is not shared": [(hosts, "key_of", _key_of_ones_own)],
    "a host's turn is not given back": [(hosts.Hosts, "forget", lambda self, image: None)],
    "a host's turn is kept for ever": [(hosts, "TURN_SECONDS", 1e6)],
    "everybody probes": [(decisions.quota, "_probe", _probe_for_everybody)],
    "a probe that was not made closes the circuit": [(decisions.quota, "heard", _heard_of_what_was_not_made)],
    "release without the fence": [
        (decisions.image, "release", lambda image, *, fence, **more: _release(image, fence=image.fence, **more))
    ],
    "round folder without the round": [(names, "round_folder", lambda batch: f"{names.results_folder(batch)}round/")],
    "results.jsonl is empty": [(report.RoundReport, "files", _files_without_results)],
    "the closer's lease is ignored": [(decisions.batch, "take_closer", _take_closer)],
    "the replay's lease is ignored": [(decisions.batch, "begin_replay", _begin_any_replay)],
    "a halt does not stop pulling": [(subscriber.Subscriber, "_start_pulls", _pull_on)],
    "one attempt only": [
        (decisions.image, "release", lambda image, **more: _release(image, **more | {"max_attempts": 1}))
    ],
    "a pause acks what is processing": [(stage_image.StageImage, "_stopped", _ack_whatever)],
    "reconcile publishes a healthy backlog": [(reconcile.Reconcile, "_publish_forgotten", _publish_backlog)],
    "reconcile publishes again by old looks": [(decisions.batch, "forgotten_before", _forgotten_by_old_looks)],
    "reconcile reads no further back than its last run": [(reconcile, "OVERLAP_SECONDS", 0.0)],
    "a pull in vain is an empty tier": [(subscriber, "PULLS_IN_VAIN", 1)],
    "DEAD LETTER drops what has attempts left": [(decisions.image, "give_up", _give_up_quietly)],
    "a pause or cancel is told to nobody": [
        (room, "announce_control", _say_nothing) for room in (closing, operator, reconcile)
    ],
    "one lone death blames": [(decisions.image, "is_to_blame", lambda trials: trials.deaths > 0)],
    "deaths in company blame": [(decisions.image, "claim", _claim_as_if_alone)],
    "lone deaths in whatever step blame": [
        (decisions.image, "died_alone", lambda known, step: _died_alone(known, "prepare")),
    ],
    "a young worker tries suspects, and kills blame": [(decisions.image, "TRIAL_AFTER_SECONDS", 0.0)],
    "checkpoint never used": [(claimed.ClaimedImage, "kept_picture", _no_picture)],
    "checkpoint never written": [(claimed.ClaimedImage, "keep", _keep_in_mind)],
    "release drops the checkpoint": [(decisions.image, "release", _release_without_checkpoint)],
    "cache never filled": [(cache.Cache, "fill", _fill_nothing)],
    "cache without a lead": [(cache, "ask", _ask_without_lead)],
    "a failed verify drops the picture": [(claimed.ClaimedImage, "buy", _buy_and_drop)],
    "a replay drops a good checkpoint": [(decisions.image, "requeue", _requeue_without_picture)],
    "a stale hand takes the lead back": [(cache, "ask", _ask_of_whatever_fence)],
    "a paid lead lasts while its worker lives": [(cache, "leads", _leads_while_its_worker_lives)],
    "a paid lead is no lead": [(cache, "PAID_LEAD_SECONDS", 0.0)],
    "claims are always dead": [(decisions.image, "claim_is_alive", lambda image, holder, now: False)],
}
