"""Downloads from URLs that attackers wrote: other schemes, strange ports and other traps."""

from __future__ import annotations

import pytest

from shared.errors import CodedError, ErrorCode
from shared.settings import DownloadLimits
from shared.staging.download import Downloader
from tests.staging.download.parts import (
    BODY,
    MAX,
    PUBLIC,
    Server,
    answer,
    assert_refused,
    constant,
    local,
    on_internet,
    outcome,
)

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
