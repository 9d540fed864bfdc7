"""Atomic files: a process that is killed or a disk that is full leaves the previous content intact.

This is not the library atomicwrites, because that library is archived and cannot keep the previous file under a second name.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError

WINDOWS = os.name == "nt"


def write_bytes(path: str | Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replaces the content of a file atomically.

    Args:
        path: The file. Its folder must exist.
        data: The new content. It is complete before anything is written, so an `OSError` always comes from the file system.
        keep: A second path in the same folder. The previous file is kept there. If there is no previous file, `keep` is unchanged.

    Raises:
        RetrievalError: The file cannot be written, for example because the disk is full. `path` keeps its previous content.
    """
    path = Path(path)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp lets nobody else read the file
        if keep is not None and path.exists():
            _keep(path, keep)
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically. Line ends are written as they are, on Windows too.

    Raises:
        RetrievalError: See `write_bytes`.
    """
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Raises:
        ValueError: A number is NaN or infinite. Strict JSON has no such numbers, and other programs cannot read them.
        RetrievalError: See `write_bytes`.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def not_written(path: Path, error: OSError) -> RetrievalError:
    """The error for a file or folder whose new content could not be written."""
    return RetrievalError(f"{path}: cannot be written ({error.strerror or error}); any previous content is unchanged")


def sync_file(path: Path) -> None:
    """Flushes the content of a file to the disk."""
    handle = os.open(
        path, os.O_RDWR if WINDOWS else os.O_RDONLY
    )  # Windows flushes only files that are open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flushes the names of the files in a folder to the disk, if the system can.

    Windows cannot open a folder, and some network file systems cannot flush one. This is no error: the files themselves are
    flushed, and the new names are already visible.
    """
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _keep(path: Path, keep: Path) -> None:
    """Gives a file the name `keep`. If the file system has hard links, the file also stays at `path` in the meantime."""
    link = path.with_name(f".{keep.name}.link.tmp")
    link.unlink(missing_ok=True)  # a process that was killed at this point leaves it behind
    try:
        link.hardlink_to(path)
    except (OSError, NotImplementedError):  # no hard links on this file system or in this Python
        path.replace(keep)
    else:
        link.replace(keep)
        link.unlink(missing_ok=True)  # `replace` does nothing if both names are the same file already
