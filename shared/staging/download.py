"""Fetching a photo from an address a customer wrote, without being led into our own network.

The name is resolved once; if ANY of its addresses is not public the fetch is refused, and the connection goes to the
very address that was checked while TLS and Host keep the name. Redirects are followed by hand and checked again. No
proxy, no environment, no decompression; bytes and time are capped while streaming.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import httpcore2
import httpx2

from shared.errors import ErrorCode, ImageRejected, WorldError
from shared.settings import DownloadLimits

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_REDIRECTS: Final = {301, 302, 303, 307, 308}
_MISSING: Final = {404, 410}
_FORBIDDEN: Final = {401, 403, 407, 451}
_TRANSIENT: Final = {408, 425, 429}
_HEADERS: Final = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", "ruum-batch")]

# Only 2000::/3 is handed out for the public internet, and of it these lead elsewhere: Teredo and 6to4 wrap IPv4
# addresses (as NAT64, 64:ff9b::/96, outside 2000::/3 does), the others are for documentation, benchmarks and ORCHID.
_PUBLIC_V6: Final = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC_V4: Final = [ipaddress.ip_network(net) for net in ("0.0.0.0/8", "192.0.0.0/24", "192.88.99.0/24")]
_NOT_PUBLIC_V6: Final = [ipaddress.ip_network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; stricter than `ipaddress.is_global`, which lets some through."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        special = ip.is_multicast or ip.is_reserved or any(ip in net for net in _NOT_PUBLIC_V4)
        return ip.is_global and not special
    return ip in _PUBLIC_V6 and ip.is_global and not any(ip in net for net in _NOT_PUBLIC_V6)


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host name, as the system resolves it. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Refused(Exception):
    """The name leads to an address that is not public."""


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects by name only to addresses that were checked."""

    def __init__(self, resolve_name: Resolve, *, allow_private: bool) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self._resolve = resolve_name
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved: {error}") from error
        if not addresses:
            raise httpcore2.ConnectError(f"{host} has no address")
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise _Refused(host)
        failure: Exception | None = None
        for address in addresses[:3]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise httpcore2.ConnectError(f"{host} refuses connections") from failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise _Refused(path)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class Downloader:
    """Fetches https addresses (http when allowed). One per process; `aclose` at the end."""

    def __init__(self, limits: DownloadLimits, most_bytes: int, resolve_name: Resolve = resolve) -> None:
        self._limits = limits
        self._most_bytes = most_bytes
        backend = _GuardedBackend(resolve_name, allow_private=limits.allow_private_addresses)
        # No connection is kept: each download checks its host's addresses anew.
        self._pool = httpcore2.AsyncConnectionPool(
            network_backend=backend,
            ssl_context=httpcore2.default_ssl_context(),  # made once: reading the trust store takes 27 ms
            max_connections=100,
            max_keepalive_connections=0,
        )

    async def fetch(self, url: str) -> bytes:
        """The body of `url`. Raises `ImageRejected` or `WorldError` with a code of the source_* family."""
        try:
            async with asyncio.timeout(self._limits.total_seconds):
                return await self._follow(url)
        except TimeoutError:
            message = f"no complete answer within {self._limits.total_seconds:g} s"
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, message) from None
        except _Refused as error:
            message = f"{error} is not on the public internet"
            raise ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, message) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            message = f"connection failed: {error or type(error).__name__}"
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, message) from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._limits.most_redirects + 1):
            target = self._checked(url)
            next_url, body = await self._get(target)
            if next_url is None:
                return body
            url = next_url
        message = f"more than {self._limits.most_redirects} redirects"
        raise ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, message)

    def _checked(self, url: str) -> httpx2.URL:
        try:
            target = httpx2.URL(url)
            port = target.port
        except (httpx2.InvalidURL, ValueError):  # UnicodeError is a ValueError
            raise self._no_address() from None
        if port is not None and not 0 < port < 65536:
            raise self._no_address()
        schemes = ("https", "http") if self._limits.allow_http else ("https",)
        if target.scheme not in schemes or not target.host or target.userinfo:
            message = f"only {' and '.join(schemes)} addresses without credentials are fetched"
            raise ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, message)
        return target

    def _no_address(self) -> ImageRejected:
        return ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, "it is not an address, or redirects to none")

    async def _get(self, target: httpx2.URL) -> tuple[str | None, bytes]:
        """(where a redirect leads, body): one of them."""
        url = httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        headers = [("Host", target.netloc.decode("ascii")), *_HEADERS]
        timeouts = {"connect": self._limits.connect_seconds, "read": self._limits.total_seconds}
        async with self._pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response:
            fields = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS:
                return self._joined(target, fields.get(b"location", b"").decode("latin-1")), b""
            self._check_status(response.status)
            if fields.get(b"content-encoding", b"identity").lower() != b"identity":
                raise ImageRejected(ErrorCode.NOT_A_PICTURE, "the answer is compressed, although we asked it not to be")
            if int(fields.get(b"content-length", b"0") or b"0") > self._most_bytes:
                raise self._too_large()
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > self._most_bytes:
                    raise self._too_large()
            return None, bytes(body)

    def _joined(self, target: httpx2.URL, location: str) -> str:
        """Where a redirect leads; the host may have written anything there."""
        try:
            return str(target.join(location))
        except (httpx2.InvalidURL, ValueError):
            raise self._no_address() from None

    def _too_large(self) -> ImageRejected:
        return ImageRejected(ErrorCode.SOURCE_TOO_LARGE, f"more than {self._most_bytes} bytes")

    def _check_status(self, status: int) -> None:
        if status == 200:
            return
        if status >= 500 or status in _TRANSIENT:
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, f"the host answered {status}")
        if status in _FORBIDDEN:
            raise ImageRejected(ErrorCode.SOURCE_FORBIDDEN, f"the host answered {status}")
        code = ErrorCode.SOURCE_NOT_FOUND if status in _MISSING else ErrorCode.SOURCE_NOT_ALLOWED
        raise ImageRejected(code, f"the host answered {status}")

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()
