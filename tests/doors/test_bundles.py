"""Each function as it is shipped: main.py with shared/ beside it, imported and served by a bare process.

No database is there to talk to: what is tested is that a bundle is whole, makes nothing at import time, acks what can
never be dealt with, and nacks what it could not deal with now.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
CLOUD_EVENT_DOORS = ("ingest", "aggregate", "dead_letter")
ALL_DOORS = (*CLOUD_EVENT_DOORS, "reconcile", "stage_image")


def patterns() -> list[tuple[str, tuple[str, ...], bool]]:
    """What terraform/functions.tf archives: (folder, suffixes, whether of its subfolders too), read from it."""
    text = (ROOT / "terraform/functions.tf").read_text()
    found = re.findall(r'fileset\("\$\{path\.module\}/\.\./([^"]+)", "(\*\*/)?\*\.\{([a-z,]+)\}"\)', text)
    assert len(found) == 2, "functions.tf has changed: read it here anew"
    return [(folder, tuple(suffixes.split(",")), bool(deep)) for folder, deep, suffixes in found]


def bundle(door: str, folder: Path) -> Path:
    """The archive Terraform would build, built and unpacked: the door's own files at the root, shared/ beside them.

    The worker's image is made by its Dockerfile, which copies the same.
    """
    archive = folder / f"{door}.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for pattern, suffixes, deep in patterns():
            source = ROOT / pattern.replace("${door}", door)
            for path in sorted(source.rglob("*") if deep else source.glob("*")):
                if path.suffix[1:] in suffixes and "__pycache__" not in path.parts:
                    inside = path.relative_to(source)
                    written.write(path, str(inside if "${door}" in pattern else Path("shared") / inside))
    target = folder / door
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(target)
    return target


def test_the_archives_leave_nothing_out() -> None:
    """A file of a kind nobody thought of (a prompt, a page) would be missing in the cloud only."""
    for folder, suffixes, deep in patterns():
        for door in ALL_DOORS if "${door}" in folder else ("",):
            source = ROOT / folder.replace("${door}", door)
            for path in source.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts and path.name != "Dockerfile":
                    assert path.suffix[1:] in suffixes, path
                    assert deep or path.parent == source, path


def bare_environment(**more: str) -> dict[str, str]:
    """PATH and nothing else: no project, no key, no credentials, no setting."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **more}


@pytest.mark.parametrize("door", ALL_DOORS)
def test_a_bundle_imports_alone_and_opens_nothing(door: str, tmp_path: Path) -> None:
    program = (
        "import threading, main, shared, sys; "
        "print(shared.__file__); print(threading.active_count()); print('grpc' in sys.modules and 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=bundle(door, tmp_path), env=bare_environment(), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where, threads, _ = done.stdout.splitlines()
    assert where == str(tmp_path / door / "shared/__init__.py"), "the bundle's own copy, not the checkout's"
    assert threads == "1", "no client and no loop is made at import time: the server forks after it"


class Served:
    """A door behind functions-framework."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def post(self, kind: str, body: bytes, content_type: str = "application/json") -> int:
        headers = {
            "ce-specversion": "1.0", "ce-id": "1", "ce-type": kind, "ce-source": "//test", "content-type": content_type,
        }  # fmt: skip
        with httpx2.Client(trust_env=False, timeout=60) as client:
            return client.post(self.url, content=body, headers=headers).status_code


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    door = request.param
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        unused = socket.socket()
        unused.bind(("127.0.0.1", 0))  # bound, never listening: refused at once
        nowhere = unused.getsockname()[1]
    framework = Path(sys.executable).with_name("functions-framework")
    process = subprocess.Popen(
        [framework, "--target", door, "--source", "main.py",
         "--signature-type", "http" if door == "reconcile" else "cloudevent", "--port", str(port),
         "--host", "127.0.0.1"],
        cwd=bundle(door, tmp_path),
        env=bare_environment(
            GOOGLE_CLOUD_PROJECT="test",
            FIRESTORE_EMULATOR_HOST=f"127.0.0.1:{nowhere}",
            PUBSUB_EMULATOR_HOST=f"127.0.0.1:{nowhere}",
            STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{nowhere}",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield Served(process, f"http://127.0.0.1:{port}/")
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    unused.close()


STORAGE = "google.cloud.storage.object.v1.finalized"
DOCUMENT = "google.cloud.firestore.document.v1.updated"
MESSAGE = "google.cloud.pubsub.topic.v1.messagePublished"


@pytest.mark.parametrize("served", ["ingest"], indirect=True)
def test_ingest_acks_what_is_no_manifest(served: Served) -> None:
    for body in (b"{}", b"[]", b'"text"', b"null", b'{"bucket": 1, "name": []}', json.dumps(
        {"bucket": "intake", "name": "manifests/acme/photo.jpg"}).encode()):  # fmt: skip
        assert served.post(STORAGE, body) == 200, body


@pytest.mark.parametrize("served", ["aggregate"], indirect=True)
def test_aggregate_acks_what_is_no_change(served: Served) -> None:
    for body in (b"", b"\xff\xff\xff", b"not protobuf"):
        assert served.post(DOCUMENT, body, "application/protobuf") == 200, body
    assert served.post(DOCUMENT, b"{}") == 200


@pytest.mark.parametrize("served", ["dead_letter"], indirect=True)
def test_dead_letter_acks_what_it_cannot_read(served: Served) -> None:
    unreadable = base64.b64encode(b"\x00nonsense").decode()
    for body in (
        {"message": {"data": unreadable, "attributes": {"kind": "letter"}}},
        {"message": {"data": unreadable}},
        {"message": {"data": "%%%"}},
        {"message": None},
        {},
    ):
        assert served.post(MESSAGE, json.dumps(body).encode()) == 200, body


@pytest.mark.parametrize("served", ["reconcile"], indirect=True)
def test_reconcile_says_when_it_could_not(served: Served) -> None:
    """The schedule sees the failure and comes again; what went wrong is no secret of the answer's."""
    with httpx2.Client(trust_env=False, timeout=60) as client:
        answer = client.post(served.url, content=b"{}", headers={"content-type": "application/json"})
    assert answer.status_code == 500
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("door", ALL_DOORS)
def test_requirements_are_the_locked_ones(door: str) -> None:
    def pins(path: Path) -> dict[str, str]:
        found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", path.read_text(), re.MULTILINE)
        return {name.lower().replace("-", "_"): version for name, version in found}

    locked, shipped = pins(ROOT / "requirements.lock"), pins(ROOT / "functions" / door / "requirements.txt")
    assert shipped.items() <= locked.items()
    assert {"functions_framework", "google_cloud_firestore", "google_genai", "msgspec"} <= shipped.keys()
    assert not {"pytest", "typer", "mypy"} & shipped.keys()


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    text = (ROOT / "functions/stage_image/Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    user = re.search(r"^USER (\d+)", text, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source


def test_stage_image_without_a_project_says_so_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=bundle("stage_image", tmp_path), env=bare_environment(), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "GOOGLE_CLOUD_PROJECT" in done.stderr
