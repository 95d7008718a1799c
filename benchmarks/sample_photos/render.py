"""Render the sample photos: empty rooms, as an agent's camera would see them.

A room is a box: no point of it hides another, so its light is solved by radiosity over a coarse grid of patches, and a
pixel is one ray against six planes. Fixed seeds: the same Pillow and numpy write the same bytes.

    python benchmarks/sample_photos/render.py [--out samples/photos]
"""

from __future__ import annotations

import argparse
import math
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from light import Light, plane, resized, solve_light, sunlight, surface_of
from PIL import Image
from rooms import CEILING, FLOOR, ODD, PHOTOS, Block, Opening, Photo, Room, Surface
from surfaces import CLOUDY, GRITTY, Array, Hits, band, line, linear, material, mix, sample, shade

JITTER: Final = ((0.17, 0.5), (0.5, 0.83), (0.83, 0.17))  # rays of a pixel: no two in one row or column
STRIP: Final = 48  # rows traced at once: few enough for the processor's cache
QUALITY: Final = 80
UPRIGHT_TO_STORED: Final = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def outside(room: Room, hit: Hits) -> Array:
    """Return the view: sky, trees and lawn far away, overexposed because the camera is set for the room."""
    up = hit.slope_v / np.hypot(1, hit.slope_u)
    around = np.arctan(hit.slope_u) + room.size[0]
    clouds = sample(CLOUDY, around * 160, up * 420)
    leaves = sample(CLOUDY, around * 700, up * 700) + 0.5 * sample(GRITTY, around * 300, up * 300)
    crowns = 0.07 + 0.05 * sample(CLOUDY, around * 130, np.full_like(up, 77)) + 0.015 * leaves
    white = np.ones((up.size, 3), np.float32)
    sky = mix(white, linear("#9cc6ee"), np.clip(0.2 + up - 0.12 * clouds, 0, 1))
    trees = shade(white * linear("#7d8f68"), -0.3 * leaves)
    lawn = shade(white * linear("#a9b48c"), -0.06 * leaves)
    scene = mix(mix(sky, trees, band(up - crowns, -9, 0, 0.02)), lawn, band(up, -9, -0.1, 0.03))
    return np.asarray((0.88 * scene + 0.12) * room.outdoors)


def window(room: Room, opening: Opening, hit: Hits, light: Array) -> Array:
    """Draw frame and panes, or railing, from inside. Places count from the opening's lower left corner."""
    pixel = hit.pixel
    frame = linear(room.frame) * (0.75 * light + 0.1)  # against the light, but lit by the reveal
    view = outside(room, hit)
    if opening.kind == "railing":
        bars = line(np.mod(hit.u, 0.11) - 0.055, 0.007, hit.pixel_u) * band(hit.v, 0.1, 1.05, pixel)
        rails = np.maximum(line(hit.v - 1.06, 0.025, pixel), line(hit.v - 0.1, 0.015, pixel))
        return mix(view, frame, np.maximum(bars, rails))
    edge = np.minimum(np.minimum(hit.u, opening.width - hit.u), np.minimum(hit.v, opening.height - hit.v))
    for place, span, panes in ((hit.u, opening.width, opening.columns), (hit.v, opening.height, opening.rows)):
        for k in range(1, panes):
            edge = np.minimum(edge, np.abs(place - span * k / panes) + opening.bar / 2)
    frame = shade(frame, 0.35 * line(edge - opening.bar + 0.008, 0.003, pixel))
    return mix(view, frame, band(edge, -9, opening.bar, pixel))


def door(room: Room, opening: Opening, hit: Hits, light: Array) -> Array:
    """Draw a door leaf with two sunken panels and a lever."""
    pixel = hit.pixel
    colour: Array = linear(room.slab) * light
    middle, half = opening.width / 2, opening.width / 2 - 0.13
    for low, high in ((0.16, 0.86), (1.04, opening.height - 0.14)):
        edge = np.maximum(np.abs(hit.u - middle) - half, np.abs(hit.v - (low + high) / 2) - (high - low) / 2)
        colour = shade(colour, 0.3 * line(edge + 0.004, 0.003, pixel), -0.1 * line(edge + 0.014, 0.005, pixel))
        colour = shade(colour, 0.2 * line(edge + 0.035, 0.003, pixel))
    gap = np.minimum(np.minimum(hit.u, opening.width - hit.u), opening.height - hit.v)
    colour = shade(colour, 0.8 * line(gap, 0.004, pixel), 0.3 * np.exp(-gap / 0.03))
    lever = np.maximum(np.abs(hit.u - opening.width + 0.11) - 0.06, np.abs(hit.v - 0.98) - 0.01)
    colour = shade(colour, 0.35 * band(lever, -1, 0.012, pixel + 0.02))
    return mix(colour, 0.5 * light + 0.06, band(lever, -1, 0, pixel))


def recess(room: Room, opening: Opening, hit: Hits, light: Array) -> Array:
    """Draw what shows in an opening: the reveal's four sides, or the window or door at its end."""
    u, v = hit.u - opening.left, hit.v - opening.bottom
    end = Hits(
        u + hit.slope_u * opening.depth,
        v + hit.slope_v * opening.depth,
        hit.slope_u,
        hit.slope_v,
        hit.pixel_u,
        hit.pixel_v,
    )
    colour = (door if opening.kind == "door" else window)(room, opening, end, light)
    to_side = np.where(hit.slope_u > 0, opening.width - u, u) / np.maximum(np.abs(hit.slope_u), 1e-4)
    to_level = np.where(hit.slope_v > 0, opening.height - v, v) / np.maximum(np.abs(hit.slope_v), 1e-4)
    deep = np.minimum(to_side, to_level) / opening.depth
    facing = np.where(to_level < to_side, np.where(hit.slope_v < 0, 1.25, 0.7), 0.9).astype(np.float32)
    glow = linear(room.sky) * (0.25 + 0.3 * np.clip(deep, 0, 1) * facing)[:, None] * (opening.kind != "door")
    side = linear(room.trim) * (light * (0.85 if opening.kind == "door" else 0.5) + glow)
    return np.where((deep < 1)[:, None], side, colour)


def wall(room: Room, face: int, hit: Hits) -> Array:
    """Return a wall's colour from skirting to cornice, with sockets and the casings of its openings."""
    surface, pixel, top = surface_of(room, face), hit.pixel, room.size[2]
    colour, trim = material(surface, hit), linear(room.trim)
    if surface.height:
        above = band(hit.v, surface.height, top + 1, pixel)
        colour = mix(colour, material(Surface("paint", surface.above), hit), above)
        colour = mix(colour, trim * 0.9, line(hit.v - surface.height, 0.012, pixel))
        colour = shade(colour, 0.35 * line(hit.v - surface.height + 0.016, 0.004, pixel))
    if room.skirting:
        colour = mix(colour, trim, band(hit.v, -1, room.skirting, pixel))
        over = hit.v - room.skirting
        colour = shade(colour, 0.3 * line(over, 0.002, pixel), -0.1 * line(over + 0.008, 0.005, pixel))
    if room.cornice:
        for share in (1.0, 0.5):
            colour = mix(colour, trim, band(hit.v, top - room.cornice * share, top + 1, pixel))
            colour = shade(colour, 0.25 * line(hit.v - top + room.cornice * share, 0.004, pixel))
    for at, u, v in room.plates:
        if at == face:
            edge = np.maximum(np.abs(hit.u - u), np.abs(hit.v - v)) - 0.042
            colour = mix(colour, linear("#f4f3ef"), band(edge, -1, 0, pixel))
            colour = shade(colour, 0.35 * line(edge, 0.002, pixel), 0.12 * line(edge + 0.012, 0.001, pixel))
    for opening in room.openings:
        if opening.face == face and opening.casing:
            out_u = np.maximum(opening.left - hit.u, hit.u - opening.left - opening.width)
            out_v = np.maximum(opening.bottom - hit.v, hit.v - opening.bottom - opening.height)
            edge = np.maximum(out_u, out_v) - opening.casing
            colour = mix(colour, trim, band(edge, -9, 0, pixel))
            colour = shade(colour, 0.3 * line(edge, 0.003, pixel), 0.1 * line(edge + 0.02, 0.003, pixel))
    return colour


def ceiling(room: Room, hit: Hits) -> Array:
    """Return the ceiling's colour; its lamps are brighter than any paint."""
    colour = material(surface_of(room, CEILING), hit)
    for x, y in room.spots:
        away = np.hypot(hit.u - x, hit.v - y)
        colour = mix(colour, np.full(3, 0.7, np.float32), band(away, -1, 0.06, hit.pixel))
        colour = mix(colour, linear(room.lamp) * 9, band(away, -1, 0.045, hit.pixel))
    return colour


def face_colour(room: Room, light: Light, face: int, hit: Hits) -> Array:
    """Return the light from one face towards the camera."""
    axis, high, u_axis, v_axis = plane(face)
    width, height = room.size[u_axis], room.size[v_axis]
    falling = light.at(face, hit.u / width, hit.v / height)
    for place, span in ((hit.u, width), (hit.v, height)):  # corners finer than the patches of the radiosity
        corner = np.maximum(np.minimum(place, span - place), 0)
        falling = shade(falling, 0.2 * np.exp(-corner / 0.035), 0.1 * np.exp(-corner / 0.2))
    lit = falling
    if room.sun:
        points = [np.full_like(hit.u, high * room.size[axis])] * 3
        points[u_axis], points[v_axis] = hit.u, hit.v
        lit = falling + light.sun * sunlight(room, face, points)[:, None]
    if face == FLOOR:
        return material(room.floor, hit) * lit
    if face == CEILING:
        return ceiling(room, hit) * lit
    colour = wall(room, face, hit) * lit
    for opening in room.openings:
        if opening.face == face:
            u, v = hit.u - opening.left, hit.v - opening.bottom
            inside = (u > 0) & (u < opening.width) & (v > 0) & (v < opening.height)
            colour[inside] = recess(room, opening, hit.only(inside), falling[inside])
    return colour


def trace(room: Room, light: Light, across: Array, up: Array, height: float) -> Array:
    """Return the picture of rays that go `across` (one a column) and `up` (one a row) for each unit forward.

    `height` is the camera's; below the floor it gives what the floor mirrors.
    """
    yaw = math.radians(room.yaw)
    x_way, y_way = math.sin(yaw) + across * math.cos(yaw), math.cos(yaw) - across * math.sin(yaw)
    origin = (*room.camera[:2], height)
    ways = [np.where(np.abs(way) < 1e-5, np.float32(1e-5), way) for way in (x_way, y_way, up)]
    far_x, far_y, far_z = (
        (np.where(way > 0, size, 0) - at) / way for way, size, at in zip(ways, room.size, origin, strict=True)
    )
    side = np.where(far_x < far_y, ways[0] > 0, 2 + (ways[1] > 0))
    range_side = np.minimum(far_x, far_y)
    level = far_z[:, None] < range_side[None, :]
    faces = np.where(level, (4 + (ways[2] > 0))[:, None], side[None, :]).astype(np.int8)
    picture = np.zeros((len(up), len(across), 3), np.float32)
    for face in range(6):
        rows, columns = np.nonzero(faces == face)
        if not rows.size:
            continue
        axis, _, u_axis, v_axis = plane(face)
        way = [ways[0][columns], ways[1][columns], ways[2][rows]]
        reach = (far_z[rows] if axis == 2 else range_side[columns]).astype(np.float32)
        slopes = [way[k] / np.abs(way[axis]) for k in (u_axis, v_axis)]
        pixels = [reach * (across[1] - across[0]) * np.hypot(1, slope) for slope in slopes]
        hit = Hits(*(origin[k] + reach * way[k] for k in (u_axis, v_axis)), *slopes, *pixels)
        picture[rows, columns] = face_colour(room, light, face, hit)
    reach = np.where(level, far_z[:, None], range_side[None, :])
    for block in room.blocks:
        draw_block(room, light, block, ways, origin, reach, picture)
    return picture


def draw_block(
    room: Room, light: Light, block: Block, ways: list[Array], origin: tuple[float, ...], reach: Array, picture: Array
) -> None:
    """Draw a solid where it is nearer than what was drawn. `reach` is the distance drawn so far, and is updated.

    A side gets the light of the room's face that looks the same way.
    """
    way = np.broadcast_arrays(ways[0][None, :], ways[1][None, :], ways[2][:, None])
    if block.kind == "slope":
        rise = (block.high[2] - block.low[2]) / (block.high[0] - block.low[0])
        over = way[2] - rise * way[0]
        at = np.where(
            over > 1e-4, (block.low[2] - origin[2] + rise * (origin[0] - block.low[0])) / np.maximum(over, 1e-4), np.inf
        )
        side = np.full(at.shape, CEILING)
    else:
        near, far = np.zeros(reach.shape), np.full(reach.shape, np.inf)
        side = np.zeros(reach.shape, int)
        for axis in range(3):
            one, other = ((edge[axis] - origin[axis]) / way[axis] for edge in (block.low, block.high))
            entry = np.minimum(one, other)
            side = np.where(
                entry > near, 2 * axis + (way[axis] > 0), side
            )  # the face that points the same way as this side
            near, far = np.maximum(near, entry), np.minimum(far, np.maximum(one, other))
        at = np.where(far > near, near, np.inf)
    for face in range(6):
        rows, columns = np.nonzero((at < reach) & (at > 0.01) & (side == face))
        if not rows.size:
            continue
        _, _, u_axis, v_axis = plane(face)
        place = [origin[k] + at[rows, columns] * way[k][rows, columns] for k in range(3)]
        falling = light.at(face, place[u_axis] / room.size[u_axis], place[v_axis] / room.size[v_axis])
        colour: np.ndarray[Any, Any] = linear(block.color) * falling
        if block.kind == "radiator":
            colour = shade(colour, 0.45 * (np.mod(place[u_axis], 0.06) < 0.012).astype(np.float32))
        elif block.kind == "wall" and room.skirting:
            colour = np.where((place[2] < room.skirting)[:, None], linear(room.trim) * falling, colour)
        picture[rows, columns] = colour
        reach[rows, columns] = at[rows, columns]


def rays(photo: Photo, width: int, height: int, jitter: tuple[float, float]) -> tuple[Array, Array]:
    """Return the slopes of the rays of each column and row of a picture, sizes in pixels."""
    lens = 2 * math.tan(math.radians(photo.room.view) / 2)
    across = (np.arange(width, dtype=np.float32) + jitter[0]) / width - 0.5
    up = (height / 2 - np.arange(height, dtype=np.float32) - jitter[1]) / width - photo.room.shift
    return across * lens, up * lens


def mirrored(photo: Photo, light: Light) -> Array:
    """Return what a polished floor reflects, blurred more up and down than sideways."""
    width, height = photo.size
    across, up = rays(photo, width // 5, height // 5, (0.5, 0.5))
    picture = trace(photo.room, light, across, np.maximum(-up, 1e-3), -photo.room.camera[2])
    return resized(resized(picture, width // 20, height // 40), width, height)


def expose(photo: Photo) -> Array:
    """Return the linear picture: all rays of each pixel, and the floor's gloss."""
    room, (width, height) = photo.room, photo.size
    light = solve_light(room)
    picture = np.zeros((height, width, 3), np.float32)
    gloss = mirrored(photo, light) if room.floor.gloss else None
    for jitter in JITTER:
        across, up = rays(photo, width, height, jitter)
        for top in range(0, height, STRIP):
            strip = trace(room, light, across, up[top : top + STRIP], room.camera[2])
            picture[top : top + STRIP] += np.minimum(strip, 4) / len(JITTER)
    if gloss is not None:
        steep = np.maximum(-up[:, None], 0) / np.sqrt(1 + up[:, None] ** 2 + across[None, :] ** 2)
        fresnel = room.floor.gloss * (0.04 + 0.96 * (1 - steep) ** 5)
        picture += (floor_mask(room, across, up) * fresnel)[..., None] * (gloss - picture * 0.5)
    return picture


def floor_mask(room: Room, across: Array, up: Array) -> Array:
    """Return 1 where a pixel shows the floor."""
    yaw = math.radians(room.yaw)
    reach = room.camera[2] / np.maximum(-up, 1e-4)[:, None]
    x = room.camera[0] + reach * (math.sin(yaw) + across * math.cos(yaw))
    y = room.camera[1] + reach * (math.cos(yaw) - across * math.sin(yaw))
    pixel = (across[1] - across[0]) * np.broadcast_to(reach, x.shape)
    return band(x, 0, room.size[0], pixel) * band(y, 0, room.size[1], pixel)


def develop(picture: Array, seed: int) -> Image.Image:
    """Turn linear light into a photo: glare, vignette, film curve, sensor noise."""
    height, width, _ = picture.shape
    glare = resized(resized(np.maximum(picture - 0.9, 0), width // 45, height // 45), width, height)
    picture = picture + 0.1 * np.maximum(glare, 0)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    picture = picture * (1 - 0.13 * (x * x + y * y))[..., None]
    picture = picture * (2.51 * picture + 0.03) / (picture * (2.43 * picture + 0.59) + 0.14)
    grey = 0.21 * picture[..., 0:1] + 0.72 * picture[..., 1:2] + 0.07 * picture[..., 2:3]
    picture = grey + (picture - grey) * 0.85  # the curve makes colours too strong
    noise = np.random.default_rng(seed)
    grain = noise.standard_normal((height, width, 1), np.float32)
    grain = grain + 0.4 * noise.standard_normal((height, width, 3), np.float32)
    shown = np.clip(picture, 0, 1) ** np.float32(1 / 2.2) * 255 + grain * 2
    return Image.fromarray(np.clip(shown + 0.5, 0, 255).astype(np.uint8))


def degrees(angle: float) -> tuple[float, float, float]:
    """Return an angle as EXIF writes it: degrees, minutes, seconds."""
    minutes, seconds = divmod(abs(angle) * 3600, 60)
    return minutes // 60, minutes % 60, round(seconds, 2)


def exif_of(photo: Photo) -> Image.Exif:
    """Return the EXIF data of a photo; the numbers are EXIF's tags."""
    exif = Image.Exif()
    if photo.make:
        exif[0x010F], exif[0x0110], exif[0x0132] = photo.make, photo.model, photo.taken
        exif.get_ifd(0x8769).update({0x9003: photo.taken, 0x829D: 8.0, 0x8827: 400, 0x829A: 1 / 60})
    if photo.orientation != 1:
        exif[0x0112] = photo.orientation
    if photo.place:
        latitude, longitude = photo.place
        gps = exif.get_ifd(0x8825)
        gps.update({1: "S" if latitude < 0 else "N", 2: degrees(latitude)})
        gps.update({3: "W" if longitude < 0 else "E", 4: degrees(longitude)})
    return exif


def main() -> None:
    """Render every photo into the folder given."""
    parser = argparse.ArgumentParser(description="Render the sample photos.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[2] / "samples/photos", help="folder to write to"
    )
    parser.add_argument("--only", default="", metavar="PREFIX", help="only photos whose names begin with this")
    parser.add_argument(
        "--odd", action="store_true", help="render the rooms that are not boxes, which are not part of the batch"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for photo in ODD if arguments.odd else PHOTOS:
        if photo.name.startswith(arguments.only):
            picture = develop(expose(photo), zlib.crc32(photo.name.encode()))
            turn = UPRIGHT_TO_STORED.get(photo.orientation)
            path = arguments.out / f"{photo.name}.jpg"
            stored = picture if turn is None else picture.transpose(turn)
            stored.save(path, quality=QUALITY, optimize=True, exif=exif_of(photo))
            print(f"{path}  {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
