"""Light in the rooms of the sample photos: sky and sun through the windows, lamps, and what the walls give back.

Colours are linear light (red, green, blue), places metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from PIL import Image
from rooms import CEILING, FLOOR, Opening, Room, Surface
from surfaces import Array, band, linear, sample

PATCHES: Final = 15  # a side of each face, for the light
LIGHT_MAP: Final = 128  # a side of each face, for the pixels; a power of two, as `sample` wants it
BOUNCES: Final = 7
SUN: Final = "#fff0da"
WHITE_BALANCE: Final = 0.75  # the share of a colour cast that the camera removes


@dataclass(frozen=True)
class Light:
    """What falls on each face without the direct sun (1 shows white paint well exposed), and what the sun adds."""

    faces: tuple[Array, ...]
    sun: Array

    def at(self, face: int, u: Array, v: Array) -> Array:
        """Return the light at a place, given as shares of the face's width and height."""
        x, y = (np.clip(place * LIGHT_MAP - 0.5, 0, LIGHT_MAP - 1.01) for place in (u, v))
        return sample(self.faces[face], x, y)


def resized(picture: Array, width: int, height: int) -> Array:
    """Return the picture at another size (pixels), interpolated; averaged where it shrinks."""
    filters = Image.Resampling.BOX if width < picture.shape[1] else Image.Resampling.BICUBIC
    channels = (Image.fromarray(np.ascontiguousarray(picture[..., k])) for k in range(3))
    return np.stack([np.asarray(channel.resize((width, height), filters)) for channel in channels], axis=-1)


def plane(face: int) -> tuple[int, bool, int, int]:
    """Return a face's axis, whether it is the far one of two, and the axes of its u and v."""
    axis, high = divmod(face, 2)
    u, v = (k for k in range(3) if k != axis)
    return axis, bool(high), u, v


def surface_of(room: Room, face: int) -> Surface:
    """Return the surface of a face."""
    if face in {FLOOR, CEILING}:
        return room.floor if face == FLOOR else Surface("paint", room.ceiling)
    return room.accent[1] if room.accent and room.accent[0] == face else room.walls


def soft(value: Array, low: float, high: float, blur: Array) -> Array:
    """Return 1 between `low` and `high`, else 0, with edges as wide as `blur`."""
    ramp = band(value, low, high, blur)
    return np.asarray(ramp * ramp * (3 - 2 * ramp))


def through(room: Room, opening: Opening, points: list[Array], sun: tuple[float, float, float]) -> Array:
    """Return the share of the sun that reaches each point through one opening."""
    axis, high, along, _ = plane(opening.face)
    toward = sun[axis] if high else -sun[axis]
    distance = np.abs((room.size[axis] if high else 0.0) - points[axis]) / max(toward, 1e-3)
    lit = np.full_like(distance, opening.kind != "door" and toward > 0)
    for depth, margin in ((0.0, 0.0), (opening.depth, opening.bar)):  # both ends of the reveal cast a shadow
        way = distance + depth / max(toward, 1e-3)
        blur = way * room.sun_blur + 0.006
        u, v = points[along] + sun[along] * way - opening.left, points[2] + sun[2] * way - opening.bottom
        lit = lit * soft(u, margin, opening.width - margin, blur) * soft(v, margin, opening.height - margin, blur)
    for place, span, panes in ((u, opening.width, opening.columns), (v, opening.height, opening.rows)):
        for k in range(1, panes):
            bar = soft(place - span * k / panes, -opening.bar / 2, opening.bar / 2, np.maximum(blur, opening.bar))
            lit = lit * (1 - bar * np.minimum(1, opening.bar / blur))
    if opening.kind == "railing":  # its bars are too thin to show one by one
        rail = soft(v, 1.035, 1.085, np.maximum(blur, 0.05)) * np.minimum(1, 0.05 / blur)
        lit = lit * (1 - rail) * (1 - 0.13 * soft(v, 0.1, 1.06, blur))
    return np.asarray(lit)


def sunlight(room: Room, face: int, points: list[Array]) -> Array:
    """Return the share of the sun on each point of a face, times the cosine of its angle of incidence."""
    heading, height = math.radians(room.sun_heading), math.radians(room.sun_height)
    flat = math.cos(height)
    sun = (-math.sin(heading) * flat, -math.cos(heading) * flat, math.sin(height))  # from the room towards it
    axis, high, _, _ = plane(face)
    cosine = -sun[axis] if high else sun[axis]
    total = np.zeros_like(points[0])
    if room.sun and cosine > 0:
        for opening in room.openings:
            total = np.maximum(total, through(room, opening, points, sun))
    return np.asarray(total * max(cosine, 0))


def glass(room: Room, face: int) -> Array:
    """Return the share of each patch of a face that is window."""
    _, _, u_axis, v_axis = plane(face)
    share = np.zeros((PATCHES, PATCHES), np.float32)
    for opening in room.openings:
        if opening.face == face and opening.kind != "door":
            spans = []
            for size, low, length in (
                (room.size[v_axis], opening.bottom, opening.height),
                (room.size[u_axis], opening.left, opening.width),
            ):
                edges = np.clip((np.arange(PATCHES + 1) * (size / PATCHES)).astype(np.float32), low, low + length)
                spans.append(np.diff(edges) * (PATCHES / size))
            share += np.outer(*spans)
    return share.reshape(-1, 1)


@dataclass(frozen=True)
class Patches:
    """A coarse grid over one face, or over all: where each patch is, what it gives back, and what it sends out."""

    place: Array
    normal: Array  # into the room
    area: Array  # square metres
    colour: Array
    sky: Array  # what comes in through its window
    lamp: Array
    sun: Array  # what falls on it straight from the sun


def patches(room: Room, face: int) -> Patches:
    """Lay the grid over one face."""
    axis, high, u_axis, v_axis = plane(face)
    middles = (np.arange(PATCHES, dtype=np.float32) + 0.5) / PATCHES
    place = np.zeros((PATCHES, PATCHES, 3), np.float32)
    place[..., axis] = room.size[axis] if high else 0
    place[..., u_axis] = middles[None, :] * room.size[u_axis]
    place[..., v_axis] = middles[:, None] * room.size[v_axis]
    flat = place.reshape(-1, 3)
    normal = np.zeros_like(flat)
    normal[:, axis] = -1 if high else 1
    surface, window = surface_of(room, face), glass(room, face)
    two_tone = surface.kind in {"planks", "herringbone", "checker"}
    colour = (linear(surface.color) + linear(surface.second if two_tone else surface.color)) / 2
    return Patches(
        place=flat,
        normal=normal,
        area=np.full(len(flat), room.size[u_axis] * room.size[v_axis] / len(flat), np.float32),
        colour=colour * (1 - 0.9 * window),
        sky=linear(room.sky) * window,
        lamp=np.broadcast_to(linear(room.lamp) * room.lamps * (face == CEILING), flat.shape),
        sun=linear(SUN) * room.sun * sunlight(room, face, list(flat.T))[:, None],
    )


def gathered(form: Array, sent: Array) -> Array:
    """Return what every patch receives from all others. Not by `@`: its sums depend on BLAS's number of threads."""
    return np.asarray(np.einsum("ij,jk->ik", form, sent))


def solve_light(room: Room) -> Light:
    """Compute radiosity: every patch reflects its colour's share of what it receives, and sees every other patch."""
    faces = [patches(room, face) for face in range(6)]
    every = Patches(*(np.concatenate([getattr(face, field.name) for face in faces]) for field in fields(Patches)))
    reach = every.place[None, :, :] - every.place[:, None, :]
    square = np.maximum((reach**2).sum(-1), 1e-6)
    arriving = np.maximum((reach * every.normal[:, None]).sum(-1), 0)
    leaving = np.maximum(-(reach * every.normal[None]).sum(-1), 0)
    form = arriving * leaving * every.area / (square * (math.pi * square + every.area))
    form /= form.sum(1, keepdims=True)
    from_sky = np.where(reach[..., 2] > 0, 1, 0.45).astype(
        np.float32
    )  # through a window, the ground is darker than the sky
    first = gathered(form * from_sky, every.sky) + gathered(form, every.lamp)
    light = first
    for _ in range(BOUNCES):
        light = first + gathered(form, every.colour * (light + every.sun))
    mean = light.mean(0)
    balance = (mean.mean() / mean) ** WHITE_BALANCE
    scale = (0.5 * room.exposure / mean.mean() * balance).astype(np.float32)
    maps = (light * scale).reshape(6, PATCHES, PATCHES, 3)
    return Light(tuple(resized(each, LIGHT_MAP, LIGHT_MAP) for each in maps), linear(SUN) * room.sun * scale)
