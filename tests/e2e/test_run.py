"""`ruum-batch` as a user runs it, on the embedded backend with the preview model."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import RUUM, clean_environment, manifest, photo, ruum


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_comes_out_whole(folder: Path) -> None:
    path = manifest(folder, ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg"])
    done = ruum("run", path, "--out", "out", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == {
        "batchId": "acme.b1", "state": "completed", "total": 3, "completed": 3, "failed": 0, "cancelled": 0,
        "successRate": 1.0, "costUsd": 0.0, "resultsDir": "out/results/acme/b1", "failures": [],
    }  # fmt: skip
    results = folder / "out/results/acme/b1"
    rows = lines(results / "round-1/results.jsonl")
    assert [row["index"] for row in rows] == [0, 1, 2]
    for row in rows:
        picture = folder / "out" / row["output"]
        assert picture.name == f"{row['index']}-APT-{row['index']}.jpg"
        assert hashlib.sha256(picture.read_bytes()).hexdigest() == row["sha256"]
        with Image.open(picture) as staged:
            staged.load()
            assert staged.size == (640, 480)
        assert row["state"] == "completed"
        assert row["error"] is None
        assert row["attempts"] == 1
        assert row["cached"] is False
        assert {"download", "prepare", "analyse", "generate", "verify", "publish"} == set(row["durationsMs"])
    status = json.loads((results / "status.json").read_text())
    assert (status["state"], status["completed"], status["progress"]) == ("completed", 3, 1.0)
    events = lines(folder / "out/events.jsonl")
    kinds = [event["type"] for event in events]
    assert [kind for kind in kinds if kind != "ruum.batch.progress"] == ["ruum.batch.accepted", "ruum.batch.completed"]
    completed = events[kinds.index("ruum.batch.completed")]
    assert completed["id"] == "acme.b1/1"
    for name, report in completed["data"]["reports"].items():
        content = (results / "round-1" / name).read_bytes()
        assert report["sha256"] == hashlib.sha256(content).hexdigest()
        assert report["bytes"] == len(content)


def test_the_same_command_again_changes_nothing(folder: Path) -> None:
    path = manifest(folder, ["photos/0.jpg"])
    assert ruum("run", path, "--out", "out", cwd=folder).returncode == 0
    before = {file: file.stat().st_mtime_ns for file in (folder / "out/results").rglob("*") if file.is_file()}
    events = (folder / "out/events.jsonl").read_text()
    again = ruum("run", path, "--out", "out", "--json", cwd=folder)
    assert again.returncode == 0
    assert json.loads(again.stdout)["completed"] == 1
    assert {file: file.stat().st_mtime_ns for file in (folder / "out/results").rglob("*") if file.is_file()} == before
    assert (folder / "out/events.jsonl").read_text() == events


def test_failures_are_reported_and_failed_csv_can_be_dropped_again(folder: Path) -> None:
    (folder / "photos/page.jpg").write_text("<html>not found</html>")
    path = manifest(folder, ["photos/0.jpg", "photos/late.jpg", "photos/page.jpg"])
    done = ruum("run", path, "--out", "out", "--json", cwd=folder)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["state"] == "completed_with_failures"
    results = folder / "out/results/acme/b1/round-1"
    codes = [row["error"]["code"] for row in lines(results / "results.jsonl") if row["error"]]
    assert codes == ["source_not_found", "not_a_picture"]
    failed = list(csv.DictReader(io.StringIO((results / "failed.csv").read_text("utf-8-sig"))))
    assert [row["url"] for row in failed] == ["photos/late.jpg", "photos/page.jpg"]
    assert [(row["batchId"], row["index"]) for row in failed] == [("b1", "1"), ("b1", "2")]
    photo(folder / "photos/late.jpg", 7)
    photo(folder / "photos/page.jpg", 8)
    again = ruum("run", results / "failed.csv", "--out", "out", "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    answered = json.loads(again.stdout)
    assert (answered["completed"], answered["state"]) == (3, "completed"), "its own batch, all of it"
    assert (folder / "out/results/acme/b1/round-2/results.jsonl").is_file()


def test_a_rejected_manifest(folder: Path) -> None:
    path = manifest(folder, ["photos/0.jpg", "../secret.jpg", "http://example.com/a.jpg"], roomType="livng room")
    done = ruum("run", path, "--out", "out", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(json.loads(ruum("run", path, "--out", "again", "--json", cwd=folder).stdout)["problems"]) == 3
    written = list((folder / "out").rglob("batch.json.errors.json"))
    assert len(written) == 1
    problems = json.loads(written[0].read_text())["problems"]
    assert [problem["pointer"] for problem in problems] == ["/roomType", "/images/1/url", "/images/2/url"]
    for problem in problems:
        assert problem["reason"] in done.stderr
    events = lines(folder / "out/events.jsonl") if (folder / "out/events.jsonl").exists() else []
    assert [event["type"] for event in events] == ["ruum.batch.rejected"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100)), "is a JPEG picture"),
        (lambda p: p.write_bytes(b"[" * 200_000), "nested too deeply"),
        (lambda p: p.write_bytes('{"clientName": "ação"}'.encode("latin-1")), "not UTF-8"),
    ],
)
def test_what_is_no_manifest_is_rejected_clearly(folder: Path, make, expected: str) -> None:
    make(folder / "odd.json")
    for command in (("run", folder / "odd.json", "--out", "out"), ("validate", folder / "odd.json")):
        done = ruum(*command, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    assert len(list((folder / "out").rglob("odd.json.errors.json"))) == 1


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("run", "missing.json"), ("run", "x", "--max-in-flight", "0"), ("nonsense",), ("status", "acme.b1"),
     ("run", "x", "--model", "dalle")],
)  # fmt: skip
def test_wrong_usage_is_64(folder: Path, arguments: tuple[str, ...]) -> None:
    done = ruum(*arguments, cwd=folder)
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named(folder: Path) -> None:
    path = manifest(folder, ["photos/0.jpg"])
    for name, value in (("RUUM_MANIFEST_MAX_IMAGES", "many"), ("RUUM_NONSENSE", "1")):
        done = ruum("validate", path, cwd=folder, **{name: value})
        assert done.returncode == 64
        assert name in done.stderr


def test_gemini_without_a_key_is_wrong_usage(folder: Path) -> None:
    done = ruum("run", manifest(folder, ["photos/0.jpg"]), "--out", "out", "--model", "gemini", cwd=folder)
    assert done.returncode == 64
    assert "GEMINI_API_KEY" in done.stderr


def test_version_help_status_and_validate(folder: Path) -> None:
    path = manifest(folder, ["photos/0.jpg"])
    assert ruum("--version", cwd=folder).stdout.startswith("ruum-batch ")
    for command in ("run", "validate", "status"):
        assert "Example:" in ruum(command, "--help", cwd=folder).stdout
    valid = ruum("validate", path, "--json", cwd=folder)
    assert json.loads(valid.stdout) == {
        "valid": True, "batchId": "acme.b1", "images": 1, "problems": [], "missingPhotos": [],
    }  # fmt: skip
    ruum("run", path, "--out", "out", "--data", "state", cwd=folder)
    status = ruum("status", "acme.b1", "--data", "state", "--json", cwd=folder)
    assert json.loads(status.stdout)["completed"] == 1
    assert "1 of 1 finished" in ruum("status", "acme.b1", "--data", "state", cwd=folder).stdout
    unknown = ruum("status", "acme.none", "--data", "state", cwd=folder)
    assert unknown.returncode == 64
    assert "acme.b1" in unknown.stderr


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(folder: Path) -> None:
    path = manifest(folder, [f"photos/{index % 3}.jpg" for index in range(150)])
    command = [RUUM, "run", str(path), "--out", "out", "--json"]
    process = subprocess.Popen(
        command, cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(list((folder / "out").rglob("images/*.jpg"))) >= 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command to continue" in err
    stopped = json.loads(out)
    assert 0 < stopped["completed"] < 150
    again = ruum("run", path, "--out", "out", "--json", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["completed"] == 150
    rows = lines(folder / "out/results/acme/b1/round-1/results.jsonl")
    assert all(row["attempts"] == 1 for row in rows), "stopping cleanly spends no attempt"


def test_two_runs_in_one_folder_do_not_meet(folder: Path) -> None:
    path = manifest(folder, [f"photos/{index % 3}.jpg" for index in range(150)])
    command = [RUUM, "run", str(path), "--out", "out"]
    process = subprocess.Popen(command, cwd=folder, env=clean_environment(), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: (folder / "out/results").exists())
        second = ruum("run", path, "--out", "out", cwd=folder)
        assert second.returncode == 1
        assert "another ruum-batch is using" in second.stderr
        assert ruum("status", "acme.b1", "--data", "out/.ruum", cwd=folder).returncode == 0
    finally:
        process.kill()
        process.wait()


def wait_for(condition, seconds: float = 60.0) -> None:
    """Poll another process's effect; a test's only way to see it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_a_failing_batch_is_paused_said_and_can_be_gone_on_with(folder: Path) -> None:
    """A wrong folder: the run ends by itself, says why and what now; corrected and resumed it is finished."""
    missing = [f"photos/missing-{number}.jpg" for number in range(40)]
    good = [f"photos/good-{number}.jpg" for number in range(20)]
    for number, name in enumerate(good):
        photo(folder / name, number)
    path = manifest(folder, [*missing, *good])
    often = {"RUUM_WORKER_PROGRESS_SECONDS": "0.1"}
    done = ruum("run", path, "--out", "out", "--max-in-flight", 1, cwd=folder, **often)
    assert done.returncode == 3, done.stderr
    assert "is paused" in done.stderr
    assert "images failed" in done.stderr
    for command in ("dead-letters list --batch acme.b1", "resume acme.b1", "cancel acme.b1"):
        assert f"ruum-batch {command} --data out/.ruum" in done.stderr
    again = ruum("run", path, "--out", "out", "--max-in-flight", 1, cwd=folder, **often)
    assert (again.returncode, "is paused" in again.stderr) == (3, True), "it goes on being paused"
    status = json.loads(ruum("status", "acme.b1", "--data", "out/.ruum", "--json", cwd=folder).stdout)
    in_file = json.loads((folder / "out/results/acme/b1/status.json").read_text())
    assert (in_file["control"], in_file["completed"], in_file["failed"]) == (
        "paused", status["completed"], status["failed"],
    )  # fmt: skip
    assert ruum("resume", "acme.b1", "--data", "out/.ruum", cwd=folder).returncode == 0
    while (done := ruum("run", path, "--out", "out", "--json", cwd=folder, **often)).returncode == 3:
        summary = json.loads(done.stdout)
        if summary["state"] == "completed_with_failures":
            break
        assert ruum("resume", "acme.b1", "--data", "out/.ruum", cwd=folder).returncode == 0
    assert (summary["completed"], summary["failed"]) == (20, 40)
    for number, name in enumerate(missing):
        photo(folder / name, 100 + number)
    assert (
        "40 images queued again" in ruum("retry-failed", "acme.b1", "--yes", "--data", "out/.ruum", cwd=folder).stdout
    )
    final = ruum("run", path, "--out", "out", "--json", cwd=folder, **often)
    assert final.returncode == 0, final.stderr
    assert json.loads(final.stdout)["completed"] == 60


def test_a_run_carries_on_a_replay_that_was_killed(folder: Path) -> None:
    """Between its requeues: whoever runs the batch again need not know of `reconcile`."""
    path = manifest(folder, [f"photos/missing-{number}.jpg" for number in range(6)])
    assert ruum("run", path, "--out", "out", cwd=folder).returncode == 3
    killed = subprocess.Popen(
        [RUUM, "retry-failed", "acme.b1", "--rate", "0.1", "--data", "out/.ruum"], cwd=folder, env=clean_environment()
    )
    while json.loads(ruum("status", "acme.b1", "--data", "out/.ruum", "--json", cwd=folder).stdout)["queued"] < 1:
        assert killed.poll() is None  # a minute in all, so that it is killed in the middle of it
    killed.kill()
    killed.wait()
    for number in range(6):
        photo(folder / f"photos/missing-{number}.jpg", number)
    database = sqlite3.connect(folder / "out/.ruum/batch.sqlite")
    with database:  # its lease of two minutes is over
        (document,) = database.execute("SELECT doc FROM batches").fetchone()
        batch = json.loads(document)
        batch["replay"]["lease"]["until"] = 1.0
        database.execute("UPDATE batches SET doc = ?", (json.dumps(batch).encode(),))
    database.close()
    done = ruum("run", path, "--out", "out", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["completed"] == 6
