"""The wire: what travels on topics, in one place. Every message carries a JSON body (see docs/cursed-knowledge.md)."""

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
OPERATORS = "~operators"  # the client of events that are no customer's: a client's slug never holds a "~"


D = TypeVar("D", bound=Document)


class Task(Document, frozen=True, kw_only=True):
    """One image to stage: the message on a `stage-image-*` topic. `epoch` is the batch's control epoch when sent."""

    batch: str
    index: int
    round: int
    tier: Tier
    epoch: int = 0


class Letter(Document, frozen=True, kw_only=True):
    """Why a task came to nothing: the message on the dead-letter topic. `task` is None when it could not be read."""

    code: str
    message: str
    attempts: int = 0
    task: Task | None = None
    original: str = ""  # the unreadable body, shortened


class ImageChanged(Document, frozen=True, kw_only=True):
    """An image document was written: what AGGREGATE is told. `before` is the state it had until then."""

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
        """Binary mode of the CloudEvents Pub/Sub binding, and `client` for subscription filters."""
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
        """The JSON data."""
        return msgspec.json.encode(self.data)

    def message(self) -> Message:
        """The event as it goes to the topic of events."""
        return Message(self.body(), self.attributes())


def structured(attributes: dict[str, str], body: bytes) -> dict[str, Any]:
    """A received event as one CloudEvents JSON object (structured mode)."""
    names = ("specversion", "id", "type", "source", "subject", "time")
    event: dict[str, Any] = {name: attributes[f"ce-{name}"] for name in names if f"ce-{name}" in attributes}
    event["datacontenttype"] = "application/json"
    event["client"] = attributes.get("client", "")
    event["data"] = msgspec.json.decode(body)
    return event


def encode(message: Document) -> bytes:
    """Any message of this module as its JSON body."""
    return msgspec.json.encode(message)


def decode(kind: type[D], body: bytes) -> D:
    """The message in `body`. Raises `Unreadable` with the reason."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from None


def task_for(image: Image, epoch: int) -> Task:
    """The task that asks for this image in its present round."""
    return Task(batch=image.batch, index=image.index, round=image.round, tier=image.tier, epoch=epoch)


def task_message(image: Image, epoch: int) -> Message:
    """The task for this image as it goes to its tier's topic.

    The attribute `client` is for people: Google's tools show it beside a message that waits or was dead-lettered.
    """
    return Message(encode(task_for(image, epoch)), {"client": client_of(image.batch)})


def letter_message(letter: Letter) -> Message:
    """A letter as it goes to the dead-letter topic; its attribute tells it from tasks the queue itself gave up on."""
    return Message(encode(letter), {"kind": "letter"})


def is_letter(attributes: Mapping[str, str]) -> bool:
    """Whether a message on the dead-letter topic is one of our letters."""
    return attributes.get("kind") == "letter"


def changed(before: Image | None, after: Image) -> ImageChanged:
    """The change event of one write."""
    return ImageChanged(
        batch=after.batch,
        index=after.index,
        shard=after.shard,
        revision=after.revision,
        state=after.state,
        before=before.state if before else None,
    )


def batch_event(batch: Batch, event_id: str, at: float, data: Public) -> Event:
    """An event about a batch; its type is that of its data."""
    kind = EVENT_TYPE_PREFIX + _KINDS[type(data)]
    return Event(id=event_id, type=kind, subject=batch.id, time=at, client=batch.client, data=plain(data))


def quota_event(event_id: str, at: float, data: QuotaChanged) -> Event:
    """An event about a vendor model's quota, for operators."""
    kind = EVENT_TYPE_PREFIX + _KINDS[QuotaChanged]
    return Event(id=event_id, type=kind, subject=data.model, time=at, client=OPERATORS, data=plain(data))
