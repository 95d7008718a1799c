"""Money asks first, and photos are looked for first: `run`, `validate`, `estimate`, `submit`, `replay`."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from ops import local, remote, run_notes, target
from ops.commands import submit
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.model import BatchState, Lease, ReplayPlan
from shared.settings import Gemini, Settings, StagingRules
from shared.vendors import spec_of
from tests import builders
from tests.ops.commands import Ruum
from tests.ops.operators.data import Data, Terminal, at_work, failed

KEY = {"GEMINI_API_KEY": "no-key"}
HEADER = {"clientName": "acme", "batchId": "b1", "designStyle": "modern", "roomType": "bedroom"}


def manifest(folder: Path, urls: list[str], name: str = "b.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({**HEADER, "images": [{"url": url} for url in urls]}))
    return path


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which models were about to stage; none does."""
    found: list[str] = []

    async def work(self: local.LocalRun, make_model: Any, stop: Any, grace_seconds: float, look: Any) -> Any:
        found.append(self._settings.staging.model)
        batch = await self.store.batch(self._batch_id)
        self._embedded.database.close()
        return batch

    monkeypatch.setattr(local.LocalRun, "work", work)
    return found


MANY = [f"https://example.com/{number}.jpg" for number in range(100)]


def test_a_run_that_costs_is_refused_where_nobody_can_say_yes(ruum: Ruum, tmp_path: Path, staged: list[str]) -> None:
    path = manifest(tmp_path, MANY)
    said = ruum("run", path, "--out", tmp_path / "out", **KEY)
    said.refused(64, "model gemini (GEMINI_API_KEY): about $6.08 for 100 images", "--yes")
    assert staged == []
    assert not (tmp_path / "out/results").exists()
    assert ruum("batches", "--data", tmp_path / "out/.ruum", "--json").json == {"batches": []}


@pytest.mark.parametrize(("answer", "stages"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_run_asks_on_a_terminal(
    ruum: Ruum, tmp_path: Path, staged: list[str], monkeypatch: pytest.MonkeyPatch, answer: str, stages: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    said = ruum("run", manifest(tmp_path, MANY), "--out", tmp_path / "out", **KEY)
    assert "about $6.08 for 100 images. Continue?" in said.err
    assert staged == (["gemini"] if stages else [])


def test_yes_answers_and_the_price_is_said(ruum: Ruum, tmp_path: Path, staged: list[str]) -> None:
    said = ruum("run", manifest(tmp_path, MANY), "--out", tmp_path / "out", "--yes", **KEY)
    assert staged == ["gemini"]
    assert "model gemini (GEMINI_API_KEY): about $6.08 for 100 images" in said.err


def test_a_few_pictures_are_said_and_not_asked_about(ruum: Ruum, tmp_path: Path, staged: list[str]) -> None:
    said = ruum("run", manifest(tmp_path, MANY[:4]), "--out", tmp_path / "out", **KEY)
    assert staged == ["gemini"]
    assert "about $0.24 for 4 images" in said.err


def test_what_is_repeated_is_not_paid_for_twice(ruum: Ruum, tmp_path: Path, staged: list[str]) -> None:
    said = ruum("run", manifest(tmp_path, MANY[:2] * 40), "--out", tmp_path / "out", **KEY)
    assert staged == ["gemini"]
    assert "about $0.12 for 2 images" in said.err


@pytest.mark.parametrize("options", [("--model", "preview"), ()])
def test_google_s_key_alone_spends_nothing(
    ruum: Ruum, tmp_path: Path, staged: list[str], options: tuple[str, ...]
) -> None:
    said = ruum("run", manifest(tmp_path, MANY), "--out", tmp_path / "out", *options, GOOGLE_API_KEY="maps")
    assert staged == ["preview"]
    assert "GOOGLE_API_KEY is set, but does not select Gemini" in said.err


def test_google_s_key_serves_where_gemini_is_asked_for(ruum: Ruum, tmp_path: Path, staged: list[str]) -> None:
    path = manifest(tmp_path, MANY)
    ruum("run", path, "--model", "gemini", "--out", tmp_path / "out", GOOGLE_API_KEY="x").refused(64, "GOOGLE_API_KEY")
    ruum("run", path, "--model", "gemini", "--out", tmp_path / "out").refused(
        64, "set GEMINI_API_KEY", "--model preview"
    )


@pytest.mark.parametrize(
    ("address", "free"),
    [(None, False), ("http://127.0.0.1:9", True), ("http://localhost:1", True), ("http://[::1]:1", True),
     ("https://generativelanguage.googleapis.com", False), ("http://10.0.0.1", False)],
)  # fmt: skip
def test_a_server_on_this_machine_costs_nothing(address: str | None, free: bool) -> None:
    assert spec_of(Settings(gemini=Gemini(base_url=address))).free is free
    assert spec_of(Settings(staging=StagingRules(model="preview"), gemini=Gemini(base_url=address))).free


def test_a_replay_beside_a_paid_run_asks_by_its_price(ruum: Ruum, tmp_path: Path) -> None:
    data = Data(tmp_path / "data")
    batch = data.batch("a", [failed()] * 10)
    run_notes.note_run(data.folder, batch, run_notes.RunNote(manifest="m", out="o", model="gemini"))
    before = data.everything()
    with at_work(data.folder):
        for command in (("replay", "--client", "acme"), ("retry-failed", batch), ("replay", "--older-than-minutes", 1)):
            ruum(*command, "--data", data.folder).refused(64, "Replay 10 images for about $0.61?", "--yes")
        assert data.everything() == before
        assert ruum("replay", "--yes", "--data", data.folder).code == 0


# --- photos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Picture.new("RGB", (80, 80)).save(tmp_path / "photos/there.jpg")
    return tmp_path


MISSING = ["photos/there.jpg", "photos/no.jpg", "photos/There.JPG", "https://example.com/a.jpg", "photos/no.jpg"]
SENTENCE = "2 of 3 photos are missing: photos/no.jpg, photos/There.JPG. photos/there.jpg exists: capitals matter."


def test_validate_and_estimate_look_for_photos(ruum: Ruum, folder: Path) -> None:
    path = manifest(folder, MISSING)
    said = ruum("validate", path)
    assert (said.code, said.err) == (3, SENTENCE + "\n")
    said = ruum("validate", path, "--json")
    assert (said.code, json.loads(said.out)["missingPhotos"]) == (3, ["photos/no.jpg", "photos/There.JPG"])
    assert SENTENCE in ruum("estimate", path).err
    good = manifest(folder, ["photos/there.jpg"])
    assert (ruum("validate", good).code, ruum("validate", good).err) == (0, "")


def test_validate_finds_missing_photos_beside_other_problems(ruum: Ruum, folder: Path) -> None:
    """Else who corrects the rooms learns only then of the photos."""
    path = folder / "b.csv"
    path.write_text(
        "clientName,url,roomType,designStyle\nacme,photos/there.jpg,bedroom,modern\nacme,photos/no.jpg,bedroom,modern\n"
        "acme,photos/gone.jpg,livng,modern\nacme,../x.jpg,bedroom,modern\n"
    )
    for command in ("validate", "estimate"):
        said = ruum(command, path)
        assert said.code == 2
        assert said.err.splitlines()[-1] == "2 of 3 photos are missing: photos/no.jpg, photos/gone.jpg."
        assert "rejected, 2 problems" in said.err
    assert json.loads(ruum("validate", path, "--json").out)["missingPhotos"] == ["photos/no.jpg", "photos/gone.jpg"]
    path.write_text("clientName,url,roomType,designStyle\nacme,photos/there.jpg,livng,modern\n")
    said = ruum("validate", path, "--json")
    assert " missing:" not in said.err
    assert json.loads(said.out)["missingPhotos"] == []


def test_a_run_names_them_before_it_stages(
    ruum: Ruum, folder: Path, staged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manifest(folder, MISSING)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    said = ruum("run", path, "--out", folder / "out", "--model", "preview")
    assert SENTENCE in said.err
    assert "Stage the other 2 images?" in said.err
    assert (said.code, staged) == (64, [])
    monkeypatch.undo()


def test_a_run_without_a_terminal_goes_on(ruum: Ruum, folder: Path, staged: list[str]) -> None:
    said = ruum("run", manifest(folder, MISSING), "--out", folder / "out", "--model", "preview")
    assert SENTENCE in said.err
    assert staged == ["preview"]


def test_a_folder_of_photos_that_is_none_is_refused(ruum: Ruum, folder: Path) -> None:
    for command in ("validate", "estimate", "run"):
        ruum(command, manifest(folder, ["photos/there.jpg"]), "--photos", folder / "fotos").refused(
            64, "--photos", "fotos"
        )


# --- submit


class Stack:
    """A target as submit meets it, in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.embedded = wiring.embedded(SystemClock())
        self.target = target.Target(self.embedded.backend, SystemClock(), Settings(), "the stack")
        outer = self

        def with_target(work: Any, *args: object, **options: object) -> None:
            import typer

            raise typer.Exit(asyncio.run(work(outer.target)))

        monkeypatch.setattr(submit, "with_target", with_target)

    def uploaded(self) -> list[str]:
        async def body() -> list[str]:
            return [stored.name async for stored in self.embedded.objects.list("intake", "")]

        return asyncio.run(body())


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Stack:
    return Stack(monkeypatch)


def test_submit_names_missing_photos_and_uploads_nothing(ruum: Ruum, folder: Path, stack: Stack) -> None:
    said = ruum("submit", manifest(folder, MISSING))
    assert said.code == 64
    assert SENTENCE in said.err
    assert "--yes" in said.err
    assert stack.uploaded() == []
    assert ruum("submit", manifest(folder, MISSING), "--yes").code == 0
    assert sorted(name.rpartition("/")[2] for name in stack.uploaded()) == ["b.json", "there.jpg"]


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("gs://intake/manifests/acme/8b54/photos/1.jpg", True),
        ("gs://intake/manifests/globex/8b54/photos/1.jpg", False),
        ("gs://results/results/acme/1.jpg", False),
        ("https://example.com/1.jpg", True),
        ("/etc/passwd.jpg", False),
        ("file:///etc/passwd.jpg", False),
    ],
)
def test_submit_checks_by_the_target_s_own_rules(ruum: Ruum, folder: Path, stack: Stack, url: str, taken: bool) -> None:
    """The product's own failed.csv names objects of its client in the intake bucket."""
    path = folder / "failed.csv"
    path.write_text(f"clientName,url,roomType,designStyle\nacme,{url},bedroom,modern\n")
    said = ruum("submit", path)
    assert (said.code == 0) is taken, said
    if not taken:
        assert said.code == 2
        assert stack.uploaded() == []


def test_the_same_batch_again_is_said(ruum: Ruum, folder: Path, stack: Stack) -> None:
    path = manifest(folder, ["photos/there.jpg"])
    ruum("submit", path)
    name = remote.manifest_name

    async def ingest() -> None:
        rooms = wiring.rooms(
            stack.embedded.backend, SystemClock(), Settings(), wiring.google_rules(Settings()), folder_is_client=True
        )
        (manifest_object,) = [each for each in await _names(stack) if each.endswith("b.json")]
        await rooms.ingest.handle("intake", manifest_object)

    asyncio.run(ingest())
    said = ruum("submit", path)
    assert "acme.b1 was already submitted: processing. To follow it: ruum-batch watch acme.b1" in said.out
    assert name is not None


async def _names(stack: Stack) -> list[str]:
    return [stored.name async for stored in stack.embedded.objects.list("intake", "")]


def test_what_run_takes_validate_takes_too(ruum: Ruum, folder: Path, staged: list[str]) -> None:
    """A round's failed.csv names photos by their whole address; it lies in another folder."""
    ruum("run", manifest(folder, ["photos/there.jpg"]), "--out", folder / "out", "--model", "preview")
    report = folder / "out/results/acme/b1/round-1/failed.csv"
    report.parent.mkdir(parents=True, exist_ok=True)
    address = (folder / "photos/there.jpg").as_uri()
    report.write_text(f"clientName,url,roomType,designStyle\nacme,{address},bedroom,modern\n")
    assert ruum("validate", report).code == 0
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "failed.csv").write_text(report.read_text())
    said = ruum("validate", elsewhere / "failed.csv")
    assert said.code == 2
    assert "--photos FOLDER" in said.err


ROOT = Path(__file__).parents[2]
RETRY = "batchId,index,clientName,url,roomType,designStyle\nb1,0,acme,{},bedroom,modern\n"


@pytest.mark.parametrize(
    ("url", "code"),
    [("photos/there.jpg", 0), ("photos/nowhere.jpg", 3), (f"photos/{'x' * 300}.jpg", 3)],
    ids=["there", "nowhere", "too long"],
)
def test_a_path_corrected_in_failed_csv_is_meant_as_in_the_manifest(
    ruum: Ruum, folder: Path, tmp_path_factory: pytest.TempPathFactory, url: str, code: int
) -> None:
    """The file is in a folder of reports: a path that began there was never found."""
    shutil.copy(ROOT / "samples/photos/bedroom-01.jpg", folder / "photos/there.jpg")  # a room, or it is rejected
    assert ruum("run", manifest(folder, ["photos/gone.jpg"]), "--out", folder / "out", "--model", "preview").code == 3
    failed = folder / "out/results/acme/b1/round-1/failed.csv"
    assert ",photos/gone.jpg," in failed.read_text("utf-8-sig"), "the path as the manifest had it"
    failed.write_text(RETRY.format(url))
    assert ruum("validate", failed).code == code
    said = ruum("run", failed, "--out", folder / "out", "--model", "preview")
    assert said.code == code
    assert ("source_not_found" in said.out) is (code == 3)
    elsewhere = tmp_path_factory.mktemp("fetched")  # as from a project: its photos are not of this machine
    (elsewhere / "failed.csv").write_text(RETRY.format(url))
    assert ruum("validate", elsewhere / "failed.csv").code == 0
    again = folder / "out/results/acme/b1/round-2/failed.csv"  # and once more: the manifest is still the batch's own
    again.write_text(RETRY.format("photos/there.jpg"))
    assert ruum("validate", again).code == 0
    note = run_notes.run_note(folder / "out/.ruum", "acme.b1")
    assert note is not None
    assert (Path(note.manifest).name, note.retry) == ("b.json", str(failed))


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_interrupted_retry_goes_on_with_its_own_file(folder: Path, interrupted: bool) -> None:
    batch = builders.a_batch(
        id="acme.b1", client_name="acme", created_at=1.0, state=BatchState.REOPENING,
        replay=ReplayPlan(number=1, codes=(), lease=Lease(holder="h", until=2.0), failed_before=1.0,
                          drop="d" if interrupted else ""),
    )  # fmt: skip
    note = run_notes.RunNote(
        manifest="/m/b.json", out=str(folder / "out"), model="preview", photos=("/p",), retry="/m/failed.csv"
    )
    run_notes.note_run(folder / "data", batch.id, note)
    name = "failed.csv" if interrupted else "b.json"
    more = f"--out {folder}/out --data {folder}/data --photos /p --model preview"
    assert run_notes.run_command(folder / "data", batch) == f"ruum-batch run /m/{name} {more}"
    other = run_notes.run_command(folder / "data", batch, Path("/r/failed.csv"))
    assert other == f"ruum-batch run /r/failed.csv {more}", (
        "without the model it would choose Gemini where a key is set"
    )


@pytest.mark.parametrize("there", [True, False])
def test_submit_knows_photos_beside_the_batch_s_own_manifest(
    ruum: Ruum, folder: Path, stack: Stack, there: bool
) -> None:
    async def known() -> None:
        ref = builders.a_manifest_ref(uri="gs://intake/manifests/acme/m/m.json", base="gs://intake/manifests/acme/m/")
        batch = builders.a_batch(
            id="acme.b1", client_name="acme", manifest=ref, created_at=1.0, state=BatchState.CLOSED
        )
        await stack.embedded.store.create_batch(batch)
        if there:
            name = "manifests/acme/m/photos/new.jpg"
            await stack.embedded.objects.put("intake", name, b"x", content_type="image/jpeg")

    asyncio.run(known())
    (folder / "failed.csv").write_text(RETRY.format("photos/new.jpg"))
    said = ruum("submit", folder / "failed.csv")
    assert said.code == (0 if there else 64)
    assert ("1 of 1 photo is missing" in said.err) is not there
