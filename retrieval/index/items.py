"""items.csv of an index bundle: id, label, class name and path of every vector, in the vectors' order."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np

from retrieval.errors import IndexFormatError
from retrieval.evaluation.arrays import check_ids, check_whole_numbers
from retrieval.index.manifest import REMEDY

COLUMNS = ["id", "label", "class", "path"]


def items_csv(ids: np.ndarray, labels: np.ndarray, class_names: Sequence[str], paths: Sequence[str]) -> bytes:
    """The content of the file; all four are one per item, see `check_names`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(ids.tolist(), labels.tolist(), class_names, paths, strict=True))
    return text.getvalue().encode()


def read_items(
    path: Path, count: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Reads ids, labels, class names and paths.

    Args:
        path: the file.
        count: how many items it must have.
        num_classes: how many different labels they must have.

    Raises:
        IndexFormatError: it has not, an id occurs twice, a path leaves the images' root, or the file is no such table.
    """
    try:
        header, *rows = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True)
        if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError(f"expected rows of the columns {','.join(COLUMNS)}")
        if not rows or len(rows) != count:
            raise ValueError(f"{len(rows)} items, expected {count}")
        id_words, label_words, names, paths = zip(*rows, strict=True)
        ids = check_ids("id", np.array([int(word) for word in id_words]), count)
        labels = check_whole_numbers("label", np.array([int(word) for word in label_words]), count)
        if len(np.unique(labels)) != num_classes:
            raise ValueError(f"{len(np.unique(labels))} different labels, expected {num_classes}")
    except (ValueError, csv.Error) as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error
    check_names(path, names, paths)
    return ids, labels, names, paths


def check_names(where: Path, class_names: Sequence[str], paths: Sequence[str]) -> None:
    """Checks that names can be written and read again, and that paths stay below the folder they are joined to.

    Raises:
        IndexFormatError: names the first at fault, and `where`.
    """
    for name in (*class_names, *paths):
        if re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
            raise IndexFormatError(
                f"{where}: {name!r} holds a control character or bytes that are not UTF-8; rename it and {REMEDY}"
            )
    for path in paths:
        # Windows' rules see every absolute path and every "..", of whichever system.
        if not path or PureWindowsPath(path).anchor or ".." in PureWindowsPath(path).parts:
            raise IndexFormatError(f"{where}: path {path!r} does not stay below the images' root; {REMEDY}")
