"""Tables of an index bundle, as streams of Apache Arrow. pyarrow is imported when a table is first used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.files.blocks import Bytes
from retrieval.files.reading import open_file

ITEMS, THUMBNAILS = "items", "thumbnails"
_BATCH = 2**16  # rows


def array(values: np.ndarray) -> Any:
    """A column of numbers."""
    import pyarrow

    return pyarrow.array(values)


def texts(values: Any) -> Any:
    """A column of texts, or as it is if it is one already."""
    return values if hasattr(values, "chunks") else _in_chunks(values, "string")


def pictures(values: Sequence[bytes]) -> Any:
    """A column of bytes."""
    return _in_chunks(values, "binary")


def numbers_as_texts(numbers: np.ndarray) -> Any:
    """A column of the texts of whole numbers."""
    import pyarrow

    parts = [pyarrow.array(numbers[start : start + 2**22]).cast("string") for start in range(0, len(numbers), 2**22)]
    return pyarrow.chunked_array(parts, "string")


def encoded(numbers: np.ndarray, names: Sequence[str]) -> Any:
    """A column of the names of numbers, in which each name is stored once."""
    import pyarrow

    indices = pyarrow.array(np.asarray(numbers, dtype=np.int32))
    return pyarrow.chunked_array([pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(names, "string"))])


def decoded(column: Any) -> tuple[list[str], np.ndarray]:
    """The different names of a column of `encoded`, or of several joined ones, and the number of the name of every row."""
    names: dict[str, int] = {}
    numbers = []
    dictionary, places = None, np.zeros(0, dtype=np.int64)
    for chunk in column.chunks:
        if dictionary is None or not _is_same(chunk.dictionary, dictionary):  # the chunks of a stream have one
            dictionary = chunk.dictionary
            texts = dictionary.to_pylist()
            places = np.array([names.setdefault(name, len(names)) for name in texts], dtype=np.int64)
        numbers.append(places[chunk.indices.to_numpy()])
    return list(names), np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int64)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two dictionaries are one and the same in memory."""
    places = [[buffer and buffer.address for buffer in it.buffers()] for it in (one, other)]
    return places[0] == places[1] and (one.offset, len(one)) == (other.offset, len(other))


def taken(column: Any, rows: np.ndarray) -> list[Any]:
    """The values of some rows of a column."""
    return list(column.take(array(np.asarray(rows))).to_pylist())


def joined(one: Any, other: Any) -> Any:
    """A column, and then another one of its type."""
    import pyarrow

    return pyarrow.chunked_array([*_chunks(one), *_chunks(other)])


def are_equal(one: Any, other: Any) -> bool:
    """Whether two columns hold the same."""
    return bool(one.equals(other))


def matching(column: Any, pattern: str) -> list[str]:
    """The texts of a column that match a pattern of RE2."""
    import pyarrow.compute

    return column.filter(pyarrow.compute.match_substring_regex(column, pattern)).to_pylist()


def longest(column: Any) -> int:
    """The length of the longest value of a column of bytes."""
    import pyarrow.compute

    return pyarrow.compute.max(pyarrow.compute.binary_length(column)).as_py() or 0


def rows_of(column: Any, wanted: Sequence[str]) -> np.ndarray:
    """The rows of a column of texts that hold one of the wanted ones."""
    import pyarrow
    import pyarrow.compute

    found = pyarrow.compute.is_in(column, value_set=pyarrow.array(wanted, "string"))
    return np.flatnonzero(found.to_numpy())


def plain_csv(path: Path, known: Sequence[str]) -> dict[str, Any] | None:
    """The columns of a .csv file as texts; None if the file is not one of some known columns with plain values.

    Plain values are no empty texts, begin and end with no blank, and begin with no sign of a formula.
    """
    import pyarrow
    import pyarrow.compute
    import pyarrow.csv

    try:
        with open_file(path) as file:
            beginning = file.read(2**12)
        names = beginning.split(b"\n", 1)[0].decode().rstrip("\r").split(",")
        if "label" not in names or len(set(names)) < len(names) or not set(names) <= set(known):
            return None
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pyarrow.string()),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        )
        parsing = pyarrow.csv.ParseOptions(newlines_in_values=False)
        table = pyarrow.csv.read_csv(path, parse_options=parsing, convert_options=options)
    except (pyarrow.ArrowException, OSError, ValueError):
        return None
    blank = r"[\s\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
    doubtful = rf"^$|^{blank}|{blank}$|^['=+\-@]"
    if any(pyarrow.compute.any(pyarrow.compute.match_substring_regex(it, doubtful)).as_py() for it in table.columns):
        return None
    return {name: table[name] for name in names}


def numbered(labels: Any) -> tuple[np.ndarray, list[str]]:
    """The numbers of labels, whole numbers or a column of texts, in the order in which they first occur; and their texts."""
    if isinstance(labels, np.ndarray):
        values, first, inverse = _different(labels)
        order = np.argsort(first)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return place[inverse], [str(value) for value in values[order].tolist()]
    names, numbers = decoded(labels.dictionary_encode())
    return numbers, names


def _different(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different numbers, ascending, the place where each first occurs, and the place of each of `numbers` among them."""
    if not len(numbers) or numbers.min() < 0 or numbers.max() >= 2 * len(numbers):
        return np.unique(numbers, return_index=True, return_inverse=True)
    # Without sorting, which takes most of the time of an index of ten million vectors.
    first = np.full(int(numbers.max()) + 1, -1)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of equal indices, NumPy keeps the last assignment
    values = np.flatnonzero(first >= 0)
    place = np.zeros(len(first), dtype=np.int64)
    place[values] = np.arange(len(values))
    return values, first[values], place[numbers]


def whole_numbers(column: Any) -> np.ndarray | None:
    """The numbers of a column of texts; None if one is no whole number from 0 that fits."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.compute.all(pyarrow.compute.match_substring_regex(column, r"^[0-9]{1,18}$")).as_py():
        return column.cast("int64").to_numpy()
    return None


def stream(kind: str, columns: Sequence[Any]) -> memoryview:
    """The content of a file with these columns."""
    import pyarrow

    schema = _schema(kind)
    table = pyarrow.table([_unified(column) for column in columns], schema=schema)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table, max_chunksize=_BATCH)
    return memoryview(sink.getvalue())


def read(kind: str, content: Bytes | np.ndarray) -> Any:
    """The table of a file: of one stream, or of several that follow one another. Its columns stay where `content` is.

    Raises:
        ValueError: It is not such a file.
    """
    import pyarrow

    schema = _schema(kind)
    parts: list[Any] = []
    try:
        buffer = pyarrow.py_buffer(content)
        source = pyarrow.BufferReader(buffer)
        while not parts or source.tell() < buffer.size:
            with pyarrow.ipc.open_stream(source) as reader:
                if reader.schema != schema:
                    raise ValueError("its columns are others than those of this version")
                parts.append(reader.read_all())
                parts[-1].validate(full=True)
        table = pyarrow.concat_tables(parts)
    except (pyarrow.ArrowException, MemoryError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"is not a stream of Arrow ({reason})") from error
    if any(_has_gaps(column) for column in table.columns):
        raise ValueError("a value is missing")
    return table


def is_table(path: Path, kind: str) -> bool:
    """Whether a file begins as one of these columns."""
    import pyarrow

    try:
        with open_file(path) as file:
            return bool(pyarrow.ipc.read_schema(pyarrow.py_buffer(file.read(2**16))) == _schema(kind))
    except (pyarrow.ArrowException, OSError):
        return False


def _has_gaps(column: Any) -> bool:
    import pyarrow

    if column.null_count:
        return True
    of_names = pyarrow.types.is_dictionary(column.type)
    return of_names and any(chunk.dictionary.null_count for chunk in column.chunks)


def _schema(kind: str) -> Any:
    import pyarrow

    if kind == THUMBNAILS:
        return pyarrow.schema({"picture": pyarrow.binary()})
    names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    return pyarrow.schema({"id": pyarrow.int64(), "label": pyarrow.int64(), "class": names, "path": pyarrow.string()})


def _in_chunks(values: Sequence[Any], kind: str) -> Any:
    """A column of one chunk for each million values, or fewer."""
    import pyarrow

    step = 2**20
    parts = [pyarrow.array(values[start : start + step], kind) for start in range(0, len(values), step)]
    return pyarrow.chunked_array([chunk for part in parts for chunk in _chunks(part)], kind)


def _chunks(column: Any) -> list[Any]:
    return list(column.chunks) if hasattr(column, "chunks") else [column]


def _unified(column: Any) -> Any:
    """The column, with one dictionary for all chunks."""
    import pyarrow

    column = column if hasattr(column, "chunks") else pyarrow.chunked_array([column])
    return column.unify_dictionaries() if pyarrow.types.is_dictionary(column.type) else column
