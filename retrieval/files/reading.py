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
    # O_NONBLOCK: without it, opening a named pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def read_regular(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: See `open_regular`.
    """
    with open_regular(path) as file:
        return file.read()
