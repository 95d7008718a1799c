"""Random command lines, environments and files, by seed: whatever comes, no traceback. 2,000 in this process, some as their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ops.commands import up
from tests.ops import cli_inputs

CASES = int(os.environ.get("CLI_FUZZ_CASES", "2000"))
FIRST = int(os.environ.get("CLI_FUZZ_FIRST", "0"))
SLICES = 8  # so that several workers share them
PROCESSES = 30
COMMANDS = cli_inputs.commands()
RUUM = str(Path(sys.executable).with_name("ruum-batch"))

TEXTS = ("", " ", "acme.a", "acme.run", "acme.paused", "acme.cancelling", "acme.no", "acme.in", "nope", "acme", "ACME",
         "-1", "0", "1", "2", "7", "1e999", "nan", "99999999999999999999", "0x10", "--", "-", "-x", "a/b", "../x", "/proc", "/dev/null/x", "~",
         "*", "%s%n", "{0}", "${HOME}", "☃", "é" * 300, "x" * 5000, "\udcff\udc80", "a\nb", "\x1b[31m", "true", "30d",
         "2026-13-45", "0001-01-01", "999999h", "source_not_found", "preview", "gemini", "gemini-3.8-flash", "paused")  # fmt: skip
ENVIRONMENT = {
    "LOG_LEVEL": ("BANANA", "", "debugg", "info", "CRITICAL", "10"),
    "RUUM_WORKER_IN_FLIGHT": ("0", "many", "3"), "RUUM_LIMITS": ("", "{}", "[", '{"a":{"per_minute":1}}'),
    "RUUM_STAGING_MODEL": ("preview", "dalle", ""), "RUUM_MANIFEST_MAX_IMAGES": ("1", "-1"), "RUUM_X": ("1",),
    "RUUM_BUCKETS_RESULTS": ("", "results", "../x"), "RUUM_MANIFEST_MAX_BYTES": ("1", "10"),
    "GEMINI_API_KEY": ("", "x"), "GOOGLE_API_KEY": ("", "x"), "GOOGLE_CLOUD_PROJECT": ("", "p"), "NO_COLOR": ("", "1"),
    "COLUMNS": ("0", "-5", "abc", "40", "1"), "TERM": ("dumb", ""), "TZ": ("Nowhere/None", "America/Sao_Paulo"),
    "HOME": ("", "/nowhere"), "USER": ("",), "LOGNAME": ("☃",), "LANG": ("C", "xx_YY"),
}  # fmt: skip


def value(chance: random.Random, world: dict[str, Path], name: str) -> str:
    """Something for an option or argument: often of the right kind, so that it comes further."""
    if chance.random() < 0.45:
        right = {
            "MANIFEST": ("good.json", "bad.json", "missing-photos.json", "latin.csv"), "FOLDER": ("data", "corrupt", "note"),
        }.get(name)  # fmt: skip
        if right:
            return str(world[chance.choice(right)])
        known = {"BATCH": ("acme.a", "acme.run", "acme.paused", "acme.no"), "INDEX": ("0", "1", "2"), "N": ("1", "5"),
                 "MODEL": ("gemini-3.8-flash",), "WHEN": ("30d", "2026-01-01"), "NAME": ("acme",)}.get(name)  # fmt: skip
        if known:
            return chance.choice(known)
    return chance.choice([*TEXTS, *map(str, world.values())])


def line(chance: random.Random, world: dict[str, Path]) -> list[str]:
    """One command line."""
    words = chance.choice(list(COMMANDS))
    command = COMMANDS[words]
    given: list[str] = list(words)
    for param in command.params:
        if param.param_type_name == "argument" and chance.random() < 0.93:
            given.append(value(chance, world, (param.metavar or "").strip("[]")))
    takes_data = any("--data" in param.opts for param in command.params)
    if takes_data and chance.random() < 0.85:
        given += [
            "--data",
            str(world[chance.choice(("data", "data", "data", "corrupt", "note", "old", "none", "file"))]),
        ]
    for param in command.params:
        if param.param_type_name != "option" or chance.random() > 0.25 or param.opts[0] in ("--project", "--verbose"):
            continue
        given.append(chance.choice(param.opts))
        if not param.is_flag and chance.random() < 0.95:
            given.append(value(chance, world, param.metavar or ""))
    if chance.random() < 0.1:
        given.insert(chance.randrange(len(given) + 1), chance.choice(TEXTS))
    if chance.random() < 0.05:
        given.pop(chance.randrange(len(given)))
    return given


def environment(chance: random.Random) -> dict[str, str]:
    names = chance.sample(list(ENVIRONMENT), chance.choice((0, 0, 0, 1, 1, 2)))
    return {name: chance.choice(ENVIRONMENT[name]) for name in names}


def manifest(chance: random.Random) -> bytes:
    """A file that may be a manifest: valid, nearly so, or noise. Never one that would be staged."""
    base: dict[str, Any] = {**cli_inputs.HEADER, "images": [{"url": "none.jpg"}]}
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        text = bytearray(json.dumps(base).encode())
        for _ in range(chance.randrange(1, 5)):
            text[chance.randrange(len(text))] = chance.randrange(256)
        return bytes(text)
    if kind == 2:
        junk: list[Any] = [None, True, -1, 1e308, [], {}, "", "\ud800", "x" * 3000, [[]], {"a": {}}, "☃", "\x00"]
        base[chance.choice([*base, "extra"])] = chance.choice(junk)
    if kind == 3:
        base["images"] = [{"url": chance.choice([*TEXTS, "file:///etc/passwd", "gs://x/y", "https://[::1", "a\\b"])}
                          for _ in range(chance.randrange(4))]  # fmt: skip
    if kind == 4:
        rows = [chance.choice([";", ",", "\t", '"', "a", "clientName", "url", "é", "\r", "\n"]) for _ in range(60)]
        return "".join(rows).encode(chance.choice(["utf-8", "latin-1", "utf-16"]))
    return json.dumps(base).encode()


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Path]:
    return cli_inputs.make_world(tmp_path / "world")


def one(seed: int, world: dict[str, Path], top: Path) -> None:
    chance = random.Random(seed)
    suffix = chance.choice((".json", ".jsonl", ".csv", ".txt"))
    odd = top / f"odd{suffix}"
    odd.write_bytes(manifest(chance))
    words, env = line(chance, {**world, "odd": odd}), environment(chance)
    encoding = chance.choice(("utf-8", "utf-8", "ascii", "latin-1"))
    answer = chance.choice((None, None, "y\n", "n\n", "", "\n\n\n", "maybe\n"))
    said = cli_inputs.run(words, env, encoding=encoding, answer=answer)
    said.in_a_line((seed, words, env, encoding, answer))


@pytest.mark.parametrize("part", range(SLICES))
def test_no_command_line_leads_to_a_traceback(
    part: int, world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLI_FUZZ_FIRST and CLI_FUZZ_CASES choose other seeds."""

    async def nothing(*args: object, **options: object) -> int:
        return 0

    from ops import local, remote

    monkeypatch.setattr(up, "_up", nothing)
    monkeypatch.setattr(local.LocalRun, "work", never_staged)
    monkeypatch.setattr(remote, "APPEAR_SECONDS", 0.01)
    monkeypatch.setattr(remote, "WATCH_SECONDS", 0.01)
    here = tmp_path / "here"
    here.mkdir()
    with cli_inputs.folder(here):
        for seed in range(FIRST + part, FIRST + CASES, SLICES):
            one(seed, world, tmp_path)


async def never_staged(self: Any, make_model: object, stop: Any, grace_seconds: float, look: Any) -> Any:
    """In the place of a run's work: looks once, and is stopped."""
    batch = await self.store.batch(self._batch_id)
    await look(batch, await self.store.counts(batch.id))
    self._embedded.database.close()
    return batch


def test_nor_as_processes_of_their_own(world: dict[str, Path], tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("RUUM_", "GEMINI_", "GOOGLE_"))}
    for seed in range(FIRST, FIRST + PROCESSES):
        chance = random.Random(f"process {seed}")
        words = line(chance, world)
        if words[:1] in (["up"], ["run"]) or any("\0" in word for word in words):
            continue
        env = {
            **kept,
            **environment(chance),
            **chance.choice(({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})),
        }
        done = subprocess.run(
            [RUUM, *(os.fsencode(word) for word in words)], cwd=here, env=env, capture_output=True, timeout=60,
            stdin=subprocess.DEVNULL, check=False, encoding="utf-8", errors="backslashreplace",
        )  # fmt: skip
        cli_inputs.Said(done.returncode, done.stdout, done.stderr).in_a_line((seed, words, env.get("LC_ALL")))
