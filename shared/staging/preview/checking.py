"""Verify: measure what changed between photo and picture, against what was planned.

The plan is made anew from photo and analysis; it is the same each time. From it follow the mask of the furniture and
the places where its shadows may fall. Nothing else may have changed.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from shared.answers import Analysis, RoomGeometry, Verdict
from shared.staging.catalogue import LOOKS
from shared.staging.preview import layout
from shared.staging.preview.families import FAMILIES
from shared.staging.preview.layout import Plan
from shared.staging.preview.measuring import confident, opened, sides_of, small, space_of, view_of
from shared.staging.preview.renderer import SAMPLES, gathered, raster
from shared.staging.preview.staging import geometry_of, label_box, planned_at
from shared.staging.preview.views import Floats

_SIDE: Final = 512  # pixels of the longest side that are compared
_CHANGED: Final = 24  # of 255: more than JPEG does to a pixel at our quality
_SEEN: Final = 12  # of 255: what furniture differs from what is behind it
_DARKEST: Final = 0.30  # of the photo's light that the deepest shadow leaves
_OVER_DOOR: Final = 0.25  # of a door that furniture may cover
_GROWN: Final = 2  # pixels that the drawn mask is widened by: edges are shared


def compare(before: bytes, after: bytes, analysis: Analysis, room_type: str, design_style: str) -> Verdict:
    """Return how far the picture keeps to photo, plan and style. Every score is measured; none says "realistic".

    `realism` is the share of the planned furniture that can be seen, `structure_kept` falls with each pixel that
    changed outside of furniture and shadow, `style_fit` is how near the furniture's hues are to the style's.
    """
    photo, whole = small(before, _SIDE)
    staged, drawn_size = small(after, _SIDE)
    if abs(whole[0] * drawn_size[1] - drawn_size[0] * whole[1]) > 0.02 * whole[0] * drawn_size[1]:
        return Verdict(structure_kept=0, realism=0, style_fit=0, defects=["The picture has another aspect ratio."])
    found = analysis.geometry if analysis.geometry is not None else geometry_of(opened(before), analysis)
    plan = planned_at(whole, found, room_type, design_style)
    size = photo.size
    old = np.asarray(photo, np.float32)
    new = np.asarray(staged if staged.size == size else staged.resize(size, Image.Resampling.BOX), np.float32)
    pieces, rugs = drawn_masks(plan, found, size)
    grown = _grown(pieces | rugs)
    label = np.zeros(grown.shape, np.bool_)
    left, top, right, bottom = label_box(size)
    label[max(0, top - 2) : bottom, left : right + 2] = True
    defects = []

    difference = np.abs(new - old).max(axis=2)
    shadow: Any = (new <= old + _CHANGED).all(axis=2) & (new >= old * _DARKEST - _CHANGED).all(axis=2)
    if not (plan.pieces or plan.rugs):
        shadow[:] = False
    shadow &= ~upper_part(found, size)
    wrong = (difference > _CHANGED) & ~grown & ~shadow & ~label
    free = ~grown & ~label
    changed = float(wrong.sum()) / max(1.0, float(free.sum()))
    if changed > 0.01:
        defects.append(f"{changed:.0%} of the picture outside the furniture and its shadows changed.")
    over = covered_doors(pieces, found, size)
    if over > _OVER_DOOR:
        defects.append(f"Furniture covers {over:.0%} of a door.")
    outside = outside_floor(plan, found)
    defects += [f"The {name} stands outside the floor." for name in outside]

    drawn = (pieces | rugs) & ~label
    seen = float((difference[drawn] > _SEEN).mean()) if drawn.any() else 0.0
    if not plan.pieces and not plan.rugs:
        defects.append("The photo does not show a room clearly enough to furnish it.")
    elif not confident(found):
        defects.append(
            "The photo does not show clearly where walls and floor meet, so only a few small pieces were placed."
        )
    elif seen < 0.4:
        defects.append("Hardly any furniture is to be seen.")
    style = _style_score(new[pieces & ~label], design_style)
    kept = max(0.0, 1 - 5 * changed - (0.5 if over > _OVER_DOOR else 0) - 0.4 * len(outside))
    return Verdict(structure_kept=kept, realism=min(1.0, seen / 0.7), style_fit=style, defects=defects)


def drawn_masks(plan: Plan, found: RoomGeometry, size: tuple[int, int]) -> tuple[Any, Any]:
    """Return where pieces and where rugs are in a picture of this size."""
    view = view_of(found, size)
    mask = np.zeros((size[1], size[0]), np.bool_)
    meshes = layout.meshes_of(plan)
    if meshes:
        samples = raster(view, gathered(meshes, []))
        if samples is not None:
            high, wide = samples.faces.shape[0] // SAMPLES, samples.faces.shape[1] // SAMPLES
            hit = (samples.faces >= 0).reshape(high, SAMPLES, wide, SAMPLES).any(axis=(1, 3))
            mask[samples.top : samples.top + high, samples.left : samples.left + wide] = hit
    flat = Image.new("1", size)
    draw = ImageDraw.Draw(flat)
    for rug in plan.rugs:
        u, v, depth = view.project(np.array([[x, y, 0] for x, y in layout.rug_corners(rug)], np.float32))
        if (depth > 0.1).all():
            draw.polygon([(float(a), float(b)) for a, b in zip(u, v, strict=True)], fill=1)
    return mask, np.asarray(flat)


def upper_part(found: RoomGeometry, size: tuple[int, int]) -> Any:
    """Return the pixels that show the ceiling: no piece's shadow falls there."""
    view, sides = view_of(found, size), sides_of(found)
    columns = np.arange(size[0], dtype=np.float32)[None, :]
    rows = np.arange(size[1], dtype=np.float32)[:, None]
    ray = view.rays(columns, rows)
    reach = np.where(ray[..., 2] > 1e-4, (sides.height - view.eye) / np.maximum(ray[..., 2], 1e-4), np.inf)
    x, y = ray[..., 0] * np.minimum(reach, 1e4), ray[..., 1] * np.minimum(reach, 1e4)
    return (reach < 1e3) & (x > sides.left) & (x < sides.right) & (y < sides.back)


def covered_doors(pieces: Any, found: RoomGeometry, size: tuple[int, int]) -> float:
    """Return the largest share of any door that the mask covers."""
    space = space_of(found, size)
    worst = 0.0
    for hole in space.holes:
        shape = layout.door_shape(space, hole) if hole.kind == "door" else None
        if shape is None:
            continue
        door = Image.new("1", size)
        ImageDraw.Draw(door).polygon([(float(u), float(v)) for u, v in shape], fill=1)
        here = np.asarray(door)
        if here.any():
            worst = max(worst, float(pieces[here].mean()))
    return worst


def outside_floor(plan: Plan, found: RoomGeometry) -> list[str]:
    """Return the names of pieces whose foot is not between the walls."""
    sides = sides_of(found)
    return [
        piece.name
        for piece in plan.pieces
        if any(not (sides.left <= x <= sides.right and y <= sides.back) for x, y in piece.foot)
    ]


def _grown(mask: Any) -> Any:
    for _ in range(_GROWN):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        mask = wide.copy()
        mask[:, 1:] |= wide[:, :-1]
        mask[:, :-1] |= wide[:, 1:]
    return mask


def _style_score(pixels: Floats, design_style: str) -> float:
    """Return how near the furniture's hues are to the style's colours, whatever the light on them."""
    if not len(pixels):
        return 0.0
    look, family = LOOKS[design_style], FAMILIES[design_style]
    names = [
        look.large,
        look.frame,
        look.accent,
        family.fabric,
        family.second,
        family.wood,
        family.accent,
        family.pale,
        family.metal,
    ]
    wanted = np.array([[int(name[k : k + 2], 16) for k in (1, 3, 5)] for name in names], np.float32)
    unit = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1)
    directions = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    nearest = (unit @ directions.T).max(axis=1)  # cosine: 1 is the very hue
    return float(np.clip((nearest.mean() - 0.9) / 0.1, 0, 1))
