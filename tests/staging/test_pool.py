"""The picture pool under jobs that crash, hang, eat memory or answer nonsense. Real subprocesses throughout."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError
from shared.ports import Photo
from shared.settings import PhotoLimits
from shared.staging import pool as pool_module
from shared.staging.pool import PicturePool

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30

# --- jobs: importable by the subprocesses


def own_pid() -> int:
    return os.getpid()


def slow_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def killed(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)
    time.sleep(10)


def left(code: int) -> None:
    os._exit(code)


def asked_to_leave(code: int) -> None:
    sys.exit(code)


def hungry(size: int) -> int:
    return len(bytearray(size))


def busy(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def deaf(seconds: float) -> None:
    """Hangs and does not want to be ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)


def dies_after_its_answer(seconds: float) -> int:
    def die() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die, daemon=True).start()
    return os.getpid()


def rejects(kind: type[CodedError], code: ErrorCode, message: str) -> None:
    raise kind(code, message)


class Awkward(Exception):
    """As many libraries have them: it pickles, but cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def raises_awkwardly() -> None:
    raise Awkward("a", "b")


def raises_value_error() -> None:
    raise ValueError("a bug of ours")


def answers_what_cannot_be_pickled() -> object:
    return lambda: 1


def limits_of_process() -> tuple[tuple[int, int], tuple[int, int]]:
    import resource

    return resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CORE)


# --- helpers


def children() -> set[int]:
    """Processes whose parent we are, from /proc: also those multiprocessing has forgotten."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid() and fields[0] != "Z":
                    found.add(int(entry.name))
    return found


def spawned() -> set[int]:
    """Our children that are pool subprocesses, not multiprocessing's resource tracker."""
    found = set()
    for pid in children():
        with contextlib.suppress(OSError):
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


@contextlib.contextmanager
def opened(**limits: object) -> Iterator[PicturePool]:
    pool = PicturePool(PhotoLimits(**{"subprocesses": 2, "job_seconds": 20.0, **limits}))
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[PicturePool]:
    """One pool for the tests that leave it whole: starting the subprocesses costs a second."""
    with opened() as shared:
        yield shared


def run(work: Callable[[], Awaitable[object]], seconds: float = 20) -> object:
    async def main() -> object:
        return await asyncio.wait_for(work(), seconds)

    return asyncio.run(main())


def blamed(pool: PicturePool, blame: type[CodedError], job: Callable[..., object], *args: object) -> CodedError:
    with pytest.raises(blame) as caught:
        run(lambda: pool.run(blame, job, *args))
    return caught.value


def assert_works(pool: PicturePool) -> None:
    assert run(lambda: pool.run(ImageRejected, own_pid)) != os.getpid()


def photo_bytes(size: tuple[int, int] = (200, 150)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(out, "PNG")
    return out.getvalue()


# --- the port


def test_normalise_and_finish_through_the_pool(pool: PicturePool) -> None:
    async def both() -> None:
        photo = await pool.normalise(photo_bytes())
        assert isinstance(photo, Photo)
        assert (photo.width, photo.height) == (200, 150)
        finished = await pool.finish(photo_bytes((400, 300)), photo)
        assert finished.width * 150 == finished.height * 200
        with pytest.raises(ImageRejected) as rejected:
            await pool.normalise(b"<html>")
        assert rejected.value.code is ErrorCode.NOT_A_PICTURE
        with pytest.raises(WorldError) as bad:
            await pool.finish(b"<html>", photo)
        assert bad.value.code is ErrorCode.VENDOR_BAD_ANSWER

    run(both)


def test_work_runs_elsewhere_within_its_limits(pool: PicturePool) -> None:
    space, core = run(lambda: pool.run(ImageRejected, limits_of_process))
    assert space == (PhotoLimits().subprocess_bytes,) * 2
    assert core == (0, 0)
    assert_works(pool)


@pytest.mark.parametrize("kind", [ImageRejected, WorldError])
@pytest.mark.parametrize("code", [ErrorCode.PICTURE_TOO_SMALL, ErrorCode.VENDOR_BAD_ANSWER])
def test_coded_errors_survive_the_way_back(pool: PicturePool, kind: type[CodedError], code: ErrorCode) -> None:
    with pytest.raises(kind) as caught:
        run(lambda: pool.run(ImageRejected, rejects, kind, code, "für Änne: 3 x 4"))
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message) == (code, "für Änne: 3 x 4")
    assert isinstance(caught.value.code, ErrorCode)


def test_a_bug_stays_a_bug(pool: PicturePool) -> None:
    with pytest.raises(ValueError, match="a bug of ours"):
        run(lambda: pool.run(ImageRejected, raises_value_error))
    assert_works(pool)


# --- jobs that end their subprocess


@pytest.mark.parametrize(
    ("job", "argument"),
    [(killed, signal.SIGKILL), (killed, signal.SIGSEGV), (killed, signal.SIGABRT), (left, 1), (left, 77)],
    ids=["SIGKILL", "SIGSEGV", "SIGABRT", "exit 1", "exit 77"],
)
def test_a_job_that_ends_its_subprocess_is_blamed(pool: PicturePool, job: Callable[[int], None], argument: int) -> None:
    assert blamed(pool, ImageRejected, job, argument).code is ErrorCode.NOT_A_PICTURE
    assert_works(pool)


def test_the_world_is_blamed_for_the_worlds_pictures(pool: PicturePool) -> None:
    assert blamed(pool, WorldError, killed, signal.SIGKILL).code is ErrorCode.VENDOR_BAD_ANSWER
    assert_works(pool)


def test_a_job_that_leaves_without_an_error_code_is_blamed_when_its_time_is_up() -> None:
    with opened(job_seconds=1.0, subprocesses=1) as pool:
        assert_works(pool)
        assert blamed(pool, ImageRejected, left, 0).code is ErrorCode.NOT_A_PICTURE
        assert_works(pool)


def test_a_job_that_calls_exit_does_not_end_the_parent(pool: PicturePool) -> None:
    """SystemExit passes through `except Exception` and ends the event loop: in a worker, all images in flight."""

    async def attempt() -> BaseException | None:
        try:
            await pool.run(ImageRejected, asked_to_leave, 3)
        except BaseException as error:  # caught here, for once outside it ends pytest as well
            return error
        return None

    error = run(attempt)
    assert isinstance(error, Exception), f"{error!r} was raised in the parent"
    assert_works(pool)


def test_jobs_in_flight_are_unharmed_by_the_death_of_others(pool: PicturePool) -> None:
    async def mixed() -> None:
        jobs: list[Awaitable[object]] = []
        for number in range(12):
            if number % 4 == 1:
                jobs.append(pool.run(ImageRejected, killed, signal.SIGKILL))
            else:
                jobs.append(pool.run(ImageRejected, slow_pid, 0.05))
        results = await asyncio.gather(*jobs, return_exceptions=True)
        for number, result in enumerate(results):
            if number % 4 == 1:
                assert isinstance(result, ImageRejected), result
            else:
                assert isinstance(result, int), f"job {number} was harmed: {result!r}"

    run(mixed)
    assert_works(pool)


# --- subprocesses that end between jobs (the kernel's OOM killer picks when it likes)


def test_a_subprocess_killed_while_idle_is_replaced() -> None:
    with opened() as pool:
        pid = run(lambda: pool.run(ImageRejected, own_pid))
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not alive(pid), 3)
        time.sleep(0.5)
        assert_works(pool)
        assert_works(pool)


def test_all_subprocesses_killed_while_idle_are_replaced() -> None:
    with opened() as pool:
        before = spawned()
        assert_works(pool)
        mine = spawned() - before
        for pid in mine:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        assert_works(pool)


def test_a_subprocess_that_dies_after_its_answer_is_replaced() -> None:
    """A codec's background thread or a heap it has damaged crash late."""
    with opened() as pool:
        run(lambda: pool.run(ImageRejected, dies_after_its_answer, 0.2))
        time.sleep(1)
        assert_works(pool)


def test_an_exception_that_cannot_be_unpickled_harms_nobody_else() -> None:
    with opened() as pool:
        with pytest.raises(Exception):  # noqa: B017  # whichever: it must arrive, and alone
            run(lambda: pool.run(ImageRejected, raises_awkwardly), seconds=5)
        assert_works(pool)
        assert_works(pool)


@pytest.mark.filterwarnings("ignore")
def test_an_answer_that_cannot_be_pickled_harms_nobody_else(pool: PicturePool) -> None:
    with pytest.raises(Exception):  # noqa: B017
        run(lambda: pool.run(ImageRejected, answers_what_cannot_be_pickled), seconds=5)
    assert_works(pool)


def test_a_subprocess_is_replaced_after_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "JOBS_PER_SUBPROCESS", 2)
    with opened(subprocesses=1) as pool:

        async def several() -> list[int]:
            return [await pool.run(ImageRejected, own_pid) for _ in range(5)]

        assert len(set(run(several))) == 3


# --- limits


def test_a_job_that_wants_4_gib_is_blamed(pool: PicturePool) -> None:
    error = blamed(pool, ImageRejected, hungry, 4 * GIB)
    assert error.code is ErrorCode.NOT_A_PICTURE
    error = blamed(pool, WorldError, hungry, 4 * GIB)
    assert error.code is ErrorCode.VENDOR_BAD_ANSWER
    assert_works(pool)


def test_the_memory_limit_is_the_settings_and_the_parents_is_untouched(pool: PicturePool) -> None:
    assert run(lambda: pool.run(ImageRejected, hungry, GIB // 2)) == GIB // 2
    blamed(pool, ImageRejected, hungry, PhotoLimits().subprocess_bytes)
    assert hungry(PhotoLimits().subprocess_bytes // 8)


def test_the_largest_photo_we_take_fits_into_the_memory_we_give(pool: PicturePool) -> None:
    """48 MP with alpha, turned by EXIF: the most copies at a time."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGBA", (8160, 6120), (9, 99, 199, 255)).save(out, "PNG", exif=exif, compress_level=1)
    photo: Any = run(lambda: pool.normalise(out.getvalue()), seconds=60)
    assert (photo.width, photo.height) == (1536, 2048)


def test_a_job_over_time_is_ended_and_blamed() -> None:
    before = spawned()
    with opened(job_seconds=0.7) as pool:
        assert_works(pool)

        async def hang_beside_work() -> None:
            started = time.monotonic()
            hanging = asyncio.create_task(pool.run(ImageRejected, time.sleep, 60))
            spinning = asyncio.create_task(pool.run(WorldError, busy, 60))
            waiting = [asyncio.create_task(pool.run(ImageRejected, slow_pid, 0.1)) for _ in range(4)]
            with pytest.raises(ImageRejected) as hung:
                await hanging
            with pytest.raises(WorldError) as spun:
                await spinning
            assert time.monotonic() - started < 5
            assert hung.value.code is ErrorCode.NOT_A_PICTURE
            assert "0.7 s" in hung.value.message
            assert spun.value.code is ErrorCode.VENDOR_BAD_ANSWER
            assert all(isinstance(pid, int) for pid in await asyncio.gather(*waiting)), "waiting is not working"

        run(hang_beside_work)
        assert_works(pool)
    assert wait_until(lambda: not spawned() - before, 2)


def test_a_job_that_ignores_the_wish_to_end_is_killed() -> None:
    with opened(job_seconds=0.5, subprocesses=1) as pool:
        assert_works(pool)
        started = time.monotonic()
        with pytest.raises(ImageRejected):
            run(lambda: pool.run(ImageRejected, deaf, 60))
        assert time.monotonic() - started < 10
        assert_works(pool)


# --- the event loop


def test_the_event_loop_stays_responsive(pool: PicturePool) -> None:
    async def watch() -> float:
        jobs = [asyncio.create_task(pool.run(ImageRejected, slow_pid, 1.0)) for _ in range(2)]
        jobs.append(asyncio.create_task(pool.normalise(photo_bytes((3000, 2000)))))
        longest, last = 0.0, time.monotonic()
        while not all(job.done() for job in jobs):
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        await asyncio.gather(*jobs)
        return longest

    assert run(watch) < 0.7


def test_large_photos_waiting_do_not_block_the_event_loop(pool: PicturePool) -> None:
    """Both subprocesses busy and 20 x 8 MB queued: the pipe to them is full."""

    async def watch() -> float:
        jobs = [asyncio.create_task(pool.run(ImageRejected, slow_pid, 1.0)) for _ in range(2)]
        jobs += [asyncio.create_task(pool.run(ImageRejected, len, bytes(8_000_000))) for _ in range(20)]
        longest, last = 0.0, time.monotonic()
        while not all(job.done() for job in jobs):
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        assert {await job for job in jobs[2:]} == {8_000_000}
        return longest

    assert run(watch) < 0.7


def test_a_cancelled_wait_ends_its_job_only(pool: PicturePool) -> None:
    async def cancel() -> None:
        hanging = asyncio.create_task(pool.run(ImageRejected, time.sleep, 60))
        other = asyncio.create_task(pool.run(ImageRejected, slow_pid, 0.5))
        await asyncio.sleep(0.3)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert isinstance(await other, int)
        both = await asyncio.gather(*(pool.run(ImageRejected, slow_pid, 0.2) for _ in range(2)))
        assert len(both) == 2, "the cancelled job holds no subprocess"

    run(cancel)


# --- the end


def test_close_leaves_no_process_and_no_thread() -> None:
    children_before, threads_before = spawned(), threading.active_count()
    with opened() as pool:
        assert_works(pool)
        assert len(spawned() - children_before) == 2
    assert wait_until(lambda: not spawned() - children_before, 2)
    assert wait_until(lambda: threading.active_count() <= threads_before, 2)


def test_close_with_jobs_in_hand_ends_them() -> None:
    before = spawned()

    async def main() -> None:
        pool = PicturePool(PhotoLimits(subprocesses=2))
        await pool.run(ImageRejected, own_pid)
        jobs = [asyncio.create_task(pool.run(ImageRejected, time.sleep, 60)) for _ in range(5)]
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await asyncio.to_thread(pool.close)
        assert time.monotonic() - started < 10
        _, pending = await asyncio.wait(jobs, timeout=3)
        for job in pending:
            job.cancel()
        errors = await asyncio.gather(*jobs, return_exceptions=True)
        assert not pending, f"{len(pending)} of {len(jobs)} who wait are never told"
        for error in errors:
            assert isinstance(error, CodedError | asyncio.CancelledError), repr(error)

    run(main)
    assert wait_until(lambda: not spawned() - before, 2)


def test_a_pool_never_used_closes_and_closing_twice_is_no_error() -> None:
    pool = PicturePool(PhotoLimits())
    pool.close()
    pool.close()


PARENT = """
import asyncio, multiprocessing, sys, time
from shared.errors import ImageRejected
from shared.settings import PhotoLimits
from shared.staging.pool import PicturePool
from tests.staging.test_pool import busy, own_pid, slow_pid

async def main():
    pool = PicturePool(PhotoLimits(subprocesses=2))
    await asyncio.gather(*(pool.run(ImageRejected, slow_pid, 0.2) for _ in range(2)))
    kind = sys.argv[1]
    jobs = []
    if kind == "hanging":
        jobs = [asyncio.create_task(pool.run(ImageRejected, time.sleep, 60)) for _ in range(2)]
    if kind == "computing":
        jobs = [asyncio.create_task(pool.run(ImageRejected, busy, 60)) for _ in range(2)]
    await asyncio.sleep(0.3)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["idle", "hanging", "computing"])
@pytest.mark.parametrize("number", [signal.SIGKILL], ids=["SIGKILL"])
def test_subprocesses_end_with_their_killed_parent(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    """Left behind they would hold gigabytes beside the worker that is started in the dead one's place."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=ROOT,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        parent.send_signal(number)
        parent.wait(5)
        try:
            gone = wait_until(lambda: not any(alive(pid) for pid in pids), 2.5)
            assert gone, f"{[pid for pid in pids if alive(pid)]} outlive their parent"
        finally:
            for pid in pids:
                if alive(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def test_ctrl_c_is_left_to_the_parent(pool: PicturePool) -> None:
    async def interrupted() -> None:
        pid = await pool.run(ImageRejected, own_pid)
        jobs = [asyncio.create_task(pool.run(ImageRejected, slow_pid, 0.5)) for _ in range(2)]
        await asyncio.sleep(0.2)
        os.kill(pid, signal.SIGINT)
        assert pid in await asyncio.gather(*jobs)

    run(interrupted)
