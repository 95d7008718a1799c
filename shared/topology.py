"""Topics, deadlines and quotas from topology.json, which the code, the local stack and Terraform share."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from shared.model import Tier

DEAD_LETTER_TOPIC: Final = "dead-letter"
DEAD_LETTER_DOOR: Final = "dead-letter"
DEAD_LETTER_KEPT: Final = "dead-letter-operators"
EVENTS_TOPIC: Final = "batch-events"
EVENTS_SUBSCRIPTION: Final = "batch-events-crm"
# The change feed of the embedded backend, on its own queue. In the cloud a Firestore trigger takes its place.
CHANGES_TOPIC: Final = "image-updated"


class Policy(msgspec.Struct, frozen=True):
    """How a subscription treats its messages.

    `ack_deadline_seconds` is the lease, extended after a quarter of its duration. A task's lease is short, so that a
    killed worker's messages are redelivered soon. `retry_*_seconds` is the pause before a nacked message is
    redelivered; it grows from the minimum to the maximum.

    After `max_deliveries` a message is dead-lettered (None: never). 10 leaves room for deploys and restarts above the 3
    attempts that an image has.
    """

    ack_deadline_seconds: int
    retry_minimum_seconds: int
    retry_maximum_seconds: int
    max_deliveries: int | None = None
    dead_letter_topic: str | None = None


class _Topic(msgspec.Struct, frozen=True):
    subscriptions: dict[str, str]


class Door(msgspec.Struct, frozen=True):
    """A function: how long one event may take, and what triggers it (an event type, a subscription, or a schedule).

    The time-out is below the Eventarc or push deadline of 600 s. Otherwise a late event would be redelivered while its
    first delivery still runs.
    """

    timeout_seconds: int
    trigger: str
    document: str | None = None  # the path pattern of a Firestore trigger


class Topology(msgspec.Struct, frozen=True):
    """All topics, policies, doors, and the vendors' limits.

    A topic names the policy of each of its subscriptions.
    """

    topics: dict[str, _Topic]
    policies: dict[str, Policy]
    doors: dict[str, Door]
    limits: dict[str, dict[str, int]]

    def subscriptions(self, topic: str) -> dict[str, Policy]:
        """Return the subscriptions of a topic with their policies; none for an unknown topic."""
        entry = self.topics.get(topic)
        return {name: self.policies[policy] for name, policy in entry.subscriptions.items()} if entry else {}


@cache
def topology() -> Topology:
    """Return the product's topology; the file is read once."""
    return msgspec.json.decode(files("shared").joinpath("topology.json").read_bytes(), type=Topology)


def topic_of(tier: Tier) -> str:
    """Return the topic, and the subscription of the same name, that carries a tier's tasks."""
    return f"stage-image-{tier.value}"
