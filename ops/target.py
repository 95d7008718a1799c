"""Where a command works: a data folder on this machine, a local stack that is up here, or a project in the cloud."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from ops import local, stack_file
from shared import wiring
from shared.clock import SystemClock
from shared.settings import Settings, from_environment

DEFAULT_DATA = Path("staged/.ruum")


class NoTarget(Exception):
    """There is nothing to work on; the text says what could be."""


class Target(msgspec.Struct, frozen=True):
    """A backend with its clock and settings. `where` says which it is, for messages."""

    backend: wiring.Backend
    clock: SystemClock
    settings: Settings
    where: str


@asynccontextmanager
async def opened(
    *, data: Path | None, project: str | None, need_google: bool = False, or_nothing: bool = False
) -> AsyncIterator[Target]:
    """The target: `project` in the cloud, else `data`, else the stack that is up in this folder, else the default data.

    `or_nothing`: where nothing was named and nothing is found, an empty backend in memory will do.

    Raises `NoTarget`.
    """
    environ = dict(os.environ)
    settings, clock = from_environment(environ), SystemClock()
    found = stack_file.found(Path()) if project is None and data is None else None
    if project is not None or found is not None:
        environ |= {"GOOGLE_CLOUD_PROJECT": project} if project is not None else found or {}
        # The one that was named, or the stack's: not what RUUM_GOOGLE_PROJECT says.
        settings = msgspec.structs.replace(settings, google=msgspec.structs.replace(settings.google, project=""))
        on_google = wiring.google(clock, settings, environ)
        try:
            yield Target(on_google.backend, clock, settings, f"project {project}" if project else "the local stack")
        finally:
            await on_google.aclose()
        return
    folder = data or DEFAULT_DATA
    if or_nothing and data is None and not (folder / "batch.sqlite").is_file():
        empty = wiring.embedded(clock)
        try:
            yield Target(empty.backend, clock, settings, "an idle system")
        finally:
            empty.database.close()
        return
    if need_google or not (folder / "batch.sqlite").is_file():
        missing = "no stack is up in this folder (ruum-batch up), and no --project was given"
        raise NoTarget(missing if need_google or data is None else f"there are no batches in {folder}")
    embedded = local.open_backend(clock, folder, local.results_of(folder))
    try:
        yield Target(embedded.backend, clock, settings, str(folder))
    finally:
        embedded.database.close()
