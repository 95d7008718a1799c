"""Where photos come from: whatever an address says, only the web, allowed buckets and allowed folders are read."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.adapters.system_clock import SystemClock
from shared.assembly.wiring import Embedded, embedded
from shared.errors import CodedError, ErrorCode, ImageRejected, ObjectTooLarge
from shared.manifest.sources import SourceRules, resolve
from shared.ports import StoredObject
from shared.settings import DownloadLimits
from shared.staging.download import Downloader
from shared.staging.photo_source import PhotoSource

MAX = 100
SECRET = b"secret"


class Web:
    """Stands for the downloader; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        return b"from the web"


class Photos:
    """A folder of photos beside what must not be read, and a source that may read the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "photos"
        self.folder.mkdir()
        (self.folder / "a.jpg").write_bytes(b"a")
        (self.folder / "deep" / "er").mkdir(parents=True)
        (self.folder / "deep" / "er" / "b.jpg").write_bytes(b"b")
        (root / "secret.txt").write_bytes(SECRET)
        (root / "photos-of-others").mkdir()
        (root / "photos-of-others" / "x.jpg").write_bytes(SECRET)
        self.web = Web()
        self.backend = embedded(SystemClock())
        self.source = self.of([self.folder])

    def of(self, folders: Sequence[Path], objects: Any = None, most: int = MAX) -> PhotoSource:
        return PhotoSource(self.web, objects or self.backend.objects, folders, most)

    def uri(self, tail: str) -> str:
        return self.folder.as_uri() + "/" + tail


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Photos]:
    made = Photos(tmp_path)
    yield made
    close(made.backend)


def close(backend: Embedded) -> None:
    closing = getattr(backend.database, "close", None)
    if closing is not None:
        closing()


def fetched(source: PhotoSource, uri: str, seconds: float = 3) -> bytes | CodedError:
    async def main() -> bytes | CodedError:
        try:
            return await asyncio.wait_for(source.fetch(uri, "acme"), seconds)
        except CodedError as error:
            return error

    return asyncio.run(main())


def assert_refused(result: object, *codes: ErrorCode) -> None:
    assert isinstance(result, ImageRejected), result
    assert result.code in codes, result


# --- by scheme


@pytest.mark.parametrize(
    "uri", ["https://photos.example/a.jpg", "http://photos.example/a.jpg", "https://x/file:///etc/passwd"]
)
def test_the_web_is_the_downloaders(photos: Photos, uri: str) -> None:
    assert fetched(photos.source, uri) == b"from the web"
    assert photos.web.asked == [uri]


@pytest.mark.parametrize("url", ["HTTPS://photos.example/a.jpg", "Https://photos.example/a.jpg"])
def test_what_the_manifests_rules_let_through_is_fetched(photos: Photos, url: str) -> None:
    """Schemes have no case (RFC 3986, 3.1); the rules for manifests know that."""
    uri = resolve(url, SourceRules(base="gs://intake/"))
    assert fetched(photos.source, uri) == b"from the web"


@pytest.mark.parametrize(
    "uri",
    ["", "a.jpg", "/etc/passwd", "ftp://x/a", "gopher://x/a", "data:image/png;base64,AAAA", "javascript:alert(1)", "s3://bucket/a", "file",
     "file:", "file:/etc/passwd", "://x", "https:/x", " https://x/", "x" * 10_000, "x" * 10_000 + "://y", "\0://x", "gs:/b/x", "\n"],
)  # fmt: skip
def test_other_addresses_are_refused(photos: Photos, uri: str) -> None:
    result = fetched(photos.source, uri)
    assert_refused(result, ErrorCode.SOURCE_NOT_ALLOWED)
    assert len(str(result)) < 300
    assert not photos.web.asked


def test_without_folders_no_file_is_read(photos: Photos) -> None:
    source = photos.of([])
    for uri in (photos.uri("a.jpg"), "file:///etc/passwd", "file:///dev/zero", "file://"):
        assert_refused(fetched(source, uri), ErrorCode.SOURCE_NOT_ALLOWED)


def test_with_the_real_downloader_an_inner_address_is_refused(photos: Photos) -> None:
    async def main() -> None:
        downloader = Downloader(DownloadLimits(total_seconds=2), MAX)
        source = PhotoSource(downloader, photos.backend.objects, [photos.folder], MAX)
        for uri in ("https://127.0.0.1/a.jpg", "https://169.254.169.254/", "http://127.0.0.1/"):
            with pytest.raises(ImageRejected) as caught:
                await source.fetch(uri, "acme")
            assert caught.value.code is ErrorCode.SOURCE_NOT_ALLOWED
        await downloader.aclose()

    asyncio.run(main())


# --- files


def test_files_in_the_folder(photos: Photos) -> None:
    assert fetched(photos.source, photos.uri("a.jpg")) == b"a"
    assert fetched(photos.source, photos.uri("deep/er/b.jpg")) == b"b"
    assert fetched(photos.source, photos.uri("deep/../a.jpg")) == b"a"


NAMES = ["a b.jpg", "ü.jpg", "sala é.jpg", "写真.jpg", "50%.jpg", "%41.jpg", "%2e%2e", "a%2fb.jpg", "q?x=1.jpg", "h#x.jpg", "a;b.jpg",
         "a&b=c.jpg", "+.jpg", "a:b.jpg", "...jpg", "~", "-rf", "a\\b.jpg", "a'b\".jpg", "new\nline.jpg", "tab\t.jpg", "$HOME", "`id`", "|id"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_survive_percent_encoding(photos: Photos, name: str) -> None:
    (photos.folder / name).write_bytes(name.encode()[:MAX])
    assert fetched(photos.source, (photos.folder / name).as_uri()) == name.encode()


@pytest.mark.parametrize("name", [name for name in NAMES if not set(name) & set("\n\t\\:") and name != "%2e%2e"])
def test_names_survive_the_way_from_the_manifest(photos: Photos, name: str) -> None:
    if "%" in name and name != "50%.jpg":
        pytest.skip("the manifest's rules may refuse what looks like an escape")
    (photos.folder / name).write_bytes(b"here")
    rules = SourceRules(base=photos.folder.as_uri() + "/", folders=(str(photos.folder),))
    assert fetched(photos.source, resolve(name, rules)) == b"here"
    assert fetched(photos.source, resolve(str(photos.folder / name), rules)) == b"here"


@pytest.mark.parametrize(
    "tail",
    ["../secret.txt", "%2e%2e/secret.txt", "%2E%2E/secret.txt", ".%2e/secret.txt", "..%2fsecret.txt", "..%2Fsecret.txt", "deep/../../secret.txt",
     "deep/er/../../../secret.txt", "nothing/../../secret.txt", "a.jpg/../../secret.txt", "//../secret.txt", "./../secret.txt",
     "../photos-of-others/x.jpg", "../photos/../secret.txt", "../../../../../../../../../../../../etc/passwd"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(photos: Photos, tail: str) -> None:
    assert_refused(fetched(photos.source, photos.uri(tail)), ErrorCode.SOURCE_NOT_ALLOWED, ErrorCode.SOURCE_NOT_FOUND)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "file:///",
        "file:////etc/passwd",
        "file://localhost/etc/passwd",
        "file:///proc/self/environ",
        "file:///dev/zero",
    ],
)
def test_no_other_file_is_read(photos: Photos, uri: str) -> None:
    assert_refused(fetched(photos.source, uri), ErrorCode.SOURCE_NOT_ALLOWED)


def test_a_folder_whose_name_only_begins_the_same(photos: Photos) -> None:
    uri = (photos.root / "photos-of-others" / "x.jpg").as_uri()
    assert_refused(fetched(photos.source, uri), ErrorCode.SOURCE_NOT_ALLOWED)


def test_links_out_of_the_folder(photos: Photos) -> None:
    (photos.folder / "link.jpg").symlink_to(photos.root / "secret.txt")
    (photos.folder / "up").symlink_to(photos.root)
    (photos.folder / "relative.jpg").symlink_to("../secret.txt")
    (photos.folder / "chain.jpg").symlink_to("link.jpg")
    (photos.folder / "root").symlink_to("/")
    for tail in (
        "link.jpg",
        "up/secret.txt",
        "relative.jpg",
        "chain.jpg",
        "root/etc/passwd",
        "up/photos-of-others/x.jpg",
    ):
        assert_refused(fetched(photos.source, photos.uri(tail)), ErrorCode.SOURCE_NOT_ALLOWED)


def test_links_within_the_folder_are_followed(photos: Photos) -> None:
    (photos.folder / "link.jpg").symlink_to("deep/er/b.jpg")
    (photos.folder / "there").symlink_to("deep")
    assert fetched(photos.source, photos.uri("link.jpg")) == b"b"
    assert fetched(photos.source, photos.uri("there/er/b.jpg")) == b"b"


def test_a_folder_that_is_itself_a_link_may_be_read(photos: Photos) -> None:
    (photos.root / "alias").symlink_to(photos.folder)
    source = photos.of([photos.root / "alias"])
    assert fetched(source, (photos.root / "alias" / "a.jpg").as_uri()) == b"a"
    assert fetched(source, photos.uri("a.jpg")) == b"a"


def test_links_that_lead_nowhere_or_in_circles(photos: Photos) -> None:
    (photos.folder / "nowhere.jpg").symlink_to("gone.jpg")
    (photos.folder / "circle.jpg").symlink_to("circle.jpg")
    (photos.folder / "one").symlink_to("two")
    (photos.folder / "two").symlink_to("one")
    for tail in ("nowhere.jpg", "circle.jpg", "circle.jpg/x", "one", "two/x.jpg"):
        assert isinstance(fetched(photos.source, photos.uri(tail)), ImageRejected), tail


def test_what_is_no_file(photos: Photos) -> None:
    too_long = "x" * 300
    for tail in (
        "gone.jpg",
        "deep",
        "deep/",
        "",
        ".",
        "a.jpg/x",
        "gone/gone.jpg",
        f"{too_long}.jpg",
        f"{too_long}/a.jpg",
    ):
        assert_refused(fetched(photos.source, photos.uri(tail)), ErrorCode.SOURCE_NOT_FOUND)


def test_a_pipe_does_not_hang(photos: Photos) -> None:
    os.mkfifo(photos.folder / "pipe.jpg")
    (photos.folder / "to-pipe.jpg").symlink_to("pipe.jpg")
    started = time.monotonic()
    for tail in ("pipe.jpg", "to-pipe.jpg"):
        assert_refused(fetched(photos.source, photos.uri(tail)), ErrorCode.SOURCE_NOT_FOUND)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("device", ["zero", "null", "random", "urandom", "stdin", "tty", "full", "ptmx"])
def test_devices_are_not_read(photos: Photos, device: str) -> None:
    result = fetched(photos.of([Path("/dev")]), f"file:///dev/{device}")
    assert_refused(result, ErrorCode.SOURCE_NOT_FOUND, ErrorCode.SOURCE_NOT_ALLOWED, ErrorCode.SOURCE_FORBIDDEN)


def test_a_link_to_a_device_is_out_of_the_folder(photos: Photos) -> None:
    (photos.folder / "zero.jpg").symlink_to("/dev/zero")
    assert_refused(fetched(photos.source, photos.uri("zero.jpg")), ErrorCode.SOURCE_NOT_ALLOWED)


def test_a_file_that_says_it_is_empty_but_is_not_is_capped(photos: Photos) -> None:
    """Files of /proc have size 0 and contents all the same."""
    assert_refused(fetched(photos.of([Path("/proc")]), f"file:///proc/{os.getpid()}/maps"), ErrorCode.SOURCE_TOO_LARGE)


def test_a_file_that_cannot_be_read(photos: Photos) -> None:
    result = fetched(photos.of([Path("/proc")]), f"file:///proc/{os.getpid()}/mem")  # reading its start is an I/O error
    assert_refused(result, ErrorCode.SOURCE_FORBIDDEN)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(photos: Photos) -> None:
    (photos.folder / "a.jpg").chmod(0)
    assert_refused(fetched(photos.source, photos.uri("a.jpg")), ErrorCode.SOURCE_FORBIDDEN)
    (photos.folder / "deep").chmod(0)
    assert_refused(fetched(photos.source, photos.uri("deep/er/b.jpg")), ErrorCode.SOURCE_FORBIDDEN)
    (photos.folder / "deep").chmod(0o700)


def test_the_byte_limit_is_exact(photos: Photos) -> None:
    (photos.folder / "full.jpg").write_bytes(bytes(MAX))
    (photos.folder / "over.jpg").write_bytes(bytes(MAX + 1))
    (photos.folder / "empty.jpg").write_bytes(b"")
    with (photos.folder / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of holes
    assert fetched(photos.source, photos.uri("full.jpg")) == bytes(MAX)
    assert fetched(photos.source, photos.uri("empty.jpg")) == b""
    assert_refused(fetched(photos.source, photos.uri("over.jpg")), ErrorCode.SOURCE_TOO_LARGE)
    assert_refused(fetched(photos.source, photos.uri("huge.jpg")), ErrorCode.SOURCE_TOO_LARGE)


@pytest.mark.parametrize(
    "tail",
    ["%00", "a.jpg%00", "a%00.jpg", "\0", "a.jpg\0.png", "a" * 300, "a" * 300 + "/x.jpg", "a/" * 3000, "\udcff", "%ff", "%ff%fe.jpg", "%", "%zz", "%c3",
     "%ed%b3%bf", "\n", "%0a", "a.jpg?x", "a.jpg#x", "*", "?", "[a].jpg"],
)  # fmt: skip
def test_names_that_no_file_can_have_are_no_bug_of_ours(photos: Photos, tail: str) -> None:
    result = fetched(photos.source, photos.uri(tail))
    assert isinstance(result, ImageRejected) or result == b"a"


@pytest.mark.parametrize(
    "uri",
    [
        "file://[::1/x.jpg",
        "file://[/x",
        "file://]/x",
        "file://user:pw@host/x",
        "file://%00/x",
        "file://",
        "file:///%00",
    ],
)
def test_file_addresses_that_are_none(photos: Photos, uri: str) -> None:
    assert isinstance(fetched(photos.source, uri), ImageRejected)


@pytest.mark.parametrize("url", ["%00.jpg", "a%00b.jpg"])
def test_a_zero_byte_that_the_manifests_rules_let_through(photos: Photos, url: str) -> None:
    rules = SourceRules(base=photos.folder.as_uri() + "/", folders=(str(photos.folder),))
    try:
        uri = resolve(photos.folder.as_uri() + "/" + url, rules)
    except Exception:  # noqa: BLE001  # refusing it there is fine, too
        return
    assert isinstance(fetched(photos.source, uri), ImageRejected)


def test_reading_files_does_not_block_the_event_loop(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.is_file

    def slow(self: Path) -> bool:
        time.sleep(0.3)
        return real(self)

    monkeypatch.setattr(Path, "is_file", slow)

    async def main() -> int:
        ticks = 0
        reading = asyncio.create_task(photos.source.fetch(photos.uri("a.jpg"), "acme"))
        while not reading.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert await reading == b"a"
        return ticks

    assert asyncio.run(main()) > 5


# --- objects


class Objects:
    """An object store that answers as told: `stat` and `get` may disagree, as they do when an object is replaced."""

    def __init__(self, stated: int | None, got: bytes | None) -> None:
        self.stated = stated
        self.got = got
        self.gets = 0

    def _object(self, bucket: str, name: str, size: int) -> StoredObject:
        return StoredObject(bucket, name, 1, size, {}, 0.0)

    async def stat(self, bucket: str, name: str) -> StoredObject | None:
        return None if self.stated is None else self._object(bucket, name, self.stated)

    async def get(self, bucket: str, name: str, max_bytes: int | None = None) -> tuple[StoredObject, bytes] | None:
        self.gets += 1
        if self.got is not None and max_bytes is not None and len(self.got) > max_bytes:
            raise ObjectTooLarge(name)
        return None if self.got is None else (self._object(bucket, name, len(self.got)), self.got)

    async def put(self, bucket: str, name: str, data: bytes, *, content_type: str, metadata: Mapping[str, str] | None = None,
                  if_generation: int | None = None) -> StoredObject:  # fmt: skip
        raise NotImplementedError("a photo's source only reads")

    def list(self, bucket: str, prefix: str) -> AsyncIterator[StoredObject]:
        raise NotImplementedError("a photo's source only reads")

    async def delete(self, bucket: str, name: str) -> None:
        raise NotImplementedError("a photo's source only reads")

    def uri(self, bucket: str, name: str) -> str:
        return f"gs://{bucket}/{name}"


def stored(photos: Photos, name: str, data: bytes) -> None:
    asyncio.run(photos.backend.objects.put("crm", name, data, content_type="image/jpeg"))


def test_an_object(photos: Photos) -> None:
    for name in ("a.jpg", "acme/2026/sala é.jpg", "a%20b.jpg", "what?.jpg", "a#b.jpg"):
        stored(photos, name, name.encode())
        assert fetched(photos.source, f"gs://crm/{name}") == name.encode(), "object names are not percent-decoded"


@pytest.mark.parametrize("uri", ["gs://crm/gone.jpg", "gs://other/a.jpg", "gs://crm", "gs://crm/", "gs://", "gs:///a.jpg", "gs://crm//a.jpg", "gs://crm/../crm/a.jpg",
                                 "gs://crm/./a.jpg", "gs://../crm/a.jpg", "gs://crm/%61.jpg", "gs://CRM/a.jpg", "gs://crm/a.jpg/", "gs://crm/\0", "gs://crm/" + "a" * 5000])  # fmt: skip
def test_an_object_that_is_not_there(photos: Photos, uri: str) -> None:
    stored(photos, "a.jpg", b"a")
    assert_refused(fetched(photos.source, uri), ErrorCode.SOURCE_NOT_FOUND, ErrorCode.SOURCE_NOT_ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "gs://crm/../secret.txt",
        "gs://crm/../../etc/passwd",
        "gs://crm//etc/passwd",
        "gs://other/x",
        "gs://crm/",
        "gs://../secret.txt",
    ],
)
def test_no_object_name_leads_out_of_a_bucket_that_is_a_folder(photos: Photos, uri: str) -> None:
    (photos.root / "crm").mkdir()
    backend = embedded(SystemClock(), folders={"crm": photos.root / "crm"})
    result = fetched(photos.of([], backend.objects), uri)
    close(backend)
    assert isinstance(result, ImageRejected), result


def test_an_objects_size_is_looked_at_before_it_is_read(photos: Photos) -> None:
    stored(photos, "full.jpg", bytes(MAX))
    stored(photos, "over.jpg", bytes(MAX + 1))
    assert fetched(photos.source, "gs://crm/full.jpg") == bytes(MAX)
    assert_refused(fetched(photos.source, "gs://crm/over.jpg"), ErrorCode.SOURCE_TOO_LARGE)
    objects = Objects(stated=MAX + 1, got=b"")
    assert_refused(fetched(photos.of([], objects), "gs://crm/x"), ErrorCode.SOURCE_TOO_LARGE)
    assert objects.gets == 0


def test_an_object_that_vanishes_between_two_looks(photos: Photos) -> None:
    assert_refused(fetched(photos.of([], Objects(stated=3, got=None)), "gs://crm/x"), ErrorCode.SOURCE_NOT_FOUND)


def test_an_object_that_grows_between_two_looks(photos: Photos) -> None:
    objects = Objects(stated=3, got=bytes(MAX + 1))
    assert_refused(fetched(photos.of([], objects), "gs://crm/x"), ErrorCode.SOURCE_TOO_LARGE)
