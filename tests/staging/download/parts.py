"""Two stages for downloads: a loopback server that misbehaves, and an internet.

On the `Internet` public addresses all end at loopback servers, so that the real rules on addresses are in force and
every connection that is attempted is on record.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.errors import CodedError, ErrorCode, HostBusy, ImageRejected, WorldError
from shared.settings import DownloadLimits
from shared.staging.download import Downloader, resolve

MAX = 10_000
BODY = b"\xff\xd8\xff\xe0 a photo"
PUBLIC, PUBLIC_2, PUBLIC_V6 = "93.184.216.34", "8.8.4.4", "2606:4700::1111"
PRIVATE = "10.0.0.7"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def answer(status: str = "200 OK", body: bytes = BODY, *headers: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    if length and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def moved(location: str, status: str = "302 Found") -> bytes:
    return answer(status, b"", f"Location: {location}")


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


class Server:
    """Answers each request by `replies[path]` (bytes or a script), else by `replies["*"]`."""

    def __init__(self, replies: dict[str, bytes | Script]) -> None:
        self.replies = replies
        self.heads: list[bytes] = []
        self.connections = 0
        self.names: list[str | None] = []  # the SNI of each TLS handshake
        self.port = 0

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]

    def hosts(self) -> list[str]:
        return [
            line[6:].decode() for head in self.heads for line in head.split(b"\r\n") if line[:6].lower() == b"host: "
        ]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            reply = self.replies.get(head.split(b" ")[1].decode(), self.replies.get("*", answer("404 Not Found", b"")))
            if isinstance(reply, bytes):
                writer.write(reply)
                await writer.drain()
            else:
                await reply(reader, writer, head)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None):
        if context is not None:
            context.sni_callback = lambda _, name, __: self.names.append(name)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def local(**changes: Any) -> DownloadLimits:
    values = {"total_seconds": 3.0, "connect_seconds": 1.0, "allow_http": True, "allow_private_addresses": True}
    return DownloadLimits(**{**values, **changes})


def constant(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolver


def outcome(work: Callable[[], Awaitable[object]], seconds: float = 10) -> object:
    """What `work` returns, or the coded error it raises; anything else it raises is a failure of the test."""

    async def main() -> object:
        try:
            async with asyncio.timeout(seconds):
                return await work()
        except (CodedError, HostBusy) as error:
            return error

    return asyncio.run(main())


def fetched(
    replies: dict[str, bytes | Script] | bytes | Script,
    path: str = "/a.jpg",
    limits: DownloadLimits | None = None,
    most: int = MAX,
    url: str = "http://photos.example:{port}{path}",
    server: Server | None = None,
) -> object:
    """The outcome of one download from a loopback server."""
    server = server or Server(replies if isinstance(replies, dict) else {"*": replies})

    async def work() -> object:
        async with server.running():
            downloader = Downloader(limits or local(), most, constant("127.0.0.1"))
            try:
                return await downloader.fetch(url.format(port=server.port, path=path))
            finally:
                await downloader.aclose()

    return outcome(work)


def assert_refused(result: object, code: ErrorCode, kind: type[CodedError] = ImageRejected) -> CodedError:
    assert isinstance(result, kind), result
    assert result.code is code, result
    assert result.message
    assert len(result.message) < 1000
    return result


def assert_unavailable(result: object) -> CodedError:
    return assert_refused(result, ErrorCode.SOURCE_UNAVAILABLE, WorldError)


class Silent:
    """An address that drops every packet."""

    def __init__(self) -> None:
        self.asked = self.cancelled = False

    async def connect(self) -> httpcore2.AsyncNetworkStream:
        self.asked = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError

    @asynccontextmanager
    async def running(self):
        yield self


class Internet(httpcore2.AsyncNetworkBackend):
    """Addresses and what is behind them; every attempt to connect is recorded, and none leaves this machine."""

    def __init__(self, routes: dict[str, Server]) -> None:
        self.routes = routes
        self.attempts: list[tuple[str, int]] = []
        self._real = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.attempts.append((host, port))
        if host not in self.routes:
            raise httpcore2.ConnectError("no route")
        route = self.routes[host]
        if isinstance(route, Silent):
            return await route.connect()
        return await self._real.connect_tcp("127.0.0.1", self.routes[host].port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        raise AssertionError(f"a Unix socket was opened: {path}")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Names:
    """A resolver: each name's answers in turn (the last one for ever); counts the questions."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if host not in self.answers:
            return await self._as_the_system_reads_it(host, port)
        turn = sum(name == host for name, _ in self.asked) - 1
        answers = self.answers[host]
        return answers[min(turn, len(answers) - 1)]

    @staticmethod
    async def _as_the_system_reads_it(host: str, port: int) -> Sequence[str]:
        """Numbers in every spelling and localhost by the real resolver; other names without asking the network."""
        if host.strip(".") != "localhost":
            socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        return await resolve(host, port)


class Result:
    def __init__(self, value: object, internet: Internet, names: Names) -> None:
        self.value = value
        self.attempts = internet.attempts
        self.asked = names.asked


def on_internet(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    names: dict[str, list[list[str]]],
    routes: dict[str, Server] | None = None,
    limits: DownloadLimits | None = None,
) -> Result:
    """One download under the production rules (private addresses refused); plain http unless `limits` say otherwise."""
    routes = {PUBLIC: Server({"*": answer()})} if routes is None else routes
    internet, resolver = Internet(routes), Names(names)
    limits = limits or DownloadLimits(allow_http=True, total_seconds=3.0, connect_seconds=1.0)

    async def work() -> object:
        async with AsyncExitStack() as running:
            for server in dict.fromkeys(routes.values()):  # two addresses may lead to one server
                await running.enter_async_context(server.running())
            with monkeypatch.context() as patched:
                patched.setattr(httpcore2, "AnyIOBackend", lambda: internet)
                downloader = Downloader(limits, MAX, resolver)
            try:
                return await downloader.fetch(url)
            finally:
                await downloader.aclose()

    return Result(outcome(work), internet, resolver)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        own = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self.file = folder / "authority.pem"
        certificate = own.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )

    def context(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for `names`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        certificate = (
            self._builder(subject, key).add_extension(alternatives, critical=False).sign(self._key, hashes.SHA256())
        )
        file = self._folder / f"{names[0]}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context
