"""Vectors for other programs: vectors.npy, and a CSV table beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.files.cells import guard
from retrieval.files.folders import folder_in_one_piece, require_only
from retrieval.files.outputs import begins_with, claim_folder
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


def _require_arrays(folder: Path) -> None:
    """Checks that a folder holds nothing but what `write_arrays` has written: vectors alone may be anybody's."""
    headers = {LABELS: b"id,label,path\n", PATHS: b"path\n"}
    found = [name for name, header in headers.items() if begins_with(folder / name, header)]
    is_export = bool(found) and (folder / VECTORS).is_file()
    require_only(folder, (VECTORS, *found) if is_export else (), "exported vectors")
