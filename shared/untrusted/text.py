"""Customers' text made safe to show: on terminals, in logs, in error reports."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

_NOT_SLUG: Final = re.compile(r"[^A-Za-z0-9_-]+")
# Control characters, invisible formatting (it turns or hides text), halves of characters, line and paragraph ends.
_HOSTILE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def is_hostile(text: str) -> bool:
    """Whether any character could steer a terminal, turn or break a line, or has no UTF-8."""
    return not text.isprintable() and any(unicodedata.category(character) in _HOSTILE for character in text)


def shortened(text: str, max_characters: int) -> str:
    """At most `most` characters, everything hostile escaped as in JSON."""
    cut = text[: max_characters + 1]
    if is_hostile(cut):
        cut = "".join(_escaped(character) if is_hostile(character) else character for character in cut)
    return cut if len(cut) <= max_characters else cut[: max_characters - 1] + "…"


def _escaped(character: str) -> str:
    escaped = json.dumps(character)[1:-1]
    return escaped if escaped != character else f"\\u{ord(character):04x}"


def slug(text: str, max_characters: int = 64) -> str:
    """`text` as `[A-Za-z0-9_-]{0,most}`: accents dropped, everything else folded into single hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("-{2,}", "-", _NOT_SLUG.sub("-", plain)).strip("-_")[:max_characters].strip("-_")


def client_slug(name: str) -> str:
    """The client whose name this is, as ids and folders have it: `São João` is `sao-joao`; empty if nothing is left."""
    return slug(name).lower()
