"""Damage that leaves an image whole: metadata that Pillow refuses to read, and a JPEG file without its end marker."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

import numpy as np
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"
# Data that no image ends in, for each of the eight intervals between restart markers. Several, since some data means the same as
# none: the decoder takes missing bits for zeros, and bits that are no code for the end of a block.
_RESTARTS = [b"", *(bytes([255, 0xD0 + number % 8]) for number in range(16))]
_NOISES = [
    b"".join(marker + bytes([first, *range(1, 200, 3)]) for marker in _RESTARTS)
    for first in (0x45, 0x93, 0xB6, 0xDA, 0xEE)
]


def content_of(file: IO[bytes]) -> bytes:
    """The content of a PNG or JPEG file, from its beginning; empty for any other file."""
    file.seek(0)
    head = file.read(len(_PNG))
    return head + file.read() if head.startswith((_PNG, _JPEG)) else b""


def without_metadata(content: bytes) -> bytes | None:
    """A PNG file without its texts and colour profile, which Pillow refuses if they are large; None if there are none."""
    if not content.startswith(_PNG):
        return None
    kept, place = [_PNG], len(_PNG)
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        if content[place + 4 : place + 8] not in _METADATA:
            kept.append(content[place:end])
        place = end
    whole = b"".join(kept)
    return whole if len(whole) < len(content) else None


def without_end_marker(content: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image | None:
    """The image of a JPEG file that lacks nothing but its end marker; None if pixels are missing.

    A decoder fills missing pixels from whatever follows. The file therefore lacks none if its pixels are the same with and without
    noise at its end. A progressive file that breaks off exactly between two scans passes, in the quality that it has.

    Args:
        content: The file.
        decode: Decodes a JPEG file; may raise any error.
    """
    if not content.startswith(_JPEG):
        return None
    content = content.removesuffix(b"\xff")
    try:
        image = decode(content + _END)
        pixels = np.asarray(image)
        whole = all(np.array_equal(pixels, np.asarray(decode(content + noise + _END))) for noise in _NOISES)
    except Exception:  # noqa: BLE001 - Pillow raises many types
        return None
    return image if whole else None
