"""One worker: its room, subscriber, heartbeat and picture subprocesses. The door and `ruum-batch run` start it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from shared import decisions, ports
from shared.assembly import wiring
from shared.decisions.forecast import calls_by_model
from shared.decisions.quota import Ledger
from shared.errors import RuumError
from shared.model import Refusal, Tier, TierEmpty
from shared.ports import BatchStore, Clock
from shared.settings import Limit, Settings
from shared.staging.download import Downloader
from shared.staging.photo_source import PhotoSource
from shared.staging.pool import PicturePool
from shared.telemetry import LogEvent, tell
from shared.worker.heartbeat import Heartbeat
from shared.worker.quota import Quota
from shared.worker.subscriber import Subscriber

log = logging.getLogger(__name__)

EMPTY_SECONDS: Final = 60.0  # reconcile needs no more precision: it thinks in quarters of an hour
GOODBYE_SECONDS: Final = 1.0  # the platform soon kills a stopping worker, see functions/stage_image/main.py
HEALTH_SECONDS: Final = 60.0  # one line a minute distinguishes a living worker from a stuck one, at no cost


async def work(
    backend: ports.Backend,
    clock: Clock,
    settings: Settings,
    make_model: wiring.ModelMaker,
    stop: asyncio.Event,
    *,
    grace_seconds: float,
    folders: Sequence[Path] = (),
    on_halt: Callable[[str], None] = lambda reason: None,
    quota: Quota | None = None,
) -> None:
    """Stage images until `stop` is set; then finish or release the images still held within `grace_seconds`.

    Photos may come from the local `folders`. Raises `ConfigurationError` when the model cannot be created.
    """
    pool = PicturePool(settings.photo)
    downloader = Downloader(settings.download, settings.photo.max_bytes)
    heartbeat = Heartbeat(backend.store, clock, settings.worker.heartbeat_seconds)
    try:
        model = make_model(settings, pool)
        room = wiring.stage_image(
            backend,
            clock,
            settings,
            heartbeat=heartbeat,
            source=PhotoSource(downloader, backend.objects, folders, settings.photo.max_bytes),
            pictures=pool,
            model=model,
            quota=quota,
        )
        empties = EmptyTiers(backend.store, clock)
        subscriber = Subscriber(backend.queue, room.handle, clock, settings.worker, on_halt, empties.note)
        heartbeat.halted = lambda: subscriber.halted
        await heartbeat.beat()  # before the first claim: a claim without a heartbeat is dead
        loops = (heartbeat.run(), empties.run(), _health(subscriber, heartbeat, backend.store, settings, clock))
        background = [asyncio.create_task(loop) for loop in loops]
        try:
            await subscriber.run(stop, grace_seconds)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            with suppress(TimeoutError):  # without it, the heartbeat becomes stale by itself
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await heartbeat.stop()
            await model.aclose()
    finally:
        await downloader.aclose()
        pool.close()


class EmptyTiers:
    """Records for reconcile when this worker found a tier empty, with at most one write per minute and tier."""

    def __init__(self, store: BatchStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: set[Tier] = set()

    def note(self, tier: Tier) -> None:
        """Remember that several pulls in a row found nothing in the tier."""
        self._seen.add(tier)

    async def run(self) -> None:
        """Write the remembered tiers once a minute, until cancelled."""
        while True:
            await self._clock.sleep(EMPTY_SECONDS)
            seen, self._seen = self._seen, set()
            for tier in sorted(seen):
                try:
                    decide = partial(_emptied, tier=tier)
                    await self._store.change_record(TierEmpty, tier.value, decide, self._clock.token())
                except RuumError as error:
                    log.warning("empty tier not noted: %s", error)


def _emptied(known: TierEmpty | None, now: float, *, tier: Tier) -> TierEmpty | Refusal:
    """Keep the last two times, at least a minute apart."""
    times = known.seen_at if known else ()
    if times and now - times[-1] < EMPTY_SECONDS:
        return Refusal.UNCHANGED
    return TierEmpty(tier=tier, seen_at=(*times, now)[-2:])


async def _health(
    subscriber: Subscriber, heartbeat: Heartbeat, store: BatchStore, settings: Settings, clock: Clock
) -> None:
    """Log once a minute that this worker lives, and how much of the fleet's quota is in use, by model."""
    while True:
        tell(log, LogEvent.HEALTH, worker=heartbeat.worker, inHand=subscriber.in_hand, waiting=subscriber.waiting)
        for model in calls_by_model(settings):
            try:
                ledger = await store.record(Ledger, model)
            except RuumError as error:
                log.warning("quota of %s not read: %s", model, error)
                continue
            if ledger is not None:
                _tell_use(ledger, settings.limits.get(model), clock.now())
        await clock.sleep(HEALTH_SECONDS)


def _tell_use(ledger: Ledger, own: Limit | None, now: float) -> None:
    limit = ledger.limit or own or Limit()
    used = decisions.quota.used(ledger, now) if limit.per_minute else len(ledger.slots)
    most = limit.per_minute or limit.concurrent
    waiting = sum(waiter.count for waiter in ledger.waiters.values() if waiter.until > now)
    tell(log, LogEvent.QUOTA_USE, model=ledger.id, used=used, limit=most, share=used / most if most else None,
         waiting=waiting, rate=ledger.rate, circuit=ledger.circuit.value,
         daySpent=ledger.day_spent_until > now)  # fmt: skip
