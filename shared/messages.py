"""The messages on our topics, in one place. Every message has a JSON body (see docs/cursed-knowledge.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from shared.errors import Unreadable
from shared.events import EVENTS, Public, QuotaChanged, iso, plain
from shared.model import Batch, Document, Image, ImageState, Tier, client_of
from shared.ports import Message

EVENT_SOURCE = "//ruum-batch"
EVENT_TYPE_PREFIX = "ruum."
_KINDS = {data: kind for kind, data in EVENTS.items()}
OPERATORS = "~operators"  # the `client` of events for operators; a client's slug never contains a "~"


D = TypeVar("D", bound=Document)


class Task(Document, frozen=True, kw_only=True):
    """One image to stage: the message on a `stage-image-*` topic.

    `epoch` is the batch's control epoch when it was sent.
    """

    batch: str
    index: int
    round: int
    tier: Tier
    epoch: int = 0


class Letter(Document, frozen=True, kw_only=True):
    """Why a task failed for good: the message on the dead-letter topic. `task` is None when it could not be read."""

    code: str
    message: str
    attempts: int = 0
    task: Task | None = None
    original: str = ""  # the unreadable body, shortened


class ImageChanged(Document, frozen=True, kw_only=True):
    """An image document was written: the event that AGGREGATE counts.

    `before` is the image's state before the write.
    """

    batch: str
    index: int
    shard: int
    revision: int
    state: ImageState
    before: ImageState | None = None


class Event(Document, frozen=True, kw_only=True):
    """A CloudEvent 1.0 on the completion topic: `ce-*` attributes beside JSON data, or one object in a file."""

    id: str
    type: str
    subject: str
    time: float
    data: dict[str, Any]
    client: str

    def attributes(self) -> dict[str, str]:
        """Return the attributes in binary mode of the CloudEvents Pub/Sub binding.

        `client` is ours, for subscription filters.
        """
        return {
            "ce-specversion": "1.0",
            "ce-id": self.id,
            "ce-type": self.type,
            "ce-source": EVENT_SOURCE,
            "ce-subject": self.subject,
            "ce-time": iso(self.time),
            "content-type": "application/json",
            "client": self.client,
        }

    def body(self) -> bytes:
        """Return the data as JSON."""
        return msgspec.json.encode(self.data)

    def message(self) -> Message:
        """Return the event as a message for the events topic."""
        return Message(self.body(), self.attributes())


def structured(attributes: dict[str, str], body: bytes) -> dict[str, Any]:
    """Return a received event as one CloudEvents JSON object (structured mode)."""
    names = ("specversion", "id", "type", "source", "subject", "time")
    event: dict[str, Any] = {name: attributes[f"ce-{name}"] for name in names if f"ce-{name}" in attributes}
    event["datacontenttype"] = "application/json"
    event["client"] = attributes.get("client", "")
    event["data"] = msgspec.json.decode(body)
    return event


def encode(message: Document) -> bytes:
    """Return the JSON body of a message of this module."""
    return msgspec.json.encode(message)


def decode(kind: type[D], body: bytes) -> D:
    """Return the message in `body`. Raises `Unreadable` with the reason."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from None


def task_for(image: Image, epoch: int) -> Task:
    """Return the task for this image in its current round."""
    return Task(batch=image.batch, index=image.index, round=image.round, tier=image.tier, epoch=epoch)


def task_message(image: Image, epoch: int) -> Message:
    """Return the image's task as a message for its tier's topic.

    The attribute `client` is for people: Google's tools show it beside a waiting or dead-lettered message.
    """
    return Message(encode(task_for(image, epoch)), {"client": client_of(image.batch)})


def letter_message(letter: Letter) -> Message:
    """Return a letter as a message.

    Its attribute distinguishes it from tasks that the queue itself dead-lettered.
    """
    return Message(encode(letter), {"kind": "letter"})


def is_letter(attributes: Mapping[str, str]) -> bool:
    """Return whether a message on the dead-letter topic is one of our letters."""
    return attributes.get("kind") == "letter"


def changed(before: Image | None, after: Image) -> ImageChanged:
    """Return the change event of one write."""
    return ImageChanged(
        batch=after.batch,
        index=after.index,
        shard=after.shard,
        revision=after.revision,
        state=after.state,
        before=before.state if before else None,
    )


def batch_event(batch: Batch, event_id: str, at: float, data: Public) -> Event:
    """Return an event about a batch. Its type follows from the type of its data."""
    kind = EVENT_TYPE_PREFIX + _KINDS[type(data)]
    return Event(id=event_id, type=kind, subject=batch.id, time=at, client=batch.client, data=plain(data))


def quota_event(event_id: str, at: float, data: QuotaChanged) -> Event:
    """Return an event for operators about a vendor model's quota."""
    kind = EVENT_TYPE_PREFIX + _KINDS[QuotaChanged]
    return Event(id=event_id, type=kind, subject=data.model, time=at, client=OPERATORS, data=plain(data))
