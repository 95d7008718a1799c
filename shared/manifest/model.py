"""What a customer wants: the manifest as it was read."""

from __future__ import annotations

import hashlib

import msgspec

from shared.model import FailureThreshold, Tier


class ManifestImage(msgspec.Struct, frozen=True):
    """One photo to stage. `source` is its absolute URI.

    The others are for retries. `index` is the image's number in its batch. `unchecked` says why its address would be
    refused as a new one; the image may already have it. `path` is the address as written, if that is a path beside the
    file.
    """

    source: str
    room_type: str
    design_style: str
    property_code: str | None = None
    index: int | None = None
    unchecked: str | None = None
    path: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was read without problems.

    `client` is the slug of `client_name`; `sha256` is that of the file's bytes.

    `separator` separates a CSV's cells; reports use it too, so that they open in the same program. `is_retry` says that
    the file is a round's failed.csv, whose images are to be retried in their own batch. `ignored` are unknown columns.
    """

    client_name: str
    client: str
    images: tuple[ManifestImage, ...]
    sha256: str
    tier: Tier = Tier.NORMAL
    batch_id: str | None = None
    cache: bool = True
    threshold: FailureThreshold | None = None
    separator: str | None = None
    is_retry: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def batch(self) -> str:
        """The batch's id everywhere: `<client>.<batchId>`.

        Without a batchId, a hash of client and content takes its place.
        """
        return batch_of(self.client, self.batch_id, self.sha256)


def batch_of(client: str, batch_id: str | None, sha256: str) -> str:
    """Return the id of a client's batch; see `Manifest.batch`.

    The hash has 16 hex digits: a collision within one client needs billions of manifests.
    """
    return f"{client}.{batch_id or hashlib.sha256(f'{client} {sha256}'.encode()).hexdigest()[:16]}"


def rejected_id(client: str, name: str, generation: int) -> str:
    """Return the id of a rejected object. A batchId cannot contain "~", so no accepted batch has such an id."""
    return f"{client}.rejected~{hashlib.sha256(f'{name} {generation}'.encode()).hexdigest()[:16]}"
