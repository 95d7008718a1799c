"""Drawing: which triangle each sample of the picture shows, what it looks like there, and how it goes into the photo.

Everything is float32 and done in bands and chunks: a 2,048 pixel photo takes less than 300 MiB with Python itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image

from shared.staging.preview import light as lighting
from shared.staging.preview import textures
from shared.staging.preview.meshes import Mesh
from shared.staging.preview.openings import WALLS, Sides
from shared.staging.preview.views import Floats, View

SAMPLES: Final = 2  # a pixel, each way
_CHUNK: Final = 200_000  # fragments at once
_SHADED: Final = 60_000  # samples at once
_ROWS: Final = 384  # of samples whose distances are kept at once
_BAND: Final = 96  # rows composed at once
_CREASE: Final = 0.93  # cosine between neighbouring samples' normals above which one sample stands for four
_UNSEEN: Final = 0.015  # of the light: this part of a shadow is left out; unseen, and more pixels stay the photo's


def to_linear() -> Floats:
    """Return the 256 linear values of sRGB's."""
    value = np.arange(256, dtype=np.float32) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


LINEAR: Final = to_linear()
_FINE: Final = 4096


def _to_srgb() -> Floats:
    value = np.arange(_FINE + 1, dtype=np.float32) / _FINE
    return (255 * np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)).astype(np.float32)


_SRGB: Final = _to_srgb()


def brightest(colours: Floats) -> Floats:
    """Return the largest of three channels; numpy's own `max` over an axis of three takes ten times as long."""
    return np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])


def darkest(colours: Floats) -> Floats:
    """Return the smallest of three channels."""
    return np.minimum(np.minimum(colours[..., 0], colours[..., 1]), colours[..., 2])


def to_srgb(linear: Floats) -> Floats:
    """Return 0 to 255, not rounded, of linear values."""
    return _SRGB[(np.clip(linear, 0, 1) * np.float32(_FINE) + np.float32(0.5)).astype(np.int32)]


@dataclass(frozen=True)
class Decal:
    """A rug: a rectangle on the floor. `ground` and `figure` are linear colours."""

    x: float
    y: float
    width: float
    depth: float
    turn: float  # radians
    pattern: str
    ground: tuple[float, float, float]
    figure: tuple[float, float, float]
    round: bool = False


@dataclass
class Scene:
    """All meshes as one, and what lies flat."""

    vertices: Floats
    normals: Floats
    local: Floats
    faces: Any
    part: Any  # of each face
    look: Any  # of each face: row of the material tables
    colour: Floats
    texture: Any
    scale: Floats
    strength: Floats
    gloss: Floats
    velvet: Floats
    thin: Any
    glow: Floats
    decals: list[Decal]
    pieces: Any  # of each face: number of its piece


def gathered(meshes: list[Mesh], decals: list[Decal]) -> Scene:
    """Return pieces as one scene."""
    materials = [material for mesh in meshes for material in mesh.materials]
    v = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    p = np.cumsum([0, *(int(mesh.part.max()) + 1 for mesh in meshes)])
    m = np.cumsum([0, *(len(mesh.materials) for mesh in meshes)])
    every = list(enumerate(meshes))

    def column(name: str, kind: Any = np.float32) -> Any:
        return np.array([getattr(material, name) for material in materials], kind)

    return Scene(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        local=np.concatenate([mesh.local for mesh in meshes]),
        faces=np.concatenate([mesh.faces + np.int32(v[k]) for k, mesh in every]),
        part=np.concatenate([mesh.part + np.int32(p[k]) for k, mesh in every]),
        look=np.concatenate([mesh.material.astype(np.int32) + np.int32(m[k]) for k, mesh in every]),
        colour=column("colour"),
        texture=np.array([textures.NAMES.index(material.texture) for material in materials], np.int32),
        scale=column("scale"), strength=column("strength"), gloss=column("gloss"), velvet=column("velvet"),
        thin=column("thin", np.bool_), glow=column("glow"), decals=decals,
        pieces=np.concatenate([np.full(len(mesh.faces), k, np.int32) for k, mesh in every]),
    )  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """For each sample of a rectangle of the picture the face it shows, or -1."""

    left: int
    top: int
    faces: Any  # (height * SAMPLES, width * SAMPLES)
    u: Floats  # of each vertex, in samples from the rectangle's corner
    v: Floats
    inverse: Floats  # 1 / distance of each vertex


def raster(view: View, scene: Scene) -> Samples | None:
    """Return what each sample shows; None when nothing is in the picture."""
    u, v, depth = view.project(scene.vertices)
    corners = scene.faces
    ahead = darkest(depth[corners]) > 0.12
    if not ahead.any():
        return None
    used = np.unique(corners[ahead])
    left, right = max(0, int(u[used].min()) - 1), min(view.width, int(u[used].max()) + 2)
    top, low = max(0, int(v[used].min()) - 1), min(view.height, int(v[used].max()) + 2)
    if right <= left or low <= top:
        return None
    wide, high = (right - left) * SAMPLES, (low - top) * SAMPLES
    su = ((u - left) * SAMPLES - 0.5).astype(np.float32)
    sv = ((v - top) * SAMPLES - 0.5).astype(np.float32)
    inverse = (1 / np.maximum(depth, 0.05)).astype(np.float32)
    x, y = su[corners], sv[corners]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    turned = (area < 0) | scene.thin[scene.look]  # rows count down: faces towards the camera turn the other way
    chosen = np.flatnonzero(ahead & turned & (np.abs(area) > 1e-4))
    x, y, area, w = x[chosen], y[chosen], area[chosen], inverse[corners[chosen]]
    sign = np.sign(area).astype(np.float32)
    # three half planes: a x + b y + c >= 0 inside
    a = np.stack([(y[:, k] - y[:, (k + 1) % 3]) * sign for k in range(3)], axis=1)
    b = np.stack([(x[:, (k + 1) % 3] - x[:, k]) * sign for k in range(3)], axis=1)
    c = -(a * x + b * y)
    dx = ((w[:, 1] - w[:, 0]) * (y[:, 2] - y[:, 0]) - (w[:, 2] - w[:, 0]) * (y[:, 1] - y[:, 0])) / area
    dy = ((w[:, 2] - w[:, 0]) * (x[:, 1] - x[:, 0]) - (w[:, 1] - w[:, 0]) * (x[:, 2] - x[:, 0])) / area
    first = np.clip(np.ceil(darkest(y)), 0, high).astype(np.int32)
    last = np.clip(np.floor(brightest(y)) + 1, 0, high).astype(np.int32)
    planes = _Planes(chosen, a, b, c, dx, dy, x, y, w)
    faces = np.empty((high, wide), np.int32)
    for begin in range(0, high, _ROWS):
        end = min(high, begin + _ROWS)
        buffer = np.zeros((end - begin) * wide, np.int64)
        some = np.flatnonzero((first < end) & (last > begin))
        low_row = np.maximum(first[some], begin)
        count = np.minimum(last[some], end) - low_row
        ends = np.cumsum(count)
        start = 0
        while start < len(some):
            stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _CHUNK // 4)))
            part = slice(start, stop)
            _fill(buffer, wide, begin, planes, some[part], low_row[part], count[part])
            start = stop
        faces[begin:end] = np.where(buffer > 0, buffer & ((1 << 22) - 1), -1).reshape(-1, wide)
    return Samples(left, top, faces, su, sv, inverse)


@dataclass(frozen=True)
class _Planes:
    """Triangles in the picture: their number, three half planes a x + b y + c >= 0, and 1 / distance as a plane."""

    number: Any
    a: Floats
    b: Floats
    c: Floats
    dx: Floats
    dy: Floats
    x: Floats
    y: Floats
    w: Floats


def _fill(buffer: Any, wide: int, top: int, planes: _Planes, some: Any, first: Any, count: Any) -> None:
    """Put triangles into the buffer of a few rows: the nearest face of each sample, its distance in the upper bits.

    `some` are the triangles; each covers `count` rows from `first` on.
    """
    face = np.repeat(some, count)
    if not len(face):
        return
    row = (np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)).astype(np.int32)
    a, b, c = planes.a, planes.b, planes.c
    low, high = np.full(len(face), -1e9, np.float32), np.full(len(face), 1e9, np.float32)
    for k in range(3):
        slope, rest = a[face, k], b[face, k] * row + c[face, k]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = -rest / slope
        low = np.where(slope > 1e-9, np.maximum(low, at), low)
        high = np.where(slope < -1e-9, np.minimum(high, at), high)
        high = np.where((np.abs(slope) <= 1e-9) & (rest < 0), -1e9, high)
    begin = np.clip(np.ceil(low), 0, wide).astype(np.int32)
    end = np.clip(np.floor(high) + 1, 0, wide).astype(np.int32)
    count = np.maximum(end - begin, 0)
    keep = count > 0
    face, row, begin, count = face[keep], row[keep], begin[keep], count[keep]
    position = 0
    ends = np.cumsum(count)
    while position < len(face):
        stop = max(position + 1, int(np.searchsorted(ends, (ends[position - 1] if position else 0) + _CHUNK)))
        n = count[position:stop]
        f = np.repeat(face[position:stop], n)
        col = np.arange(len(f), dtype=np.int32) - np.repeat(np.cumsum(n) - n, n) + np.repeat(begin[position:stop], n)
        line = np.repeat(row[position:stop], n)
        inverse = planes.w[f, 0] + planes.dx[f] * (col - planes.x[f, 0]) + planes.dy[f] * (line - planes.y[f, 0])
        key = (np.clip(inverse, 1e-3, 8).astype(np.float64) * (1 << 34)).astype(np.int64)
        np.maximum.at(buffer, (line - top).astype(np.int64) * wide + col, (key & ~((1 << 22) - 1)) | planes.number[f])
        position = stop


class Shader:
    """Shades samples of a scene: colours, light per vertex, highlights."""

    def __init__(self, view: View, scene: Scene, samples: Samples, light: lighting.Environment, glow: Floats) -> None:
        self._view, self._scene, self._samples, self._light, self._glow = view, scene, samples, light, glow
        self._strong = light.strongest(6)
        corners = scene.local[scene.faces]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self._normal = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
        axis = np.abs(self._normal).argmax(axis=1)
        parts = int(scene.part.max()) + 1
        low, high = np.full((parts, 3), np.inf, np.float32), np.full((parts, 3), -np.inf, np.float32)
        np.minimum.at(low, scene.part, corners.min(axis=1))
        np.maximum.at(high, scene.part, corners.max(axis=1))
        extent = (high - low)[scene.part]
        extent[np.arange(len(axis)), axis] = -1
        self._along = extent.argmax(axis=1)
        self._across = 3 - axis - self._along
        world = scene.vertices[scene.faces]
        facing = np.cross(world[:, 1] - world[:, 0], world[:, 2] - world[:, 0])
        self.facing = (facing / np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def colours(self, faces: Any, column: Any, row: Any) -> Floats:
        """Return the linear colours of samples: the faces they show and where they are."""
        scene, at = self._scene, self._samples
        corners = scene.faces[faces]
        x, y, w = at.u[corners], at.v[corners], at.inverse[corners]
        area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
        one = ((x[:, 1] - column) * (y[:, 2] - row) - (x[:, 2] - column) * (y[:, 1] - row)) / area
        other = ((x[:, 2] - column) * (y[:, 0] - row) - (x[:, 0] - column) * (y[:, 2] - row)) / area
        weight = np.clip(np.stack([one, other, 1 - one - other], axis=1), 0, 1) * w
        weight = (weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)

        def mixed(values: Floats) -> Floats:
            return np.einsum("nk,nkc->nc", weight, values[corners])

        look = scene.look[faces]
        normal = mixed(scene.normals)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        place = mixed(scene.vertices)
        view = np.array([0, 0, self._view.eye], np.float32) - place
        view /= np.maximum(np.linalg.norm(view, axis=1, keepdims=True), 1e-6)
        towards = np.einsum("nc,nc->n", normal, view)
        flip = scene.thin[look] & (towards < 0)
        normal = np.where(flip[:, None], -normal, normal)
        towards = np.abs(towards)
        lit = mixed(self._glow)
        local = mixed(scene.local)
        index = np.arange(len(faces))
        scale = textures.SIDE / scene.scale[look]
        a = np.floor(local[index, self._along[faces]] * scale).astype(np.int32) & (textures.SIDE - 1)
        b = np.floor((local[index, self._across[faces]] + 0.37 * scene.part[faces]) * scale).astype(np.int32) & (
            textures.SIDE - 1
        )
        tone = textures.atlas()[scene.texture[look], b, a]
        colour = scene.colour[look] * (1 + 2 * scene.strength[look] * (tone - np.float32(0.5)))[:, None]
        out = colour * lit
        rim = scene.velvet[look] * (1 - towards) ** 2
        out += (rim[:, None] * 0.9) * (colour * 0.6 + 0.1) * lit
        out += colour * scene.glow[look][:, None] * np.float32(3) * lit.mean(axis=1, keepdims=True)
        gloss = scene.gloss[look]
        if (gloss > 0).any():
            mirrored = 2 * np.einsum("nc,nc->n", normal, view)[:, None] * normal - view
            bright = np.zeros_like(out)
            for direction, radiance in zip(*self._strong, strict=True):
                spot = np.maximum(mirrored @ direction, 0) ** 24
                bright += spot[:, None] * radiance
            fresnel = gloss * (np.float32(0.05) + np.float32(0.95) * (1 - np.clip(towards, 0, 1)) ** 5)
            mean = self._light.radiance.mean(axis=0)
            out += fresnel[:, None] * (np.float32(0.6) * bright + np.float32(0.5) * mean)
        over = np.maximum(out - np.float32(0.75), 0)
        return np.minimum(out, np.float32(0.75)) + np.float32(0.25) * (1 - np.exp(-over / np.float32(0.25)))


def drawn(view: View, scene: Scene, light: lighting.Environment, lit: Floats) -> tuple[int, int, Floats, Floats] | None:
    """Return the furniture alone: the rectangle's left and top, premultiplied linear colours, and coverage 0 to 1."""
    samples = raster(view, scene)
    if samples is None:
        return None
    high, wide = samples.faces.shape[0] // SAMPLES, samples.faces.shape[1] // SAMPLES
    quads = samples.faces.reshape(high, SAMPLES, wide, SAMPLES).transpose(0, 2, 1, 3).reshape(-1, SAMPLES * SAMPLES)
    samples = replace(samples, faces=samples.faces[:0])  # half of the memory is enough
    shader = Shader(view, scene, samples, light, lit)
    covered = quads >= 0
    count = covered[:, 0].astype(np.uint8) + covered[:, 1] + covered[:, 2] + covered[:, 3]
    alpha = count * np.float32(0.25)
    pixels = np.flatnonzero(count)
    full = pixels[count[pixels] == SAMPLES * SAMPLES]
    four = quads[full]
    part = scene.part[four]
    same = (part[:, 0] == part[:, 1]) & (part[:, 0] == part[:, 2]) & (part[:, 0] == part[:, 3])
    normal = shader.facing[four[:, 0]]
    for k in (1, 2, 3):
        same &= np.einsum("nc,nc->n", normal, shader.facing[four[:, k]]) > _CREASE
    colours = np.zeros((high * wide, 3), np.float32)
    alone = full[same]
    rest = np.setdiff1d(pixels, alone, assume_unique=True)
    for start in range(0, len(alone), _SHADED):
        chunk = alone[start : start + _SHADED]
        row, column = np.divmod(chunk, wide)
        colours[chunk] = shader.colours(quads[chunk, 0], column * SAMPLES + 0.5, row * SAMPLES + 0.5)
    for start in range(0, len(rest), _SHADED // 4):
        chunk = rest[start : start + _SHADED // 4]
        row, column = np.divmod(chunk, wide)
        for k in range(SAMPLES * SAMPLES):
            hit = covered[chunk, k]
            some = chunk[hit]
            value = shader.colours(
                quads[some, k], column[hit] * SAMPLES + k % SAMPLES, row[hit] * SAMPLES + k // SAMPLES
            )
            colours[some] += value / np.float32(SAMPLES * SAMPLES)
    return samples.left, samples.top, colours.reshape(high, wide, 3), alpha.reshape(high, wide)


def small_picture(photo: Image.Image, side: int) -> Floats:
    """Return the photo in linear light, its longest side `side` pixels."""
    scale = side / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return LINEAR[np.asarray(photo.resize(size, Image.Resampling.BOX))]


def noise_of(photo: Image.Image) -> float:
    """Return the photo's grain (sigma, of 255) from differences of neighbours, most of which are plain wall."""
    width, height = photo.size
    middle = photo.crop((width // 4, height // 8, 3 * width // 4, height // 2)).convert("L")
    grey = np.asarray(middle, np.float32)
    if grey.shape[0] < 8 or grey.shape[1] < 8:
        return 0.0
    second = grey[:, 2:] - 2 * grey[:, 1:-1] + grey[:, :-2]
    return float(min(12.0, np.median(np.abs(second)) / 0.6745 / 2.449))


def render(
    photo: Image.Image, view: View, sides: Sides, meshes: list[Mesh], decals: list[Decal]
) -> tuple[Image.Image, Any]:
    """Return the photo with the pieces in it, and the mask of what changed (bool, height x width).

    Where the mask is False the picture has the photo's very pixels.
    """
    small = small_picture(photo, 256)
    tiny = view.scaled(small.shape[1], small.shape[0])
    pixels = np.asarray(photo).copy()
    mask = np.zeros((photo.height, photo.width), np.bool_)
    places = [mesh.vertices for mesh in meshes if len(mesh.vertices)]
    middle = np.concatenate(places).mean(axis=0) if places else np.array([decals[0].x, decals[0].y, 0.3])
    centre = (float(middle[0]), float(middle[1]), float(min(1.2, max(0.3, middle[2]))))
    light = lighting.environment(small, tiny, sides, centre)
    grids: dict[str, lighting.Grid] = {}
    furniture = None
    if meshes:
        scene = gathered(meshes, decals)
        points = lighting.scattered(meshes)
        shadows = lighting.Shadows(light, points)
        lit = shadows.light(scene.vertices, scene.normals)
        grids["floor"] = lighting.floor_grid(shadows, light, sides, points)
        for wall in WALLS:
            grid = lighting.wall_grid(shadows, light, sides, points, wall)
            if grid is not None:
                grids[wall] = grid
        del shadows
        furniture = drawn(view, scene, light, lit)
    rugs = _Rugs(decals, view, light, lighting.low_pass(small, 14), tiny)
    grain = noise_of(photo)
    chance = np.random.default_rng(11)
    for top in range(0, photo.height, _BAND):
        low = min(photo.height, top + _BAND)
        ratio = _ratios(view, sides, grids, top, low)
        cover, flat = rugs.band(top, low)
        shaded = darkest(ratio) < 1
        touched = shaded.any(axis=0)
        if cover is not None:
            touched |= cover.any(axis=0)
        part = _rows_of(furniture, top, low)
        if part is not None:
            touched[part.left : part.left + part.alpha.shape[1]] |= part.alpha.any(axis=0)
        if not touched.any():
            continue
        first, last = int(touched.argmax()), len(touched) - int(touched[::-1].argmax())
        within = slice(first, last)
        colour = LINEAR[pixels[top:low, within]]
        changed = shaded[:, within]
        light_left = ratio[:, within]
        bright = brightest(colour)[..., None]
        # Windows take no shadow.
        light_left = 1 + (light_left - 1) * np.clip((np.float32(0.97) - bright) / np.float32(0.15), 0, 1)
        own = np.zeros(changed.shape, np.float32)
        if cover is not None and flat is not None:
            own = cover[:, within]
            colour += (flat[:, within] - colour) * own[..., None]
            changed = changed | (own > 0)
        colour *= light_left
        if part is not None:
            a, b = max(first, part.left), min(last, part.left + part.alpha.shape[1])
            if a < b:
                rows, columns = slice(part.top - top, part.top - top + part.alpha.shape[0]), slice(a - first, b - first)
                inner = slice(a - part.left, b - part.left)
                share = part.alpha[:, inner]
                colour[rows, columns] = colour[rows, columns] * (1 - share[..., None]) + part.colours[:, inner]
                changed[rows, columns] |= share > 0
                own = own.copy()
                own[rows, columns] = np.maximum(own[rows, columns], share)
        value = to_srgb(colour[changed])
        if grain > 0.3:
            value += (own[changed] * np.float32(grain))[:, None] * chance.standard_normal(
                (len(value), 1), dtype=np.float32
            )
        pixels[top:low, within][changed] = np.clip(value + np.float32(0.5), 0, 255).astype(np.uint8)
        mask[top:low, within] = changed
    return Image.fromarray(pixels), mask


@dataclass(frozen=True)
class _Strip:
    """The furniture in a band of rows."""

    left: int
    top: int
    colours: Floats
    alpha: Floats


def _rows_of(furniture: tuple[int, int, Floats, Floats] | None, top: int, low: int) -> _Strip | None:
    """Return the part of what `drawn` made that is between two rows."""
    if furniture is None:
        return None
    left, start, colours, alpha = furniture
    a, b = max(top, start), min(low, start + alpha.shape[0])
    return _Strip(left, a, colours[a - start : b - start], alpha[a - start : b - start]) if a < b else None


def _ratios(view: View, sides: Sides, grids: dict[str, lighting.Grid], top: int, low: int) -> Floats:
    """Return the share of light left at each pixel of a band, looked up at every second one."""
    if not grids:
        return np.ones((low - top, view.width, 3), np.float32)
    rows = np.arange(top, low, 2, dtype=np.float32) + 0.5
    columns = np.arange(0, view.width, 2, dtype=np.float32) + 0.5
    ray = view.rays(columns[None, :], rows[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        reach_floor = np.where(ray[..., 2] < -1e-4, -view.eye / ray[..., 2], np.inf)
        side = np.where(ray[..., 0] > 0, sides.right / ray[..., 0], sides.left / ray[..., 0])
        reach_side = np.where(np.abs(ray[..., 0]) > 1e-4, side, np.inf)
        reach_back = np.where(ray[..., 1] > 1e-4, sides.back / ray[..., 1], np.inf)
    nearest = np.minimum(np.minimum(reach_floor, reach_side), reach_back)
    out = np.ones((*nearest.shape, 3), np.float32)
    at = (np.where(np.isfinite(nearest), nearest, 0)[..., None] * ray).astype(np.float32)
    up = at[..., 2] + np.float32(view.eye)
    for name, grid in grids.items():
        if name == "floor":
            here, along, across = nearest == reach_floor, at[..., 0], at[..., 1]
        elif name == "back":
            here, along, across = nearest == reach_back, at[..., 0], up
        else:
            towards = ray[..., 0] < 0 if name == "left" else ray[..., 0] > 0
            here, along, across = (nearest == reach_side) & towards, at[..., 1], up
        here &= np.isfinite(nearest)
        if here.any():
            out[here] = grid.at(along[here], across[here])
    out = np.repeat(np.repeat(out, 2, axis=0), 2, axis=1)[: low - top, : view.width]
    return np.minimum(_eased(out) + np.float32(_UNSEEN), 1)


def _eased(ratio: Floats) -> Floats:
    """Return the doubled picture without its steps: each pixel the mean of itself and its neighbours."""
    wide = np.pad(ratio, ((0, 0), (1, 1), (0, 0)), mode="edge")
    return (wide[:, :-2] + 2 * ratio + wide[:, 2:]) / np.float32(4)


class _Rugs:
    """Rugs as part of the floor: they take the photo's own light, so that sun patches lie on them as on the floor."""

    def __init__(self, decals: list[Decal], view: View, light: lighting.Environment, soft: Floats, tiny: View) -> None:
        self._decals, self._view = decals, view
        up = light.irradiance(np.array([[0, 0, 1.0]], np.float32))[0]
        self._fields = []
        for decal in decals:
            u, v, _ = tiny.project(np.array([[x, y, 0] for x, y in _corners(decal)], np.float32))
            u0, u1 = np.clip([u.min(), u.max()], 0, tiny.width - 1).astype(int)
            v0, v1 = np.clip([v.min(), v.max()], 0, tiny.height - 1).astype(int)
            part = soft[v0 : v1 + 1, u0 : u1 + 1].mean(axis=2)
            usual = max(1e-3, float(np.median(part)))
            share = np.clip(soft.mean(axis=2) / usual, 0.45, 2.0)
            field = Image.fromarray(share.astype(np.float32)).resize(
                (view.width // 4 + 1, view.height // 4 + 1), Image.Resampling.BILINEAR
            )
            self._fields.append((np.asarray(field), up))

    def band(self, top: int, low: int) -> tuple[Floats | None, Floats | None]:
        """Return coverage and colours of a band's pixels; None when no rug is in it."""
        cover: Floats | None = None
        colour: Floats | None = None
        for decal, (field, up) in zip(self._decals, self._fields, strict=True):
            u, v, depth = self._view.project(np.array([[x, y, 0] for x, y in _corners(decal)], np.float32))
            if (depth < 0.1).any():
                continue
            first, last = max(top, int(v.min()) - 1), min(low, int(v.max()) + 2)
            left, right = max(0, int(u.min()) - 1), min(self._view.width, int(u.max()) + 2)
            if first >= last or left >= right:
                continue
            if cover is None or colour is None:
                cover = np.zeros((low - top, self._view.width), np.float32)
                colour = np.zeros((low - top, self._view.width, 3), np.float32)
            hits = np.zeros((last - first, right - left), np.float32)
            figure = np.zeros_like(hits)
            fine = np.zeros_like(hits)
            for dy in (0.25, 0.75):
                for dx in (0.25, 0.75):
                    columns = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(dx)
                    rows = np.arange(first, last, dtype=np.float32)[:, None] + np.float32(dy)
                    x, y = self._view.floor(columns, rows)
                    x, y = np.where(np.isfinite(x), x, 1e4) - decal.x, np.where(np.isfinite(y), y, 1e4) - decal.y
                    c, s = np.float32(np.cos(decal.turn)), np.float32(np.sin(decal.turn))
                    a, b = x * c + y * s, y * c - x * s
                    inside = (np.abs(a) < decal.width / 2) & (np.abs(b) < decal.depth / 2)
                    if decal.round:
                        inside = np.hypot(a, b) < decal.width / 2
                    hits += inside * np.float32(0.25)
                    figure += textures.rug(decal.pattern, a, b, decal.width, decal.depth) * inside * np.float32(0.25)
                    grain = textures.atlas()[1, (b * 900).astype(np.int32) & 255, (a * 900).astype(np.int32) & 255]
                    fine += grain * inside * np.float32(0.25)
            share = np.clip(figure / np.maximum(hits, 1e-6), 0, 1)[..., None]
            value = np.array(decal.ground, np.float32) * (1 - share) + np.array(decal.figure, np.float32) * share
            value = value * (np.float32(0.94) + np.float32(0.12) * (fine / np.maximum(hits, 1e-6)))[..., None]
            rows_at = np.minimum(np.arange(first, last) // 4, field.shape[0] - 1)
            columns_at = np.minimum(np.arange(left, right) // 4, field.shape[1] - 1)
            lit = value * field[rows_at[:, None], columns_at[None, :]][..., None] * up
            over = np.maximum(lit - np.float32(0.75), 0)
            lit = np.minimum(lit, np.float32(0.75)) + np.float32(0.25) * (1 - np.exp(-over / np.float32(0.25)))
            box = (slice(first - top, last - top), slice(left, right))
            colour[box] = np.where(hits[..., None] > 0, lit, colour[box])
            cover[box] = np.maximum(cover[box], hits)
        return cover, colour


def _corners(decal: Decal) -> list[tuple[float, float]]:
    c, s = float(np.cos(decal.turn)), float(np.sin(decal.turn))
    out = []
    for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        x, y = a * decal.width / 2, b * decal.depth / 2
        out.append((decal.x + x * c - y * s, decal.y + x * s + y * c))
    return out
