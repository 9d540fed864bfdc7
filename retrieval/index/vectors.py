"""vectors.npy of an index bundle: the unit vectors of the gallery, in NumPy's file format."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from retrieval.errors import IndexFormatError
from retrieval.evaluation.arrays import check_unit_vectors
from retrieval.index.manifest import REMEDY

_BEFORE_HEADER = 10  # bytes: magic, version, length of the header
# NumPy reads a header as Python source. Only a header as NumPy writes it is accepted here.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([^']{1,9})', 'fortran_order': (True|False), 'shape': \(([0-9]{1,18}), ([0-9]{1,18})\), \} *\n",
    re.DOTALL,
)


def vectors_npy(vectors: np.ndarray) -> memoryview:
    """The content of the file for (count, dimension) float32 unit vectors."""
    content = io.BytesIO()
    np.lib.format.write_array(content, vectors, version=(1, 0), allow_pickle=False)
    return content.getbuffer()


def read_vectors(path: Path, content: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Reads the vectors.

    Args:
        path: The file, for messages.
        content: Its content.
        shape: The count and dimension that it must have.

    Raises:
        IndexFormatError: The file has another shape or type, or its vectors are not finite and of unit length.
    """
    try:
        start = _start(content, shape)
        if len(content) - start != 4 * shape[0] * shape[1]:
            raise ValueError(f"holds {len(content) - start} bytes of numbers, expected {4 * shape[0] * shape[1]}")
        return check_unit_vectors("vectors", np.frombuffer(content, dtype="<f4", offset=start).reshape(shape))
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error


def _start(content: bytes, shape: tuple[int, int]) -> int:
    """The offset of the numbers, if the header is that of a float32 array of this shape."""
    match = _HEADER.match(content)
    if not match:
        raise ValueError("does not begin as an npy file of version 1.0")
    kind, by_column, rows, columns = (part.decode() for part in match.groups()[1:])
    if (kind, by_column, int(rows), int(columns)) != ("<f4", "False", *shape):
        order = "columns" if by_column == "True" else "rows"
        raise ValueError(
            f"holds {kind} ({rows}, {columns}) by {order}, expected <f4 {shape} by rows, as the manifest says"
        )
    if int.from_bytes(match[1], "little") != match.end() - _BEFORE_HEADER:
        raise ValueError("the length of its header is wrong")
    return match.end()
