"""failed.csv of a round: read again as a manifest, and safe in a spreadsheet."""

from __future__ import annotations

import io

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from shared.errors import BadSource
from shared.manifest import reader
from shared.manifest.sources import SourceRules, resolve
from shared.manifest.tables import is_error, is_null
from shared.model import Tier
from tests import builders
from tests.results.report.parts import CANCELLED, FAILED, LIMITS, batch, files, image, read_again, table

QUOTED = ("'=", "'+", "'-", "'@")

# What the reader takes: printable text without spaces around it, of which some is a letter or digit.
_PRINTABLE = st.text(
    st.characters(blacklist_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1, max_size=60
).filter(lambda text: text == text.strip())


def test_failed_csv_is_a_manifest() -> None:
    images = [
        image(0),
        image(1, FAILED, property_code="APT 1", room_type="bedroom", design_style="boho"),
        image(2, CANCELLED),
        image(3, FAILED, source="gs://intake/manifests/acme/photos/a b.jpg"),
    ]
    again = read_again(files(*images, of=batch(client_name='Acmé; , ""', tier=Tier.EXPRESS))["failed.csv"])
    assert again.client_name == 'Acmé; , ""'
    assert again.is_retry
    assert again.batch == "acme.b1", "its own batch, whatever the client's name is"
    assert [one.index for one in again.images] == [1, 3]
    assert [(one.source, one.property_code, one.room_type, one.design_style) for one in again.images] == [
        ("https://example.com/1.jpg", "APT 1", "bedroom", "boho"),
        ("gs://intake/manifests/acme/photos/a b.jpg", None, "living_room", "modern"),
    ]


@pytest.mark.parametrize(
    ("base", "source", "path"),
    [
        ("gs://intake/manifests/acme/1f/", "gs://intake/manifests/acme/1f/photos/a b.jpg", "photos/a b.jpg"),
        ("gs://intake/manifests/acme/1f/", "gs://intake/manifests/acme/2e/photos/a.jpg", None),
        ("gs://intake/manifests/acme/1f/", "gs://intake/manifests/acme/1f/www.a.com/a.jpg", None),
        ("gs://intake/manifests/acme/1f/", "gs://intake/manifests/acme/1f/null", None),
        ("gs://intake/manifests/acme/1f/", "gs://intake/manifests/acme/1f/", None),
        ("file:///home/ana/own/", "file:///home/ana/own/fotos/sal%C3%A3o%20%231.jpg", "fotos/salão #1.jpg"),
        ("file:///home/ana/own/", "file:///home/ana/other/a.jpg", None),
        ("file:///home/ana/own/", "https://photos.example/file:///home/ana/own/a.jpg", None),
        ("", "https://photos.example/a.jpg", None),
    ],
)
def test_a_photo_beside_the_manifest_is_named_by_its_path(base: str, source: str, path: str | None) -> None:
    """The client's own word, not where we have put it."""
    of = batch(manifest=builders.a_manifest_ref(uri="gs://m", base=base))
    content = files(image(0, FAILED, source=source), of=of)["failed.csv"]
    (row,) = table(content)
    assert row["url"] == (path or source)
    if path is not None:
        (again,) = reader.read(io.BytesIO(content), "failed.csv", LIMITS, SourceRules(base=base)).images
        assert (again.source, again.path) == (source, path)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=_PRINTABLE, base=st.sampled_from(["gs://intake/manifests/acme/1f/", "file:///home/ana/own/"]))
def test_whatever_a_photo_is_called_it_is_found_again(name: str, base: str) -> None:
    rules = SourceRules(base=base)
    try:
        source = resolve(name, rules)
    except BadSource:
        assume(False)
    assume(not name.startswith(QUOTED) and not is_null(name) and not is_error(name))
    of = batch(manifest=builders.a_manifest_ref(uri="gs://m", base=base))
    content = files(image(0, FAILED, source=source), of=of)["failed.csv"]
    (again,) = reader.read(io.BytesIO(content), "failed.csv", LIMITS, rules).images
    assert again.source == source


def test_the_priority_is_kept() -> None:
    for tier in Tier:
        assert read_again(files(image(0, FAILED, tier=tier), of=batch(tier=tier))["failed.csv"]).tier is tier


def test_without_failures_it_names_no_image() -> None:
    assert table(files(image(0), image(1, CANCELLED))["failed.csv"]) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(code=_PRINTABLE, client=_PRINTABLE, path=_PRINTABLE)
@example(code="=1+1", client="=Acme", path="a")
@example(code="-", client="@acme", path="a,b;c\"d'e")
@example(code='"', client="'Acme'", path="x")
@example(code="'", client="a", path="'")
@example(code="''=1", client="a", path="x")
def test_failed_csv_gives_back_what_was_ordered(code: str, client: str, path: str) -> None:
    """The same images again: same client, same addresses, same property codes, whatever they look like."""
    source = "https://example.com/" + path
    name = client + " Acme"
    assume(not code.startswith(QUOTED) and not client.startswith(QUOTED))  # see the next test
    again = read_again(
        files(image(0, FAILED, source=source, property_code=code), of=batch(client_name=name))["failed.csv"]
    )
    assert again.client_name == name
    assert [(one.source, one.property_code) for one in again.images] == [(source, code)]


@pytest.mark.parametrize("text", [quoted + "1" for quoted in QUOTED])
def test_a_quote_of_the_customers_own_comes_back(text: str) -> None:
    """The quote taken away again must be ours: "'=1" is not "=1"."""
    again = read_again(files(image(0, FAILED, property_code=text), of=batch(client_name=text))["failed.csv"])
    assert again.client_name == text
    assert again.images[0].property_code == text


def test_a_code_of_200_characters_comes_back() -> None:
    """The longest the reader takes; the quote before a formula may not make it one too long."""
    for code in ("x" * 200, "=" * 200):
        (one,) = read_again(files(image(0, FAILED, property_code=code))["failed.csv"]).images
        assert one.property_code == code


def test_many_failures_come_back() -> None:
    images = [image(index, FAILED, property_code=f'=APT;{index},"x"') for index in range(2000)]
    again = read_again(files(*images)["failed.csv"])
    assert [one.property_code for one in again.images] == [one.property_code for one in images]
