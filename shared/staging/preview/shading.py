"""What the furniture looks like: one colour a pixel inside a surface, one a face where several meet in a pixel.

Everything that is linear in the picture is kept as a plane of each face that can be seen: a sample is then a few
look-ups and multiplications, whatever its triangle's corners are.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from shared.staging.preview import textures
from shared.staging.preview.colours import shoulder
from shared.staging.preview.light import Environment, Shadows
from shared.staging.preview.raster import SAMPLES, Samples, Scene
from shared.staging.preview.shadows import Beam
from shared.staging.preview.views import Floats, View

_SHADED: Final = 32_768  # samples at once: what is computed of them stays in the processor's cache
_CREASE: Final = 0.93  # cosine between neighbouring faces above which one sample stands for four
_HIGHLIGHTS: Final = 6  # directions that are mirrored


class Drawn(NamedTuple):
    """The furniture alone, pixel by pixel."""

    pixels: Any  # row * width + column in the picture, rising
    colours: Floats  # (n, 3), linear, times coverage
    cover: Floats  # 0 to 1


class Seen(NamedTuple):
    """Which faces each pixel of a rectangle of the picture shows, four samples a pixel."""

    samples: Samples
    faces: list[Any]  # of each sample of a pixel (height, width), or -1
    used: Any  # faces that are seen, rising


def seen(samples: Samples) -> Seen:
    """Return what is seen, sample by sample of a pixel."""
    each = [np.ascontiguousarray(samples.faces[k // SAMPLES :: SAMPLES, k % SAMPLES :: SAMPLES]) for k in range(4)]
    known = np.zeros(int(samples.faces.max()) + 2, np.bool_)
    for some in each:
        known[some] = True  # -1 is the last, which is no face's
    known[-1] = False
    return Seen(samples, each, np.flatnonzero(known))


class Shader:
    """Shades samples of the faces that are seen."""

    def __init__(
        self, view: View, scene: Scene, shown: Seen, light: Environment, shadows: Shadows, beam: Beam | None
    ) -> None:
        self._view, self._shown, self._beam = view, shown, beam
        self._strong = light.strongest(_HIGHLIGHTS)
        self._mean = light.radiance.mean(axis=0)
        self._number = np.zeros(int(shown.used[-1]) + 1, np.int32)
        self._number[shown.used] = np.arange(len(shown.used), dtype=np.int32)
        corners = scene.faces[shown.used]
        look = scene.look[shown.used]
        self._part = scene.part[shown.used]
        world = scene.vertices[corners]
        self.facing = _unit(np.cross(world[:, 1] - world[:, 0], world[:, 2] - world[:, 0]))
        self._colour = [np.ascontiguousarray(scene.colour[look, k]) for k in range(3)]
        self._strength, self._glow, self._velvet, self._gloss = (
            column[look] for column in (scene.strength, scene.glow, scene.velvet, scene.gloss)
        )
        self._shiny = (self._velvet > 0) | (self._gloss > 0)
        self._texture = scene.texture[look] * np.int32(textures.SIDE * textures.SIDE)
        self._thin = scene.thin[look]
        values = np.empty((len(corners), 3, 11 if beam is not None else 8), np.float32)
        values[..., :3] = _lit(scene, corners, shadows)
        values[..., 3:5] = _surface(scene, shown.used, corners, look)
        values[..., 5:8] = scene.normals[corners]
        if beam is not None:
            values[..., 8:] = world
        self._planes = _planes(shown.samples, corners, values)
        self._origin = [plane[corners[:, 0]] for plane in (shown.samples.u, shown.samples.v)]

    def same(self, pixels: Any) -> Any:
        """Return for which of the pixels (flat) all four samples show one smooth surface."""
        one, *others = (self._number[each.reshape(-1)[pixels]] for each in self._shown.faces)
        unlike = np.flatnonzero((one != others[0]) | (one != others[1]) | (one != others[2]))
        smooth = np.ones(len(pixels), np.bool_)
        first = one[unlike]
        normal, good = self.facing[first], np.ones(len(unlike), np.bool_)
        for other in others:
            second = other[unlike]
            good &= self._part[second] == self._part[first]
            good &= np.einsum("nc,nc->n", normal, self.facing[second]) > _CREASE
        smooth[unlike] = good
        return smooth

    def colours(self, faces: Any, column: Any, row: Any) -> Floats:
        """Return the linear colours (n, 3) of samples: the faces they show and where they are, in samples."""
        face = self._number[faces]
        x = column.astype(np.float32) - self._origin[0][face]
        y = row.astype(np.float32) - self._origin[1][face]
        near = self._at(-1, face, x, y)
        far = 1 / np.maximum(near, np.float32(1e-3))
        lit = [np.maximum(self._at(k, face, x, y) * far, 0) for k in range(3)]
        a, b = ((self._at(k, face, x, y) * far).astype(np.int32) & (textures.SIDE - 1) for k in (3, 4))
        tone = textures.atlas().reshape(-1)[self._texture[face] + b * np.int32(textures.SIDE) + a]
        tone = 1 + self._strength[face] * (2 * tone - 1)
        glow = self._glow[face]
        out = np.empty((len(face), 3), np.float32)
        for k in range(3):
            out[:, k] = self._colour[k][face] * tone * lit[k]
        lamps = np.flatnonzero(glow)
        if len(lamps):
            mean = (lit[0][lamps] + lit[1][lamps] + lit[2][lamps]) * glow[lamps]
            for k in range(3):
                out[lamps, k] += self._colour[k][face[lamps]] * tone[lamps] * mean
        if self._beam is not None:
            self._sunshine(self._beam, out, face, x, y, far, tone)
        shiny = np.flatnonzero(self._shiny[face])
        if len(shiny):
            normal = np.stack([self._at(k, face[shiny], x[shiny], y[shiny]) for k in (5, 6, 7)], axis=1)
            self._shine(out, shiny, face[shiny], normal, column[shiny], row[shiny], tone, lit)
        return shoulder(out)

    def _at(self, k: int, face: Any, x: Floats, y: Floats) -> Floats:
        """Return one value of the faces, over its distance, where samples are."""
        start, across, down = self._planes[k]
        return start[face] + across[face] * x + down[face] * y

    def _sunshine(self, beam: Beam, out: Floats, face: Any, x: Floats, y: Floats, far: Floats, tone: Floats) -> None:
        """Add direct sun to the samples that face it and that nothing hides from it."""
        place = [self._at(k, face, x, y) * far for k in (8, 9, 10)]
        bright = beam.at(*place)
        some = np.flatnonzero(bright)
        if not len(some):
            return
        face = face[some]
        normal = _unit(np.stack([self._at(k, face, x[some], y[some]) for k in (5, 6, 7)], axis=1))
        facing = normal @ beam.direction
        facing = np.where(self._thin[face], np.abs(facing), np.maximum(facing, 0)) * bright[some] * tone[some]
        for k in range(3):
            out[some, k] += self._colour[k][face] * beam.strength[k] * facing

    def _shine(
        self, out: Floats, some: Any, face: Any, normal: Floats, column: Any, row: Any, tone: Floats, lit: list[Floats]
    ) -> None:
        """Add velvet's bright rim and the room's blurred highlights to some of the samples."""
        at, size = self._shown.samples, np.float32(1 / SAMPLES)
        view = -_unit(
            self._view.rays(
                (column.astype(np.float32) + np.float32(0.5)) * size + np.float32(at.left),
                (row.astype(np.float32) + np.float32(0.5)) * size + np.float32(at.top),
            )
        )
        normal = _unit(normal)
        towards = np.einsum("nc,nc->n", normal, view)
        mirrored = (2 * towards)[:, None] * normal - view
        towards = np.minimum(np.abs(towards), 1)
        velvet = self._velvet[face] * np.float32(0.9) * (1 - towards) ** 2
        if velvet.any():
            for k in range(3):
                cloth = self._colour[k][face] * tone[some] * np.float32(0.6) + np.float32(0.1)
                out[some, k] += velvet * cloth * lit[k][some]
        gloss = self._gloss[face]
        if gloss.any():
            spot = np.maximum(mirrored @ self._strong[0].T, 0)
            spot *= spot * spot
            for _ in range(3):
                spot *= spot  # the 24th power
            left = 1 - towards
            fresnel = gloss * (np.float32(0.05) + np.float32(0.95) * left * (left * left) ** 2)
            bright = spot @ (np.float32(0.6) * self._strong[1]) + np.float32(0.5) * self._mean
            out[some] += fresnel[:, None] * bright


def _unit(vectors: Floats) -> Floats:
    """Return the vectors (n, 3) of length 1."""
    length = np.sqrt(np.einsum("nc,nc->n", vectors, vectors))
    return (vectors / np.maximum(length, np.float32(1e-12))[:, None]).astype(np.float32)


def _lit(scene: Scene, corners: Any, shadows: Shadows) -> Floats:
    """Return the light at the corners (n, 3, 3) of the faces that are seen; the rest of the scene needs none."""
    used = np.zeros(len(scene.vertices), np.bool_)
    used[corners] = True
    some = np.flatnonzero(used)
    place = np.zeros(len(used), np.int32)
    place[some] = np.arange(len(some), dtype=np.int32)
    return shadows.light(scene.vertices[some], scene.normals[some])[place[corners]]


def _surface(scene: Scene, faces: Any, corners: Any, look: Any) -> Floats:
    """Return the places (n, 3, 2) of the corners in their textures, in texels: along the part's longer side first."""
    local = scene.local[corners]
    normal = np.cross(local[:, 1] - local[:, 0], local[:, 2] - local[:, 0])
    axis = np.abs(normal).argmax(axis=1)
    parts = int(scene.part.max()) + 1
    low, high = np.full((parts, 3), np.inf, np.float32), np.full((parts, 3), -np.inf, np.float32)
    every = scene.local[scene.faces]
    np.minimum.at(low, scene.part, every.min(axis=1))
    np.maximum.at(high, scene.part, every.max(axis=1))
    extent = (high - low)[scene.part[faces]]
    index = np.arange(len(axis))
    extent[index, axis] = -1
    along = extent.argmax(axis=1)
    across = 3 - axis - along
    scale = (textures.SIDE / scene.scale[look])[:, None]
    moved = np.mod(0.37 * scene.part[faces][:, None] * scale, textures.SIDE)  # no two parts look the same
    # Kept above 0, so that cutting off is rounding down; a whole number of repeats changes nothing.
    whole = np.float32(64 * textures.SIDE)
    places = [local[index, :, along] * scale + whole, local[index, :, across] * scale + moved + whole]
    return np.stack(places, axis=-1).astype(np.float32)


def _planes(samples: Samples, corners: Any, values: Floats) -> list[tuple[Floats, Floats, Floats]]:
    """Return each column of `values` (n, 3, k) over distance, and last 1 / distance, as planes of the faces.

    A plane is its value at the face's first corner and what a sample to the right and one down add.
    """
    x, y = samples.u[corners], samples.v[corners]
    near = samples.inverse[corners]
    x1, y1, x2, y2 = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0], x[:, 2] - x[:, 0], y[:, 2] - y[:, 0]
    area = x1 * y2 - x2 * y1
    out = []
    for k in range(values.shape[2] + 1):
        value = near * values[..., k] if k < values.shape[2] else near
        one, other = value[:, 1] - value[:, 0], value[:, 2] - value[:, 0]
        out.append((np.ascontiguousarray(value[:, 0]), (one * y2 - other * y1) / area, (other * x1 - one * x2) / area))
    return out


def drawn(
    view: View, scene: Scene, shown: Seen, light: Environment, shadows: Shadows, beam: Beam | None = None
) -> Drawn:
    """Return the furniture's colours wherever it is seen."""
    at = shown.samples
    high, wide = shown.faces[0].shape
    shader = Shader(view, scene, shown, light, shadows, beam)
    count = np.zeros(high * wide, np.uint8)
    for each in shown.faces:
        count += (each >= 0).reshape(-1)
    pixels = np.flatnonzero(count)
    alone = np.zeros(len(pixels), np.bool_)
    full = np.flatnonzero(count[pixels] == len(shown.faces))
    for start in range(0, len(full), 4 * _SHADED):
        some = full[start : start + 4 * _SHADED]
        alone[some] = shader.same(pixels[some])
    colours = np.empty((len(pixels), 3), np.float32)
    first = shown.faces[0].reshape(-1)
    for some in _chunks(np.flatnonzero(alone)):
        chunk = pixels[some]
        row, column = np.divmod(chunk, wide)
        colours[some] = shader.colours(first[chunk], column * SAMPLES, row * SAMPLES)
    for some in _chunks(np.flatnonzero(~alone)):
        colours[some] = _edge_colours(shader, shown, pixels[some])
    row, column = np.divmod(pixels, wide)
    place = (row + at.top) * view.width + column + at.left
    return Drawn(place, colours, count[pixels] * np.float32(1 / len(shown.faces)))


def _chunks(numbers: Any) -> list[Any]:
    return [numbers[start : start + _SHADED] for start in range(0, len(numbers), _SHADED)]


def _edge_colours(shader: Shader, shown: Seen, pixels: Any) -> Floats:
    """Return the colours of pixels that show more than one surface: each face is shaded once and counts its samples."""
    wide = shown.faces[0].shape[1]
    four = [each.reshape(-1)[pixels] for each in shown.faces]
    row, column = np.divmod(pixels, wide)
    out = np.zeros((len(pixels), 3), np.float32)
    for k, face in enumerate(four):
        fresh = face >= 0
        for earlier in four[:k]:
            fresh &= face != earlier
        some = np.flatnonzero(fresh)
        if not len(some):
            continue
        weight = np.ones(len(some), np.float32)
        for later in four[k + 1 :]:
            weight += later[some] == face[some]
        value = shader.colours(face[some], column[some] * SAMPLES + k % SAMPLES, row[some] * SAMPLES + k // SAMPLES)
        out[some] += value * (weight / np.float32(len(four)))[:, None]
    return out
