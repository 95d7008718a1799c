"""Google's clients, for the cloud or for their emulators, which Google's own environment variables select."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage  # type: ignore[attr-defined]  # ships no types
from google.cloud.firestore import AsyncClient
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from requests.adapters import HTTPAdapter

from shared.errors import ConfigurationError

PUBSUB_EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
FIRESTORE_EMULATOR: Final = "FIRESTORE_EMULATOR_HOST"
STORAGE_EMULATOR: Final = "STORAGE_EMULATOR_HOST"
STORAGE_CONNECTIONS: Final = 16  # as many as `objects.THREADS`

# Pub/Sub messages may have 10 MB; gRPC's own default would refuse answers above 4 MB.
_CHANNEL_OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def firestore_client(project: str, database: str, environ: Mapping[str, str]) -> AsyncClient:
    """Return Firestore's asyncio client. It belongs to the event loop that first uses it."""
    host = environ.get(FIRESTORE_EMULATOR)
    if host is None:
        with _credentials():
            return AsyncClient(project=project, database=database)
    client = AsyncClient(
        project=project,
        database=database,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # google-auth leaves it untyped
    )
    # The client reads this only from the process's environment, which two stacks in one process would share.
    client._emulator_host = host  # noqa: SLF001
    return client


@contextmanager
def _credentials() -> Iterator[None]:
    """Raise `ConfigurationError` for unusable credentials; Google's clients look for them when they are created."""
    try:
        yield
    except (GoogleAuthError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigurationError(
            f"no usable Google credentials ({reason}). On a workstation, run: gcloud auth application-default login"
        ) from error


def _channel(host: str) -> Any:
    return grpc.aio.insecure_channel(host, options=_CHANNEL_OPTIONS)


def pubsub_clients(environ: Mapping[str, str]) -> tuple[PublisherAsyncClient, SubscriberAsyncClient]:
    """Return Pub/Sub's unary asyncio clients.

    Only Google's high-level client honours the emulator's variable, so the transport is set here.
    """
    host = environ.get(PUBSUB_EMULATOR)
    if host is None:
        with _credentials():
            return PublisherAsyncClient(), SubscriberAsyncClient()
    return (
        PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=_channel(host))),
        SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=_channel(host))),
    )


def storage_client(project: str, environ: Mapping[str, str]) -> Any:
    """Return Cloud Storage's client, which is synchronous."""
    client = _storage_client(project, environ.get(STORAGE_EMULATOR))
    # One connection per thread. By default urllib3 keeps ten, and opens and closes the others for each call.
    adapter = HTTPAdapter(pool_connections=STORAGE_CONNECTIONS, pool_maxsize=STORAGE_CONNECTIONS)
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, adapter)  # noqa: SLF001 - the client offers no other way
    return client


def _storage_client(project: str, host: str | None) -> Any:
    if host is None:
        with _credentials():
            return storage.Client(project=project)
    return storage.Client(
        project=project,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # google-auth leaves it untyped
        client_options={"api_endpoint": host},
    )
