"""`ruum-batch estimate`: what it tells of a manifest beside data folders made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import decisions
from shared.decisions.quota import Circuit, Ledger
from shared.model import BatchState, Control, ImageState
from shared.settings import Limit
from shared.vendors import PREVIEW_PROMPTS as PROMPTS
from tests.ops.commands import Ruum
from tests.ops.money.data import BOUGHT, DAY, ECONOMY, EXPRESS, NORMAL, PICTURE, TEXT, Data, address, open_images, wish

SLOTS = "50 images in flight"  # of one worker: at 50 s an image no fewer than the quotas allow
TYPICAL_USD = 0.060785  # 4,000 and 800 tokens at $0.30 and $2.50; 1.1 times 1,500 and 1,670 at $1.50 and $30, a million


def manifest(folder: Path, photos: Sequence[object], **header: Any) -> Path:
    """A manifest of these photos; one that is a dict is an image as it stands."""
    images = [photo if isinstance(photo, dict) else {"url": address(photo)} for photo in photos]
    fields = {"clientName": "acme", "designStyle": "modern", "roomType": "living_room", **header}
    path = folder / "batch.json"
    path.write_text(json.dumps({**fields, "images": images}))
    return path


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
