"""A fleet of workers that share a ledger."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from shared import decisions
from shared.decisions.quota import Circuit, Grant, Ledger, QuotaRequest, Reserved
from shared.model import Tier
from shared.settings import Limit

NOW = 1_772_442_000.0  # 2026-03-02 09:00:00 UTC
PER_MINUTE = Limit(per_minute=60)


class Fleet:
    """Workers that ask one ledger, and everything they were given."""

    def __init__(self, limit: Limit = PER_MINUTE, ledger: Ledger | None = None) -> None:
        self.limit = limit
        self.ledger = ledger or Ledger(id="m")
        self.given: list[Grant] = []
        self._ids = itertools.count()

    def wanted(self, wants: Mapping[Tier, int]) -> dict[Tier, tuple[str, ...]]:
        return {tier: tuple(f"c{next(self._ids)}" for _ in range(count)) for tier, count in wants.items()}

    def ask(self, worker: str, wants: Mapping[Tier, int] | int, now: float, **heard: object) -> Reserved:
        """One reservation; a number means calls of the normal tier."""
        wants = {Tier.NORMAL: wants} if isinstance(wants, int) else wants
        ask = QuotaRequest(worker=worker, wanted=self.wanted(wants), **heard)
        self.ledger, reserved = decisions.quota.reserve(self.ledger, ask, self.limit, now)
        self.given += reserved.grants
        assert len({grant.id for grant in self.given}) == len(self.given), "a right is given once"
        return reserved

    def one(self, now: float, worker: str = "a") -> Grant:
        """The one call that is asked for, given."""
        (grant,) = self.ask(worker, 1, now).grants
        return grant

    def throttled(self, grant: Grant, seconds: float | None, now: float) -> None:
        self.ledger = decisions.quota.throttled(self.ledger, grant, seconds, now)

    def failed(self, grant: Grant, now: float) -> None:
        self.ledger = decisions.quota.failed(self.ledger, grant, now)

    def opened(self, now: float = NOW) -> Fleet:
        """The circuit opened by failures in a row."""
        for grant in self.ask("a", decisions.quota.FAILURES_TO_OPEN, now).grants:
            self.failed(grant, now)
        assert self.ledger.circuit is Circuit.OPEN
        return self

    def probe(self, worker: str = "a") -> Grant:
        """The probe that is due once the circuit's pause is over."""
        grant = self.one(self.ledger.open_until, worker)
        assert grant.probe
        return grant


def max_in_a_minute(starts: Iterable[float]) -> int:
    """The most calls that any rolling minute saw; both ends count, which is stricter than a vendor."""
    ordered, most, first = sorted(starts), 0, 0
    for last, start in enumerate(ordered):
        while start - ordered[first] > decisions.quota.WINDOW_SECONDS:
            first += 1
        most = max(most, last - first + 1)
    return most
