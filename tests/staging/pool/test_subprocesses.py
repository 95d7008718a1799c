"""The picture pool's subprocesses: they end between jobs, with the pool, and with their killed parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from shared.errors import CodedError, ImageRejected
from shared.settings import PhotoLimits
from shared.staging import pool as pool_module
from shared.staging.pool import PicturePool
from tests.staging.pool.jobs import (
    answers_what_cannot_be_pickled,
    dies_after_its_answer,
    own_pid,
    raises_awkwardly,
    slow_pid,
)
from tests.staging.pool.parts import assert_works, opened, photo_bytes, run, spawned, wait_until

ROOT = Path(__file__).resolve().parents[3]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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
from tests.staging.pool.jobs import busy, own_pid, slow_pid

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
