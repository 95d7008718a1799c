"""The sun: found where its patch on the floor and a window agree, its shadows drawn there, and nowhere else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.staging.preview import furniture, meshes, renderer, shadows, sun
from shared.staging.preview.openings import Hole, Sides
from shared.staging.preview.views import View

SIDES = Sides(-2.5, 2.5, 5.0, 2.7)
VIEW = View(1000, 750, 620, 500, 320, 0.08, 0, 0, 1.45)
WINDOW = Hole("back", "window", -0.6, 1.0, 0.9, 2.1)


def towards(turn: float, rise: float = 38) -> Any:
    """The direction to a sun `turn` degrees to the right of straight ahead, `rise` above the horizon."""
    a, b = math.radians(turn), math.radians(rise)
    return np.array([math.sin(a) * math.cos(b), math.cos(a) * math.cos(b), math.sin(b)])


def in_patch(x: Any, y: Any, way: Any, hole: Hole = WINDOW) -> Any:
    """Whether light through the back wall's window falls on places of the floor."""
    x, y = (np.where(np.isfinite(each), each, -9) for each in (x, y))
    reach = (SIDES.back - y) / way[1]
    along, up = x + reach * way[0], reach * way[2]
    return (along > hole.start) & (along < hole.end) & (up > hole.bottom) & (up < hole.top)


def room(way: Any = None, moved: float = 0.0, sigma: float = 2.0, floor: Any = (120, 98, 80)) -> Image.Image:
    """A plain room; in the sun that stands at `way`, its patch `moved` by metres to the side."""
    columns, rows = np.meshgrid(np.arange(VIEW.width) + 0.5, np.arange(VIEW.height) + 0.5)
    which = shadows.surfaces(VIEW, SIDES)
    tone = np.where((which == shadows.FLOOR)[..., None], floor, (200, 198, 190)).astype(float)
    if way is not None:
        x, y = VIEW.floor(columns.astype(np.float32), rows.astype(np.float32))
        lit = (which == shadows.FLOOR) & in_patch(x - moved, y, way)
        tone[lit] = np.minimum(255, tone[lit] * 1.8)
    tone += np.random.default_rng(4).normal(0, sigma, tone.shape)
    return Image.fromarray(tone.clip(0, 255).astype(np.uint8))


def found(photo: Image.Image, holes: tuple[Hole, ...] = (WINDOW,)) -> sun.Sun | None:
    small = renderer.small_picture(photo, 400)
    return sun.sun_of(small, VIEW.scaled(small.shape[1], small.shape[0]), SIDES, holes)


def box() -> meshes.Mesh:
    builder = meshes.Builder()
    builder.box((0.5, 0.5, 0.6), (0, 0, 0), meshes.Material((0.12, 0.12, 0.12)), 0.02)
    return furniture.turned(builder.mesh(), 0, (0.1, 3.3, 0))


@pytest.mark.parametrize(("turn", "rise"), [(-20, 38), (0, 30), (15, 42), (30, 35)])
def test_the_sun_is_found_where_window_and_patch_agree(turn: float, rise: float) -> None:
    way = towards(turn, rise)
    mine = found(room(way))
    assert mine is not None
    assert math.degrees(math.acos(min(1.0, float(mine.direction @ way)))) < 6
    assert (mine.share > 0.5).all()
    assert (mine.share < 0.8).all()


def test_no_sun_without_a_patch_or_without_a_window() -> None:
    assert found(room()) is None
    assert found(room(towards(0)), ()) is None


def test_no_sun_whose_patch_no_window_explains() -> None:
    small = Hole("back", "window", -2.3, -1.9, 1.9, 2.1)
    assert found(room(towards(0)), (small,)) is None
    assert found(room(towards(0)), (Hole("right", "window", 1.0, 1.4, 0.9, 2.1),)) is None


def test_neither_a_door_nor_a_dark_passage_lets_the_sun_in() -> None:
    way = towards(0)
    as_door = Hole("back", "door", WINDOW.start, WINDOW.end, WINDOW.bottom, WINDOW.top)
    assert found(room(way), (as_door,)) is None
    pixels = np.asarray(room(way)).copy()
    u, v, _ = VIEW.project(SIDES.places("back", np.array([-0.6, 1.0]), np.array([2.1, 0.9])))
    pixels[int(v[0]) : int(v[1]), int(u[0]) : int(u[1])] = 60
    assert found(Image.fromarray(pixels)) is None


def test_tiles_and_noise_are_no_patch() -> None:
    columns, rows = np.meshgrid(np.arange(VIEW.width) + 0.5, np.arange(VIEW.height) + 0.5)
    x, y = VIEW.floor(columns.astype(np.float32), rows.astype(np.float32))
    ok = np.isfinite(x) & np.isfinite(y)
    checks = (np.floor(np.where(ok, x, 0) / 0.4) + np.floor(np.where(ok, y, 0) / 0.4)) % 2 == 0
    pixels = np.asarray(room()).copy()
    pixels[(shadows.surfaces(VIEW, SIDES) == shadows.FLOOR) & checks] = 240
    assert found(Image.fromarray(pixels)) is None
    assert found(Image.fromarray(np.random.default_rng(1).integers(0, 256, pixels.shape).astype(np.uint8))) is None


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_pictures_have_no_sun(value: int) -> None:
    assert found(Image.new("RGB", (VIEW.width, VIEW.height), (value, value, value))) is None


def test_furniture_casts_its_shadow_away_from_the_sun_and_only_in_the_patch() -> None:
    way = towards(20, 40)
    photo = room(way, sigma=0)
    dull, _ = renderer.render(photo, VIEW, SIDES, [box()], [])
    staged, mask = renderer.render(photo, VIEW, SIDES, [box()], [], (WINDOW,))
    before, without, with_ = (np.asarray(each).astype(int)[..., 1] for each in (photo, dull, staged))
    slant = way[0] / way[2], way[1] / way[2]
    up = np.linspace(0.1, 0.55, 12)  # along the upper edge of the side that looks away from the sun, and below it
    x, y = 0.1 - slant[0] * up, 3.05 - slant[1] * up
    u, v, _ = VIEW.project(np.stack([x, y, 0 * x], axis=1).astype(np.float32))
    column, row = u.astype(int), v.astype(int)
    lit = in_patch(x, y, way)
    assert lit.sum() > 4
    assert (before[row, column][lit] > 150).all()
    assert (with_[row, column][lit] < 0.8 * without[row, column][lit]).all(), "the sun's part of the light is gone"
    assert (with_[row, column][lit] > 70).all(), "and no more"
    unlit = (shadows.surfaces(VIEW, SIDES) == shadows.FLOOR) & (before < 105)
    near = np.asarray(Image.fromarray(~unlit).convert("L").resize((125, 94)).resize((1000, 750))) > 0
    free = unlit & ~near
    drawn = np.abs(with_ - without) > 1
    assert drawn[free].mean() < 0.01, "shade stays shade"
    changed = (np.asarray(staged) != np.asarray(photo)).any(axis=2)
    assert not (changed & ~mask).any()


def test_what_stands_in_the_patch_is_lit_warmer_from_the_suns_side() -> None:
    way = towards(0, 40)
    photo = room(way, sigma=0)
    dull = np.asarray(renderer.render(photo, VIEW, SIDES, [box()], [])[0]).astype(int)
    staged = np.asarray(renderer.render(photo, VIEW, SIDES, [box()], [], (WINDOW,))[0]).astype(int)
    u, v, _ = VIEW.project(np.array([[0.1, 3.3, 0.6], [0.1, 3.05, 0.3]], np.float32))
    (top, front) = ((int(b), int(a)) for a, b in zip(u, v, strict=True))
    assert (staged[top] > dull[top] + 15).all(), "the top is in the sun"
    assert staged[top][0] * dull[top][2] > staged[top][2] * dull[top][0], "which is warm"
    assert np.abs(staged[front] - dull[front]).max() <= 2, "the front looks away from it"


def test_two_runs_agree_in_the_sun() -> None:
    photo = room(towards(20, 40))
    rug = renderer.Decal(0.2, 2.6, 1.6, 1.0, 0.2, "stripes", (0.6, 0.6, 0.55), (0.1, 0.2, 0.4))
    one, two = (np.asarray(renderer.render(photo, VIEW, SIDES, [box()], [rug], (WINDOW,))[0]) for _ in range(2))
    assert (one == two).all()
