"""Makes customers' text safe to show: on terminals, in logs, in error reports."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

_NOT_SLUG: Final = re.compile(r"[^A-Za-z0-9_-]+")
# Control characters, invisible formatting (it reverses or hides text), lone surrogates, line and paragraph separators.
_HOSTILE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def is_hostile(text: str) -> bool:
    """Return whether any character could control a terminal, reverse or break a line, or cannot be encoded in UTF-8."""
    return not text.isprintable() and any(unicodedata.category(character) in _HOSTILE for character in text)


def shortened(text: str, max_characters: int) -> str:
    """Return at most `max_characters`, with everything hostile escaped as in JSON."""
    cut = text[: max_characters + 1]
    if is_hostile(cut):
        cut = "".join(_escaped(character) if is_hostile(character) else character for character in cut)
    return cut if len(cut) <= max_characters else cut[: max_characters - 1] + "…"


def _escaped(character: str) -> str:
    escaped = json.dumps(character)[1:-1]
    return escaped if escaped != character else f"\\u{ord(character):04x}"


def slug(text: str, max_characters: int = 64) -> str:
    """Return `text` as `[A-Za-z0-9_-]`, at most `max_characters`.

    Accents are dropped, and everything else becomes single hyphens.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("-{2,}", "-", _NOT_SLUG.sub("-", plain)).strip("-_")[:max_characters].strip("-_")


def client_slug(name: str) -> str:
    """Return the client's slug, used in ids and folders: `sao-joao` for `São João`. Empty if nothing is left."""
    return slug(name).lower()
