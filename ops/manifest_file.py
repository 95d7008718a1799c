"""Read and check a manifest on this machine; reject it with all its problems."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import typer

from ops import photos as local_photos
from ops import run_notes, show
from ops.cli_common import REJECTED, WRONG_USAGE, fail, readable
from shared.errors import BadSetting, ManifestRejected, Problem
from shared.manifest import reader
from shared.manifest.model import Manifest
from shared.manifest.sources import SourceRules
from shared.results import names, report
from shared.settings import Settings, from_environment

MAX_PATH_SHOWN: Final = 200  # characters of a path in a message


def settings_here() -> Settings:
    """Return the settings from the environment; a bad one ends the command."""
    try:
        return from_environment(os.environ)
    except BadSetting as error:
        fail(str(error), WRONG_USAGE)


def rules(manifest: Path, settings: Settings, photos: Sequence[Path] = ()) -> SourceRules:
    """Return the rules for a manifest on this machine: photos come from its own folder and those given."""
    folders = [manifest.parent.resolve(), *(folder.resolve() for folder in photos), *run_notes.photo_folders(manifest)]
    return SourceRules(
        base=manifest.parent.resolve().as_uri().rstrip("/") + "/",
        allow_http=settings.download.allow_http,
        folders=tuple(str(folder) for folder in folders),
    )


def content(manifest: Path, settings: Settings, out: Path | None = None, *, as_json: bool = False) -> bytes:  # noqa: RET503
    """Return the manifest's bytes, at most one more than allowed. What is not a readable file ends the command."""
    problem = None
    try:
        kind = manifest.stat().st_mode
        if stat.S_ISDIR(kind):
            problem = Problem("is a folder", allowed=f"a file {reader.FILE_NAMES}")
        elif not stat.S_ISREG(kind):  # a pipe or a device: reading it may never end
            problem = Problem("is not a regular file", allowed=f"a file {reader.FILE_NAMES}")
        elif not manifest.name.lower().endswith(reader.SUFFIXES):
            problem = reader.wrong_name(manifest.name)
        if problem is None:
            with manifest.open("rb") as file:
                return file.read(settings.manifest.max_bytes + 1)
    except OSError as error:
        fail(f"{_short(manifest)} cannot be read: {error.strerror}", WRONG_USAGE)
    _reject(manifest, out, [problem], as_json=as_json)


def check_folders(photos: Sequence[Path]) -> None:
    """End the command if a folder of photos does not exist: every photo in it would be refused."""
    for folder in photos:
        if not folder.is_dir():
            fail(f"--photos {_short(folder)} is not a folder", WRONG_USAGE)


def _short(path: Path) -> str:
    """Return a path for a message, cut at a readable length."""
    text = readable(path)
    return text if len(text) <= MAX_PATH_SHOWN else text[:MAX_PATH_SHOWN] + "…"


def checked(
    raw: bytes, name: str, settings: Settings, allowed: SourceRules
) -> tuple[Manifest | None, tuple[Problem, ...]]:
    """Return the manifest, or None and its problems."""
    try:
        return reader.read(io.BytesIO(raw), name, settings.manifest, allowed), ()
    except ManifestRejected as error:
        return None, error.problems


def read_or_reject(manifest: Path, photos: Sequence[Path] = (), *, as_json: bool = False) -> Manifest:
    """Return the manifest. A bad one ends the command with its problems and its missing photos."""
    settings = settings_here()
    check_folders(photos)
    raw = content(manifest, settings, as_json=as_json)
    try:
        return reader.read(io.BytesIO(raw), manifest.name, settings.manifest, rules(manifest, settings, photos))
    except ManifestRejected as error:
        absent = local_photos.missing_of(error.local_photos)
        rejected(manifest, error.problems, None, as_json=as_json, absent=absent)


def rejected(
    manifest: Path,
    problems: Sequence[Problem],
    written: str | None,
    *,
    as_json: bool,
    absent: local_photos.Missing | None = None,
) -> NoReturn:
    """End the command with a manifest's problems, for people and for programs."""
    base = manifest.parent.resolve()
    if as_json:
        missing = [local_photos.shown(path, base) for path in absent.paths] if absent else []
        show.as_json({
            "valid": False, "batchId": None, "images": None,
            "problems": [msgspec.to_builtins(problem) for problem in problems], "missingPhotos": missing,
        })  # fmt: skip
    show.problems(readable(manifest), problems, written)
    if absent:
        show.err.print(local_photos.sentence(absent, base))
    raise typer.Exit(REJECTED)


def errors_file(manifest: Path, out: Path) -> Path:
    """Return the file below `out` into which ingest writes a rejected manifest's problems."""
    return out / names.errors_name(f"manifests/{run_notes.CLIENT_FOLDER}/{manifest.name}")


def show_rejection(manifest: Path, out: Path, *, as_json: bool) -> None:
    """Repeat on stderr the problems that ingest wrote into the file."""
    written = errors_file(manifest, out)
    found = msgspec.convert(json.loads(written.read_bytes())["problems"], list[Problem])
    if as_json:
        problems = [msgspec.to_builtins(problem) for problem in found]
        show.as_json({"valid": False, "batchId": None, "images": None, "problems": problems, "missingPhotos": []})
    show.problems(readable(manifest), found, str(written))


def _reject(manifest: Path, out: Path | None, problems: list[Problem], *, as_json: bool) -> NoReturn:
    """Reject a manifest that never reached the intake."""
    written = None
    if out is not None:
        written = errors_file(manifest, out)
        try:
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(report.rejection(manifest.name, [msgspec.to_builtins(p) for p in problems]))
        except OSError as error:
            fail(f"{error.filename or out}: {error.strerror}", WRONG_USAGE)
    rejected(manifest, problems, str(written) if written else None, as_json=as_json)
