"""Opening files that other programs or users made. Only regular files are opened: a pipe or a device could be waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file, or a link to one, for reading bytes.

    Raises:
        OSError: The file cannot be opened, or it is a folder, a named pipe, a socket or a device. None of these is waited for.
    """
    return open(path, "rb", opener=_open)  # Path.open takes no opener


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: See `open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def _open(path: str, flags: int) -> int:
    """Opens a file without waiting, as a named pipe otherwise would for a writer."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # `open` refuses a folder itself
        os.close(handle)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return handle
