"""Google's clients, for the cloud or (by the variables Google's own tools use) for their emulators."""

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
    """Firestore, asyncio. Belongs to the event loop it is first used on."""
    host = environ.get(FIRESTORE_EMULATOR)
    if host is None:
        with _credentials():
            return AsyncClient(project=project, database=database)
    client = AsyncClient(
        project=project,
        database=database,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # google-auth leaves it untyped
    )
    # The client itself looks for it in the process's environment only, which two stacks in one process would share.
    client._emulator_host = host  # noqa: SLF001
    return client


@contextmanager
def _credentials() -> Iterator[None]:
    """Google's clients look for credentials when they are made. Raises `ConfigurationError` when those are no use."""
    try:
        yield
    except (GoogleAuthError, OSError, ValueError) as error:
        told = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigurationError(
            f"no usable Google credentials ({told}); at a desk run: gcloud auth application-default login"
        ) from error


def _channel(host: str) -> Any:
    return grpc.aio.insecure_channel(host, options=_CHANNEL_OPTIONS)


def pubsub_clients(environ: Mapping[str, str]) -> tuple[PublisherAsyncClient, SubscriberAsyncClient]:
    """Pub/Sub's unary clients, asyncio. Google's own emulator variable is honoured by its high-level client only."""
    host = environ.get(PUBSUB_EMULATOR)
    if host is None:
        with _credentials():
            return PublisherAsyncClient(), SubscriberAsyncClient()
    return (
        PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=_channel(host))),
        SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=_channel(host))),
    )


def storage_client(project: str, environ: Mapping[str, str]) -> Any:
    """Cloud Storage, synchronous."""
    client = _storage_client(project, environ.get(STORAGE_EMULATOR))
    # A connection per thread: urllib3 keeps ten by default, and throws away and remakes the rest.
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
