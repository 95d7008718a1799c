"""Our logs: one JSON object per line, in the fields that Cloud Logging, dashboards and alerts read.

`LogEvent` and `FIELDS` are the vocabulary. Terraform's metrics may use nothing else, and a test checks that. One trace
id follows an image from manifest to result. It is derived from the image's name, so it need not be passed on. At the
default level an image costs at most 4 KB of log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final, TextIO

from shared.errors import ConfigurationError
from shared.model import Image, client_of

MAX_MESSAGE_CHARACTERS: Final = 1000  # of a message, without its traceback
MAX_FIELD_CHARACTERS: Final = 500  # of a field: enough for an error's sentence, and not a page of HTML
MAX_TRACEBACK_CHARACTERS: Final = 8000  # kept from its end, which says where the error was raised


class LogEvent(StrEnum):
    """The subject of a line: `jsonPayload.event`, which metrics filter on."""

    BATCH_ACCEPTED = "batch_accepted"
    BATCH_REJECTED = "batch_rejected"
    BATCH_CLOSED = "batch_closed"
    BATCH_PAUSED = "batch_paused"
    BATCH_STALLED = "batch_stalled"
    IMAGE_QUEUED = "image_queued"
    IMAGE_SETTLED = "image_settled"
    ATTEMPT_FAILED = "attempt_failed"
    STEP = "step"
    DEAD_LETTER = "dead_letter"
    THROTTLED = "throttled"
    QUOTA_CHANGED = "quota_changed"
    QUOTA_USE = "quota_use"
    HOST_LIMITED = "host_limited"
    CONFIGURATION_FAULT = "configuration_fault"
    HEALTH = "health"
    SCALED = "scaled"
    RECONCILED = "reconciled"


# Every field that a line may have beside severity, message, time and trace, with its meaning.
FIELDS: Final[Mapping[str, str]] = {
    "event": "what the line is about, see LogEvent",
    "batch": "batch id",
    "image": "index of the image in its batch",
    "round": "round of the image, or of the batch",
    "attempt": "attempts spent so far",
    "client": "client slug",
    "tier": "express, normal or economy",
    "worker": "id of the worker",
    "step": "download, prepare, analyse, generate, verify, publish",
    "model": "vendor's model id",
    "host": "host that photos come from",
    "state": "state the image or batch came to",
    "code": "error code, see docs/crm-guide.md",
    "cached": "whether the picture came from the cache",
    "durationMs": "milliseconds",
    "costUsd": "US dollars, from the vendor's own token counts",
    "images": "how many images",
    "failed": "how many of them failed",
    "problems": "how many problems a manifest has",
    "inHand": "images a worker works on now",
    "used": "calls started in the last minute, or slots held",
    "limit": "calls a minute, or slots, that the vendor allows",
    "share": "used / limit",
    "rate": "share of the limit in use: below 1 is slow mode",
    "circuit": "closed, open or half_open",
    "daySpent": "whether the vendor's daily quota is used up",
    "waiting": "calls that wait for quota, or images for their host",
    "instances": "workers started",
    "reason": "why, in words",
    "by": "the operator who asked for it",
    "report": "what reconcile did",
}

_context: ContextVar[dict[str, Any]] = ContextVar("telemetry", default={})  # noqa: B039 - never changed in place


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add these fields to every line logged inside, including in tasks that are started inside."""
    before = _context.get()
    ours = {**before, **fields}
    _context.set(ours)
    try:
        yield
    finally:
        if _context.get() is ours:  # a coroutine may be closed from a context other than its own
            _context.set(before)


def tell(log: logging.Logger, event: LogEvent, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a line about `event`. Field names are those of `FIELDS`; None values are left out."""
    if not log.isEnabledFor(level):
        return
    given = {name: value for name, value in fields.items() if value is not None}
    # The message repeats no field, because an image has only 4 KB for all its lines.
    log.log(level, "%s", event.value.replace("_", " "), extra={"fields": {"event": event.value, **given}})


@contextmanager
def configuration_faults(log: logging.Logger) -> Iterator[None]:
    """Log a `ConfigurationError` raised inside, for the operators' alert, and raise it on."""
    try:
        yield
    except ConfigurationError as error:
        tell(log, LogEvent.CONFIGURATION_FAULT, level=logging.ERROR, reason=str(error))
        raise


def image_settled(log: logging.Logger, image: Image, duration_ms: int | None = None) -> None:
    """Log the last line of an image's round, however it ended. The cost is that of this round."""
    cost = (image.cost_micro_usd - image.earlier_cost_micro_usd) / 1_000_000
    client, error = client_of(image.batch), image.error.code if image.error else None
    with bound(batch=image.batch, image=image.index, round=image.round, client=client):
        tell(log, LogEvent.IMAGE_SETTLED, state=image.state.value, code=error, attempt=image.attempts,
             cached=image.cached, durationMs=duration_ms, costUsd=cost)  # fmt: skip


def trace_id(batch: str, image: int | None = None) -> str:
    """Return the trace id of an image, or of a batch: 32 hex digits, always the same for the same name."""
    return hashlib.sha256(f"{batch}/{'' if image is None else image}".encode()).hexdigest()[:32]


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object in Cloud Logging's own fields. `project` makes traces clickable there.

    There is no time in it: Cloud Run stamps every line, and an image has only 4 KB for its own.
    """

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project

    def format(self, record: logging.LogRecord) -> str:
        fields = {**_context.get(), **getattr(record, "fields", {})}
        line: dict[str, Any] = {
            "severity": record.levelname,
            "message": record.getMessage()[:MAX_MESSAGE_CHARACTERS],
            **{name: _bounded(value) for name, value in fields.items()},
        }
        if "batch" in fields:
            trace = trace_id(fields["batch"], fields.get("image"))
            line["logging.googleapis.com/trace"] = f"projects/{self._project}/traces/{trace}"
        if record.exc_info:
            line["stack_trace"] = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARACTERS:]
        return json.dumps(line, default=str)  # ASCII: no character of a customer's ends a line or moves a cursor


def _bounded(value: Any) -> Any:
    return value[:MAX_FIELD_CHARACTERS] if isinstance(value, str) else value


def configure(environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send every log line of the process to `stream` (stderr) as JSON, from level LOG_LEVEL on (INFO by default).

    A wrong level must not keep a worker or a function from starting. INFO is then used, and an error is logged.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(environ.get("GOOGLE_CLOUD_PROJECT", "")))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = environ.get("LOG_LEVEL", "INFO").upper()
    known = level in logging.getLevelNamesMapping()
    root.setLevel(level if known else "INFO")
    for noisy in ("httpx", "httpx2", "httpcore", "google_genai", "google.auth", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # a line per request, with its address
    if not known:
        logging.getLogger(__name__).error("LOG_LEVEL=%s is not a level; INFO is used", level)
