"""All benchmarks one after another, one table: what `make bench` prints.

    python benchmarks/table.py [--quick]

Each line has its reference in the same run and the ratio to it. `--quick` leaves out what takes longer than a few
minutes (the naive design above 1,000 images, 100,000 images of ingest). What needs Google's emulators is said to be
missing where they are. Compare lines of one run only, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

HERE: Final = Path(__file__).parent
Row = tuple[str, str, str, str]  # what, figure, reference, ratio

# docs of the design, section 9: what the control plane is measured against.
SQLITE_HUEY_PER_SECOND: Final = 1136
SQLITE_HUEY_CPU_MS: Final = 1.0


def run(program: str, *arguments: str) -> Any:
    """A benchmark's JSON; None when it could not run, with its last line said."""
    done = subprocess.run(
        [sys.executable, str(HERE / program), *arguments], cwd=HERE.parent, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.decode().strip().splitlines() or ["?"]
        print(f"{program} {' '.join(arguments)}: {said[-1]}", file=sys.stderr)
        return None
    return msgspec.json.decode(done.stdout)


def control_plane() -> Iterator[Row]:
    for objects in ("files", "database"):
        runs = {n: run("control_plane.py", "--images", str(n), "--objects", objects) for n in (1000, 10_000)}
        for images, found in runs.items():
            what = f"control plane, embedded, pictures in {objects}, {images:,} images"
            speed, cpu = found["imagesPerSecond"], found["cpuMsPerImage"]
            yield what, f"{speed} images/s", f"{SQLITE_HUEY_PER_SECOND}", f"{speed / SQLITE_HUEY_PER_SECOND:.2f}"
            yield what, f"{cpu:.2f} ms CPU", f"{SQLITE_HUEY_CPU_MS} ms", f"{cpu / SQLITE_HUEY_CPU_MS:.2f}"
            yield (
                what,
                f"{found['peakMiB']} MiB",
                f"{runs[1000]['peakMiB']} MiB at 1,000",
                (f"{found['peakMiB'] / runs[1000]['peakMiB']:.2f}"),
            )


def pictures() -> Iterator[Row]:
    for found in run("pictures.py", "--images", "48")["runs"]:
        what = f"picture work, 12 MP in, 2K out, {found['inFlight']} in flight"
        cpu, memory = found["cpuSecondsPerImage"], found["pssMiB"]
        yield what, f"{cpu:.2f} s CPU", "0.25 s", f"{cpu / 0.25:.2f}"
        yield what, f"{memory} MiB (PSS)", "400 MiB at 50", f"{memory / 400:.2f}"


def ingest(sizes: list[str]) -> Iterator[Row]:
    for backend in ("embedded", "google"):
        found = run("ingest.py", "--backend", backend, "--images", *sizes)
        for one in found["runs"] if found else ():
            firestore = one.get("firestore")
            heap = f"; Firestore emulator's heap {firestore['heapMiB']} MiB" if firestore else ""
            what = f"ingest of {one['images']:,}, {backend}{heap}"
            seconds, memory = one["seconds"], one["peakMiB"]
            yield what, f"{seconds:.1f} s", "60 s at 10,000", f"{seconds / (60 * one['images'] / 10_000):.2f}"
            yield what, f"{memory} MiB", "300 MiB at 10,000", f"{memory / 300:.2f}"


def stack() -> Iterator[Row]:
    found = run("stack.py", "--images", "1000")
    if found is None:
        return
    bare = 1000 / found["operations"]["bareMsPerImage"]
    yield (
        "whole stack, no-op model, 1,000 images",
        f"{found['imagesPerSecond']} images/s",
        (f"{bare:.1f}, the bare sum of its emulator operations"),
        f"{found['imagesPerSecond'] / bare:.2f}",
    )
    operations = found["operations"]
    yield "database writes per image", f"{operations['writesPerImage']}", "8", f"{operations['writesPerImage'] / 8:.2f}"
    yield "database reads per image", f"{operations['readsPerImage']}", "6", f"{operations['readsPerImage'] / 6:.2f}"
    door = found["aggregateDoor"]
    yield "AGGREGATE's door alone", f"{door['eventsPerSecond']} events/s", f"exact: {door['exact']}", ""


def naive(sizes: list[str]) -> Iterator[Row]:
    found = run("naive.py", "--images", *sizes)
    if found is None:
        return
    ours = {one["images"]: one for one in found["ours"]}
    for one in found["naive"]:
        beside = ours[one["images"]]["imagesPerSecond"]
        speed = one.get("imagesPerSecond") or 0.0
        broken = f"{sum(one['broken'].values())} errors" if one["broken"] else "no error"
        what = f"naive design, {one['images']:,} images, {one['duplicates']:.0%} doubled, {broken}"
        yield (
            what,
            f"{speed} images/s, counters {'exact' if one.get('exact') else 'wrong'}",
            (f"ours {beside}, exact"),
            f"{beside / speed:.2f} (ours to naive)" if speed else "-",
        )


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out what takes long")
    quick = parser.parse_args().quick
    parts: list[Callable[[], Iterator[Row]]] = [
        control_plane,
        pictures,
        lambda: ingest(["1000", "10000"] if quick else ["1000", "10000", "100000"]),
        stack,
        lambda: naive(["100", "1000"] if quick else ["100", "1000", "2500", "5000", "10000"]),
    ]
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    load = os.getloadavg()[0]
    print(
        f"{when} UTC, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, load {load:.1f}"
    )
    print("\n| what | figure | reference | ratio |\n|---|---|---|---|")
    for part in parts:
        for row in part():
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
