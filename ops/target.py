"""Open what a command works on: a data folder on this machine, the local stack running here, or a cloud project."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from ops import local, run_notes
from ops.errors import NoTarget
from ops.local_stack import stack_file
from shared import ports
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.queries.pipeline import Pipeline
from shared.settings import Settings, from_environment
from shared.vendors import PREVIEW, spec_of

DEFAULT_DATA: Final = Path("staged/.ruum")


class Target(msgspec.Struct, frozen=True):
    """A backend with its clock and settings. `where` says which it is, for messages.

    `data` and `embedded` are there for a data folder only; `environ` names the project, or the emulators, otherwise.
    `local_stack`: nothing there costs money.
    """

    backend: ports.Backend
    clock: SystemClock
    settings: Settings
    where: str
    data: Path | None = None
    embedded: wiring.Embedded | None = None
    environ: Mapping[str, str] = {}
    local_stack: bool = False

    @property
    def options(self) -> str:
        """Return the options that make a command work in the same place: ` --data X`, ` --project Y`, or nothing."""
        if self.data is not None:
            return f" --data {run_notes.quoted(self.data)}"
        return f" --project {self.environ['GOOGLE_CLOUD_PROJECT']}" if self.environ and not self.local_stack else ""

    @property
    def free(self) -> bool:
        """Return whether staging here is free, as far as that is known."""
        if self.data is not None:
            return run_notes.last_model(self.data) == PREVIEW
        return self.local_stack or spec_of(self.settings).free

    @property
    def pipeline(self) -> Pipeline:
        """Return the pipeline, for queries."""
        return Pipeline(self.backend, self.settings, self.clock)

    def somebody_works(self) -> bool:
        """Return whether a `run` is using the data folder. Always true on Google, where workers come and go."""
        return self.data is None or local.is_locked(self.data)


@asynccontextmanager
async def opened(
    *, data: Path | None, project: str | None, need_google: bool = False, or_nothing: bool = False
) -> AsyncIterator[Target]:
    """Open `project` in the cloud, else `data`, else the stack running in this folder, else the default data folder.

    `or_nothing`: if nothing was named and nothing is found, yield an empty backend in memory instead.

    Raises `NoTarget`.
    """
    environ = dict(os.environ)
    settings, clock = from_environment(environ), SystemClock()
    found = stack_file.found(Path()) if project is None and data is None else None
    if project is not None or found is not None:
        environ |= {"GOOGLE_CLOUD_PROJECT": project} if project is not None else found or {}
        # Use the project that was named, or the stack's, not that of RUUM_GOOGLE_PROJECT.
        settings = msgspec.structs.replace(settings, google=msgspec.structs.replace(settings.google, project=""))
        on_google = wiring.google(clock, settings, environ)
        where = f"project {project}" if project else "the local stack"
        try:
            yield Target(on_google.backend, clock, settings, where, environ=environ, local_stack=project is None)
        finally:
            await on_google.aclose()
        return
    settings = local.on_one_machine(settings)
    folder = data or DEFAULT_DATA
    there = (folder / "batch.sqlite").is_file()
    if or_nothing and data is None and not there:
        empty = wiring.embedded(clock)
        try:
            yield Target(empty.backend, clock, settings, "an idle system")
        finally:
            empty.database.close()
        return
    if need_google or not there:
        raise NoTarget(_nothing(folder, named=data is not None, need_google=need_google))
    embedded = local.open_backend(clock, folder, run_notes.results_of(folder))
    try:
        yield Target(embedded.backend, clock, settings, f"the data folder {folder}", data=folder, embedded=embedded)
    finally:
        embedded.database.close()


def _nothing(folder: Path, *, named: bool, need_google: bool) -> str:
    if need_google or not named:
        return "no stack is running in this folder (ruum-batch up), and no --project was given" + (
            "" if need_google else f"; nor is there a data folder {folder} (--data names another)"
        )
    inside = folder / ".ruum"
    hint = f". Did you mean --data {run_notes.quoted(inside)}?" if (inside / "batch.sqlite").is_file() else ""
    return f"there are no batches in {folder}{hint}"
