"""DEAD LETTER: tasks that failed come in; their image is settled, or gets a fresh task.

Letters are of two kinds: those that workers write after settling an image, and tasks that the queue itself gave up on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from shared import decisions
from shared.errors import ErrorCode, StillHeld, Unreadable
from shared.messages import Letter, Task, decode, is_letter, task_message
from shared.model import Failure, Image, ImageState, Refusal, client_of
from shared.ports import BatchStore, Clock, Queue
from shared.settings import Settings
from shared.telemetry import LogEvent, bound, image_settled, tell
from shared.topology import topic_of
from shared.worker.heartbeat import known_holder

log = logging.getLogger(__name__)


class DeadLetter:
    """Makes sure that no image stays open without a task."""

    def __init__(self, store: BatchStore, queue: Queue, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._settings = settings

    async def handle(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Handle one letter. Raises `StillHeld` when it has to be redelivered later."""
        task = self._task(data, attributes)
        if task is None:
            return
        image = await self._store.image(task.batch, task.index)
        if image is None:
            log.error("dead letter for an image that does not exist: %s/%s", task.batch, task.index)
            return
        holder = await known_holder(self._store, image)
        now = self._clock.now()
        error = Failure(
            code=ErrorCode.DELIVERIES_EXHAUSTED, message="its task was delivered too often without an outcome"
        )
        settled = await self._store.change_image(
            task.batch,
            task.index,
            lambda known: decisions.image.give_up(
                known,
                letter_round=task.round,
                error=error,
                holder=holder,
                max_attempts=self._settings.attempts.max_attempts,
                now=now,
            ),
            self._clock.token(),
            seen=image,
        )
        if settled is Refusal.HELD:
            raise StillHeld(f"{task.batch}/{task.index} is held by a living worker")
        if settled is Refusal.UNCHANGED:
            await self._queue.publish(topic_of(task.tier), [task_message(image, task.epoch)])
        elif isinstance(settled, Image):
            with bound(tier=task.tier.value):
                image_settled(log, settled)
            client = client_of(task.batch)
            if settled.state is ImageState.FAILED:
                with bound(batch=task.batch, image=task.index, round=settled.round, client=client):
                    tell(log, LogEvent.DEAD_LETTER, code=error.code, reason=error.message)

    def _task(self, data: bytes, attributes: Mapping[str, str]) -> Task | None:
        """Return the task of a letter; None, with a line in the log, if it holds none."""
        try:
            if not is_letter(attributes):
                return decode(Task, data)
            letter = decode(Letter, data)
        except Unreadable as error:
            log.error("unreadable dead letter dropped: %s", error)  # noqa: TRY400 - a traceback would say no more
            return None
        if letter.task is None:
            log.error("unreadable task was dead-lettered: %s", letter.message)
        return letter.task
