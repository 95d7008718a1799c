"""The rooms of the sample photos and the cameras that see them.

Lengths are metres: x to the right, y away from the wall behind the camera, z up. Angles are degrees, colours #rrggbb.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

LEFT, RIGHT, NEAR, FAR, FLOOR, CEILING = range(6)


@dataclass(frozen=True)
class Surface:
    """A floor or wall. `size` is a plank's width, a tile's height or the grid of a concrete floor's cuts."""

    kind: str  # planks, herringbone, tiles, checker, carpet, concrete, paint
    color: str
    second: str = "#808080"  # the light tone of wood, the joints of tiles, the other tile of a checker
    size: float = 0.16
    ratio: float = 1.0  # length of a tile, in sizes
    shift: float = 0.0  # how far each row of tiles starts after the last, in lengths
    joint: float = 0.001  # half the width of a joint
    contrast: float = 0.5
    turn: float = 0.0
    gloss: float = 0.0  # 0 dull to 1 polished
    height: float = 0.0  # of a wall: where `above`, the paint, begins; 0 for never
    above: str = "#f0eee8"


@dataclass(frozen=True)
class Opening:
    """A window, a door, or the open side of a balcony. `left` counts along the wall from the room's origin."""

    face: int
    left: float
    bottom: float
    width: float
    height: float
    kind: str = "window"  # window, door, railing
    columns: int = 1
    rows: int = 1
    bar: float = 0.05  # width of the frame and of the bars between panes
    depth: float = 0.16  # of the reveal
    casing: float = 0.0  # width of the wooden frame on the wall


@dataclass(frozen=True)
class Block:
    """A solid in a room that is not a plain box, from its low to its high corner.

    A `slope` is the part of the room above the line from its low corner up to its high one: a sloped ceiling.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    kind: str = "wall"  # wall, radiator, slope
    color: str = "#f0ede6"


@dataclass(frozen=True)
class Room:
    """A box, its light, and its camera. The sun shines towards `sun_heading` (0 is along y, 90 along x)."""

    size: tuple[float, float, float]
    floor: Surface
    walls: Surface
    openings: tuple[Opening, ...]
    camera: tuple[float, float, float]
    yaw: float  # of the camera: 0 looks along y, positive to the right
    view: float = 78.0  # horizontal field
    shift: float = 0.06  # how far the lens is shifted down, in picture widths; verticals stay vertical
    accent: tuple[int, Surface] | None = None  # another wall
    ceiling: str = "#f4f3f0"
    trim: str = "#f3f1ec"
    frame: str = "#eeeeec"
    slab: str = "#eeece6"  # the door
    skirting: float = 0.09
    cornice: float = 0.0
    sky: str = "#e6efff"  # colour of the light through the windows
    lamp: str = "#ffd9ae"  # colour of the light from the ceiling
    lamps: float = 0.02  # how strong that is; a window is 1
    spots: tuple[tuple[float, float], ...] = ()  # places of lamps in the ceiling
    plates: tuple[tuple[int, float, float], ...] = ()  # sockets and switches: wall, place along it, height
    sun: float = 0.0  # how strong; the sky is 1
    sun_heading: float = 0.0
    sun_height: float = 35.0
    sun_blur: float = 0.018  # penumbra, metres for each metre of way
    outdoors: float = 1.7  # how bright the view is; 1 is a well exposed white
    exposure: float = 1.0
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Photo:
    """A picture of a room as its camera stored it. `size` is upright, in pixels."""

    name: str
    size: tuple[int, int]
    room: Room
    make: str = ""
    model: str = ""
    taken: str = ""  # YYYY:MM:DD HH:MM:SS, as EXIF writes it
    orientation: int = 1
    place: tuple[float, float] | None = None  # latitude, longitude


WHITE: Final = Surface("paint", "#f0ede6")
OAK: Final = Surface("planks", "#8b7058", "#c4a888", 0.17, gloss=0.45)
ASH: Final = Surface("planks", "#a89580", "#d6c8b4", 0.19, gloss=0.35, contrast=0.4, turn=90)
WALNUT: Final = Surface("planks", "#4a3325", "#7d5c44", 0.13, gloss=0.6, contrast=0.45)

# fmt: off
PHOTOS: Final = (
    Photo(
        "living-01", (1800, 1350), make="Canon", model="Canon EOS R8", taken="2026:03:12 10:41:07",
        room=Room(
            size=(5.2, 6.4, 2.7), floor=OAK, walls=WHITE, camera=(3.9, 0.5, 1.4), yaw=-14, cornice=0.07,
            openings=(
                Opening(LEFT, 2.6, 0.12, 2.2, 2.2, columns=2),
                Opening(FAR, 3.5, 0, 0.86, 2.08, kind="door", depth=0.05, casing=0.07),
            ),
            sun=2.2, sun_heading=75, sun_height=36, plates=((FAR, 3.1, 1.1), (FAR, 1.2, 0.3), (RIGHT, 4.5, 0.3)),
        ),
    ),
    Photo(  # balcony door in the far wall, backlit
        "living-02", (1920, 1280), make="SONY", model="ILCE-7M4", taken="2026:04:02 15:20:44",
        room=Room(
            size=(6.4, 5.2, 2.6), floor=ASH, walls=Surface("paint", "#e4e2dc"),
            camera=(1.3, 0.45, 1.35), yaw=17, view=80, frame="#3b3d40",
            openings=(
                Opening(FAR, 2.1, 0.0, 2.7, 2.25, columns=3),
                Opening(RIGHT, 2.2, 0.9, 1.3, 1.25, columns=2),
            ),
            accent=(RIGHT, Surface("paint", "#aab3a4")), spots=((1.6, 1.8), (1.6, 3.6), (4.8, 1.8), (4.8, 3.6)),
            lamps=0.03, sun=1.6, sun_heading=200, sun_height=40, plates=((FAR, 1.4, 0.3), (FAR, 5.6, 0.3)),
        ),
    ),
    Photo(
        "bedroom-01", (1600, 1200), make="Apple", model="iPhone 15 Pro", taken="2026:05:19 09:02:31",
        place=(-23.561414, -46.655881),
        room=Room(
            size=(4.1, 4.6, 2.5), floor=Surface("carpet", "#b7ab9b", contrast=0.8), walls=Surface("paint", "#e9e4da"),
            camera=(0.5, 0.4, 1.45), yaw=24, view=80, accent=(FAR, Surface("paint", "#9fb0bd")),
            openings=(Opening(RIGHT, 1.7, 0.9, 1.7, 1.25, columns=2, casing=0.06),),
            plates=((FAR, 0.9, 0.3), (FAR, 3.2, 0.3)), sky="#dfeaff", lamps=0.015,
        ),
    ),
    Photo(
        "bedroom-02", (1800, 1350), make="samsung", model="SM-S928B", taken="2026:02:27 16:45:10", orientation=8,
        room=Room(
            size=(4.6, 4.4, 2.8), floor=WALNUT, walls=Surface("paint", "#ece5d6"), camera=(3.9, 0.4, 1.4), yaw=-20,
            openings=(
                Opening(FAR, 0.6, 0.75, 1.05, 1.6, columns=2, rows=2, casing=0.08),
                Opening(FAR, 2.6, 0.75, 1.05, 1.6, columns=2, rows=2, casing=0.08),
            ),
            cornice=0.1, skirting=0.14, sun=1.5, sun_heading=200, sun_height=34, plates=((FAR, 2.1, 0.35),),
        ),
    ),
    Photo(
        "kids-01", (1800, 1350), make="NIKON CORPORATION", model="NIKON Z 5", taken="2026:01:30 11:11:54",
        room=Room(
            size=(3.6, 4.3, 2.5), floor=Surface("planks", "#b59a78", "#dcc6a4", 0.12, gloss=0.4, contrast=0.4),
            walls=Surface("paint", "#f2ecd9"), camera=(1.9, 0.3, 1.3), yaw=6, view=82,
            accent=(LEFT, Surface("paint", "#b9d3c2")),
            openings=(Opening(FAR, 1.1, 0.95, 1.5, 1.2, columns=2, casing=0.07),),
            sun=1.2, sun_heading=160, sun_height=42, plates=((FAR, 0.6, 0.3), (RIGHT, 3.4, 0.3)),
        ),
    ),
    Photo(
        "kitchen-01", (1800, 1350), make="Canon", model="Canon EOS R8", taken="2026:03:12 10:55:36",
        room=Room(
            size=(4.2, 4.9, 2.6),
            floor=Surface("tiles", "#cfc8bc", "#a39b8f", 0.6, joint=0.0018, contrast=0.25, gloss=0.8),
            walls=Surface("paint", "#eeece7"), camera=(0.6, 0.35, 1.4), yaw=19,
            accent=(
                FAR, Surface("tiles", "#e9ece9", "#b9bab6", 0.075, 2, 0.5, 0.0015, 0.16, height=1.5, above="#eeece7"),
            ),
            openings=(
                Opening(FAR, 1.5, 1.12, 1.3, 1.05, columns=2),
                Opening(RIGHT, 2.9, 0, 0.82, 2.08, kind="door", depth=0.05, casing=0.07),
            ),
            skirting=0.07, spots=((1.2, 1.5), (3.0, 1.5), (1.2, 3.4), (3.0, 3.4)), lamps=0.09,
            plates=((FAR, 0.8, 1.15), (FAR, 1.1, 1.15), (FAR, 3.4, 1.15)),
        ),
    ),
    Photo(
        "dining-01", (1800, 1350), make="SONY", model="ILCE-7M4", taken="2026:04:02 15:31:02",
        room=Room(
            size=(4.6, 5.4, 3.0), floor=Surface("herringbone", "#8a6746", "#bb9468", 0.09, gloss=0.6, contrast=0.5),
            walls=Surface("paint", "#d5dbd6"), camera=(2.3, 0.35, 1.45), yaw=0, cornice=0.12, skirting=0.16,
            openings=(
                Opening(LEFT, 1.6, 0.35, 1.1, 2.2, columns=2, rows=3, casing=0.1),
                Opening(LEFT, 3.5, 0.35, 1.1, 2.2, columns=2, rows=3, casing=0.1),
                Opening(FAR, 1.82, 0, 0.96, 2.25, kind="door", depth=0.06, casing=0.11),
            ),
            sun=2, sun_heading=100, sun_height=38, plates=((FAR, 3.5, 0.35),),
        ),
    ),
    Photo(  # portrait, stored rotated as phones do
        "bathroom-01", (1350, 1800), make="Apple", model="iPhone 15 Pro", taken="2026:05:19 09:08:12", orientation=6,
        room=Room(
            size=(2.5, 3.4, 2.5), floor=Surface("tiles", "#8f9294", "#77797a", 0.3, 2, 0.5, 0.0015, 0.3, gloss=0.7),
            walls=Surface("tiles", "#e6eaea", "#c4c6c4", 0.3, 2, 0, 0.0012, 0.06, height=1.81, above="#e8eceb"),
            camera=(1.5, 0.25, 1.45), yaw=-6, view=64, shift=0.14, skirting=0,
            openings=(Opening(FAR, 0.85, 1.25, 0.8, 0.95, columns=1),), outdoors=2.4,
            spots=((0.8, 1.2), (1.7, 1.2), (1.25, 2.6)), lamps=0.12, plates=((RIGHT, 2.4, 1.2),),
        ),
    ),
    Photo(
        "office-01", (1800, 1350), make="FUJIFILM", model="X-T5", taken="2026:06:08 13:27:19", orientation=3,
        room=Room(
            size=(6.0, 5.6, 2.7),
            floor=Surface("tiles", "#7c8188", "#70757c", 0.5, joint=0.0015, contrast=0.35, gloss=0.0),
            walls=Surface("paint", "#eceded"), camera=(5.3, 0.5, 1.5), yaw=-24, view=80, frame="#4a4d50",
            openings=(Opening(LEFT, 0.9, 0.85, 4.2, 1.5, columns=4),),
            accent=(FAR, Surface("paint", "#c9d2d8")), skirting=0.07, lamps=0.08, lamp="#fff3e4",
            spots=tuple((x, y) for x in (1.5, 3.0, 4.5) for y in (1.5, 3.0, 4.5)),
            plates=((FAR, 1.2, 0.3), (FAR, 1.32, 0.3), (FAR, 4.2, 0.3), (FAR, 4.32, 0.3)),
        ),
    ),
    Photo(
        "loft-01", (1920, 1280), make="Canon", model="Canon EOS R8", taken="2026:03:14 08:15:50",
        room=Room(
            size=(7.2, 7.0, 3.6), floor=Surface("concrete", "#9a9791", size=3.0, joint=0.003, contrast=0.5, gloss=0.6),
            walls=Surface("paint", "#e6e3dd"), camera=(2.2, 0.6, 1.5), yaw=9, view=82, skirting=0, frame="#26282a",
            accent=(RIGHT, Surface("tiles", "#8a6252", "#a89e94", 0.075, 3, 0.5, 0.005, 0.8)),
            openings=(
                Opening(FAR, 1.0, 0.7, 2.2, 2.4, columns=4, rows=4, bar=0.035, depth=0.25),
                Opening(FAR, 4.0, 0.7, 2.2, 2.4, columns=4, rows=4, bar=0.035, depth=0.25),
            ),
            sun=1.8, sun_heading=155, sun_height=40, ceiling="#e4e2de",
        ),
    ),
    Photo(
        "hallway-01", (1350, 1800),
        room=Room(
            size=(1.9, 5.6, 2.7),
            floor=Surface("checker", "#e4e0d6", "#3a3a3c", 0.33, contrast=0.25, gloss=0.9, turn=45),
            walls=Surface("paint", "#e8e0cf"), camera=(0.95, 0.3, 1.4), yaw=0, view=66,
            shift=0.12, skirting=0.15, cornice=0.09,
            openings=(
                Opening(FAR, 0.5, 0, 0.9, 2.1, kind="door", depth=0.06, casing=0.09),
                Opening(LEFT, 2.2, 0, 0.85, 2.08, kind="door", depth=0.06, casing=0.09),
                Opening(RIGHT, 3.2, 0.9, 0.9, 1.35, columns=2, rows=2, casing=0.08),
            ),
            spots=((0.95, 1.6), (0.95, 3.6)), lamps=0.16, slab="#5f6f73",
        ),
    ),
    Photo(
        "basement-01", (1600, 1200), make="NIKON CORPORATION", model="NIKON Z 5", taken="2026:01:30 11:40:03",
        room=Room(
            size=(5.6, 6.2, 2.4), floor=Surface("concrete", "#8d8b87", size=2.8, joint=0.003, contrast=0.7, gloss=0.15),
            walls=Surface("paint", "#dddad2"), camera=(4.6, 0.4, 1.45), yaw=-17, view=80, skirting=0,
            openings=(
                Opening(LEFT, 2.6, 1.55, 1.2, 0.55, columns=2),
                Opening(FAR, 3.4, 0, 0.86, 2.05, kind="door", depth=0.05, casing=0.06),
            ),
            spots=((1.6, 1.6), (4.0, 1.6), (1.6, 4.4), (4.0, 4.4)), lamps=0.12, exposure=0.85, slab="#8e9296",
            plates=((FAR, 3.0, 1.1),),
        ),
    ),
    Photo(
        "sunroom-01", (1800, 1350), make="FUJIFILM", model="X-T5", taken="2026:06:08 14:02:45",
        room=Room(
            size=(5.0, 4.0, 2.7),
            floor=Surface("tiles", "#a8694a", "#b7aa98", 0.3, joint=0.004, contrast=0.4, gloss=0.3),
            walls=Surface("paint", "#f1efe9"), camera=(1.2, 0.3, 1.4), yaw=16, view=84,
            openings=(
                Opening(FAR, 0.25, 0.55, 4.5, 1.9, columns=5, rows=1, bar=0.07),
                Opening(RIGHT, 0.4, 0.0, 3.2, 2.45, columns=3, rows=1, bar=0.07),
            ),
            sun=1.5, sun_heading=245, sun_height=42, outdoors=1.3, skirting=0.08,
        ),
    ),
    Photo(
        "balcony-01", (1800, 1350), make="samsung", model="SM-S928B", taken="2026:02:27 17:03:38",
        room=Room(
            size=(4.6, 2.9, 2.7),
            floor=Surface("tiles", "#978d80", "#746c61", 0.45, joint=0.002, contrast=0.3, gloss=0.2),
            walls=Surface("paint", "#e2dccf"), camera=(0.6, 0.2, 1.5), yaw=27, view=84, skirting=0.07, frame="#2e3032",
            openings=(
                Opening(FAR, 0, 0.12, 4.6, 2.4, kind="railing", bar=0, depth=0.12),
                Opening(RIGHT, 1.3, 0.12, 1.6, 2.4, kind="railing", bar=0, depth=0.12),
            ),
            sun=0.9, sun_heading=215, sun_height=38, outdoors=0.72, exposure=0.95,
        ),
    ),
)

# Rooms that are not boxes: not part of the sample batch, but the preview is measured on them as well.
_BOX: Final = Room(
    size=(5.4, 6.2, 2.7), floor=OAK, walls=WHITE, camera=(3.6, 0.5, 1.45), yaw=-10, skirting=0.08,
    openings=(
        Opening(LEFT, 2.0, 0.9, 1.6, 1.2, columns=2),
        Opening(FAR, 3.9, 0, 0.86, 2.08, kind="door", depth=0.05, casing=0.07),
    ),
    sun=1.4, sun_heading=75, sun_height=38,
)
_GREY: Final = replace(_BOX, walls=Surface("paint", "#d9dcdb"), floor=ASH)
ODD: Final = (
    Photo("l-shape", (1600, 1200), replace(
        _BOX, blocks=(Block((3.2, 4.0, 0), (5.4, 6.2, 2.7)),), openings=_BOX.openings[:1],
    )),
    Photo("alcove", (1600, 1200), replace(
        _BOX, blocks=(Block((0, 5.5, 0), (1.6, 6.2, 2.7)), Block((3.4, 5.5, 0), (5.4, 6.2, 2.7))),
        openings=_BOX.openings[:1],
    )),
    Photo("sloped", (1600, 1200), replace(
        _GREY, blocks=(Block((0, 0, 1.3), (2.2, 6.2, 2.7), "slope", "#f2f0ec"),),
        openings=_BOX.openings[1:], lamps=0.12,
    )),
    Photo("columns", (1600, 1200), replace(
        _GREY, blocks=(Block((1.5, 3.6, 0), (1.85, 3.95, 2.7), color="#e9e6df"),
                       Block((3.9, 3.6, 0), (4.25, 3.95, 2.7), color="#e9e6df")),
    )),
    Photo("radiator", (1600, 1200), replace(
        _GREY, openings=(Opening(FAR, 1.9, 0.95, 1.5, 1.2, columns=2),),
        blocks=(Block((1.9, 6.08, 0.12), (3.4, 6.2, 0.78), "radiator", "#f6f5f1"), Block((0, 6.0, 0), (0.5, 6.2, 2.7))),
    )),
    Photo("passage", (1600, 1200), replace(
        _BOX, size=(6.6, 6.2, 2.7), openings=_BOX.openings[:1],
        blocks=(Block((5.2, 0, 0), (6.6, 2.6, 2.7)), Block((5.2, 4.0, 0), (6.6, 6.2, 2.7)),
                Block((5.2, 2.6, 2.2), (6.6, 4.0, 2.7))),
    )),
)
# fmt: on
