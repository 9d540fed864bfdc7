"""One writer for each output: a hidden folder beside the output holds a lock, and what is not finished yet."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files.lock import is_locked, locked
from retrieval.files.writing import hidden_name, not_written, remove_empty, target_of

NEW, OLD = "new-", "old-"  # the names of folders that are being written, and that are being replaced, begin like this

_own = threading.local()


@contextlib.contextmanager
def claimed(out: str | Path) -> Iterator[Path]:
    """Keeps other processes and threads from writing an output during the block.

    The lock is in a hidden folder beside the output, ".NAME.unfinished". The folder is removed at the end if nothing else is in it.
    A killed process leaves it behind; the next call takes away the unfinished output in it, and the rest when it succeeds. The
    thread that has claimed an output may claim it again.

    Args:
        out: The file or folder. It need not exist. A link is followed, so that all names of an output have the same lock. Missing
            parent folders are created, and removed again if nothing is written.

    Yields:
        The hidden folder.

    Raises:
        RetrievalError: Another process writes the output, or the hidden folder cannot be created. It is raised at once.
    """
    target = target_of(out)
    claims: dict[Path, Path] = _own.__dict__.setdefault("claims", {})
    if target in claims:
        yield claims[target]
        return
    folder = _hidden(target)
    try:
        with locked(folder, user="call", error=RetrievalError, output=Path(out)) as has_locks:
            claims[target] = folder
            if has_locks:  # otherwise, on a file system without locks, another process may be at work
                _take_away(folder, target)
            yield folder
            if has_locks:  # finished parts are of an output that has been replaced now
                _remove_contents(folder)
    finally:
        if claims.pop(target, None):
            remove_empty([folder])  # one that a killed process has made


def is_claimed(out: str | Path) -> bool:
    """Whether a process writes an output at the moment."""
    try:
        return is_locked(_hidden(target_of(out)))
    except (OSError, ValueError, RetrievalError):
        return False


def is_being_replaced(path: Path) -> bool:
    """Whether another process is at the moment between the two renames that replace a folder; it then has no name."""
    try:
        folder = _hidden(target_of(path))
        return any(folder.glob(f"{OLD}*")) and is_locked(folder)
    except (OSError, ValueError, RetrievalError):  # a ValueError: no file can have this name
        return False


def _hidden(target: Path) -> Path:
    if not target.name:
        raise RetrievalError(f"{target}: cannot be replaced as a whole; choose a folder in it")
    return target.with_name(f"{hidden_name(target.name)}.unfinished")


def _remove_contents(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _take_away(folder: Path, target: Path) -> None:
    """Removes the unfinished output of a killed process. The folder that it was about to replace gets its name back."""
    for old in folder.glob(f"{OLD}*"):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            continue
        try:
            old.rename(target)
        except OSError as error:
            raise not_written(target, error) from error
    for new in folder.glob(f"{NEW}*"):
        shutil.rmtree(new, ignore_errors=True)
