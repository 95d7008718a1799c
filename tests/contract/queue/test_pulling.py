"""Pulling from the Queue: how many, how long, and who gets what. Order is promised nowhere."""

from __future__ import annotations

import asyncio
import random

import pytest

from shared.ports import Delivery
from shared.topology import DEAD_LETTER_DOOR, DEAD_LETTER_KEPT, DEAD_LETTER_TOPIC, topology
from tests.contract.backends import Backend, Unsteady, take
from tests.contract.queue.parts import TASKS, bodies, ids, nothing, numbered, one, return_seconds


def test_both_subscriptions_of_a_topic_get_every_message(backend: Backend) -> None:
    async def case() -> None:
        queue = backend.queue
        await queue.publish(DEAD_LETTER_TOPIC, numbered(20))
        first = await take(backend, DEAD_LETTER_DOOR, 20)
        await queue.ack(DEAD_LETTER_DOOR, ids(first))
        second = await take(backend, DEAD_LETTER_KEPT, 20)
        assert bodies(first) == bodies(second) == sorted(message.data for message in numbered(20))
        assert {delivery.attempt for delivery in second} == {1}
        await queue.nack(DEAD_LETTER_KEPT, ids(second[:1]))
        await nothing(backend, DEAD_LETTER_DOOR, return_seconds(backend, DEAD_LETTER_DOOR))

    backend.run(case)


def test_topics_do_not_mix(backend: Backend) -> None:
    async def case() -> None:
        topics = sorted(topology().topics)
        for number, topic in enumerate(topics):
            await backend.queue.publish(topic, numbered(number + 1, start=10 * number))
        for number, topic in enumerate(topics):
            for subscription in topology().subscriptions(topic):
                deliveries = await take(backend, subscription, number + 2, 1.0)
                assert bodies(deliveries) == sorted(m.data for m in numbered(number + 1, start=10 * number))

    backend.run(case)


@pytest.mark.parametrize("most", [1, 3, 10, 11])
def test_a_pull_gets_at_most_what_it_asks_for(backend: Backend, most: int) -> None:
    async def case() -> None:
        await backend.queue.publish(TASKS, numbered(10))
        got: list[Delivery] = []
        while deliveries := await backend.queue.pull(TASKS, most, 1.0):
            assert len(deliveries) <= most
            got += deliveries
        assert bodies(got) == sorted(message.data for message in numbered(10))

    backend.run(case)


def test_an_empty_pull_waits_and_answers_nothing(backend: Backend) -> None:
    async def case() -> None:
        clock = backend.clock
        for seconds in (0.0, 0.5, 3.0) if not backend.virtual else (0.0, 0.5, 3.0, 50.0, 1000.0):
            started = clock.monotonic()
            assert await backend.queue.pull(TASKS, 5, seconds) == []
            took = clock.monotonic() - started
            assert seconds - backend.slack_seconds <= took <= seconds + backend.slack_seconds
        await backend.queue.publish(TASKS, numbered(1))
        held = await one(backend)
        started = clock.monotonic()
        assert await backend.queue.pull(TASKS, 5, 3.0) == []  # what others hold is nothing, too
        assert clock.monotonic() - started >= 3.0 - backend.slack_seconds
        await backend.queue.ack(TASKS, [held.ack_id])

    backend.run(case)


def test_a_pull_without_waiting_gets_what_is_there(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        await backend.queue.publish(TASKS, numbered(3))
        assert bodies(await backend.queue.pull(TASKS, 5, 0.0)) == sorted(m.data for m in numbered(3))
        assert await backend.queue.pull(TASKS, 5, 0.0) == []

    backend.run(case)


def test_a_waiting_pull_is_woken_by_a_message(backend: Backend) -> None:
    async def case() -> None:
        for seconds in (1.0, 3.3):
            pull = asyncio.create_task(backend.queue.pull(TASKS, 5, 50.0))
            await backend.advance(seconds)
            assert not pull.done()
            await backend.queue.publish(TASKS, numbered(1))
            published_at = backend.clock.monotonic()
            assert len(await pull) == 1
            assert backend.clock.monotonic() - published_at <= backend.slack_seconds

    backend.run(case)


def test_a_waiting_pull_is_woken_by_a_message_of_another_process(backend: Backend) -> None:
    async def case() -> None:
        pulls = [asyncio.create_task(view.queue.pull(TASKS, 1, 50.0)) for view in (backend, backend.second)]
        await backend.advance(3.3)
        for number in range(2):
            await backend.second.queue.publish(TASKS, numbered(1, start=number))
        published_at = backend.clock.monotonic()
        got = await asyncio.gather(*pulls)
        assert bodies([delivery for deliveries in got for delivery in deliveries]) == [b'{"n":0}', b'{"n":1}']
        assert backend.clock.monotonic() - published_at <= 1.0 + backend.slack_seconds

    backend.run(case)


def test_a_waiting_pull_gets_what_falls_due_meanwhile(backend: Backend) -> None:
    async def case() -> None:
        queue, policy, clock = backend.queue, backend.policy(TASKS), backend.clock
        patience = policy.ack_deadline_seconds + policy.retry_maximum_seconds
        await queue.publish(TASKS, numbered(1))
        delivery = await one(backend)
        leased_at = clock.monotonic()
        (again,) = await queue.pull(TASKS, 5, patience)  # its lease ends
        passed = clock.monotonic() - leased_at
        assert -backend.slack_seconds <= passed - policy.ack_deadline_seconds <= return_seconds(backend, TASKS)
        pull = asyncio.create_task(queue.pull(TASKS, 5, patience))  # waits for the lease; is told of the nack
        await backend.advance(1)
        await queue.nack(TASKS, [again.ack_id])
        nacked_at = clock.monotonic()
        (last,) = await pull
        assert (last.message_id, last.attempt) == (delivery.message_id, 3)
        assert clock.monotonic() - nacked_at <= policy.retry_minimum_seconds * 2.5 + backend.slack_seconds

    backend.run(case)


def test_every_waiting_pull_is_woken_when_there_is_something_for_each(backend: Backend) -> None:
    async def case() -> None:
        pulls = [asyncio.create_task(backend.queue.pull(TASKS, 2, 30.0)) for _ in range(5)]
        await backend.advance(1)
        started = backend.clock.monotonic()
        await backend.queue.publish(TASKS, numbered(4))
        await backend.queue.publish(TASKS, numbered(6, start=4))
        got = [delivery for pull in pulls for delivery in await pull]
        while len(got) < 10 and (more := await backend.queue.pull(TASKS, 10, 1.0)):
            got += more
        assert bodies(got) == sorted(message.data for message in numbered(10))
        assert backend.clock.monotonic() - started <= 1 + backend.slack_seconds

    backend.run(case)


def test_a_pull_that_is_cancelled_loses_nothing(backend: Backend) -> None:
    # The Pub/Sub emulator sometimes goes on serving a pull whose client has gone: its messages wait for their leases.
    backend.needs("virtual")

    async def case() -> None:
        queue, policy = backend.queue, backend.policy(TASKS)
        pulls = [asyncio.create_task(queue.pull(TASKS, 5, 30.0)) for _ in range(4)]
        await backend.advance(1)
        for pull in pulls[:2]:
            pull.cancel()
        await queue.publish(TASKS, numbered(4))
        for pull in pulls[2:]:  # in the very moment of its waking
            pull.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)
        got = [d for p in pulls if not p.cancelled() for d in p.result()]
        patience = policy.ack_deadline_seconds + return_seconds(backend, TASKS)
        got += await take(backend, TASKS, 4 - len(got), patience) if len(got) < 4 else []
        assert bodies(got) == sorted(message.data for message in numbered(4))

    backend.run(case)


def test_pulls_side_by_side_never_share_a_message(backend: Backend) -> None:
    async def case() -> None:
        chance = random.Random(6)
        await backend.queue.publish(TASKS, numbered(100))
        views = [Unsteady(view.queue, backend.clock, chance) for view in (backend, backend.second)] * 10
        rounds = [await asyncio.gather(*(view.pull(TASKS, 7, 1.0) for view in views)) for _ in range(2)]
        taken = [delivery.message_id for pulls in rounds for deliveries in pulls for delivery in deliveries]
        assert len(taken) == len(set(taken)) == 100

    backend.run(case)


def test_a_thousand_messages_by_four_pullers_come_once_each(backend: Backend) -> None:
    async def case() -> None:
        chance = random.Random(7)
        for start in range(0, 1000, 250):
            await backend.queue.publish(TASKS, numbered(250, start))
        taken: list[Delivery] = []

        async def puller(number: int) -> None:
            queue = Unsteady((backend, backend.second)[number % 2].queue, backend.clock, chance)
            while deliveries := await queue.pull(TASKS, 50, 2.0):
                taken.extend(deliveries)
                await queue.ack(TASKS, ids(deliveries))

        await asyncio.gather(*(puller(number) for number in range(4)))
        assert bodies(taken) == sorted(message.data for message in numbered(1000))
        assert {delivery.attempt for delivery in taken} == {1}
        wait = backend.policy(TASKS).ack_deadline_seconds + return_seconds(backend, TASKS)
        await nothing(backend, TASKS, wait)

    backend.run(case)
