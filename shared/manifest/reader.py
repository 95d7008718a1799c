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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, Final, NoReturn

import msgspec

from shared.errors import NEAREST, BadSource, ManifestRejected, Problem
from shared.manifest import spreadsheet, tables
from shared.manifest.fields import COLUMNS, FIELDS, HEADER_FIELDS, IMAGE_FIELDS, REQUIRED, SAME_IN_ALL_ROWS
from shared.manifest.sources import ALLOWED, SourceRules, resolve
from shared.manifest.vocabulary import ROOM_NAMES, STYLE_NAMES, TIER_NAMES, Vocabulary, plain
from shared.model import FailureThreshold, Tier
from shared.settings import ManifestLimits
from shared.untrusted.kinds import kind_of
from shared.untrusted.text import client_slug, is_hostile, shortened

SUFFIXES: Final = (".json", ".jsonl", ".csv", *spreadsheet.SUFFIXES)
FILE_NAMES: Final = f"ending in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
_SAVE_AS: Final = "save it as .xlsx, .ods or CSV"
_INSTEAD: Final = {  # of files by their ending
    "txt": "name it .csv: tabs are understood", "tsv": "name it .csv: tabs are understood", "ndjson": "name it .jsonl",
    "xls": _SAVE_AS, "xlsm": _SAVE_AS, "xlsb": _SAVE_AS, "xlt": _SAVE_AS, "xltx": _SAVE_AS, "fods": _SAVE_AS,
    "numbers": "export it as .xlsx or CSV", "gz": "unpack it first", "zip": "unpack it first",
}  # fmt: skip

MAX_NAME_CHARACTERS: Final = 200  # client names and property codes: longer ones are pasted by mistake
MAX_VALUE_SHOWN: Final = 80  # of an offending value, so that an error report stays readable
BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
BATCH_ID_ALLOWED = "1 to 64 letters, digits, '_', '-' or '.', starting with a letter or digit"
_THRESHOLD = re.compile(r"(\d{1,6}(?:[.,]\d{1,3})?)\s*(%(?:\s*(?:of|de)\s*(\d{1,6}))?)?")
_WIDE_MARKS: Final = {  # UTF-32 first: its mark begins as that of UTF-16
    b"\xff\xfe\x00\x00": "utf-32-le", b"\x00\x00\xfe\xff": "utf-32-be", b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}  # fmt: skip
_WIDE_NULS: Final = {"0x0x0x0x": "utf-16-be", "x0x0x0x0": "utf-16-le", "000x000x": "utf-32-be", "x000x000": "utf-32-le"}
MORE_THAN_LISTED: Final = "more problems than"  # begins the last problem of a list that is cut
_UTF8_MARK: Final = "\ufeff".encode()
_NEEDED: Final = {  # what would do in a field that may not be left out
    "url": "an https:// address, or a path beside the manifest", "clientName": "the customer's name",
}  # fmt: skip
_ALLOWED_FILES: Final = "JSON, JSON Lines or CSV as text, or a spreadsheet (.xlsx, .ods)"
_PIECE_BYTES: Final = 64 * 1024
HEADER_LINES: Final = 20  # a header is looked for so far down, as in a spreadsheet
_INDEX: Final = re.compile(r"(\d{1,7})(?:[.,]0+)?")
_DECIMAL: Final = re.compile(r"\d{1,6}[.,]?\d{0,6}")
_FILE: Final = re.compile(r"\.[A-Za-z0-9]{3,5}$")
_CODE_PAGES: Final = ("cp1252", "mac_roman", "cp850")  # of Windows, of old Macs, of MS-DOS
_LETTERS: Final = frozenset("áàâãäåéèêëíìîïóòôõöúùûüçñýÿÁÀÂÃÄÅÉÈÊËÍÌÎÏÓÒÔÕÖÚÙÛÜÇÑºª°§²³€–—‘’“”•…«»´¡¿·\xa0")


def in_words(problems: Sequence[Problem]) -> list[tuple[str, int]]:
    """Return sentences for people, each with the number of its problems: one cause in 10,000 rows is one sentence.

    Problems of one cause differ only in place and value. The sentence names the first place and the first three values.
    """
    causes: dict[tuple[str, str | None, str | None], list[Problem]] = {}
    for problem in problems:
        causes.setdefault((problem.reason, problem.field, problem.allowed), []).append(problem)
    found = []
    for alike in causes.values():
        values = list(dict.fromkeys(problem.value for problem in alike if problem.value is not None))
        last = f"{len(values) - 3:,} other{'s' if len(values) > 4 else ''}" if len(values) > 3 else values[-1:]
        first = values[:3] if len(values) > 3 else values[:-1]
        shown = f"{', '.join(first)} and {''.join(last)} " if len(values) > 1 else None
        found.append((alike[0].in_words(shown, len(alike) - 1), len(alike)))
    return found


class ManifestImage(msgspec.Struct, frozen=True):
    """One photo to stage. `source` is its absolute URI.

    The others are for retries. `index` is the image's number in its batch. `unchecked` says why its address would be
    refused as a new one; the image may already have it. `path` is the address as written, if that is a path beside the
    file.
    """

    source: str
    room_type: str
    design_style: str
    property_code: str | None = None
    index: int | None = None
    unchecked: str | None = None
    path: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was read without problems.

    `client` is the slug of `client_name`; `sha256` is that of the file's bytes.

    `separator` separates a CSV's cells; reports use it too, so that they open in the same program. `is_retry` says that
    the file is a round's failed.csv, whose images are to be retried in their own batch. `ignored` are unknown columns.
    """

    client_name: str
    client: str
    images: tuple[ManifestImage, ...]
    sha256: str
    tier: Tier = Tier.NORMAL
    batch_id: str | None = None
    cache: bool = True
    threshold: FailureThreshold | None = None
    separator: str | None = None
    is_retry: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def batch(self) -> str:
        """The batch's id everywhere: `<client>.<batchId>`.

        Without a batchId, a hash of client and content takes its place.
        """
        return batch_of(self.client, self.batch_id, self.sha256)


def wrong_name(name: str) -> Problem:
    """Return the problem of a file whose name ends in none of `SUFFIXES`, with what to do about it."""
    instead = _INSTEAD.get(name.rpartition(".")[2].lower(), f"a name {FILE_NAMES}")
    return Problem("is not a manifest by its name", allowed=instead)


def batch_of(client: str, batch_id: str | None, sha256: str) -> str:
    """Return the id of a client's batch; see `Manifest.batch`.

    The hash has 16 hex digits: a collision within one client needs billions of manifests.
    """
    return f"{client}.{batch_id or hashlib.sha256(f'{client} {sha256}'.encode()).hexdigest()[:16]}"


def read(stream: BinaryIO, name: str, limits: ManifestLimits, rules: SourceRules) -> Manifest:
    """Read the manifest in `stream` (seekable, buffered); `name` ends in one of `SUFFIXES`.

    Raises `ManifestRejected`.
    """
    return _Reader(stream, name, limits, rules).read()


def rejected_id(client: str, name: str, generation: int) -> str:
    """Return the id of a rejected object. A batchId cannot contain "~", so no accepted batch has such an id."""
    return f"{client}.rejected~{hashlib.sha256(f'{name} {generation}'.encode()).hexdigest()[:16]}"


class _Place(msgspec.Struct, frozen=True):
    """A place in the file: a line, or a JSON pointer."""

    line: int | None = None
    pointer: str | None = None

    def at(self, field: str) -> _Place:
        return self if self.pointer is None else _Place(pointer=f"{self.pointer}/{_pointer(field)}")


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys appear more than once."""

    __slots__ = ("twice",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice: tuple[str, ...] = ()
        if len(self) < len(pairs):
            self.twice = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)


_NOT_KEPT: Final = _Object([])  # stands for every object of a JSON that has far too many


class _Stop(Exception):
    """Reading on is useless: the problems found so far are reported."""


class _Reader:
    """Reads one manifest of any format, and collects its problems until reading on is useless."""

    def __init__(self, stream: BinaryIO, name: str, limits: ManifestLimits, rules: SourceRules) -> None:
        self._stream = stream
        self._name = name
        self._limits = limits
        self._rules = rules
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._objects = 0  # JSON objects met in what is parsed
        self._seen = 0  # images met so far, bad ones too
        self._problems: list[Problem] = []
        self._images: list[ManifestImage] = []
        self._local: list[str] = []  # addresses of photos on this machine, of bad images too
        self._header: dict[str, Any] | None = None  # None until it was read
        self._refused: set[str] = set()  # header fields with a bad value: images need not complain again
        self._misspelt: set[str] = set()  # fields of the object just read that have another spelling: not missing too
        self._first_row: dict[str, str | None] | None = None  # tables: what all rows must repeat, or leave empty
        self._encoding = "utf-8"  # or a wide one
        self._ascii_so_far = True  # CSV: whether another encoding than UTF-8 is possible still
        self._code_page = "cp1252"
        self._in_sheet = False
        self._indexes: set[int] = set()  # of a failed.csv, met so far
        self._separator: str | None = None
        self._ignored: tuple[str, ...] = ()
        self._is_retry = False
        self._rooms: dict[str, str] = {}  # spellings seen, so that 10,000 images cost one look-up each
        self._styles: dict[str, str] = {}

    def read(self) -> Manifest:
        try:
            suffix = next((suffix for suffix in SUFFIXES if self._name.lower().endswith(suffix)), None)
            if suffix is None:
                self._problems.append(wrong_name(self._name))
                raise _Stop
            if suffix in spreadsheet.SUFFIXES:
                self._spreadsheet(suffix)
            else:
                self._sniff()
                {".json": self._json, ".jsonl": self._json_lines, ".csv": self._csv}[suffix]()
            if not self._images and not self._problems:
                self._stop("names no image", allowed=f"1 to {self._limits.max_images:,} images")
            self._note_too_many(exactly=True)
        except _Stop:
            self._note_too_many(exactly=False)
        header = self._header or {}
        client_name = header.get("clientName")
        if self._problems or client_name is None:
            raise ManifestRejected(self._problems, self._local)
        named = {field.attribute: header[field.name] for field in FIELDS if field.attribute}
        return Manifest(
            client=client_slug(client_name),
            images=tuple(self._images),
            sha256=self._hash.hexdigest(),
            separator=self._separator,
            is_retry=self._is_retry,
            ignored=self._ignored,
            **{name: value for name, value in named.items() if value is not None},
        )

    # --- problems

    def _problem(self, reason: str, place: _Place | None = None, *, field: str | None = None, value: Any = None,
                 allowed: str | None = None) -> None:  # fmt: skip
        where = place or _Place()
        shown = None if value is None else _shown(value)
        if len(self._problems) < self._limits.max_problems:
            self._problems.append(Problem(reason, where.line, where.pointer, field, shown, allowed))
        else:
            self._problems.append(Problem(f"{MORE_THAN_LISTED} the {self._limits.max_problems} listed"))
            raise _Stop

    def _stop(self, reason: str, place: _Place | None = None, **more: Any) -> NoReturn:
        self._problem(reason, place, **more)
        raise _Stop

    def _note_too_many(self, *, exactly: bool) -> None:
        """Put the problem of too many images first. `exactly` says that all of them were counted."""
        limit = self._limits.max_images
        if self._seen <= limit:
            return
        reason = f"has {self._seen:,} images" if exactly else f"has more than {limit:,} images"
        del self._problems[self._limits.max_problems + 1 :]
        self._problems.insert(0, Problem(reason, allowed=f"at most {limit:,}; split it into several manifests"))

    def _leave_rest_unread(self) -> NoReturn:
        """Stop after the last problem, and say there that nothing below it was read."""
        last = self._problems[-1]
        self._problems[-1] = msgspec.structs.replace(last, reason=f"{last.reason}; nothing after this line was read")
        raise _Stop

    # --- bytes

    def _sniff(self) -> None:
        """Reject other kinds of files by their first bytes, and recognise UTF-16 and UTF-32."""
        head = self._stream.read(4096)
        self._stream.seek(0)
        if not head.removeprefix(b"\xef\xbb\xbf").strip() and len(head) < 4096:
            self._stop("is empty", allowed="a manifest with at least one image")
        kind = kind_of(head)
        if kind is not None and "JSON" not in kind:
            hints = {"a zip file or spreadsheet": "name it .xlsx or .ods", "an old Excel or Word file": _SAVE_AS}
            self._stop(f"is {kind}, not a manifest", allowed=hints.get(kind, _ALLOWED_FILES))
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
                self._stop(f"is not {self._encoding[:6].upper()}, although it begins so", allowed="UTF-8")
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
            self._stop(
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
            self._problem(
                "is not UTF-8 (saved as Latin-1 or Windows-1252?)", _Place(line=bad_line), value=value, allowed="UTF-8"
            )
            return None
        at = text.find("\x00")
        if at >= 0:
            bad_line = line + text.count("\n", 0, at)
            value = text[max(0, at - 10) : at + 11]
            self._problem("contains a NUL byte", _Place(line=bad_line), value=value, allowed="UTF-8 text")
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
            raise _Stop
        document = self._parse(text, _Place(pointer=""))
        if document is _NOT_KEPT:
            self._stop("contains too many objects", _Place(pointer=""), allowed="flat images with a few fields each")
        if isinstance(document, list):
            self._stop("is a list", _Place(pointer=""), allowed='an object with "clientName" and "images"')
        if not isinstance(document, dict):
            self._stop("is not an object", _Place(pointer=""), value=document, allowed='an object with "images"')
        images = document.pop("images", None)
        self._take_header(document, _Place(pointer=""))
        if not isinstance(images, list):
            reason = "is missing" if images is None else "is not a list"
            place = _Place(pointer="/images")
            self._stop(reason, place, field="images", value=images, allowed="a list of images")
        for index, item in enumerate(images):
            self._take_image(item, _Place(pointer=f"/images/{index}"))

    def _json_lines(self) -> None:
        for number, raw in self._lines():
            place = _Place(line=number)
            known = len(self._problems)
            text = self._decode(raw, number)
            if text is not None and not text.strip():
                continue
            item = None if text is None else self._parse(text, place)
            broken = len(self._problems) > known
            if self._header is None:
                if isinstance(item, dict) and ("clientName" in item or "url" not in item):
                    self._take_header(item, place)
                    continue
                if not broken:
                    self._problem("is not a header", place, value=item, allowed='a first line {"clientName": …}')
                self._header = dict.fromkeys(HEADER_FIELDS)
                self._refused = set(HEADER_FIELDS)
                broken = not isinstance(item, dict)  # an object is an image: check it as one
            if not broken:
                self._take_image(item, place)

    def _object(self, pairs: list[tuple[str, Any]]) -> _Object:
        """Return one more JSON object.

        Bounded while parsing: `{},{},…` would take 160 bytes of memory for each object.

        Above the bound, only an object with more images than allowed is kept: that is the manifest itself.
        """
        self._objects += 1
        if self._objects > 2 * (self._limits.max_images + self._limits.max_problems) + 100 and not any(
            isinstance(value, list) and len(value) > self._limits.max_images for _, value in pairs
        ):
            return _NOT_KEPT
        return _Object(pairs)

    def _parse(self, text: str, place: _Place) -> Any:
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
            self._problem(reason, _Place(line=line), value=excerpt, allowed=allowed)
        except RecursionError:
            self._problem("is nested too deeply", place, allowed="an object with a list of flat objects")
        except ValueError as error:
            self._problem(f"is not JSON: {error}", place, allowed=allowed)
        else:
            return document
        if place.line is None:
            raise _Stop
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
                    self._leave_rest_unread()
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
                self._problem(f"is not CSV: {reason}", _Place(line=started), allowed=allowed)
                if columns is None or not stands_alone(number, started):
                    self._leave_rest_unread()
                row = []
            if row is None:
                return
            if columns is None:
                columns = self._columns(row, _Place(line=started))
            elif any(cell.strip() for cell in row):
                self._take_row(row, columns, _Place(line=started))
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
                self._leave_rest_unread()
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
            self._problem("is neither UTF-8 nor Windows-1252", _Place(line=line), value=value, allowed="UTF-8")
            return None
        return text if "\x00" not in text else self._decode(raw, line)

    def _spreadsheet(self, suffix: str) -> None:
        data = self._whole()
        kind = kind_of(data)
        if not data:
            self._stop("is empty", allowed="a manifest with at least one image")
        if kind != "a zip file or spreadsheet":
            self._stop(f"is {kind or 'no spreadsheet'}, although it is called {suffix}", allowed=_ALLOWED_FILES)
        try:
            sheet = spreadsheet.sheet_of(data, tables.is_header, self._limits.max_images + self._limits.max_problems)
        except spreadsheet.UnreadableWorkbook as error:
            self._stop(str(error), allowed=_ALLOWED_FILES)
        self._in_sheet = True
        (first, header), *rows = sheet.rows
        columns = self._columns(header, _Place(line=first))
        if tables.is_portuguese(header):
            self._separator = ";"  # reports for a Brazilian spreadsheet, which opens no other in columns
        for number, row in rows:
            self._take_row(row, columns, _Place(line=number))
        self._seen += sheet.more

    def _columns(self, row: list[str], place: _Place) -> list[str]:
        """Return the meaning of each column of the header; notes one problem for each cause."""
        header = tables.header_of(row)
        allowed = "a header line with " + ", ".join(COLUMNS)
        if len(header.missing) == len(REQUIRED) and not header.misspelt:
            self._problem("is not a header line: no column of a manifest is in it", place,
                          value=self._separator_name().join(row), allowed=allowed)  # fmt: skip
        elif header.missing:
            reason = "is missing" if len(header.missing) == 1 else "are missing"
            self._problem(reason, place, field=", ".join(header.missing), allowed=allowed)
        for written, meant in header.misspelt:
            self._problem(f"is not a column: do you mean {meant}?", place, field=_short(written),
                          allowed=", ".join(COLUMNS))  # fmt: skip
        for name in header.twice:
            self._problem("appears twice", place, field=name, allowed="each column once")
        if self._problems:
            self._leave_rest_unread()
        self._ignored = tuple(_short(name) for name in header.unknown)
        self._is_retry = {"index", "batchId"} <= set(header.columns)
        if not self._is_retry and "errorCode" in header.columns:
            self._problem("is missing: a failed.csv is known by it", place, field="index", allowed="the columns it had")
        return header.columns

    def _separator_name(self) -> str:
        return self._separator or " "

    def _take_row(self, row: list[str], columns: list[str], place: _Place) -> None:
        if tables.is_decoration(row):
            return
        fitted = tables.fitted(row, len(columns))
        if fitted is None or (len(row) < len(columns) and not fitted[columns.index("url")].strip()):
            self._problem(f"has {len(row)} fields", place, allowed=f"{len(columns)}, as the header line")
            return
        cells = {name: tables.unquoted(tables.value_of(cell)) for name, cell in zip(columns, fitted, strict=True)
                 if name and cell.strip()}  # fmt: skip
        if not self._is_retry:  # which is our own file: a property may be called NULL
            cells = {name: cell for name, cell in cells.items() if name == "url" or not tables.is_null(cell)}
        for name in [name for name, cell in cells.items() if tables.is_error(cell)]:
            self._problem("is a spreadsheet's error, not a value", place, field=name, value=cells.pop(name),
                          allowed="a cell that can be calculated")  # fmt: skip
            if name in REQUIRED:
                return
        same = {name: cells.get(name) for name in SAME_IN_ALL_ROWS}
        if self._first_row is None:
            self._take_header(same, place)
            self._first_row = same
        for name, value in same.items():
            if value is not None and value != self._first_row[name] and name not in self._refused:
                first = self._first_row[name] or ""
                self._problem("differs from the first row", place, field=name, value=value, allowed=_shown(first))
        index = self._index(cells, place) if self._is_retry else None
        self._take_image({name: value for name, value in cells.items() if name in IMAGE_FIELDS}, place, index)

    def _index(self, cells: Mapping[str, str], place: _Place) -> int | None:
        """Return the number of an image that is to be retried."""
        text = cells.get("index", "")
        match = _INDEX.fullmatch(text)
        if match and int(match[1]) not in self._indexes:
            self._indexes.add(int(match[1]))
            return int(match[1])
        if match:
            self._problem("appears twice", place, field="index", value=text, allowed="one row for each image")
            return None
        self._problem("is no image's number", place, field="index", value=text, allowed="the number failed.csv had")
        return None

    # --- fields

    def _take_header(self, fields: Mapping[str, Any], place: _Place) -> None:
        self._unknown(fields, HEADER_FIELDS, place)
        plain_text: Callable[..., Any] = self._text
        readers: dict[str, Callable[..., Any]] = {
            "clientName": self._client_name,
            "batchId": self._batch_id,
            "priority": self._tier,
            "roomType": partial(self._choice, known=ROOM_NAMES),
            "designStyle": partial(self._choice, known=STYLE_NAMES),
            "cache": self._yes_or_no,
            "failureThreshold": self._threshold,
        }
        self._header = {name: readers.get(name, plain_text)(fields, name, place) for name in HEADER_FIELDS}
        self._refused = {
            name for name, value in self._header.items() if value is None and fields.get(name) not in (None, "")
        } | self._misspelt

    def _client_name(self, fields: Mapping[str, Any], field: str, place: _Place) -> str | None:
        name = self._text(fields, field, place, required=True)
        if name and not client_slug(name):
            self._problem("has no letter or digit", place.at(field), field=field, value=name,
                          allowed="a name with at least one of A-Z, 0-9")  # fmt: skip
        return name

    def _batch_id(self, fields: Mapping[str, Any], field: str, place: _Place) -> str | None:
        batch_id = self._text(fields, field, place)
        if batch_id and not BATCH_ID.fullmatch(batch_id):
            self._problem("is not a batch id", place.at(field), field=field, value=batch_id,
                          allowed=BATCH_ID_ALLOWED)  # fmt: skip
        return batch_id

    def _tier(self, fields: Mapping[str, Any], field: str, place: _Place) -> Tier | None:
        tier = self._choice(fields, field, place, TIER_NAMES)
        return Tier(tier) if tier else None

    def _yes_or_no(self, fields: Mapping[str, Any], field: str, place: _Place) -> bool | None:
        value = fields.get(field)
        if isinstance(value, str):
            value = None if not value or tables.is_null(value) else tables.YES_NO.get(plain(value), value)
        if type(value) is int and value in (0, 1):  # as databases have it
            value = bool(value)
        if value is None or isinstance(value, bool):
            return value
        self._problem("is neither yes nor no", place.at(field), field=field, value=value, allowed="true or false")
        return None

    def _threshold(self, fields: Mapping[str, Any], field: str, place: _Place) -> FailureThreshold | None:
        """Return the threshold: a count of images, or a percentage such as "20%".

        A percentage may name its sample: "20% of 50".
        """
        value, place = fields.get(field), place.at(field)
        if value is None or value == "" or (isinstance(value, str) and tables.is_null(value)):
            return None
        value = self._share(value, place)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():  # JSON knows no difference between 50 and 50.0
            value = int(value)
        match = (
            _THRESHOLD.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
        )
        percent = float(match[1].replace(",", ".")) if match and match[2] else None
        sample = int(match[3]) if match and match[3] else None
        if percent is not None and 0 < percent <= 100 and sample != 0:
            return FailureThreshold(percent=percent, minimum_sample=sample)
        if match and not match[2] and match[1].isdigit() and int(match[1]) > 0:
            return FailureThreshold(count=int(match[1]))
        allowed = 'a number of images such as 50, or a percentage such as "20%" or, of at least 50, "20% of 50"'
        self._problem("is not a valid threshold", place, field=field, value=value, allowed=allowed)
        return None

    def _share(self, value: Any, place: _Place) -> Any:
        """Return a threshold as text, where a table has turned "20%" into 0.2.

        None after noting that the value is ambiguous.
        """
        match = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
        number = float(value.replace(",", ".")) if match else None
        if number is None:
            return value
        if self._in_sheet and number == 1:
            reason, allowed = (
                "is one image or 100 %: a sheet writes both so",
                'a text such as "100%", or another number',
            )
            self._problem(reason, place, field="failureThreshold", value=value, allowed=allowed)
            return None
        if 0 < number < 1:
            return f"{number * 100:g}%"
        return str(int(number)) if number.is_integer() else value

    def _take_image(self, item: Any, place: _Place, index: int | None = None) -> None:
        self._seen += 1
        if self._seen > self._limits.max_images:  # only counted, so that the customer knows how to split the file
            return
        if not isinstance(item, dict):
            self._problem("is not an object", place, value=item, allowed='an object with "url"')
            return
        before = len(self._problems)
        self._unknown(item, IMAGE_FIELDS, place)
        source, unchecked, path = self._source(item, place)
        if source and source.startswith("file:") and not path:  # a retry's path may lead elsewhere
            self._local.append(source)
        room = self._cached(self._rooms, item, "roomType", ROOM_NAMES, place)
        style = self._cached(self._styles, item, "designStyle", STYLE_NAMES, place)
        code = self._text(item, "propertyCode", place)
        if len(self._problems) == before and source and room and style:
            self._images.append(ManifestImage(source, room, style, code, index, unchecked, path))

    def _unknown(self, fields: Mapping[str, Any], known: tuple[str, ...], place: _Place) -> None:
        for name in fields.twice if isinstance(fields, _Object) else ():
            self._problem("appears twice", place.at(_short(name)), field=_short(name), allowed="each field once")
        self._misspelt.clear()
        for name in fields:
            if name not in known:
                meant = next((one for one in known if one.lower() == re.sub(r"[\s_-]", "", name).lower()), None)
                allowed = NEAREST + meant if meant else ", ".join(known)
                self._misspelt.update([meant] if meant else ())
                self._problem("is not a field here", place.at(_short(name)), field=_short(name), allowed=allowed)

    def _source(self, item: Mapping[str, Any], place: _Place) -> tuple[str | None, str | None, str | None]:
        """Return the absolute address and, for a retry only, `unchecked` and `path` of `ManifestImage`."""
        url = self._text(item, "url", place, required=True, max_characters=self._limits.max_url_characters)
        if url is None:
            return None, None, None
        if tables.is_null(url) or tables.is_error(url):
            self._problem("is a word for nothing, not an address", place.at("url"), field="url", value=url,
                          allowed=ALLOWED)  # fmt: skip
            return None, None, None
        if self._in_sheet and "://" not in url and not _FILE.search(url):
            self._problem("is not an address: the cell shows the link's text only", place.at("url"), field="url",
                          value=url, allowed="the address itself as the cell's text")  # fmt: skip
            return None, None, None
        try:
            source = resolve(url, self._rules)
        except BadSource as error:
            if self._is_retry:
                return url, error.reason, None
            self._problem(error.reason, place.at("url"), field="url", value=url, allowed=error.allowed)
            return None, None, None
        is_path = self._is_retry and "://" not in url and not url.startswith("/")
        return source, None, url if is_path else None

    def _cached(self, seen: dict[str, str], item: Mapping[str, Any], field: str, names_known: Vocabulary, place: _Place
                ) -> str | None:  # fmt: skip
        value = item.get(field)
        if isinstance(value, str) and value in seen:
            return seen[value]
        if value is None or value == "":
            default = self._header[field] if self._header else None
            if default is None and field not in self._refused and field not in self._misspelt:
                self._problem("is missing here and in the header", place.at(field), field=field,
                              allowed=f"one of {', '.join(names_known.values)}")  # fmt: skip
            return default
        choice = self._choice(item, field, place, names_known)
        if choice is not None and isinstance(value, str):
            seen[value] = choice
        return choice

    def _choice(self, fields: Mapping[str, Any], field: str, place: _Place, known: Vocabulary) -> str | None:
        text = self._text(fields, field, place)
        if text is None:
            return None
        value = known.match(text)
        if value is None:
            nearest = known.nearest(text)
            allowed = NEAREST + ", ".join(nearest) if nearest else "one of " + ", ".join(known.values)
            self._problem("is not known", place.at(field), field=field, value=text, allowed=allowed)
        return value

    def _text(self, fields: Mapping[str, Any], field: str, place: _Place, *, required: bool = False,
              max_characters: int = MAX_NAME_CHARACTERS) -> str | None:  # fmt: skip
        value = fields.get(field)
        if value is None or value == "":
            if required and field not in self._misspelt:
                reason = "is missing" if value is None else "is empty"
                self._problem(reason, place.at(field), field=field, allowed=_NEEDED[field])
            return None
        if not required and not self._is_retry and isinstance(value, str) and tables.is_null(value):
            return None
        if not isinstance(value, str):
            self._problem("is not a string", place.at(field), field=field, value=value, allowed="a quoted string")
            return None
        if len(value) > max_characters:
            self._problem(
                f"has {len(value)} characters",
                place.at(field),
                field=field,
                value=value,
                allowed=f"at most {max_characters}",
            )
            return None
        if is_hostile(value):
            self._problem(
                "contains control characters", place.at(field), field=field, value=value, allowed="printable text"
            )
            return None
        return value


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


def _short(text: str) -> str:
    return shortened(text, MAX_VALUE_SHOWN)


def _pointer(key: str) -> str:
    """Return a key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _shown(value: Any) -> str:
    """Return a value as in JSON, shortened, and safe to print on a terminal."""
    try:
        text = (
            json.dumps(value, ensure_ascii=False)
            if not isinstance(value, str)
            else json.dumps(value[:200], ensure_ascii=False)
        )
    except (ValueError, RecursionError):
        text = type(value).__name__
    return _short(text)


def _int(digits: str) -> float:
    """Return a number of any length. One with thousands of digits is refused later, with its place in the file."""
    return int(digits) if len(digits) < 400 else float(digits)
