"""Topics, deadlines and quotas, read from topology.json: one truth for the code, the local stack and Terraform."""

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
# The change feed. In the cloud Firestore's trigger plays this part; the embedded backend carries it on its own queue.
CHANGES_TOPIC: Final = "image-updated"


class Policy(msgspec.Struct, frozen=True):
    """How a subscription treats its messages.

    `ack_deadline_seconds`: a lease, kept alive at a quarter of its time; a task's is short, so that a killed worker's
    come again soon. `retry_*_seconds`: pause before a nacked message comes again, growing from minimum to maximum.
    `max_deliveries`: after so many it is dead-lettered (None: never); 10 leaves room for deploys and restarts above the
    3 attempts an image has.
    """

    ack_deadline_seconds: int
    retry_minimum_seconds: int
    retry_maximum_seconds: int
    max_deliveries: int | None = None
    dead_letter_topic: str | None = None


class _Topic(msgspec.Struct, frozen=True):
    subscriptions: dict[str, str]


class Door(msgspec.Struct, frozen=True):
    """A function: how long one event may take, and what sends it (an event type, a subscription, or a schedule).

    Below an Eventarc or push deadline of 600 s, so that a late event is not brought while its first delivery runs.
    """

    timeout_seconds: int
    trigger: str
    document: str | None = None  # the path pattern of a Firestore trigger


class Topology(msgspec.Struct, frozen=True):
    """Topics with the policy name of each of their subscriptions, the policies, the doors, and the vendors' limits."""

    topics: dict[str, _Topic]
    policies: dict[str, Policy]
    doors: dict[str, Door]
    limits: dict[str, dict[str, int]]

    def subscriptions(self, topic: str) -> dict[str, Policy]:
        """The subscriptions of a topic with their policies; an unknown topic has none."""
        entry = self.topics.get(topic)
        return {name: self.policies[policy] for name, policy in entry.subscriptions.items()} if entry else {}


@cache
def topology() -> Topology:
    """The product's topology, read once."""
    return msgspec.json.decode(files("shared").joinpath("topology.json").read_bytes(), type=Topology)


def topic_of(tier: Tier) -> str:
    """The topic (and the subscription of the same name) that carries a tier's tasks."""
    return f"stage-image-{tier.value}"
