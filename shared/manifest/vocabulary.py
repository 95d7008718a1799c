"""Rooms, styles and tiers: the known names, and the spellings of them that people use in English and Portuguese."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from shared.model import Tier

ROOMS: Final = (
    "living_room", "family_room", "open_plan", "bedroom", "primary_bedroom", "kids_room", "nursery", "kitchen",
    "dining_room", "bathroom", "home_office", "den", "media_room", "gym", "basement", "attic", "loft", "sun_room",
    "laundry", "foyer", "hallway", "walk_in_closet", "garage", "balcony", "patio", "terrace", "pool", "exterior_front",
    "exterior_back", "lobby", "meeting_room", "open_workspace", "other",
)  # fmt: skip
STYLES: Final = (
    "standard", "modern", "contemporary", "minimalist", "scandinavian", "japandi", "industrial", "midcentury", "luxury",
    "farmhouse", "coastal", "boho", "traditional", "transitional", "rustic", "art_deco", "french", "mediterranean",
    "tropical",
)  # fmt: skip
TIERS: Final = tuple(tier.value for tier in Tier)

# Other names of each, written as `plain` leaves them: lower case, no accents, single spaces.
ROOM_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "living_room": ("living", "lounge", "sitting room", "sala", "sala de estar", "sala de visitas", "estar"),
    "family_room": ("sala de familia", "sala intima", "estar intimo"),
    "open_plan": ("open concept", "great room", "conceito aberto", "ambiente integrado", "sala e cozinha", "integrado"),
    "bedroom": ("bed room", "guest bedroom", "quarto", "dormitorio", "quarto de hospedes", "quarto de solteiro"),
    "primary_bedroom": (
        "master bedroom",
        "main bedroom",
        "suite",
        "suite master",
        "quarto principal",
        "quarto de casal",
    ),
    "kids_room": ("kids bedroom", "children room", "childrens room", "quarto infantil", "quarto de crianca"),
    "nursery": ("baby room", "quarto de bebe", "bercario"),
    "kitchen": ("kitchenette", "cozinha", "cozinha americana", "copa", "copa cozinha"),
    "dining_room": ("dining", "sala de jantar", "jantar"),
    "bathroom": ("bath", "bath room", "restroom", "banheiro", "lavabo", "wc"),
    "home_office": ("office", "study", "escritorio", "home office", "escritorio em casa"),
    "den": ("gabinete", "recanto"),
    "media_room": ("home theater", "tv room", "sala de tv", "sala de cinema", "home theatre"),
    "gym": ("home gym", "fitness room", "academia", "sala de ginastica"),
    "basement": ("porao", "subsolo"),
    "attic": ("sotao",),
    "loft": ("mezanino", "mezzanine"),
    "sun_room": ("sunroom", "conservatory", "jardim de inverno", "solario"),
    "laundry": ("laundry room", "utility room", "lavanderia", "area de servico"),
    "foyer": ("entry", "entrance", "entryway", "hall de entrada", "vestibulo", "hall"),
    "hallway": ("corridor", "corredor", "circulacao"),
    "walk_in_closet": ("closet", "dressing room", "wardrobe", "guarda roupa"),
    "garage": ("garagem", "vaga"),
    "balcony": ("varanda", "sacada", "varanda gourmet"),
    "patio": ("quintal", "courtyard", "area gourmet", "churrasqueira", "espaco gourmet", "edicula"),
    "terrace": ("terraco", "rooftop", "cobertura", "laje"),
    "pool": ("swimming pool", "piscina", "area da piscina"),
    "exterior_front": ("facade", "front exterior", "fachada", "frente"),
    "exterior_back": ("backyard", "back exterior", "fundos", "area externa"),
    "lobby": ("reception", "recepcao", "portaria", "saguao"),
    "meeting_room": ("conference room", "sala de reuniao", "sala de reunioes"),
    "open_workspace": ("open office", "coworking", "espaco de trabalho", "escritorio aberto"),
    "other": ("outro", "outros", "outra", "despensa", "deposito"),
}
STYLE_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "standard": ("default", "neutral", "padrao", "neutro", "basico"),
    "modern": ("moderno", "moderna", "high tech", "hi tech"),
    "contemporary": ("contemporaneo", "contemporanea"),
    "minimalist": ("minimal", "minimalism", "minimalista", "clean"),
    "scandinavian": ("scandi", "nordic", "escandinavo", "escandinava", "nordico"),
    "japandi": ("japanese", "japones", "zen"),
    "industrial": ("industrial loft", "fabril"),
    "midcentury": ("mid century", "mid century modern", "midcentury modern", "retro", "anos 50", "vintage"),
    "luxury": ("luxurious", "luxo", "luxuoso", "alto padrao"),
    "farmhouse": ("modern farmhouse", "fazenda", "casa de campo"),
    "coastal": ("beach", "hamptons", "praia", "litoraneo", "costeiro", "praiano"),
    "boho": ("bohemian", "boho chic", "boemio"),
    "traditional": ("classic", "tradicional", "classico"),
    "transitional": ("transicional", "de transicao"),
    "rustic": ("rustico", "rustica"),
    "art_deco": ("deco", "art deco"),
    "french": ("french country", "provencal", "provence", "frances", "francesa", "romantico", "romantica"),
    "mediterranean": ("mediterraneo", "mediterranea", "spanish", "tuscan"),
    "tropical": ("tropicana", "bali"),
}
TIER_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "express": ("high", "urgent", "alta", "urgente", "expresso", "expressa"),
    "normal": ("medium", "standard", "media", "padrao"),
    "economy": ("low", "baixa", "economico", "economica", "economia"),
}

_SEPARATORS = re.compile(r"[\s_\-/.]+")
_NEAREST = 3
_SHORT_WORD = 2  # letters: "de" and "da" say nothing of a room
_SURE = 0.8  # how alike the whole has to be for its single words not to matter


def plain(text: str) -> str:
    """Return `text` without accents and case, and with single spaces for hyphens, underscores and the like."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _SEPARATORS.sub(" ", folded.replace("'", "")).strip()


class Vocabulary:
    """A closed set of values with their other spellings."""

    def __init__(self, values: Iterable[str], aliases: Mapping[str, tuple[str, ...]]) -> None:
        self.values = tuple(values)
        self._known = {plain(value): value for value in self.values}
        self._known |= {value.replace("_", ""): value for value in self.values if "_" in value}
        self._known |= {alias: value for value, others in aliases.items() for alias in others}

    def match(self, text: str) -> str | None:
        """Return the value that `text` spells, or None."""
        return self._known.get(plain(text))

    def nearest(self, text: str) -> list[str]:
        """Return up to three valid values whose spellings look most like `text`; may be empty.

        A value whose spelling is almost a single word of `text` goes before one that only looks similar as a whole:
        "salla grande" is nearer to "sala" than to "media room".
        """
        wanted = plain(text)[:80]
        close = difflib.get_close_matches(wanted, self._known, n=8, cutoff=0.6)
        words = [word for word in wanted.split() if len(word) > _SHORT_WORD]
        of_words = [name for word in words for name in difflib.get_close_matches(word, self._known, n=2, cutoff=0.85)]
        near = (
            close if close and difflib.SequenceMatcher(None, wanted, close[0]).ratio() > _SURE else [*of_words, *close]
        )
        return list(dict.fromkeys(self._known[spelling] for spelling in near))[:_NEAREST]


ROOM_NAMES: Final = Vocabulary(ROOMS, ROOM_ALIASES)
STYLE_NAMES: Final = Vocabulary(STYLES, STYLE_ALIASES)
TIER_NAMES: Final = Vocabulary(TIERS, TIER_ALIASES)
