"""What is accepted of manifests, and the batch's id that comes of it."""

from __future__ import annotations

import hashlib
import re

import pytest

from shared.manifest.model import Manifest, ManifestImage, batch_of
from shared.manifest.vocabulary import ROOM_ALIASES, ROOMS, STYLE_ALIASES, STYLES
from shared.model import Tier
from tests.manifest.reader.parts import (
    BASE,
    BOM,
    COLUMNS,
    DEN,
    IMAGE,
    ROW,
    WRITERS,
    Writer,
    as_json,
    as_lines,
    attempt,
    table,
    take,
)

# --- what is accepted


@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_the_designs_example(write: Writer, name: str, end: bytes, mark: bytes) -> None:
    raw = write(
        {"url": "https://x.example/1.jpg", "propertyCode": "APT-101", "roomType": "bedroom",
         "designStyle": "scandinavian"},
        {"url": "gs://crm/acme/2.jpg"},
        {"url": "flats/3 front.jpg", "propertyCode": "Cobertura São João"},
        clientName="Imobiliária Acme", designStyle="Moderno", roomType="Sala de Estar", priority="high",
        batchId="may-1",
    )  # fmt: skip
    raw = mark + raw.replace(b"\r\n", b"\n").replace(b"\n", end)
    assert take(raw, name) == Manifest(
        client_name="Imobiliária Acme",
        client="imobiliaria-acme",
        tier=Tier.EXPRESS,
        batch_id="may-1",
        separator="," if name.endswith(".csv") else None,
        sha256=hashlib.sha256(raw).hexdigest(),
        images=(
            ManifestImage("https://x.example/1.jpg", "bedroom", "scandinavian", "APT-101"),
            ManifestImage("gs://crm/acme/2.jpg", "living_room", "modern"),
            ManifestImage(BASE + "flats/3 front.jpg", "living_room", "modern", "Cobertura São João"),
        ),
    )


@pytest.mark.parametrize("name", ["A.JSON", "x/y/May 1.Json", "a.b.json"])
def test_names_in_capitals_and_folders(name: str) -> None:
    assert take(as_json(IMAGE), name).images == (DEN,)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_leading_white_space_is_no_emptiness(name: str) -> None:
    raw = as_json(IMAGE) if name == "a.json" else as_lines(IMAGE)
    for blank in (b"\n", b" \r\n" * 10, b"\n" * 5000):
        assert take(blank + raw, name).images == (DEN,)


def test_json_lines_skips_blank_lines_and_needs_no_last_line_end() -> None:
    raw = as_lines(IMAGE, IMAGE).replace(b"\n", b"\n\r\n  \n").rstrip()
    assert take(raw, "a.jsonl").images == (DEN, DEN)


@pytest.mark.parametrize(
    "raw",
    [
        table(COLUMNS, ROW), table(COLUMNS, ROW).rstrip(), table(COLUMNS, ROW, end="\n"),
        table(COLUMNS, ROW).replace(",", ";"),
        '"clientName","url","roomType","designStyle"\r\n"Acme","a.jpg","den","boho"',
        '"clientName";"url";"roomType";"designStyle"\n"Acme";"a.jpg";"den";"boho"\n', table(COLUMNS + ",", ROW + ","),
        table("Client Name,URL,Room Type,Design Style", ROW), table("client_name,url,room_type,design_style", ROW),
        table("CLIENTNAME, url ,room-type,designstyle", ROW),
        table("url,designStyle,clientName,roomType", "a.jpg,boho,Acme,den"),
        table(COLUMNS, "", ROW, "", ",,,", " , ,,"), table(COLUMNS, " Acme , a.jpg ,\u00a0den, boho "),
        table(COLUMNS + ",priority,batchId,propertyCode", ROW + ",,,"),
        table(COLUMNS, "Acme,a.jpg,DEN,Boho"),
        table(COLUMNS + ",,", ROW + ",a note,another"), table(COLUMNS, 'Acme,"a.jpg","\r\nden\r\n",boho'),
    ],
)  # fmt: skip
def test_csv_as_spreadsheets_write_it(raw: str) -> None:
    for mark in (b"", BOM):
        found = take(mark + raw.encode(), "a.csv")
        assert (found.client_name, found.images) == ("Acme", (DEN,))


def test_the_other_separator_may_stand_in_cells() -> None:
    semicolons = table("clientName;url;roomType;designStyle;propertyCode", 'Acme, Inc.;a.jpg;den;boho;"1;2,3"')
    found = take(semicolons, "a.csv")
    assert (found.client_name, found.images[0].property_code) == ("Acme, Inc.", "1;2,3")
    commas = table(COLUMNS + ",propertyCode", '"Acme; ""Inc.""",a.jpg,den,boho,1;2;3;4;5;6')
    found = take(commas, "a.csv")
    assert (found.client_name, found.images[0].property_code) == ('Acme; "Inc."', "1;2;3;4;5;6")


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("'=1+1", "=1+1"), ("'+55 11", "+55 11"), ("'-1", "-1"), ("'@home", "@home"), ("=1+1", "=1+1"),
        ("'abc", "'abc"), ("'", "'"), ("''=1", "'=1"), ("'1", "'1"), ("'=", "="),
    ],
)  # fmt: skip
def test_the_quote_before_a_formula_is_taken_away(cell: str, code: str) -> None:
    raw = table(COLUMNS + ",propertyCode", f"{ROW},{cell}")
    assert take(raw, "a.csv").images[0].property_code == code


def test_a_quoted_formula_is_text_in_every_column() -> None:
    raw = table("clientName,url,roomType,designStyle", "'-Acme,'=a.jpg,den,boho")
    found = take(raw, "a.csv")
    assert (found.client_name, found.images[0].source) == ("-Acme", BASE + "=a.jpg")


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize(
    ("text", "tier"),
    [("express", Tier.EXPRESS), ("HIGH", Tier.EXPRESS), ("normal", Tier.NORMAL), ("Baixa", Tier.ECONOMY)],
)
def test_priorities(write: Writer, name: str, text: str, tier: Tier) -> None:
    assert take(write(IMAGE, priority=text), name).tier is tier


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_every_spelling_of_the_vocabulary_is_accepted(write: Writer, name: str) -> None:
    rooms = [(room, spelling) for room in ROOMS for spelling in (room, *ROOM_ALIASES[room])]
    styles = [(style, spelling) for style in STYLES for spelling in (style, *STYLE_ALIASES[style])]
    images = [
        {**IMAGE, "roomType": room, "designStyle": styles[n % len(styles)][1]} for n, (_, room) in enumerate(rooms)
    ]
    found = take(write(*images), name).images
    assert [image.room_type for image in found] == [room for room, _ in rooms]
    assert [image.design_style for image in found] == [styles[n % len(styles)][0] for n in range(len(rooms))]


@pytest.mark.parametrize("batch_id", ["a", "1", "A-1_b.c", "a..b", "x" * 64, "a.", "9-"])
def test_batch_ids(batch_id: str) -> None:
    found = take(as_json(IMAGE, batchId=batch_id))
    assert (found.batch_id, found.batch) == (batch_id, f"acme.{batch_id}")


# --- the batch's id


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_the_same_content_is_the_same_batch(write: Writer, name: str) -> None:
    one, other = take(write(IMAGE), name), take(write(IMAGE), "elsewhere/" + name)
    assert one == other
    assert one.batch == other.batch
    assert re.fullmatch(r"acme\.[0-9a-f]{16}", one.batch)


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_other_content_or_another_client_is_another_batch(write: Writer, name: str) -> None:
    batches = {
        take(raw, name).batch
        for raw in (write(IMAGE), write(IMAGE, IMAGE), write(IMAGE, priority="low"), write(IMAGE, clientName="Beta"))
    }
    assert len(batches) == 4


def test_differing_clients_differ_even_in_the_same_bytes() -> None:
    one, other = batch_of("acme", None, "0" * 64), batch_of("beta", None, "0" * 64)
    assert one.partition(".")[2] != other.partition(".")[2]


def test_a_batch_id_of_ones_own_does_not_depend_on_the_content() -> None:
    one, other = take(as_json(IMAGE, batchId="may")), take(as_json(IMAGE, IMAGE, batchId="may"))
    assert one.batch == other.batch == "acme.may"
    assert one.sha256 != other.sha256, "so that ingest can tell the difference"


@pytest.mark.parametrize(("client", "batch_id"), [("__a", "b__"), ("__", "x__"), ("_ _", "a__"), ("__acme__", "__")])
def test_no_batch_id_is_one_that_firestore_keeps_for_itself(client: str, batch_id: str) -> None:
    """Document ids like `__.*__` are refused by Firestore: for ever, whoever tries again."""
    found = attempt(as_json(IMAGE, clientName=client, batchId=batch_id))
    assert not (isinstance(found, Manifest) and re.fullmatch(r"__.*__", found.batch))
