"""Reads regular files only. A pipe, device or socket is refused at once: reading one can wait for ever or never end."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from pathlib import Path

# Characters that are in no text and no path. Paths that are not UTF-8 hold the other surrogates.
IMPOSSIBLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: str | Path) -> io.BufferedReader:
    """Opens a regular file, or a link to one, for reading.

    Raises:
        OSError: The file cannot be opened, or it is a folder, pipe, device or socket; `strerror` says which.
    """
    if IMPOSSIBLE.search(str(path)):
        raise OSError(errno.EINVAL, "no file can have this name", str(path))
    _require_regular(path, Path(path).stat())  # before it is opened, which may act on a device
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        _require_regular(path, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def read_file(path: str | Path, largest: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        largest: The largest size in bytes; None allows any.

    Raises:
        OSError: See `open_file`; or the file is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read() if largest is None else file.read(min(size, largest) + 1)  # `read` takes memory first
    if largest is not None and len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest:,} bytes", str(path))
    return content


def read_text(path: str | Path, largest: int | None = None) -> str:
    """The text of a regular file in UTF-8, without a byte order mark. Line ends are kept.

    Raises:
        OSError: See `read_file`.
        UnicodeDecodeError: The file is not UTF-8.
    """
    return read_file(path, largest).decode("utf-8-sig")


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file that may have become a pipe in the meantime."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_regular(path: str | Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no regular file')}", str(path))
