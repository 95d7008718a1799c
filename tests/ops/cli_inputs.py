"""Every command of the command line, and everything that people and machines may wrongly give it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image as Picture

from ops import app, ending, local
from shared import decisions
from shared.adapters import system_clock as clocks
from shared.model import BatchState, Completion, Control, Counts, Failure, Image, ImageState
from tests import builders

STARTS = {"up": 0}  # commands that would start something for long: only their arguments are tried


def commands() -> dict[tuple[str, ...], Any]:
    """Every command's words to click's command."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                walk(inner, (*words, name))
        else:
            found[words] = command

    walk(app.command(), ())
    return found


def arguments(command: Any) -> list[str]:
    """Its positional arguments' names, as --help shows them."""
    return [param.metavar or param.name for param in command.params if param.param_type_name == "argument"]


def options(command: Any) -> dict[str, bool]:
    """Its options' names to whether they take a value."""
    return {param.opts[0]: not param.is_flag for param in command.params if param.param_type_name == "option"}


class Said(msgspec.Struct):
    code: int
    out: str
    err: str

    def in_a_line(self, of: object) -> None:
        """It ended without a traceback, with a documented exit code, and said why if it failed."""
        told = self.out + self.err
        assert "Traceback (most recent call last)" not in told, (of, told)
        assert "internal error" not in told, (of, told)
        assert self.code in (0, 1, 2, 3, 4, 64, 130, 141), (of, self.code, told)
        if self.code in (1, 4, 64):
            if "run the same command to continue" in self.err or self.err.startswith("Usage: "):
                return  # a run that was stopped says so; no command at all shows the help
            lines = [line for line in self.err.splitlines() if "ruum-batch: " in line]  # after a question's own words
            assert len(lines) == 1 or "cannot be replayed now" in self.err, (of, self.err)
            assert len(lines[0]) < 2500, (of, lines[0][:300])


class Stream(io.TextIOWrapper):
    """stdin, stdout or stderr in memory, in any encoding."""

    def __init__(self, encoding: str = "utf-8", text: str = "", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(text.encode()), encoding=encoding, errors="strict")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def read_back(self) -> str:
        self.flush()
        found: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return found.decode(self.encoding, "backslashreplace")


def run(
    words: Sequence[str], environment: Mapping[str, str], *, encoding: str = "utf-8", answer: str | None = None
) -> Said:
    """The command in this process; `answer` is typed on its terminal, None: there is no terminal."""
    kept = {**os.environ}
    streams = sys.stdin, sys.stdout, sys.stderr
    out, err = Stream(encoding), Stream(encoding)
    for name in list(os.environ):
        if name.startswith(("RUUM_", "GEMINI_", "GOOGLE_", "LOG_LEVEL")):
            del os.environ[name]
    os.environ.update({"NO_GCE_CHECK": "true", **environment})
    sys.stdin, sys.stdout, sys.stderr = Stream(text=answer or "", terminal=answer is not None), out, err
    try:
        code = ending.run(words)
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        os.environ.clear()
        os.environ.update(kept)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return Said(code, out.read_back(), err.read_back())


@contextmanager
def folder(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def image(batch: str, index: int, state: ImageState, **more: Any) -> Image:
    at = 1_764_000_000.0
    return builders.an_image(
        batch=batch, index=index, source=f"https://example.com/{index}.jpg", room_type="bedroom", design_style="modern",
        state=state, created_at=at, revision=2,
        error=Failure(code="source_not_found", message="no such file ☃") if state is ImageState.FAILED else None,
        settled_at=None if state in (ImageState.QUEUED, ImageState.PROCESSING) else at, **more,
    )  # fmt: skip


def make_data(path: Path) -> None:
    """A data folder with a batch in every state."""
    kinds: dict[str, dict[str, Any]] = {
        "a": {}, "run": {"state": BatchState.PROCESSING}, "paused": {"state": BatchState.PROCESSING,
        "control": Control.PAUSED, "paused_reason": "chá ☕"}, "cancelling": {"state": BatchState.PROCESSING,
        "control": Control.CANCELLING}, "no": {"state": BatchState.REJECTED, "problems": 2, "total": 0, "shards": 0},
        "in": {"state": BatchState.INGESTING},
    }  # fmt: skip

    async def fill() -> None:
        embedded = local.open_backend(clocks.SystemClock(), path, path)
        for name, more in kinds.items():
            fields = {"state": BatchState.CLOSED, "total": 3, "shards": 1, **more}
            ref = builders.a_manifest_ref(
                uri=f"file://{path}/intake/manifests/local/{name}.json", base="file:///nowhere/"
            )
            batch = builders.a_batch(id=f"acme.{name}", manifest=ref, created_at=1_764_000_000.0, **fields)
            states = [ImageState.COMPLETED, ImageState.FAILED, ImageState.FAILED if name == "a" else ImageState.QUEUED]
            counts = sum((Counts(**{state.value: 1}) for state in states), Counts())
            if batch.state is BatchState.CLOSED:
                completion = Completion(outcome="completed_with_failures", counts=counts, success_rate=0.3, cost_usd=0.1,
                                        duration_seconds=9, reports={})  # fmt: skip
                batch = msgspec.structs.replace(batch, completion=completion, announced_round=1, closed_at=1e9)
            await embedded.store.create_batch(batch)
            if not batch.total:
                continue
            images = [image(batch.id, index, state) for index, state in enumerate(states)]
            (tally,) = decisions.batch.empty_tallies(batch)
            for each in images:
                folded = decisions.batch.fold(tally, index=each.index, revision=2, state=each.state)
                tally = folded if not isinstance(folded, str) else tally
            await embedded.store.create_tallies([tally])
            await embedded.store.create_images(images)
        embedded.database.close()

    asyncio.run(fill())


HEADER = {"clientName": "acme", "batchId": "b", "designStyle": "modern", "roomType": "bedroom"}


def make_world(top: Path) -> dict[str, Path]:
    """Paths of every kind that a command may be given, by what is wrong with them."""
    top.mkdir(parents=True, exist_ok=True)
    paths = {name: top / name for name in ("data", "corrupt", "empty", "file", "folder.json", "good.json", "bad.json",
             "binary.json", "pipe.json", "loop.json", "missing.json", "note", "locked", "old", "dbfolder", "latin.csv",
             "saída com espaços/é", "missing-photos.json", "deep.json", "none")}  # fmt: skip
    make_data(paths["data"])
    for name in ("corrupt", "empty", "note", "locked", "old", "dbfolder", "folder.json", "saída com espaços/é"):
        paths[name].mkdir(parents=True, exist_ok=True)
    (paths["corrupt"] / "batch.sqlite").write_bytes(b"this is no database " * 500)
    make_data(paths["note"])
    (paths["note"] / "results-folder").write_bytes(b"\xff\xfe\x00bad")
    make_data(paths["old"])
    (paths["old"] / "lock").mkdir()
    (paths["dbfolder"] / "batch.sqlite").mkdir()
    (paths["locked"] / "batch.sqlite").write_bytes(b"")
    paths["file"].write_text("a file")
    paths["good.json"].write_text(json.dumps({**HEADER, "images": [{"url": "https://example.com/a.jpg"}]}))
    paths["missing-photos.json"].write_text(json.dumps({**HEADER, "batchId": "m", "images": [{"url": "none.jpg"}]}))
    paths["bad.json"].write_text(json.dumps({"clientName": "", "images": [{"url": "http://☃/%00"}]}))
    paths["binary.json"].write_bytes(bytes(range(256)) * 10)
    paths["deep.json"].write_bytes(b"[" * 100_000)
    paths["latin.csv"].write_bytes("clientName;url\nImobiliária;é.jpg\n".encode("latin-1"))
    os.mkfifo(paths["pipe.json"])
    paths["loop.json"].symlink_to(paths["loop.json"])
    Picture.new("RGB", (80, 80)).save(top / "tiny.jpg")
    paths["long"] = top / ("x" * 300 + ".json")
    paths["long name in folder"] = top / "file" / "below.json"
    paths["null"] = Path("/dev/null")
    paths["full"] = Path("/dev/full")
    paths["proc"] = Path("/proc/nothing/here")
    return paths
