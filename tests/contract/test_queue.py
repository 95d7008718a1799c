"""The Queue held to the words of its port. Order is promised nowhere, so no case looks at it."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import pytest

from shared.errors import WorldError
from shared.ports import Delivery, Message
from shared.topology import (
    DEAD_LETTER_DOOR,
    DEAD_LETTER_KEPT,
    DEAD_LETTER_TOPIC,
    EVENTS_SUBSCRIPTION,
    EVENTS_TOPIC,
    topology,
)
from tests.contract.backends import Backend, Unsteady, drain, take

TASKS: Final = "stage-image-normal"  # topic and subscription; dead-letters
KEPT, KEPT_TOPIC = EVENTS_SUBSCRIPTION, EVENTS_TOPIC  # a subscription that never gives up


def numbered(count: int, start: int = 0) -> list[Message]:
    return [Message(b'{"n":%d}' % number, {"n": str(number)}) for number in range(start, start + count)]


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return sorted(delivery.data for delivery in deliveries)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.ack_id for delivery in deliveries]


async def one(backend: Backend, subscription: str = TASKS, within_seconds: float = 10.0) -> Delivery:
    (delivery,) = await take(backend, subscription, 1, within_seconds)
    return delivery


async def nothing(backend: Backend, subscription: str, seconds: float) -> None:
    assert await backend.queue.pull(subscription, 10, seconds) == []


def return_seconds(backend: Backend, subscription: str) -> float:
    """A lease that has ended comes again within this time: at once, or after a first backoff as Pub/Sub does."""
    return backend.policy(subscription).retry_minimum_seconds * 1.5 + 5


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


# --- dead letters


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


# --- pulling


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


# --- messages


def test_messages_survive_exactly(backend: Backend) -> None:
    texts = ["", "é", "東京 🏠👩‍👩‍👧", "quotes ' \" \\", "line\nfeed\ttab", "x" * 1000, "a=b&c#d", "null"]
    attributes = {f"key-{number}": text for number, text in enumerate(texts)} | {"ce-id": "a/1", "ключ 🗝": "значение"}
    raw = [
        b"{}",
        b"",
        b"\x00\xff\xfe not utf-8",
        random.Random(8).randbytes(200_000),
        b'{"a":"' + b"x" * 200_000 + b'"}',
    ]
    messages = [Message(data, {"n": str(number), **attributes}) for number, data in enumerate(raw)]

    async def case() -> None:
        await backend.queue.publish(TASKS, messages)
        await backend.queue.publish(TASKS, [Message(b"bare")])
        got = {delivery.attributes.get("n"): delivery for delivery in await take(backend, TASKS, len(messages) + 1)}
        for number, message in enumerate(messages):
            delivery = got[str(number)]
            assert delivery.data == message.data
            assert dict(delivery.attributes) == dict(message.attributes)
        assert (got[None].data, dict(got[None].attributes)) == (b"bare", {})
        assert len({delivery.message_id for delivery in got.values()}) == len(messages) + 1

    backend.run(case)


def test_equal_messages_are_several_messages(backend: Backend) -> None:
    async def case() -> None:
        await backend.queue.publish(TASKS, numbered(1) * 3)
        await backend.queue.publish(TASKS, numbered(1))
        deliveries = await take(backend, TASKS, 4)
        assert len({delivery.message_id for delivery in deliveries}) == 4
        await backend.queue.ack(TASKS, ids(deliveries[:1]))
        lease = backend.policy(TASKS).ack_deadline_seconds
        assert len(await take(backend, TASKS, 3, lease + return_seconds(backend, TASKS))) == 3

    backend.run(case)


def test_more_than_a_thousand_at_once(backend: Backend) -> None:
    async def case() -> None:
        await backend.queue.publish(TASKS, [])
        await backend.queue.publish(TASKS, numbered(1203))
        deliveries = await take(backend, TASKS, 1203)
        assert bodies(deliveries) == sorted(message.data for message in numbered(1203))
        await backend.queue.extend(TASKS, ids(deliveries), 60)
        await backend.queue.nack(TASKS, ids(deliveries[:601]))
        await backend.queue.ack(TASKS, ids(deliveries))  # of those given back it comes too late
        again = await drain(backend, TASKS, 5 + backend.policy(TASKS).retry_minimum_seconds * 2)
        assert bodies(again) == bodies(deliveries[:601])

    backend.run(case)


def test_a_pull_costs_the_same_whatever_waits(backend: Backend) -> None:
    """One pull per image of a batch: a cost that grew with the backlog would make large batches quadratic."""
    backend.needs("virtual")

    async def cost() -> float:
        seconds = []
        for _ in range(40):
            started = time.process_time()
            assert len(await backend.queue.pull(TASKS, 1, 0.0)) == 1
            seconds.append(time.process_time() - started)
        return statistics.median(seconds)

    async def case() -> None:
        await backend.queue.publish(TASKS, numbered(200))
        few = await cost()
        await backend.queue.publish(TASKS, numbered(20_000))
        assert await cost() < 5 * few + 0.0002

    backend.run(case)


def test_messages_wait_for_who_comes_later(backend: Backend) -> None:
    backend.needs("virtual")

    async def case() -> None:
        await backend.queue.publish(TASKS, numbered(3))
        await backend.advance(6 * 86_400)  # Pub/Sub keeps them for seven days
        deliveries = await backend.second.queue.pull(TASKS, 5, 1.0)
        assert bodies(deliveries) == sorted(message.data for message in numbered(3))
        assert {delivery.attempt for delivery in deliveries} == {1}
        await backend.queue.ack(TASKS, ids(deliveries))  # an ack id is good in any process
        await nothing(backend, TASKS, 100)

    backend.run(case)


def test_a_locked_database_loses_no_message(backend: Backend) -> None:
    backend.needs("database")

    async def case() -> None:
        queue = backend.queue
        await queue.publish(TASKS, numbered(3))
        held = await one(backend)
        async with backend.locked():
            with pytest.raises(WorldError):
                await queue.publish(TASKS, numbered(1, start=9))
            with pytest.raises(WorldError):
                await queue.pull(TASKS, 5, 1.0)
            with pytest.raises(WorldError):
                await queue.ack(TASKS, [held.ack_id])
            short = [asyncio.create_task(queue.pull(TASKS, 1, 1.0)) for _ in range(2)]
            acked = asyncio.create_task(queue.ack(TASKS, [held.ack_id]))
            await backend.advance(3)
        got = [*await short[0], *await short[1], held]
        await acked
        assert bodies(got) == sorted(message.data for message in numbered(3))
        assert {delivery.attempt for delivery in got} == {1}
        await queue.ack(TASKS, ids(got))
        await nothing(backend, TASKS, 200)

    backend.run(case)


# --- anything, in any order


class Holder:
    """What the walk knows of one message."""

    def __init__(self) -> None:
        self.ack_id: str | None = None  # of its newest delivery
        self.leased_until = 0.0
        self.free_from = 0.0  # not before this it may come
        self.attempts = 0
        self.done = False


@pytest.mark.parametrize("seed", range(6))
def test_a_random_walk_keeps_every_promise(backend: Backend, seed: int) -> None:
    """Publish, pull, ack, nack, extend and wait at random, also with ended leases, against a model of the words."""
    backend.needs("virtual")

    async def case() -> None:
        chance, clock, policy = random.Random(seed), backend.clock, backend.policy(KEPT)
        known: dict[bytes, Holder] = {}
        given: list[tuple[bytes, str]] = []  # every ack id ever given

        def receive(deliveries: Sequence[Delivery]) -> None:
            now = clock.monotonic()
            for delivery in deliveries:
                holder = known[delivery.data]
                assert not holder.done, "acked within its lease, and yet it came"
                assert now >= holder.free_from - 0.01, "it came while it was leased or backing off"
                holder.attempts += 1
                assert delivery.attempt == holder.attempts
                holder.ack_id = delivery.ack_id
                holder.leased_until = holder.free_from = now + policy.ack_deadline_seconds
                given.append((delivery.data, delivery.ack_id))

        def held(holder: Holder, ack_id: str) -> bool:
            return holder.ack_id == ack_id and clock.monotonic() < holder.leased_until and not holder.done

        for _ in range(600):
            queue = chance.choice([backend.queue, backend.second.queue])
            step = chance.choice(["publish", "pull", "pull", "ack", "ack", "nack", "extend", "wait"])
            some = [
                (body, ack_id)
                for body, ack_id in chance.sample(given, min(len(given), chance.randrange(4)))
                # An ack or nack after its lease, before the next one, is free to work or not: not walked into.
                if step == "extend" or known[body].ack_id != ack_id or held(known[body], ack_id)
            ]
            if step == "publish" and len(known) < 200:
                bodies_now = [b"%d" % (len(known) + n) for n in range(chance.randrange(1, 6))]
                known.update({body: Holder() for body in bodies_now})
                await queue.publish(KEPT_TOPIC, [Message(body) for body in bodies_now])
            elif step == "pull":
                receive(await queue.pull(KEPT, chance.randrange(1, 6), chance.choice([0.0, 0.3, 5.0, 20.0])))
            elif step == "wait":
                await backend.advance(chance.choice([0.1, 5, 15, 61]))
            elif step == "extend":
                seconds = chance.choice([1, 30, 200])
                for body, ack_id in some:
                    if held(known[body], ack_id):
                        known[body].leased_until = known[body].free_from = clock.monotonic() + seconds
                await queue.extend(KEPT, [ack_id for _, ack_id in some], seconds)
            elif step in {"ack", "nack"}:
                for body, ack_id in some:
                    holder = known[body]
                    if held(holder, ack_id):
                        holder.done = step == "ack"
                        holder.ack_id = None
                        holder.free_from = clock.monotonic() + (policy.retry_minimum_seconds if step == "nack" else 0)
                await (queue.ack if step == "ack" else queue.nack)(KEPT, [ack_id for _, ack_id in some])
        # Whatever was not acked comes, and comes soon enough.
        left = {body for body, holder in known.items() if not holder.done}
        assert left, "the walk should leave something"
        await backend.advance(600 + policy.retry_maximum_seconds * 2)
        last: list[Delivery] = []
        while deliveries := await backend.queue.pull(KEPT, 7, 1.0):
            receive(deliveries)
            last += deliveries
            await backend.queue.ack(KEPT, ids(deliveries))
        assert sorted(delivery.data for delivery in last) == sorted(left)
        await nothing(backend, KEPT, 1000)

    backend.run(case)
