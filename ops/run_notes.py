"""Note in a data folder how each batch was started, so that commands can say how to continue it."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from shared.model import Batch, BatchState
from shared.vendors import PREVIEW

RUN_NOTES: Final = "runs"  # in the data folder: a note per batch
RESULTS_NOTE: Final = "results-folder"  # in the data folder: for commands that know only the data folder
CLIENT_FOLDER: Final = "local"  # manifests/<folder>/: on one machine the folder says nothing about the client


class RunNote(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The `run` that staged a batch: what to type to continue it.

    `retry`: the failed.csv of a later `run`. Only that file can continue a retry that was interrupted.
    """

    manifest: str
    out: str
    model: str
    photos: tuple[str, ...] = ()
    retry: str | None = None


def note_run(data: Path, batch_id: str, note: RunNote) -> None:
    """Remember how a batch was started, for commands that say how to continue it."""
    path = data / RUN_NOTES / f"{batch_id}.json"
    with suppress(UnicodeError):  # a folder name that is not text: commands then use the address in the batch
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(note))


def run_note(data: Path, batch_id: str) -> RunNote | None:
    """Return how a batch was started; None when that was not noted."""
    with suppress(OSError, msgspec.DecodeError, UnicodeError):
        return msgspec.json.decode((data / RUN_NOTES / f"{batch_id}.json").read_bytes(), type=RunNote)
    return None


def last_model(data: Path) -> str | None:
    """Return the model that the last `run` of this data folder used; None when that was not noted."""
    with suppress(OSError, msgspec.DecodeError, UnicodeError):
        newest = max((data / RUN_NOTES).glob("*.json"), key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            return msgspec.json.decode(newest.read_bytes(), type=RunNote).model
    return None


def note_results(data: Path, out: Path) -> None:
    """Remember where a run writes its results."""
    (data / RESULTS_NOTE).write_bytes(os.fsencode(out.resolve()))


def results_of(data: Path) -> Path:
    """Return where the last run wrote this data folder's results; the folder itself if no run has.

    The note is read as raw bytes: in some locales the folder's name is not text.
    """
    note = data / RESULTS_NOTE
    return Path(os.fsdecode(note.read_bytes())) if note.is_file() else data


def run_command(data: Path, batch: Batch, of: Path | None = None) -> str:
    """Return the command that continues a batch of this data folder. `of`: a manifest in place of the batch's own.

    It names the model, the data folder and the folders of photos that the batch was started with. Without `--model
    preview` it would choose Gemini if a key is set, and cost money.
    """
    note, out = run_note(data, batch.id), results_of(data)
    if note is not None:
        interrupted = batch.state is BatchState.REOPENING and batch.replay is not None and batch.replay.drop
        manifest, out = Path(note.retry if note.retry and interrupted else note.manifest), Path(note.out)
    else:
        base = Path(unquote(urlsplit(batch.manifest.base).path))
        manifest = base / Path(unquote(urlsplit(batch.manifest.uri).path)).name
    parts = ["ruum-batch run", quoted(of or manifest), "--out", quoted(out)]
    if (out / ".ruum").resolve() != data.resolve():
        parts += ["--data", quoted(data)]
    for folder in note.photos if note else ():
        parts += ["--photos", quoted(Path(folder))]
    if note is not None and note.model == PREVIEW:
        parts += [f"--model {PREVIEW}"]
    return " ".join(parts)


def quoted(path: Path) -> str:
    """Return a path quoted for a shell, relative to the current folder if it is below it."""
    short = path
    with suppress(ValueError, OSError):
        if path.is_absolute():
            short = path.relative_to(Path.cwd())
    return shlex.quote(str(short))


def photo_folders(manifest: Path) -> list[Path]:
    """Return the folders that photos may come from, by the runs that reported beside this manifest.

    A round's failed.csv lies in OUT/results/… and names photos by their whole address. `run` knows the folders of its
    earlier batches. Commands that only read such a file find the folders in the notes of OUT/.ruum.
    """
    found: list[Path] = []
    for folder in manifest.resolve().parents:
        for path in sorted((folder / ".ruum" / RUN_NOTES).glob("*.json")):
            note = run_note(folder / ".ruum", path.stem)
            if note is not None:
                found += [Path(note.manifest).parent, *(Path(photos) for photos in note.photos)]
    return list(dict.fromkeys(found))
