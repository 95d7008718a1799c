"""Fetching a photo from an address a customer wrote, without being led into our own network.

The name is resolved once; if ANY of its addresses is not public the fetch is refused, and the connection goes to the
very address that was checked while TLS and Host keep the name. Redirects are followed by hand and checked again. No
proxy, no environment; bytes, as they are when unpacked, and time are capped while streaming.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

import httpcore2
import httpx2

from shared.errors import ErrorCode, HostBusy, ImageRejected, WorldError
from shared.settings import DownloadLimits
from shared.untrusted.inflate import NotCompressed, TooLarge, Unpacking, codings_of
from shared.untrusted.kinds import is_picture

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_REDIRECTS: Final = {300, 301, 302, 303, 307, 308}
_MISSING: Final = {204, 205, 404, 410}
# "Not for you": keys, logins and links that have expired; 419, 440, 498 and 499 are servers' own numbers for that.
_FORBIDDEN: Final = {401, 402, 403, 407, 419, 440, 451, 498, 499, 511}
# "Not now": 420 is an old 429, 202 says that the photo is still being made, 206 and 304 are answers nobody asked for.
_NOT_NOW: Final = {202, 206, 304, 408, 409, 420, 421, 423, 424, 425, 429}
_SLOW_DOWN: Final = {420, 429, 509, 529}
# What object stores and drives say in the body of a 403 or 503 that means "not so fast".
_SLOW_WORDS: Final = re.compile(
    rb"SlowDown|ServerBusy|rate[ _-]?limit|TooManyRequests|too many requests|throttl|quota ?exceeded|bandwidth limit",
    re.IGNORECASE,
)
_NO_ADDRESS: Final = re.compile(rb"InvalidUri|OutOfRangeInput|NoSuchKey|NoSuchBucket|BlobNotFound", re.IGNORECASE)
_FINAL: Final = {401, 404, 407, 410}  # whatever wait such an answer names
# JPEG first: hosts that choose by this header then send the photo as it is. At last anything, for those that know no
# picture types.
_ACCEPT: Final = "image/jpeg, image/png, image/heic;q=0.9, image/heif;q=0.9, image/webp;q=0.8, image/*;q=0.5, */*;q=0.1"
_ANYTHING: Final = "*/*"
_UNREADABLE_CODINGS: Final = {"br", "zstd", "compress", "x-compress"}
_MAX_CODINGS: Final = 3
_KIND_BYTES: Final = 16  # enough to tell a picture by
_RACE_SECONDS: Final = 0.25  # RFC 8305: how long an address is waited for before the next is tried beside it
_MAX_ADDRESSES: Final = 12  # of a name; each is tried, the first to answer wins
_EXPLANATION_SECONDS: Final = 2.0
_EXPLANATION_BYTES: Final = 4096  # read of a refusal: object stores say in their body what they mean
# What the signed links of Amazon, Google, Azure and Alibaba say at their end.
_EXPIRED: Final = re.compile(rb"ExpiredToken|expired|not valid in the specified time", re.IGNORECASE)

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
    """Return all addresses of a host name, as the system resolves it. Raises `OSError`."""
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
        attempt = partial(self._inner.connect_tcp, port=port, timeout=timeout, local_address=local_address,
                          socket_options=socket_options)  # fmt: skip
        return await _raced(host, by_turns(addresses)[:_MAX_ADDRESSES], attempt)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise _Refused(path)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def by_turns(addresses: Sequence[str]) -> list[str]:
    """The addresses, families by turns, the resolver's first in front: a family that is cut off delays by one step."""
    first_is_v6 = ":" in addresses[0] if addresses else False
    first = [address for address in addresses if (":" in address) is first_is_v6]
    others = [address for address in addresses if (":" in address) is not first_is_v6]
    mixed = [address for pair in zip(first, others, strict=False) for address in pair]
    return mixed + first[len(others) :] + others[len(first) :]


async def _raced(
    host: str, addresses: Sequence[str], connect: Callable[[str], Awaitable[httpcore2.AsyncNetworkStream]]
) -> httpcore2.AsyncNetworkStream:
    """Connect to the first address that answers (RFC 8305, "Happy Eyeballs"). Raises `httpcore2.ConnectError`."""
    running: set[asyncio.Task[httpcore2.AsyncNetworkStream]] = set()
    left = list(addresses)
    failure: BaseException | None = None
    try:
        while left or running:
            if left:
                running.add(asyncio.ensure_future(connect(left.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=_RACE_SECONDS if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    running |= done - {task}
                    return task.result()
                if not isinstance(error, httpcore2.ConnectError | httpcore2.ConnectTimeout):
                    raise error
                failure = error
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(late, BaseException):
                await late.aclose()  # it won too, a moment later
    raise httpcore2.ConnectError(f"{host} refuses connections") from failure


class Downloader:
    """Fetches https addresses (http when allowed). One per process; call `aclose` at the end."""

    def __init__(self, limits: DownloadLimits, max_bytes: int, resolve_name: Resolve = resolve) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        backend = _GuardedBackend(resolve_name, allow_private=limits.allow_private_addresses)
        # No connection is kept: each download checks its host's addresses anew.
        self._pool = httpcore2.AsyncConnectionPool(
            network_backend=backend,
            ssl_context=httpcore2.default_ssl_context(),  # made once: reading the trust store takes 27 ms
            max_connections=100,
            max_keepalive_connections=0,
        )

    async def fetch(self, url: str) -> bytes:
        """The body of `url`. Raises `ImageRejected` or `WorldError` (source_… or not_a_picture), or `HostBusy`."""
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
            said = str(error) if "bytearray" not in str(error) else "its answer is not HTTP"
            message = f"connection failed: {said or type(error).__name__}"
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, message) from error

    async def _follow(self, url: str) -> bytes:
        asked = self._checked(url)
        accept = _ACCEPT
        redirects = 0
        while redirects <= self._limits.max_redirects:
            answer = await self._get(asked, accept)
            if isinstance(answer, bytes):
                return answer
            if answer != _ANYTHING:
                redirects += 1
                asked = self._checked(answer)
            elif accept != _ANYTHING:
                accept = _ANYTHING
            else:
                raise ImageRejected(ErrorCode.SOURCE_FORBIDDEN, "the host answered 406 even to */*")
        message = f"more than {self._limits.max_redirects} redirects"
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

    async def _get(self, target: httpx2.URL, accept: str) -> bytes | str:
        """The body; or the address a redirect leads to; or `_ANYTHING`, when the host does not like what we accept."""
        url = httpcore2.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        headers = [
            ("Host", target.netloc.decode("ascii")),
            ("Accept", accept),
            ("Accept-Encoding", "identity"),
            ("User-Agent", f"RuumBatch/1.0 (+{self._limits.contact})"),
        ]
        timeouts = {"connect": self._limits.connect_seconds, "read": self._limits.total_seconds}
        async with self._pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response:
            fields = _fields(response.headers)
            if response.status in _REDIRECTS and fields.get("location"):
                return self._joined(target, fields["location"])
            if response.status == 406:
                return _ANYTHING
            if response.status not in (200, 203) and not _is_whole(response.status, fields):
                explanation = await _beginning(response)
                raise _refusal(target, response.status, fields, explanation)
            return await self._body(response, fields)

    async def _body(self, response: httpcore2.Response, fields: Mapping[str, str]) -> bytes:
        """The body, unpacked as its label says. A label that names no compression, or lies, is none."""
        codings = codings_of(fields.get("content-encoding", ""))
        if len(codings) > _MAX_CODINGS:
            raise ImageRejected(ErrorCode.NOT_A_PICTURE, f"the answer is compressed {len(codings)} times over")
        length = fields.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        try:
            body = await self._unpacked(response, codings)
        except TooLarge:
            raise self._too_large() from None
        except NotCompressed as error:
            message = f"the answer is said to be compressed ({', '.join(codings)}), but cannot be unpacked: {error}"
            raise ImageRejected(ErrorCode.NOT_A_PICTURE, message) from None
        if not body:
            raise ImageRejected(ErrorCode.NOT_A_PICTURE, "the answer is empty")
        named = {word.strip().lower() for word in fields.get("content-encoding", "").split(",")}
        if not _UNREADABLE_CODINGS.isdisjoint(named) and not is_picture(body[:_KIND_BYTES]):
            message = f"the answer is compressed as {fields['content-encoding'][:40]}, although we asked for none"
            raise ImageRejected(ErrorCode.NOT_A_PICTURE, message)
        return body

    async def _unpacked(self, response: httpcore2.Response, codings: Sequence[str]) -> bytes:
        """What the answer's body unpacks to, never holding more than a photo may have."""
        head = bytearray()
        stored = 0
        unpacking: Unpacking | None = None
        async for chunk in response.aiter_stream():
            stored += len(chunk)
            if stored > self._max_bytes:
                raise TooLarge
            if unpacking is None:
                head += chunk
                if len(head) >= _KIND_BYTES:
                    unpacking = self._unpacking(bytes(head), codings)
            else:
                unpacking.feed(chunk)
        return (unpacking or self._unpacking(bytes(head), codings)).end()

    def _unpacking(self, head: bytes, codings: Sequence[str]) -> Unpacking:
        unpacking = Unpacking([] if is_picture(head) else codings, self._max_bytes)
        unpacking.feed(head)
        return unpacking

    def _joined(self, target: httpx2.URL, location: str) -> str:
        """Where a redirect leads; the host may have written anything there."""
        try:
            return str(target.join(location))
        except (httpx2.InvalidURL, ValueError):
            raise self._no_address() from None

    def _too_large(self) -> ImageRejected:
        return ImageRejected(ErrorCode.SOURCE_TOO_LARGE, f"more than {self._max_bytes} bytes")

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The header fields by lower-case name; of a field that stands twice the first, but all content encodings.

    Addresses are often written in raw UTF-8, which is no Latin-1.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        try:
            value = raw_value.decode("utf-8").strip()
        except UnicodeDecodeError:
            value = raw_value.decode("latin-1").strip()
        if name in found:
            found[name] += f", {value}" if name == "content-encoding" else ""
        else:
            found[name] = value
    return found


def _is_whole(status: int, fields: Mapping[str, str]) -> bool:
    """Whether a 206, which nobody asked for, holds the whole photo."""
    match = re.fullmatch(r"bytes 0-(\d+)/(\d+|\*)", fields.get("content-range", ""), re.IGNORECASE)
    return status == 206 and match is not None and match[2] in ("*", str(int(match[1]) + 1))


async def _beginning(response: httpcore2.Response) -> bytes:
    """The first bytes of a refusal's body. A host that does not go on saying why is not waited for."""
    found = bytearray()
    try:
        async with asyncio.timeout(_EXPLANATION_SECONDS):
            async for chunk in response.aiter_stream():
                found += chunk
                if len(found) >= _EXPLANATION_BYTES:
                    break
    except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
        pass
    return bytes(found[:_EXPLANATION_BYTES])


def _refusal(target: httpx2.URL, status: int, fields: Mapping[str, str], explanation: bytes) -> Exception:
    """A status that is no photo, as the error it means."""
    wait = retry_after_seconds(fields)
    message = f"the host answered {status}"
    slow = status in _SLOW_DOWN or (status in (403, 500, 503) and _SLOW_WORDS.search(explanation) is not None)
    if slow or (wait is not None and status not in _FINAL):
        return HostBusy(target.netloc.decode("ascii"), wait)
    if (status >= 500 and status not in _FORBIDDEN) or status in _NOT_NOW:
        return WorldError(ErrorCode.SOURCE_UNAVAILABLE, message)
    if status in _MISSING or status == 414 or (status == 400 and _NO_ADDRESS.search(explanation)):
        return ImageRejected(ErrorCode.SOURCE_NOT_FOUND, message)
    if status in _REDIRECTS:
        return ImageRejected(ErrorCode.SOURCE_NOT_FOUND, f"{message}, a redirect that does not say where")
    # Whatever else a host answers, it does not give us the photo: it is not an address we would never read.
    if _EXPIRED.search(explanation):
        message += ": the link has expired"
    return ImageRejected(ErrorCode.SOURCE_FORBIDDEN, message)


def retry_after_seconds(fields: Mapping[str, str]) -> float | None:
    """What a Retry-After asks for: seconds, or a date by the host's own clock. None: nothing that can be understood."""
    value = fields.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(fields["date"]) if fields.get("date") else datetime.now(UTC)  # noqa: TID251 - a host that sends a date and none of its own: only real ones
        return max(0.0, (_aware(until) - _aware(now)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
