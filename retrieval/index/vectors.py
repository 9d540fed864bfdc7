"""vectors.npy of an index bundle: the unit vectors of the gallery, in NumPy's file format.

The header of the file has the number of rows when the index was made. Rows that were added later follow them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from retrieval.errors import IndexFormatError
from retrieval.evaluation.arrays import check_unit_vectors, has_unit_rows
from retrieval.evaluation.inputs import normalise
from retrieval.files import blocks
from retrieval.files.blocks import Finished
from retrieval.files.mapped import BlockFile
from retrieval.index.manifest import REMEDY

_BEFORE_HEADER = 10  # bytes: magic, version, length of the header
_LONGEST_HEADER = 2**16
# NumPy reads a header as Python source. Only a header as NumPy writes it is accepted here.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([^']{1,9})', 'fortran_order': (True|False), 'shape': \(([0-9]{1,18}), ([0-9]{1,18})\), \} *\n",
    re.DOTALL,
)


class Vectors:
    """(rows, dim) float32 unit vectors: in memory, or mapped from a file whose blocks are checked before they are used.

    Args:
        array: The vectors, unchecked.
        file: The file that they are mapped from.
        start: The offset of the vectors in it.
        made: The number of rows when the index was made; later ones were added.
    """

    def __init__(
        self, array: np.ndarray, file: BlockFile | None = None, start: int = 0, made: int | None = None
    ) -> None:
        self._array, self.file, self._start = array, file, start
        self.shape: tuple[int, int] = array.shape[0], array.shape[1]
        self.made = len(array) if made is None else made

    @classmethod
    def of(cls, vectors: np.ndarray | Vectors) -> Vectors:
        """The vectors of an array, or as they are."""
        return vectors if isinstance(vectors, Vectors) else cls(vectors)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """The size of the vectors."""
        return 4 * self.shape[0] * self.shape[1]

    def all(self) -> np.ndarray:
        """All vectors; those of a file are checked and stay mapped."""
        if self.file is not None:
            self.file.check()
        return self._array

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Some vectors, in memory."""
        if self.file is not None:
            self.file.check_rows(self._start, 4 * self.shape[1], np.asarray(positions))
        return np.asarray(self._array[positions])

    def tiles(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yields consecutive vectors with the position of their first one. Other threads check the file ahead."""
        step = max(1, 2**21 // self.shape[1])  # 8 MiB
        starts = range(first, len(self), step)
        if self.file is None:
            yield from ((start, self._array[start : start + step]) for start in starts)
            return
        width, array = 4 * self.shape[1], np.asarray(self._array)
        bounds = ((self._start + start * width, self._start + min(start + step, len(self)) * width) for start in starts)
        for start, _ in zip(starts, self.file.sweep(bounds), strict=True):
            yield start, array[start : start + step]


def vectors_npy(vectors: np.ndarray) -> memoryview:
    """The content of the file for (count, dimension) float32 unit vectors."""
    content = io.BytesIO()
    np.lib.format.write_array(content, vectors, version=(1, 0), allow_pickle=False)
    return content.getbuffer()


def npy_parts(parts: Iterable[np.ndarray], shape: tuple[int, int]) -> Iterator[memoryview]:
    """The content of the file in parts, for consecutive vectors of this shape together."""
    content = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    yield content.getbuffer()
    yield from (np.ascontiguousarray(part, dtype="<f4").data for part in parts)


def write_vectors(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, int]) -> Finished:
    """Writes the file at `path` from consecutive unit vectors of this shape together."""
    with path.open("wb") as file:
        return Finished(path, blocks.write_in_blocks(file, npy_parts(parts, shape)))


def unit_parts(name: str, array: np.ndarray, *, as_they_are: bool) -> Iterator[np.ndarray]:
    """Yields the rows of an array as unit vectors, some at a time; see `retrieval.evaluation.unit_vectors`.

    Args:
        name: The name of the array, for messages.
        array: (count, dim) numbers, of a np.memmap too.
        as_they_are: Whether all rows should have length 1 already.

    Raises:
        ValueError: A row has no direction.
        NotUnitError: A row has another length, and `as_they_are` is set.
    """
    step = max(1, 2**21 // array.shape[1])
    for start in range(0, len(array), step):
        part = np.asarray(array[start : start + step])
        if as_they_are:
            if not has_unit_rows(part):
                raise NotUnitError
            yield part
            continue
        try:
            yield normalise(name, part)
        except ValueError as error:
            raise ValueError(_shifted(str(error), start)) from error


class NotUnitError(Exception):
    """Vectors are not of length 1."""


def open_vectors(path: Path, content: bytes | BlockFile, count: int, dimension: int) -> Vectors:
    """The vectors of a file: read and checked, or mapped and checked when they are used.

    Args:
        path: The file, for messages.
        content: Its content, or the file.
        count: The number of rows that it must have, with those that are removed.
        dimension: The dimension that they must have.

    Raises:
        IndexFormatError: The file has another shape or type, or its vectors are not finite and of unit length.
    """
    raw = np.frombuffer(content, dtype=np.uint8) if isinstance(content, bytes) else content.bytes
    shape = (count, dimension)
    try:
        start, made = _start(raw[:_LONGEST_HEADER].tobytes(), shape)
        if len(raw) - start != 4 * count * dimension:
            raise ValueError(f"holds {len(raw) - start} bytes of numbers, expected {4 * count * dimension}")
        array = raw[start:].view("<f4").reshape(shape)
        if isinstance(content, BlockFile):
            return Vectors(array, content, start, made)
        return Vectors(check_unit_vectors("vectors", array), made=made)
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error


def _start(content: bytes, shape: tuple[int, int]) -> tuple[int, int]:
    """The offset of the numbers and the rows of the header, if it is that of a float32 array of no more than these rows."""
    match = _HEADER.match(content)
    if not match:
        raise ValueError("does not begin as an npy file of version 1.0")
    kind, by_column, rows, columns = (part.decode() for part in match.groups()[1:])
    if (kind, by_column, int(columns)) != ("<f4", "False", shape[1]) or not 0 < int(rows) <= shape[0]:
        order = "columns" if by_column == "True" else "rows"
        raise ValueError(
            f"holds {kind} ({rows}, {columns}) by {order}, expected <f4 {shape} by rows, as the manifest says"
        )
    if int.from_bytes(match[1], "little") != match.end() - _BEFORE_HEADER:
        raise ValueError("the length of its header is wrong")
    return match.end(), int(rows)


def _shifted(message: str, start: int) -> str:
    """A message about a row of a part, with the number of the row in the whole array."""
    return re.sub(r"row (\d+)", lambda found: f"row {int(found[1]) + start}", message, count=1)
