"""The world outside: a vendor that counts and enforces its limits exactly, photos, and pictures that are only marked."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from ops.noop import ANALYSIS, GOOD
from shared.answers import Analysis, Verdict
from shared.errors import (
    ConfigurationError,
    DailyQuotaSpent,
    ErrorCode,
    HostBusy,
    ImageRejected,
    Throttled,
    WorldError,
)
from shared.model import Usage
from shared.ports import Answer, Finished, ModelSpec, Photo, Request, Step
from tests.simulation.faults import HAND, Faults
from tests.simulation.hosts import Hosts

TEXT: Final = "text-model"
IMAGE: Final = "image-model"
TIMEOUT_SECONDS: Final = 60.0
FOUND_AFTER_SECONDS: Final = 15.0
# After the backend's clock was set forward, calls let in before it seem older than they are, for a minute and what was
# granted ahead.
LEAP_SECONDS: Final = 70.0
OUTAGES: Final = {
    "5xx": ErrorCode.VENDOR_UNAVAILABLE,
    "hang": ErrorCode.VENDOR_TIMEOUT,
    "bad": ErrorCode.VENDOR_BAD_ANSWER,
}
BAD: Final = Verdict(structure_kept=0.1, realism=0.9, style_fit=0.9, defects=["a door is gone"])


class Witness:
    """Sees what is asked of the vendor and what comes of it. This one does not care."""

    def asked(self, step: str) -> None: ...

    def answered(self, step: str, photo: bytes, picture: bytes = b"") -> None: ...

    def judged(self, picture: bytes, *, bad: bool) -> None: ...

    def begun(self, model: str) -> bool:
        """Whether the call that begins can only be a probe."""
        return False

    def ended(self, model: str, *, probing: bool) -> None: ...

    def heard(self, model: str) -> None: ...

    def failed(self, model: str, began: float) -> None: ...


def _our_fault() -> None:
    if (hand := HAND.get()) is not None:
        hand.our_fault = True


class Vendor:
    """The models behind all workers. `seconds` tells a step's latency; `limits` are calls per rolling minute.

    `at_once` are calls at a time, `outages` (from when, for how long, what) times at which it answers nobody: "5xx",
    "hang", "bad" (answers of no use) or "credits" (they are spent). It cannot draw the photos in `spoilt`.
    `daily` are the calls of the image model until `day_ends`; 0: as many as you like.
    `answered` counts paid answers by (photo, step).
    """

    def __init__(self, faults: Faults, limits: Mapping[str, int], seconds: Callable[[str], float], daily: int = 0,
                 day_ends: float = 0.0, at_once: Mapping[str, int] | None = None,
                 outages: Sequence[tuple[float, float, str]] = ()) -> None:  # fmt: skip
        self._faults = faults
        self._daily, self._day_ends = daily, day_ends
        self._seconds = seconds
        self._at_once, self._outages = at_once or {}, outages
        self.running: dict[str, int] = dict.fromkeys(limits, 0)
        self.limits = dict(limits)
        self._starts: dict[str, deque[float]] = {model: deque() for model in limits}
        self.answered: dict[tuple[bytes, str], int] = {}
        self.answers = 0
        self.witness = Witness()
        self.spoilt: set[bytes] = set()
        self.throttled = 0  # of its own accord: a rolling minute was full, and no clock explains it
        self._arrived: dict[str, deque[float]] = {model: deque() for model in limits}
        self.busiest: dict[str, int] = dict.fromkeys(limits, 0)  # most calls that came in any rolling minute
        self.calls: dict[str, int] = dict.fromkeys(limits, 0)

    def answered_steps(self, step: str) -> int:
        """How many calls of that step were answered."""
        return sum(count for (_, known), count in self.answered.items() if known == step)

    async def call(self, photo: Photo, step: str, model: str) -> None:
        """Let a call in or refuse it, and answer it."""
        probing = self.witness.begun(model)
        self.running[model] += 1
        try:
            await self._call(photo, step, model)
        except (Throttled, ImageRejected):
            self.witness.heard(model)
            raise
        except WorldError as error:
            if error.code is ErrorCode.VENDOR_BAD_ANSWER:
                self.witness.heard(model)
            raise
        else:
            self.witness.heard(model)
        finally:
            self.running[model] -= 1
            self.witness.ended(model, probing=probing)

    async def _fail(self, photo: Photo, step: str, model: str, code: ErrorCode, why: str) -> NoReturn:
        began = self._faults.loop.time()
        self._faults.write(f"vendor.{step} {photo.jpeg!r}", f"{code.value} {why}")
        await asyncio.sleep(TIMEOUT_SECONDS if code is ErrorCode.VENDOR_TIMEOUT else 1.0)
        if code is not ErrorCode.VENDOR_BAD_ANSWER:
            self.witness.failed(model, began)
        raise WorldError(code, why)

    async def _call(self, photo: Photo, step: str, model: str) -> None:
        faults, now = self._faults, self._faults.loop.time()
        starts, arrived = self._starts[model], self._arrived[model]
        arrived.append(now)  # before it is let in or refused: who asks too often is seen, however much is let in
        for times in (starts, arrived):
            while times and times[0] <= now - 60.0:
                times.popleft()
        self.busiest[model] = max(self.busiest[model], len(arrived))
        if model == IMAGE and self._daily and now < self._day_ends and self.calls[model] >= self._daily:
            faults.write(f"vendor.{step} {photo.jpeg!r}", "429: the day's quota is spent")
            _our_fault()
            raise DailyQuotaSpent("injected")
        if len(starts) >= self.limits[model]:
            self.throttled += now - faults.leapt_at > LEAP_SECONDS
            faults.write(f"vendor.{step} {photo.jpeg!r}", "429: the rolling minute is full")
            raise Throttled("rolling minute is full", 5.0)
        if self.running[model] > self._at_once.get(model, self.running[model]):
            self.throttled += now - faults.leapt_at > LEAP_SECONDS
            faults.write(f"vendor.{step} {photo.jpeg!r}", "429: too many at once")
            raise Throttled("too many at once", 5.0)
        starts.append(now)
        self.calls[model] += 1
        if faults.happens("throttle"):
            faults.write(f"vendor.{step} {photo.jpeg!r}", "429 injected")
            raise Throttled("injected", faults.chance.choice([None, 1.0, 20.0]))
        for since, seconds, kind in self._outages:
            if since <= now < since + seconds:
                if kind == "credits":
                    _our_fault()
                    raise ConfigurationError("the credits are spent")
                await self._fail(photo, step, model, OUTAGES[kind], "in an outage")
        if step == "generate" and photo.jpeg in self.spoilt:
            await self._fail(photo, step, model, ErrorCode.VENDOR_UNAVAILABLE, "this photo only")
        if faults.happens("misconfigured"):
            faults.write(f"vendor.{step} {photo.jpeg!r}", "misconfigured")
            _our_fault()
            raise ConfigurationError("injected")
        if faults.happens("vendor"):
            code = faults.chance.choice(
                [ErrorCode.VENDOR_UNAVAILABLE, ErrorCode.VENDOR_TIMEOUT, ErrorCode.VENDOR_BAD_ANSWER]
            )
            await self._fail(photo, step, model, code, "injected")
        self.witness.asked(step)
        await asyncio.sleep(self._seconds(step))
        self.answered[photo.jpeg, step] = self.answered.get((photo.jpeg, step), 0) + 1
        self.answers += 1
        faults.write(f"vendor.{step} {photo.jpeg!r}", "answered")
        if faults.happens("refuse"):
            if (hand := HAND.get()) is not None:
                hand.refused = True
            raise ImageRejected(ErrorCode.REFUSED_BY_SAFETY, "injected")


class Model:
    """See `shared.ports.StagingModel`. Every generated picture is another one."""

    spec = ModelSpec("simulated", "simulated", tuple(
        Step(name, Usage(model)) for name, model in (("analyse", TEXT), ("generate", IMAGE), ("verify", TEXT))
    ))  # fmt: skip
    made = 0

    def __init__(self, vendor: Vendor, faults: Faults) -> None:
        self._vendor, self._faults = vendor, faults

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        await self._vendor.call(photo, "analyse", TEXT)
        self._vendor.witness.answered("analyse", photo.jpeg)
        return Answer(ANALYSIS, Usage(TEXT, 10, 10))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        await self._vendor.call(photo, "generate", IMAGE)
        made = b"picture %d of %s" % (self._vendor.answers, photo.jpeg)
        self._vendor.witness.answered("generate", photo.jpeg, made)
        return Answer(made, Usage(IMAGE, 10, 1000))

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        await self._vendor.call(photo, "verify", TEXT)
        bad = self._faults.happens("low")
        self._vendor.witness.judged(picture, bad=bad)
        return Answer(BAD if bad else GOOD, Usage(TEXT, 10, 10))

    async def aclose(self) -> None:
        """Nothing is open."""


class Pictures:
    """See `shared.ports.Pictures`."""

    async def normalise(self, data: bytes) -> Photo:
        return Photo(jpeg=data, width=4, height=3, sha256=hashlib.sha256(data).hexdigest())

    async def finish(self, picture: bytes, photo: Photo) -> Finished:
        jpeg = b"finished " + picture
        digest = hashlib.sha256(jpeg).hexdigest()
        return Finished(jpeg=jpeg, thumbnail=b"small", before=b"before", width=4, height=3, sha256=digest)


class Source:
    """See `shared.ports.ImageSource`: the photo is the last folder of its address, so addresses may share one."""

    def __init__(self, faults: Faults, hosts: Hosts, rejected: int = 0) -> None:
        self._faults, self._hosts = faults, hosts
        self._rejected = {f"/{index}.jpg" for index in range(rejected)}

    async def fetch(self, uri: str, client: str) -> bytes:
        host = uri.split("/")[2]
        answer = self._hosts.visit(host)
        await asyncio.sleep(0.2)
        if answer is not True:
            self._hosts.refused(host, answer or None)
            raise HostBusy(host, answer or None)
        if self._faults.happens("source"):
            self._hosts.failed()
            if self._faults.chance.random() < 0.3:
                raise ImageRejected(ErrorCode.SOURCE_NOT_FOUND, "injected")
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, "injected")
        if self._rejected and self._faults.loop.time() < FOUND_AFTER_SECONDS and uri.endswith(tuple(self._rejected)):
            raise ImageRejected(ErrorCode.SOURCE_NOT_FOUND, "not there yet")
        return uri.split("/")[-2].encode()
