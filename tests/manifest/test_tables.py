"""Tables as spreadsheets, databases and people write them."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from collections.abc import Sequence
from typing import Any

import pytest
import xlsxwriter

from shared.errors import ManifestRejected
from shared.manifest import tables
from shared.manifest.fields import ALIASES
from shared.manifest.model import Manifest
from shared.manifest.reader import read
from shared.manifest.sources import SourceRules
from shared.settings import ManifestLimits

RULES = SourceRules(base="gs://intake/manifests/acme/")
HEADER = ["clientName", "url", "propertyCode", "roomType", "designStyle", "priority", "cache"]
ROWS = [["Imobiliária São João", "salão.jpg", "APT-1", "living_room", "modern", "normal", "true"],
        ["Imobiliária São João", "b.jpg", "APT-2", "quarto", "moderno", "normal", "true"]]  # fmt: skip
FOUND = [("salão.jpg", "APT-1", "living_room"), ("b.jpg", "APT-2", "bedroom")]


def taken(raw: bytes, name: str = "a.csv") -> Manifest:
    return read(io.BytesIO(raw), name, ManifestLimits(), RULES)


def reasons(raw: bytes, name: str = "a.csv") -> list[str]:
    with pytest.raises(ManifestRejected) as caught:
        taken(raw, name)
    return [str(problem) for problem in caught.value.problems]


def images(found: Manifest) -> list[tuple[str, str | None, str]]:
    return [(image.source.removeprefix(RULES.base), image.property_code, image.room_type) for image in found.images]


def text(rows: Sequence[Sequence[str]], separator: str = ",", end: str = "\r\n", quote: int = csv.QUOTE_MINIMAL) -> str:
    made = io.StringIO()
    csv.writer(made, delimiter=separator, lineterminator=end, quoting=quote).writerows(rows)
    return made.getvalue()


# --- every way a spreadsheet saves one table: 4 separators x 5 encodings x 4 line ends x 2 quotings x 4 beginnings

SEPARATORS = [",", ";", "\t", "|"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]
ENDS = ["\r\n", "\n", "\r", "\r\r\n"]
QUOTINGS = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL]
BEGINNINGS = ["", "sep", "blank", "marks"]


@pytest.mark.parametrize(("separator", "encoding"), list(itertools.product(SEPARATORS, ENCODINGS)))
def test_every_way_to_save_a_table(separator: str, encoding: str) -> None:
    for end, quoting, beginning in itertools.product(ENDS, QUOTINGS, BEGINNINGS):
        before = {"": "", "sep": f"sep={separator}{end}", "blank": f"{separator * 6}{end}{end}", "marks": ""}[beginning]
        raw = (before + text([HEADER, *ROWS], separator, end, quoting)).encode(encoding)
        if beginning == "marks":
            if not encoding.startswith("utf-8"):
                continue
            raw = b"\xef\xbb\xbf" * 2 + raw
        found = taken(raw)
        assert images(found) == FOUND, (end, quoting, beginning)
        assert found.separator == separator
        assert found.client_name == "Imobiliária São João"


@pytest.mark.parametrize(
    "line", ["sep=;", '"sep=;"', "SEP=;", "Sep=;", " sep=; ", "sep=;;;;;;", "sep=;\t", "\ufeffsep=;"]
)
def test_a_separator_line_in_every_spelling(line: str) -> None:
    found = taken((line + "\r\n" + text([HEADER, *ROWS], ";")).encode())
    assert images(found) == FOUND


def test_a_separator_line_goes_before_what_the_header_looks_like() -> None:
    header = ["clientName", "url", "propertyCode", "roomType", "designStyle", "a,b,c,d,e,f,g,h"]
    raw = ("sep=;\r\n" + text([header, ["Acme", "a.jpg", "1", "den", "boho", ""]], ";")).encode()
    assert taken(raw).separator == ";"


# --- cells at the ends of rows


@pytest.mark.parametrize("keep", range(5, 8))
@pytest.mark.parametrize("surplus", range(4))
def test_empty_cells_may_be_missing_or_too_many_at_a_rows_end(keep: int, surplus: int) -> None:
    short = ROWS[1][:keep] + ([""] * surplus if keep == 7 else [])
    assert len(taken(text([HEADER, ROWS[0], short]).encode()).images) == 2


@pytest.mark.parametrize("where", range(1, 4))
def test_a_surplus_value_stays_an_error(where: int) -> None:
    row = [*ROWS[1], *[""] * (where - 1), "x"]
    assert reasons(text([HEADER, ROWS[0], row]).encode()) == [
        f"line 3: has {7 + where} fields (allowed: 7, as the header line)"
    ]


def test_what_all_rows_share_may_stand_in_the_first_alone() -> None:
    rows = [ROWS[0], ["", *ROWS[1][1:5], "", ""]]
    assert images(taken(text([HEADER, *rows]).encode())) == FOUND


# --- words for yes, no and nothing

YES = "true TRUE True t yes Y on 1 x ok sim SIM s verdadeiro VERDADEIRO V ligado".split()
NO = "false FALSE F no N off 0 não nao NÃO falso FALSO desligado".split()
NULLS = ["NULL", "null", "(null)", "<null>", "\\N", "nil", "None", "NaN", "undefined", "N/A", "#N/A", "#N/D", ""]
ERRORS = ["#REF!", "#VALUE!", "#VALOR!", "#NAME?", "#NOME?", "#DIV/0!"]


@pytest.mark.parametrize(("word", "meaning"), [*((w, True) for w in YES), *((w, False) for w in NO)])
def test_yes_and_no(word: str, meaning: bool) -> None:
    assert taken(text([HEADER, [*ROWS[0][:6], word]]).encode()).cache is meaning


@pytest.mark.parametrize("word", NULLS)
@pytest.mark.parametrize("column", ["propertyCode", "priority", "cache"])
def test_a_word_for_nothing_is_nothing(word: str, column: str) -> None:
    row = list(ROWS[0])
    row[HEADER.index(column)] = word
    assert taken(text([HEADER, row]).encode()).images[0].property_code == (
        None if column == "propertyCode" else "APT-1"
    )


@pytest.mark.parametrize("word", [*NULLS[:-1], *ERRORS])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_word_for_nothing_is_no_address(word: str, kind: str) -> None:
    if kind == "csv":
        row = [ROWS[0][0], word, *ROWS[0][2:]]
        (reason,) = reasons(text([HEADER, row]).encode())
    else:
        import json

        body = {"clientName": "a", "roomType": "den", "designStyle": "boho", "images": [{"url": word}]}
        (reason,) = reasons(json.dumps(body).encode(), "a.json")
    assert "url" in reason


@pytest.mark.parametrize("word", ERRORS)
@pytest.mark.parametrize("column", ["propertyCode", "roomType", "priority"])
def test_a_spreadsheets_error_is_one_problem(word: str, column: str) -> None:
    row = list(ROWS[0])
    row[HEADER.index(column)] = word
    (reason,) = reasons(text([HEADER, row]).encode())
    assert "spreadsheet's error" in reason


# --- columns


@pytest.mark.parametrize(
    "header",
    [
        "cliente;url;código do imóvel;cômodo;estilo;prioridade;usar cache", "Nome do Cliente;Foto;Imóvel;Ambiente;Estilo;Urgência;cache",
        "CLIENTE;LINK DA FOTO;REFERÊNCIA;TIPO DE CÔMODO;DECORAÇÃO;PRIORIDADE;CACHE", "customer;photo url;property_id;room;style;tier;use cache",
        "client_name;image-url;property code;Room Type;DESIGN STYLE;Priority;Cache", "imobiliária;endereço da foto;cód;tipo cômodo;estilo de design;prioridade;reaproveitar",
    ],
)  # fmt: skip
def test_columns_in_two_languages(header: str) -> None:
    assert images(taken((header + "\r\n" + text(ROWS, ";")).encode())) == FOUND


def test_no_two_columns_share_a_name() -> None:
    names = [name for aliases in ALIASES.values() for name in aliases]
    assert len(names) == len(set(names))
    assert all(tables._key(name) in tables._KNOWN for name in names)


def test_other_columns_are_read_past_and_named() -> None:
    found = taken(text([[*HEADER, "observação", "Corretor", ""], *([*row, "x", "y", ""] for row in ROWS)]).encode())
    assert images(found) == FOUND
    assert found.ignored == ("observação", "Corretor")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"<!DOCTYPE html><html><table>", "HTML page"), (b"<html><head>", "HTML page"), (b"Acme,a.jpg,den,boho\r\n", "no column"),
        (b"a\tb\tc\r\n1\t2\t3\r\n", "no column"), (b"clientName,url\r\nAcme,a.jpg\r\n", "roomType, designStyle are missing"),
        (b"clientName,url,roomTypes,designStyle\r\nAcme,a.jpg,den,boho\r\n", "do you mean roomType"),
        (b"PK\x03\x04", ".xlsx"), (b"{\\rtf1", "RTF"), (b"\xd0\xcf\x11\xe0", "old Excel"), (b"clientName;clientName;url;roomType;designStyle\r\n", "twice"),
    ],
)  # fmt: skip
def test_one_cause_is_one_problem(raw: bytes, words: str) -> None:
    (reason,) = reasons(raw)
    assert words in reason


# --- spreadsheets: the least of an .xlsx and an .ods, cell by cell


def xlsx(*sheets: list[list[Any]], shared: bool = True) -> bytes:
    """As Excel writes it (strings in one table), or as exports do (strings in their cells)."""
    made = io.BytesIO()
    with xlsxwriter.Workbook(made, {"constant_memory": not shared, "in_memory": True}) as book:
        for rows in sheets:
            sheet = book.add_worksheet()
            for r, row in enumerate(rows):
                for c, value in enumerate(row):
                    if isinstance(value, str) and value.startswith("#"):
                        sheet.write_formula(r, c, "=A1", None, value)
                    elif isinstance(value, str):
                        sheet.write_string(r, c, value)
                    elif value is not None:
                        sheet.write(r, c, value)
    return made.getvalue()


def ods(rows: list[list[str]]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as book:
        book.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        urn = "urn:oasis:names:tc:opendocument:xmlns"
        lines = "".join(
            "<table:table-row>" + "".join(f'<table:table-cell office:value-type="string"><text:p>{value}</text:p></table:table-cell>' for value in row) + "</table:table-row>"
            for row in rows
        )  # fmt: skip
        book.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{urn}:office:1.0" xmlns:table="{urn}:table:1.0" xmlns:text="{urn}:text:1.0">'
            f'<office:body><office:spreadsheet><table:table table:name="S1">{lines}</table:table></office:spreadsheet></office:body></office:document-content>',
        )
        book.writestr(
            "META-INF/manifest.xml",
            '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>',
        )
    return made.getvalue()


@pytest.mark.parametrize("shared", [True, False])
def test_a_workbook(shared: bool) -> None:
    found = taken(xlsx([HEADER, *ROWS], shared=shared), "a.xlsx")
    assert images(found) == FOUND
    assert found.separator is None


def test_an_open_document() -> None:
    assert images(taken(ods([HEADER, *ROWS]), "A.ODS")) == FOUND


def test_cells_of_other_types_are_what_a_person_reads() -> None:
    row = ["Acme", "a.jpg", 101, "den", "boho", None, False]
    found = taken(xlsx([HEADER, row, [*row[:2], 10.5, *row[3:]], []]), "a.xlsx")
    assert [image.property_code for image in found.images] == ["101", "10.5"]
    assert found.cache is False


@pytest.mark.parametrize("before", range(4))
def test_the_header_is_found_on_a_later_sheet_below_a_title(before: int) -> None:
    title: list[list[Any]] = [["Fotos de maio"], [], ["para a Imobiliária"], []][:before]
    book = xlsx(
        [["Instruções"], ["preencha a outra aba"]], [*title, HEADER, *ROWS, ["Acme", "../x", "", "den", "boho"]]
    )
    (reason,) = [reason for reason in reasons(book, "a.xlsx") if "url" in reason]
    assert f"line {before + 4}:" in reason, "as the spreadsheet numbers its rows"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"), (xlsx([[]]), "is empty"), (xlsx([["a", "b"]]), "no column"), (b"PK\x03\x04 nonsense", "no spreadsheet"),
        (b"clientName;url", "no spreadsheet"), (b"\xff\xd8\xff", "JPEG"), (xlsx([HEADER, *ROWS])[:-40], "no spreadsheet"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "old Excel"), (xlsx([HEADER]), "names no image"), (xlsx([HEADER, ["Acme", "#REF!", "", "den", "boho"]]), "url is missing"),
    ],
)  # fmt: skip
def test_what_is_no_workbook_says_so(raw: bytes, words: str) -> None:
    assert words in reasons(raw, "a.xlsx")[0]


@pytest.mark.slow
def test_a_workbook_that_unpacks_to_gigabytes_ends_its_reader_alone() -> None:
    """A zip bomb, and one long text that a hundred thousand cells repeat."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(xlsx([HEADER, *ROWS]))) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as book,
    ):
        for name in source.namelist():
            if name.endswith("sheet1.xml"):
                with book.open(name, "w", force_zip64=True) as sheet:
                    sheet.write(source.read(name).split(b"<row")[0])
                    filler = b'<row r="5"><c r="A5" t="inlineStr"><is><t>' + b"x" * 60_000 + b"</t></is></c></row>"
                    for _ in range(20_000):
                        sheet.write(filler)
            else:
                book.writestr(name, source.read(name))
    (reason,) = reasons(made.getvalue(), "a.xlsx")
    assert reason


# --- the examples of the field


@pytest.mark.parametrize("name", ["separator-line", "separator-line-comma", "separator-line-quoted", "short-rows", "one-separator-too-many",
                                  "boolean-in-portuguese", "boolean-one-letter", "blank-first-line", "semicolons-in"])  # fmt: skip
def test_tables_from_the_field(name: str) -> None:
    from pathlib import Path

    raw = (Path(__file__).parents[1] / f"field/manifests/{name}.csv").read_bytes()
    found = taken(raw, f"{name}.csv")
    assert found.images
    assert found.separator == ("," if "comma" in name else ";")
    assert found.cache is not name.startswith("boolean")


def test_later_line_numbers_stay_the_files() -> None:
    (reason,) = reasons(b"\r\n\r\nclientName;url;roomType;designStyle\r\nacme;../x;den;boho\r\n")
    assert reason.startswith("line 4:")


@pytest.mark.parametrize(
    ("name", "words"),
    [("address-without-scheme", "https://www.photos.example"), ("address-null-text", "a word for nothing")],
)
def test_addresses_from_the_field(name: str, words: str) -> None:
    from pathlib import Path

    raw = (Path(__file__).parents[1] / f"field/manifests/{name}.json").read_bytes()
    (reason,) = reasons(raw, f"{name}.json")
    assert words in reason
