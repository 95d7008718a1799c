"""Trials by an independent reviewer: further instances of the kinds in issue 12. Each failed when it was written."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import socketserver
import threading
import zipfile
from xml.sax.saxutils import escape

import pytest
from google.genai import errors, types

from shared.adapters.google import gemini
from shared.answers import Analysis
from shared.decisions.quota import Grant
from shared.errors import ConfigurationError, HostBusy, ImageRejected, ManifestRejected, WorldError
from shared.manifest import reader
from shared.manifest.model import Manifest
from shared.manifest.sources import SourceRules
from shared.model import Tier
from shared.settings import DownloadLimits, ManifestLimits, PhotoLimits
from shared.staging import pictures
from shared.staging.download import Downloader
from shared.worker.hosts import HostLedger, refused
from tests.field import picture_parts

URL = "https://p.example.com/1.jpg"
HEAD = "clientName,url,propertyCode,roomType,designStyle"
ROW = f"acme,{URL},A1,bedroom,modern"
RETRY = "batchId;index;clientName;url;propertyCode;roomType;designStyle;priority;errorCode;errorMessage"


def read(data: str | bytes, name: str = "a.csv") -> Manifest:
    raw = data.encode() if isinstance(data, str) else data
    return reader.read(io.BytesIO(raw), name, ManifestLimits(), SourceRules(base="file:///photos/"))


def problems(data: str | bytes, name: str = "a.csv") -> str:
    with pytest.raises(ManifestRejected) as rejected:
        read(data, name)
    return "\n".join(map(str, rejected.value.problems))


def table(*rows: list[str], separator: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


# --- a round's failed.csv, mended in a spreadsheet


@pytest.mark.parametrize("index", ["1.0", "1,0", "1,00"])
def test_an_index_that_a_spreadsheet_shows_with_decimals(index: str) -> None:
    found = read(f"{RETRY}\r\nb1;{index};acme;{URL};A1;bedroom;modern;normal;x;y\r\n")
    assert found.is_retry
    assert found.images[0].index == 1


def test_failed_csv_without_the_columns_that_are_not_read() -> None:
    head, row = RETRY.rsplit(";", 2)[0], f"b1;1;acme;{URL};A1;bedroom;modern;normal"
    assert read(f"{head}\r\n{row}\r\n").is_retry


def test_one_image_cannot_be_given_two_corrections() -> None:
    rows = "".join(f"b1;1;acme;https://p.example.com/{n}.jpg;A1;bedroom;modern;normal;x;y\r\n" for n in (1, 2))
    assert "line 3" in problems(f"{RETRY}\r\n{rows}")


# --- tables as programs write them


def test_a_street_address_is_not_the_photos() -> None:
    """Every list of properties has such a column; docs/manifest.md promises that other columns are ignored."""
    rows = table(["Client", "Address", "Photo URL", "Room", "Style"], ["acme", "12 Main St", URL, "bedroom", "modern"])
    assert read(rows).images[0].source == URL


def test_a_street_address_is_not_the_photos_in_portuguese() -> None:
    head = ["Cliente", "Endereço", "Foto", "Cômodo", "Estilo"]
    rows = table(head, ["acme", "Rua A, 1", URL, "quarto", "moderno"], separator=";")
    assert read(rows).images[0].source == URL


@pytest.mark.parametrize("separator", ["sep=;", '"sep=;"', "sep=;,,,,"])
def test_a_separator_line_that_outlived_its_separator(separator: str) -> None:
    """Google Sheets and LibreOffice keep the line as a row, and save with commas."""
    assert read(f"{separator}\r\n{HEAD}\r\n{ROW}\r\n").images[0].property_code == "A1"


def test_a_title_above_the_header() -> None:
    """The same sheet as .xlsx is read."""
    assert len(read(f"Photos of March,,,,\r\n,,,,\r\n{HEAD}\r\n{ROW}\r\n").images) == 1


@pytest.mark.parametrize("end", ["", ";;;;"])
def test_rows_that_are_quoted_as_a_whole(end: str) -> None:
    """A CSV that was opened in one column and saved."""
    assert len(read(f'"{HEAD}"{end}\r\n"{ROW}"{end}\r\n').images) == 1


def test_a_space_before_a_quote() -> None:
    head, row = ('", "'.join(line.split(",")) for line in (HEAD, ROW))
    assert read(f'"{head}"\r\n"{row}"\r\n').images[0].property_code == "A1"


def test_what_query_tools_write_around_rows() -> None:
    rule = ",".join("-" * len(name) for name in HEAD.split(","))
    assert len(read(f"{HEAD}\r\n{rule}\r\n{ROW}\r\n\r\n(1 rows affected)\r\n").images) == 1


@pytest.mark.parametrize("code", ['="00123"', '"=""00123"""'])
def test_a_text_that_is_guarded_as_a_formula(code: str) -> None:
    assert read(f"{HEAD}\r\nacme,{URL},{code},bedroom,modern\r\n").images[0].property_code == "00123"


def test_excel_for_mac_writes_mac_roman() -> None:
    text = f"cliente;foto;código do imóvel;cômodo;estilo\r\nCasa Ação;{URL};A1;suíte;clássico\r\n"
    assert read(text.encode("mac_roman")).client_name == "Casa Ação"


def test_another_encoding_never_becomes_another_name() -> None:
    text = f"clientName;url;roomType;designStyle\r\nImobiliária José;{URL};bedroom;modern\r\n"
    try:
        assert read(text.encode("mac_roman")).client_name == "Imobiliária José"
    except ManifestRejected:
        pass  # to refuse it is honest, too


@pytest.mark.parametrize("error", ["#ERROR!", "#SPILL!", "#DESPEJAR!", "#CALC!", "#BLOCKED!", "#FIELD!", "Err:508",
                                   "#UNKNOWN!", "#CONNECT!", "Loading..."])  # fmt: skip
def test_errors_of_every_spreadsheet(error: str) -> None:
    assert "spreadsheet's error" in problems(f"{HEAD}\r\nacme,{URL},{error},bedroom,modern\r\n")
    assert "url" in problems(f"{HEAD}\r\nacme,{error},A1,bedroom,modern\r\n")


@pytest.mark.parametrize("url", ["N/D", "-", "(blank)", "(vazio)", "nulo", "[object Object]", "https://null",
                                 "https://undefined/a.jpg"])  # fmt: skip
def test_words_for_no_address(url: str) -> None:
    assert "url" in problems(f"{HEAD}\r\nacme,{url},A1,bedroom,modern\r\n")


@pytest.mark.parametrize("url", ["fotos.imobiliaria.com.br", "cdn.acme.co/x.jpg", "res.cloudinary.com"])
def test_addresses_that_lost_their_beginning(url: str) -> None:
    assert "https://" in problems(f"{HEAD}\r\nacme,{url},A1,bedroom,modern\r\n")


def test_two_addresses_in_one_cell() -> None:
    assert "url" in problems(f'{HEAD}\r\nacme,"{URL}, https://p.example.com/2.jpg",A1,bedroom,modern\r\n')


def test_an_attachment_as_airtable_writes_it() -> None:
    row = f'acme,"room.jpg ({URL})",A1,bedroom,modern'
    assert read(f"{HEAD}\r\n{row}\r\n").images[0].source == URL


@pytest.mark.parametrize(
    ("written", "percent", "count"), [("50.0", None, 50), ("50,00", None, 50), ("0,2", 20.0, None)]
)
def test_thresholds_as_tables_write_numbers(written: str, percent: float | None, count: int | None) -> None:
    rows = table(["clientName", "url", "roomType", "designStyle", "failureThreshold"],
                 ["acme", URL, "bedroom", "modern", written], separator=";")  # fmt: skip
    found = read(rows).threshold
    assert found is not None
    assert (found.percent, found.count) == (percent, count)


@pytest.mark.parametrize("written", ["0.0", "0,0", "desativado", "disabled", "unchecked"])
def test_more_words_for_no(written: str) -> None:
    rows = table(["clientName", "url", "roomType", "designStyle", "cache"],
                 ["acme", URL, "bedroom", "modern", written], separator=";")  # fmt: skip
    assert read(rows).cache is False


@pytest.mark.parametrize("field", ['"cache":""', '"cache":0', '"priority":"null"', '"batchId":"NULL"'])
def test_json_as_databases_export_it(field: str) -> None:
    image = json.dumps({"url": URL, "roomType": "bedroom", "designStyle": "modern"})
    found = read('{"clientName":"acme",' + field + ',"images":[' + image + "]}", "a.json")
    assert found.batch_id is None


# --- spreadsheets


def cell(at: str, value: str | float | tuple[str, str]) -> str:
    if isinstance(value, tuple):
        return f'<c r="{at}" {value[0]}>{value[1]}</c>'
    if isinstance(value, str):
        return f'<c r="{at}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    return f'<c r="{at}"><v>{value!r}</v></c>'


def xlsx(*sheets: str, hidden: tuple[int, ...] = (), links: str = "") -> bytes:
    """A workbook of sheets, each the inside of its sheetData; style 1 is a percentage, style 2 is 00000."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    doc = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
    numbers = range(1, len(sheets) + 1)
    files = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships {package}><Relationship Id="r1" Type="{rel}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f"<workbook {main} {doc}><sheets>"
        + "".join(f'<sheet name="S{n}" sheetId="{n}" {"state=" + chr(34) + "hidden" + chr(34) if n in hidden else ""} '
                  f'r:id="r{n}"/>' for n in numbers)
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"<Relationships {package}>"
        + "".join(f'<Relationship Id="r{n}" Type="{rel}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in numbers)
        + f'<Relationship Id="s" Type="{rel}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet {main}><numFmts count="1"><numFmt numFmtId="164" formatCode="00000"/></numFmts>'
        '<fonts count="1"><font/></fonts><fills count="1"><fill/></fills><borders count="1"><border/></borders>'
        '<cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="9"/>'
        '<xf numFmtId="164"/></cellXfs></styleSheet>',
    }  # fmt: skip
    for n, inside in zip(numbers, sheets, strict=True):
        files[f"xl/worksheets/sheet{n}.xml"] = (
            f"<worksheet {main} {doc}><sheetData>{inside}</sheetData>{links}</worksheet>"
        )
        if links:
            files[f"xl/worksheets/_rels/sheet{n}.xml.rels"] = (
                f'<Relationships {package}><Relationship Id="h1" Type="{rel}/hyperlink" Target="{URL}" '
                'TargetMode="External"/></Relationships>'
            )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def rows_of(*rows: list[str | float | tuple[str, str]], first: int = 1) -> str:
    return "".join(
        f'<row r="{n}">' + "".join(cell(f"{'ABCDEFGHIJ'[i]}{n}", v) for i, v in enumerate(row)) + "</row>"
        for n, row in enumerate(rows, start=first)
    )


COLUMNS: list[str | float | tuple[str, str]] = list(HEAD.split(","))


@pytest.mark.parametrize(("stored", "percent"), [("0.2", 20.0), ("1", None)])
def test_a_percentage_typed_into_a_cell(stored: str, percent: float | None) -> None:
    """Spreadsheets store 20 % as 0.2 and its format; 100 % and one failure are both 1, so that is refused."""
    typed = ('s="1"', f"<v>{stored}</v>")
    sheet = rows_of([*COLUMNS, "failureThreshold"], ["acme", URL, "A1", "bedroom", "modern", typed])
    if percent is None:
        assert "one image or 100 %" in problems(xlsx(sheet), "a.xlsx")
        return
    found = read(xlsx(sheet), "a.xlsx").threshold
    assert found is not None
    assert found.percent == percent


def test_the_line_of_a_sheet_that_begins_further_down() -> None:
    sheet = rows_of(COLUMNS, ["acme", URL, "A1", "bedroom", "moderno?"], first=3)
    assert "line 4:" in problems(xlsx(sheet), "a.xlsx")


def test_a_hidden_sheet_is_not_what_the_customer_sees() -> None:
    old = rows_of(COLUMNS, ["OLD", "https://p.example.com/old.jpg", "A1", "bedroom", "modern"])
    new = rows_of(COLUMNS, ["acme", URL, "A1", "bedroom", "modern"])
    assert read(xlsx(old, new, hidden=(1,)), "a.xlsx").client_name == "acme"


def test_a_link_shown_as_a_text_is_the_link_or_refused() -> None:
    """Today the text it shows is staged as a file name."""
    links = '<hyperlinks><hyperlink ref="B2" r:id="h1"/></hyperlinks>'
    sheet = rows_of(COLUMNS, ["acme", "photo of the room", "A1", "bedroom", "modern"])
    try:
        assert read(xlsx(sheet, links=links), "a.xlsx").images[0].source == URL
    except ManifestRejected:
        pass


def test_a_code_of_sixteen_digits() -> None:
    sheet = rows_of(COLUMNS, ["acme", URL, 7891234567890123.0, "bedroom", "modern"])
    assert read(xlsx(sheet), "a.xlsx").images[0].property_code == "7891234567890123"


def test_rows_beyond_the_limit_are_not_dropped_in_silence() -> None:
    sheet = rows_of(COLUMNS, ["acme", URL, "A1", "bedroom", "modern"])
    sheet += rows_of(["acme", "https://p.example.com/2.jpg", "A2", "bedroom", "modern"], first=12_000)
    assert len(read(xlsx(sheet), "a.xlsx").images) == 2


# --- photo hosts

PHOTO = picture_parts.jpeg(picture_parts.scene())


def answered(head: bytes, body: bytes = PHOTO) -> bytes:
    """What the downloader makes of one answer."""
    whole = head + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(whole)

    async def main(port: int) -> bytes:
        limits = DownloadLimits(allow_http=True, allow_private_addresses=True)
        downloader = Downloader(limits, 40 * 1024 * 1024)
        try:
            return await downloader.fetch(f"http://127.0.0.1:{port}/a.jpg")
        finally:
            await downloader.aclose()

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return asyncio.run(main(server.server_address[1]))
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 503 Slow Down", b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message>"),
        (b"HTTP/1.1 503 Server Busy", b"<Error><Code>ServerBusy</Code><Message>The server is busy.</Message></Error>"),
        (b"HTTP/1.1 509 Bandwidth Limit Exceeded", b""),
        (b"HTTP/1.1 529 Site is overloaded", b""),
        (b"HTTP/1.1 403 rate limit exceeded\r\nRetry-After: 5", b"You have exceeded a secondary rate limit."),
        (b"HTTP/1.1 403 Forbidden", b'{"error":{"errors":[{"reason":"userRateLimitExceeded"}],"code":403}}'),
    ],
)
def test_other_ways_to_ask_for_a_wait(head: bytes, body: bytes) -> None:
    """Amazon's, Azure's, cPanel's, WordPress hosts', GitHub's, Google's."""
    with pytest.raises(HostBusy):
        answered(head, body)


@pytest.mark.parametrize("said", [b"Bytes 0-%d/%d", b"bytes 0-%d/*"])
def test_a_whole_photo_called_a_part(said: bytes) -> None:
    numbers = (len(PHOTO) - 1, len(PHOTO))[: said.count(b"%d")]
    assert answered(b"HTTP/1.1 206 Partial Content\r\nContent-Range: " + said % numbers) == PHOTO


@pytest.mark.parametrize(
    "body", [b"<Error><Code>InvalidUri</Code></Error>", b"<Error><Code>OutOfRangeInput</Code></Error>"]
)
def test_an_address_that_cannot_be_is_not_a_permission(body: bytes) -> None:
    with pytest.raises(ImageRejected) as refusal:
        answered(b"HTTP/1.1 400 The requested URI does not represent any resource on the server.", body)
    assert refusal.value.code == "source_not_found"


def test_a_host_that_says_retry_after_0_for_ever_is_asked_ever_more_seldom() -> None:
    ledger, now = HostLedger(id="host:h"), 1000.0
    for _ in range(6):
        ledger = refused(ledger, Grant(id="", tier=Tier.NORMAL, start=now, epoch=ledger.epoch), 0.0, now)
        now = max(now, ledger.not_before) + 0.1
    assert ledger.not_before - ledger.refused_at >= 10.0


# --- the vendor


def response(**usage: int) -> types.GenerateContentResponse:
    return types.GenerateContentResponse.model_validate({"usageMetadata": usage})


def test_an_answer_whose_tokens_are_not_counted_is_said_not_to_be() -> None:
    """Today the picture costs nothing."""
    assert gemini._usage("m", response(promptTokenCount=1000)).reported is False


def test_the_answers_tokens_are_the_total_without_the_questions() -> None:
    used = gemini._usage("m", response(promptTokenCount=1000, totalTokenCount=2600))
    assert used.output_tokens == 1600


@pytest.mark.parametrize(
    "message",
    ["Your account balance is too low to run this request.", "Billing account is past due: payment failed."],
)
def test_other_words_for_money(message: str) -> None:
    said = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message}}
    assert isinstance(gemini._throttled(errors.APIError(429, said), "m"), ConfigurationError)


def test_a_picture_of_a_stamps_size_is_not_published() -> None:
    photo = pictures.normalise(picture_parts.jpeg(picture_parts.scene(1200, 900)), PhotoLimits())
    with pytest.raises(WorldError):
        pictures.finish(picture_parts.jpeg(picture_parts.scene(64, 48)), photo, PhotoLimits())


ROOM = {
    "summary": "An empty room.", "floor": [{"x": 0.1, "y": 0.9}, {"x": 0.5, "y": 0.6}, {"x": 0.9, "y": 0.9}],
    "vanishing_point": {"x": 0.5, "y": 0.45}, "openings": [],
    "light": {"direction": "left", "brightness": 0.7, "temperature_kelvin": 5600},
    "palette": ["#f4f1ec"], "must_not_change": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [{"summary": "x" * 2500}, {"palette": ["#ffffff"] * 15}, {"must_not_change": ["x"] * 41}, {"openings": None}],
)
def test_an_answer_that_says_too_much_or_nothing_is_one(changed: dict[str, object]) -> None:
    """Lengths are not kept by the vendor: three paid attempts, then the image fails."""
    assert gemini.understood(json.dumps(ROOM | changed), Analysis) is not None


def test_an_answer_wrapped_in_its_name() -> None:
    assert gemini.understood(json.dumps({"analysis": ROOM}), Analysis) is not None
