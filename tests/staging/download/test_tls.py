"""Downloads over TLS: the name is proved, whichever address it leads to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from shared.errors import CodedError, ErrorCode
from shared.settings import DownloadLimits
from shared.staging.download import Downloader
from tests.staging.download.parts import (
    BODY,
    MAX,
    PRIVATE,
    PUBLIC,
    PUBLIC_2,
    Authority,
    Internet,
    Names,
    Result,
    Server,
    answer,
    assert_refused,
    assert_unavailable,
    constant,
    moved,
    on_internet,
    outcome,
)


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
