"""Every command with every wrong input ends in one line, with a documented exit code and without a traceback."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ops import cli_common
from ops.cli_common import EXIT_CODES
from tests.ops import cli_inputs
from tests.ops.cli_inputs import run

RUUM = str(Path(sys.executable).with_name("ruum-batch"))
OURS = str(Path(cli_common.__file__).parent) + os.sep  # wherever the checkout is
COMMANDS = cli_inputs.commands()
NAMES = [" ".join(words) for words in COMMANDS]
WORKS_ON_DATA = [words for words, command in COMMANDS.items() if "--data" in cli_inputs.options(command)]
TAKES_MANIFEST = [words for words, command in COMMANDS.items() if "MANIFEST" in cli_inputs.arguments(command)]
BAD_DATA = ("corrupt", "empty", "file", "none", "note", "old", "dbfolder", "locked", "long", "long name in folder",
            "null", "proc", "saída com espaços/é")  # fmt: skip
BAD_MANIFESTS = ("folder.json", "bad.json", "binary.json", "pipe.json", "loop.json", "none", "deep.json", "latin.csv",
                 "long", "long name in folder", "null", "proc", "file")  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return cli_inputs.make_world(tmp_path_factory.mktemp("wrong"))


@pytest.fixture(scope="module")
def other_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For `run`, which makes a data folder of what was none."""
    return cli_inputs.make_world(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> object:
    with cli_inputs.folder(tmp_path):
        yield


def usual(words: tuple[str, ...], world: dict[str, Path]) -> list[str]:
    """The command with arguments of the right kind; nothing that stages, starts or asks."""
    known = {
        "MANIFEST": str(world["good.json"]),
        "BATCH": "acme.a",
        "[BATCH]": "acme.a",
        "INDEX": "0",
        "MODEL": "gemini-3.8-flash",
    }
    given = [known[name] for name in cli_inputs.arguments(COMMANDS[words])]
    return [*words, *given, *(["--client", "acme"] if words == ("erase",) else [])]


@pytest.mark.parametrize("words", COMMANDS, ids=NAMES)
def test_help_is_there_and_says_how(words: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        said = run([*words, flag], {"COLUMNS": "160"})
        assert said.code == 0, said
        assert "Example: ruum-batch " + " ".join(words) in said.out
        assert not re.search(r"<(list|int|str|float|choice|path)\b|<int range>|\{MANIFEST\}", said.out), said.out
    assert "..." not in re.sub(r"\[ARGS\]\.\.\.|\[OPTIONS\]|\]\.\.\.", "", run(["--help"], {"COLUMNS": "160"}).out)


def test_help_lists_the_exit_codes() -> None:
    said = run(["--help"], {})
    for code in EXIT_CODES:
        assert re.search(rf"^  {code} ", said.out, re.MULTILINE), said.out


@pytest.mark.parametrize("words", COMMANDS, ids=NAMES)
def test_arguments_that_are_missing_or_unknown(words: tuple[str, ...], world: dict[str, Path]) -> None:
    if cli_inputs.arguments(COMMANDS[words]) or words == ("erase",):
        said = run(words, {})
        assert said.code == 64, said
        said.in_a_line(words)
    if words != ("up",):
        for more in (["--nonsense"], ["too", "many", "arguments"]):
            said = run([*usual(words, world), *more], {})
            assert said.code == 64, (words, said)
            said.in_a_line(words)


@pytest.mark.parametrize("words", COMMANDS, ids=NAMES)
def test_options_without_or_with_a_wrong_value(words: tuple[str, ...], world: dict[str, Path]) -> None:
    for option, takes_value in cli_inputs.options(COMMANDS[words]).items():
        if takes_value:
            run([*usual(words, world), option], {}).in_a_line((words, option))
            if option not in (
                "--data",
                "--out",
                "--photos",
                "--reason",
                "--by",
                "--project",
                "--client",
                "--batch",
            ) and words != ("up",):
                for value in ("", "nonsense", "-1", "1e999", "\udcff"):
                    run([*usual(words, world), option, value, "--data", str(world["empty"])] if words in WORKS_ON_DATA
                        else [*usual(words, world), option, value], {}).in_a_line((words, option, value))  # fmt: skip


@pytest.mark.parametrize("words", WORKS_ON_DATA, ids=" ".join)
@pytest.mark.parametrize("bad", BAD_DATA)
def test_data_folders_of_every_kind(
    words: tuple[str, ...], bad: str, world: dict[str, Path], other_world: dict[str, Path]
) -> None:
    if words == ("run",):
        world = other_world
        said = run([*words, str(world["bad.json"]), "--data", str(world[bad]), "--model", "preview"], {})
    else:
        said = run([*usual(words, world), "--data", str(world[bad])], {})
    said.in_a_line((words, bad))
    if bad == "corrupt" and words != ("run",):
        assert said.code == 1
        assert "damaged or not one of ours" in said.err
        assert str(world[bad]) in said.err
    if bad in ("none", "empty", "file") and words not in (("run",), ("estimate",)):
        assert said.code == 64


@pytest.mark.parametrize("words", TAKES_MANIFEST, ids=" ".join)
@pytest.mark.parametrize("bad", BAD_MANIFESTS)
def test_manifests_of_every_kind(words: tuple[str, ...], bad: str, world: dict[str, Path]) -> None:
    said = run([*words, str(world[bad])], {})
    said.in_a_line((words, bad))
    assert said.code in (2, 64)


@pytest.mark.parametrize(
    "words", [("results", "acme.a"), ("run", "good.json"), ("run", "bad.json"), ("run", "file")], ids=" ".join
)
@pytest.mark.parametrize("bad", ["file", "long", "long name in folder", "null", "proc", "full"])
def test_out_folders_that_cannot_be_written(words: tuple[str, str], bad: str, world: dict[str, Path]) -> None:
    if words[0] == "run":
        said = run(["run", str(world[words[1]]), "--model", "preview", "--out", str(world[bad])], {})
    else:
        data = world["data"]
        (data / "results/acme/a").mkdir(parents=True, exist_ok=True)
        (data / "results/acme/a/status.json").write_text("{}")
        said = run([*words, "--data", str(data), "--out", str(world[bad])], {})
        assert said.code in (0, 64) if bad == "none" else True
    said.in_a_line((words, bad))


@pytest.mark.parametrize("words", COMMANDS, ids=NAMES)
@pytest.mark.parametrize(
    "environment",
    [{"LOG_LEVEL": "BANANA"}, {"LOG_LEVEL": "x" * 500}, {"RUUM_NONSENSE": "1"}, {"RUUM_WORKER_IN_FLIGHT": "many"},
     {"RUUM_LIMITS": "{"}, {"RUUM_PRICES": '{"a": 1}'}],
    ids=lambda environment: next(iter(environment)),
)  # fmt: skip
def test_environments_that_are_wrong(
    words: tuple[str, ...], environment: dict[str, str], world: dict[str, Path]
) -> None:
    data = ["--data", str(world["data"])] if words in WORKS_ON_DATA and words != ("run",) else []
    said = run([*usual(words, world), *data], environment)
    assert said.code == 64 or (words == ("submit",) and said.code == 64), (words, said)
    said.in_a_line((words, environment))
    assert next(iter(environment)) in said.err


@pytest.mark.parametrize("words", COMMANDS, ids=NAMES)
@pytest.mark.parametrize(
    "name", ["nope", "", "acme.á", "a/b", "..", "__x__", "\udcff", "acme.a\n", "x" * 5000, "-x", "acme.no", "acme.in"]
)
def test_batches_that_are_not_there_or_not_as_wished(words: tuple[str, ...], name: str, world: dict[str, Path]) -> None:
    if "BATCH" not in " ".join(cli_inputs.arguments(COMMANDS[words])) or words in (("watch",),) and name == "acme.in":
        return
    more = ["0"] if words == ("image",) else []
    data = cli_inputs_copy(world["data"], Path.cwd() / "data")
    said = run([*words, name, *more, "--data", str(data), *(["--yes"] if words == ("cancel",) else [])], {})
    said.in_a_line((words, name[:50]))
    if name not in ("acme.no", "acme.in"):
        assert said.code == 64, said


def cli_inputs_copy(source: Path, to: Path) -> Path:
    cli_inputs.make_data(to)
    return to


@pytest.mark.parametrize("words", WORKS_ON_DATA, ids=" ".join)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_any_encoding_of_the_terminal(words: tuple[str, ...], encoding: str, world: dict[str, Path]) -> None:
    if words in (("run",), ("erase",)):
        return
    said = run([*usual(words, world), "--data", str(cli_inputs_copy(world["data"], Path("d")))], {}, encoding=encoding)
    said.in_a_line((words, encoding))
    run([*words[:1], "☃ é \udcff"], {}, encoding=encoding).in_a_line((words, encoding))


def logging_state() -> dict[str, tuple[object, ...]]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    found = {log.name: (log.level, log.handlers[:], log.filters[:], log.propagate, log.disabled) for log in loggers}
    return found | {"disable": (logging.root.manager.disable,)}


@pytest.mark.parametrize("words", [("health",), ("status", "acme.a"), ("image", "acme.a", "9"), ("nonsense",), ("-h",)])
@pytest.mark.parametrize("level", ["DEBUG", "CRITICAL", "BANANA"])
def test_a_command_leaves_the_process_its_own_logging(
    words: tuple[str, ...], level: str, world: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Tests that ran after a command's saw no log lines: the command had taken pytest's handlers away."""
    before = logging_state()
    run([*words, *(["--data", str(world["data"])] if len(words[0]) > 2 else [])], {"LOG_LEVEL": level})
    assert {name: state for name, state in logging_state().items() if name in before} == before
    logging.getLogger("shared.somewhere").warning("after a command")
    assert "after a command" in caplog.text


# --- real processes: what a process of its own is needed for


def process(*words: object, cwd: Path, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUUM_", "GEMINI_", "GOOGLE_"))}
    line = " ".join(f"'{word}'" for word in (RUUM, *words)) + shell
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env={**kept, **environment}, capture_output=True, timeout=60, check=False,
        encoding="utf-8", errors="backslashreplace",
    )  # fmt: skip


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_data_folder_with_accents_in_an_ascii_locale(tmp_path: Path) -> None:
    folder = tmp_path / "saída com espaços/é/.ruum"
    cli_inputs.make_data(folder)
    (folder / "results-folder").write_bytes(os.fsencode(folder.parent))
    for command in (("batches",), ("status", "acme.paused"), ("watch", "acme.a"), ("dead-letters", "list", "--json")):
        done = process(*command, "--data", folder, cwd=tmp_path, **ASCII)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 3), (command, done.stderr)
    done = process("run", tmp_path / "é.json", "--out", folder.parent, cwd=tmp_path, **ASCII)
    assert (done.returncode, "Traceback" in done.stderr) == (64, False)


@pytest.mark.parametrize(
    "shell",
    [" >&-", " 2>&-", " <&-", " >&- 2>&- <&-", " >/dev/full", " | head -c 1", " | true", " 2>&1 | true"],
)
def test_streams_that_are_closed_full_or_gone(tmp_path: Path, shell: str) -> None:
    cli_inputs.make_data(tmp_path / "data")
    for command in (("batches",), ("status", "acme.a", "--json"), ("dead-letters", "list"), ("--help",), ("nonsense",)):
        data = () if command[0].startswith(("-", "n")) else ("--data", tmp_path / "data")
        done = process(*command, *data, cwd=tmp_path, shell=shell)
        for word in ("Traceback", "Exception ignored", "BrokenPipe"):
            assert word not in done.stderr, (command, done.stderr)
    assert process("batches", "--data", tmp_path / "data", cwd=tmp_path).returncode == 0, "nothing was written into it"


def test_a_broken_pipe_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    cli_inputs.make_data(tmp_path / "data")
    done = process("batches", "--data", tmp_path / "data", cwd=tmp_path, shell=' | sleep 0; exit "${PIPESTATUS[0]}"')
    assert done.returncode in (0, 141)
    assert done.stderr == ""


@pytest.mark.parametrize("command", [("batches",), ("--version",), ("status", "x"), ("validate", "x.json"), ("quota",)])
def test_ctrl_c_in_the_first_second_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """While everything is imported, and after. Ended before is no fault."""
    ended = set()
    for milliseconds in (60, 90, 130, 180, 240, 320, 420):
        started = subprocess.Popen(
            [RUUM, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(milliseconds / 1000)
        started.send_signal(2)
        _, err = started.communicate(timeout=30)
        if "Traceback" in err and 'File "/' in err and err.count("File ") == 1 and "/bin/ruum-batch" in err:
            continue  # the entry script had not got to its first import
        if OURS not in err and "Traceback" in err:
            continue  # the interpreter itself was still starting: nothing of ours can be asked yet
        assert "Traceback" not in err, (milliseconds, err)
        assert len(err.splitlines()) <= 1, err
        ended.add(started.returncode)
    assert ended <= {130, 0, 64, -2}, ended


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A file system of 2 MB, where it may be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("not run: mounting a small file system needs root")
    try:
        from tests.e2e.conftest import manifest, photo

        for index in range(6):
            photo(tmp_path / f"photos/{index}.jpg", index, (1600, 1200))
        path = manifest(tmp_path, [f"photos/{index}.jpg" for index in range(6)] * 4, cache="")
        done = process("run", path, "--out", small, "--model", "preview", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("ruum-batch: ")]
        assert "no space left" in line
        assert len(done.stderr.splitlines()) < 12, done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_ctrl_c_at_a_question_ends_it(tmp_path: Path) -> None:
    """On a terminal of its own: an event loop would otherwise keep the signal until somebody answers."""
    path = tmp_path / "b.json"
    images = [{"url": f"https://example.com/{number}.jpg"} for number in range(50)]
    path.write_text(json.dumps({**cli_inputs.HEADER, "images": images}))
    cli_inputs.make_data(tmp_path / "data")
    for command in (("run", str(path), "--out", str(tmp_path / "out")),
                    ("cancel", "acme.run", "--data", str(tmp_path / "data"))):  # fmt: skip
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["GEMINI_API_KEY"] = "x"
            os.execv(RUUM, [RUUM, *command])
        said = b""
        while b"[y/N]" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        ended, status = os.waitpid(pid, os.WNOHANG)
        until = time.monotonic() + 60  # on a busy machine
        while not ended and time.monotonic() < until:
            if select.select([terminal], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    said += os.read(terminal, 1000)
            ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert ended, said
        with contextlib.suppress(OSError):
            said += os.read(terminal, 1000)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(status) == 130, said
        assert b"Traceback" not in said
        assert b"ruum-batch: interrupted" in said
