"""A batch, an image and a manifest's reference for tests: every field that must be given stands here, and only here.

What a test says of them it says by name; the rest is as the product's own defaults have it.
"""

from __future__ import annotations

from typing import Any

from shared.model import Batch, Image, ManifestRef, Tier, shards_for


def a_manifest_ref(**changes: Any) -> ManifestRef:
    known = {"uri": "gs://intake/manifests/acme/a.json", "generation": 1, "sha256": "0" * 64, "base": "gs://intake/"}
    return ManifestRef(**known | changes)


def a_batch(**changes: Any) -> Batch:
    """One image's batch, just made; with `total`, as many shards as it needs."""
    total = changes.get("total", 1)
    known = {
        "id": "acme.a", "client": "acme", "client_name": "Acme", "tier": Tier.NORMAL, "manifest": a_manifest_ref(),
        "total": total, "shards": shards_for(total),
    }  # fmt: skip
    return Batch(**known | changes)


def an_image(**changes: Any) -> Image:
    """The first image of `a_batch`, queued."""
    known = {
        "batch": "acme.a", "index": 0, "source": "https://x.example/a.jpg", "room_type": "den", "design_style": "boho",
        "tier": Tier.NORMAL, "shard": 0,
    }  # fmt: skip
    return Image(**known | changes)
