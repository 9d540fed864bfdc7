"""Text lists of images, read with care: they come from anywhere, and a line may hold anything.

A list that cannot be used is one `DatasetError` with its file and line. Byte order marks, Windows line ends and blank lines
are no fault.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from retrieval.data.image_set import stays_below_root
from retrieval.errors import DatasetError

LONGEST_LINE = 4096  # characters; no common system has longer paths

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab
_NAMES = {"\0": "a NUL character", "\r": "a carriage return"}


class Line(NamedTuple):
    """A line that is not blank: where it stands, for messages, and what it holds, without white space around."""

    where: str
    text: str


def read_lines(path: Path, *, remedy: str) -> list[Line]:
    """The lines of a list that are not blank, at least one.

    Args:
        path: the list, UTF-8 text.
        remedy: what to do if there is no such file.

    Raises:
        DatasetError: it cannot be read, is empty, or a line is no UTF-8, holds control characters or is too long.
    """
    try:
        content = path.read_bytes()
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
            raise DatasetError(f"{where}: {len(text):,} characters, expected at most {LONGEST_LINE:,}; mend the line")
        if text.strip():
            lines.append(Line(where, text.strip()))
    if not lines:
        raise DatasetError(f"{path}: is empty; {remedy}")
    return lines


def split_line(line: Line, columns: Sequence[str]) -> list[str]:
    """The values of the named columns, which white space separates; only the last may have white space inside.

    Raises:
        DatasetError: there are fewer.
    """
    values = line.text.split(maxsplit=len(columns) - 1)
    if len(values) < len(columns):
        expected = " ".join(f"<{column}>" for column in columns)
        raise DatasetError(f"{line.where}: {shorten(line.text)} is not '{expected}'; mend the line")
    return values


def split_commas(line: Line, count: int | None = None) -> list[str]:
    """The values of a line of comma-separated values, in quotes where they hold a comma; without white space around.

    Args:
        line: from `read_lines`.
        count: how many there must be; any number by default.

    Raises:
        DatasetError: the quotes do not match, or there are more or fewer values.
    """
    try:
        values = [value.strip() for value in next(csv.reader([line.text], strict=True, skipinitialspace=True))]
    except csv.Error as error:
        raise DatasetError(f"{line.where}: {shorten(line.text)} is no line of a CSV file ({error}); mend it") from error
    if count is not None and len(values) != count:
        raise DatasetError(
            f"{line.where}: {len(values)} values, expected {count} between commas; mend the line, and put values with "
            "a comma inside into quotes"
        )
    return values


def whole_number(where: str, text: str, name: str) -> int:
    """The number that a value stands for, 0 to 999,999,999.

    Raises:
        DatasetError: it is none; `name` says what it should be.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise DatasetError(f"{where}: {name} {shorten(text)} is not a whole number; mend the line")
    return int(text)


def image_path(where: str, text: str) -> str:
    """The path of a listed image, relative, "/" between its parts, without "." among them.

    Raises:
        DatasetError: it is absolute or could leave the folder that it starts from.
    """
    path = PurePosixPath(text).as_posix()
    if path == "." or not stays_below_root(text):
        raise DatasetError(
            f"{where}: {shorten(text)} does not stay below the data folder; give a relative path, with '/', without '..'"
        )
    return path


def refuse_repeated(where: str, value: object, seen: set[object], name: str) -> None:
    """Adds a value to those seen before.

    Raises:
        DatasetError: it is one of them; `name` says what it is.
    """
    if value in seen:
        raise DatasetError(f"{where}: {name} {shorten(str(value))} is there twice; remove one of its lines")
    seen.add(value)


def shorten(text: str, length: int = 80) -> str:
    """The text in quotes, on one line, cut off where it is long."""
    return repr(text if len(text) <= length else f"{text[: length - 1]}…")
