"""Where photos come from: the web, a bucket, or (on one machine) a folder. Implements `shared.ports.ImageSource`."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.errors import ErrorCode, ImageRejected, ObjectDamaged, ObjectTooLarge, SharedPage
from shared.manifest.share_links import direct
from shared.ports import ObjectStore
from shared.staging.download import Downloader


def _photo_itself(uri: str) -> str:
    """The direct address behind a share link. Raises `ImageRejected` for one that leads to a page."""
    try:
        return direct(uri)
    except SharedPage as page:
        message = f"the address is {page.kind}; instead: {page.instead}"
        raise ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, message) from None


class PhotoSource:
    """Fetches by scheme. `folders` are the local ones that may be read, links resolved; none in the cloud."""

    def __init__(self, downloader: Downloader, objects: ObjectStore, folders: Sequence[Path], max_bytes: int) -> None:
        self._downloader = downloader
        self._objects = objects
        self._folders = [folder.resolve() for folder in folders]
        self._max_bytes = max_bytes

    async def fetch(self, uri: str, client: str) -> bytes:
        """See `shared.ports.ImageSource`. `client` was checked against gs:// prefixes when the manifest was read."""
        scheme = uri.partition("://")[0]
        if scheme in ("https", "http"):
            return await self._downloader.fetch(_photo_itself(uri))
        if scheme == "gs":
            return await self._object(uri)
        if scheme == "file" and self._folders:
            return await asyncio.to_thread(self._file, uri)
        raise ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, f"photos are not read from {scheme[:20]} addresses")

    async def _object(self, uri: str) -> bytes:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        stored = await self._objects.stat(bucket, name)
        if stored is not None and stored.bytes > self._max_bytes:
            raise self._too_large()
        try:
            found = await self._objects.get(bucket, name, self._max_bytes) if stored else None
        except ObjectTooLarge:
            raise self._too_large() from None
        except ObjectDamaged as error:
            raise ImageRejected(ErrorCode.NOT_A_PICTURE, str(error)) from None
        if found is None:
            raise ImageRejected(ErrorCode.SOURCE_NOT_FOUND, f"no such object: {uri}")
        return found[1]

    def _file(self, uri: str) -> bytes:
        try:
            # A link may lead out of the folder: what counts is where it ends.
            real = Path(unquote(urlsplit(uri).path)).resolve()
        except (ValueError, OSError, RuntimeError):
            raise ImageRejected(ErrorCode.SOURCE_NOT_FOUND, "the address leads to no file") from None
        if not any(real.is_relative_to(folder) for folder in self._folders):
            raise ImageRejected(ErrorCode.SOURCE_NOT_ALLOWED, "the file is outside the folders photos may come from")
        try:
            if not real.is_file():  # neither folders nor pipes, which would never end
                raise ImageRejected(ErrorCode.SOURCE_NOT_FOUND, "no such file")
            with real.open("rb") as file:
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ENOENT):  # no file can have that name, or it has just gone
                raise ImageRejected(ErrorCode.SOURCE_NOT_FOUND, f"no such file: {error.strerror}") from None
            raise ImageRejected(ErrorCode.SOURCE_FORBIDDEN, f"the file cannot be read: {error.strerror}") from None
        if len(data) > self._max_bytes:
            raise self._too_large()
        return data

    def _too_large(self) -> ImageRejected:
        return ImageRejected(ErrorCode.SOURCE_TOO_LARGE, f"more than {self._max_bytes} bytes")
