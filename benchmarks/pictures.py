"""Measure the real picture work: a 12 MP photo in, a finished 2K picture out, through the product's picture pool.

    python benchmarks/pictures.py [--in-flight 1 10 50 100] [--images 60]

Each image is normalised from a 12 MP JPEG, and a generated 2K picture is finished for it, as STAGE IMAGE does. Each
number in flight runs in a process of its own. Prints for each: CPU seconds per image (that process and its picture
subprocesses, without their start), images per second, and the peak memory of all of them together. `peakMiB` is the sum
of resident sizes, `pssMiB` counts shared pages once (sampled once a second), `idleMiB` is the memory before any image.
At the end it prints the CPU time of each step.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from PIL import Image, ImageFilter

from shared.settings import PhotoLimits
from shared.staging import pictures
from shared.staging.pool import PicturePool

PHOTO: Final = (4000, 3000)
PICTURE: Final = (2048, 1536)
SAMPLE_SECONDS: Final = 0.025
TICKS: Final = os.sysconf("SC_CLK_TCK")


def photo_like(size: tuple[int, int], quality: int) -> bytes:
    """Return a picture that compresses about as well as a phone's photo of a room: smooth walls, edges, fine grain."""
    import numpy as np  # not at the top: the product's own process imports it only for the preview

    width, height = size
    grain = np.random.default_rng(1)
    coarse = grain.integers(60, 220, (height // 100, width // 100, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))
    noisy = np.asarray(smooth, dtype=np.int16) + grain.normal(0, 6, (height, width, 1)).astype(np.int16)
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def family() -> list[int]:
    """Return the ids of this process and its living children."""
    return [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, its living children, and those it has waited for."""
    total = 0
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15] if pid == os.getpid() else fields[11:13]))
    return total / TICKS


def resident_mib() -> int:
    """Return the resident MiB of this process and its children, shared pages counted in each."""
    pages = 0
    for pid in family():
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def proportional_mib() -> int:
    """Return the resident MiB of this process and its children, shared pages counted once."""
    kib = 0
    for pid in family():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib // 1024


class Memory:
    """The peak resident memory of this process and its children, sampled forty times a second on a thread."""

    def __init__(self) -> None:
        self.rss_mib = 0
        self.pss_mib = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        looks = 0
        while not self._done.wait(SAMPLE_SECONDS):
            self.rss_mib = max(self.rss_mib, resident_mib())
            looks += 1
            if looks % round(1 / SAMPLE_SECONDS) == 0:  # expensive: the kernel walks every page
                self.pss_mib = max(self.pss_mib, proportional_mib())

    def stop(self) -> None:
        """Stop sampling."""
        self._done.set()
        self._thread.join()


async def measure(in_flight: int, images: int, photo: bytes, picture: bytes) -> dict[str, Any]:
    """Put `images` images through one pool, `in_flight` at once, each holding the memory that the product holds."""
    pool = PicturePool(PhotoLimits())
    slots = asyncio.Semaphore(in_flight)
    try:
        # First let the subprocesses start and import everything.
        await asyncio.gather(*(pool.normalise(photo) for _ in range(2 * PhotoLimits().subprocesses)))

        async def one() -> None:
            async with slots:
                fetched = bytes(bytearray(photo))  # a copy: in the product each image has its own download
                normal = await pool.normalise(fetched)
                del fetched  # as `shared.worker.claimed_image` does
                await pool.finish(bytes(bytearray(picture)), normal)

        idle = resident_mib()
        memory, cpu, started = Memory(), cpu_seconds(), time.perf_counter()
        await asyncio.gather(*(one() for _ in range(images)))
        seconds, spent = time.perf_counter() - started, cpu_seconds() - cpu
        memory.stop()
    finally:
        pool.close()
    return {
        "inFlight": in_flight,
        "images": images,
        "cpuSecondsPerImage": round(spent / images, 3),
        "imagesPerSecond": round(images / seconds, 2),
        "idleMiB": idle,
        "peakMiB": memory.rss_mib,
        "pssMiB": memory.pss_mib,
        "load": os.getloadavg()[0],
    }


def steps(photo: bytes, picture: bytes) -> dict[str, float]:
    """Return the CPU milliseconds of each step, the minimum of five runs."""
    limits = PhotoLimits()
    normal = pictures.normalise(photo, limits)
    opened = Image.open(io.BytesIO(photo))
    opened.load()
    small = pictures._fitted(opened, limits.max_side_pixels)  # noqa: SLF001 - a profile looks inside

    def drafted() -> None:
        with Image.open(io.BytesIO(photo)) as image:
            image.draft("RGB", (image.width // 2, image.height // 2))
            image.load()

    def thumbnail() -> bytes:
        return pictures._thumbnail(small, limits)  # noqa: SLF001

    def decode(data: bytes) -> Callable[[], object]:
        return lambda: Image.open(io.BytesIO(data)).load()

    work: dict[str, Callable[[], object]] = {
        "normalise": lambda: pictures.normalise(photo, limits),
        "  decode 12 MP": decode(photo),
        "  decode 12 MP at half size (JPEG draft), for comparison": drafted,
        "  sha256 of the photo": lambda: hashlib.sha256(photo).hexdigest(),
        "  convert to RGB (a copy)": lambda: opened.convert("RGB"),
        "  resize to 2K": lambda: pictures._fitted(opened, limits.max_side_pixels),  # noqa: SLF001
        "  encode 2K": lambda: pictures._jpeg(small, limits.jpeg_quality),  # noqa: SLF001
        "finish": lambda: pictures.finish(picture, normal, limits),
        "  decode 2K": decode(picture),
        "  thumbnail": thumbnail,
    }
    return {name: round(least(run), 1) for name, run in work.items()}


def least(run: Callable[[], object]) -> float:
    """Return the minimum CPU milliseconds of five runs."""
    found = []
    for _ in range(5):
        started = time.process_time()
        run()
        found.append((time.process_time() - started) * 1000)
    return min(found)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 10, 50, 100])
    parser.add_argument(
        "--images", type=int, default=60, help="images per number in flight, at least twice that number"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        photo, picture = ((given.folder / name).read_bytes() for name in ("photo", "picture"))
        in_flight = given.in_flight[0]
        figures = asyncio.run(measure(in_flight, max(given.images, 2 * in_flight), photo, picture))
        sys.stdout.buffer.write(msgspec.json.encode(figures))
        return
    with tempfile.TemporaryDirectory() as folder:
        photo, picture = photo_like(PHOTO, 92), photo_like(PICTURE, 90)
        (Path(folder) / "photo").write_bytes(photo)
        (Path(folder) / "picture").write_bytes(picture)
        runs = []
        for in_flight in given.in_flight:
            options = ["--in-flight", str(in_flight), "--images", str(given.images), "--folder", folder]
            done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True)
            runs.append(msgspec.json.decode(done.stdout))
    figures = {
        "photoMiB": round(len(photo) / 2**20, 2),
        "pictureMiB": round(len(picture) / 2**20, 2),
        "runs": runs,
        "stepsCpuMs": steps(photo, picture),
    }
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
