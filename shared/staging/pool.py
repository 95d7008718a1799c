"""A small pool of memory-limited subprocesses for everything that touches pixels.

A hostile picture kills its subprocess, not the hundred images beside it, and the event loop never waits for a codec.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from typing import Any, Final, ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError
from shared.ports import Finished, Photo
from shared.settings import PhotoLimits
from shared.staging import pictures
from shared.untrusted.confined import limit

P = ParamSpec("P")
R = TypeVar("R")

# A subprocess is replaced after this many jobs, because codecs leak and heaps fragment.
JOBS_PER_SUBPROCESS: Final = 200


def _job(work: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]) -> R:
    """Run `work` in the subprocess.

    Whatever it raises has to reach the parent as an exception that can be unpickled.
    """
    try:
        return work(*args, **kwargs)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, made a moment ago
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}"[:500]) from None
        raise
    except BaseException:  # SystemExit would end the parent's event loop
        os._exit(1)


class PicturePool:
    """Implements `shared.ports.Pictures`, and runs other picture work (`run`). Call `close` at the end."""

    def __init__(self, limits: PhotoLimits) -> None:
        self._limits = limits
        self._pool = self._new_pool()
        self._closed = False
        self._open: set[asyncio.Future[Any]] = set()

    def _new_pool(self) -> ProcessPool:
        # spawn: a fork of a process with threads and an event loop inherits locks in any state.
        return ProcessPool(
            max_workers=self._limits.subprocesses,
            max_tasks=JOBS_PER_SUBPROCESS,
            initializer=limit,
            initargs=(self._limits.subprocess_bytes, os.getpid()),
            context=multiprocessing.get_context("spawn"),
        )

    async def normalise(self, data: bytes) -> Photo:
        return await self.run(ImageRejected, pictures.normalise, data, self._limits)

    async def framed(self, photo: Photo) -> Photo:
        return await self.run(WorldError, pictures.framed, photo, self._limits)

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        return await self.run(WorldError, pictures.finish, picture, photo, self._limits)

    async def run(
        self, blame: type[ImageRejected | WorldError], work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `work` in a subprocess.

        If the subprocess dies or takes too long, an error of type `blame` is raised: the input's fault, or the world's.
        """
        again = True
        while True:
            if self._closed:
                raise asyncio.CancelledError
            pool = self._pool
            try:
                return await self._once(pool, blame, work, args, kwargs)
            except RuntimeError:  # BrokenProcessPool is one
                # A subprocess that dies between two jobs (the kernel's memory killer) breaks pebble's pool as a whole.
                if self._closed:
                    raise asyncio.CancelledError from None
                if pool.active or not again:
                    raise
                again = False
                if pool is self._pool:
                    self._pool = self._new_pool()

    async def _once(
        self,
        pool: ProcessPool,
        blame: type[ImageRejected | WorldError],
        work: Callable[..., R],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> R:
        future = pool.schedule(_job, args=(work, args, kwargs), timeout=self._limits.job_seconds)
        waiting: asyncio.Future[R] = asyncio.wrap_future(future)
        self._open.add(waiting)
        try:
            return await waiting
        except TimeoutError:
            raise self._blamed(blame, f"it took longer than {self._limits.job_seconds:g} s to decode") from None
        except ProcessExpired as error:
            raise self._blamed(blame, f"decoding it ended the decoder (exit code {error.exitcode})") from None
        except MemoryError:
            raise self._blamed(blame, "it needs more memory than a picture may") from None
        except FutureCancelled:
            raise asyncio.CancelledError from None
        finally:
            self._open.discard(waiting)

    def _blamed(self, blame: type[ImageRejected | WorldError], message: str) -> CodedError:
        code = ErrorCode.NOT_A_PICTURE if blame is ImageRejected else ErrorCode.VENDOR_BAD_ANSWER
        return blame(code, message)

    def close(self) -> None:
        """End all subprocesses. Work in them is lost, and waiting callers are cancelled."""
        self._closed = True
        for waiting in self._open:
            waiting.cancel()
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves this one untyped
        self._pool.join()
