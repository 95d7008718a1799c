"""Manifests as tables: which row is the header, what its columns mean, what a cell means.

Spreadsheets and databases write many variants: other separators, `sep=` lines, empty rows before the header, extra
columns, cells that say NULL, rows without their last empty cells. Everything with exactly one meaning is accepted.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.manifest.fields import ALIASES, COLUMNS, REQUIRED, RETRY_COLUMNS
from shared.manifest.vocabulary import plain


def _key(text: str) -> str:
    return plain(text).replace(" ", "")


_KNOWN: Final = {_key(name): name for name in (*COLUMNS, *RETRY_COLUMNS)} | {
    _key(alias): name for name, aliases in ALIASES.items() for alias in aliases
}
_SEPARATORS: Final = (",", ";", "\t", "|")
_SEPARATOR_LINE: Final = re.compile(r'\s*"?sep=(\\t|.)"?[;,\t\s]*$', re.IGNORECASE)
MIN_COLUMNS: Final = 2  # known columns that make a line a header: rows of values name no two
_WRAPPED: Final = re.compile(r'\s*"((?:[^"]|"")*)"[;,|\t ]*')
_NULLS: Final = frozenset(
    {
        "null",
        "(null)",
        "<null>",
        "[null]",
        "\\n",
        "nil",
        "none",
        "nan",
        "undefined",
        "n/a",
        "#n/a",
        "#n/d",
        "n/d",
        "nd",
        "-",
        "--",
        "vazio",
        "(vazio)",
        "(blank)",
        "nulo",
        "[object object]",
    }
)
# "#REF!", "#NOME?", "#ESPALHAMENTO!", "Err:508", "Loading...", a cell too narrow for its number.
_ERROR: Final = re.compile(
    r"#[^\W\d_][\w/]{1,20}[!?]|#\w+/\d!|#getting_data|err:\d{3}|loading\.\.\.|#{3,}", re.IGNORECASE
)
_DASHES: Final = re.compile(r"[-=+]{3,}")
_ROWS: Final = re.compile(r"\(?\d+ (rows?|linhas?)\b.*", re.IGNORECASE)
_LITERAL: Final = re.compile(r'="([^"]*)"')  # ="00123": how a text that looks like a number is kept one
_NAMED_LINK: Final = re.compile(r".{1,200} \((https?://\S+)\)")  # room.jpg (https://…): attachments of Airtable
_PORTUGUESE: Final = frozenset(
    {"cliente", "foto", "imagem", "comodo", "ambiente", "estilo", "imovel", "codigo", "prioridade"}
)
_YES: Final = (
    "true", "t", "yes", "y", "on", "1", "1 0", "1,0", "x", "ok", "checked", "enabled", "sim", "s", "verdadeiro", "v",
    "ligado", "ativado",
)  # fmt: skip
_NO: Final = (
    "false", "f", "no", "n", "off", "0", "0 0", "0,0", "unchecked", "disabled", "nao", "falso", "desligado",
    "desativado",
)  # fmt: skip
YES_NO: Final[Mapping[str, bool]] = {
    **dict.fromkeys(_YES, True),
    **dict.fromkeys(_NO, False),
}
_NEAR: Final = 0.8  # of difflib: one letter more, less or other in an ordinary column name


class Header(msgspec.Struct, frozen=True):
    """A header row: the column of each cell ("" for an ignored one), what is wrong, and what is ignored."""

    columns: list[str]
    missing: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    misspelt: tuple[tuple[str, str], ...] = ()  # (as written, the column it may mean)
    unknown: tuple[str, ...] = ()


def separator_line(text: str) -> str | None:
    """Return the separator that a first line `sep=;` names; None for any other line."""
    match = _SEPARATOR_LINE.fullmatch(text.strip("\ufeff\r\n"))
    if match is None:
        return None
    return "\t" if match[1] == "\\t" else match[1]


def unwrapped(line: str) -> str | None:
    """Return the row of a line whose cells are all inside one quoted cell; None for any other line."""
    match = _WRAPPED.fullmatch(line.rstrip("\r\n"))
    inner = match[1].replace('""', '"') if match else ""
    return inner + "\n" if any(separator in inner for separator in _SEPARATORS) else None


def separator_of(header: str) -> str:
    """Return the separator of a header line: the one that yields the most known columns."""
    return max(_SEPARATORS, key=lambda separator: (known_columns(_cells(header, separator)), header.count(separator)))


def names_columns(line: str) -> bool:
    """Return whether a line names enough columns to be a header."""
    return known_columns(_cells(line, separator_of(line))) >= MIN_COLUMNS


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return line.split(separator)


def known_columns(row: Sequence[str]) -> int:
    """How many cells of a row name a column."""
    return len({_KNOWN[_key(cell)] for cell in row if _key(cell) in _KNOWN})


def is_header(row: Sequence[str]) -> bool:
    """Whether a row is a header: a photo's column and another one. Rows of values name no two columns."""
    names = {_KNOWN.get(_key(cell)) for cell in row}
    return "url" in names and len(names - {None}) >= 2


def is_portuguese(row: Sequence[str]) -> bool:
    """Whether a header's columns have Portuguese names."""
    return any(not _PORTUGUESE.isdisjoint(plain(cell).split()) for cell in row)


def value_of(cell: str) -> str:
    """Return a cell's text without what programs write around it."""
    cell = cell.strip()
    literal, link = _LITERAL.fullmatch(cell), _NAMED_LINK.fullmatch(cell)
    return literal[1] if literal else link[1] if link else cell


def _best(row: Sequence[str], name: str) -> int:
    """Return which of several columns with one meaning to use.

    The field's own name goes first, then its aliases in the order of the table.
    """
    ranks = {_key(alias): rank for rank, alias in enumerate(ALIASES.get(name, ()))} | {_key(name): -1}
    return min(
        (number for number, cell in enumerate(row) if _KNOWN.get(_key(cell)) == name),
        key=lambda number: ranks[_key(row[number])],
    )


def header_of(row: Sequence[str]) -> Header:
    """Read a header row. If two columns may hold the photo, or the property, the plainer name is used."""
    columns = [_KNOWN.get(_key(cell), "") for cell in row]
    for name in ("url", "propertyCode"):
        if len({_key(cell) for cell, column in zip(row, columns, strict=True) if column == name}) > 1:
            best = _best(row, name)
            columns = [column if column != name or number == best else "" for number, column in enumerate(columns)]
    present = set(columns)
    unknown: list[str] = []
    misspelt: list[tuple[str, str]] = []
    for cell, column in zip(row, columns, strict=True):
        if column or not cell.strip():
            continue
        if _key(cell) in _KNOWN:
            unknown.append(cell)
            continue
        near = difflib.get_close_matches(_key(cell), _KNOWN, n=1, cutoff=_NEAR)
        if near and _KNOWN[near[0]] not in present and _KNOWN[near[0]] not in RETRY_COLUMNS:
            misspelt.append((cell, _KNOWN[near[0]]))
        else:
            unknown.append(cell)
    meant = {column for _, column in misspelt}
    return Header(
        columns,
        missing=tuple(name for name in REQUIRED if name not in present and name not in meant),
        twice=tuple(
            dict.fromkeys(_written(row, columns, name) for name in columns if name and columns.count(name) > 1)
        ),
        misspelt=tuple(misspelt),
        unknown=tuple(unknown),
    )


def _written(row: Sequence[str], columns: Sequence[str], name: str) -> str:
    """Return a column's name, with the spelling in the file if that differs."""
    cells = dict.fromkeys(cell.strip() for cell, column in zip(row, columns, strict=True) if column == name)
    return name if set(cells) == {name} or len({_key(cell) for cell in cells}) == 1 else f"{name} ({', '.join(cells)})"


def fitted(row: Sequence[str], width: int) -> list[str] | None:
    """Return the row with as many cells as the header: missing empty cells are added, surplus ones dropped.

    None when a surplus cell has a value: there is a separator where none belongs.
    """
    if any(cell.strip() for cell in row[width:]):
        return None
    return [*row[:width], *[""] * (width - len(row))]


def is_decoration(row: Sequence[str]) -> bool:
    """Return whether a row is decoration by a query tool: a line of dashes, or the number of rows."""
    filled = [cell.strip() for cell in row if cell.strip()]
    return all(_DASHES.fullmatch(cell) for cell in filled) or (len(filled) == 1 and bool(_ROWS.fullmatch(filled[0])))


def is_null(cell: str) -> bool:
    """Return whether a cell is a word by which databases and programs express that there is no value."""
    return cell.strip().lower() in _NULLS


def is_error(cell: str) -> bool:
    """Return whether a cell contains a spreadsheet's own error instead of a value."""
    return _ERROR.fullmatch(cell.strip()) is not None


# --- formulas: what spreadsheets evaluate, when a cell, or what another separator makes a cell of, begins with it

_FORMULA_STARTS: Final = "=+\\-@\t\r\n"
_CELL_START: Final = r"(^|[,;\t|\r\n])"
_UNSAFE: Final = re.compile(rf"{_CELL_START}('*)(?=[{_FORMULA_STARTS}])")
_SAFE: Final = re.compile(rf"{_CELL_START}('*)'(?=[{_FORMULA_STARTS}])")


def neutral(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula, whatever separator it uses; `unquoted` reverses it."""
    return _UNSAFE.sub(r"\1'\2", cell)


def unquoted(cell: str) -> str:
    """Return the cell that `neutral` made safe, as it was before."""
    return _SAFE.sub(r"\1\2", cell)
