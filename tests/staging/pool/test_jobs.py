"""The picture pool under jobs that crash, hang, eat memory or answer nonsense."""

from __future__ import annotations

import asyncio
import io
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from PIL import Image

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError
from shared.ports import Photo
from shared.settings import PhotoLimits
from shared.staging.pool import PicturePool
from tests.staging.pool.jobs import (
    asked_to_leave,
    busy,
    deaf,
    hungry,
    killed,
    left,
    limits_of_process,
    raises_value_error,
    rejects,
    slow_pid,
)
from tests.staging.pool.parts import assert_works, opened, photo_bytes, run, spawned, wait_until

GIB = 1 << 30


def blamed(pool: PicturePool, blame: type[CodedError], job: Callable[..., object], *args: object) -> CodedError:
    with pytest.raises(blame) as caught:
        run(lambda: pool.run(blame, job, *args))
    return caught.value


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
