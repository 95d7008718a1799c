"""The photo host of the field, asked by the real downloader and by the real room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ErrorCode, HostBusy, ImageRejected
from shared.settings import DownloadLimits
from shared.staging.download import Downloader
from tests.field import picture_parts
from tests.field.servers import served

PHOTO = picture_parts.jpeg(picture_parts.scene())
LIMITS = DownloadLimits(allow_http=True, allow_private_addresses=True)
MAX = 40 * 1024 * 1024


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    photo: Path = tmp_path_factory.mktemp("host") / "room.jpg"
    photo.write_bytes(PHOTO)
    with served("photo_host.py", str(photo)) as address:
        yield address


def fetched(url: str, most: int = MAX) -> bytes:
    async def main() -> bytes:
        downloader = Downloader(LIMITS, most)
        try:
            return await downloader.fetch(url)
        finally:
            await downloader.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "case",
    [
        "encoding-empty",
        "encoding-utf-8",
        "encoding-binary",
        "encoding-none",
        "encoding-gzip",
        "moved-utf-8",
        "negotiates",
    ],
)
def test_a_photo_is_fetched(host: str, case: str) -> None:
    assert fetched(f"{host}/{case}/a.jpg") == PHOTO


def test_what_grows_beyond_the_limit_is_too_large(host: str) -> None:
    with pytest.raises(ImageRejected) as refused:
        fetched(f"{host}/encoding-gzip/a.jpg", len(PHOTO) - 1)
    assert refused.value.code is ErrorCode.SOURCE_TOO_LARGE


def test_an_expired_signature_is_not_for_us(host: str) -> None:
    with pytest.raises(ImageRejected, match="expired") as refused:
        fetched(f"{host}/signature-expired/a.jpg")
    assert refused.value.code is ErrorCode.SOURCE_FORBIDDEN


def test_the_hosts_limit_is_a_wait(host: str) -> None:
    answers: list[bytes | HostBusy] = []
    for number in range(5):
        try:
            answers.append(fetched(f"{host}/limited/{number}.jpg"))
        except HostBusy as busy:
            answers.append(busy)
    assert answers[:3] == [PHOTO] * 3
    for busy in answers[3:]:
        assert isinstance(busy, HostBusy)
        assert 1 <= (busy.retry_after_seconds or 0) <= 13
