"""Short ways of drawing give what the long ones would: planes, shadow pictures, heights, small copies, shared meshes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shared.manifest.vocabulary import STYLES
from shared.staging.preview import families, furniture, light, measuring, meshes, raster, renderer, shading, shadows
from shared.staging.preview.openings import Sides
from shared.staging.preview.views import View

SIDES = Sides(-2.5, 2.5, 5, 2.7)
VIEW = View(400, 300, 260, 200, 132, 0.05, 0.02, -0.01, 1.45)


def box_mesh(gloss: float = 0.0, velvet: float = 0.0) -> meshes.Mesh:
    builder = meshes.Builder()
    material = meshes.Material((0.4, 0.1, 0.1), "weave", 0.3, 0.2, gloss, velvet)
    builder.box((0.8, 0.6, 0.7), (0, 0, 0), material, 0.03)
    return furniture.turned(builder.mesh(), 20, (0.2, 3.2, 0))


def test_the_planes_are_the_rays() -> None:
    columns, rows = np.meshgrid(np.arange(0, 400, 37.0), np.arange(0, 300, 29.0))
    flat = np.stack([columns, rows, np.ones_like(columns)], axis=-1) @ VIEW.planes().T
    assert np.abs(flat - VIEW.rays(columns.astype(np.float32), rows.astype(np.float32))).max() < 1e-5


def test_each_pixel_shows_one_side_of_the_room() -> None:
    found = shadows.surfaces(VIEW, SIDES)
    inside = {"floor": (0, 3, 0), "left": (-2.5, 4.3, 1), "right": (2.5, 4, 1.5), "back": (0.3, 5, 1.2)}
    for name, place in inside.items():
        u, v, _ = VIEW.project(np.array([place], np.float32))
        assert found[int(v[0]), int(u[0])] == ("floor", "left", "right", "back").index(name)
    u, v, _ = VIEW.project(np.array([[0.2, 4.6, 2.7]], np.float32))
    assert found[int(v[0]), int(u[0])] == 4


@pytest.mark.parametrize("name", ["floor", "left", "right", "back"])
def test_the_shadow_picture_has_the_grids_value_in_its_place(name: str) -> None:
    """A grid with one dark spot: the picture is dark where the camera sees that spot, and nowhere else."""
    cell, start, spot = 0.05, (0.5 if name in {"left", "right"} else -1.5, 0.2), (2.6 if name != "back" else 0.4, 1.1)
    spot = (0.3, 3.1) if name == "floor" else (3.6, 1.1) if name != "back" else spot
    ratio = np.ones((90, 90, 3), np.float32)
    i, j = (round((place - low) / cell) for place, low in zip(spot, start, strict=True))
    ratio[i - 2 : i + 3, j - 2 : j + 3] = 0.4
    surface = shadows.surfaces(shadows.half_of(VIEW), SIDES)
    loss = shadows.lost_light(VIEW, SIDES, {name: light.Grid(start, cell, ratio)}, surface)
    place = (*spot, 0.0) if name == "floor" else SIDES.places(name, spot[0], spot[1])  # type: ignore[arg-type]
    u, v, _ = VIEW.project(np.array(place, np.float32).reshape(1, 3))
    assert abs(int(loss[int(v[0]), int(u[0]), 0]) - 255 * 0.6) < 12
    rows, columns = np.nonzero(loss[..., 0])
    assert np.abs(rows - v[0]).max() < 40
    assert np.abs(columns - u[0]).max() < 40


def test_no_grid_takes_no_light() -> None:
    surface = shadows.surfaces(shadows.half_of(VIEW), SIDES)
    assert not shadows.lost_light(VIEW, SIDES, {}, surface).any()


def test_light_that_is_not_missing_leaves_every_byte() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    same = pixels.copy()
    assert not renderer.darken(same, np.zeros_like(pixels)).any()
    assert (same == pixels).all()
    dark = pixels.copy()
    mask = renderer.darken(dark, np.full_like(pixels, 128))
    assert (dark <= pixels).all()
    assert mask[pixels[..., 0] < 230].all()
    assert (dark[15, 15] == 255).all(), "a window"
    lit = pixels.copy()
    renderer.darken(lit, np.full_like(pixels, 128), np.ones((8, 8), np.bool_))
    assert (lit[15, 15] < 200).all(), "sunlit floor is none"


def test_heights_along_a_beam_are_the_boxs_own() -> None:
    scene = raster.gathered([box_mesh()], [])
    high = raster.heights(scene, (0.0, 0.0), (-1.0, 2.0), 0.02, (120, 120))
    assert abs(float(high.max()) - 0.7) < 0.01
    assert abs(float((high > 0.6).mean()) * (120 * 0.02) ** 2 - 0.48) < 0.05, "its footprint"
    slanting = raster.heights(scene, (1.0, 0.0), (-1.0, 2.0), 0.02, (120, 120))
    assert (slanting > 0).sum() > 1.5 * (high > 0).sum(), "its shadow is longer"
    assert np.flatnonzero((slanting > 0).any(axis=0)).min() < np.flatnonzero((high > 0).any(axis=0)).min()


@pytest.mark.parametrize(("gloss", "velvet"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.6)])
def test_colours_are_finite_and_no_brighter_than_light_allows(gloss: float, velvet: float) -> None:
    scene = raster.gathered([box_mesh(gloss, velvet)], [])
    even = light.Environment(light.fibonacci(), np.full((light.DIRECTIONS, 3), 0.5, np.float32))
    hides = light.Shadows(even, light.scattered([box_mesh()]))
    samples = raster.raster(VIEW, scene)
    assert samples is not None
    drawn = shading.drawn(VIEW, scene, shading.seen(samples), even, hides)
    assert np.isfinite(drawn.colours).all()
    assert (np.diff(drawn.pixels) > 0).all()
    inside = drawn.cover == 1
    assert inside.mean() > 0.8
    assert 0.05 < drawn.colours[inside][:, 0].mean() < 0.5
    assert drawn.colours.max() <= 1
    if not gloss and not velvet:
        assert (drawn.colours[inside][:, 0] > 2 * drawn.colours[inside][:, 1]).all(), "red"


def test_a_small_copy_is_the_photo_made_smaller() -> None:
    tone = np.random.default_rng(2).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    photo = Image.fromarray(tone).resize((1600, 1200), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=95)
    small, whole = measuring.small(out.getvalue(), 400)
    assert whole == (1600, 1200)
    assert small.size == (400, 300)
    long_way = measuring.opened(out.getvalue()).resize((400, 300), Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - np.asarray(long_way, float)).mean() < 1.5
    tiny, _ = measuring.small(out.getvalue(), 5000)
    assert tiny.size == (1600, 1200)


def test_meshes_are_shared_and_nobody_changes_them() -> None:
    one = furniture.build("sofa", families.stuff_of(STYLES[0]), 1)
    assert furniture.build("sofa", families.stuff_of(STYLES[0]), 1) is one
    with pytest.raises(ValueError, match="read-only"):
        one.vertices[0] = 0
    assert furniture.build("sofa", families.stuff_of(STYLES[1]), 1) is not one
