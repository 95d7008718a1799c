"""What each status code of a photo host means: try again, wait, or refused."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import CodedError, ErrorCode, HostBusy, ImageRejected, WorldError
from tests.staging.download.parts import BODY, Server, answer, assert_refused, assert_unavailable, fetched, local


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
