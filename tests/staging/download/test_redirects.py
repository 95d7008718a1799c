"""Downloads that are redirected: every hop under the same rules, and not for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.errors import CodedError, ErrorCode, ImageRejected
from tests.staging.download.parts import (
    BODY,
    PRIVATE,
    PUBLIC,
    PUBLIC_2,
    Script,
    Server,
    answer,
    assert_refused,
    fetched,
    local,
    moved,
    on_internet,
)


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
