"""`ruum-batch estimate` and `ruum-batch costs`: what they tell of data folders made here, image by image."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops import local, run_notes
from shared import decisions
from shared.adapters.system_clock import SystemClock
from shared.decisions.quota import Circuit, Ledger
from shared.model import (
    Batch,
    BatchState,
    Call,
    Completion,
    Control,
    Counts,
    Image,
    ImageState,
    ManifestRef,
    Tier,
    shards_for,
)
from shared.results import names
from shared.settings import Limit, Settings
from shared.staging.prompts import VERSION
from shared.vendors import PREVIEW_PROMPTS as PROMPTS
from tests.ops.commands import Ruum

EXPRESS, NORMAL, ECONOMY = Tier
TEXT, PICTURE = "gemini-3.5-flash-lite", "gemini-nano-banana-2.1"  # the settings' own
SLOTS = "50 images in flight"  # of one worker: at 50 s an image no fewer than the quotas allow
TYPICAL_USD = 0.060785  # 4,000 and 800 tokens at $0.30 and $2.50; 1.1 times 1,500 and 1,670 at $1.50 and $30, a million
DAY = 86_400.0
BOUGHT = (Call(step="generate", model=PICTURE, cost_micro_usd=60_000),)


def address(name: object) -> str:
    return f"https://example.com/{name}.jpg"


def manifest(folder: Path, photos: Sequence[object], **header: Any) -> Path:
    """A manifest of these photos; one that is a dict is an image as it stands."""
    images = [photo if isinstance(photo, dict) else {"url": address(photo)} for photo in photos]
    fields = {"clientName": "acme", "designStyle": "modern", "roomType": "living_room", **header}
    path = folder / "batch.json"
    path.write_text(json.dumps({**fields, "images": images}))
    return path


def wish(
    photo: object, state: ImageState = ImageState.COMPLETED, calls: tuple[Call, ...] = BOUGHT, **changes: Any
) -> dict[str, Any]:
    """An image of a batch that is there already."""
    return {"source": address(photo), "state": state, "calls": calls, **changes}


class Data:
    """A data folder in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = time.time()

    def _run(self, work: Callable[[Any], Any]) -> None:
        async def body() -> None:
            embedded = local.open_backend(SystemClock(), self.folder, self.folder)
            try:
                await work(embedded.store)
            finally:
                embedded.database.close()

        asyncio.run(body())

    def batch(
        self, name: str, images: Sequence[dict[str, Any]], *, days_ago: float = 1.0, client: str = "acme",
        closed: bool = True, price_usd: float | None = None, **changes: Any,
    ) -> None:  # fmt: skip
        """A batch with these images, as its rooms would have left it."""
        at = self.now - days_ago * DAY
        counts = Counts()
        for image in images:
            counts += Counts(**{image["state"].value: 1})
        calls = [call for image in images for call in image["calls"]]
        cost = sum(call.cost_micro_usd for call in calls) / 1_000_000
        estimated = sum(call.cost_micro_usd for call in calls if call.estimated) / 1_000_000
        batch = Batch(
            id=f"{client}.{name}", client=client, client_name=client, tier=changes.pop("tier", NORMAL),
            manifest=ManifestRef(uri="memory://m", generation=1, sha256="0", base="file:///nowhere/"),
            total=len(images), shards=shards_for(len(images)), created_at=at,
            state=BatchState.CLOSED if closed else BatchState.PROCESSING,
        )  # fmt: skip
        if closed:
            factor = {EXPRESS: 1.5, NORMAL: 1.0, ECONOMY: 0.7}[batch.tier]
            completion = Completion(
                outcome="completed", counts=counts, success_rate=1.0, cost_usd=cost, duration_seconds=60.0, reports={},
                cached=sum(image.get("cached", False) for image in images),
                price_usd=round(cost * factor, 6) if price_usd is None else price_usd, estimated_usd=estimated,
            )  # fmt: skip
            batch = msgspec.structs.replace(
                batch, closed_at=at, completion=completion, announced_round=1, tasks_published=len(images)
            )
        batch = msgspec.structs.replace(batch, **changes)
        documents = [
            Image(
                batch=batch.id, index=index, room_type=image.get("room_type", "living_room"),
                design_style=image.get("design_style", "modern"), tier=batch.tier, shard=index % batch.shards,
                source=image["source"], state=image["state"], calls=image["calls"], created_at=at,
                cached=image.get("cached", False), prompts=image.get("prompts", VERSION),
                model=image.get("model", Settings().gemini.image_model), settled_at=image.get("settled_at", at) if image["state"] in ("completed", "failed") else None,
            )
            for index, image in enumerate(images)
        ]  # fmt: skip

        async def work(store: Any) -> None:
            await store.create_batch(batch)
            tallies = decisions.batch.empty_tallies(batch)
            for document in documents:
                folded = decisions.batch.fold(
                    tallies[document.shard], index=document.index, revision=2, state=document.state
                )
                tallies[document.shard] = folded  # type: ignore[call-overload]
            await store.create_tallies(tallies)
            await store.create_images(documents)

        self._run(work)

    def ledger(self, model: str, **changes: Any) -> None:
        """The ledger of a model as it stands."""
        self._run(
            lambda store: store.change_record(
                Ledger, model, lambda known, _: msgspec.structs.replace(known or Ledger(id=model), **changes), "t"
            )
        )

    def status(self, batch_id: str, speed: float, seconds_ago: float) -> None:
        """The batch's status.json, as AGGREGATE refreshed it a while ago."""

        class Then(SystemClock):
            def now(self) -> float:
                return super().now() - seconds_ago

        async def body() -> None:
            embedded = local.open_backend(Then(), self.folder, run_notes.results_of(self.folder))
            try:
                batch = await embedded.store.batch(batch_id)
                assert batch is not None
                await embedded.objects.put(
                    Settings().buckets.results, names.status_name(batch), b"{}",
                    content_type="application/json", metadata={"pace": json.dumps({"images": speed * 100, "seconds": 100})},
                )  # fmt: skip
            finally:
                embedded.database.close()

        asyncio.run(body())

    def empty(self) -> Data:
        async def work(store: Any) -> None:
            assert await store.batches() == []

        self._run(work)
        return self


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "data")


def open_images(count: int, prefix: str = "open") -> list[dict[str, Any]]:
    return [wish(f"{prefix}-{index}", ImageState.QUEUED, ()) for index in range(count)]


# --- estimate on an idle system


def test_on_an_idle_system(ruum: Ruum, tmp_path: Path) -> None:
    found = ruum("estimate", manifest(tmp_path, range(100)), "--json").json
    assert found == {
        "images": 100, "repeated": 0, "alreadyStaged": 0, "toBuy": 100, "cachedShare": 0.0,
        "costPerImageUsd": TYPICAL_USD, "costMeasured": False, "costUsd": 6.0785, "imagesPerMinute": 60.0,
        "limitedBy": SLOTS, "blockedSeconds": 0.0, "outage": False, "backlog": {"express": 0, "normal": 0, "economy": 0},
        "tier": "normal", "missingPhotos": [],
        "tiers": {
            "express": {"priceUsd": 9.11775, "seconds": 150.0},
            "normal": {"priceUsd": 6.0785, "seconds": 150.0},
            "economy": {"priceUsd": 4.25495, "seconds": 150.0},
        },
    }  # fmt: skip


def test_for_people(ruum: Ruum, tmp_path: Path) -> None:
    said = ruum("estimate", manifest(tmp_path, [*range(100), 0], priority="economy"))
    assert (said.code, said.err) == (0, "")
    assert "101 images, 1 repeated and 0 already staged: 100 to buy, $6.08 (typical)" in said.out
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert " $9.12 " in lines["express"]
    assert " $4.25 " in lines["economy"]
    assert "2 min 30 s" in lines["economy"]
    assert [name for name, line in lines.items() if "manifest" in line] == ["economy"]


def test_as_a_user_runs_it(tmp_path: Path) -> None:
    """In a process of its own: stdout is one JSON object and nothing else."""
    ruum_batch = str(Path(sys.executable).with_name("ruum-batch"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RUUM_", "GEMINI_"))}
    path = manifest(tmp_path, range(3), priority="high")
    done = subprocess.run(
        [ruum_batch, "estimate", str(path), "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["tier"] == "express"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["batch.json"]


def test_settings_reach_it(ruum: Ruum, tmp_path: Path) -> None:
    found = ruum(
        "estimate", manifest(tmp_path, range(10)), "--json",
        RUUM_TIERS_EXPRESS_FACTOR="2.0",
        RUUM_PRICES=json.dumps({PICTURE: {"input_usd": 0, "output_usd": 10}, TEXT: {"input_usd": 0, "output_usd": 0}}),
        RUUM_LIMITS=json.dumps({PICTURE: {"per_minute": 6}}),
        RUUM_TYPICAL_GENERATIONS="1.0", RUUM_TYPICAL_IMAGE_OUTPUT_TOKENS="1000",
    ).json  # fmt: skip
    assert (found["costPerImageUsd"], found["costUsd"]) == (0.01, 0.1)
    assert found["tiers"]["express"] == {"priceUsd": 0.2, "seconds": 150.0}
    assert (found["imagesPerMinute"], found["limitedBy"]) == (6.0, PICTURE)


def test_the_preview_is_free(ruum: Ruum, tmp_path: Path) -> None:
    path = manifest(tmp_path, range(10))
    found = ruum("estimate", path, "--json", RUUM_STAGING_MODEL="preview").json
    assert (found["costUsd"], found["imagesPerMinute"], found["limitedBy"]) == (0.0, 60.0, SLOTS)
    assert ruum("estimate", path, RUUM_STAGING_MODEL="preview").code == 0


# --- repeated photos


def test_a_repeated_photo_is_bought_once(ruum: Ruum, tmp_path: Path) -> None:
    found = ruum("estimate", manifest(tmp_path, [1, 2, 1, 3, 1, 2]), "--json").json
    assert (found["images"], found["repeated"], found["toBuy"], found["cachedShare"]) == (6, 3, 3, 0.5)
    assert found["costUsd"] == pytest.approx(3 * TYPICAL_USD)


def test_the_same_photo_with_another_wish_is_no_repeat(ruum: Ruum, tmp_path: Path) -> None:
    photo = {"url": address(1)}
    path = manifest(
        tmp_path,
        [photo, {**photo, "roomType": "bedroom"}, {**photo, "designStyle": "rustic"},
         {**photo, "propertyCode": "APT-2"}, {**photo, "roomType": "Living Room"}],
    )  # fmt: skip
    found = ruum("estimate", path, "--json").json
    assert (found["repeated"], found["toBuy"]) == (2, 3)  # the code and the spelling change no picture


def test_without_the_cache_each_is_bought(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1)])
    found = ruum("estimate", manifest(tmp_path, [1, 1, 2], cache=False), "--data", data.folder, "--json").json
    assert (found["repeated"], found["alreadyStaged"], found["toBuy"], found["cachedShare"]) == (0, 0, 3, 0.0)


# --- already staged


def staged(ruum: Ruum, tmp_path: Path, data: Data, photos: Sequence[object] = (1, 2), **header: Any) -> int:
    found = ruum("estimate", manifest(tmp_path, photos, **header), "--data", data.folder, "--json").json
    assert found["images"] == found["repeated"] + found["alreadyStaged"] + found["toBuy"]
    already: int = found["alreadyStaged"]
    return already


def test_what_is_in_the_cache_is_not_bought(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1), wish(2, design_style="rustic"), wish(3), wish(4, ImageState.FAILED)])
    path = manifest(tmp_path, [1, 1, 2, 3, 4, 5, 5])
    found = ruum("estimate", path, "--data", data.folder, "--json").json
    assert (found["alreadyStaged"], found["repeated"], found["toBuy"]) == (3, 1, 3)
    assert found["cachedShare"] == round(4 / 7, 4)


def test_others_pictures_are_not_ours(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1), wish(2)], client="globex")
    assert staged(ruum, tmp_path, data) == 0
    assert staged(ruum, tmp_path, data, clientName="Globex") == 2


def test_a_batch_without_cache_gave_nothing_to_it(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1), wish(2)], cache=False)
    assert staged(ruum, tmp_path, data) == 0


def test_the_cache_forgets_after_a_month(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1)], days_ago=31)
    data.batch("new", [wish(2)], days_ago=29)
    assert staged(ruum, tmp_path, data) == 1


def test_pictures_of_another_model_are_bought_again(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    made = {"model": "preview", "prompts": PROMPTS}
    data.batch("old", [wish(1, **made), wish(2)])
    data.batch("older", [wish(3, calls=(), cached=True, **made)], days_ago=2)
    assert staged(ruum, tmp_path, data) == 1
    path = manifest(tmp_path, [1, 2, 3])
    found = ruum("estimate", path, "--data", data.folder, "--json", RUUM_STAGING_MODEL="preview").json
    assert found["alreadyStaged"] == 2


def test_pictures_of_other_prompts_are_bought_again(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1, prompts="v0"), wish(2)])
    assert staged(ruum, tmp_path, data) == 1


def test_a_replay_does_not_renew_an_old_picture(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    """Closed anew yesterday, but the picture was bought, and kept, 40 days ago."""
    data.batch("old", [wish(1, settled_at=data.now - 40 * DAY), wish(2)], round=2)
    assert staged(ruum, tmp_path, data) == 1


def test_pictures_of_a_batch_under_way_are_in_the_cache_too(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("running", [wish(1), wish(2), *open_images(5)], closed=False)
    assert staged(ruum, tmp_path, data) == 2


def test_a_picture_that_came_from_the_cache_is_in_it(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    """The same photos listed week after week: bought once, the newer batches took them without a call."""
    data.batch("week-0", [wish(1), wish(2)], days_ago=8)
    for week in range(1, 7):
        data.batch(f"week-{week}", [wish(1, calls=(), cached=True), wish(2, calls=(), cached=True)], days_ago=8 - week)
    assert staged(ruum, tmp_path, data) == 2


# --- measured cost


def test_the_cost_is_measured_where_it_can_be(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("paid", [wish(f"p{index}", calls=(msgspec.structs.replace(BOUGHT[0], cost_micro_usd=80_000),))
                        for index in range(4)])  # fmt: skip
    data.batch("free", [wish(f"f{index}", calls=()) for index in range(9)], days_ago=0.5)
    found = ruum("estimate", manifest(tmp_path, range(10)), "--data", data.folder, "--json").json
    assert (found["costMeasured"], found["costPerImageUsd"], found["costUsd"]) == (True, 0.08, 0.8)


def test_cached_pictures_do_not_make_bought_ones_cheaper(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    """One picture bought at $0.06 and nine from the cache: ten new photos cost ten times $0.06, not $0.06."""
    data.batch("half", [wish(0), *(wish(f"c{index}", calls=(), cached=True) for index in range(9))])
    found = ruum("estimate", manifest(tmp_path, range(10, 20)), "--data", data.folder, "--json").json
    assert found["toBuy"] == 10
    assert found["costUsd"] == pytest.approx(0.6, rel=0.2)


# --- time


def test_the_backlog_shares_by_weight(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("e", open_images(60), closed=False, tier=EXPRESS)
    data.batch("n", [*open_images(60), wish("done")], closed=False, tier=NORMAL)
    data.batch("x", open_images(60), closed=False, tier=ECONOMY, state=BatchState.REJECTED)
    found = ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder, "--json").json
    assert found["backlog"] == {"express": 60, "normal": 60, "economy": 0}
    # 180 images at one a second, and 50 s for the last. 120 express take what 60 normal leave: 6 to 3.
    assert {name: tier["seconds"] for name, tier in found["tiers"].items()} == {
        "express": 230.0, "normal": 230.0, "economy": 230.0,
    }  # fmt: skip
    small = ruum("estimate", manifest(tmp_path, range(6)), "--data", data.folder, "--json").json["tiers"]
    assert small["express"]["seconds"] == pytest.approx(66 + 33 + 50, abs=0.2)
    assert small["normal"]["seconds"] == pytest.approx(126 + 50, abs=0.2)
    assert small["economy"]["seconds"] == pytest.approx(6 + 36 + 18 + 50, abs=0.2)


def test_a_paused_batch_is_in_nobodys_way(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("paused", open_images(600), closed=False, control=Control.PAUSED, paused_reason="by hand")
    found = ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder, "--json").json
    assert found["tiers"]["normal"]["seconds"] == 110.0


@pytest.mark.parametrize(
    ("changes", "per_minute", "blocked"),
    [
        ({"limit": Limit(per_minute=30)}, 30.0, 0.0),
        ({"rate": 0.5, "rate_changed_at": 4e9}, 30.0, 0.0),
        ({"circuit": Circuit.OPEN, "open_until": 300.0}, 60.0, 300.0),
        ({"day_spent_until": 3600.0}, 60.0, 3600.0),
    ],
)
def test_the_ledger_is_asked(
    ruum: Ruum, tmp_path: Path, data: Data, changes: dict[str, Any], per_minute: float, blocked: float
) -> None:
    later = {name: data.now + value for name, value in changes.items() if name.endswith("_until")}
    data.ledger(PICTURE, **{**changes, **later})
    found = ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder, "--json").json
    assert found["imagesPerMinute"] == per_minute
    assert found["blockedSeconds"] == pytest.approx(blocked, abs=15)
    expected = blocked + 60 / per_minute * 60 + 50
    assert found["tiers"]["normal"]["seconds"] == pytest.approx(expected, abs=15)
    assert found["outage"] is ("circuit" in changes)


@pytest.mark.parametrize("circuit", Circuit)
def test_nobody_knows_when_an_outage_ends(ruum: Ruum, tmp_path: Path, data: Data, circuit: Circuit) -> None:
    data.ledger(PICTURE, circuit=circuit, open_until=data.now + 300, probe_until=data.now + 300)
    said = ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder).out
    assert ("done in at least" in said) is (circuit is not Circuit.CLOSED)
    assert ("The vendor does not answer now" in said) is (circuit is not Circuit.CLOSED)


def test_a_slow_trickle_is_no_slow_fleet(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    """Of a batch of five, one is done a minute ago: what is measured is the lack of work."""
    data.batch("few", open_images(4), closed=False)
    data.status("acme.few", 0.02, 0.0)
    assert (
        ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder, "--json").json["imagesPerMinute"] == 60
    )


@pytest.mark.parametrize(
    ("speeds", "fresh", "per_minute"),
    [
        ((0.25,), True, 15.0),
        ((0.25, 0.5), True, 45.0),  # they share the quota: what both do is what there is
        ((7.0,), True, 60.0),  # what was measured while the quota was larger buys nothing now
        ((0.25,), False, 60.0),
        ((0.0,), True, 60.0),  # a batch that has only just begun tells nothing
    ],
)
def test_an_estimate_holds_to_the_speed_that_is_measured_now(
    ruum: Ruum, tmp_path: Path, data: Data, speeds: tuple[float, ...], fresh: bool, per_minute: float
) -> None:
    for number, speed in enumerate(speeds):
        data.batch(f"open{number}", open_images(60, str(number)), closed=False)
        data.status(f"acme.open{number}", speed, 0.0 if fresh else DAY)
    found = ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder, "--json").json
    assert found["imagesPerMinute"] == per_minute
    assert found["tiers"]["normal"]["seconds"] == pytest.approx((60 + 60 * len(speeds)) / per_minute * 60 + 50, rel=0.2)


def test_an_idle_night_ends_slow_mode(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    """Nobody asked the ledger since; the batch would start at the full rate."""
    data.ledger(PICTURE, rate=decisions.quota.SLOWEST, rate_changed_at=data.now - DAY)
    found = ruum("estimate", manifest(tmp_path, range(60)), "--data", data.folder, "--json").json
    assert found["imagesPerMinute"] == 60.0


def test_an_estimate_changes_nothing(ruum: Ruum, tmp_path: Path, data: Data) -> None:
    data.batch("old", [wish(1), *open_images(3)], closed=False)

    def everything() -> str:
        found: list[Any] = []

        async def work(store: Any) -> None:
            found.extend(await store.batches())
            found.extend([image async for image in store.images("acme.old")])
            found.extend(await store.records(Ledger))

        data._run(work)
        return repr(found)

    before = everything()
    assert ruum("estimate", manifest(tmp_path, range(3)), "--data", data.folder).code == 0
    assert ruum("costs", "--data", data.folder).code == 0
    assert everything() == before
    assert not list(data.folder.rglob("*.json"))


# --- wrong usage


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_bad_manifest_is_rejected_with_every_problem(ruum: Ruum, tmp_path: Path, more: tuple[str, ...]) -> None:
    path = manifest(tmp_path, [1, {"url": "http://example.com/2.jpg"}, {"url": "../3.jpg"}], roomType="livng room")
    said = ruum("estimate", path, *more)
    assert said.code == 2
    if more:
        told = json.loads(said.out)
        assert (told["valid"], len(told["problems"])) == (False, 3)
    else:
        assert said.out == ""
    assert "3 problems" in said.err
    assert "living_room" in said.err
    for pointer in ("/roomType", "/images/1/url", "/images/2/url"):
        assert pointer in said.err or pointer.rpartition("/")[2] in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("  ")]) == 3


def test_a_bad_manifest_goes_before_a_missing_folder(ruum: Ruum, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text("{")
    assert ruum("estimate", tmp_path / "odd.json", "--data", tmp_path / "none").code == 2


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_a_folder_without_batches_is_wrong_usage(ruum: Ruum, tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "none"
    if make:
        folder.mkdir()
    for command in (("estimate", manifest(tmp_path, [1])), ("costs",)):
        said = ruum(*command, "--data", folder)
        assert (said.code, said.out) == (64, "")
        assert str(folder) in said.err
    assert folder.exists() is make
    assert not make or list(folder.iterdir()) == []


def test_other_wrong_usage(ruum: Ruum, tmp_path: Path) -> None:
    path = manifest(tmp_path, [1])
    for arguments in (
        ("estimate",),
        ("estimate", tmp_path / "none.json"),
        ("estimate", path, "--nonsense"),
        ("costs",),
    ):
        said = ruum(*arguments)
        assert (said.code, said.out) == (64, ""), arguments
        assert said.err
    said = ruum("estimate", path, RUUM_TIERS_EXPRESS_FACTOR="dear")
    assert said.code == 64
    assert "RUUM_TIERS_EXPRESS_FACTOR" in said.err


def test_a_model_without_a_price_is_told_in_a_line(ruum: Ruum, tmp_path: Path) -> None:
    """Our configuration's fault: the model's id and what is missing, and no traceback."""
    said = ruum("estimate", manifest(tmp_path, [1]), RUUM_GEMINI_IMAGE_MODEL="gemini-next")
    assert said.code in (1, 64)
    assert "gemini-next" in said.err
    assert "Traceback" not in said.err


# --- costs


def call(micro: int) -> tuple[Call, ...]:
    return (Call(step="generate", model=PICTURE, cost_micro_usd=micro),)


def fill(data: Data) -> None:
    data.batch("a", [wish(1, calls=call(100_000)), wish(2, calls=call(200_000))], tier=EXPRESS)
    data.batch("b", [wish(1, calls=call(1)), wish(2, ImageState.FAILED, call(2))], tier=ECONOMY)
    data.batch(
        "c", [wish(1, calls=(*call(3), *call(4))), wish(2, ImageState.QUEUED, call(5)), *open_images(1)], closed=False
    )
    data.batch("g", [wish(1, calls=call(1_000_000))], client="globex")
    data.batch("r", [wish(1, calls=call(9_000_000))], client="globex", state=BatchState.REJECTED, closed=False)


def test_costs_by_client_from_what_was_recorded(ruum: Ruum, data: Data) -> None:
    fill(data)
    assert ruum("costs", "--data", data.folder, "--json").json == {
        "clients": [
            {"client": "acme", "batches": 3, "completed": 4, "costUsd": 0.300015, "unfinishedUsd": pytest.approx(0, abs=1e-4),
             "estimatedUsd": 0.0, "priceUsd": pytest.approx(0.45 + 0.000002 + 0.000012, abs=1e-9)},
            {"client": "globex", "batches": 1, "completed": 1, "costUsd": 1.0, "unfinishedUsd": 0.0,
             "estimatedUsd": 0.0, "priceUsd": 1.0},
        ]
    }  # fmt: skip


@pytest.mark.parametrize("closed", [True, False])
def test_costs_say_what_is_estimated(ruum: Ruum, data: Data, closed: bool) -> None:
    """The vendor did not report what some calls used: nobody should take the sum for the vendor's invoice."""
    guessed = (*call(30_000), Call(step="generate", model=PICTURE, cost_micro_usd=50_000, estimated=True))
    data.batch("a", [wish(1, calls=guessed), wish(2, calls=call(70_000))], closed=closed)
    (row,) = ruum("costs", "--data", data.folder, "--json").json["clients"]
    assert (row["costUsd"], row["estimatedUsd"]) == (0.15, 0.05)
    assert "$0.05 of the cost is estimated: the vendor did not say" in ruum("costs", "--data", data.folder).out
    story = ruum("image", "acme.a", 0, "--data", data.folder).out
    assert story.count("(estimated)") == 1
    data.batch("b", [wish(1, calls=call(70_000))], client="globex")
    assert "estimated" not in ruum("costs", "--client", "globex", "--data", data.folder).out


def test_costs_of_one_client(ruum: Ruum, data: Data) -> None:
    fill(data)
    (row,) = ruum("costs", "--client", "globex", "--data", data.folder, "--json").json["clients"]
    assert (row["client"], row["costUsd"]) == ("globex", 1.0)
    ruum("costs", "--client", "nobody", "--data", data.folder).refused(64, "no client nobody", "acme, globex")


def test_costs_for_people(ruum: Ruum, data: Data) -> None:
    fill(data)
    said = ruum("costs", "--data", data.folder)
    header, acme, globex = said.out.splitlines()[:3]
    assert header.split() == ["CLIENT", "BATCHES", "IMAGES", "COST", "PRICE"]
    assert acme.split() == ["acme", "3", "4", "$0.30", "$0.45"]
    assert globex.split()[0] == "globex"


def test_costs_of_a_period_and_by_batch(ruum: Ruum, data: Data) -> None:
    data.batch("old", [wish(1, calls=call(100_000))], days_ago=40)
    data.batch(
        "new", [wish(1, calls=call(200_000)), wish(2, ImageState.QUEUED, call(50_000))], days_ago=2, closed=False
    )
    for since, expected in (("30d", 0.25), ("2d", 0.0), ("100d", 0.35), ("2000-01-01", 0.35)):
        found = ruum("costs", "--since", since, "--data", data.folder, "--json").json["clients"]
        assert sum(row["costUsd"] for row in found) == pytest.approx(expected)
    found = ruum("costs", "--until", "30d", "--batches", "--data", data.folder, "--json").json
    assert [(row["batchId"], row["costUsd"]) for row in found["batches"]] == [("acme.old", 0.1)]
    said = ruum("costs", "--batches", "--data", data.folder)
    assert "acme.new" in said.out
    assert "$0.05 of the cost is for images that are not finished yet" in said.out
    ruum("costs", "--since", "yesterday", "--data", data.folder).refused(64, "--since yesterday", "30d")


def test_costs_of_no_batches(ruum: Ruum, data: Data) -> None:
    data.empty()
    assert ruum("costs", "--data", data.folder, "--json").json == {"clients": []}


def test_a_reopened_batch_is_counted_anew(ruum: Ruum, data: Data) -> None:
    """Its completion is the round's before; what it has cost since is not in it."""
    data.batch("a", [wish(1, calls=(*call(10), *call(20))), wish(2, ImageState.QUEUED, call(30))], round=2)
    reopened = [wish(1, calls=(*call(10), *call(20), *call(40)))]
    data.batch("b", reopened, round=2, state=BatchState.PROCESSING, price_usd=7.0)
    (row,) = ruum("costs", "--data", data.folder, "--json").json["clients"]
    assert row["costUsd"] == pytest.approx(0.00013)
    assert row["priceUsd"] == pytest.approx(0.00013)


def test_costs_tell_the_price_that_was_announced(ruum: Ruum, data: Data) -> None:
    """A completion's price is fixed when the batch closes; new factors are for new batches."""
    data.batch("a", [wish(1, calls=call(100_000))], tier=EXPRESS)
    (row,) = ruum("costs", "--data", data.folder, "--json", RUUM_TIERS_EXPRESS_FACTOR="3.0").json["clients"]
    assert (row["costUsd"], row["priceUsd"]) == (0.1, 0.15)


def test_many_small_costs_add_up_exactly(ruum: Ruum, data: Data) -> None:
    for number in range(7):
        data.batch(f"b{number}", [wish(index, calls=call(1)) for index in range(10 + number)], tier=NORMAL)
    (row,) = ruum("costs", "--data", data.folder, "--json").json["clients"]
    assert (row["batches"], row["completed"], row["costUsd"]) == (7, 91, 0.000091)
