"""The ObjectStore on Cloud Storage. The client is synchronous, so its calls run on threads, off the event loop."""

from __future__ import annotations

import asyncio
import io
import sys
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
from shared.errors import ObjectDamaged, ObjectTooLarge, PreconditionFailed
from shared.ports import Clock, StoredObject
from shared.untrusted.inflate import NotCompressed, TooLarge, Unpacking, codings_of

R = TypeVar("R")

THREADS: Final = 16  # uploads of 1 MB take 0.2 s: 16 at once carry 80 images a second
CALL_SECONDS: Final = 60.0  # one upload or download of 40 MB on a slow line


class CloudObjects:
    """The `shared.ports.ObjectStore` on Cloud Storage. Bytes are checked by CRC32C in both directions."""

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

    async def get(self, bucket: str, name: str, max_bytes: int | None = None) -> tuple[StoredObject, bytes] | None:
        def work() -> tuple[StoredObject, bytes] | None:
            blob = self._found(bucket, name)
            if blob is None:
                return None
            sink = _Sink(blob.content_encoding or "", sys.maxsize if max_bytes is None else max_bytes)
            try:
                # Raw, because the client's own unpacking has no limit: 1.5 MB may unpack to 1.5 GB.
                blob.download_to_file(
                    sink, raw_download=True, if_generation_match=blob.generation, checksum="crc32c",
                    timeout=CALL_SECONDS, retry=None,
                )  # fmt: skip
                return _stored(blob), sink.content()
            except exceptions.NotFound:
                return None  # deleted, or overwritten, between the two calls
            except TooLarge:
                raise ObjectTooLarge(f"{bucket}/{name} unpacks to more than {max_bytes} bytes") from None
            except NotCompressed as error:
                raise ObjectDamaged(f"{bucket}/{name} cannot be unpacked: {error}") from None

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
        """Return a V4 signed link.

        On Cloud Run there is no private key, so Google's IAM signs for the service account.
        """

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
        """End the threads, after the calls in progress."""
        self._threads.shutdown()
        self._client.close()


class _Sink(io.RawIOBase):
    """Receives an object's stored bytes and unpacks them as they arrive.

    Bytes that are labelled as compressed but are not are kept as they are.
    """

    def __init__(self, content_encoding: str, max_bytes: int) -> None:
        super().__init__()
        self._codings = codings_of(content_encoding)
        self._max_bytes = max_bytes
        self._unpacking: Unpacking | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        if self._unpacking is None and piece:
            compressed = piece.startswith(b"\x1f\x8b") or "deflate" in self._codings
            self._unpacking = Unpacking(self._codings if compressed else [], self._max_bytes)
        if self._unpacking is not None:
            self._unpacking.feed(piece)
        return len(piece)

    def content(self) -> bytes:
        """Return all bytes. Raises `NotCompressed`."""
        return self._unpacking.end() if self._unpacking is not None else b""


def _stored(blob: Any) -> StoredObject:
    return StoredObject(
        bucket=blob.bucket.name,
        name=blob.name,
        generation=int(blob.generation),
        bytes=int(blob.size or 0),
        metadata=dict(blob.metadata or {}),
        updated_at=blob.updated.timestamp() if blob.updated else 0.0,
    )
