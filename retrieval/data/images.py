"""Decoding one image to 8-bit RGB, from a file or from memory."""

from __future__ import annotations

import functools
import io
import logging
import struct
import warnings
import zlib
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from retrieval.errors import DatasetError
from retrieval.files import open_file
from retrieval.files.damage import content_of, without_end_marker, without_metadata
from retrieval.files.image_formats import formats, missing_package_for

log = logging.getLogger("retrieval")

# The exceptions that Pillow's decoders raise on damaged files, besides OSError.
_DAMAGE = (
    *(SyntaxError, ValueError, LookupError, TypeError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error),
)
FULL_SIZE = 89_478_485  # pixels above which a JPEG file is decoded at a smaller size: the limit that Pillow starts with
_ORIENTATION = 0x0112  # EXIF tag
_ACCEPTED = (
    "a path, a PIL image, a uint8 array (height, width, 3) or (height, width), or a uint8 tensor (3, height, width)"
)


def load_image(path: str | Path, *, max_pixels: int | None = None, least_side: int | None = None) -> Image.Image:
    """Reads an image file as 8-bit RGB, in its intended orientation.

    Greyscale, palette and CMYK images are converted to RGB. Transparent images are composited on white. 16-bit greyscale is
    scaled from its full range of values to 8 bits. Of an animation or a multi-page file, the first frame is read. A JPEG file that
    lacks nothing but its end marker is read with a warning.

    Args:
        path: The file.
        max_pixels: The limit on the number of pixels; by default Pillow's `MAX_IMAGE_PIXELS`. A JPEG file of more than 89 million
            pixels is decoded at 1/2, 1/4 or 1/8 of its size, to at most as many.
        least_side: A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, as small as its shorter side has at least so many pixels.
            This is several times faster for large photographs. By default it is decoded at its full size.

    Returns:
        A decoded RGB image with its EXIF rotation applied.

    Raises:
        DatasetError: The file is missing, is not an image, is damaged, or has more pixels than the limit.
    """
    try:
        with open_file(path) as file:
            return decode_image(file, path, max_pixels=max_pixels, least_side=least_side)
    except OSError as error:
        remedy = "repair the file or remove it from the data set"
        raise DatasetError(f"{path}: cannot be read as an image ({_reason(error)}); {remedy}") from error


def decode_image(
    file: IO[bytes], where: str | Path, *, max_pixels: int | None = None, least_side: int | None = None
) -> Image.Image:
    """Reads an image from an open file, as `load_image` does.

    Args:
        file: The file, which can be read from any place.
        where: Its path, or a name for messages.
        max_pixels: See `load_image`.
        least_side: See `load_image`.

    Raises:
        DatasetError: See `load_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata
            return _read(where, file, max_pixels, least_side)
    except Image.DecompressionBombError as error:  # some formats have a limit of their own
        raise DatasetError(f"{where}: the image is refused ({error}); shrink it") from error
    except (OSError, *_DAMAGE) as error:
        remedy = "repair the file or remove it from the data set"
        raise DatasetError(f"{where}: cannot be read as an image ({_reason(error, _head(file))}); {remedy}") from error


def decoding_of(prepare: Any) -> dict[str, int | None]:
    """The options of `load_image` of what prepares an image, if it has them, as a `Preprocessing` does."""
    return {"max_pixels": pixel_limit(prepare), "least_side": getattr(prepare, "least_side", None)}


def pixel_limit(prepare: Any) -> int | None:
    """The `max_pixels` of what prepares an image, if it has one, as a `Preprocessing` does."""
    return getattr(prepare, "max_pixels", None)


def to_image(item: Any, *, max_pixels: int | None = None, least_side: int | None = None) -> Image.Image:
    """Converts one image in any of the usual forms to an 8-bit RGB image.

    PIL images are converted as `load_image` converts a file, including the EXIF rotation.

    Args:
        item: A path, a PIL image, a uint8 array (height, width, 3) or (height, width), or a uint8 tensor (3, height, width)
            or (1, height, width), as `torchvision.io.read_image` returns it.
        max_pixels: Of a path, see `load_image`.
        least_side: Of a path, see `load_image`.

    Returns:
        A decoded RGB image.

    Raises:
        ValueError: `item` has another type, dtype or shape, or is a PIL image that cannot be decoded.
        DatasetError: `item` is a path, and `load_image` cannot read it.

    Examples:
        >>> image = to_image(np.zeros((4, 6), dtype=np.uint8))
        >>> image.mode, image.size
        ('RGB', (6, 4))
    """
    if isinstance(item, (str, PathLike)):
        return load_image(Path(item), max_pixels=max_pixels, least_side=least_side)
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


def _read(path: str | Path, file: IO[bytes], max_pixels: int | None, least_side: int | None) -> Image.Image:
    try:
        return _open_and_decode(path, file, max_pixels, least_side)
    except (OSError, *_DAMAGE):
        content = content_of(file)
        if (plain := without_metadata(content)) is not None:
            return _open_and_decode(path, io.BytesIO(plain), max_pixels)
        # At its full size, where missing pixels are found by every difference.
        image = without_end_marker(content, lambda content: _open_and_decode(path, io.BytesIO(content), max_pixels))
        if image is None:
            raise
    if not isinstance(file, io.BytesIO):
        _warn_once(f"{path}: lacks the end marker of a JPEG file; it is read, but may have been copied incompletely")
    return image


@functools.cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _open_and_decode(
    path: str | Path, file: IO[bytes], max_pixels: int | None, least_side: int | None = None
) -> Image.Image:
    image = _open(file)
    pixels = image.width * image.height
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    if limit is not None and pixels > limit:
        remedy = "shrink it, or raise image.max_pixels"
        raise DatasetError(f"{path}: the image is refused ({pixels:,} pixels, more than {limit:,}); {remedy}")
    scale = _scale(image, least_side)
    if scale > 1:
        image.draft("RGB", (image.width // scale, image.height // scale))  # of JPEG only
    return _decode(image)


def _scale(image: Image.Image, least_side: int | None) -> int:
    """The factor, 1, 2, 4 or 8, by which a JPEG image is decoded smaller."""
    pixels, side = image.width * image.height, min(image.size)
    by_pixels = next((scale for scale in (1, 2, 4) if pixels <= FULL_SIZE * scale**2), 8)
    by_side = 1 if least_side is None else next((scale for scale in (8, 4, 2) if side >= least_side * scale), 1)
    return max(by_pixels, by_side)


def _open(file: IO[bytes]) -> Image.Image:
    """`Image.open` without Pillow's limit on the number of pixels, which is a global variable."""
    head = file.read(16)
    for name in formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(head)
        if accepted and not isinstance(accepted, str):  # a string says why Pillow cannot read it
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # it is not of this format, after all
                continue
    raise UnidentifiedImageError


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


def _head(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(16)


def _reason(error: BaseException, head: bytes = b"") -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        if package := missing_package_for(head):
            return f"Pillow needs the package {package} to read it: python -m pip install {package}"
        return "it is not an image of a known format" if head else "it is empty"
    return " ".join(str(error).split()) or type(error).__name__
