"""Decoding one image to 8-bit RGB, from a file or from memory."""

from __future__ import annotations

import struct
import warnings
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from retrieval.errors import DatasetError
from retrieval.files import open_regular
from retrieval.files.image_formats import formats, missing_package

# The exceptions that Pillow's decoders raise on damaged files, besides OSError.
_DAMAGE = (
    *(SyntaxError, ValueError, LookupError, TypeError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error),
)
_ORIENTATION = 0x0112  # EXIF tag
_ACCEPTED = (
    "a path, a PIL image, a uint8 array (height, width, 3) or (height, width), or a uint8 tensor (3, height, width)"
)


def load_image(path: str | Path) -> Image.Image:
    """Reads an image file as 8-bit RGB, in its intended orientation.

    Greyscale, palette and CMYK images are converted to RGB. Transparent images are composited on white. 16-bit greyscale is
    scaled from its full range of values to 8 bits. Of an animation or a multi-page file, the first frame is read.

    Args:
        path: The file.

    Returns:
        A decoded RGB image with its EXIF rotation applied.

    Raises:
        DatasetError: The file is missing, is not an image, is damaged, or exceeds Pillow's limit on the number of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_regular(path) as file, Image.open(file, formats=formats()) as image:
                return _decode(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink it"
        raise DatasetError(f"{path}: the image is refused ({reason})") from error
    except (OSError, *_DAMAGE) as error:
        remedy = "repair the file or remove it from the data set"
        raise DatasetError(f"{path}: cannot be read as an image ({_reason(path, error)}); {remedy}") from error


def to_image(item: Any) -> Image.Image:
    """Converts one image in any of the usual forms to an 8-bit RGB image.

    PIL images are converted as `load_image` converts a file, including the EXIF rotation.

    Args:
        item: A path, a PIL image, a uint8 array (height, width, 3) or (height, width), or a uint8 tensor (3, height, width)
            or (1, height, width), as `torchvision.io.read_image` returns it.

    Returns:
        A decoded RGB image.

    Raises:
        ValueError: `item` has another type, dtype or shape, or is a PIL image that cannot be decoded.
        DatasetError: `item` is a path, and `load_image` cannot read it.

    Example:
        >>> image = to_image(np.zeros((4, 6), dtype=np.uint8))
        >>> image.mode, image.size
        ('RGB', (6, 4))
    """
    if isinstance(item, (str, PathLike)):
        return load_image(Path(item))
    if isinstance(item, Image.Image):
        try:
            return _decode(item)
        except (OSError, *_DAMAGE) as error:
            raise ValueError(f"the PIL image cannot be converted to RGB ({' '.join(str(error).split())})") from error
    if isinstance(item, torch.Tensor):
        if item.ndim == 3 and item.shape[0] in (1, 3):
            pixels = np.asarray(item.detach().cpu().movedim(0, 2))
            return _from_pixels(pixels[..., 0] if pixels.shape[2] == 1 else pixels, item)
    elif isinstance(item, np.ndarray) and (item.ndim == 2 or (item.ndim == 3 and item.shape[2] == 3)):
        return _from_pixels(item, item)
    raise ValueError(f"the image is {_describe(item)}; give {_ACCEPTED}")


def _from_pixels(pixels: np.ndarray, item: Any) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise ValueError(f"the image is {_describe(item)}; give uint8 values from 0 to 255")
    if not pixels.size:
        raise ValueError(f"the image is {_describe(item)}, without a pixel; give at least one row and one column")
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _describe(item: Any) -> str:
    if isinstance(item, (np.ndarray, torch.Tensor)):
        kind = "a tensor" if isinstance(item, torch.Tensor) else "an array"
        return f"{kind} of {str(item.dtype).removeprefix('torch.')} {tuple(item.shape)}"
    return f"of type {type(item).__name__}"


def _decode(image: Image.Image) -> Image.Image:
    image.load()
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        rotated = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if rotated else image
    except (OSError, *_DAMAGE):
        return image  # the metadata is damaged, the pixels are not


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
        raise ValueError(f"its values range from {values.min()} to {values.max()}; convert it to 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _reason(path: str | Path, error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        if package := missing_package(path):
            return f"Pillow needs the package {package} to read it: python -m pip install {package}"
        return "it is empty" if Path(path).stat().st_size == 0 else "it is not an image of a known format"
    return " ".join(str(error).split()) or type(error).__name__
