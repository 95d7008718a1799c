"""A small pool of memory-limited subprocesses for everything that touches pixels.

A hostile picture kills its subprocess, not the hundred images beside it, and the event loop never waits for a codec.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import resource
import signal
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from typing import Final, ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessPool

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError
from shared.ports import Finished, Photo
from shared.settings import PhotoLimits
from shared.staging import pictures

P = ParamSpec("P")
R = TypeVar("R")

# A subprocess is replaced after so many jobs: codecs leak and heaps fragment.
JOBS_PER_SUBPROCESS: Final = 200


def _limit(address_space_bytes: int) -> None:
    """Runs first in each subprocess."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it lets work in hand finish
    gc.freeze()


class PicturePool:
    """Implements `shared.ports.Pictures`, and runs other picture work (`run`). `close` at the end."""

    def __init__(self, limits: PhotoLimits) -> None:
        self._limits = limits
        # spawn: a fork of a process with threads and an event loop inherits locks in any state.
        self._pool = ProcessPool(
            max_workers=limits.subprocesses,
            max_tasks=JOBS_PER_SUBPROCESS,
            initializer=_limit,
            initargs=(limits.subprocess_bytes,),
            context=multiprocessing.get_context("spawn"),
        )

    async def normalise(self, data: bytes) -> Photo:
        return await self.run(ImageRejected, pictures.normalise, data, self._limits)

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        return await self.run(WorldError, pictures.finish, picture, photo, self._limits)

    async def run(
        self, blame: type[ImageRejected | WorldError], work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `work` in a subprocess. One that dies or takes too long is `blame`d: the input's fault or the world's."""
        future = self._pool.schedule(work, args=args, kwargs=kwargs, timeout=self._limits.job_seconds)
        try:
            return await asyncio.wrap_future(future)
        except TimeoutError:
            raise self._blamed(blame, f"it took longer than {self._limits.job_seconds:g} s to decode") from None
        except ProcessExpired as error:
            raise self._blamed(blame, f"decoding it ended the decoder (exit code {error.exitcode})") from None
        except MemoryError:
            raise self._blamed(blame, "it needs more memory than a picture may") from None
        except FutureCancelled:
            raise asyncio.CancelledError from None

    def _blamed(self, blame: type[ImageRejected | WorldError], message: str) -> CodedError:
        code = ErrorCode.NOT_A_PICTURE if blame is ImageRejected else ErrorCode.VENDOR_BAD_ANSWER
        return blame(code, message)

    def close(self) -> None:
        """End all subprocesses; work in them is lost."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves this one untyped
        self._pool.join()
