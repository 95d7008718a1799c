"""The furniture family of each style: shapes, woods, fabrics and colours that every room of a property shares.

A family depends on the style alone. Rooms of one property staged in one style therefore belong together, and a picture
that the cache returns for another property is still the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from shared.staging.preview.meshes import Material

Arms = Literal["track", "slim", "rolled", "slope", "wood", "round"]
Legs = Literal["tapered", "block", "plinth", "turned", "hairpin", "metal"]
Rug = Literal["border", "stripes", "diamonds", "checks", "arcs", "medallion", "jute"]


def linear(colour: str) -> tuple[float, float, float]:
    """Return #rrggbb as linear light."""
    values = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    red, green, blue = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(red), float(green), float(blue)


@dataclass(frozen=True)
class Family:
    """What tells a style's furniture from another's. Colours are #rrggbb."""

    arms: Arms
    legs: Legs
    soft: float  # 0 crisp to 1 plump
    cloth: Literal["weave", "leather", "velvet"]
    fabric: str
    second: str  # the armchair's, the throw's
    wood: str
    metal: str
    accent: str
    pale: str  # the other cushion
    rug: Rug
    rug_ground: str
    rug_figure: str
    lamp: Literal["drum", "tripod", "arc", "paper"]
    plant: Literal["fig", "palm", "snake", "olive"]
    head: Literal["panel", "slats", "tufted", "frame", "arch"]
    table: Literal["wood", "round", "marble", "glass"] = "wood"
    rattan: bool = False


# fmt: off
FAMILIES: Final[dict[str, Family]] = {
    "standard": Family("track", "tapered", 0.5, "weave", "#b9b2a6", "#cfc8bb", "#9b7a56", "#77756f", "#6f8fa6",
                       "#e6e1d6", "border", "#ddd6c8", "#a9a293", "drum", "fig", "panel"),
    "modern": Family("slim", "metal", 0.2, "weave", "#868b91", "#5d6268", "#4d3a2c", "#2b2d30", "#cf8436", "#d9d9d6",
                     "stripes", "#d5d3cd", "#8f9194", "arc", "snake", "panel", "glass"),
    "contemporary": Family("round", "plinth", 0.9, "weave", "#cbc3b6", "#2f6f73", "#6b5644", "#8b7a5a", "#2f6f73",
                           "#e9e4da", "arcs", "#dad3c6", "#b3a897", "arc", "fig", "arch", "round"),
    "minimalist": Family("slim", "block", 0.2, "weave", "#e4e1da", "#d8d4cb", "#cdb897", "#3c3c3c", "#a3a29d",
                         "#f0eee9", "border", "#e6e2da", "#c9c4b9", "paper", "snake", "panel"),
    "scandinavian": Family("slope", "tapered", 0.5, "weave", "#d9dad6", "#7d98a8", "#d3b68c", "#50504e", "#7391a3",
                           "#efede8", "diamonds", "#eceae4", "#6f7d85", "tripod", "fig", "slats"),
    "japandi": Family("wood", "block", 0.3, "weave", "#ddd4c4", "#b8ad98", "#a98960", "#32312f", "#5d6b57", "#efe7d9",
                      "jute", "#cdbf9f", "#b5a480", "paper", "olive", "slats"),
    "industrial": Family("track", "hairpin", 0.4, "leather", "#80502f", "#6b4229", "#6e4d33", "#242527", "#3f4448",
                         "#b9a88f", "stripes", "#a9a196", "#55524e", "arc", "snake", "frame"),
    "midcentury": Family("slim", "tapered", 0.3, "weave", "#3d7d85", "#d3a02b", "#8c5a2e", "#8f7440", "#d6a02c",
                         "#e9dcc0", "arcs", "#e3d7bf", "#c07a35", "tripod", "snake", "panel"),
    "luxury": Family("rolled", "turned", 0.7, "velvet", "#474c6e", "#e6dcc6", "#54402f", "#b8944f", "#b8944f",
                     "#efe7d6", "medallion", "#e2d9c8", "#7d7a92", "drum", "palm", "tufted", "marble"),
    "farmhouse": Family("rolled", "turned", 0.9, "weave", "#ece5d6", "#8b9a86", "#a5845e", "#3c3a37", "#7f8f7a",
                        "#d9cdb7", "checks", "#e9e3d4", "#a7a99b", "drum", "olive", "slats"),
    "coastal": Family("rolled", "block", 0.8, "weave", "#f0ece1", "#9cc0d3", "#cdb58d", "#9a948a", "#5f9abf",
                      "#f6f3ea", "stripes", "#f0ece2", "#7fb0cc", "tripod", "palm", "slats", rattan=True),
    "boho": Family("wood", "tapered", 0.8, "weave", "#cf9468", "#8d9a63", "#a9743f", "#8a6a3d", "#b4532f", "#ecd9b8",
                   "medallion", "#d9a878", "#8f4a2e", "paper", "palm", "arch", rattan=True),
    "traditional": Family("rolled", "turned", 0.7, "weave", "#8b3f39", "#b79a6b", "#573720", "#a58546", "#c4aa70",
                          "#e6d7b5", "medallion", "#8a3b34", "#d8c08d", "drum", "palm", "panel"),
    "transitional": Family("track", "turned", 0.6, "weave", "#b1a698", "#54708a", "#6d5744", "#8f8a82", "#54708a",
                           "#e4ddd1", "border", "#d4ccbe", "#54708a", "drum", "fig", "tufted"),
    "rustic": Family("track", "block", 0.8, "leather", "#83512f", "#a65e2e", "#6f4627", "#37322d", "#a3502a",
                     "#d8c6a2", "checks", "#c6a983", "#7d3f28", "drum", "olive", "slats"),
    "art_deco": Family("round", "metal", 0.7, "velvet", "#1d5f4e", "#1d2f4f", "#2a211c", "#c19a45", "#c19a45",
                       "#ede4cf", "arcs", "#e8dfcb", "#23242b", "arc", "palm", "arch", "marble"),
    "french": Family("rolled", "turned", 0.7, "weave", "#e5ddcd", "#9fb1c4", "#cfc1a5", "#bd9f5d", "#9fb1c4",
                     "#f2ecdf", "medallion", "#e8e0d0", "#a9b4bf", "drum", "olive", "tufted", "marble"),
    "mediterranean": Family("track", "block", 0.8, "weave", "#ebe0c8", "#b9683f", "#8f5c34", "#2f2c2a", "#37699a",
                            "#f3ead6", "diamonds", "#eadfc7", "#37699a", "tripod", "olive", "arch"),
    "tropical": Family("wood", "tapered", 0.8, "weave", "#f1efe3", "#3f8f5b", "#96683a", "#6f5a3a", "#35895a",
                       "#f0dca2", "jute", "#cfb98c", "#9a8150", "tripod", "palm", "slats", rattan=True),
}
# fmt: on


_WHITE: Final = Material(linear("#efece6"), "weave", 0.35, 0.05)
_ENAMEL: Final = Material(linear("#eceae6"), gloss=0.25)
_DARK: Final = Material(linear("#26272a"), gloss=0.15)
_SCREEN: Final = Material(linear("#101216"), gloss=0.5)
_RUBBER: Final = Material(linear("#2e3033"), "weave", 0.3, 0.06)
_LEAF: Final = Material(linear("#4f7a3c"), "leather", 0.25, 0.16, gloss=0.1, thin=True)
_OLIVE: Final = Material(linear("#8a9a74"), "leather", 0.2, 0.15, thin=True)
_BARK: Final = Material(linear("#6e5238"), "grain", 0.2, 0.25)
_SOIL: Final = Material(linear("#3a2c21"), "leather", 0.1, 0.3)
_CLAY: Final = Material(linear("#b9714c"), "leather", 0.4, 0.08)
_POT: Final = Material(linear("#e4e0d8"), "leather", 0.5, 0.05)
_BASKET: Final = Material(linear("#c29a63"), "weave", 0.22, 0.3)
_PAPER: Final = Material(linear("#f2efe8"))
_STEEL: Final = Material(linear("#a9adb1"), gloss=0.5)


@dataclass(frozen=True)
class Stuff:
    """A family's materials, ready to be put on shapes."""

    family: Family
    fabric: Material
    second: Material
    wood: Material
    metal: Material
    accent: Material
    pale: Material
    shade: Material
    top: Material  # of tables

    white: Material = _WHITE
    enamel: Material = _ENAMEL
    dark: Material = _DARK
    screen: Material = _SCREEN
    rubber: Material = _RUBBER
    leaf: Material = _LEAF
    olive: Material = _OLIVE
    bark: Material = _BARK
    soil: Material = _SOIL
    clay: Material = _CLAY
    pot: Material = _POT
    basket: Material = _BASKET
    paper: Material = _PAPER
    steel: Material = _STEEL


def stuff_of(style: str) -> Stuff:
    """Return the materials of a style."""
    family = FAMILIES[style]
    cloth = {
        "weave": {"texture": "weave", "scale": 0.28, "strength": 0.11},
        "leather": {"texture": "leather", "scale": 0.5, "strength": 0.13, "gloss": 0.16},
        "velvet": {"texture": "leather", "scale": 0.7, "strength": 0.07, "velvet": 0.55},
    }[family.cloth]
    wood = Material(linear(family.wood), "grain", 0.55, 0.24, gloss=0.10)
    metal = Material(linear(family.metal), gloss=0.35)
    top = {
        "wood": wood,
        "round": wood,
        "marble": Material(linear("#e9e7e3"), "marble", 0.9, 0.22, gloss=0.3),
        "glass": Material(linear("#3a4044"), gloss=0.5),
    }[family.table]
    plain = {"texture": "weave", "scale": 0.25, "strength": 0.08}
    return Stuff(
        family=family,
        fabric=Material(linear(family.fabric), **cloth),  # type: ignore[arg-type]
        second=Material(linear(family.second), **cloth),  # type: ignore[arg-type]
        wood=wood,
        metal=metal,
        accent=Material(linear(family.accent), **plain),  # type: ignore[arg-type]
        pale=Material(linear(family.pale), **plain),  # type: ignore[arg-type]
        shade=Material(linear("#f1e8d6"), "weave", 0.2, 0.05, thin=True, glow=0.12),
        top=top,
    )
