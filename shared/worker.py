"""One worker: its room, its hands, its heartbeat, its picture subprocesses. Run by the door and by `ruum-batch run`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from shared import wiring
from shared.heartbeat import Heartbeat
from shared.ports import Clock
from shared.quota import Quota
from shared.settings import Settings
from shared.staging.download import Downloader
from shared.staging.photo_source import PhotoSource
from shared.staging.pool import PicturePool
from shared.subscriber import Subscriber

log = logging.getLogger(__name__)

HEALTH_SECONDS: Final = 60.0  # a line a minute tells a living worker from a stuck one, and costs nothing


async def work(
    backend: wiring.Backend,
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
    """Stage images until `stop` is set; then finish or release what is in hand within `grace_seconds`.

    `folders` are local ones that photos may come from. Raises `ConfigurationError` when there is no model to work with.
    """
    pool = PicturePool(settings.photo)
    downloader = Downloader(settings.download, settings.photo.most_bytes)
    heartbeat = Heartbeat(backend.store, clock, settings.worker.heartbeat_seconds)
    try:
        model = make_model(settings, pool)
        room = wiring.stage_image(
            backend,
            clock,
            settings,
            heartbeat=heartbeat,
            source=PhotoSource(downloader, backend.objects, folders, settings.photo.most_bytes),
            pictures=pool,
            model=model,
            quota=quota,
        )
        subscriber = Subscriber(backend.queue, room.handle, clock, settings.worker, on_halt)
        await heartbeat.beat()  # before the first claim: a claim without a heartbeat is dead
        background = [asyncio.create_task(heartbeat.run()), asyncio.create_task(_health(subscriber, heartbeat, clock))]
        try:
            await subscriber.run(stop, grace_seconds)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await heartbeat.stop()
            await model.aclose()
    finally:
        await downloader.aclose()
        pool.close()


async def _health(subscriber: Subscriber, heartbeat: Heartbeat, clock: Clock) -> None:
    while True:
        log.info("health: %s has %d in hand", heartbeat.worker, subscriber.in_hand)
        await clock.sleep(HEALTH_SECONDS)
