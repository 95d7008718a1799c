"""Fenced writes of objects: a worker that has lost its claim cannot overwrite its successor's picture."""

from __future__ import annotations

from typing import Final

from shared.errors import LostClaim, PreconditionFailed
from shared.ports import ObjectStore, StoredObject

# Each failed try means that another writer was faster. Two writers with claims at the same time are rare; three are a
# bug.
_TRIES: Final = 5


async def put_fenced(
    objects: ObjectStore, bucket: str, name: str, data: bytes, *, content_type: str, fence: int
) -> StoredObject:
    """Create the object, or replace one whose fence is not higher than `fence`.

    Raises `LostClaim` when it is higher: a later claim has written its own.
    """
    generation = 0  # usually there is no object yet, which saves reading first
    for _ in range(_TRIES):
        try:
            return await objects.put(
                bucket,
                name,
                data,
                content_type=content_type,
                metadata={"fence": str(fence)},
                if_generation=generation,
            )
        except PreconditionFailed:
            known = await objects.stat(bucket, name)
        if known is not None and int(known.metadata.get("fence", "0")) > fence:
            raise LostClaim(f"{name} carries fence {known.metadata['fence']}, above ours of {fence}")
        generation = known.generation if known else 0
    raise LostClaim(f"{name} is being written by others")
