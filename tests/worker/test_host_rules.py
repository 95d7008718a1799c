"""A photo host's limits as pure rules: how long it is left alone, and when its photos are asked for by turns."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from shared import decisions
from shared.decisions.quota import Grant, QuotaRequest
from shared.model import Tier
from shared.settings import Limit
from shared.worker import hosts
from shared.worker.hosts import (
    CALM_SECONDS,
    FIRST_PAUSE_SECONDS,
    FREE,
    MAX_PAUSE_SECONDS,
    HostLedger,
    host_of,
    is_limited,
    refused,
)

NOW = 1_772_442_000.0
MARGIN = decisions.quota.RETRY_AFTER_MARGIN_SECONDS
NEW = HostLedger(id="host:x.example")
LIMIT = Limit(concurrent=10)


def turn(ledger: HostLedger, now: float, succeeded: bool = False) -> tuple[HostLedger, Grant]:
    """One turn, and what was heard on the way to it."""
    ask = QuotaRequest(worker="w", wanted={Tier.NORMAL: (f"c{now}",)}, succeeded=succeeded)
    ledger, reserved = decisions.quota.reserve(ledger, ask, LIMIT, now)
    (grant,) = reserved.grants
    return ledger, grant


@pytest.mark.parametrize("seconds", [0.0, 1.0, 7.5, 3600.0])
def test_a_wait_that_is_named_is_kept(seconds: float) -> None:
    ledger = refused(NEW, FREE, seconds, NOW)
    assert ledger.not_before == NOW + seconds + MARGIN
    assert (ledger.refusals, ledger.refused_since, ledger.refused_at) == (1, NOW, NOW)
    assert ledger.expires_at > ledger.not_before + CALM_SECONDS


def test_a_host_that_names_no_wait_is_left_alone_for_longer_each_time() -> None:
    """10, 20, 40 s and so on, up to a quarter of an hour."""
    ledger, now, pauses = NEW, NOW, []
    for _ in range(10):
        ledger, grant = turn(ledger, now)
        ledger = refused(ledger, grant, None, now)
        pauses.append(ledger.not_before - now - MARGIN)
        now = ledger.not_before
    assert pauses == [min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**count) for count in range(10)]
    assert ledger.refused_since == NOW


@pytest.mark.parametrize(("succeeded", "count"), [(True, 1), (False, 2)])
def test_an_answer_in_between_begins_the_count_anew(succeeded: bool, count: int) -> None:
    ledger = refused(NEW, FREE, None, NOW)
    now = ledger.not_before
    ledger, _ = turn(ledger, now, succeeded)
    ledger, grant = turn(ledger, now + 1)
    assert refused(ledger, grant, None, now + 2).refusals == count


def test_an_answer_from_before_a_refusal_does_not_begin_the_count_anew() -> None:
    """It is told with a later reservation."""
    ledger = refused(NEW, FREE, None, NOW)
    now = ledger.not_before
    late = QuotaRequest(worker="w", wanted={}, succeeded=True, answered_seconds_ago=now - NOW + 1)
    ledger, _ = decisions.quota.reserve(ledger, late, LIMIT, now)
    ledger, grant = turn(ledger, now)
    assert refused(ledger, grant, None, now).refusals == 2


@pytest.mark.parametrize("many", [2, 10, 50])
def test_refusals_of_one_moment_count_once(many: int) -> None:
    ledger = NEW
    for number in range(many):
        ledger = refused(ledger, FREE, None, NOW + number / 1000)
    assert (ledger.refusals, ledger.epoch, ledger.rate) == (1, 1, 0.5)
    assert ledger.not_before == pytest.approx(NOW + FIRST_PAUSE_SECONDS + MARGIN, abs=0.1)


@pytest.mark.parametrize("seconds", [None, 5.0, 300.0, 1800.0, 86_400.0])
def test_turns_are_kept_until_a_calm_after_the_wait(seconds: float | None) -> None:
    """The host's own wait is no calm: all would rush in at its end."""
    assert not is_limited(None, NOW) and not is_limited(NEW, NOW)
    ledger = refused(NEW, FREE, seconds, NOW)
    for now in (NOW, ledger.not_before - 1, ledger.not_before, ledger.not_before + CALM_SECONDS - 1):
        assert is_limited(ledger, now)
    assert not is_limited(ledger, ledger.not_before + CALM_SECONDS)


def test_after_a_calm_refusals_are_counted_anew() -> None:
    """Those who asked freely meanwhile were answered, which nobody notes: it has not refused everything for days."""
    ledger = NEW
    for _ in range(6):
        ledger = refused(ledger, msgspec.structs.replace(FREE, epoch=ledger.epoch), None, NOW)
    assert ledger.refusals == 6
    later = ledger.not_before + CALM_SECONDS + 2 * 86_400.0
    ledger = refused(ledger, msgspec.structs.replace(FREE, epoch=ledger.epoch), None, later)
    assert (ledger.refusals, ledger.refused_since) == (1, later)
    assert ledger.not_before == later + FIRST_PAUSE_SECONDS + MARGIN


EVENTS = ("refused", "refused late", "named", "answered", "later", "calm")


@pytest.mark.parametrize("first", EVENTS)
def test_whatever_comes_in_whatever_order(first: str) -> None:
    """The wait never ends sooner than was asked; the rate stays within bounds; a slot is held by who has a turn."""
    for more in product(EVENTS, repeat=4):
        ledger, now, old = NEW, NOW, FREE
        promised = 0.0
        for what in (first, *more):
            if what in ("later", "calm"):
                now = max(now, ledger.not_before) + (1.0 if what == "later" else CALM_SECONDS)
                continue
            if what == "answered":
                now = max(now, ledger.not_before)
                ledger, old = turn(ledger, now)
                ledger, _ = decisions.quota.reserve(
                    ledger,
                    QuotaRequest(worker="w", wanted={}, succeeded=True, done_slots=frozenset({old.id})),
                    LIMIT,
                    now,
                )
                assert ledger.answered_at == now
                continue
            seconds = 30.0 if what == "named" else None
            grant = old if what == "refused late" else msgspec.structs.replace(FREE, epoch=ledger.epoch)
            before, ledger = ledger, refused(ledger, grant, seconds, now)
            promised = max(promised, now + (FIRST_PAUSE_SECONDS if seconds is None else seconds))
            assert ledger.not_before >= promised
            assert ledger.not_before <= max(before.not_before, now + MAX_PAUSE_SECONDS + MARGIN)
            assert 1 <= ledger.refusals <= before.refusals + 1
            assert NOW <= ledger.refused_since <= ledger.refused_at == now
            assert decisions.quota.SLOWEST <= ledger.rate <= 1.0
            assert not ledger.slots
            assert is_limited(ledger, now)
            _, reserved = decisions.quota.reserve(
                ledger, QuotaRequest(worker="w", wanted={Tier.NORMAL: ("c",)}), LIMIT, now
            )
            assert all(grant.start >= ledger.not_before for grant in reserved.grants)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://Fotos.Example/a/b.jpg", "fotos.example"),
        ("https://fotos.example:8443/a.jpg", "fotos.example:8443"),
        ("http://user:word@fotos.example/a.jpg", "fotos.example"),
        ("HTTPS://fotos.example", "fotos.example"),
        ("https://[2001:db8::1]:8443/a.jpg", "[2001:db8::1]:8443"),
        ("https://[broken/a.jpg", None),
        ("https:///a.jpg", None),
        ("gs://bucket/a.jpg", None),
        ("file:///tmp/a.jpg", None),
        ("a.jpg", None),
    ],
)
def test_the_host_of_an_address(uri: str, host: str | None) -> None:
    assert host_of(uri) == host


def test_a_turn_is_given_back_before_its_lease_ends() -> None:
    """The download of the last moment still lies within it."""
    from shared.settings import DownloadLimits

    assert hosts.TURN_SECONDS + DownloadLimits().total_seconds < decisions.quota.SLOT_SECONDS
