"""`ruum-batch erase`, whole clients at once, and every command that changes something speaks JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ops import erasing, local, spending
from ops.target import Target
from shared.adapters.system_clock import SystemClock
from shared.assembly import wiring
from shared.model import BatchState, Control
from shared.settings import Buckets, Settings
from shared.worker.cache import CacheEntry
from tests.ops.commands import Ruum
from tests.ops.operators.data import PICTURE, Data, at_work, failed, ok, queued

# --- erase


def test_a_client_is_erased_and_no_other(ruum: Ruum, data: Data) -> None:
    mine, other = data.batch("a", [ok(), failed()]), data.batch("b", [ok()], client="globex")
    data.record(CacheEntry(key="k1", client="acme", picture="cache/k1/k1", expires_at=9e9), "k1")
    data.record(CacheEntry(key="k2", client="globex", picture="cache/k2/k2", expires_at=9e9), "k2")

    async def objects(embedded: Any) -> None:
        for bucket, name in (("results", "results/acme/a/images/0.jpg"), ("results", "results/globex/b/images/0.jpg"),
                             ("work", "cache/k1/k1"), ("work", "cache/k2/k2"), ("work", f"work/{mine}/0/1-1"),
                             ("results", "results/acme/a/originals/0.jpg"), ("results", f"closing/{mine}/1-9/00005000"),
                             ("results", f"closing/{mine}b/1-9/00005000".replace("acme", "globex")),
                             ("intake", "manifests/acme/x.json"), ("results", "manifests/acme/x.json.errors.json")):  # fmt: skip
            await embedded.objects.put(bucket, name, b"x", content_type="a/b")

    data.run(objects)
    (data.folder / "events.jsonl").write_text('{"id":"1","client":"acme"}\n{"id":"2","client":"globex"}\n')
    before = data.everything()
    dry = ruum("erase", "--client", "acme", "--dry-run", "--data", data.folder)
    dry.done()
    assert "1 batch with 2 images, 7 files, 1 cache entry would be erased" in dry.out
    ruum("erase", "--client", "acme", "--data", data.folder).refused(64, "Erase 1 batch", "--yes")
    assert data.everything() == before

    ruum("erase", "--client", "acme", "--yes", "--data", data.folder).done()
    left = data.everything() + (data.folder / "events.jsonl").read_text()
    left += " ".join(str(path) for path in data.folder.rglob("*"))
    assert "acme" not in left
    assert data.found(other).state is BatchState.CLOSED
    assert "cache/k2/k2" in left
    ruum("erase", "--client", "acme", "--yes", "--data", data.folder).refused(64, "no client acme")


OPEN = (BatchState.INGESTING, BatchState.PROCESSING, BatchState.REOPENING, BatchState.CLOSING, BatchState.CLOSED)


@pytest.mark.parametrize("control", Control)
@pytest.mark.parametrize("state", OPEN)
def test_what_is_not_finished_is_not_erased(ruum: Ruum, data: Data, state: BatchState, control: Control) -> None:
    """Beside a run, a cancel, a replay or a closing something is still written; an unannounced end is none."""
    batch = data.batch("a", [queued()], closed=False, state=state, control=control)
    data.batch("b", [ok()])
    before = data.everything()
    finishes = control is Control.CANCELLING or state in (BatchState.CLOSING, BatchState.CLOSED)
    said = ruum("erase", "--client", "acme", "--yes", "--data", data.folder)
    said.refused(4, f"{batch} is {'about to finish: try again' if finishes else 'not finished: cancel it first'}")
    assert data.everything() == before


@pytest.mark.parametrize("meanwhile", ["replayed", "another", "a run"])
def test_a_question_that_waited_long_erases_nothing_that_has_changed(
    ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    batch = data.batch("a", [failed()])
    beside = contextlib.ExitStack()

    def sure(question: str, *, yes: bool) -> None:
        with ThreadPoolExecutor(1) as other:
            if meanwhile == "replayed":
                other.submit(data.change, batch, state=BatchState.PROCESSING, round=2).result()
            elif meanwhile == "another":
                other.submit(data.batch, "b", [ok()]).result()
            else:
                beside.enter_context(at_work(data.folder))

    monkeypatch.setattr(spending, "sure", sure)
    with beside:
        said = ruum("erase", "--client", "acme", "--data", data.folder)
    said.refused(
        4, {"replayed": "cancel it first", "another": "acme's data has changed", "a run": "a run is using"}[meanwhile]
    )
    assert data.standing(batch) == [("failed", 1)]


def test_no_replay_opens_a_batch_that_is_being_erased(ruum: Ruum, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = data.batch("a", [failed()])

    async def killed(target: Any, known: Any, plan: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "erase", killed)
        assert ruum("erase", "--client", "acme", "--yes", "--data", data.folder).code == 130
    said = ruum("retry-failed", batch, "--data", data.folder)
    assert (said.code, data.standing(batch)) == (0, [("failed", 1)])
    assert "left alone" in said.err
    assert data.tasks() == []
    ruum("erase", "--client", "acme", "--yes", "--data", data.folder).done()


def test_a_batch_that_opens_after_the_last_look_is_not_erased(data: Data) -> None:
    batch = data.batch("a", [failed()])
    seen = data.found(batch)
    data.change(batch, state=BatchState.REOPENING, round=2)

    async def shut(embedded: Any) -> None:
        where = Target(embedded.backend, SystemClock(), Settings(), "here", data=data.folder, embedded=embedded)
        with pytest.raises(erasing.NotFinished, match="cancel it first"):
            await erasing.shut(where, [seen])

    data.run(shut)
    assert data.found(batch).control is Control.RUN


def test_photos_of_the_photo_bucket_are_erased_also_of_a_client_without_batches() -> None:
    """The bucket `source` holds the client's folder itself: <client>/…, and nobody else's that begins alike."""
    settings = Settings(buckets=Buckets(source="photos"))

    async def body() -> list[str]:
        embedded = wiring.embedded(SystemClock())
        try:
            for name in ("acme/1.jpg", "acme/new/2.jpg", "acme2/1.jpg", "globex/acme/1.jpg"):
                await embedded.objects.put("photos", name, b"x", content_type="image/jpeg")
            where = Target(embedded.backend, SystemClock(), settings, "here", embedded=embedded)
            known = await erasing.batches_of(where, "acme")
            plan = await erasing.plan(where, "acme", known)
            assert (plan.batches, plan.is_empty, len(plan.objects)) == (0, False, 2)
            await erasing.erase(where, known, plan)
            assert (await erasing.plan(where, "acme", known)).is_empty
            return [stored.name async for stored in embedded.objects.list("photos", "")]
        finally:
            embedded.database.close()

    assert asyncio.run(body()) == ["acme2/1.jpg", "globex/acme/1.jpg"]


def test_nothing_is_erased_beside_a_run(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    before = data.everything()
    with at_work(data.folder):
        ruum("erase", "--client", "acme", "--yes", "--data", data.folder).refused(4, "a run is using")
    assert data.everything() == before


# --- every command that changes something speaks JSON


def test_json_of_what_changes_something(ruum: Ruum, data: Data) -> None:
    batch = data.batch("a", [queued()], closed=False)
    assert ruum("pause", batch, "--json", "--data", data.folder).json["control"] == "paused"
    assert ruum("resume", batch, "--json", "--data", data.folder).json["control"] == "run"
    assert ruum("cancel", batch, "--yes", "--json", "--data", data.folder).json["state"] == "cancelled"
    found = ruum("set-quota", PICTURE, "--per-minute", 9, "--json", "--data", data.folder).json
    assert (found["before"]["perMinute"], found["after"]["perMinute"]) == (60, 9)
    other = data.batch("b", [failed()])
    found = ruum("retry-failed", other, "--json", "--data", data.folder).json
    assert found["batches"][0]["queuedAgain"] == 1
    said = ruum("pause", "nope", "--json", "--data", data.folder)
    assert json.loads(said.out)["error"]["exitCode"] == 64


def test_batches_by_client_and_state(ruum: Ruum, data: Data) -> None:
    data.batch("a", [ok()])
    data.batch("b", [queued()], closed=False, control=Control.CANCELLING, client="globex")
    rows = ruum("batches", "--state", "cancelling", "--data", data.folder, "--json").json["batches"]
    assert [row["batchId"] for row in rows] == ["globex.b"]
    assert "cancelling" in ruum("batches", "--data", data.folder).out
    assert len(ruum("batches", "--client", "acme", "--limit", 1, "--data", data.folder, "--json").json["batches"]) == 1
    ruum("batches", "--state", "odd", "--data", data.folder).refused(64, "odd", "paused")


def test_two_places_are_one_too_many(ruum: Ruum, data: Data) -> None:
    ruum("batches", "--data", data.folder, "--project", "p").refused(64, "--data and --project")


def test_a_look_at_the_lock_keeps_no_run_from_starting(data: Data) -> None:
    """Commands look whether somebody works: for an instant that holds the lock."""

    async def body() -> None:
        async with local.locked(data.folder):
            assert local.is_locked(data.folder)
        assert not local.is_locked(data.folder)
        assert not local.is_locked(data.folder / "none")

    asyncio.run(body())
    assert SystemClock().now() > 0


def test_commands_that_open_and_close_a_data_folder_do_not_shut_one_another_out(data: Data) -> None:
    """The last to close the database keeps everybody out for a moment."""
    data.batch("a", [ok()])
    script = (
        "import sys, pathlib; from ops import local; from shared.adapters.system_clock import SystemClock\n"
        "for _ in range(150): local.open_backend(SystemClock(), *map(pathlib.Path, sys.argv[1:])).database.close()"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, data.folder, data.folder], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [each.communicate(timeout=120)[1] for each in started] == ["", "", ""]
