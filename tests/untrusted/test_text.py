"""Texts that others wrote, made into parts of names: safe, short, and the same every time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.untrusted.text import slug as made

FUZZ = settings(max_examples=80, deadline=None, database=None, derandomize=True)
SLUG = re.compile(r"[A-Za-z0-9_-]*")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("acme", "acme"), ("Acme Realty", "Acme-Realty"), ("APT-101", "APT-101"), ("a_b", "a_b"),
        ("Imobiliária São João", "Imobiliaria-Sao-Joao"), ("  acme  ", "acme"), ("a/b", "a-b"), ("../../etc", "etc"),
        ("a\\b", "a-b"), ("a.b", "a-b"), (".", ""), ("..", ""), ("", ""), ("-", ""), ("\u65e5\u672c", ""),
        ("\U0001f3e0 12", "12"), ("a\x00b\n", "a-b"), ("a" * 100, "a" * 64), ("a" * 63 + "--b", "a" * 63),
        ("\uff21\uff11", "A1"), ("a  &  b", "a-b"), ("a\u202eb", "ab"),
    ],
)  # fmt: skip
def test_slug(text: str, slug: str) -> None:
    assert made(text) == slug


@pytest.mark.parametrize("text", ["Apto - 12", "a-/-b"])
def test_slug_folds_into_single_hyphens(text: str) -> None:
    assert "--" not in made(text)


@FUZZ
@given(st.text(st.characters(), max_size=200))
def test_slug_is_a_safe_name_whatever_comes(text: str) -> None:
    slug = made(text)
    assert SLUG.fullmatch(slug)
    assert len(slug) <= 64
    assert slug == slug.strip("-")
    assert made(slug) == slug


@FUZZ
@given(st.text(max_size=100), st.integers(1, 20))
def test_slug_keeps_its_length(text: str, most: int) -> None:
    assert len(made(text, most)) <= most
