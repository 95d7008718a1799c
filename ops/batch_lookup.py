"""Find the batches that a command names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from ops import words
from ops.errors import NoBatch

if TYPE_CHECKING:
    from ops.target import Target
    from shared.model import Batch

MAX_LISTED: Final = 20  # known batches or clients in a message: one line's worth


async def batch_of(target: Target, batch_id: str) -> Batch:
    """Return the batch. Raises `NoBatch`."""
    batch = await target.backend.store.batch(batch_id) if may_be_an_id(batch_id) else None
    if batch is None:
        raise NoBatch(no_batch(target, batch_id, [known.id for known in await target.backend.store.batches()]))
    return batch


def no_batch(target: Target, batch_id: str, known: list[str]) -> str:
    """Return the sentence for a batch that does not exist."""
    near = difflib.get_close_matches(batch_id, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"there is no batch {batch_id} in {target.where}.{hint} (batches here: {listed(known)})"


def listed(known: list[str]) -> str:
    """Return the first of the known names; `none` if there are none."""
    return words.some(known, MAX_LISTED) or "none"


def may_be_an_id(batch_id: str) -> bool:
    """Return whether a text can be a batch id. Firestore refuses slashes and dots alone, SQLite bad Unicode."""
    return bool(batch_id) and "/" not in batch_id and batch_id.isprintable() and len(batch_id.encode()) < 1000 \
        and not (batch_id.startswith("__") and batch_id.endswith("__")) and batch_id.strip(".") != ""  # fmt: skip


async def batches_of(target: Target, client: str | None, batch: str | None = None) -> list[Batch]:
    """Return all batches, those of one client, or one. Raises `NoBatch` for a batch or client that does not exist."""
    from shared.untrusted.text import client_slug

    if batch is not None:  # an empty name, as from an unset shell variable, must not mean all batches
        return [await batch_of(target, batch)]
    found = await target.backend.store.batches()
    if client is None:
        return found
    slug = client_slug(client) if client.isprintable() else ""
    ours = [known for known in found if known.client == slug]
    if not ours:
        clients = sorted({known.client for known in found})
        near = difflib.get_close_matches(slug, clients, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise NoBatch(f"there is no client {client} in {target.where}.{hint} (clients here: {listed(clients)})")
    return ours
