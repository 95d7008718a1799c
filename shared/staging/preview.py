"""The preview model: a stand-in for trying the system without a key, a network or a bill. It says so on every picture.

It works on the real photo. *Analyse* measures: light, colours, and the floor as the region below the strongest
continuous edge that crosses the lower part of the picture (a seam found by dynamic programming). *Generate* draws
plain furniture in the style's colours on that floor, in perspective, and leaves every pixel outside it unchanged.
*Verify* compares the two pictures. Plain functions on bytes; they run in the picture subprocesses.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shared.errors import ImageRejected, WorldError
from shared.ports import Answer, Photo, Request, Usage
from shared.staging.answers import Analysis, Light, Point, Verdict
from shared.staging.catalogue import FURNITURE, LOOKS, Look
from shared.staging.pool import PicturePool

LABEL: Final = "PREVIEW – virtually staged"
NAME: Final = "preview"
PROMPTS: Final = "preview-1"  # it reads no prompts; the version tells pictures of different drawing code apart

Floats = NDArray[np.float32]

_MEASURE_WIDTH: Final = 160  # pixels; the floor's edge needs no more, and the seam takes 5 ms
_FLOOR_FROM, _FLOOR_TO = 0.42, 0.88  # of the height: where floors end in photos of rooms taken at eye level
_SEAM_STEP: Final = 2  # rows the seam may climb per column: wall corners run up to about 60 degrees
_OUTLINE_POINTS: Final = 33
_COMPARE_WIDTH: Final = 512
_CHANGED: Final = 24  # of 255: more than JPEG does to a pixel at our quality
_JPEG_QUALITY: Final = 95

# Where pieces stand on the floor: across from -1 (left) to 1 (right), depth from 0 (near) to 1 (far); then width, depth
# and height relative to the floor. "flat" lies on the floor.
_PLACES: Final[dict[str, tuple[float, float, float, float, float]]] = {
    "rug": (0.0, 0.10, 1.15, 0.22, 0.0),
    "runner rug": (0.0, 0.08, 0.5, 0.5, 0.0),
    "bath mat": (0.0, 0.12, 0.45, 0.12, 0.0),
    "exercise mat": (-0.45, 0.10, 0.4, 0.2, 0.0),
}
_SPOTS: Final = (  # for pieces that stand; the first piece of a room gets the first spot
    (-0.30, 0.26, 0.86, 0.14),
    (0.04, 0.12, 0.44, 0.08),
    (0.66, 0.20, 0.36, 0.12),
    (-0.86, 0.14, 0.22, 0.08),
    (0.92, 0.42, 0.24, 0.10),
    (0.44, 0.46, 0.44, 0.10),
)
_LOW: Final = ("table", "bed", "lounger", "bench", "ottoman", "mat", "stool", "basket", "planter")


# --- analyse


def measure(jpeg: bytes, room_type: str) -> Analysis:
    """The room as far as simple measurements tell."""
    pixels = _pixels(jpeg, _MEASURE_WIDTH)
    edge = floor_edge(pixels)
    height, width = pixels.shape[:2]
    columns = np.linspace(0, width - 1, _OUTLINE_POINTS).astype(int)
    outline = [Point(x=float(c / (width - 1)), y=float(edge[c] / height)) for c in columns]
    far = np.flatnonzero(edge <= np.percentile(edge, 10))
    luma = pixels @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
    red, blue = float(pixels[..., 0].mean()), float(pixels[..., 2].mean())
    room = room_type.replace("_", " ")
    return Analysis(
        summary=f"Measured, not understood: {room}, floor below {edge.mean() / height:.0%} of the height.",
        floor=[*outline, Point(x=1, y=1), Point(x=0, y=1)],
        vanishing_point=Point(x=float(far.mean() / (width - 1)), y=max(0.0, float(edge.min() / height) - 0.12)),
        openings=[],
        light=Light(
            direction=_light_direction(luma),
            brightness=min(1.0, float(luma.mean()) / 255),
            temperature_kelvin=int(np.clip(6500 * (blue + 1) / (red + 1), 2000, 12000)),
        ),
        palette=_palette(jpeg),
        must_not_change=["everything above the floor"],
    )


def floor_edge(pixels: Floats) -> NDArray[np.intp]:
    """Per column the row where the floor begins: the seam of strongest vertical contrast in the lower part."""
    height, width = pixels.shape[:2]
    smooth = np.apply_along_axis(lambda rows: np.convolve(rows, np.ones(5) / 5, "same"), 0, pixels.mean(axis=2))
    contrast = np.abs(np.diff(smooth, axis=0, prepend=smooth[:1]))
    low, high = int(height * _FLOOR_FROM), int(height * _FLOOR_TO)
    window = contrast[low:high]
    rows = window.shape[0]
    best = np.empty((width, rows), dtype=np.float64)
    came = np.zeros((width, rows), dtype=np.intp)
    best[0] = window[:, 0]
    for column in range(1, width):
        padded = np.pad(best[column - 1], _SEAM_STEP, constant_values=-np.inf)
        steps = np.stack([padded[step : step + rows] - abs(step - _SEAM_STEP) for step in range(2 * _SEAM_STEP + 1)])
        choice = steps.argmax(axis=0)
        came[column] = np.arange(rows) + choice - _SEAM_STEP
        best[column] = steps.max(axis=0) + window[:, column]
    seam = np.empty(width, dtype=np.intp)
    seam[-1] = best[-1].argmax()
    for column in range(width - 1, 0, -1):
        seam[column - 1] = came[column, seam[column]]
    return seam + low


def _light_direction(luma: Floats) -> Any:
    """left or right when that third of the upper half is clearly brighter; otherwise diffuse."""
    upper = luma[: luma.shape[0] // 2]
    third = upper.shape[1] // 3
    left, right = float(upper[:, :third].mean()), float(upper[:, -third:].mean())
    if left > right * 1.08:
        return "left"
    return "right" if right > left * 1.08 else "diffuse"


def _palette(jpeg: bytes) -> list[str]:
    """The five main colours, most frequent first."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
        small = picture.convert("RGB").resize((64, 64)).quantize(5)
    colours = small.getpalette() or []
    counted = sorted(small.getcolors() or [], reverse=True)
    return [
        "#{:02x}{:02x}{:02x}".format(*colours[3 * int(i) : 3 * int(i) + 3]) for _, i in counted if isinstance(i, int)
    ]


# --- generate


def furnish(jpeg: bytes, analysis: Analysis, room_type: str, design_style: str) -> bytes:
    """The photo with furniture on its floor and the label, as JPEG."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
        photo = picture.convert("RGB")
    staged = draw_furniture(photo, analysis, room_type, design_style)
    _write_label(staged)
    out = io.BytesIO()
    staged.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()


def draw_furniture(photo: Image.Image, analysis: Analysis, room_type: str, design_style: str) -> Image.Image:
    """The photo with furniture drawn on the floor; every pixel outside the floor is the photo's own."""
    layer = photo.copy()
    draw = ImageDraw.Draw(layer)
    floor = _Floor(photo.size, analysis)
    look = LOOKS[design_style]
    brightness = 0.55 + 0.6 * analysis.light.brightness
    for piece, box in sorted(_layout(room_type), key=lambda item: (item[1][4] > 0, -item[1][1])):
        colour = _shade(_colour_of(piece, look), brightness)
        _draw_box(draw, floor, box, colour)
    mask = Image.new("L", photo.size, 0)
    ImageDraw.Draw(mask).polygon(floor.outline, fill=255)
    return Image.composite(layer, photo, mask)


def _layout(room_type: str) -> list[tuple[str, tuple[float, float, float, float, float]]]:
    """Each piece of the room with (across, depth, width, length, height)."""
    placed = []
    spots = iter(_SPOTS)
    for piece in FURNITURE[room_type]:
        if piece in _PLACES:
            placed.append((piece, _PLACES[piece]))
            continue
        spot = next(spots, None)
        if spot is not None:
            height = 0.13 if any(word in piece for word in _LOW) else 0.24
            placed.append((piece, (*spot, height)))
    return placed


class _Floor:
    """Maps places on the floor to pixels: near is the picture's bottom, far the highest part of its edge."""

    def __init__(self, size: tuple[int, int], analysis: Analysis) -> None:
        width, height = size
        self.outline = [(point.x * width, point.y * height) for point in analysis.floor]
        self._near = float(height)
        self._far = min(y for _, y in self.outline)
        # Furniture stands near the middle of the picture: the vanishing point may lie far to one side.
        self._middle = (0.35 * analysis.vanishing_point.x + 0.325) * width
        self._half = width * 0.62
        # The floor narrows towards the horizon, which lies above its far edge.
        self._horizon = min(analysis.vanishing_point.y * height, self._far - 0.04 * height)

    def point(self, across: float, depth: float, up: float = 0.0) -> tuple[float, float]:
        """Pixel of a place; `up` in units of the floor's near half width."""
        ratio = (self._far - self._horizon) / (self._near - self._horizon)
        scale = 1 / (1 + depth * (1 / ratio - 1))  # 1 near, `ratio` at the far edge: as distance shrinks things
        y = self._horizon + (self._near - self._horizon) * scale
        return self._middle + across * self._half * scale, y - up * self._half * scale


def _draw_box(
    draw: ImageDraw.ImageDraw,
    floor: _Floor,
    box: tuple[float, float, float, float, float],
    colour: tuple[int, int, int],
) -> None:
    """A box with a soft contact shadow: its top, front and sides, each in its own shade."""
    across, depth, width, length, height = box
    left, right, near, far = across - width / 2, across + width / 2, depth, min(0.98, depth + length)
    base = [floor.point(x, d) for x, d in ((left, near), (right, near), (right, far), (left, far))]
    top = [floor.point(x, d, height) for x, d in ((left, near), (right, near), (right, far), (left, far))]
    if height > 0:
        front, ends = max(0.0, near - 0.02), (left - 0.03, right + 0.03)
        grown = [floor.point(x, d) for x, d in ((ends[0], front), (ends[1], front), (ends[1], far), (ends[0], far))]
        draw.polygon(grown, fill=_shade(colour, 0.35))
        for start in (1, 3):
            end = (start + 1) % 4
            draw.polygon([base[start], base[end], top[end], top[start]], fill=_shade(colour, 0.72))
        draw.polygon([base[0], base[1], top[1], top[0]], fill=_shade(colour, 0.85))
    draw.polygon(top, fill=colour, outline=_shade(colour, 0.6))


def _colour_of(piece: str, look: Look) -> str:
    if any(word in piece for word in ("rug", "mat", "plant", "lamp")):
        return look.accent
    if any(word in piece for word in ("table", "desk", "shelf", "dresser", "console", "sideboard", "bench")):
        return look.frame
    return look.large


def _shade(colour: str | tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = _rgb(colour) if isinstance(colour, str) else colour
    return (min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor)))


def _rgb(colour: str) -> tuple[int, int, int]:
    return (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))


def _write_label(picture: Image.Image) -> None:
    """The label in the lower left corner. Pillow's own font has no en dash, so that one is drawn as a line."""
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


# --- verify


def compare(before: bytes, after: bytes, analysis: Analysis, design_style: str) -> Verdict:
    """Score the furnished picture against the photo: what changed, where, and into which colours."""
    photo, staged = _pixels(before, _COMPARE_WIDTH), _pixels(after, _COMPARE_WIDTH)
    if photo.shape != staged.shape:
        return Verdict(structure_kept=0, realism=0, style_fit=0, defects=["the picture has another aspect ratio"])
    height, width = photo.shape[:2]
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).polygon([(point.x * width, point.y * height) for point in analysis.floor], fill=255)
    on_floor = np.asarray(mask) > 0
    changed = np.abs(photo - staged).max(axis=2) > _CHANGED
    kept = 1 - float(changed[~on_floor].mean()) if (~on_floor).any() else 1.0
    furnished = float(changed[on_floor].mean()) if on_floor.any() else 0.0
    realism = _furnished_score(furnished)
    style_fit = _style_score(staged[changed & on_floor], design_style)
    defects = []
    if kept < 0.97:
        defects.append(f"{1 - kept:.0%} of the picture outside the floor changed")
    if furnished < 0.05:
        defects.append("hardly any furniture is to be seen")
    return Verdict(structure_kept=max(0.0, 1 - 5 * (1 - kept)), realism=realism, style_fit=style_fit, defects=defects)


def _furnished_score(share: float) -> float:
    """1 when a sensible part of the floor (10 to 75 %) carries furniture, falling to 0 at none and all."""
    if share < 0.10:
        return share / 0.10
    return 1.0 if share <= 0.75 else max(0.0, (1 - share) / 0.25)


def _style_score(pixels: Floats, design_style: str) -> float:
    """How near the changed pixels' hues are to the style's three colours, whatever the light on them."""
    if not len(pixels):
        return 0.0
    look = LOOKS[design_style]
    wanted = np.array([_rgb(colour) for colour in (look.large, look.frame, look.accent)], dtype=np.float32)
    unit = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1)
    directions = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    nearest = (unit @ directions.T).max(axis=1)  # cosine: 1 is the very hue
    return float(np.clip((nearest.mean() - 0.9) / 0.1, 0, 1))


def _pixels(jpeg: bytes, width: int) -> Floats:
    """The picture scaled to `width`, as floats 0 to 255, shape (height, width, 3)."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
        picture.draft("RGB", (width, width))
        height = max(1, round(picture.height * width / picture.width))
        small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


# --- the model


class PreviewModel:
    """Implements `shared.ports.StagingModel` with the functions above, run in the picture subprocesses."""

    def __init__(self, pool: PicturePool) -> None:
        self._run: Callable[..., Any] = pool.run

    @property
    def prompts(self) -> str:
        return PROMPTS

    @property
    def text_model(self) -> str:
        return NAME

    @property
    def image_model(self) -> str:
        return NAME

    async def analyse(self, photo: Photo, request: Request) -> Answer[Analysis]:
        return Answer(await self._run(ImageRejected, measure, photo.jpeg, request.room_type), Usage(NAME))

    async def generate(
        self, photo: Photo, analysis: Analysis, request: Request, defects: Sequence[str]
    ) -> Answer[bytes]:
        work = self._run(WorldError, furnish, photo.jpeg, analysis, request.room_type, request.design_style)
        return Answer(await work, Usage(NAME))

    async def verify(self, photo: Photo, picture: bytes, analysis: Analysis, request: Request) -> Answer[Verdict]:
        work = self._run(WorldError, compare, photo.jpeg, picture, analysis, request.design_style)
        return Answer(await work, Usage(NAME))

    async def aclose(self) -> None:
        """Nothing is open: the subprocesses are their owner's."""
