"""The Queue's messages: what is published comes as it was, to everyone who subscribed."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import pytest

from shared.errors import WorldError
from shared.ports import Message
from tests.contract.backends import Backend, drain, take
from tests.contract.queue.parts import TASKS, bodies, ids, nothing, numbered, one, return_seconds


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
