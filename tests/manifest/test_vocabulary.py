"""The names people may use for rooms, styles and tiers: the tables are consistent, and spellings find their value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.manifest.vocabulary import (
    ROOM_ALIASES,
    ROOM_NAMES,
    ROOMS,
    STYLE_ALIASES,
    STYLE_NAMES,
    STYLES,
    TIER_ALIASES,
    TIER_NAMES,
    TIERS,
    Vocabulary,
    plain,
)

FUZZ = settings(max_examples=100, deadline=None, database=None, derandomize=True)
TABLES = [
    pytest.param(ROOMS, ROOM_ALIASES, ROOM_NAMES, id="rooms"),
    pytest.param(STYLES, STYLE_ALIASES, STYLE_NAMES, id="styles"),
    pytest.param(TIERS, TIER_ALIASES, TIER_NAMES, id="tiers"),
]
Aliases = Mapping[str, tuple[str, ...]]

# As the design lists them, section 8, in its order.
DESIGN_ROOMS = (
    "living_room family_room open_plan bedroom primary_bedroom kids_room nursery kitchen dining_room bathroom "
    "home_office den media_room gym basement attic loft sun_room laundry foyer hallway walk_in_closet garage balcony "
    "patio terrace pool exterior_front exterior_back lobby meeting_room open_workspace other"
).split()
DESIGN_STYLES = (
    "standard modern contemporary minimalist scandinavian japandi industrial midcentury luxury farmhouse coastal boho "
    "traditional transitional rustic art_deco french mediterranean tropical"
).split()


def test_values_are_those_of_the_design() -> None:
    assert list(ROOMS) == DESIGN_ROOMS
    assert list(STYLES) == DESIGN_STYLES
    assert sorted(TIERS) == ["economy", "express", "normal"]


@pytest.mark.parametrize(("values", "aliases", "known"), TABLES)
def test_aliases_belong_to_values(values: tuple[str, ...], aliases: Aliases, known: Vocabulary) -> None:
    assert set(aliases) == set(values), "every value has a line in the table, and no line lacks its value"
    assert known.values == values


@pytest.mark.parametrize(("values", "aliases", "known"), TABLES)
def test_aliases_are_written_plainly(values: tuple[str, ...], aliases: Aliases, known: Vocabulary) -> None:
    """An alias that is not as `plain` leaves it can never be found."""
    assert [alias for others in aliases.values() for alias in others if plain(alias) != alias or not alias] == []


@pytest.mark.parametrize(("values", "aliases", "known"), TABLES)
def test_no_spelling_means_two_values(values: tuple[str, ...], aliases: Aliases, known: Vocabulary) -> None:
    meanings: dict[str, set[str]] = {}
    for value in values:
        for spelling in (plain(value), value, value.replace("_", ""), *aliases[value]):
            meanings.setdefault(spelling, set()).add(value)
    assert {spelling: found for spelling, found in meanings.items() if len(found) > 1} == {}


@pytest.mark.parametrize(("values", "aliases", "known"), TABLES)
def test_no_alias_stands_twice(values: tuple[str, ...], aliases: Aliases, known: Vocabulary) -> None:
    counted = Counter(alias for others in aliases.values() for alias in others)
    assert [alias for alias, times in counted.items() if times > 1] == []


@pytest.mark.parametrize(("values", "aliases", "known"), TABLES)
def test_every_spelling_finds_its_value(values: tuple[str, ...], aliases: Aliases, known: Vocabulary) -> None:
    for value in values:
        spellings = {value, value.upper(), value.title(), value.replace("_", " "), value.replace("_", "-")}
        spellings |= {value.replace("_", ""), f"  {value}\t", f"_{value}_", value.replace("_", " - ")}
        for alias in aliases[value]:
            spellings |= {alias, alias.upper(), alias.title(), alias.replace(" ", "_"), alias.replace(" ", "--")}
            spellings |= {f" {alias} ", alias.replace(" ", "\u00a0"), alias.replace(" ", " / ")}
        assert {spelling for spelling in spellings if known.match(spelling) != value} == set()


@pytest.mark.parametrize(("values", "aliases", "known"), TABLES)
def test_every_spelling_is_nearest_to_its_own_value(
    values: tuple[str, ...], aliases: Aliases, known: Vocabulary
) -> None:
    for value in values:
        for spelling in (value, *aliases[value]):
            assert known.nearest(spelling)[0] == value, spelling


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("Sala de Estar", "living_room"), ("SALA", "living_room"), ("Living-Room", "living_room"),
        ("livingroom", "living_room"), ("quarto", "bedroom"), ("Dormitório", "bedroom"), ("Suíte", "primary_bedroom"),
        ("suíte master", "primary_bedroom"), ("Master Bedroom", "primary_bedroom"), ("cozinha", "kitchen"),
        ("COZINHA AMERICANA", "kitchen"), ("sala de jantar", "dining_room"), ("Banheiro", "bathroom"),
        ("Escritório", "home_office"), ("sótão", "attic"), ("porão", "basement"), ("Área de Serviço", "laundry"),
        ("Lavanderia", "laundry"), ("terraço", "terrace"), ("varanda", "balcony"), ("Garagem", "garage"),
        ("piscina", "pool"), ("Fachada", "exterior_front"), ("quarto de bebê", "nursery"), ("berçário", "nursery"),
        ("quarto de criança", "kids_room"), ("Kid's Room", "kids_room"), ("children\u2019s room", "kids_room"),
        ("Walk-In Closet", "walk_in_closet"), ("guarda-roupa", "walk_in_closet"), ("sun room", "sun_room"),
        ("Recepção", "lobby"), ("sala de reunião", "meeting_room"), ("open-plan", "open_plan"), ("outro", "other"),
        ("cafe\u0301", None), ("", None), (" ", None), ("-._/", None), ("\u5bdd\u5ba4", None), ("room", None),
    ],
)  # fmt: skip
def test_rooms_people_write(text: str, room: str | None) -> None:
    assert ROOM_NAMES.match(text) == room


def test_decomposed_accents_are_the_same_name() -> None:
    assert ROOM_NAMES.match("so\u0301ta\u0303o") == ROOM_NAMES.match("s\u00f3t\u00e3o") == "attic"


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("Moderno", "modern"), ("MODERN", "modern"), ("Contemporâneo", "contemporary"), ("Minimalista", "minimalist"),
        ("Escandinavo", "scandinavian"), ("Mid-Century Modern", "midcentury"), ("mid_century", "midcentury"),
        ("Art Déco", "art_deco"), ("art-deco", "art_deco"), ("Rústico", "rustic"), ("padrão", "standard"),
        ("alto padrão", "luxury"), ("luxo", "luxury"), ("clássico", "traditional"), ("francês", "french"),
        ("Mediterrâneo", "mediterranean"), ("Boêmio", "boho"), ("japonês", "japandi"), ("brutalist", None),
    ],
)  # fmt: skip
def test_styles_people_write(text: str, style: str | None) -> None:
    assert STYLE_NAMES.match(text) == style


@pytest.mark.parametrize(
    ("text", "tier"),
    [
        ("high", "express"), ("HIGH", "express"), ("express", "express"), ("urgente", "express"), ("normal", "normal"),
        ("Média", "normal"), ("medium", "normal"), ("low", "economy"), ("econômico", "economy"), ("1", None),
    ],
)  # fmt: skip
def test_tiers_people_write(text: str, tier: str | None) -> None:
    assert TIER_NAMES.match(text) == tier


@pytest.mark.parametrize(
    ("known", "text", "nearest"),
    [
        (ROOM_NAMES, "livng room", "living_room"), (ROOM_NAMES, "kitchn", "kitchen"),
        (ROOM_NAMES, "cozina", "kitchen"), (ROOM_NAMES, "Qarto", "bedroom"), (ROOM_NAMES, "banhero", "bathroom"),
        (ROOM_NAMES, "bathrom", "bathroom"), (ROOM_NAMES, "dinning room", "dining_room"),
        (STYLE_NAMES, "moderm", "modern"), (STYLE_NAMES, "scandanavian", "scandinavian"),
        (STYLE_NAMES, "minimalistic", "minimalist"), (TIER_NAMES, "expres", "express"),
        (TIER_NAMES, "nromal", "normal"),
    ],
)  # fmt: skip
def test_nearest_values_come_first(known: Vocabulary, text: str, nearest: str) -> None:
    assert known.match(text) is None, "a misspelling, not a spelling"
    assert known.nearest(text)[0] == nearest


@pytest.mark.parametrize("text", ["", "\u5bdd\u5ba4", "qzxw", "?" * 5000])
def test_nothing_near_is_an_empty_list(text: str) -> None:
    assert ROOM_NAMES.nearest(text) == []


@FUZZ
@given(st.text(max_size=300))
def test_any_text_is_matched_or_not_and_never_breaks(text: str) -> None:
    for known in (ROOM_NAMES, STYLE_NAMES, TIER_NAMES):
        assert known.match(text) in (*known.values, None)
        near = known.nearest(text)
        assert len(near) <= 3
        assert len(set(near)) == len(near)
        assert set(near) <= set(known.values)


@FUZZ
@given(st.text(st.characters(), max_size=60))
def test_plain_settles_at_once(text: str) -> None:
    assert plain(plain(text)) == plain(text)
    assert plain(text).isascii()
    assert plain(text) == plain(text).lower().strip()
