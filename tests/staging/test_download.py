"""Downloads from addresses that customers, or those who attack them, wrote.

Two stages: a loopback server that misbehaves (`Server`), and an `Internet` of public addresses that all end at loopback
servers, so that the real rules on addresses are in force and every connection that is attempted is on record.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ipaddress
import socket
import ssl
import time
import zlib
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
from shared.staging.download import Downloader, by_turns, is_public, resolve

MAX = 10_000
BODY = b"\xff\xd8\xff\xe0 a photo"
PUBLIC, PUBLIC_2, PUBLIC_V6 = "93.184.216.34", "8.8.4.4", "2606:4700::1111"
PRIVATE = "10.0.0.7"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# --- a server that answers what it is told


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


# --- an internet of our own


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


# --- the plain way


def test_a_photo_is_fetched() -> None:
    server = Server({"*": answer()})
    assert fetched({}, "/a/b.jpg?size=2&x=%20#here", server=server) == BODY
    head = server.heads[0].lower()
    assert server.paths == ["/a/b.jpg?size=2&x=%20"]
    assert server.hosts() == [f"photos.example:{server.port}"]
    assert b"accept-encoding: identity\r\n" in head
    for private in (b"cookie", b"authorization", b"referer", b"x-forwarded"):
        assert private not in head


def test_a_chunked_and_an_unmeasured_answer() -> None:
    chunked = answer("200 OK", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    assert fetched(chunked) == b"hello world"
    assert fetched(answer(length=False)) == BODY  # ends with the connection, as HTTP/1.0 does
    assert fetched(b"HTTP/1.0 200 OK\r\n\r\nabc") == b"abc"
    assert_refused(fetched(answer("200 OK", b"")), ErrorCode.NOT_A_PICTURE)


def test_interim_answers_are_skipped() -> None:
    assert fetched(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + answer()) == BODY


def test_unicode_paths_and_names() -> None:
    server = Server({"*": answer()})
    assert fetched({}, "/sala é.jpg?ç=ã", server=server) == BODY
    assert server.paths == ["/sala%20%C3%A9.jpg?%C3%A7=%C3%A3"]
    assert fetched({}, url="http://fotos.são.example:{port}/x", server=server) == BODY
    assert server.hosts()[1].startswith("fotos.xn--so-sia.example:")


def test_the_downloader_is_whole_after_failures_and_keeps_no_connection() -> None:
    async def work() -> object:
        server = Server(
            {"/good": answer(), "/cut": answer("200 OK", b"x", "Content-Length: 9"), "/moved": moved("/good")}
        )
        async with server.running():
            downloader = Downloader(local(), MAX, constant("127.0.0.1"))
            for path in ["/cut", "/missing", "/good", "/moved"] * 5:
                with suppress(CodedError):
                    await downloader.fetch(f"http://photos.example:{server.port}{path}")
            assert not downloader._pool.connections
            result = await downloader.fetch(f"http://photos.example:{server.port}/good")
            await downloader.aclose()
            assert server.connections == len(server.heads), (
                "a connection was used twice: its address was checked for another"
            )
            return result

    assert outcome(work) == BODY


def test_many_at_once() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await asyncio.sleep(0.1)
        writer.write(answer("200 OK", head.split(b" ")[1]))

    async def work() -> object:
        server = Server({"*": slow})
        async with server.running():
            downloader = Downloader(local(), MAX, constant("127.0.0.1"))
            paths = [f"/{number}" for number in range(60)]
            found = await asyncio.gather(
                *(downloader.fetch(f"http://photos.example:{server.port}{path}") for path in paths)
            )
            await downloader.aclose()
            return found == [path.encode() for path in paths]

    assert outcome(work) is True


# --- is_public

NOT_PUBLIC = """
0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.0.0.1 10.255.255.255 100.64.0.0 100.64.0.1 100.100.100.200 100.127.255.255
127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255
172.16.0.0 172.16.0.1 172.31.255.255 192.0.0.0 192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.171
192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.1 192.0.2.255 192.88.99.0 192.88.99.1 192.88.99.2 192.88.99.255
192.168.0.0 192.168.1.1 192.168.255.255 198.18.0.0 198.18.0.1 198.19.255.255 198.51.100.0 198.51.100.7 203.0.113.0
203.0.113.255 224.0.0.0 224.0.0.1 224.0.1.1 232.1.1.1 233.252.0.1 239.255.255.250 239.255.255.255 240.0.0.0 240.0.0.1
254.255.255.255 255.255.255.254 255.255.255.255
:: ::1 ::2 ::ffff ::127.0.0.1 ::8.8.8.8 ::10.0.0.1 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
::ffff:8.8.8.8 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 64:ff9b:: 64:ff9b::1 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::a9fe:a9fe
64:ff9b::808:808 64:ff9b:1:: 64:ff9b:1::1 64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100:: 100::1 100:0:0:1::1 2001:: 2001::1
2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:0:7f00:1:: 2001:1::1 2001:1::2 2001:1::3 2001:2:: 2001:2::1 2001:3::1
2001:4:112::1 2001:10::1 2001:1f:ffff::1 2001:20::1 2001:2f::1 2001:30::1 2001:db8:: 2001:db8::1
2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 2002:: 2002:7f00:1:: 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1
2002:808:808::1 3fff::1 3fff:fff::1 4000::1 5f00::1 8000::1 fc00:: fc00::1 fd00::1 fd00:ec2::254
fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80:: fe80::1 fe80::a00:1 febf:ffff::1 fec0:: fec0::1 feff::1 ff00:: ff01::1
ff02::1 ff02::fb ff05::2 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fe80::1%eth0 fe80::1%1 fe80::1%25eth0 ::1%lo fc00::1%2 ff02::1%eth0 ::ffff:10.0.0.1%1
""".split()
TRULY_PUBLIC = """
1.0.0.1 1.1.1.1 8.8.8.8 9.9.9.9 11.0.0.1 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
142.250.1.1 169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 191.255.255.255 192.0.1.1 192.0.3.1 192.88.98.1
192.88.100.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 198.51.99.1 198.51.101.1 203.0.112.1 203.0.114.1
223.255.255.255 2000::1 2001:200::1 2001:4860:4860::8888 2001:67c:2e8::1 2001:dc0::1 2003::1 2400:cb00::1 2606:4700::1111
2620:fe::fe 2800:3f0::1 2a00:1450::1 2a00:1450:4001::200e 2c0f:fb50::1
""".split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public(address: str) -> None:
    assert is_public(address) is False


@pytest.mark.parametrize("address", TRULY_PUBLIC)
def test_an_address_that_is_public(address: str) -> None:
    assert is_public(address) is True


def test_no_address_wraps_a_private_ipv4_address() -> None:
    """Every way an IPv4 address is written inside an IPv6 one leads nowhere, wherever it points."""
    for inner in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "8.8.8.8"):
        number = int(ipaddress.IPv4Address(inner))
        wrapped = [number, 0xFFFF << 32 | number, 0xFFFF << 48 | number, 0x64FF9B << 96 | number]
        wrapped += [0x64FF9B0001 << 80 | number, 0x2002 << 112 | number << 80, 0x2001 << 112 | (number ^ 0xFFFFFFFF)]
        for value in wrapped:
            assert not is_public(str(ipaddress.IPv6Address(value))), ipaddress.IPv6Address(value)


# --- addresses in the URL

LITERALS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0x7F.0.0.1", "0177.0.0.1",
    "127.0.0.01", "0", "0.0.0.0", "00000000.0.0.0", "127.0.0.1.", "10.0.0.1", "10.1", "167772161", "169.254.169.254",
    "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "0xA9.254.0xa9fe", "192.168.1.1", "100.64.0.1",
    "172.16.0.1", "224.0.0.1", "255.255.255.255", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]",
    "127。0。0。1", "127｡0｡0｡1", "①②⑦.0.0.1", "１２７.0.0.1", "127.0.0.1%00.photos.example", "①⑥⑨.②⑤④.①⑥⑨.②⑤④", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
]  # fmt: skip


@pytest.mark.parametrize("host", LITERALS)
def test_no_spelling_of_a_private_address_is_fetched(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Names are resolved by this very machine here, as in production; nothing may even be attempted."""
    for port in ("", ":80", ":22"):
        result = on_internet(monkeypatch, f"http://{host}{port}/latest/meta-data/", {})
        assert isinstance(result.value, CodedError), result.value
        assert not result.attempts


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost"],
)
def test_the_refusal_is_permanent_and_says_why(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    result = on_internet(monkeypatch, f"http://{host}/", {})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)


def test_the_metadata_server_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metadata.google.internal", "metadata.google.internal.", "METADATA.google.internal", "metadata"):
        result = on_internet(monkeypatch, f"http://{name}/computeMetadata/v1/", {name.lower(): [["169.254.169.254"]]})
        assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
        assert not result.attempts


@pytest.mark.parametrize(
    "addresses", [[PUBLIC, PRIVATE], [PRIVATE, PUBLIC], [PUBLIC, "::1"], [PUBLIC] * 5 + ["127.0.0.1"]]
)
def test_a_name_with_a_public_and_a_private_address(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    result = on_internet(monkeypatch, "http://both.example/", {"both.example": [addresses]})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert not result.attempts


def test_a_name_without_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    result = on_internet(monkeypatch, "http://none.example/", {"none.example": [[]]})
    assert isinstance(result.value, CodedError)
    assert not result.attempts


def test_a_name_that_does_not_resolve() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def work() -> object:
        downloader = Downloader(local(), MAX, unknown)
        try:
            return await downloader.fetch("http://nobody.example/")
        finally:
            await downloader.aclose()

    assert isinstance(outcome(work), WorldError | ImageRejected)


@pytest.mark.parametrize("host", ["a..b", "..", ".example", "a" * 64 + ".example", "a." * 200 + "example", "a" * 300])
def test_names_that_cannot_exist(host: str) -> None:
    """Asked of the real resolver, which finds out before it asks anyone, and says UnicodeError for some, not OSError."""

    async def work() -> object:
        downloader = Downloader(local(total_seconds=5.0), MAX)
        try:
            return await downloader.fetch(f"http://{host}/")
        finally:
            await downloader.aclose()

    assert isinstance(outcome(work), CodedError)


def test_dns_rebinding_between_check_and_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public at the first question, private at the second: there must be no second one."""
    inside = Server({"*": answer("200 OK", b"secret")})
    routes = {PUBLIC: Server({"*": answer()}), PRIVATE: inside, "127.0.0.1": inside}
    result = on_internet(
        monkeypatch, "http://rebind.example/", {"rebind.example": [[PUBLIC], [PRIVATE], ["127.0.0.1"]]}, routes
    )
    assert result.value == BODY
    assert result.asked == [("rebind.example", 80)]
    assert result.attempts == [(PUBLIC, 80)], "the connection goes to the address that was checked, not to the name"
    assert not inside.heads


def test_dns_rebinding_between_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"/": moved("/second"), "/second": answer("200 OK", b"secret")})
    routes = {PUBLIC: server, PRIVATE: server}
    result = on_internet(monkeypatch, "http://rebind.example/", {"rebind.example": [[PUBLIC], [PRIVATE]]}, routes)
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert result.attempts == [(PUBLIC, 80)]
    assert server.paths == ["/"]


def test_the_next_address_is_tried_when_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"photos.example": [[PUBLIC_V6, PUBLIC_2, PUBLIC]]}
    result = on_internet(monkeypatch, "http://photos.example:8080/", names)
    assert result.value == BODY
    assert sorted(result.attempts) == sorted([(PUBLIC_V6, 8080), (PUBLIC_2, 8080), (PUBLIC, 8080)])
    assert len(result.asked) == 1


V6 = [f"2606:4700::{number:x}" for number in range(2, 9)]
V4 = [f"93.184.216.{number}" for number in range(35, 42)]


@pytest.mark.parametrize("dead_v6", range(7))
@pytest.mark.parametrize("dead_v4", range(4))
@pytest.mark.parametrize("alive", [PUBLIC, PUBLIC_V6])
@pytest.mark.parametrize("v6_first", [True, False])
def test_a_living_address_is_found_among_dead_ones(
    monkeypatch: pytest.MonkeyPatch, dead_v6: int, dead_v4: int, alive: str, v6_first: bool
) -> None:
    """Whatever family the resolver puts first, and wherever the living one stands: here always last of its family."""
    v6, v4 = V6[:dead_v6], V4[:dead_v4]
    (v6 if ":" in alive else v4).append(alive)
    names = {"photos.example": [[*v6, *v4] if v6_first else [*v4, *v6]]}
    result = on_internet(monkeypatch, "http://photos.example:8080/", names, {alive: Server({"*": answer()})})
    assert result.value == BODY
    assert (alive, 8080) in result.attempts


def test_an_address_that_does_not_answer_at_all_is_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three addresses drop every packet: the fourth is asked after three quarters of a second, not after 30 s."""
    silent = {address: Silent() for address in V6[:3]}
    names = {"photos.example": [[*V6[:3], PUBLIC]]}
    limits = DownloadLimits(allow_http=True, total_seconds=5.0, connect_seconds=30.0)
    result = on_internet(
        monkeypatch, "http://photos.example:8080/", names, {**silent, PUBLIC: Server({"*": answer()})}, limits
    )
    assert result.value == BODY
    assert len(result.attempts) <= 4
    for server in silent.values():
        assert server.cancelled or not server.asked, "those who lost are let go of"


def test_one_private_address_among_many_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(7):
        addresses = [*V6[:3], *V4[:3]]
        addresses.insert(place, PRIVATE)
        result = on_internet(monkeypatch, "http://photos.example:8080/", {"photos.example": [addresses]})
        assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
        assert result.attempts == []


def test_addresses_are_asked_family_by_family_in_turns() -> None:
    assert by_turns(["a:", "b:", "c:", "1", "2"]) == ["a:", "1", "b:", "2", "c:"]
    assert by_turns(["1", "2", "a:"]) == ["1", "a:", "2"]
    assert by_turns([]) == []


def test_a_public_literal_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"*": answer()})
    result = on_internet(monkeypatch, f"http://[{PUBLIC_V6}]:8080/x", {}, {PUBLIC_V6: server})
    assert result.value == BODY
    assert server.hosts() == [f"[{PUBLIC_V6}]:8080"]
    assert on_internet(monkeypatch, f"http://{PUBLIC}/x", {}).value == BODY


# --- other schemes and other traps in the URL

STRANGE = [
    "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd", "gopher://photos.example:70/_GET", "ftp://photos.example/a",
    "ftps://photos.example/a", "dict://photos.example:11211/stats", "ldap://photos.example/", "ws://photos.example/",
    "wss://photos.example/", "data:image/png;base64,AAAA", "javascript:alert(1)", "jar:http://photos.example!/", "netdoc:///etc/passwd",
    "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/x", "gs://bucket/x", "about:blank", "//photos.example/a",
    "photos.example/a", "/etc/passwd", "", " ", "https", "https:", "https://", "https:///a", "https://?x", "https://#x", "https:photos.example",
    "https:/photos.example/a", "https://:443/", "view-source:https://photos.example/",
]  # fmt: skip


@pytest.mark.parametrize("url", STRANGE)
def test_other_schemes_are_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    result = on_internet(monkeypatch, url, {"photos.example": [[PUBLIC]]})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert not result.attempts


def test_plain_http_only_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = DownloadLimits(total_seconds=3.0)
    for url in ("http://photos.example/", "HTTP://photos.example/"):
        result = on_internet(monkeypatch, url, {"photos.example": [[PUBLIC]]}, limits=strict)
        assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
        assert not result.attempts
    assert on_internet(monkeypatch, "HTTP://photos.example/", {"photos.example": [[PUBLIC]]}).value == BODY


@pytest.mark.parametrize(
    "authority",
    [
        "user@photos.example", "user:secret@photos.example", ":secret@photos.example", ":@photos.example", "photos.example@127.0.0.1",
        "photos.example:80@127.0.0.1", "photos.example%40127.0.0.1:80@127.0.0.1", "a@b@photos.example", "photos.example\\@127.0.0.1",
        "127.0.0.1\\@photos.example",
    ],
)  # fmt: skip
def test_user_names_in_the_address_are_refused(monkeypatch: pytest.MonkeyPatch, authority: str) -> None:
    result = on_internet(monkeypatch, f"http://{authority}/", {"photos.example": [[PUBLIC]]})
    error = assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert "secret" not in error.message
    assert not result.attempts


@pytest.mark.parametrize(
    "url",
    [
        "http://photos.example/\r\nX-Evil: 1", "http://photos.example/a\r\n\r\nGET /b HTTP/1.1", "http://photos.example\r\nX-Evil: 1/",
        "http://photos.example/\n", "http://photos.example/\x00", "http://photos.example/?a=\r\nb", "http://photos.example/\t/a",
        "http://photos.example/a#\r\nX: y", "http://photos\texample/", "http://photos.example:80\r\n/", "\nhttp://photos.example/",
        "http://photos.example/\x7f",
    ],
)  # fmt: skip
def test_no_header_is_smuggled_in_by_the_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    server = Server({"*": answer()})
    result = on_internet(monkeypatch, url, {"photos.example": [[PUBLIC]]}, {PUBLIC: server})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert not server.heads


@pytest.mark.parametrize(
    "tail", ["%0d%0aX-Evil:%201", "%0D%0A%0D%0AGET%20/b", "\u2028X: 1", "\u010d\u010aX: 1", "%00", "\u560d\u560aX: 1"]
)
def test_what_looks_like_a_line_end_stays_escaped(monkeypatch: pytest.MonkeyPatch, tail: str) -> None:
    server = Server({"*": answer()})
    on_internet(monkeypatch, f"http://photos.example/{tail}", {"photos.example": [[PUBLIC]]}, {PUBLIC: server})
    for head in server.heads:
        assert head.count(b"\r\n\r\n") == 1
        assert not any(line.lower().startswith(b"x") for line in head.split(b"\r\n"))
    assert len(server.heads) == 1


def test_escaped_line_ends_in_a_host_do_not_reach_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("photos.example%0d%0aX-Evil:%201", "photos.example%0d%0ax-evil", "photos.example%20http%0ax-evil"):
        server = Server({"*": answer()})
        on_internet(monkeypatch, f"http://{host}/", {host.lower(): [[PUBLIC]]}, {PUBLIC: server})
        assert not any(line.lower().startswith(b"x-evil") for head in server.heads for line in head.split(b"\r\n"))


PORTS = ["0", "-1", "65536", "99999", "9" * 24, "80x", "x", "8 0", "+80", "8_0", "٨٠", "0x50", "80:80", "1e3"]


@pytest.mark.parametrize("port", PORTS)
def test_ports_that_do_not_exist(port: str) -> None:
    """With no connection made up: the real network code has to cope with what is passed to it."""

    async def work() -> object:
        downloader = Downloader(local(connect_seconds=0.5), MAX, constant("127.0.0.1"))
        try:
            return await downloader.fetch(f"http://photos.example:{port}/a.jpg")
        finally:
            await downloader.aclose()

    assert isinstance(outcome(work), CodedError)


@pytest.mark.parametrize(
    "url",
    ["http://photos.example/\udcff", "http://photos.example/?\ud800", "http://\udcff.example/", "http://photos.example/" + "a" * 70_000,
     "http://[::1", "http://[]/", "http://[photos.example]/", "http://1.2.3.256/", "http://1.2.3.4.5/", "http://photos..example/",
     "http://[v1.x]/", "http://[::1]x/", "http://exa<mple/", "http://photos.example:/", "http://\u2488.example/"],
)  # fmt: skip
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    result = on_internet(monkeypatch, url, {"photos.example": [[PUBLIC]]})
    assert isinstance(result.value, CodedError | bytes)
    if "example:/" not in url:
        assert isinstance(result.value, CodedError)


# --- redirects


def test_redirects_are_followed_five_times() -> None:
    replies: dict[str, bytes | Script] = {f"/{n}": moved(f"/{n + 1}") for n in range(10)}
    for status in (
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ):
        assert fetched({"/a.jpg": moved("/b", status), "/b": answer()}) == BODY
    server = Server({**replies, "/5": answer()})
    assert fetched({}, "/0", server=server) == BODY
    assert server.paths == ["/0", "/1", "/2", "/3", "/4", "/5"]
    server = Server({**replies, "/6": answer()})
    assert_refused(fetched({}, "/0", server=server), ErrorCode.SOURCE_NOT_ALLOWED)
    assert server.paths == ["/0", "/1", "/2", "/3", "/4", "/5"]
    assert_refused(fetched({}, "/0", local(max_redirects=0), server=Server(replies)), ErrorCode.SOURCE_NOT_ALLOWED)


def test_a_loop_of_redirects_ends() -> None:
    for location in ("/a.jpg", "", "?", "#x", ".", "http:", "//"):
        server = Server({"*": moved(location)})
        assert isinstance(fetched({}, server=server), ImageRejected)
        assert len(server.heads) <= 6


def test_relative_redirects() -> None:
    for location, path in (
        ("b.jpg", "/x/b.jpg"),
        ("../b.jpg", "/b.jpg"),
        ("/b.jpg", "/b.jpg"),
        ("?b=1", "/x/a.jpg?b=1"),
        ("../../../b.jpg", "/b.jpg"),
    ):
        server = Server({"/x/a.jpg": moved(location), path: answer()})
        assert fetched({}, "/x/a.jpg", server=server) == BODY
        assert server.paths[-1] == path


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://[::1]/", "http://[::ffff:10.0.0.7]/",
     "http://169.254.169.254/latest/meta-data/", "http://inside.example/", "//inside.example/", "//127.0.0.1/", "http://localhost/"],
)  # fmt: skip
def test_a_redirect_into_our_network(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    inside = Server({"*": answer("200 OK", b"secret")})
    routes = {
        PUBLIC: Server({"*": moved(target)}),
        PRIVATE: inside,
        "127.0.0.1": inside,
        "::1": inside,
        "169.254.169.254": inside,
    }
    names = {"photos.example": [[PUBLIC]], "inside.example": [[PRIVATE]]}
    result = on_internet(monkeypatch, "http://photos.example/", names, routes)
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert result.attempts == [(PUBLIC, 80)]
    assert not inside.heads


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "FILE:///etc/passwd", "gopher://photos.example/", "ftp://photos.example/", "data:image/png,x", "unix:///run/x",
     "http://user:pw@photos.example/", "javascript:1", "gs://bucket/x", "https://", "http://@@photos.example/"],
)  # fmt: skip
def test_a_redirect_to_another_scheme(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    server = Server({"/": moved(target), "*": answer("200 OK", b"secret")})
    result = on_internet(monkeypatch, "http://photos.example/", {"photos.example": [[PUBLIC]]}, {PUBLIC: server})
    assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
    assert server.paths == ["/"]


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://photos.example:b/", "http://1.2.3.999/", "http://photos.example/\x01", "http://photos.example/\tb", "http://xn--\xff/",
     "http://\xff\xfe/", "http://[]/", "http://photos.example:99999/", "http://photos.example:-1/", "http://" + "a" * 64 + ".example/", "\xa0", "http://a..b/",
     "http://photos.example/" + "a" * 66_000, ":", "http://:80/", "::::"],
)  # fmt: skip
def test_a_redirect_to_nonsense_is_a_coded_error(location: str) -> None:
    """The host wrote it: whatever it is, it must not look like a bug of ours."""
    assert isinstance(fetched({"/a.jpg": moved(location), "*": answer("404 Not Found")}), CodedError)


def test_a_redirect_without_a_location() -> None:
    server = Server({"*": answer("302 Found", b"")})
    assert isinstance(fetched({}, server=server), ImageRejected)


def test_a_redirects_body_is_not_waited_for() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /good\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            writer.write(bytes(1000))
            await writer.drain()
            await asyncio.sleep(0.01)

    started = time.monotonic()
    assert fetched({"/a.jpg": endless, "/good": answer()}) == BODY
    assert time.monotonic() - started < 2


def test_every_hop_is_resolved_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {PUBLIC: Server({"*": moved("http://two.example:8080/x")}), PUBLIC_2: Server({"*": answer()})}
    names = {"one.example": [[PUBLIC]], "two.example": [[PUBLIC_2]]}
    result = on_internet(monkeypatch, "http://one.example/", names, routes)
    assert result.value == BODY
    assert result.asked == [("one.example", 80), ("two.example", 8080)]
    assert result.attempts == [(PUBLIC, 80), (PUBLIC_2, 8080)]
    assert routes[PUBLIC_2].hosts() == ["two.example:8080"]


# --- status codes


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, ErrorCode.SOURCE_NOT_FOUND, ImageRejected),
        (410, ErrorCode.SOURCE_NOT_FOUND, ImageRejected),
        (401, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (403, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (407, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (451, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (408, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (425, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (202, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (206, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (304, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (409, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (421, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (423, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (204, ErrorCode.SOURCE_NOT_FOUND, ImageRejected),
        (205, ErrorCode.SOURCE_NOT_FOUND, ImageRejected),
        (302, ErrorCode.SOURCE_NOT_FOUND, ImageRejected),
        (400, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (402, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (405, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (406, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (419, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (440, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (498, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (499, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (511, ErrorCode.SOURCE_FORBIDDEN, ImageRejected),
        (500, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (502, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (503, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (504, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
        (520, ErrorCode.SOURCE_UNAVAILABLE, WorldError),
    ],
)
def test_status_codes(status: int, code: ErrorCode, kind: type[CodedError]) -> None:
    reply = answer(f"{status} Whatever") if status not in (204, 205, 304) else f"HTTP/1.1 {status} X\r\n\r\n".encode()
    error = assert_refused(fetched(reply), code, kind)
    assert str(status) in error.message


@pytest.mark.parametrize("status", sorted(set(range(200, 600)) - {200, 203, 204, 205, 304}))
def test_every_status_has_its_meaning(status: int) -> None:
    """No status is "an address we never read from", whatever the host answers, and none is a bug."""
    error = fetched(answer(f"{status} Whatever"))
    assert isinstance(error, CodedError | HostBusy), (status, error)
    if isinstance(error, CodedError):
        assert error.code in (ErrorCode.SOURCE_NOT_FOUND, ErrorCode.SOURCE_FORBIDDEN, ErrorCode.SOURCE_UNAVAILABLE)
        assert isinstance(error, WorldError) is (error.code is ErrorCode.SOURCE_UNAVAILABLE)
        assert str(status) in error.message


def test_a_proxys_copy_is_a_photo_and_so_is_a_whole_range() -> None:
    assert fetched(answer("203 Non-Authoritative Information")) == BODY
    whole = f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}"
    assert fetched(answer("206 Partial Content", BODY, whole)) == BODY
    part = f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY) + 1}"
    assert_unavailable(fetched(answer("206 Partial Content", BODY, part)))


EXPIRED = [
    b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>Invalid argument.</Message></Error>",
    b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
    b"<Error><Code>AuthenticationFailed</Code><Message>Signature not valid in the specified time frame</Message></Error>",
    b'{"error": "link expired"}',
]


@pytest.mark.parametrize("body", EXPIRED)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_signed_link_that_has_expired_is_said_to_be(status: int, body: bytes) -> None:
    error = assert_refused(fetched(answer(f"{status} Whatever", body)), ErrorCode.SOURCE_FORBIDDEN)
    assert error.message == f"the host answered {status}: the link has expired"


WAITS = [
    ("Retry-After: 7", 7.0), ("Retry-After: 0", 0.0), ("Retry-After: 2.5", 2.5), ("Retry-After:   30  ", 30.0),
    ("Date: Mon, 30 Nov 2026 10:00:00 GMT\r\nRetry-After: Mon, 30 Nov 2026 10:01:30 GMT", 90.0),
    ("Date: Mon, 30 Nov 2026 10:00:00 GMT\r\nRetry-After: Monday, 30-Nov-26 10:00:05 GMT", 5.0),
    ("Date: Mon, 30 Nov 2026 10:00:00 GMT\r\nRetry-After: Mon, 30 Nov 2026 09:00:00 GMT", 0.0),
    ("Retry-After: soon", None), ("Retry-After: -5", None), ("Retry-After: ", None), ("X: y", None),
    ("Retry-After: 99999999999999999999", None), ("Retry-After: NaN", None),
]  # fmt: skip


@pytest.mark.parametrize(("header", "seconds"), WAITS)
def test_a_hosts_limit_is_no_failure(header: str, seconds: float | None) -> None:
    busy = fetched(answer("429 Too Many Requests", b"", header))
    assert isinstance(busy, HostBusy)
    assert busy.retry_after_seconds == seconds
    assert isinstance(fetched(answer("529 Overloaded", b"", header)), HostBusy)
    for status in (408, 425, 500, 503, 520):
        result = fetched(answer(f"{status} Not Now", b"", header))
        if seconds is None:
            assert_unavailable(result)
        else:
            assert isinstance(result, HostBusy)


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "image/webp", "image/heic"])
def test_a_host_that_negotiates_is_told_what_we_read(kind: str) -> None:
    server = Server({"*": answer()})
    fetched({}, server=server)
    accept = next(line for line in server.heads[0].decode().split("\r\n") if line.startswith("Accept:"))
    assert kind in accept
    assert "*/*" in accept
    assert "avif" not in accept, "what cannot be read is not asked for"


def test_a_406_is_asked_once_more_for_anything() -> None:
    replies = iter([answer("406 Not Acceptable"), answer()])

    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: bytes) -> None:
        writer.write(next(replies))

    server = Server({"*": reply})
    assert fetched({}, server=server) == BODY
    assert b"\r\nAccept: */*\r\n" in server.heads[1]


def test_the_user_agent_names_a_contact() -> None:
    server = Server({"*": answer()})
    fetched({}, "/a.jpg", local(contact="ops@ruum.example"), server=server)
    assert b"\r\nUser-Agent: RuumBatch/1.0 (+ops@ruum.example)\r\n" in server.heads[0]


# --- bodies


def test_the_byte_limit_is_exact() -> None:
    assert fetched(answer("200 OK", bytes(MAX))) == bytes(MAX)
    assert_refused(fetched(answer("200 OK", bytes(MAX + 1))), ErrorCode.SOURCE_TOO_LARGE)
    assert_refused(fetched(answer("200 OK", bytes(MAX + 1), length=False)), ErrorCode.SOURCE_TOO_LARGE)


def test_a_length_that_is_too_much_is_refused_before_the_body() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n")
        await asyncio.sleep(5)

    started = time.monotonic()
    assert_refused(fetched(silent), ErrorCode.SOURCE_TOO_LARGE)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("chunked", [False, True])
def test_an_endless_body_is_cut_at_the_limit_while_streaming(chunked: bool) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n" if chunked else b"") + b"\r\n")
        piece = bytes(4096)
        while True:
            writer.write(b"1000\r\n" + piece + b"\r\n" if chunked else piece)
            await writer.drain()
            sent += len(piece)

    started = time.monotonic()
    assert_refused(fetched(endless), ErrorCode.SOURCE_TOO_LARGE)
    assert time.monotonic() - started < 2
    assert sent < 20_000_000, "what the socket buffers hold, no more"


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, "-3", "+3", "0x3", "1_0", "3, 4", "3;4", "3 4", "three", "٣", "1e1", ""],
    ids=lambda value: value[:8] or "empty",
)
def test_a_length_that_is_no_number(value: str) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: " + value.encode() + b"\r\n\r\nabc"
    result = fetched(reply)
    assert isinstance(result, CodedError), result


def test_lengths_that_contradict_each_other() -> None:
    two = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"
    assert_unavailable(fetched(two))


def test_a_body_shorter_than_its_length_is_no_photo() -> None:
    assert_unavailable(fetched(answer("200 OK", b"abc", "Content-Length: 30")))


def test_a_body_longer_than_its_length_ends_there() -> None:
    assert fetched(answer("200 OK", b"abcdef", "Content-Length: 3")) == b"abc"


def test_a_cut_chunked_body_is_no_photo() -> None:
    for body in (
        b"5\r\nhel",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"zz\r\nhello",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFFFFFFF\r\nx",
    ):
        assert_unavailable(fetched(answer("200 OK", body, "Transfer-Encoding: chunked")))


NO_CODINGS = [
    "",
    "identity",
    "Identity",
    "utf-8",
    "UTF-8",
    "binary",
    "none",
    "null",
    "image/jpeg",
    "8bit",
    "base64",
    ",",
    "aws-chunked",
]
GZIPPED = gzip.compress(BODY)
CODED = [
    ("gzip", GZIPPED), ("GZIP", GZIPPED), ("x-gzip", GZIPPED), ("identity, gzip", GZIPPED), ("gzip, identity", GZIPPED),
    ("aws-chunked,gzip", GZIPPED), ("deflate", zlib.compress(BODY)), ("deflate", zlib.compress(BODY)[2:-4]),
    ("gzip, gzip", gzip.compress(GZIPPED)), ("deflate, gzip", gzip.compress(zlib.compress(BODY))),
    ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])), ("gzip", GZIPPED + bytes(100)),
]  # fmt: skip


@pytest.mark.parametrize("coding", NO_CODINGS)
def test_an_encoding_that_names_no_compression_is_none(coding: str) -> None:
    assert fetched(answer("200 OK", BODY, f"Content-Encoding: {coding}")) == BODY


@pytest.mark.parametrize(("coding", "body"), CODED, ids=range(len(CODED)))  # gzip notes the time
def test_a_compressed_answer_is_unpacked_although_nobody_asked_for_it(coding: str, body: bytes) -> None:
    assert fetched(answer("200 OK", body, f"Content-Encoding: {coding}")) == BODY


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br", "compress"])
def test_a_photo_that_is_labelled_compressed_and_is_not_is_a_photo(coding: str) -> None:
    assert fetched(answer("200 OK", BODY, f"Content-Encoding: {coding}")) == BODY


def test_encodings_in_two_headers_are_one_list() -> None:
    twice = ("Content-Encoding: gzip", "Content-Encoding: gzip")
    assert fetched(answer("200 OK", gzip.compress(GZIPPED), *twice)) == BODY
    for headers in (twice[0], "Content-Encoding: identity"), ("Content-Encoding: identity", twice[0]):
        assert fetched(answer("200 OK", GZIPPED, *headers)) == BODY


@pytest.mark.parametrize("coding", ["br", "zstd", "compress"])
def test_a_compression_we_cannot_read_is_named(coding: str) -> None:
    error = assert_refused(
        fetched(answer("200 OK", b"\x8b\x02\x80nonsense, packed", f"Content-Encoding: {coding}")),
        ErrorCode.NOT_A_PICTURE,
    )
    assert coding in error.message


def test_compression_that_is_damaged_or_without_end_is_refused() -> None:
    for cut in (1, 5, 12, len(GZIPPED) - 12):
        body = GZIPPED[:-cut] if cut < len(GZIPPED) - 12 else GZIPPED[:12]
        assert_refused(fetched(answer("200 OK", body, "Content-Encoding: gzip")), ErrorCode.NOT_A_PICTURE)
    many = ", ".join(["gzip"] * 4)
    assert_refused(fetched(answer("200 OK", GZIPPED, f"Content-Encoding: {many}")), ErrorCode.NOT_A_PICTURE)


def test_a_compressed_transfer_is_refused() -> None:
    body = gzip.compress(BODY)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert isinstance(fetched(answer("200 OK", chunked, "Transfer-Encoding: gzip, chunked")), CodedError)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_gzip_bomb_is_refused_at_the_limit(layers: int) -> None:
    bomb = bytes(50_000_000)
    for _ in range(layers):
        bomb = gzip.compress(bomb, 9)
    coding = ", ".join(["gzip"] * layers)
    result = fetched(answer("200 OK", bomb, f"Content-Encoding: {coding}"), most=100_000)
    assert_refused(result, ErrorCode.SOURCE_TOO_LARGE)
    assert fetched(answer("200 OK", bomb), most=100_000) == bomb  # nobody said so: bytes like any others


def test_identity_said_aloud_is_fine() -> None:
    for value in ("identity", "Identity", " identity "):
        assert fetched(answer("200 OK", BODY, f"Content-Encoding: {value}")) == BODY


# --- headers


def test_huge_headers_are_refused() -> None:
    started = time.monotonic()
    assert_unavailable(fetched(answer("200 OK", BODY, "X-Long: " + "y" * 5_000_000)))
    assert_unavailable(fetched(answer("200 OK", BODY, *[f"X-{n}: y" for n in range(100_000)])))
    assert time.monotonic() - started < 5


def test_headers_without_end_are_cut() -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-More: yes\r\n" * 100)
            await writer.drain()
            sent += 1300

    assert_unavailable(fetched(endless))
    assert sent < 20_000_000


def test_interim_answers_without_end_are_cut_by_the_deadline() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    assert_unavailable(fetched(endless, limits=local(total_seconds=0.4)))


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"220 smtp.example ESMTP\r\n", b"+OK ready\r\n", b"-ERR unknown command\r\n$-1\r\n", bytes(100),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", b"<html>HTTP/0.9</html>",
        b"HTTP/1.1 200 OK\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\x12\x04\0\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_answers_that_are_not_http(reply: bytes) -> None:
    assert_unavailable(fetched(reply))


# --- connections that fail


def test_a_refused_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    async def work() -> object:
        downloader = Downloader(local(), MAX, constant("127.0.0.1"))
        try:
            return await downloader.fetch(f"http://photos.example:{port}/")
        finally:
            await downloader.aclose()

    assert_unavailable(outcome(work))


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\n", answer("200 OK", b"abc", "Content-Length: 1000")])
def test_a_reset_in_the_middle(beginning: bytes) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(beginning)
        await writer.drain()
        await asyncio.sleep(0.05)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    assert_unavailable(fetched(reset))


def test_silence_after_the_connection() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await asyncio.sleep(5)

    started = time.monotonic()
    assert_unavailable(fetched(silent, limits=local(total_seconds=0.4)))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("where", ["status", "headers", "body", "chunks"])
def test_a_slow_drip_ends_at_the_total_deadline(where: str) -> None:
    """Each byte comes well within any read time-out; only the total one ends it."""
    beginning, drip = {
        "status": (b"", b"H"),
        "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"z"),
        "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nz\r\n"),
    }[where]

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(beginning)
        while True:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(0.03)

    started = time.monotonic()
    result = fetched(dripping, limits=local(total_seconds=0.5))
    assert_unavailable(result)
    assert 0.4 < time.monotonic() - started < 2


def test_redirects_share_one_deadline() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await asyncio.sleep(0.35)
        writer.write(moved(head.split(b" ")[1].decode() + "x"))

    started = time.monotonic()
    assert_unavailable(fetched(slowly, limits=local(total_seconds=0.6)))
    assert time.monotonic() - started < 1.2


def test_a_slow_resolver_is_within_the_deadline() -> None:
    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(5)
        return ["127.0.0.1"]

    async def work() -> object:
        downloader = Downloader(local(total_seconds=0.3), MAX, slow)
        try:
            return await downloader.fetch("http://photos.example/")
        finally:
            await downloader.aclose()

    started = time.monotonic()
    assert_unavailable(outcome(work))
    assert time.monotonic() - started < 1.5


def test_a_cancelled_download_leaves_no_connection() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        await reader.read()  # until the other side closes

    async def work() -> object:
        server = Server({"*": silent})
        async with server.running():
            downloader = Downloader(local(total_seconds=60), MAX, constant("127.0.0.1"))
            task = asyncio.create_task(downloader.fetch(f"http://photos.example:{server.port}/"))
            while not server.heads:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not downloader._pool.connections
            await downloader.aclose()
            return True

    assert outcome(work) is True


# --- the environment


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Server({"*": answer("200 OK", b"from the proxy")})
    server = Server({"*": answer()})

    async def work() -> object:
        async with proxy.running(), server.running():
            for name in PROXIES[:3]:
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
                monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
            downloader = Downloader(local(), MAX, constant("127.0.0.1"))
            try:
                return await downloader.fetch(f"http://photos.example:{server.port}/")
            finally:
                await downloader.aclose()

    assert outcome(work) == BODY
    assert proxy.connections == 0


def test_passwords_of_a_netrc_are_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server = Server({"*": answer()})
    assert fetched({}, server=server) == BODY
    assert b"authorization" not in server.heads[0].lower()


# --- TLS


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


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def by_tls(
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    context: ssl.SSLContext,
    url: str,
    names: dict[str, list[list[str]]],
    trusted: Path | None,
    routes: Sequence[str] = (PUBLIC,),
) -> Result:
    """One download over https under the production rules; `trusted` is the authority the client believes in."""
    if trusted is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    internet, resolver = Internet(dict.fromkeys(routes, server)), Names(names)

    async def work() -> object:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's side of failed handshakes
        async with server.running(context):
            with monkeypatch.context() as patched:
                patched.setattr(httpcore2, "AnyIOBackend", lambda: internet)
                downloader = Downloader(DownloadLimits(total_seconds=3.0, connect_seconds=2.0), MAX, resolver)
            try:
                return await downloader.fetch(url)
            finally:
                await downloader.aclose()

    return Result(outcome(work), internet, resolver)


def test_tls_keeps_the_name_while_the_connection_goes_to_the_address(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    server = Server({"*": answer()})
    context = authority.context("photos.example")
    names = {"photos.example": [[PUBLIC], [PRIVATE]]}
    result = by_tls(monkeypatch, server, context, "https://photos.example/a.jpg", names, authority.file)
    assert result.value == BODY
    assert server.names == ["photos.example"]
    assert server.hosts() == ["photos.example"]
    assert result.attempts == [(PUBLIC, 443)]
    assert len(result.asked) == 1


def test_a_certificate_for_another_name_is_refused(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    server = Server({"*": answer()})
    context = authority.context("other.example")
    result = by_tls(
        monkeypatch, server, context, "https://photos.example/", {"photos.example": [[PUBLIC]]}, authority.file
    )
    assert isinstance(result.value, CodedError)
    assert result.value.code.startswith("source_")
    assert not server.heads, "nothing is said to a stranger"


def test_a_certificate_of_an_unknown_authority_is_refused(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    server = Server({"*": answer()})
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = authority.context("photos.example")
    result = by_tls(monkeypatch, server, context, "https://photos.example/", {"photos.example": [[PUBLIC]]}, None)
    assert isinstance(result.value, CodedError)
    assert not server.heads


def test_https_where_http_is_spoken(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    result = on_internet(monkeypatch, "https://photos.example/", {"photos.example": [[PUBLIC]]})
    assert_unavailable(result.value)


def test_a_redirect_from_https_to_http_is_refused(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    names = {"photos.example": [[PUBLIC]]}
    for target in ("http://photos.example/b.jpg", "HTTP://photos.example/b.jpg", "http://photos.example:443/b.jpg"):
        server = Server({"/a.jpg": moved(target), "*": answer()})
        context = authority.context("photos.example")
        result = by_tls(monkeypatch, server, context, "https://photos.example/a.jpg", names, authority.file)
        assert_refused(result.value, ErrorCode.SOURCE_NOT_ALLOWED)
        assert server.paths == ["/a.jpg"]


def test_a_redirect_over_tls_is_followed_with_the_new_name(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    server = Server({"/a.jpg": moved("https://cdn.example/b.jpg"), "/b.jpg": answer()})
    context = authority.context("photos.example", "cdn.example")
    names = {"photos.example": [[PUBLIC]], "cdn.example": [[PUBLIC_2]]}
    result = by_tls(
        monkeypatch, server, context, "https://photos.example/a.jpg", names, authority.file, routes=(PUBLIC, PUBLIC_2)
    )
    assert result.value == BODY
    assert server.names == ["photos.example", "cdn.example"]
    assert server.hosts() == ["photos.example", "cdn.example"]
    assert result.attempts == [(PUBLIC, 443), (PUBLIC_2, 443)]


def test_a_name_with_a_dot_at_its_end_is_the_same_name(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """Fully qualified, as some CDNs' links are; whatever comes of it, it is coded."""
    server = Server({"*": answer()})
    context = authority.context("photos.example")
    result = by_tls(
        monkeypatch, server, context, "https://photos.example./", {"photos.example.": [[PUBLIC]]}, authority.file
    )
    assert result.value == BODY or isinstance(result.value, CodedError)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "photos..example", "a b.example", "x_y.example"])
def test_names_that_tls_cannot_carry(monkeypatch: pytest.MonkeyPatch, authority: Authority, host: str) -> None:
    """A resolver may answer what TLS then refuses to put into its handshake."""
    server = Server({"*": answer()})
    context = authority.context("photos.example")
    names = {name: [[PUBLIC]] for name in (host, host.replace(" ", "%20"))}
    result = by_tls(monkeypatch, server, context, f"https://{host}/", names, authority.file)
    assert isinstance(result.value, CodedError)


def test_the_trust_store_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust store holds some 150 certificates: read once per process, not once per photo."""
    made = 0
    real = ssl.SSLContext.load_verify_locations

    def counted(self: ssl.SSLContext, *arguments: Any, **named: Any) -> None:
        nonlocal made
        made += 1
        real(self, *arguments, **named)

    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)

    async def slammed(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    door = Server({})
    internet = Internet({PUBLIC: door})

    async def work() -> object:
        with monkeypatch.context() as patched:
            patched.setattr(httpcore2, "AnyIOBackend", lambda: internet)
            downloader = Downloader(DownloadLimits(total_seconds=2.0, connect_seconds=1.0), MAX, constant(PUBLIC))
        async with await asyncio.start_server(slammed, "127.0.0.1", 0) as server:
            door.port = server.sockets[0].getsockname()[1]
            for _ in range(4):
                with suppress(CodedError):
                    await downloader.fetch("https://photos.example/")
        await downloader.aclose()
        return True

    assert outcome(work) is True
    assert len(internet.attempts) == 4
    assert made <= 1, f"the trust store was read {made} times for 4 photos"
