"""Small previews of image files, whatever these hold."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, features

from retrieval.files.damage import content_of, without_end_marker, without_metadata
from retrieval.files.image_formats import formats

# What Pillow raises on missing and damaged files.
_UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, RuntimeError),
    *(OverflowError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)


def read_picture(source: Path | bytes, side: int) -> Image.Image | None:
    """The whole image on white, RGB, no side longer than `side` pixels and none enlarged; None where it cannot be read.

    Takes a file, or what it holds. A preview, not the network's input: 16-bit and floating-point images are scaled by their own
    largest value.
    """
    try:
        if isinstance(source, Path) and not source.is_file():  # a named pipe would be waited for
            return None
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            image = _decode(file, side)
    except _UNREADABLE:
        return None
    if image is None:
        return None
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _decode(file: IO[bytes], side: int) -> Image.Image | None:
    """The image of a file, as large as `side` at least; None if it lacks pixels."""
    try:
        return _decode_whole(file, side)
    except _UNREADABLE:
        content = content_of(file)
        if (plain := without_metadata(content)) is not None:
            return _decode_whole(io.BytesIO(plain), side)
        return without_end_marker(content, lambda content: _decode_whole(io.BytesIO(content), side))


def _decode_whole(file: IO[bytes], side: int) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=formats()) as image:
            image.draft("RGB", (side, side))
            return _to_8_bits(ImageOps.exif_transpose(image))


def read_thumbnail(source: Path | bytes, side: int) -> Image.Image | None:
    """The image of `read_picture` in the middle of a white square of `side` pixels, which it fills in one direction."""
    image = read_picture(source, side)
    return None if image is None else ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color="white")


def data_uri(image: Image.Image) -> str:
    """The image as an address that holds it: WebP, or PNG where that is smaller, as of drawings; JPEG without a WebP encoder."""
    encoded = {"png": _encode(image, "PNG")}
    if features.check("webp"):
        encoded["webp"] = _encode(image, "WEBP", quality=75)
    elif image.mode == "RGB":
        encoded["jpeg"] = _encode(image, "JPEG", quality=78)
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((255 * values / max(values.max(), 1)).clip(0, 255).astype(np.uint8))
    return image.convert("RGBA")
