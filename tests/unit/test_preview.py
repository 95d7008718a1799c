"""The preview model: what it draws stays on the floor, what it verifies it has really compared, and nothing breaks it."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from shared.errors import ImageRejected
from shared.ports import Photo, Request
from shared.settings import PhotoLimits, StagingRules
from shared.staging import pictures, preview
from shared.staging.answers import Analysis, Light, Point, Verdict
from shared.staging.catalogue import FURNITURE, LOOKS
from shared.staging.pool import PicturePool
from shared.vocabulary import ROOMS, STYLES

RULES = StagingRules()
SOME_STYLES = ("standard", "industrial", "art_deco", "minimalist")
WALL, SIDE, FLOOR, WINDOW = (214, 209, 200), (192, 187, 180), (122, 86, 56), (236, 245, 255)


@pytest.fixture(autouse=True)
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pictures` sets Pillow's limit for the whole process, which is a subprocess of its own; here it must not stay."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000_000)


# --- pictures


def jpeg(picture: Image.Image, quality: int = 92) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        return picture.convert("RGB")


def grainy(picture: Image.Image, seed: int = 1) -> Image.Image:
    values = np.asarray(picture).astype(np.int16)
    values += np.random.default_rng(seed).integers(-4, 5, (*values.shape[:2], 1)).astype(np.int16)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def edge_height(x: float, floor: float, corner: float) -> float:
    """Of `room`: where its floor begins at `x`, both as fractions."""
    if x < 0.25:
        return corner + (floor - corner) * x / 0.25
    return floor if x <= 0.75 else floor + (corner - floor) * (x - 0.75) / 0.25


@cache
def room(width: int = 480, height: int = 360, floor: float = 0.62, corner: float = 0.84, seed: int = 1) -> Image.Image:
    """An empty room by a renderer of twenty lines: back wall, side walls, window, wooden floor, a little grain."""
    picture = Image.new("RGB", (width, height), WALL)
    draw = ImageDraw.Draw(picture)

    def polygon(*points: tuple[float, float], fill: tuple[int, int, int]) -> None:
        draw.polygon([(x * width, y * height) for x, y in points], fill=fill)

    polygon((0, 0), (0.25, 0.12), (0.25, floor), (0, corner), fill=SIDE)
    polygon((1, 0), (0.75, 0.12), (0.75, floor), (1, corner), fill=SIDE)
    polygon((0, 1), (0, corner), (0.25, floor), (0.75, floor), (1, corner), (1, 1), fill=FLOOR)
    polygon((0.42, 0.2), (0.58, 0.2), (0.58, 0.42), (0.42, 0.42), fill=WINDOW)
    return grainy(picture, seed)


@cache
def room_jpeg() -> bytes:
    return jpeg(room())


@cache
def room_analysis() -> Analysis:
    return preview.measure(room_jpeg(), "living_room")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def analysis_of(
    floor: list[tuple[float, float]], vanishing: tuple[float, float] = (0.5, 0.4), brightness: float = 0.6
) -> Analysis:
    return Analysis(
        summary="",
        floor=[Point(x=x, y=y) for x, y in floor],
        vanishing_point=Point(x=vanishing[0], y=vanishing[1]),
        openings=[],
        light=Light(direction="left", brightness=brightness, temperature_kelvin=5000),
        palette=[],
        must_not_change=[],
    )


def outside(size: tuple[int, int], analysis: Analysis) -> np.ndarray:
    """Pixels that are surely not floor: two or more away from the outline, by our own even-odd rule."""
    return _outside(size, tuple((point.x, point.y) for point in analysis.floor))


@cache
def _outside(size: tuple[int, int], floor: tuple[tuple[float, float], ...]) -> np.ndarray:
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.zeros((height, width), dtype=bool)
    points = [(across * width, down * height) for across, down in floor]
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    near = Image.fromarray((inside * 255).astype(np.uint8))
    drawn = ImageDraw.Draw(near)
    drawn.line([*points, points[0]], fill=255, width=1)
    far: np.ndarray = np.asarray(near.filter(ImageFilter.MaxFilter(5))) == 0
    far.flags.writeable = False
    return far


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before) != np.asarray(after)).any(axis=2)


# --- the tables


def test_every_room_has_furniture_and_every_style_a_look() -> None:
    assert set(FURNITURE) == set(ROOMS)
    assert set(LOOKS) == set(STYLES)
    assert all(FURNITURE[room_type] for room_type in ROOMS)
    assert all(piece and piece == piece.strip().lower() for pieces in FURNITURE.values() for piece in pieces)
    assert all(len(set(pieces)) == len(pieces) for pieces in FURNITURE.values())


def test_looks_are_words_and_three_different_colours() -> None:
    for style, look in LOOKS.items():
        assert len(look.words) > 10, style
        colours = (look.large, look.frame, look.accent)
        assert all(re.fullmatch(r"#[0-9a-f]{6}", colour) for colour in colours), style
        assert len(set(colours)) == 3, style
    assert len({(look.large, look.frame, look.accent) for look in LOOKS.values()}) == len(LOOKS)


def test_every_room_is_drawn_with_each_of_its_pieces() -> None:
    for room_type in ROOMS:
        names = [name for name, _ in preview._layout(room_type)]
        assert sorted(names) == sorted(FURNITURE[room_type]), f"{room_type}: pieces are missing on the floor"


# --- analyse


@pytest.mark.parametrize("floor", [0.5, 0.58, 0.66, 0.74])
@pytest.mark.parametrize("size", [(480, 360), (640, 360), (360, 480)])
def test_the_edge_of_the_floor_is_found(size: tuple[int, int], floor: float) -> None:
    corner = min(0.86, floor + 0.18)
    analysis = preview.measure(jpeg(room(*size, floor, corner)), "bedroom")
    outline = analysis.floor[:-2]
    errors = [abs(point.y - edge_height(point.x, floor, corner)) for point in outline]
    assert max(errors) < 0.04, [round(error, 3) for error in errors]
    assert sum(errors) / len(errors) < 0.02
    assert analysis.floor[-2:] == [Point(x=1, y=1), Point(x=0, y=1)]
    assert [point.x for point in outline] == sorted(point.x for point in outline)
    assert abs(analysis.vanishing_point.x - 0.5) < 0.15
    assert analysis.vanishing_point.y < floor


def test_a_flat_edge_is_found_to_the_row() -> None:
    pixels = np.full((120, 160, 3), 200, dtype=np.float32)
    pixels[72:] = 90
    edge = preview.floor_edge(pixels)
    assert edge.shape == (160,)
    assert np.abs(edge - 72).max() <= 3


def test_the_edge_is_one_line_even_in_noise() -> None:
    edge = preview.floor_edge(np.asarray(noise(160, 120), dtype=np.float32))
    assert np.abs(np.diff(edge)).max() <= 2
    assert edge.min() >= 0
    assert edge.max() < 120


def test_the_light_is_measured() -> None:
    gradient = np.linspace(60, 250, 400)[None, :, None]
    left = Image.fromarray(np.broadcast_to(gradient[:, ::-1], (300, 400, 3)).astype(np.uint8))
    right = Image.fromarray(np.broadcast_to(gradient, (300, 400, 3)).astype(np.uint8))
    assert preview.measure(jpeg(left), "den").light.direction == "left"
    assert preview.measure(jpeg(right), "den").light.direction == "right"
    even = preview.measure(jpeg(Image.new("RGB", (400, 300), (128, 128, 128))), "den").light
    assert even.direction == "diffuse"
    assert abs(even.brightness - 0.5) < 0.02
    warm = preview.measure(jpeg(Image.new("RGB", (400, 300), (255, 180, 90))), "den").light
    cold = preview.measure(jpeg(Image.new("RGB", (400, 300), (90, 150, 255))), "den").light
    assert warm.temperature_kelvin < even.temperature_kelvin < cold.temperature_kelvin


def test_the_palette_is_colours_most_frequent_first() -> None:
    picture = Image.new("RGB", (300, 300), (200, 30, 30))
    picture.paste((30, 30, 200), (0, 0, 100, 300))
    palette = preview.measure(jpeg(picture), "den").palette
    assert 1 <= len(palette) <= 5
    assert all(re.fullmatch(r"#[0-9a-f]{6}", colour) for colour in palette)
    red, blue = int(palette[0][1:3], 16), int(palette[0][5:7], 16)
    assert red > 150 > 80 > blue


def test_the_summary_says_that_it_was_only_measured() -> None:
    summary = room_analysis().summary
    assert "living room" in summary
    assert "easured" in summary


# --- generate


@pytest.mark.parametrize("style", SOME_STYLES)
@pytest.mark.parametrize("room_type", ROOMS)
def test_furniture_stays_on_the_floor(room_type: str, style: str) -> None:
    photo, analysis = room(), room_analysis()
    before = photo.copy()
    staged = preview.draw_furniture(photo, analysis, room_type, style)
    assert (staged.size, staged.mode) == (photo.size, photo.mode)
    assert not changed(before, photo).any(), "the photo itself is left alone"
    moved = changed(photo, staged)
    assert not (moved & outside(photo.size, analysis)).any()
    assert moved.mean() > 0.01, "there is furniture"


SHAPES = {
    "triangle": [(0.1, 0.9), (0.5, 0.5), (0.9, 0.95)],
    "whole picture": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "upper half": [(0, 0), (1, 0), (1, 0.5), (0, 0.5)],
    "a line": [(0, 1), (0.5, 1), (1, 1)],
    "a point": [(0.5, 0.5)] * 3,
    "crossing itself": [(0, 0.5), (1, 1), (1, 0.5), (0, 1)],
    "counter-clockwise": [(0, 1), (1, 1), (0.8, 0.6), (0.2, 0.6)],
    "U": [(0, 0.5), (0.2, 0.5), (0.2, 0.9), (0.8, 0.9), (0.8, 0.5), (1, 0.5), (1, 1), (0, 1)],
    "many points": [(index / 61, 0.6 + 0.05 * (index % 2)) for index in range(62)] + [(1, 1), (0, 1)],
}


@pytest.mark.parametrize("vanishing", [(0.5, 0.4), (0, 0), (1, 1), (0.5, 0.99)])
@pytest.mark.parametrize("shape", SHAPES)
def test_furniture_stays_on_a_floor_of_any_shape(shape: str, vanishing: tuple[float, float]) -> None:
    photo = noise(200, 150, seed=len(shape))
    analysis = analysis_of(SHAPES[shape], vanishing)
    for room_type, style in (("living_room", "modern"), ("gym", "tropical"), ("hallway", "luxury")):
        staged = preview.draw_furniture(photo, analysis, room_type, style)
        assert not (changed(photo, staged) & outside(photo.size, analysis)).any()


def test_furniture_stays_on_random_floors() -> None:
    chance = np.random.default_rng(5)
    for number in range(40):
        photo = noise(int(chance.integers(64, 260)), int(chance.integers(64, 260)), number)
        points = [(float(x), float(y)) for x, y in chance.random((int(chance.integers(3, 12)), 2))]
        analysis = analysis_of(points, (float(chance.random()), float(chance.random())), float(chance.random()))
        room_type, style = ROOMS[number % len(ROOMS)], STYLES[number % len(STYLES)]
        staged = preview.draw_furniture(photo, analysis, room_type, style)
        assert not (changed(photo, staged) & outside(photo.size, analysis)).any()


def test_the_style_is_seen() -> None:
    results = {
        style: preview.draw_furniture(room(), room_analysis(), "living_room", style).tobytes() for style in STYLES
    }
    assert len(set(results.values())) == len(STYLES)


def label_box(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) that the label may take in the lower left corner at most."""
    return min(size[0], max(400, size[0] * 2 // 5)), max(60, size[0] // 15)


@pytest.mark.parametrize("size", [(480, 360), (1200, 800), (2048, 1365), (600, 900)])
def test_the_label_is_drawn(size: tuple[int, int]) -> None:
    photo = room(*size)
    analysis = preview.measure(jpeg(photo), "bedroom")
    staged = opened(preview.furnish(jpeg(photo), analysis, "bedroom", "modern"))
    assert staged.size == size
    width, height = label_box(size)
    corner = np.asarray(staged.crop((0, size[1] - height, width, size[1])).convert("L"), dtype=int)
    assert (corner > 230).sum() > 100, "white letters"
    assert (corner < 60).sum() > 300, "on a dark ground"


def test_the_label_says_what_it_is() -> None:
    assert "PREVIEW" in preview.LABEL
    assert "virtually staged" in preview.LABEL


def test_the_label_on_any_ground_and_any_size() -> None:
    """Legible means: letters and ground differ, whatever the photo is; in the smallest photo its beginning at least."""
    for ground in ((0, 0, 0), (255, 255, 255), (128, 128, 128)):
        for size in ((64, 64), (300, 200), (1000, 700)):
            picture = Image.new("RGB", size, ground)
            preview._write_label(picture)
            width, height = label_box(size)
            corner = np.asarray(picture.crop((0, size[1] - height, width, size[1])).convert("L"), dtype=int)
            assert corner.max() - corner.min() > 100
            assert not changed(Image.new("RGB", size, ground), picture)[: size[1] - height].any()


def test_a_finished_picture_differs_from_the_photo_only_on_floor_and_label() -> None:
    photo = opened(room_jpeg())
    analysis = room_analysis()
    staged = opened(preview.furnish(room_jpeg(), analysis, "dining_room", "coastal"))
    difference = np.abs(np.asarray(photo, dtype=int) - np.asarray(staged, dtype=int)).max(axis=2)
    free = outside(photo.size, analysis).copy()
    free[-label_box(photo.size)[1] :, : label_box(photo.size)[0]] = False
    eroded = np.asarray(Image.fromarray(free).filter(ImageFilter.MinFilter(17)))  # the codec bleeds one 16-pixel block
    assert difference[eroded].max() <= 24
    assert difference[eroded].mean() < 3


# --- verify


@cache
def staged_room(room_type: str = "living_room", style: str = "modern") -> bytes:
    return preview.furnish(room_jpeg(), room_analysis(), room_type, style)


def verdict(
    after: bytes, style: str = "modern", before: bytes | None = None, analysis: Analysis | None = None
) -> Verdict:
    return preview.compare(before or room_jpeg(), after, analysis or room_analysis(), style)


def accepted(found: Verdict) -> bool:
    return (
        found.structure_kept >= RULES.least_structure_kept
        and found.realism >= RULES.least_realism
        and found.style_fit >= RULES.least_style_fit
        and not found.defects
    )


@pytest.mark.parametrize("room_type", ROOMS)
def test_what_it_draws_it_accepts(room_type: str) -> None:
    for style in ("standard", "art_deco", "minimalist"):
        assert accepted(verdict(staged_room(room_type, style), style)), (room_type, style)


@pytest.mark.parametrize("style", STYLES)
def test_what_it_draws_in_any_style_it_accepts(style: str) -> None:
    for room_type in ("living_room", "hallway"):
        assert accepted(verdict(staged_room(room_type, style), style)), (room_type, style)


def test_an_unfurnished_picture_is_not_accepted() -> None:
    for same in (room_jpeg(), jpeg(room(), 70)):
        found = verdict(same)
        assert found.structure_kept > 0.95
        assert found.realism < 0.3
        assert not accepted(found)
        assert found.defects


def test_changed_walls_are_noticed() -> None:
    picture = opened(staged_room())
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width, picture.height * 0.4), fill=(40, 90, 60))
    found = verdict(jpeg(picture))
    assert found.structure_kept < 0.3
    assert not accepted(found)
    assert any("outside the floor" in defect for defect in found.defects)


def test_a_vanished_window_is_noticed() -> None:
    picture = opened(staged_room())
    width, height = picture.size
    ImageDraw.Draw(picture).rectangle((0.40 * width, 0.18 * height, 0.60 * width, 0.44 * height), fill=(90, 70, 60))
    found = verdict(jpeg(picture))
    assert found.structure_kept < 0.9
    assert not accepted(found)


def test_a_picture_of_another_room_is_not_accepted() -> None:
    for other in (
        jpeg(noise(480, 360)),
        jpeg(room(480, 360, 0.5, 0.7).transpose(Image.Transpose.ROTATE_180)),
        jpeg(Image.new("RGB", (480, 360))),
    ):
        found = verdict(other)
        assert found.structure_kept < RULES.least_structure_kept
        assert not accepted(found)


def test_a_mirrored_picture_is_not_accepted() -> None:
    picture = opened(staged_room()).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    assert not accepted(verdict(jpeg(picture)))


def test_furniture_in_other_colours_does_not_fit_the_style() -> None:
    pixels = np.asarray(opened(staged_room())).copy()
    mask = changed(opened(room_jpeg()), opened(staged_room())) & ~outside((480, 360), room_analysis())
    pixels[mask] = (255, 0, 255)
    found = verdict(jpeg(Image.fromarray(pixels)))
    assert found.style_fit < RULES.least_style_fit
    assert found.structure_kept > 0.8


def test_a_floor_full_of_furniture_is_not_realistic() -> None:
    picture = opened(room_jpeg())
    analysis = room_analysis()
    ImageDraw.Draw(picture).polygon([(point.x * 480, point.y * 360) for point in analysis.floor], fill=(141, 146, 153))
    found = verdict(jpeg(picture))
    assert found.realism < RULES.least_realism
    assert not accepted(found)


def test_another_aspect_ratio_is_nothing() -> None:
    for size in ((360, 480), (480, 300), (480, 480)):
        found = verdict(jpeg(opened(staged_room()).resize(size)))
        assert (found.structure_kept, found.realism, found.style_fit) == (0, 0, 0)
        assert found.defects


def test_another_size_of_the_same_ratio_is_compared() -> None:
    assert accepted(verdict(jpeg(opened(staged_room()).resize((960, 720)))))
    assert accepted(verdict(jpeg(opened(staged_room()).resize((240, 180)))))


def test_the_verdict_is_the_same_each_time() -> None:
    assert verdict(staged_room()) == verdict(staged_room())
    assert preview.furnish(room_jpeg(), room_analysis(), "den", "rustic") == preview.furnish(
        room_jpeg(), room_analysis(), "den", "rustic"
    )
    assert preview.measure(room_jpeg(), "den") == preview.measure(room_jpeg(), "den")


# --- anything that passes for a photo

FILLS = {"black": (0, 0, 0), "white": (255, 255, 255), "noise": None, "red": (255, 0, 0)}
EXTREMES = [(64, 2000), (2000, 64), (64, 64), (65, 64), (2048, 40), (40, 2048), (1600, 64), (71, 1999)]


def filled(size: tuple[int, int], fill: str) -> Image.Image:
    return noise(*size) if FILLS[fill] is None else Image.new("RGB", size, FILLS[fill])


def assert_goes_through(data: bytes, size: tuple[int, int], *, compare: bool = True) -> None:
    analysis = preview.measure(data, "living_room")
    assert all(0 <= point.x <= 1 and 0 <= point.y <= 1 for point in analysis.floor)
    assert Analysis.model_validate_json(analysis.model_dump_json()) == analysis, "it survives the checkpoint"
    staged = preview.furnish(data, analysis, "living_room", "modern")
    assert opened(staged).size == size
    if compare:
        found = preview.compare(data, staged, analysis, "modern")
        assert all(0 <= score <= 1 for score in (found.structure_kept, found.realism, found.style_fit))
        assert not any("ratio" in defect for defect in found.defects)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size", EXTREMES)
def test_extreme_pictures_go_through(size: tuple[int, int], fill: str) -> None:
    assert_goes_through(jpeg(filled(size, fill)), size, compare=size[1] < 500)


def test_a_tall_picture_is_compared() -> None:
    assert_goes_through(jpeg(noise(64, 2000)), (64, 2000))


@pytest.mark.parametrize("size", [(7000, 64), (64, 7000), (20_000, 64), (64, 20_000), (300_000, 64)])
def test_what_the_normaliser_lets_through_goes_through_the_preview(size: tuple[int, int]) -> None:
    """After fitting, a very long photo is a few pixels high; refusing it at the start is as good as staging it."""
    out = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(out, "PNG", compress_level=1)
    try:
        photo = pictures.normalise(out.getvalue(), PhotoLimits())
    except ImageRejected:
        return
    assert_goes_through(photo.jpeg, (photo.width, photo.height), compare=size[0] > size[1])


def test_the_port_in_subprocesses_and_a_tall_photo_within_their_memory() -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 10_000), (90, 120, 150)).save(out, "PNG", compress_level=1)

    async def main() -> None:
        pool = PicturePool(PhotoLimits(subprocesses=1))
        try:
            model = preview.PreviewModel(pool)
            assert (model.text_model, model.image_model) == ("preview", "preview")
            assert model.prompts
            request = Request("living_room", "modern")
            photo = Photo(room_jpeg(), 480, 360, "")
            analysis = await model.analyse(photo, request)
            picture = await model.generate(photo, analysis.value, request, ["nothing"])
            found = await model.verify(photo, picture.value, analysis.value, request)
            assert accepted(found.value)
            assert {analysis.usage.model, picture.usage.model, found.usage.model} == {"preview"}
            try:
                photo = await pool.normalise(out.getvalue())
            except ImageRejected:
                return
            analysis = await model.analyse(photo, request)
            picture = await model.generate(photo, analysis.value, request, [])
            await model.verify(photo, picture.value, analysis.value, request)
        finally:
            pool.close()

    asyncio.run(main())


def test_an_analysis_by_someone_else_is_drawn_too() -> None:
    """Checkpoints outlive a change of model: the analysis may be Gemini's."""
    analysis = Analysis.model_validate(
        {
            "summary": "x" * 2000,
            "floor": [{"x": 0, "y": 1}, {"x": 0.2, "y": 0.6}, {"x": 0.8, "y": 0.6}, {"x": 1, "y": 1}],
            "vanishing_point": {"x": 0.5, "y": 0.6},
            "openings": [{"kind": "window", "left": 0.9, "top": 0.9, "right": 0.1, "bottom": 0.1}],
            "light": {"direction": "above", "brightness": 0, "temperature_kelvin": 20000},
            "palette": ["beige"],
            "must_not_change": ["$room"] * 40,
        }
    )
    for room_type, style in itertools.product(("pool", "garage"), ("french", "boho")):
        staged = preview.furnish(room_jpeg(), analysis, room_type, style)
        assert preview.compare(room_jpeg(), staged, analysis, style).structure_kept > 0.5
