"""The ObjectStore on Cloud Storage. The client is synchronous, so its calls run on threads, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

from google.api_core import exceptions
from google.auth.credentials import Signing
from google.auth.transport.requests import Request
from google.cloud import storage  # type: ignore[attr-defined]  # ships no types

from shared.adapters.google.errors import retried
from shared.errors import PreconditionFailed
from shared.ports import Clock, StoredObject

R = TypeVar("R")

THREADS: Final = 16  # uploads of 1 MB take 0.2 s: 16 at once carry 80 images a second
CALL_SECONDS: Final = 60.0  # one upload or download of 40 MB on a slow line


class CloudObjects:
    """See `shared.ports.ObjectStore`. Bytes are checked by CRC32C both ways."""

    def __init__(self, client: storage.Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")

    async def _call(self, what: str, work: Callable[[], R]) -> R:
        loop = asyncio.get_running_loop()
        return await retried(what, lambda: loop.run_in_executor(self._threads, work), self._clock)

    async def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        if_generation: int | None = None,
    ) -> StoredObject:
        def work() -> StoredObject:
            blob = self._client.bucket(bucket).blob(name)
            blob.metadata = dict(metadata) if metadata else None
            blob.upload_from_string(
                data,
                content_type=content_type,
                if_generation_match=if_generation,
                checksum="crc32c",
                timeout=CALL_SECONDS,
                retry=None,
            )
            return _stored(blob)

        try:
            return await self._call(f"put {bucket}", work)
        except exceptions.PreconditionFailed as error:
            raise PreconditionFailed(f"{bucket}/{name} is not at generation {if_generation}") from error

    async def get(self, bucket: str, name: str) -> tuple[StoredObject, bytes] | None:
        def work() -> tuple[StoredObject, bytes] | None:
            blob = self._found(bucket, name)
            if blob is None:
                return None
            try:
                content = blob.download_as_bytes(
                    if_generation_match=blob.generation, checksum="crc32c", timeout=CALL_SECONDS, retry=None
                )
            except exceptions.NotFound:
                return None  # deleted, or overwritten, between the two calls
            return _stored(blob), content

        return await self._call(f"get {bucket}", work)

    async def stat(self, bucket: str, name: str) -> StoredObject | None:
        def work() -> StoredObject | None:
            blob = self._found(bucket, name)
            return _stored(blob) if blob is not None else None

        return await self._call(f"stat {bucket}", work)

    def _found(self, bucket: str, name: str) -> Any:
        return self._client.bucket(bucket).get_blob(name, timeout=CALL_SECONDS, retry=None)

    async def list(self, bucket: str, prefix: str) -> AsyncIterator[StoredObject]:
        def work() -> list[StoredObject]:
            blobs = self._client.list_blobs(bucket, prefix=prefix, timeout=CALL_SECONDS, retry=None)
            return [_stored(blob) for blob in blobs]

        for stored in await self._call(f"list {bucket}", work):
            yield stored

    async def delete(self, bucket: str, name: str) -> None:
        def work() -> None:
            with suppress(exceptions.NotFound):
                self._client.bucket(bucket).blob(name).delete(timeout=CALL_SECONDS, retry=None)

        await self._call(f"delete {bucket}", work)

    def uri(self, bucket: str, name: str) -> str:
        return f"gs://{bucket}/{name}"

    async def link(self, bucket: str, name: str, seconds: float) -> str:
        """A V4 signed link. On Cloud Run there is no private key: Google's IAM signs for the service account."""

        def work() -> str:
            blob = self._client.bucket(bucket).blob(name)
            options: dict[str, Any] = {"version": "v4", "expiration": timedelta(seconds=seconds)}
            credentials = self._client._credentials  # noqa: SLF001 - the client offers no other way
            if not isinstance(credentials, Signing):
                credentials.refresh(Request())
                options |= {
                    "service_account_email": credentials.service_account_email,
                    "access_token": credentials.token,
                }
            return str(blob.generate_signed_url(**options))

        return await self._call(f"sign {bucket}", work)

    def close(self) -> None:
        """End the threads; calls under way are waited for."""
        self._threads.shutdown()
        self._client.close()


def _stored(blob: Any) -> StoredObject:
    return StoredObject(
        bucket=blob.bucket.name,
        name=blob.name,
        generation=int(blob.generation),
        bytes=int(blob.size or 0),
        metadata=dict(blob.metadata or {}),
        updated_at=blob.updated.timestamp() if blob.updated else 0.0,
    )
