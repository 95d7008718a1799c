"""Settings from the environment: every one can be set, and whatever is wrong is told by the variable's own name."""

from __future__ import annotations

import math
import re
import types
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.generate import settings_page
from ops.local import KEY_VARIABLES
from shared.decisions.money import cost_micro_usd
from shared.errors import BadSetting
from shared.model import Usage
from shared.settings import LIMITS, PRICES, Images, Limit, Price, Settings, from_environment

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/settings.md"


def variables() -> dict[str, tuple[str, str, Any, Any]]:
    """Every variable: (group, name, type, default)."""
    found = {}
    for group in msgspec.structs.fields(Settings):
        if isinstance(group.type, type) and issubclass(group.type, msgspec.Struct):
            for field in msgspec.structs.fields(group.type):
                found[f"RUUM_{group.name}_{field.name}".upper()] = (group.name, field.name, field.type, field.default)
    return found


def plain(kind: Any) -> Any:
    """The type without its bounds."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


VARIABLES = variables()
TABLES = ("RUUM_LIMITS", "RUUM_PRICES")
OF_TYPE = {
    kind: sorted(name for name, (_, _, given, _) in VARIABLES.items() if plain(given) is kind) for kind in (int, float)
}


def other(kind: Any, default: Any) -> tuple[str, Any]:
    """A fitting value that is not the default: (as text, as read)."""
    bare = plain(kind)
    if get_origin(bare) is Literal:
        value = next(value for value in get_args(bare) if value != default)
        return value, value
    if bare is bool:
        return str(not default).lower(), not default
    if bare is int:
        return ("60", 60) if default != 60 else ("61", 61)
    if bare is float:
        notes = getattr(kind, "__metadata__", ())
        least = next((note.ge for note in notes if isinstance(note, msgspec.Meta) and note.ge is not None), 0)
        value = next(value for value in (least + 0.25, least + 0.75) if value != default)
        return str(value), value
    assert bare is str or (isinstance(bare, types.UnionType) and str in get_args(bare)), f"how is a {bare} set?"
    return "something else", "something else"


def test_there_are_settings() -> None:
    assert len(VARIABLES) > 40
    assert "RUUM_WORKER_IN_FLIGHT" in VARIABLES


def test_nothing_set_is_the_defaults() -> None:
    assert from_environment({}) == Settings()
    assert from_environment({"PATH": "/bin", "HOME": "/", "MY_RUUM_X": "1", "RUUMX": "1"}) == Settings()


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_setting_can_be_set(variable: str) -> None:
    group, name, kind, default = VARIABLES[variable]
    text, value = other(kind, default)
    settings = from_environment({variable: text})
    assert getattr(getattr(settings, group), name) == value
    assert type(getattr(getattr(settings, group), name)) is type(value)
    expected = msgspec.structs.replace(
        Settings(), **{group: msgspec.structs.replace(getattr(Settings(), group), **{name: value})}
    )
    assert settings == expected, "and nothing else has changed"


def test_all_of_them_at_once() -> None:
    wanted = {variable: other(kind, default) for variable, (_, _, kind, default) in VARIABLES.items()}
    settings = from_environment({variable: text for variable, (text, _) in wanted.items()})
    for variable, (group, name, _, _) in VARIABLES.items():
        assert getattr(getattr(settings, group), name) == wanted[variable][1]


@pytest.mark.parametrize(
    "variable",
    ["RUUM_", "RUUM_NONSENSE", "RUUM_MANIFEST", "RUUM_MANIFEST_", "RUUM_MANIFEST_MAX", "RUUM_MANIFEST_MAX_IMAGES_",
     "RUUM_WORKER_MAX_IMAGES", "RUUM_MANIFESTMOST_IMAGES", "RUUM__MANIFEST_MAX_IMAGES", "RUUM_PRICES_PREVIEW", "RUUM_LIMIT",
     "RUUM_MANIFEST__MAX_IMAGES", "RUUM_MANIFEST_MAX-IMAGES", "RUUM_SETTINGS", "RUUM_GEMINI_KEY"],
)  # fmt: skip
def test_an_unknown_variable_is_named(variable: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({"RUUM_WORKER_IN_FLIGHT": "7", variable: "7"})
    assert variable in str(caught.value)
    assert "docs/settings.md" in str(caught.value)


@pytest.mark.parametrize("value", ["", "many", "1.5", "0x10", " 7", "7 ", "true", "null", "[]", "٧", "1_000"])
@pytest.mark.parametrize("variable", ["RUUM_MANIFEST_MAX_IMAGES", "RUUM_DOWNLOAD_MAX_REDIRECTS"])
def test_no_whole_number(variable: str, value: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(variable)


@pytest.mark.parametrize(
    "value", ["", "long", "1,5", " 7", "true", "null", "nan", "inf", "-inf", "Infinity", "1e400", "0x1"]
)
@pytest.mark.parametrize("variable", ["RUUM_GEMINI_IMAGE_SECONDS", "RUUM_STAGING_MIN_REALISM"])
def test_no_finite_number(variable: str, value: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(variable)


@pytest.mark.parametrize("value", ["", "yes", "on", "2", "null", "truee"])
def test_neither_true_nor_false(value: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({"RUUM_DOWNLOAD_ALLOW_HTTP": value})
    assert str(caught.value).startswith("RUUM_DOWNLOAD_ALLOW_HTTP")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_true_and_false(text: str, value: bool) -> None:
    assert from_environment({"RUUM_DOWNLOAD_ALLOW_HTTP": text}).download.allow_http is value


@pytest.mark.parametrize("variable", OF_TYPE[int] + OF_TYPE[float])
def test_below_the_bounds(variable: str) -> None:
    for value in ("-1", "-0.001" if variable in OF_TYPE[float] else "-1000000"):
        with pytest.raises(BadSetting) as caught:
            from_environment({variable: value})
        assert str(caught.value).startswith(f"{variable}: ")


def may_be_zero(variable: str) -> bool:
    """By the bounds that stand beside the type."""
    return any(getattr(bound, "ge", None) == 0 for bound in getattr(VARIABLES[variable][2], "__metadata__", ()))


SHARES = ["RUUM_STAGING_MIN_STRUCTURE_KEPT", "RUUM_STAGING_MIN_REALISM", "RUUM_STAGING_MIN_STYLE_FIT"]


@pytest.mark.parametrize("variable", OF_TYPE[int] + OF_TYPE[float])
def test_zero(variable: str) -> None:
    if may_be_zero(variable):
        from_environment({variable: "0"})
        return
    with pytest.raises(BadSetting) as caught:
        from_environment({variable: "0"})
    assert str(caught.value).startswith(f"{variable}: ")


@pytest.mark.parametrize(("variable", "value"), [*((name, "1.001") for name in SHARES), ("RUUM_PHOTO_JPEG_QUALITY", "96"),
                                                 ("RUUM_STAGING_MODEL", "dalle"), ("RUUM_STAGING_MODEL", "Gemini")])  # fmt: skip
def test_above_the_bounds(variable: str, value: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(f"{variable}: ")


def test_a_wrong_value_among_right_ones_is_the_one_that_is_named() -> None:
    environment = {"RUUM_WORKER_IN_FLIGHT": "7", "RUUM_PHOTO_JPEG_QUALITY": "high", "RUUM_BUCKETS_WORK": "w"}
    with pytest.raises(BadSetting) as caught:
        from_environment(environment)
    assert "RUUM_PHOTO_JPEG_QUALITY" in str(caught.value)
    assert "RUUM_WORKER_IN_FLIGHT" not in str(caught.value)


# --- the page


class Told(msgspec.Struct):
    """A group whose fields tell everything."""

    most: Images = 3  # because
    open: bool = True  # because


class NoReason(msgspec.Struct):
    """A group with a field that gives no reason."""

    most: Images = 3  # because
    fewest: Images = 1


class NoUnit(msgspec.Struct):
    """A group with a field that has bounds and no unit."""

    most: Images = 3  # because
    least: Annotated[int, msgspec.Meta(ge=1)] = 1  # because
    name: str = "x"  # because


def test_the_page_is_the_makers() -> None:
    assert PAGE.read_text("utf-8") == settings_page.page(), (
        "run: python -m ops.generate.settings_page > docs/settings.md"
    )


def test_the_page_documents_what_can_be_set() -> None:
    documented = set(re.findall(r"`(RUUM_[A-Z_]+)`", PAGE.read_text("utf-8")))
    assert documented == {*VARIABLES, *TABLES}
    for table in TABLES:
        assert from_environment({table: "{}"}) == Settings()


def rows(page: str) -> list[list[str]]:
    """The cells of every line that tells of one variable: variable, unit, default, reason."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:3] == "| `"]


def plainly(default: str) -> str:
    """A default as the environment takes it, from how the page shows it: `32 MiB`, `10,000`, `8 min`."""
    times = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "s": 1, "min": 60, "h": 3600, "day": 86_400, "days": 86_400}
    shown = re.fullmatch(r"([\d,.]+)(?: (\w+))?", default)
    if shown is None:
        return default
    number = float(shown[1].replace(",", "")) * times[shown[2] or "s"]
    return str(int(number) if number.is_integer() else number)


@pytest.mark.parametrize("row", rows(PAGE.read_text("utf-8")), ids=lambda row: row[0].strip("`"))
def test_every_variable_of_the_page_has_a_unit_its_default_and_a_reason(row: list[str]) -> None:
    variable, _, default, _ = row
    assert all(row)
    if variable.startswith("`RUUM_"):
        given = {} if default == "unset" else {variable.strip("`"): "" if default == "empty" else plainly(default)}
        assert from_environment(given) == Settings(), "what the page calls the default"


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(32 * 1024**2, "bytes", "32 MiB"), (1536 * 1024**2, "bytes", "1,536 MiB"), (2 * 1024**3, "bytes", "2 GiB"),
     (1000, "bytes", "1,000"), (30 * 86_400.0, "seconds", "30 days"), (86_400.0, "seconds", "1 day"),
     (480.0, "seconds", "8 min"), (21_600.0, "seconds", "6 h"), (90.0, "seconds", "90 s"), (0.5, "seconds", "0.5 s"),
     (0.0, "seconds", "0 s"), (10_000, "images", "10,000"), (0.7, "share, 0 to 1", "0.7"), (60, "images", "60"),
     (True, "", "true"), ("", "name", "empty"), (None, "address", "unset"), ("2K", "1K, 2K or 4K", "2K")],
)  # fmt: skip
def test_values_are_shown_as_people_read_them(value: object, unit: str, shown: str) -> None:
    assert settings_page.written(value, unit) == shown


def test_what_has_no_limit_says_so() -> None:
    section = settings_page.table_section("limits", Limit, {"a": Limit(per_minute=3000)}, {"a": "because"})
    assert section[-1] == "| a | 3,000 | no limit | because |"
    assert "None" not in PAGE.read_text("utf-8")


def test_the_contents_lead_to_every_section() -> None:
    page = PAGE.read_text("utf-8")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert re.findall(r"^- \[(.+)\]\(#", page, re.MULTILINE) == titles
    assert {"What an operator usually touches", "manifest", "limits", "Other variables"} <= set(titles)


def test_the_usual_ones_are_variables_of_terraform() -> None:
    usual = settings_page.USUAL
    named = set(re.findall(r"\| `([a-z_]+)`", usual))
    declared = set(re.findall(r'^variable "(\w+)"', (ROOT / "terraform/variables.tf").read_text("utf-8"), re.MULTILINE))
    assert {"settings", "vendor_limits"} <= named <= declared
    written = {name: value for name, value in re.findall(r'^  (RUUM_\w+) *= "(.*)"$', usual, re.MULTILINE)}
    exported = re.search(r"^export RUUM_LIMITS='(.*)'$", usual, re.MULTILINE)
    assert exported and len(written) == 2
    changed = from_environment({**written, "RUUM_LIMITS": exported[1]})
    assert changed.threshold.percent == 30
    assert changed.limits["gemini-nano-banana-2.1"].per_minute == 120


def test_a_group_on_the_page() -> None:
    assert settings_page.group_section("told", Told)[1:] == [
        "| `RUUM_TOLD_MOST` | images | 3 | because |", "| `RUUM_TOLD_OPEN` | true or false | true | because |",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "said"), [(NoReason, "group.fewest has no reason"), (NoUnit, "group.least has no unit")]
)
def test_the_page_is_not_made_without_unit_or_reason(group: type[msgspec.Struct], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings_page.group_section("group", group)


def test_nor_without_the_reason_of_a_row() -> None:
    limits, reasons = {"a": Limit(per_minute=3), "b": Limit()}, {"a": "because"}
    with pytest.raises(ValueError, match=r"limits\.b has no reason"):
        settings_page.table_section("limits", Limit, limits, reasons)
    with pytest.raises(ValueError, match=r"limits\.least has no unit"):
        settings_page.table_section("limits", NoUnit, {}, {})


def test_nor_without_the_reason_of_a_number_of_the_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(settings_page.OF_POLICIES, "max_deliveries")
    with pytest.raises(ValueError, match="max_deliveries has no unit"):
        settings_page.page()


def test_every_other_variable_that_is_read_is_on_the_page() -> None:
    sources = [path.read_text("utf-8") for top in ("shared", "functions", "ops") for path in (ROOT / top).rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', text)}
    emulators = {name for text in sources for name in re.findall(r'"([A-Z]+_EMULATOR_HOST)"', text)}
    assert {"LOG_LEVEL", "GEMINI_API_KEY"} <= read
    assert len(emulators) == 3
    assert settings_page.OTHERS.keys() == read | emulators | set(KEY_VARIABLES)


# --- tables


def test_a_table_is_laid_over_the_default() -> None:
    settings = from_environment(
        {
            "RUUM_PRICES": '{"gemini-3-pro-image": {"input_usd": 2, "output_usd": 120.5}}',
            "RUUM_LIMITS": '{"gemini-3.5-flash-lite": {"concurrent": 3}, "new": {"per_minute": 7}}',
        }
    )
    assert settings.prices == {**PRICES, "gemini-3-pro-image": Price(input_usd=2.0, output_usd=120.5)}
    assert settings.limits == {
        **LIMITS, "gemini-3.5-flash-lite": Limit(concurrent=3), "new": Limit(per_minute=7),
    }  # fmt: skip


@pytest.mark.parametrize(
    "value", ["", "{", "[]", "null", "7", "x", '{"m": 5}', '{"m": null}', '{"m": []}', '{"m": {"x": 1}}']
)
@pytest.mark.parametrize("variable", TABLES)
def test_no_table(variable: str, value: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(variable)


def test_a_wrong_table_is_named_as_it_was_given() -> None:
    """`RUUM_LIMITS[___]_PER_MINUTE` is no variable, and does not say which model is meant."""
    with pytest.raises(BadSetting) as caught:
        from_environment({"RUUM_LIMITS": '{"model-a": {"per_minute": 1}, "model-b": {"per_minute": 0}}'})
    assert str(caught.value).startswith("RUUM_LIMITS: model model-b, per_minute: ")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("RUUM_MANIFEST_MOST_IMAGES", "RUUM_MANIFEST_MAX_IMAGES"), ("RUUM_PHOTO_LONGEST_SIDE_PIXELS", "RUUM_PHOTO_MAX_SIDE_PIXELS"),
        ("RUUM_STAGING_LEAST_REALISM", "RUUM_STAGING_MIN_REALISM"), ("RUUM_WORKER_INFLIGHT", "RUUM_WORKER_IN_FLIGHT"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_a_setting_says_which(before: str, now: str) -> None:
    with pytest.raises(BadSetting, match=f"{before} is not a setting .did you mean {now}"):
        from_environment({before: "1"})


def test_a_choice_says_what_is_allowed() -> None:
    with pytest.raises(BadSetting, match=r"RUUM_STAGING_MODEL: .* \(allowed: gemini, preview\)"):
        from_environment({"RUUM_STAGING_MODEL": "sculptor"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUUM_LIMITS", '{"m": {"per_minute": 0}}'), ("RUUM_LIMITS", '{"m": {"per_minute": -5}}'),
        ("RUUM_LIMITS", '{"m": {"concurrent": 1.5}}'), ("RUUM_LIMITS", '{"m": {"per_minute": "many"}}'),
        ("RUUM_PRICES", '{"m": {"input_usd": 1}}'), ("RUUM_PRICES", '{"m": {"input_usd": -1, "output_usd": 1}}'),
        ("RUUM_PRICES", '{"m": {"input_usd": "inf", "output_usd": 1}}'),
        ("RUUM_PRICES", '{"m": {"input_usd": 1e400, "output_usd": 1}}'),
    ],
)  # fmt: skip
def test_a_value_in_a_table_out_of_bounds(variable: str, value: str) -> None:
    with pytest.raises(BadSetting) as caught:
        from_environment({variable: value})
    assert str(caught.value).startswith(variable)


# --- money


EXACT = {name: (Fraction(str(p.input_usd)), Fraction(str(p.output_usd))) for name, p in PRICES.items()}


@given(st.sampled_from(sorted(PRICES)), st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_costs_are_rounded_up(model: str, input_tokens: int, output_tokens: int) -> None:
    """In millionths of a dollar, a price per million tokens is a price per token; never below what is billed."""
    price_in, price_out = EXACT[model]
    exact = price_in * input_tokens + price_out * output_tokens
    assert cost_micro_usd(PRICES, Usage(model, input_tokens, output_tokens)) == math.ceil(exact)


@pytest.mark.parametrize(
    ("price", "tokens", "expected"),
    [
        ((0.3, 2.5), (0, 0), 0), ((0.3, 2.5), (1, 0), 1), ((0.3, 2.5), (3, 0), 1), ((0.3, 2.5), (4, 0), 2),
        ((0.3, 2.5), (10, 0), 3), ((0.3, 2.5), (0, 1), 3), ((0.3, 2.5), (0, 2), 5), ((1.5, 30.0), (1120, 1680), 52_080),
        ((0.1, 0.2), (1, 1), 1), ((0.1, 0.2), (10, 10), 3), ((0.1, 0.1), (30, 0), 3), ((0.0, 0.0), (10**9, 10**9), 0),
        ((1e-9, 0.0), (1, 0), 1),
    ],
)  # fmt: skip
def test_costs(price: tuple[float, float], tokens: tuple[int, int], expected: int) -> None:
    prices = {"m": Price(input_usd=price[0], output_usd=price[1])}
    cost = cost_micro_usd(prices, Usage("m", *tokens))
    assert cost == expected
    assert type(cost) is int


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(0, 100_000), st.integers(0, 100_000))
def test_costs_of_any_price_in_cents(cents_in: int, cents_out: int, input_tokens: int, output_tokens: int) -> None:
    """A price of 0.07 is no binary number; the sum is rounded up all the same, not one above an exact one."""
    prices = {"m": Price(input_usd=cents_in / 100, output_usd=cents_out / 100)}
    exact = Fraction(cents_in * input_tokens + cents_out * output_tokens, 100)
    assert cost_micro_usd(prices, Usage("m", input_tokens, output_tokens)) == math.ceil(exact)


def test_every_model_of_the_defaults_has_a_price() -> None:
    settings = Settings()
    assert {settings.gemini.text_model, settings.gemini.image_model, "preview"} <= set(settings.prices)
    assert cost_micro_usd(settings.prices, Usage(settings.gemini.image_model, 0, 1120)) == 33_600, "1K: $0.0336"
    assert cost_micro_usd(settings.prices, Usage(settings.gemini.image_model, 0, 1680)) == 50_400, "2K: about $0.050"
