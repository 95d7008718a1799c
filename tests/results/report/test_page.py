"""report.html of a round: what hosts and customers wrote stays text."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model import Failure
from shared.results import report
from tests.results.report.parts import CANCELLED, COMPLETED, FAILED, HOSTILE, batch, files, image, read_again


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
