"""What goes into each kind of room: three layouts or more, as groups of pieces in metres.

A layout is a list of steps; a step is a list of alternatives, of which the first that fits is taken. What fits nowhere
is left out. A group's frame: x along the wall, y from the wall into the room,
turns counter-clockwise in degrees; at turn 0
a piece has its back to the wall. `layout` places it at a wall, or free in the room.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Item:
    """A piece of a group. `y` is where its back begins, or its middle when `middle`."""

    name: str
    x: float = 0.0
    y: float = 0.04
    turn: float = 0.0
    middle: bool = False
    on: str = "floor"  # or "ceiling"


@dataclass(frozen=True)
class Rug:
    """A rug of a group: its kind in `furniture.RUGS` and its middle."""

    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class Group:
    """Pieces that belong together. The first must fit, the others may be missing."""

    items: tuple[Item, ...]
    rug: Rug | None = None
    above: str | None = None  # hangs over the first piece
    free: bool = False  # stands in the room, not at a wall
    corner: bool = False  # likes the ends of a wall
    need: int = 1  # how many of the items, from the first, must fit
    front: bool = False  # seen from its side nobody knows what it is: stands where the camera sees its front


Step = tuple[Group, ...]
Layout = tuple[Step, ...]


def _one(name: str, above: str | None = None, *, corner: bool = False) -> Group:
    return Group((Item(name),), above=above, corner=corner)


def _wall(name: str) -> Group:
    """Return something that hangs on a wall by itself."""
    return Group((Item(name),))


def _seats(
    seat: str, *others: Item, rug: str | None = "rug", above: str | None = "art", table: str = "coffee table"
) -> Group:
    return Group(
        (Item(seat), Item(table, 0, 1.72, 0, middle=True), *others),
        rug=Rug(rug, 0, 1.75) if rug else None,
        above=above,
    )


def _turned(group: Group, seat: str) -> Group:
    return replace(group, items=(replace(group.items[0], name=seat), *group.items[1:]))


_CHAIR_RIGHT: Final = Item("armchair", 1.62, 1.75, -62, middle=True)
_CHAIR_LEFT: Final = Item("armchair", -1.62, 1.75, 62, middle=True)
_LAMP_LEFT: Final = Item("floor lamp", -1.40, 0.08)
_SIDE_RIGHT: Final = Item("side table", 1.38, 0.12)
_TWO_FACING: Final = (
    Item("armchair", -0.62, 2.75, 172, middle=True),
    Item("armchair", 0.62, 2.75, 188, middle=True),
)
_PLANT: Final[Step] = (_one("plant", corner=True),)
_ART: Final[Step] = (_wall("art"),)
_SMALL_SEATS: Final = _seats("loveseat", Item("floor lamp", -1.12, 0.08), Item("armchair", 1.45, 1.6, -62, middle=True))
_ONE_CHAIR: Final = Group(
    (Item("armchair", 0, 0.12), Item("side table", 0.72, 0.14), Item("floor lamp", -0.68, 0.08)),
    rug=Rug("small rug", 0, 1.0),
)

_LIVING: Final[tuple[Layout, ...]] = (
    (
        (_seats("sofa", _CHAIR_RIGHT, _LAMP_LEFT, _SIDE_RIGHT), _SMALL_SEATS, _ONE_CHAIR),
        (_one("bookshelf"), _one("low shelf", "art")),
        _PLANT,
    ),
    (
        (_seats("sofa", _CHAIR_LEFT, _CHAIR_RIGHT, _SIDE_RIGHT, rug="large rug"), _SMALL_SEATS, _ONE_CHAIR),
        (_one("console table", "mirror"), _one("low shelf", "art")),
        (_one("floor lamp", corner=True),),
        _PLANT,
    ),
    (
        (
            _seats("sofa", *_TWO_FACING, _LAMP_LEFT, Item("side table", 1.38, 0.12), rug="large rug"),
            _SMALL_SEATS,
            _ONE_CHAIR,
        ),
        (_one("media console"), _one("sideboard", "art")),
        _PLANT,
        _PLANT,
    ),
    (
        (
            _seats("loveseat", Item("loveseat", -1.75, 1.85, 90, middle=True), Item("floor lamp", -1.3, 0.1)),
            _SMALL_SEATS,
            _ONE_CHAIR,
        ),
        (_one("sideboard", "art"), _one("bookshelf")),
        _PLANT,
    ),
)
_DEN: Final[tuple[Layout, ...]] = (
    ((_SMALL_SEATS, _ONE_CHAIR), (_one("bookshelf"),), (_one("bookshelf"),), _PLANT),
    ((_seats("sofa", _LAMP_LEFT, _SIDE_RIGHT), _ONE_CHAIR), (_one("desk", "art"), _one("bookshelf")), _PLANT),
    ((_ONE_CHAIR,), (_one("low shelf", "art"),), (_one("bookshelf"),), _PLANT),
)
_MEDIA: Final[tuple[Layout, ...]] = (
    ((_one("media console"),), (_seats("sofa", _LAMP_LEFT, _SIDE_RIGHT), _SMALL_SEATS), _PLANT),
    ((_one("media console"),), (_SMALL_SEATS, _ONE_CHAIR), (_one("low shelf", "art"),), _PLANT),
    (
        (_one("media console"),),
        (_seats("sofa", _CHAIR_LEFT, above=None), _SMALL_SEATS),
        (_one("bookshelf"),),
        (_one("floor lamp", corner=True),),
    ),
)


def _bed(kind: str, half: float, rug: str, *more: Item, above: str = "art") -> Group:
    return Group(
        (Item(kind), Item("bedside table", -half - 0.28, 0.05), Item("bedside table", half + 0.28, 0.05), *more),
        rug=Rug(rug, 0, 1.75),
        above=above,
    )


_DOUBLE: Final = _bed("double bed", 0.88, "large rug", Item("bench", 0, 2.32))
_SINGLE: Final = _bed("single bed", 0.57, "rug")
_BEDROOM: Final[tuple[Layout, ...]] = (
    ((_DOUBLE, _SINGLE), (_one("dresser", "mirror"),), _PLANT, (_ONE_CHAIR,)),
    (
        (_bed("double bed", 0.88, "large rug", above="mirror"), _SINGLE),
        (Group((Item("armchair", 0, 0.1, 0), Item("floor lamp", 0.68, 0.1))),),
        (_one("dresser", "art"), _one("low shelf", "art")),
        _PLANT,
    ),
    (
        (_bed("double bed", 0.88, "rug"), _SINGLE),
        (_one("desk", "art"), _one("console table", "mirror")),
        (_one("ottoman"),),
        _PLANT,
    ),
)
_KIDS: Final[tuple[Layout, ...]] = (
    (
        (
            Group(
                (Item("single bed"), Item("bedside table", -0.86, 0.05), Item("toy box", 1.05, 0.05)),
                Rug("rug", 0, 2.0),
                "art",
            ),
        ),
        (Group((Item("desk"), Item("chair", 0, 0.92, 180, middle=True)), above="art"),),
        (_one("low shelf"),),
        (Group((Item("play tent", 0, 0.7, 0, middle=True),)),),
    ),
    (
        (Group((Item("play tent", 0, 0.75, 0, middle=True), Item("toy box", 1.05, 0.05)), Rug("round rug", 0, 1.7)),),
        (Group((Item("single bed"), Item("bedside table", 0.86, 0.05)), above="art"),),
        (_one("low shelf", "art"),),
    ),
    (
        (
            Group(
                (Item("single bed"), Item("bedside table", 0.86, 0.05), Item("bedside table", -0.86, 0.05)),
                Rug("rug", 0, 2.0),
                "art",
            ),
        ),
        (_one("bookshelf"), _one("low shelf", "art")),
        (_one("toy box"),),
        (Group((Item("desk"), Item("chair", 0, 0.92, 180, middle=True))),),
        _PLANT,
    ),
)
_COT: Final = Group((Item("cot"), Item("floor lamp", 0.98, 0.1)), Rug("round rug", 0, 1.6), "art")
_NURSERY: Final[tuple[Layout, ...]] = (
    ((_COT,), (_one("changing table", "art"),), (_ONE_CHAIR,), (_one("toy box"),)),
    ((_one("changing table", "art"),), (Group((Item("cot"),), Rug("rug", 0, 1.6), "art"),), (_ONE_CHAIR,), _PLANT),
    (
        (_COT,),
        (Group((Item("armchair", 0, 0.15), Item("side table", 0.72, 0.14))),),
        (_one("low shelf", "art"),),
        (_one("toy box"),),
    ),
)


def _around(
    table: str, half_x: float, half_y: float, chair: str, places: int, *, ends: bool = True, rug: str | None = None
) -> Group:
    """Return a table in the room with chairs around it and a lamp above."""
    xs = [half_x * 2 * ((k + 0.5) / places - 0.5) for k in range(places)]
    chairs = [Item(chair, x, half_y + 0.10, 180, middle=True) for x in xs] + [
        Item(chair, x, -half_y - 0.10, 0, middle=True) for x in xs
    ]
    if ends:
        chairs += [Item(chair, -half_x - 0.12, 0, 90, middle=True), Item(chair, half_x + 0.12, 0, -90, middle=True)]
    return Group(
        (Item(table, 0, 0, 0, middle=True), *chairs, Item("pendant", 0, 0, 0, middle=True, on="ceiling")),
        rug=Rug(rug, 0, 0) if rug else None,
        free=True,
    )


def _ring(table: str, far: float, chair: str, count: int, rug: str | None = None) -> Group:
    """Return a round table with chairs."""
    at = {2: ((0.0, 1), (0.0, -1)), 3: ((0.87, -0.5), (-0.87, -0.5), (0.0, 1)), 4: ((1, 0), (-1, 0), (0, 1), (0, -1))}[
        count
    ]
    turns = {2: (180, 0), 3: (-60, 60, 180), 4: (-90, 90, 180, 0)}[count]
    chairs = tuple(Item(chair, far * x, far * y, turn, middle=True) for (x, y), turn in zip(at, turns, strict=True))
    return Group(
        (Item(table, 0, 0, 0, middle=True), *chairs, Item("pendant", 0, 0, 0, middle=True, on="ceiling")),
        rug=Rug(rug, 0, 0) if rug else None,
        free=True,
    )


_SIX: Final = _around("dining table", 0.90, 0.46, "chair", 2, rug="large rug")
_FOUR: Final = _around("small dining table", 0.60, 0.40, "chair", 2, ends=False, rug="rug")
_ROUND: Final = _ring("round table", 0.62, "chair", 4, "round rug")
_ROUND_BARE: Final = _ring("round table", 0.62, "chair", 4)
_DINING: Final[tuple[Layout, ...]] = (
    ((_SIX, _FOUR, _ROUND), (_one("sideboard", "art"),), _PLANT, _ART),
    ((_ROUND, _FOUR), (_one("sideboard", "mirror"), _one("console table", "mirror")), _PLANT, _PLANT),
    (
        (_around("dining table", 0.90, 0.46, "chair", 3, ends=False, rug="large rug"), _FOUR, _ROUND),
        (_one("console table", "art"),),
        _PLANT,
        _ART,
    ),
)
_ISLAND: Final = Group(
    (
        Item("kitchen island", 0, 0, 180, middle=True),
        Item("bar stool", -0.42, 0.62, 180, middle=True),
        Item("bar stool", 0.42, 0.62, 180, middle=True),
        Item("pendant", -0.4, 0, 0, middle=True, on="ceiling"),
        Item("pendant", 0.4, 0, 0, middle=True, on="ceiling"),
    ),
    free=True,
)
_KITCHEN: Final[tuple[Layout, ...]] = (
    ((_ISLAND, _ROUND_BARE), (_one("kitchen trolley"),), _PLANT),
    ((_ROUND_BARE, _FOUR), (_one("kitchen trolley"),), (_one("sideboard"),), _PLANT),
    ((replace(_FOUR, rug=None), _ROUND_BARE), (_one("bookshelf"), _one("kitchen trolley")), _PLANT),
)
_OPEN: Final[tuple[Layout, ...]] = (
    ((_seats("sofa", _CHAIR_RIGHT, _LAMP_LEFT), _SMALL_SEATS), (_FOUR, _ROUND), (_one("sideboard", "art"),), _PLANT),
    ((_SIX, _FOUR), (_seats("sofa", _LAMP_LEFT), _SMALL_SEATS, _ONE_CHAIR), _PLANT, _PLANT),
    ((_SMALL_SEATS, _ONE_CHAIR), (_ROUND, _FOUR), (_one("media console"), _one("bookshelf")), _PLANT),
)
_BATH: Final[tuple[Layout, ...]] = (
    (
        (_one("towel ladder"),),
        (Group((Item("towel stool", 0, 0.15), Item("laundry basket", 0.55, 0.1)), Rug("bath mat", 0, 0.95)),),
        _PLANT,
    ),
    (
        (Group((Item("laundry basket", 0, 0.08), Item("towel stool", -0.55, 0.1)), Rug("bath mat", 0, 0.95)),),
        (_one("towel ladder"),),
        (_wall("mirror"),),
        _PLANT,
    ),
    (
        (Group((Item("bench"),), Rug("bath mat", 0, 0.95), "mirror"), _one("towel stool")),
        (_one("towel ladder"),),
        (_one("laundry basket"),),
        _PLANT,
    ),
)
_DESK: Final = Group((Item("desk"), Item("office chair", 0.05, 0.95, 176, middle=True)), Rug("rug", 0, 1.1), "art")
_OFFICE: Final[tuple[Layout, ...]] = (
    ((_DESK,), (_one("bookshelf"),), (_ONE_CHAIR,), _PLANT),
    (
        (replace(_DESK, rug=None),),
        (_one("low shelf", "art"),),
        (Group((Item("armchair", 0, 0.15), Item("side table", 0.72, 0.14)), Rug("small rug", 0, 0.9)),),
        _PLANT,
    ),
    (
        (
            Group(
                (
                    Item("desk", 0, 0, 180, middle=True),
                    Item("office chair", 0, -0.72, 0, middle=True),
                    Item("chair", -0.4, 0.80, 180, middle=True),
                    Item("chair", 0.4, 0.80, 180, middle=True),
                ),
                Rug("large rug", 0, 0),
                free=True,
            ),
            _DESK,
        ),
        (_one("sideboard", "art"), _one("bookshelf")),
        _PLANT,
    ),
)
_BENCH_OF_DESKS: Final = Group(
    (
        Item("desk", -0.72, 0.35, 180, middle=True), Item("desk", 0.72, 0.35, 180, middle=True),
        Item("desk", -0.72, -0.35, 0, middle=True), Item("desk", 0.72, -0.35, 0, middle=True),
        Item("office chair", -0.72, 1.08, 180, middle=True), Item("office chair", 0.72, 1.08, 180, middle=True),
        Item("office chair", -0.72, -1.08, 0, middle=True), Item("office chair", 0.72, -1.08, 0, middle=True),
    ),
    free=True, need=4,
)  # fmt: skip
_WORKSPACE: Final[tuple[Layout, ...]] = (
    ((_BENCH_OF_DESKS, _DESK), (_wall("whiteboard"),), (_one("sideboard"),), _PLANT, _PLANT),
    (
        (replace(_DESK, rug=None, above=None),),
        (replace(_DESK, rug=None, above=None),),
        (replace(_DESK, rug=None),),
        (_one("bookshelf"),),
        _PLANT,
    ),
    ((_BENCH_OF_DESKS, _DESK), (_SMALL_SEATS, _ONE_CHAIR), (_one("low shelf", "art"),), _PLANT),
)
_MEET: Final = Group(
    (
        Item("meeting table", 0, 0, 0, middle=True),
        *(Item("office chair", x, 0.86, 180, middle=True) for x in (-0.8, 0.0, 0.8)),
        *(Item("office chair", x, -0.86, 0, middle=True) for x in (-0.8, 0.0, 0.8)),
    ),
    free=True,
)
_MEETING: Final[tuple[Layout, ...]] = (
    ((_MEET, _ROUND_BARE), (_wall("wall screen"),), (_one("sideboard"),), _PLANT),
    ((_MEET, _ROUND_BARE), (_wall("whiteboard"),), _PLANT, _PLANT),
    ((_ring("round table", 0.74, "office chair", 4),), (_wall("wall screen"),), (_one("low shelf"),), _PLANT),
)
_GYM: Final[tuple[Layout, ...]] = (
    (
        (Group((Item("treadmill", 0, 1.1, 180, middle=True),)),),
        (_one("weights", "mirror"),),
        (Group((Item("weight bench", 0, 0, 90, middle=True),), free=True),),
        (
            Group(
                (Item("exercise mat", 0, 0, 0, middle=True), Item("exercise ball", 0.75, 0.4, 0, middle=True)),
                free=True,
            ),
        ),
        _PLANT,
    ),
    (
        (Group((Item("exercise bike", 0, 0.75, 160, middle=True),)),),
        (
            Group(
                (Item("exercise mat", -0.5, 0, 0, middle=True), Item("exercise mat", 0.5, 0, 0, middle=True)), free=True
            ),
        ),
        (_one("weights", "mirror"),),
        (_one("exercise ball", corner=True),),
        (_one("bench"),),
    ),
    (
        (_one("weights", "mirror"),),
        (
            Group(
                (Item("treadmill", -0.55, 1.1, 180, middle=True), Item("exercise bike", 0.55, 0.9, 180, middle=True))
            ),
            Group((Item("exercise bike", 0, 0.75, 160, middle=True),)),
        ),
        (Group((Item("weight bench", 0, 0, 60, middle=True),), free=True),),
        (_one("exercise ball", corner=True),),
        _PLANT,
    ),
)
_LAUNDRY: Final[tuple[Layout, ...]] = (
    (
        (
            Group(
                (
                    Item("washing machine", -0.31, 0.03),
                    Item("washing machine", 0.31, 0.03),
                    Item("laundry basket", 0.95, 0.1),
                ),
                front=True,
            ),
            Group((Item("washing machine"),), front=True),
        ),
        (_one("drying rack"),),
        (_one("low shelf"),),
        _PLANT,
    ),
    (
        (Group((Item("washing machine", 0, 0.03), Item("laundry basket", 0.6, 0.1)), front=True),),
        (Group((Item("ironing board", 0, 0.7, 8, middle=True),)),),
        (_one("low shelf"),),
    ),
    (
        (_one("metal shelf"),),
        (Group((Item("washing machine", 0, 0.03), Item("laundry basket", -0.6, 0.1)), front=True),),
        (Group((Item("drying rack", 0, 0.6, 0, middle=True),)),),
    ),
)
_FOYER: Final[tuple[Layout, ...]] = (
    ((Group((Item("console table"),), above="mirror"),), (Group((Item("bench"),), Rug("small rug", 0, 1.1)),), _PLANT),
    ((Group((Item("bench"),), Rug("small rug", 0, 1.1), "art"),), (_one("console table", "mirror"),), _PLANT),
    ((Group((Item("console table"),), Rug("round rug", 0, 1.4), "art"),), (_one("ottoman"),), _PLANT, _PLANT),
)
_RUNNER: Final = Group((Item("runner", 0, 0, 0, middle=True),), free=True)
_HALL: Final[tuple[Layout, ...]] = (
    ((Group((Item("console table"),), above="mirror"), _one("bench")), (_RUNNER,), _PLANT),
    ((_one("bench", "art"),), (_RUNNER,), (_one("console table", "mirror"),)),
    ((_one("low shelf", "art"), _one("bench", "art")), (_RUNNER,), _PLANT),
)
_CLOSET: Final[tuple[Layout, ...]] = (
    (
        (_one("wardrobe rail"),),
        (Group((Item("ottoman", 0, 0, 0, middle=True),), Rug("round rug", 0, 0), free=True),),
        (_one("dresser", "mirror"),),
        _PLANT,
    ),
    (
        (_one("dresser", "mirror"),),
        (_one("wardrobe rail"),),
        (_one("wardrobe rail"),),
        (Group((Item("ottoman", 0, 0, 0, middle=True),), Rug("small rug", 0, 0), free=True),),
    ),
    ((_one("wardrobe rail"),), (_one("low shelf", "mirror"),), (_one("bench"),), _PLANT),
)
_GARAGE: Final[tuple[Layout, ...]] = (
    (
        (Group((Item("workbench"), Item("tool chest", 1.25, 0.05)), above="pegboard"),),
        (_one("metal shelf"),),
        (_one("metal shelf"),),
        (Group((Item("bicycle", 0, 0.4, 0, middle=True),)),),
    ),
    (
        (_one("metal shelf"),),
        (Group((Item("bicycle", 0, 0.4, 0, middle=True),)),),
        (_one("workbench", "pegboard"),),
        (_one("tool chest"),),
    ),
    (
        (_one("workbench", "pegboard"),),
        (_one("tool chest"),),
        (_one("metal shelf"),),
        (Group((Item("bicycle", 0, 0.4, 180, middle=True),)),),
    ),
)
_BISTRO: Final = Group(
    (Item("bistro table", 0, 0, 0, middle=True), Item("bistro chair", -0.62, 0, 90, middle=True),
     Item("bistro chair", 0.62, 0, -90, middle=True)),
    free=True, need=2,
)  # fmt: skip
_LOUNGE: Final = Group(
    (
        Item("outdoor sofa"),
        Item("low table", 0, 1.5, 0, middle=True),
        Item("outdoor chair", 1.45, 1.45, -65, middle=True),
    ),
    rug=Rug("rug", 0, 1.4),
)
_LOUNGE_FREE: Final = Group(
    (Item("outdoor sofa", 0, -0.9, 0, middle=True), Item("low table", 0, 0.25, 0, middle=True),
     Item("outdoor chair", 1.35, 0.1, -75, middle=True), Item("outdoor chair", -1.35, 0.1, 75, middle=True)),
    rug=Rug("rug", 0, 0.1), free=True,
)  # fmt: skip
_PLANTERS: Final[Step] = (_one("planter", corner=True),)
_CHAIRS: Final = Group(
    (Item("outdoor chair", -0.75, 0, 60, middle=True), Item("low table", 0, 0.15, 0, middle=True),
     Item("outdoor chair", 0.75, 0, -60, middle=True)),
    free=True,
)  # fmt: skip
_BALCONY: Final[tuple[Layout, ...]] = (
    ((_BISTRO, _CHAIRS), _PLANTERS, _PLANTERS, (_one("outdoor chair"),)),
    ((_CHAIRS, _BISTRO), _PLANTERS, _PLANTERS),
    ((_LOUNGE, _LOUNGE_FREE, _CHAIRS), (_BISTRO,), _PLANTERS),
)
_TERRACE: Final[tuple[Layout, ...]] = (
    ((_LOUNGE, _LOUNGE_FREE, _CHAIRS), (_BISTRO,), _PLANTERS, _PLANTERS),
    (
        (_around("small dining table", 0.60, 0.40, "bistro chair", 2, ends=False), _BISTRO),
        (_LOUNGE, _CHAIRS),
        _PLANTERS,
        _PLANTERS,
    ),
    ((_LOUNGE_FREE, _CHAIRS), (Group((Item("sun lounger", 0, 0, 0, middle=True),), free=True),), _PLANTERS, _PLANTERS),
)
_POOL: Final[tuple[Layout, ...]] = (
    (
        (
            Group(
                (
                    Item("sun lounger", -0.65, 0, 0, middle=True),
                    Item("sun lounger", 0.65, 0, 0, middle=True),
                    Item("low table", 0, 0.3, 0, middle=True),
                ),
                free=True,
            ),
        ),
        (_BISTRO,),
        _PLANTERS,
        _PLANTERS,
    ),
    (
        (Group((Item("sun lounger", 0, 0, 20, middle=True), Item("low table", 0.85, 0, 0, middle=True)), free=True),),
        (_LOUNGE_FREE, _CHAIRS),
        _PLANTERS,
    ),
    ((_LOUNGE, _LOUNGE_FREE, _CHAIRS), (Group((Item("sun lounger", 0, 0, 0, middle=True),), free=True),), _PLANTERS),
)
_FRONT: Final[tuple[Layout, ...]] = (
    ((_one("garden bench"), Group((Item("garden bench", 0, 0, 0, middle=True),), free=True)), _PLANTERS, _PLANTERS),
    (_PLANTERS, _PLANTERS, (_one("garden bench"), Group((Item("garden bench", 0, 0, 0, middle=True),), free=True))),
    ((_BISTRO,), _PLANTERS, _PLANTERS),
)
_SUN: Final[tuple[Layout, ...]] = (
    ((_LOUNGE, _CHAIRS), _PLANT, _PLANT, (_one("side table"),)),
    ((_seats("sofa", _CHAIR_LEFT, _SIDE_RIGHT), _SMALL_SEATS, _ONE_CHAIR), _PLANT, _PLANT),
    ((_SMALL_SEATS, _ONE_CHAIR), (_BISTRO,), _PLANT, _PLANT),
)
_LOBBY: Final[tuple[Layout, ...]] = (
    (
        (_seats("sofa", _CHAIR_LEFT, _CHAIR_RIGHT, rug="large rug"), _SMALL_SEATS),
        (Group((Item("reception desk", 0, 0.9),)),),
        _PLANT,
        _PLANT,
    ),
    ((Group((Item("reception desk", 0, 0.9),), above="art"),), (_SMALL_SEATS, _ONE_CHAIR), _PLANT, _PLANT),
    ((_seats("sofa", *_TWO_FACING, rug="large rug"), _SMALL_SEATS), (_one("console table", "mirror"),), _PLANT, _PLANT),
)
_ATTIC: Final[tuple[Layout, ...]] = (
    ((_ONE_CHAIR,), (_one("low shelf", "art"),), _PLANT),
    ((_SMALL_SEATS, _ONE_CHAIR), (_one("low shelf"),), _PLANT),
    (
        (Group((Item("desk"), Item("office chair", 0.05, 0.95, 176, middle=True)), Rug("small rug", 0, 1.2)),),
        (_ONE_CHAIR,),
        _PLANT,
    ),
)

LAYOUTS: Final[dict[str, tuple[Layout, ...]]] = {
    "living_room": _LIVING, "family_room": _LIVING, "open_plan": _OPEN, "bedroom": _BEDROOM,
    "primary_bedroom": _BEDROOM,
    "kids_room": _KIDS, "nursery": _NURSERY, "kitchen": _KITCHEN, "dining_room": _DINING, "bathroom": _BATH,
    "home_office": _OFFICE, "den": _DEN, "media_room": _MEDIA, "gym": _GYM, "basement": _LIVING, "attic": _ATTIC,
    "loft": _LIVING, "sun_room": _SUN, "laundry": _LAUNDRY, "foyer": _FOYER, "hallway": _HALL,
    "walk_in_closet": _CLOSET,
    "garage": _GARAGE, "balcony": _BALCONY, "patio": _TERRACE, "terrace": _TERRACE, "pool": _POOL,
    "exterior_front": _FRONT, "exterior_back": _TERRACE, "lobby": _LOBBY, "meeting_room": _MEETING,
    "open_workspace": _WORKSPACE, "other": _DEN,
}  # fmt: skip

# Below the confidence gate: little, small and away from walls, whose places are not known for sure.
MODEST: Final[Layout] = (
    (
        Group(
            (Item("low table", 0, 0, 0, middle=True), Item("chair", -0.75, 0, 75, middle=True),
             Item("chair", 0.75, 0, -75, middle=True)),
            rug=Rug("small rug", 0, 0), free=True,
        ),
        Group((Item("low table", 0, 0, 0, middle=True),), rug=Rug("small rug", 0, 0), free=True),
    ),
)  # fmt: skip
