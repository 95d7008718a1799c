"""Analyse: the room in one photo, in metres where lines allow it."""

from __future__ import annotations

import io
import math
import zlib
from typing import Any, Final

import numpy as np
from PIL import Image

from shared.answers import (
    Analysis,
    CameraPose,
    Light,
    Opening,
    Point,
    RoomGeometry,
    WallOpening,
    WallStretch,
)  # fmt: skip
from shared.staging.preview import geometry
from shared.staging.preview.layout import Space
from shared.staging.preview.openings import Hole, Sides, Stretch, openings
from shared.staging.preview.segments import cleared
from shared.staging.preview.views import Floats, View

GATE_SCORE: Final = 2.5  # of the box: noise alone reaches 1.9, the least clear of the sample rooms 3.8
GATE_SUPPORT: Final = 0.40  # pictures without a room have none, a corridor full of diagonal tiles 0.55
_OUTLINE_POINTS: Final = 33
_LIGHT_WIDTH: Final = 160  # pixels
_SMALLEST: Final = 48  # pixels a side of the working picture; less shows no lines


def opened(jpeg: bytes) -> Image.Image:
    """Return the photo as RGB."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
        return picture.convert("RGB")


def small(jpeg: bytes, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return the photo as RGB with at most `side` pixels on its longest side, and its own size.

    A JPEG is decoded at a half, a quarter or an eighth for less than half of the time.
    """
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
        whole = picture.size
        scale = min(1.0, side / max(whole))
        size = max(1, round(whole[0] * scale)), max(1, round(whole[1] * scale))
        picture.draft("RGB", size)
        return picture.convert("RGB").resize(size, Image.Resampling.BOX), whole


def measure(jpeg: bytes, room_type: str) -> Analysis:
    """Return what can be measured of the room."""
    photo = opened(jpeg)
    found = room_of(photo)
    view = view_of(found, photo.size)
    width, height = photo.size
    outline = floor_outline(found, photo.size)
    vanishing = view.vanishing()[1]
    ahead = vanishing[2] if abs(vanishing[2]) > 1e-6 else 1e-6
    tiny = photo.reduce(max(1, min(photo.size) // _LIGHT_WIDTH))
    small = np.asarray(
        tiny.resize((_LIGHT_WIDTH, max(1, round(height * _LIGHT_WIDTH / width))), Image.Resampling.BOX), np.float32
    )
    luma = small @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
    red, blue = float(small[..., 0].mean()), float(small[..., 2].mean())
    room = room_type.replace("_", " ")
    sure = "" if confident(found) else " The lines do not show clearly where walls and floor meet."
    return Analysis(
        summary=f"Measured, not understood: {room}, {found.right - found.left:.1f} m wide, "
        f"back wall {found.back:.1f} m away.{sure}",
        floor=outline,
        vanishing_point=Point(x=_share(vanishing[0] / ahead / width), y=_share(vanishing[1] / ahead / height)),
        openings=_in_picture(found, view),
        light=Light(
            direction=_light_direction(luma),
            brightness=min(1.0, float(luma.mean()) / 255),
            temperature_kelvin=int(np.clip(6500 * (blue + 1) / (red + 1), 2000, 12000)),
        ),
        palette=_palette(tiny),
        must_not_change=["walls, ceiling, floor, doors and windows"],
        geometry=found,
    )


def seed_of(photo: Image.Image) -> int:
    """Return a number that is the photo's own, the same each time."""
    return zlib.crc32(photo.convert("L").resize((32, 32), Image.Resampling.BOX).tobytes())


def confident(found: RoomGeometry) -> bool:
    """Return whether the room is known well enough to furnish it fully."""
    return found.box_score >= GATE_SCORE and found.line_support >= GATE_SUPPORT


def room_of(photo: Image.Image) -> RoomGeometry:
    """Return the room's geometry; a guess with score 0 when the picture is too small or too narrow for lines."""
    scale = min(1.0, geometry.WORK_SIDE / max(photo.size))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    if min(size) < _SMALLEST:
        return _guess(photo)
    whole = photo.convert("L")
    grey = np.asarray(whole.resize(size, Image.Resampling.BOX), np.float32)
    if scale == 1.0 and max(size) < geometry.WORK_SIDE / 2:  # a small picture's lines are as long as a large one's
        scale = geometry.WORK_SIDE / 2 / max(size)
        size = round(photo.width * scale), round(photo.height * scale)
        grey = np.asarray(whole.resize(size, Image.Resampling.BICUBIC), np.float32)
    grey = cleared(grey)
    fit, edges = geometry.fit(grey)
    box, view = fit.box, fit.view
    eye = geometry.EYE
    if box.ceiling > 0:
        tall = eye * (1 + box.ceiling)
        eye *= min(max(tall, geometry.LOWEST), geometry.HIGHEST) / tall
        eye = min(max(eye, 1.2), 1.75)
    sides = Sides(box.left * eye, box.right * eye, box.back * eye, (1 + box.ceiling) * eye)
    metres = View(
        view.width, view.height, view.focal, view.centre_x, view.centre_y, view.yaw, view.pitch, view.roll, eye
    )
    holes, plain = openings(metres, grey, geometry.edge_maps(edges, metres, grey.shape), sides)
    return RoomGeometry(
        camera=CameraPose(
            focal_widths=view.focal / view.width,
            centre_x=view.centre_x / view.width,
            centre_y=view.centre_y / view.height,
            yaw_degrees=math.degrees(view.yaw),
            pitch_degrees=math.degrees(view.pitch),
            roll_degrees=math.degrees(view.roll),
            eye_metres=eye,
        ),
        left=sides.left, right=sides.right, back=sides.back, height=sides.height,
        floor=_seen_floor(metres, sides),
        openings=[
            WallOpening(wall=h.wall, kind=h.kind, start=h.start, end=h.end, bottom=h.bottom, top=h.top)
            for h in holes[:64]
        ],
        plain=[WallStretch(wall=s.wall, start=s.start, end=s.end) for s in plain[:64]],
        box_score=fit.score,
        line_support=fit.support,
        aspect=photo.width / photo.height,
        seed=seed_of(whole),
    )  # fmt: skip


def _guess(photo: Image.Image) -> RoomGeometry:
    """Return an ordinary room for a picture that shows none."""
    ratio = photo.width / photo.height
    return RoomGeometry(
        camera=CameraPose(
            focal_widths=0.66 if ratio >= 1 else 0.66 / ratio, centre_x=0.5, centre_y=0.44, yaw_degrees=0,
            pitch_degrees=0, roll_degrees=0, eye_metres=geometry.EYE,
        ),
        left=-2.2, right=2.2, back=4.5, height=2.6, floor=[], openings=[], plain=[], box_score=0.0, line_support=0.0,
        aspect=ratio, seed=seed_of(photo),
    )  # fmt: skip


def view_of(found: RoomGeometry, size: tuple[int, int]) -> View:
    """Return the camera for a picture of this size."""
    camera, (width, height) = found.camera, size
    return View(
        width, height, camera.focal_widths * width, camera.centre_x * width, camera.centre_y * height,
        math.radians(camera.yaw_degrees), math.radians(camera.pitch_degrees), math.radians(camera.roll_degrees),
        camera.eye_metres,
    )  # fmt: skip


def sides_of(found: RoomGeometry) -> Sides:
    """Return the room's walls."""
    return Sides(found.left, found.right, found.back, found.height)


def space_of(found: RoomGeometry, size: tuple[int, int]) -> Space:
    """Return the room as the layout wants it, for a picture of this size."""
    return Space(
        view_of(found, size),
        sides_of(found),
        tuple(Hole(o.wall, o.kind, o.start, o.end, o.bottom, o.top) for o in found.openings),
        tuple(Stretch(s.wall, s.start, s.end) for s in found.plain),
    )


def on_floor(view: View, sides: Sides, columns: Floats, rows: Floats) -> Any:
    """Return which pixels show the floor of the box."""
    x, y = view.floor(columns, rows)
    return (x > sides.left) & (x < sides.right) & (y > 0) & (y < sides.back)


def floor_outline(found: RoomGeometry, size: tuple[int, int]) -> list[Point]:
    """Return the floor's outline in the picture: where it begins in each of some columns, and the picture's foot."""
    width, height = 320, max(8, round(320 * size[1] / size[0])) if size[0] else 8
    height = min(height, 4000)
    view = view_of(found, (width, height))
    columns = np.linspace(0, width - 1, _OUTLINE_POINTS).astype(np.float32)
    rows = np.arange(height, dtype=np.float32) + np.float32(0.5)
    floor = on_floor(view, sides_of(found), columns[None, :], rows[:, None])
    first = np.where(floor.any(axis=0), floor.argmax(axis=0), height)
    top = [Point(x=_share(c / (width - 1)), y=_share(r / height)) for c, r in zip(columns, first, strict=True)]
    return [*top, Point(x=1, y=1), Point(x=0, y=1)]


def _seen_floor(view: View, sides: Sides) -> list[tuple[float, float]]:
    """Return the outline of the visible floor in metres, from the picture's foot up along its edge."""
    columns = np.linspace(1, view.width - 2, 13).astype(np.float32)
    rows = np.linspace(1, view.height - 1, 240).astype(np.float32)
    floor = on_floor(view, sides, columns[None, :], rows[:, None])
    far: list[tuple[float, float]] = []
    near: list[tuple[float, float]] = []
    for number, column in enumerate(columns):
        here = np.flatnonzero(floor[:, number])
        if len(here):
            for row, ends in ((rows[here[0]], far), (rows[here[-1]], near)):
                x, y = view.floor(np.float32(column), np.float32(row))
                ends.append((round(float(x), 3), round(float(y), 3)))
    return [*far, *near[::-1]]


def _in_picture(found: RoomGeometry, view: View) -> list[Opening]:
    out = []
    sides = sides_of(found)
    for hole in found.openings:
        along = np.array([hole.start, hole.end, hole.end, hole.start], np.float32)
        up = np.array([hole.bottom, hole.bottom, hole.top, hole.top], np.float32)
        u, v, depth = view.project(sides.places(hole.wall, along, up))
        if (depth > 0.1).all():
            left, right = _share(float(u.min()) / view.width), _share(float(u.max()) / view.width)
            top, bottom = _share(float(v.min()) / view.height), _share(float(v.max()) / view.height)
            out.append(Opening(kind=hole.kind, left=left, top=top, right=right, bottom=bottom))
    return out


def _share(value: Any) -> float:
    return float(min(1.0, max(0.0, float(value))))


def _light_direction(luma: Floats) -> Any:
    """Return left or right when that third of the upper half is clearly brighter; otherwise diffuse."""
    upper = luma[: max(1, luma.shape[0] // 2)]
    third = max(1, upper.shape[1] // 3)
    left, right = float(upper[:, :third].mean()), float(upper[:, -third:].mean())
    if left > right * 1.08:
        return "left"
    return "right" if right > left * 1.08 else "diffuse"


def _palette(photo: Image.Image) -> list[str]:
    """Return the five main colours, most frequent first."""
    small = photo.resize((64, 64)).quantize(5)
    colours = small.getpalette() or []
    counted = sorted(small.getcolors() or [], reverse=True)
    return [
        "#{:02x}{:02x}{:02x}".format(*colours[3 * int(i) : 3 * int(i) + 3]) for _, i in counted if isinstance(i, int)
    ]
