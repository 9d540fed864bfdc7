"""items.arrows of an index bundle: id, label, class name and path of every vector, in the vectors' order.

The file is one stream of Apache Arrow, followed by one more for every addition. A bundle of version 2 has items.csv.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from retrieval.data.names import CONTROL
from retrieval.errors import IndexFormatError, brief
from retrieval.evaluation.arrays import check_ids, check_whole_numbers
from retrieval.files.blocks import Bytes
from retrieval.files.reading import IMPOSSIBLE
from retrieval.index import tables
from retrieval.index.manifest import REMEDY

COLUMNS = ["id", "label", "class", "path"]
ITEMS_HEADER = f"{','.join(COLUMNS)}\n".encode()
_TOP = re.compile("^(/|[A-Za-z]:/)")  # where an absolute path begins; those of a network ("//server/") are not accepted
# Paths that `check_names` looks at one by one: all that are not plainly in order.
_DOUBTFUL = r"[\x00-\x1f\x7f-\x{9f}]|(^|/)\.*(/|$)|[\\:]"


class Items:
    """The items of a bundle: one for each row of its vectors. Names of a file are checked when they are used; see `check_names`.

    Args:
        ids: (rows,) int64, from 0, none twice.
        labels: (rows,) int64.
        classes: The class names, as a column of Arrow.
        paths: The paths, as a column of Arrow.
        where: The file or folder, for messages.
    """

    def __init__(self, ids: np.ndarray, labels: np.ndarray, classes: Any, paths: Any, where: str | Path) -> None:
        self.ids, self.labels, self._classes, self._paths, self._where = ids, labels, classes, paths, where
        for array in (ids, labels):
            array.setflags(write=False)

    @classmethod
    def of(
        cls,
        ids: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str] | Mapping[int, str],
        paths: Any,
        where: str | Path,
    ) -> Items:
        """Makes items of ids, labels, the name of every label, and paths, by default the ids.

        Raises:
            IndexFormatError: A name cannot be stored; see `check_names`.
        """
        used = different(labels)
        names = [class_names[label] for label in used.tolist()]
        check_names(where, names, [])
        numbers = labels if used[-1] == len(used) - 1 else np.searchsorted(used, labels)
        classes = tables.encoded(numbers, names)
        if paths is None:
            return cls(ids, labels, classes, tables.numbers_as_texts(ids), where)
        try:
            items = cls(ids, labels, classes, tables.texts(paths), where)
        except UnicodeEncodeError:
            check_names(where, [], paths)
            raise
        items.check()
        return items

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class name of every item."""
        names, numbers = self._numbered_classes
        return tuple(map(names.__getitem__, numbers.tolist()))

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every item."""
        self._check_paths()
        return tuple(self._paths.to_pylist())

    @property
    def label_of_class(self) -> dict[str, int]:
        """The label of every class name."""
        names, numbers = self._numbered_classes
        first = np.unique(numbers, return_index=True)
        return {names[number]: int(self.labels[row]) for number, row in zip(*first, strict=True)}

    @property
    def numbered_classes(self) -> tuple[np.ndarray, list[str]]:
        """The number of the class of every item, in the order in which the class names first occur, and these names."""
        names, numbers = self._numbered_classes
        used, first = np.unique(numbers, return_index=True)
        order = used[np.argsort(first)]
        place = np.zeros(len(names), dtype=np.int64)
        place[order] = np.arange(len(order))
        return place[numbers], [names[number] for number in order]

    @property
    def have_paths(self) -> bool:
        """Whether the paths are others than the ids, which vectors without images have."""
        return not tables.are_equal(self._paths, tables.numbers_as_texts(self.ids))

    def classes_at(self, rows: np.ndarray) -> list[str]:
        """The class names of some items."""
        names = tables.taken(self._classes, rows)
        check_names(self._where, names, [])
        return names

    def paths_at(self, rows: np.ndarray) -> list[str]:
        """The paths of some items."""
        paths = tables.taken(self._paths, rows)
        check_names(self._where, [], paths)
        return paths

    def check(self) -> None:
        """Checks all names; see `check_names`."""
        _ = self._numbered_classes
        self._check_paths()

    def _check_paths(self) -> None:
        check_names(self._where, [], tables.matching(self._paths, _DOUBTFUL))

    def rows_of_paths(self, paths: Iterable[str]) -> np.ndarray:
        """The rows of the items that have one of some paths."""
        return tables.rows_of(self._paths, list(paths))

    def rows_of_classes(self, class_names: Iterable[str]) -> np.ndarray:
        """The rows of the items of some classes."""
        names, numbers = self._numbered_classes
        wanted = {*class_names}
        return np.flatnonzero(np.array([name in wanted for name in names], dtype=bool)[numbers])

    def select(self, rows: np.ndarray) -> Items:
        """Some of the items."""
        indices = tables.array(rows)
        return Items(
            self.ids[rows], self.labels[rows], self._classes.take(indices), self._paths.take(indices), self._where
        )

    def followed_by(self, others: Items) -> Items:
        """These items, and then others."""
        ids, labels = (np.concatenate(pair) for pair in ((self.ids, others.ids), (self.labels, others.labels)))
        return Items(
            ids,
            labels,
            tables.joined(self._classes, others._classes),
            tables.joined(self._paths, others._paths),
            self._where,
        )

    def content(self) -> memoryview:
        """The content of the file."""
        columns = [tables.array(self.ids), tables.array(self.labels), self._classes, self._paths]
        return tables.stream(tables.ITEMS, columns)

    @cached_property
    def _numbered_classes(self) -> tuple[list[str], np.ndarray]:
        """The different class names, and the number (rows,) of the name of every item."""
        names, numbers = tables.decoded(self._classes)
        check_names(self._where, names, [])
        return names, numbers


def different(numbers: np.ndarray) -> np.ndarray:
    """The different ones of some whole numbers from 0, ascending; faster than np.unique for the labels of many items."""
    if numbers.min() >= 0 and numbers.max() < 2 * len(numbers):
        return np.flatnonzero(np.bincount(numbers))
    return np.unique(numbers)


def read_items(path: Path, content: Bytes | np.ndarray, rows: int) -> Items:
    """The items of a file.

    Args:
        path: The file, for messages.
        content: Its content; the names of a mapped file are checked when they are used.
        rows: The number of items that it must have.

    Raises:
        IndexFormatError: The number differs, an id occurs twice, a path leaves the root of the images, or the table is malformed.
    """
    try:
        if path.suffix == ".csv":
            return _read_csv(path, bytes(content), rows)
        table = tables.read(tables.ITEMS, content)
        if len(table) != rows or not rows:
            raise ValueError(f"{len(table)} items, expected {rows}")
        ids = check_ids("id", table["id"].to_numpy(), rows)
        labels = check_whole_numbers("label", table["label"].to_numpy(), rows)
        items = Items(ids, labels, table["class"], table["path"], path)
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error
    if not isinstance(content, np.ndarray):
        items.check()
    return items


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


def check_names(where: str | Path, class_names: Sequence[str], paths: Sequence[str]) -> None:
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


def _read_csv(path: Path, content: bytes, rows: int) -> Items:
    """The items of the file of version 2."""
    try:
        header, *lines = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if header != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise ValueError(f"expected rows of the columns {','.join(COLUMNS)}")
    if not lines or len(lines) != rows:
        raise ValueError(f"{len(lines)} items, expected {rows}")
    id_texts, label_texts, names, paths = zip(*lines, strict=True)
    ids = check_ids("id", np.array([int(text) for text in id_texts]), rows)
    labels = check_whole_numbers("label", np.array([int(text) for text in label_texts]), rows)
    check_names(path, names, paths)  # before Arrow, which refuses what is not UTF-8
    different = list(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(different)}
    classes = tables.encoded(np.array([number[name] for name in names]), different)
    return Items(ids, labels, classes, tables.texts(paths), path)
