"""Measure ingest alone: seconds and peak memory for manifests of different sizes, on either backend.

    python benchmarks/ingest.py --backend embedded|google --images 1000 10000 100000

Each size runs in a process of its own, on new emulators or a new data folder. The time runs from the manifest in the
bucket to an open batch with every task published. Prints the seconds, and the process's peak and initial resident
memory. For google it also prints the Firestore emulator's peak memory, its heap at the end (by `jcmd`; -1 without it),
and whether it is still alive.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from stack import NAME, as_settings, bench, manifest_of, peak_mib

from ops import errors
from shared import ports
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.manifest.sources import SourceRules
from shared.model import BatchState


def forget_peak() -> int:
    """Reset this process's memory peak. Returns its resident memory now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux
    return peak_mib(os.getpid())


def heap_mib(pid: int) -> int:
    """Return the MiB in use of a Java process's heap; -1 without jcmd."""
    if shutil.which("jcmd") is None:
        return -1
    asked = subprocess.run(["jcmd", str(pid), "GC.heap_info"], capture_output=True, text=True, check=False)
    used = re.search(r"used (\d+)K", asked.stdout)
    return int(used[1]) // 1024 if used else -1


async def ingest(backend: ports.Backend, rules: Any, images: int) -> dict[str, Any]:
    """Ingest one manifest. Returns seconds and memory."""
    rooms = wiring.rooms(backend, SystemClock(), as_settings(images, 50), rules, folder_is_client=True)
    await backend.objects.put("intake", NAME, manifest_of(images), content_type="application/jsonl")
    before, started, cpu = forget_peak(), time.perf_counter(), time.process_time()
    batch = await rooms.ingest.handle("intake", NAME)
    seconds, spent = time.perf_counter() - started, time.process_time() - cpu
    if batch is None or batch.state is not BatchState.PROCESSING or batch.tasks_published != images:
        raise RuntimeError(f"not ingested: {batch}")
    return {
        "images": images,
        "seconds": round(seconds, 2),
        "imagesPerSecond": round(images / seconds),
        "cpuSeconds": round(spent, 2),
        "peakMiB": peak_mib(os.getpid()),
        "beforeMiB": before,
        "load": os.getloadavg()[0],
    }


async def on_emulators(images: int) -> dict[str, Any]:
    """Measure on the emulators of Firestore and Pub/Sub, and Cloud Storage's stand-in."""
    async with bench() as here:
        settings = as_settings(images, 50)
        on_google = wiring.google(SystemClock(), settings, here.environment)
        try:
            figures = await ingest(on_google.backend, wiring.google_rules(settings), images)
        finally:
            await on_google.aclose()
        firestore = here.processes.running("firestore")
        figures["firestore"] = {
            "alive": firestore.returncode is None,
            "peakMiB": peak_mib(firestore.pid),
            "heapMiB": heap_mib(firestore.pid),
        }
        figures["pubsubPeakMiB"] = peak_mib(here.processes.running("pubsub").pid)
        return figures


async def embedded(images: int) -> dict[str, Any]:
    """Measure on a data folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = {bucket: folder / bucket for bucket in ("intake", "work", "results")}
        opened = wiring.embedded(SystemClock(), folder / "bench.sqlite", folders)
        try:
            return await ingest(opened.backend, lambda _: SourceRules(base="file:///photos/"), images)
        finally:
            opened.database.close()


def main() -> None:
    """Parse, measure each size in a process of its own, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("embedded", "google"), default="embedded")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        try:
            figures = asyncio.run((on_emulators if given.backend == "google" else embedded)(given.images[0]))
        except errors.Missing as error:
            sys.exit(str(error))
        sys.stdout.buffer.write(msgspec.json.encode(figures))
        return
    runs: list[Any] = []
    for images in given.images:
        command = [sys.executable, __file__, "--one", "--backend", given.backend, "--images", str(images)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        failed = {"images": images, "failedWithExitCode": done.returncode}
        runs.append(msgspec.json.decode(done.stdout) if done.returncode == 0 else failed)
    printed = msgspec.json.encode({"backend": given.backend, "runs": runs})
    sys.stdout.buffer.write(msgspec.json.format(printed, indent=2) + b"\n")


if __name__ == "__main__":
    main()
