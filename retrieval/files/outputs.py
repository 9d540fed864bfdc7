"""Checks of an output before the work begins: nothing is replaced unless the user asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files.folders import make_place, require_elsewhere, require_place


def require_free_folder(out: str | Path, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Checks that a folder can be written.

    Args:
        out: The folder.
        overwrite: Whether an existing folder may be replaced.
        check: Raises an error if replacing the folder would lose other files.

    Raises:
        RetrievalError: The folder exists and may not be replaced, is the current folder, or cannot be made.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another folder or pass overwrite=True")
    if out.is_dir():
        require_elsewhere(out)
        check(out)
    require_place(out)


def require_free_file(out: str | Path, overwrite: bool) -> None:
    """Checks that a file can be written.

    Raises:
        RetrievalError: The file exists and `overwrite` is off, or it cannot be made.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another name or pass overwrite=True")
    require_place(out)


def claim_file(out: str | Path, overwrite: bool) -> None:
    """Checks an output file again, right before it is written, and makes its folder.

    Raises:
        RetrievalError: See `require_free_file`.
    """
    require_free_file(out, overwrite)
    make_place(Path(out))
