"""The Queue's dead letters: after how many attempts, and what of the message is kept."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from shared.ports import Message
from shared.topology import DEAD_LETTER_DOOR, DEAD_LETTER_KEPT, DEAD_LETTER_TOPIC
from tests.contract.backends import Backend, drain, take
from tests.contract.queue.parts import TASKS, bodies, nothing, numbered, one


@pytest.mark.parametrize("end", ["nacked", "lapsed"])
def test_a_message_delivered_too_often_goes_to_both_dead_letter_subscriptions(backend: Backend, end: str) -> None:
    if end == "lapsed":
        backend.needs("virtual")  # ten leases, two minutes at least

    async def case() -> None:
        queue, policy = backend.queue, backend.policy(TASKS)
        assert policy.max_deliveries is not None
        message = Message('{"task":"é🏠"}'.encode(), {"client": "acmé", "kind": "task"})
        await queue.publish(TASKS, [message])
        await queue.publish(TASKS, numbered(1))
        healthy = 0
        for attempt in range(1, policy.max_deliveries + 1):
            patience = policy.ack_deadline_seconds + policy.retry_maximum_seconds * 2
            deliveries = await take(backend, TASKS, 2 if attempt == 1 else 1, patience)
            for delivery in deliveries:
                if delivery.data == message.data:
                    assert delivery.attempt == attempt
                    if end == "nacked":
                        await queue.nack(TASKS, [delivery.ack_id])
                else:
                    healthy += 1
                    await queue.ack(TASKS, [delivery.ack_id])
        assert healthy == 1
        assert await queue.pull(DEAD_LETTER_DOOR, 1, 0.1) == []  # the last delivery is still in hand or backing off
        await nothing(backend, TASKS, policy.ack_deadline_seconds + policy.retry_maximum_seconds * 2)
        for subscription in (DEAD_LETTER_DOOR, DEAD_LETTER_KEPT):
            letter = await one(backend, subscription, 5)
            assert letter.data == message.data
            assert letter.attributes.items() >= message.attributes.items()
            assert letter.attempt == 1
            await queue.ack(subscription, [letter.ack_id])
            await nothing(backend, subscription, 2)

    backend.run(case)


def test_the_last_delivery_is_as_good_as_any(backend: Backend) -> None:
    """In hand, whatever others pull; and acked, it leaves no letter."""
    backend.needs("virtual")

    async def case() -> None:
        queue, policy = backend.queue, backend.policy(TASKS)
        await queue.publish(TASKS, numbered(1))
        for attempt in range(1, (policy.max_deliveries or 0) + 1):
            last = await one(backend, within_seconds=policy.ack_deadline_seconds + 1)
            assert last.attempt == attempt
        await queue.publish(TASKS, numbered(1, start=1))
        for _ in range(5):
            await queue.extend(TASKS, [last.ack_id], policy.ack_deadline_seconds)
            for delivery in await queue.pull(TASKS, 5, policy.ack_deadline_seconds / 2):
                assert delivery.message_id != last.message_id
                await queue.ack(TASKS, [delivery.ack_id])
        await queue.ack(TASKS, [last.ack_id])
        await nothing(backend, TASKS, 1000)
        for subscription in (DEAD_LETTER_DOOR, DEAD_LETTER_KEPT):
            await nothing(backend, subscription, 1)

    backend.run(case)


def test_pulls_that_wait_are_served_while_others_are_dead_lettered(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        queue, policy = backend.queue, backend.policy(TASKS)
        await queue.publish(TASKS, numbered(30))
        letters = asyncio.create_task(drain(backend, DEAD_LETTER_DOOR, policy.retry_maximum_seconds * 10))
        attempts: Counter[str] = Counter()
        while not letters.done():
            for delivery in await queue.pull(TASKS, 7, policy.ack_deadline_seconds):
                attempts[delivery.message_id] += 1
                assert delivery.attempt == attempts[delivery.message_id]
                await queue.nack(TASKS, [delivery.ack_id])
        assert bodies(await letters) == sorted(message.data for message in numbered(30))
        assert set(attempts.values()) == {policy.max_deliveries}
        assert len(attempts) == 30

    backend.run(case)


def test_a_message_is_not_hidden_by_one_that_goes_to_the_dead_letters(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        queue, policy = backend.queue, backend.policy(TASKS)
        await queue.publish(TASKS, numbered(1))
        for _ in range(policy.max_deliveries or 0):
            await one(backend, within_seconds=policy.ack_deadline_seconds + 1)
        await backend.advance(policy.ack_deadline_seconds + 1)
        await queue.publish(TASKS, numbered(1, start=1))
        assert bodies(await queue.pull(TASKS, 1, 0.0)) == [b'{"n":1}']  # "as soon as there is one"

    backend.run(case)


def test_who_waits_for_letters_is_woken_by_one(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        queue, policy, clock = backend.queue, backend.policy(TASKS), backend.clock
        await queue.publish(TASKS, numbered(1))
        for _ in range(policy.max_deliveries or 0):
            last = await one(backend, within_seconds=policy.ack_deadline_seconds + 1)
        letters = [asyncio.create_task(queue.pull(name, 1, 400.0)) for name in (DEAD_LETTER_DOOR, DEAD_LETTER_KEPT)]
        await backend.advance(policy.ack_deadline_seconds + 5)
        started = clock.monotonic()
        await nothing(backend, TASKS, 0.5)
        assert [bodies(await letter) for letter in letters] == [[last.data], [last.data]]
        assert clock.monotonic() - started <= 0.5 + backend.slack_seconds

    backend.run(case)


def test_letters_are_kept_for_ever(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        queue = backend.queue
        await queue.publish(DEAD_LETTER_TOPIC, numbered(1))
        for attempt in range(1, 40):
            letter = await one(backend, DEAD_LETTER_KEPT, 1000)
            assert letter.attempt == attempt
            if attempt % 2:
                await queue.nack(DEAD_LETTER_KEPT, [letter.ack_id])
        assert (await one(backend, DEAD_LETTER_DOOR)).attempt == 1

    backend.run(case)
