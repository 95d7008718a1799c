"""The rows of a spreadsheet file (.xlsx, .ods) as texts, read in a confined subprocess.

A file of some kilobytes may unpack to gigabytes, or repeat one long text in a million cells: memory and time are the
subprocess's, and what it hands back is bounded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, Final

import msgspec

from shared.errors import Unusable
from shared.untrusted.confined import Exceeded, run_confined

SUFFIXES: Final = (".xlsx", ".ods")
_ADDRESS_SPACE_BYTES: Final = 1024 * 1024 * 1024  # 100,000 rows of ten columns need 300 MB
_SECONDS: Final = 60.0
_MAX_COLUMNS: Final = 100
_MAX_CELL_CHARACTERS: Final = 8192  # beyond every limit of a field, so that the field's own limit is what refuses it
_HEADER_ROWS: Final = 20  # a header is looked for this far down in each sheet


class UnreadableWorkbook(Unusable):
    """The file cannot be read; the text says why, as words after "is" or "has"."""


class Sheet(msgspec.Struct, frozen=True):
    """A sheet's rows that are not empty, as texts, each with its number as the spreadsheet shows it.

    `more`: how many came after these, and were only counted.
    """

    name: str
    rows: list[tuple[int, list[str]]]
    more: int = 0


def sheet_of(data: bytes, is_header: Callable[[Sequence[str]], bool], max_rows: int) -> Sheet:
    """Return the first sheet that has a header row, from that row on, `max_rows` below it. Raises `UnreadableWorkbook`.

    `is_header` tells a header row; it must be a module's function, for it is called in the subprocess. Without a
    header anywhere the first sheet that is not empty is returned from its first row.
    """
    try:
        found = run_confined(_ADDRESS_SPACE_BYTES, _SECONDS, _read, data, is_header, max_rows)
    except Exceeded as error:
        raise UnreadableWorkbook(f"cannot be read: {error}") from None
    if isinstance(found, str):
        raise UnreadableWorkbook(found)
    return found


def _read(data: bytes, is_header: Callable[[Sequence[str]], bool], max_rows: int) -> Sheet | str:
    """Run in the subprocess: the sheet, or why there is none."""
    import python_calamine

    try:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        first: Sheet | None = None
        visible = {one.name for one in book.sheets_metadata if one.visible == python_calamine.SheetVisibleEnum.Visible}
        for name in book.sheet_names:
            if name not in visible:
                continue  # what a person does not see is not meant
            rows: list[tuple[int, list[str]]] = []
            headed, more = False, 0
            for number, row in enumerate(book.get_sheet_by_name(name).iter_rows(), start=1):
                texts = [_text(cell) for cell in row[:_MAX_COLUMNS]]
                if not headed and number <= _HEADER_ROWS and is_header(texts):
                    headed, rows = True, []
                if any(texts) and len(rows) <= max_rows:
                    rows.append((number, texts))
                elif any(texts):
                    more += 1
                if not headed and number > _HEADER_ROWS:
                    break
            if headed:
                return Sheet(name, rows, more)
            if first is None and rows:
                first = Sheet(name, rows)
    except python_calamine.PasswordError:
        return "is protected by a password"
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        return f"is no spreadsheet that can be read: {str(error)[:200]}"
    return first or "is empty"


def _text(cell: Any) -> str:
    """A cell as a person reads it: whole numbers without ".0", dates as ISO writes them."""
    if isinstance(cell, str):
        text = cell.strip()
    elif isinstance(cell, bool):
        text = "true" if cell else "false"
    elif isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        text = str(int(cell))
    elif isinstance(cell, datetime):
        midnight = cell.time() == time()
        text = cell.date().isoformat() if midnight else cell.isoformat(sep=" ", timespec="seconds")
    elif isinstance(cell, date | time | timedelta):
        text = str(cell)
    else:
        text = "" if cell is None else str(cell)
    return text[:_MAX_CELL_CHARACTERS]
