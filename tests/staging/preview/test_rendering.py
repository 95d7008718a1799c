"""Furniture, light and drawing: meshes are sound, light is hidden where something stands, nothing else changes."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from PIL import Image

from shared.manifest.vocabulary import STYLES
from shared.staging.preview import families, furniture, light, meshes, renderer, textures
from shared.staging.preview.openings import Sides
from shared.staging.preview.views import View

SIDES = Sides(-2.5, 2.5, 5, 2.7)
VIEW = View(400, 300, 260, 200, 132, 0.05, 0, 0, 1.45)


def wall_photo(size: tuple[int, int] = (400, 300), seed: int = 1) -> Image.Image:
    """A room as plain as can be: floor, walls, ceiling in three tones, with grain."""
    columns, rows = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    x, y = VIEW.floor(columns, rows)
    floor = (y < SIDES.back) & (np.abs(x) < 2.5)
    tone = np.where(floor[..., None], (150, 120, 95), (215, 212, 205)).astype(float)
    tone += np.random.default_rng(seed).normal(0, 2, tone.shape)
    return Image.fromarray(tone.clip(0, 255).astype(np.uint8))


@cache
def box_mesh() -> meshes.Mesh:
    builder = meshes.Builder()
    builder.box((0.8, 0.6, 0.7), (0, 0, 0), meshes.Material((0.4, 0.1, 0.1)), 0.03)
    return furniture.turned(builder.mesh(), 20, (0.2, 3.2, 0))


# --- meshes


@pytest.mark.parametrize("name", furniture.SIZES)
def test_a_piece_is_sound_in_every_style(name: str) -> None:
    for number, style in enumerate(STYLES):
        mesh = furniture.build(name, families.stuff_of(style), number)
        assert np.isfinite(mesh.vertices).all()
        assert mesh.faces.max() < len(mesh.vertices)
        assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-3)
        assert mesh.material.max() < len(mesh.materials)
        corners = mesh.vertices[mesh.faces]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        big = np.linalg.norm(flat, axis=1) > 1e-7
        agree = np.einsum("nc,nc->n", flat, mesh.normals[mesh.faces].mean(axis=1)) > 0
        assert agree[big].mean() > 0.97, "faces wind as their normals point"
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        width, depth, height = furniture.SIZES[name]
        assert high[0] - low[0] < width + 0.12
        assert high[1] - low[1] < depth + 0.40
        if name not in furniture.HANGING:
            assert 0 <= low[2] < 0.01
            assert high[2] < height + 0.45
        assert len(mesh.faces) < 30_000


def test_styles_differ_in_shape_and_colour() -> None:
    sofas = [furniture.build("sofa", families.stuff_of(style), 1) for style in STYLES]
    looks = {(len(s.vertices), s.materials[0].colour, s.materials[-1].colour) for s in sofas}
    assert len(looks) >= len(STYLES) - 2


@pytest.mark.parametrize("size", [(1, 0.5, 0.3), (0.02, 0.02, 0.7), (2, 2, 0.01)])
def test_a_rounded_box_has_its_size_and_closed_sides(size: tuple[float, float, float]) -> None:
    vertices, normals, faces = meshes.rounded_box(size, 0.05)
    assert np.allclose(vertices.max(axis=0) - vertices.min(axis=0), size, atol=1e-6)
    corners = vertices[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    assert np.abs(flat.sum(axis=0)).max() < 1e-6, "a closed surface's areas cancel"
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)


def test_textures_are_tileable_and_keep_the_colour() -> None:
    for name, texture in zip(textures.NAMES, textures.atlas(), strict=True):
        assert abs(float(texture.mean()) - 0.5) < 0.10, name
        seam = np.abs(texture[:, 0] - texture[:, -1]).mean()
        assert seam < 3 * np.abs(np.diff(texture, axis=1)).mean() + 1e-6, name


@pytest.mark.parametrize("pattern", ["border", "stripes", "diamonds", "checks", "arcs", "medallion", "jute"])
def test_a_rug_has_both_of_its_colours(pattern: str) -> None:
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 200, dtype=np.float32), np.linspace(-0.8, 0.8, 150, dtype=np.float32))
    figure = textures.rug(pattern, x, y, 2.4, 1.6)
    assert figure.min() >= 0
    assert figure.max() <= 1
    assert 0.04 < figure.mean() < 0.75


# --- light


def test_directions_cover_the_sphere_evenly() -> None:
    directions = light.fibonacci()
    assert np.allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    assert np.abs(directions.mean(axis=0)).max() < 0.02


def test_under_an_even_sky_every_surface_gets_the_same() -> None:
    even = light.Environment(light.fibonacci(), np.full((light.DIRECTIONS, 3), 0.5, np.float32))
    normals = np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0.6, 0, 0.8]], np.float32)
    assert np.abs(even.irradiance(normals) - 0.5).max() < 0.02


def test_light_is_less_beside_and_under_a_piece_than_in_the_open() -> None:
    even = light.Environment(light.fibonacci(), np.full((light.DIRECTIONS, 3), 0.5, np.float32))
    points = light.scattered([box_mesh()])
    shadows = light.Shadows(even, points)
    places = np.array([[0.2, 3.2, 0], [0.2, 2.75, 0], [0.2, 0.6, 0]], np.float32)
    up = np.tile(np.array([[0, 0, 1]], np.float32), (3, 1))
    under, beside, open_ = shadows.light(places, up).mean(axis=1)
    assert under < 0.6 * beside < 0.6 * open_ * 1.01
    assert abs(open_ - 0.5) < 0.05


def test_a_bright_window_is_where_the_light_comes_from() -> None:
    small = np.full((60, 80, 3), 0.3, np.float32)
    small[15:35, :14] = 1
    found = light.environment(small, VIEW.scaled(80, 60), SIDES, (0, 3, 0.5))
    left, right = found.irradiance(np.array([[-1, 0, 0], [1, 0, 0]], np.float32)).mean(axis=1)
    assert left > 1.15 * right


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_light_of_black_and_white_pictures_is_finite(value: float) -> None:
    found = light.environment(np.full((60, 80, 3), value, np.float32), VIEW.scaled(80, 60), SIDES, (0, 3, 0.5))
    assert np.isfinite(found.radiance).all()
    assert (found.radiance >= 0).all()


# --- drawing


def brute_force(view: View, scene: renderer.Scene, column: float, row: float) -> int:
    """The nearest face on a ray, triangle by triangle."""
    ray = view.rays(np.float32(column), np.float32(row)).astype(float)
    origin = np.array([0, 0, view.eye])
    best, found = math.inf, -1
    for number, (a, b, c) in enumerate(scene.vertices[scene.faces].astype(float)):
        one, other = b - a, c - a
        normal = np.cross(one, other)
        across = normal @ ray
        if across >= 0:  # it looks away
            continue
        reach = normal @ (a - origin) / across
        place = origin + reach * ray
        inside = all(np.cross(q - p, place - p) @ normal >= -1e-12 for p, q in ((a, b), (b, c), (c, a)))
        if inside and 0.1 < reach < best:
            best, found = reach, number
    return found


def test_each_sample_shows_the_nearest_face() -> None:
    scene = renderer.gathered([box_mesh()], [])
    samples = renderer.raster(VIEW, scene)
    assert samples is not None
    high, wide = samples.faces.shape
    chance = np.random.default_rng(6)
    hits = wrong = 0
    for _ in range(160):
        j, i = int(chance.integers(high)), int(chance.integers(wide))
        mine = int(samples.faces[j, i])
        truth = brute_force(
            VIEW, scene, samples.left + (i + 0.5) / renderer.SAMPLES, samples.top + (j + 0.5) / renderer.SAMPLES
        )
        hits += truth >= 0
        wrong += mine != truth
    assert hits > 40
    assert wrong <= 3, "rounding on shared edges"


def test_what_is_behind_the_camera_is_not_drawn() -> None:
    behind = furniture.turned(box_mesh(), 0, (0, -8, 0))
    assert renderer.raster(VIEW, renderer.gathered([behind], [])) is None


def test_pixels_outside_the_mask_stay_and_two_runs_agree() -> None:
    photo = wall_photo()
    rug = renderer.Decal(0.2, 2.6, 1.6, 1.0, 0.2, "stripes", (0.6, 0.6, 0.55), (0.1, 0.2, 0.4))
    first, mask = renderer.render(photo, VIEW, SIDES, [box_mesh()], [rug])
    again, _ = renderer.render(photo, VIEW, SIDES, [box_mesh()], [rug])
    before, after = np.asarray(photo), np.asarray(first)
    assert (before == after)[~mask].all()
    assert (after == np.asarray(again)).all()
    assert 0.03 < mask.mean() < 0.8
    assert (before == np.asarray(wall_photo())).all(), "the photo itself is left alone"


def test_shadows_only_darken_and_windows_take_none() -> None:
    photo = wall_photo()
    pixels = np.asarray(photo).copy()
    pixels[60:120, 150:250] = 255
    staged, mask = renderer.render(Image.fromarray(pixels), VIEW, SIDES, [box_mesh()], [])
    scene = renderer.gathered([box_mesh()], [])
    samples = renderer.raster(VIEW, scene)
    assert samples is not None
    drawn = np.zeros(mask.shape, bool)
    hit = (samples.faces >= 0).reshape(samples.faces.shape[0] // 2, 2, -1, 2).any(axis=(1, 3))
    drawn[samples.top : samples.top + hit.shape[0], samples.left : samples.left + hit.shape[1]] = hit
    after = np.asarray(staged).astype(int)
    shadow = mask & ~drawn
    assert shadow.sum() > 500
    assert (after[shadow] <= pixels[shadow].astype(int) + 1).all()
    white = np.zeros(mask.shape, bool)
    white[60:120, 150:250] = True
    assert (after[white & ~drawn] == 255).all()


def test_a_darker_photo_has_darker_furniture() -> None:
    photo = wall_photo()
    dark = Image.fromarray((np.asarray(photo) * 0.5).astype(np.uint8))
    scene = renderer.gathered([box_mesh()], [])
    samples = renderer.raster(VIEW, scene)
    assert samples is not None
    rows = slice(samples.top + 20, samples.top + samples.faces.shape[0] // 2 - 20)
    columns = slice(samples.left + 30, samples.left + samples.faces.shape[1] // 2 - 30)
    bright = np.asarray(renderer.render(photo, VIEW, SIDES, [box_mesh()], [])[0])[rows, columns].mean()
    low = np.asarray(renderer.render(dark, VIEW, SIDES, [box_mesh()], [])[0])[rows, columns].mean()
    assert low < 0.75 * bright


def test_linear_light_and_back_is_the_same_value() -> None:
    every = np.arange(256)
    assert np.abs(renderer.to_srgb(renderer.LINEAR[every]) - every).max() < 0.5


def test_grain_is_measured_and_follows_the_photo() -> None:
    assert renderer.noise_of(Image.new("RGB", (200, 200), (90, 90, 90))) == 0
    grey = np.full((200, 200, 3), 120.0) + np.random.default_rng(1).normal(0, 5, (200, 200, 1))
    assert 3 < renderer.noise_of(Image.fromarray(grey.clip(0, 255).astype(np.uint8))) < 7
