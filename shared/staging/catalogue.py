"""What belongs into a room, and what a style looks like: told in words, drawn in colours."""

from __future__ import annotations

from typing import Final

import msgspec


class Look(msgspec.Struct, frozen=True):
    """A style: in words, and as three colours (large pieces, wood or metal, accents) as #rrggbb."""

    words: str
    large: str
    frame: str
    accent: str


LOOKS: Final[dict[str, Look]] = {
    "standard": Look("simple, neutral furniture that suits any buyer", "#b8b2a7", "#8a7660", "#6f8fa6"),
    "modern": Look("clean lines, low furniture, few colours, matt surfaces", "#8d9299", "#3f4247", "#d08c3c"),
    "contemporary": Look("soft shapes, layered neutrals, one bold accent", "#c9c1b6", "#5b5148", "#2f6f73"),
    "minimalist": Look("very few pieces, white and pale wood, much free floor", "#e6e3dd", "#c8b494", "#9a9a96"),
    "scandinavian": Look("pale wood, wool, white and muted blues, cosy textiles", "#dfe0db", "#d2b48a", "#7d98a8"),
    "japandi": Look("low pale-oak furniture, linen, paper lamps, calm earth tones", "#d9cfbf", "#a98b63", "#5d6b57"),
    "industrial": Look("black steel, aged leather, raw wood, factory lamps", "#7a4f35", "#2d2d2f", "#a0522d"),
    "midcentury": Look("teak on tapered legs, mustard and teal upholstery", "#3f7f86", "#8b5a2b", "#d9a129"),
    "luxury": Look("velvet, marble, brass, generous scale, chandelier light", "#4a4e69", "#b08d57", "#efe6d2"),
    "farmhouse": Look("whitewashed wood, linen slipcovers, baskets, iron hardware", "#efe9dc", "#9c7a54", "#7f8f7a"),
    "coastal": Look("white and sand, light blue stripes, rattan, driftwood", "#f0ece2", "#cdb38b", "#6fa3bf"),
    "boho": Look("rattan, kilims, plants, warm layered textiles", "#c98b5e", "#a4713f", "#7c9a5e"),
    "traditional": Look("rolled arms, dark wood, symmetrical, classic patterns", "#8c3f3a", "#5a3a22", "#c9b27c"),
    "transitional": Look("classic shapes in plain modern fabrics", "#b3a89b", "#6b5643", "#54708a"),
    "rustic": Look("rough timber, leather, wool plaids, stone tones", "#8a5a3b", "#6b4226", "#a65e2e"),
    "art_deco": Look("geometric shapes, lacquer, brass, emerald and navy velvet", "#1f5b4d", "#b8923f", "#1d2f4f"),
    "french": Look("curved legs, painted wood, pale linen, gilded details", "#e4dccb", "#b9a47c", "#9fb1c4"),
    "mediterranean": Look(
        "terracotta, whitewash, wrought iron, olive and blue accents", "#e8dcc3", "#8f5b34", "#3d6f9c"
    ),
    "tropical": Look("rattan and teak, palm prints, lush plants, white cotton", "#f1efe4", "#9a6b3a", "#3f8f5b"),
}

_LIVING: Final = ("sofa", "coffee table", "armchair", "rug", "floor lamp", "plant")
_BED: Final = ("double bed", "bedside table", "rug", "dresser", "plant")
_OUTDOOR: Final = ("outdoor sofa", "low table", "planter", "armchair")
_DESKS: Final = ("desk", "office chair", "shelf", "plant")
FURNITURE: Final[dict[str, tuple[str, ...]]] = {
    "living_room": _LIVING,
    "family_room": _LIVING,
    "open_plan": ("sofa", "coffee table", "dining table", "rug", "plant"),
    "bedroom": _BED,
    "primary_bedroom": _BED,
    "kids_room": ("single bed", "rug", "low shelf", "desk"),
    "nursery": ("cot", "armchair", "rug", "dresser"),
    "kitchen": ("kitchen table", "chair", "plant"),
    "dining_room": ("dining table", "chair", "rug", "sideboard"),
    "bathroom": ("bath mat", "stool", "plant"),
    "home_office": _DESKS,
    "den": ("sofa", "shelf", "rug", "floor lamp"),
    "media_room": ("sofa", "media console", "rug", "coffee table"),
    "gym": ("treadmill", "exercise mat", "bench"),
    "basement": _LIVING,
    "attic": ("armchair", "low shelf", "rug", "plant"),
    "loft": _LIVING,
    "sun_room": ("rattan sofa", "low table", "plant", "rug"),
    "laundry": ("laundry basket", "low shelf", "stool"),
    "foyer": ("console table", "rug", "plant"),
    "hallway": ("console table", "runner rug"),
    "walk_in_closet": ("ottoman", "rug", "dresser"),
    "garage": ("workbench", "shelf"),
    "balcony": ("armchair", "low table", "planter"),
    "patio": _OUTDOOR,
    "terrace": _OUTDOOR,
    "pool": ("sun lounger", "low table", "planter"),
    "exterior_front": ("bench", "planter"),
    "exterior_back": _OUTDOOR,
    "lobby": ("sofa", "armchair", "low table", "plant"),
    "meeting_room": ("meeting table", "office chair", "sideboard"),
    "open_workspace": _DESKS,
    "other": ("armchair", "low table", "rug", "plant"),
}
