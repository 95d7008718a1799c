"""Translates Google's exceptions into ours. The only place where transient ones are retried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from shared.errors import ConfigurationError, ErrorCode, RuumError, WorldError
from shared.ports import Clock

R = TypeVar("R")

# For each try of a call. Firestore and Pub/Sub answer within milliseconds; 10 s is longer than a backend's failover.
CALL_SECONDS: Final = 10.0
# For all tries of a call together. Well below a lease of 60 s, so that a delivery can still be answered afterwards.
DEADLINE_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_MAX_PAUSE_SECONDS: Final = 5.0

_TRANSIENT: Final = (
    exceptions.ServerError,  # 5xx: unavailable, internal, bad gateway, deadline exceeded at the server
    exceptions.TooManyRequests,
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.RetryError,
    TransportError,
    requests.ConnectionError,
    requests.Timeout,
    ConnectionError,
    TimeoutError,
)
_OURS: Final = (
    exceptions.Forbidden,
    exceptions.Unauthorized,
    exceptions.NotFound,  # adapters turn an absent document or object into None before: this is a bucket or topic
    exceptions.MethodNotImplemented,
    DefaultCredentialsError,
    RefreshError,
)


async def retried(what: str, call: Callable[[], Awaitable[R]], clock: Clock) -> R:
    """Await `call` until it answers. Transient errors are retried with jitter until the deadline.

    Raises `WorldError` after the deadline, and `ConfigurationError` for errors that we have to fix. All others (a
    failed precondition, an existing document) are passed on, because their meaning depends on the caller.
    """
    deadline = clock.monotonic() + DEADLINE_SECONDS
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await call()
        except _OURS as error:
            raise configuration(what, error) from error
        except exceptions.FailedPrecondition as error:
            if "requires an index" in str(error):  # Terraform creates it; Firestore answers 400 until it exists
                raise ConfigurationError(f"{what}: {error.message}") from error
            raise
        except _TRANSIENT as error:
            if clock.monotonic() + pause > deadline:
                message = f"{what}: {type(error).__name__} for {DEADLINE_SECONDS:g} s"
                raise WorldError(ErrorCode.STORAGE_UNAVAILABLE, message) from error
        await clock.sleep(pause * clock.random.uniform(0.5, 1.5))
        pause = min(pause * 2, _MAX_PAUSE_SECONDS)


def configuration(what: str, error: Exception) -> RuumError:
    """Return the error for a missing permission, bucket or topic.

    The message names the call, and never a credential.
    """
    return ConfigurationError(f"{what}: {type(error).__name__}")
