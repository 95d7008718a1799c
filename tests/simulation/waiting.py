"""Promise 4, judged: waiting is never failing. What is nacked has failed, and what fails of an outage only waits.

An outage begins for us when its failures open the circuit. From then on one call at a time, the probe, asks whether it
is over; only an answer closes the circuit again. A failure waits a while for its verdict: whatever was begun before the
end of an outage, and failed before its begin or soon before, spends no attempt.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

from shared.decisions.quota import Circuit, Ledger
from shared.model import Image, Tier
from shared.topology import topic_of
from tests.simulation.faults import HAND, PROCESS, Faults, Hand

TASKS: Final = frozenset(topic_of(tier) for tier in Tier)
VERDICT_SECONDS: Final = 10.0  # a failure so long before the circuit opens is part of the outage
# Calls are granted five seconds ahead, and begin half a second late at most: what begins later is a probe.
GRANTED_SECONDS: Final = 6.5
NO_ANSWER: Final = frozenset({"vendor_unavailable", "vendor_timeout"})


class Waiting:
    """Follows circuits, and what becomes of who waits for them. `stopped_since` tells of a batch and a time."""

    def __init__(
        self, faults: Faults, blame: Callable[[str], None], stopped_since: Callable[[str, float], bool]
    ) -> None:
        self._faults, self._blame, self._stopped_since = faults, blame, stopped_since
        self.open_since: dict[str, float] = {}  # by model, while its circuit is not closed
        self._outages: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)  # those that are over
        self._probed_at: dict[str, float] = {}
        self._heard_at: dict[str, float] = {}
        self._probes: Counter[str] = Counter()  # under way
        self.opened = 0

    # --- the ledger

    def ledger(self, before: Ledger | None, now: Ledger) -> None:
        """A quota's document was written."""
        at, was = self._faults.loop.time(), before.circuit if before is not None else Circuit.CLOSED
        if now.circuit is Circuit.HALF_OPEN and (before is None or now.probe != before.probe):
            self._probed_at[now.id] = at
        if now.circuit is was:
            return
        self._faults.write("LEDGER", f"circuit of {now.id} {was.value} -> {now.circuit.value}")
        if was is Circuit.CLOSED:
            self.open_since[now.id] = at
            self.opened += 1
        elif now.circuit is Circuit.CLOSED:
            self._outages[now.id].append((self.open_since.pop(now.id, at), at))
            probed_at = self._probed_at.get(now.id, math.inf)
            if was is not Circuit.HALF_OPEN or self._heard_at.get(now.id, -math.inf) < probed_at:
                self._blame(f"circuit of {now.id}: closed, and its vendor has answered nothing")

    # --- the vendor

    def begun(self, model: str) -> bool:
        """A call begins; whether it can only be a probe."""
        at = self._faults.loop.time()
        probing = at - self.open_since.get(model, at) > GRANTED_SECONDS and not self._leapt()
        if probing and self._probes[model]:
            self._blame(f"circuit of {model}: a second probe while one is under way")
        self._probes[model] += probing
        return probing

    def ended(self, model: str, *, probing: bool) -> None:
        self._probes[model] -= probing

    def heard(self, model: str) -> None:
        """The vendor has said something, were it a refusal."""
        self._heard_at[model] = self._faults.loop.time()

    def failed(self, model: str, began: float) -> None:
        """5xx or time-out."""
        if (hand := HAND.get()) is not None:
            hand.unanswered = (model, began, self._faults.loop.time(), hand.faults)

    def _leapt(self) -> bool:
        """Whether the server's time, which outages and grants are by, was ever set."""
        return self._faults.leapt_at > -math.inf

    # --- what is spent

    def spent(self, hand: Hand, now: Image) -> None:
        """A worker has spent an attempt."""
        if now.error is None or now.error.code not in NO_ANSWER or hand.unanswered is None or self._leapt():
            return
        model, began, failed_at, faults = hand.unanswered
        if hand.faults > faults:
            return  # it could not ask for its verdict
        known = [*self._outages[model], (self.open_since.get(model, math.inf), math.inf)]
        if self._heard_at.get(model, -math.inf) <= failed_at:
            self._blame(f"{hand.key}: an attempt is spent, and {model} has answered nothing since {failed_at:.1f}")
        if any(since < failed_at + VERDICT_SECONDS and until > began for since, until in known):
            self._blame(
                f"{hand.key}: an attempt is spent on an outage of {model}, begun {began:.1f}, failed {failed_at:.1f}"
            )

    def nacked(self, subscription: str) -> None:
        """A worker puts a task back: something has failed, or it is stopped, or the batch was not to run meanwhile."""
        process, hand = PROCESS.get(), HAND.get()
        if subscription not in TASKS or process is None or process.stopping:
            return
        if hand is None or not (hand.spent or hand.faults or self._stopped_since(hand.key[0], hand.began)):
            self._blame(f"{process.name} nacks {hand.key if hand else 'a task'}, and nothing has failed")
