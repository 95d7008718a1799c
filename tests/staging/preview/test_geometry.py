"""What the preview measures of a room, against the truth of rendered rooms: camera, floor, doors and windows."""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

from shared.answers import RoomGeometry
from shared.staging.preview import geometry, measuring, openings, segments
from shared.staging.preview.openings import Sides
from shared.staging.preview.views import View

ROOT = Path(__file__).parents[3]


@cache
def bench() -> ModuleType:
    """`benchmarks/preview.py`, which knows the generator's truth."""
    spec = importlib.util.spec_from_file_location("preview_benchmark", ROOT / "benchmarks/preview.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def photo(name: str):
    (found,) = (each for each in (*bench().PHOTOS, *bench().ODD) if each.name == name)
    return found


@cache
def measured(name: str, degraded: str = "as rendered") -> tuple[RoomGeometry, dict[str, float]]:
    tools = bench()
    picture, move, view = tools.degraded(photo(name), tools.photo_of(photo(name), tools.FULL), degraded)
    found = measuring.room_of(picture)
    truth = tools.compared(found, view, tools.true_sides(photo(name)), move, tools.true_blocks(photo(name)))
    return found, truth


# --- cameras


@pytest.mark.parametrize("yaw", [0.0, 0.4, -0.7])
@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (0.08, -0.03), (-0.1, 0.05)])
def test_a_camera_sees_along_the_ray_of_each_pixel(yaw: float, pitch: float, roll: float) -> None:
    view = View(800, 600, 520, 410, 270, yaw, pitch, roll, 1.5)
    axes = view.axes()
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-9), "a rotation"
    assert np.linalg.det(axes) > 0
    columns, rows = np.meshgrid(np.linspace(10, 790, 9), np.linspace(10, 590, 9))
    ray = view.rays(columns.astype(np.float32), rows.astype(np.float32))
    u, v, depth = view.project(ray * 3 + np.array([0, 0, 1.5], np.float32))
    assert np.allclose(u, columns, atol=0.01)
    assert np.allclose(v, rows, atol=0.01)
    assert np.allclose(depth, 3, atol=1e-3)
    x, y = view.floor(np.float32(400), np.float32(590))
    u, v, _ = view.project(np.array([[x, y, 0]], np.float32))
    assert abs(float(u[0]) - 400) < 0.05
    assert abs(float(v[0]) - 590) < 0.05


def test_lines_of_the_room_meet_in_the_vanishing_points() -> None:
    view = View(800, 600, 520, 400, 300, 0.3, 0.05, 0.02, 1.5)
    seen = 0
    for axis, point in enumerate(view.vanishing()):
        for sign in (1, -1):
            far = np.array([0.3, 4.0, 1.2], np.float32) + sign * 20_000 * np.eye(3, dtype=np.float32)[axis]
            u, v, depth = view.project(far[None])
            if depth[0] > 1:
                seen += 1
                meeting = np.array([point[0], point[1]]) / point[2]
                apart = np.hypot(*(meeting - [float(u[0]), float(v[0])]))
                assert apart < 0.01 * max(300, np.hypot(*meeting))
    assert seen == 3, "each axis goes away from the camera on one side"


def test_another_size_of_the_picture_is_the_same_camera() -> None:
    view = View(800, 600, 520, 410, 270, 0.3, 0.05, 0.02, 1.5)
    place = np.array([[0.4, 3.0, 0.7]], np.float32)
    u, v, _ = view.project(place)
    double_u, double_v, _ = view.scaled(1600, 1200).project(place)
    assert np.allclose([double_u[0], double_v[0]], [2 * u[0], 2 * v[0]], atol=0.01)


# --- segments


def test_drawn_lines_are_found_where_they_are() -> None:
    picture = Image.new("L", (400, 300), 90)
    lines = [((40, 50), (340, 90)), ((60, 280), (330, 130)), ((200, 20), (205, 270))]
    draw = ImageDraw.Draw(picture)
    for k, (start, end) in enumerate(lines):
        draw.line([start, end], fill=200 - 20 * k, width=5)
    edges, angle = segments.edges_of(np.asarray(picture, np.float32))
    found = segments.segments_of(edges, angle, (300, 400))
    for (x0, y0), (x1, y1) in lines:
        way = np.array([x1 - x0, y1 - y0]) / math.hypot(x1 - x0, y1 - y0)
        ends = np.stack([found.start, found.end], axis=1) - [x0, y0]
        off = np.abs(ends @ [-way[1], way[0]]).max(axis=1)
        along = np.abs((ends[:, 1] - ends[:, 0]) @ way)
        assert along[off < 5].sum() > 1.2 * math.hypot(x1 - x0, y1 - y0), "both edges of the line"


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_picture_has_no_lines(value: int) -> None:
    edges, angle = segments.edges_of(np.full((60, 80), value, np.float32))
    assert len(segments.segments_of(edges, angle, (60, 80)).length) == 0


def test_a_dark_and_noisy_picture_is_cleared_before_edges_are_looked_for() -> None:
    clean = np.full((200, 300), 60, np.float32)
    clean[:, 150:] = 40
    noisy = clean + np.random.default_rng(3).normal(0, 6, clean.shape).astype(np.float32)
    clear = segments.cleared(noisy)
    before = np.abs(noisy[:, 160:] - noisy[:, 160:].mean()).mean() / 20
    after = np.abs(clear[:, 160:] - clear[:, 160:].mean()).mean() / (clear[:, :140].mean() - clear[:, 160:].mean())
    assert after < 0.6 * before
    assert np.allclose(segments.cleared(np.full((60, 80), 80, np.float32)), 240, atol=1)
    assert np.allclose(segments.cleared(np.full((60, 80), 200, np.float32)), 200, atol=1), "well exposed"
    assert segments.cleared(np.zeros((60, 80), np.float32)).max() == 0


def test_noise_has_no_long_lines() -> None:
    grey = np.random.default_rng(2).normal(128, 20, (300, 400)).astype(np.float32)
    edges, angle = segments.edges_of(grey)
    found = segments.segments_of(edges, angle, grey.shape)
    assert found.length.sum() < 400


# --- rooms


@pytest.mark.parametrize(
    "name", ["living-01", "living-02", "bedroom-01", "kitchen-01", "bathroom-01", "loft-01", "hallway-01"]
)
def test_the_room_is_found_in_a_clean_photo(name: str) -> None:
    found, truth = measured(name)
    assert measuring.confident(found)
    assert truth["angle"] < 0.6
    assert truth["iou"] > 0.93
    assert truth["edge"] < 0.03


@pytest.mark.parametrize(
    "degraded",
    ["JPEG quality 25", "noise sigma 10", "dark and noisy", "blur", "barrel 3.5 %", "phone", "pitch 3", "pitch 6"],
)
def test_the_room_is_found_in_what_phones_and_mail_make_of_it(degraded: str) -> None:
    for name in ("living-01", "bedroom-01"):
        _, truth = measured(name, degraded)
        assert truth["angle"] < 1.2, name
        assert truth["iou"] > 0.88, name


def test_diagonal_tiles_and_herringbone_do_not_turn_the_camera() -> None:
    """They have more lines than the walls: support alone would choose a yaw 45 degrees off."""
    for name in ("hallway-01", "dining-01"):
        _, truth = measured(name)
        assert truth["angle"] < 0.6, name


@pytest.mark.parametrize("name", ["l-shape", "columns", "sloped"])
def test_a_room_that_is_no_box_still_has_its_directions(name: str) -> None:
    _, truth = measured(name)
    assert truth["angle"] < 1.5


def test_the_eye_height_follows_the_ceiling_within_bounds() -> None:
    for name in ("living-01", "loft-01", "basement-01"):
        found, _ = measured(name)
        assert 1.2 <= found.camera.eye_metres <= 1.75
        assert found.height > 2.2


def test_a_picture_without_a_room_is_below_the_gate() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 400)[None, :, None], (300, 400, 3)).astype(np.uint8)
    for picture in (Image.new("RGB", (400, 300)), Image.fromarray(noise), Image.fromarray(ramp)):
        assert not measuring.confident(measuring.room_of(picture))


def test_the_outline_of_the_floor_is_where_the_floor_begins() -> None:
    found, _ = measured("living-01")
    tools = bench()
    size = 640, 480
    outline = measuring.floor_outline(found, size)
    truth = tools.floor_of(tools.true_view(photo("living-01"), size), tools.true_sides(photo("living-01")), tools.stay)
    for point in outline[2:-4]:
        column = min(639, round(point.x * 639))
        assert abs(point.y * 480 - truth[:, column].argmax()) < 12


# --- doors and windows, with the true camera: what walls show is another question than where they are


@cache
def holes_of(name: str) -> tuple[list[openings.Hole], list[openings.Stretch]]:
    tools = bench()
    picture = tools.photo_of(photo(name), 800).convert("L")
    grey = np.asarray(picture, np.float32)
    view = tools.true_view(photo(name), picture.size)
    edges, _ = segments.edges_of(grey)
    return openings.openings(view, grey, geometry.edge_maps(edges, view, grey.shape), tools.true_sides(photo(name)))


def test_every_door_that_can_be_seen_whole_is_found() -> None:
    """Frame included, it is at most 20 cm wider than its leaf."""
    for name, wall in (
        ("living-01", "back"),
        ("dining-01", "back"),
        ("hallway-01", "back"),
        ("hallway-01", "left"),
        ("basement-01", "back"),
    ):
        room = photo(name).room
        face = {"left": 0, "right": 1, "back": 3}[wall]
        (door,) = (each for each in room.openings if each.face == face and each.kind == "door")
        start = door.left - room.camera[0 if wall == "back" else 1]
        found = [hole for hole in holes_of(name)[0] if hole.wall == wall and hole.kind == "door"]
        assert any(abs(hole.start - start) < 0.2 and abs(hole.end - start - door.width) < 0.2 for hole in found), (
            name,
            found,
        )


def test_windows_and_glass_doors_are_told_apart() -> None:
    (window,) = (hole for hole in holes_of("bedroom-01")[0] if hole.wall == "right")
    assert window.kind == "window"
    assert abs(window.bottom - 0.9) < 0.2
    (glass,) = (hole for hole in holes_of("living-02")[0] if hole.wall == "back")
    assert glass.kind == "passage", "2.7 m of glass down to the floor"


@pytest.mark.parametrize("name", ["living-01", "living-02", "bedroom-01", "kids-01", "dining-01", "basement-01"])
def test_plain_wall_has_no_opening_in_it(name: str) -> None:
    room = photo(name).room
    for stretch in holes_of(name)[1]:
        face = {"left": 0, "right": 1, "back": 3}[stretch.wall]
        offset = room.camera[0 if stretch.wall == "back" else 1]
        for opening in room.openings:
            if opening.face == face and opening.bottom < 1.9 and opening.bottom + opening.height > 1.2:
                start, end = opening.left - offset, opening.left - offset + opening.width
                assert min(end, stretch.end) - max(start, stretch.start) < 0.12, (name, stretch, opening)


def test_a_tiled_wall_is_not_taken_for_many_doors() -> None:
    sides = Sides(-2, 2, 4, 2.6)
    view = View(800, 600, 520, 400, 300, 0, 0, 0, 1.45)
    picture = Image.new("L", (800, 600), 220)
    draw = ImageDraw.Draw(picture)
    for x in np.arange(-2, 2.01, 0.3):
        u, v, _ = view.project(np.array([[x, 4, 0], [x, 4, 2.6]], np.float32))
        draw.line([(u[0], v[0]), (u[1], v[1])], fill=190, width=2)
    grey = np.asarray(picture, np.float32)
    edges, _ = segments.edges_of(grey)
    holes, _ = openings.openings(view, grey, geometry.edge_maps(edges, view, grey.shape), sides)
    assert not [hole for hole in holes if hole.kind == "door"]
