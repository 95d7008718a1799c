"""Manifests as tables: which row is the header, what its columns are called, what a cell means.

Spreadsheets and databases write what they like: other separators, `sep=` lines, empty rows before the header, columns
of their own, cells that say NULL, rows without their last, empty cells. Whatever has one meaning is read as that.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.vocabulary import plain

COLUMNS: Final = (
    "clientName", "url", "propertyCode", "roomType", "designStyle", "priority", "batchId", "cache", "failureThreshold",
)  # fmt: skip
REQUIRED: Final = ("clientName", "url", "roomType", "designStyle")
SAME_IN_ALL_ROWS: Final = ("clientName", "batchId", "priority", "cache", "failureThreshold")
# Columns of our own failed.csv: they name the images of a batch that are to be tried again (`index`), and why.
RETRY_COLUMNS: Final = ("index", "errorCode", "errorMessage")

# Other names of the columns, as `plain` leaves them; a space matters as little as a hyphen.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "clientName": ("client", "customer", "customer name", "cliente", "nome do cliente", "imobiliaria", "nome cliente"),
    "url": (
        "photo", "photo url", "image", "image url", "link", "address", "foto", "url da foto", "link da foto", "imagem",
        "url da imagem", "link da imagem", "endereco da foto", "endereco", "arquivo", "file", "caminho",
    ),
    "propertyCode": (
        "property", "property id", "code", "reference", "ref", "listing", "listing id", "codigo", "codigo do imovel",
        "imovel", "referencia", "cod imovel", "codigo imovel", "cod",
    ),
    "roomType": ("room", "type of room", "comodo", "tipo de comodo", "ambiente", "tipo de ambiente", "tipo comodo"),
    "designStyle": ("style", "design", "estilo", "estilo de design", "decoracao", "estilo de decoracao"),
    "priority": ("tier", "prioridade", "urgencia"),
    "batchId": ("batch", "lote", "id do lote", "codigo do lote"),
    "cache": ("use cache", "usar cache", "reaproveitar"),
    "failureThreshold": ("threshold", "limite de falhas", "tolerancia de falhas"),
    "index": ("indice", "image index"),
    "errorCode": ("codigo do erro", "codigo de erro", "error code"),
    "errorMessage": ("mensagem de erro", "mensagem do erro", "error message"),
}  # fmt: skip


def _key(text: str) -> str:
    return plain(text).replace(" ", "")


_KNOWN: Final = {_key(name): name for name in (*COLUMNS, *RETRY_COLUMNS)} | {
    _key(alias): name for name, aliases in _ALIASES.items() for alias in aliases
}
_SEPARATORS: Final = (",", ";", "\t", "|")
_SEPARATOR_LINE: Final = re.compile(r'\s*"?sep=(\\t|.)"?[;,\t\s]*$', re.IGNORECASE)
_NULLS: Final = frozenset(
    {"null", "(null)", "<null>", "[null]", "\\n", "nil", "none", "nan", "undefined", "n/a", "#n/a", "#n/d"}
)
_ERRORS: Final = frozenset(
    {
        "#ref!",
        "#value!",
        "#valor!",
        "#name?",
        "#nome?",
        "#div/0!",
        "#num!",
        "#núm!",
        "#null!",
        "#nulo!",
        "#getting_data",
    }
)
YES_NO: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "x", "ok", "sim", "s", "verdadeiro", "v", "ligado"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "nao", "falso", "desligado"), False),
}
_NEAR: Final = 0.8  # of difflib: one letter more, less or other in an ordinary column name


class Header(msgspec.Struct, frozen=True):
    """A header row: each cell's column ("" for one that is read past), what is wrong, and what is read past."""

    columns: list[str]
    missing: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    misspelt: tuple[tuple[str, str], ...] = ()  # (as written, the column it may mean)
    unknown: tuple[str, ...] = ()


def separator_line(text: str) -> str | None:
    """The separator that a first line `sep=;` names; None when it is no such line."""
    match = _SEPARATOR_LINE.fullmatch(text.strip("\ufeff\r\n"))
    if match is None:
        return None
    return "\t" if match[1] == "\\t" else match[1]


def separator_of(header: str) -> str:
    """What separates the cells of a header line: that which makes most known columns of it."""

    def worth(separator: str) -> tuple[int, int]:
        try:
            row = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:
            row = header.split(separator)
        return known_columns(row), header.count(separator)

    return max(_SEPARATORS, key=worth)


def known_columns(row: Sequence[str]) -> int:
    """How many cells of a row name a column."""
    return len({_KNOWN[_key(cell)] for cell in row if _key(cell) in _KNOWN})


def is_header(row: Sequence[str]) -> bool:
    """Whether a row is a header: a photo's column and another one. Rows of values name no two columns."""
    names = {_KNOWN.get(_key(cell)) for cell in row}
    return "url" in names and len(names - {None}) >= 2


def header_of(row: Sequence[str]) -> Header:
    """Read a header row."""
    columns = [_KNOWN.get(_key(cell), "") for cell in row]
    present = set(columns)
    unknown: list[str] = []
    misspelt: list[tuple[str, str]] = []
    for cell, column in zip(row, columns, strict=True):
        if column or not cell.strip():
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
        twice=tuple(dict.fromkeys(name for name in columns if name and columns.count(name) > 1)),
        misspelt=tuple(misspelt),
        unknown=tuple(unknown),
    )


def fitted(row: Sequence[str], width: int) -> list[str] | None:
    """The row with as many cells as the header: empty ones left out at its end are added, surplus ones dropped.

    None when a surplus cell has a value: then some separator stands where none is meant.
    """
    if any(cell.strip() for cell in row[width:]):
        return None
    return [*row[:width], *[""] * (width - len(row))]


def is_null(cell: str) -> bool:
    """Whether a cell is one of the words by which databases and programs write that there is nothing."""
    return cell.strip().lower() in _NULLS


def is_error(cell: str) -> bool:
    """Whether a cell holds a spreadsheet's own error instead of a value."""
    return cell.strip().lower() in _ERRORS


# --- formulas: what spreadsheets evaluate, when a cell, or what another separator makes a cell of, begins with it

_FORMULA_STARTS: Final = "=+\\-@\t\r\n"
_CELL_START: Final = r"(^|[,;\t|\r\n])"
_UNSAFE: Final = re.compile(rf"{_CELL_START}('*)(?=[{_FORMULA_STARTS}])")
_SAFE: Final = re.compile(rf"{_CELL_START}('*)'(?=[{_FORMULA_STARTS}])")


def neutral(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, by whatever separator it splits; `unquoted` undoes it."""
    return _UNSAFE.sub(r"\1'\2", cell)


def unquoted(cell: str) -> str:
    """The cell that `neutral` made safe."""
    return _SAFE.sub(r"\1\2", cell)
