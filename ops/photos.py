"""Check that a manifest's local photos exist, before anything is uploaded, staged or paid for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from ops import run_notes, words
from ops.cli_common import WRONG_USAGE, fail, readable

if TYPE_CHECKING:
    from shared.manifest.model import Manifest


class Missing(msgspec.Struct, frozen=True):
    """Local photos that a manifest names and that do not exist. `near` is a file whose name differs only in case."""

    paths: tuple[Path, ...]
    local: int  # how many different local photos there are in all
    images: int  # how many images of the manifest name a missing one
    near: Path | None = None


def local_path(source: str) -> Path | None:
    """Return the path of a local photo; None for an address elsewhere."""
    return Path(unquote(urlsplit(source).path)) if source.startswith("file:") else None


def missing(found: Manifest, also: Sequence[Path] = ()) -> Missing | None:
    """Return the local photos that are missing; None when all exist.

    A path in a round's failed.csv is looked up in the folders `also` too, as `shared.lifecycle.retries` does.
    """
    return missing_of([
        image.source
        for image in found.images
        if not (image.path and any(_is_file(folder / image.path) for folder in also))
    ])  # fmt: skip


def missing_of(addresses: Iterable[str]) -> Missing | None:
    """Return the photos on this machine that are missing; None when all exist. Other addresses are ignored."""
    local = [path for address in addresses if (path := local_path(address)) is not None]
    absent = {path for path in set(local) if not _is_file(path)}
    if not absent:
        return None
    ordered = tuple(path for path in dict.fromkeys(local) if path in absent)
    near = next((near for path in ordered[:100] if (near := _nearly(path)) is not None), None)
    return Missing(ordered, len(set(local)), sum(path in absent for path in local), near)


def missing_for(found: Manifest, manifest: Path) -> Missing | None:
    """Return the missing local photos of the manifest in this file; None when all exist.

    A path in a round's failed.csv may lead to a photo beside the batch's own manifest. If that manifest was never on
    this machine, the photo cannot be checked here.
    """
    if not found.is_retry:
        return missing(found)
    folders = run_notes.photo_folders(manifest)
    if not folders:
        found = msgspec.structs.replace(found, images=tuple(image for image in found.images if not image.path))
    return missing(found, folders)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or a folder without permission
        return False


def _nearly(path: Path) -> Path | None:
    try:
        names = os.listdir(path.parent)
    except (OSError, ValueError):
        return None
    wanted = path.name.casefold()
    return next((path.parent / name for name in names if name.casefold() == wanted), None)


def sentence(found: Missing, base: Path) -> str:
    """Return a sentence such as `17 of 27 photos are missing: 1.jpg, 2.jpg, 3.jpg and 14 more.`."""
    named = words.some(shown(path, base) for path in found.paths)
    there = f" {shown(found.near, base)} exists: capitals matter." if found.near else ""
    many = words.count(found.local, "photo")
    return f"{len(found.paths)} of {many} {words.are(len(found.paths))} missing: {named}.{there}"


def shown(path: Path, base: Path) -> str:
    """Return a photo's path for people: relative to the manifest if it lies beside it, as the manifest has it."""
    near = path.relative_to(base) if path.is_relative_to(base) else path
    return readable(near)


def ask_to_go_on(text: str, question: str, *, yes: bool, refuse: bool) -> None:
    """Say what is missing and ask whether to continue. If nobody can answer, end the command if `refuse`."""
    from ops import asking, show

    show.err.print(text)
    if yes:
        return
    if asking.can_answer():
        if not asking.confirm(question):
            fail("nothing was done", WRONG_USAGE)
        return
    if refuse:
        fail("nothing was done; fix the manifest, or pass --yes to continue without them", WRONG_USAGE)
