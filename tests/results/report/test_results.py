"""The tables a round leaves behind: readable again, the same every time, safe whatever customers wrote."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.manifest.tables import neutral, unquoted
from shared.model import BatchState, Call, Counts, Failure, Image
from shared.results import report
from tests.results.report.parts import CANCELLED, COMPLETED, FAILED, HOSTILE, batch, files, image, read_again, table

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
