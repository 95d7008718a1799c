"""`ruum-batch costs`: what it tells of data folders made here, image by image."""

from __future__ import annotations

import pytest

from shared.model import BatchState, Call, ImageState
from tests.ops.commands import Ruum
from tests.ops.money.data import ECONOMY, EXPRESS, NORMAL, PICTURE, Data, open_images, wish


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
    assert "$0.05 of the cost is estimated: the vendor did not report" in ruum("costs", "--data", data.folder).out
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
