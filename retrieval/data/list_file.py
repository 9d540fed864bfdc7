"""Reading text lists of images, which are not trusted.

A list that cannot be used is one `DatasetError` with its file and line. Byte order marks, Windows line ends and blank lines are
accepted. Python's `csv` splits the lines at their commas. It does not read whole files here, because it would join lines
between unmatched quotes, and an error would then name a wrong line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from retrieval.data.image_set import stays_below_root
from retrieval.errors import DatasetError
from retrieval.files import read_file

LONGEST_LINE = 4096  # characters; no common system allows longer paths

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all except the tab
_NAMES = {"\0": "a NUL character", "\r": "a carriage return"}


class Line(NamedTuple):
    """A line that is not blank: its position for messages, and its text without surrounding white space."""

    where: str
    text: str


def read_lines(path: Path, *, remedy: str) -> list[Line]:
    """Reads the lines of a list that are not blank, at least one.

    Args:
        path: The list, UTF-8 text.
        remedy: The remedy for the message if the file is missing or empty.

    Raises:
        DatasetError: The list cannot be read or is empty, or a line is not UTF-8, contains control characters or is too long.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    lines = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            text = raw.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DatasetError(f"{where}: is not UTF-8 text ({error.reason}); save the list as UTF-8") from error
        if control := _CONTROL.search(text):
            name = _NAMES.get(control[0], f"the control character {control[0]!r}")
            raise DatasetError(f"{where}: {name} at character {control.start() + 1}; is this a text list?")
        if len(text) > LONGEST_LINE:
            raise DatasetError(
                f"{where}: {len(text):,} characters, expected at most {LONGEST_LINE:,}; correct the line"
            )
        if text.strip():
            lines.append(Line(where, text.strip()))
    if not lines:
        raise DatasetError(f"{path}: is empty; {remedy}")
    return lines


def split_line(line: Line, columns: Sequence[str]) -> list[str]:
    """Splits a line at white space into the values of the named columns; only the last value may contain white space.

    Raises:
        DatasetError: The line has fewer values.
    """
    values = line.text.split(maxsplit=len(columns) - 1)
    if len(values) < len(columns):
        expected = " ".join(f"<{column}>" for column in columns)
        raise DatasetError(f"{line.where}: {shorten(line.text)} is not '{expected}'; correct the line")
    return values


def split_commas(line: Line, count: int | None = None) -> list[str]:
    """Splits a line at its commas; values with a comma are in quotes, and white space around values is removed.

    Args:
        line: A line of `read_lines`.
        count: The required number of values; any number by default.

    Raises:
        DatasetError: The quotes do not match, or the line has more or fewer values.
    """
    try:
        values = [value.strip() for value in next(csv.reader([line.text], strict=True, skipinitialspace=True))]
    except csv.Error as error:
        raise DatasetError(
            f"{line.where}: {shorten(line.text)} is not a line of a CSV file ({error}); correct it"
        ) from error
    if count is not None and len(values) != count:
        raise DatasetError(
            f"{line.where}: {len(values)} values, expected {count} between commas; correct the line, and put values with "
            "a comma in quotes"
        )
    return values


def parse_integer(where: str, text: str, name: str) -> int:
    """Converts a text to an integer from 0 to 999,999,999.

    Raises:
        DatasetError: The text is not such an integer. The message calls the value `name`.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise DatasetError(f"{where}: {name} {shorten(text)} is not an integer; correct the line")
    return int(text)


def image_path(where: str, text: str) -> str:
    """Checks and normalises the relative path of a listed image, with "/" as separator and without "." parts.

    Raises:
        DatasetError: The path is absolute or could lead out of the folder that it is relative to.
    """
    path = PurePosixPath(text).as_posix()
    if path == "." or not stays_below_root(text):
        raise DatasetError(
            f"{where}: {shorten(text)} does not stay below the data folder; give a relative path, with '/', without '..'"
        )
    return path


def refuse_repeated(where: str, value: object, seen: set[object], name: str) -> None:
    """Adds a value to the set of those seen before.

    Raises:
        DatasetError: The value is in the set already. The message calls the value `name`.
    """
    if value in seen:
        raise DatasetError(f"{where}: {name} {shorten(str(value))} is listed twice; remove one of its lines")
    seen.add(value)


def shorten(text: str, length: int = 80) -> str:
    """The text in quotes, on one line, and cut off if it is long."""
    return repr(text if len(text) <= length else f"{text[: length - 1]}…")
