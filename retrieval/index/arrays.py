"""Reads vectors of other programs: a .npy file, and a CSV table of their labels."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.errors import DatasetError, did_you_mean

COLUMNS = ("label", "id", "path")


def read_vectors(file: Path) -> np.ndarray:
    """The vectors (count, dim) of a .npy file, as float32 of unit length.

    Raises:
        DatasetError: The file is not an array of finite numbers, or a vector is zero.
    """
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not an array of numbers"
        raise DatasetError(f"{file}: cannot be read ({reason}); write it with numpy.save") from error
    if not isinstance(vectors, np.ndarray):
        raise DatasetError(f"{file}: holds several arrays, expected one of shape (count, dimension)")
    try:
        return evaluation.unit_vectors("vectors", vectors)
    except ValueError as error:
        raise DatasetError(f"{file}: {error}") from error


def read_labels(file: Path, count: int, vectors: str | Path) -> dict[str, Any]:
    """The table of `count` items as arguments of `retrieval.index.writing.make_bundle`.

    Returns:
        "ids", "labels", "class_names" and "paths".

    Raises:
        DatasetError: The file cannot be read (the message has the line), or its number of items is not that of the vectors.
    """
    try:
        reader = csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        header, *lines = [(reader.line_num, line) for line in reader if line] or [(1, [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{file}: cannot be read ({reason}); expected UTF-8 text with a column label") from error
    names = [name.strip() for name in header[1]]
    unknown = [name for name in names if name not in COLUMNS or names.count(name) > 1]
    if unknown or "label" not in names:
        raise DatasetError(
            f"{file}: its columns are {', '.join(names) or 'none'}; expected label, and perhaps id and path, once each"
            + did_you_mean(unknown[0] if unknown else "", COLUMNS)
        )
    for number, line in lines:
        if len(line) != len(names) or not all(value.strip() for value in line):
            raise DatasetError(f"{file}, line {number}: expected a value for each of {', '.join(names)}; mend the line")
    if len(lines) != count:
        raise DatasetError(f"{file}: has {len(lines)} items, {vectors} has {count} vectors; give one line for each")
    table = {name: [line[column].strip() for _, line in lines] for column, name in enumerate(names)}
    numbers = {name: label for label, name in enumerate(dict.fromkeys(table["label"]))}
    ids = _ids(file, [n for n, _ in lines], table["id"]) if "id" in table else np.arange(count)
    paths = table.get("path", [str(id_) for id_ in ids])
    labels = np.array([numbers[name] for name in table["label"]])
    return {"ids": ids, "labels": labels, "class_names": list(numbers), "paths": paths}


def _ids(file: Path, lines: list[int], texts: list[str]) -> np.ndarray:
    seen: dict[int, int] = {}
    for line, text in zip(lines, texts, strict=True):
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise DatasetError(f"{file}, line {line}: id {text!r} is no whole number from 0; mend the line")
        if (before := seen.setdefault(int(text), line)) != line:
            raise DatasetError(f"{file}, line {line}: id {text} stands in line {before} already; give each once")
    return np.array([int(text) for text in texts])
