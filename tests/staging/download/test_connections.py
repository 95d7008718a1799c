"""Downloads over connections that fail, stall or end in the middle."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence

import pytest

from shared.staging.download import Downloader
from tests.staging.download.parts import (
    MAX,
    Server,
    answer,
    assert_unavailable,
    constant,
    fetched,
    local,
    moved,
    outcome,
)


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
