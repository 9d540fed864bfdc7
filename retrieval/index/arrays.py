"""Reads vectors of other programs: a .npy file, and a file of their labels."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.data.names import MISSING, refuse_alike
from retrieval.errors import DatasetError, did_you_mean, plural
from retrieval.files import blocks, read_text
from retrieval.files.arrays import map_array, read_array
from retrieval.files.cells import unguard
from retrieval.index import tables
from retrieval.index.vectors import NotUnitError, Vectors, unit_parts
from retrieval.index.writing import staged

log = logging.getLogger("retrieval")

COLUMNS = ("label", "id", "path")
_LARGE = 2**20  # bytes of a file of labels that is read by columns
_SEPARATORS = {";": "semicolons", "\t": "tabs"}  # in place of commas, as spreadsheets write them


@contextlib.contextmanager
def read_vectors(file: Path, out: Path | None) -> Iterator[Vectors]:
    """The vectors (count, dim) of a .npy file, as float32 of length 1; see `units`.

    Raises:
        DatasetError: The file is not an array of finite numbers, or a vector is zero.
    """
    try:
        vectors = map_array(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read ({_reason(error)}); write it with numpy.save") from error
    with contextlib.ExitStack() as stack:
        try:
            rows = stack.enter_context(units("vectors", vectors, out))
        except ValueError as error:
            raise DatasetError(f"{file}: {error}") from error
        yield rows


@contextlib.contextmanager
def units(name: str, vectors: Any, out: Path | None) -> Iterator[Vectors]:
    """A copy of vectors as float32 of length 1: in memory, or, of many for a folder, in a file that `write_bundle` moves into it.

    Args:
        name: Their name, for messages.
        vectors: (count, dim) See `retrieval.evaluation.unit_vectors`.
        out: The folder of the index that they are for; None for an index in memory.

    Raises:
        ValueError: The vectors are not such; see `retrieval.evaluation.unit_vectors`.
    """
    is_large = isinstance(vectors, np.ndarray) and vectors.ndim == 2 and vectors.dtype.kind in "fiu"
    if not is_large or out is None or 4 * vectors.size <= blocks.BLOCK:
        yield Vectors(np.array(evaluation.unit_vectors(name, vectors)))
        return
    with contextlib.ExitStack() as stack:
        try:
            # Most programs write unit vectors: they are copied as they are until a row is none.
            parts = unit_parts(name, vectors, as_they_are=vectors.dtype == np.float32)
            rows = stack.enter_context(staged(out, parts, vectors.shape))
        except NotUnitError:
            parts = unit_parts(name, vectors, as_they_are=False)
            rows = stack.enter_context(staged(out, parts, vectors.shape))
        yield rows


def read_labels(file: Path, count: int, vectors: str | Path) -> dict[str, Any]:
    """The labels of `count` vectors, as arguments of `retrieval.index.writing.make_bundle`.

    Args:
        file: A .csv table with the column "label", and optionally "id" and "path"; a .txt file with a label in each line; a .json
            list; or a .npy array of numbers or texts.
        count: The number of vectors.
        vectors: Their file, for messages.

    Returns:
        "ids", "labels", "class_names" and "paths".

    Raises:
        DatasetError: The file cannot be read (the message has the line), or its number of items is not that of the vectors.
    """
    if (columns := _read_columns(file, count)) is not None:
        return columns
    readers = {".npy": _read_array, ".json": _read_json, ".txt": _read_lines}
    reader = readers.get(file.suffix.lower())
    table = _read_table(file, count) if reader is None else {"label": reader(file)}
    if (labelled := len(table["label"])) != count:
        raise DatasetError(
            f"{file}: has {plural(labelled, 'item')}, {vectors} has {plural(count, 'vector')}; give one line for each"
        )
    numbers = {name: label for label, name in enumerate(dict.fromkeys(table["label"]))}
    refuse_alike(numbers, file)
    for name in numbers:
        if name.lower() in MISSING:
            number = table["label"].index(name) + 1
            log.warning("%s, item %d: label %r is the text of a missing value; it forms a class", file, number, name)
    ids = np.array([int(text) for text in table["id"]]) if "id" in table else np.arange(count)
    labels = np.array([numbers[name] for name in table["label"]])
    return {"ids": ids, "labels": labels, "class_names": list(numbers), "paths": table.get("path")}


def _read_columns(file: Path, count: int) -> dict[str, Any] | None:
    """What `read_labels` returns, for a large .csv or .npy file that is plainly in order; None for every other file.

    No line of it becomes an object of Python. A file with a fault is left to the plain reader, which names the line.
    """
    try:
        if file.stat().st_size < _LARGE:
            return None
    except (OSError, ValueError):
        return None
    columns: Mapping[str, Any] | None = None
    if file.suffix.lower() == ".npy":
        with contextlib.suppress(OSError, ValueError):
            array = read_array(file)
            columns = {"label": array} if array.ndim == 1 and array.dtype.kind in "iu" else None
    elif file.suffix.lower() not in (".json", ".txt"):
        columns = tables.plain_csv(file, COLUMNS)
    if columns is None or len(columns["label"]) != count:
        return None
    numbers, names = tables.numbered(columns["label"])
    refuse_alike(names, file)
    if any(name.lower() in MISSING for name in names):
        return None
    ids = tables.whole_numbers(columns["id"]) if "id" in columns else np.arange(count)
    if ids is None or ("id" in columns and (np.diff(np.sort(ids)) == 0).any()):
        return None
    return {"ids": ids, "labels": numbers, "class_names": names, "paths": columns.get("path")}


def _read_table(file: Path, count: int) -> dict[str, list[str]]:
    """The columns of a .csv file by name; `count` is the number of lines that are expected below the header."""
    try:
        reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True)
        header, *lines = [(reader.line_num, line) for line in reader if line] or [(1, [])]
    except csv.Error as error:
        raise DatasetError(f"{file}: cannot be read ({error}); expected UTF-8 text with a column label") from error
    names = [name.strip() for name in header[1]]
    unknown = [name for name in names if name not in COLUMNS or names.count(name) > 1]
    if unknown or "label" not in names:
        raise DatasetError(f"{file}{_header_fault(names, unknown, has_header=len(lines) + 1 != count)}")
    for number, line in lines:
        if len(line) != len(names) or not all(value.strip() for value in line):
            raise DatasetError(f"{file}, line {number}: expected a value for each of {', '.join(names)}; mend the line")
    table = {name: [unguard(line[column].strip()) for _, line in lines] for column, name in enumerate(names)}
    if "id" in table:
        _check_ids(file, [number for number, _ in lines], table["id"])
    return table


def _header_fault(names: list[str], unknown: list[str], *, has_header: bool) -> str:
    """What is wrong with the first line of a .csv file, and how to mend it."""
    line = ",".join(names)
    for sign, word in _SEPARATORS.items():
        if sign in line:
            return f": its columns are separated by {word}, expected commas; save it as CSV with commas"
    if not has_header and not {name.lower() for name in names} & {*COLUMNS}:
        example = "label" if len(names) == 1 else "label,path"
        return f", line 1: is {line!r}, expected a header; put a line with the names of the columns above it, e.g. {example}"
    expected = f": its columns are {', '.join(names) or 'none'}; expected label, and perhaps id and path, once each"
    return expected + did_you_mean(unknown[0] if unknown else "", COLUMNS)


def _read_array(file: Path) -> list[str]:
    """The labels of a .npy file: an array (count,) of whole numbers or texts."""
    try:
        labels = read_array(file)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{file}: cannot be read ({_reason(error)}); write numbers or texts with numpy.save"
        ) from error
    if labels.ndim != 1 or labels.dtype.kind not in "biuU":
        raise DatasetError(
            f"{file}: holds {labels.dtype} {labels.shape}, expected whole numbers or texts of shape (count,)"
        )
    return [str(label) for label in labels.tolist()]


def _read_json(file: Path) -> list[str]:
    """The labels of a .json file: a list of numbers or texts."""
    try:
        labels = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: is not valid JSON ({error}); expected a list of labels") from error
    if not isinstance(labels, list) or not all(type(label) in (int, str) for label in labels):
        raise DatasetError(f"{file}: is not a list of whole numbers or texts; give one label for each vector")
    return [str(label) for label in labels]


def _read_lines(file: Path) -> list[str]:
    """The labels of a .txt file, one a line."""
    labels = [line.strip() for line in _read_text(file).splitlines()]
    if "" in labels:
        raise DatasetError(f"{file}, line {labels.index('') + 1}: is empty; give a label in every line")
    return labels


def _read_text(file: Path) -> str:
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{file}: cannot be read ({_reason(error)}); expected UTF-8 text with a label for each vector"
        ) from error


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _check_ids(file: Path, lines: list[int], texts: list[str]) -> None:
    seen: dict[int, int] = {}
    for line, text in zip(lines, texts, strict=True):
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise DatasetError(f"{file}, line {line}: id {text!r} is no whole number from 0; mend the line")
        if (before := seen.setdefault(int(text), line)) != line:
            raise DatasetError(f"{file}, line {line}: id {text} stands in line {before} already; give each once")
