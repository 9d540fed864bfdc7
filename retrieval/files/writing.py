"""Atomic files: a process that is killed or a disk that is full leaves the previous content intact.

This is not the library atomicwrites, because that library is archived and cannot keep the previous file under a second name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from retrieval.errors import RetrievalError

WINDOWS = os.name == "nt"

_LONGEST = 200  # bytes of the name of an output that a hidden name repeats


def write_bytes(path: str | Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Replaces the content of a file atomically.

    What a killed process has left unfinished beside the file is removed.

    Args:
        path: The file. Its folder must exist. A link stays, and the file that it leads to is replaced.
        data: The new content. It is complete before anything is written, so an `OSError` always comes from the file system.
        keep: A second path. The previous file is kept there. If there is no previous file, `keep` is unchanged.

    Raises:
        RetrievalError: The file cannot be written, for example because the disk is full. `path` keeps its previous content.
    """
    path = Path(path)
    target = target_of(path)
    temporary = None
    try:
        _remove_leftovers(target)
        handle, temporary = _new_file(target)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            copy_permissions(target, temporary)
            if keep is not None and target.exists():
                _keep(target, keep)
            if not WINDOWS:  # the name of an open file cannot be changed there
                temporary.replace(target)
        if WINDOWS:
            temporary.replace(target)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


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


def target_of(path: str | Path) -> Path:
    """The file or folder that an output is written to: its absolute path, with every link followed.

    A link in the place of an output stays, also one that leads to another disk or to nothing yet.

    Raises:
        RetrievalError: The path is a pipe, a device or a socket, or a link that cannot be followed.
    """
    path = Path(path)
    try:
        kind = _special_kind(path)
        target = Path(os.path.realpath(path))
        lost = [place for place in path.parents if place.is_symlink() and not place.exists()]
        if path.is_symlink() and (target.is_symlink() or not target.parent.is_dir()):
            lost.append(path)
    except OSError as error:
        raise RetrievalError(f"{path}: cannot be created ({error.strerror}); choose another path") from error
    if kind:
        raise RetrievalError(f"{path}: is a {kind}, expected a file or a folder; choose another path")
    if lost:
        where = f"{path}: is" if lost == [path] else f"{path}: {lost[0]} is"
        raise RetrievalError(f"{where} a link to nothing that can be made; mend it or choose another path")
    return target


def hidden_name(name: str) -> str:
    """The beginning of the name of a hidden file or folder beside an output.

    It is "." and the name of the output. Systems allow 255 bytes, and a hidden name is longer than that of the output. Therefore a
    digest takes the place of the end of a long name.
    """
    content = os.fsencode(name)
    return f".{name}" if len(content) <= _LONGEST else f".{name[:40]}-{hashlib.sha256(content).hexdigest()[:16]}"


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


def copy_permissions(old: Path, new: Path) -> None:
    """Gives a new file or folder the permissions of the one that it replaces. Without one, it keeps those of the umask."""
    with contextlib.suppress(OSError):  # there is none, or the file system has no permissions
        writable = stat.S_IWUSR if new.is_dir() else 0  # or it could neither be moved nor removed
        new.chmod(stat.S_IMODE(old.stat().st_mode) | writable)


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of some folders that are empty, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the unfinished files that killed processes have left beside some files of an existing folder."""
    for path in paths:
        _remove_leftovers(path)


def _special_kind(path: Path) -> str:
    """What a path is that is neither a file nor a folder; "" for these, and where nothing is."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise
        return ""
    kinds = {
        "pipe": stat.S_ISFIFO,
        "device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
        "socket": stat.S_ISSOCK,
    }
    return next((kind for kind, is_kind in kinds.items() if is_kind(mode)), "")


def _new_file(target: Path) -> tuple[int, Path]:
    """A new file beside `target`, open and locked by this process.

    It has the permissions of the umask, unlike the files of the module tempfile.
    """
    while True:
        path = target.with_name(f"{hidden_name(target.name)}.{secrets.token_hex(4)}.tmp")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            is_own = lock_descriptor(handle, blocking=False)
        except OSError:  # a file system without locks, where nothing is taken for a leftover
            is_own = True
        if is_own and os.fstat(handle).st_nlink:
            return handle, path
        os.close(handle)  # another process has taken it for a leftover before it was locked


def _remove_leftovers(target: Path) -> None:
    """Removes the unfinished files of processes that have ended. Those that are being written are locked."""
    leftover = re.compile(rf"{re.escape(hidden_name(target.name))}\.[0-9a-z_]{{8}}\.tmp")
    with os.scandir(target.parent) as entries:
        found = [Path(entry.path) for entry in entries if leftover.fullmatch(entry.name)]
    for path in found:
        with contextlib.suppress(OSError):  # a file of another user, or a file system without locks
            handle = os.open(path, os.O_RDWR)
            try:
                is_left = lock_descriptor(handle, blocking=False)
                if is_left and not WINDOWS:  # before another process can lock it
                    path.unlink()
            finally:
                os.close(handle)
            if is_left and WINDOWS:  # where an open file cannot be removed
                path.unlink()


def _keep(path: Path, keep: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no hard links."""
    link = keep.with_name(f".{keep.name}.link.tmp")
    link.unlink(missing_ok=True)  # a process that was killed at this point leaves it behind
    try:
        try:
            link.hardlink_to(path)
        except (OSError, NotImplementedError):  # no hard links on this file system or in this Python, or another disk
            shutil.copyfile(path, link)
        link.replace(keep)
    finally:
        link.unlink(missing_ok=True)  # `replace` does nothing if both names are the same file already
