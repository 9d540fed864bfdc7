"""One image from a file to 8-bit RGB, whatever the file holds."""

from __future__ import annotations

import functools
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from retrieval.errors import DatasetError

# Pillow knows more formats, but some of them start other programs (EPS) and none of those holds photographs.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# What Pillow's decoders let out on damaged files, next to OSError.
_DAMAGE = (
    *(SyntaxError, ValueError, LookupError, TypeError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error),
)
_ORIENTATION = 0x0112  # EXIF tag


def load_image(path: str | Path) -> Image.Image:
    """Reads an image file as 8-bit RGB, the way up that it is meant to be seen.

    Greyscale, palette and CMYK images are converted; transparent ones lie on white; 16-bit greyscale is scaled from its whole range
    of values to 8 bits; of several frames the first is taken.

    Args:
        path: the file.

    Returns:
        An RGB image, decoded, its EXIF rotation applied.

    Raises:
        DatasetError: the file is missing, no image, damaged or too large to be opened safely (Pillow's limit).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_available_formats()) as image:
                image.load()
                return _to_rgb(_upright(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it"
        raise DatasetError(f"{path}: the image is refused ({reason})") from error
    except (OSError, *_DAMAGE) as error:
        remedy = "mend the file or take it out of the data set"
        raise DatasetError(f"{path}: cannot be read as an image ({_reason(path, error)}); {remedy}") from error


@functools.cache
def _available_formats() -> list[str]:
    """Those of `_FORMATS` that this build of Pillow can read."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except (OSError, *_DAMAGE):
        return image  # damaged metadata around pixels that are whole


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_integers(image)
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers of unknown range; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values reach from {values.min()} to {values.max()}; convert it to 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _reason(path: str | Path, error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "it is empty" if Path(path).stat().st_size == 0 else "it is no image of a known format"
    return " ".join(str(error).split()) or type(error).__name__
