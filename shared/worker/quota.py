"""A worker's side of the vendors' quotas: calls wait here until the fleet's ledger lets them start.

One loop per model asks the ledger for all waiting calls, several calls per compare-and-set. Outcomes are reported with
the next reservation. A model without a limit costs nothing. Waiting here spends no attempt and never nacks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Generic, Protocol

import msgspec

from shared import decisions
from shared.decisions.quota import Grant, L, Ledger, QuotaRequest, Reserved
from shared.errors import DailyQuotaSpent, RuumError
from shared.events import QuotaChanged, iso
from shared.messages import quota_event
from shared.model import Refusal, Tier
from shared.ports import BatchStore, Clock, Queue
from shared.settings import Limit
from shared.telemetry import LogEvent, tell
from shared.topology import EVENTS_TOPIC

log = logging.getLogger(__name__)

# The loop asks again this long after a ledger could not be read or written.
RETRY_SECONDS = 2.0

# How long a failed call waits to learn whether the circuit opened. At 60 calls a minute, five failures in a row take 4
# s, in slow mode 8 s.
VERDICT_SECONDS = 10.0

# Jitter on the time between two asks: workers that started together must not keep asking together.
SPREAD = (0.75, 1.25)

# How much of the slowest reply time is kept per reply. Slow replies come in phases, so one is expected again for about
# the next ten.
SLOWNESS_KEPT = 0.9

# Assumed drift between two clocks, 12 ms a minute. That is more than quartz clocks drift.
DRIFT = 0.0002

OnChange = Callable[[Ledger, Ledger], Coroutine[Any, Any, None]]


class Quota(Protocol):
    """The right to call vendors' models. `SharedQuota` implements it; tests use simpler ones."""

    async def reserve(self, model: str, tier: Tier) -> Grant:
        """Return when the next call of `model` may start. Raises `DailyQuotaSpent`.

        A caller that cannot begin by `Grant.begin_by` hands the grant back with `unused` and reserves again.
        """

    async def succeeded(self, model: str, grant: Grant) -> None:
        """The vendor answered the call, whatever it answered."""

    def unused(self, model: str, grant: Grant) -> None:
        """The call was not made, or was cancelled. That says nothing about the vendor."""

    async def throttled(self, model: str, grant: Grant, retry_after_seconds: float | None) -> None:
        """The vendor answered 429."""

    async def failed(self, model: str, grant: Grant) -> bool:
        """The call ended in a 5xx or a time-out. Return whether it may be part of an outage and should be retried.

        Takes a few seconds to answer. The failures that open the circuit belong to the outage too, and so does a
        failure that no answer of the vendor has followed.
        """

    async def day_spent(self, model: str, grant: Grant) -> None:
        """The vendor's daily quota is used up."""


class QuotaEvents:
    """Reports every change of a quota: as an event on the completion topic, and as a line in the log."""

    def __init__(self, queue: Queue, clock: Clock, limits: Mapping[str, Limit]) -> None:
        self._queue = queue
        self._clock = clock
        self._limits = limits

    async def tell(self, before: Ledger, after: Ledger) -> None:
        """Report one change.

        Only the worker that made it does. Never raises: the log has what could not be published.
        """
        now = self._clock.now()
        spent = after.day_spent_until > now
        most = after.limit or self._limits.get(after.id) or Limit()
        tell(log, LogEvent.QUOTA_CHANGED, level=logging.WARNING, model=after.id, circuit=after.circuit.value,
             rate=after.rate, limit=most.per_minute or most.concurrent, daySpent=spent)  # fmt: skip
        data = QuotaChanged(
            model=after.id,
            circuit=after.circuit.value,
            circuit_before=before.circuit.value,
            rate=after.rate,
            rate_before=before.rate,
            epoch=after.epoch,
            per_minute=most.per_minute,
            concurrent=most.concurrent,
            day_spent_until=iso(after.day_spent_until) if spent else None,
        )
        # The id contains the ledger's write token, which names the change. A duplicate event has the same id.
        event = quota_event(f"quota/{after.id}/{after.token}", now, data)
        try:
            await self._queue.publish(EVENTS_TOPIC, [event.message()])
        except Exception as error:
            log.warning("quota.changed of %s not published: %s", after.id, error)


class _Waiting(msgspec.Struct, eq=False):
    """One call that waits for its grant."""

    id: str
    tier: Tier
    answer: asyncio.Future[Grant]


class ServerTime:
    """Estimates the server's time from this worker's monotonic clock, as two bounds that every reading narrows.

    A single reading is uncertain by the time it was under way: seconds, if the process was suspended or the transaction
    waited for others. A reading that contradicts the bounds means that the server's clock was set. It then replaces
    them.
    """

    def __init__(self) -> None:
        self._at = 0.0  # on the monotonic clock: when the bounds were last narrowed
        self._ahead = (-math.inf, math.inf)  # how far the server's clock is ahead of the monotonic one

    def read(self, server: float, asked_at: float, read_at: float) -> None:
        """Take in a reading: it was `server` on the server at some moment between the two monotonic times."""
        drifted = DRIFT * (read_at - self._at)
        found = (server - read_at, server - asked_at)
        bounds = (max(found[0], self._ahead[0] - drifted), min(found[1], self._ahead[1] + drifted))
        self._at, self._ahead = read_at, bounds if bounds[0] <= bounds[1] else found

    def surely(self, at: float) -> float:
        """Return the monotonic time at which it is certainly `at` on the server's clock."""
        return at - self._ahead[0]

    def earliest(self, at: float) -> float:
        """Return the first monotonic time at which it may be `at` on the server's clock."""
        return at - self._ahead[1]


class _Model:
    """What this worker waits for, and has to report, about one model."""

    def __init__(self) -> None:
        self.waiting: list[_Waiting] = []
        self.done_slots: set[str] = set()
        self.answered: float | None = None  # the last answer not yet reported, on the monotonic clock
        self.probe_succeeded: str | None = None
        self.probe_unused: str | None = None
        self.loop: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()
        self.next_ask_at = 0.0  # by the monotonic clock
        self.reply_seconds = 0.0  # duration of a reservation, from the reading of the server's time to the reply
        self.ahead: dict[str, tuple[Grant, _Waiting, asyncio.TimerHandle]] = {}  # granted, and not begun yet

    @property
    def gives_back(self) -> bool:
        """Whether other workers may be waiting for something that this worker has to give back."""
        return bool(self.done_slots) or self.probe_unused is not None


class SharedQuota(Generic[L]):
    """A `Quota` whose ledgers, of type `kind`, are shared by the fleet through the store.

    `limits` come from the settings; a model that is not in them is not limited. `on_change` is called after each
    change.
    """

    def __init__(
        self,
        store: BatchStore,
        clock: Clock,
        limits: Mapping[str, Limit],
        worker: str,
        on_change: OnChange | None = None,
        kind: type[L] = Ledger,  # type: ignore[assignment]  # a default for L
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._worker = worker
        self._on_change = on_change
        self._kind = kind
        self._models: dict[str, _Model] = {}
        self._server = ServerTime()
        self._telling: set[asyncio.Task[None]] = set()  # kept from the garbage collector until they are done

    async def reserve(self, model: str, tier: Tier) -> Grant:
        if model not in self._limits:
            return Grant(id="", tier=tier, start=0.0, epoch=0)
        state = self._models.setdefault(model, _Model())
        waiting = _Waiting(self._clock.token(), tier, asyncio.get_running_loop().create_future())
        state.waiting.append(waiting)
        self._kick(model, state)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.done() and not waiting.answer.cancelled() and waiting.answer.exception() is None:
                self.unused(model, waiting.answer.result())
            elif waiting in state.waiting:
                state.waiting.remove(waiting)
            raise

    def _give_back(self, state: _Model, grant: Grant) -> None:
        """Note a slot or probe that the next reservation gives back, and wake the loop."""
        if grant.slot:
            state.done_slots.add(grant.id)
        if grant.probe:
            state.probe_unused = grant.id
        if state.gives_back:
            state.wake.set()

    def _kick(self, model: str, state: _Model) -> None:
        """Wake the model's loop, starting it if it has ended."""
        state.wake.set()
        if state.loop is None or state.loop.done():
            # A context of its own: the loop serves all images of this worker, so its log lines must not name one of
            # them.
            state.loop = asyncio.create_task(self._serve(model, state), context=contextvars.Context())

    async def _serve(self, model: str, state: _Model) -> None:
        """Ask the ledger until no call waits and nothing is left to give back."""
        while state.waiting or state.gives_back:
            await self._spaced(state)
            state.wake.clear()
            try:
                reserved, server_now = await self._ask(model, state)
            except RuumError as error:
                log.warning("quota of %s could not be asked: %s", model, error)
                await self._clock.sleep(RETRY_SECONDS)
                continue
            if reserved.spacing_seconds:
                spacing = reserved.spacing_seconds * self._clock.random.uniform(*SPREAD)
                state.next_ask_at = self._clock.monotonic() + spacing
            if reserved.day_spent:
                self._refuse_all(model, state, reserved.ask_again_at - server_now)
                continue
            for grant in reserved.grants:
                self._hand_out(model, state, grant)
            pause = reserved.ask_again_at - server_now
            # Infinity: everything was granted. Calls that arrived since are asked for on the next pass.
            if state.waiting and 0 < pause < math.inf:
                await self._wait(state, pause)

    async def _spaced(self, state: _Model) -> None:
        """Wait for this worker's next turn at the ledger, where many share it.

        Slots that other workers wait for are reported at once.
        """
        left = state.next_ask_at - self._clock.monotonic()
        if left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    while not state.gives_back:
                        await state.wake.wait()
                        state.wake.clear()

    async def _wait(self, state: _Model, seconds: float) -> None:
        """Wait until it is time to ask again, or until there is something to give back."""
        # Jitter, because workers that wake together lose compare-and-sets to each other. At most half of
        # WAITER_SECONDS, so that the ledger does not forget that this worker waits.
        most = min(seconds, decisions.quota.WAITER_SECONDS / 2) + self._clock.random.uniform(0.0, 0.05)
        with suppress(TimeoutError):
            async with asyncio.timeout(most):
                while not state.gives_back:  # a new call does not end the wait: there is no room for it either
                    await state.wake.wait()
                    state.wake.clear()

    async def _ask(self, model: str, state: _Model) -> tuple[Reserved, float]:
        """Make one reservation; return it with the server's time at which it was decided."""
        wanted: dict[Tier, tuple[str, ...]] = {
            tier: tuple(waiting.id for waiting in state.waiting if waiting.tier is tier) for tier in Tier
        }
        ask = QuotaRequest(
            worker=self._worker,
            wanted=wanted,
            done_slots=frozenset(state.done_slots),
            succeeded=state.answered is not None,
            probe_succeeded=state.probe_succeeded,
            probe_unused=state.probe_unused,
            lead_seconds=max(0.0, state.reply_seconds - decisions.quota.MARGIN_SECONDS / 4),  # a usual reply needs none
        )
        answered = state.answered
        outcome: list[tuple[Reserved, float, float, L]] = []  # of the decision's last run: the one that was written
        asked_at = self._clock.monotonic()

        def decide(known: L | None, now: float) -> L | Refusal:
            nonlocal asked_at
            before = known or self._kind(id=model)
            decided_at = self._clock.monotonic()
            ago = 0.0 if answered is None else decided_at - answered
            aged = msgspec.structs.replace(ask, answered_seconds_ago=ago)
            after, reserved = decisions.quota.reserve(before, aged, self._limits[model], now)
            self._server.read(now, asked_at, decided_at)
            outcome[:] = [(reserved, now, asked_at, before)]
            asked_at = decided_at  # a decision that runs again uses a newer reading
            return Refusal.UNCHANGED if after == before else after

        written = await self._store.change_record(self._kind, model, decide, self._clock.token())
        reserved, now, read_after, before = outcome[0]
        took = self._clock.monotonic() - read_after
        state.reply_seconds = max(took, SLOWNESS_KEPT * state.reply_seconds)
        if not isinstance(written, Refusal):
            self._tell(before, written)
        state.done_slots -= ask.done_slots
        state.answered = None if state.answered == answered else state.answered
        state.probe_succeeded = None if state.probe_succeeded == ask.probe_succeeded else state.probe_succeeded
        state.probe_unused = None if state.probe_unused == ask.probe_unused else state.probe_unused
        return reserved, now

    def _refuse_all(self, model: str, state: _Model, seconds: float) -> None:
        """End every wait because the daily quota is used up. The images are released without spending an attempt."""
        for waiting in state.waiting:
            if not waiting.answer.done():
                waiting.answer.set_exception(DailyQuotaSpent(f"the daily quota of {model} is spent", seconds))
        state.waiting.clear()

    def _hand_out(self, model: str, state: _Model, grant: Grant) -> None:
        """Let the waiting call start at its grant's start time."""
        waiting = next((waiting for waiting in state.waiting if waiting.id == grant.id), None)
        if waiting is None:
            self._give_back(state, grant)  # cancelled while it was being asked for
            return
        state.waiting.remove(waiting)

        def start() -> None:
            del state.ahead[grant.id]
            if waiting.answer.done():
                self.unused(model, grant)  # cancelled while it waited for its start
            else:
                waiting.answer.set_result(begun_in_time)

        # The other half of the margin is for the call's travel to the vendor.
        begin_by = self._server.earliest(grant.start + decisions.quota.MARGIN_SECONDS / 2)
        begun_in_time = msgspec.structs.replace(grant, begin_by=begin_by)
        delay = self._server.surely(grant.start) - self._clock.monotonic()
        timer = asyncio.get_running_loop().call_later(max(0.0, delay), start)
        state.ahead[grant.id] = (grant, waiting, timer)

    def _call_back(self, model: str, state: _Model, ledger: Ledger) -> None:
        """Take back grants that would start during the vendor's pause.

        The vendor would only refuse those calls. They wait again.
        """
        for grant, waiting, timer in list(state.ahead.values()):
            if grant.start < ledger.not_before:
                timer.cancel()
                del state.ahead[grant.id]
                self._give_back(state, grant)
                if not waiting.answer.done():
                    waiting.id = self._clock.token()
                    state.waiting.append(waiting)
        if state.waiting or state.gives_back:
            self._kick(model, state)

    # --- outcomes

    async def succeeded(self, model: str, grant: Grant) -> None:
        state = self._models.get(model)
        if state is None or not grant.id:
            return
        state.answered = self._clock.monotonic()
        if grant.probe:
            state.probe_succeeded = grant.id
            try:
                await self._change(model, lambda known, now: decisions.quota.heard(known, self._told(state), now))
            except RuumError as error:  # keep the answer, it is paid for; the next reservation reports the success
                log.warning("probe of %s succeeded, but could not be told: %s", model, error)
        if grant.slot:
            state.done_slots.add(grant.id)
            self._kick(model, state)

    def unused(self, model: str, grant: Grant) -> None:
        state = self._models.get(model)
        if state is not None and grant.id:
            self._give_back(state, grant)
            self._kick(model, state)

    def _told(self, state: _Model) -> QuotaRequest:
        """Return a request that reports a success and asks for nothing."""
        return QuotaRequest(worker=self._worker, wanted={}, succeeded=True, probe_succeeded=state.probe_succeeded)

    async def throttled(self, model: str, grant: Grant, retry_after_seconds: float | None) -> None:
        if grant.id:
            await self.changed(
                model, lambda known, now: decisions.quota.throttled(known, grant, retry_after_seconds, now)
            )
        else:  # a model without a ledger: wait here, without telling other workers
            await self._clock.sleep(
                decisions.quota.DEFAULT_PAUSE_SECONDS
                if retry_after_seconds is None
                else retry_after_seconds + decisions.quota.RETRY_AFTER_MARGIN_SECONDS
            )

    async def failed(self, model: str, grant: Grant) -> bool:
        if not grant.id:
            return False
        state = self._models.setdefault(model, _Model())
        answered, state.answered = state.answered, None  # reported now, because it came before this failure
        failed_here, failed_at = self._clock.monotonic(), 0.0

        def decide(known: L, now: float) -> L:
            nonlocal failed_at
            failed_at = now
            ago = None if answered is None else self._clock.monotonic() - answered
            return decisions.quota.failed(known, grant, now, answered_seconds_ago=ago)

        try:
            after = await self._change(model, decide)
        except RuumError:
            state.answered = answered if state.answered is None else state.answered
            raise
        if after is None or decisions.quota.is_of_outage(after, grant):
            return after is not None
        # Other calls that fail now may open the circuit. Then this one was part of the outage and should wait too.
        await self._clock.sleep(VERDICT_SECONDS)
        with suppress(RuumError):
            after = await self._store.record(self._kind, model) or after
        # This worker reports its own answers with its next reservation, so the ledger may not know them yet. An answer
        # at the very moment of the failure proves nothing, here as in the ledger.
        silent = (state.answered or failed_here) <= failed_here and decisions.quota.may_be_outage(after, failed_at)
        return silent or decisions.quota.is_of_outage(after, grant)

    async def day_spent(self, model: str, grant: Grant) -> None:
        if grant.id:
            await self._change(model, lambda known, now: decisions.quota.day_spent(known, grant, now))

    async def changed(self, model: str, decide: Callable[[L, float], L]) -> L | None:
        """Change the ledger by `decide`, which gets the server's time.

        Returns the new ledger, or None if nothing was written. Grants ahead that would start within a new pause are
        taken back. `decide` sees this worker's last answer, although that is reported only with the next reservation.
        """
        state = self._models.get(model)
        answered = state.answered if state is not None else None

        def after_the_answer(known: L, now: float) -> L:
            if answered is not None:
                at = max(known.answered_at, now - (self._clock.monotonic() - answered))
                known = msgspec.structs.replace(known, answered_at=at)
            return decide(known, now)

        after = await self._change(model, after_the_answer)
        if after is not None:
            self._call_back(model, self._models.setdefault(model, _Model()), after)
        return after

    async def _change(self, model: str, decide: Callable[[L, float], L]) -> L | None:
        """Change the ledger and report the change; None if the store refused it."""
        seen: list[L] = []

        def change(known: L | None, now: float) -> L:
            before = known or self._kind(id=model)
            seen[:] = [before]
            return decide(before, now)

        changed = await self._store.change_record(self._kind, model, change, self._clock.token())
        if isinstance(changed, Refusal):
            return None
        self._tell(seen[0], changed)
        return changed

    def _tell(self, before: Ledger, after: Ledger) -> None:
        """Report a visible change in a task of its own: grants must not wait until the event is published."""
        if self._on_change and (
            before.circuit is not after.circuit
            or before.epoch != after.epoch
            or before.day_spent_until != after.day_spent_until
            or before.rate != after.rate
            or before.limit != after.limit
        ):
            telling = asyncio.create_task(self._on_change(before, after), context=contextvars.Context())
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    def close(self) -> None:
        """Stop asking, and start no call that was granted."""
        for state in self._models.values():
            for _, _, timer in state.ahead.values():
                timer.cancel()
            if state.loop is not None:
                state.loop.cancel()
