"""Converts our documents to Firestore's field maps, and back.

Fields keep their camelCase names and native types, so that people can read and query them. Two kinds of fields are JSON
blobs: those that Firestore cannot hold (arrays within arrays), and those that nobody queries. A tally's entries, as 250
small arrays, cost Firestore's client 4 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from shared.model import Batch, Document, Image, Tally, Worker

D = TypeVar("D", bound=Document)
Fields = dict[str, Any]
WORKER_KEPT_SECONDS: Final = 86_400.0


def to_fields(document: Document) -> Fields:
    """Return the fields of a document. Defaults are left out, except where a query needs them."""
    fields: Fields = msgspec.to_builtins(document, str_keys=True)
    for name, value in fields.items():
        if isinstance(value, list | tuple) and any(isinstance(item, list | tuple) for item in value):
            fields[name] = msgspec.json.encode(value)  # Firestore has no arrays within arrays
    if isinstance(document, Image | Batch):
        fields["state"] = document.state.value  # a query does not find a default that is left out
    if isinstance(document, Batch):
        fields["open"] = document.is_open  # reconcile queries by it; it would read every batch ever made otherwise
    if isinstance(document, Tally):
        fields["entries"] = msgspec.json.encode(document.entries)
        fields["open"] = document.counts.open
        fields["counts"] = {name: getattr(document.counts, name) for name in document.counts.__struct_fields__}
    expires_at = _expiry(document)
    if expires_at:
        fields["expireTime"] = datetime.fromtimestamp(expires_at, UTC)  # Firestore's TTL goes by a timestamp only
    return fields


def _expiry(document: Document) -> float:
    """Return when Firestore may delete the document; 0 means never.

    A worker that has been silent for a day is dead.
    """
    if isinstance(document, Worker):
        return document.at + WORKER_KEPT_SECONDS
    found: float = getattr(document, "expires_at", 0.0)
    return found


def from_fields(kind: type[D], fields: Mapping[str, Any]) -> D:
    """Return the document in a field map."""
    found = {name: msgspec.json.decode(value) if isinstance(value, bytes) else value for name, value in fields.items()}
    return msgspec.convert(found, kind, str_keys=True)


def changes(before: Mapping[str, Any], after: Fields, delete: Any) -> Fields:
    """Return the update that turns `before` into `after`. `delete` is Firestore's mark for a field to remove."""
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return changed | {name: delete for name in before if name not in after}
