"""Writing files so that a kill or a full disk never costs what was there before."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError


def write_bytes(path: str | Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replaces the content of `path` by `data`, whole or not at all.

    Args:
        path: the file; its folder must exist.
        data: serialise first, then write: only then can a full disk never be taken for another error.
        keep: another name in the folder, under which the file that is replaced goes on.

    Raises:
        RetrievalError: the disk is full or not writable; `path` keeps its old content.
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
        temporary.chmod(0o644)
        if keep is not None and path.exists():
            _rename_with_both_names(path, keep)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_only(folder: Path, names: Collection[str], what: str) -> None:
    """Checks that a folder holds nothing but files of these names, so that nothing else is lost when it is replaced.

    Args:
        folder: the folder.
        names: of the files that may be lost.
        what: they are together, for the message.

    Raises:
        RetrievalError: names the first other one.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name not in names:
            raise RetrievalError(
                f"{folder}: holds {entry.name!r}, which is no part of {what} and would be lost; "
                "move it away, or choose another folder"
            )


def require_elsewhere(folder: Path) -> None:
    """Checks that a folder that will be replaced is not the current one or above it, which would leave its user in no folder.

    Raises:
        RetrievalError: it is.
    """
    with contextlib.suppress(FileNotFoundError):  # the current folder is gone already
        if Path.cwd().is_relative_to(folder.resolve()):
            raise RetrievalError(f"{folder}: is where you are and would be replaced; change to another folder first")


def require_place(out: Path) -> None:
    """Checks that the folder that something goes to is there or can be made, before the work that it is the result of.

    Nothing is made yet: work that fails leaves nothing behind.

    Raises:
        RetrievalError: it cannot be made, or nothing can be written there.
    """
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir():
        raise _no_place(out, "Not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _no_place(out, "Permission denied")


def make_place(out: Path) -> None:
    """Makes the folder that something goes to.

    Raises:
        RetrievalError: it cannot be made.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_place(out, "Not a directory" if isinstance(error, FileExistsError) else error.strerror) from error


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes strict JSON atomically; a NaN is a `ValueError`, since no other program could read it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def folder_in_one_piece(
    path: str | Path, *, overwrite: bool = False, check: Callable[[Path], None] = lambda folder: None
) -> Iterator[Path]:
    """A new folder that appears under its name only when the block ends without an error.

    Args:
        path: the final folder.
        overwrite: replace a folder that is there already.
        check: raises an error where something in that folder would be lost; it looks right before the folder is replaced.

    Raises:
        RetrievalError: `path` exists and `overwrite` is off or it is no folder or the current one, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RetrievalError(f"{path}: is a file, expected a folder; choose another")
    if path.exists() and not overwrite:
        raise RetrievalError(f"{path}: exists already; choose another folder or pass --overwrite")
    if path.exists():
        require_elsewhere(path)
    new_parents = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise RetrievalError(f"{path}: cannot be created ({error.strerror or error})") from error
    try:
        yield temporary
        _sync_all(temporary)
        temporary.chmod(0o755)
        if overwrite and path.exists():
            check(path)
            _replace_folder(temporary, path)
        else:
            temporary.rename(path)  # fails where another process was faster
        _sync(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in new_parents:
            with contextlib.suppress(OSError):  # it holds the folder
                folder.rmdir()


def _no_place(out: Path, reason: str | None) -> RetrievalError:
    return RetrievalError(f"{out}: cannot be made ({reason}); choose another place")


def _not_written(path: Path, error: OSError) -> RetrievalError:
    reason = error.strerror or error
    return RetrievalError(f"{path}: cannot be written ({reason}); what was there before is unchanged")


def _rename_with_both_names(path: Path, new: Path) -> None:
    """Gives a file another name; where the file system can, it keeps the old one too, and so is never without one."""
    link = path.with_name(f".{new.name}.link.tmp")
    link.unlink(missing_ok=True)  # of a process that was killed here
    try:
        link.hardlink_to(path)
    except OSError:
        path.replace(new)
    else:
        link.replace(new)
        link.unlink(missing_ok=True)  # nothing is renamed where both are the same file already


def _replace_folder(new: Path, path: Path) -> None:
    if _exchange(new, path):
        shutil.rmtree(new, ignore_errors=True)
        return
    # Not in one step then: the old one steps aside and comes back if the new one cannot take its place.
    aside = new.with_suffix(".old")
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step, where the system can (Linux)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def _sync_all(folder: Path) -> None:
    files = list(folder.rglob("*"))
    if len(files) > 100:
        os.sync()  # one by one, thousands of small files take minutes
        return
    for file in files:
        _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
