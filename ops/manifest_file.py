"""A manifest that lies on this machine: read, checked, rejected with every problem."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import typer

from ops import local, show
from ops.cli_common import REJECTED, WRONG_USAGE, fail
from shared import manifest as manifests
from shared import names, report
from shared.errors import ManifestRejected
from shared.manifest import Manifest, Problem
from shared.settings import BadSetting, Settings, from_environment
from shared.sources import SourceRules


def settings_here() -> Settings:
    """The settings by the environment; a bad one ends the command."""
    try:
        return from_environment(os.environ)
    except BadSetting as error:
        fail(str(error), WRONG_USAGE)


def rules(manifest: Path, settings: Settings, photos: Sequence[Path] = ()) -> SourceRules:
    """What a manifest on this machine may name: its own folder, and those that were given."""
    folders = [manifest.parent.resolve(), *(folder.resolve() for folder in photos)]
    return SourceRules(
        base=manifest.parent.resolve().as_uri().rstrip("/") + "/",
        allow_http=settings.download.allow_http,
        folders=tuple(str(folder) for folder in folders),
    )


def content(manifest: Path, settings: Settings, out: Path | None = None) -> bytes:
    """The manifest's bytes, one more than allowed at most. What is no file at all is rejected or refused here."""
    problem = None
    if manifest.is_dir():
        problem = Problem("is a folder", allowed="a file ending in .json, .jsonl or .csv")
    elif not manifest.name.lower().endswith(manifests.SUFFIXES) and manifest.exists():
        problem = Problem("is not a manifest by its name", allowed="a name ending in .json, .jsonl or .csv")
    if problem is not None:
        _reject(manifest, out, [problem])
    try:
        with manifest.open("rb") as file:
            return file.read(settings.manifest.most_bytes + 1)
    except OSError as error:
        fail(f"{manifest} cannot be read: {error.strerror}", WRONG_USAGE)


def checked(
    raw: bytes, name: str, settings: Settings, allowed: SourceRules
) -> tuple[Manifest | None, tuple[Problem, ...]]:
    """The manifest, or its problems."""
    try:
        return manifests.read(io.BytesIO(raw), name, settings.manifest, allowed), ()
    except ManifestRejected as error:
        return None, error.problems


def read_or_reject(manifest: Path) -> Manifest:
    """The manifest; a bad one ends the command with its problems."""
    settings = settings_here()
    found, problems = checked(content(manifest, settings), manifest.name, settings, rules(manifest, settings))
    if found is None:
        show.problems(str(manifest), problems, None)
        raise typer.Exit(REJECTED)
    return found


def errors_file(manifest: Path, out: Path) -> Path:
    """Where ingest writes a rejected manifest's problems below `out`."""
    return out / names.errors_name(f"manifests/{local.LOCAL_CLIENT_FOLDER}/{manifest.name}")


def show_rejection(manifest: Path, out: Path) -> None:
    """Repeat on stderr what ingest wrote."""
    written = errors_file(manifest, out)
    found = msgspec.convert(json.loads(written.read_bytes())["problems"], list[Problem])
    show.problems(str(manifest), found, str(written))


def _reject(manifest: Path, out: Path | None, problems: list[Problem]) -> None:
    """Reject a manifest that never reached the intake."""
    written = None
    if out is not None:
        written = errors_file(manifest, out)
        try:
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(report.rejection(manifest.name, [msgspec.to_builtins(p) for p in problems]))
        except OSError as error:
            fail(f"{error.filename or out}: {error.strerror}")
    show.problems(str(manifest), problems, str(written) if written else None)
    raise typer.Exit(REJECTED)
