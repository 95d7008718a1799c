"""Objects as they lie in buckets: compressed, labelled wrongly, bombs. Read from a server that answers as the real one.

Memory is measured in a process of its own, by the kernel's high-water mark.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

from shared.adapters.google.objects import CloudObjects
from shared.adapters.system_clock import SystemClock
from shared.errors import ObjectDamaged, ObjectTooLarge
from tests.field.servers import served

MIB = 1024 * 1024
MAX = 32 * MIB


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served("storage_objects.py") as address:
        yield address


def objects_at(address: str) -> CloudObjects:
    client = storage.Client("p", credentials=AnonymousCredentials(), client_options={"api_endpoint": address})
    return CloudObjects(client, SystemClock())


def read(address: str, name: str, most: int | None = MAX) -> bytes | None:
    found = asyncio.run(objects_at(address).get("intake", name, most))
    return found[1] if found else None


def test_a_manifest_uploaded_compressed_is_read(server: str) -> None:
    plain = read(server, "manifests/acme/plain.json")
    assert plain is not None
    assert json.loads(plain)["clientName"] == "acme"
    assert read(server, "manifests/acme/compressed.json") == plain
    assert read(server, "manifests/acme/compressed.json", None) == plain


def test_the_limit_is_that_of_the_unpacked_bytes(server: str) -> None:
    plain = read(server, "manifests/acme/plain.json") or b""
    assert read(server, "manifests/acme/compressed.json", len(plain)) == plain
    with pytest.raises(ObjectTooLarge):
        read(server, "manifests/acme/compressed.json", len(plain) - 1)


@pytest.mark.parametrize("name", ["manifests/acme/bomb.json", "photos/acme/bomb.jpg"])
def test_a_bomb_is_refused_without_being_held(server: str, name: str) -> None:
    """1.5 GB from 1.5 MB; as the function's process and the worker's do it: on the adapter's threads."""
    program = f"""
import asyncio, resource
from tests.field.test_storage import objects_at, read
from shared.errors import ObjectTooLarge
assert read({server!r}, "manifests/acme/plain.json")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read({server!r}, {name!r})
except ObjectTooLarge:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64, f"{done.stdout.strip()} MiB more"


LABELS = {
    "none": (b"x" * 3000, ""),
    "no compression": (b"x" * 3000, "utf-8"),
    "labelled, but not compressed": (b"x" * 3000, "gzip"),
    "two members": (gzip.compress(b"x" * 1000) + gzip.compress(b"x" * 2000), "gzip"),
    "padded": (gzip.compress(b"x" * 3000) + bytes(512), "gzip"),
    "twice": (gzip.compress(gzip.compress(b"x" * 3000)), "gzip, gzip"),
    "old name": (gzip.compress(b"x" * 3000), "x-gzip"),
    "capitals": (gzip.compress(b"x" * 3000), "GZIP"),
    "deflate": (zlib.compress(b"x" * 3000), "deflate"),
    "raw deflate": (zlib.compress(b"x" * 3000)[2:-4], "deflate"),
}


@pytest.mark.parametrize("label", LABELS)
def test_what_a_label_says(monkeypatch: pytest.MonkeyPatch, server: str, label: str) -> None:
    data, encoding = LABELS[label]
    assert through_a_sink(data, encoding) == b"x" * 3000


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_cut_object_is_damaged(cut: int) -> None:
    with pytest.raises(ObjectDamaged):
        try:
            through_a_sink(gzip.compress(b"a room " * 50)[:-cut], "gzip")
        except Exception as error:
            raise ObjectDamaged(str(error)) from error


def through_a_sink(data: bytes, encoding: str, step: int = 7) -> bytes:
    from shared.adapters.google.objects import _Sink

    sink = _Sink(encoding, 10_000)
    for start in range(0, len(data), step):
        sink.write(data[start : start + step])
    return sink.content()
