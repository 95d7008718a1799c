"""Downloads in the plain way, and through the environment of a machine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from shared.errors import CodedError, ErrorCode
from shared.staging.download import Downloader
from tests.staging.download.parts import (
    BODY,
    MAX,
    PROXIES,
    Server,
    answer,
    assert_refused,
    constant,
    fetched,
    local,
    moved,
    outcome,
)

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
