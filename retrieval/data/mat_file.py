"""Lists in MATLAB files, read by SciPy; every problem of a file is one `DatasetError`.

Some damaged files make SciPy end the whole process, which no `except` can prevent. The caller can therefore give the md5 sum of
the expected file, and the file is compared with it before SciPy parses it.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.data.list_file import Line
from retrieval.errors import DatasetError
from retrieval.files import read_file


def read_structs(
    path: Path, variable: str, fields: Sequence[str], *, md5: str | None = None
) -> list[tuple[str, tuple[str | int, ...]]]:
    """Reads some fields of a structure array.

    Args:
        path: The file.
        variable: The name of the array.
        fields: The names of the fields.
        md5: The md5 sum that the file must have; None accepts any file, and a damaged one can crash the process.

    Returns:
        For every structure, its position for messages and the values of the fields in their order.

    Raises:
        DatasetError: The file cannot be read, has another md5 sum or no such array, or a value is neither text nor an integer.
    """
    array = _load(path, variable, md5)
    if array is None or array.dtype.names is None or not array.size:
        raise DatasetError(f"{path}: has no structure array {variable!r}; get another copy of the file")
    if not set(fields) <= set(array.dtype.names):
        raise DatasetError(f"{path}: {variable!r} does not have the fields {', '.join(fields)}; get another copy of it")
    entries = []
    for number, struct in enumerate(array.flat, start=1):
        where = f"{path}, entry {number} of {variable}"
        entries.append((where, tuple(_value(where, struct[field]) for field in fields)))
    return entries


def read_texts(path: Path, variable: str, *, md5: str | None = None) -> list[Line]:
    """Reads a cell array of texts.

    Args:
        path: The file.
        variable: The name of the array.
        md5: See `read_structs`.

    Returns:
        The texts with their positions for messages.

    Raises:
        DatasetError: The file cannot be read, has another md5 sum or no such array, or an entry is not text.
    """
    array = _load(path, variable, md5)
    if array is None or array.dtype != object or not array.size:
        raise DatasetError(f"{path}: has no cell array {variable!r}; get another copy of the file")
    lines = []
    for number, cell in enumerate(array.flat, start=1):
        where = f"{path}, entry {number} of {variable}"
        text = _value(where, cell)
        if not isinstance(text, str):
            raise DatasetError(f"{where}: is not text; get another copy of the file")
        lines.append(Line(where, text))
    return lines


def _load(path: Path, variable: str, md5: str | None) -> np.ndarray | None:
    """The array of that name; None if the file does not have it."""
    import scipy.io  # here, since only this format needs it

    try:
        content = read_file(path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); copy the file of the official devkit to this path"
        ) from error
    if md5 is not None and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise DatasetError(
            f"{path}: its md5 sum is {found}, that of the published file is {md5}; get another copy, or set check_md5 to "
            "false if you have edited the file"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = scipy.io.loadmat(io.BytesIO(content), variable_names=[variable]).get(variable)
    except Exception as error:  # SciPy documents none of the types that it raises on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{path}: is not a MATLAB file of level 5, or is damaged ({reason}); get another copy"
        ) from error
    return array if isinstance(array, np.ndarray) else None


def _value(where: str, value: object) -> str | int:
    """The text or the single integer that SciPy returned as an array."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "U" and value.size <= 1:
            return str(value.item()) if value.size else ""
        if value.dtype.kind in "biuf" and value.size == 1 and float(value.item()).is_integer():
            return int(value.item())
    raise DatasetError(f"{where}: is neither text nor an integer; get another copy of the file")
