"""`ruum-batch status`, `batches` and the dead letters: what is told of data folders made here."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from shared.assembly import wiring
from shared.errors import ConfigurationError
from shared.model import Control
from shared.settings import Settings
from tests.ops.commands import Ruum
from tests.ops.operators.data import A0, A2, B1, BUG, C0, TIMEOUT, Data, failed, fill, ok, queued

# --- status, batches


def test_status_as_json(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), queued(), failed(), queued()], closed=False, control=Control.PAUSED)
    found = ruum("status", batch, "--data", data.folder, "--json").json
    expected = {
        "batchId": batch, "client": "acme", "state": "processing", "control": "paused", "round": 1, "total": 4,
        "queued": 2, "processing": 0, "completed": 1, "failed": 1, "cancelled": 0, "progress": 0.5,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected


def test_status_for_people(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [ok(), ok(), failed()])
    said = ruum("status", batch, "--data", data.folder)
    said.done()
    head, finished, *rest = said.out.splitlines()
    assert head == f"{batch}: completed with failures, round 1, tier normal"
    assert "3 of 3 finished (100%)" in finished
    assert dict(line.split() for line in rest[:5]) == {
        "queued": "0", "processing": "0", "completed": "2", "failed": "1", "cancelled": "0",
    }  # fmt: skip
    told = "\n".join(rest[5:])
    assert f"1 {TIMEOUT} (the vendor took too long: try again): https://example.com/bad.jpg" in told
    assert "took 1 min 00 s" in told
    assert f"ruum-batch retry-failed {batch} --data" in told


def test_status_of_a_rejected_batch(ruum: Ruum, data: Data) -> None:
    found = ruum("status", data.rejected(), "--data", data.folder, "--json").json
    assert (found["state"], found["total"], found["progress"]) == ("rejected", 0, 0.0)
    assert "rejected" in ruum("status", "acme.no", "--data", data.folder).out


def test_batches_newest_first(ruum: Ruum, data: Data) -> None:
    data.batch("old", [ok(), failed()], days_ago=9)
    data.rejected()
    data.batch("older", [queued()], days_ago=10, closed=False, client="globex")
    before = data.everything()
    found = ruum("batches", "--data", data.folder, "--json").json["batches"]
    assert [(row["batchId"], row["state"], row["failed"]) for row in found] == [
        ("acme.no", "rejected", 0), ("acme.old", "completed_with_failures", 1), ("globex.older", "processing", 0),
    ]  # fmt: skip
    lines = ruum("batches", "--data", data.folder).out.splitlines()
    assert [line.split()[0] for line in lines] == ["BATCH", "acme.no", "acme.old", "globex.older"]
    assert lines[0].split() == ["BATCH", "STATE", "TIER", "CREATED", "COMPLETED", "FAILED", "LEFT", "COST"]
    assert lines[2].split()[-5:] == ["1", "of", "2", "1", "$0.00"]
    assert data.everything() == before


def test_batches_of_an_empty_store(ruum: Ruum, data: Data) -> None:
    data.run(lambda e: e.store.batches())
    assert ruum("batches", "--data", data.folder, "--json").json == {"batches": []}
    assert ruum("batches", "--data", data.folder).out == f"no batches in the data folder {data.folder}\n"
    ruum("status", "acme.a", "--data", data.folder).refused(64, "acme.a", "none")


# --- dead-letters list


def letters(ruum: Ruum, data: Data, *options: object) -> list[tuple[str, int, str]]:
    found = ruum("dead-letters", "list", *options, "--data", data.folder, "--json").json
    assert list(found) == ["failed", "total", "byCode"]
    assert found["total"] == len(found["failed"]) == sum(found["byCode"].values())
    return [(row["batch"], row["index"], row["code"]) for row in found["failed"]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [A0, A2, B1, C0]),
        (("--batch", "acme.a"), [A0, A2]),
        (("--client", "globex"), [C0]),
        (("--client", "acme"), [A0, A2, B1]),
        (("--code", TIMEOUT), [A0, B1]),
        (("--code", BUG, "--code", "source_not_found"), [A2, C0]),
        (("--older-than-minutes", 60), [A2, B1, C0]),
        (("--older-than-minutes", 60, "--client", "acme", "--code", TIMEOUT), [B1]),
        (("--client", "Acme"), [A0, A2, B1]),
        (("--code", "worker_crashed"), []),
    ],
)
def test_letters_by(ruum: Ruum, data: Data, options: tuple[object, ...], expected: list[object]) -> None:
    fill(data)
    before = data.everything()
    assert sorted(letters(ruum, data, *options)) == expected
    assert data.everything() == before


@pytest.mark.parametrize("command", [("dead-letters", "list"), ("replay", "--dry-run"), ("retry-failed", "acme.a")])
def test_a_code_that_there_is_none_of_is_refused(ruum: Ruum, data: Data, command: tuple[str, ...]) -> None:
    """No image failed with it, which would look like good news."""
    fill(data)
    said = ruum(*command, "--code", "vendor_timeuot", "--data", data.folder)
    assert said.code == 64
    assert "unknown code vendor_timeuot. Valid codes: " in said.err
    assert "vendor_timeout" in said.err


def test_letters_tell_when(ruum: Ruum, data: Data) -> None:
    data.batch("a", [failed(minutes_ago=90)])
    (row,) = ruum("dead-letters", "list", "--data", data.folder, "--json").json["failed"]
    assert row["failedAt"][:16] in ruum("dead-letters", "list", "--data", data.folder).out
    assert abs(datetime.fromisoformat(row["failedAt"]).timestamp() - (data.now - 90 * 60)) < 1


def test_letters_for_people(ruum: Ruum, data: Data) -> None:
    fill(data)
    said = ruum("dead-letters", "list", "--client", "acme", "--data", data.folder)
    said.done()
    header, *lines, total = said.out.splitlines()
    assert header.split()[:3] == ["BATCH", "INDEX", "CODE"]
    assert total == f"3 failed images: 2 {TIMEOUT}, 1 {BUG}"
    assert all("https://example.com/bad.jpg" in line for line in lines)
    assert sorted(line.split()[:3] for line in lines) == [[b, str(i), c] for b, i, c in (A0, A2, B1)]
    assert all("it was" in line for line in lines)
    (row,) = ruum("dead-letters", "list", "--client", "globex", "--data", data.folder, "--json").json["failed"]
    assert (row["message"], row["source"]) == ("source_not_found it was", "https://example.com/bad.jpg")


# --- beside `run`: its reports lie in OUT, its state in OUT/.ruum


@pytest.fixture
def out(ruum: Ruum, tmp_path: Path) -> Path:
    """A batch of one photo that does not exist, as `run` leaves it."""
    fields = {"batchId": "x", "clientName": "acme", "designStyle": "modern", "roomType": "bedroom"}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**fields, "images": [{"url": "none.jpg"}]}))
    out = tmp_path / "staged"
    said = ruum("run", path, "--out", out, "--model", "preview", "--json")
    assert said.code == 3, said.err
    return out


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in (folder / "results").rglob("*") if path.is_file()}


def test_results_of_a_run_are_found_in_its_data_folder(ruum: Ruum, out: Path, tmp_path: Path) -> None:
    (row,) = ruum("batches", "--data", out / ".ruum", "--json").json["batches"]
    found = ruum("results", row["batchId"], "--data", out / ".ruum", "--out", tmp_path / "copy", "--json").json
    assert files(out)
    assert (found["files"], files(tmp_path / "copy")) == (len(files(out)), files(out))


def test_a_round_that_a_command_closes_is_reported_beside_the_others(ruum: Ruum, out: Path) -> None:
    (row,) = ruum("batches", "--data", out / ".ruum", "--json").json["batches"]
    before = files(out)
    ruum("retry-failed", row["batchId"], "--data", out / ".ruum").done()
    ruum("cancel", row["batchId"], "--yes", "--data", out / ".ruum").done()
    ruum("reconcile", "--data", out / ".ruum").done()
    found = ruum("status", row["batchId"], "--data", out / ".ruum", "--json").json
    assert (found["state"], found["round"], found["cancelled"]) == ("cancelled", 2, 1)
    assert {Path(name).name for name in files(out) - before} >= {"report.html", "results.csv"}


def test_watch_names_the_folder_of_the_results(ruum: Ruum, out: Path) -> None:
    """As `run` does: a path, and no address, with whatever is in its name."""
    (row,) = ruum("batches", "--data", out / ".ruum", "--json").json["batches"]
    said = ruum("watch", row["batchId"], "--data", out / ".ruum", "--json")
    assert said.code == 3, said.err
    folder = Path(json.loads(said.out)["resultsDir"])
    assert (folder / "status.json").is_file()
    assert folder.is_relative_to(out)


# --- what is in the way is told in a line


def test_credentials_that_are_a_folder_are_told_in_a_line(ruum: Ruum, tmp_path: Path) -> None:
    said = ruum("batches", "--project", "p", GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path))
    said.refused(1, "credentials")


@pytest.mark.parametrize("good", [True, False])
def test_an_out_folder_that_is_a_file_is_told_in_a_line(ruum: Ruum, tmp_path: Path, good: bool) -> None:
    """Also when the manifest is rejected, whose report has nowhere to go."""
    fields = {"clientName": "acme", "designStyle": "modern", "roomType": "bedroom"} if good else {}
    manifest, out = tmp_path / "x.json", tmp_path / "out"
    manifest.write_text(json.dumps({**fields, "images": [{"url": "none.jpg"}]}))
    out.write_text("kept")
    said = ruum("run", manifest, "--out", out, "--model", "preview")
    assert "Traceback" not in said.err
    assert str(out) in said.err
    assert said.code == 64
    assert out.read_text() == "kept"


def test_the_project_that_was_named_wins(ruum: Ruum, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the setting: an operator who names a project means no other."""
    asked: list[tuple[str, dict[str, str]]] = []

    def google(clock: object, settings: Settings, environ: dict[str, str]) -> object:
        asked.append((settings.google.project, environ))
        raise ConfigurationError("seen")

    monkeypatch.setattr(wiring, "google", google)
    ruum("batches", "--project", "named", RUUM_GOOGLE_PROJECT="other").refused(1, "seen")
    ((project, environ),) = asked
    assert (project, environ["GOOGLE_CLOUD_PROJECT"]) == ("", "named")
