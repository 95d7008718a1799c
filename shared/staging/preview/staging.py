"""Generate: plan the room's furniture, render it into the photo, write the label."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.answers import Analysis, RoomGeometry
from shared.staging.preview import layout, rooms
from shared.staging.preview.families import stuff_of
from shared.staging.preview.layout import Plan, Planner
from shared.staging.preview.measuring import confident, opened, room_of, space_of
from shared.staging.preview.renderer import render

LABEL: Final = "PREVIEW – virtually staged"
_JPEG_QUALITY: Final = 95
_LONGEST: Final = 2048  # pixels: memory and time are measured up to here; a larger photo is furnished at this size
_SMALLEST: Final = 160  # pixels a side: below it furniture is a smudge


def geometry_of(photo: Image.Image, analysis: Analysis) -> RoomGeometry:
    """Return the analysis's geometry; measure again when a vendor or an older version made the analysis."""
    return analysis.geometry if analysis.geometry is not None else room_of(photo)


def planned(photo: Image.Image, found: RoomGeometry, room_type: str, design_style: str) -> Plan:
    """Return what goes where in a photo."""
    return planned_at(photo.size, found, room_type, design_style)


def planned_at(size: tuple[int, int], found: RoomGeometry, room_type: str, design_style: str) -> Plan:
    """Return what goes where in a photo of this size.

    Little below the confidence gate; nothing in a picture too small to show it.
    """
    if min(size) < _SMALLEST:
        return Plan()
    planner = Planner(space_of(found, size), stuff_of(design_style), found.seed)
    if not confident(found):
        return planner.follow(rooms.MODEST) if found.box_score > 0 and found.line_support > 0 else Plan()
    layouts = rooms.LAYOUTS[room_type]
    return planner.follow(layouts[found.seed % len(layouts)])


def furnish(jpeg: bytes, analysis: Analysis, room_type: str, design_style: str) -> bytes:
    """Return the photo with furniture and the label, as JPEG.

    A photo of a shape that vendors' models do not draw arrives within bars; the bars stay as they are.
    """
    photo = opened(jpeg)
    room = within_bars(photo.size, analysis)
    staged, _ = furnished(photo.crop(room), analysis, room_type, design_style)
    write_label(staged)
    if room != (0, 0, *photo.size):
        photo.paste(staged.resize((room[2] - room[0], room[3] - room[1])), room[:2])
        staged = photo
    out = io.BytesIO()
    staged.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()


def within_bars(size: tuple[int, int], analysis: Analysis) -> tuple[int, int, int, int]:
    """Return the rectangle of the analysed photo in a picture of this size, in whose middle it stands."""
    width, height = size
    aspect = analysis.geometry.aspect if analysis.geometry is not None else width / height
    if abs(width / height / aspect - 1) < 0.02:  # rounding of narrow pictures
        return 0, 0, width, height
    wide, high = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + max(1, wide), top + max(1, high)


def furnished(photo: Image.Image, analysis: Analysis, room_type: str, design_style: str) -> tuple[Image.Image, Any]:
    """Return the picture without its label, and the mask of what is drawn: elsewhere the photo's pixels stay."""
    if max(photo.size) > _LONGEST:
        photo = photo.copy()
        photo.thumbnail((_LONGEST, _LONGEST))
    found = geometry_of(photo, analysis)
    plan = planned(photo, found, room_type, design_style)
    if not plan.pieces and not plan.rugs:
        return photo.copy(), np.zeros((photo.height, photo.width), np.bool_)
    space = space_of(found, photo.size)
    return render(photo, space.view, space.sides, layout.meshes_of(plan), plan.rugs, space.holes)


def label_box(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the rectangle (left, top, right, bottom) that the label takes in a picture of this size, at most."""
    letters = max(14, size[0] // 60)
    return 0, size[1] - 2 * letters, min(size[0], 18 * letters), size[1]


def write_label(picture: Image.Image) -> None:
    """Write the label into the lower left corner. Pillow's own font has no en dash, so that one is drawn as a line."""
    size = max(14, picture.width // 60)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(picture, "RGBA")
    margin, dash = size // 2, size // 2
    words = [part.strip() for part in LABEL.split("–")]
    widths = [draw.textlength(word, font=font) for word in words]
    top = picture.height - size - 2 * margin
    end = 2 * margin + sum(widths) + (dash + 2 * margin) * (len(words) - 1)
    draw.rectangle((0, top, end, picture.height), fill=(0, 0, 0, 170))
    x = float(margin)
    for place, (word, width) in enumerate(zip(words, widths, strict=True)):
        if place:
            middle = top + margin + size * 0.62
            draw.line(
                (x + margin, middle, x + margin + dash, middle), fill=(255, 255, 255, 255), width=max(1, size // 10)
            )
            x += dash + 2 * margin
        draw.text((x, top + margin), word, font=font, fill=(255, 255, 255, 255))
        x += width
