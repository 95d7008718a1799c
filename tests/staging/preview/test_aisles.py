"""Chairs can be pulled back, and a washing machine is known by its front: where groups stand for their own sake."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.staging.preview import measuring, rooms
from shared.staging.preview.families import stuff_of
from shared.staging.preview.layout import Placed, Planner, Space, _facing, rectangle_overlap
from shared.staging.preview.openings import Sides, Stretch
from shared.staging.preview.views import View

SIDES = Sides(-3.4, 3.4, 6.5, 2.7)
SPACE = Space(
    View(1600, 1200, 900, 800, 520, 0.0, 0, 0, 1.45),
    SIDES,
    (),
    (Stretch("back", -3.4, 3.4), Stretch("left", 0.5, 6.5), Stretch("right", 0.5, 6.5)),
)


def seats(pieces: list[Placed]) -> list[Placed]:
    return [each for each in pieces if each.name in {"sofa", "loveseat", "sideboard", "media console", "bookshelf"}]


@pytest.mark.parametrize("number", range(len(rooms.LAYOUTS["open_plan"])))
@pytest.mark.parametrize("seed", [3, 11])
def test_in_a_large_room_nothing_stands_close_behind_a_chair(number: int, seed: int) -> None:
    plan = Planner(SPACE, stuff_of("modern"), seed).follow(rooms.LAYOUTS["open_plan"][number])
    chairs = [each for each in plan.pieces if each.name == "chair"]
    assert len(chairs) >= 3
    assert seats(plan.pieces)
    for chair in chairs:
        for other in seats(plan.pieces):
            assert not rectangle_overlap(chair.foot, other.foot, 0.34), other.name


def test_in_a_small_room_a_group_stands_close_rather_than_not_at_all() -> None:
    small = Space(SPACE.view, Sides(-1.9, 1.9, 4.0, 2.7), (), (Stretch("back", -1.9, 1.9),))
    plan = Planner(small, stuff_of("modern"), 3).follow(rooms.LAYOUTS["open_plan"][0])
    assert len(plan.pieces) >= 3


@pytest.mark.parametrize("number", range(len(rooms.LAYOUTS["laundry"])))
def test_a_washing_machine_shows_its_front(number: int) -> None:
    """From its side it is a white box. In this room the back wall has no place for it, and the camera is on the left."""
    photo = measuring.opened((Path(__file__).parents[3] / "samples/photos/kitchen-01.jpg").read_bytes())
    space = measuring.space_of(measuring.room_of(photo), photo.size)
    for seed in range(5):
        plan = Planner(space, stuff_of("french"), seed).follow(rooms.LAYOUTS["laundry"][number])
        for machine in (piece for piece in plan.pieces if piece.name == "washing machine"):
            assert _facing(machine.at[:2], machine.turn) > 0.45, (seed, machine.at, machine.turn)
