"""The Queue on SQLite, with Pub/Sub's semantics: at least once, leases, backoff, delivery attempts, dead letters."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from shared.adapters.embedded.database import Database
from shared.ports import Clock, Delivery, Message
from shared.topology import CHANGES_TOPIC, Policy, Topology

# How late messages of other processes are noticed (a `retry-failed` beside a `run`). Our own wake the puller at once.
FOREIGN_SECONDS: Final = 1.0
# The change feed takes the place of Eventarc, whose first retry comes after 10 s. Here a failed fold is retried sooner.
CHANGES_POLICY: Final = Policy(ack_deadline_seconds=60, retry_minimum_seconds=1, retry_maximum_seconds=60)
MAX_LEASE_SECONDS: Final = 600.0  # Pub/Sub's own maximum
BACKOFF_FACTOR: Final = 2.0


class EmbeddedQueue:
    """The `shared.ports.Queue` of one machine.

    A message is stored once per subscription of its topic, as in Pub/Sub.
    """

    def __init__(self, database: Database, clock: Clock, topology: Topology) -> None:
        self._database = database
        self._clock = clock
        self._topology = topology
        self._policies = {CHANGES_TOPIC: CHANGES_POLICY}
        for topic in topology.topics:
            self._policies.update(topology.subscriptions(topic))
        self._arrivals = {name: asyncio.Event() for name in self._policies}

    def _subscriptions(self, topic: str) -> Sequence[str]:
        return [CHANGES_TOPIC] if topic == CHANGES_TOPIC else list(self._topology.topics[topic].subscriptions)

    async def publish(self, topic: str, messages: Sequence[Message]) -> None:
        await self._database.write("publish", lambda connection: self.publish_within(connection, topic, messages))
        self.wake(topic)

    def publish_within(self, connection: sqlite3.Connection, topic: str, messages: Sequence[Message]) -> None:
        """Publish inside a transaction of the caller, which must call `wake` after the commit."""
        now = self._clock.now()
        connection.executemany(
            "INSERT INTO messages (subscription, data, attributes, published_at, due_at) VALUES (?, ?, ?, ?, ?)",
            [
                (
                    subscription,
                    message.data,
                    json.dumps(dict(message.attributes)) if message.attributes else "",
                    now,
                    now,
                )
                for subscription in self._subscriptions(topic)
                for message in messages
            ],
        )

    def wake(self, topic: str) -> None:
        """Wake the pullers of a topic's subscriptions: new messages have arrived."""
        for subscription in self._subscriptions(topic):
            self._arrivals[subscription].set()

    async def pull(self, subscription: str, max_messages: int, wait_seconds: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait_seconds
        arrival = self._arrivals[subscription]
        while True:
            arrival.clear()
            if await self._database.read("queue look", lambda connection: self._is_due(connection, subscription)):
                deliveries = await self._database.write("pull", lambda c: self._lease(c, subscription, max_messages))
                if deliveries:
                    return deliveries
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return []
            pause = min(left, await self._database.read("queue look", lambda c: self._next_due(c, subscription)))
            try:
                async with asyncio.timeout(pause):
                    await arrival.wait()
            except TimeoutError:
                pass

    def _is_due(self, connection: sqlite3.Connection, subscription: str) -> bool:
        """Return whether a message waits. A read is cheaper than a transaction that finds nothing."""
        query = "SELECT 1 FROM messages WHERE subscription = ? AND due_at <= ? LIMIT 1"
        return connection.execute(query, (subscription, self._clock.now())).fetchone() is not None

    def _next_due(self, connection: sqlite3.Connection, subscription: str) -> float:
        """Return the seconds until the subscription's next message is due.

        At most `FOREIGN_SECONDS` where other processes can publish too.
        """
        query = "SELECT min(due_at) FROM messages WHERE subscription = ?"
        due = connection.execute(query, (subscription,)).fetchone()[0]
        seconds = FOREIGN_SECONDS if self._database.path else MAX_LEASE_SECONDS
        return seconds if due is None else min(seconds, max(0.001, due - self._clock.now()))

    def _lease(self, connection: sqlite3.Connection, subscription: str, max_messages: int) -> list[Delivery]:
        """Hand out messages that are due.

        Messages that were delivered too often become dead letters. They must not take the place of others.
        """
        policy = self._policies[subscription]
        now = self._clock.now()
        deliveries: list[Delivery] = []
        while len(deliveries) < max_messages:
            rows = connection.execute(
                "SELECT id, data, attributes, deliveries, published_at FROM messages"
                " WHERE subscription = ? AND due_at <= ? ORDER BY due_at, id LIMIT ?",
                (subscription, now, max_messages - len(deliveries)),
            ).fetchall()
            for identity, data, attributes, count, published_at in rows:
                decoded: dict[str, str] = json.loads(attributes) if attributes else {}
                if policy.max_deliveries is not None and count >= policy.max_deliveries:
                    self._dead_letter(connection, identity, policy, Message(data, decoded))
                    continue
                delivery = Delivery(f"{identity}.{count + 1}", str(identity), data, decoded, count + 1, published_at)
                connection.execute(
                    "UPDATE messages SET deliveries = deliveries + 1, ack_id = ?, due_at = ? WHERE id = ?",
                    (delivery.ack_id, now + policy.ack_deadline_seconds, identity),
                )
                deliveries.append(delivery)
            if not rows:
                break
        return deliveries

    def _dead_letter(self, connection: sqlite3.Connection, identity: int, policy: Policy, message: Message) -> None:
        """Move a message to the dead-letter topic, or drop it where the policy names none."""
        connection.execute("DELETE FROM messages WHERE id = ?", (identity,))
        if policy.dead_letter_topic:
            self.publish_within(connection, policy.dead_letter_topic, [message])
            self.wake(policy.dead_letter_topic)

    async def extend(self, subscription: str, ack_ids: Sequence[str], seconds: float) -> None:
        now = self._clock.now()
        until = now + min(seconds, MAX_LEASE_SECONDS)
        rows = [(until, int(ack_id.partition(".")[0]), ack_id, now) for ack_id in ack_ids]
        query = "UPDATE messages SET due_at = ? WHERE id = ? AND ack_id = ? AND due_at > ?"
        await self._database.write("extend", lambda connection: connection.executemany(query, rows))

    async def ack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        rows = [(int(ack_id.partition(".")[0]), ack_id) for ack_id in ack_ids]
        query = "DELETE FROM messages WHERE id = ? AND ack_id = ?"
        await self._database.write("ack", lambda connection: connection.executemany(query, rows))

    async def nack(self, subscription: str, ack_ids: Sequence[str]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for ack_id in ack_ids:
                key = (int(ack_id.partition(".")[0]), ack_id)
                row = connection.execute("SELECT nacks FROM messages WHERE id = ? AND ack_id = ?", key).fetchone()
                if row:
                    due = self._clock.now() + self._backoff(self._policies[subscription], row[0])
                    query = "UPDATE messages SET due_at = ?, nacks = nacks + 1, ack_id = NULL WHERE id = ?"
                    connection.execute(query, (due, key[0]))

        await self._database.write("nack", work)
        self._arrivals[subscription].set()

    def _backoff(self, policy: Policy, nacks: int) -> float:
        """Return the pause before a nacked message is redelivered.

        It doubles from the policy's minimum to its maximum, and is up to a fifth shorter once above the minimum. This
        jitter separates messages that failed together.
        """
        low, high = policy.retry_minimum_seconds, policy.retry_maximum_seconds
        pause = min(high, low * 1.25 * BACKOFF_FACTOR ** min(nacks, 32))
        return max(float(low), pause * self._clock.random.uniform(0.8, 1.0))

    async def waiting(self, subscription: str) -> int:
        """Return the number of messages of a subscription that are not acked yet, including leased ones."""
        query = "SELECT count(*) FROM messages WHERE subscription = ?"

        def work(connection: sqlite3.Connection) -> int:
            count: int = connection.execute(query, (subscription,)).fetchone()[0]
            return count

        return await self._database.read("queue look", work)
