"""The Queue's leases and pauses: who holds a message, for how long, and when it comes again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.contract.backends import Backend, drain, take
from tests.contract.queue.parts import KEPT, KEPT_TOPIC, TASKS, bodies, ids, nothing, numbered, one, return_seconds

# --- leases


def test_what_is_not_acked_comes_again_after_its_lease(backend: Backend) -> None:
    async def case() -> None:
        queue, lease = backend.queue, backend.policy(TASKS).ack_deadline_seconds
        published_at = backend.clock.now()
        await queue.publish(TASKS, numbered(1))
        first = await one(backend)
        assert (first.data, first.attributes, first.attempt) == (b'{"n":0}', {"n": "0"}, 1)
        assert abs(first.published_at - published_at) <= backend.slack_seconds
        for attempt in (2, 3):
            await nothing(backend, TASKS, lease - 2)
            again = await one(backend, within_seconds=2 + return_seconds(backend, TASKS))
            assert again.attempt == attempt
            assert (again.message_id, again.data, again.attributes) == (first.message_id, first.data, first.attributes)
            assert again.published_at == first.published_at
        await queue.ack(TASKS, [again.ack_id])
        await nothing(backend, TASKS, lease + return_seconds(backend, TASKS))

    backend.run(case)


def test_a_lease_that_is_extended_holds(backend: Backend) -> None:
    async def case() -> None:
        queue, lease = backend.queue, backend.policy(TASKS).ack_deadline_seconds
        await queue.publish(TASKS, numbered(2))
        kept, left = await take(backend, TASKS, 2)
        for _ in range(6):  # as the lease keeper does: four leases long
            await backend.advance(lease * 2 / 3)
            await queue.extend(TASKS, [kept.ack_id], lease)
        (again,) = await take(backend, TASKS, 1)
        assert again.message_id == left.message_id
        await queue.ack(TASKS, [again.ack_id])
        await nothing(backend, TASKS, lease - 5)  # of the last extension nothing has passed but the taking
        assert (await one(backend, within_seconds=10 + return_seconds(backend, TASKS))).message_id == kept.message_id

    backend.run(case)


def test_a_lease_can_be_made_short_and_long(backend: Backend) -> None:
    async def case() -> None:
        queue = backend.queue
        await queue.publish(TASKS, numbered(2))
        short, long = await take(backend, TASKS, 2)
        await queue.extend(TASKS, [short.ack_id], 12)
        await queue.extend(TASKS, [long.ack_id], 600)
        await nothing(backend, TASKS, 10)
        again = await one(backend, within_seconds=2 + return_seconds(backend, TASKS))
        assert again.message_id == short.message_id
        await queue.ack(TASKS, [again.ack_id])
        if backend.virtual:
            await nothing(backend, TASKS, 600 - 15)
            assert (await one(backend, within_seconds=15)).message_id == long.message_id

    backend.run(case)


def test_extending_a_lease_that_has_ended_changes_nothing(backend: Backend) -> None:
    async def case() -> None:
        queue, lease = backend.queue, backend.policy(TASKS).ack_deadline_seconds
        await queue.publish(TASKS, numbered(1))
        first = await one(backend)
        await backend.advance(lease + 1)
        await queue.extend(TASKS, [first.ack_id], 600)  # ended, in nobody's hand
        second = await one(backend, within_seconds=return_seconds(backend, TASKS))
        assert second.attempt == 2
        await queue.extend(TASKS, [first.ack_id], 11)  # in another's hand: it must not get shorter
        await nothing(backend, TASKS, lease - 5)
        await queue.extend(TASKS, [first.ack_id], 600)  # nor longer
        third = await one(backend, within_seconds=10 + return_seconds(backend, TASKS))
        assert third.attempt == 3
        await queue.ack(TASKS, [third.ack_id])
        await queue.extend(TASKS, ids([first, second, third]), lease)  # nor does it bring back what is done
        await nothing(backend, TASKS, lease + return_seconds(backend, TASKS))

    backend.run(case)


@pytest.mark.parametrize("late", ["ack", "nack"])
def test_an_old_ack_id_does_not_touch_a_newer_lease(backend: Backend, late: str) -> None:
    async def case() -> None:
        queue, lease = backend.queue, backend.policy(TASKS).ack_deadline_seconds
        await queue.publish(TASKS, numbered(1))
        first = await one(backend)
        await backend.advance(lease + 1)
        second = await one(backend, within_seconds=return_seconds(backend, TASKS))
        await (queue.ack if late == "ack" else queue.nack)(TASKS, [first.ack_id])
        await nothing(backend, TASKS, lease - 3)  # the second holder's lease was not ended
        third = await one(backend, within_seconds=10 + return_seconds(backend, TASKS))  # nor the message removed
        assert (third.message_id, third.attempt) == (first.message_id, second.attempt + 1)

    backend.run(case)


def test_an_ack_after_the_lease_may_be_too_late_but_harms_nobody(backend: Backend) -> None:
    async def case() -> None:
        queue, lease = backend.queue, backend.policy(TASKS).ack_deadline_seconds
        await queue.publish(TASKS, numbered(3))
        late = await take(backend, TASKS, 3)
        await backend.advance(lease + 1)
        await queue.ack(TASKS, [late[0].ack_id])
        again = await drain(backend, TASKS, return_seconds(backend, TASKS))
        expected = sorted(delivery.message_id for delivery in late[1:])
        got = sorted(delivery.message_id for delivery in again)
        assert got in (expected, sorted([*expected, late[0].message_id]))
        await nothing(backend, TASKS, lease + return_seconds(backend, TASKS))

    backend.run(case)


def test_an_ack_within_the_lease_is_final(backend: Backend) -> None:
    async def case() -> None:
        queue, lease = backend.queue, backend.policy(TASKS).ack_deadline_seconds
        await queue.publish(TASKS, numbered(6))
        deliveries = await take(backend, TASKS, 6)
        await queue.ack(TASKS, ids(deliveries[:2]))
        await queue.ack(TASKS, ids(deliveries[:4]))  # some of them acked before
        await queue.ack(TASKS, [])
        await queue.extend(TASKS, [], 60)
        await queue.nack(TASKS, [])
        await queue.nack(TASKS, ids(deliveries[:4]))
        await nothing(backend, TASKS, lease - 5)
        again = await drain(backend, TASKS, 10 + return_seconds(backend, TASKS))
        assert bodies(again) == bodies(deliveries[4:])

    backend.run(case)


# --- backoff


async def pauses_after_nacks(backend: Backend) -> list[float]:
    """How long one message stays away, nack after nack."""
    await backend.queue.publish(KEPT_TOPIC, numbered(1))
    pauses = []
    delivery = await one(backend, KEPT)
    for nacks in range(12 if backend.virtual else 3):
        await backend.queue.nack(KEPT, [delivery.ack_id])
        started = backend.clock.monotonic()
        delivery = await one(backend, KEPT, backend.policy(KEPT).retry_maximum_seconds * 2)
        assert delivery.attempt == nacks + 2
        pauses.append(backend.clock.monotonic() - started)
    return pauses


def test_the_backoff_grows_from_the_minimum(backend: Backend) -> None:
    async def case() -> None:
        policy, pauses = backend.policy(KEPT), await pauses_after_nacks(backend)
        assert min(pauses) >= policy.retry_minimum_seconds - backend.slack_seconds
        assert pauses[0] <= policy.retry_minimum_seconds * 2
        if backend.virtual:
            assert all(sooner < later for sooner, later in pairwise(pauses[:4]))
            assert min(pauses[-3:]) >= policy.retry_maximum_seconds * 0.7

    backend.run(case)


def test_the_backoff_stays_below_the_maximum(backend: Backend) -> None:
    async def case() -> None:
        pauses = await pauses_after_nacks(backend)
        assert max(pauses) <= backend.policy(KEPT).retry_maximum_seconds + backend.slack_seconds, pauses

    backend.run(case)


def test_what_fails_together_does_not_come_back_together(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        queue, policy = backend.queue, backend.policy(KEPT)
        await queue.publish(KEPT_TOPIC, numbered(20))
        deliveries = await take(backend, KEPT, 20)
        for nacks in range(8):  # also once the maximum is reached
            assert len({delivery.message_id for delivery in deliveries}) == 20
            await queue.nack(KEPT, ids(deliveries))
            started, deliveries, due = backend.clock.monotonic(), [], []
            for _ in range(20):
                delivery = await one(backend, KEPT, policy.retry_maximum_seconds * 2)
                due.append(backend.clock.monotonic() - started)
                await queue.extend(KEPT, [delivery.ack_id], 600)
                deliveries.append(delivery)
            assert max(due) - min(due) >= 0.1 * min(due), f"after {nacks + 1} nacks: {due}"

    backend.run(case)


def test_a_nack_touches_no_other_message(backend: Backend) -> None:
    async def case() -> None:
        queue, policy = backend.queue, backend.policy(TASKS)
        await queue.publish(TASKS, numbered(3))
        given_back, held, done = await take(backend, TASKS, 3)
        await queue.nack(TASKS, [given_back.ack_id])
        await queue.ack(TASKS, [done.ack_id])
        again = await one(backend, within_seconds=policy.retry_minimum_seconds * 2 + 5)
        assert (again.message_id, again.attempt) == (given_back.message_id, 2)
        await queue.ack(TASKS, [again.ack_id, held.ack_id])
        await nothing(backend, TASKS, policy.ack_deadline_seconds + return_seconds(backend, TASKS))

    backend.run(case)
