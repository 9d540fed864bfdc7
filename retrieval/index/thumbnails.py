"""thumbnails.zip of an index bundle: a small JPEG of every item, named by its position: 0.jpg, 1.jpg, ..."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from retrieval.errors import IndexFormatError
from retrieval.index.manifest import REMEDY

SIDE = 96
_LARGEST = 64 * 1024  # bytes of a picture; one of SIDE pixels needs a tenth


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG of an RGB image, no side longer than `SIDE` pixels."""
    content = io.BytesIO()
    ImageOps.contain(image, (SIDE, SIDE), Image.Resampling.BICUBIC).save(content, format="JPEG", quality=80)
    return content.getvalue()


def pack(pictures: Sequence[bytes]) -> memoryview:
    """The content of the file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for position, picture in enumerate(pictures):
            archive.writestr(
                zipfile.ZipInfo(_name(position)), picture
            )  # without the time of day: the same bytes each time
    return content.getbuffer()


def unpack(path: Path, content: bytes, count: int) -> list[bytes]:
    """The pictures in the content of the file at `path`.

    Raises:
        IndexFormatError: The file is not an archive of that many small pictures.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if [info.filename for info in infos] != [_name(position) for position in range(count)]:
                raise ValueError(f"holds {len(infos)} files, expected {count}, from {_name(0)} to {_name(count - 1)}")
            if any(info.compress_type != zipfile.ZIP_STORED or info.file_size > _LARGEST for info in infos):
                raise ValueError("a picture is packed or too large")
            return [archive.read(info) for info in infos]
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise IndexFormatError(f"{path}: {str(error) or type(error).__name__}; {REMEDY}") from error


def _name(position: int) -> str:
    return f"{position}.jpg"
