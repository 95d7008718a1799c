"""Names of objects: safe parts, no two things under one name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.manifest.model import batch_of
from shared.model import Batch, Image
from shared.results import names
from tests import builders

FUZZ = settings(max_examples=80, deadline=None, database=None, derandomize=True)
CLIENTS = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
BATCH_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)


def a_batch(batch: str = "acme.spring", client: str = "acme", number: int = 1) -> Batch:
    return builders.a_batch(id=batch, client=client, client_name=client, round=number)


def an_image(index: int = 0, code: str | None = None, fence: int = 0, batch: str = "acme.spring") -> Image:
    return builders.an_image(batch=batch, index=index, property_code=code, fence=fence)


@pytest.mark.parametrize(
    ("batch", "folder"),
    [
        (a_batch(), "results/acme/spring/"),
        (a_batch("acme.a.b"), "results/acme/a.b/"),
        (a_batch("acme.acme.x"), "results/acme/acme.x/"),
        (a_batch("acme-sp.1", "acme-sp"), "results/acme-sp/1/"),
    ],
)
def test_results_folder(batch: Batch, folder: str) -> None:
    assert names.results_folder(batch) == folder
    assert names.status_name(batch) == folder + "status.json"
    assert names.round_folder(batch) == folder + "round-1/"


def test_each_round_has_its_folder() -> None:
    assert names.round_folder(a_batch(number=3)) == "results/acme/spring/round-3/"


@FUZZ
@given(st.tuples(CLIENTS, BATCH_IDS), st.tuples(CLIENTS, BATCH_IDS))
def test_batches_never_share_a_results_folder(one: tuple[str, str], other: tuple[str, str]) -> None:
    folders = {names.results_folder(a_batch(batch_of(client, own, ""), client)) for client, own in (one, other)}
    assert len(folders) == len({one, other})
    for folder in folders:
        assert folder.count("/") == 3
        assert not {"", ".", ".."} & set(folder.rstrip("/").split("/"))


@pytest.mark.parametrize(
    ("index", "code", "stem"),
    [
        (0, None, "0"), (7, "", "7"), (7, "APT-101", "7-APT-101"), (7, "Apto 101/B", "7-Apto-101-B"),
        (7, "../../x", "7-x"), (7, "\u65e5\u672c", "7"), (7, "=1+1", "7-1-1"), (9999, "a" * 200, "9999-" + "a" * 64),
    ],
)  # fmt: skip
def test_picture_stem(index: int, code: str | None, stem: str) -> None:
    assert names.picture_stem(an_image(index, code)) == stem


@FUZZ
@given(st.lists(st.none() | st.text(max_size=12) | st.sampled_from(["1", "1-2", "2"]), max_size=30))
def test_no_two_pictures_of_a_batch_share_a_name(codes: list[str | None]) -> None:
    stems = [names.picture_stem(an_image(index, code)).lower() for index, code in enumerate(codes)]
    assert len(set(stems)) == len(stems)
    assert all("/" not in stem and "." not in stem for stem in stems)


def test_work_pictures_differ_by_image_fence_and_generation() -> None:
    keys = [("acme.a", 1, 1, 1), ("acme.a", 1, 1, 2), ("acme.a", 1, 2, 1), ("acme.a", 11, 1, 1), ("acme.b", 1, 1, 1)]
    made = [names.work_picture(an_image(index, None, fence, batch), gen) for batch, index, fence, gen in keys]
    assert made[0] == "work/acme.a/1/1-1"
    assert len(set(made)) == len(keys)
    for (batch, index, _, _), name in zip(keys, made, strict=True):
        assert name.startswith(names.work_folder(batch, index))


def test_errors_stand_under_the_manifests_own_name() -> None:
    assert names.errors_name("manifests/acme/a.json") == "manifests/acme/a.json.errors.json"
    assert names.errors_name("manifests/acme/a.csv") != names.errors_name("manifests/acme/a.json")
