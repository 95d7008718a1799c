"""Each function as it is shipped: main.py with shared/ beside it, imported and served by a bare process.

Google's services refuse everything here: what is tested is that a bundle is whole, makes nothing at import time, acks
what can never be dealt with, and takes what can to its room, nacking it because that could not deal with it now. One
bundle works on Google's emulators, where they are installed.
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
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, NoReturn

import grpc
import httpx2
import pytest
from google.events.cloud.firestore_v1 import DocumentEventData

from shared.messages import Letter, Task, encode, letter_message
from shared.model import BatchState, ImageState, Tier
from shared.ports import Message
from tests.contract.google import _started, google, missing

ROOT = Path(__file__).parents[2]
CLOUD_EVENT_DOORS = ("ingest", "aggregate", "dead_letter")
SETTLE_PATH = "/settle"
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
    program = "import threading, main, shared; print(shared.__file__); print(threading.active_count())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=bundle(door, tmp_path), env=bare_environment(), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where, threads = done.stdout.splitlines()
    assert where == str(tmp_path / door / "shared/__init__.py"), "the bundle's own copy, not the checkout's"
    assert threads == "1", "no client and no loop is made at import time: the server forks after it"


class Refusing(grpc.GenericRpcHandler):
    """Firestore, Pub/Sub and Cloud Storage, were nothing allowed there: at once, for refusals are not tried again."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.environment: dict[str, str] = {}

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(self._refuse)

    def _refuse(self, request: bytes, context: grpc.ServicerContext) -> NoReturn:
        self.asked.append(request)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "refused by the test")

    @contextmanager
    def listening(self) -> Iterator[Refusing]:
        asked = self.asked

        class OverHttp(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.encode())
                self.send_error(403)

            def log_message(self, *_: object) -> None:
                pass

        over_grpc = grpc.server(ThreadPoolExecutor(2), handlers=[self])
        host = f"127.0.0.1:{over_grpc.add_insecure_port('127.0.0.1:0')}"
        over_grpc.start()
        with ThreadingHTTPServer(("127.0.0.1", 0), OverHttp) as over_http:
            threading.Thread(target=over_http.serve_forever, daemon=True).start()
            self.environment = {
                "GOOGLE_CLOUD_PROJECT": "test",
                "FIRESTORE_EMULATOR_HOST": host,
                "PUBSUB_EMULATOR_HOST": host,
                "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{over_http.server_port}",
            }
            yield self
            over_http.shutdown()
        over_grpc.stop(None).wait()


@pytest.fixture
def backend() -> Iterator[Refusing]:
    with Refusing().listening() as refusing:
        yield refusing


@contextmanager
def served(door: str, folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The door's bundle behind functions-framework; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    framework = Path(sys.executable).with_name("functions-framework")
    process = subprocess.Popen(
        [framework, "--target", door, "--source", "main.py",
         "--signature-type", "http" if door == "reconcile" else "cloudevent", "--port", str(port),
         "--host", "127.0.0.1"],
        cwd=bundle(door, folder),
        env=bare_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


JSON, PROTOBUF = "application/json", "application/protobuf"
STORAGE = "google.cloud.storage.object.v1.finalized"
DOCUMENT = "google.cloud.firestore.document.v1.updated"
MESSAGE = "google.cloud.pubsub.topic.v1.messagePublished"


def post(url: str, kind: str, body: bytes, content_type: str) -> int:
    headers = {
        "ce-specversion": "1.0", "ce-id": "1", "ce-type": kind, "ce-source": "//test", "content-type": content_type,
    }  # fmt: skip
    with httpx2.Client(trust_env=False, timeout=60) as client:
        return client.post(url, content=body, headers=headers).status_code


def finalized(name: str) -> bytes:
    return json.dumps({"bucket": "intake", "name": name}).encode()


def image_completed() -> bytes:
    """Image 2 of acme.b1, in shard 3, was in hand and is completed."""
    event = DocumentEventData.pb()()
    for document, state in ((event.value, ImageState.COMPLETED), (event.old_value, ImageState.PROCESSING)):
        document.fields["batch"].string_value = "acme.b1"
        document.fields["state"].string_value = state.value
        for name, value in (("index", 2), ("shard", 3), ("revision", 4)):
            document.fields[name].integer_value = value
    return event.SerializeToString()


def published(message: Message) -> bytes:
    data = base64.b64encode(message.data).decode()
    return json.dumps({"message": {"data": data, "attributes": dict(message.attributes)}}).encode()


TASK = Task(batch="acme.b1", index=2, round=1, tier=Tier.NORMAL)


class Case(NamedTuple):
    """What a door is sent, and what its room looks up first when the event is good."""

    kind: str
    good: tuple[bytes, ...]
    asks_for: bytes
    malformed: tuple[bytes, ...]
    content_type: str = JSON


CASES = {
    "ingest": Case(
        STORAGE,
        good=(finalized("manifests/acme/batch.json"),),
        asks_for=b"/b/intake/o/manifests%2Facme%2Fbatch.json",
        malformed=(b"{}", b"[]", b'"text"', b"null", b'{"bucket": 1, "name": []}', finalized("manifests/acme/a.jpg")),
    ),
    "aggregate": Case(
        DOCUMENT,
        good=(image_completed(),),
        asks_for=b"/batches/acme.b1/tallies/3",
        malformed=(b"", b"\xff\xff\xff", b"not protobuf", image_completed()[:-1]),
        content_type=PROTOBUF,
    ),
    "dead_letter": Case(
        MESSAGE,
        good=(
            published(letter_message(Letter(code="internal", message="a test", task=TASK))),
            published(Message(encode(TASK))),  # the queue itself gave up on it
        ),
        asks_for=b"/batches/acme.b1/images/000002",
        malformed=(
            published(Message(b"\x00nonsense", {"kind": "letter"})),
            published(Message(b"\x00nonsense")),
            b'{"message": {"data": "%%%"}}',
            b'{"message": null}',
            b"{}",
        ),
    ),
}


@pytest.mark.parametrize("door", CLOUD_EVENT_DOORS)
def test_a_door_drops_what_it_cannot_read_and_keeps_what_it_cannot_do_now(
    door: str, tmp_path: Path, backend: Refusing
) -> None:
    kind, good, asks_for, malformed, content_type = CASES[door]
    with served(door, tmp_path, backend.environment) as url:
        for body in malformed:
            assert post(url, kind, body, content_type) == 200, body
        assert post(url, kind, b"{}", JSON) == 200
        assert backend.asked == [], "nothing is looked up for what is dropped"
        for body in good:
            assert post(url, kind, body, content_type) >= 500, body
            assert any(asks_for in request for request in backend.asked), backend.asked
            backend.asked.clear()
            assert post(url, kind, malformed[0], content_type) == 200, "it goes on serving"


def test_reconcile_says_when_it_could_not(tmp_path: Path, backend: Refusing) -> None:
    """The schedule sees the failure and comes again; what went wrong is no secret of the answer's."""
    with (
        served("reconcile", tmp_path, backend.environment) as url,
        httpx2.Client(trust_env=False, timeout=60) as client,
    ):
        for body in (b"{}", b"\xff no JSON"):
            answer = client.post(url, content=body, headers={"content-type": JSON})
            assert answer.status_code == 500
            assert "Traceback" not in answer.text
            assert any(b"/databases/" in request for request in backend.asked)
            backend.asked.clear()


def test_reconcile_answers_a_batch_that_completed_with_the_workers_alone(tmp_path: Path) -> None:
    """Without a pool there are none to set; a run of reconcile would report on its batches."""
    if (why := missing()) is not None and os.environ.get("CI") != "true":
        pytest.skip(f"not run: {why}")
    pushed = {"message": {"data": "", "attributes": {"ce-type": "ruum.batch.completed"}}, "subscription": "s"}
    with google("google"), served("reconcile", tmp_path, _started()) as url, httpx2.Client(trust_env=False) as client:
        settled = client.post(url.rstrip("/") + SETTLE_PATH, json=pushed, timeout=60)
        assert (settled.status_code, settled.json()) == (200, {"instances": None})
        ran = client.post(url, json={}, timeout=60)
        assert (ran.status_code, "folded" in ran.json()) == (200, True)


def test_a_bundle_works_on_the_emulators(tmp_path: Path) -> None:
    """A good event is answered 200 only when its room has done its work."""
    if (why := missing()) is not None and os.environ.get("CI") != "true":
        pytest.skip(f"not run: {why}")
    with google("google") as emulated, served("ingest", tmp_path, _started()) as url:
        name = emulated.unique("bundle")
        header = {"clientName": "acme", "batchId": name, "designStyle": "modern", "roomType": "bedroom"}
        manifest = json.dumps({**header, "images": [{"url": "https://example.com/1.jpg"}]}).encode()
        path = f"manifests/acme/{name}.json"
        emulated.run(lambda: emulated.objects.put("intake", path, manifest, content_type=JSON))
        assert post(url, STORAGE, finalized(path), JSON) == 200
        batch = emulated.run(lambda: emulated.store.batch(f"acme.{name}"))
        assert batch is not None
        assert (batch.state, batch.total) == (BatchState.PROCESSING, 1)
        tasks = emulated.run(lambda: emulated.queue.pull("stage-image-normal", 1, 10.0))
        assert json.loads(tasks[0].data)["batch"] == batch.id


@pytest.mark.parametrize("door", ALL_DOORS)
def test_requirements_are_the_locked_ones(door: str) -> None:
    def pins(path: Path) -> dict[str, str]:
        """Name to version; each has the hashes of its files, or pip would take the file that an index shows today."""
        found = re.findall(
            r"^([A-Za-z0-9_.-]+)==([^\s;]+)([^\n]*\\\n(?: +--hash=sha256:\w{64}[ \\]*\n)+)",
            path.read_text(),
            re.MULTILINE,
        )
        assert len(found) == len(re.findall(r"^\S+==", path.read_text(), re.MULTILINE))
        return {name.lower().replace("-", "_"): version for name, version, _ in found}

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
