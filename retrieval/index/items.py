"""items.csv of an index bundle: id, label, class name and path of every vector, in the vectors' order."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np

from retrieval.data.names import CONTROL
from retrieval.errors import IndexFormatError, brief
from retrieval.evaluation.arrays import check_ids, check_whole_numbers
from retrieval.files.reading import IMPOSSIBLE
from retrieval.index.manifest import REMEDY

COLUMNS = ["id", "label", "class", "path"]
ITEMS_HEADER = f"{','.join(COLUMNS)}\n".encode()
_TOP = re.compile("^(/|[A-Za-z]:/)")  # where an absolute path begins; those of a network ("//server/") are not accepted


def items_csv(ids: np.ndarray, labels: np.ndarray, class_names: Sequence[str], paths: Sequence[str]) -> bytes:
    """The content of the file, from one id, label, class name and path for each item; see `check_names`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(ids.tolist(), labels.tolist(), class_names, paths, strict=True))
    return text.getvalue().encode()


def read_items(
    path: Path, content: bytes, count: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Reads ids, labels, class names and paths.

    Args:
        path: The file, for messages.
        content: Its content.
        count: The number of items that it must have.
        num_classes: The number of different labels that they must have.

    Raises:
        IndexFormatError: A number differs, an id occurs twice, a path leaves the root of the images, or the table is malformed.
    """
    try:
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError(f"expected rows of the columns {','.join(COLUMNS)}")
        if not rows or len(rows) != count:
            raise ValueError(f"{len(rows)} items, expected {count}")
        id_texts, label_texts, names, paths = zip(*rows, strict=True)
        ids = check_ids("id", np.array([int(text) for text in id_texts]), count)
        labels = check_whole_numbers("label", np.array([int(text) for text in label_texts]), count)
        if len(np.unique(labels)) != num_classes:
            raise ValueError(f"{len(np.unique(labels))} different labels, expected {num_classes}")
    except (ValueError, csv.Error) as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error
    check_names(path, names, paths)
    return ids, labels, names, paths


def check_texts(where: Path, **texts: str) -> None:
    """Checks that texts of the manifest hold no character that is in no path.

    Raises:
        IndexFormatError: One does; the message names the first.
    """
    for key, text in texts.items():
        if found := IMPOSSIBLE.search(text):
            raise IndexFormatError(
                f"{where}: {key} is {brief(text)} with the character U+{ord(found[0]):04X}; {REMEDY}"
            )


def check_names(where: Path, class_names: Sequence[str], paths: Sequence[str]) -> None:
    """Checks that names can be written and read again, and that paths are absolute or stay below the root of the images.

    Args:
        where: The file or folder, for messages.
        class_names: The class names.
        paths: The paths.

    Raises:
        IndexFormatError: One does not; the message names the first.
    """
    for name in (*class_names, *paths):
        if CONTROL.search(name):
            raise IndexFormatError(
                f"{where}: {name!r} holds a control character or bytes that are not UTF-8; rename it and {REMEDY}"
            )
    for path in paths:
        # The rules of Windows recognise the anchors and the ".." of every system.
        below = PureWindowsPath(_TOP.sub("", path, count=1))
        if not below.parts or below.anchor or ".." in below.parts:
            raise IndexFormatError(
                f"{where}: path {path!r} is neither absolute nor stays below the root of the images; {REMEDY}"
            )
