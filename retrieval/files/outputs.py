"""Outputs and the marks by which they are known: one call writes an output, and nothing is replaced unless the user asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files.claims import claimed
from retrieval.files.folders import require_elsewhere, require_place
from retrieval.files.manifest import MANIFEST
from retrieval.files.reading import open_file

# Says that a page was made here, and so may be replaced.
REPORT_MARK = '<meta name="generator" content="retrieval report">'
_RUN_FILES = ("config.yaml", "environment.json")
_FORMAT = '"format": "retrieval '  # of every manifest
_PICTURES = "-pictures"  # the end of the name of the folder with the pictures of a report


@contextlib.contextmanager
def claim_folder(out: str | Path | None, overwrite: bool, check: Callable[[Path], None]) -> Iterator[None]:
    """Keeps other processes from writing a folder during the block, after checking that it can be written.

    Args:
        out: The folder. None: nothing is written, so there is nothing to check.
        overwrite: Whether an existing folder may be replaced.
        check: Raises an error if replacing the folder would lose other files.

    Raises:
        RetrievalError: See `require_free_folder`; or another process writes the folder.
    """
    if out is None:
        yield
        return
    require_free_folder(out, overwrite, check)
    with claimed(out):
        require_free_folder(out, overwrite, check)  # again: another process may just have written it
        yield


def require_free_folder(out: str | Path, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Checks that a folder can be written.

    Raises:
        RetrievalError: The folder exists and may not be replaced, is the current folder, or cannot be made.
    """
    out = Path(out)
    require_place(out)
    if out.exists() and not out.is_dir():
        raise RetrievalError(f"{out}: is a file, expected a folder; choose another folder")
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another folder or pass overwrite=True")
    if out.is_dir():
        require_elsewhere(out)
        check(out)


@contextlib.contextmanager
def claim_file(out: str | Path, overwrite: bool, check: Callable[[Path], None]) -> Iterator[None]:
    """Keeps other processes from writing a file during the block, after checking that it can be written. Makes its folder.

    Args:
        out: The file.
        overwrite: Whether an existing file may be replaced.
        check: Raises an error if the file is not of the kind that is written. It is not called for an empty file.

    Raises:
        RetrievalError: See `require_free_file`; or another process writes the file.
    """
    require_free_file(out, overwrite, check)
    with claimed(out):
        require_free_file(out, overwrite, check)  # again: another process may just have written it
        yield


def require_free_file(out: str | Path, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Checks that a file can be written.

    Raises:
        RetrievalError: The file exists and may not be replaced, or it cannot be made.
    """
    out = Path(out)
    require_place(out)
    if out.is_dir():
        raise RetrievalError(f"{out}: is a folder, expected the name of a file; choose another name")
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another name or pass overwrite=True")
    if out.exists() and out.stat().st_size:
        check(out)


def require_mark(file: Path, marks: Iterable[bytes], what: str) -> None:
    """Checks that a file is of a kind that this package writes: one of its marks is in the first 1,000 bytes.

    Args:
        file: The file.
        marks: The marks of the kind.
        what: The kind, for the error message, e.g. "a report".

    Raises:
        RetrievalError: It is not.
    """
    beginning = _beginning(file, 1000)
    if not any(mark in beginning for mark in marks):
        raise RetrievalError(f"{file}: exists and is not {what}, so it is not replaced; choose another name")


def begins_with(file: Path, content: bytes) -> bool:
    """Whether a file begins with some bytes. One that does not exist or cannot be read does not."""
    return _beginning(file, len(content)) == content


def own_output(folder: Path) -> str | None:
    """What a folder is if this program has written it: "a run", "an index or a model", "pictures of a report"; otherwise None."""
    if all((folder / name).is_file() for name in _RUN_FILES):
        return "a run"
    if _has_mark(folder / MANIFEST, _FORMAT):
        return "an index or a model"
    page = folder.with_name(f"{folder.name.removesuffix(_PICTURES)}.html")
    if folder.name.endswith(_PICTURES) and _has_mark(page, REPORT_MARK):
        return "pictures of a report"
    return None


def _has_mark(file: Path, mark: str) -> bool:
    """Whether a file holds a mark near its beginning; False if it cannot be read."""
    return mark.encode() in _beginning(file, 1000)


def _beginning(file: Path, size: int) -> bytes:
    try:
        with open_file(file) as opened:
            return opened.read(size)
    except OSError:
        return b""
