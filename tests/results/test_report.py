"""The files a round leaves behind: readable again, the same every time, and safe whatever customers and hosts wrote."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import time
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from shared.errors import BadSource, ManifestRejected
from shared.manifest import reader
from shared.manifest.sources import SourceRules, resolve
from shared.manifest.tables import is_error, is_null, neutral, unquoted
from shared.model import (
    Batch,
    BatchState,
    Call,
    Counts,
    Failure,
    Image,
    ImageState,
    ManifestRef,
    Output,
    Tier,
)
from shared.results import report
from shared.settings import ManifestLimits

COMPLETED, FAILED, CANCELLED = ImageState.COMPLETED, ImageState.FAILED, ImageState.CANCELLED
HOSTILE = [
    "=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "\n=1", "</script><script>alert(1)</script>",
    "<!--", "]]>", "<img src=x onerror=alert(1)>", '"', '""', "'", "a,b", "a;b", "a\nb", "a\r\nb", '"quoted", twice', "\u2028",
    "\u2029", "\x00", "\x1b[31m", "ação", "日本語", "🏠👨‍👩‍👧", "\u202egnp.exe", "&lt;b&gt;", '"@DATA@"', "\\", "\\u003c", "${x}",
    "%00", "'=1", "''", " leading", "trailing ", "", "a" * 4000, "\ufeff",
]  # fmt: skip
QUOTED = ("'=", "'+", "'-", "'@")
LIMITS = ManifestLimits()
RULES = SourceRules(base="gs://intake/manifests/acme/", gs_prefixes=("gs://intake/manifests/acme",))


def batch(**changes: Any) -> Batch:
    made = Batch(
        id="acme.b1", client="acme", client_name="Acme", tier=Tier.NORMAL, total=1, shards=1, state=BatchState.CLOSING,
        manifest=ManifestRef(uri="gs://m", generation=1, sha256="0", base=""), created_at=1_772_442_000.0,
        closing_at=1_772_442_100.5,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def image(index: int = 0, state: ImageState = COMPLETED, **changes: Any) -> Image:
    folder = "results/acme/b1/"
    stem = str(index)
    output = Output(
        picture=f"{folder}images/{stem}.jpg", thumbnail=f"{folder}thumbnails/{stem}.jpg",
        before=f"{folder}thumbnails/{stem}-before.jpg", sha256=hashlib.sha256(stem.encode()).hexdigest(), width=4, height=3,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "batch": "acme.b1", "index": index, "source": f"https://example.com/{index}.jpg", "room_type": "living_room",
        "design_style": "modern", "tier": Tier.NORMAL, "shard": 0, "state": state, "prompts": "v1",
        "durations_ms": {"generate": 1500, "verify": 500},
        "calls": (Call(step="generate", model="m", cost_micro_usd=50_400),),
        "output": output if state is COMPLETED else None,
        "error": Failure(code="not_a_picture", message="the file is an HTML page") if state is FAILED else None,
        "attempts": 1 if state is FAILED else 0,
    }  # fmt: skip
    return Image(**{**fields, **changes})


def files(*images: Image, of: Batch | None = None) -> dict[str, bytes]:
    gathered = report.RoundReport(of or batch())
    for one in images:
        gathered.add(one)
    return dict(gathered.files())


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))


def read_again(content: bytes) -> reader.Manifest:
    try:
        return reader.read(io.BytesIO(content), "failed.csv", LIMITS, RULES)
    except ManifestRejected as error:
        raise AssertionError([str(problem) for problem in error.problems]) from error


class Page(HTMLParser):
    """A page as a browser takes it apart: elements, and what stands in each script."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


EMPTY_PAGE = Page(files()["report.html"])


# --- results


def test_lines_and_rows_say_the_same() -> None:
    images = [
        image(0, property_code="APT 1"),
        image(1, FAILED, attempts=3),
        image(2, CANCELLED, calls=()),
        image(3, attempts=2, cached=True),
    ]
    made = files(*images)
    lines = [json.loads(line) for line in made["results.jsonl"].decode().split("\n")[:-1]]
    rows = table(made["results.csv"])
    assert [line["index"] for line in lines] == [int(row["index"]) for row in rows] == [0, 1, 2, 3]
    assert lines[0] == {
        "index": 0, "propertyCode": "APT 1", "source": "https://example.com/0.jpg", "roomType": "living_room",
        "designStyle": "modern", "state": "completed", "output": "results/acme/b1/images/0.jpg",
        "thumbnail": "results/acme/b1/thumbnails/0.jpg", "error": None, "attempts": 1, "round": 1, "cached": False,
        "durationsMs": {"generate": 1500, "verify": 500}, "costUsd": 0.0504,
        "costEstimated": False, "sha256": hashlib.sha256(b"0").hexdigest(), "prompts": "v1",
    }  # fmt: skip
    assert lines[1]["error"] == {"code": "not_a_picture", "message": "the file is an HTML page"}
    assert [line["attempts"] for line in lines] == [1, 3, 0, 3], "failed attempts, and the one that succeeded"
    for line, row in zip(lines, rows, strict=True):
        for column in ("source", "roomType", "designStyle", "state"):
            assert row[column] == line[column]
        for column in ("propertyCode", "output", "thumbnail", "sha256"):
            assert row[column] == (line[column] or "")
        assert float(row["costUsd"]) == line["costUsd"]
        assert int(row["attempts"]) == line["attempts"]
        assert int(row["durationMs"]) == sum(line["durationsMs"].values())
        assert row["errorCode"] == (line["error"] or {"code": ""})["code"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_in_the_results(text: str) -> None:
    """Anything a customer, a host or a vendor wrote: read back whole, and no cell is a formula."""
    images = [
        image(0, property_code=text),
        image(1, FAILED, property_code=text, error=Failure(code="source_forbidden", message=text)),
        image(2, FAILED, source="https://example.com/" + text),
        image(3),
    ]
    made = files(*images, of=batch(client_name=text))
    lines = [json.loads(line) for line in made["results.jsonl"].decode().split("\n")[:-1]]
    assert len(lines) == 4
    assert lines[0]["propertyCode"] == lines[1]["error"]["message"] == text
    assert lines[2]["source"] == "https://example.com/" + text
    rows = table(made["results.csv"])
    assert len(rows) == 4
    for cell in (rows[0]["propertyCode"], rows[1]["errorMessage"]):
        assert unquoted(cell) == text
    for row in rows:
        assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    for name in ("results.csv", "failed.csv"):
        for separator in ",;\t|":  # whatever the spreadsheet splits it by
            for row in csv.reader(io.StringIO(made[name].decode("utf-8-sig"), newline=""), delimiter=separator):
                assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@"))], (name, separator)


def test_the_tables_open_in_excel() -> None:
    made = files(image(property_code="ação"))
    for name in ("results.csv", "failed.csv"):
        assert made[name].startswith(b"\xef\xbb\xbf"), "without the BOM Excel takes it for Windows-1252"
        assert made[name].endswith(b"\r\n")
        assert b"\n" not in made[name].replace(b"\r\n", b"")


def test_each_line_is_one_line() -> None:
    made = files(*[image(index, property_code=text) for index, text in enumerate(HOSTILE)])
    assert len(made["results.jsonl"].split(b"\n")) == len(HOSTILE) + 1


# --- failed.csv

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
    of = batch(manifest=ManifestRef(uri="gs://m", generation=1, sha256="0", base=base))
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
    of = batch(manifest=ManifestRef(uri="gs://m", generation=1, sha256="0", base=base))
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


# --- the page


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_on_the_page(text: str) -> None:
    made = files(
        image(0, property_code=text),
        image(1, FAILED, source="https://example.com/" + text, error=Failure(code="x", message=text)),
        of=batch(client_name=text),
    )["report.html"]
    page = Page(made)
    assert page.tags == EMPTY_PAGE.tags, "no text of theirs has become an element"
    assert page.scripts[1:] == EMPTY_PAGE.scripts[1:]
    assert page.data["client"] == text
    assert page.data["images"][0][1] == text
    assert page.data["images"][1][8] == f"x: {text}"
    assert page.data["images"][1][9] == "https://example.com/" + text


@settings(deadline=None)
@given(st.text(max_size=50))
def test_any_text_on_the_page(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    page = Page(files(image(0, property_code=text))["report.html"])
    assert page.data["images"][0][1] == text
    assert page.tags == EMPTY_PAGE.tags


def test_the_page_has_what_it_shows() -> None:
    images = [image(0, property_code="APT 1"), image(1, FAILED), image(2, CANCELLED)]
    data = Page(files(*images, of=batch(round=2, client_name="Acme"))["report.html"]).data
    assert {name: data[name] for name in ("batch", "client", "round", "outcome", "costUsd", "finished", "seconds")} == {
        "batch": "acme.b1", "client": "Acme", "round": 2, "outcome": "cancelled", "costUsd": 0.1512,
        "finished": "2026-03-02T09:01:40.500Z", "seconds": 100.5,
    }  # fmt: skip
    assert data["counts"] == {"queued": 0, "processing": 0, "completed": 1, "failed": 1, "cancelled": 1}
    assert data["images"] == [
        [0, "APT 1", "living_room", "modern", "completed", "../images/0.jpg", "../thumbnails/0-before.jpg",
         "../thumbnails/0.jpg", "", "", 4, 3, 0],
        [1, "", "living_room", "modern", "failed", "", "", "", "not_a_picture: the file is an HTML page",
         "https://example.com/1.jpg"],
        [2, "", "living_room", "modern", "cancelled", "", "", "", "", "https://example.com/2.jpg"],
    ]  # fmt: skip


def test_the_page_fetches_nothing_from_elsewhere() -> None:
    content = files(image(0))["report.html"].decode()
    shell = content.replace(Page(content.encode()).scripts[0], "")
    assert "http://" not in shell
    assert "https://" not in shell
    assert "default-src 'none'" in shell
    assert "innerHTML" not in shell


def test_ten_thousand_images_make_a_page_below_4_mb() -> None:
    """A third each completed, failed with a signed link and a sentence, and cancelled; every row as long as usual."""
    link = "https://photos.example.com/listings/2026/03/{}.jpg?X-Amz-Credential=AKIA&X-Amz-Signature=" + "0" * 64
    states = (COMPLETED, FAILED, CANCELLED)
    failure = Failure(code="source_forbidden", message="photos.example.com answered 403: make the photo readable")
    gathered = report.RoundReport(batch(total=10_000))
    started = time.process_time()
    for index in range(10_000):
        state = states[index % 3]
        gathered.add(
            image(
                index,
                state,
                source=link.format(index),
                property_code=f"APT-{index:05}-TOWER-B",
                error=failure if state is FAILED else None,
            )
        )
    made = dict(gathered.files())
    assert time.process_time() - started < 10.0
    assert len(made["report.html"]) < 4_000_000
    assert len(Page(made["report.html"]).data["images"]) == 10_000
    assert len(made["results.jsonl"].splitlines()) == 10_000
    assert len(read_again(made["failed.csv"]).images) == 3333


def test_ten_thousand_completed_images_make_a_page_below_4_mb() -> None:
    made = files(*[image(index, property_code=f"APT-{index:05}-TOWER-B") for index in range(10_000)])
    assert len(made["report.html"]) < 4_000_000


# --- the same every time


def test_the_bytes_depend_on_batch_and_images_only() -> None:
    images = [
        image(index, (COMPLETED, FAILED, CANCELLED)[index % 3], property_code=HOSTILE[index]) for index in range(20)
    ]
    first = files(*images)
    assert files(*images) == first
    later = batch(
        revision=99, token="other", closed_at=9e9, announced_round=1, control_epoch=4, state=BatchState.CLOSED,
    )  # fmt: skip
    assert files(*images, of=later) == first, "two closers that write side by side write the same"
    decoded = [msgspec.json.decode(msgspec.json.encode(one), type=Image) for one in images]
    assert files(*decoded) == first, "as it comes out of the database"
    touched = [msgspec.structs.replace(one, revision=77, token="x", claim=None, fence=5) for one in images]
    assert files(*touched) == first


def test_durations_in_any_order_are_the_same_bytes() -> None:
    """Firestore's client hands out a map in another order in every process: two closers must write the same all the same."""
    one = image(0, durations_ms={"download": 1, "analyse": 2, "generate": 3})
    other = msgspec.structs.replace(one, durations_ms=dict(sorted(one.durations_ms.items())))
    assert one == other
    assert files(one) == files(other)


# --- small things


def test_counts_and_costs_are_gathered() -> None:
    gathered = report.RoundReport(batch())
    for one in (image(0), image(1, FAILED), image(2, FAILED), image(3, CANCELLED)):
        gathered.add(one)
    assert gathered.counts == Counts(completed=1, failed=2, cancelled=1)
    assert gathered.cost_micro_usd == 4 * 50_400


def test_content_types() -> None:
    kinds = {name: report.content_type(name) for name in files()}
    assert kinds == {
        "results.jsonl": "application/jsonl", "results.csv": "text/csv; charset=utf-8",
        "failed.csv": "text/csv; charset=utf-8", "report.html": "text/html; charset=utf-8",
    }  # fmt: skip


def test_a_rejection() -> None:
    content = report.rejection("m.json", [{"reason": "is </bad>", "line": 3}])
    assert json.loads(content) == {"manifest": "m.json", "problems": [{"reason": "is </bad>", "line": 3}]}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t1", "\r1", "\n=1"])
def test_neutral(text: str) -> None:
    """What OWASP lists as the starts of formulas; the line feed is among them."""
    assert neutral(text).startswith("'" + text[0])
    assert unquoted(neutral(text)) == text


@pytest.mark.parametrize("text", ["", "a", "1", "a=1", "APT-1", "ação", "'"])
def test_neutral_leaves_the_rest_alone(text: str) -> None:
    assert neutral(text) == text


@settings(deadline=None)
@given(st.text(alphabet="=+-@'\t\r\n,;|a1 \"", max_size=12))
def test_neutral_is_safe_under_every_separator_and_can_be_undone(text: str) -> None:
    safe = neutral(text)
    for separator in ",;\t|":
        assert not [cell for cell in safe.split(separator) if re.match(r"[=+\-@]", cell)]
    assert unquoted(safe) == text


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_reports_have_the_manifests_own_separator(separator: str) -> None:
    made = files(image(0, property_code=f"A{separator}B"), image(1, FAILED), of=batch(separator=separator))
    for name in ("results.csv", "failed.csv"):
        header, *rows = csv.reader(io.StringIO(made[name].decode("utf-8-sig")), delimiter=separator)
        assert "propertyCode" in header
        assert {len(row) for row in rows} == {len(header)}
    again = read_again(made["failed.csv"])
    assert (again.separator, again.is_retry, len(again.images)) == (separator, True, 1)


def test_small_costs_are_plain_numbers() -> None:
    """A spreadsheet in Brazil reads 1e-06 as text; a millionth of a dollar has six decimals."""
    one = image(0, calls=(Call(step="verify", model="m", cost_micro_usd=1),))
    (row,) = table(files(one)["results.csv"])
    assert "e" not in row["costUsd"]
    assert float(row["costUsd"]) == 0.000001


# --- what the vendor did not say


GUESSED = Call(step="verify", model="m", cost_micro_usd=7_000, estimated=True)


def test_a_line_says_whether_a_part_of_its_cost_is_estimated() -> None:
    known = image().calls
    for calls, estimated in (((), False), (known, False), ((*known, GUESSED), True), ((GUESSED, *known), True)):
        line = json.loads(files(image(calls=calls))["results.jsonl"])
        assert (line["costEstimated"], line["costUsd"]) == (estimated, sum(c.cost_micro_usd for c in calls) / 1e6)


@pytest.mark.parametrize("cut", range(4))
def test_what_is_estimated_is_summed_over_parts(cut: int) -> None:
    """A closing that is taken over counts each image's estimates once; parts of an older version hold none."""
    images = [image(0, calls=(GUESSED,)), image(1), image(2, FAILED, calls=(*image().calls, GUESSED))]
    first = report.RoundReport(batch())
    for one in images[:cut]:
        first.add(one)
    second = report.RoundReport(batch())
    kept = msgspec.msgpack.encode(first.part())
    assert second.absorb(msgspec.msgpack.decode(kept, type=report.Part))
    for one in images[cut:]:
        second.add(one)
    assert (second.estimated_micro_usd, second.cost_micro_usd) == (14_000, 14_000 + 2 * 50_400)
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(kept)[:-1])
    assert msgspec.msgpack.decode(older, type=report.Part).estimated_micro_usd == 0
