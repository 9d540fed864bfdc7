"""Arrays of and for other programs: .npy files, and vectors.npy with a CSV table beside it."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from retrieval.files.cells import guard
from retrieval.files.folders import folder_in_one_piece, require_only
from retrieval.files.outputs import begins_with, claim_folder
from retrieval.files.reading import open_file
from retrieval.files.writing import write_bytes, write_text

VECTORS, LABELS, PATHS = "vectors.npy", "labels.csv", "paths.csv"


@dataclass(frozen=True)
class ArrayFiles:
    """The files that `write_arrays` has written.

    Args:
        count: The number of vectors.
        vectors: The .npy file.
        table: The .csv file.
    """

    count: int
    vectors: Path
    table: Path


def read_array(path: str | Path) -> np.ndarray:
    """The array of a .npy file.

    NumPy takes memory for whatever shape the header declares, and reads the header as Python source. Therefore the shape is
    compared with the size of the file first, and all errors of that reading have one class here.

    Raises:
        OSError: The file cannot be opened; see `open_file`.
        ValueError: It is not a .npy file of numbers or texts, or it is shorter or longer than its header says.
    """
    with open_file(path) as file:
        dtype = _checked_header(file)[1]
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    if dtype.kind == "U" and (array.ravel().view(f"{dtype.byteorder}u4") > sys.maxunicode).any():
        raise ValueError("it holds texts that are no Unicode")  # NumPy does not check them, and Python fails on them
    return array


def map_array(path: str | Path) -> np.ndarray:
    """The array of a .npy file, mapped into memory; an array of no values, or of texts, is read.

    Raises:
        OSError: See `read_array`.
        ValueError: See `read_array`.
    """
    with open_file(path) as file:
        shape, dtype, start, by_column = _checked_header(file)
        if dtype.kind in "SU" or not math.prod(shape):
            return read_array(path)
        mapped = np.memmap(file, dtype=np.uint8, mode="r")[start:].view(dtype)
        return mapped.reshape(shape, order="F" if by_column else "C")


def write_arrays(
    folder: str | Path, vectors: np.ndarray, table: Mapping[str, Sequence[Any]], name: str, *, overwrite: bool
) -> ArrayFiles:
    """Writes vectors and a table into a new folder, completely or not at all.

    Args:
        folder: The folder.
        vectors: (count, dim) The vectors.
        table: The columns of the table by name, with a value for each vector.
        name: The name of the table's file: `LABELS` or `PATHS`.
        overwrite: Replace such files in that folder.

    Raises:
        RetrievalError: The folder exists and `overwrite` is off, it holds other files, or it cannot be written.
    """
    content = io.BytesIO()
    np.save(content, vectors)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([guard(value) for value in row] for row in zip(*table.values(), strict=True))
    with folder_in_one_piece(folder, overwrite=overwrite, check=_require_arrays) as new:
        write_bytes(new / VECTORS, content.getbuffer())
        write_text(new / name, text.getvalue())
    return ArrayFiles(len(vectors), Path(folder) / VECTORS, Path(folder) / name)


def claim_for_arrays(folder: str | Path, overwrite: bool) -> AbstractContextManager[None]:
    """Keeps other processes from writing a folder during the block, after checking that `write_arrays` can write it.

    Raises:
        RetrievalError: See `write_arrays`; or another process writes the folder.
    """
    return claim_folder(folder, overwrite, _require_arrays)


def _checked_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, int, bool]:
    """Shape and dtype of a .npy file, where its numbers begin, and whether they go by column; checked by the size of the file.

    Raises:
        ValueError: See `read_array`.
    """
    if file.read(4) == b"PK\x03\x04":
        raise ValueError("it holds several arrays (.npz); write each with numpy.save")
    file.seek(0)
    shape, dtype, by_column = _read_header(file)
    start = file.tell()
    expected, actual = dtype.itemsize * math.prod(shape), os.fstat(file.fileno()).st_size - start
    if expected != actual:
        raise ValueError(f"it holds {actual:,} bytes of numbers, but {dtype} {shape} are {expected:,}")
    return shape, dtype, start, by_column


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, dtype and order in the header of a .npy file; leaves the file where the numbers begin.

    Raises:
        ValueError: The header is damaged, or the array is one of Python objects or of records.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings(action="ignore"):  # on spellings of earlier versions of Python
            shape, by_column, dtype = readers[np.lib.format.read_magic(file)](file)
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"the shape is {shape}")
    except Exception as error:  # of Python's parser, whose errors differ between its versions
        raise ValueError("its header is damaged, or it is not a .npy file") from error
    if dtype.kind not in "biufcUS" or not dtype.itemsize:
        raise ValueError(f"it holds values of type {dtype}, expected numbers or texts")
    return shape, dtype, bool(by_column)


def _require_arrays(folder: Path) -> None:
    """Checks that a folder holds nothing but what `write_arrays` has written: vectors alone may be anybody's."""
    headers = {LABELS: b"id,label,path\n", PATHS: b"path\n"}
    found = [name for name, header in headers.items() if begins_with(folder / name, header)]
    is_export = bool(found) and (folder / VECTORS).is_file()
    require_only(folder, (VECTORS, *found) if is_export else (), "exported vectors")
