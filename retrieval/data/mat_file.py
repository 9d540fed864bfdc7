"""Lists in MATLAB's files (level 5), read with the care of `retrieval.data.list_file`: what is wrong is one `DatasetError`.

Just what such lists need: an array of structures, or of cells, that hold texts and whole numbers. SciPy reads more, but some
damaged files make it end the whole process.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from retrieval.data.list_file import Line
from retrieval.errors import DatasetError

_HEADER = 128  # bytes, the last four "\0\1IM" where numbers are little-endian
_LARGEST = 2**28  # bytes of a variable; those of Cars196 have a hundredth of it
_MATRIX, _COMPRESSED = 14, 15  # kinds of elements
_CELLS, _STRUCTS, _TEXT = 1, 2, 4  # classes of matrices; from 6 on they are numbers
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {1: "ascii", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}


def read_structs(path: Path, variable: str, fields: Sequence[str]) -> list[tuple[str, tuple[str | int, ...]]]:
    """The structures of an array: where each stands, for messages, and its values of these fields.

    Raises:
        DatasetError: the file cannot be read, has no such array, or a value is neither a text nor a whole number.
    """
    with _damage_named(path):
        count, parts = _find(path, variable, _STRUCTS)
        (_, length), (_, packed) = _exactly(2, parts)
        (width,) = struct.unpack("<i", length)
        names = [
            packed[start : start + width].tobytes().rstrip(b"\0").decode() for start in range(0, len(packed), width)
        ]
        if not set(fields) <= set(names):
            raise DatasetError(f"{path}: {variable!r} has no fields {', '.join(fields)}; get another copy of the file")
        places = [names.index(field) for field in fields]
        entries = []
        for number in range(1, count + 1):
            values = _exactly(len(names), parts)
            where = f"{path}, entry {number} of {variable}"
            entries.append((where, tuple(_value(where, *values[place]) for place in places)))
        return entries


def read_texts(path: Path, variable: str) -> list[Line]:
    """The texts of a cell array, each with where it stands.

    Raises:
        DatasetError: the file cannot be read, has no such array, or an entry is no text.
    """
    with _damage_named(path):
        count, parts = _find(path, variable, _CELLS)
        lines = []
        for number, element in enumerate(_exactly(count, parts), start=1):
            where = f"{path}, entry {number} of {variable}"
            text = _value(where, *element)
            if not isinstance(text, str):
                raise DatasetError(f"{where}: is no text; get another copy of the file")
            lines.append(Line(where, text))
        return lines


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); put the file of the official devkit there"
        ) from error
    except (ValueError, struct.error, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: is no MATLAB file of level 5, or damaged ({reason}); get another copy") from error


def _find(path: Path, variable: str, wanted: int) -> tuple[int, Iterator[tuple[int, memoryview]]]:
    """The number of entries of an array of the wanted class, and its elements."""
    content = memoryview(path.read_bytes())
    if content[_HEADER - 4 : _HEADER] != b"\0\1IM":
        raise ValueError("its header is another")
    for kind, data in _elements(content[_HEADER:]):
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(data, _LARGEST)
            if not inflater.eof:
                raise ValueError("a variable is cut off or too large")
            ((kind, data),) = _exactly(1, _elements(memoryview(inflated)))
        matrix, count, name, parts = _open(kind, data)
        if (matrix, name) == (wanted, variable) and count > 0:
            return count, parts
    raise DatasetError(
        f"{path}: has no {'cells' if wanted == _CELLS else 'structures'} {variable!r}; get another copy of the file"
    )


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The elements of a block one after the other: kind and content."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        start, padding = place + 8, 0 if kind == _COMPRESSED else -size % 8
        if kind >> 16:  # a small one: its size beside its kind, its content of 4 bytes in the place of its size
            kind, size, start, padding = kind & 0xFFFF, kind >> 16, place + 4, 4 - (kind >> 16)
        if padding < 0 or start + size > len(data):
            raise ValueError("an element is cut off")
        yield kind, data[start : start + size]
        place = start + size + padding


def _open(kind: int, data: memoryview) -> tuple[int, int, str, Iterator[tuple[int, memoryview]]]:
    """Class, number of entries, name and further elements of a matrix."""
    if kind != _MATRIX:
        raise ValueError("a variable is no matrix")
    parts = _elements(data)
    (_, flags), (_, sizes), (_, name) = _exactly(3, parts)
    (matrix,) = struct.unpack_from("<B", flags)
    count = math.prod(struct.unpack(f"<{len(sizes) // 4}i", sizes))
    return matrix, count, name.tobytes().decode(), parts


def _exactly(count: int, parts: Iterator[tuple[int, memoryview]]) -> list[tuple[int, memoryview]]:
    found = list(islice(parts, max(count, 0)))
    if len(found) != count:
        raise ValueError("a variable is cut off")
    return found


def _value(where: str, kind: int, data: memoryview) -> str | int:
    """A text, or a single whole number."""
    matrix, count, _, parts = _open(kind, data)
    values = list(islice(parts, 2))  # a second one is the imaginary part
    if len(values) == 1:
        ((kind, content),) = values
        if matrix == _TEXT and kind in _ENCODINGS:
            return content.tobytes().decode(_ENCODINGS[kind])
        if matrix > _TEXT and count == 1 and kind in _NUMBERS:
            (number,) = struct.unpack(f"<{_NUMBERS[kind]}", content)
            if float(number).is_integer():
                return int(number)
    raise DatasetError(f"{where}: holds something else than a text or a whole number; get another copy of the file")
