"""How fast each photo host may be asked: one queue per host, shared by the fleet through the store.

While a host does not complain, a worker asks it for a few photos at a time and nothing is written. A host that asks to
slow down (429, or a Retry-After) gets a ledger like a vendor's model: all workers respect its wait, and the number of
concurrent calls is halved and recovers step by step. Images that wait for their turn hold no slot of the worker and
spend no attempt. Images from other hosts are not delayed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import msgspec

from shared import decisions
from shared.decisions.quota import RETRY_AFTER_MARGIN_SECONDS, Grant, Ledger
from shared.errors import ErrorCode, HostBusy, RuumError, WorldError
from shared.model import Tier
from shared.ports import BatchStore, Clock
from shared.settings import DownloadLimits, Limit
from shared.telemetry import LogEvent, tell
from shared.worker.quota import SharedQuota

log = logging.getLogger(__name__)

# A host that has not complained for ten minutes after the end of its wait is asked without turns again.
CALM_SECONDS: Final = 600.0
# The pause for a host that refuses without a Retry-After: ten seconds, then twice as long each time, up to 15 minutes.
FIRST_PAUSE_SECONDS: Final = 10.0
MAX_PAUSE_SECONDS: Final = 900.0
# How old a worker's copy of a host's ledger may be, and so how late it learns that the host refused another worker.
KNOWN_SECONDS: Final = 15.0
# A turn that is not used within a minute is given back. During a vendor's outage its image may wait much longer for a
# slot of its worker. A slot's lease, 180 s, outlasts the turn and the download.
TURN_SECONDS: Final = 60.0
KEPT_SECONDS: Final = 86_400.0  # a ledger that was not written for a day may be deleted

FREE: Final = Grant(id="", tier=Tier.NORMAL, start=0.0, epoch=0)  # the right to ask a host that needs no turns


class HostLedger(Ledger, frozen=True, kw_only=True):
    """A host's ledger. It has refused `refusals` times in a row since `refused_since`, last at `refused_at`.

    The record may be deleted at `expires_at`.
    """

    refusals: int = 0
    refused_since: float = 0.0
    refused_at: float = 0.0
    expires_at: float = 0.0


def refused(ledger: HostLedger, grant: Grant, retry_after_seconds: float | None, now: float) -> HostLedger:
    """Apply a host's refusal: wait as long as it said, or longer each time if it did not say.

    Refusals of the same epoch count once, because they were under way together. The count starts anew after an answer
    or after a calm; answers to workers that ask without turns are not recorded.
    """
    in_a_row = ledger.refusals if is_limited(ledger, now) and ledger.answered_at <= ledger.refused_at else 0
    since = ledger.refused_since if in_a_row else now
    count = in_a_row + (grant.epoch == ledger.epoch or not in_a_row)
    pause = retry_after_seconds
    if pause is None or (pause < 1 and count > 1):  # "retry at once" has just failed
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(count - 1, 20))
    return msgspec.structs.replace(
        decisions.quota.throttled(ledger, grant, pause, now),
        refusals=count,
        refused_since=since,
        refused_at=now,
        expires_at=now + pause + KEPT_SECONDS,
    )


def is_limited(ledger: HostLedger | None, now: float) -> bool:
    """Return whether photos of the host must be requested by turns."""
    if ledger is None or not ledger.refusals:
        return False
    return now < max(ledger.not_before, ledger.refused_at) + CALM_SECONDS


def host_of(uri: str) -> str | None:
    """Return the host and port of a web address, in lower case; None for any other photo source."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() not in ("https", "http"):
        return None
    try:
        return urlsplit(f"//{rest}").netloc.rpartition("@")[2].lower() or None
    except ValueError:
        return None


class Hosts:
    """One worker's view of the hosts' queues."""

    def __init__(self, store: BatchStore, clock: Clock, limits: DownloadLimits, worker: str) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        everyone = _Everyone(Limit(concurrent=limits.max_per_host))
        self._quota = SharedQuota(store, clock, everyone, worker, kind=HostLedger)
        self._known: dict[str, tuple[float, HostLedger | None]] = {}
        self._at_once: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._busy_until: dict[str, float] = {}  # by host, on the monotonic clock: the waits it asked this worker for
        self._turns: dict[str, _Turn] = {}  # by image

    @asynccontextmanager
    async def visit(self, uri: str, image: str) -> AsyncIterator[None]:
        """Enter to request a photo. Raises `HostBusy` when the image must first wait for its turn.

        A `HostBusy` raised inside is reported to the fleet. Once the host has refused everything for
        `max_refused_seconds`, a `WorldError` is raised instead, which spends an attempt.
        """
        host = host_of(uri)
        if host is None:
            yield
            return
        at_once = self._at_once.get(host) or asyncio.Semaphore(self._limits.max_per_host)
        self._at_once[host] = at_once
        grant = FREE
        try:
            async with at_once:
                known = await self._look(host)
                grant = self._right(host, image, known)
                try:
                    yield
                except HostBusy as busy:
                    if await self._refused(host, grant, busy):
                        grant = FREE  # recording the refusal has freed its slot
                    raise HostBusy(host, busy.retry_after_seconds) from None
        except BaseException:
            self._quota.unused(key_of(host), grant)
            raise
        await self._quota.succeeded(key_of(host), grant)

    async def turn(self, host: str, image: str, tier: Tier) -> None:
        """Wait until the host may be asked for this image's photo. `visit` then uses the turn."""
        while (left := self._busy_until.get(host, 0.0) - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
        grant = await self._quota.reserve(key_of(host), tier)
        self.forget(image)
        turn = self._turns[image] = _Turn(host, grant)
        asyncio.get_running_loop().call_later(TURN_SECONDS, self._expired, image, turn)

    def forget(self, image: str) -> None:
        """Give back the turn of an image that did not use it."""
        turn = self._turns.pop(image, None)
        if turn is not None:
            self._quota.unused(key_of(turn.host), turn.grant)

    def _expired(self, image: str, turn: _Turn) -> None:
        """Give the turn back if it is still unused; the image may have got a newer one since."""
        if self._turns.get(image) is turn:
            self.forget(image)

    def _right(self, host: str, image: str, known: HostLedger | None) -> Grant:
        """Return the right to ask the host now: this image's turn, or `FREE`. Raises `HostBusy`."""
        if self._clock.monotonic() < self._busy_until.get(host, 0.0):
            raise HostBusy(host)
        turn = self._turns.get(image)
        if turn is None or turn.host != host:
            if is_limited(known, self._clock.now()):
                raise HostBusy(host)
            return msgspec.structs.replace(FREE, epoch=known.epoch) if known else FREE
        if known is not None and turn.grant.epoch < known.epoch:
            raise HostBusy(host)  # it has refused another request since the turn was given
        del self._turns[image]
        return turn.grant

    def _leave_alone(self, host: str, seconds: float | None) -> None:
        """Stop asking the host at once, even if the refusal cannot be reported to the fleet."""
        now = self._clock.monotonic()
        pause = FIRST_PAUSE_SECONDS if seconds is None else seconds + RETRY_AFTER_MARGIN_SECONDS
        busy = {name: until for name, until in self._busy_until.items() if until > now}
        self._busy_until = busy | {host: max(now + pause, busy.get(host, 0.0))}

    async def _look(self, host: str) -> HostLedger | None:
        """Return the host's ledger, at most `KNOWN_SECONDS` old.

        If the store does not answer, the last known one is used.
        """
        now = self._clock.monotonic()
        found = self._known.get(host)
        if found is not None and now - found[0] < KNOWN_SECONDS:
            return found[1]
        try:
            ledger = await self._store.record(HostLedger, key_of(host))
        except RuumError as error:
            log.warning("what is known of %s could not be read: %s", host, error)
            return found[1] if found else None
        newer = self._known.get(host)
        if newer is not None and newer[0] > now:
            return newer[1]  # this worker recorded a refusal of its own meanwhile
        self._known = {name: entry for name, entry in self._known.items() if now - entry[0] < KNOWN_SECONDS}
        self._known[host] = (now, ledger)
        return ledger

    async def _refused(self, host: str, grant: Grant, busy: HostBusy) -> bool:
        """Report a refusal to the fleet; return whether it is in the host's ledger.

        Raises `WorldError` when the host asks for too long a wait, or has refused everything for too long.
        """
        limit = self._limits.max_refused_seconds
        if (busy.retry_after_seconds or 0.0) > limit:
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, f"{host} asks to wait {busy.retry_after_seconds:.0f} s")
        self._leave_alone(host, busy.retry_after_seconds)
        try:
            changed = await self._quota.changed(
                key_of(host), lambda known, now: refused(known, grant, busy.retry_after_seconds, now)
            )
        except RuumError as error:  # the host will refuse again after its wait; this must not cost an attempt
            log.warning("a refusal of %s was not noted: %s", host, error)
            return False
        if changed is None:
            return False
        self._known[host] = (self._clock.monotonic(), changed)
        tell(log, LogEvent.HOST_LIMITED, level=logging.WARNING, host=host, rate=changed.rate,
             reason=f"it asks to wait {changed.not_before - changed.refused_at:.0f} s")  # fmt: skip
        if changed.refused_at - changed.refused_since > limit:
            raise WorldError(ErrorCode.SOURCE_UNAVAILABLE, f"{host} has refused every photo for {limit:.0f} s")
        return True


def key_of(host: str) -> str:
    """Return the key of a host's ledger. The prefix keeps a customer's text from being a document's whole name."""
    return f"host:{host}"


class _Turn(msgspec.Struct, frozen=True, eq=False):
    """An image's right to one request to a host."""

    host: str
    grant: Grant


class _Everyone(Mapping[str, Limit]):
    """A mapping with the same limit for every key: hosts are not known in advance."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit

    def __getitem__(self, key: str) -> Limit:
        return self._limit

    def __contains__(self, key: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
