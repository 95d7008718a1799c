"""A manifest's problems: all at once, each at its place, as many as can be read, in words."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import msgspec
import pytest

from shared.errors import ManifestRejected, Problem
from shared.manifest.problems import MAX_VALUE_SHOWN, in_words
from shared.manifest.reader import read, wrong_name
from shared.manifest.sources import SourceRules
from shared.results import report
from shared.settings import ManifestLimits
from tests.manifest.reader.parts import (
    BOM,
    COLUMNS,
    HEADER,
    IMAGE,
    ROW,
    WRITERS,
    Writer,
    as_json,
    as_lines,
    only,
    refuse,
    table,
    take,
    unsafe,
)

# --- every problem at once, each at its place


def test_json_reports_every_problem_in_order() -> None:
    raw = as_json(
        IMAGE, {"url": ""}, {"url": "../x", "roomType": "qq", "colour": "red"}, 7, {"url": "b.jpg", "designStyle": 1},
        clientName="", priority="soon", batchId="a b",
    )  # fmt: skip
    assert [(p.pointer, p.field) for p in refuse(raw)] == [
        ("/clientName", "clientName"), ("/priority", "priority"), ("/batchId", "batchId"), ("/images/1/url", "url"),
        ("/images/2/colour", "colour"), ("/images/2/url", "url"), ("/images/2/roomType", "roomType"),
        ("/images/3", None), ("/images/4/designStyle", "designStyle"),
    ]  # fmt: skip


def test_json_lines_reports_every_problem_in_order() -> None:
    lines = [
        json.dumps({**HEADER, "priority": "soon"}), json.dumps(IMAGE), "", '{"url": x}', json.dumps({"url": "ftp://x/y"}),
        "[]", json.dumps({**IMAGE, "roomType": "qq", "designStyle": "qq"}), "   ", "nonsense", json.dumps(HEADER),
    ]  # fmt: skip
    found = [p.line for p in refuse("\n".join(lines), "a.jsonl")]
    assert found == [1, 4, 5, 6, 7, 7, 9, 10, 10]


def test_csv_reports_every_problem_in_order() -> None:
    raw = table(
        COLUMNS, ROW, "Acme,../x,qq,boho", "", "Acme,,den", "Other,a.jpg,den,boho", ";;", "Acme,,,", ",,,",
        "Acme,https://u:p@x/,den,qq",
    )  # fmt: skip
    assert [(p.line, p.field) for p in refuse(raw, "a.csv")] == [
        (3, "url"), (3, "roomType"), (5, None), (6, "clientName"), (7, None), (8, "url"), (8, "roomType"),
        (8, "designStyle"), (10, "url"), (10, "designStyle"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([COLUMNS, 'Acme,"a\nb\nc",den,boho', "Acme,a.jpg,qq,boho"], [2, 5]),
        ([COLUMNS, 'Acme,a.jpg,"\n\n\nden\n\n",boho', "Acme,a.jpg,qq,boho"], [8]),
        (['"clientName","url","roomType\n","designStyle"', "Acme,a.jpg,qq,boho", ROW], [3]),
        ([COLUMNS, "", "", "Acme,a.jpg,qq,boho", "", 'Acme,"x""\ny""",den,boho'], [4, 6]),
        ([COLUMNS, ROW, 'Acme,a.jpg,den,"boho\n"', 'Acme,"../\nx",den,boho', "short"], [5, 7]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "bom"])
def test_csv_line_numbers_count_lines_inside_quotes(lines: list[str], found: list[int], end: str, mark: bytes) -> None:
    raw = mark + table(*(line.replace("\n", end) for line in lines), end=end).encode()
    assert [problem.line for problem in refuse(raw, "a.csv")] == found


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([COLUMNS, ROW, 'Acme,"a.jpg,den,boho', *[ROW] * 50], 3),
        ([COLUMNS, 'Acme,"a.jpg,den,boho'], 2),
        ([COLUMNS, ROW, 'Acme,"' + "x" * 60_000, "x" * 60_000, "x" * 60_000 + '",den,boho'], 3),
        ([COLUMNS, ROW, 'Acme,"a\n\nb"c,den,boho', ROW], 3),
    ],
    ids=["unclosed", "unclosed-last", "large-field", "after-quote"],
)
def test_broken_quotes_are_reported_where_their_row_begins(lines: list[str], line: int) -> None:
    """The end of a file of 10,000 rows is no help in finding the quote that was left open."""
    problem = only(refuse(table(*lines, end="\n"), "a.csv"))
    assert "is not CSV" in problem.reason
    assert problem.line == line


def test_problems_before_a_broken_quote_are_reported_too() -> None:
    problems = refuse(table(COLUMNS, "Acme,../x,den,boho", 'Acme,"a"b,den,boho'), "a.csv")
    assert [problem.line for problem in problems] == [2, 3]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":"a.jpg"', '{"url":"b.jpg"}'], [2]),
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":"a.jpg",', '{"url":"b.jpg"}'], [2]),
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":', "[", "{"], [2, 3, 4]),
        (['{"clientName":"a","roomType":"den","designStyle":"boho"}', '{"url":"a.jpg', '{"url":"b.jpg"}'], [2]),
    ],
    ids=["brace", "comma", "colon", "quote"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_line_cut_short_is_reported_at_its_own_line(lines: list[str], found: list[int], end: str) -> None:
    assert [problem.line for problem in refuse(table(*lines, end=end), "a.jsonl")] == found


@pytest.mark.parametrize("header", ['{"clientName":"Acme"', "nonsense", '{"clientName":"a","x":NaN}', "{" * 50_000])
def test_a_broken_header_line_does_not_make_images_headers(header: str) -> None:
    lines = table(header, '{"url":"a.jpg","roomType":"den","designStyle":"boho"}', '{"url":"../x"}', end="\n")
    found = {problem.line for problem in refuse(lines, "a.jsonl")}
    assert 1 in found
    assert 2 not in found, "nothing is wrong with this line"
    assert 3 in found, "every problem at once"


@pytest.mark.parametrize("first", [json.dumps(IMAGE), "null", "[]", '"Acme"', "7", '{"url": null}'])
def test_json_lines_need_a_header_first(first: str) -> None:
    problem = refuse(table(first, json.dumps(IMAGE)), "a.jsonl")[0]
    assert problem.line == 1
    assert "header" in problem.reason
    assert "clientName" in (problem.allowed or "")


def test_a_pretty_printed_json_is_not_json_lines() -> None:
    document = json.dumps({**HEADER, "images": [IMAGE]}, indent=1)
    problems = refuse(document, "a.jsonl")
    assert problems[0].line == 1
    assert len({problem.line for problem in problems}) == len(problems), "at most one problem a line"


def test_a_header_repeated_in_json_lines_is_refused_at_its_line() -> None:
    problems = refuse(as_lines(IMAGE) + as_lines(IMAGE), "a.jsonl")
    assert {problem.line for problem in problems} == {3}
    assert problems[0].field == "clientName"


def test_a_header_repeated_in_csv_is_refused_at_its_line() -> None:
    problems = refuse(table(COLUMNS, ROW, COLUMNS, ROW), "a.csv")
    assert {problem.line for problem in problems} == {3}


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("clientName", ["url, roomType, designStyle"]),
        ("clientName,url,roomType", ["designStyle"]),
        ("clientName,url,roomType,designStyle,url", ["url"]),
        ("clientName,url,roomType,designStyle,Room Type", ["roomType"]),
        ("clientName,url,roomType,designStyle,propertyCodes", ["propertyCodes"]),
        ("clientName,url,roomTyp,designStyle", ["roomTyp"]),
        ("a,b", [None]),
        ("Acme,a.jpg,den,boho", [None]),
        ("clientName/url/roomType", [None]),
        ("clientName|url|roomType", ["designStyle"]),
    ],
)
def test_csv_columns_that_do_not_fit(header: str, fields: list[str]) -> None:
    problems = refuse(table(header, ROW), "a.csv")
    assert [(problem.line, problem.field) for problem in problems] == [(1, field) for field in fields]
    assert all(problem.allowed for problem in problems)


@pytest.mark.parametrize("row", ["Acme", "Acme,", ROW + ",x", ROW + ",x,y,z", ROW + ",,x"])
def test_csv_rows_of_another_width(row: str) -> None:
    problem = only(refuse(table(COLUMNS, ROW, row, ROW), "a.csv"))
    assert problem.line == 3
    assert problem.reason == f"has {row.count(',') + 1} fields"
    assert "4" in (problem.allowed or "")


@pytest.mark.parametrize("column", ["clientName", "priority", "batchId"])
def test_csv_rows_agree_on_the_header_fields(column: str) -> None:
    columns = ["clientName", "url", "roomType", "designStyle", "priority", "batchId"]
    rows = [dict(zip(columns, ["Acme", "a.jpg", "den", "boho", "high", "b-1"], strict=True)) for _ in range(4)]
    rows[2][column] = {"clientName": "Other", "priority": "low", "batchId": "b-2"}[column]
    raw = table(",".join(columns), *(",".join(row.values()) for row in rows))
    problem = only(refuse(raw, "a.csv"))
    assert (problem.line, problem.field) == (4, column)
    assert rows[0][column] in (problem.allowed or "")


def test_old_line_ends_are_read_and_counted() -> None:
    taken = take(table(COLUMNS, ROW, ROW, end="\r"), "a.csv")
    assert len(taken.images) == 2
    assert only(refuse(table(COLUMNS, ROW, "Acme,../x,den,boho", ROW, end="\r"), "a.csv")).line == 3
    assert only(refuse(table(COLUMNS, ROW, "Acme,../x,den,boho", ROW, end="\r\r\n"), "a.csv")).line == 3
    assert refuse(as_lines(IMAGE).replace(b"\n", b"\r"), "a.jsonl")[0].line == 1


# --- how much is reported


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_problems_stop_at_their_limit(write: Writer, name: str) -> None:
    bad = [{"url": f"../{n}"} for n in range(50)]
    problems = refuse(write(*bad), name, max_problems=7)
    assert len(problems) == 8
    assert [problem.field for problem in problems[:7]] == ["url"] * 7
    assert "more" in problems[-1].reason
    assert "7" in problems[-1].reason


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_a_full_list_does_not_claim_that_there_are_more(write: Writer, name: str) -> None:
    bad = [{"url": f"../{n}"} for n in range(7)]
    assert [p.field for p in refuse(write(*bad), name, max_problems=7)] == ["url"] * 7


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_offending_values_are_shortened(write: Writer, name: str) -> None:
    long = "x" * 100_000
    problems = refuse(write({"url": long, "roomType": long, "propertyCode": long}, batchId=long, priority=long), name)
    assert [p.field for p in problems] == ["priority", "batchId", "url", "roomType", "propertyCode"]
    for problem in problems:
        assert problem.value is not None
        assert len(problem.value) <= MAX_VALUE_SHOWN
        assert problem.value.startswith('"xxx')


LONG = "x" * 100_000
LONG_CASES = {
    "field": ("a.json", as_json({**IMAGE, LONG: 1})),
    "header-field": ("a.json", as_json(IMAGE, **{LONG: 1})),
    "list": ("a.json", as_json([LONG], ["x"] * 100_000)),
    "object": ("a.json", as_json(IMAGE, clientName={LONG: [1] * 100_000})),
    "syntax": ("a.json", b'{"' + LONG.encode()),
    "number": ("a.json", b'{"clientName":' + b"9" * 4000 + b"}"),
    "host": ("a.json", as_json({"url": "https://" + "x" * 4000 + "\u2100/"})),
    "port": ("a.json", as_json({"url": "https://x:" + "x" * 4000})),
    "column": ("a.csv", table(LONG, ROW).encode()),
    "first-row": ("a.csv", table(COLUMNS, f"{LONG},a.jpg,den,boho", ROW, ROW).encode()),
    "line": ("a.jsonl", as_lines() + LONG.encode()),
    "head": ("a.jsonl", b'"' + LONG.encode() + b'"'),
}


@pytest.mark.parametrize("case", LONG_CASES)
def test_no_problem_is_long(case: str) -> None:
    """A thousand problems of 100 KB each would make an error report of 100 MB out of a manifest of 200 KB."""
    name, raw = LONG_CASES[case]
    assert [len(str(problem)) for problem in refuse(raw, name) if len(str(problem)) > 700] == []


HOSTILE = ["\x1b[31m", "\x9b31m", "\x9d0;x\x9c", "\x7f", "\x07", "\r", "\n", "\x85", "\u202e", "\u2066", "\u2028"]
PLACES: dict[str, Callable[[str], tuple[str, bytes]]] = {
    "url": lambda h: ("a.json", as_json({"url": f"../{h}"})),
    "scheme": lambda h: ("a.json", as_json({"url": f"{h}x://y"})),
    "host": lambda h: ("a.json", as_json({"url": f"https://{h}\u2100/"})),
    "port": lambda h: ("a.json", as_json({"url": f"https://x:{h}/"})),
    "room": lambda h: ("a.json", as_json({**IMAGE, "roomType": f"q{h}q"})),
    "style": lambda h: ("a.json", as_json({**IMAGE, "designStyle": f"q{h}q"})),
    "priority": lambda h: ("a.json", as_json(IMAGE, priority=f"q{h}q")),
    "batch": lambda h: ("a.json", as_json(IMAGE, batchId=f"q{h}q")),
    "client": lambda h: ("a.json", as_json(IMAGE, clientName=f"{h}" * 201)),
    "code": lambda h: ("a.json", as_json({**IMAGE, "propertyCode": f"{h}" * 201})),
    "unknown field": lambda h: ("a.json", as_json({**IMAGE, f"q{h}q": 1})),
    "unknown header field": lambda h: ("a.json", as_json(IMAGE, **{f"q{h}q": 1})),
    "field twice": lambda h: ("a.json", b'{%s:1,%s:2,"clientName":"a"}' % ((json.dumps(h).encode(),) * 2)),
    "field of a line": lambda h: ("a.jsonl", as_lines({**IMAGE, f"q{h}q": 1})),
    "item": lambda h: ("a.json", as_json([h], {h: 1}, h)),
    "whole": lambda h: ("a.json", json.dumps(h).encode()),
    "syntax": lambda h: ("a.json", f'{{"a": {h}'.encode()),
    "syntax of a line": lambda h: ("a.jsonl", as_lines() + f'"{h}\n'.encode()),
    "wrong encoding": lambda h: ("a.json", b"\xff" + h.encode()),
    "nan": lambda h: ("a.json", b'{"' + h.encode() + b'": NaN}'),
    "column": lambda h: ("a.csv", f'"q{h}q",url\r\n'.encode()),
    "cell": lambda h: ("a.csv", table(COLUMNS, f'Acme,a.jpg,"q{h}q",boho').encode()),
    "client of a row": lambda h: ("a.csv", table(COLUMNS, ROW, f'"q{h}q",a.jpg,den,boho').encode()),
    "client of the first row": lambda h: ("a.csv", table(COLUMNS, f'"q{h}q",a.jpg,den,boho', ROW).encode()),
    "name": lambda h: (f"a.{h}", b"x"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_printed_cannot_steer_a_terminal(place: str) -> None:
    leaks = {}
    for hostile in HOSTILE:
        name, raw = PLACES[place](hostile)
        for problem in refuse(raw, name):
            if found := unsafe(str(problem)):
                leaks[ascii(hostile)] = (found, ascii(str(problem))[:150])
    assert leaks == {}


@pytest.mark.parametrize(
    "raw",
    [
        '{"clientName":"\\ud800"}', '{"\\ud800":1}', '{"clientName":"a","images":[{"url":"\\udfff.jpg"}]}',
        '{"clientName":"a","images":[{"\\ud83d":1,"\\ud83d":2}]}', '"\\ud800"', '{"clientName":["\\ud800"]}',
        '{"clientName":"a","images":[{"url":"a.jpg","roomType":"\\ud800","designStyle":{"\\ud800":"\\udc00\\ud800"}}]}',
    ],
)  # fmt: skip
def test_problems_of_half_characters_can_be_written(raw: str) -> None:
    """A lone surrogate has no UTF-8: the errors.json must be writable all the same, or ingest never ends."""
    problems = refuse(raw)
    assert report.rejection("a.json", [msgspec.to_builtins(problem) for problem in problems])
    assert all(str(problem).encode() for problem in problems)


@pytest.mark.parametrize("url", ["file://[", "file://[::1/x", "file://[zz]/x", "file://\u2100/x"])
@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_malformed_file_addresses_are_problems(write: Writer, name: str, url: str) -> None:
    """On one machine, where folders are allowed, too: a problem of the manifest, never a traceback."""
    local = SourceRules(base="file:///srv/job/", folders=("/srv/photos",))
    assert only(refuse(write({"url": url}), name, local)).field == "url"


def test_a_pair_of_surrogate_escapes_is_a_character() -> None:
    raw = b'{"clientName":"Acme \\ud83c\\udfe0","roomType":"den","designStyle":"boho","images":[{"url":"a.jpg"}]}'
    assert take(raw).client_name == "Acme \U0001f3e0"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("is empty"), "is empty"),
        (Problem("is empty", allowed="text"), "is empty (allowed: text)"),
        (Problem("is bad", line=3, field="url", value='"x"', allowed="y"), 'line 3: url "x" is bad (allowed: y)'),
        (Problem("is bad", pointer="/images/0"), "/images/0: is bad"),
        (Problem("is empty", line=1, field="url", value='""'), 'line 1: url "" is empty'),
    ],
)
def test_a_problem_reads_as_a_sentence(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_problem_leaves_out_what_it_does_not_know() -> None:
    assert msgspec.to_builtins(Problem("is empty", line=2)) == {"reason": "is empty", "line": 2}


# --- problems in words


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 999])
def test_one_cause_is_one_sentence(rows: int) -> None:
    """10,000 rows with the same mistake filled a screen, and hid the one problem that was another."""
    wrong = [
        Problem("is not known", line + 2, None, "roomType", '"livng room"', "nearest: living_room")
        for line in range(rows)
    ]
    other = Problem("is missing", 7, None, "url")
    found = in_words([*wrong, other])
    more = f" and {rows - 1:,} more" if rows > 1 else ""
    assert found == [
        (f'line 2{more}: roomType "livng room" is not known. Did you mean living_room?', rows),
        ("line 7: url is missing", 1),
    ]


def test_values_of_one_cause_are_named() -> None:
    reason = "is plain http, which can be read and altered on the way"
    many = [Problem(reason, None, f"/images/{n}/url", "url", f'"http://a/{n}.jpg"', "https") for n in range(5000)]
    ((sentence, number),) = in_words(many)
    assert number == 5000
    values = '"http://a/0.jpg", "http://a/1.jpg", "http://a/2.jpg" and 4,997 others'
    assert sentence == f"/images/0/url and 4,999 more: url {values} are{reason[2:]} (allowed: https)"


@pytest.mark.parametrize(
    ("reason", "said"),
    [("is not known", "are not known"), ("has 300 characters", "have 300 characters"),
     ("contains control characters", "contain control characters"), ("differs from the first row", "differ from the first row"),
     ("is not UTF-8", "are not UTF-8"), ("is no threshold", "each is no threshold"),
     ("is not a batch id", "each is not a batch id"), ("is an address", "each is an address"),
     ("is neither yes nor no", "each is neither yes nor no"), ("leaves its folder", "leave its folder")],
)  # fmt: skip
def test_several_values_are_said_in_the_plural(reason: str, said: str) -> None:
    def sentence(*values: str) -> str:
        ((text, _),) = in_words(
            [Problem(reason, line, None, "roomType", f'"{value}"') for line, value in enumerate(values, start=1)]
        )
        return text.partition(": ")[2]

    assert sentence("a", "a") == f'roomType "a" {reason}'
    assert sentence("a", "b") == f'roomType "a" and "b" {said}'
    assert sentence("a", "b", "c") == f'roomType "a", "b" and "c" {said}'
    assert sentence("a", "b", "c", "d") == f'roomType "a", "b", "c" and 1 other {said}'
    assert sentence(*"abcde") == f'roomType "a", "b", "c" and 2 others {said}'


def test_what_is_missing_says_what_would_do() -> None:
    problems = refuse(json.dumps({"images": [{"roomType": "bedroom", "designStyle": "boho"}]}))
    assert [str(problem) for problem in problems] == [
        "/clientName: clientName is missing (allowed: the customer's name)",
        "/images/0/url: url is missing (allowed: an https:// address, or a path beside the manifest)",
    ]


def test_different_causes_stay_apart_and_in_order() -> None:
    apart = [Problem("a", 1), Problem("b", 2), Problem("a", 3, field="x"), Problem("a", 4, allowed="y"), Problem("c")]
    assert in_words(apart) == [(str(problem), 1) for problem in apart]
    assert in_words([]) == []


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("plan.xls", "save it as .xlsx, .ods or CSV"), ("plan.XLSM", "save it as .xlsx, .ods or CSV"),
        ("a.b/plan.numbers", "export it as .xlsx or CSV"), ("plan.txt", "name it .csv: tabs are understood"),
        ("plan.zip", "unpack it first"), ("plan", "a name ending in .json, .jsonl, .csv, .xlsx or .ods"),
        ("plan.pdf", "a name ending in .json, .jsonl, .csv, .xlsx or .ods"), ("xls", "save it as .xlsx, .ods or CSV"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_told_what_to_become(name: str, instead: str) -> None:
    problem = wrong_name(name)
    assert str(problem) == f"is not a manifest by its name (allowed: {instead})"
    with pytest.raises(ManifestRejected) as refused:
        read(io.BytesIO(b"{}"), name, ManifestLimits(), SourceRules(base=""))
    assert refused.value.problems == (problem,)


def test_a_field_in_another_spelling_is_one_problem_and_not_missing_too() -> None:
    """One cause is one problem: snake_case was told six times in a manifest of one photo."""
    photo = {"url": "https://a.example/1.jpg", "room_type": "bedroom", "Design-Style": "modern"}
    text = json.dumps(
        {"client_name": "acme", "images": [photo, {"url": "https://a.example/2.jpg", "roomType": "bedroom"}]}
    )
    with pytest.raises(ManifestRejected) as refused:
        read(io.BytesIO(text.encode()), "m.json", ManifestLimits(), SourceRules(base=""))
    assert [(p.pointer, p.reason[:10]) for p in refused.value.problems] == [
        ("/client_name", "is not a f"), ("/images/0/room_type", "is not a f"), ("/images/0/Design-Style", "is not a f"),
        ("/images/1/designStyle", "is missing"),
    ]  # fmt: skip
    header = json.dumps(
        {"clientName": "acme", "room_type": "bedroom", "designStyle": "modern", "images": [{"url": photo["url"]}] * 9}
    )
    with pytest.raises(ManifestRejected) as refused:
        read(io.BytesIO(header.encode()), "m.json", ManifestLimits(), SourceRules(base=""))
    assert [str(problem) for problem in refused.value.problems] == [
        "/room_type: room_type is not a field here. Did you mean roomType?"
    ]
