"""Atomic folders, and checks before a folder or file is written.

No library does this: `os.replace` and `shutil.move` cannot replace a folder that is not empty, let alone atomically.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files.claims import NEW, OLD, claimed
from retrieval.files.writing import copy_permissions, not_written, sync_file, sync_folder, target_of


@contextlib.contextmanager
def folder_in_one_piece(
    path: str | Path, *, overwrite: bool = False, check: Callable[[Path], None] = lambda folder: None
) -> Iterator[Path]:
    """Writes a folder atomically: it appears at `path` only when the block ends without an error.

    Args:
        path: The final folder. Missing parent folders are created. A link stays, and the folder that it leads to is written.
        overwrite: Whether to replace an existing folder.
        check: A function that is called with the existing folder right before it is replaced. It raises an error if the folder
            holds a file that must not be lost.

    Yields:
        A temporary folder in the folder of `retrieval.files.claimed`. Fill this one.

    Raises:
        RetrievalError: `path` exists and `overwrite` is False, or `path` is a file or contains the current folder, another process
            writes it, or it cannot be written. An existing folder stays as it was.
    """
    path = Path(path)
    _require_free(path, overwrite)
    with claimed(path) as unfinished:
        _require_free(path, overwrite)  # again: another process may have made it in the meantime
        target, name = target_of(path), secrets.token_hex(4)
        new, old = unfinished / f"{NEW}{name}", unfinished / f"{OLD}{name}"
        try:
            new.mkdir()  # which respects the umask
        except OSError as error:
            raise RetrievalError(f"{path}: cannot be created ({error.strerror or error})") from error
        try:
            yield new
            _sync_files(new)
            copy_permissions(target, new)
            if overwrite and target.exists():
                check(path)
                _replace(new, target, old)
            else:
                new.rename(target)  # fails if another program has filled the folder in the meantime
        except OSError as error:
            raise not_written(path, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
    sync_folder(target.parent)


def require_only(folder: Path, names: Collection[str], what: str) -> None:
    """Checks that a folder contains only files with the given names, so that no other file is lost when it is replaced.

    Args:
        folder: The folder.
        names: The file names that may be in it.
        what: What these files form together, for the error message, e.g. "an index".

    Raises:
        RetrievalError: The folder contains another file.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name not in names:
            raise RetrievalError(
                f"{folder}: holds {entry.name!r}, which is no part of {what} and would be lost; "
                "move it away, or choose another folder"
            )


def require_elsewhere(folder: Path) -> None:
    """Checks that the current folder is not inside a folder that will be replaced. Otherwise it would cease to exist.

    Raises:
        RetrievalError: The current folder is `folder` or lies below it.
    """
    with contextlib.suppress(FileNotFoundError):  # the current folder does not exist any more
        if Path.cwd().is_relative_to(folder.resolve()):
            raise RetrievalError(f"{folder}: is the current folder or contains it; change to another folder first")


def require_place(out: Path) -> None:
    """Checks that an output can be written to a path, without creating anything.

    Call it before long work, so that a wrong path is reported at once and failed work leaves no folders behind.

    Args:
        out: The file or folder to write. Its parent folders need not exist.

    Raises:
        RetrievalError: The nearest existing parent is not a folder, or it is not writable; or the path is a pipe, a device, a
            socket, or a link that cannot be followed.
    """
    target = target_of(out)
    try:
        parent = next((folder for folder in target.parents if folder.exists()), None)
        if parent is None:  # a drive of Windows that does not exist
            raise _cannot_create(out, "No such file or directory")
        if not parent.is_dir():
            raise _cannot_create(out, "Not a directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise _cannot_create(out, "Permission denied")
    except OSError as error:  # a parent folder that may not be read
        raise _cannot_create(out, error.strerror) from error


def make_place(out: Path) -> None:
    """Creates the parent folders of an output.

    Args:
        out: The file or folder to write.

    Raises:
        RetrievalError: They cannot be created.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise _cannot_create(out, reason) from error


def _cannot_create(out: Path, reason: str | None) -> RetrievalError:
    return RetrievalError(f"{out}: cannot be created ({reason}); choose another path")


def _require_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        target_of(path)  # names a pipe, device or socket
        raise RetrievalError(f"{path}: is a file, expected a folder; choose another path")
    if path.exists() and not overwrite:
        raise RetrievalError(f"{path}: exists already; choose another folder or pass overwrite=True")
    if path.exists():
        require_elsewhere(path)


def _replace(new: Path, path: Path, old: Path) -> None:
    if _exchange(new, path):
        return
    # Two steps. If the second one fails, the old folder gets its name back. After a kill in between, `claimed` does that.
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step. Returns False if the system cannot; only Linux can, and Python has no function for it."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return (
        rename is not None
        and rename(current_folder, os.fsencode(one), current_folder, os.fsencode(other), exchange) == 0
    )


def _sync_files(folder: Path) -> None:
    paths = list(folder.rglob("*"))
    if len(paths) > 100 and hasattr(os, "sync"):
        os.sync()  # thousands of small files take minutes one by one
        return
    for path in paths:
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
