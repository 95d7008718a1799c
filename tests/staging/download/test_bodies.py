"""Bodies and headers of downloads: too large, cut short, packed, slow, broken."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib

import pytest

from shared.errors import CodedError, ErrorCode
from tests.staging.download.parts import BODY, MAX, answer, assert_refused, assert_unavailable, fetched, local

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
