"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import CheckpointError

log = logging.getLogger("retrieval")

NAME = ".lock"

_handles: set[int] = set()


def _close_in_child() -> None:
    # A lock lasts as long as any process has its file open: data workers that outlive a killed run would keep it.
    for handle in _handles:
        os.close(handle)
    _handles.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other run out of a folder for the time of the block.

    The system itself takes the lock back when the process ends, however it ends: a lock is never stale.

    Args:
        folder: made if it is not there, and removed again if nothing is put into it.

    Raises:
        CheckpointError: another run is in the folder, or it cannot be made.
    """
    handle = _open_and_lock(folder)
    _handles.add(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a folder that someone has removed meanwhile
            if [path.name for path in folder.iterdir()] == [NAME]:
                (folder / NAME).unlink()
                folder.rmdir()
        _handles.remove(handle)
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a run is in the folder."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def _open_and_lock(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be the folder of a run ({error.strerror})") from error
        try:
            _lock(handle)
        except BlockingIOError:
            owner = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            raise CheckpointError(
                f"{folder}: another run, process {owner}, is writing into it; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); let no other run write into it", folder, error.strerror)
        if os.fstat(handle).st_nlink:
            os.truncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)  # of a run that has just ended with nothing in its folder, and removed it


def _lock(handle: int) -> None:
    """Takes the lock; tries again for a moment, since `is_locked` takes it too, to see whether it can."""
    for _ in range(10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.02)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
