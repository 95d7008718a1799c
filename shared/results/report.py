"""The files of a finished round: results.jsonl, results.csv, failed.csv and report.html.

Their bytes depend only on the batch and its settled images, never on the writer or the time. Two closers that write
them at the same time write the same bytes.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from shared import decisions
from shared.events import ImageError, ResultLine
from shared.manifest.sources import as_written
from shared.manifest.tables import neutral
from shared.model import Batch, Counts, Image, ImageState
from shared.results import report_page

_CONTENT_TYPES: Final = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
}


def content_type(name: str) -> str:
    """Return the content type of a report file."""
    return _CONTENT_TYPES[name.rpartition(".")[2]]


def result_line(image: Image) -> ResultLine:
    """Return one image as results.jsonl shows it: times in ms, cost in USD, output names in the results bucket."""
    output = image.output
    return ResultLine(
        index=image.index,
        property_code=image.property_code,
        source=image.source,
        room_type=image.room_type,
        design_style=image.design_style,
        state=image.state.value,
        output=output.picture if output else None,
        thumbnail=output.thumbnail if output else None,
        error=ImageError(code=image.error.code, message=image.error.message) if image.error else None,
        attempts=tries(image),
        round=image.round,
        cached=image.cached,
        durations_ms=dict(sorted(image.durations_ms.items())),
        cost_usd=decisions.money.usd(image.cost_micro_usd),
        cost_estimated=any(call.estimated for call in image.calls),
        sha256=output.sha256 if output else None,
        prompts=image.prompts,
    )


def tries(image: Image) -> int:
    """Return how often the image was tried in its round: the failed attempts, and the successful one."""
    return image.attempts + (image.state is ImageState.COMPLETED)


def outcome(counts: Counts) -> str:
    """Return the outcome of a batch with these final counts."""
    if counts.cancelled:
        return "cancelled"
    return "completed_with_failures" if counts.failed else "completed"


def rejection(name: str, problems: list[dict[str, Any]]) -> bytes:
    """Return the content of `<manifest>.errors.json`."""
    return msgspec.json.format(msgspec.json.encode({"manifest": name, "problems": problems}), indent=2)


class _Table:
    """A CSV file being written, kept as UTF-8: a StringIO would take four bytes per character."""

    def __init__(self, columns: Iterable[str], separator: str) -> None:
        self.content = bytearray(codecs.BOM_UTF8)  # the BOM tells Excel that it is UTF-8
        self._writer = csv.writer(self, delimiter=separator, lineterminator="\r\n")
        self._writer.writerow(columns)

    def write(self, text: str) -> None:
        """Append text. The csv writer calls this once per row."""
        self.content += text.encode()

    def add(self, cells: list[Any]) -> None:
        self._writer.writerow([neutral(cell) if isinstance(cell, str) else cell for cell in cells])


# The columns of results.csv, each with its content.
RESULT_COLUMNS: Final[dict[str, Callable[[ResultLine], Any]]] = {
    "index": lambda line: line.index,
    "propertyCode": lambda line: line.property_code or "",
    "source": lambda line: line.source,
    "roomType": lambda line: line.room_type,
    "designStyle": lambda line: line.design_style,
    "state": lambda line: line.state,
    "output": lambda line: line.output or "",
    "thumbnail": lambda line: line.thumbnail or "",
    "errorCode": lambda line: line.error.code if line.error else "",
    "errorMessage": lambda line: line.error.message if line.error else "",
    "attempts": lambda line: line.attempts,
    "cached": lambda line: line.cached,
    "durationMs": lambda line: sum(line.durations_ms.values()),
    "costUsd": lambda line: f"{line.cost_usd:.6f}",
    "sha256": lambda line: line.sha256 or "",
}
# The columns of failed.csv. Uploaded again, the file gives its images a new round. The correctable columns come between
# those that identify the image and those that say why it failed.
MANIFEST_COLUMNS: Final[dict[str, Callable[[Batch, Image], Any]]] = {
    "batchId": lambda batch, image: batch.batch_id,
    "index": lambda batch, image: image.index,
    "clientName": lambda batch, image: batch.client_name,
    "url": lambda batch, image: as_written(image.source, batch.manifest.base),
    "propertyCode": lambda batch, image: image.property_code or "",
    "roomType": lambda batch, image: image.room_type,
    "designStyle": lambda batch, image: image.design_style,
    "priority": lambda batch, image: image.tier.value,
    "errorCode": lambda batch, image: image.error.code if image.error else "",
    "errorMessage": lambda batch, image: image.error.message if image.error else "",
}


class Part(msgspec.Struct, frozen=True, array_like=True):
    """The report lines of some of a round's images, from index `start` to below `end`.

    They are stored so that another closer can continue after a crash.
    """

    start: int
    end: int
    lines: bytes
    results: bytes
    failed: bytes
    rows: bytes
    counts: Counts
    cost_micro_usd: int
    cached: int
    estimated_micro_usd: int = 0


class RoundReport:
    """Collects a round's images, one by one in order of index, and makes the report files.

    Each image is kept as its bytes in the files, about 1 KB in all. 10,000 images take 10 MiB, and twice that while a
    file is handed over. `part` returns what was added since the last part; `absorb` adds a part that another closer has
    gathered.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._lines = bytearray()
        separator = batch.separator or ","
        self._results = _Table(RESULT_COLUMNS, separator)
        self._failed = _Table(MANIFEST_COLUMNS, separator)
        self._rows = bytearray()
        self.counts = Counts()
        self.cost_micro_usd = 0
        self.estimated_micro_usd = 0
        self.cached = 0
        self.end = 0  # the index after the last image
        self._since = self._mark()

    def _mark(self) -> tuple[int, int, int, int, int, Counts, int, int, int]:
        lengths = len(self._lines), len(self._results.content), len(self._failed.content), len(self._rows)
        return (self.end, *lengths, self.counts, self.cost_micro_usd, self.cached, self.estimated_micro_usd)

    @property
    def pending(self) -> int:
        """Number of images added since the last part."""
        return self.end - self._since[0]

    def part(self) -> Part:
        """Return what was added since the last part."""
        start, lines, results, failed, rows, counts, cost, cached, estimated = self._since
        made = Part(
            start, self.end, bytes(self._lines[lines:]), bytes(self._results.content[results:]),
            bytes(self._failed.content[failed:]), bytes(self._rows[rows:]), self.counts - counts,
            self.cost_micro_usd - cost, self.cached - cached, self.estimated_micro_usd - estimated,
        )  # fmt: skip
        self._since = self._mark()
        return made

    def absorb(self, part: Part) -> bool:
        """Add a part if it is the next one; return whether it was."""
        if part.start != self.end:
            return False
        self._lines += part.lines
        self._results.content += part.results
        self._failed.content += part.failed
        self._rows += part.rows
        self.counts = self.counts + part.counts
        self.cost_micro_usd += part.cost_micro_usd
        self.cached += part.cached
        self.estimated_micro_usd += part.estimated_micro_usd
        self.end = part.end
        self._since = self._mark()
        return True

    def add(self, image: Image) -> None:
        line = result_line(image)
        self._lines += msgspec.json.encode(line) + b"\n"
        self._results.add([value(line) for value in RESULT_COLUMNS.values()])
        if image.state is ImageState.FAILED:
            self._failed.add([value(self._batch, image) for value in MANIFEST_COLUMNS.values()])
        self._rows += (b"," if self._rows else b"") + msgspec.json.encode(report_page.row(self._batch, image))
        self.counts = self.counts + Counts(**{image.state.value: 1})
        self.cost_micro_usd += image.cost_micro_usd
        self.estimated_micro_usd += image.estimated_micro_usd
        self.cached += image.cached and image.state is ImageState.COMPLETED
        self.end = image.index + 1

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield each file's name within the round's folder and its bytes, one at a time to save memory."""
        yield "results.jsonl", bytes(self._lines)
        yield "results.csv", bytes(self._results.content)
        yield "failed.csv", bytes(self._failed.content)
        yield "report.html", self._page()

    def _page(self) -> bytes:
        return report_page.page(
            self._batch,
            outcome=outcome(self.counts),
            counts=self.counts,
            cost_usd=decisions.money.usd(self.cost_micro_usd),
            rows=self._rows,
        )
