"""Where results go, looked at before the work begins: nothing is replaced that nobody asked to replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files import make_place, require_elsewhere, require_place


def require_free_folder(out: str | Path, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Checks that a folder can be written.

    Args:
        out: the folder.
        overwrite: one that is there may be replaced, if `check` has nothing against it.
        check: raises an error where something in the folder would be lost.

    Raises:
        RetrievalError: it is there, or where the user is, or cannot be made.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another --out or pass --overwrite")
    if out.is_dir():
        require_elsewhere(out)
        check(out)
    require_place(out)


def require_free_file(out: str | Path, overwrite: bool) -> None:
    """Checks that a file can be written.

    Raises:
        RetrievalError: it is there and `overwrite` is off, or cannot be made.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another name or pass --overwrite")
    require_place(out)


def claim_file(out: str | Path, overwrite: bool) -> None:
    """Checks once more, right before a file is written, that nothing is lost by it, and makes the folder that it goes to.

    Raises:
        RetrievalError: see `require_free_file`.
    """
    require_free_file(out, overwrite)
    make_place(Path(out))
