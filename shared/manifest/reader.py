"""Reading manifests: JSON, JSON Lines, CSV or a spreadsheet becomes one `Manifest`, or every problem of it at once.

JSON Lines and CSV are read line by line; JSON and spreadsheets whole, within the size limit. Nothing here fetches
anything. What a table's header and cells mean is `shared.manifest.tables`' to say.
A broken line does not end the reading where the next one surely stands for itself; where it does not, the last problem
says that nothing more was read.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

from shared.errors import ManifestRejected, Problem
from shared.manifest import spreadsheet, tables
from shared.manifest.checks import Checks, Fields
from shared.manifest.fields import COLUMNS, FIELDS, HEADER_FIELDS, IMAGE_FIELDS, REQUIRED, SAME_IN_ALL_ROWS
from shared.manifest.model import Manifest
from shared.manifest.problems import Place, Problems, ReadingStopped, short, shown
from shared.manifest.sources import SourceRules
from shared.settings import ManifestLimits
from shared.untrusted.kinds import kind_of
from shared.untrusted.text import client_slug

SUFFIXES: Final = (".json", ".jsonl", ".csv", *spreadsheet.SUFFIXES)
FILE_NAMES: Final = f"ending in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
_SAVE_AS: Final = "save it as .xlsx, .ods or CSV"
_INSTEAD: Final = {  # of files by their ending
    "txt": "name it .csv: tabs are understood", "tsv": "name it .csv: tabs are understood", "ndjson": "name it .jsonl",
    "xls": _SAVE_AS, "xlsm": _SAVE_AS, "xlsb": _SAVE_AS, "xlt": _SAVE_AS, "xltx": _SAVE_AS, "fods": _SAVE_AS,
    "numbers": "export it as .xlsx or CSV", "gz": "unpack it first", "zip": "unpack it first",
}  # fmt: skip
_WIDE_MARKS: Final = {  # UTF-32 first: its mark begins as that of UTF-16
    b"\xff\xfe\x00\x00": "utf-32-le", b"\x00\x00\xfe\xff": "utf-32-be", b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}  # fmt: skip
_WIDE_NULS: Final = {"0x0x0x0x": "utf-16-be", "x0x0x0x0": "utf-16-le", "000x000x": "utf-32-be", "x000x000": "utf-32-le"}
_UTF8_MARK: Final = "\ufeff".encode()
_ALLOWED_FILES: Final = "JSON, JSON Lines or CSV as text, or a spreadsheet (.xlsx, .ods)"
_PIECE_BYTES: Final = 64 * 1024
HEADER_LINES: Final = 20  # a header is looked for so far down, as in a spreadsheet
_INDEX: Final = re.compile(r"(\d{1,7})(?:[.,]0+)?")
_CODE_PAGES: Final = ("cp1252", "mac_roman", "cp850")  # of Windows, of old Macs, of MS-DOS
_LETTERS: Final = frozenset("áàâãäåéèêëíìîïóòôõöúùûüçñýÿÁÀÂÃÄÅÉÈÊËÍÌÎÏÓÒÔÕÖÚÙÛÜÇÑºª°§²³€–—‘’“”•…«»´¡¿·\xa0")


def wrong_name(name: str) -> Problem:
    """Return the problem of a file whose name ends in none of `SUFFIXES`, with what to do about it."""
    instead = _INSTEAD.get(name.rpartition(".")[2].lower(), f"a name {FILE_NAMES}")
    return Problem("is not a manifest by its name", allowed=instead)


def read(stream: BinaryIO, name: str, limits: ManifestLimits, rules: SourceRules) -> Manifest:
    """Read the manifest in `stream` (seekable, buffered); `name` ends in one of `SUFFIXES`.

    Raises `ManifestRejected`.
    """
    return _Reader(stream, name, limits, rules).read()


_NOT_KEPT: Final = Fields([])  # stands for every object of a JSON that has far too many


class _Reader:
    """Reads the rows and objects of one manifest of any format, until reading on is useless."""

    def __init__(self, stream: BinaryIO, name: str, limits: ManifestLimits, rules: SourceRules) -> None:
        self._stream = stream
        self._name = name
        self._limits = limits
        self._problems = Problems(limits)
        self._checks = Checks(limits, rules, self._problems)
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._objects = 0  # JSON objects met in what is parsed
        self._first_row: dict[str, str | None] | None = None  # tables: what all rows must repeat, or leave empty
        self._encoding = "utf-8"  # or a wide one
        self._ascii_so_far = True  # CSV: whether another encoding than UTF-8 is possible still
        self._code_page = "cp1252"
        self._indexes: set[int] = set()  # of a failed.csv, met so far
        self._separator: str | None = None
        self._ignored: tuple[str, ...] = ()

    def read(self) -> Manifest:
        try:
            suffix = next((suffix for suffix in SUFFIXES if self._name.lower().endswith(suffix)), None)
            if suffix is None:
                self._problems.found.append(wrong_name(self._name))
                raise ReadingStopped
            if suffix in spreadsheet.SUFFIXES:
                self._spreadsheet(suffix)
            else:
                self._sniff()
                {".json": self._json, ".jsonl": self._json_lines, ".csv": self._csv}[suffix]()
            if not self._checks.images and not self._problems:
                self._problems.stop("names no image", allowed=f"1 to {self._limits.max_images:,} images")
            self._problems.note_too_many(self._checks.seen, exactly=True)
        except ReadingStopped:
            self._problems.note_too_many(self._checks.seen, exactly=False)
        header = self._checks.header or {}
        client_name = header.get("clientName")
        if self._problems or client_name is None:
            raise ManifestRejected(self._problems.found, self._checks.local)
        named = {field.attribute: header[field.name] for field in FIELDS if field.attribute}
        return Manifest(
            client=client_slug(client_name),
            images=tuple(self._checks.images),
            sha256=self._hash.hexdigest(),
            separator=self._separator,
            is_retry=self._checks.is_retry,
            ignored=self._ignored,
            **{name: value for name, value in named.items() if value is not None},
        )

    # --- bytes

    def _sniff(self) -> None:
        """Reject other kinds of files by their first bytes, and recognise UTF-16 and UTF-32."""
        head = self._stream.read(4096)
        self._stream.seek(0)
        if not head.removeprefix(b"\xef\xbb\xbf").strip() and len(head) < 4096:
            self._problems.stop("is empty", allowed="a manifest with at least one image")
        kind = kind_of(head)
        if kind is not None and "JSON" not in kind:
            hints = {"a zip file or spreadsheet": "name it .xlsx or .ods", "an old Excel or Word file": _SAVE_AS}
            self._problems.stop(f"is {kind}, not a manifest", allowed=hints.get(kind, _ALLOWED_FILES))
        for mark, encoding in _WIDE_MARKS.items():
            if head.startswith(mark):
                self._encoding = encoding
                return
        nuls = "".join("x" if byte else "0" for byte in head[:8])
        for pattern, encoding in _WIDE_NULS.items():
            if len(nuls) >= 4 and pattern.startswith(nuls):
                self._encoding = encoding
                return

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield lines with their numbers, as UTF-8, while the file's hash and size are counted."""
        if self._encoding != "utf-8":
            yield from enumerate(self._narrowed(), start=1)
            return
        number = 0
        while raw := self._stream.readline(self._limits.max_bytes - self._bytes + 1):
            number += 1
            self._count(raw)
            yield number, raw

    def _narrowed(self) -> Iterator[bytes]:
        """Yield the lines of a file in UTF-16 or UTF-32, which spreadsheets call "Unicode text"."""
        decoder = codecs.getincrementaldecoder(self._encoding)("strict")
        rest = ""
        while True:
            raw = self._stream.read(_PIECE_BYTES)
            self._count(raw)
            try:
                rest += decoder.decode(raw, final=not raw)
            except UnicodeDecodeError:
                self._problems.stop(f"is not {self._encoding[:6].upper()}, although it begins so", allowed="UTF-8")
            *whole, rest = rest.split("\n")
            yield from ((line + "\n").encode("utf-8", "surrogatepass") for line in whole)
            if not raw:
                if rest:
                    yield rest.encode("utf-8", "surrogatepass")
                return

    def _count(self, raw: bytes) -> None:
        self._bytes += len(raw)
        self._hash.update(raw)
        if self._bytes > self._limits.max_bytes:
            self._problems.stop(
                f"is larger than {self._limits.max_bytes} bytes", allowed=f"at most {self._limits.max_bytes} bytes"
            )

    def _decode(self, raw: bytes, line: int) -> str | None:
        """Return the text of `raw`, which begins in `line`; None after noting a problem."""
        if line == 1:
            while raw.startswith(_UTF8_MARK):  # programs that add one to a file that has one
                raw = raw.removeprefix(_UTF8_MARK)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            bad_line = line + error.object[: error.start].count(b"\n")
            value = error.object[max(0, error.start - 10) : error.end + 10].decode("latin-1")
            self._problems.note(
                "is not UTF-8 (saved as Latin-1 or Windows-1252?)", Place(line=bad_line), value=value, allowed="UTF-8"
            )
            return None
        at = text.find("\x00")
        if at >= 0:
            bad_line = line + text.count("\n", 0, at)
            value = text[max(0, at - 10) : at + 11]
            self._problems.note("contains a NUL byte", Place(line=bad_line), value=value, allowed="UTF-8 text")
            return None
        return text

    def _whole(self) -> bytes:
        raw = self._stream.read(self._limits.max_bytes + 1)
        self._count(raw)
        return raw

    # --- JSON

    def _json(self) -> None:
        text = self._decode(
            b"".join(raw for _, raw in self._lines()) if self._encoding != "utf-8" else self._whole(), 1
        )
        if text is None:
            raise ReadingStopped
        document = self._parse(text, Place(pointer=""))
        if document is _NOT_KEPT:
            self._problems.stop(
                "contains too many objects", Place(pointer=""), allowed="flat images with a few fields each"
            )
        if isinstance(document, list):
            self._problems.stop("is a list", Place(pointer=""), allowed='an object with "clientName" and "images"')
        if not isinstance(document, dict):
            self._problems.stop(
                "is not an object", Place(pointer=""), value=document, allowed='an object with "images"'
            )
        images = document.pop("images", None)
        self._checks.take_header(document, Place(pointer=""))
        if not isinstance(images, list):
            reason = "is missing" if images is None else "is not a list"
            place = Place(pointer="/images")
            self._problems.stop(reason, place, field="images", value=images, allowed="a list of images")
        for index, item in enumerate(images):
            self._checks.take_image(item, Place(pointer=f"/images/{index}"))

    def _json_lines(self) -> None:
        for number, raw in self._lines():
            place = Place(line=number)
            known = len(self._problems)
            text = self._decode(raw, number)
            if text is not None and not text.strip():
                continue
            item = None if text is None else self._parse(text, place)
            broken = len(self._problems) > known
            if self._checks.header is None:
                if isinstance(item, dict) and ("clientName" in item or "url" not in item):
                    self._checks.take_header(item, place)
                    continue
                if not broken:
                    self._problems.note("is not a header", place, value=item, allowed='a first line {"clientName": …}')
                self._checks.header = dict.fromkeys(HEADER_FIELDS)
                self._checks.refused = set(HEADER_FIELDS)
                broken = not isinstance(item, dict)  # an object is an image: check it as one
            if not broken:
                self._checks.take_image(item, place)

    def _object(self, pairs: list[tuple[str, Any]]) -> Fields:
        """Return one more JSON object.

        Bounded while parsing: `{},{},…` would take 160 bytes of memory for each object.

        Above the bound, only an object with more images than allowed is kept: that is the manifest itself.
        """
        self._objects += 1
        if self._objects > 2 * (self._limits.max_images + self._limits.max_problems) + 100 and not any(
            isinstance(value, list) and len(value) > self._limits.max_images for _, value in pairs
        ):
            return _NOT_KEPT
        return Fields(pairs)

    def _parse(self, text: str, place: Place) -> Any:
        """Return the parsed JSON; None after a syntax error. Hostile nesting is refused.

        NaN and Infinity pass here, because no field accepts them: each is refused later with its pointer and field. A
        hook that refused them here would not know where they are, and would hide all other problems of a JSON.
        """
        self._objects = 0
        text = text.rstrip("\r\n")  # otherwise the error of a truncated line would name the next one
        allowed = "a JSON object" if place.line is None else "a JSON object in one line"
        try:
            document = json.loads(text, object_pairs_hook=self._object, parse_int=_int)
        except json.JSONDecodeError as error:
            line = place.line or error.lineno
            excerpt = text[max(0, error.pos - 20) : error.pos + 20]
            reason = f"is not JSON: {_why_not_json(text, error)} at column {error.colno}"
            if place.line is None and error.msg == "Extra data" and text.lstrip().startswith("{"):
                allowed = "one JSON object; if each line is an object of its own, name the file .jsonl"
            self._problems.note(reason, Place(line=line), value=excerpt, allowed=allowed)
        except RecursionError:
            self._problems.note("is nested too deeply", place, allowed="an object with a list of flat objects")
        except ValueError as error:
            self._problems.note(f"is not JSON: {error}", place, allowed=allowed)
        else:
            return document
        if place.line is None:
            raise ReadingStopped
        return None

    # --- tables

    def _csv(self) -> None:
        lines = self._texts()
        header = self._header_line(lines)
        if header is None:
            return  # nothing but empty lines
        started, first, lines = header
        if (whole := tables.unwrapped(first)) is not None:  # rows that stand in one cell each, opened so and saved
            first, lines = whole, ((number, line and (tables.unwrapped(line) or line)) for number, line in lines)
        if self._separator is None or tables.known_columns(first.split(self._separator)) < tables.MIN_COLUMNS:
            self._separator = tables.separator_of(first)  # a line `sep=` may stem from before the cells were saved anew
        number = started

        def text() -> Iterator[str]:
            nonlocal number
            yield first
            for number, line in lines:
                if line is None and not stands_alone(number, started):
                    self._problems.leave_rest_unread()
                yield line or ""

        def stands_alone(number: int, started: int) -> bool:
            """Whether the row is this one line, with no quote left open that the next lines would belong to."""
            return number == started and self._raw.count(b'"') % 2 == 0

        rows = csv.reader(text(), delimiter=self._separator, strict=True, skipinitialspace=True)
        columns: list[str] | None = None
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                reason = str(error).partition(" - ")[0]  # the rest is advice for Python programmers
                allowed = "quotes closed, fields below 128 KiB, lines that end in CR LF or LF"
                self._problems.note(f"is not CSV: {reason}", Place(line=started), allowed=allowed)
                if columns is None or not stands_alone(number, started):
                    self._problems.leave_rest_unread()
                row = []
            if row is None:
                return
            if columns is None:
                columns = self._columns(row, Place(line=started))
            elif any(cell.strip() for cell in row):
                self._take_row(row, columns, Place(line=started))
            started = number + 1

    def _header_line(
        self, lines: Iterator[tuple[int, str | None]]
    ) -> tuple[int, str, Iterator[tuple[int, str | None]]] | None:
        """Return the header's line number and text, and the lines after it.

        The header is the first of 20 lines that names columns, else the first line. A line `sep=` before it names the
        separator, and a title may come before it too.
        """
        seen: list[tuple[int, str]] = []
        for number, line in lines:
            if line is None:
                self._problems.leave_rest_unread()
            named = tables.separator_line(line) if self._separator is None and not seen else None
            if named is not None:
                self._separator = named
                continue
            if line.strip(' \t\r\n,;|"'):
                seen.append((number, line))
            if seen and tables.names_columns(line):
                return number, line, lines
            if len(seen) >= HEADER_LINES:
                break
        if not seen:
            return None
        rest: list[tuple[int, str | None]] = list(seen[1:])
        return (*seen[0], itertools.chain(rest, lines))

    def _texts(self) -> Iterator[tuple[int, str | None]]:
        """Yield a CSV's lines as texts ending in LF; None for a line that is not text, after noting a problem.

        Spreadsheets write Windows-1252 unless they are asked for UTF-8. A file is read as that when its first
        characters beyond ASCII are not UTF-8. Old files end their lines in CR only.
        """
        windows = old = False
        shift = 0  # lines more than the stream's, where these end in CR
        for stream_number, raw in self._lines():
            old = old or (stream_number == 1 and b"\r" in raw.rstrip(b"\r\n"))
            parts = raw.splitlines() if old else [raw]
            for offset, part in enumerate(parts or [raw]):
                self._raw = part
                number = stream_number + shift + offset
                if not windows and self._ascii_so_far and not part.isascii():
                    windows = not self._is_utf8(part, number)
                    self._ascii_so_far = windows
                    self._code_page = _code_page(part)
                text = self._decode_windows(part, number) if windows else self._decode(part, number)
                yield number, None if text is None else text.rstrip("\r\n") + "\n"
            shift += max(0, len(parts) - 1)

    def _is_utf8(self, raw: bytes, number: int) -> bool:
        try:
            raw.decode()
        except UnicodeDecodeError:
            return number == 1 and raw.startswith(_UTF8_MARK)
        return True

    def _decode_windows(self, raw: bytes, line: int) -> str | None:
        try:
            text = raw.decode(self._code_page)
        except UnicodeDecodeError as error:
            value = error.object[max(0, error.start - 10) : error.end + 10].decode("latin-1")
            self._problems.note("is neither UTF-8 nor Windows-1252", Place(line=line), value=value, allowed="UTF-8")
            return None
        return text if "\x00" not in text else self._decode(raw, line)

    def _spreadsheet(self, suffix: str) -> None:
        data = self._whole()
        kind = kind_of(data)
        if not data:
            self._problems.stop("is empty", allowed="a manifest with at least one image")
        if kind != "a zip file or spreadsheet":
            self._problems.stop(
                f"is {kind or 'no spreadsheet'}, although it is called {suffix}", allowed=_ALLOWED_FILES
            )
        try:
            sheet = spreadsheet.sheet_of(data, tables.is_header, self._limits.max_images + self._limits.max_problems)
        except spreadsheet.UnreadableWorkbook as error:
            self._problems.stop(str(error), allowed=_ALLOWED_FILES)
        self._checks.in_sheet = True
        (first, header), *rows = sheet.rows
        columns = self._columns(header, Place(line=first))
        if tables.is_portuguese(header):
            self._separator = ";"  # reports for a Brazilian spreadsheet, which opens no other in columns
        for number, row in rows:
            self._take_row(row, columns, Place(line=number))
        self._checks.seen += sheet.more

    def _columns(self, row: list[str], place: Place) -> list[str]:
        """Return the meaning of each column of the header; notes one problem for each cause."""
        header = tables.header_of(row)
        allowed = "a header line with " + ", ".join(COLUMNS)
        if len(header.missing) == len(REQUIRED) and not header.misspelt:
            self._problems.note("is not a header line: no column of a manifest is in it", place,
                          value=self._separator_name().join(row), allowed=allowed)  # fmt: skip
        elif header.missing:
            reason = "is missing" if len(header.missing) == 1 else "are missing"
            self._problems.note(reason, place, field=", ".join(header.missing), allowed=allowed)
        for written, meant in header.misspelt:
            self._problems.note(f"is not a column: do you mean {meant}?", place, field=short(written),
                          allowed=", ".join(COLUMNS))  # fmt: skip
        for name in header.twice:
            self._problems.note("appears twice", place, field=name, allowed="each column once")
        if self._problems:
            self._problems.leave_rest_unread()
        self._ignored = tuple(short(name) for name in header.unknown)
        self._checks.is_retry = {"index", "batchId"} <= set(header.columns)
        if not self._checks.is_retry and "errorCode" in header.columns:
            self._problems.note(
                "is missing: a failed.csv is known by it", place, field="index", allowed="the columns it had"
            )
        return header.columns

    def _separator_name(self) -> str:
        return self._separator or " "

    def _take_row(self, row: list[str], columns: list[str], place: Place) -> None:
        if tables.is_decoration(row):
            return
        fitted = tables.fitted(row, len(columns))
        if fitted is None or (len(row) < len(columns) and not fitted[columns.index("url")].strip()):
            self._problems.note(f"has {len(row)} fields", place, allowed=f"{len(columns)}, as the header line")
            return
        cells = {name: tables.unquoted(tables.value_of(cell)) for name, cell in zip(columns, fitted, strict=True)
                 if name and cell.strip()}  # fmt: skip
        if not self._checks.is_retry:  # which is our own file: a property may be called NULL
            cells = {name: cell for name, cell in cells.items() if name == "url" or not tables.is_null(cell)}
        for name in [name for name, cell in cells.items() if tables.is_error(cell)]:
            self._problems.note("is a spreadsheet's error, not a value", place, field=name, value=cells.pop(name),
                          allowed="a cell that can be calculated")  # fmt: skip
            if name in REQUIRED:
                return
        same = {name: cells.get(name) for name in SAME_IN_ALL_ROWS}
        if self._first_row is None:
            self._checks.take_header(same, place)
            self._first_row = same
        for name, value in same.items():
            if value is not None and value != self._first_row[name] and name not in self._checks.refused:
                first = self._first_row[name] or ""
                self._problems.note("differs from the first row", place, field=name, value=value, allowed=shown(first))
        index = self._index(cells, place) if self._checks.is_retry else None
        self._checks.take_image({name: value for name, value in cells.items() if name in IMAGE_FIELDS}, place, index)

    def _index(self, cells: Mapping[str, str], place: Place) -> int | None:
        """Return the number of an image that is to be retried."""
        text = cells.get("index", "")
        match = _INDEX.fullmatch(text)
        if match and int(match[1]) not in self._indexes:
            self._indexes.add(int(match[1]))
            return int(match[1])
        if match:
            self._problems.note("appears twice", place, field="index", value=text, allowed="one row for each image")
            return None
        self._problems.note(
            "is no image's number", place, field="index", value=text, allowed="the number failed.csv had"
        )
        return None


def _code_page(raw: bytes) -> str:
    """Return the encoding of a line: the first whose other characters belong to our languages; else Windows's."""
    for encoding in _CODE_PAGES:
        try:
            other = {character for character in raw.decode(encoding) if not character.isascii()}
        except UnicodeDecodeError:
            continue
        if other <= _LETTERS:
            return encoding
    return _CODE_PAGES[0]


def _why_not_json(text: str, error: json.JSONDecodeError) -> str:
    """Return the parser's reason, or a clearer one for common mistakes."""
    before = text[: error.pos].rstrip()
    if before.endswith(",") and text[error.pos : error.pos + 1] in ("}", "]"):
        return "there is a comma too many"
    if text[error.pos : error.pos + 1] == "'":
        return "texts are written in double quotes, not in single ones,"
    if text[error.pos : error.pos + 2] in ("//", "/*") or text[error.pos : error.pos + 1] == "#":
        return "JSON knows no comments,"
    return error.msg.removesuffix(" at")


def _int(digits: str) -> float:
    """Return a number of any length. One with thousands of digits is refused later, with its place in the file."""
    return int(digits) if len(digits) < 400 else float(digits)
