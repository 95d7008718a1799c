"""Converts Firestore's document events into ours."""

from __future__ import annotations

from typing import Any

from google.events.cloud.firestore_v1 import DocumentEventData
from google.protobuf.message import DecodeError

from shared.errors import NotAnImageChange
from shared.messages import ImageChanged
from shared.model import ImageState


def image_changed(data: Any) -> ImageChanged:
    """Return the change in the protobuf bytes of a Firestore document event.

    The event's type is `google.cloud.firestore.document.v1.*`. Raises `NotAnImageChange`.
    """
    if not isinstance(data, bytes):
        raise NotAnImageChange("its data is not protobuf")
    try:
        event = DocumentEventData.pb().FromString(data)
    except DecodeError as error:
        raise NotAnImageChange("its data is not a DocumentEventData") from error
    fields, old = event.value.fields, event.old_value.fields
    try:
        return ImageChanged(
            batch=_text(fields["batch"]),
            index=_number(fields["index"]),
            shard=_number(fields["shard"]),
            revision=_number(fields["revision"]) if "revision" in fields else 1,
            state=_state(fields),
            before=_state(old) if "batch" in old else None,
        )
    except (KeyError, ValueError) as error:
        raise NotAnImageChange(f"a field is missing or odd: {error}") from error


def _text(value: Any) -> str:
    if value.WhichOneof("value_type") != "string_value":
        raise ValueError("expected a string")
    return str(value.string_value)


def _number(value: Any) -> int:
    if value.WhichOneof("value_type") != "integer_value":
        raise ValueError("expected an integer")
    return int(value.integer_value)


def _state(fields: Any) -> ImageState:
    """Return the image's state. Documents leave defaults out, so no state means queued."""
    return ImageState(_text(fields["state"])) if "state" in fields else ImageState.QUEUED
