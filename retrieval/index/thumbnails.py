"""thumbnails.arrows of an index bundle: a small JPEG of every item, in the vectors' order; see `retrieval.index.tables`.

A bundle of version 2 has thumbnails.zip, with 0.jpg, 1.jpg, ...
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from retrieval.errors import IndexFormatError
from retrieval.files.blocks import Bytes
from retrieval.index import tables
from retrieval.index.manifest import REMEDY

SIDE = 96
_LARGEST = 64 * 1024  # bytes of a picture; one of SIDE pixels needs a tenth


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG of an RGB image, no side longer than `SIDE` pixels."""
    content = io.BytesIO()
    ImageOps.contain(image, (SIDE, SIDE), Image.Resampling.BICUBIC).save(content, format="JPEG", quality=80)
    return content.getvalue()


def content(pictures: Sequence[bytes]) -> memoryview:
    """The content of the file."""
    return tables.stream(tables.THUMBNAILS, [tables.pictures(pictures)])


class Pictures(Sequence[bytes]):
    """The pictures of a file, which are taken from it one by one."""

    def __init__(self, column: Any, rows: np.ndarray | None = None) -> None:
        self._column, self._rows = column, rows

    def __len__(self) -> int:
        return len(self._column if self._rows is None else self._rows)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        row = range(len(self))[position] if self._rows is None else int(self._rows[position])
        return self._column[row].as_py()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def select(self, rows: np.ndarray) -> Pictures:
        """Some of the pictures."""
        return Pictures(self._column, rows if self._rows is None else self._rows[rows])


def read_pictures(path: Path, content: Bytes | np.ndarray, rows: int) -> Pictures:
    """The pictures in the content of the file at `path`.

    Raises:
        IndexFormatError: The file is not a table of that many small pictures.
    """
    try:
        if path.suffix == ".zip":
            return Pictures(tables.pictures(unpack(path, bytes(content), rows)))
        column = tables.read(tables.THUMBNAILS, content)["picture"]
        if len(column) != rows:
            raise ValueError(f"holds {len(column)} pictures, expected {rows}")
        if tables.longest(column) > _LARGEST:
            raise ValueError("a picture is too large")
        return Pictures(column)
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error


def unpack(path: Path, content: bytes, count: int) -> list[bytes]:
    """The pictures in the content of the file of version 2.

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
