"""The preview model as a whole: it furnishes a room, keeps the photo, notices what is wrong, and nothing breaks it."""

from __future__ import annotations

import asyncio
import io
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from shared.answers import Analysis, Verdict
from shared.errors import ImageRejected
from shared.manifest.vocabulary import ROOMS, STYLES
from shared.ports import Photo, Request
from shared.settings import PhotoLimits, StagingRules
from shared.staging import pictures, preview
from shared.staging.catalogue import FURNITURE, LOOKS
from shared.staging.pool import PicturePool
from shared.staging.preview import checking, measuring, staging

RULES = StagingRules()
PHOTOS = Path(__file__).parents[3] / "samples/photos"


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


@cache
def room(name: str = "living-01", side: int = 640) -> Image.Image:
    """One of the sample photos, upright and small."""
    with Image.open(PHOTOS / f"{name}.jpg") as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    upright.thumbnail((side, side))
    return upright


@cache
def room_jpeg(name: str = "living-01") -> bytes:
    return jpeg(room(name))


@cache
def room_analysis(name: str = "living-01") -> Analysis:
    return preview.measure(room_jpeg(name), "living_room")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


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


# --- analyse


def test_light_is_measured() -> None:
    gradient = np.linspace(230, 40, 400)[None, :, None]
    left = Image.fromarray(np.broadcast_to(gradient, (300, 400, 3)).astype(np.uint8))
    right = left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
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


def test_the_analysis_has_the_room_in_metres_and_survives_the_checkpoint() -> None:
    analysis = room_analysis()
    found = analysis.geometry
    assert found is not None
    assert measuring.confident(found)
    assert 4.5 < found.right - found.left < 6.0, "it is 5.2 m wide"
    assert any(opening.kind == "door" and opening.wall == "back" for opening in found.openings)
    assert Analysis.model_validate_json(analysis.model_dump_json()) == analysis


def test_an_analysis_of_an_older_version_is_still_read() -> None:
    """Checkpoints outlive a change of the code: what was stored before had no geometry."""
    stored = room_analysis().model_dump(mode="json")
    del stored["geometry"]
    old = Analysis.model_validate(stored)
    assert old.geometry is None
    assert preview.furnish(room_jpeg(), old, "living_room", "modern") == preview.furnish(
        room_jpeg(), room_analysis(), "living_room", "modern"
    )


def test_a_vendor_is_not_asked_for_the_geometry() -> None:
    schema = Analysis.model_json_schema()
    assert "geometry" not in schema["properties"]
    assert set(schema["$defs"]) == {"Light", "Opening", "Point"}


# --- generate


@pytest.mark.parametrize("name", ["living-01", "bathroom-01", "balcony-01"])
def test_outside_furniture_and_shadow_every_pixel_is_the_photos_own(name: str) -> None:
    photo = room(name)
    before = photo.copy()
    staged, mask = staging.furnished(
        photo, room_analysis(name), "living_room" if name == "living-01" else name[:-3], "modern"
    )
    assert (staged.size, staged.mode) == (photo.size, photo.mode)
    assert not changed(before, photo).any(), "the photo itself is left alone"
    assert not (changed(photo, staged) & ~mask).any()
    assert 0.02 < mask.mean() < 0.75
    assert changed(photo, staged)[mask].mean() > 0.5, "the mask is no wider than what is drawn"


def test_the_style_is_seen() -> None:
    results = {
        style: staging.furnished(room(), room_analysis(), "bathroom", style)[0].tobytes() for style in STYLES[::3]
    }
    assert len(set(results.values())) == len(results)


def label_box(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) that the label may take in the lower left corner at most."""
    return min(size[0], max(400, size[0] * 2 // 5)), max(60, size[0] // 15)


@pytest.mark.parametrize("size", [(480, 360), (1200, 800), (2048, 1365), (600, 900)])
def test_the_label_is_drawn(size: tuple[int, int]) -> None:
    photo = room().resize(size)
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
            staging.write_label(picture)
            width, height = label_box(size)
            corner = np.asarray(picture.crop((0, size[1] - height, width, size[1])).convert("L"), dtype=int)
            assert corner.max() - corner.min() > 100
            assert not changed(Image.new("RGB", size, ground), picture)[: size[1] - height].any()


def test_two_runs_give_the_same_picture() -> None:
    assert staged_room() == preview.furnish(room_jpeg(), room_analysis(), "living_room", "modern")
    assert verdict(staged_room()) == verdict(staged_room())
    assert preview.measure(room_jpeg(), "living_room") == room_analysis()


def test_another_photo_of_the_room_has_another_number() -> None:
    mirrored = jpeg(room().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    other = preview.measure(mirrored, "living_room").geometry
    mine = room_analysis().geometry
    assert other is not None
    assert mine is not None
    assert other.seed != mine.seed


# --- verify


@cache
def staged_room(room_type: str = "living_room", style: str = "modern") -> bytes:
    return preview.furnish(room_jpeg(), room_analysis(), room_type, style)


def verdict(
    after: bytes,
    style: str = "modern",
    room_type: str = "living_room",
    before: bytes | None = None,
    analysis: Analysis | None = None,
) -> Verdict:
    return preview.compare(before or room_jpeg(), after, analysis or room_analysis(), room_type, style)


def accepted(found: Verdict) -> bool:
    return (
        found.structure_kept >= RULES.min_structure_kept
        and found.realism >= RULES.min_realism
        and found.style_fit >= RULES.min_style_fit
        and not found.defects
    )


@pytest.mark.parametrize("style", ["modern", "art_deco", "coastal"])
def test_what_it_draws_it_accepts(style: str) -> None:
    assert accepted(verdict(staged_room(style=style), style))


def test_an_unfurnished_picture_is_not_accepted() -> None:
    for same in (room_jpeg(), jpeg(room(), 70)):
        found = verdict(same)
        assert found.structure_kept > 0.95
        assert found.realism < 0.3
        assert not accepted(found)
        assert any("Hardly any furniture" in defect for defect in found.defects)


def test_changed_walls_are_noticed() -> None:
    picture = opened(staged_room())
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width, picture.height * 0.4), fill=(40, 90, 60))
    found = verdict(jpeg(picture))
    assert found.structure_kept < 0.3
    assert not accepted(found)
    assert any("outside the furniture" in defect for defect in found.defects)


def test_a_darker_ceiling_is_no_shadow() -> None:
    pixels = np.asarray(opened(staged_room())).copy()
    pixels[: pixels.shape[0] // 5] = pixels[: pixels.shape[0] // 5] * 0.7
    assert not accepted(verdict(jpeg(Image.fromarray(pixels))))


def test_a_vanished_door_is_noticed() -> None:
    picture = opened(staged_room())
    opening = next(
        each for each in room_analysis().openings if each.kind == "door" and each.right < 0.8 and each.left > 0.4
    )
    width, height = picture.size
    box = (opening.left * width, opening.top * height, opening.right * width, opening.bottom * height)
    ImageDraw.Draw(picture).rectangle(box, fill=(250, 250, 250))
    found = verdict(jpeg(picture))
    assert found.structure_kept < 1
    assert found.structure_kept < verdict(staged_room()).structure_kept - 0.05


def test_a_picture_of_another_room_is_not_accepted() -> None:
    for other in (
        jpeg(noise(*room().size)),
        jpeg(room().transpose(Image.Transpose.ROTATE_180)),
        jpeg(room("kids-01").resize(room().size)),
        jpeg(Image.new("RGB", room().size)),
    ):
        found = verdict(other)
        assert found.structure_kept < RULES.min_structure_kept
        assert not accepted(found)


def test_furniture_in_other_colours_does_not_fit_the_style() -> None:
    pixels = np.asarray(opened(staged_room())).copy()
    found = room_analysis().geometry
    assert found is not None
    plan = staging.planned(room(), found, "living_room", "modern")
    pieces, _ = checking.drawn_masks(plan, found, room().size)
    pixels[pieces] = (255, 0, 255)
    judged = verdict(jpeg(Image.fromarray(pixels)))
    assert judged.style_fit < RULES.min_style_fit
    assert judged.structure_kept > 0.8


def test_another_aspect_ratio_is_nothing() -> None:
    width, height = room().size
    for size in ((height, width), (width, height // 2), (width, width)):
        found = verdict(jpeg(opened(staged_room()).resize(size)))
        assert (found.structure_kept, found.realism, found.style_fit) == (0, 0, 0)
        assert found.defects


def test_another_size_of_the_same_ratio_is_compared() -> None:
    width, height = room().size
    assert accepted(verdict(jpeg(opened(staged_room()).resize((2 * width, 2 * height)))))
    assert accepted(verdict(jpeg(opened(staged_room()).resize((width // 2, height // 2)))))


def test_a_photo_without_a_clear_room_gets_little_or_nothing_and_says_so() -> None:
    blurred = jpeg(room().filter(ImageFilter.GaussianBlur(9)))
    analysis = preview.measure(blurred, "living_room")
    assert analysis.geometry is not None
    assert not measuring.confident(analysis.geometry)
    plan = staging.planned(opened(blurred), analysis.geometry, "living_room", "modern")
    assert len(plan.pieces) <= 3
    staged = preview.furnish(blurred, analysis, "living_room", "modern")
    found = preview.compare(blurred, staged, analysis, "living_room", "modern")
    assert any("does not show" in defect for defect in found.defects)


# --- anything that passes for a photo

FILLS = {"black": (0, 0, 0), "white": (255, 255, 255), "noise": None, "red": (255, 0, 0)}
EXTREMES = [
    (64, 2000),
    (2000, 64),
    (64, 64),
    (65, 64),
    (2048, 40),
    (40, 2048),
    (1600, 64),
    (71, 1999),
    (2048, 500),
    (700, 900),
]


def filled(size: tuple[int, int], fill: str) -> Image.Image:
    return noise(*size) if FILLS[fill] is None else Image.new("RGB", size, FILLS[fill])


def assert_goes_through(data: bytes, size: tuple[int, int]) -> None:
    analysis = preview.measure(data, "living_room")
    assert all(0 <= point.x <= 1 and 0 <= point.y <= 1 for point in analysis.floor)
    assert Analysis.model_validate_json(analysis.model_dump_json()) == analysis, "it survives the checkpoint"
    staged = preview.furnish(data, analysis, "living_room", "modern")
    assert opened(staged).size == size
    found = preview.compare(data, staged, analysis, "living_room", "modern")
    assert all(0 <= score <= 1 for score in (found.structure_kept, found.realism, found.style_fit))
    assert not any("ratio" in defect for defect in found.defects)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size", EXTREMES)
def test_extreme_pictures_go_through(size: tuple[int, int], fill: str) -> None:
    assert_goes_through(jpeg(filled(size, fill)), size)


def test_a_gradient_and_a_panorama_go_through() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 900)[None, :, None], (600, 900, 3)).astype(np.uint8)
    assert_goes_through(jpeg(Image.fromarray(ramp)), (900, 600))
    wide = Image.new("RGB", (1600, 400))
    wide.paste(room().resize((800, 400)), (0, 0))
    wide.paste(room("kids-01").resize((800, 400)), (800, 0))
    assert_goes_through(jpeg(wide), (1600, 400))


@pytest.mark.parametrize("size", [(7000, 64), (64, 7000), (20_000, 64), (64, 20_000), (300_000, 64)])
def test_what_the_normaliser_lets_through_goes_through_the_preview(size: tuple[int, int]) -> None:
    """After fitting, a very long photo is a few pixels high; refusing it at the start is as good as staging it."""
    out = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(out, "PNG", compress_level=1)
    try:
        photo = pictures.normalise(out.getvalue(), PhotoLimits())
    except ImageRejected:
        return
    assert_goes_through(photo.jpeg, (photo.width, photo.height))


def test_the_port_in_subprocesses_and_a_tall_photo_within_their_memory() -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 10_000), (90, 120, 150)).save(out, "PNG", compress_level=1)

    async def main() -> None:
        pool = PicturePool(PhotoLimits(subprocesses=1))
        try:
            model = preview.PreviewModel(pool)
            assert model.spec.models == ("preview",)
            assert model.spec.prompts
            assert model.spec.local
            request = Request("living_room", "modern")
            photo = Photo(room_jpeg(), *room().size, "")
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


def test_a_photo_within_bars_is_furnished_as_without_them() -> None:
    """A shape that vendors' models do not draw is shown within bars, which are cut away again after generation."""
    narrow = room().crop((0, 0, room().width, room().width * 3 // 8))
    data = jpeg(narrow, 95)
    photo = Photo(data, *narrow.size, "")
    limits = PhotoLimits()
    shown = pictures.framed(photo, limits)
    assert (shown.width, shown.height) != narrow.size
    analysis = preview.measure(data, "living_room")
    raw = preview.furnish(shown.jpeg, analysis, "living_room", "modern")
    assert opened(raw).size == (shown.width, shown.height)
    finished = pictures.finish(raw, photo, limits)
    alone = preview.furnish(data, analysis, "living_room", "modern")
    apart = np.abs(np.asarray(opened(finished.jpeg), int) - np.asarray(opened(alone), int))
    assert apart.mean() < 3


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
    staged = preview.furnish(room_jpeg(), analysis, "garage", "boho")
    assert preview.compare(room_jpeg(), staged, analysis, "garage", "boho").structure_kept > 0.9
