"""Drawing: the furniture and its shadows go into the photo, and nothing else of it changes.

Everything is float32 and done in bands and chunks: a 2,048 pixel photo takes less than 300 MiB with Python itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image

from shared.staging.preview import light as lighting
from shared.staging.preview import rugs, shading, sun
from shared.staging.preview.colours import LINEAR, brightest, to_srgb
from shared.staging.preview.meshes import Mesh
from shared.staging.preview.openings import WALLS, Hole, Sides
from shared.staging.preview.raster import SAMPLES, Decal, Samples, Scene, gathered, raster
from shared.staging.preview.shadows import FLOOR, Beam, half_of, lost_light, surfaces
from shared.staging.preview.views import Floats, View

__all__ = [
    "LINEAR", "SAMPLES", "Decal", "Samples", "Scene", "gathered", "noise_of", "raster", "render", "small_picture",
    "to_srgb",
]  # fmt: skip

_BAND: Final = 128  # rows darkened at once
_CHUNK: Final = 65_536  # pixels painted at once
_SUN_SIDE: Final = 400  # pixels of the longest side in which the sun is looked for
_LEAST_GRAIN: Final = 0.3  # of 255; less is not seen


def small_picture(photo: Image.Image, side: int) -> Floats:
    """Return the photo in linear light, its longest side `side` pixels."""
    scale = side / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return LINEAR[np.asarray(photo.resize(size, Image.Resampling.BOX))]


def noise_of(photo: Image.Image) -> float:
    """Return the photo's grain (sigma, of 255) from differences of neighbours, most of which are plain wall."""
    width, height = photo.size
    middle = photo.crop((width // 4, height // 8, 3 * width // 4, height // 2)).convert("L")
    grey = np.asarray(middle, np.float32)[::2]  # every second row says the same
    if grey.shape[0] < 8 or grey.shape[1] < 8:
        return 0.0
    second = grey[:, 2:] - 2 * grey[:, 1:-1] + grey[:, :-2]
    return float(min(12.0, np.median(np.abs(second)) / 0.6745 / 2.449))


def render(
    photo: Image.Image,
    view: View,
    sides: Sides,
    meshes: list[Mesh],
    decals: list[Decal],
    holes: tuple[Hole, ...] = (),
) -> tuple[Image.Image, Any]:
    """Return the photo with the pieces in it, and the mask of what changed (bool, height x width).

    `holes` are the openings in the walls, through which the sun may shine. Where the mask is False the picture has the
    photo's very pixels.
    """
    small = small_picture(photo, 256)
    tiny = view.scaled(small.shape[1], small.shape[0])
    places = [mesh.vertices for mesh in meshes if len(mesh.vertices)]
    middle = np.concatenate(places).mean(axis=0) if places else np.array([decals[0].x, decals[0].y, 0.3])
    centre = (float(middle[0]), float(middle[1]), float(min(1.2, max(0.3, middle[2]))))
    light = lighting.environment(small, tiny, sides, centre)
    grids: dict[str, lighting.Grid] = {}
    surface = surfaces(half_of(view), sides)
    furniture = beam = None
    if meshes:
        scene = gathered(meshes, decals)
        beam = _beam(photo, view, sides, surface == FLOOR, scene, light, holes)
        grids, furniture = _furniture(view, sides, scene, meshes, light, beam)
    pixels = np.array(photo)
    loss = lost_light(view, sides, grids, surface, beam)
    mask = darken(pixels, loss, None if beam is None else beam.matte > 0)
    painter = _Painter(pixels, mask, noise_of(photo))
    hidden = np.zeros(mask.shape, np.bool_)
    if furniture is not None:
        hidden.reshape(-1)[furniture.pixels[furniture.cover == 1]] = True
    if decals:
        soft = lighting.low_pass(small, 14)
        for rug in rugs.laid(decals, view, light, soft, tiny, hidden, beam):
            left = 1 - loss.reshape(-1, 3)[rug.pixels] * np.float32(1 / 255)
            painter.paint(rug.pixels, rug.colours * left * rug.cover[:, None], rug.cover)
    if furniture is not None:
        painter.paint(furniture.pixels, furniture.colours, furniture.cover)
    return Image.fromarray(pixels), mask


def _beam(
    photo: Image.Image,
    view: View,
    sides: Sides,
    floor: Any,
    scene: Scene,
    light: lighting.Environment,
    holes: tuple[Hole, ...],
) -> Beam | None:
    """Return the direct sun, where the photo leaves no doubt about it."""
    if not holes:
        return None
    small = small_picture(photo, _SUN_SIDE)
    found = sun.sun_of(small, view.scaled(small.shape[1], small.shape[0]), sides, holes)
    return None if found is None else sun.beam_of(photo, view, floor, found, scene, light)


def _furniture(
    view: View, sides: Sides, scene: Scene, meshes: list[Mesh], light: lighting.Environment, beam: Beam | None
) -> tuple[dict[str, lighting.Grid], shading.Drawn | None]:
    """Return the shadows on floor and walls, and the furniture itself."""
    points = lighting.scattered(meshes)
    shadows = lighting.Shadows(light, points)
    grids = {"floor": lighting.floor_grid(shadows, light, sides, points)}
    for wall in WALLS:
        grid = lighting.wall_grid(shadows, light, sides, points, wall)
        if grid is not None:
            grids[wall] = grid
    samples = raster(view, scene)
    shown = None if samples is None else shading.seen(samples)
    del samples
    if shown is None or not len(shown.used):
        return grids, None
    return grids, shading.drawn(view, scene, shown, light, shadows, beam)


@cache
def _darker() -> Any:
    """Return what becomes of each byte when a share (of 255) of its light is missing, (share, byte)."""
    left = 1 - np.arange(256, dtype=np.float32)[:, None] / 255
    table = (to_srgb(LINEAR[None, :] * left) + np.float32(0.5)).astype(np.uint8)
    table[0] = np.arange(256)
    return table.reshape(-1)


@cache
def _spared() -> Any:
    """Return what share (of 256) of a shadow a pixel takes whose brightest channel is this byte: windows take none."""
    return (256 * np.clip((np.float32(0.97) - LINEAR) / np.float32(0.15), 0, 1)).astype(np.uint16)


def darken(pixels: Any, loss: Any, sunlit: Any = None) -> Any:
    """Take the missing light from the pixels, in place; return where there was any.

    What is nearly white is taken for a window and spared, but for floor that is `sunlit` (at half size).
    """
    mask = np.zeros(pixels.shape[:2], np.bool_)
    whole = int(np.flatnonzero(_spared() == 256)[-1])  # up to this byte a pixel takes all of a shadow
    for top in range(0, len(pixels), _BAND):
        band, less = pixels[top : top + _BAND], loss[top : top + _BAND].astype(np.uint16)
        bright = brightest(band)
        spared = bright > whole
        if sunlit is not None:
            rows, columns = np.arange(top, top + len(band)) // 2, np.arange(band.shape[1]) // 2
            spared &= ~sunlit[rows[:, None], columns]
        some = np.flatnonzero(spared)
        if len(some):
            share = _spared()[bright.reshape(-1)[some]].astype(np.uint32)[:, None]
            flat = less.reshape(-1, 3)
            flat[some] = (flat[some] * share) >> 8
        mask[top : top + _BAND] = (less[..., 0] | less[..., 1] | less[..., 2]) > 0
        less <<= 8
        less |= band
        np.take(_darker(), less, out=band)
    return mask


class _Painter:
    """Lays colours over pixels in linear light, with grain as strong as the photo's."""

    def __init__(self, pixels: Any, mask: Any, grain: float) -> None:
        self._pixels, self._mask = pixels.reshape(-1, 3), mask.reshape(-1)
        self._grain = np.float32(grain)
        self._chance = np.random.default_rng(11)

    def paint(self, places: Any, colours: Floats, cover: Floats) -> None:
        """Paint colours (linear, times coverage) over the pixels at `places`."""
        for start in range(0, len(places), _CHUNK):
            some = slice(start, start + _CHUNK)
            place, share, colour = places[some], cover[some], colours[some]
            partly = np.flatnonzero(share < 1)
            colour[partly] += LINEAR[self._pixels[place[partly]]] * (1 - share[partly])[:, None]
            value = to_srgb(colour)
            if self._grain > _LEAST_GRAIN:
                value += (share * self._grain * self._chance.standard_normal(len(share), np.float32))[:, None]
            self._pixels[place] = np.clip(value + np.float32(0.5), 0, 255).astype(np.uint8)
        self._mask[places] = True
