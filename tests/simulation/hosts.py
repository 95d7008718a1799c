"""Photo hosts that let in a few photos at a time, and the judge of how the fleet waits for them.

A host refuses with 429 and may say for how long it wants to be left alone. Whoever was told keeps to it from that
moment on; the rest of the fleet learns of it from the host's ledger. A limit of a host is no failure: no attempt is
spent on it, and no image waits for a host that is not its own.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from shared.decisions.quota import Ledger
from shared.model import Image
from shared.ports import Delivery
from shared.worker.hosts import HostLedger
from tests.simulation.faults import HAND, LATE_SECONDS, PROCESS, Faults, Hand, Process

UNNAMED_SECONDS: Final = 10.0  # a host that names no wait is left alone for at least this long
NAMED_BY_CHANCE: Final = (None, 5.0, 30.0, 90.0)  # waits of hosts that refuse by chance
KNOWN_SECONDS: Final = 15.0  # a worker may ask a host this long after a neighbour was refused
GRANTED_SECONDS: Final = 6.0  # a turn is granted up to five seconds before its request may start
SLOW_SECONDS: Final = 12.0  # a look at the store may take this long where ports are slow
CALM_SECONDS: Final = 600.0  # turns are kept this long after a wait
MAX_SECONDS: Final = 900.0  # the longest wait of a host that names none
SOURCE_UNAVAILABLE: Final = "source_unavailable"
# An image is a suspect after so many crashes, and no worker younger than this tries it.
SUSPECT_CRASHES: Final = 2
YOUNG_SECONDS: Final = 30.0
END_SECONDS: Final = 100.0  # above the longest call and stall, below a slot's lease of 180 s


class PhotoHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host that lets in `photos` in any `seconds` and refuses more.

    `says`: "left" names the seconds until it lets in again, "nothing" names none; a number is always named.
    """

    name: str
    photos: int = 3
    seconds: float = 12.0
    says: str | float = "left"


class Wait(msgspec.Struct):
    """A host's wish to be left alone: who was told when, until when, and when the fleet's ledger had it."""

    process: Process | None
    said_at: float
    until: float
    noted_at: float = math.inf


class Hosts:
    """The hosts of a world. `visit` lets a request in, or answers for how long the host wants to be left alone."""

    def __init__(self, faults: Faults, hosts: tuple[PhotoHost, ...], blame: Callable[[str], None]) -> None:
        self._faults, self._blame = faults, blame
        self._hosts = {host.name: host for host in hosts}
        self._let_in: dict[str, deque[float]] = {host.name: deque() for host in hosts}
        self._waits: dict[str, list[Wait]] = {}
        self._parked: dict[str, tuple[Process, int]] = {}  # by message: who keeps it, and the faults it had met
        self.limited = bool(hosts)  # whether any host has a limit, so that turns are to be expected
        self.refusals: Counter[str] = Counter()
        self.max_parked = 0
        self.may_come_late = faults.rates.slow > 0 or faults.rates.silent > 0

    # --- the hosts

    def visit(self, host: str) -> float | None | bool:
        """A request arrives. Whether it is let in (True), or the wait that the host names (None: it names none)."""
        now = self._faults.loop.time()
        if host in self._waits:
            self._kept(host, now)
        known = self._hosts.get(host)
        if self._faults.happens("busy"):
            self.limited = True
            return self._faults.chance.choice(NAMED_BY_CHANCE)
        if known is None:
            return True
        times = self._let_in[host]
        while times and times[0] <= now - known.seconds:
            times.popleft()
        if len(times) < known.photos:
            times.append(now)
            return True
        if known.says == "nothing":
            return None
        return times[0] + known.seconds - now if known.says == "left" else float(known.says)

    def refused(self, host: str, seconds: float | None) -> None:
        """The host's refusal arrives."""
        now, hand, process = self._faults.loop.time(), HAND.get(), PROCESS.get()
        self.refusals[host] += 1
        self._faults.write(f"host {host}", f"429, wait {seconds}")
        until = now + (UNNAMED_SECONDS if seconds is None else seconds)
        self._waits.setdefault(host, []).append(Wait(process, now, until))
        if hand is not None:
            hand.host_refused = True

    def failed(self) -> None:
        """The host fails otherwise: that may spend an attempt."""
        if (hand := HAND.get()) is not None:
            hand.photo_failed = True

    def _kept(self, host: str, now: float) -> None:
        """A request is sent: not by who was told to wait, and not by others who must know by now."""
        hand, process = HAND.get(), PROCESS.get()
        slack = KNOWN_SECONDS + GRANTED_SECONDS + (SLOW_SECONDS if self._faults.active else 0.0)
        for wait in self._waits[host]:
            if not wait.said_at < now < wait.until - 1e-6:
                continue
            if wait.process is process:
                self._blame(
                    f"{host}: asked {now - wait.said_at:.1f} s after it named {wait.until - wait.said_at:.1f} s"
                )
                return
            hindered = hand is None or hand.faults or self.may_come_late or self._faults.leapt_at > -math.inf
            if now > wait.noted_at + slack and not hindered:
                told = wait.process.name if wait.process else "somebody"
                self._blame(f"{host}: asked by {process.name if process else '-'}, {now - wait.noted_at:.1f} s after"
                            f" {told}'s refusal was noted")  # fmt: skip
                return

    # --- what the fleet writes down

    def ledger(
        self, before: Ledger | None, now: Ledger, server_now: float, living: Callable[[str], Process | None]
    ) -> None:
        """A ledger was written: a host's refusal is known to all; no slot ran out in a living worker's hands."""
        at = self._faults.loop.time()
        if isinstance(now, HostLedger) and now.not_before > (before.not_before if before else 0.0):
            # A refusal whose worker died before it wrote it down is known to nobody, whatever others note.
            known_until = at + now.not_before - server_now + 1e-6
            for wait in self._waits.get(now.id.removeprefix("host:").partition(" ")[0], ()):
                if wait.until <= known_until:
                    wait.noted_at = min(wait.noted_at, at)
        left = {slot.id for slot in now.slots}
        for slot in before.slots if before else ():
            if slot.id not in left and slot.until <= server_now:
                self._leaked(now.id, slot.id, living)

    def _leaked(self, ledger: str, slot: str, living: Callable[[str], Process | None]) -> None:
        process = living(slot.rpartition("-")[0])
        if process is None or process.faults or process.stopping or self._faults.leapt_at > -math.inf:
            return
        self._blame(f"{ledger}: slot {slot} was not given back by {process.name}, which lives")

    def finally_free(self, ledgers: list[Ledger], server_now: float, living: Callable[[str], Process | None]) -> None:
        """Nothing is left to do: whoever lives has given back all its slots."""
        for ledger in ledgers:
            for slot in ledger.slots:
                if slot.until > server_now:
                    self._leaked(ledger.id, slot.id, living)

    # --- images and their deliveries

    @property
    def parked(self) -> int:
        """How many deliveries their workers keep without a slot."""
        return len(self._parked)

    def handled(self, delivery: Delivery) -> None:
        """A worker begins to handle a delivery."""
        self._parked.pop(delivery.message_id, None)

    def put_down(self, hand: Hand, action: str, delivery: Delivery, image: Image | None) -> None:
        """A worker has answered a delivery: it may wait for its own host only, and the host must have asked for it.

        Suspects wait for a worker that has lived for a while.
        """
        if action != "wait" or image is None:
            return
        self._parked[delivery.message_id] = (hand.process, hand.process.faults)
        self.max_parked = max(self.max_parked, len(self._parked))
        now, host = self._faults.loop.time(), image.source.split("/")[2]
        if image.crashes >= SUSPECT_CRASHES and hand.began - hand.process.began < YOUNG_SECONDS + LATE_SECONDS:
            return
        asked = max((wait.until for wait in self._waits.get(host, ())), default=-math.inf)
        if now > asked + MAX_SECONDS + CALM_SECONDS + LATE_SECONDS:
            self._blame(f"{hand.key}: waits for {host}, which has asked for nothing")

    def spent(self, hand: Hand, now: Image) -> None:
        """A worker has spent an attempt."""
        code = now.error.code if now.error is not None else ""
        if hand.host_refused or (code == SOURCE_UNAVAILABLE and not hand.photo_failed):
            self._blame(f"{hand.key}: an attempt is spent, and its host only asked to wait")

    def pulled(self, found: list[Delivery]) -> None:
        """A queue hands out messages: none that a worker keeps while it waits."""
        for delivery in found:
            process, faults = self._parked.get(delivery.message_id, (None, 0))
            if process is None or process.dead or process.stopping or process.faults > faults:
                continue
            if not self.may_come_late and self._faults.leapt_at == -math.inf:
                self._blame(f"message {delivery.message_id} comes again while {process.name} keeps it")
