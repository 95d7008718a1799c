"""Run all benchmarks one after another and write their table into docs/benchmarks.md, for `make bench`.

    python benchmarks/table.py [--quick] [--only PART ...]

Each line has its command, its reference (from the same run, or the design's target) and the ratio to it. A ratio below
1 is better for seconds, memory and operations, above 1 for images/s. `--quick` leaves out what takes longer than a few
minutes (the naive design above 1,000 images, and 100,000 images); `--only` runs only the parts named. Both print the
table and write nothing. Compare only lines of the same run, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs/benchmarks.md"
BEGIN: Final = "<!-- made by: make bench -->\n"
END: Final = "<!-- end of what make bench made -->\n"
HEAD: Final = "| what | figure | reference | ratio | command |\n|---|---|---|---|---|\n"
Row = tuple[str, str, str, str]  # what, figure, reference, ratio

# The design's targets, for lines without a reference in the same run.
SQLITE_HUEY_PER_SECOND: Final = 1136  # a queue that keeps no ledger, measured on two cores
CONTROL_PLANE_CPU_MS: Final = 1.0
PICTURE_CPU_SECONDS: Final = 0.25
PICTURE_MIB: Final = 400  # at 50 in flight
INGEST_SECONDS, INGEST_MIB = 60, 300  # of 10,000 images, on the emulators
WRITES, READS = 8, 6  # database operations per image
MAKESPAN: Final = 1.03
NAIVE_SECONDS: Final = 90  # max per naive run: 1,000 images take 75 s; larger batches get stuck in lock time-outs


class Failed(Exception):
    """A benchmark did not run; the text is the last line that its command printed."""


def measured(command: str) -> Any:
    """Run a benchmark and return its figures. Raises `Failed`."""
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.decode().strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(said[-1])
    return msgspec.json.decode(done.stdout)


def ratio(figure: float, reference: float) -> str:
    return f"{figure / reference:.2f}"


def control_plane(command: str) -> Iterator[Row]:
    """Yield the rows of the embedded backend with nothing to do per image."""
    found = measured(command)
    what = f"control plane, embedded, pictures in {found['objects']}, {found['images']:,} images"
    speed, cpu = found["imagesPerSecond"], found["cpuMsPerImage"]
    yield what, f"{speed} images/s", f"{SQLITE_HUEY_PER_SECOND} images/s", ratio(speed, SQLITE_HUEY_PER_SECOND)
    yield what, f"{cpu:.2f} ms CPU an image", f"{CONTROL_PLANE_CPU_MS} ms", ratio(cpu, CONTROL_PLANE_CPU_MS)
    yield what, f"{found['peakMiB']} MiB", "", ""


def pictures(command: str) -> Iterator[Row]:
    for found in measured(command)["runs"]:
        what = f"picture work, 12 MP in, 2K out, {found['inFlight']} in flight"
        cpu, memory = found["cpuSecondsPerImage"], found["pssMiB"]
        yield what, f"{cpu:.2f} s CPU an image", f"{PICTURE_CPU_SECONDS} s", ratio(cpu, PICTURE_CPU_SECONDS)
        yield what, f"{memory} MiB (PSS)", f"{PICTURE_MIB} MiB at 50", ratio(memory, PICTURE_MIB)


def ingest(command: str) -> Iterator[Row]:
    found = measured(command)
    for one in found["runs"]:
        what = f"ingest of {one['images']:,} images, {found['backend']}"
        if "failedWithExitCode" in one:
            raise Failed(f"{what}: exit code {one['failedWithExitCode']}")
        firestore = one.get("firestore")
        heap = f"; the Firestore emulator's heap {firestore['heapMiB']} MiB" if firestore else ""
        share = one["images"] / 10_000
        seconds, memory = one["seconds"], one["peakMiB"]
        yield what, f"{seconds:.1f} s", f"{INGEST_SECONDS * share:g} s", ratio(seconds, INGEST_SECONDS * share)
        yield what, f"{memory} MiB{heap}", f"{INGEST_MIB} MiB at 10,000", ratio(memory, INGEST_MIB)


def stack(command: str) -> Iterator[Row]:
    found = measured(command)
    operations, door = found["operations"], found["aggregateDoor"]
    bare = 1000 / operations["bareMsPerImage"]
    what = f"whole stack on the emulators, no-op model, {found['images']:,} images"
    speed = found["imagesPerSecond"]
    yield what, f"{speed} images/s", f"{bare:.1f} images/s: the bare sum of its operations", ratio(speed, bare)
    yield what, f"{found['cpuMsPerImage']} ms CPU an image, emulators included", "", ""
    for kind, most in (("writes", WRITES), ("reads", READS)):
        count = operations[f"{kind}PerImage"]
        yield what, f"{count} database {kind} an image", f"{most}", ratio(count, most)
    yield "AGGREGATE's door alone", f"{door['eventsPerSecond']} events/s, {_exact(door)}", "", ""


def naive(command: str) -> Iterator[Row]:
    found = measured(command)
    ours = {one["images"]: one for one in found["ours"]}
    for one in found["naive"]:
        beside, speed = ours[one["images"]], one["imagesPerSecond"]
        broken = f"{sum(one['broken'].values()):,} errors, {one['completionEvents']} completion events"
        yield (
            f"naive design, {one['images']:,} images, {one['duplicates']:.0%} of the messages doubled",
            f"{speed} images/s, {_exact(one)}, {broken}"
            if speed
            else f"not closed within {NAIVE_SECONDS} s: {one['imagesHandledWhole']:,} images done, {broken}",
            f"ours: {beside['imagesPerSecond']} images/s, {_exact(beside)}",
            f"{beside['imagesPerSecond'] / speed:.2f} (ours to naive)" if speed else "",
        )


def _exact(figures: dict[str, Any]) -> str:
    return "counters exact" if figures["exact"] else "counters wrong"


def makespan(command: str) -> Iterator[Row]:
    world_of = {True: "the worst of all moments and seeds", False: "virtual time"}["--worst" in command]
    for world, found in measured(command).items():
        minutes = f"{found['seconds'] / 60:.2f} min, {found['throttled']} 429s, {found['failed']} failed"
        bound = found["bound_seconds"]
        yield (
            f"makespan, {world_of}, {world}, {found['images']:,} images",
            minutes,
            f"{bound / 60:.2f} min: the vendor's bound; aimed at {MAKESPAN}",
            f"{found['ratio']:.3f}",
        )
        if found["beside"]:
            yield from flat(f"{world}, {found['images']:,} images", found)


def flat(what: str, found: dict[str, Any]) -> Iterator[Row]:
    """Yield an image's cost in a large batch, relative to that in the batches of 1,000 staged in between."""
    few = found["beside"]
    cpu, cpu_few = found["cpu_seconds"] / found["images"], sum(f["cpu_seconds"] / f["images"] for f in few) / len(few)
    count, count_few = (sum(f["operations"].values()) / f["images"] for f in (found, few[0]))
    yield (
        what,
        f"{cpu * 1000:.2f} ms CPU an image",
        f"{cpu_few * 1000:.2f} ms at 1,000; aimed at 1.10",
        ratio(cpu, cpu_few),
    )
    yield (
        what,
        f"{count:.1f} database operations an image",
        f"{count_few:.1f} at 1,000; aimed at 1.10",
        ratio(count, count_few),
    )


Part = tuple[str, Callable[[str], Iterator[Row]], str, bool]  # name, rows, command, whether it takes long
INGEST_COMMAND: Final = "python benchmarks/ingest.py --backend"
NAIVE_COMMAND: Final = f"python benchmarks/naive.py --max-seconds {NAIVE_SECONDS} --images"
PLANE_COMMAND: Final = "python benchmarks/control_plane.py --images"
PARTS: Final[tuple[Part, ...]] = (
    *(
        ("control-plane", control_plane, f"{PLANE_COMMAND} {images} --objects {objects}", False)
        for objects in ("files", "database")
        for images in (1000, 10_000)
    ),
    ("pictures", pictures, "python benchmarks/pictures.py", False),
    ("makespan", makespan, "python -m tests.simulation.makespan --json", False),
    ("makespan", makespan, "python -m tests.simulation.makespan --worst --json", True),
    ("makespan", makespan, 'python -m tests.simulation.makespan --images 100000 --world "one worker" --json', True),
    ("ingest", ingest, f"{INGEST_COMMAND} embedded --images 1000 10000", False),
    ("ingest", ingest, f"{INGEST_COMMAND} google --images 1000 10000", False),
    ("ingest", ingest, f"{INGEST_COMMAND} embedded --images 100000", True),
    ("ingest", ingest, f"{INGEST_COMMAND} google --images 100000", True),
    ("stack", stack, "python benchmarks/stack.py --images 1000", False),
    ("naive", naive, f"{NAIVE_COMMAND} 100 1000", False),
    ("naive", naive, f"{NAIVE_COMMAND} 2500", True),
    ("naive", naive, f"{NAIVE_COMMAND} 5000", True),
    ("naive", naive, f"{NAIVE_COMMAND} 10000", True),
)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, load before {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    """Run all, print the table, write it into the page. Returns 1 if a benchmark did not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out benchmarks of more than a few minutes")
    parser.add_argument("--only", nargs="+", choices=sorted({part[0] for part in PARTS}), metavar="PART")
    given = parser.parse_args()
    table, failures = f"{machine()}\n\n{HEAD}", 0
    print(table, end="", flush=True)
    for name, rows, command, long in PARTS:
        if (long and given.quick) or (given.only and name not in given.only):
            continue
        try:
            lines = [" | ".join(("", *row, f"`{command}`", "")).strip() + "\n" for row in rows(command)]
        except Failed as error:
            failures += 1
            lines = [f"| {name} | did not run: {error} | | | `{command}` |\n"]
        print(*lines, sep="", end="", flush=True)
        table += "".join(lines)
    if not (given.quick or given.only):
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
