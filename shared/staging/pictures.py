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
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from shared.errors import CodedError, ErrorCode, ImageRejected, WorldError
from shared.ports import Finished, Photo
from shared.settings import PhotoLimits

FORMATS: Final = (
    "JPEG",
    "PNG",
    "WEBP",
    "HEIF",
)  # what cameras, phones and CRMs send; each decoder more is one more risk
SMALLEST_DRAFT: Final = 0.97  # of the longest side: 2000 pixels will do where 2048 are wanted
_WHITE: Final = (255, 255, 255)
_THUMBNAIL_QUALITY: Final = 80  # looked at, never worked on

pillow_heif.register_heif_opener()

Reject = Callable[[ErrorCode, str], CodedError]


def normalise(data: bytes, limits: PhotoLimits) -> Photo:
    """A customer's photo as upright RGB JPEG within the size limit, without metadata. Raises `ImageRejected`."""
    with _opened(data, limits, ImageRejected) as picture:
        if min(picture.size) < limits.fewest_pixels_side:
            message = f"{picture.width} x {picture.height} pixels, needs {limits.fewest_pixels_side} each way"
            raise ImageRejected(ErrorCode.PICTURE_TOO_SMALL, message)
        small = _fitted(_rgb(picture), limits.longest_side_pixels)
        if min(small.size) < limits.fewest_pixels_side:
            message = f"{picture.width} x {picture.height} pixels: too narrow to stage"
            raise ImageRejected(ErrorCode.PICTURE_TOO_SMALL, message)
    return Photo(
        jpeg=_jpeg(small, limits.jpeg_quality),
        width=small.width,
        height=small.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def finish(picture_data: bytes, photo: Photo, limits: PhotoLimits) -> Finished:
    """A model's picture in the photo's aspect ratio, with thumbnails. Raises `WorldError` when it is damaged."""
    with _opened(picture_data, limits, _bad_answer) as picture:
        rgb = _rgb(picture)
    scale = min(
        limits.longest_side_pixels / max(photo.width, photo.height), max(rgb.size) / max(photo.width, photo.height)
    )
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    if rgb.size != size:
        rgb = ImageOps.fit(rgb, size, Image.Resampling.LANCZOS)  # models know a few ratios only: the rest is cropped
    jpeg = _jpeg(rgb, limits.jpeg_quality)
    with Image.open(io.BytesIO(photo.jpeg), formats=("JPEG",)) as before:
        before.draft("RGB", (limits.thumbnail_side_pixels * 2, limits.thumbnail_side_pixels * 2))
        before_thumbnail = _thumbnail(before.convert("RGB"), limits)
    return Finished(
        jpeg=jpeg,
        thumbnail=_thumbnail(rgb, limits),
        before=before_thumbnail,
        width=rgb.width,
        height=rgb.height,
        sha256=hashlib.sha256(jpeg).hexdigest(),
    )


def _draft(picture: Image.Image, limits: PhotoLimits) -> None:
    """Let the JPEG decoder halve the picture on its way, down to a little below the size we work in.

    A 12 MP photo (4000 pixels) comes out at 2000 at once, instead of being decoded whole and resampled to 2048: half
    of the time of all picture work, and a quarter of its memory. Other formats know no such thing and stay as they are.
    """
    share = limits.longest_side_pixels * SMALLEST_DRAFT / max(picture.size)
    size = (int(picture.width * share), int(picture.height * share))
    if share < 1 and min(size) >= limits.fewest_pixels_side:
        picture.draft(None, size)


def _bad_answer(_: ErrorCode, message: str) -> WorldError:
    return WorldError(ErrorCode.VENDOR_BAD_ANSWER, f"the generated picture cannot be used: {message}")


def _opened(data: bytes, limits: PhotoLimits, reject: Reject) -> Image.Image:
    """Decode whole. `Image.verify` would pass a truncated picture; only `load` finds out."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of pictures up to twice its pixel limit; its other warnings are of damaged metadata,
            # which phones write and nobody misses.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.MAX_IMAGE_PIXELS = limits.most_pixels
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > limits.most_pixels:
                raise Image.DecompressionBombError
            _draft(picture, limits)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        message = f"more than {limits.most_pixels / 1_000_000:g} megapixels"
        raise reject(ErrorCode.PICTURE_TOO_LARGE, message) from None
    except MemoryError:
        raise reject(ErrorCode.PICTURE_TOO_LARGE, "decoding it needs more memory than a photo may") from None
    except UnidentifiedImageError:
        start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
        kind = "an HTML or XML page" if start.startswith(b"<") else "none of JPEG, PNG, WebP, HEIC"
        raise reject(ErrorCode.NOT_A_PICTURE, f"the file is {kind}") from None
    except Exception as error:  # a decoder may raise anything on hostile bytes; all of it means the same
        raise reject(ErrorCode.NOT_A_PICTURE, f"the picture is damaged: {str(error)[:200]}") from None


def _rgb(picture: Image.Image) -> Image.Image:
    """Any colour mode as sRGB; transparency on white; 16 bits scaled by their depth."""
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda value: value / 256).convert("L")
        picture.info.pop("transparency", None)
    elif picture.mode in ("I", "F"):
        picture = _scaled(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        flat = Image.new("RGB", layer.size, _WHITE)
        flat.paste(layer, mask=layer.getchannel("A"))
        picture = flat
    return _srgb(picture, profile)


def _scaled(picture: Image.Image) -> Image.Image:
    """32-bit grey as 8 bits. Pillow opens 16-bit PNGs of some kinds so: values above 255 mean that depth."""
    high = picture.getextrema()[1]
    deep = isinstance(high, int | float) and high > 255
    grey = picture.point(lambda value: value / 256) if deep else picture
    return grey.convert("L")


def _srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours of another profile (phones use Display P3, presses CMYK) as sRGB; an unusable profile is ignored."""
    if profile and picture.mode in ("RGB", "CMYK", "L"):
        try:
            converted = ImageCms.profileToProfile(
                picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            pass
        else:
            if converted is not None:
                return converted
    return picture if picture.mode == "RGB" else picture.convert("RGB")


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
