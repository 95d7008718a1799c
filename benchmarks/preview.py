"""The preview model against the truth of rendered rooms: what it measures, what it costs, what it leaves alone.

    python benchmarks/preview.py [--only PREFIX ...] [--degrade NAME ...] [--stage] [--sun]
                                 [--sheet rooms|styles --out FILE]

Prints JSON. Geometry: for each degradation of the sample photos, the angle (degrees, worst of the two horizontal axes),
the field of view's error (degrees), the floor's boundary (share of the picture's height, mean over columns), the
overlap of the floor with the truth (IoU), and CPU seconds. `--stage` furnishes each room of the sample batch in its own
process of one thread: CPU, peak memory, and the share of pixels left byte for byte. `--sun` compares the sun that is
found with the generator's, in each room as it is and with the sun moved (by 25, -30 and 180 degrees). `--sheet` writes
a contact sheet of all room types or of all styles, to be looked at.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy: the figures are of one thread

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw, ImageFilter, ImageOps  # noqa: E402

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks/sample_photos")]

from render import develop, expose  # noqa: E402
from rooms import ODD, PHOTOS, Photo  # noqa: E402

from shared.answers import RoomGeometry  # noqa: E402
from shared.manifest.vocabulary import ROOMS, STYLES  # noqa: E402
from shared.staging import preview  # noqa: E402
from shared.staging.preview import layout, measuring, staging  # noqa: E402
from shared.staging.preview.families import stuff_of  # noqa: E402
from shared.staging.preview.openings import Sides  # noqa: E402
from shared.staging.preview.renderer import render, small_picture  # noqa: E402
from shared.staging.preview.rooms import LAYOUTS  # noqa: E402
from shared.staging.preview.sun import sun_of  # noqa: E402
from shared.staging.preview.views import View  # noqa: E402

FULL: Final = 1024  # pixels of the longest side on which degradations work: geometry looks at 800
ROOM_PHOTO: Final = {  # which sample shows a room of each type best
    "kitchen": "kitchen-01", "dining_room": "dining-01", "bathroom": "bathroom-01", "gym": "basement-01",
    "garage": "basement-01", "basement": "basement-01", "laundry": "kitchen-01", "hallway": "hallway-01",
    "balcony": "balcony-01", "patio": "balcony-01", "terrace": "balcony-01", "pool": "balcony-01",
    "exterior_front": "balcony-01", "exterior_back": "balcony-01", "bedroom": "bedroom-01",
    "primary_bedroom": "bedroom-02", "kids_room": "kids-01", "nursery": "kids-01", "home_office": "office-01",
    "open_workspace": "office-01", "meeting_room": "office-01", "lobby": "office-01", "sun_room": "sunroom-01",
    "loft": "loft-01", "open_plan": "living-02",
}  # fmt: skip


@cache
def _drawn(photo: Photo) -> Image.Image:
    return develop(expose(photo), zlib.crc32(photo.name.encode()))


def rendered(photo: Photo) -> Image.Image:
    """The generator's picture of a room that is in no folder."""
    return _drawn(photo).copy()


def photo_of(photo: Photo, side: int | None = None) -> Image.Image:
    """A sample photo, upright; a room that is no box is rendered now."""
    if photo in ODD:
        picture = rendered(photo)
        if side is not None:
            picture.thumbnail((side, side), Image.Resampling.BOX)
        return picture
    with Image.open(ROOT / "samples/photos" / f"{photo.name}.jpg") as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    if side is not None:
        upright.thumbnail((side, side), Image.Resampling.BOX)
    return upright


# --- degradations: what phones and mail do to a photo. Each answers the picture and how its pixels moved.

Move = Callable[[Any, Any], tuple[Any, Any]]  # from the degraded picture's places to the original's, shares of its size


def stay(x: Any, y: Any) -> tuple[Any, Any]:
    return x, y


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    with Image.open(out) as again:
        return again.convert("RGB")


def noisy(picture: Image.Image, sigma: float, gain: float = 1.0) -> Image.Image:
    values = np.asarray(picture, np.float32) * gain
    values += np.random.default_rng(3).normal(0, sigma, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def moved(picture: Image.Image, move: Move) -> Image.Image:
    """The picture resampled: each pixel from where `move` says it was."""
    width, height = picture.size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    u, v = move(x, y)
    column = np.clip(u * width - 0.5, 0, width - 1.001)
    row = np.clip(v * height - 0.5, 0, height - 1.001)
    i, j = column.astype(int), row.astype(int)
    a, b = (column - i)[..., None], (row - j)[..., None]
    values = np.asarray(picture, np.float32)
    top = values[j, i] * (1 - a) + values[j, i + 1] * a
    low = values[j + 1, i] * (1 - a) + values[j + 1, i + 1] * a
    return Image.fromarray((top * (1 - b) + low * b).clip(0, 255).astype(np.uint8))


def barrel(share: float, aspect: float) -> Move:
    """Straight lines bend outwards; a corner moves by `share` of its distance."""

    def move(x: Any, y: Any) -> tuple[Any, Any]:
        across, down = x - 0.5, (y - 0.5) / aspect
        grow = 1 + share * ((across**2 + down**2) / 0.39 - 1) * 0.64
        return 0.5 + across * grow, 0.5 + down * grow * aspect

    return move


def tilted(photo: Photo, size: tuple[int, int], pitch: float, roll: float) -> tuple[Move, View]:
    """Return the photo as a camera tilted by `pitch` and `roll` degrees, lens not shifted, sees it; and that camera."""
    width, height = size
    before = true_view(photo, size)
    after = View(
        width,
        height,
        before.focal,
        width / 2,
        height / 2,
        before.yaw,
        math.radians(pitch),
        math.radians(roll),
        before.eye,
    )

    def move(x: Any, y: Any) -> tuple[Any, Any]:
        ray = after.rays(np.float32(x * width), np.float32(y * height))
        far = ray * 1000 + np.array([0, 0, before.eye], np.float32)
        u, v, _ = before.project(far)
        return u / width, v / height

    return move, after


DEGRADED: Final = (
    "as rendered", "JPEG quality 25", "noise sigma 10", "dark and noisy", "blur", "barrel 3.5 %", "phone",
    "pitch 1.5", "pitch 3", "pitch 6",
)  # fmt: skip


def degraded(photo: Photo, picture: Image.Image, name: str) -> tuple[Image.Image, Move, View]:
    """The photo as `name` leaves it, how pixels moved, and the camera whose straight lines it shows."""
    view, aspect = true_view(photo, picture.size), picture.width / picture.height
    scale = picture.width / 1800
    if name == "JPEG quality 25":
        return compressed(picture, 25), stay, view
    if name == "noise sigma 10":
        return noisy(picture, 10), stay, view
    if name == "dark and noisy":
        return noisy(picture, 6, 0.35), stay, view
    if name == "blur":
        return picture.filter(ImageFilter.GaussianBlur(3.5 * scale)), stay, view
    if name == "barrel 3.5 %":
        move = barrel(0.035, aspect)
        return moved(picture, move), move, view
    if name == "phone":
        move = barrel(0.015, aspect)
        soft = moved(picture, move).filter(ImageFilter.GaussianBlur(1.2 * scale))
        return compressed(noisy(soft, 3), 50), move, view
    if name.startswith("pitch"):
        move, tilt = tilted(photo, picture.size, float(name.split()[1]), 1.5)
        return moved(picture, move), stay, tilt
    return picture, stay, view


# --- the truth


def true_view(photo: Photo, size: tuple[int, int]) -> View:
    """The camera that took the sample."""
    width, height = size
    room = photo.room
    focal = width / 2 / math.tan(math.radians(room.view) / 2)
    return View(
        width, height, focal, width / 2, height / 2 - room.shift * width, math.radians(room.yaw), 0, 0, room.camera[2]
    )


def true_sides(photo: Photo) -> Sides:
    room = photo.room
    x, y, _ = room.camera
    return Sides(-x, room.size[0] - x, room.size[1] - y, room.size[2])


def floor_of(view: View, sides: Sides, move: Move, blocks: tuple[Any, ...] = ()) -> Any:
    """Which pixels show floor, after they moved."""
    width, height = view.width, view.height
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    u, v = move(x, y)
    columns, rows = (u * width).astype(np.float32), (v * height).astype(np.float32)
    floor = measuring.on_floor(view, sides, columns, rows)
    if blocks:
        ray = view.rays(columns, rows)
        reach = np.where(ray[..., 2] < -1e-4, -view.eye / np.minimum(ray[..., 2], -1e-4), 1e6)
        for low, high in blocks:
            floor &= ~(hits_block(ray, (0.0, 0.0, view.eye), low, high) < reach + 0.01)
    return floor


def hits_block(ray: Any, origin: tuple[float, float, float], low: Any, high: Any) -> Any:
    """How far along each ray a box begins; infinite where it is missed."""
    near, far = np.full(ray.shape[:-1], 0.0), np.full(ray.shape[:-1], np.inf)
    for k in range(3):
        way = np.where(np.abs(ray[..., k]) < 1e-6, 1e-6, ray[..., k])
        one, other = (low[k] - origin[k]) / way, (high[k] - origin[k]) / way
        near, far = np.maximum(near, np.minimum(one, other)), np.minimum(far, np.maximum(one, other))
    return np.where(far > near, near, np.inf)


def true_blocks(photo: Photo) -> tuple[Any, ...]:
    """What stands in the room, seen from the camera's place on the floor."""
    x, y, _ = photo.room.camera
    return tuple(
        ((b.low[0] - x, b.low[1] - y, b.low[2]), (b.high[0] - x, b.high[1] - y, b.high[2]))
        for b in photo.room.blocks
        if b.kind != "slope"
    )


def compared(
    found: RoomGeometry, view: View, sides: Sides, move: Move, blocks: tuple[Any, ...] = ()
) -> dict[str, float]:
    """How far what was measured is from the truth."""
    size = view.width, view.height
    mine = measuring.view_of(found, size)
    a, b = mine.axes(), view.axes()
    angle = max(min(math.degrees(math.acos(min(1.0, abs(float(a[:, i] @ b[:, j]))))) for j in (0, 1)) for i in (0, 1))
    guess, truth = floor_of(mine, measuring.sides_of(found), stay), floor_of(view, sides, move, blocks)
    first = [np.where(mask.any(axis=0), mask.argmax(axis=0), view.height) for mask in (guess, truth)]
    field = [2 * math.degrees(math.atan(v.width / 2 / v.focal)) for v in (mine, view)]
    union = float((guess | truth).sum())
    return {
        "angle": angle,
        "field": abs(field[0] - field[1]),
        "edge": float(np.abs(first[0] - first[1]).mean()) / view.height,
        "iou": float((guess & truth).sum()) / union if union else 0.0,
        "score": found.box_score,
        "support": found.line_support,
    }


def geometry(photos: list[Photo], names: list[str]) -> list[dict[str, Any]]:
    """One row a degradation, medians and worst over the rooms."""
    rows = []
    for name in names:
        each = {}
        for photo in photos:
            picture, move, view = degraded(photo, photo_of(photo, FULL), name)
            start = time.process_time()
            found = measuring.room_of(picture)
            spent = time.process_time() - start
            each[photo.name] = {**compared(found, view, true_sides(photo), move, true_blocks(photo)), "cpu": spent}
        values = list(each.values())

        def middle(key: str, values: list[dict[str, float]] = values) -> float:
            return float(np.median([value[key] for value in values]))

        rows.append(
            {
                "photo": name,
                "angleMedian": round(middle("angle"), 2),
                "fieldMedian": round(middle("field"), 1),
                "edgeMedian": round(middle("edge"), 4),
                "edgeWorst": round(max(value["edge"] for value in values), 4),
                "iouMedian": round(middle("iou"), 3),
                "iouMin": round(min(value["iou"] for value in values), 3),
                "above09": sum(value["iou"] > 0.9 for value in values),
                "rooms": len(values),
                "belowGate": [
                    room for room, value in each.items()
                    if value["score"] < measuring.GATE_SCORE or value["support"] < measuring.GATE_SUPPORT
                ],
                "worst": min(each, key=lambda room: each[room]["iou"]),
                "cpuMedian": round(middle("cpu"), 2),
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


# --- staging: cost and honesty


def stage_one(name: str, room_type: str, style: str, side: int) -> dict[str, Any]:
    """Furnish one photo in this process."""
    (photo,) = (each for each in (*PHOTOS, *ODD) if each.name == name)
    picture = photo_of(photo)
    if side:
        picture = picture.resize(
            (round(picture.width * side / max(picture.size)), round(picture.height * side / max(picture.size)))
        )
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    data = out.getvalue()
    start = time.process_time()
    analysis = preview.measure(data, room_type)
    measured = time.process_time()
    staged = preview.furnish(data, analysis, room_type, style)
    furnished = time.process_time()
    verdict = preview.compare(data, staged, analysis, room_type, style)
    end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    upright = measuring.opened(data)
    first, mask = staging.furnished(upright, analysis, room_type, style)
    again, _ = staging.furnished(upright, analysis, room_type, style)
    same = (np.asarray(first) == np.asarray(upright)).all(axis=2)
    return {
        "photo": name, "analyse": round(measured - start, 2), "generate": round(furnished - measured, 2),
        "verify": round(end - furnished, 2), "cpu": round(end - start, 2), "mib": peak,
        "unchanged": round(float(same.mean()), 3), "changedOutsideMask": int((~same & ~mask).sum()),
        "identical": bool((np.asarray(first) == np.asarray(again)).all()),
        "kept": verdict.structure_kept, "seen": verdict.realism, "style": verdict.style_fit, "defects": verdict.defects,
    }  # fmt: skip


def staged_rooms(only: list[str], side: int) -> list[dict[str, Any]]:
    batch = json.loads((ROOT / "samples/batch.json").read_text())
    rows = []
    for image in batch["images"]:
        name = Path(image["url"]).stem
        if only and not name.startswith(tuple(only)):
            continue
        room, style = image["roomType"], image.get("designStyle", batch["designStyle"])
        command = [sys.executable, __file__, "--one", name, room, style, "--side", str(side)]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


# --- the sun


def true_sun(photo: Photo) -> Any:
    """Return the unit vector towards the sun; the generator counts from where it shines to."""
    heading, height = math.radians(photo.room.sun_heading), math.radians(photo.room.sun_height)
    flat = math.cos(height)
    return np.array([-math.sin(heading) * flat, -math.cos(heading) * flat, math.sin(height)])


def suns(photo: Photo) -> list[dict[str, Any]]:
    """One row a place of the sun: what was found of it, None when it was not believed."""
    room, rows = photo.room, []
    moved = [(0.0, 0.0), (25.0, -6.0), (-30.0, 8.0), (180.0, 2.0)]
    for turn, rise in moved:
        where = replace(
            room, sun=room.sun or (1.6 if turn else 0.0), sun_heading=(room.sun_heading + turn) % 360,
            sun_height=room.sun_height + rise,
        )  # fmt: skip
        other = replace(photo, room=where)
        picture = photo_of(photo, FULL) if not turn else rendered(other)
        picture.thumbnail((FULL, FULL), Image.Resampling.BOX)
        space = measuring.space_of(measuring.room_of(picture), picture.size)
        small = small_picture(picture, 400)
        start = time.process_time()
        found = sun_of(small, space.view.scaled(small.shape[1], small.shape[0]), space.sides, space.holes)
        spent = time.process_time() - start
        off = None
        if found is not None and where.sun:
            off = round(math.degrees(math.acos(min(1.0, float(found.direction @ true_sun(other))))), 1)
        rows.append(
            {"photo": photo.name, "sun": where.sun, "heading": where.sun_heading, "height": where.sun_height,
             "believed": found is not None, "off": off, "cpu": round(spent, 3)}
        )  # fmt: skip
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def sheet(kind: str, out: Path, wide: int = 520, first: int = 0, count: int = 99) -> None:
    """All room types (each layout), or all styles in one room."""
    tiles: list[tuple[str, Image.Image]] = []
    if kind == "styles":
        jobs = [("living-01", "living_room", style, 0) for style in STYLES]
    else:
        jobs = [
            (ROOM_PHOTO.get(room, "living-01"), room, STYLES[(3 * number + k) % len(STYLES)], k)
            for number, room in enumerate(ROOMS)
            for k in range(len(LAYOUTS[room]))
        ]
    known: dict[str, RoomGeometry] = {}
    for name, room, style, k in jobs[first : first + count]:
        (photo,) = (each for each in PHOTOS if each.name == name)
        picture = photo_of(photo, 900)
        found = known.setdefault(name, measuring.room_of(picture))
        planner = layout.Planner(measuring.space_of(found, picture.size), stuff_of(style), 41 + 7 * k)
        plan = planner.follow(LAYOUTS[room][k])
        meshes = layout.meshes_of(plan)
        view, sides = measuring.view_of(found, picture.size), measuring.sides_of(found)
        drawn = render(picture, view, sides, meshes, plan.rugs)[0] if meshes or plan.rugs else picture
        drawn.thumbnail((wide, wide * 3 // 4))
        ImageDraw.Draw(drawn).text((6, 4), f"{room} {k + 1}, {style}", fill=(0, 0, 0))
        tiles.append((room, drawn))
    across = 4
    whole = Image.new("RGB", (across * (wide + 4), -(-len(tiles) // across) * (wide * 3 // 4 + 4)), "white")
    for number, (_, tile) in enumerate(tiles):
        whole.paste(tile, (number % across * (wide + 4), number // across * (wide * 3 // 4 + 4)))
    whole.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="PREFIX", help="only photos whose names begin so")
    parser.add_argument("--degrade", nargs="*", default=list(DEGRADED), choices=DEGRADED, metavar="NAME")
    parser.add_argument("--odd", action="store_true", help="the rooms that are no boxes instead of the 14")
    parser.add_argument("--stage", action="store_true", help="furnish the sample batch and measure cost")
    parser.add_argument("--sun", action="store_true", help="compare the sun that is found with the truth")
    parser.add_argument("--side", type=int, default=0, help="pixels of the longest side when staging; 0 as they are")
    parser.add_argument("--sheet", choices=("rooms", "styles"))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=999)
    parser.add_argument("--out", type=Path, default=Path("sheet.jpg"))
    parser.add_argument("--one", nargs=3, metavar=("PHOTO", "ROOM", "STYLE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, room_type, style = arguments.one
        print(json.dumps(stage_one(name, room_type, style, arguments.side)))
        return
    if arguments.sheet:
        sheet(arguments.sheet, arguments.out, first=arguments.first, count=arguments.count)
        return
    if arguments.sun:
        some = [photo for photo in PHOTOS if not arguments.only or photo.name.startswith(tuple(arguments.only))]
        print(json.dumps([row for photo in some for row in suns(photo)]))
        return
    if arguments.stage:
        print(json.dumps(staged_rooms(arguments.only, arguments.side)))
        return
    every = ODD if arguments.odd else PHOTOS
    photos = [photo for photo in every if not arguments.only or photo.name.startswith(tuple(arguments.only))]
    print(json.dumps(geometry(photos, arguments.degrade)))


if __name__ == "__main__":
    main()
