"""vectors.npy of an index bundle: the gallery's unit vectors, as NumPy's plain array file."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from retrieval.errors import IndexFormatError
from retrieval.evaluation.arrays import check_unit_vectors
from retrieval.index.manifest import REMEDY

METRIC = "inner_product"
_BEFORE_HEADER = 10  # bytes: magic, version, length of the header
# NumPy reads a header as Python source; here it may only be what NumPy writes.
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


def read_vectors(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads the vectors.

    Args:
        path: the file.
        shape: the count and dimension that it must have.

    Raises:
        IndexFormatError: it has not, is of another type, or its vectors are not finite and of unit length.
    """
    try:
        content = path.read_bytes()
        start = _start(content, shape)
        if len(content) - start != 4 * shape[0] * shape[1]:
            raise ValueError(f"holds {len(content) - start} bytes of numbers, expected {4 * shape[0] * shape[1]}")
        return check_unit_vectors("vectors", np.frombuffer(content, dtype="<f4", offset=start).reshape(shape))
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error
    except OSError as error:
        raise IndexFormatError(f"{path}: cannot be read ({error.strerror}); mend that, or {REMEDY}") from error


def _start(content: bytes, shape: tuple[int, int]) -> int:
    """Where the numbers begin, if the header is that of a float32 array of this shape."""
    found = _HEADER.match(content)
    if not found:
        raise ValueError("does not begin as an npy file of version 1.0")
    kind, by_column, rows, columns = (word.decode() for word in found.groups()[1:])
    if (kind, by_column, int(rows), int(columns)) != ("<f4", "False", *shape):
        order = "columns" if by_column == "True" else "rows"
        raise ValueError(
            f"holds {kind} ({rows}, {columns}) by {order}, expected <f4 {shape} by rows, as the manifest has it"
        )
    if int.from_bytes(found[1], "little") != found.end() - _BEFORE_HEADER:
        raise ValueError("its header is not as long as it says")
    return found.end()
