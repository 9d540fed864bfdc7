"""A lock that keeps other processes out of a folder.

The lock itself comes from the library filelock: `flock` on Unix, `LockFileEx` on Windows. The system releases it when the process
ends, also after `kill -9`, so a lock is never stale. This module uses `filelock.lock_descriptor` instead of `filelock.FileLock`
because `FileLock` cannot test a lock without creating its file, and does not say which process holds it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import lock_descriptor

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.files.writing import WINDOWS, remove_empty, target_of

log = logging.getLogger("retrieval")

LOCK_NAME = ".lock"

_handles: set[int] = set()


def _close_in_child() -> None:
    # A lock lasts as long as any process has its file open. Data workers that outlive a killed process would keep it.
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where no process is forked
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(
    folder: Path, *, user: str = "run", error: type[RetrievalError] = CheckpointError, output: Path | None = None
) -> Iterator[bool]:
    """Keeps other processes out of a folder during the block. Every process must enter the folder through this function.

    The lock is the file ".lock" in the folder. It contains the process ID. The file stays after the block, unlocked, unless it is
    the only file of the folder. On a file system without locks, a warning is logged and the block runs without a lock.

    Args:
        folder: The folder. It is created if necessary, with its parents. Those that were created are removed after the block if
            nothing is in them; an empty folder that existed before stays.
        user: What writes to the folder, for the error message: "another run (process 4711) is writing to it".
        error: The class of the error.
        output: What the lock is for, in messages; by default the folder.

    Yields:
        Whether the folder is locked: False on a file system without locks.

    Raises:
        RetrievalError: As the given class. Another process holds the lock, or the folder cannot be created or written to. It is
            raised at once; nothing waits for the other process.
    """
    output, folder = output or folder, target_of(folder)
    handle, made, has_locks = _open_and_lock(folder, user, error, output)
    try:
        yield has_locks
    finally:
        if handle in _handles:  # not in a forked process
            # The lock is removed while it is held, so no other process is in the folder. Windows cannot remove an open file; but
            # there, no file can be removed that another process has open.
            if not WINDOWS:
                _remove_if_unused(folder, made)
            _close(handle)
            if WINDOWS:
                _remove_if_unused(folder, made)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder. Returns False if the folder does not exist or cannot be read."""
    path = folder / LOCK_NAME
    try:
        try:
            handle = os.open(path, os.O_RDWR)  # NFS locks only files that are open for writing
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            handle = os.open(path, os.O_RDONLY)  # the folder belongs to another user
    except OSError:
        return False
    _handles.add(handle)
    try:
        return not _try_lock(handle, attempts=3)
    except OSError:  # a file system without locks
        return False
    finally:
        _close(handle)


def _open_and_lock(
    folder: Path, user: str, error_class: type[RetrievalError], output: Path
) -> tuple[int, list[Path], bool]:
    """The open file, the folders that were created for it (the innermost first), and whether there are locks."""
    while True:
        handle, made = _open(folder, error_class, output)
        _handles.add(handle)
        has_locks = True
        try:
            free = _try_lock(handle, attempts=10)
        except OSError as error:
            log.warning("%s: cannot be locked (%s); let no other %s write to it", output, error.strerror, user)
            free, has_locks = True, False
        if not free:
            process = _read_process(handle)
            _close(handle)
            raise error_class(
                f"{output}: another {user}{process} is writing to it; wait until it ends, or choose another path"
            )
        if os.fstat(handle).st_nlink:
            _write_process(handle)
            return handle, made, has_locks
        _close(handle)  # the previous owner has just removed its empty folder, and this file with it


def _open(folder: Path, error_class: type[RetrievalError], output: Path) -> tuple[int, list[Path]]:
    def attempt() -> tuple[int, list[Path]]:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666), made

    try:
        for _ in range(9):
            with contextlib.suppress(FileNotFoundError):  # the previous owner has just removed its empty folder
                return attempt()
        return attempt()
    except OSError as error:
        raise error_class(
            f"{output}: cannot be created or written to ({error.strerror}); choose another path"
        ) from error


def _close(handle: int) -> None:
    _handles.remove(handle)
    os.close(handle)


def _try_lock(handle: int, attempts: int) -> bool:
    """Takes the lock if it is free. Tries more than once, because `is_locked` takes the lock for a moment too."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.02)
        if lock_descriptor(handle, blocking=False):
            return True
    return False


def _write_process(handle: int) -> None:
    # Windows locks byte 0, and no other process can read a locked byte. The ID therefore starts at byte 1. The fixed width
    # overwrites a longer ID of an earlier process.
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the ID
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f" {os.getpid():<12}\n".encode())


def _read_process(handle: int) -> str:
    """The process ID in a lock file as " (process 4711)", or "" if it cannot be read."""
    for start in (0, 1):  # on Unix from byte 0, where earlier versions of this package wrote the ID
        with contextlib.suppress(OSError):
            os.lseek(handle, start, os.SEEK_SET)
            fields = os.read(handle, 32).decode(errors="replace").split()
            return f" (process {fields[0]})" if fields else ""
    return ""


def _remove_if_unused(folder: Path, made: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # the folder does not exist any more
        if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            (folder / LOCK_NAME).unlink()
    remove_empty(made)
