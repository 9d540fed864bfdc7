"""Embeddings from elsewhere: an array of vectors, and a table of what they are of."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import DatasetError, did_you_mean
from retrieval.files import write_bytes, write_text

COLUMNS = ("label", "id", "path")


def read_vectors(file: Path) -> np.ndarray:
    """The vectors (count, dim) of a .npy file, as float32 of unit length.

    Raises:
        DatasetError: it is no array of finite numbers, or a row has no direction.
    """
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no array of numbers"
        raise DatasetError(f"{file}: cannot be read ({reason}); write it with numpy.save") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiu":
        found = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else "several arrays"
        raise DatasetError(f"{file}: holds {found}, expected numbers (count, dimension)")
    wide = vectors.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(wrong):
        raise DatasetError(
            f"{file}: row {wrong[0]} has length {lengths[wrong[0], 0]:g} ({len(wrong)} of {len(vectors)} rows are at fault), "
            "expected finite numbers, not all of them 0"
        )
    return np.ascontiguousarray(wide / lengths, dtype=np.float32)


def read_labels(file: Path, count: int, vectors: str | Path) -> dict[str, Any]:
    """The table of `count` items as `retrieval.index.write_bundle` wants it: "ids", "labels", "class_names", "paths".

    Raises:
        DatasetError: it cannot be read, with the line, or has another number of items than there are vectors.
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
        if len(line) != len(names) or not all(word.strip() for word in line):
            raise DatasetError(f"{file}, line {number}: expected a value for each of {', '.join(names)}; mend the line")
    if len(lines) != count:
        raise DatasetError(f"{file}: has {len(lines)} items, {vectors} has {count} vectors; give one line for each")
    table = {name: [line[place].strip() for _, line in lines] for place, name in enumerate(names)}
    numbers = {name: label for label, name in enumerate(dict.fromkeys(table["label"]))}
    ids = _ids(file, [n for n, _ in lines], table["id"]) if "id" in table else np.arange(count)
    paths = table.get("path", [str(id_) for id_ in ids])
    labels = np.array([numbers[name] for name in table["label"]])
    return {"ids": ids, "labels": labels, "class_names": list(numbers), "paths": paths}


def write_arrays(folder: Path, vectors: np.ndarray, table: dict[str, list[Any]], name: str = "labels.csv") -> None:
    """Writes vectors.npy and a table by its columns into a folder; `read_vectors` and `read_labels` read them back."""
    content = io.BytesIO()
    np.save(content, vectors)
    write_bytes(folder / "vectors.npy", content.getbuffer())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    write_text(folder / name, text.getvalue())


def _ids(file: Path, lines: list[int], words: list[str]) -> np.ndarray:
    seen: dict[str, int] = {}
    for line, word in zip(lines, words, strict=True):
        if not (word.isascii() and word.isdigit() and len(word) < 19):
            raise DatasetError(f"{file}, line {line}: id {word!r} is no whole number from 0; mend the line")
        if (before := seen.setdefault(str(int(word)), line)) != line:
            raise DatasetError(f"{file}, line {line}: id {word} stands in line {before} already; give each once")
    return np.array([int(word) for word in words])
