"""Decoding and encoding pictures: plain functions, run in the subprocesses of `shared.staging.pool`.

Every picture from outside is hostile until it has been decoded whole, within limits, and encoded anew.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from typing import Final

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError, WrongShape
from shared.ports import Finished, Photo
from shared.settings import PhotoLimits
from shared.staging import containers
from shared.staging.colours import Colours, to_srgb
from shared.staging.shapes import fits, frame
from shared.untrusted.kinds import kind_of

FORMATS: Final = (
    "JPEG",
    "PNG",
    "WEBP",
    "HEIF",
)  # what cameras, phones and CRMs send; every extra decoder is extra attack surface
SMALLEST_DRAFT: Final = 0.97  # of the longest side: 2000 pixels will do where 2048 are wanted
_BARS: Final = (128, 128, 128)
_TAKEN_APART: Final = ("JPEG", "PNG", "WEBP")  # by `containers`, which the decoder's own metadata do not overrule
_FILM_CURVES: Final = frozenset({1, 6, 14, 15})  # ITU-T H.273, table 3
_SRGB_CURVE: Final = 13
_JPEG: Final = b"\xff\xd8\xff"
_THUMBNAIL_QUALITY: Final = 80  # looked at, never worked on
_SMALLEST_SHARE: Final = 6  # of the photo's longest side: less is a thumbnail, not a picture
_ORIGINAL_SIDE: Final = 1600  # pixels: a laptop's width, for the report's comparison
_ORIGINAL_QUALITY: Final = 85  # some 250 KB
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

pillow_heif.register_heif_opener()

Reject = Callable[[ErrorCode, str], CodedError]


def normalise(data: bytes, limits: PhotoLimits) -> Photo:
    """Return a customer's photo as upright RGB JPEG within the size limit, without metadata.

    Raises `ImageRejected`.
    """
    picture, colours = _opened(data, limits, ImageRejected)
    with picture:
        if min(picture.size) < limits.min_pixels_side:
            message = f"{picture.width} x {picture.height} pixels, needs {limits.min_pixels_side} each way"
            raise ImageRejected(ErrorCode.PICTURE_TOO_SMALL, message)
        small = _fitted(to_srgb(picture, colours), limits.max_side_pixels)
        if min(small.size) < limits.min_pixels_side:
            message = f"{picture.width} x {picture.height} pixels: too narrow to stage"
            raise ImageRejected(ErrorCode.PICTURE_TOO_SMALL, message)
    return Photo(
        jpeg=_jpeg(small, limits.jpeg_quality),
        width=small.width,
        height=small.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def framed(photo: Photo, limits: PhotoLimits) -> Photo:
    """Return the photo with grey bars around it, so that it has a shape models draw; itself when it has one.

    What a model makes of the bars is cut away again by `finish`, and nothing of the room with it.
    """
    size = frame(photo.width, photo.height)
    if size is None:
        return photo
    with Image.open(io.BytesIO(photo.jpeg), formats=("JPEG",)) as picture:
        whole = Image.new("RGB", size, _BARS)
        whole.paste(picture, ((size[0] - photo.width) // 2, (size[1] - photo.height) // 2))
    return Photo(jpeg=_jpeg(whole, limits.jpeg_quality), width=size[0], height=size[1], sha256=photo.sha256)


def finish(picture_data: bytes, photo: Photo, limits: PhotoLimits) -> Finished:
    """Return a model's picture in the photo's aspect ratio, with thumbnails.

    Raises `WorldError` when it is damaged, and `WrongShape` when much of it would have to be cut away.
    """
    picture, colours = _opened(picture_data, limits, _bad_answer)
    with picture:
        rgb = to_srgb(picture, colours)
    if not fits(rgb.width, rgb.height, photo.width, photo.height):
        raise WrongShape(f"it is {rgb.width} x {rgb.height}, the photo {photo.width} x {photo.height}")
    if max(rgb.size) < max(photo.width, photo.height) / _SMALLEST_SHARE:
        raise _bad_answer(ErrorCode.VENDOR_BAD_ANSWER, f"it has only {rgb.width} x {rgb.height} pixels")
    scale = min(limits.max_side_pixels / max(photo.width, photo.height), max(rgb.size) / max(photo.width, photo.height))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    if rgb.size != size:
        rgb = ImageOps.fit(rgb, size, Image.Resampling.LANCZOS)  # the bars of `framed` are cut away here
    jpeg = _jpeg(rgb, limits.jpeg_quality)
    with Image.open(io.BytesIO(photo.jpeg), formats=("JPEG",)) as before:
        shown = _fitted(before.convert("RGB"), _ORIGINAL_SIDE)
        before_thumbnail = _thumbnail(shown, limits)
    return Finished(
        jpeg=jpeg,
        thumbnail=_thumbnail(rgb, limits),
        before=before_thumbnail,
        width=rgb.width,
        height=rgb.height,
        sha256=hashlib.sha256(jpeg).hexdigest(),
        original=_jpeg(shown, _ORIGINAL_QUALITY),
    )


def _draft(picture: Image.Image, limits: PhotoLimits) -> None:
    """Let the JPEG decoder halve the picture on its way, down to a little below the size we work in.

    A 12 MP photo (4000 pixels) comes out at 2000 at once, instead of being decoded whole and resampled to 2048: half
    of the time of all picture work, and a quarter of its memory. Other formats know no such thing and stay as they are.
    """
    share = limits.max_side_pixels * SMALLEST_DRAFT / max(picture.size)
    size = (int(picture.width * share), int(picture.height * share))
    if share < 1 and min(size) >= limits.min_pixels_side:
        picture.draft(None, size)


def _bad_answer(_: ErrorCode, message: str) -> WorldError:
    return WorldError(ErrorCode.VENDOR_BAD_ANSWER, f"the generated picture cannot be used: {message}")


def _opened(data: bytes, limits: PhotoLimits, reject: Reject) -> tuple[Image.Image, Colours]:
    """Decode whole, upright, and say what the file tells of its colours.

    `Image.verify` would pass a truncated picture; only `load` finds out.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of pictures up to twice its pixel limit, and of much else that does no harm.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.MAX_IMAGE_PIXELS = limits.max_pixels
            contents = containers.read(data)
            picture = _loaded(contents.data, limits)
            colours = contents.colours if picture.format in _TAKEN_APART else _heif_colours(picture)
            turn = _TURNS.get(contents.orientation)
            return (picture.transpose(turn) if turn is not None else picture), colours
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        message = f"more than {limits.max_pixels / 1_000_000:g} megapixels"
        raise reject(ErrorCode.PICTURE_TOO_LARGE, message) from None
    except MemoryError:
        raise reject(ErrorCode.PICTURE_TOO_LARGE, "decoding it needs more memory than a photo may") from None
    except containers.Damaged as error:
        raise reject(ErrorCode.NOT_A_PICTURE, _damaged(data, error)) from None
    except UnidentifiedImageError:
        raise reject(ErrorCode.NOT_A_PICTURE, _unidentified(data)) from None
    except Exception as error:  # a decoder may raise anything on hostile bytes; all of it means the same
        raise reject(ErrorCode.NOT_A_PICTURE, _damaged(data, error)) from None


def _loaded(data: bytes, limits: PhotoLimits) -> Image.Image:
    try:
        return _decoded(data, limits)
    except OSError as error:
        cut = data.startswith(_JPEG) and "truncated" in str(error)
        endings = containers.jpeg_endings(data) if cut else None
        if endings is None:
            raise
        # Uploads lose the end marker. All pixels are there when what follows them makes no difference.
        ended, probes = endings
        first, *others = (_decoded(probe, limits).tobytes() for probe in probes)
        if any(other != first for other in others):
            raise
        return _decoded(ended, limits)


def _decoded(data: bytes, limits: PhotoLimits) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.width * picture.height > limits.max_pixels:
        raise Image.DecompressionBombError
    _draft(picture, limits)
    picture.load()
    return picture


def _heif_colours(picture: Image.Image) -> Colours:
    """HEIC's ICC profile, which goes before the code points of its colour box."""
    icc, box = picture.info.get("icc_profile"), picture.info.get("nclx_profile")
    if icc or not box:
        return Colours(icc=icc)
    # Phones encode stills with a film's encoder, which names a film's curve for what is sRGB.
    curve = box["transfer_characteristics"]
    return Colours(cicp=(box["color_primaries"], _SRGB_CURVE if curve in _FILM_CURVES else curve))


def _damaged(data: bytes, error: Exception) -> str:
    return f"the file is {kind_of(data) or 'a picture'}, but damaged: {str(error)[:200]}"


def _unidentified(data: bytes) -> str:
    """Why no decoder takes the file."""
    kind = kind_of(data)
    if data.startswith(_JPEG) or kind in ("a PNG picture", "a WebP picture", "a HEIC picture"):
        return f"the file is {kind}, but damaged"
    if kind is None:
        return "the file is none of JPEG, PNG, WebP, HEIC" if data else "the file is empty"
    page = " (a share link, or a page that asks to sign in?)" if "page" in kind else ""
    return f"the file is {kind}{page}, and none of JPEG, PNG, WebP, HEIC"


def _fitted(picture: Image.Image, longest: int) -> Image.Image:
    if max(picture.size) <= longest:
        return picture
    scale = longest / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # reducing_gap: a cheap halving first; three times the target keeps the result indistinguishable.
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _thumbnail(picture: Image.Image, limits: PhotoLimits) -> bytes:
    small = picture.copy()
    small.thumbnail((limits.thumbnail_side_pixels, limits.thumbnail_side_pixels), Image.Resampling.LANCZOS)
    return _jpeg(small, _THUMBNAIL_QUALITY)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    clean = Image.frombytes(
        "RGB", picture.size, picture.tobytes()
    )  # nothing but pixels: no EXIF, no profile, no comment
    out = io.BytesIO()
    clean.save(out, "JPEG", quality=quality, optimize=False, subsampling="4:2:0")
    return out.getvalue()
